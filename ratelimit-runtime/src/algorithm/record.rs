//! Everything on record for one key of one limiter, and the decision over several limits at once.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};

use smallvec::SmallVec;

use super::Rule;
use super::fixed_window::FixedWindow;
use super::groups::Group;
use super::offences::{Backoff, Offences};
use super::sliding_window::SlidingWindow;
use super::token_bucket::TokenBucket;
use crate::limit::Algorithm;

/// The state of one limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Sliding(SlidingWindow),
    Token(TokenBucket),
    Fixed(FixedWindow),
}

impl State {
    /// The state converted to the limit in force at `now`. Permits taken under another algorithm
    /// count as taken `at` that time, or at the newest booking.
    fn converted(&self, rule: &Rule, now: u64, at: u64) -> State {
        let taken = || self.taken_by_itself(now).min(u64::from(u32::MAX));
        match (self, rule.limit.algorithm()) {
            (State::Token(bucket), Algorithm::TokenBucket) => State::Token(bucket.converted(rule)),
            _ if self.algorithm() == rule.limit.algorithm() => self.clone(),
            (_, Algorithm::SlidingWindow) => State::Sliding(SlidingWindow::holding(rule, taken(), at)),
            (_, Algorithm::TokenBucket) => State::Token(TokenBucket::holding(rule, taken(), at)),
            (_, Algorithm::FixedWindow) => State::Fixed(FixedWindow::holding(rule, taken(), at)),
        }
    }

    fn fresh(rule: &Rule) -> State {
        match rule.limit.algorithm() {
            Algorithm::SlidingWindow => State::Sliding(SlidingWindow::default()),
            Algorithm::TokenBucket => State::Token(TokenBucket { unit: rule.permit(), ..TokenBucket::default() }),
            Algorithm::FixedWindow => State::Fixed(FixedWindow::default()),
        }
    }

    pub(crate) fn algorithm(&self) -> Algorithm {
        match self {
            State::Sliding(_) => Algorithm::SlidingWindow,
            State::Token(_) => Algorithm::TokenBucket,
            State::Fixed(_) => Algorithm::FixedWindow,
        }
    }

    /// Whether the rule can judge the state without conversion.
    fn is_for(&self, rule: &Rule) -> bool {
        let unit = if let State::Token(bucket) = self { bucket.unit } else { rule.permit() };
        self.algorithm() == rule.limit.algorithm() && unit == rule.permit()
    }

    /// Permits taken at `now`, by the limit that charged them.
    fn taken_by_itself(&self, now: u64) -> u64 {
        match self {
            State::Sliding(window) => window.taken(window.per, now),
            State::Token(bucket) => bucket.taken(now),
            State::Fixed(window) => window.taken_by_itself(now),
        }
    }

    fn earliest(&self, rule: &Rule, from: u64, cost: u32) -> u64 {
        match self {
            State::Sliding(window) => window.earliest(rule, from, cost),
            State::Token(bucket) => bucket.earliest(rule, from, cost),
            State::Fixed(window) => window.earliest(rule, from, cost),
        }
    }

    /// Charges `cost` permits at `at`. Returns the undo of the charge, and a floor: nothing may be
    /// admitted before that time, because permits that count until then were forgotten.
    fn charge(&mut self, rule: &Rule, at: u64, now: u64, given: Given, cost: u32) -> (Previous, u64) {
        match self {
            State::Sliding(window) => {
                let dropped = window.charge(rule, at, now, cost).unwrap_or_default();
                let floor = if dropped.permits > 0 { dropped.at.saturating_add(rule.per()) } else { 0 };
                (Previous::Sliding { dropped }, floor)
            }
            State::Token(bucket) => {
                let previous = TokenBucket { flow: (rule.units(), rule.step()), ..*bucket };
                bucket.charge(rule, at, cost);
                (Previous::Token { bucket: previous, given }, 0)
            }
            State::Fixed(window) => {
                let previous = *window;
                window.charge(rule, at, cost);
                (Previous::Fixed { window: FixedWindow { per: rule.per(), ..previous }, given }, 0)
            }
        }
    }

