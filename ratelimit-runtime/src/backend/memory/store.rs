//! The buckets of one limiter, or of several of one name.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::task::{Wake, Waker};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use smallvec::SmallVec;

use super::queue::{First, Queue, Seat, Turn};
use super::state::{
    Attempt, Call, Forms, Full, Groups, Layout, Left, NEVER, Permit, State, Verdict, Window, Word, Words,
};
use super::table::{Context, Swept, Table, With};
use super::unkeyed::Unkeyed;
use super::{SWEPT_OF_OTHERS, Shared, WhenFull};
use crate::algorithm::Rule;
use crate::algorithm::offences::Backoff;
use crate::clock::{self, Clock, Now};
use crate::counts;
use crate::decision::Address;
use crate::hash::{HashSink, Seed};
use crate::key::RateLimitKey;
use crate::limit::Algorithm;
use crate::process;
use crate::queue::{Limits, Place, Wakes};
use crate::timer::Alarm;

/// How often a call makes room before it goes without.
const TRIES: u32 = 10;

/// One in so many of the sweeps sweeps another limiter's buckets too, by what it was made for.
const NEW_KEYS_SWEEP_OTHERS: u64 = 32;
const TURNS_SWEEP_OTHERS: u64 = 8;

/// When the new key of a call that finds the backend full is told to come back, in nanoseconds.
const RETRY_WHEN_FULL: u64 = 1_000_000_000;

/// Counters of resets. Keys that share one lose no more than the refunds of what was taken before the other's reset.
const RESETS: usize = 64;

/// What a limiter's buckets are made for.
#[derive(Clone, Debug)]
pub(crate) struct Written {
    pub(crate) rules: SmallVec<[Rule; 1]>,
    pub(crate) backoff: Option<Backoff>,
    /// Limits are read at each call.
    pub(crate) varies: bool,
    /// The limiter that they are for, of several of one name the first.
    pub(crate) by: u64,
}

/// See the module.
pub(crate) struct Store {
    pub(super) shared: Arc<Shared>,
    /// What limiters that share it are known by.
    pub(super) name: Option<String>,
    clock: &'static Clock,
    /// With a seed of its own, so that keys of two limiters have nothing to do with each other.
    pub(super) hasher: Seed<'static, 1>,
    pub(super) written: Written,
    /// The first of the limits that were written down.
    rule: Rule,
    /// Permits that a call can take by it at the most; none if it is not the only one, or denials count.
    most: u32,
    kind: Kind,
    pub(super) forms: Forms,
    unkeyed: Unkeyed,
    pub(super) keyed: Keyed,
    /// Buckets of keys whose limits are other ones than those that were written down, once there are such.
    pub(super) free: OnceLock<Box<Table<Full, 5>>>,
    /// What charges the first of those that wait on a timer.
    /// By the process that set them: whoever is forked from it has another timer.
    alarms: Mutex<HashMap<Address, (u32, Instant, Alarm)>>,
    /// How often buckets were reset, by where they are: what was taken before is not given back after.
    resets: [AtomicU32; RESETS],
}

/// The states that have a fast path of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Tat,
    Bucket,
    Window,
    Fixed { bits: u32 },
    Any,
}

/// What a call on a fast path costs. A function is compiled for each, so that neither has a part outside of it.
pub(crate) trait Cost: Copy {
    fn permits(self) -> u32;
}

/// One permit, known to the compiler.
#[derive(Clone, Copy)]
pub(crate) struct OnePermit;

impl Cost for OnePermit {
    #[inline]
    fn permits(self) -> u32 {
        1
    }
}

impl Cost for u32 {
    #[inline]
    fn permits(self) -> u32 {
        self
    }
}

/// Buckets by key, as small as the limits allow.
pub(super) enum Keyed {
    One(Table<Words<1>, 4>, Layout),
    Two(Table<Words<2>, 5>, Layout),
    Three(Table<Words<3>, 2>, Layout),
    Window(Table<Window, 2>, Groups),
    Full(Table<Full, 5>),
}

/// Runs an expression on whichever table it is, and the form of its states.
macro_rules! on_table {
    ($store:expr, ($table:ident, $form:ident) => $result:expr) => {
        match &$store.keyed {
            Keyed::One($table, $form) => $result,
            Keyed::Two($table, $form) => $result,
            Keyed::Three($table, $form) => $result,
            Keyed::Window($table, $form) => $result,
            Keyed::Full($table) => {
                let $form = &$store.forms;
                $result
            }
        }
    };
}

/// A call as a store takes it.
#[derive(Clone, Copy)]
pub(crate) struct Ask<'a> {
    pub(crate) call: Call<'a>,
    /// The limits are other ones than those that the store was made for.
    pub(crate) is_foreign: bool,
}

