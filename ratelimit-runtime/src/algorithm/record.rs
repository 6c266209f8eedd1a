//! All that is on record for one key of one limiter, and the decision over several limits at once.

use smallvec::SmallVec;

use super::Rule;
use super::fixed_window::FixedWindow;
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
    fn fresh(algorithm: Algorithm) -> State {
        match algorithm {
            Algorithm::SlidingWindow => State::Sliding(SlidingWindow::default()),
            Algorithm::TokenBucket => State::Token(TokenBucket::default()),
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

    fn trim(&mut self, rule: &Rule, now: u64) {
        match self {
            State::Sliding(window) => window.trim(rule, now),
            State::Token(bucket) => bucket.convert(rule),
            State::Fixed(window) => window.trim(rule, now),
        }
    }

    fn earliest(&self, rule: &Rule, from: u64, cost: u32) -> u64 {
        match self {
            State::Sliding(window) => window.earliest(rule, from, cost),
            State::Token(bucket) => bucket.earliest(rule, from, cost),
            State::Fixed(window) => window.earliest(rule, from, cost),
        }
    }

    fn charge(&mut self, rule: &Rule, at: u64, cost: u32) -> Previous {
        match self {
            State::Sliding(window) => Previous::Sliding(window.charge(rule, at, cost)),
            State::Token(bucket) => {
                let previous = *bucket;
                bucket.charge(rule, at, cost);
                Previous::Token(previous)
            }
            State::Fixed(window) => {
                window.charge(at, cost);
                Previous::Fixed
            }
        }
    }

    fn bound(&mut self, rule: &Rule, at: u64) -> Option<u64> {
        match self {
            State::Sliding(window) => window.bound(rule, at),
            State::Token(_) => None,
            State::Fixed(window) => window.bound(at),
        }
    }

    fn undo(&mut self, previous: &Previous, cost: u32) {
        match (self, previous) {
            (State::Sliding(window), Previous::Sliding(at)) => window.undo(*at, cost),
            (State::Token(bucket), Previous::Token(previous)) if bucket.unit == previous.unit => *bucket = *previous,
            (State::Fixed(window), Previous::Fixed) => window.undo(cost),
            // The limit was replaced meanwhile: what was booked stays booked.
            _ => {}
        }
    }

    fn refund(&mut self, rule: &Rule, now: u64, floor: u64, at: u64, cost: u32) {
        match self {
            State::Sliding(window) => window.refund(rule, now, floor, at, cost),
            State::Token(bucket) => bucket.refund(rule, now, at, cost),
            State::Fixed(window) => window.refund(at, cost),
        }
    }

    fn remaining(&self, rule: &Rule, from: u64) -> u32 {
        let taken = match self {
            State::Sliding(window) => window.taken(rule, from),
            State::Token(bucket) => return bucket.remaining(rule, from),
            State::Fixed(window) => window.taken(from),
        };
        rule.capacity().saturating_sub(u32::try_from(taken).unwrap_or(u32::MAX))
    }

    fn fresh_at(&self, rule: &Rule) -> u64 {
        match self {
            State::Sliding(window) => window.fresh_at(rule),
            State::Token(bucket) => bucket.fresh_at(rule),
            State::Fixed(window) => window.fresh_at(),
        }
    }
}

/// What a charge changed in one limit, so that the newest one can be taken back without a trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Previous {
    /// Time of the newest group before.
    Sliding(u64),
    Token(TokenBucket),
    Fixed,
}

/// What the newest charge changed in the whole bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Undo {
    pub(crate) newest: u64,
    pub(crate) limits: SmallVec<[Previous; 1]>,
}

/// Permits that were taken or booked: what is needed to give them back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Permit {
    pub(crate) at: u64,
    pub(crate) sequence: u32,
    pub(crate) cost: u32,
    pub(crate) undo: Option<Box<Undo>>,
}

impl Permit {
    /// Number of permits.
    pub fn cost(&self) -> u32 {
        self.cost
    }
}

/// Why, and until when, a call is not admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// Position of the limit that holds the call back longest.
    pub(crate) limit: usize,
    pub(crate) remaining: u32,
    /// When the same call would be admitted if nobody else called; `None` if never.
    pub(crate) admitted_at: Option<u64>,
}

