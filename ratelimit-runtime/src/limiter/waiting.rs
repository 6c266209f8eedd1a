//! A call that waits for its turn: in its key's queue in memory, or in the queue before a backend.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::{Duration, Instant};

use super::call::{Call, OwnedCall, WaitOptions, polled_again};
use super::core::{Core, Venue};
use crate::algorithm::Rule;
use crate::algorithm::offences::Backoff;
use crate::backend::memory::{Ask, Joining, Left, NEVER, Store, Turn, Verdict, Waiter};
use crate::decision::{Address, Decision};
use crate::error::RateLimitExceeded;
use crate::guard::queue::{self as before_backend, HandedOver, Queues, Told, Turn as RemoteTurn};
use crate::limit::Limit;
use crate::queue::Limits;
use crate::rt::clock::{self, Now};
use crate::rt::timer::{self, Alarm};
use crate::scope::{self, Scope};
use crate::switches::Switches;

/// The clock of a waiting call.
enum Timing {
    /// The monotonic clock. The alarm is for the call's deadline.
    Real(Option<Box<Option<Alarm>>>),
    /// The clock of a tokio runtime that a test has paused.
    #[cfg(feature = "tokio")]
    Paused(Sleep),
    Test(Scope, Option<Box<scope::Sleep>>),
}

/// The rest of a wait.
#[derive(Clone, Copy)]
struct Until {
    /// When the first waiting call is due.
    first_due: u64,
    is_first: bool,
    deadline: u64,
}

impl Until {
    /// A call that is not first is woken by the one before it.
    fn wake_up(self) -> u64 {
        if self.is_first { self.first_due.min(self.deadline) } else { self.deadline }
    }
}

/// A waiting call. Once dropped, it holds nothing.
pub(crate) struct Waiting {
    call: OwnedCall,
    queue: Queue,
    arrived: u64,
    timing: Timing,
    /// It has just joined its queue, whose timer charges it.
    is_new: bool,
    is_done: bool,
}

/// The queue of the call.
enum Queue {
    Memory { waiter: Waiter, resets: u32 },
    Backend(Box<BeforeBackend>),
}

/// A place in the queue before a backend.
pub(super) struct BeforeBackend {
    pub(super) waiter: before_backend::Waiter,
    /// The bucket in memory, for when the backend fails.
    pub(super) fallback: Address,
}

/// The limits that were read at the call.
struct Read {
    core: Arc<Core>,
    limits: Box<[Limit]>,
}

impl Limits for Read {
    fn with(&self, judge: &mut dyn FnMut(&[Rule], Option<&Backoff>)) {
        self.core.with_rules(Some(&self.limits), |rules| judge(rules, self.core.backoff()));
    }
}

impl Waiting {
    /// Takes the permits now, or joins the queue.
    pub(super) fn join(
        call: Call<'_>,
        store: &Arc<Store>,
        address: Address,
        ask: &Ask<'_>,
        now: Now,
        venue: &Venue<'_>,
    ) -> Result<(Verdict, Left), Box<Waiting>> {
        let limits = limits_of(call);
        let deadline = now.earliest.saturating_add(call.wait.nanos());
        let rank = call.options.rank(now.earliest);
        let timing = Timing::of(call, venue);
        let joining = Joining::new(&limits, deadline, call.options.queue, rank, timing.is_crates(call));
        let resets = store.resets(address);
        store.join(address, ask, now, &joining).map_err(|waiter| {
            let queue = Queue::Memory { waiter, resets };
            Box::new(Waiting::new(OwnedCall::of(call, call.key_text()), queue, now.earliest, timing))
        })
    }

    /// A call that has waited before a backend since `arrived`.
    #[allow(clippy::unnecessary_box_returns, reason = "it is large on 64 bits only")]
    pub(super) fn before_backend(call: OwnedCall, place: BeforeBackend, arrived: u64) -> Box<Waiting> {
        let timing = Timing::before(&place);
        Box::new(Waiting::new(call, Queue::Backend(Box::new(place)), arrived, timing))
    }

    fn new(call: OwnedCall, queue: Queue, arrived: u64, timing: Timing) -> Waiting {
        call.core.queued();
        let is_new = timing.is_crates(call.call()) && matches!(queue, Queue::Memory { .. });
        Waiting { call, queue, arrived, timing, is_new, is_done: false }
    }

