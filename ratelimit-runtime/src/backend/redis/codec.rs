//! Requests and answers as the script reads and writes them: little-endian integers, times in microseconds.
//!
//! The server decides in whole microseconds: a time of this process is rounded down to one, a duration of a backoff up.

use std::time::Duration;

use smallvec::SmallVec;

use crate::algorithm::record::{Admission, Permit, Previous, Refusal, Undo};
use crate::algorithm::token_bucket::TokenBucket;
use crate::algorithm::{Rate, Rule};
use crate::backend::{Action, Admitted, Answer, Denied, Outcome, Request, Timestamp};
use crate::error::{BackendError, BackendErrorKind};
use crate::limit::{Algorithm, Limit};

const TAKE: u8 = 0;
const PEEK: u8 = 1;
const GIVE_BACK: u8 = 2;
const RESET: u8 = 3;
/// A take of permits that each limit has room for: what the script's short way is for.
const TAKE_NOW: u8 = 4;
const TAKE_RUNS: u8 = 5;
/// One run, of as many permits: the same.
const TAKE_RUN: u8 = 6;

/// How a decision is made.
const BACKOFF: u8 = 1;
const LEASES: u8 = 2;
const WAITS: u8 = 3;

const ADMITTED: u8 = 0;
const DENIED: u8 = 1;
const NEVER: u8 = 2;
const DONE: u8 = 3;
const RUNS: u8 = 4;
/// Admitted: the head and the front of the record follow, as they are written down.
const RECORD: u8 = 18;

const SLIDING: u8 = 0;
const TOKEN: u8 = 1;
const FIXED: u8 = 2;

/// The longest duration that is sent, 142 years: with it a time of today stays an exact integer in the script's doubles.
const LONGEST: u64 = 1 << 52;
/// The latest time that the script tells, in microseconds.
const FAR: u64 = (1 << 53) - 1;

/// Calls of one cost that follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    /// Permits that each takes, at least one.
    pub(super) cost: u32,
    pub(super) calls: u32,
}

/// What a lease is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Terms {
    /// How long it may be spent, in nanoseconds.
    pub(super) valid_for: u64,
    /// What is left of the one before.
    pub(super) back: Option<Back>,
}

/// Permits of a lease that were not spent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Back {
    pub(super) at: u64,
    pub(super) sequence: u32,
    pub(super) permits: u32,
}

/// What is decided of many calls.
pub(super) struct Decided {
    /// One answer a call, in their order.
    pub(super) answers: Vec<Answer>,
    /// How long those may be spent that are leased, in nanoseconds.
    pub(super) valid_for: u64,
}

/// What the script is asked, by one who `leases` where permits are leased.
pub(super) fn encode(request: &Request, leases: bool) -> Vec<u8> {
    let (action, cost, max_wait) = match request.action() {
        Action::Take { cost, max_wait } if is_usual(request, *cost) => (TAKE_NOW, *cost, *max_wait),
        Action::Take { cost, max_wait } => (TAKE, *cost, *max_wait),
        Action::Peek { cost, max_wait } => (PEEK, *cost, *max_wait),
        Action::GiveBack(permit) => (GIVE_BACK, permit.cost, Duration::ZERO),
        Action::Reset => (RESET, 0, Duration::ZERO),
    };
    let how = match request.backoff() {
        Some(_) => BACKOFF,
        None if !max_wait.is_zero() => WAITS,
        None if leases => LEASES,
        None => 0,
    };
    let mut bytes = Writer::new(action, request, cost, how);
    if action != TAKE_NOW || how == BACKOFF || how == WAITS {
        bytes.backoff_and_wait(request, max_wait);
    }
    if let Action::GiveBack(permit) = request.action() {
        bytes.permit(permit);
    }
    bytes.finish(request)
}

fn is_usual(request: &Request, cost: u32) -> bool {
    cost > 0 && request.limits().iter().all(|limit| cost <= limit.capacity())
}

