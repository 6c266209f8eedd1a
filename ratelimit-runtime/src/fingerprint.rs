//! Buckets of backends by short numbers, for what this process knows of them.

use std::hash::{BuildHasher, Hasher};
use std::sync::LazyLock;

use foldhash::quality::RandomState;

use crate::key::{HashSink, RateLimitKey};
use crate::limit::Limit;

/// A bucket by its name, 128 bits of a hash whose seed is random in each process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fingerprint(u64, u64);

static SEEDS: LazyLock<(RandomState, RandomState)> = LazyLock::new(Default::default);

/// Two hashes of the same.
struct Twin<H>(H, H);

impl<H: Hasher> Hasher for Twin<H> {
    #[inline]
    fn write(&mut self, bytes: &[u8]) {
        self.0.write(bytes);
        self.1.write(bytes);
    }

    #[inline]
    fn write_u64(&mut self, number: u64) {
        self.0.write_u64(number);
        self.1.write_u64(number);
    }

    #[inline]
    fn finish(&self) -> u64 {
        self.0.finish()
    }
}

impl<H: Hasher> Twin<H> {
    #[inline]
    fn fingerprint(&self) -> Fingerprint {
        Fingerprint(self.0.finish(), self.1.finish())
    }
}

#[inline]
fn twin() -> Twin<impl Hasher> {
    let (one, other) = &*SEEDS;
    Twin(one.build_hasher(), other.build_hasher())
}

impl Fingerprint {
    /// Some of its bits.
    #[inline]
    pub(crate) fn low(self) -> u64 {
        self.0
    }

    /// What the buckets of a limiter have in common: the parts of their name around the key.
    pub(crate) fn of_limiter(parts: &[&str]) -> Fingerprint {
        let mut hash = twin();
        for part in parts {
            hash.write_u64(part.len() as u64);
            hash.write(part.as_bytes());
        }
        hash.fingerprint()
    }

    /// The bucket of `key`.
    #[inline]
    pub(crate) fn of_key<K: RateLimitKey>(self, key: &K) -> Fingerprint {
        if !K::KEYED {
            return self;
        }
        let mut hash = twin();
        hash.write_u64(self.0);
        hash.write_u64(self.1);
        let mut sink = HashSink::new(hash);
        key.write_to(&mut sink);
        sink.into_hasher().fingerprint()
    }
}

/// Tells limits apart.
pub(crate) fn of_limits(limits: &[Limit]) -> u64 {
    let mut hash = SEEDS.0.build_hasher();
    for limit in limits {
        hash.write_u8(limit.algorithm() as u8);
        hash.write_u32(limit.count());
        hash.write_u32(limit.burst());
        hash.write_u64(limit.per_micros());
    }
    hash.finish()
}

#[cfg(all(test, not(loom_model)))]
mod tests {
    use super::*;

    #[test]
    fn names_and_keys_are_told_apart_however_they_are_cut() {
        let of = |parts: &[&str], key: &str| Fingerprint::of_limiter(parts).of_key(&key);
        let all = [of(&["a", "b"], "c"), of(&["ab", ""], "c"), of(&["a", "bc"], ""), of(&["a", "b"], "cc")];
        for (position, one) in all.iter().enumerate() {
            assert!(!all[..position].contains(one));
        }
    }
}
