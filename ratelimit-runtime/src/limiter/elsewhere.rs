//! Decisions that the buckets in memory do not make alone: with a switch on, by a backend, by
//! limits that are tried, after a wait.
//!
//! A program that never needs them does not contain them. The code of an annotated function reaches
//! them only through this one pointer, and whatever makes them needed sets it first.

use std::sync::OnceLock;
use std::sync::atomic::{Ordering, fence};

use super::call::Call;
use super::decide::Begun;
use crate::backend::memory::open_thorough;
use crate::error::RateLimitExceeded;
use crate::key::{ErasedKey, RateLimitKey};

/// See the module.
struct Elsewhere {
    decide: fn(Call<'_>, ErasedKey<'_>) -> Result<(), RateLimitExceeded>,
    decide_unkeyed: fn(Call<'_>) -> Result<(), RateLimitExceeded>,
    begin: fn(Call<'_>, ErasedKey<'_>) -> Begun,
    begin_unkeyed: fn(Call<'_>) -> Begun,
}

static ELSEWHERE: OnceLock<Elsewhere> = OnceLock::new();

/// Call this before anything takes calls off the paths of the buckets in memory: before a switch is
/// on, a backend exists, or a limiter is special.
pub(crate) fn open() {
    open_thorough();
    ELSEWHERE.get_or_init(|| Elsewhere {
        decide: |call, key| call.decide(&key).map(drop),
        decide_unkeyed: |call| call.decide(&()).map(drop),
        begin: |call, key| call.begin_started(&key),
        begin_unkeyed: |call| call.begin_started(&()),
    });
}

impl Call<'_> {
    /// Decides a call that buckets in memory cannot decide alone.
    #[cold]
    pub(super) fn decide_elsewhere<K: RateLimitKey>(self, key: &K) -> Result<(), RateLimitExceeded> {
        match elsewhere() {
            Some(elsewhere) if K::KEYED => (elsewhere.decide)(self, ErasedKey::of(key)),
            Some(elsewhere) => (elsewhere.decide_unkeyed)(self),
            None => self.fails_closed(),
        }
    }

    /// As [`decide_elsewhere`](Call::decide_elsewhere), in a future.
    #[cold]
    pub(super) fn begin_elsewhere<K: RateLimitKey>(self, key: &K) -> Begun {
        match elsewhere() {
            Some(elsewhere) if K::KEYED => (elsewhere.begin)(self, ErasedKey::of(key)),
            Some(elsewhere) => (elsewhere.begin_unkeyed)(self),
            None => Begun::of(self.fails_closed()),
        }
    }
}

fn elsewhere() -> Option<&'static Elsewhere> {
    // The pointer was set before whatever sent the call here was written.
    fence(Ordering::Acquire);
    ELSEWHERE.get()
}
