//! The one bucket of a limiter without keys. Calls hash nothing, and lock nothing if the limit
//! allows it.
//!
//! A token bucket is one word, a [`Tat`], with these invariants:
//!
//! 1. `word` only grows, except by a reset, a refund, or the removal of an excess addition. A
//!    thread that lowers it clears `busy_until` and `denied_until` afterwards.
//! 2. `busy_until` is a time whose units the word had reached when `busy_until` was written. A call
//!    before that time may add its permit without reading the word first. The word's previous value
//!    then decides the call.
//! 3. An excess addition is taken back only if the word has not changed since. Otherwise the permit
//!    stays taken, which keeps the limit.
//! 4. The thread that writes `denied_until` reads the word again, and clears `denied_until` if the
//!    word was lowered meanwhile. Both threads swap `denied_until`, so the second one sees what the
//!    first did.
//! 5. A word of [`Tat::MOVED`] or more is not a time: the state is under a lock. Threads that
//!    have not seen the mark may still add to it. The thread that moves the state back overwrites
//!    their additions.

mod forms;

use super::holds::Hold;
use super::queue::Queue;
use super::state::{
    Attempt, Call, Forms, Full, Layout, Left, Operation, Permit, Refund, State, Tat, Verdict, Window, Words,
};
use super::stripes::StripedPermits;
use crate::algorithm::Rule;
use crate::algorithm::token_bucket::tick;
use crate::limit::Algorithm;
use crate::rt::clock::Now;
use crate::rt::sync::{AtomicU64, Guard, Line, Lock, Ordering};

pub(crate) use forms::{Form, FormKind, GeneralForm, PermitsForm, TokenForm, WindowForm, WordsForm};

/// The bucket of all calls.
pub(crate) struct Unkeyed {
    fast: Fast,
    /// The operations on `fast`.
    form: &'static dyn Form,
    rest: Line<Rest>,
}

/// Where the state is while it is not in `fast`.
struct Rest {
    /// Any state, for good once other limits are expected.
    general: One<Full>,
    /// Made when it is needed first. Behind a pointer, for programs that never need it. Locked before
    /// any other part of the bucket.
    waiting: Lock<Option<Box<dyn IsWaiting>>>,
}

/// The state on the fast path.
enum Fast {
    /// A token bucket in one word.
    Token { word: Line<AtomicU64>, seen: Line<Seen> },
    /// A sliding window of single permits.
    Permits(StripedPermits),
    /// Other token buckets and fixed windows, up to three words of them.
    Words(Line<One<Words<3>>>, Layout),
    /// One sliding window of groups.
    Window(Line<One<Window>>),
    /// Everything else.
    General,
}

/// A key's state for all calls, under its own lock, in the same cache line.
struct One<S> {
    /// A call for one permit is denied until this time. Written under the lock.
    denied_until: AtomicU64,
    /// `None` while the state is elsewhere.
    state: Lock<Option<S>>,
}

/// The queue of waiting calls, and the state while calls wait.
#[derive(Default)]
struct Waiting {
    full: Option<Full>,
    queue: Queue,
}

/// A [`Waiting`].
trait IsWaiting: Send {
    fn waiting(&mut self) -> &mut Waiting;
}

impl IsWaiting for Waiting {
    #[inline]
    fn waiting(&mut self) -> &mut Waiting {
        self
    }
}

/// What calls have learned about the word of a token bucket. It seldom changes. A call that it
/// answers takes the word's cache line from no other thread. A call that can add to the word
/// without reading it first takes the line once.
struct Seen {
    busy_until: AtomicU64,
    /// A call for one permit is denied until this time, to the nanosecond.
    denied_until: AtomicU64,
    /// There is room to spare while the word is ahead of the time by less than this.
    ample: u64,
}

/// There is room to spare if this many more calls fit after the current one. An addition can exceed
/// the limit only if more threads than this are between two instructions at once.
#[cfg(not(loom_model))]
const AMPLE: u64 = 64;
/// With 0, two threads are enough.
#[cfg(loom_model)]
const AMPLE: u64 = 0;

/// How many nanoseconds a bucket must stay in use for the next calls to know of it.
const BUSY: u64 = 64;

