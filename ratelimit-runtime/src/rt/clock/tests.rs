use std::cell::Cell;
use std::thread;
use std::time::Instant;

use proptest::prelude::*;

use super::counter::{FAILURES, FIRST, TRIES, TRUSTED};
use super::*;

const MILLISECOND: u64 = 1_000_000;
const SECOND: u64 = 1_000 * MILLISECOND;

/// A machine whose time passes with readings of its clocks and by [`pass`](Fake::pass). The
/// monotonic clock shows the true time.
struct Fake {
    now: Cell<u64>,
    /// With 32 fractional bits.
    ticks: Cell<u128>,
    /// Ticks a nanosecond, with 32 fractional bits.
    rate: Cell<u64>,
    /// How far ahead the counter of the thread's current processor is.
    ahead: Cell<i64>,
    monotonic_takes: Cell<u64>,
    /// After this many more readings, the thread loses the processor for this long.
    interruption: Cell<(u32, u64)>,
    /// Repeats the interruption.
    is_always_interrupted: Cell<bool>,
    readings: Cell<usize>,
}

impl Fake {
    fn new(hertz: u64) -> Clock<Fake> {
        Clock::new(Fake {
            now: Cell::new(LEAST),
            ticks: Cell::new(u128::from(hertz) << 42),
            rate: Cell::new(u64::try_from((u128::from(hertz) << 32) / u128::from(SECOND)).unwrap()),
            ahead: Cell::new(0),
            monotonic_takes: Cell::new(40),
            interruption: Cell::new((u32::MAX, 0)),
            is_always_interrupted: Cell::new(false),
            readings: Cell::new(0),
        })
    }

    fn pass(&self, nanos: u64) {
        self.now.set(self.now.get().saturating_add(nanos));
        self.ticks.set(self.ticks.get() + u128::from(nanos) * u128::from(self.rate.get()));
    }

    fn interrupted(&self) {
        self.readings.set(self.readings.get() + 1);
        match self.interruption.get() {
            (0, nanos) => {
                self.pass(nanos);
                self.interruption.set((if self.is_always_interrupted.get() { 1 } else { u32::MAX }, nanos));
            }
            (readings, nanos) => self.interruption.set((readings - 1, nanos)),
        }
    }
}

impl Sources for Fake {
    const COUNTS: bool = true;

    fn ticks(&self) -> u64 {
        self.pass(5);
        let ticks = u64::try_from(self.ticks.get() >> 32).unwrap();
        self.pass(5);
        self.interrupted();
        ticks.wrapping_add_signed(self.ahead.get())
    }

    fn monotonic(&self) -> u64 {
        self.pass(self.monotonic_takes.get() / 2);
        let now = self.now.get();
        self.pass(self.monotonic_takes.get() / 2);
        self.interrupted();
        now
    }
}

impl Clock<Fake> {
    /// The distance of a reading from the true time.
    fn error(&self) -> u64 {
        let before = self.sources.now.get();
        let now = self.now();
        before.saturating_sub(now.latest).max(now.earliest.saturating_sub(self.sources.now.get()))
    }

    /// Whether a reading used the counter. The reading must be true.
    fn goes_by_the_counter(&self) -> bool {
        let before = self.sources.now.get();
        let now = self.now();
        assert!(before <= now.latest && now.earliest <= self.sources.now.get(), "{now:?} after {before}");
        now.earliest != now.latest
    }

    /// Lets the time pass in which the counter's rate is measured.
    fn run_in(self) -> Clock<Fake> {
        for _ in 0..1_000 {
            self.now();
            self.sources.pass(MILLISECOND / 10);
        }
        self.now();
        assert!(self.goes_by_the_counter());
        self
    }
}

#[test]
fn a_first_reading_costs_few_clock_readings() {
    let clock = Fake::new(2_600_000_000);
    clock.now();
    assert!(clock.sources.readings.get() <= 3 * TRIES);
}

#[test]
fn until_the_rate_is_known_the_monotonic_clock_is_read() {
    let clock = Fake::new(2_600_000_000);
    let end = clock.sources.now.get() + FIRST;
    while clock.sources.now.get() < end {
        assert!(!clock.goes_by_the_counter());
    }
    clock.sources.pass(1_000);
    clock.now();
    assert!(clock.goes_by_the_counter());
}

