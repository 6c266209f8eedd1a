//! 128-bit bucket IDs, used as keys of per-process caches.

use std::sync::LazyLock;

use crate::hash::{HashSink, Seed};
use crate::key::RateLimitKey;
use crate::key::sealed::Sink;
use crate::limit::Limit;

/// A hash of a bucket's name with a seed that is random in each process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fingerprint(u64, u64);

static SEED: LazyLock<Seed<'static, 2>> = LazyLock::new(Seed::new);

impl Fingerprint {
    /// 64 of its bits.
    #[inline]
    pub(crate) fn low(self) -> u64 {
        self.0
    }

    /// The common part of a limiter's buckets: the parts of their name around the key.
    pub(crate) fn of_limiter(parts: &[&str]) -> Fingerprint {
        let mut sink = HashSink::new(&SEED);
        for part in parts {
            sink.text(part);
        }
        Fingerprint::of(sink)
    }

    /// The bucket of `key`.
    #[inline]
    pub(crate) fn of_key<K: RateLimitKey>(self, key: &K) -> Fingerprint {
        if !K::KEYED {
            return self;
        }
        let mut sink = HashSink::new(&SEED);
        sink.word(self.0);
        sink.word(self.1);
        key.write_to(&mut sink);
        Fingerprint::of(sink)
    }

    #[inline]
    fn of(sink: HashSink<'_, 2>) -> Fingerprint {
        let [low, high] = sink.finish();
        Fingerprint(low, high)
    }
}

/// A hash of a set of limits.
pub(crate) fn of_limits(limits: &[Limit]) -> u64 {
    let mut sink = HashSink::new(&SEED);
    for limit in limits {
        sink.word(u64::from(limit.count()) << 8 | limit.algorithm() as u64);
        sink.word(limit.burst().into());
        sink.word(limit.per_micros());
        #[cfg(feature = "calendar")]
        sink.word(limit.calendar().map_or(0, |calendar| calendar.bits().into()));
    }
    let [hash, _] = sink.finish();
    hash
}

#[cfg(all(test, not(loom_model)))]
mod tests {
    use super::*;

    #[test]
    fn names_and_keys_do_not_run_together() {
        let of = |parts: &[&str], key: &str| Fingerprint::of_limiter(parts).of_key(&key);
        let all = [of(&["a", "b"], "c"), of(&["ab", ""], "c"), of(&["a", "bc"], ""), of(&["a", "b"], "cc")];
        for (position, one) in all.iter().enumerate() {
            assert!(!all[..position].contains(one));
        }
    }
}
