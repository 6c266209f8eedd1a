//! The clock's sources: the system's clocks and the processor's counter.

use std::sync::atomic::{AtomicU64, Ordering};
#[cfg(any(feature = "tokio", not(all(target_family = "wasm", target_os = "unknown"))))]
use std::time::{Instant, SystemTime};

// The standard library's clocks panic there, and tokio's are built on them.
#[cfg(not(any(feature = "tokio", not(all(target_family = "wasm", target_os = "unknown")))))]
use web_time::{Instant, SystemTime};

use super::nanos;

/// A monotonic clock, and a counter that may be steady.
pub(crate) trait Sources {
    /// Whether there is a counter.
    const COUNTS: bool;

    fn ticks(&self) -> u64;

    /// Nanoseconds since the Unix epoch: the wall clock at the start plus the time elapsed since.
    fn monotonic(&self) -> u64;
}

/// The sources of this machine.
pub(crate) struct Machine {
    started: Instant,
    /// The wall clock when the process's clock was `started`.
    unix: u64,
}

/// The wall clock, in nanoseconds since the Unix epoch; 0 before it.
pub(super) fn wall() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, nanos)
}

impl Machine {
    /// Starts at the wall clock, or at `least`. The first thread writes that to `unix`, and the
    /// others read it from there.
    pub(super) fn start(least: u64, unix: &AtomicU64) -> Machine {
        let wall = wall().max(least);
        let started = Instant::now();
        let unix = match unix.compare_exchange(0, wall, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => wall,
            Err(unix) => unix,
        };
        Machine { started, unix }
    }

    /// The time by tokio's clock, which is the monotonic clock unless it is paused.
    #[cfg(feature = "tokio")]
    pub(super) fn tokio(&self) -> u64 {
        let tokio = tokio::time::Instant::now().into_std();
        match tokio.checked_duration_since(self.started) {
            Some(passed) => self.unix.saturating_add(nanos(passed)),
            None => self.unix.saturating_sub(nanos(self.started.saturating_duration_since(tokio))),
        }
    }
}

impl Sources for Machine {
    const COUNTS: bool = hardware::COUNTS;

    #[inline]
    fn ticks(&self) -> u64 {
        hardware::ticks()
    }

    #[inline]
    fn monotonic(&self) -> u64 {
        self.unix.saturating_add(nanos(self.started.elapsed()))
    }
}

/// The processor's counter, if a process may read it and all processors' counters should agree: the
/// TSC of x86-64, `CNTVCT_EL0` of ARM. The condition repeats that of the dependency in
/// `Cargo.toml`.
#[cfg(all(
    any(target_arch = "x86_64", target_arch = "aarch64"),
    any(target_os = "linux", target_os = "android", target_os = "macos", target_os = "windows", target_os = "freebsd"),
    not(miri)
))]
mod hardware {
    pub(super) const COUNTS: bool = true;

    #[inline]
    pub(super) fn ticks() -> u64 {
        #[cfg(target_arch = "x86_64")]
        return tick_counter::x86_64_tick_counter();
        #[cfg(target_arch = "aarch64")]
        return tick_counter::aarch64_tick_counter();
    }
}

#[cfg(not(all(
    any(target_arch = "x86_64", target_arch = "aarch64"),
    any(target_os = "linux", target_os = "android", target_os = "macos", target_os = "windows", target_os = "freebsd"),
    not(miri)
)))]
mod hardware {
    pub(super) const COUNTS: bool = false;

    pub(super) fn ticks() -> u64 {
        0
    }
}

/// Whether this tokio has `tokio::time::pause`, which its feature `test-util` adds. Without it, no
/// test can pause tokio's clock.
///
/// Cargo does not tell a crate which features its dependencies have. But a glob import in an inner
/// block shadows one in an outer block. So `pause` below is tokio's function if there is one, else
/// ours.
#[cfg(feature = "tokio")]
#[allow(clippy::wildcard_imports, reason = "only they shadow each other")]
pub(super) const TOKIO_CAN_PAUSE: bool = {
    use self::without_test_util::*;
    {
        #[allow(unused_imports, reason = "without the feature, it shadows nothing")]
        use tokio::time::*;
        is_tokios(pause)
    }
};

#[cfg(feature = "tokio")]
#[allow(dead_code, reason = "unused with the feature")]
mod without_test_util {
    pub(super) struct Absent;

    pub(super) fn pause() -> Absent {
        Absent
    }

    pub(super) trait Returned {
        const IS_TOKIOS: bool;
    }

    impl Returned for () {
        const IS_TOKIOS: bool = true;
    }

    impl Returned for Absent {
        const IS_TOKIOS: bool = false;
    }

    pub(super) const fn is_tokios<R: Returned>(_pause: fn() -> R) -> bool {
        R::IS_TOKIOS
    }
}
