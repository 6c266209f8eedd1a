//! The buckets of one limiter, or of several limiters of the same name.

mod paths;
mod tables;
mod tasks;
mod waiting;

use std::sync::atomic::{AtomicU32, Ordering, fence};
use std::sync::{Arc, OnceLock};

use super::holds::{BlockedDenial, Hold, Holds};
use super::state::{
    Attempt, Call, Fate, Forms, Full, Groups, Layout, Left, Operation as _, Permit, State, Take, Together, UNDECIDED,
    Verdict, Window, Words, is_admitted,
};
use super::table::{Context, Swept, Table, With};
use super::unkeyed::{Form, FormKind, Unkeyed};
use super::{SWEPT_OF_OTHERS, Shared};
use crate::algorithm::Rule;
use crate::algorithm::offences::Backoff;
use crate::decision::Address;
use crate::error::Name;
use crate::hash::{HashSink, Seed};
use crate::key::RateLimitKey;
use crate::key::sealed::{Asker, Kind as KeyKind, Sink as _};
use crate::limit::{Algorithm, Limit};
use crate::queue::Wakes;
use crate::rt::clock::{self, Clock, Now};
use crate::rt::counts;
use paths::{refund_by, take_by};
use tables::{FullTable, Made, Tables};
use tasks::{Errand, Task};
use waiting::HasAlarms;

pub(crate) use paths::{BucketPath, Cost, FixedPath, KeyPath, Kind, OnePermit, TatPath, Tried, WindowPath, on_path};
pub(super) use tables::Free;
pub(crate) use tables::States;
pub(crate) use waiting::Waiter;

/// The most attempts of a call to make room before it proceeds without a bucket.
const TRIES: u32 = 10;

/// One in this many sweeps, for a new key or in turn, also sweeps another limiter's buckets.
const NEW_KEYS_SWEEP_OTHERS: u64 = 32;
const TURNS_SWEEP_OTHERS: u64 = 8;

/// `retry_after` for a new key if the backend is full, in nanoseconds.
const RETRY_WHEN_FULL: u64 = 1_000_000_000;

/// Counters of resets. If keys share a counter, a reset of one key loses at most the other keys'
/// refunds of permits that were taken before it.
const RESETS: usize = 64;

/// The limits that a store is made for.
#[derive(Clone)]
pub(crate) struct Written {
    pub(crate) rules: Box<[Rule]>,
    pub(crate) backoff: Option<Backoff>,
    /// The limits are read at each call.
    pub(crate) varies: bool,
    /// The limiter of these limits; the first one if several share a name.
    pub(crate) by: u64,
    pub(crate) limiter: Name,
    /// The states of keys that the limiter's program contains.
    pub(crate) states: States,
}

/// See the module.
pub(crate) struct Store {
    pub(super) shared: Arc<Shared>,
    /// The identity of the limiters that share the store.
    pub(super) name: Option<String>,
    clock: &'static Clock,
    /// Has its own seed, so that keys of two limiters hash independently.
    pub(super) hasher: Seed<'static, 1>,
    pub(super) written: Written,
    /// The first of the limits written down.
    rule: Rule,
    /// The most permits that a call can take by it; 0 if it is not the only limit, or if denials
    /// count.
    most: u32,
    kind: Kind,
    pub(super) forms: Forms,
    unkeyed: Unkeyed,
    pub(super) keyed: Keyed,
    tables: &'static dyn Tables,
    /// Buckets of keys by limits other than those written down. Made for the first of these calls.
    pub(super) free: OnceLock<Free>,
    /// Alarms that charge the first waiting call of a bucket, with the process that set them. A
    /// forked process has another timer.
    alarms: OnceLock<Box<dyn HasAlarms>>,
    /// Keys that are blocked or in debt.
    pub(super) holds: Holds,
    /// Resets so far, by address. Permits taken before a reset are not given back after it.
    resets: [AtomicU32; RESETS],
}

/// Buckets by key, in the smallest state that the limits allow.
pub(super) enum Keyed {
    /// For a limiter that is never called with a key.
    Nothing,
    One(Table<Words<1>, 4>, Layout),
    Two(Table<Words<2>, 5>, Layout),
    Three(Table<Words<3>, 2>, Layout),
    Window(Table<Window, 2>, Groups),
    Full(FullTable),
}

/// Evaluates an expression with the store's table and the form of its states.
macro_rules! on_table {
    ($store:expr, ($table:ident, $form:ident) => $result:expr) => {
        match &$store.keyed {
            Keyed::Nothing => Default::default(),
            Keyed::One($table, $form) => $result,
            Keyed::Two($table, $form) => $result,
            Keyed::Three($table, $form) => $result,
            Keyed::Window($table, $form) => $result,
            Keyed::Full($table) => {
                let ($table, $form) = (&**$table, &$store.forms);
                $result
            }
        }
    };
}

pub(super) use on_table;

/// A call in the form that a store takes.
#[derive(Clone, Copy)]
pub(crate) struct Ask<'a> {
    pub(crate) call: Call<'a>,
    /// The limits are not those that the store was made for.
    pub(crate) is_foreign: bool,
}

