//! Decisions by compare-and-swap: the bytes of a bucket are read, decided on in this process, and
//! stored if they have not changed meanwhile.
//!
//! The state that this process has seen last is tried first. If it is still the current one, the
//! decision is one round trip, and the swap is what confirms it. A decision that changes nothing,
//! such as a denial, has nothing to swap: it is made on a state just read. So no answer is given on
//! a state that was only remembered.

use std::borrow::Cow;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::address::Address;
use super::link::{Commands, Failure, received};
use super::links::Links;
use super::protocol::{self, Condition, LONGEST_KEY, Reply};
use super::ring;
use super::seen::Stored;
use crate::backend::coalesce::{Answers, Transport};
use crate::backend::remote::{Applied, apply};
use crate::backend::{Answer, Request, Timestamp};
use crate::error::{BackendError, BackendErrorKind};
use crate::observe;
use crate::rt::{reply, timer};

/// A key is kept this much longer than its bucket counts, in seconds: the server's clock ticks in
/// seconds, and another process's clock may be ahead.
const SLACK: u64 = 5;
/// The server reads a larger number of seconds as a Unix time.
const LONGEST_RELATIVE: u64 = 30 * 86_400;
/// A connection without a reply for this long beyond the timeout is given up.
const SILENCE: Duration = Duration::from_millis(100);
/// The most attempts, if other processes keep changing the bucket first.
const TRIES: u32 = 256;
/// After this many failed attempts, a pause of random length precedes each.
const WITHOUT_PAUSE: u32 = 4;
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_millis(2);
const NANOS: u64 = 1_000_000_000;

/// One process's part of a backend. A cheap handle.
#[derive(Clone)]
pub(super) struct Client {
    servers: Arc<[Links]>,
    timeout: Duration,
}

/// What is known of a stored state.
enum Known {
    /// Nothing: there may be none.
    Guess,
    Missing,
    /// `is_current` if it was just read.
    Stored {
        stored: Stored,
        is_current: bool,
    },
}

impl Client {
    pub(super) fn new(addresses: &[Address], timeout: Duration) -> Client {
        let servers = addresses.iter().map(|address| Links::new(address.clone(), timeout, timeout + SILENCE)).collect();
        Client { servers, timeout }
    }

    /// The error of a call that took too long, with the reason if there is one.
    fn too_late(&self, conflicts: &AtomicU32) -> BackendError {
        let late = self.late();
        match conflicts.load(Ordering::Relaxed) {
            0 => late,
            times => BackendError::new(late.kind(), format!("{late}: others changed the bucket first, {times} times")),
        }
    }

    /// The server of a key.
    fn server(&self, key: &str) -> &Links {
        &self.servers[ring::place(self.servers.iter().map(Links::address), key)]
    }

    /// Decides requests on one bucket, and counts how often others have changed it first.
    async fn decide(&self, requests: &[&Request], conflicts: &AtomicU32) -> Result<Vec<Answer>, BackendError> {
        let Some(first) = requests.first() else { return Ok(Vec::new()) };
        let key = first.bucket_within(LONGEST_KEY);
        let server = self.server(&key);
        if !protocol::is_key(&key) {
            return Err(server.address().refused("the bucket's name has blanks or control characters"));
        }
        // A connection that was closed before it was used is opened again, once.
        let mut has_closed = false;
        loop {
            let link = server.get().await?;
            match Swap::new(&*link, &key, conflicts).decide(requests).await {
                Err(Failure::Unsent) if !has_closed => has_closed = true,
                Err(Failure::Unsent) => return Err(server.address().unreachable("it closes its connections")),
                Err(Failure::Lost(error)) => return Err(error),
                Ok(answers) => return Ok(answers),
            }
        }
    }

    async fn decide_all(&self, requests: &[&Request], conflicts: &AtomicU32) -> Answers {
        let mut answers = Vec::with_capacity(requests.len());
        for requests in requests.chunk_by(|one, next| one.bucket() == next.bucket()) {
            match self.decide(requests, conflicts).await {
                Ok(decided) => answers.extend(decided.into_iter().map(Ok)),
                Err(error) => answers.extend(requests.iter().map(|_| Err(error.clone()))),
            }
        }
        Ok(answers)
    }
}