proptest! {
    /// NTP slews by at most 500 parts in a million.
    #[test]
    fn a_reading_by_a_steady_counter_is_true_whenever_it_is_taken(
        hertz in prop::sample::select(vec![19_200_000, 24_000_000, 1_000_000_000, 2_596_123_456, 5_800_000_000]),
        pauses in prop::collection::vec((0_u32..34, 0_u64..1_000, 0_i64..1_000, 0_u32..6, 0_u32..26), 1..300),
    ) {
        let clock = Fake::new(hertz);
        let rate = clock.sources.rate.get();
        for (bits, part, slew, readings, interruption) in pauses {
            clock.sources.pass((part << bits) / 1_000);
            clock.sources.rate.set(rate - rate / 2_000 / 1_000 * slew.unsigned_abs() / 2);
            clock.sources.interruption.set((readings, 1 << interruption));
            prop_assert_eq!(clock.error(), 0);
            prop_assert_eq!(clock.error(), 0);
        }
        // It is never found unsteady. A tick of the slow ones takes a third of the widest bracket or
        // more, so they may run out of close samples.
        let may_lack_samples = hertz < 1_000_000_000;
        prop_assert!(!clock.counter.is_given_up() || may_lack_samples && clock.counter.failures() == FAILURES);
    }
}

#[test]
fn an_interrupted_calibration_is_not_stored() {
    for reading in 0..3 {
        let clock = Fake::new(2_600_000_000).run_in();
        clock.sources.pass(TRUSTED);
        clock.sources.is_always_interrupted.set(true);
        clock.sources.interruption.set((reading, 700));
        for _ in 0..FAILURES {
            assert!(!clock.goes_by_the_counter());
        }
        clock.sources.is_always_interrupted.set(false);
        clock.sources.interruption.set((u32::MAX, 0));
        clock.now();
        assert!(clock.goes_by_the_counter());
    }
}

#[test]
fn during_a_calibration_others_read_the_monotonic_clock() {
    let clock = Fake::new(2_600_000_000).run_in();
    clock.sources.pass(TRUSTED);
    clock.counter.while_calibrating(|| assert!(!clock.goes_by_the_counter()));
    clock.now();
    assert!(clock.goes_by_the_counter());
}

#[test]
fn a_counter_without_close_samples_is_abandoned() {
    let clock = Fake::new(2_600_000_000);
    clock.sources.monotonic_takes.set(1_000);
    for _ in 0..10_000 {
        assert!(!clock.goes_by_the_counter());
    }
    clock.sources.readings.set(0);
    clock.now();
    assert_eq!(clock.sources.readings.get(), 1);
}

/// Asserts that the next reading notices what `happens` to a counter.
fn is_noticed_at_once(happens: impl Fn(&Fake), pauses: &[u64]) {
    for pause in pauses {
        let clock = Fake::new(2_600_000_000).run_in();
        clock.sources.pass(*pause);
        happens(&clock.sources);
        assert!(!clock.goes_by_the_counter());
        assert!(clock.counter.is_given_up(), "after {pause} ns");
        for _ in 0..1_000 {
            assert!(!clock.goes_by_the_counter());
            clock.sources.pass(MILLISECOND / 7);
        }
    }
}

#[test]
fn a_counter_off_by_a_millisecond_is_noticed_at_once() {
    for ahead in [i64::MIN, -260_000_000_000, -2_600_000, 2_600_000, 260_000_000_000, i64::MAX] {
        is_noticed_at_once(|fake| fake.ahead.set(ahead), &[0, 1_000, TRUSTED, SECOND]);
    }
}

#[test]
fn a_counter_off_by_less_is_noticed_at_a_calibration() {
    for nanos in [-150_000_i64, -20_000, -2_000, 2_000, 20_000, 150_000] {
        let clock = Fake::new(2_600_000_000).run_in();
        for call in 0..10 * TRUSTED / 1_000 {
            clock.sources.ahead.set(if call % 2 == 0 { 0 } else { nanos * 26 / 10 });
            assert!(clock.error() <= nanos.unsigned_abs());
            clock.sources.pass(1_000);
        }
        assert!(clock.counter.is_given_up(), "{nanos} ns");
    }
}