impl Store {
    pub(super) fn new(shared: Arc<Shared>, name: Option<String>, written: Written) -> Store {
        let Written { rules, backoff, varies, .. } = &written;
        let rule = rules[0];
        let most = if rules.len() == 1 && backoff.is_none() { rule.capacity() } else { 0 };
        let clock = clock::clock();
        // What can fail comes before, so that no code here drops buckets.
        let Made { forms, unkeyed, keyed, tables, hasher } = (written.states.0)(&shared, &written);
        let kind = keyed.kind(*varies);
        Store {
            name,
            rule,
            most,
            kind,
            clock,
            hasher,
            unkeyed,
            forms,
            keyed,
            tables,
            free: OnceLock::new(),
            alarms: OnceLock::new(),
            holds: Holds::new(shared.bound.max_keys),
            resets: [const { AtomicU32::new(0) }; RESETS],
            shared,
            written,
        }
    }

    /// Identifies the store among those that exist in the process at the same time.
    pub(crate) fn id(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }

    /// Whether the limits are read at each call.
    #[inline]
    pub(crate) fn varies(&self) -> bool {
        self.written.varies
    }

    /// Whether the store was made for these limits.
    pub(crate) fn is_for(&self, rules: &[Rule]) -> bool {
        self.written.varies || *self.written.rules == *rules
    }

    /// Whether the store was made for exactly these limits, so that its fast path applies to them.
    pub(crate) fn is_written_for(&self, rules: &[Rule], backoff: Option<&Backoff>) -> bool {
        let Written { rules: written, backoff: written_backoff, varies, .. } = &self.written;
        !varies && written_backoff.as_ref() == backoff && **written == *rules
    }

    /// Whether that limiter made the store, and therefore for its limits as written down.
    #[inline]
    pub(crate) fn is_made_by(&self, limiter: u64) -> bool {
        self.written.by == limiter
    }

    /// Prepares the store for calls by other limits.
    pub(crate) fn expect(&self, rules: &[Rule]) {
        self.keep_for(rules);
        if !self.is_for(rules) {
            self.forms.vary();
            if !self.fits(rules) {
                self.tables.open(self);
            }
        }
    }

    /// As [`expect`](Store::expect), of limits that replace the ones written down.
    pub(crate) fn expect_others(&self, rules: &[Rule]) {
        self.expect(rules);
        if !self.is_for(rules) && !self.fits(rules) {
            self.open();
        }
    }

    /// Makes windows keep the permits that calls by these limits need.
    #[inline]
    fn keep_for(&self, rules: &[Rule]) {
        self.forms.expect(rules);
        if let (Keyed::Window(_, groups), [rule]) = (&self.keyed, rules) {
            groups.expect(rule);
        }
    }

    /// [`keep_for`](Store::keep_for), if limits are read at each call.
    #[inline]
    fn keep_read(&self, ask: &Ask<'_>) {
        if self.written.varies {
            self.keep_for(ask.call.rules);
        }
    }

    /// Makes windows keep the permits that calls by the limit at `position` needed, up to that
    /// `count` and `per`.
    pub(super) fn reach(&self, position: usize, (most, longest): (u32, u64)) {
        if let Keyed::Window(_, groups) = &self.keyed {
            groups.reach(most, longest);
        }
        if let Some(groups) = self.forms.groups().get(position) {
            groups.reach(most, longest);
        }
    }

    /// The address of the bucket of `key`.
    #[inline]
    pub(crate) fn address<K: RateLimitKey + ?Sized>(&self, key: &K) -> Address {
        key.ask(Addressing(self))
    }