/// The same for many calls that are like `request` but for their costs, and that take permits at once or not at all.
///
/// With the terms of a lease the last of the calls may be permits to be spent later.
pub(super) fn encode_runs(request: &Request, runs: &[Run], terms: Option<&Terms>) -> Vec<u8> {
    let how = match request.backoff() {
        Some(_) => BACKOFF,
        None if terms.is_some() => LEASES,
        None => 0,
    };
    let permits = match runs {
        [run] if terms.is_none() => run.cost.checked_mul(run.calls).filter(|permits| is_usual(request, *permits)),
        _ => None,
    };
    let mut bytes = match permits {
        Some(permits) => Writer::new(TAKE_RUN, request, permits, how),
        None => Writer::new(TAKE_RUNS, request, u32::try_from(runs.len()).unwrap_or(u32::MAX), how),
    };
    match terms {
        None => bytes.backoff_and_wait(request, Duration::ZERO),
        Some(Terms { valid_for, back }) => {
            bytes.time(*valid_for);
            bytes.time(back.map_or(0, |back| back.at));
            bytes.u56(0);
            bytes.u32(back.map_or(0, |back| back.sequence));
            bytes.u32(back.map_or(0, |back| back.permits));
        }
    }
    for run in runs {
        bytes.u32(run.cost);
        bytes.u32(run.calls);
    }
    bytes.finish(request)
}

/// Bytes that a group of a sliding window takes on record, as `slot.lua` lays them out: those of its time modulo a span of
/// at least the period, and those of its permits, of which one call may take all.
fn slot_bytes(limit: Limit) -> u8 {
    match (limit.per_micros(), limit.capacity()) {
        (..=0x00FF_FFFF, ..=0xFF) => 3 + 1,
        (..=0xFFFF_FFFF, ..=0xFF) => 4 + 1,
        (..=0xFFFF_FFFF, ..=0xFFFF) => 4 + 2,
        (..=0xFF_FFFF_FFFF, ..=0x00FF_FFFF) => 5 + 3,
        _ => 7 + 5,
    }
}

fn micros_up(duration: Duration) -> u64 {
    duration.as_nanos().div_ceil(1_000).try_into().unwrap_or(LONGEST).min(LONGEST)
}

struct Writer(Vec<u8>);

impl Writer {
    /// All that is asked begins so; of runs, `cost` is their number.
    fn new(action: u8, request: &Request, cost: u32, how: u8) -> Writer {
        let mut bytes = Writer(Vec::with_capacity(96));
        bytes.u8(action);
        // At most 8.
        bytes.u8(request.limits().len().to_le_bytes()[0]);
        bytes.u8(request.test_time.is_some().into());
        bytes.u8(how);
        bytes.u32(cost);
        for limit in request.limits() {
            bytes.rule(&Rule::new(*limit));
        }
        bytes
    }

    fn rule(&mut self, rule: &Rule) {
        let limit = rule.limit;
        match limit.algorithm() {
            Algorithm::SlidingWindow => {
                self.u8(SLIDING);
                self.u8(slot_bytes(limit));
                self.u32(rule.capacity());
                self.u32(rule.group);
                self.u56(limit.per_micros());
            }
            Algorithm::TokenBucket => {
                self.u8(TOKEN);
                self.u8(0);
                self.u32(rule.capacity());
                self.u32(limit.burst());
                self.u56(rule.rate.units);
                self.u56(rule.rate.permit);
                self.u56(rule.rate.step);
            }
            Algorithm::FixedWindow => {
                self.u8(FIXED);
                self.u8(0);
                self.u32(rule.capacity());
                self.u32(0);
                self.u56(limit.per_micros());
            }
        }
    }

    fn finish(mut self, request: &Request) -> Vec<u8> {
        if let Some(time) = request.test_time {
            self.time(time.as_nanos());
        }
        self.0
    }