impl Transport for Client {
    const KEEPS_DEADLINE: bool = true;

    async fn send(&self, requests: &[&Request], deadline: Instant) -> Answers {
        let conflicts = AtomicU32::new(0);
        let decided = Box::pin(self.decide_all(requests, &conflicts));
        timer::bounded(decided, deadline).await.unwrap_or_else(|| Err(self.too_late(&conflicts)))
    }

    fn decide_here(&self, request: &Request, deadline: Instant) -> Option<Result<Answer, BackendError>> {
        let key = request.bucket_within(LONGEST_KEY);
        if !protocol::is_key(&key) {
            return None;
        }
        let (requests, conflicts) = ([request], AtomicU32::new(0));
        let decided = self.server(&key).with_lane(deadline, |lane| {
            let swap = Swap::new(lane, &key, &conflicts).decide(&requests);
            let late = || Err(Failure::Lost(self.too_late(&conflicts)));
            reply::block_on(swap, deadline).unwrap_or_else(late)
        });
        match decided? {
            Ok(mut answers) => answers.pop().map(Ok),
            Err(Failure::Lost(error)) => Some(Err(error)),
            Err(Failure::Unsent) => None,
        }
    }

    fn timeout(&self) -> Duration {
        self.timeout
    }

    fn late(&self) -> BackendError {
        match &*self.servers {
            [server] => server.address().late(),
            _ => BackendError::new(BackendErrorKind::Timeout, "a Memcached server did not answer in time"),
        }
    }
}

/// A decision on one bucket.
struct Swap<'a, C> {
    link: &'a C,
    key: Cow<'a, str>,
    /// Until when the server should keep a state that this process has seen.
    kept_until: Option<Instant>,
    conflicts: &'a AtomicU32,
}

