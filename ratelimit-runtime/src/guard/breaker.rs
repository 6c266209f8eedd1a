//! A circuit breaker. After several consecutive failures, calls skip the backend, except for one
//! probe at a time.
//!
//! ```text
//! closed ── 5 failures in a row ──▶ open ── pause over, a call ──▶ probing ── success ──▶ closed
//!                                    ▲                                │
//!                                    └──── failure: pause doubled ────┘
//! ```
//!
//! An abandoned probe reopens the breaker with the same pause. While closed and without a failure,
//! a call costs two relaxed loads of one word. Each opening, probe and closing starts a new
//! generation; results of calls from an earlier generation are ignored.

use crate::error::{BackendError, BackendErrorKind};
use crate::rt::sync::{AtomicU64, Lock, Ordering};

/// Consecutive failures that open the breaker. Larger than the number of silent calls after which a
/// connection is replaced.
pub(super) const FAILURES: u32 = 5;
/// From the opening to the first probe, in nanoseconds.
pub(super) const FIRST_PAUSE: u64 = 50_000_000;
/// Pauses double up to this, in nanoseconds. Three probes fit into the two seconds within which
/// limits must be enforced again.
pub(super) const LONGEST_PAUSE: u64 = 500_000_000;
/// A probe without a result for this long is written off, in nanoseconds: its future may exist
/// without being polled.
pub(super) const LOST: u64 = 1_000_000_000;

pub(super) struct Breaker {
    /// The generation. The lowest bit says whether callers must look under the lock.
    word: AtomicU64,
    state: Lock<Generation>,
    lost: u64,
}

#[derive(Default)]
struct Generation {
    number: u64,
    state: State,
}

enum State {
    Closed { failures: u32 },
    Open(Pause),
    Probing(Pause),
}

impl Default for State {
    fn default() -> State {
        State::Closed { failures: 0 }
    }
}

/// No call passes until the pause ends; while probing, no other call.
#[derive(Clone)]
struct Pause {
    until: u64,
    length: u64,
    /// The generation of the opening.
    opening: u64,
    why: BackendError,
}

/// A call that may use the backend. Its result must be [reported](Breaker::report).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    generation: u64,
    pub(super) is_probe: bool,
}

/// The result of a call.
#[derive(Clone, Copy, Debug)]
pub(super) enum CallResult<'a> {
    Success,
    Failure(&'a BackendError),
    /// The call was abandoned before it had a result.
    Abandoned,
}

/// A state change of the breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Opened,
    StaysOpen,
    Closed,
}

impl Breaker {
    /// A breaker for a backend whose decisions take at most `longest` nanoseconds, if that is
    /// known.
    pub(super) fn new(longest: u64) -> Breaker {
        Breaker { word: AtomicU64::new(0), state: Lock::new(Generation::default()), lost: LOST.max(longest * 2) }
    }

    /// Lets a call use the backend, or returns the reason why not.
    #[inline]
    pub(super) fn enter(&self, now: impl FnOnce() -> u64) -> Result<Entry, BackendError> {
        let word = self.word.load(Ordering::Relaxed);
        if word & 1 == 0 {
            return Ok(Entry { generation: word >> 1, is_probe: false });
        }
        self.enter_slowly(now())
    }

    #[cold]
    fn enter_slowly(&self, now: u64) -> Result<Entry, BackendError> {
        let mut current = self.state.lock();
        let pause = match &current.state {
            State::Closed { .. } => return Ok(Entry { generation: current.number, is_probe: false }),
            State::Open(pause) | State::Probing(pause) if now < pause.until => return Err(pause.why.clone()),
            State::Open(pause) | State::Probing(pause) => pause.clone(),
        };
        self.begin(&mut current, State::Probing(Pause { until: now.saturating_add(self.lost), ..pause }));
        Ok(Entry { generation: current.number, is_probe: true })
    }

    /// Whether calls skip the backend.
    pub(super) fn is_open(&self) -> bool {
        self.word.load(Ordering::Relaxed) & 1 == 1 && !matches!(self.state.lock().state, State::Closed { .. })
    }

    /// Reports the result of a call that was let in.
    #[inline]
    pub(super) fn report(&self, entry: Entry, met: CallResult<'_>, now: impl FnOnce() -> u64) -> Option<Change> {
        if matches!(met, CallResult::Success) && self.word.load(Ordering::Relaxed) == entry.generation << 1 {
            return None;
        }
        self.report_slowly(entry, met, now())
    }

