//! The one source of time: nanoseconds since the Unix epoch by the system's monotonic clock.
//!
//! The wall clock is read once, at the first use, and the time that has passed since is added. Setting
//! the wall clock later changes nothing, and a fixed window begins at midnight UTC as the wall clock had
//! it at the start.
//!
//! A decision reads the processor's counter of ticks, at a third of the monotonic clock's cost. The
//! module [`counter`] says how the one follows the other. A reading by the counter is a bracket of
//! [`MARGIN`] nanoseconds, see [`Now`]; a reading of the monotonic clock itself is exact.
//!
//! 64 bits last until the year 2554; sums saturate there.

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
/// An observer who reads `CLOCK_MONOTONIC` before and after never finds `latest` to be earlier than
/// before, nor `earliest` to be later than after. If a call is recorded at its `latest`, and a later one
/// is judged at its `earliest`, no observer can show that less time lay between them.
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
}

/// The process's clock. A frequent reader keeps the reference, to skip the check that it has started.
pub(crate) struct Clock<S = Machine> {
    counter: Counter,
    sources: S,
}

/// The wall clock at the start, or 0 until it is known.
static UNIX: AtomicU64 = AtomicU64::new(0);

/// Threads that start the clock at once do not wait for each other: the first to finish wins.
static CLOCK: OnceBox<Clock> = OnceBox::new();

/// The clock, started at the first use. Out of line, so that a decision's own instructions stay few.
#[cold]
#[inline(never)]
pub(crate) fn clock() -> &'static Clock {
    CLOCK.get_or_init(|| Box::new(Clock::new(Machine::start(LEAST, &UNIX))))
}

/// [`Now::earliest`], for callers that only want a time.
#[inline]
pub(crate) fn now() -> u64 {
    match CLOCK.get() {
        Some(clock) => clock.now().earliest,
        None => clock().now().earliest,
    }
}

/// Compares the counter with the monotonic clock.
///
/// A counter that stands still would be trusted for ever. But by a time that stands still a limit denies sooner
/// or later, so some of the denials call this.
#[cold]
#[inline(never)]
pub(crate) fn check() {
    if let Some(clock) = CLOCK.get() {
        clock.exact();
    }
}

/// Whether tokio's clock stands still, or was moved: a running one is the monotonic clock.
#[cfg(feature = "tokio")]
pub(crate) fn is_paused() -> bool {
    sources::TOKIO_CAN_PAUSE && {
        let before = std::time::Instant::now();
        let tokio = tokio::time::Instant::now().into_std();
        tokio < before || tokio > std::time::Instant::now()
    }
}

/// How much earlier than the clock's first reading a time may be: by a test's clock, which was paused before.
const EARLIER: u64 = 3_600_000_000_000;

/// The least that the wall clock is taken to say, in 1972. If it was never set, time 0, which is taken for
/// never, is longer ago than any period all the same.
const LEAST: u64 = 2 * nanos(MAX_PER);
const _: () = assert!(LEAST - EARLIER > nanos(MAX_PER));

/// None of the times that matter is earlier than this.
#[inline]
pub(crate) fn origin() -> u64 {
    if UNIX.load(Ordering::Relaxed) == 0 {
        clock();
    }
    started_origin()
}

/// The [`origin`], for whoever has started the clock.
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

    /// The present time by the monotonic clock. Sets the counter by it, if that is possible.
    #[cold]
    #[inline(never)]
    fn exact(&self) -> Now {
        Now::exactly(self.counter.calibrate(&self.sources).unwrap_or_else(|| self.sources.monotonic()))
    }
}

#[cfg(feature = "tokio")]
impl Clock {
    /// The present time by the clock of the tokio runtime around, which a test may have paused.
    #[inline]
    pub(crate) fn now_in_runtime(&self) -> Now {
        if sources::TOKIO_CAN_PAUSE { Now::exactly(self.sources.tokio()) } else { self.now() }
    }
}

/// A duration in nanoseconds, `u64::MAX` (584 years) where it is longer.
pub(crate) const fn nanos(duration: Duration) -> u64 {
    let nanos = duration.as_nanos();
    #[expect(clippy::cast_possible_truncation, reason = "compared before")]
    if nanos > u64::MAX as u128 { u64::MAX } else { nanos as u64 }
}