    /// The hash of the key that `write` writes.
    #[inline]
    pub(crate) fn hash(&self, write: impl FnOnce(&mut HashSink<'_, 1>)) -> u64 {
        let mut sink = HashSink::new(&self.hasher);
        write(&mut sink);
        let [hash] = sink.finish();
        hash
    }

    #[inline]
    pub(crate) fn now(&self) -> Now {
        self.clock.now()
    }

    /// See [`Clock::now_for`].
    #[inline]
    pub(crate) fn now_for(&self, is_async: bool) -> Now {
        self.clock.now_for(is_async)
    }

    /// The first limit written down.
    #[inline]
    pub(crate) fn limit(&self) -> Limit {
        self.rule.limit
    }

    /// Whether a call by the one limit written down takes permits and can ever be admitted.
    #[inline]
    pub(crate) fn admits(&self, cost: u32) -> bool {
        cost.wrapping_sub(1) < self.most
    }

    /// Takes permits on the fast path. Returns the time that they are recorded with; `None` if the
    /// call must be decided elsewhere.
    #[inline(never)]
    pub(crate) fn try_take(&self, address: Address, now: Now, cost: u32) -> Option<u64> {
        match address {
            Address::Unkeyed => self.try_take_unkeyed(now, cost),
            Address::Hash(hash) => on_path!(self.kind, Path => take_by::<Path>(self, hash, now, cost), None),
        }
    }

    #[inline(never)]
    fn try_take_unkeyed(&self, now: Now, cost: u32) -> Option<u64> {
        let ask = self.written_ask(cost);
        let verdict = match self.unkeyed.take(&ask.call, counts::thread(), now) {
            Verdict::Undecided => self.take_under_lock(&ask, now, false)?.0,
            verdict => verdict,
        };
        if let Verdict::Admitted { at } = verdict { Some(at) } else { None }
    }

    /// The fast path of any other state, for a key by the limits written down.
    #[expect(clippy::inline_always, reason = "a jump")]
    #[inline(always)]
    pub(crate) fn try_any(&self, hash: u64, now: Now, cost: u32) -> Option<(Verdict, Left)> {
        self.tables.try_take(self, hash, &self.written_ask(cost).call, now, false)
    }

    /// The fast path of permits of a key by one limit other than the one written down.
    /// [`Attempt::Contended`] if the call must be decided elsewhere.
    #[inline]
    pub(crate) fn try_take_by(&self, hash: u64, rule: &Rule, now: Now, cost: u32) -> Attempt {
        if cost.wrapping_sub(1) >= rule.capacity() {
            return Attempt::Contended;
        }
        let verdict = match &self.keyed {
            Keyed::Window(table, groups) if rule.limit.algorithm() == Algorithm::SlidingWindow => {
                if self.written.varies {
                    self.keep_for(std::slice::from_ref(rule));
                }
                let Ok(mut reached) = table.try_reach::<false>(hash) else { return Attempt::Contended };
                let Some(window) = reached.state() else { return Attempt::Contended };
                window.take_now(groups, rule, now, cost)
            }
            keyed => {
                let free =
                    if let Keyed::Full(table) = keyed { Some(table) } else { self.free.get().map(|free| &free.table) };
                let Some(table) = free else { return Attempt::Contended };
                let Ok(mut reached) = table.try_reach::<false>(hash) else { return Attempt::Contended };
                let Some(full) = reached.state() else { return Attempt::Contended };
                full.take_one(&self.forms, rule, now, cost)
            }
        };
        verdict.into()
    }

    /// The fast path that calls without a key take.
    pub(crate) fn form(&self) -> FormKind {
        self.unkeyed.kind()
    }

    /// The fast path of a call without a key, by the limits written down.
    #[expect(clippy::inline_always, reason = "most of a decision, which is to stay in registers")]
    #[inline(always)]
    pub(crate) fn try_form<F: Form, C: Cost>(&self, thread: usize, now: Now, cost: C) -> Attempt {
        F::try_take(&self.unkeyed, &self.forms, &self.rule, thread, now, cost.permits())
    }

    /// Decides an attempt that added permits to a word that was `before`.
    pub(crate) fn added<F: Form>(&self, now: Now, before: u64, cost: u32) -> Verdict {
        F::added(&self.unkeyed, &self.rule, now, before, cost)
    }

    /// The next path of a call without a key, by the limits written down: if threads contend, if
    /// the bucket is idle, or if the state is under the lock. Nothing holds the bucket.
    pub(crate) fn try_unkeyed<F: Form + Default>(&self, now: Now, cost: u32) -> (Verdict, Option<Left>) {
        if self.most > 0 {
            let verdict = F::default().take_exactly(&self.unkeyed, &self.rule, counts::thread(), now, cost);
            if verdict != Verdict::Undecided {
                return (verdict, None);
            }
        }
        match self.take_under_lock(&self.written_ask(cost), now, false) {
            Some((verdict, left)) => (verdict, (self.most == 0).then_some(left)),
            None => (Verdict::Undecided, None),
        }
    }

    /// Takes one permit by the limits written down, after the fast path has not decided. Reports
    /// what is left, unless there is a single limit without `backoff` and the key is not blocked.
    pub(crate) fn take_written(&self, address: Address, now: Now) -> (Verdict, Option<Left>) {
        let ask = self.written_ask(1);
        let (verdict, left) = match address {
            Address::Unkeyed => self.take(address, &ask, now, false),
            Address::Hash(hash) => self.tables.take_key(self, hash, &ask, now),
        };
        (verdict, (self.most == 0 || left.is_blocked).then_some(left))
    }

    /// A call by the limits written down.
    pub(crate) fn written_ask(&self, cost: u32) -> Ask<'_> {
        let call = Call { rules: &self.written.rules, backoff: self.written.backoff.as_ref(), cost, floor: Hold::NONE };
        Ask { call, is_foreign: false }
    }

    /// The fast path of a call with a key: it has a bucket, and no calls wait.
    #[inline]
    fn try_take_key(&self, hash: u64, ask: &Ask<'_>, now: Now, wants_left: bool) -> Option<(Verdict, Left)> {
        self.keep_read(ask);
        let tables = if self.needs_free(ask) { self.free.get()?.tables } else { self.tables };
        tables.try_take(self, hash, &ask.call, now, wants_left)
    }