    fn backoff_and_wait(&mut self, request: &Request, max_wait: Duration) {
        let backoff = request.backoff();
        self.u56(backoff.map_or(0, |backoff| micros_up(backoff.initial())));
        self.u56(backoff.map_or(0, |backoff| micros_up(backoff.max())));
        self.u56(max_wait.as_micros().try_into().unwrap_or(LONGEST).min(LONGEST));
    }

    fn u8(&mut self, number: u8) {
        self.0.push(number);
    }

    fn u32(&mut self, number: u32) {
        self.0.extend_from_slice(&number.to_le_bytes());
    }

    /// Seven bytes hold every integer that a double holds.
    fn u56(&mut self, number: u64) {
        self.0.extend_from_slice(&number.to_le_bytes()[..7]);
    }

    fn time(&mut self, nanos: u64) {
        self.u56(nanos / 1_000);
    }

    fn permit(&mut self, permit: &Permit) {
        self.time(permit.at);
        self.u32(permit.sequence);
        self.u8(permit.undo.is_some().into());
        let Some(undo) = &permit.undo else { return };
        self.time(undo.newest);
        for previous in &undo.limits {
            match previous {
                Previous::Sliding(at) => {
                    self.u8(SLIDING);
                    self.time(*at);
                }
                Previous::Token(bucket) => {
                    self.u8(TOKEN);
                    self.time(bucket.last);
                    self.u56(bucket.debt);
                    self.u56(bucket.unit);
                }
                Previous::Fixed => self.u8(FIXED),
            }
        }
    }
}

/// What the script answered to `request`.
pub(super) fn decode(bytes: &[u8], request: &Request) -> Result<Answer, BackendError> {
    let mut rest = Reader(bytes);
    rest.answer(request).filter(|_| rest.0.is_empty()).ok_or_else(no_decision)
}

/// What the script answered to `runs`, on terms where permits are `leased`.
///
/// The time of an admission is then that as of which it is charged, which may be later than the decision.
pub(super) fn decode_runs(
    bytes: &[u8],
    request: &Request,
    runs: &[Run],
    leased: bool,
) -> Result<Decided, BackendError> {
    let mut rest = Reader(bytes);
    rest.answers(request, runs, leased).filter(|_| rest.0.is_empty()).ok_or_else(no_decision)
}

pub(super) fn no_decision() -> BackendError {
    BackendError::new(BackendErrorKind::Refused, "Redis answered with something that is no decision")
}

/// When a token bucket is full that misses `debt` units at `last`, in microseconds; in nanoseconds.
fn full_at(last: u64, debt: u64, rate: Rate) -> Option<u64> {
    debt.div_ceil(rate.units).saturating_mul(rate.step).saturating_add(last).min(FAR).checked_mul(1_000)
}

/// The last admission of a run, by its tightest limit.
struct Last {
    sequence: u32,
    limit: usize,
    remaining: u32,
    /// Nanoseconds.
    fresh_at: u64,
    /// Of a token bucket its debt, in units, and as of when, in microseconds; of others 0.
    debt: u64,
    debt_at: u64,
}