/// What the fast path of a key's bucket is asked.
trait Operation: Copy {
    fn run<S: State>(self, call: &Call<'_>, state: &mut S, form: &S::Form, now: Now) -> (Verdict, Left);
}

#[derive(Clone, Copy)]
struct Take;

/// And what is left.
#[derive(Clone, Copy)]
struct TakeAndTell;

/// And what is left, if the call is denied.
#[derive(Clone, Copy)]
struct TakeOrTell;

#[derive(Clone, Copy)]
struct Peek;

/// Of permits that were taken then.
#[derive(Clone, Copy)]
struct Refund(u64);

impl Operation for Take {
    #[expect(clippy::inline_always, reason = "most of a decision")]
    #[inline(always)]
    fn run<S: State>(self, call: &Call<'_>, state: &mut S, form: &S::Form, now: Now) -> (Verdict, Left) {
        let verdict = match call {
            // Permits of one limit take the state's own fast path, whoever asks for them.
            Call { rules: [rule], backoff: None, cost: cost @ 1.. } if *cost == 1 || *cost <= rule.capacity() => {
                state.take_some(form, rule, now, *cost)
            }
            _ => call.take_inline(state, form, now),
        };
        (verdict, Left::default())
    }
}

impl Operation for TakeAndTell {
    #[expect(clippy::inline_always, reason = "most of a decision")]
    #[inline(always)]
    fn run<S: State>(self, call: &Call<'_>, state: &mut S, form: &S::Form, now: Now) -> (Verdict, Left) {
        let (verdict, _) = Take.run(call, state, form, now);
        (verdict, call.told(state, form, now, verdict))
    }
}

impl Operation for TakeOrTell {
    #[expect(clippy::inline_always, reason = "most of a decision")]
    #[inline(always)]
    fn run<S: State>(self, call: &Call<'_>, state: &mut S, form: &S::Form, now: Now) -> (Verdict, Left) {
        let (verdict, left) = Take.run(call, state, form, now);
        (verdict, if let Verdict::Denied { .. } = verdict { call.told(state, form, now, verdict) } else { left })
    }
}

impl Operation for Peek {
    #[expect(clippy::inline_always, reason = "most of a decision")]
    #[inline(always)]
    fn run<S: State>(self, call: &Call<'_>, state: &mut S, form: &S::Form, now: Now) -> (Verdict, Left) {
        state.prepare(form, call.rules, now);
        let verdict = call.judge(state, form, now);
        (verdict, call.told(state, form, now, verdict))
    }
}

impl Operation for Refund {
    #[expect(clippy::inline_always, reason = "most of a decision")]
    #[inline(always)]
    fn run<S: State>(self, call: &Call<'_>, state: &mut S, form: &S::Form, now: Now) -> (Verdict, Left) {
        call.give_back(state, form, now, Permit { at: self.0, cost: call.cost });
        (Verdict::Admitted { at: now.latest }, Left::default())
    }
}

/// What is asked of one bucket under its lock.
enum Task<'a> {
    Take,
    Peek,
    Refund(Permit),
    Reset,
    Join(&'a Joining<'a>),
    Look(Place, &'a Seat),
    Leave(Place, &'a Seat),
    Settle,
}

/// A call that would wait.
pub(crate) struct Joining<'a> {
    pub(crate) limits: &'a Arc<dyn Limits>,
    /// The latest time until which it waits.
    pub(crate) deadline: u64,
    /// The most calls that may wait before it.
    pub(crate) queue: usize,
    /// Calls of a lower number go first.
    pub(crate) rank: u64,
    /// The crate's timer has to see to it that the call is charged when it is due.
    pub(crate) by_timer: bool,
    /// There is room for one more key that is waited for.
    may_begin: bool,
}

impl<'a> Joining<'a> {
    pub(crate) fn new(
        limits: &'a Arc<dyn Limits>,
        deadline: u64,
        queue: usize,
        rank: u64,
        by_timer: bool,
    ) -> Joining<'a> {
        Joining { limits, deadline, queue, rank, by_timer, may_begin: true }
    }
}

/// What became of a task.
struct Done {
    verdict: Verdict,
    left: Left,
    place: Option<(Place, Arc<Seat>)>,
    turn: Option<Turn>,
    /// The first of those that wait.
    first: Option<First>,
}

impl Store {
    pub(super) fn new(shared: Arc<Shared>, name: Option<String>, written: Written) -> Store {
        let Written { rules, backoff, varies, .. } = &written;
        let layout = if *varies { None } else { Layout::of(rules, backoff.as_ref()) };
        let keyed = match (layout, &rules[..]) {
            (Some(layout), _) => match layout.words() {
                1 => Keyed::One(Table::new(), layout),
                2 => Keyed::Two(Table::new(), layout),
                _ => Keyed::Three(Table::new(), layout),
            },
            (None, [rule]) if rule.limit.algorithm() == Algorithm::SlidingWindow && backoff.is_none() => {
                Keyed::Window(Table::new(), Groups::new(rule, *varies))
            }
            _ => Keyed::Full(Table::new()),
        };
        let kind = match (&keyed, layout.and_then(|layout| layout.word())) {
            (Keyed::One(..), Some(Word::Tat)) => Kind::Tat,
            (Keyed::One(..), Some(Word::Window { bits })) => Kind::Fixed { bits },
            (Keyed::Two(..), Some(Word::Bucket)) => Kind::Bucket,
            (Keyed::Window(..), _) if !varies => Kind::Window,
            _ => Kind::Any,
        };
        Store {
            shared,
            name,
            rule: rules[0],
            most: if rules.len() == 1 && backoff.is_none() { rules[0].capacity() } else { 0 },
            kind,
            clock: clock::clock(),
            hasher: Seed::new(),
            forms: Forms::new(rules, *backoff, *varies),
            unkeyed: Unkeyed::new(rules, backoff.is_none() && !varies),
            keyed,
            free: OnceLock::new(),
            alarms: Mutex::default(),
            resets: [const { AtomicU32::new(0) }; RESETS],
            written,
        }
    }

    /// Tells the stores of a process apart that are there at one time.
    pub(crate) fn id(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }

    /// Whether the store was made for these limits.
    pub(crate) fn is_for(&self, rules: &[Rule]) -> bool {
        self.written.varies || *self.written.rules == *rules
    }

