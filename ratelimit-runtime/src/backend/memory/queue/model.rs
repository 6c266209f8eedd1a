//! Every order in which threads can look at, charge and leave one queue: no wake-up is lost, and no
//! permit is.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Wake, Waker};
use std::time::Duration;

use loom::sync::{Arc as Shared, Mutex};
use loom::thread;

use super::*;
use crate::algorithm::Rule;
use crate::algorithm::offences::Backoff;
use crate::backend::memory::{Ask, Joining, MemoryBackend, Store, Verdict, Waiter, WhenFull, Written};
use crate::decision::Address;
use crate::limit::{Algorithm, Limit};
use crate::rt::clock;

const SECOND: u64 = 1_000_000_000;

struct One(Rule);

impl Limits for One {
    fn with(&self, judge: &mut dyn FnMut(&[Rule], Option<&Backoff>)) {
        judge(&[self.0], None);
    }
}

/// Whether a task was woken.
#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Woken>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// A bucket of one permit a second, which is taken.
struct Bucket {
    rule: Rule,
    store: Arc<Store>,
    address: Address,
    _backend: MemoryBackend,
}

impl Bucket {
    fn new(address: Address) -> Bucket {
        let limit = Limit::new(1, Duration::from_secs(1)).with_algorithm(Algorithm::SlidingWindow);
        let rule = Rule::new(limit);
        let backend = MemoryBackend::bounded(10, WhenFull::Admit);
        let written = Written {
            rules: Box::new([rule]),
            backoff: None,
            varies: false,
            by: 0,
            limiter: crate::error::Name::Static("model"),
            states: crate::backend::memory::States::ANY,
        };
        let bucket = Bucket { rule, store: backend.store(None, &written), address, _backend: backend };
        assert!(bucket.takes(at(0)));
        bucket
    }

    fn ask(&self, cost: u32) -> Ask<'_> {
        let call = Call { rules: std::slice::from_ref(&self.rule), backoff: None, cost, floor: Hold::NONE };
        Ask { call, is_foreign: false }
    }

    fn takes(&self, now: Now) -> bool {
        let (verdict, _) = self.store.take(self.address, &self.ask(1), now, false);
        matches!(verdict, Verdict::Admitted { .. })
    }

    fn waits(&self) -> Waiter {
        let limits: Arc<dyn Limits> = Arc::new(One(self.rule));
        let joining = Joining::new(&limits, 0, NEVER, usize::MAX, 0, false);
        self.store.join(self.address, &self.ask(1), at(0), &joining).err().unwrap()
    }
}

/// This many seconds after the first permit was taken.
fn at(seconds: u64) -> Now {
    Now::exactly(clock::origin() + (100 + seconds) * SECOND)
}

fn look(waiter: &Waiter, now: Now, waker: &Arc<Woken>) -> Turn {
    waiter.listen(&Waker::from(Arc::clone(waker)));
    waiter.look(now)
}

/// Runs two threads on a bucket and the calls that wait for it.
fn both(
    waiting: usize,
    one: fn(&Bucket, &[Mutex<Waiter>], &Arc<Woken>),
    two: fn(&Bucket, &[Mutex<Waiter>]),
    check: fn(&Bucket, &[Mutex<Waiter>], &Arc<Woken>),
) {
    for address in [Address::Hash(2), Address::Unkeyed] {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(3);
        model.check(move || {
            let bucket = Bucket::new(address);
            let waiters: Vec<Mutex<Waiter>> = (0..waiting).map(|_| Mutex::new(bucket.waits())).collect();
            let (shared, woken) = (Shared::new((bucket, waiters)), Arc::new(Woken::default()));
            let other = Shared::clone(&shared);
            let thread = thread::spawn(move || two(&other.0, &other.1));
            one(&shared.0, &shared.1, &woken);
            thread.join().unwrap();
            check(&shared.0, &shared.1, &woken);
        });
    }
}

fn is_admitted(turn: Turn) -> bool {
    matches!(turn, Turn::Admitted { due, .. } if due == at(1).earliest)
}

#[test]
fn a_call_that_is_charged_by_another_while_it_looks_is_woken_or_sees_it() {
    both(
        1,
        |_, waiters, woken| {
            // It is not due yet by its own clock.
            let turn = look(&waiters[0].lock().unwrap(), at(0), woken);
            if is_admitted(turn) {
                woken.0.store(true, Ordering::SeqCst);
            } else {
                assert!(matches!(turn, Turn::Waiting { .. }));
            }
        },
        |bucket, _| assert!(!bucket.takes(at(1)), "the permit is the waiting call's"),
        |_, _, woken| assert!(woken.0.load(Ordering::SeqCst)),
    );
}

/// A call that has just joined does not look.
#[test]
fn a_call_that_only_listens_while_it_is_charged_is_woken_or_told_so() {
    let by: [fn(&Bucket, &[Mutex<Waiter>]); 2] =
        [|bucket, _| assert!(!bucket.takes(at(1))), |bucket, _| bucket.store.wake_all(at(0))];
    for news in by {
        both(
            1,
            |_, waiters, woken| {
                if waiters[0].lock().unwrap().listen(&Waker::from(Arc::clone(woken))) {
                    woken.0.store(true, Ordering::SeqCst);
                }
            },
            news,
            |_, _, woken| assert!(woken.0.load(Ordering::SeqCst)),
        );
    }
}

#[test]
fn a_call_that_leaves_while_it_is_charged_leaves_its_permit_to_the_next() {
    both(
        2,
        |bucket, waiters, _| waiters[0].lock().unwrap().leave(&bucket.ask(1), at(1)),
        |bucket, _| assert!(!bucket.takes(at(1))),
        |bucket, waiters, woken| {
            assert!(is_admitted(look(&waiters[1].lock().unwrap(), at(1), woken)));
            assert!(!bucket.takes(at(1)));
        },
    );
}

#[test]
fn two_calls_that_look_at_once_are_charged_one_after_the_other() {
    both(
        2,
        |_, waiters, woken| assert!(is_admitted(look(&waiters[0].lock().unwrap(), at(1), woken))),
        |_, waiters| {
            let turn = look(&waiters[1].lock().unwrap(), at(1), &Arc::default());
            assert!(matches!(turn, Turn::Waiting { .. }));
        },
        |bucket, waiters, woken| {
            assert!(!bucket.takes(at(1)));
            let turn = look(&waiters[1].lock().unwrap(), at(2), woken);
            assert!(matches!(turn, Turn::Admitted { due, .. } if due == at(2).earliest));
        },
    );
}