/// A call that is admitted, at once or at a later time that is booked for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Admission {
    pub(crate) permit: Permit,
    /// Position of the limit with the fewest permits left.
    pub(crate) limit: usize,
    pub(crate) remaining: u32,
    /// When that limit will be as if nobody had called.
    pub(crate) fresh_at: u64,
}

/// What a call may ask for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ask<'a> {
    pub(crate) rules: &'a [Rule],
    pub(crate) backoff: Option<&'a Backoff>,
    pub(crate) cost: u32,
    /// The longest wait in nanoseconds; 0 to be admitted now or not at all.
    pub(crate) max_wait: u64,
}

/// All that is on record for one key: the state of each limit, the newest admission, the denials.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Record {
    /// The latest time that a decision saw.
    pub(crate) clock: u64,
    /// Time of the newest admission, ahead of the clock where it is a booking. Nothing is admitted before it.
    pub(crate) newest: u64,
    /// Nothing may be admitted before this time even if bookings are given up, because what counted then is forgotten.
    pub(crate) floor: u64,
    /// Number of the newest charge, by which a permit knows whether it is that.
    pub(crate) sequence: u32,
    pub(crate) offences: Offences,
    pub(crate) limits: SmallVec<[State; 1]>,
}

impl Record {
    /// Decides whether a call is admitted, and if so charges all its limits. A refused call charges nothing.
    pub(crate) fn take(&mut self, ask: &Ask<'_>, now: u64) -> Result<Admission, Refusal> {
        let Ask { rules, backoff, cost, max_wait } = *ask;
        self.advance(rules, backoff, now);
        let admission = match self.find(rules, cost, now) {
            Ok(found) if found.at - now <= max_wait => found.at,
            Ok(found) => {
                let mut at = found.at;
                if let Some(backoff) = backoff {
                    self.offences.deny(backoff, now);
                    at = at.max(self.offences.until);
                }
                return Err(self.refusal(rules, found.limit, now, Some(at)));
            }
            Err(never) => return Err(self.refusal(rules, never, now, None)),
        };
        let permit = if cost == 0 {
            Permit { at: now, sequence: self.sequence, cost: 0, undo: None }
        } else {
            self.charge(rules, admission, now, cost)
        };
        Ok(self.admission(rules, permit))
    }

    /// As [`take`](Self::take), but changes nothing.
    pub(crate) fn peek(&self, ask: &Ask<'_>, now: u64) -> Result<Admission, Refusal> {
        let mut copy = self.clone();
        copy.advance(ask.rules, ask.backoff, now);
        match copy.find(ask.rules, ask.cost, now) {
            Ok(found) if found.at - now <= ask.max_wait => {
                let permit = Permit { at: found.at, sequence: copy.sequence, cost: 0, undo: None };
                Ok(copy.admission(ask.rules, permit))
            }
            Ok(found) => Err(copy.refusal(ask.rules, found.limit, now, Some(found.at))),
            Err(never) => Err(copy.refusal(ask.rules, never, now, None)),
        }
    }

    /// Gives permits back. The newest charge is taken back without a trace; of an older one what still counts; of a
    /// booking that lies ahead with another behind it, nothing.
    pub(crate) fn give_back(&mut self, rules: &[Rule], backoff: Option<&Backoff>, now: u64, permit: &Permit) {
        if permit.cost == 0 {
            return;
        }
        self.advance(rules, backoff, now);
        let newest = permit.sequence == self.sequence && permit.at == self.newest;
        match &permit.undo {
            Some(undo) if newest => {
                for (state, previous) in self.limits.iter_mut().zip(&undo.limits) {
                    state.undo(previous, permit.cost);
                }
                self.sequence = self.sequence.wrapping_sub(1);
                self.newest = undo.newest.max(self.floor);
            }
            _ if permit.at <= now => {
                for (state, rule) in self.limits.iter_mut().zip(rules) {
                    state.refund(rule, now, self.floor, permit.at, permit.cost);
                }
            }
            _ => {}
        }
    }

    /// When all of it will be as if nobody had called.
    pub(crate) fn fresh_at(&self, rules: &[Rule], backoff: Option<&Backoff>) -> u64 {
        let limits = self.limits.iter().zip(rules).map(|(state, rule)| state.fresh_at(rule)).max().unwrap_or(0);
        let forgiven = backoff.map_or(0, |backoff| self.offences.fresh_at(backoff));
        // Nothing is admitted before the newest admission, even where all that led to it was given back.
        limits.max(forgiven).max(self.newest)
    }

