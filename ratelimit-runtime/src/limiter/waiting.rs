//! A call that waits for its turn: in its key's queue in memory, or in the queue before a backend.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::Duration;

use super::call::{Call, OwnedCall, Rare, Wait, WaitOptions, polled_again};
use super::core::{Core, Venue};
use crate::algorithm::Rule;
use crate::algorithm::offences::Backoff;
use crate::backend::memory::{Ask, Joining, Left, NEVER, Store, Turn, Verdict, Waiter};
use crate::decision::{Address, Decision};
use crate::error::RateLimitExceeded;
use crate::guard::queue::{self as before_backend, HandedOver, Notice, Queues, Turn as RemoteTurn};
use crate::limit::Limit;
use crate::observe::ShownKey;
use crate::queue::{Limits, Place};
use crate::rt::clock::{self, Now};
use crate::scope::{self, Scope};
use crate::switches::Switches;

/// The clock of a waiting call, if it is not the monotonic clock.
#[derive(Default)]
struct Timing(Option<Clocked>);

enum Clocked {
    /// The clock of a tokio runtime that a test has paused.
    #[cfg(feature = "tokio")]
    Paused(Sleep),
    Test(Scope, Option<scope::Sleep>),
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
///
/// Its cost, its deadline and its bucket are the queue's, because many calls may wait
/// (`tests/resident.rs`).
pub(crate) struct Waiting {
    /// Dropped before the core, which otherwise cannot leave its buckets behind.
    queue: Queue,
    core: Arc<Core>,
    /// What few calls have. Boxed, to keep the others small.
    extra: Option<Box<Extra>>,
    is_async: bool,
    quiet: bool,
    stage: Stage,
}

struct Extra {
    rare: Option<Box<Rare>>,
    timing: Timing,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// It has just joined its queue, whose timer charges it.
    New,
    Waits,
    Done,
}

/// The queue of the call.
enum Queue {
    Memory(Waiter),
    Backend(before_backend::Waiter),
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
        let joining = Joining::new(&limits, now.earliest, deadline, call.options.queue, rank, timing.is_crates(call));
        store.join(address, ask, now, &joining).map_err(|waiter| {
            let call = OwnedCall::of(call, call.key_text());
            let stage = if timing.is_crates(call.call()) { Stage::New } else { Stage::Waits };
            Box::new(Waiting::new(call, Queue::Memory(waiter), timing, stage))
        })
    }

    /// A call that waits before a backend.
    pub(super) fn before_backend(call: OwnedCall, waiter: before_backend::Waiter) -> Waiting {
        let timing = Timing::before(&waiter);
        Waiting::new(call, Queue::Backend(waiter), timing, Stage::Waits)
    }

    fn new(call: OwnedCall, queue: Queue, timing: Timing, stage: Stage) -> Waiting {
        let OwnedCall { core, rare, quiet, is_async, .. } = call;
        core.queued();
        let has_extra = rare.is_some() || timing.0.is_some();
        let extra = has_extra.then(|| Box::new(Extra { rare, timing }));
        Waiting { queue, core, extra, is_async, quiet, stage }
    }

    fn rare(&self) -> Option<&Rare> {
        self.extra.as_ref()?.rare.as_deref()
    }

    fn timing(&self) -> &Timing {
        self.extra.as_ref().map_or(const { &Timing(None) }, |extra| &extra.timing)
    }