    /// Whether the store was made for these limits and nothing else, so that its fast path is theirs.
    pub(crate) fn is_written_for(&self, rules: &[Rule], backoff: Option<&Backoff>) -> bool {
        let Written { rules: written, backoff: written_backoff, varies, .. } = &self.written;
        !varies && written_backoff.as_ref() == backoff && **written == *rules
    }

    /// Whether the store was made by that limiter, and so for its limits as they were written down.
    #[inline]
    pub(crate) fn is_made_by(&self, limiter: u64) -> bool {
        self.written.by == limiter
    }

    /// Calls by other limits come.
    pub(crate) fn expect(&self, rules: &[Rule]) {
        self.keep_for(rules);
        if !self.is_for(rules) {
            self.forms.vary();
            if !self.fits(rules) {
                self.open();
            }
        }
    }

    /// Windows keep what calls by these limits need.
    #[inline]
    fn keep_for(&self, rules: &[Rule]) {
        self.forms.expect(rules);
        if let (Keyed::Window(_, groups), [rule]) = (&self.keyed, rules) {
            groups.expect(rule);
        }
    }

    /// Where the bucket of `key` is.
    #[inline]
    pub(crate) fn address<K: RateLimitKey + ?Sized>(&self, key: &K) -> Address {
        if K::KEYED { Address::Hash(self.hash(|sink| key.write_to(sink))) } else { Address::Unkeyed }
    }

    /// The hash of a key.
    #[inline]
    pub(crate) fn hash(&self, write: impl FnOnce(&mut HashSink<'_, 1>)) -> u64 {
        let mut sink = HashSink::new(&self.hasher);
        write(&mut sink);
        let [hash] = sink.finish();
        hash
    }

    /// The present time.
    #[inline]
    pub(crate) fn now(&self) -> Now {
        self.clock.now()
    }

    /// The present time by the runtime around, which a test may have paused.
    #[cfg(feature = "tokio")]
    #[inline]
    pub(crate) fn now_in_runtime(&self) -> Now {
        self.clock.now_in_runtime()
    }

    /// Which fast path a key's permit takes.
    #[inline]
    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    /// The fast path of a call: permits of a key, from 1 to the capacity, by one limit that was written down. There is one
    /// for each kind of state that is frequent, so that all of it stays in registers.
    #[expect(clippy::inline_always, reason = "most of a decision")]
    #[inline(always)]
    pub(crate) fn try_tat<C: Cost>(&self, hash: u64, now: Now, cost: C) -> Verdict {
        let Keyed::One(table, _) = &self.keyed else { return Verdict::Undecided };
        table.try_with(hash, |state| state.take_tat(&self.rule, now, cost.permits())).unwrap_or(Verdict::Undecided)
    }

    /// See [`try_tat`](Store::try_tat).
    #[expect(clippy::inline_always, reason = "most of a decision")]
    #[inline(always)]
    pub(crate) fn try_bucket<C: Cost>(&self, hash: u64, now: Now, cost: C) -> Verdict {
        let Keyed::Two(table, _) = &self.keyed else { return Verdict::Undecided };
        table.try_with(hash, |state| state.take_bucket(&self.rule, now, cost.permits())).unwrap_or(Verdict::Undecided)
    }

    /// See [`try_tat`](Store::try_tat).
    #[expect(clippy::inline_always, reason = "most of a decision")]
    #[inline(always)]
    pub(crate) fn try_window<C: Cost>(&self, hash: u64, now: Now, cost: C) -> Verdict {
        let Keyed::Window(table, groups) = &self.keyed else { return Verdict::Undecided };
        table
            .try_with(hash, |state| state.take_now(groups, &self.rule, now, cost.permits()))
            .unwrap_or(Verdict::Undecided)
    }

    /// See [`try_tat`](Store::try_tat).
    #[expect(clippy::inline_always, reason = "most of a decision")]
    #[inline(always)]
    pub(crate) fn try_fixed<C: Cost>(&self, hash: u64, now: Now, cost: C) -> Verdict {
        let (Keyed::One(table, _), Kind::Fixed { bits }) = (&self.keyed, self.kind) else { return Verdict::Undecided };
        table
            .try_with(hash, |state| state.take_window(&self.rule, bits, now, cost.permits()))
            .unwrap_or(Verdict::Undecided)
    }

    /// The algorithm of the first limit that was written down.
    #[inline]
    pub(crate) fn algorithm(&self) -> Algorithm {
        self.rule.limit.algorithm()
    }

    /// Whether a call by the one limit that was written down can ever be admitted, and takes anything.
    #[inline]
    pub(crate) fn admits(&self, cost: u32) -> bool {
        cost.wrapping_sub(1) < self.most
    }

    /// The fast path of a call that takes permits or is decided elsewhere: the time that they are recorded with.
    #[inline(never)]
    pub(crate) fn try_take(&self, address: Address, now: Now, cost: u32) -> Option<u64> {
        let verdict = match (address, self.kind) {
            (Address::Unkeyed, _) => {
                self.unkeyed.take(&self.written_ask(cost).call, &self.forms, counts::thread(), now)
            }
            (Address::Hash(hash), Kind::Tat) => self.try_tat(hash, now, cost),
            (Address::Hash(hash), Kind::Bucket) => self.try_bucket(hash, now, cost),
            (Address::Hash(hash), Kind::Window) => self.try_window(hash, now, cost),
            (Address::Hash(hash), Kind::Fixed { .. }) => self.try_fixed(hash, now, cost),
            (Address::Hash(_), Kind::Any) => Verdict::Undecided,
        };
        if let Verdict::Admitted { at } = verdict { Some(at) } else { None }
    }

    /// See [`try_tat`](Store::try_tat): any other state.
    pub(crate) fn try_any(&self, hash: u64, now: Now) -> (Verdict, Option<Left>) {
        match self.try_on_key(hash, &self.written_ask(1), now, TakeOrTell) {
            Some((verdict, left)) => (verdict, Some(left)),
            None => (Verdict::Undecided, None),
        }
    }

    /// The fast path of a call: one permit without a key, by one limit that was written down.
    #[inline]
    pub(crate) fn try_take_unkeyed(&self, thread: usize, now: Now) -> Attempt {
        self.unkeyed.try_take(&self.forms, &self.rule, thread, now)
    }

    /// The rest of an attempt that has added a permit to what was `before`.
    pub(crate) fn added(&self, now: Now, before: u64) -> Verdict {
        self.unkeyed.added(&self.rule, now, before)
    }

    /// One permit by the limits that were written down, if the fast path has not decided; and what is left, unless one limit
    /// alone denies.
    pub(crate) fn take_written(&self, address: Address, now: Now) -> (Verdict, Option<Left>) {
        let ask = self.written_ask(1);
        let (verdict, left) = match address {
            Address::Unkeyed => self.take_or_tell(address, &ask, now),
            Address::Hash(_) => self.perform_and_tell(address, &ask, now, &Task::Take),
        };
        (verdict, (self.most == 0).then_some(left))
    }

    /// A call by the limits that were written down.
    fn written_ask(&self, cost: u32) -> Ask<'_> {
        let call = Call { rules: &self.written.rules, backoff: self.written.backoff.as_ref(), cost };
        Ask { call, is_foreign: false }
    }