    #[cold]
    fn report_slowly(&self, entry: Entry, met: CallResult<'_>, now: u64) -> Option<Change> {
        let mut current = self.state.lock();
        if current.number != entry.generation {
            // A probe written off too early still counts if it succeeds.
            let is_of_this_opening = match &current.state {
                State::Closed { .. } => false,
                State::Open(pause) | State::Probing(pause) => pause.opening < entry.generation,
            };
            if is_of_this_opening && matches!(met, CallResult::Success) {
                self.begin(&mut current, State::default());
                return Some(Change::Closed);
            }
            return None;
        }
        match (&mut current.state, met) {
            (State::Closed { failures }, CallResult::Success) => {
                *failures = 0;
                self.publish(&current);
                None
            }
            (State::Closed { failures }, CallResult::Failure(error)) => {
                *failures += 1;
                if *failures < FAILURES {
                    self.publish(&current);
                    return None;
                }
                let pause = Pause {
                    until: now.saturating_add(FIRST_PAUSE),
                    length: FIRST_PAUSE,
                    opening: current.number + 1,
                    why: rejection(error),
                };
                self.begin(&mut current, State::Open(pause));
                Some(Change::Opened)
            }
            (State::Probing(_), CallResult::Success) => {
                self.begin(&mut current, State::default());
                Some(Change::Closed)
            }
            (State::Probing(pause), met) => {
                let (length, why) = match met {
                    CallResult::Failure(error) => ((pause.length * 2).min(LONGEST_PAUSE), rejection(error)),
                    _ => (pause.length, pause.why.clone()),
                };
                let pause = Pause { until: now.saturating_add(length), length, opening: pause.opening, why };
                self.begin(&mut current, State::Open(pause));
                Some(Change::StaysOpen)
            }
            // An opening starts a generation, and lets no call in.
            (State::Closed { .. } | State::Open(_), _) => None,
        }
    }

    fn begin(&self, current: &mut Generation, state: State) {
        *current = Generation { number: current.number + 1, state };
        self.publish(current);
    }

    /// Updates the word, under the lock.
    fn publish(&self, current: &Generation) {
        let calm = matches!(current.state, State::Closed { failures: 0 });
        self.word.store(current.number << 1 | u64::from(!calm), Ordering::Relaxed);
    }
}

/// The error of calls that skip the backend. Made once, at the failure.
fn rejection(error: &BackendError) -> BackendError {
    let kind = match error.kind() {
        // Nothing was sent, so nothing can have been charged.
        BackendErrorKind::Timeout => BackendErrorKind::Unreachable,
        kind => kind,
    };
    BackendError::new(kind, format!("not asked, because it has failed several times in a row: {error}"))
}