/// How many times a thread tries to take back an excess addition.
#[cfg(not(loom_model))]
const TRIES: u32 = 100;
#[cfg(loom_model)]
const TRIES: u32 = 1;

impl Unkeyed {
    /// The form that serves these limits best. Programs with it contain all forms.
    pub(super) fn new(rules: &[Rule], forms: &Forms, is_plain: bool) -> Unkeyed {
        match rules {
            [rule] if is_plain && Tat::fits(rule) => {
                let late = rule.units().saturating_mul(crate::algorithm::RESOLUTION);
                let ample = rule.full().saturating_sub(rule.permit().saturating_mul(AMPLE + 1)).saturating_sub(late);
                let seen = Seen { busy_until: AtomicU64::new(0), denied_until: AtomicU64::new(0), ample };
                Unkeyed::of(Fast::Token { word: Line(AtomicU64::new(0)), seen: Line(seen) }, &TokenForm)
            }
            [rule] if is_plain && StripedPermits::fits(rule) => Unkeyed::permits(rule),
            [rule] if is_plain && rule.capacity() > 0 && rule.limit.algorithm() == Algorithm::SlidingWindow => {
                Unkeyed::window(rule)
            }
            _ => match forms.layout() {
                Some(layout) if is_plain => Unkeyed::of(Fast::Words(Line(One::idle()), *layout), &WordsForm),
                _ => Unkeyed::of(Fast::General, &GeneralForm),
            },
        }
    }

    /// For a window that [`StripedPermits::fits`].
    pub(super) fn permits(rule: &Rule) -> Unkeyed {
        Unkeyed::of(Fast::Permits(StripedPermits::new(rule)), &PermitsForm)
    }

    /// For any other window.
    pub(super) fn window(_: &Rule) -> Unkeyed {
        Unkeyed::of(Fast::Window(Line(One::idle())), &WindowForm)
    }

    fn of(fast: Fast, form: &'static dyn Form) -> Unkeyed {
        let full = if matches!(fast, Fast::General) { Some(Full::idle()) } else { None };
        Unkeyed { fast, form, rest: Line(Rest { general: One::new(full), waiting: Lock::new(None) }) }
    }

    /// The fast path of calls.
    pub(super) fn kind(&self) -> FormKind {
        self.form.kind()
    }

    /// Takes the permits of a call by the limits as written, on thread number `thread`. Undecided
    /// if the state is under a lock: [`take_here`](Unkeyed::take_here) takes them there.
    pub(super) fn take(&self, call: &Call<'_>, thread: usize, now: Now) -> Verdict {
        match (call.rules, call.cost) {
            ([rule], 1..) if call.cost <= rule.capacity() => self.form.take(self, rule, thread, now, call.cost),
            _ => Verdict::Undecided,
        }
    }

    /// Takes the permits of a call from a state in its usual form, under a lock.
    pub(super) fn take_here(
        &self,
        call: &Call<'_>,
        forms: &Forms,
        now: Now,
        wants_left: bool,
    ) -> Option<(Verdict, Left)> {
        self.form.take_here(self, call, forms, now, wants_left)
    }

    /// Takes `cost` permits, from 1 to the capacity, by a single limit other than the one written down,
    /// if the state is in the general form.
    #[inline]
    pub(super) fn take_by(&self, rule: &Rule, forms: &Forms, now: Now, cost: u32) -> Verdict {
        match &mut *self.rest.0.general.change() {
            Some(full) => full.take_one(forms, rule, now, cost),
            None => Verdict::Undecided,
        }
    }

    /// Carries out an operation on a state that is under a lock, unless calls wait. `is_foreign`: by
    /// other limits than those written.
    #[inline]
    pub(super) fn run<O: Operation>(
        &self,
        on: O,
        call: &Call<'_>,
        forms: &Forms,
        now: Now,
        is_foreign: bool,
    ) -> Option<(Verdict, Left)> {
        let outcome = match &self.fast {
            Fast::Words(one, layout) if !is_foreign => one.0.run(on, call, layout, now),
            Fast::Window(one) if !is_foreign => one.0.run(on, call, forms.of(0), now),
            _ => None,
        };
        outcome.or_else(|| self.run_generally(on, call, forms, now))
    }