    /// Brings the record to `now` and to the limits as they are.
    fn advance(&mut self, rules: &[Rule], backoff: Option<&Backoff>, now: u64) {
        if now < self.clock {
            self.shift_back(now);
        }
        self.clock = now;
        self.limits.truncate(rules.len());
        for (position, rule) in rules.iter().enumerate() {
            match self.limits.get_mut(position) {
                Some(state) if state.algorithm() == rule.limit.algorithm() => {}
                Some(state) => *state = State::fresh(rule.limit.algorithm()),
                None => self.limits.push(State::fresh(rule.limit.algorithm())),
            }
            self.limits[position].trim(rule, now);
        }
        match backoff {
            Some(backoff) => self.offences.trim(backoff, now),
            None => self.offences = Offences::default(),
        }
    }

    /// The clock went back: ages are kept, as if no time had passed since it was read last.
    fn shift_back(&mut self, now: u64) {
        let by = self.clock - now;
        self.newest = self.newest.saturating_sub(by);
        self.floor = self.floor.saturating_sub(by);
        self.offences.shift_back(by);
        for state in &mut self.limits {
            match state {
                State::Sliding(window) => window.shift_back(by),
                State::Token(bucket) => bucket.shift_back(by),
                State::Fixed(window) => window.shift_back(self.clock, now),
            }
        }
    }

    /// The first moment from `now` on at which `cost` fits, and the position of the limit that decides it; the position of
    /// a limit that can never hold as much, if there is one.
    fn find(&self, rules: &[Rule], cost: u32, now: u64) -> Result<Found, usize> {
        if cost == 0 {
            return Ok(Found { at: now, limit: 0 });
        }
        if let Some(never) = rules.iter().position(|rule| cost > rule.capacity()) {
            return Err(never);
        }
        let from = now.max(self.newest).max(self.offences.until);
        let mut found = Found { at: from, limit: self.tightest(rules, from) };
        for (position, (state, rule)) in self.limits.iter().zip(rules).enumerate() {
            let at = state.earliest(rule, from, cost);
            if at > found.at {
                found = Found { at, limit: position };
            }
        }
        Ok(found)
    }

    fn charge(&mut self, rules: &[Rule], at: u64, now: u64, cost: u32) -> Permit {
        let mut limits = SmallVec::new();
        for (state, rule) in self.limits.iter_mut().zip(rules) {
            let previous = state.charge(rule, at, cost);
            if at > now {
                limits.push(previous);
            }
            if let Some(floor) = state.bound(rule, at) {
                self.floor = self.floor.max(floor);
            }
        }
        let undo = (at > now).then(|| Box::new(Undo { newest: self.newest, limits }));
        self.sequence = self.sequence.wrapping_add(1);
        self.newest = at;
        Permit { at, sequence: self.sequence, cost, undo }
    }

    /// Position of the limit with the fewest permits left at `from`.
    fn tightest(&self, rules: &[Rule], from: u64) -> usize {
        let remaining = |position: usize| self.limits[position].remaining(&rules[position], from);
        (0..rules.len()).min_by_key(|position| remaining(*position)).unwrap_or(0)
    }

    fn admission(&self, rules: &[Rule], permit: Permit) -> Admission {
        let from = permit.at.max(self.newest);
        let limit = self.tightest(rules, from);
        let (remaining, fresh_at) = match (self.limits.get(limit), rules.get(limit)) {
            (Some(state), Some(rule)) => (state.remaining(rule, from), state.fresh_at(rule)),
            _ => (0, 0),
        };
        Admission { permit, limit, remaining, fresh_at }
    }

    fn refusal(&self, rules: &[Rule], limit: usize, now: u64, admitted_at: Option<u64>) -> Refusal {
        let remaining = match (self.limits.get(limit), rules.get(limit)) {
            (Some(state), Some(rule)) if self.newest <= now => state.remaining(rule, now),
            _ => 0,
        };
        Refusal { limit, remaining, admitted_at }
    }
}

struct Found {
    at: u64,
    limit: usize,
}