    /// The fast path of whatever is asked of a key that has a bucket, and for which nobody waits.
    #[expect(clippy::inline_always, reason = "a jump to one function of the operation and the table")]
    #[inline(always)]
    fn try_on_key<O: Operation>(&self, hash: u64, ask: &Ask<'_>, now: Now, on: O) -> Option<(Verdict, Left)> {
        if self.written.varies {
            self.keep_for(ask.call.rules);
        }
        if ask.is_foreign && !self.fits(ask.call.rules) {
            return try_in(self.free.get()?, &self.forms, hash, &ask.call, now, on);
        }
        on_table!(self, (table, form) => try_in(table, form, hash, &ask.call, now, on))
    }

    /// As [`take_or_tell`](Store::take_or_tell), and what is left in any case.
    #[inline]
    pub(crate) fn take_and_tell(&self, address: Address, ask: &Ask<'_>, now: Now) -> (Verdict, Left) {
        let told = match address {
            Address::Hash(hash) => self.try_on_key(hash, ask, now, TakeAndTell),
            Address::Unkeyed => self.take_unkeyed_and_tell(ask, now),
        };
        self.or_perform(told, address, ask, now, &Task::Take)
    }

    #[inline(never)]
    fn take_unkeyed_and_tell(&self, ask: &Ask<'_>, now: Now) -> Option<(Verdict, Left)> {
        match self.take_unkeyed(ask, now) {
            Some(verdict) => Some((verdict, self.unkeyed_left(ask, now))),
            None => self.try_on_all(ask, now, TakeAndTell),
        }
    }

    /// Takes the permits of a call now or not at all, and says what is left if it is denied.
    #[inline]
    pub(crate) fn take_or_tell(&self, address: Address, ask: &Ask<'_>, now: Now) -> (Verdict, Left) {
        let told = match address {
            Address::Hash(hash) => self.try_on_key(hash, ask, now, TakeOrTell),
            Address::Unkeyed => self.take_unkeyed_or_tell(ask, now),
        };
        self.or_perform(told, address, ask, now, &Task::Take)
    }

    #[inline(never)]
    fn take_unkeyed_or_tell(&self, ask: &Ask<'_>, now: Now) -> Option<(Verdict, Left)> {
        match self.take_unkeyed(ask, now) {
            Some(verdict @ Verdict::Denied { .. }) if ask.call.cost > 1 => Some((verdict, self.unkeyed_left(ask, now))),
            Some(verdict) => Some((verdict, Left::default())),
            None => self.try_on_all(ask, now, TakeOrTell),
        }
    }

    /// What [`take_and_tell`](Store::take_and_tell) would answer.
    #[inline]
    pub(crate) fn peek(&self, address: Address, ask: &Ask<'_>, now: Now) -> (Verdict, Left) {
        let told = match address {
            Address::Hash(hash) => self.try_on_key(hash, ask, now, Peek),
            Address::Unkeyed if ask.is_foreign => None,
            Address::Unkeyed => {
                let told = self.unkeyed.peek(&ask.call, &self.forms, now);
                told.or_else(|| self.try_on_all(ask, now, Peek))
            }
        };
        self.or_perform(told, address, ask, now, &Task::Peek)
    }

    /// The same without a key, if the state is under the lock.
    #[inline]
    fn try_on_all<O: Operation>(&self, ask: &Ask<'_>, now: Now, on: O) -> Option<(Verdict, Left)> {
        let run = |full: &mut Full| on.run(&ask.call, full, &self.forms, now);
        if ask.is_foreign { None } else { self.unkeyed.try_with(run) }
    }