    fn call(&self) -> Call<'_> {
        let wait = self.deadline().saturating_sub(self.arrived());
        Call {
            limits: self.rare().and_then(|rare| rare.limits.as_deref()),
            cost: self.place().cost,
            wait: if self.deadline() == u64::MAX { Wait::Forever } else { Wait::AtMost(wait) },
            quiet: self.quiet,
            is_async: self.is_async,
            key: self.rare().map_or_else(ShownKey::default, |rare| rare.key.shown()),
            ..Call::new(&self.core)
        }
    }

    /// The bucket in memory, its own or for when the backend fails.
    fn address(&self) -> Address {
        match &self.queue {
            Queue::Memory(waiter) => waiter.address(),
            Queue::Backend(waiter) => waiter.fallback(),
        }
    }

    fn arrived(&self) -> u64 {
        match &self.queue {
            Queue::Memory(waiter) => waiter.arrived(),
            Queue::Backend(waiter) => waiter.arrived(),
        }
    }

    fn deadline(&self) -> u64 {
        match &self.queue {
            Queue::Memory(waiter) => waiter.deadline(),
            Queue::Backend(waiter) => waiter.deadline(),
        }
    }

    /// Whether it may go on waiting. In a dry run no call waits, even one that began before: it
    /// counts as denied, and runs.
    fn waits_on(&self, now: Now) -> bool {
        now.earliest < self.deadline() && !self.core.dry_run()
    }

    fn place(&self) -> Place {
        match &self.queue {
            Queue::Memory(waiter) => waiter.place(),
            Queue::Backend(waiter) => waiter.place(),
        }
    }

    /// The outcome, if there is one yet; otherwise until when to wait at most.
    fn look(&mut self, waker: &Waker) -> Result<Result<Decision, RateLimitExceeded>, Until> {
        // Before all checks, so that nothing is missed in between.
        let is_notified = match &self.queue {
            Queue::Memory(waiter) => waiter.listen(waker),
            Queue::Backend(waiter) => waiter.listen(waker),
        };
        let deadline = self.deadline();
        if self.core.is_off(Switches::load()) {
            self.leave();
            return Ok(Ok(self.call().free()));
        }
        let is_new = std::mem::replace(&mut self.stage, Stage::Waits) == Stage::New;
        if is_new && !is_notified && !self.core.dry_run() {
            return Err(Until { first_due: NEVER, is_first: false, deadline });
        }
        let now = self.timing().now();
        let Queue::Memory(waiter) = &self.queue else { return self.look_before_backend(now, waker) };
        let (turn, store, address) = (waiter.look(now), waiter.store(), waiter.address());
        match turn {
            Turn::Waiting { first_due, is_first } if self.waits_on(now) => Err(Until { first_due, is_first, deadline }),
            Turn::Waiting { .. } | Turn::Late => {
                let store = Arc::clone(store);
                self.leave();
                let call = self.call();
                Ok(call.core.with_ask(&store, call.limits, call.cost, |ask| {
                    let (verdict, left) = store.peek(address, ask, now);
                    let until = if let Verdict::Denied { until, .. } = verdict { until } else { now.earliest };
                    call.denied_in_memory(ask, until, left, now)
                }))
            }
            Turn::Lost => {
                let store = Arc::clone(store);
                self.rejoin(&store, now, waker)
            }
            Turn::Refused => {
                self.stage = Stage::Done;
                let call = self.call();
                Ok(call.core.with_ask(store, call.limits, call.cost, |ask| {
                    call.denied_in_memory(ask, NEVER, Left::default(), now)
                }))
            }
            Turn::Admitted { at, due, resets } => {
                self.stage = Stage::Done;
                let (call, took) = (self.call(), due.saturating_sub(self.arrived()));
                if took > 0 {
                    call.waits(took);
                }
                // Its own cost may no longer fit: what is left is that of a call of cost 0.
                Ok(Ok(call.core.with_ask(store, call.limits, 0, |ask| {
                    let left = store.peek(address, ask, now).1;
                    call.admitted(store, address, ask.call.rules, at, resets, left, now, took)
                })))
            }
        }
    }

    /// As [`look`](Waiting::look), for a call before a backend.
    fn look_before_backend(&mut self, now: Now, waker: &Waker) -> Result<Result<Decision, RateLimitExceeded>, Until> {
        let deadline = self.deadline();
        let Queue::Backend(waiter) = &self.queue else { unreachable!("it waits before a backend") };
        let notice = match waiter.look(now.earliest) {
            RemoteTurn::Waiting { until } if self.waits_on(now) => {
                return Err(Until { first_due: until, is_first: false, deadline });
            }
            RemoteTurn::Waiting { .. } | RemoteTurn::Late => {
                let denied = waiter.denied(now.earliest);
                waiter.leave();
                Notice::Denied(Box::new(denied))
            }
            RemoteTurn::Lost => {
                let (bucket, fingerprint) = waiter.bucket();
                let (call, rank, bucket) = (self.call(), waiter.place().rank, Arc::clone(bucket));
                let joining = joining_of(call, self.address(), WaitOptions::DEFAULT, self.arrived(), None);
                let joining = before_backend::Joining { rank, ..joining };
                let joined = waiter.guard().map(|guard| Queues::join(&guard, &bucket, fingerprint, joining));
                match joined {
                    Some(Ok(waiter)) => {
                        waiter.listen(waker);
                        self.queue = Queue::Backend(waiter);
                        return self.look_before_backend(now, waker);
                    }
                    Some(Err(_)) | None => Notice::Failed(None),
                }
            }
            RemoteTurn::Notified(notice) => notice,
        };
        let call = self.call();
        let decided = match notice {
            Notice::Admitted(booked) => {
                let (bucket, fingerprint) = waiter.bucket();
                let took = booked.due.saturating_sub(self.arrived());
                Ok(call.booked(bucket, fingerprint, *booked, took))
            }
            Notice::Denied(denied) => call.denied_by_backend(&denied, now.earliest),
            Notice::Failed(Some(place)) => {
                let HandedOver { waiter, .. } = *place;
                self.queue = Queue::Memory(waiter);
                return self.look(waker);
            }
            Notice::Failed(None) => {
                let Some(decided) = call.undecided() else {
                    let venue = call.core.venue(Switches::load(), call.is_async);
                    let store = Arc::clone(&*call.core.fallback(&venue));
                    return self.rejoin(&store, now, waker);
                };
                decided
            }
        };
        self.stage = Stage::Done;
        Ok(decided)
    }

    /// Joins the queue in memory, as if the call had waited there all along.
    fn rejoin(
        &mut self,
        store: &Arc<Store>,
        now: Now,
        waker: &Waker,
    ) -> Result<Result<Decision, RateLimitExceeded>, Until> {
        let (call, address) = (self.call(), self.address());
        let resets = store.resets(address);
        let limits = limits_of(call);
        let by_timer = self.timing().is_crates(call);
        let joining = Joining::new(&limits, self.arrived(), self.deadline(), usize::MAX, self.place().rank, by_timer);
        let joined = call.core.with_ask(store, call.limits, call.cost, |ask| {
            let (verdict, left) = store.join(address, ask, now, &joining)?;
            let waited = now.earliest.saturating_sub(self.arrived());
            if let Verdict::Admitted { .. } = verdict {
                call.waits(waited);
            }
            Ok(call.decided(store, address, ask, verdict, resets, left, now, waited))
        });
        match joined {
            Ok(decided) => {
                self.stage = Stage::Done;
                Ok(decided)
            }
            Err(waiter) => {
                self.queue = Queue::Memory(waiter);
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
                Err(until) => self.timing().block(until),
            }
        }
    }

    /// Arranges a timely wake-up of the task. Returns false if the time has come.
    fn sleeps(&mut self, until: Until, context: &mut Context<'_>) -> bool {
        match &mut self.extra {
            Some(extra) => extra.timing.sleeps(until, context),
            // The queue's timer charges the call when it is due, and wakes it then or at its deadline.
            None => true,
        }
    }

    fn leave(&mut self) {
        if std::mem::replace(&mut self.stage, Stage::Done) == Stage::Done {
            return;
        }
        match &self.queue {
            Queue::Memory(waiter) => {
                let (call, now) = (self.call(), self.timing().now());
                call.core.with_ask(waiter.store(), call.limits, call.cost, |ask| waiter.leave(ask, now));
            }
            Queue::Backend(waiter) => waiter.leave(),
        }
    }
}

