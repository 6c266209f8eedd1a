//! A limiter's requests to its backend; refunds and resets there and in memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::rules::kinds_of;
use super::{Core, Each, Target, Venue};
use crate::algorithm::Rule;
use crate::backend::memory::Store;
use crate::backend::{Action, Request};
use crate::decision::{Decision, Held, Place, RemoteBucket, Taken};
use crate::error::BackendError;
use crate::fingerprint::Fingerprint;
use crate::guard::Guard;
use crate::key::RateLimitKey;
use crate::limit::Limit;
use crate::observe;
use crate::switches::Switches;

/// The number of counters of resets in a backend. If buckets share a counter, a reset of one only
/// voids refunds of earlier permits of the other.
const RESETS: usize = 64;

/// Whether permits may come back.
pub(super) struct Refunds {
    /// How often buckets in a backend were reset, indexed by a hash of the bucket. Permits taken
    /// before a reset are not given back after it.
    resets: [AtomicU64; RESETS],
    /// Whether the outcome of a call decides if its permits come back, in other processes too.
    gives_back: AtomicBool,
}

impl Refunds {
    pub(super) fn new() -> Refunds {
        Refunds { resets: [const { AtomicU64::new(0) }; RESETS], gives_back: AtomicBool::new(false) }
    }
}

/// A request, and where it goes.
pub(in super::super) type Question = (Arc<Guard>, Request);

/// Sends all requests, and returns the first failure.
pub(in super::super) fn send(requests: impl IntoIterator<Item = Question>) -> Result<(), BackendError> {
    requests.into_iter().map(|(backend, request)| backend.decide(&request).map(drop)).fold(Ok(()), Result::and)
}

pub(in super::super) async fn send_async(requests: impl IntoIterator<Item = Question>) -> Result<(), BackendError> {
    let mut result = Ok(());
    for (backend, request) in requests {
        result = result.and(backend.decide_async(&request).await.map(drop));
    }
    result
}

impl Core {
    /// Whether its denials hold until the reported time. They do not if permits come back from
    /// other processes.
    #[inline]
    pub(in super::super) fn denial_cache(&self) -> bool {
        !self.refunds.gives_back.load(Ordering::Relaxed)
    }

    /// Records that the outcome of a call decides whether its permits come back.
    pub(crate) fn gives_back(&self) {
        // Read first: a store takes the cache line from other threads.
        if !self.refunds.gives_back.load(Ordering::Relaxed) {
            self.refunds.gives_back.store(true, Ordering::Relaxed);
        }
        self.made_each().into_iter().flat_map(Each::cores).for_each(|core| core.gives_back());
    }

