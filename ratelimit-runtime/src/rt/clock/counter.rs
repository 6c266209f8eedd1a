//! The processor's counter as a clock: calibrated by the monotonic clock every 0.2 ms, and
//! abandoned if it is not steady.
//!
//! A calibration reads the counter, the monotonic clock and the counter again. If both counter
//! readings are close ([`WIDEST`]), the moment of the clock's reading is known that precisely. A
//! thread that was interrupted in between tries again, and finally leaves the calibration to the
//! next call. The time is extrapolated from a calibration for [`TRUSTED`] and no longer: the system
//! may slew its clock meanwhile (NTP: by 500 ppm). [`DRIFT`] allows for that. The counter's rate is
//! measured over the last 50 to 100 ms.
//!
//! Each calibration compares the time predicted by the previous one with the true time. If they
//! differ by more than the bracket allows, the counters of two processors differ, or the counter
//! stopped, jumped or changed its rate. From then on the process uses the monotonic clock. The same
//! happens if calibrations are never close: the system's own clock may not be the counter, or
//! reading the counter may trap. A processor whose counter is behind the last calibration, or more
//! than [`TRUSTED`] ahead, is detected at its first reading.
//!
//! No thread waits for another: while one calibrates, the others read the monotonic clock.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use parking_lot::Mutex;

use super::sources::Sources;

/// The width of the bracket around a reading, in nanoseconds: the clock's resolution.
pub(crate) const MARGIN: u64 = CLOSE + 2 * DRIFT;

/// The widest bracket of a calibration that is stored.
const WIDEST: u64 = if IS_SLOWED { 1 << 30 } else { CLOSE };
const CLOSE: u64 = 150;

/// How long a calibration is trusted.
pub(super) const TRUSTED: u64 = if IS_SLOWED { 1 << 30 } else { 200_000 };

/// How far the counter may drift from the monotonic clock in [`TRUSTED`], either way.
const DRIFT: u64 = 125;

/// After a pause, the counter may have drifted by one part in this many.
const STEADY: u64 = 2_000;

/// The counter's rate is first measured over this time; until then, the monotonic clock is read.
pub(super) const FIRST: u64 = if IS_SLOWED { 0 } else { 2_000_000 };

/// The rate is measured over once to twice this time.
const SPAN: u64 = 50_000_000;

/// Attempts per call to read both clocks at the same time.
pub(super) const TRIES: usize = 4;

/// Consecutive calls without a close sample after which the counter is abandoned.
pub(super) const FAILURES: u32 = 64;

/// Under valgrind a program runs fifty times slower than its clocks. `scripts/callgrind` sets this
/// flag so that the fast path is still counted.
const IS_SLOWED: bool = cfg!(callgrind);

/// Fractional bits of the nanoseconds per tick.
const SHIFT: u32 = 32;

/// The counter and its calibration. [`read`](Counter::read) touches one cache line.
#[derive(Default)]
#[repr(C, align(64))]
pub(super) struct Counter {
    /// How many ticks a calibration is trusted for; 0 before the first one and after the counter
    /// was abandoned.
    trusted: AtomicU64,
    /// The index of the latest calibration.
    current: AtomicUsize,
    /// The latest and the one before. If a reader is interrupted, the next calibration but one may
    /// overwrite its own. That one began after the reader read the counter, so the reader finds
    /// itself behind it.
    calibrations: [Calibration; 2],
    is_given_up: AtomicBool,
    progress: Mutex<Progress>,
}

/// A calibration: at `ticks`, the time was not earlier than `time`.
#[derive(Default)]
struct Calibration {
    ticks: AtomicU64,
    time: AtomicU64,
    /// Nanoseconds per tick, with [`SHIFT`] fractional bits.
    scale: AtomicU64,
}

/// The calibrating thread's state.
#[derive(Default)]
struct Progress {
    /// Where the current measurement of the rate began.
    from: Option<Sample>,
    /// Where the next one begins: takes over once it is [`SPAN`] old.
    next: Option<Sample>,
    last: Option<Course>,
    /// Consecutive calls without a close sample.
    failures: u32,
}

/// The counter's course since the last calibration.
#[derive(Clone, Copy)]
struct Course {
    ticks: u64,
    time: u64,
    scale: u64,
}

/// A reading of the monotonic clock, and of the counter before and after.
#[derive(Clone, Copy)]
struct Sample {
    before: u64,
    time: u64,
    after: u64,
}

enum Step {
    /// The monotonic clock was read; nothing was changed.
    Read(u64),
    Set(Course, u64),
    TooWide,
    Unsteady,
}

impl Counter {
    /// The earliest possible present time. `None` without a trusted calibration.
    #[inline]
    pub(super) fn read<S: Sources>(&self, sources: &S) -> Option<u64> {
        if !S::COUNTS {
            return None;
        }
        let trusted = self.trusted.load(Ordering::Acquire);
        if trusted == 0 {
            return None;
        }
        // Read before the calibration is looked up, and the calibration's own ticks last: see
        // `calibrations`.
        let now = sources.ticks();
        let calibration = &self.calibrations[self.current.load(Ordering::Acquire) & 1];
        let time = calibration.time.load(Ordering::Acquire);
        let scale = calibration.scale.load(Ordering::Acquire);
        // The difference of a counter that is behind wraps, and is not trusted either.
        let passed = now.wrapping_sub(calibration.ticks.load(Ordering::Relaxed));
        (passed < trusted).then(|| time.wrapping_add(passed.wrapping_mul(scale) >> SHIFT))
    }

    /// Whether only the monotonic clock is read from now on.
    #[cfg(test)]
    pub(super) fn is_given_up(&self) -> bool {
        self.is_given_up.load(Ordering::Relaxed)
    }