    /// The fast path of one limit without a key.
    #[inline]
    fn take_unkeyed(&self, ask: &Ask<'_>, now: Now) -> Option<Verdict> {
        if ask.is_foreign {
            return None;
        }
        if self.written.varies {
            self.keep_for(ask.call.rules);
        }
        let verdict = self.unkeyed.take(&ask.call, &self.forms, counts::thread(), now);
        (verdict != Verdict::Undecided).then_some(verdict)
    }

    /// What is left without a key: a moment after a decision, which others may have followed.
    fn unkeyed_left(&self, ask: &Ask<'_>, now: Now) -> Left {
        let nothing = Ask { call: Call { cost: 0, ..ask.call }, ..*ask };
        match self.unkeyed.peek(&nothing.call, &self.forms, now) {
            Some((_, left)) => left,
            None => self.perform(Address::Unkeyed, &nothing, now, &Task::Peek).left,
        }
    }

    #[inline]
    fn or_perform(
        &self,
        told: Option<(Verdict, Left)>,
        address: Address,
        ask: &Ask<'_>,
        now: Now,
        task: &Task<'_>,
    ) -> (Verdict, Left) {
        match told {
            Some((verdict, left)) if verdict != Verdict::Undecided => (verdict, left),
            _ => self.perform_and_tell(address, ask, now, task),
        }
    }

    #[cold]
    #[inline(never)]
    fn perform_and_tell(&self, address: Address, ask: &Ask<'_>, now: Now, task: &Task<'_>) -> (Verdict, Left) {
        let done = self.perform(address, ask, now, task);
        (done.verdict, done.left)
    }

    /// Gives back permits that were taken by the same limits.
    #[inline]
    pub(crate) fn refund(&self, address: Address, ask: &Ask<'_>, now: Now, permit: Permit) {
        let is_done = match address {
            Address::Unkeyed => !ask.is_foreign && self.unkeyed.refund(ask.call.rules, &self.forms, now, permit),
            Address::Hash(hash) => self.try_on_key(hash, ask, now, Refund(permit.at)).is_some(),
        };
        if !is_done {
            self.perform(address, ask, now, &Task::Refund(permit));
        }
    }

    /// As [`refund`](Store::refund), of permits that were taken by the limits as they were written down.
    pub(crate) fn refund_written(&self, address: Address, now: Now, permit: Permit) {
        self.refund(address, &self.written_ask(permit.cost), now, permit);
    }

    /// Forgets the bucket, whoever has used it.
    pub(crate) fn reset(&self, address: Address, ask: &Ask<'_>, now: Now) {
        self.resets_of(address).fetch_add(1, Ordering::Relaxed);
        if address == Address::Unkeyed {
            self.unkeyed.reset(&self.written.rules);
        }
        self.perform(address, ask, now, &Task::Reset);
    }

    /// How often the bucket was reset by now.
    pub(crate) fn resets(&self, address: Address) -> u32 {
        self.resets_of(address).load(Ordering::Relaxed)
    }

    fn resets_of(&self, address: Address) -> &AtomicU32 {
        let hash = match address {
            Address::Unkeyed => 0,
            Address::Hash(hash) => hash,
        };
        &self.resets[usize::from(hash.to_le_bytes()[7]) % RESETS]
    }

    /// Takes the permits of a call now, or a place among those that wait: the verdict says which, and until when the call is
    /// denied if it would wait too long.
    pub(crate) fn join(
        self: &Arc<Store>,
        address: Address,
        ask: &Ask<'_>,
        now: Now,
        joining: &Joining<'_>,
    ) -> Result<(Verdict, Left), Waiter> {
        let joining = Joining { may_begin: self.shared.bound.may_wait(), ..*joining };
        let done = self.perform(address, ask, now, &Task::Join(&joining));
        self.arm(address, done.first, now);
        match done.place {
            None => Ok((done.verdict, done.left)),
            Some((place, seat)) => Err(Waiter { store: Arc::clone(self), address, place, seat, is_left: false }),
        }
    }

    /// Charges those that wait and are due.
    fn settle(self: &Arc<Store>, address: Address, now: Now) {
        let mut wakes = Wakes::default();
        let done = self.perform_under_lock(address, &self.written_ask(0), now, &Task::Settle, &mut wakes);
        self.arm(address, done.first, now);
        // Last, because whoever is woken may fork the process: the timer's thread holds no lock of the store's then.
        wakes.wake();
    }

    /// Sees to it that the first of those that wait is charged when it is due, though no future may be polled then.
    fn arm(self: &Arc<Store>, address: Address, first: Option<First>, now: Now) {
        // One that is not needed any more stays until it fires: whoever is here may have been overtaken by a call that needs it.
        let Some(First { due, arms: true }) = first else { return };
        // By the end of the clock's uncertainty, so that the timer seldom fires too early.
        let after = Duration::from_nanos(due.saturating_sub(now.earliest) + (now.latest - now.earliest));
        let Some(deadline) = Instant::now().checked_add(after) else { return };
        let mut alarms = self.alarms.lock();
        // One that fires too early is set again.
        let process = process::id();
        if alarms.get(&address).is_some_and(|(by, set_for, _)| *by == process && *set_for <= deadline) {
            return;
        }
        let waker = Waker::from(Arc::new(Due { store: Arc::downgrade(self), address }));
        let before = Alarm::new(deadline, &waker).and_then(|alarm| alarms.insert(address, (process, deadline, alarm)));
        drop(alarms);
        drop(before);
    }