impl<'a, C: Commands> Swap<'a, C> {
    fn new(link: &'a C, key: &'a str, conflicts: &'a AtomicU32) -> Swap<'a, C> {
        Swap { link, key: Cow::Borrowed(key), kept_until: None, conflicts }
    }

    async fn decide(mut self, requests: &[&Request]) -> Result<Vec<Answer>, Failure> {
        let mut known = self.remembered();
        for tries in 0..TRIES {
            let (bytes, condition) = match &known {
                Known::Guess | Known::Missing => (&[][..], Condition::Absent),
                Known::Stored { stored, .. } => (&stored.bytes[..], Condition::Unchanged(stored.cas)),
            };
            let applied = self.apply(bytes, requests)?;
            let Some(bytes) = applied.bytes else {
                match known {
                    Known::Missing => return Ok(applied.answers),
                    Known::Stored { stored, is_current: true } => {
                        self.remember(stored);
                        return Ok(applied.answers);
                    }
                    Known::Guess | Known::Stored { is_current: false, .. } => {
                        let value = self.link.get(&self.key).await?;
                        known = self.read(value)?;
                        continue;
                    }
                }
            };
            let ttl = seconds(applied.expires_at, applied.now);
            // A state that this connection has seen is mostly current. Otherwise the next attempt
            // needs the current one, unless it comes after a pause.
            let and_get = matches!(known, Known::Guess) || tries > 0 && tries < WITHOUT_PAUSE;
            let until = Instant::now().checked_add(Duration::from_secs(ttl - 1));
            let (reply, value) = self.link.set(&self.key, &bytes, expiry(ttl), condition, and_get).await?;
            match reply {
                Reply::Stored { cas } => {
                    if let Some(cas) = cas {
                        self.remember(Stored { bytes, cas, kept_until: until });
                    }
                    return Ok(applied.answers);
                }
                Reply::Changed | Reply::Missing => {}
                other => return Err(self.refused(&other)),
            }
            self.conflicts.store(tries + 1, Ordering::Relaxed);
            let value = if let Some(value) = value {
                received(value, self.link.address()).await?
            } else {
                pause(tries).await;
                self.link.get(&self.key).await?
            };
            known = self.read(value)?;
        }
        let message = format!("others changed the bucket first, {TRIES} times: too many processes use it at once");
        Err(Failure::Lost(self.link.address().refused(message)))
    }

    /// The state that this connection has seen last.
    fn remembered(&mut self) -> Known {
        let Some((key, stored)) = self.link.seen().lock().take(&self.key) else { return Known::Guess };
        self.key = Cow::Owned(key);
        self.kept_until = stored.kept_until;
        Known::Stored { stored, is_current: false }
    }

    fn remember(self, stored: Stored) {
        self.link.seen().lock().put(self.key.into_owned(), stored);
    }

    /// Decides at this process's time, or at the latest time on record if that is later: a record's
    /// time never goes back, even with several clocks.
    fn apply(&self, bytes: &[u8], requests: &[&Request]) -> Result<Applied, Failure> {
        let now = requests.iter().map(|request| request.now()).max();
        apply(bytes, requests, |latest| now.map_or(latest, |now| now.max(latest)))
            .map_err(|error| Failure::Lost(self.link.address().refused(error)))
    }

    /// The state in the reply to a get.
    fn read(&mut self, value: Reply) -> Result<Known, Failure> {
        match value {
            Reply::Value { bytes, cas } if !bytes.is_empty() => {
                let stored = Stored { bytes, cas, kept_until: self.kept_until };
                Ok(Known::Stored { stored, is_current: true })
            }
            Reply::Missing => {
                if self.kept_until.take().is_some_and(|until| Instant::now() < until) {
                    observe::bucket_lost("memcached");
                }
                Ok(Known::Missing)
            }
            other => Err(self.refused(&other)),
        }
    }

    fn refused(&self, reply: &Reply) -> Failure {
        let address = self.link.address();
        Failure::Lost(match reply {
            Reply::Failed(error) => address.refused(error),
            Reply::TooLong | Reply::Value { .. } => address.refused("the key holds a value that is not a bucket"),
            _ => address.refused("its reply is not one of Memcached's"),
        })
    }
}

/// How long to keep a bucket, in seconds.
///
/// Counted from the decision, so that the server's clock need not be this process's. If the record
/// is ahead of all clocks because one of them was wrong, it is still forgotten after one period.
fn seconds(expires_at: Timestamp, now: Timestamp) -> u64 {
    expires_at.as_nanos().saturating_sub(now.as_nanos()).div_ceil(NANOS) + SLACK
}

/// The expiry in a command's form.
fn expiry(seconds: u64) -> u64 {
    if seconds <= LONGEST_RELATIVE {
        return seconds;
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.as_nanos().div_ceil(u128::from(NANOS)).try_into().unwrap_or(u64::MAX).saturating_add(seconds)
}

/// Backs off for other processes that change the same bucket.
async fn pause(tries: u32) {
    let Some(beyond) = tries.checked_sub(WITHOUT_PAUSE) else { return };
    let most = (Duration::from_micros(100) * 2_u32.pow(beyond.min(5))).min(LONGEST_PAUSE);
    let random = RandomState::new().hash_one(tries) >> 48;
    let pause = Duration::from_nanos(u64::try_from(most.as_nanos()).unwrap_or(u64::MAX) / 65_536 * random);
    timer::bounded(std::future::pending::<()>(), Instant::now() + pause).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_is_kept_longer_than_it_counts() {
        let seconds =
            |left: u64| seconds(Timestamp::from_nanos(1_000 * NANOS + left), Timestamp::from_nanos(1_000 * NANOS));
        assert_eq!([seconds(0), seconds(1), seconds(NANOS), seconds(NANOS + 1)], [5, 6, 6, 7]);
    }

    #[test]
    fn an_expiry_beyond_thirty_days_is_a_time() {
        assert_eq!(expiry(LONGEST_RELATIVE), LONGEST_RELATIVE);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let at = expiry(LONGEST_RELATIVE + 1);
        assert!((now + LONGEST_RELATIVE..now + LONGEST_RELATIVE + 10).contains(&at));
    }
}