    /// Charges `cost` permits at `from`. Those that do not fit are charged later: first the rest of
    /// the last bucketful, then whole bucketfuls, each as early as it fits. Nothing is charged
    /// after `latest`. Returns the time of the last charge and the floor.
    fn owe(&mut self, rule: &Rule, from: u64, latest: u64, now: u64, cost: u32) -> (u64, u64) {
        let capacity = rule.capacity();
        let (mut at, mut floor, mut left) = (from, 0, if capacity == 0 { 0 } else { cost });
        if left > 0 && self.earliest(rule, from, 1) <= from {
            let fits = self.remaining(rule, from).min(left);
            floor = self.charge(rule, from, now, Given::default(), fits).1;
            left -= fits;
        }
        let portion = left.checked_rem(capacity).unwrap_or(0);
        if portion > 0 {
            let fits_at = self.earliest(rule, at, portion);
            if fits_at > latest {
                return (at, floor);
            }
            floor = floor.max(self.charge(rule, fits_at, now, Given::default(), portion).1);
            at = fits_at;
        }
        let bucketfuls = left.checked_div(capacity).unwrap_or(0);
        if bucketfuls > 0 {
            let first = self.earliest(rule, at, capacity);
            if first > latest {
                return (at, floor);
            }
            let interval = match self {
                State::Token(bucket) => {
                    let mut empty = *bucket;
                    empty.charge(rule, first, capacity);
                    empty.earliest(rule, first, capacity).saturating_sub(first)
                }
                State::Sliding(_) | State::Fixed(_) => rule.per(),
            };
            at = rule.later(first, interval, u64::from(bucketfuls - 1), latest);
            floor = floor.max(self.charge(rule, at, now, Given::default(), capacity).1);
        }
        (at, floor)
    }

    fn undo(&mut self, rule: &Rule, undo: &Undo, previous: &Previous, given: Given, cost: u32) {
        match (self, previous) {
            (State::Sliding(window), Previous::Sliding { dropped }) => window.undo(undo.newest, *dropped, cost),
            (State::Token(bucket), Previous::Token { bucket: before, given: then })
                if (before.unit, before.flow) == (rule.permit(), (rule.units(), rule.step())) =>
            {
                let last = before.last.min(bucket.last);
                // Some of it has flowed back by then, if another booking lies between.
                let flowed = last.saturating_sub(given.window).div_ceil(rule.step()).saturating_mul(rule.units());
                let back = given.amount.saturating_sub(then.amount).saturating_sub(flowed);
                *bucket = TokenBucket { last, debt: before.debt.saturating_sub(back), ..*before };
            }
            (State::Fixed(window), Previous::Fixed { window: before, given: then }) if before.per == rule.per() => {
                let then = if then.window == given.window { then.amount } else { 0 };
                *window = FixedWindow { charged: before.charged.min(window.charged), ..*before };
                if rule.span(window.charged).begin == given.window {
                    window.taken = window.taken.saturating_add(then).saturating_sub(given.amount);
                }
            }
            // The limit was replaced meanwhile: the booking stays.
            _ => {}
        }
    }

    /// Records the limit of the last change.
    fn changed_by(&mut self, rule: &Rule) {
        let (units, _, step) = rule.rate.per_nano();
        match self {
            State::Sliding(window) => window.per = rule.per(),
            State::Token(bucket) => bucket.flow = (units, step),
            State::Fixed(window) => window.changed_by(rule),
        }
    }

    fn refund(&mut self, rule: &Rule, now: u64, floor: u64, at: u64, cost: u32) {
        self.changed_by(rule);
        match self {
            State::Sliding(window) => window.refund(rule, now, floor, at, cost),
            State::Token(bucket) => bucket.refund(rule, now, at, cost),
            State::Fixed(window) => window.refund(rule, now, at, cost),
        }
    }

    fn remaining(&self, rule: &Rule, from: u64) -> u32 {
        let taken = match self {
            State::Sliding(window) => window.taken(rule.per(), from),
            State::Token(bucket) => return bucket.remaining(rule, from),
            State::Fixed(window) => window.taken(rule, from),
        };
        rule.capacity().saturating_sub(u32::try_from(taken).unwrap_or(u32::MAX))
    }

    fn fresh_at(&self, rule: &Rule) -> u64 {
        match self {
            State::Sliding(window) => window.fresh_at(rule.per()),
            State::Token(bucket) => bucket.fresh_at(rule),
            State::Fixed(window) => window.fresh_at(rule),
        }
    }