    /// Takes the permits of a call now or not at all. Reports what is left if it is denied, or if the
    /// call `wants_left`.
    #[expect(clippy::inline_always, reason = "a few jumps, most of which the caller knows")]
    #[inline(always)]
    pub(crate) fn take(&self, address: Address, ask: &Ask<'_>, now: Now, wants_left: bool) -> (Verdict, Left) {
        if self.holds.may_hold(address)
            && let Some(beside) = BESIDE_HOLDS.get()
        {
            return (beside.take)(self, address, ask, now);
        }
        let outcome = match address {
            Address::Hash(hash) => self.try_take_key(hash, ask, now, wants_left),
            Address::Unkeyed => self.try_take_all(ask, now, wants_left),
        };
        self.or_take(outcome, address, ask, now)
    }

    #[inline(never)]
    fn try_take_all(&self, ask: &Ask<'_>, now: Now, wants_left: bool) -> Option<(Verdict, Left)> {
        let taken = self.take_unkeyed(ask, now);
        let Some(verdict) = taken else { return self.take_under_lock(ask, now, wants_left) };
        let shows_left = wants_left || ask.call.cost > 1 && !is_admitted(verdict);
        Some((verdict, if shows_left { self.unkeyed_left(ask, now) } else { Left::default() }))
    }

    /// The fast path of a call without a key, if the state is under a lock.
    #[inline(never)]
    fn take_under_lock(&self, ask: &Ask<'_>, now: Now, wants_left: bool) -> Option<(Verdict, Left)> {
        self.keep_read(ask);
        let outcome =
            if ask.is_foreign { None } else { self.unkeyed.take_here(&ask.call, &self.forms, now, wants_left) };
        outcome.or_else(|| (unkeyed_thoroughly()?.try_take)(self, ask, now, wants_left))
    }

    /// The fast path of permits without a key by one limit other than the one written down.
    #[inline]
    pub(crate) fn try_take_unkeyed_by(&self, rule: &Rule, now: Now, cost: u32) -> Attempt {
        if !(1..=rule.capacity()).contains(&cost) {
            return Attempt::Contended;
        }
        let rules = std::slice::from_ref(rule);
        if self.written.varies {
            self.keep_for(rules);
        }
        self.unkeyed.take_by(rule, &self.forms, now, cost).into()
    }

    /// [`take`](Store::take), if the key may be held.
    #[cold]
    #[inline(never)]
    fn take_beside_holds(&self, address: Address, ask: &Ask<'_>, now: Now) -> (Verdict, Left) {
        self.take_behind(self.holds.of(address, now), address, ask, now)
    }

    /// Whether a key is certainly neither blocked nor in debt, and no block or debt has ended.
    #[inline]
    pub(crate) fn is_free(&self, hash: u64, now: Now) -> bool {
        self.holds.is_free(Address::Hash(hash), now)
    }

    /// Until when one permit of a blocked key is denied, and what the limit has left: its last
    /// call's answer, if nothing has changed.
    #[inline]
    pub(crate) fn repeated_denial(&self, hash: u64, now: Now) -> Option<(u64, u32)> {
        self.holds.repeated(hash, now)
    }

    /// Takes one permit of a key that may be held, by the limits written down. `None` if it is not
    /// held.
    pub(crate) fn take_if_held(&self, hash: u64, now: Now) -> Option<(Verdict, Left)> {
        (BESIDE_HOLDS.get()?.take_if_held)(self, hash, now)
    }

    #[cold]
    #[inline(never)]
    fn take_held(&self, hash: u64, now: Now) -> Option<(Verdict, Left)> {
        let hold = self.hold_of(Address::Hash(hash), now);
        if hold == Hold::NONE {
            return None;
        }
        let denied = self.deny_blocked(hold, hash, now).map(|BlockedDenial { until, remaining, .. }| {
            (Verdict::Denied { until, position: 0 }, Left { remaining, is_blocked: true, ..Left::default() })
        });
        denied.or_else(|| Some(self.take_behind(hold, Address::Hash(hash), &self.written_ask(1), now)))
    }

    /// Denies one permit of a blocked key by its only limit. `None` if the call must be decided
    /// elsewhere.
    fn deny_blocked(&self, hold: Hold, hash: u64, now: Now) -> Option<BlockedDenial> {
        if self.most == 0 || hold.owed_until > now.earliest || self.free.get().is_some() {
            return None;
        }
        let until = hold.blocked_until;
        let denial = on_table!(self, (table, form) => {
            let found = table.with_existing(self.context(form), hash, |state, queue| {
                let denial = deny_blocked(state, form, &self.rule, now, until);
                (if queue.is_none() { denial } else { None }, false)
            });
            // A missing bucket is idle.
            found.unwrap_or(Some(BlockedDenial { until, remaining: self.most, holds_until: u64::MAX }))
        })?;
        self.holds.note(hash, now, hold, denial);
        Some(denial)
    }

    fn take_behind(&self, floor: Hold, address: Address, ask: &Ask<'_>, now: Now) -> (Verdict, Left) {
        let ask = &Ask { call: Call { floor, ..ask.call }, ..*ask };
        let outcome = match address {
            Address::Hash(hash) if floor == Hold::NONE => self.try_take_key(hash, ask, now, true),
            _ => None,
        };
        self.or_take(outcome, address, ask, now)
    }