impl Last {
    /// That of the call so many `behind` it in its run, at `at` in nanoseconds.
    fn admission(&self, request: &Request, run: Run, behind: u32, at: u64) -> Option<Admission> {
        let limit = *request.limits().get(self.limit)?;
        let after = behind.checked_mul(run.cost)?;
        let fresh_at = match (behind, self.debt) {
            (0, _) | (_, 0) => self.fresh_at,
            // Only of a token bucket does it depend on the permits that were taken later.
            (_, debt) => {
                let rate = Rule::new(limit).rate;
                full_at(self.debt_at, debt.checked_sub(u64::from(after).checked_mul(rate.permit)?)?, rate)?
            }
        };
        let permit = Permit { at, sequence: self.sequence.wrapping_sub(behind), cost: run.cost, undo: None };
        Some(Admission { permit, limit: self.limit, remaining: self.remaining.checked_add(after)?, fresh_at })
    }
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn answer(&mut self, request: &Request) -> Option<Answer> {
        let kind = self.u8()?;
        if kind == RECORD {
            let Action::Take { cost, .. } = *request.action() else { return None };
            let (now, last) = self.record(request)?;
            let admission = last.admission(request, Run { cost, calls: 1 }, 0, now)?;
            return Some(Answer {
                now: Timestamp::from_nanos(now),
                outcome: Outcome::Admitted(Admitted { admission }),
            });
        }
        let now = Timestamp::from_nanos(self.time()?);
        let outcome = match kind {
            ADMITTED => {
                let at = self.time()?;
                let sequence = self.u32()?;
                let limit = self.position(request)?;
                let remaining = self.u32()?;
                let fresh_at = self.time()?;
                let undo = self.undo()?;
                let cost = match request.action() {
                    Action::Take { cost, .. } => *cost,
                    _ => 0,
                };
                let permit = Permit { at, sequence, cost, undo };
                Outcome::Admitted(Admitted { admission: Admission { permit, limit, remaining, fresh_at } })
            }
            DENIED | NEVER => self.denied(kind, request)?,
            DONE => Outcome::Done,
            _ => return None,
        };
        Some(Answer { now, outcome })
    }

    fn denied(&mut self, kind: u8, request: &Request) -> Option<Outcome> {
        let limit = self.position(request)?;
        let remaining = self.u32()?;
        let at = self.time()?;
        let admitted_at = (kind == DENIED).then_some(at);
        Some(Outcome::Denied(Denied { refusal: Refusal { limit, remaining, admitted_at } }))
    }

    fn answers(&mut self, request: &Request, runs: &[Run], leased: bool) -> Option<Decided> {
        match self.u8()? {
            RUNS => {}
            RECORD => return self.run(request, runs),
            _ => return None,
        }
        let now = self.time()?;
        let (at, ends) = if leased { (self.time()?, self.time()?) } else { (now, now) };
        let mut outcomes = Vec::new();
        for run in runs {
            let fit = self.u32()?;
            if fit > run.calls {
                return None;
            }
            if fit > 0 {
                let last = self.last()?;
                for behind in (0..fit).rev() {
                    let admission = last.admission(request, *run, behind, at)?;
                    outcomes.push(Outcome::Admitted(Admitted { admission }));
                }
            }
            let denied = run.calls - fit;
            let told = if request.backoff().is_some() { denied } else { denied.min(1) };
            for _ in 0..told {
                let kind = self.u8().filter(|kind| matches!(*kind, DENIED | NEVER))?;
                outcomes.push(self.denied(kind, request)?);
            }
            if let Some(last) = outcomes.last().cloned() {
                outcomes.extend(std::iter::repeat_n(last, (denied - told) as usize));
            }
        }
        let calls: usize = runs.iter().map(|run| run.calls as usize).sum();
        if outcomes.len() != calls {
            return None;
        }
        let answer = |mut outcome| {
            let mut now = now;
            // As of when it is charged, or it would be taken for a booking.
            if let Outcome::Admitted(Admitted { admission }) = &mut outcome {
                admission.fresh_at = admission.fresh_at.saturating_add(at.saturating_sub(now));
                now = at;
            }
            Answer { now: Timestamp::from_nanos(now), outcome }
        };
        Some(Decided { answers: outcomes.into_iter().map(answer).collect(), valid_for: ends.saturating_sub(now) })
    }

    /// All calls of one run, which were admitted.
    fn run(&mut self, request: &Request, runs: &[Run]) -> Option<Decided> {
        let [run] = runs else { return None };
        let (now, last) = self.record(request)?;
        let answer = |behind| {
            let admission = last.admission(request, *run, behind, now)?;
            let outcome = Outcome::Admitted(Admitted { admission });
            Some(Answer { now: Timestamp::from_nanos(now), outcome })
        };
        let answers = (0..run.calls).rev().map(answer).collect::<Option<_>>()?;
        Some(Decided { answers, valid_for: 0 })
    }

