//! Blocks: keys that are denied for a time, whatever their limits have left.

mod journal;

use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;

use super::core::{Core, Each, Question, Target, send, send_async};
use super::{Call, RateLimiter};
use crate::backend::memory::Store;
use crate::backend::{Action, Outcome};
use crate::decision::Address;
use crate::error::BackendError;
use crate::fingerprint::Fingerprint;
use crate::key::{KeyCopy, RateLimitKey};
use crate::observe;
use crate::registry;
use crate::rt::clock::nanos;
use crate::switches::Switches;

pub(crate) use journal::Journal;

/// The longest block: 366 days.
const LONGEST: Duration = Duration::from_secs(366 * 86_400);

/// The buckets of a call's key, to be blocked when its outcome is known.
#[derive(Default)]
pub(crate) struct Blockable {
    places: Places,
    /// The call's key, if other limiters may have the name.
    key: Option<KeyCopy>,
}

/// A key's buckets.
#[derive(Clone, Default)]
struct Places(SmallVec<[Place; 1]>);

/// The bucket of one limiter.
#[derive(Clone)]
struct Place {
    /// In memory, or the stand-in for a backend. Dropped before the core, which otherwise cannot
    /// leave its buckets behind.
    store: Arc<Store>,
    core: Arc<Core>,
    is_async: bool,
    address: Address,
    remote: Option<(Arc<str>, Option<Fingerprint>)>,
}

/// The requests that a backend still has to decide.
type Requests = SmallVec<[Question; 1]>;

impl Blockable {
    /// The buckets of the key of a call; `at` is its position, if limits have keys of their own.
    pub(crate) fn of_call<K: RateLimitKey>(core: &Arc<Core>, key: &K, at: Option<usize>, is_async: bool) -> Blockable {
        let mut places = Places::default();
        places.add(core, key, is_async);
        if let Some(part) = at.and_then(|at| core.each()?.cores().nth(at)) {
            places.add(part, key, is_async);
        }
        Blockable { places, key: if core.is_named() { KeyCopy::of(key) } else { None } }
    }

    /// Blocks the key in this process's memory, at all limiters of the name. Returns the requests to
    /// backends.
    fn start_pause(&self, time: Duration) -> Requests {
        let mut places = self.places.clone();
        if let Some(Place { core, is_async, .. }) = self.places.0.first()
            && core.is_named()
        {
            core.note_block(self.key.clone(), *is_async, time);
            match &self.key {
                None => places.add_namesakes(core, &(), *is_async),
                Some(key) => places.add_namesakes(core, key, *is_async),
            }
        }
        places.start_block(time)
    }
}

impl Places {
    /// The buckets of `key` in all limiters of this process with the same explicit name. If a
    /// limiter's limits have keys of their own, the bucket of each of them.
    fn of<K: RateLimitKey>(core: &Arc<Core>, key: &K, is_async: bool) -> Places {
        let parts = if core.groups().len() > 1 { core.each() } else { core.made_each() };
        let mut places = Places::default();
        places.add(core, key, is_async);
        parts.into_iter().flat_map(Each::cores).for_each(|part| places.add(part, key, is_async));
        places.add_namesakes(core, key, is_async);
        places
    }

    fn add<K: RateLimitKey>(&mut self, core: &Arc<Core>, key: &K, is_async: bool) {
        let place = Place::of(core, key, is_async);
        if !self.0.iter().any(|known| known.is_same(&place)) {
            self.0.push(place);
        }
    }

    fn add_namesakes<K: RateLimitKey>(&mut self, core: &Arc<Core>, key: &K, is_async: bool) {
        if registry::has_namesakes(core) {
            for other in registry::all() {
                if !Arc::ptr_eq(&other, core) && registry::are_namesakes(&other, core) {
                    self.add(&other, key, is_async);
                    other.made_each().into_iter().flat_map(Each::cores).for_each(|part| self.add(part, key, is_async));
                }
            }
        }
    }

    /// Blocks the key in this process's memory. Returns the requests to backends.
    fn start_block(&self, time: Duration) -> Requests {
        let time = time.min(LONGEST);
        self.start(&Action::Block { time }, |place| {
            let now = place.now();
            place.store.block(place.address, now.earliest.saturating_add(nanos(time)), now);
        })
    }

    fn start_unblock(&self) -> Requests {
        self.start(&Action::Unblock, |place| place.store.unblock(place.address, place.now()))
    }

    fn start(&self, action: &Action, in_memory: impl Fn(&Place)) -> Requests {
        let request = |place: &Place| {
            in_memory(place);
            observe::unlocked();
            place.request(action)
        };
        self.0.iter().filter_map(request).collect()
    }
}