impl Future for Waiting {
    type Output = Result<Decision, RateLimitExceeded>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if self.stage == Stage::Done {
            polled_again();
        }
        loop {
            match self.look(context.waker()) {
                Ok(decided) => return Poll::Ready(decided),
                Err(until) if self.sleeps(until, context) => return Poll::Pending,
                Err(_) => {}
            }
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if self.stage != Stage::Done {
            self.core.abandoned();
        }
        self.leave();
        self.core.unqueued();
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
        by_timer: call.is_async && venue.is_real(),
    });
    before_backend::Joining {
        fallback,
        stand_in,
        scope: venue.scope,
        cost: call.cost,
        limits: limits_of(call),
        rank: options.rank(arrived),
        arrived,
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
        call.is_async && self.0.is_none()
    }

    fn of(call: Call<'_>, venue: &Venue<'_>) -> Timing {
        if let Some(scope) = &venue.scope {
            return Timing::by_test(scope);
        }
        #[cfg(feature = "tokio")]
        if call.is_async && clock::is_paused() {
            return Timing(Some(Clocked::Paused(Sleep::default())));
        }
        let _ = call;
        Timing::default()
    }

    /// The clock of the queue before a backend.
    fn before(waiter: &before_backend::Waiter) -> Timing {
        waiter.scope().map_or_else(Timing::default, Timing::by_test)
    }

    fn by_test(scope: &Scope) -> Timing {
        Timing(Some(Clocked::Test(scope.clone(), None)))
    }

    fn now(&self) -> Now {
        match &self.0 {
            None => clock::clock().now(),
            #[cfg(feature = "tokio")]
            Some(Clocked::Paused(_)) => clock::clock().now_for(true),
            Some(Clocked::Test(scope, _)) => Now::exactly(scope.now()),
        }
    }

    /// Blocks the thread until that time or a wake-up.
    fn block(&self, until: Until) {
        if let Some(Clocked::Test(scope, _)) = &self.0 {
            // Nothing else advances a paused clock.
            scope.advance_to(until.first_due.min(until.deadline));
        } else {
            let left = until.wake_up().saturating_sub(self.now().earliest);
            std::thread::park_timeout(Duration::from_nanos(left));
        }
    }

    fn sleeps(&mut self, until: Until, context: &mut Context<'_>) -> bool {
        match &mut self.0 {
            None => true,
            #[cfg(feature = "tokio")]
            Some(Clocked::Paused(sleep)) => {
                let now = clock::clock().now_for(true).earliest;
                let left = Duration::from_nanos(until.wake_up().saturating_sub(now));
                sleep.sleeps(until, left, context)
            }
            Some(Clocked::Test(scope, sleep)) => {
                // Each task looks when the first call is due, because that call's future may not be
                // polled.
                let time = until.first_due.min(until.deadline);
                if sleep.as_ref().is_none_or(|sleep| sleep.time() != time) {
                    *sleep = Some(scope::Sleep::until(scope, time));
                }
                let is_over = sleep.as_mut().is_none_or(|sleep| Pin::new(sleep).poll(context).is_ready());
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