    /// [`run`](Unkeyed::run) on a state in the general form.
    #[inline]
    pub(super) fn run_generally<O: Operation>(
        &self,
        on: O,
        call: &Call<'_>,
        forms: &Forms,
        now: Now,
    ) -> Option<(Verdict, Left)> {
        self.rest.0.general.run(on, call, forms, now)
    }

    /// Runs `f` on the whole state and the queue, under the lock of waiting calls.
    pub(super) fn with<R>(
        &self,
        rules: &[Rule],
        forms: &Forms,
        now: Now,
        f: impl FnOnce(&mut Full, &mut Queue) -> R,
    ) -> R {
        let mut made = self.rest.0.waiting.lock();
        let Waiting { full, queue } = made.get_or_insert_with(|| Box::new(Waiting::default())).waiting();
        let result = f(full.get_or_insert_with(|| self.take_out(rules, now)), queue);
        if queue.is_empty()
            && let Some(full) = full.take()
        {
            self.put_back(full, rules, forms);
        }
        result
    }

    /// Takes the state out. Calls that find none wait for the lock of waiting calls, which the caller
    /// holds.
    fn take_out(&self, rules: &[Rule], now: Now) -> Full {
        let general = self.rest.0.general.change().take();
        general.or_else(|| self.take_out_usual(rules, now)).unwrap_or_default()
    }

    fn take_out_usual(&self, rules: &[Rule], now: Now) -> Option<Full> {
        match &self.fast {
            Fast::Token { word, seen } => {
                let tat = word.0.swap(Tat::MOVED, Ordering::AcqRel);
                seen.0.forget();
                Some(Full::of_token(Tat(tat).bucket(&rules[0], now.earliest)))
            }
            Fast::Permits(permits) => permits.move_away().map(Full::of_window),
            Fast::Words(one, layout) => one.0.change().take().map(|words| Full::of_words(&words, layout, rules, now)),
            Fast::Window(one) => one.0.change().take().map(Full::of_window),
            Fast::General => None,
        }
    }

    /// Puts the state back: in its usual form if it fits and no other limits are expected.
    fn put_back(&self, mut full: Full, rules: &[Rule], forms: &Forms) {
        if forms.varies() || !self.put_back_usual(&mut full, rules, forms) {
            *self.rest.0.general.change() = Some(full);
        }
    }

    fn put_back_usual(&self, full: &mut Full, rules: &[Rule], forms: &Forms) -> bool {
        let Some(rule) = rules.first() else { return false };
        match &self.fast {
            Fast::Token { word, seen } => {
                let Some(tat) = full.tat(rule) else { return false };
                word.0.swap(tat.0, Ordering::AcqRel);
                seen.0.forget();
            }
            Fast::Permits(permits) => {
                let Some(times) = full.singles(forms) else { return false };
                permits.move_back(rule, &times);
            }
            Fast::Words(one, layout) => {
                let Some(words) = full.words(layout, rules) else { return false };
                *one.0.change() = Some(words);
            }
            Fast::Window(one) => {
                let Some(window) = full.take_window() else { return false };
                *one.0.change() = Some(window);
            }
            Fast::General => return false,
        }
        true
    }

    /// The verdict on a call by the limits as written, and the permits left. `None` if the state is
    /// not in its usual form.
    pub(super) fn peek(&self, call: &Call<'_>, forms: &Forms, now: Now) -> Option<(Verdict, Left)> {
        self.form.peek(self, call, forms, now)
    }

    /// Takes back permits that were taken by the limits as written. `false` if calls wait, or if the
    /// state of a lock-free or striped form has moved.
    pub(super) fn refund(&self, rules: &[Rule], forms: &Forms, now: Now, permit: Permit) -> bool {
        match (&self.fast, rules) {
            (Fast::Token { word, seen }, [rule]) => {
                let refund = |word| {
                    let mut tat = Tat(word);
                    (!tat.is_moved()).then(|| {
                        tat.refund(rule, now, permit);
                        tat.0
                    })
                };
                let is_done = word.0.fetch_update(Ordering::AcqRel, Ordering::Relaxed, refund).is_ok();
                seen.0.forget();
                is_done
            }
            (Fast::Permits(permits), [rule]) => {
                now.earliest.saturating_sub(permit.at) >= rule.per() || permits.refund(permit)
            }
            _ => {
                let call = Call { rules, backoff: None, cost: permit.cost, floor: Hold::NONE };
                self.run(Refund(permit.at), &call, forms, now, false).is_some()
            }
        }
    }