impl Place {
    fn of<K: RateLimitKey>(core: &Arc<Core>, key: &K, is_async: bool) -> Place {
        let venue = core.venue(Switches::load(), is_async);
        core.send_blocks(&venue);
        let (store, remote) = match &venue.target {
            Target::Memory(store) => (Arc::clone(store), None),
            Target::Remote(_) => {
                let request = core.with_rules(None, |rules| core.request(&venue, key, rules, Action::Blocked));
                (Arc::clone(&core.fallback(&venue)), Some((request.bucket, request.fingerprint)))
            }
        };
        Place { core: Arc::clone(core), is_async, address: store.address(key), store, remote }
    }

    fn is_same(&self, other: &Place) -> bool {
        Arc::ptr_eq(&self.store, &other.store)
            && self.remote.as_ref().map(|(bucket, _)| bucket) == other.remote.as_ref().map(|(bucket, _)| bucket)
    }

    fn now(&self) -> crate::rt::clock::Now {
        self.core.venue(Switches::load(), self.is_async).now()
    }

    /// The request to the limiter's backend, if it has one.
    fn request(&self, action: &Action) -> Option<Question> {
        let (bucket, fingerprint) = self.remote.clone()?;
        let venue = self.core.venue(Switches::load(), self.is_async);
        let Target::Remote(backend) = &venue.target else { return None };
        let request =
            |rules: &[_]| self.core.request_for(&venue, Arc::clone(&bucket), fingerprint, rules, action.clone());
        Some((Arc::clone(backend), self.core.with_rules(None, request)))
    }
}

/// Pauses a key after a call on it; if the backend fails, only in this process's stand-in for it.
pub(crate) fn pause(blockable: &Blockable, time: Duration) {
    let _ = send(blockable.start_pause(time));
}

/// As [`pause`]. Returns what is left to do, if a backend is asked.
pub(crate) fn start_pause(blockable: &Blockable, time: Duration) -> Option<impl Future<Output = ()> + Send + use<>> {
    let requests = blockable.start_pause(time);
    (!requests.is_empty()).then_some(async move {
        let _ = send_async(requests).await;
    })
}

/// How long a block lasts by this answer.
fn left(answer: &crate::backend::Answer) -> Option<Duration> {
    match answer.outcome {
        Outcome::Blocked { until } => until.map(|until| until.since(answer.now)).filter(|left| !left.is_zero()),
        _ => None,
    }
}

/// The block of a key in memory, or the question to a backend.
fn start_blocked<K: RateLimitKey>(
    core: &Arc<Core>,
    key: &K,
    is_async: bool,
) -> Result<Option<Duration>, Box<Question>> {
    let place = Place::of(core, key, is_async);
    if let Some(question) = place.request(&Action::Blocked) {
        return Err(Box::new(question));
    }
    let now = place.now();
    let left = place.store.hold_of(place.address, now).blocked_until.saturating_sub(now.earliest);
    Ok((left > 0).then(|| Duration::from_nanos(left)))
}

impl RateLimiter {
    /// Blocks `key` for `time` from now on, at most 366 days: every call on it is denied, whatever
    /// its limits have left. For operators, fraud checks, and clients of an API that has answered
    /// `429` with a `Retry-After`.
    ///
    /// ```
    /// use std::time::Duration;
    /// use ratelimit_runtime::{ExceededKind, Limit, RateLimiter};
    ///
    /// static API: RateLimiter = RateLimiter::new("api", &[Limit::per_second(10)]);
    /// API.block("mallory", Duration::from_secs(600))?;
    /// let exceeded = API.check("mallory", 1).unwrap_err();
    /// assert_eq!((exceeded.kind(), exceeded.http_status()), (ExceededKind::Blocked, 429));
    /// assert_eq!(exceeded.retry_after_secs(), Some(600));
    /// assert!(API.blocked("mallory")?.is_some());
    /// API.unblock("mallory")?;
    /// API.check("mallory", 1)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// - Of several blocks, the one that ends last stands. Only [`unblock`](Self::unblock) ends one
    ///   early; neither [`reset`](Self::reset) nor new limits do.
    /// - Calls of cost 0 are denied too. Calls that `exempt_when` exempts pass. A call that may
    ///   wait long enough waits for the end, and calls already waiting move behind it.
    /// - The denials are of the kind [`Blocked`](crate::ExceededKind::Blocked). Their `retry_after`
    ///   is the end of the block, or the time at which the limits admit the call if that is later.
    ///   They charge nothing and are no offence for `backoff` and `ban`.
    /// - A block belongs to the limiter's name and the key. In this process it holds for all
    ///   limiters with that explicit name, whatever their limits and backends, also for those first
    ///   used later. For the latter, a process remembers blocks and pauses as long as it holds a
    ///   limiter of the name: the 50,000 to 100,000 that end last. With the limiter's first call,
    ///   it sends the 128 that end last to a backend. The block of a limiter named after its
    ///   function holds for that limiter alone.
    /// - In a backend, the block is stored in the key's bucket of each of these limiters, so a call
    ///   reads only its bucket. Buckets are named after the algorithms and periods of their limits.
    ///   The block therefore reaches a limiter of another process if this process uses one with the
    ///   same name, algorithms and periods. `count`, `burst` and limits replaced at run time may
    ///   differ. To block others of the name, call `block` in a process that uses them, or block
    ///   all that the fleet has published, as `examples/limits.rs` does.
    /// - If a limiter's limits have separate keys, the key is blocked at each of them. User 7 and
    ///   tenant 7 are both blocked, if both are numbers of one type.
    /// - Other processes learn of it with their next call to the backend. Cached denials, leases
    ///   and waiting calls follow within a second; until then, a denial may report an earlier
    ///   `retry_after`.
    /// - In memory, a backend keeps at most [`max_keys`](crate::MemoryBackend::max_keys) blocks for
    ///   each limiter. One more replaces the block that would end first. No flood of new keys ends
    ///   one.
    ///
    /// # Errors
    /// [`BackendError`] if the backend fails. The key is then blocked only for calls that this
    /// process decides in memory while the backend fails. Blocks in memory never fail.
    pub fn block<K: RateLimitKey>(&self, key: K, time: Duration) -> Result<(), BackendError> {
        send(self.start_block(&key, time, false))
    }