#[cfg(all(test, not(loom_model)))]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn error() -> BackendError {
        BackendError::new(BackendErrorKind::Timeout, "late")
    }

    fn enter(breaker: &Breaker, now: u64) -> Option<Entry> {
        breaker.enter(|| now).ok()
    }

    fn fail(breaker: &Breaker, entry: Entry, now: u64) -> Option<Change> {
        breaker.report(entry, CallResult::Failure(&error()), || now)
    }

    fn succeed(breaker: &Breaker, entry: Entry, now: u64) -> Option<Change> {
        breaker.report(entry, CallResult::Success, || now)
    }

    /// A breaker that has opened at `now`.
    fn opened(now: u64) -> Breaker {
        let breaker = Breaker::new(0);
        for _ in 0..FAILURES {
            let entry = enter(&breaker, now).unwrap();
            fail(&breaker, entry, now);
        }
        breaker
    }

    #[test]
    fn failures_in_a_row_open_it() {
        let breaker = Breaker::new(0);
        for round in 0..3 {
            for failure in 1..FAILURES {
                let entry = enter(&breaker, 0).unwrap();
                assert_eq!(fail(&breaker, entry, 0), None, "round {round}, failure {failure}");
            }
            let entry = enter(&breaker, 0).unwrap();
            assert_eq!(succeed(&breaker, entry, 0), None);
        }
        let entries: Vec<Entry> = (0..FAILURES).map(|_| enter(&breaker, 0).unwrap()).collect();
        let changes: Vec<_> = entries.iter().map(|entry| fail(&breaker, *entry, 0)).collect();
        assert_eq!(changes.last(), Some(&Some(Change::Opened)));
        assert!(breaker.is_open());
        assert_eq!(breaker.enter(|| 0).unwrap_err().kind(), BackendErrorKind::Unreachable);
    }

    #[test]
    fn one_call_at_a_time_probes_at_growing_pauses() {
        let breaker = opened(0);
        let (mut now, mut pauses) = (0, Vec::new());
        for _ in 0..6 {
            let start = now;
            let probe = loop {
                match enter(&breaker, now) {
                    Some(probe) => break probe,
                    None => now += 1_000_000,
                }
            };
            pauses.push((now - start) / 1_000_000);
            assert!(probe.is_probe);
            assert_eq!(enter(&breaker, now), None, "the others do not wait for the probe");
            assert_eq!(fail(&breaker, probe, now), Some(Change::StaysOpen));
        }
        assert_eq!(pauses, [50, 100, 200, 400, 500, 500]);
    }

    #[test]
    fn a_probe_that_succeeds_closes_it() {
        let breaker = opened(0);
        let probe = enter(&breaker, FIRST_PAUSE).unwrap();
        assert_eq!(succeed(&breaker, probe, FIRST_PAUSE), Some(Change::Closed));
        assert!(!breaker.is_open());
        assert!(!enter(&breaker, FIRST_PAUSE).unwrap().is_probe);
    }

    #[test]
    fn an_abandoned_probe_is_replaced_by_another_call() {
        let breaker = opened(0);
        let probe = enter(&breaker, FIRST_PAUSE).unwrap();
        assert_eq!(breaker.report(probe, CallResult::Abandoned, || FIRST_PAUSE), Some(Change::StaysOpen));
        assert_eq!(enter(&breaker, FIRST_PAUSE * 2 - 1), None);
        assert!(enter(&breaker, FIRST_PAUSE * 2).unwrap().is_probe, "the pause did not grow");
    }

    #[test]
    fn a_silent_probe_is_replaced() {
        let breaker = opened(0);
        let lost = enter(&breaker, FIRST_PAUSE).unwrap();
        assert_eq!(enter(&breaker, FIRST_PAUSE + LOST - 1), None);
        let probe = enter(&breaker, FIRST_PAUSE + LOST).unwrap();
        assert_eq!(fail(&breaker, lost, FIRST_PAUSE + LOST), None, "it comes too late");
        assert_eq!(succeed(&breaker, probe, FIRST_PAUSE + LOST), Some(Change::Closed));
    }

    #[test]
    fn a_replaced_probe_still_closes_it_by_success() {
        let breaker = opened(0);
        let slow = enter(&breaker, FIRST_PAUSE).unwrap();
        let probe = enter(&breaker, FIRST_PAUSE + LOST).unwrap();
        assert_eq!(succeed(&breaker, slow, FIRST_PAUSE + LOST * 2), Some(Change::Closed));
        assert_eq!(fail(&breaker, probe, FIRST_PAUSE + LOST * 2), None);
        assert!(!breaker.is_open());
    }

    #[test]
    fn results_from_before_a_change_are_ignored() {
        let breaker = Breaker::new(0);
        let early: Vec<Entry> = (0..100).map(|_| enter(&breaker, 0).unwrap()).collect();
        assert_eq!(early.iter().filter_map(|entry| fail(&breaker, *entry, 0)).count(), 1);
        let late = early[99];
        assert_eq!(succeed(&breaker, late, 0), None);
        assert!(breaker.is_open(), "only a probe closes it");
        let probe = enter(&breaker, FIRST_PAUSE).unwrap();
        succeed(&breaker, probe, FIRST_PAUSE);
        assert!((0..FAILURES * 2).all(|_| fail(&breaker, late, FIRST_PAUSE).is_none()));
        assert!(!breaker.is_open());
    }

    /// A model of the breaker: its history, and what that implies.
    #[derive(Default)]
    struct Story {
        /// Calls under way, each with the number of openings when it began.
        under_way: Vec<(Entry, u32)>,
        openings: u32,
        /// Consecutive failures, while closed.
        failures: u32,
        /// While open: the time of the last opening or failed probe, and the number of failed
        /// probes.
        open: Option<(u64, u32)>,
        /// The probe under way, and its start.
        probe: Option<(Entry, u64)>,
    }

    impl Story {
        fn lets_in(&self, now: u64) -> bool {
            let pause =
                |failed| [50, 100, 200, 400].get(failed as usize).map_or(500_000_000, |pause| pause * 1_000_000);
            match (self.open, self.probe) {
                (None, _) => true,
                (Some(_), Some((_, began))) => now >= began + LOST,
                (Some((since, failed)), None) => now >= since + pause(failed),
            }
        }

        fn end(&mut self, (entry, openings): (Entry, u32), met: CallResult<'_>, now: u64) -> Option<Change> {
            match (self.open, met) {
                // A probe: this one, or one written off too early.
                (Some(_), CallResult::Success) if entry.is_probe && openings == self.openings => {
                    (self.open, self.probe, self.failures) = (None, None, 0);
                    Some(Change::Closed)
                }
                (Some((_, failed)), met) if self.probe.is_some_and(|(probe, _)| probe == entry) => {
                    self.probe = None;
                    self.open = Some((now, failed + u32::from(matches!(met, CallResult::Failure(_)))));
                    Some(Change::StaysOpen)
                }
                // Calls that began before the last opening say nothing any more.
                (None, CallResult::Failure(_)) if !entry.is_probe && openings == self.openings => {
                    self.failures += 1;
                    (self.failures == FAILURES).then(|| {
                        self.openings += 1;
                        self.open = Some((now, 0));
                        Change::Opened
                    })
                }
                (None, CallResult::Success) if !entry.is_probe && openings == self.openings => {
                    self.failures = 0;
                    None
                }
                _ => None,
            }
        }
    }

    #[derive(Clone, Debug)]
    enum Event {
        Enter,
        Succeed(usize),
        Fail(usize),
        GiveUp(usize),
        Pass(u64),
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            6 => Just(Event::Enter),
            2 => any::<usize>().prop_map(Event::Succeed),
            8 => any::<usize>().prop_map(Event::Fail),
            1 => any::<usize>().prop_map(Event::GiveUp),
            4 => (0_u64..=120).prop_map(|millis| Event::Pass(millis * 10_000_000)),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(500) })]

        #[test]
        fn it_agrees_with_the_model(events in prop::collection::vec(event(), 1..200)) {
            let (breaker, mut story, mut now) = (Breaker::new(0), Story::default(), 0_u64);
            for event in events {
                let met = match event {
                    Event::Pass(nanos) => {
                        now += nanos;
                        continue;
                    }
                    Event::Enter => {
                        let entry = enter(&breaker, now);
                        prop_assert_eq!(entry.is_some(), story.lets_in(now));
                        if let Some(entry) = entry {
                            prop_assert_eq!(entry.is_probe, story.open.is_some());
                            story.under_way.push((entry, story.openings));
                            if entry.is_probe {
                                story.probe = Some((entry, now));
                            }
                        }
                        continue;
                    }
                    Event::Succeed(of) => (of, CallResult::Success),
                    Event::Fail(of) => (of, CallResult::Failure(&error())),
                    Event::GiveUp(of) => (of, CallResult::Abandoned),
                };
                if story.under_way.is_empty() {
                    continue;
                }
                let call = story.under_way.swap_remove(met.0 % story.under_way.len());
                let expected = story.end(call, met.1, now);
                prop_assert_eq!(breaker.report(call.0, met.1, || now), expected);
                prop_assert_eq!(breaker.is_open(), story.open.is_some());
            }
        }
    }
}