    /// The answer that [`take`](Store::take) would give, without taking permits.
    #[inline]
    pub(crate) fn peek(&self, address: Address, ask: &Ask<'_>, now: Now) -> (Verdict, Left) {
        let outcome = if address == Address::Unkeyed { self.peek_unkeyed(ask, now) } else { None };
        match outcome {
            Some((verdict, left)) if verdict != Verdict::Undecided => (verdict, left),
            _ => self.perform_and_tell(address, ask, now, &Task::Peek),
        }
    }

    /// The fast path of permits of a single limit without a key.
    #[inline]
    fn take_unkeyed(&self, ask: &Ask<'_>, now: Now) -> Option<Verdict> {
        if ask.is_foreign {
            return None;
        }
        let verdict = self.unkeyed.take(&ask.call, counts::thread(), now);
        (verdict != Verdict::Undecided).then_some(verdict)
    }

    /// What is left without a key. Read after the decision: other calls may have come in between.
    fn unkeyed_left(&self, ask: &Ask<'_>, now: Now) -> Left {
        let nothing = Ask { call: Call { cost: 0, ..ask.call }, ..*ask };
        match self.unkeyed.peek(&nothing.call, &self.forms, now) {
            Some((_, left)) => left,
            None => unkeyed_thoroughly().map_or_else(Left::default, |thorough| (thorough.peek)(self, &nothing, now).1),
        }
    }

    #[inline]
    fn or_take(&self, outcome: Option<(Verdict, Left)>, address: Address, ask: &Ask<'_>, now: Now) -> (Verdict, Left) {
        match (outcome, address) {
            (Some((verdict, left)), _) if verdict != Verdict::Undecided => (verdict, left),
            (_, Address::Hash(hash)) => self.tables.take_key(self, hash, ask, now),
            (_, Address::Unkeyed) => self.take_unkeyed_thoroughly(ask, now),
        }
    }

    #[cold]
    #[inline(never)]
    fn take_unkeyed_thoroughly(&self, ask: &Ask<'_>, now: Now) -> (Verdict, Left) {
        unkeyed_thoroughly().map_or(UNDECIDED, |thorough| (thorough.take)(self, ask, now))
    }

    /// Takes the permits of a key's call now or not at all, and makes its bucket if it is missing.
    #[cold]
    #[inline(never)]
    fn take_key(&self, hash: u64, ask: &Ask<'_>, now: Now) -> (Verdict, Left) {
        let thoroughly = || keyed_thoroughly().map_or(UNDECIDED, |take| take(self, hash, ask, now));
        if self.written.varies {
            self.expect(ask.call.rules);
        }
        // Another thread may take the room that this one made.
        for _ in 0..=TRIES {
            if self.is_elsewhere(ask) {
                return thoroughly();
            }
            match self.tables.take(self, hash, &ask.call, now) {
                With::Done((Verdict::Undecided, _)) | With::Closed | With::Waited => return thoroughly(),
                With::Done(outcome) => return outcome,
                With::Full if self.shared.evict(self, hash, now) => {}
                With::Full => break,
            }
        }
        self.without_room(hash, ask, now)
    }

    /// Gives back permits that were taken by the same limits.
    #[inline]
    pub(crate) fn refund(self: &Arc<Store>, address: Address, ask: &Ask<'_>, now: Now, permit: Permit) {
        let is_done = address == Address::Unkeyed
            && !(ask.is_foreign || self.holds.may_hold(address))
            && self.unkeyed.refund(ask.call.rules, &self.forms, now, permit);
        if !is_done {
            self.perform_and_arm(address, ask, now, &Task::Refund(permit));
        }
    }

    /// The fast path of [`refund`](Store::refund), of permits that were taken by the one limit written
    /// down, after so many `resets`. `false` if that must be done elsewhere.
    #[inline]
    pub(crate) fn try_refund(&self, address: Address, is_async: bool, permit: Permit, resets: u32) -> bool {
        match address {
            // A debt's end is beside the buckets: refunds during one take the path that looks at it.
            _ if self.holds_any() || self.resets(address) != resets => false,
            Address::Hash(hash) => {
                on_path!(self.kind, Path => refund_by::<Path>(self, hash, is_async, permit, resets), false)
            }
            Address::Unkeyed => self.try_refund_unkeyed(is_async, permit),
        }
    }

    #[inline(never)]
    fn try_refund_unkeyed(&self, is_async: bool, permit: Permit) -> bool {
        self.unkeyed.refund(&self.written.rules, &self.forms, self.now_for(is_async), permit)
    }

    /// Forgets the bucket, and all permits that any caller took from it.
    pub(crate) fn reset(self: &Arc<Store>, address: Address, ask: &Ask<'_>, now: Now) {
        self.resets_of(address).fetch_add(1, Ordering::Relaxed);
        if address == Address::Unkeyed {
            self.unkeyed.reset(&self.written.rules);
        }
        let lift = || {
            let floor = if self.holds.has_any() {
                self.holds_to_change().change(address, now, |hold| hold.owed_until = 0)
            } else {
                Hold::NONE
            };
            (floor, self.resets(address))
        };
        self.perform_and_arm(address, ask, now, &Task::Reset(&lift));
    }