#[test]
fn counters_that_always_differed_are_noticed() {
    for ahead in [-2_600_000, 2_600_000] {
        let clock = Fake::new(2_600_000_000);
        for call in 0..1_000 {
            clock.sources.ahead.set(if call % 2 == 0 { 0 } else { ahead });
            assert!(clock.error() <= MILLISECOND);
            clock.sources.pass(10_007);
        }
        assert!(clock.counter.is_given_up());
    }
}

#[test]
fn a_counter_that_jumps_is_noticed() {
    for ticks in [-5_200_000_000_000_i64, -5_200_000, 5_200_000, 5_200_000_000_000] {
        is_noticed_at_once(|fake| fake.ahead.set(ticks), &[0, TRUSTED, SECOND]);
    }
}

#[test]
fn a_changed_rate_is_noticed_at_a_calibration() {
    for percent in [10, 50, 90, 110, 200] {
        let clock = Fake::new(2_600_000_000).run_in();
        clock.sources.rate.set(clock.sources.rate.get() / 100 * percent);
        let end = clock.sources.now.get() + 100 * TRUSTED / percent;
        while clock.sources.now.get() < end {
            assert!(clock.error() <= 100 * TRUSTED / percent);
        }
        clock.now();
        assert!(clock.counter.is_given_up(), "{percent} %");
        assert!(!clock.goes_by_the_counter());
    }
}

#[test]
fn a_counter_that_stands_still_is_noticed_after_denials() {
    let clock = Fake::new(2_600_000_000).run_in();
    clock.sources.rate.set(0);
    clock.sources.pass(MILLISECOND);
    assert!(clock.error() > 0);
    clock.exact();
    assert!(clock.counter.is_given_up());
    assert!(!clock.goes_by_the_counter());
}

#[test]
fn a_counter_that_never_counted_is_noticed() {
    let clock = Fake::new(0);
    clock.now();
    clock.sources.pass(FIRST);
    assert!(!clock.goes_by_the_counter());
    assert!(clock.counter.is_given_up());
}

#[test]
fn at_the_end_of_64_bits_the_clock_stands_still() {
    let clock = Fake::new(2_600_000_000);
    clock.sources.now.set(u64::MAX - SECOND);
    let clock = clock.run_in();
    for _ in 0..1_000 {
        clock.sources.pass(MILLISECOND + 1);
        clock.now();
    }
    assert_eq!(clock.now(), Now::exactly(u64::MAX));
}

/// How long each test by the real clock runs: `RATELIMIT_TEST_MILLIS`, or 300 ms.
fn duration() -> Duration {
    let millis = std::env::var("RATELIMIT_TEST_MILLIS").ok().and_then(|millis| millis.parse().ok());
    Duration::from_millis(millis.unwrap_or(300))
}

#[test]
fn a_reading_lies_between_two_monotonic_readings() {
    let clock = Clock::new(Machine::start(LEAST, &AtomicU64::new(0)));
    for threads in [1, 2, 4, 8] {
        let end = Instant::now() + duration();
        thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    while Instant::now() < end {
                        for _ in 0..1_000 {
                            let before = clock.sources.monotonic();
                            let now = clock.now();
                            let after = clock.sources.monotonic();
                            assert!(before <= now.latest, "{} ns late", before - now.latest);
                            assert!(now.earliest <= after, "{} ns ahead", now.earliest - after);
                        }
                    }
                });
            }
        });
    }
}

#[test]
fn durations_longer_than_64_bits_saturate() {
    assert_eq!(nanos(Duration::MAX), u64::MAX);
}

/// `scripts/test` builds this with tokio's `test-util` and without.
#[cfg(feature = "tokio")]
#[test]
fn futures_go_by_tokios_clock_if_it_is_one_that_can_be_paused() {
    use tokio::runtime::Builder;

    /// Stands in for the method of tokio's feature `test-util`, which takes precedence.
    #[allow(dead_code, reason = "if there is that method")]
    trait StartPaused {
        fn start_paused(&mut self, _paused: bool) -> &mut Self {
            self
        }
    }

    impl StartPaused for Builder {}

    let runtime = Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let (clock, tokio, start) = (clock(), tokio::time::Instant::now(), Instant::now());
        let first = clock.now_for(true);
        while start.elapsed() < Duration::from_micros(10) {}
        let can_be_paused = tokio == tokio::time::Instant::now();
        assert_eq!(sources::TOKIO_CAN_PAUSE, can_be_paused);
        assert_eq!(first == clock.now_for(true), can_be_paused);
    });
}