/// All interleavings of failures, successes and state changes.
#[cfg(all(test, loom_model))]
mod model {
    use loom::sync::Arc;
    use loom::thread;

    use super::*;

    fn error() -> BackendError {
        BackendError::new(BackendErrorKind::Refused, "no")
    }

    fn fail(breaker: &Breaker, entry: Entry) -> Option<Change> {
        breaker.report(entry, CallResult::Failure(&error()), || 0)
    }

    /// A breaker after this many failures.
    fn after(failures: u32) -> Breaker {
        let breaker = Breaker::new(0);
        for _ in 0..failures {
            let entry = breaker.enter(|| 0).unwrap();
            fail(&breaker, entry);
        }
        breaker
    }

    #[test]
    fn of_two_calls_that_come_when_the_pause_is_over_one_probes() {
        loom::model(|| {
            let breaker = Arc::new(after(FAILURES));
            let other = Arc::clone(&breaker);
            let handle = thread::spawn(move || other.enter(|| FIRST_PAUSE).is_ok());
            let mine = breaker.enter(|| FIRST_PAUSE).is_ok();
            assert!(mine ^ handle.join().unwrap());
        });
    }

    #[test]
    fn two_failures_at_once_are_both_counted_and_open_it_once() {
        loom::model(|| {
            let breaker = Arc::new(after(FAILURES - 2));
            let other = Arc::clone(&breaker);
            let handle = thread::spawn(move || {
                let entry = other.enter(|| 0).unwrap();
                fail(&other, entry)
            });
            let entry = breaker.enter(|| 0).unwrap();
            let mine = fail(&breaker, entry);
            let changes = [mine, handle.join().unwrap()];
            assert_eq!(changes.iter().flatten().count(), 1);
            assert!(breaker.is_open());
            assert!(breaker.enter(|| 0).is_err());
        });
    }

    #[test]
    fn the_word_matches_the_state() {
        loom::model(|| {
            let breaker = Arc::new(after(1));
            let other = Arc::clone(&breaker);
            let handle = thread::spawn(move || {
                let entry = other.enter(|| 0).unwrap();
                other.report(entry, CallResult::Success, || 0);
            });
            let entry = breaker.enter(|| 0).unwrap();
            fail(&breaker, entry);
            handle.join().unwrap();
            let calm = breaker.word.load(Ordering::Relaxed) & 1 == 0;
            let failures = match breaker.state.lock().state {
                State::Closed { failures } => failures,
                _ => unreachable!("two failures do not open it"),
            };
            assert_eq!(calm, failures == 0);
        });
    }
}