    /// Limits have changed, or do not apply any more: everybody who waits looks anew.
    pub(crate) fn wake_all(&self, now: Now) {
        let mut wakes = Wakes::default();
        self.unkeyed.with(&self.written.rules, &self.forms, now, false, |state, queue| {
            renew(state, &self.forms, queue, now, &mut wakes);
        });
        on_table!(self, (table, form) => table.each_queue(|state, queue| {
            if self.free.get().is_none() {
                return renew(state, form, queue, now, &mut wakes);
            }
            // This state cannot be judged by the new limits: whoever looks first takes it to the other table.
            queue.changed(now);
            queue.wake_all(&mut wakes);
        }));
        if let Some(table) = self.free.get() {
            table.each_queue(|state, queue| renew(state, &self.forms, queue, now, &mut wakes));
        }
        wakes.wake();
    }

    /// Carries out a task on a bucket, under its lock.
    #[inline(never)]
    fn perform(&self, address: Address, ask: &Ask<'_>, now: Now, task: &Task<'_>) -> Done {
        let mut wakes = Wakes::default();
        let done = self.perform_under_lock(address, ask, now, task, &mut wakes);
        wakes.wake();
        done
    }

    #[inline]
    fn perform_under_lock(
        &self,
        address: Address,
        ask: &Ask<'_>,
        now: Now,
        task: &Task<'_>,
        wakes: &mut Wakes,
    ) -> Done {
        match address {
            Address::Unkeyed => {
                let Written { rules, varies, .. } = &self.written;
                if *varies {
                    self.expect(ask.call.rules);
                }
                self.unkeyed.with(rules, &self.forms, now, ask.is_foreign || *varies, |state, queue| {
                    carry_out(&ask.call, task, state, &self.forms, queue, now, wakes)
                })
            }
            Address::Hash(hash) => self.perform_on_key(hash, ask, now, task, wakes),
        }
    }

    fn perform_on_key(&self, hash: u64, ask: &Ask<'_>, now: Now, task: &Task<'_>, wakes: &mut Wakes) -> Done {
        if self.written.varies {
            self.expect(ask.call.rules);
        }
        // Another thread may take the room that was made.
        let mut tries = 0;
        loop {
            let is_free = self.free.get().is_some() || ask.is_foreign && !self.fits(ask.call.rules);
            let done = if is_free {
                self.perform_free(hash, &ask.call, now, task, wakes)
            } else {
                on_table!(self, (table, form) => {
                    self.perform_in(table, form, hash, &ask.call, now, task, wakes)
                })
            };
            match done {
                With::Done(Done { verdict: Verdict::Undecided, .. }) | With::Closed => {
                    // The form cannot tell, such as a word that has run out of time: the full one can.
                    self.open();
                }
                With::Done(done) => return done,
                With::Full | With::Waited if tries < TRIES && self.shared.evict(self, hash, now) => {}
                With::Full | With::Waited => return self.untracked(ask, now),
            }
            tries += 1;
        }
    }

    /// Whether buckets of limits that were replaced can be kept as those of the ones that were written down.
    fn fits(&self, rules: &[Rule]) -> bool {
        match (&self.keyed, rules) {
            (Keyed::Full(_), _) => true,
            (Keyed::Window(..), [rule]) => rule.limit.algorithm() == Algorithm::SlidingWindow,
            _ => false,
        }
    }

    #[expect(clippy::too_many_arguments, reason = "a call, its bucket and its moment")]
    fn perform_in<S: State, const W: usize>(
        &self,
        table: &Table<S, W>,
        form: &S::Form,
        hash: u64,
        call: &Call<'_>,
        now: Now,
        task: &Task<'_>,
        wakes: &mut Wakes,
    ) -> With<Done> {
        let context = self.context::<S>(form);
        let mut run = |state: &mut S, queue: &mut Queue| carry_out(call, task, state, form, queue, now, wakes);
        match task {
            Task::Take => {
                let take = |state: &mut S| run(state, &mut Queue::default());
                let (done, swept) = table.with(context, hash, now, take);
                self.sweep_others(swept, hash, now);
                if !matches!(done, With::Waited) {
                    return done;
                }
                table.with_queue(context, hash, now, run)
            }
            Task::Join(_) => table.with_queue(context, hash, now, run),
            Task::Peek | Task::Refund(_) | Task::Reset | Task::Look(..) | Task::Leave(..) | Task::Settle => {
                let run = |state: &mut S, queue: Option<&mut Queue>| {
                    let done = run(state, queue.unwrap_or(&mut Queue::default()));
                    (done, matches!(task, Task::Reset))
                };
                let done = table.with_existing(context, hash, run);
                // There is nothing to do on a bucket that is not there, and it is idle.
                With::Done(done.unwrap_or_else(|| {
                    let (mut state, mut queue) = (S::idle(), Queue::default());
                    let task = if matches!(task, Task::Peek) { task } else { &Task::Settle };
                    carry_out(call, task, &mut state, form, &mut queue, now, wakes)
                }))
            }
        }
    }