    /// When no limit that charged the state needs it any more.
    fn kept_until(&self, rule: &Rule) -> u64 {
        match self {
            State::Sliding(window) => window.kept_until(window.longest.max(rule.per())),
            State::Token(bucket) => bucket.converted(rule).fresh_at(rule),
            State::Fixed(window) => window.kept_until(rule),
        }
    }
}

/// Refunds to one limit while bookings lie ahead. A cancelled booking restores an earlier state,
/// less these refunds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Given {
    /// The window, for a fixed window. For a token bucket the time of the first of them.
    pub(crate) window: u64,
    /// Permits, or the units of a token bucket.
    pub(crate) amount: u64,
}

impl Given {
    fn add(&mut self, rule: &Rule, now: u64, permit: &Permit) {
        match rule.limit.algorithm() {
            Algorithm::SlidingWindow => {}
            Algorithm::TokenBucket => {
                if self.amount == 0 {
                    self.window = now;
                }
                self.amount = self.amount.saturating_add(TokenBucket::back(rule, now, permit.at, permit.cost));
            }
            Algorithm::FixedWindow => {
                let window = rule.span(now).begin;
                if rule.span(permit.at).begin == window {
                    let before = if self.window == window { self.amount } else { 0 };
                    *self = Given { window, amount: before.saturating_add(u64::from(permit.cost)) };
                }
            }
        }
    }
}

/// The change that a charge made to one limit, by which the newest charge is undone without a
/// trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Previous {
    /// The group forgotten for it.
    Sliding {
        dropped: Group,
    },
    /// With the flow of the limit that made the charge.
    Token {
        bucket: TokenBucket,
        given: Given,
    },
    Fixed {
        window: FixedWindow,
        given: Given,
    },
}

/// The change that the newest charge made to the whole bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Undo {
    pub(crate) newest: u64,
    pub(crate) floor: u64,
    pub(crate) top: u64,
    pub(crate) limits: SmallVec<[Previous; 1]>,
}

impl Undo {
    /// The same change after the clock went back by `by`.
    fn shifted_back(&self, by: u64) -> Undo {
        let shifted = |previous: &Previous| match *previous {
            Previous::Sliding { dropped } => {
                Previous::Sliding { dropped: Group { at: dropped.at.saturating_sub(by), ..dropped } }
            }
            Previous::Token { mut bucket, given } => {
                bucket.shift_back(by);
                Previous::Token { bucket, given }
            }
            Previous::Fixed { window, given } => {
                let charged = window.charged.saturating_sub(by);
                Previous::Fixed { window: FixedWindow { charged, ..window }, given }
            }
        };
        Undo {
            newest: self.newest.saturating_sub(by),
            floor: self.floor.saturating_sub(by),
            top: self.top,
            limits: self.limits.iter().map(shifted).collect(),
        }
    }
}

/// Permits that were taken or booked, with what is needed to give them back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Permit {
    pub(crate) at: u64,
    /// The number of its charge.
    pub(crate) sequence: u64,
    pub(crate) cost: u32,
    pub(crate) undo: Option<Box<Undo>>,
}

impl Permit {
    /// The number of permits.
    pub fn cost(&self) -> u32 {
        self.cost
    }
}

/// Why and until when a call is denied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// The position of the limit that holds the call back longest.
    pub(crate) limit: usize,
    pub(crate) remaining: u32,
    /// When the same call would be admitted if no other call came; `None` if it never would.
    pub(crate) admitted_at: Option<u64>,
    /// The key is blocked or banned.
    pub(crate) is_blocked: bool,
}

/// An admitted call, at once or at a later time booked for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Admission {
    pub(crate) permit: Permit,
    /// The position of the limit with the fewest permits left.
    pub(crate) limit: usize,
    pub(crate) remaining: u32,
    /// When that limit is idle again.
    pub(crate) fresh_at: u64,
}

/// A call's request for permits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ask<'a> {
    pub(crate) rules: &'a [Rule],
    pub(crate) backoff: Option<&'a Backoff>,
    pub(crate) cost: u32,
    /// The longest wait in nanoseconds; 0 admits now or denies.
    pub(crate) max_wait: u64,
}