    fn deadline(&self) -> u64 {
        self.arrived.saturating_add(self.call.wait.nanos())
    }

    /// The outcome, if there is one yet; otherwise until when to wait at most.
    fn look(&mut self, waker: &Waker) -> Result<Result<Decision, RateLimitExceeded>, Until> {
        // Before all checks, so that nothing is missed in between.
        let is_told = match &self.queue {
            Queue::Memory { waiter, .. } => waiter.listen(waker),
            Queue::Backend(place) => place.waiter.listen(waker),
        };
        let deadline = self.deadline();
        // In a dry run no call waits, also if it has begun to before.
        if self.call.core.is_off(Switches::load()) || self.call.core.dry_run() {
            self.leave();
            return Ok(Ok(self.call.call().free()));
        }
        if std::mem::take(&mut self.is_new) && !is_told {
            return Err(Until { first_due: NEVER, is_first: false, deadline });
        }
        let now = self.timing.now();
        let turn = match &mut self.queue {
            Queue::Memory { waiter, .. } => waiter.look(now),
            Queue::Backend(_) => return self.look_before_backend(now, waker),
        };
        let Queue::Memory { waiter, resets } = &self.queue else { unreachable!("it waits in memory") };
        let (call, store, address) = (self.call.call(), waiter.store(), waiter.address());
        match turn {
            Turn::Waiting { first_due, is_first } if now.earliest < deadline => {
                Err(Until { first_due, is_first, deadline })
            }
            Turn::Waiting { .. } => {
                let store = Arc::clone(store);
                self.leave();
                let call = self.call.call();
                Ok(call.core.with_ask(&store, call.limits, call.cost, |ask| {
                    let (verdict, left) = store.peek(address, ask, now);
                    let until = if let Verdict::Denied { until, .. } = verdict { until } else { now.earliest };
                    call.denied_in_memory(ask, until, left, now)
                }))
            }
            Turn::Lost => {
                let store = Arc::clone(store);
                self.rejoin(&store, address, now, waker)
            }
            Turn::Refused => {
                self.is_done = true;
                Ok(call.core.with_ask(store, call.limits, call.cost, |ask| {
                    call.denied_in_memory(ask, NEVER, Left::default(), now)
                }))
            }
            Turn::Admitted { permit, due } => {
                self.is_done = true;
                let waited = due.saturating_sub(self.arrived);
                if waited > 0 {
                    call.waits(waited);
                }
                Ok(Ok(call.core.with_ask(store, call.limits, call.cost, |ask| {
                    let left = store.peek(address, ask, now).1;
                    call.admitted(store, address, ask, permit.at, *resets, left, now, waited)
                })))
            }
        }
    }

    /// As [`look`](Waiting::look), for a call before a backend.
    fn look_before_backend(&mut self, now: Now, waker: &Waker) -> Result<Result<Decision, RateLimitExceeded>, Until> {
        let deadline = self.deadline();
        let Queue::Backend(place) = &mut self.queue else { unreachable!("it waits before a backend") };
        let told = match place.waiter.look(now.earliest) {
            RemoteTurn::Waiting { until } if now.earliest < deadline => {
                return Err(Until { first_due: until, is_first: false, deadline });
            }
            RemoteTurn::Waiting { .. } => {
                let denied = place.waiter.denied(now.earliest);
                place.waiter.leave();
                Told::Denied(Box::new(denied))
            }
            RemoteTurn::Lost => {
                self.timing.forget_alarm();
                let (bucket, fingerprint) = place.waiter.bucket();
                let bucket = Arc::clone(bucket);
                let joining = joining_of(self.call.call(), place.fallback, WaitOptions::DEFAULT, self.arrived, None);
                let joining = before_backend::Joining { rank: place.waiter.rank(), ..joining };
                match Queues::join(place.waiter.guard(), &bucket, fingerprint, joining) {
                    Ok(waiter) => {
                        place.waiter = waiter;
                        place.waiter.listen(waker);
                        return self.look_before_backend(now, waker);
                    }
                    Err(_) => Told::Failed(None),
                }
            }
            RemoteTurn::Told(told) => told,
        };
        let call = self.call.call();
        let decided = match told {
            Told::Admitted(booked) => {
                let (bucket, fingerprint) = place.waiter.bucket();
                let waited = booked.due.saturating_sub(self.arrived);
                Ok(call.booked(bucket, fingerprint, *booked, waited))
            }
            Told::Denied(denied) => call.denied_by_backend(&denied, now.earliest),
            Told::Failed(Some(place)) => {
                let HandedOver { waiter, resets, .. } = *place;
                self.queue = Queue::Memory { waiter, resets };
                self.timing.forget_alarm();
                return self.look(waker);
            }
            Told::Failed(None) => {
                let Some(decided) = call.undecided() else {
                    let (address, venue) = (place.fallback, call.core.venue(Switches::load(), call.is_async));
                    let store = Arc::clone(&*call.core.fallback(&venue));
                    return self.rejoin(&store, address, now, waker);
                };
                decided
            }
        };
        self.is_done = true;
        Ok(decided)
    }