    /// Takes the permits of a call, whatever is left. Returns what is left then.
    pub(crate) fn charge(self: &Arc<Store>, address: Address, ask: &Ask<'_>, now: Now) -> Left {
        let owe =
            |until| self.holds_to_change().change(address, now, |hold| hold.owed_until = hold.owed_until.max(until));
        self.perform_and_arm(address, ask, now, &Task::Charge(&owe)).left
    }

    /// Blocks a key until `until`, for every kind of call. A block that ends later stands.
    pub(crate) fn block(self: &Arc<Store>, address: Address, until: u64, now: Now) {
        self.holds_to_change().change(address, now, |hold| hold.blocked_until = hold.blocked_until.max(until));
        self.held_anew(address, now);
    }

    /// Ends the block of a key.
    pub(crate) fn unblock(self: &Arc<Store>, address: Address, now: Now) {
        self.holds_to_change().change(address, now, |hold| hold.blocked_until = 0);
        self.held_anew(address, now);
    }

    /// The holds of keys, to be changed.
    pub(super) fn holds_to_change(&self) -> &Holds {
        BESIDE_HOLDS.get_or_init(|| BesideHolds { take: Store::take_beside_holds, take_if_held: Store::take_held });
        &self.holds
    }

    /// Whether any key is blocked or in debt.
    #[inline]
    pub(crate) fn holds_any(&self) -> bool {
        self.holds.has_any()
    }

    /// Whether a key may be blocked or in debt; `false` is certain.
    #[inline]
    pub(crate) fn may_hold(&self, address: Address) -> bool {
        self.holds.may_hold(address)
    }

    /// The hold of a key.
    #[inline]
    pub(crate) fn hold_of(&self, address: Address, now: Now) -> Hold {
        self.holds.of(address, now)
    }

    /// Moves waiting calls behind their key's present hold.
    fn held_anew(self: &Arc<Store>, address: Address, now: Now) {
        // Looked up under the bucket's lock, so that the calls see the last change last.
        let floor = || self.holds.of(address, now);
        self.perform_and_arm(address, &self.written_ask(0), now, &Task::Held(&floor));
    }

    /// The number of resets of the bucket so far.
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

    /// Counts a call on several buckets that its fast path did not decide, and sweeps if that is due.
    pub(super) fn take_turn(&self, hash: u64, now: Now) {
        let swept = on_table!(self, (table, form) => table.take_turn(self.context(form), hash, now));
        self.sweep_others(swept, hash, now);
    }

    /// [`Together`] on the fast path: the bucket exists, its lock is free, and no call waits.
    #[inline]
    pub(super) fn try_hold(
        &self,
        address: Address,
        ask: &Ask<'_>,
        now: Now,
        wants_left: bool,
        others: &dyn Fn(Verdict) -> Fate,
    ) -> Option<(Verdict, Left)> {
        if self.holds.may_hold(address) {
            return None;
        }
        self.keep_read(ask);
        let (call, on) = (&ask.call, Together(others, wants_left));
        match address {
            Address::Hash(hash) if self.needs_free(ask) => {
                try_in(&self.free.get()?.table, &self.forms, hash, call, now, on)
            }
            Address::Hash(hash) => on_table!(self, (table, form) => try_in(table, form, hash, call, now, on)),
            Address::Unkeyed => self.unkeyed.run(on, call, &self.forms, now, ask.is_foreign),
        }
    }

    /// What the unkeyed bucket says to a call that another bucket denies. `None` if that cannot be
    /// read in its usual form.
    pub(super) fn peek_unkeyed(&self, ask: &Ask<'_>, now: Now) -> Option<(Verdict, Left)> {
        if ask.is_foreign || self.holds.may_hold(Address::Unkeyed) {
            None
        } else {
            self.unkeyed.peek(&ask.call, &self.forms, now)
        }
    }

    /// Takes the permits of a call, as the last of its buckets, whose others admit it and are
    /// locked. `None` if the bucket cannot be reached. With `wakes`, waits for the lock.
    #[inline]
    pub(super) fn take_last(
        &self,
        address: Address,
        ask: &Ask<'_>,
        now: Now,
        wants_left: bool,
        wakes: Option<&mut Wakes>,
    ) -> Option<(Verdict, Left)> {
        let outcome = match address {
            _ if self.holds.may_hold(address) => None,
            Address::Hash(hash) => self.try_take_key(hash, ask, now, wants_left),
            Address::Unkeyed => self.take_last_unkeyed(ask, now, wants_left),
        };
        match (outcome, wakes) {
            (Some((verdict, left)), _) if verdict != Verdict::Undecided => Some((verdict, left)),
            (_, None) => None,
            (_, Some(wakes)) => match address {
                Address::Unkeyed => {
                    let done = self.perform_under_lock(address, &mut Errand::of(ask, now, &Task::Take, wakes));
                    Some((done.verdict, done.left))
                }
                Address::Hash(_) => self.hold(address, ask, now, wakes, &|verdict| match verdict {
                    Verdict::Admitted { .. } => Fate::Charged,
                    Verdict::Denied { .. } => Fate::Denied,
                    Verdict::Undecided => Fate::Unknown,
                }),
            },
        }
    }