/// Everything on record for one key: the state of each limit, the newest admission, the penalties.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Record {
    /// The latest time of any decision.
    pub(crate) clock: u64,
    /// The time of the newest admission; ahead of the clock for a booking. Nothing is admitted
    /// before it.
    pub(crate) newest: u64,
    /// Nothing is admitted before this time, even if bookings are cancelled, because permits that
    /// count until then are forgotten.
    pub(crate) floor: u64,
    /// The number of the newest charge. Numbers are not reused.
    pub(crate) number: u64,
    /// The number of the newest charge that was not undone. A permit compares it to see whether it
    /// is that charge.
    pub(crate) top: u64,
    /// The number before the first charge. It changes with a reset, an expiry or other kinds of
    /// limits, so that permits from before give nothing back. 0 if no permit depends on it.
    pub(crate) start: u64,
    pub(crate) offences: Offences,
    /// The end of the key's block; 0 if there is none.
    pub(crate) blocked: u64,
    pub(crate) limits: SmallVec<[State; 1]>,
    /// By limit. Empty while no booking lies ahead.
    pub(crate) given: SmallVec<[Given; 1]>,
}

/// How far ahead permits that do not fit may be charged, in nanoseconds.
pub(crate) const LONGEST_DEBT: u64 = 366 * 86_400 * 1_000_000_000;

/// A start number. The numbers of two records collide with a probability of one in four billion, if
/// either is charged less than a million times.
pub(crate) fn new_start() -> u64 {
    static NEXT: LazyLock<AtomicU32> = LazyLock::new(|| {
        let random = RandomState::new().hash_one(std::process::id());
        AtomicU32::new((random >> 32) as u32)
    });
    // An odd step visits all numbers. Below 2⁵², so that Redis's doubles can count on from there.
    u64::from(NEXT.fetch_add(0x9E37_79B1, Ordering::Relaxed).max(1)) << 20
}

impl Record {
    /// Decides whether a call is admitted, and charges all its limits if it is. A denied call
    /// changes only the clock and, with a backoff, the penalties.
    pub(crate) fn take(&mut self, ask: &Ask<'_>, now: u64) -> Result<Admission, Refusal> {
        let Ask { rules, backoff, cost, max_wait } = *ask;
        self.look(rules, now);
        if let Some(backoff) = backoff {
            self.offences.trim(backoff, now);
        }
        let replaced = self.replaced(rules, now);
        let view = self.view(rules, replaced.as_deref());
        let found = match view.find(backoff, cost, now) {
            Ok(found) => found,
            Err(never) => return Err(view.refusal(never, now, None)),
        };
        if found.at - now > max_wait {
            let mut refusal = view.refusal(found.limit, now, Some(found.at));
            refusal.is_blocked = self.is_blocked(backoff, now);
            // A call on a blocked key is no offence.
            if let Some(backoff) = backoff.filter(|_| cost > 0 && self.blocked <= now) {
                self.offences.deny(backoff, now);
                refusal.admitted_at = Some(found.at.max(self.offences.until));
            }
            return Err(refusal);
        }
        if cost == 0 {
            return Ok(view.admission_as_of(self.permit(found.at, 0, None), found.at));
        }
        if backoff.is_none() {
            self.offences = Offences::default();
        }
        let permit = self.charge(rules, replaced, found.at, now, cost);
        Ok(self.view(rules, None).admission(permit))
    }

    /// Charges `cost` permits to each limit, whatever is left. What does not fit is charged ahead of
    /// now, at most [`LONGEST_DEBT`] ahead, and nothing is admitted before the last of it. The
    /// admission holds no permit: a charge is not given back.
    pub(crate) fn charge_all(&mut self, rules: &[Rule], backoff: Option<&Backoff>, cost: u32, now: u64) -> Admission {
        self.look(rules, now);
        match backoff {
            Some(backoff) => self.offences.trim(backoff, now),
            None => self.offences = Offences::default(),
        }
        let replaced = self.replaced(rules, now);
        if cost > 0 {
            self.begin_charge(replaced, now);
            let (from, latest) = (now.max(self.newest), now.saturating_add(LONGEST_DEBT));
            let mut end = from;
            for (state, rule) in self.limits.iter_mut().zip(rules) {
                let (at, floor) = state.owe(rule, from, latest, now, cost);
                state.changed_by(rule);
                end = end.max(at);
                self.floor = self.floor.max(floor);
            }
            for (state, rule) in self.limits.iter_mut().zip(rules) {
                if let State::Sliding(window) = state {
                    window.close(rule, end, now);
                }
            }
            if end > from {
                self.floor = self.floor.max(end);
            }
            self.number = self.number.wrapping_add(1);
            self.top = self.number;
            self.newest = end;
            return self.view(rules, None).admission_as_of(self.permit(end, 0, None), now);
        }
        self.view(rules, replaced.as_deref()).admission_as_of(self.permit(now, 0, None), now)
    }