    /// Joins the queue in memory, as if the call had waited there all along.
    fn rejoin(
        &mut self,
        store: &Arc<Store>,
        address: Address,
        now: Now,
        waker: &Waker,
    ) -> Result<Result<Decision, RateLimitExceeded>, Until> {
        let call = self.call.call();
        let resets = store.resets(address);
        let limits = limits_of(call);
        let rank = match &self.queue {
            Queue::Memory { waiter, .. } => waiter.rank(),
            Queue::Backend(place) => place.waiter.rank(),
        };
        let joining = Joining::new(&limits, self.deadline(), usize::MAX, rank, self.timing.is_crates(call));
        let waiter = call.core.with_ask(store, call.limits, call.cost, |ask| {
            let (verdict, left) = store.join(address, ask, now, &joining)?;
            let waited = now.earliest.saturating_sub(self.arrived);
            if let Verdict::Admitted { .. } = verdict {
                call.waits(waited);
            }
            Ok(call.decided(store, address, ask, verdict, resets, left, now, waited))
        });
        match waiter {
            Ok(decided) => {
                self.is_done = true;
                Ok(decided)
            }
            Err(waiter) => {
                self.queue = Queue::Memory { waiter, resets };
                self.timing.forget_alarm();
                self.look(waker)
            }
        }
    }

    /// Blocks the thread.
    pub(super) fn wait(mut self) -> Result<Decision, RateLimitExceeded> {
        let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
        loop {
            match self.look(&waker) {
                Ok(decided) => return decided,
                Err(until) => self.timing.block(until),
            }
        }
    }

    fn leave(&mut self) {
        if std::mem::replace(&mut self.is_done, true) {
            return;
        }
        let now = self.timing.now();
        let call = self.call.call();
        match &mut self.queue {
            Queue::Memory { waiter, .. } => {
                let store = Arc::clone(waiter.store());
                call.core.with_ask(&store, call.limits, call.cost, |ask| waiter.leave(ask, now));
            }
            Queue::Backend(place) => place.waiter.leave(),
        }
    }
}

impl Future for Waiting {
    type Output = Result<Decision, RateLimitExceeded>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if self.is_done {
            polled_again();
        }
        loop {
            match self.look(context.waker()) {
                Ok(decided) => return Poll::Ready(decided),
                Err(until) if self.timing.sleeps(until, context) => return Poll::Pending,
                Err(_) => {}
            }
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if !self.is_done {
            self.call.core.abandoned();
        }
        self.leave();
        self.call.core.unqueued();
    }
}

/// The call as the queue before a backend needs it.
pub(super) fn joining_of(
    call: Call<'_>,
    fallback: Address,
    options: WaitOptions,
    arrived: u64,
    denied: Option<(before_backend::Denied, u64)>,
) -> before_backend::Joining {
    let venue = call.core.venue(Switches::load(), call.is_async);
    let stand_in = call.core.has_stand_in().then(|| before_backend::StandIn {
        store: Arc::clone(&*call.core.fallback(&venue)),
        address: fallback,
        by_timer: call.is_async && venue.is_real(),
    });
    before_backend::Joining {
        stand_in,
        scope: venue.scope,
        cost: call.cost,
        limits: limits_of(call),
        rank: options.rank(arrived),
        deadline: arrived.saturating_add(call.wait.nanos()),
        queue: options.queue,
        denied,
    }
}