    /// Reads the permits left only if that takes no lock that other calls may hold for long.
    #[inline(never)]
    fn take_last_unkeyed(&self, ask: &Ask<'_>, now: Now, wants_left: bool) -> Option<(Verdict, Left)> {
        let taken = self.take_unkeyed(ask, now);
        let Some(verdict) = taken else { return self.take_under_lock(ask, now, wants_left) };
        let shows_left = wants_left || ask.call.cost > 1 && matches!(verdict, Verdict::Denied { .. });
        let nothing = Call { cost: 0, ..ask.call };
        let left = shows_left.then(|| self.unkeyed.peek(&nothing, &self.forms, now)).flatten();
        Some((verdict, left.map_or_else(Left::default, |(_, left)| left)))
    }

    /// Whether the call's bucket is, or will be, in the table of other limits.
    #[inline]
    fn is_elsewhere(&self, ask: &Ask<'_>) -> bool {
        self.free.get().is_some() || self.needs_free(ask)
    }

    /// Whether only the table of other limits can hold the call's bucket.
    #[inline]
    fn needs_free(&self, ask: &Ask<'_>) -> bool {
        ask.is_foreign && !self.fits(ask.call.rules)
    }

    /// Whether buckets of these limits can stay in the table of the limits written down.
    fn fits(&self, rules: &[Rule]) -> bool {
        match (&self.keyed, rules) {
            (Keyed::Full(_), _) => true,
            (Keyed::Window(..), [rule]) => rule.limit.algorithm() == Algorithm::SlidingWindow,
            _ => false,
        }
    }

    /// The table of other limits. From then on, the usual table makes no new bucket.
    pub(super) fn open(&self) -> &Free {
        self.free.get_or_init(|| {
            self.forms.vary();
            on_table!(self, (table, _form) => table.close());
            open_thorough();
            Free::new()
        })
    }

    pub(super) fn context<'a, S: State>(&'a self, form: &'a S::Form) -> Context<'a, S> {
        Context { bound: &self.shared.bound, form, written: &self.written.rules }
    }

    /// Sometimes sweeps another limiter, because one that is no longer called reclaims nothing
    /// itself.
    pub(super) fn sweep_others(&self, swept: Swept, hash: u64, now: Now) {
        let one_in = match swept {
            Swept::Nothing => return,
            Swept::ForNewKey => NEW_KEYS_SWEEP_OTHERS,
            Swept::InTurn => TURNS_SWEEP_OTHERS,
        };
        if (hash >> 8 ^ now.earliest >> 16).is_multiple_of(one_in) {
            self.shared.sweep(now, SWEPT_OF_OTHERS);
        }
    }

    /// The number of keys that have a bucket.
    pub(crate) fn keys(&self) -> usize {
        self.tables.len(self) + self.free.get().map_or(0, |free| free.tables.len(self))
    }

    /// Reclaims idle buckets in a few slots of one shard. Returns whether there were any.
    pub(super) fn sweep(&self, shard: usize, now: Now, slots: usize) -> bool {
        let usual = self.tables.sweep(self, shard, now, slots);
        let free = self.free.get().is_some_and(|free| free.tables.sweep(self, shard, now, slots));
        usual | free
    }

    /// Evicts one bucket. A bucket that is being denied goes only if `denying` is set.
    pub(super) fn evict(&self, hash: u64, now: Now, denying: bool) -> bool {
        self.free.get().is_some_and(|free| free.tables.evict(self, hash, now, denying))
            || self.tables.evict(self, hash, now, denying)
    }

    /// A copy of the state of the bucket without a key.
    pub(super) fn copied_unkeyed(&self, now: Now) -> Full {
        open_thorough();
        self.unkeyed.with(&self.written.rules, &self.forms, now, |state, _| state.clone())
    }

    /// Takes out the state of the bucket without a key.
    pub(super) fn take_out_unkeyed(&self, now: Now) -> Full {
        open_thorough();
        self.unkeyed.with(&self.written.rules, &self.forms, now, |state, _| std::mem::take(state))
    }

    /// `is_foreign`: other limits than those written down judge it.
    pub(super) fn put_unkeyed(&self, unkeyed: Full, is_foreign: bool) {
        open_thorough();
        if is_foreign {
            self.forms.vary();
        }
        self.unkeyed.with(&self.written.rules, &self.forms, self.now(), |state, _| *state = unkeyed);
    }

    /// Forgets all buckets.
    #[cfg(feature = "test-util")]
    pub(crate) fn clear(&self) {
        self.resets.iter().for_each(|resets| _ = resets.fetch_add(1, Ordering::Relaxed));
        self.unkeyed.reset(&self.written.rules);
        drop(self.holds.take());
        // Waiting calls lose their places, and take new ones.
        let mut wakes = Wakes::default();
        on_table!(self, (table, _form) => {
            table.each_queue(&self.shared.bound, |_, queue| queue.wake_all(&mut wakes));
            table.clear(&self.shared.bound);
        });
        if let Some(Free { table, .. }) = self.free.get() {
            table.each_queue(&self.shared.bound, |_, queue| queue.wake_all(&mut wakes));
            table.clear(&self.shared.bound);
        }
        wakes.wake();
    }