    /// The same decision as [`take`](Self::take), without any change.
    pub(crate) fn peek(&self, ask: &Ask<'_>, now: u64) -> Result<Admission, Refusal> {
        let mut copy = self.clone();
        copy.look(ask.rules, now);
        if let Some(backoff) = ask.backoff {
            copy.offences.trim(backoff, now);
        }
        let replaced = copy.replaced(ask.rules, now);
        let view = copy.view(ask.rules, replaced.as_deref());
        match view.find(ask.backoff, ask.cost, now) {
            Ok(found) if found.at - now <= ask.max_wait => {
                let permit = copy.permit(found.at, 0, None);
                Ok(if ask.cost == 0 { view.admission_as_of(permit, found.at) } else { view.admission(permit) })
            }
            Ok(found) => {
                let is_blocked = copy.is_blocked(ask.backoff, now);
                Err(Refusal { is_blocked, ..view.refusal(found.limit, now, Some(found.at)) })
            }
            Err(never) => Err(view.refusal(never, now, None)),
        }
    }

    /// Gives permits back.
    ///
    /// - A booking that is the newest charge is undone without a trace; an older booking stays.
    /// - Of permits already taken, those that still count come back.
    /// - Permits of another record (from before a reset, or of other kinds of limits) give nothing
    ///   back.
    pub(crate) fn give_back(&mut self, rules: &[Rule], _: Option<&Backoff>, now: u64, permit: &Permit) {
        let is_other = self.limits.len() != rules.len()
            || self.limits.iter().zip(rules).any(|(state, rule)| state.algorithm() != rule.limit.algorithm());
        let is_known = permit.sequence > self.start && permit.sequence <= self.number;
        if permit.cost == 0 || is_other || !(is_known || self.start == 0 || permit.sequence == 0) {
            return;
        }
        let is_ahead = permit.at > now;
        let undo = permit.undo.as_deref().filter(|_| is_ahead && permit.sequence == self.top);
        if is_ahead && undo.is_none() {
            return;
        }
        self.look(rules, now);
        if let Some(replaced) = self.replaced(rules, now) {
            self.limits = replaced;
        }
        let were_ahead = self.newest > now;
        if were_ahead {
            self.given.resize(rules.len(), Given::default());
        } else {
            self.given.clear();
        }
        let given = |position: usize| self.given.get(position).copied().unwrap_or_default();
        if let Some(undo) = undo {
            let undo = &undo.shifted_back(permit.at.saturating_sub(self.newest));
            for (position, (state, previous)) in self.limits.iter_mut().zip(&undo.limits).enumerate() {
                state.undo(&rules[position], undo, previous, given(position), permit.cost);
                state.changed_by(&rules[position]);
            }
            self.top = undo.top;
            self.floor = undo.floor;
            self.newest = undo.newest.max(self.floor);
            for state in &mut self.limits {
                if let State::Sliding(window) = state {
                    window.groups.move_last(self.newest);
                }
            }
            return;
        }
        for (position, (state, rule)) in self.limits.iter_mut().zip(rules).enumerate() {
            if were_ahead {
                self.given[position].add(rule, now, permit);
            }
            state.refund(rule, now, self.floor, permit.at, permit.cost);
        }
    }

    /// When the whole record is idle again.
    pub(crate) fn fresh_at(&self, rules: &[Rule], backoff: Option<&Backoff>) -> u64 {
        let limits = self.limits.iter().zip(rules).map(|(state, rule)| state.kept_until(rule)).max().unwrap_or(0);
        let forgiven = backoff.map_or(0, |backoff| self.offences.fresh_at(backoff));
        // Nothing is admitted before the newest admission, even if all permits that led to it were
        // given back.
        limits.max(forgiven).max(self.newest).max(self.blocked)
    }