    /// Forgets everything except waiting calls.
    pub(super) fn reset(&self, rules: &[Rule]) {
        let mut made = self.rest.0.waiting.lock();
        match (&self.fast, rules) {
            (Fast::Token { word, seen }, _) => {
                let forget = |word| (!Tat(word).is_moved()).then_some(0);
                let _ = word.0.fetch_update(Ordering::AcqRel, Ordering::Relaxed, forget);
                seen.0.forget();
            }
            (Fast::Permits(permits), [rule]) => permits.reset(rule),
            (Fast::Words(one, _), _) => one.0.reset(),
            (Fast::Window(one), _) => one.0.reset(),
            (Fast::Permits(_) | Fast::General, _) => {}
        }
        self.rest.0.general.reset();
        if let Some(full) = made.as_mut().and_then(|made| made.waiting().full.as_mut()) {
            *full = Full::idle();
        }
    }
}

impl<S: State> One<S> {
    fn new(state: Option<S>) -> One<S> {
        One { denied_until: AtomicU64::new(0), state: Lock::new(state) }
    }

    fn idle() -> One<S> {
        One::new(Some(S::idle()))
    }

    /// The state, if taking permits needs only a free lock. Not a function that takes a closure: the
    /// compiler would not inline that into all its callers.
    #[expect(clippy::inline_always, reason = "most of a decision, which is to stay in registers")]
    #[inline(always)]
    fn begin(&self, now: Now, cost: u32) -> Result<Guard<'_, Option<S>>, Attempt> {
        let denied_until = self.denied_until.load(Ordering::Acquire);
        if now.earliest < denied_until && cost == 1 {
            return Err(Attempt::Denied(denied_until));
        }
        self.state.try_lock().ok_or(Attempt::Contended)
    }

    /// The outcome of an attempt, under the lock.
    #[expect(clippy::inline_always, reason = "most of a decision, which is to stay in registers")]
    #[inline(always)]
    fn end(&self, verdict: Verdict, cost: u32) -> Attempt {
        if let Verdict::Denied { until, .. } = verdict
            && cost == 1
        {
            self.denied_until.store(until, Ordering::Release);
        }
        verdict.into()
    }

    /// Carries out an operation, if the state is here.
    #[inline]
    fn run<O: Operation>(&self, on: O, call: &Call<'_>, form: &S::Form, now: Now) -> Option<(Verdict, Left)> {
        self.change().as_mut().map(|state| on.run(call, state, form, now))
    }

    fn reset(&self) {
        if let Some(state) = &mut *self.change() {
            *state = S::idle();
        }
    }

    /// The state, for any change. A recorded denial may no longer hold after it, so it is cleared.
    fn change(&self) -> Guard<'_, Option<S>> {
        let state = self.state.lock();
        self.denied_until.store(0, Ordering::Release);
        state
    }
}

fn verdict(until: u64, now: Now) -> Verdict {
    if until <= now.earliest { Verdict::Admitted { at: now.latest } } else { Verdict::Denied { until, position: 0 } }
}

#[inline]
fn take_token(word: &AtomicU64, seen: &Seen, rule: &Rule, now: Now, cost: u32) -> Verdict {
    match try_take_token(word, seen, rule, now, cost) {
        Attempt::Admitted => Verdict::Admitted { at: now.latest },
        Attempt::Denied(until) => Verdict::Denied { until, position: 0 },
        Attempt::Added(before) => added(word, seen, rule, now, before, cost),
        Attempt::Contended => take_token_exactly(word, seen, rule, now, cost),
    }
}