    /// The reset counter of a bucket. `fingerprint` is the bucket's, if its backend uses
    /// fingerprints.
    pub(in super::super) fn resets_of(&self, bucket: &str, fingerprint: Option<Fingerprint>) -> &AtomicU64 {
        let sum = || bucket.bytes().fold(0_u8, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte));
        let number = fingerprint.map_or_else(sum, |fingerprint| fingerprint.low().to_le_bytes()[0]);
        &self.refunds.resets[usize::from(number) % RESETS]
    }

    /// The request to a backend for the bucket of `key`.
    pub(in super::super) fn request<K: RateLimitKey>(
        &self,
        venue: &Venue<'_>,
        key: &K,
        rules: &[Rule],
        action: Action,
    ) -> Request {
        let fingerprint = self.bucket_fingerprint(venue, key);
        self.request_for(venue, self.bucket_name(venue, key), fingerprint, rules, action)
    }

    pub(in super::super) fn request_for(
        &self,
        venue: &Venue<'_>,
        bucket: Arc<str>,
        fingerprint: Option<Fingerprint>,
        rules: &[Rule],
        action: Action,
    ) -> Request {
        let test_time = venue.test_time();
        if let (Some(_), Target::Remote(guard)) = (&test_time, &venue.target) {
            guard.queues.catch_up(&bucket);
        }
        Request {
            bucket,
            limits: rules.iter().map(|rule| rule.limit).collect(),
            backoff: self.options.backoff,
            action,
            test_time,
            fingerprint,
        }
    }

    /// Gives back the permits without waiting for a backend.
    pub(in super::super) fn give_back_later(&self, decision: Decision) {
        for (backend, request) in self.start_give_back(decision) {
            backend.decide_later(request);
        }
    }

    /// Gives back permits taken in memory. For permits taken in a backend, returns the requests,
    /// one for each bucket.
    pub(in super::super) fn start_give_back(&self, decision: Decision) -> Vec<Question> {
        match decision.taken {
            Some(Taken { place: Place::Each(all), limiter, .. }) if limiter == self.id => {
                self.apart(all).filter_map(|(part, taken)| part.give_back_taken(taken)).collect()
            }
            taken => taken.and_then(|taken| self.give_back_taken(taken)).into_iter().collect(),
        }
    }

    /// As [`start_give_back`](Core::start_give_back), of one bucket.
    pub(in super::super) fn give_back_taken(&self, taken: Taken) -> Option<Question> {
        let cost = taken.cost();
        let Taken { place, limits, limiter } = taken;
        if limiter != self.id || cost == 0 {
            return None;
        }
        let read = limits.as_deref();
        match place {
            Place::Memory(held) => {
                self.give_back(held, read);
                None
            }
            Place::Remote(bucket) => {
                let RemoteBucket { name, fingerprint, permit, resets } = *bucket;
                let venue = self.venue(Switches::load(), true);
                let Target::Remote(backend) = &venue.target else { return None };
                if resets != self.resets_of(&name, fingerprint).load(Ordering::Relaxed) {
                    return None;
                }
                self.with_rules(read, |rules| {
                    let action = Action::GiveBack(permit);
                    let request = self.request_for(&venue, name, fingerprint, rules, action);
                    Some((Arc::clone(backend), request))
                })
            }
            Place::Each(_) => None,
        }
    }

    /// Gives back permits held in memory, unless their bucket was reset or an algorithm of its
    /// limits has changed.
    pub(in super::super) fn give_back(&self, held: Held, read: Option<&[Limit]>) {
        let Held { address, permit, resets, kinds, is_async, store: of } = held;
        let venue = self.venue(Switches::load(), is_async);
        let refund = |store: &Arc<Store>| {
            self.with_ask(store, read, permit.cost, |ask| {
                if of == store.id() && resets == store.resets(address) && kinds == kinds_of(ask.call.rules) {
                    store.refund(address, ask, venue.now(), permit);
                }
            });
        };
        match &venue.target {
            Target::Memory(store) => refund(store),
            Target::Remote(_) => refund(&self.fallback(&venue)),
        }
    }

    pub(crate) fn reset<K: RateLimitKey>(&self, key: &K) -> Result<(), BackendError> {
        match self.start_reset(key, false) {
            Some((backend, request)) => backend.decide(&request).map(drop),
            None => Ok(()),
        }
    }

    /// Resets the bucket in memory. For a bucket in a backend, returns the request.
    pub(crate) fn start_reset<K: RateLimitKey>(&self, key: &K, is_async: bool) -> Option<Question> {
        let venue = self.venue(Switches::load(), is_async);
        let forget = |store: &Arc<Store>| {
            let address = store.address(key);
            self.with_ask(store, None, 1, |ask| store.reset(address, ask, venue.now()));
            observe::unlocked();
        };
        match &venue.target {
            Target::Memory(store) => {
                forget(store);
                None
            }
            Target::Remote(backend) => {
                forget(&self.fallback(&venue));
                let request = self.with_rules(None, |rules| self.request(&venue, key, rules, Action::Reset));
                self.resets_of(request.bucket(), request.fingerprint).fetch_add(1, Ordering::Relaxed);
                Some((Arc::clone(backend), request))
            }
        }
    }
}