    /// Blocks the key for `time` from `now` on, unless it is blocked for longer.
    pub(crate) fn block(&mut self, now: u64, time: u64) {
        if time > 0 {
            // If the clock went back, the next decision moves all times.
            let back = self.clock.saturating_sub(now);
            self.clock = self.clock.max(now);
            self.blocked = self.blocked.max(now.saturating_add(time).saturating_add(back));
        }
    }

    pub(crate) fn unblock(&mut self, now: u64) {
        if self.blocked_until(now).is_some() {
            self.clock = self.clock.max(now);
            self.blocked = 0;
            // Stores delete a record that holds nothing, with its clock.
            if self.limits.is_empty() {
                *self = Record::default();
            }
        }
    }

    /// When the block of the key ends, if it is blocked at `now`.
    pub(crate) fn blocked_until(&self, now: u64) -> Option<u64> {
        let shift = self.clock.saturating_sub(now);
        Some(self.blocked.saturating_sub(shift)).filter(|until| *until > now)
    }

    /// Forgets everything but a block.
    pub(crate) fn reset(&mut self, now: u64) {
        let blocked = self.blocked_until(now);
        *self = Record::default();
        if let Some(blocked) = blocked {
            (self.clock, self.blocked) = (now, blocked);
        }
    }

    /// Whether calls are denied at `now` whatever the limits say.
    fn is_blocked(&self, backoff: Option<&Backoff>, now: u64) -> bool {
        self.blocked > now || backoff.is_some_and(|backoff| self.offences.are_banned(backoff, now))
    }

    /// Whether no permit is recorded after the newest admission, as `look` and charges rely on.
    pub(crate) fn is_in_order(&self) -> bool {
        let is_in_order = |state: &State| match state {
            State::Sliding(window) => window.groups.last().is_none_or(|last| last.at <= self.newest),
            State::Token(_) | State::Fixed(_) => true,
        };
        self.limits.iter().all(is_in_order)
    }

    /// Advances the clock to `now`. If `now` is earlier, keeps all ages, as if no time had passed
    /// since the last reading.
    pub(crate) fn look(&mut self, rules: &[Rule], now: u64) {
        if now < self.clock {
            let by = self.clock - now;
            self.newest = self.newest.saturating_sub(by);
            self.floor = self.floor.saturating_sub(by);
            self.offences.shift_back(by);
            self.blocked = self.blocked.saturating_sub(by);
            for (position, state) in self.limits.iter_mut().enumerate() {
                match state {
                    State::Sliding(window) => window.shift_back(by),
                    State::Token(bucket) => {
                        bucket.shift_back(by);
                        if let Some(given) = self.given.get_mut(position) {
                            given.window = given.window.saturating_sub(by);
                        }
                    }
                    State::Fixed(window) => window.shift_back(rules.get(position), self.clock, now),
                }
            }
        }
        self.clock = now;
    }

    /// The states converted to the limits in force, if these differ from those on record.
    fn replaced(&self, rules: &[Rule], now: u64) -> Option<SmallVec<[State; 1]>> {
        let is_same =
            self.limits.len() == rules.len() && self.limits.iter().zip(rules).all(|(state, rule)| state.is_for(rule));
        let state = |(position, rule): (usize, &Rule)| match self.limits.get(position) {
            Some(state) => state.converted(rule, now, now.max(self.newest)),
            None => State::fresh(rule),
        };
        (!is_same).then(|| rules.iter().enumerate().map(state).collect())
    }