#[inline]
fn try_take_token(word: &AtomicU64, seen: &Seen, rule: &Rule, now: Now, cost: u32) -> Attempt {
    // An addition wins under contention, because it is never retried.
    if now.latest < seen.busy_until.load(Ordering::Relaxed)
        && u64::from(cost - 1) <= AMPLE
        && let Some(units) = Tat::units(rule, now.latest)
    {
        let before = word.fetch_add(u64::from(cost) * rule.permit(), Ordering::Relaxed);
        // A word that has moved fails this test, and so does a word below `units`. There is room
        // for more permits than these behind an ample one.
        return if before.wrapping_sub(units) < seen.ample { Attempt::Admitted } else { Attempt::Added(before) };
    }
    let until = seen.denied_until.load(Ordering::Relaxed);
    if now.earliest < until && cost == 1 { Attempt::Denied(until) } else { Attempt::Contended }
}

impl Seen {
    /// Records the end of a denial for one permit, decided by the word `tat`.
    fn keep_denial(&self, word: &AtomicU64, tat: u64, until: u64) {
        self.denied_until.swap(until, Ordering::AcqRel);
        let now = word.load(Ordering::Relaxed);
        if now < tat || Tat(now).is_moved() {
            self.forget_denial();
        }
    }

    fn forget_denial(&self) {
        self.denied_until.swap(0, Ordering::AcqRel);
    }

    /// Call after the word was lowered or has moved.
    fn forget(&self) {
        self.busy_until.store(0, Ordering::Relaxed);
        self.forget_denial();
    }
}

/// Takes `cost` permits, and updates `seen`.
#[inline(never)]
fn take_token_exactly(word: &AtomicU64, seen: &Seen, rule: &Rule, now: Now, cost: u32) -> Verdict {
    let recorded = rule.recorded(now);
    let (Some(units), Some(recorded)) = (Tat::units(rule, now.earliest), Tat::units(rule, recorded)) else {
        return Verdict::Undecided;
    };
    let mut tat = word.load(Ordering::Relaxed);
    loop {
        if Tat(tat).is_moved() {
            return Verdict::Undecided;
        }
        let next = match Tat(tat).after(rule, units, recorded, cost) {
            Ok(next) => next,
            Err(units) => {
                let until = Tat::time(rule, units, now.earliest);
                // By a coarser clock the denial ends on a tick, which is later.
                if cost == 1 && tick(now.earliest) == 1 {
                    seen.keep_denial(word, tat, until);
                }
                return Verdict::Denied { until, position: 0 };
            }
        };
        match word.compare_exchange_weak(tat, next.0, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => {
                // Not for a bucket that may be idle again at the next call.
                if next.0 - recorded > rule.units() * BUSY && next.0 - units < seen.ample {
                    seen.busy_until.store(next.begun(rule), Ordering::Relaxed);
                }
                return Verdict::Admitted { at: now.latest };
            }
            Err(other) => tat = other,
        }
    }
}

/// Completes a call that added its permits to a word that was `before`, without room to spare.
#[cold]
#[inline(never)]
fn added(word: &AtomicU64, seen: &Seen, rule: &Rule, now: Now, before: u64, cost: u32) -> Verdict {
    seen.busy_until.store(0, Ordering::Relaxed);
    let (Some(earliest), Some(latest)) = (Tat::units(rule, now.earliest), Tat::units(rule, now.latest)) else {
        return Verdict::Undecided;
    };
    if Tat(before).is_moved() {
        return Verdict::Undecided;
    }
    // A bucket that was reset meanwhile is below the present units. The call is decided again, and
    // the added permits stay taken.
    if before >= latest {
        let price = u64::from(cost) * rule.permit();
        let next = before + price;
        if next - earliest <= rule.full() {
            return Verdict::Admitted { at: now.latest };
        }
        take_back(word, seen, next, price);
    }
    take_token_exactly(word, seen, rule, now, cost)
}

/// Takes back an excess addition that made the word `next`.
///
/// Does so only while the word is unchanged. Since a change, other threads may have found the
/// bucket full and so have forgotten the addition. Threads with excess additions take them back in
/// the opposite order. If the word never returns to `next`, the permit stays taken, although no
/// call got it.
fn take_back(word: &AtomicU64, seen: &Seen, next: u64, price: u64) {
    for _ in 0..TRIES {
        if word.compare_exchange(next, next - price, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
            seen.forget_denial();
            return;
        }
        std::hint::spin_loop();
    }
}

#[cfg(all(test, loom_model))]
mod model;
#[cfg(all(test, not(loom_model)))]
mod tests;
