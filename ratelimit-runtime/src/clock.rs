//! The one source of time: nanoseconds since the Unix epoch that never go backwards on one thread.
//!
//! The wall clock is read once, at the first use, and the system's monotonic clock is added to it: a wall clock that is set
//! later changes nothing, and a fixed window begins at midnight UTC as the wall clock said at the start.
//!
//! The monotonic clock costs twice as much to read as the processor's counter of ticks, so that is what a decision reads. A
//! counter alone drifts by some parts in a million, which is microseconds in each second: too much for a window that is
//! exact. So once in a millisecond the counter is set right by the monotonic clock, always to a time that has passed
//! already, never to one still to come. Between two cores the counter can differ by some tens of nanoseconds; whoever keeps
//! state takes the latest time that it has seen.
//!
//! 64 bits last until the year 2554; sums saturate there.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use crate::limit::MAX_PER;

/// How long the counter is trusted by itself, in its own nanoseconds.
const TRUSTED: u64 = 1_000_000;
/// The counter and the monotonic clock are read at one moment if no more than this passes between two reads of the counter.
const AT_ONCE: u64 = 1_000;

/// The process's clock, for whoever reads it often: without the look whether it has started.
pub(crate) struct Clock {
    counter: quanta::Clock,
    /// Nanoseconds of 2³² ticks.
    scale: u64,
    instant: Instant,
    /// The wall clock at `instant`.
    unix: u64,
    /// What to add to the counter.
    offset: AtomicU64,
    /// The counter is to be set right when it has reached this.
    expires: AtomicU64,
}

/// The clock's origin, or 0 until it is known.
static ORIGIN: AtomicU64 = AtomicU64::new(0);

static CLOCK: OnceLock<Clock> = OnceLock::new();

/// The clock, started at the first use. Out of line, so that a decision's own instructions stay few.
#[cold]
#[inline(never)]
pub(crate) fn clock() -> &'static Clock {
    CLOCK.get_or_init(start)
}

fn start() -> Clock {
    let unix = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, nanos).max(LEAST);
    ORIGIN.store(unix.saturating_sub(EARLIER), Ordering::Relaxed);
    let counter = quanta::Clock::new();
    Clock {
        scale: counter.delta_as_nanos(0, 1 << 32),
        counter,
        instant: Instant::now(),
        unix,
        offset: AtomicU64::new(0),
        expires: AtomicU64::new(0),
    }
}

/// Nanoseconds since the Unix epoch.
#[inline]
pub(crate) fn now() -> u64 {
    match CLOCK.get() {
        Some(clock) => clock.now(),
        None => clock().now(),
    }
}

/// How much earlier than the clock's first reading a time may be: by a test's clock, which was paused before.
const EARLIER: u64 = 3_600_000_000_000;

/// What the wall clock says at the least, in 1972: where it was never set, time 0, which is taken for never, is longer ago than
/// any period all the same.
const LEAST: u64 = 2 * nanos(MAX_PER);
const _: () = assert!(LEAST - EARLIER > nanos(MAX_PER));

/// None of the times that matter is earlier than this.
#[inline]
pub(crate) fn origin() -> u64 {
    match ORIGIN.load(Ordering::Relaxed) {
        0 => clock().unix.saturating_sub(EARLIER),
        origin => origin,
    }
}

/// The [`origin`], for whoever has started the clock.
#[inline]
pub(crate) fn started_origin() -> u64 {
    ORIGIN.load(Ordering::Relaxed)
}

/// The present time by the clock of the tokio runtime around, which a test may have paused. Where none has, that is the
/// monotonic clock, which [`now`] goes by.
#[cfg(feature = "tokio")]
#[inline]
pub(crate) fn now_in_runtime() -> u64 {
    let Clock { instant: started, unix, .. } = CLOCK.get().unwrap_or_else(|| clock());
    let runtime = tokio::time::Instant::now().into_std();
    match runtime.checked_duration_since(*started) {
        Some(passed) => unix.saturating_add(nanos(passed)),
        None => unix.saturating_sub(nanos(started.saturating_duration_since(runtime))),
    }
}

impl Clock {
    /// As [`now`].
    #[inline]
    pub(crate) fn now(&self) -> u64 {
        let ticks = self.ticks();
        if ticks >= self.expires.load(Ordering::Relaxed) {
            return self.set_right();
        }
        ticks.wrapping_add(self.offset.load(Ordering::Relaxed))
    }

    #[inline]
    fn ticks(&self) -> u64 {
        #[expect(clippy::cast_possible_truncation, reason = "wraps after 584 years, as ticks do")]
        let nanos = ((u128::from(self.counter.raw()) * u128::from(self.scale)) >> 32) as u64;
        nanos
    }

    /// Sets the counter right. Two threads that do so at once store nearly the same.
    #[cold]
    #[inline(never)]
    fn set_right(&self) -> u64 {
        let mut before = self.ticks();
        // A thread that is interrupted between the reads sets the counter late; try again, but not for ever.
        for _ in 0..3 {
            let passed = nanos(self.instant.elapsed());
            let after = self.ticks();
            if after.saturating_sub(before) <= AT_ONCE {
                return self.store(passed, after);
            }
            before = after;
        }
        let passed = nanos(self.instant.elapsed());
        self.store(passed, self.ticks())
    }

    fn store(&self, passed: u64, ticks: u64) -> u64 {
        let now = self.unix.saturating_add(passed);
        self.offset.store(now.wrapping_sub(ticks), Ordering::Relaxed);
        self.expires.store(ticks.saturating_add(TRUSTED), Ordering::Relaxed);
        now
    }
}

/// A duration in nanoseconds, `u64::MAX` (584 years) where it is longer.
pub(crate) const fn nanos(duration: Duration) -> u64 {
    let nanos = duration.as_nanos();
    #[expect(clippy::cast_possible_truncation, reason = "compared before")]
    if nanos > u64::MAX as u128 { u64::MAX } else { nanos as u64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_never_ahead_of_the_monotonic_clock_by_more_than_the_counters_drift() {
        let unix = clock().unix;
        let start = clock().instant;
        for _ in 0..200_000 {
            let now = now();
            let passed = nanos(start.elapsed());
            assert!(now <= unix + passed + 200, "ahead by {} ns", now - unix - passed);
        }
    }

    #[test]
    fn durations_longer_than_64_bits_saturate() {
        assert_eq!(nanos(Duration::MAX), u64::MAX);
    }
}
