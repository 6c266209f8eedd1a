//! Fingerprints, by which this backend finds keys: 64-bit hashes other than zero.

use std::hash::Hasher;

/// The fingerprint of a key in its shard. The lowest bits of the hash select the shard, because
/// they are known first.
///
/// Zero marks an empty slot. The one hash in 2⁶⁴ that is zero shares the fingerprint of another.
#[inline]
pub(super) fn fingerprint(hash: u64) -> u64 {
    hash.max(1)
}

/// A hasher of fingerprints, which are hashes already.
#[derive(Default)]
pub(super) struct Fingerprint(u64);

impl Hasher for Fingerprint {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, fingerprint: u64) {
        self.0 = fingerprint;
    }
}