    /// As [`block`](Self::block), without blocking the thread on a backend.
    pub async fn block_async<K: RateLimitKey>(&self, key: K, time: Duration) -> Result<(), BackendError> {
        let requests = self.start_block(&key, time, true);
        drop(key);
        send_async(requests).await
    }

    /// Ends the [block](Self::block) of `key`, or a pause set by `pause_when`. Waiting calls try
    /// again at once. A ban goes on; [`reset`](Self::reset) ends it.
    ///
    /// Other processes may go on denying for up to a second.
    ///
    /// # Errors
    /// [`BackendError`] if the backend fails. Blocks in memory never fail.
    pub fn unblock<K: RateLimitKey>(&self, key: K) -> Result<(), BackendError> {
        send(self.start_unblock(&key, false))
    }

    /// As [`unblock`](Self::unblock), without blocking the thread on a backend.
    pub async fn unblock_async<K: RateLimitKey>(&self, key: K) -> Result<(), BackendError> {
        let requests = self.start_unblock(&key, true);
        drop(key);
        send_async(requests).await
    }

    /// How long `key` is still [blocked](Self::block) or paused; `None` if it is not. A ban is no
    /// block: [`peek`](Self::peek) reports it.
    ///
    /// # Errors
    /// [`BackendError`] if the backend fails. Blocks in memory never fail.
    pub fn blocked<K: RateLimitKey>(&self, key: K) -> Result<Option<Duration>, BackendError> {
        match start_blocked(self.core(), &key, false) {
            Ok(left) => Ok(left),
            Err(question) => question.0.decide(&question.1).map(|answer| left(&answer)),
        }
    }

    /// As [`blocked`](Self::blocked), without blocking the thread on a backend.
    pub async fn blocked_async<K: RateLimitKey>(&self, key: K) -> Result<Option<Duration>, BackendError> {
        let started = start_blocked(self.core(), &key, true);
        drop(key);
        match started {
            Ok(left) => Ok(left),
            Err(question) => question.0.decide_async(&question.1).await.map(|answer| left(&answer)),
        }
    }
}

impl RateLimiter {
    fn start_block<K: RateLimitKey>(&self, key: &K, time: Duration, is_async: bool) -> Requests {
        if self.core().is_named() {
            self.core().note_block(KeyCopy::of(key), is_async, time);
        }
        Places::of(self.core(), key, is_async).start_block(time)
    }

    fn start_unblock<K: RateLimitKey>(&self, key: &K, is_async: bool) -> Requests {
        self.core().forget_block(key, &self.core().venue(Switches::load(), is_async));
        Places::of(self.core(), key, is_async).start_unblock()
    }
}

impl Call<'_> {
    /// The buckets that the outcome of the body may pause.
    pub(crate) fn blockable<K: RateLimitKey>(&self, key: &K, at: Option<usize>) -> Blockable {
        if self.core().is_off(Switches::load()) {
            return Blockable::default();
        }
        Blockable::of_call(self.core(), key, at, self.is_async)
    }
}