    /// Consecutive calls without a close sample.
    #[cfg(test)]
    pub(super) fn failures(&self) -> u32 {
        self.progress.lock().failures
    }

    /// Runs `run` as if another thread were calibrating.
    #[cfg(test)]
    pub(super) fn while_calibrating<T>(&self, run: impl FnOnce() -> T) -> T {
        let _progress = self.progress.lock();
        run()
    }

    /// Calibrates the counter and returns the monotonic clock's reading. `None` if the clock was
    /// not read: another thread is calibrating, or the counter was abandoned.
    pub(super) fn calibrate<S: Sources>(&self, sources: &S) -> Option<u64> {
        if !S::COUNTS || self.is_given_up.load(Ordering::Relaxed) {
            return None;
        }
        let mut progress = self.progress.try_lock()?;
        match progress.advance(sources) {
            Step::Read(time) => Some(time),
            Step::Set(course, time) => {
                progress.failures = 0;
                self.store(&course);
                Some(time)
            }
            Step::TooWide if progress.failures < FAILURES => {
                progress.failures += 1;
                None
            }
            Step::TooWide | Step::Unsteady => {
                self.is_given_up.store(true, Ordering::Relaxed);
                self.trusted.store(0, Ordering::Release);
                None
            }
        }
    }

    /// Stores in the reverse order of [`read`](Counter::read).
    fn store(&self, course: &Course) {
        let next = (self.current.load(Ordering::Relaxed) & 1) ^ 1;
        let calibration = &self.calibrations[next];
        calibration.ticks.store(course.ticks, Ordering::Relaxed);
        calibration.scale.store(course.scale, Ordering::Release);
        calibration.time.store(course.time, Ordering::Release);
        self.current.store(next, Ordering::Release);
        self.trusted.store(ticks(TRUSTED, course.scale), Ordering::Release);
    }
}

impl Progress {
    fn advance(&mut self, sources: &impl Sources) -> Step {
        let Some(from) = self.from else {
            let first = Sample::closest(sources, 0);
            self.from = Some(first);
            return Step::Read(first.time);
        };
        let sample = if let Some(last) = self.last {
            let sample = Sample::closest(sources, ticks(WIDEST, last.scale));
            if !sample.is_close(last.scale) {
                return Step::TooWide;
            }
            if !last.predicts(&sample) {
                return Step::Unsteady;
            }
            sample
        } else {
            let time = sources.monotonic();
            if time.saturating_sub(from.time) < FIRST {
                return Step::Read(time);
            }
            Sample::closest(sources, 0)
        };
        let Some(scale) = from.scale_to(&sample) else { return Step::Unsteady };
        if !sample.is_close(scale) {
            return Step::TooWide;
        }
        if !from.is_close(scale) {
            self.from = Some(sample);
            return Step::TooWide;
        }
        let next = *self.next.get_or_insert(sample);
        if sample.time.saturating_sub(next.time) >= SPAN {
            (self.from, self.next) = (Some(next), Some(sample));
        }
        let course = Course::new(&sample, scale);
        self.last = Some(course);
        Step::Set(course, sample.time)
    }
}

impl Course {
    /// The monotonic clock was read before the tick after `sample.after` began. So when
    /// `sample.after` began, it was not later than `sample.time` less one tick.
    fn new(sample: &Sample, scale: u64) -> Course {
        Course { ticks: sample.after, time: sample.time - nanos(1, scale).saturating_add(1 + DRIFT), scale }
    }

    /// Whether the bracket at the sample contains the sample's time.
    fn predicts(&self, sample: &Sample) -> bool {
        let earliest = |ticks: u64| {
            let passed = i128::from(ticks) - i128::from(self.ticks);
            i128::from(self.time) + ((passed * i128::from(self.scale)) >> SHIFT)
        };
        let time = i128::from(sample.time);
        let drift = i128::from(sample.time.saturating_sub(self.time).saturating_sub(TRUSTED) / STEADY);
        IS_SLOWED
            || earliest(sample.before) <= time + drift && time <= earliest(sample.after) + i128::from(MARGIN) + drift
    }
}

impl Sample {
    /// The closest of several samples, or the first that takes at most `enough` ticks.
    fn closest(sources: &impl Sources, enough: u64) -> Sample {
        let sample = || Sample { before: sources.ticks(), time: sources.monotonic(), after: sources.ticks() };
        let mut closest = sample();
        for _ in 1..TRIES {
            if closest.width() <= enough {
                break;
            }
            let another = sample();
            if another.width() < closest.width() {
                closest = another;
            }
        }
        closest
    }

    /// The width in ticks. Includes the first and the last tick, which had begun before or may end
    /// after.
    fn width(&self) -> u64 {
        self.after.checked_sub(self.before).map_or(u64::MAX, |ticks| ticks.saturating_add(2))
    }

    fn is_close(&self, scale: u64) -> bool {
        self.width() <= ticks(WIDEST, scale)
    }

    /// Nanoseconds per tick from this sample to a later one. `None` if the counter did not advance,
    /// or advanced absurdly.
    fn scale_to(&self, later: &Sample) -> Option<u64> {
        let ticks = later.after.checked_sub(self.after)?;
        let nanos = later.time.checked_sub(self.time)?;
        let scale = (u128::from(nanos) << SHIFT).checked_div(u128::from(ticks))?;
        u64::try_from(scale).ok().filter(|scale| (1..=TRUSTED << SHIFT).contains(scale))
    }
}

fn ticks(nanos: u64, scale: u64) -> u64 {
    (nanos << SHIFT) / scale
}

fn nanos(ticks: u64, scale: u64) -> u64 {
    ticks.saturating_mul(scale) >> SHIFT
}