    fn last(&mut self) -> Option<Last> {
        Some(Last {
            sequence: self.u32()?,
            limit: self.u8()?.into(),
            remaining: self.u32()?,
            fresh_at: self.time()?,
            debt_at: self.u56()?,
            debt: self.u56()?,
        })
    }

    /// When permits were taken, in nanoseconds, and the last admission then, read from what is on record after it: the head
    /// and the fronts.
    fn record(&mut self, request: &Request) -> Option<(u64, Last)> {
        let limits = request.limits();
        if usize::from(self.u8()?) != limits.len() {
            return None;
        }
        let now = self.u56()?;
        let sequence = self.u32()?;
        let mut tightest: Option<Last> = None;
        for (position, limit) in limits.iter().enumerate() {
            let front = Last { sequence, limit: position, ..self.front(*limit, now)? };
            if tightest.as_ref().is_none_or(|tightest| front.remaining < tightest.remaining) {
                tightest = Some(front);
            }
        }
        Some((now.checked_mul(1_000)?, tightest?))
    }

    /// What one limit says of an admission at `now`, in microseconds.
    fn front(&mut self, limit: Limit, now: u64) -> Option<Last> {
        let (kind, _slot_bytes) = (self.u8()?, self.u8()?);
        let (mut debt_at, mut debt) = (0, 0);
        let (taken, fresh_at) = match kind {
            TOKEN => {
                (debt_at, debt) = (self.u56()?, self.u56()?);
                let taken = debt.div_ceil(self.u56()?.max(1));
                (u32::try_from(taken).unwrap_or(u32::MAX), full_at(debt_at, debt, Rule::new(limit).rate)?)
            }
            SLIDING => {
                let taken = self.u32()?;
                // The last group's permits, the ring's first slot, slots in use, slots.
                self.skip(4 + 3)?;
                (taken, now.checked_add(limit.per_micros())?.checked_mul(1_000)?)
            }
            FIXED => {
                let (per, taken) = (self.u56()?, self.u32()?);
                (taken, (now - now % per.max(1)).checked_add(per)?.checked_mul(1_000)?)
            }
            _ => return None,
        };
        Some(Last { sequence: 0, limit: 0, remaining: limit.capacity().saturating_sub(taken), fresh_at, debt, debt_at })
    }

    #[expect(clippy::option_option, reason = "the outer one says whether the bytes could be read")]
    fn undo(&mut self) -> Option<Option<Box<Undo>>> {
        if self.0.is_empty() {
            return Some(None);
        }
        self.u8()?;
        let newest = self.time()?;
        let mut limits = SmallVec::new();
        while !self.0.is_empty() {
            limits.push(match self.u8()? {
                SLIDING => Previous::Sliding(self.time()?),
                TOKEN => Previous::Token(TokenBucket { last: self.time()?, debt: self.u56()?, unit: self.u56()? }),
                FIXED => Previous::Fixed,
                _ => return None,
            });
        }
        Some(Some(Box::new(Undo { newest, limits })))
    }

    /// The position of one of the limits of the request.
    fn position(&mut self, request: &Request) -> Option<usize> {
        let position = usize::from(self.u8()?);
        (position < request.limits().len()).then_some(position)
    }

    fn skip(&mut self, bytes: usize) -> Option<()> {
        self.0 = self.0.get(bytes..)?;
        Some(())
    }

    fn u8(&mut self) -> Option<u8> {
        let (byte, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*byte)
    }

    fn u32(&mut self) -> Option<u32> {
        let (bytes, rest) = self.0.split_first_chunk::<4>()?;
        self.0 = rest;
        Some(u32::from_le_bytes(*bytes))
    }

    fn u56(&mut self) -> Option<u64> {
        let (bytes, rest) = self.0.split_first_chunk::<7>()?;
        self.0 = rest;
        let mut number = [0; 8];
        number[..7].copy_from_slice(bytes);
        Some(u64::from_le_bytes(number))
    }

    /// Nanoseconds.
    fn time(&mut self) -> Option<u64> {
        self.u56()?.checked_mul(1_000)
    }
}