    /// On the buckets of other limits than those that were written down; they come from the usual ones, if they are there.
    fn perform_free(&self, hash: u64, call: &Call<'_>, now: Now, task: &Task<'_>, wakes: &mut Wakes) -> With<Done> {
        let table = self.open();
        let rules = &self.written.rules;
        let since = |queue: &Option<Box<Queue>>| queue.as_ref().map_or(now, |queue| queue.since(now));
        match &self.keyed {
            Keyed::One(from, layout) => from.hand_over(hash, |state, queue| {
                table.take_over(hash, Full::of_words(&state, layout, rules, since(&queue)), queue);
            }),
            Keyed::Two(from, layout) => from.hand_over(hash, |state, queue| {
                table.take_over(hash, Full::of_words(&state, layout, rules, since(&queue)), queue);
            }),
            Keyed::Three(from, layout) => from.hand_over(hash, |state, queue| {
                table.take_over(hash, Full::of_words(&state, layout, rules, since(&queue)), queue);
            }),
            Keyed::Window(from, _) => {
                from.hand_over(hash, |state, queue| table.take_over(hash, Full::of_window(state), queue));
            }
            Keyed::Full(from) => from.hand_over(hash, |state, queue| table.take_over(hash, state, queue)),
        }
        self.perform_in(table, &self.forms, hash, call, now, task, wakes)
    }

    /// The table of other limits; from now on no new bucket is made in the usual one.
    pub(super) fn open(&self) -> &Table<Full, 5> {
        self.free.get_or_init(|| {
            self.forms.vary();
            on_table!(self, (table, _form) => table.close());
            Box::new(Table::new())
        })
    }

    fn context<'a, S: State>(&'a self, form: &'a S::Form) -> Context<'a, S> {
        Context { bound: &self.shared.bound, form, written: &self.written.rules }
    }

    /// A limiter that is not called any more reclaims nothing by itself.
    fn sweep_others(&self, swept: Swept, hash: u64, now: Now) {
        let one_in = match swept {
            Swept::Nothing => return,
            Swept::ForNewKey => NEW_KEYS_SWEEP_OTHERS,
            Swept::InTurn => TURNS_SWEEP_OTHERS,
        };
        if (hash >> 8 ^ now.earliest >> 16).is_multiple_of(one_in) {
            self.shared.sweep(now, SWEPT_OF_OTHERS);
        }
    }

    /// The decision on a call for whose key there is no room.
    #[cold]
    fn untracked(&self, ask: &Ask<'_>, now: Now) -> Done {
        self.shared.bound.untracked.fetch_add(1, Ordering::Relaxed);
        let mut done = Done::of(Verdict::Admitted { at: now.latest });
        let capacity = ask.call.rules.first().map_or(0, Rule::capacity);
        done.left = Left { remaining: capacity, position: 0, idle_at: 0 };
        if self.shared.bound.when_full == WhenFull::Deny && ask.call.cost > 0 {
            done.verdict = Verdict::Denied { until: now.earliest.saturating_add(RETRY_WHEN_FULL), position: 0 };
            done.left.remaining = 0;
        }
        done
    }

    /// Keys that have a bucket.
    pub(crate) fn keys(&self) -> usize {
        on_table!(self, (table, _form) => table.len()) + self.free.get().map_or(0, |table| table.len())
    }

    /// Reclaims idle buckets in a few slots of one shard; whether there were any.
    pub(super) fn sweep(&self, shard: usize, now: Now, slots: usize) -> bool {
        let usual = on_table!(self, (table, form) => table.sweep(self.context(form), shard, now, slots));
        let free = self.free.get().is_some_and(|table| table.sweep(self.context(&self.forms), shard, now, slots));
        usual | free
    }

    /// Evicts one bucket; one that is being denied, or is called often, only where `denying` says so.
    pub(super) fn evict(&self, hash: u64, now: Now, denying: bool) -> bool {
        self.free.get().is_some_and(|table| table.evict(self.context(&self.forms), hash, now, denying))
            || on_table!(self, (table, form) => table.evict(self.context(form), hash, now, denying))
    }

    /// Takes out the state of all calls without a key.
    pub(super) fn take_out_unkeyed(&self) -> Full {
        self.unkeyed.with(&self.written.rules, &self.forms, self.now(), false, |state, _| std::mem::take(state))
    }

    pub(super) fn put_unkeyed(&self, unkeyed: Full) {
        self.unkeyed.with(&self.written.rules, &self.forms, self.now(), false, |state, _| *state = unkeyed);
    }

    /// Forgets all buckets.
    #[cfg(feature = "test-util")]
    pub(crate) fn clear(&self) {
        self.resets.iter().for_each(|resets| _ = resets.fetch_add(1, Ordering::Relaxed));
        self.unkeyed.reset(&self.written.rules);
        // Calls that wait lose their places, and take new ones.
        let mut wakes = Wakes::default();
        on_table!(self, (table, _form) => {
            table.each_queue(|_, queue| queue.wake_all(&mut wakes));
            table.clear(&self.shared.bound);
        });
        if let Some(table) = self.free.get() {
            table.each_queue(|_, queue| queue.wake_all(&mut wakes));
            table.clear(&self.shared.bound);
        }
        wakes.wake();
    }

    #[cfg(test)]
    pub(super) fn slots(&self) -> usize {
        on_table!(self, (table, _form) => table.slots())
    }
}

/// In a function for each table, so that what one needs is in registers.
#[inline(never)]
fn try_in<S: State, const W: usize, O: Operation>(
    table: &Table<S, W>,
    form: &S::Form,
    hash: u64,
    call: &Call<'_>,
    now: Now,
    on: O,
) -> Option<(Verdict, Left)> {
    table.try_with(hash, |state| on.run(call, state, form, now))
}

impl Drop for Store {
    fn drop(&mut self) {
        on_table!(self, (table, _form) => table.clear(&self.shared.bound));
        if let Some(table) = self.free.get() {
            table.clear(&self.shared.bound);
        }
    }
}