    fn view<'a>(&'a self, rules: &'a [Rule], replaced: Option<&'a [State]>) -> View<'a> {
        View { record: self, rules, states: replaced.unwrap_or(&self.limits) }
    }

    fn permit(&self, at: u64, cost: u32, undo: Option<Box<Undo>>) -> Permit {
        Permit { at, sequence: self.number, cost, undo }
    }

    /// Prepares for a charge by the limits that `replaced` is for. Returns whether limits of other
    /// kinds were on record.
    fn begin_charge(&mut self, replaced: Option<SmallVec<[State; 1]>>, now: u64) -> bool {
        let (mut is_other, is_new) = (false, self.limits.is_empty());
        if let Some(replaced) = replaced {
            let kinds = |states: &[State]| states.iter().map(State::algorithm).collect::<SmallVec<[_; 8]>>();
            is_other = kinds(&replaced) != kinds(&self.limits);
            self.limits = replaced;
        }
        if is_other {
            self.start = new_start();
            self.number = self.start;
        }
        if self.newest <= now {
            self.given.clear();
        }
        is_other && !is_new
    }

    fn charge(
        &mut self,
        rules: &[Rule],
        replaced: Option<SmallVec<[State; 1]>>,
        at: u64,
        now: u64,
        cost: u32,
    ) -> Permit {
        let is_other = self.begin_charge(replaced, now);
        let mut undo = Undo { newest: self.newest, floor: self.floor, top: self.top, limits: SmallVec::new() };
        for (position, (state, rule)) in self.limits.iter_mut().zip(rules).enumerate() {
            let given = self.given.get(position).copied().unwrap_or_default();
            let (previous, floor) = state.charge(rule, at, now, given, cost);
            undo.limits.push(previous);
            self.floor = self.floor.max(floor);
        }
        self.number = self.number.wrapping_add(1);
        self.top = self.number;
        self.newest = at;
        // States replaced for the charge do not come back, and so neither does the booking.
        self.permit(at, cost, (at > now && !is_other).then(|| Box::new(undo)))
    }
}

/// A record, judged by the limits of a call.
struct View<'a> {
    record: &'a Record,
    rules: &'a [Rule],
    states: &'a [State],
}

impl View<'_> {
    /// The first moment from `now` on at which `cost` fits, and the position of the limit that
    /// decides it. `Err` holds the position of a limit that can never hold `cost`.
    fn find(&self, backoff: Option<&Backoff>, cost: u32, now: u64) -> Result<Found, usize> {
        let mut blocked = self.record.blocked;
        if let Some(backoff) = backoff
            && (cost > 0 || backoff.is_ban())
        {
            blocked = blocked.max(self.record.offences.until);
        }
        if cost == 0 {
            return Ok(Found { at: blocked.max(now), limit: self.tightest(now.max(self.record.newest)) });
        }
        if let Some(never) = self.rules.iter().position(|rule| cost > rule.capacity()) {
            return Err(never);
        }
        let from = now.max(self.record.newest);
        let mut found = Found { at: from, limit: self.tightest(from) };
        for (position, (state, rule)) in self.states.iter().zip(self.rules).enumerate() {
            let at = state.earliest(rule, from, cost);
            if at > found.at {
                found = Found { at, limit: position };
            }
        }
        if blocked > found.at {
            found = Found { at: blocked, limit: self.tightest(from) };
        }
        Ok(found)
    }

    /// The position of the limit with the fewest permits left at `from`.
    fn tightest(&self, from: u64) -> usize {
        let remaining = |position: usize| self.states[position].remaining(&self.rules[position], from);
        (0..self.rules.len()).min_by_key(|position| remaining(*position)).unwrap_or(0)
    }

    fn admission(&self, permit: Permit) -> Admission {
        let from = permit.at.max(self.record.newest);
        let limit = self.tightest(from);
        let (remaining, fresh_at) = match (self.states.get(limit), self.rules.get(limit)) {
            (Some(state), Some(rule)) => (state.remaining(rule, from), state.fresh_at(rule)),
            _ => (0, 0),
        };
        Admission { permit, limit, remaining, fresh_at }
    }

    /// As [`admission`](View::admission), of a call that takes nothing: nothing is left if charges
    /// lie ahead of the time `by`.
    fn admission_as_of(&self, permit: Permit, by: u64) -> Admission {
        let admission = self.admission(permit);
        Admission { remaining: if self.record.newest > by { 0 } else { admission.remaining }, ..admission }
    }

    fn refusal(&self, limit: usize, now: u64, admitted_at: Option<u64>) -> Refusal {
        let remaining = match (self.states.get(limit), self.rules.get(limit)) {
            (Some(state), Some(rule)) if self.record.newest <= now => state.remaining(rule, now),
            _ => 0,
        };
        Refusal { limit, remaining, admitted_at, is_blocked: false }
    }
}

struct Found {
    at: u64,
    limit: usize,
}
