//! The only source of time: nanoseconds since the Unix epoch, by the system's monotonic clock.
//!
//! The wall clock is read once, at the first use; elapsed monotonic time is added to it. Setting
//! the wall clock later changes nothing, and a fixed window begins at midnight UTC by the wall
//! clock as it was at the start.
//!
//! A decision reads the processor's tick counter, at a third of the monotonic clock's cost.
//! [`counter`] describes how the counter is calibrated. A reading by the counter is a bracket of
//! [`MARGIN`] nanoseconds, see [`Now`]; a reading of the monotonic clock is exact.
//!
//! 64 bits last until the year 2554. Sums saturate there.

mod counter;
mod sources;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use once_cell::race::OnceBox;

use self::counter::Counter;
pub(crate) use self::counter::MARGIN;
use self::sources::{Machine, Sources};
use crate::limit::MAX_PER;

/// A reading of the clock, in nanoseconds since the Unix epoch.
///
/// An observer who reads `CLOCK_MONOTONIC` before and after never finds `latest` earlier than the
/// first reading, nor `earliest` later than the second. So calls are recorded at their `latest` and
/// judged at their `earliest`: no observer can show that less time lay between two of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Now {
    pub(crate) earliest: u64,
    /// [`MARGIN`] later, or equal if the monotonic clock or a test's clock was read.
    pub(crate) latest: u64,
}

impl Now {
    /// A reading without uncertainty.
    #[inline]
    pub(crate) const fn exactly(at: u64) -> Now {
        Now { earliest: at, latest: at }
    }

    #[inline]
    pub(crate) const fn is_exact(self) -> bool {
        self.earliest == self.latest
    }

    /// The same time, recorded as `time` if that is later.
    #[inline]
    pub(crate) fn at_least_recorded(self, time: u64) -> Now {
        Now { latest: self.latest.max(time), ..self }
    }

    /// The reading, or `time` if that is later.
    pub(crate) fn at_least(self, time: u64) -> Now {
        Now { earliest: self.earliest.max(time), latest: self.latest.max(time) }
    }
}

/// The process's clock. A frequent reader keeps the reference, which skips the check that the clock
/// has started.
pub(crate) struct Clock<S = Machine> {
    counter: Counter,
    sources: S,
}

/// The wall clock at the start, or 0 until it is known.
static UNIX: AtomicU64 = AtomicU64::new(0);

/// Threads that start the clock at the same time do not wait for each other: the first to finish
/// wins.
static CLOCK: OnceBox<Clock> = OnceBox::new();

/// The clock, started at the first use. Out of line, to keep a decision's own instructions few.
#[cold]
#[inline(never)]
pub(crate) fn clock() -> &'static Clock {
    CLOCK.get_or_init(|| Box::new(Clock::new(Machine::start(LEAST, &UNIX))))
}

/// [`Now::earliest`], for callers that need a single time.
#[inline]
pub(crate) fn now() -> u64 {
    match CLOCK.get() {
        Some(clock) => clock.now().earliest,
        None => clock().now().earliest,
    }
}

/// Compares the counter with the monotonic clock.
///
/// A counter that stands still would be trusted for ever. But with a stopped clock a limit denies
/// sooner or later, so some denials call this.
#[cold]
#[inline(never)]
pub(crate) fn check() {
    if let Some(clock) = CLOCK.get() {
        clock.exact();
    }
}

/// Whether tokio's clock is paused or was advanced. If it runs, it is the monotonic clock.
#[cfg(feature = "tokio")]
pub(crate) fn is_paused() -> bool {
    sources::TOKIO_CAN_PAUSE && {
        let before = std::time::Instant::now();
        let tokio = tokio::time::Instant::now().into_std();
        tokio < before || tokio > std::time::Instant::now()
    }
}

/// The wall clock, in nanoseconds since the Unix epoch, as it is set now. Only for what outlives the
/// process: [`clock`] does not follow it.
pub(crate) fn wall() -> u64 {
    sources::wall()
}

/// How far before the clock's first reading a time may lie: a test's clock may have been paused
/// earlier.
const EARLIER: u64 = 3_600_000_000_000;

/// The lower bound on the wall clock, in 1972. Time 0 stands for never, and must be longer ago than
/// any period even if the wall clock was never set.
const LEAST: u64 = 2 * nanos(MAX_PER);
const _: () = assert!(LEAST - EARLIER > nanos(MAX_PER));

/// No relevant time is earlier than this.
#[inline]
pub(crate) fn origin() -> u64 {
    if UNIX.load(Ordering::Relaxed) == 0 {
        clock();
    }
    started_origin()
}

/// The [`origin`], for callers that have started the clock.
#[inline]
pub(crate) fn started_origin() -> u64 {
    UNIX.load(Ordering::Relaxed).wrapping_sub(EARLIER)
}

impl<S: Sources> Clock<S> {
    fn new(sources: S) -> Clock<S> {
        Clock { counter: Counter::default(), sources }
    }

    /// The present time.
    #[inline]
    pub(crate) fn now(&self) -> Now {
        match self.counter.read(&self.sources) {
            Some(earliest) => Now { earliest, latest: earliest.wrapping_add(MARGIN) },
            None => self.exact(),
        }
    }

    /// The present time by the monotonic clock. Calibrates the counter if possible.
    #[cold]
    #[inline(never)]
    fn exact(&self) -> Now {
        Now::exactly(self.counter.calibrate(&self.sources).unwrap_or_else(|| self.sources.monotonic()))
    }
}

impl Clock {
    /// The present time for a call and for its settlement. A future follows its runtime's clock,
    /// which a test may have paused. A blocking call does not: if its thread waits, that clock
    /// stands still.
    #[inline]
    pub(crate) fn now_for(&self, is_async: bool) -> Now {
        #[cfg(feature = "tokio")]
        if is_async && sources::TOKIO_CAN_PAUSE {
            return Now::exactly(self.sources.tokio());
        }
        let _ = is_async;
        self.now()
    }
}

/// A duration in nanoseconds. Saturates at `u64::MAX` (584 years).
pub(crate) const fn nanos(duration: Duration) -> u64 {
    let nanos = duration.as_nanos();
    #[expect(clippy::cast_possible_truncation, reason = "compared before")]
    if nanos > u64::MAX as u128 { u64::MAX } else { nanos as u64 }
}