/// The limits of a waiting call, as they are when its turn comes.
fn limits_of(call: Call<'_>) -> Arc<dyn Limits> {
    match call.limits {
        None => Arc::<Core>::clone(call.core),
        Some(limits) => Arc::new(Read { core: Arc::clone(call.core), limits: limits.into() }),
    }
}

impl Timing {
    /// Whether the crate's timer must charge the call when it is due.
    fn is_crates(&self, call: Call<'_>) -> bool {
        call.is_async && matches!(self, Timing::Real(_))
    }

    /// The alarm may belong to the process that this one was forked from.
    fn forget_alarm(&mut self) {
        match self {
            Timing::Real(alarm) => *alarm = None,
            #[cfg(feature = "tokio")]
            Timing::Paused(_) => {}
            Timing::Test(..) => {}
        }
    }

    fn of(call: Call<'_>, venue: &Venue<'_>) -> Timing {
        if let Some(scope) = &venue.scope {
            return Timing::Test(scope.clone(), None);
        }
        #[cfg(feature = "tokio")]
        if call.is_async && clock::is_paused() {
            return Timing::Paused(Sleep::default());
        }
        let _ = call;
        Timing::Real(None)
    }

    /// The clock of the queue before a backend.
    fn before(place: &BeforeBackend) -> Timing {
        place.waiter.scope().map_or(Timing::Real(None), |scope| Timing::Test(scope.clone(), None))
    }

    fn now(&self) -> Now {
        match self {
            Timing::Real(_) => clock::clock().now(),
            #[cfg(feature = "tokio")]
            Timing::Paused(_) => clock::clock().now_in_runtime(),
            Timing::Test(scope, _) => Now::exactly(scope.now()),
        }
    }

    /// Blocks the thread until that time or a wake-up.
    fn block(&self, until: Until) {
        if let Timing::Test(scope, _) = self {
            // Nothing else moves a paused clock.
            scope.advance_to(until.first_due.min(until.deadline));
        } else {
            let left = until.wake_up().saturating_sub(self.now().earliest);
            std::thread::park_timeout(Duration::from_nanos(left));
        }
    }

    /// Arranges that the task is woken in time. Returns false if that time has come.
    fn sleeps(&mut self, until: Until, context: &mut Context<'_>) -> bool {
        match self {
            // The store's timer charges the first waiting call, and wakes it.
            Timing::Real(alarm) => {
                if until.deadline != u64::MAX {
                    let left = Duration::from_nanos(until.deadline.saturating_sub(clock::now()));
                    if let Some(time) = Instant::now().checked_add(left) {
                        timer::set(alarm.get_or_insert_default(), time, context);
                    }
                }
                true
            }
            #[cfg(feature = "tokio")]
            Timing::Paused(sleep) => {
                let now = clock::clock().now_in_runtime().earliest;
                let left = Duration::from_nanos(until.wake_up().saturating_sub(now));
                sleep.sleeps(until, left, context)
            }
            Timing::Test(scope, sleep) => {
                // Each task looks when the first call is due, because that call's future may not be
                // polled.
                let time = until.first_due.min(until.deadline);
                if sleep.as_ref().is_none_or(|sleep| sleep.time() != time) {
                    *sleep = Some(Box::new(scope::Sleep::until(scope, time)));
                }
                let is_over = sleep.as_mut().is_none_or(|sleep| Pin::new(&mut **sleep).poll(context).is_ready());
                if is_over {
                    *sleep = None;
                }
                !is_over
            }
        }
    }
}

/// A sleep by tokio's clock.
#[cfg(feature = "tokio")]
#[derive(Default)]
struct Sleep(Option<Pin<Box<tokio::time::Sleep>>>);

#[cfg(feature = "tokio")]
impl Sleep {
    fn sleeps(&mut self, until: Until, left: Duration, context: &mut Context<'_>) -> bool {
        until.wake_up() == u64::MAX
            || self.0.insert(Box::pin(tokio::time::sleep(left))).as_mut().poll(context).is_pending()
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}