impl Done {
    fn of(verdict: Verdict) -> Done {
        Done { verdict, left: Left::default(), place: None, turn: None, first: None }
    }
}

/// Carries out a task on a state and the queue of its key, which is empty if nobody waits.
fn carry_out<S: State>(
    call: &Call<'_>,
    task: &Task<'_>,
    state: &mut S,
    form: &S::Form,
    queue: &mut Queue,
    now: Now,
    wakes: &mut Wakes,
) -> Done {
    match task {
        Task::Refund(permit) => {
            call.give_back(state, form, now, *permit);
            queue.changed(now);
        }
        Task::Reset => {
            *state = S::idle();
            queue.changed(now);
        }
        Task::Leave(place, seat) => {
            if let Some(permit) = queue.leave(*place, seat, now) {
                call.give_back(state, form, now, permit);
            }
        }
        Task::Settle => queue.fired(),
        Task::Take | Task::Peek | Task::Join(_) | Task::Look(..) => {}
    }
    let first = if queue.is_empty() { None } else { queue.settle(state, form, now, wakes) };
    let mut done = Done::of(Verdict::Undecided);
    done.first = first;
    match task {
        Task::Refund(_) | Task::Reset | Task::Leave(..) | Task::Settle => {
            done.verdict = Verdict::Admitted { at: now.latest };
            return done;
        }
        Task::Look(place, seat) => {
            done.turn = Some(queue.turn(*place, seat, first.map_or(NEVER, |first| first.due)));
            done.verdict = Verdict::Admitted { at: now.latest };
            return done;
        }
        Task::Take | Task::Peek | Task::Join(_) => {}
    }
    state.prepare(form, call.rules, now);
    done.verdict = if !queue.is_empty() && call.cost > 0 {
        behind(call, state, form, queue, now)
    } else if matches!(task, Task::Take) {
        call.take(state, form, now)
    } else {
        call.judge(state, form, now)
    };
    if let Task::Join(joining) = task {
        match done.verdict {
            // Now, and without counting a denial.
            Verdict::Admitted { .. } => done.verdict = call.take(state, form, now),
            Verdict::Denied { until, .. }
                if until <= joining.deadline
                    && until != NEVER
                    && queue.len() < joining.queue
                    && (joining.may_begin || !queue.is_empty()) =>
            {
                let limits = Arc::clone(joining.limits);
                done.place = Some(queue.join(joining.rank, call.cost, limits, joining.by_timer, now));
                done.first = queue.settle(state, form, now, wakes);
            }
            Verdict::Denied { position, .. } => {
                // Not soon enough: denied as a call that does not wait.
                if queue.is_empty()
                    && let Verdict::Denied { until, .. } = call.take(state, form, now)
                {
                    done.verdict = Verdict::Denied { until, position };
                }
            }
            Verdict::Undecided => {}
        }
    }
    done.left = call.told(state, form, now, done.verdict);
    done
}

/// The answer to a call that comes behind those that wait.
fn behind<S: State>(call: &Call<'_>, state: &S, form: &S::Form, queue: &Queue, now: Now) -> Verdict {
    match call.judge(state, form, now) {
        Verdict::Denied { until: NEVER, position } => Verdict::Denied { until: NEVER, position },
        Verdict::Undecided => Verdict::Undecided,
        verdict => {
            let until = call.fits_behind(state, form, now, queue.ahead()).max(now.earliest + 1);
            let position = if let Verdict::Denied { position, .. } = verdict { position } else { 0 };
            Verdict::Denied { until, position }
        }
    }
}

fn renew<S: State>(state: &mut S, form: &S::Form, queue: &mut Queue, now: Now, wakes: &mut Wakes) {
    queue.changed(now);
    queue.settle(state, form, now, wakes);
    queue.wake_all(wakes);
}

/// A place among those that wait for a bucket.
pub(crate) struct Waiter {
    store: Arc<Store>,
    address: Address,
    place: Place,
    seat: Arc<Seat>,
    is_left: bool,
}

/// Charges the first of those that wait when it is due, whoever that is then.
struct Due {
    store: Weak<Store>,
    address: Address,
}

impl Wake for Due {
    fn wake(self: Arc<Due>) {
        if let Some(store) = self.store.upgrade() {
            // It has fired; settling sets another one if it is needed.
            let fired = store.alarms.lock().remove(&self.address);
            drop(fired);
            store.settle(self.address, store.now());
        }
    }
}

impl Waiter {
    /// Looks whether its turn has come; if not, `waker` is woken when there is something to look at.
    pub(crate) fn look(&mut self, now: Now, waker: &Waker) -> Turn {
        // Before the look, so that nothing is missed in between.
        self.seat.listen(waker);
        let store = &self.store;
        let done = store.perform(self.address, &store.written_ask(0), now, &Task::Look(self.place, &self.seat));
        store.arm(self.address, done.first, now);
        let turn = done.turn.unwrap_or(Turn::Lost);
        self.is_left = !matches!(turn, Turn::Waiting { .. });
        turn
    }

    /// Gives the place up. Permits that were charged for it are given back, by the limits of the call.
    pub(crate) fn leave(&mut self, ask: &Ask<'_>, now: Now) {
        if !std::mem::replace(&mut self.is_left, true) {
            self.seat.forget_waker();
            let done = self.store.perform(self.address, ask, now, &Task::Leave(self.place, &self.seat));
            self.store.arm(self.address, done.first, now);
        }
    }

    pub(crate) fn address(&self) -> Address {
        self.address
    }
}