    #[cfg(test)]
    pub(super) fn slots(&self) -> usize {
        on_table!(self, (table, _form) => table.slots())
    }
}

/// The paths of calls while keys are held. Behind pointers, which are set before any key is held.
struct BesideHolds {
    take: fn(&Store, Address, &Ask<'_>, Now) -> (Verdict, Left),
    take_if_held: fn(&Store, u64, Now) -> Option<(Verdict, Left)>,
}

static BESIDE_HOLDS: OnceLock<BesideHolds> = OnceLock::new();

type TakeUnkeyed = fn(&Store, &Ask<'_>, Now) -> (Verdict, Left);
type TryTakeUnkeyed = fn(&Store, &Ask<'_>, Now, bool) -> Option<(Verdict, Left)>;

/// The paths of calls without a key if the state is not in its usual form or the bucket has a
/// queue. Behind pointers, which are set before either can be: a program whose only limits are
/// sliding windows contains them only if it waits, refunds, or replaces limits.
struct Thorough {
    try_take: TryTakeUnkeyed,
    take: TakeUnkeyed,
    peek: TakeUnkeyed,
}

static UNKEYED_THOROUGHLY: OnceLock<Thorough> = OnceLock::new();

type TakeKeyed = fn(&Store, u64, &Ask<'_>, Now) -> (Verdict, Left);

static KEYED_THOROUGHLY: OnceLock<TakeKeyed> = OnceLock::new();

fn unkeyed_thoroughly() -> Option<&'static Thorough> {
    // The pointer was set before whatever the call has seen of the bucket was written.
    fence(Ordering::Acquire);
    UNKEYED_THOROUGHLY.get()
}

fn keyed_thoroughly() -> Option<TakeKeyed> {
    KEYED_THOROUGHLY.get().copied()
}

pub(super) fn open_thorough_without_keys() {
    UNKEYED_THOROUGHLY.get_or_init(|| Thorough {
        try_take: |store, ask, now, wants_left| {
            store.unkeyed.run_generally(Take { wants_left }, &ask.call, &store.forms, now)
        },
        take: |store, ask, now| store.perform_unkeyed_and_tell(ask, now, &Task::Take),
        peek: |store, ask, now| store.perform_unkeyed_and_tell(ask, now, &Task::Peek),
    });
}

/// Call this before any state that plain calls for one permit of one written window cannot cause.
pub(crate) fn open_thorough() {
    open_thorough_without_keys();
    KEYED_THOROUGHLY
        .get_or_init(|| |store, hash, ask, now| store.perform_and_tell(Address::Hash(hash), ask, now, &Task::Take));
}

/// One function for each table, so that its values stay in registers.
#[inline(never)]
fn try_in<S: State, const W: usize>(
    table: &Table<S, W>,
    form: &S::Form,
    hash: u64,
    call: &Call<'_>,
    now: Now,
    on: Together<'_>,
) -> Option<(Verdict, Left)> {
    Some(on.run(call, table.try_reach::<false>(hash).ok()?.state()?, form, now))
}

/// Denies one permit of a key that is blocked until `until`, by its only limit.
fn deny_blocked<S: State>(state: &mut S, form: &S::Form, rule: &Rule, now: Now, until: u64) -> Option<BlockedDenial> {
    state.prepare(form, std::slice::from_ref(rule), now);
    if !state.is_decidable(form, now) {
        return None;
    }
    let remaining = state.remaining(form, 0, rule, now);
    let one_more =
        if remaining < rule.capacity() { state.fits_at(form, 0, rule, now, remaining + 1) } else { u64::MAX };
    let until = if remaining > 0 { until } else { until.max(one_more) };
    Some(BlockedDenial { until, remaining, holds_until: one_more })
}

impl Drop for Store {
    fn drop(&mut self) {
        self.tables.clear(self);
        if let Some(free) = self.free.get() {
            free.tables.clear(self);
        }
    }
}

/// Computes a key's address. One function hashes all text keys, and one all numbers.
struct Addressing<'a>(&'a Store);

impl Asker for Addressing<'_> {
    type Answer = Address;

    #[inline]
    fn text(self, key: &str) -> Address {
        #[inline(never)]
        fn hash(store: &Store, key: &str) -> u64 {
            store.hash(|sink| sink.text(key))
        }
        Address::Hash(hash(self.0, key))
    }

    #[inline]
    fn number(self, kind: KeyKind, key: u64) -> Address {
        #[inline(never)]
        fn hash(store: &Store, kind: KeyKind, key: u64) -> u64 {
            store.hash(|sink| sink.number(kind, key.into()))
        }
        Address::Hash(hash(self.0, kind, key))
    }

    #[inline]
    fn any<K: RateLimitKey + ?Sized>(self, key: &K) -> Address {
        if K::KEYED { Address::Hash(self.0.hash(|sink| key.write_to(sink))) } else { Address::Unkeyed }
    }
}
