//! Every order in which a driver, calls that join and calls that leave take the locks of a queue.
//! No call waits in a queue without a driver, and no booking, place or wake-up is lost.

use std::sync::atomic::AtomicBool;

use super::driver::ends;
use super::*;
use crate::algorithm::Rule;
use crate::algorithm::offences::Backoff;
use crate::algorithm::record::{Admission, Permit};
use crate::backend::memory::{Ask, Call, Hold, MemoryBackend, Store, Verdict, Written};
use crate::backend::{Answer, Backend};
use crate::decision::Address;
use crate::error::BackendError;
use crate::guard::Guard;
use crate::limit::Limit;
use loom::sync::Arc as Shared;
use loom::thread;

struct Asleep;

impl Backend for Asleep {
    fn decide(&self, _: &Request) -> Result<Answer, BackendError> {
        unreachable!("no step of a model asks it")
    }
}

struct One(Rule);

impl Limits for One {
    fn with(&self, judge: &mut dyn FnMut(&[Rule], Option<&Backoff>)) {
        judge(&[self.0], None);
    }
}

#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Woken>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// A bucket before a backend, and the one in memory that takes over.
struct Bucket {
    guard: Arc<Guard>,
    name: Arc<str>,
    rule: Rule,
    store: Arc<Store>,
    _memory: MemoryBackend,
}

impl Bucket {
    fn new() -> Bucket {
        let rule = Rule::new(Limit::new(1, Duration::from_secs(3_600)));
        let memory = MemoryBackend::new();
        let written = Written {
            rules: Box::new([rule]),
            backoff: None,
            varies: false,
            by: 0,
            limiter: crate::error::Name::Static("model"),
            states: crate::backend::memory::States::ANY,
        };
        let store = memory.store(None, &written);
        Bucket { guard: Arc::new(Guard::new(Arc::new(Asleep))), name: "bucket".into(), rule, store, _memory: memory }
    }

    fn waits(&self) -> Waiter {
        let stand_in = StandIn { store: Arc::clone(&self.store), by_timer: false };
        let joining = Joining {
            cost: 1,
            limits: Arc::new(One(self.rule)),
            rank: 0,
            arrived: 0,
            deadline: NEVER,
            queue: usize::MAX,
            denied: None,
            fallback: Address::Hash(2),
            stand_in: Some(stand_in),
            scope: None,
        };
        Queues::join(&self.guard, &self.name, None, joining).ok().unwrap()
    }

    fn queue(&self) -> Option<Arc<Queue>> {
        self.guard.queues.find(&self.name)
    }

    /// Whether the limiter in memory has its permit.
    fn has_permit(&self) -> bool {
        let call = Call { rules: std::slice::from_ref(&self.rule), backoff: None, cost: 1, floor: Hold::NONE };
        let ask = Ask { call, is_foreign: false };
        let (verdict, _) = self.store.peek(Address::Hash(2), &ask, clock::clock().now());
        matches!(verdict, Verdict::Admitted { .. })
    }
}

/// Books the permit of the first call, due long ago.
fn book(queue: &Queue) {
    let mut state = queue.state.lock();
    let Some((_, first)) = state.line.first() else { return };
    let limits = Arc::clone(&first.with.limits);
    let admission =
        Admission { permit: Permit { at: 1, sequence: 1, cost: 1, undo: None }, limit: 0, remaining: 0, fresh_at: 1 };
    state.book(Booked {
        due: 1,
        limit: Limit::per_second(1),
        admission,
        reset_after: 0,
        limits,
        made_by: SmallVec::new(),
        changes: 0,
        is_kept: false,
    });
}

fn check(model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(model);
}

#[test]
fn a_call_that_joins_while_the_driver_ends_has_a_driver() {
    check(|| {
        let bucket = Shared::new(Bucket::new());
        let first = bucket.waits();
        let queue = bucket.queue().unwrap();
        drop(first);
        let other = Shared::clone(&bucket);
        let thread = thread::spawn(move || other.waits());
        let has_ended = ends(&bucket.guard, &queue);
        let waiter = thread.join().unwrap();
        let found = bucket.queue().unwrap();
        assert!(Arc::ptr_eq(&found, &waiter.queue));
        assert_eq!(Arc::ptr_eq(&found, &queue), !has_ended);
        assert_eq!(bucket.guard.queues.len.load(Ordering::SeqCst), 1);
    });
}

#[test]
fn a_driver_that_pauses_while_a_call_joins_goes_on() {
    check(|| {
        let bucket = Shared::new(Bucket::new());
        let first = bucket.waits();
        let queue = bucket.queue().unwrap();
        drop(first);
        queue.state.lock().is_changed = false;
        let other = Shared::clone(&bucket);
        let thread = thread::spawn(move || drop(other.waits()));
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(Arc::clone(&woken));
        let mut pause = std::pin::pin!(queue.pause(NEVER));
        let is_over = pause.as_mut().poll(&mut Context::from_waker(&waker)).is_ready();
        thread.join().unwrap();
        assert!(is_over || woken.0.load(Ordering::SeqCst));
    });
}

#[test]
fn a_booking_is_handed_out_once_though_the_first_call_leaves() {
    check(|| {
        let bucket = Shared::new(Bucket::new());
        let waiters = [bucket.waits(), bucket.waits()];
        let queue = bucket.queue().unwrap();
        book(&queue);
        let settling = Arc::clone(&queue);
        let thread = thread::spawn(move || settling.settle(clock::now()));
        waiters[0].leave();
        thread.join().unwrap();
        assert!(matches!(waiters[1].look(clock::now()), Turn::Notified(Notice::Admitted(_))));
        let state = queue.state.lock();
        assert!(state.line.is_empty() && state.booked.is_empty() && state.unused.is_empty());
    });
}

#[test]
fn a_call_that_is_notified_while_it_looks_sees_it_or_is_woken() {
    check(|| {
        let bucket = Bucket::new();
        let waiter = bucket.waits();
        let queue = bucket.queue().unwrap();
        let thread = thread::spawn(move || {
            book(&queue);
            queue.settle(clock::now());
        });
        let woken = Arc::new(Woken::default());
        waiter.listen(&Waker::from(Arc::clone(&woken)));
        let turn = waiter.look(clock::now());
        thread.join().unwrap();
        assert!(matches!(turn, Turn::Notified(_)) || woken.0.load(Ordering::SeqCst));
    });
}

#[test]
fn a_call_that_leaves_while_it_is_handed_over_holds_nothing() {
    check(|| {
        let bucket = Bucket::new();
        let waiter = bucket.waits();
        let (queue, place) = (bucket.queue().unwrap(), waiter.place);
        let thread = thread::spawn(move || {
            let mut wakes = Wakes::default();
            queue.fail(&[place], queue.now(), &mut wakes);
            wakes.wake();
        });
        waiter.leave();
        thread.join().unwrap();
        assert!(bucket.has_permit());
    });
}
