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
/// A take that neither waits nor blocks the key where it is denied: what the script's short way is for.
const TAKE_NOW: u8 = 4;
const TAKE_RUNS: u8 = 5;

/// How a decision is made.
const BACKOFF: u8 = 1;
const LEASES: u8 = 2;

const ADMITTED: u8 = 0;
const DENIED: u8 = 1;
const NEVER: u8 = 2;
const DONE: u8 = 3;
const RUNS: u8 = 4;
/// Admitted: the head and the front of the record follow, as they are written down.
const RECORD: u8 = 16;
/// Bytes of a slot of a ring.
const SLOT: usize = 12;

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
        Action::Take { cost, max_wait } if max_wait.is_zero() && request.backoff().is_none() => {
            return Writer::new(TAKE_NOW, request, *cost, leases).0;
        }
        Action::Take { cost, max_wait } => (TAKE, *cost, *max_wait),
        Action::Peek { cost, max_wait } => (PEEK, *cost, *max_wait),
        Action::GiveBack(permit) => (GIVE_BACK, permit.cost, Duration::ZERO),
        Action::Reset => (RESET, 0, Duration::ZERO),
    };
    let mut bytes = Writer::new(action, request, cost, leases && max_wait.is_zero());
    bytes.backoff_and_wait(request, max_wait);
    if let Action::GiveBack(permit) = request.action() {
        bytes.permit(permit);
    }
    bytes.0
}

/// The same for many calls that are like `request` but for their costs, and that take permits at once or not at all.
///
/// With the terms of a lease the last of the calls may be permits to be spent later.
pub(super) fn encode_runs(request: &Request, runs: &[Run], terms: Option<&Terms>) -> Vec<u8> {
    let number = u32::try_from(runs.len()).unwrap_or(u32::MAX);
    let mut bytes = Writer::new(TAKE_RUNS, request, number, terms.is_some());
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
    bytes.0
}

fn micros_up(duration: Duration) -> u64 {
    duration.as_nanos().div_ceil(1_000).try_into().unwrap_or(LONGEST).min(LONGEST)
}

struct Writer(Vec<u8>);

impl Writer {
    /// All that is asked begins so; of runs, `cost` is their number.
    fn new(action: u8, request: &Request, cost: u32, leases: bool) -> Writer {
        let mut bytes = Writer(Vec::with_capacity(96));
        bytes.u8(action);
        // At most 8.
        bytes.u8(request.limits().len().to_le_bytes()[0]);
        bytes.u8(request.test_time.is_some().into());
        bytes.u8(match request.backoff() {
            Some(_) => BACKOFF,
            None if leases => LEASES,
            None => 0,
        });
        bytes.time(request.test_time.map_or(0, Timestamp::as_nanos));
        bytes.u32(cost);
        for limit in request.limits() {
            let rule = Rule::new(*limit);
            let (kind, per_call, numbers) = match limit.algorithm() {
                Algorithm::SlidingWindow => (SLIDING, rule.group, [limit.per_micros(), 0, 0]),
                Algorithm::TokenBucket => (TOKEN, limit.burst(), [rule.rate.units, rule.rate.permit, rule.rate.step]),
                Algorithm::FixedWindow => (FIXED, 0, [limit.per_micros(), 0, 0]),
            };
            bytes.u8(kind);
            bytes.u32(rule.capacity());
            bytes.u32(per_call);
            for number in numbers {
                bytes.u56(number);
            }
        }
        bytes
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

fn no_decision() -> BackendError {
    BackendError::new(BackendErrorKind::Refused, "Redis answered with something that is no decision")
}

/// When a token bucket is full that misses `debt` units at `last`, in microseconds; in nanoseconds.
fn full_at(last: u64, debt: u64, rate: Rate) -> Option<u64> {
    debt.div_ceil(rate.units).saturating_mul(rate.step).saturating_add(last).min(FAR).checked_mul(1_000)
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn answer(&mut self, request: &Request) -> Option<Answer> {
        let kind = self.u8()?;
        if kind == RECORD {
            return self.record(request);
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
        if self.u8()? != RUNS {
            return None;
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
                self.run_admitted(request, *run, fit, at, &mut outcomes)?;
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

    /// The first `fit` calls of a run, from what the script says of the last of them.
    fn run_admitted(&mut self, request: &Request, run: Run, fit: u32, at: u64, into: &mut Vec<Outcome>) -> Option<()> {
        let sequence = self.u32()?;
        let limit = self.position(request)?;
        let remaining = self.u32()?;
        let (fresh_at, last, debt) = (self.time()?, self.u56()?, self.u56()?);
        let rate = Rule::new(*request.limits().get(limit)?).rate;
        for behind in (0..fit).rev() {
            let after = behind.checked_mul(run.cost)?;
            // Only of a token bucket does it depend on the permits that were taken later.
            let fresh_at = match debt {
                0 => fresh_at,
                _ => full_at(last, debt.checked_sub(u64::from(after).checked_mul(rate.permit)?)?, rate)?,
            };
            let permit = Permit { at, sequence: sequence.wrapping_sub(behind), cost: run.cost, undo: None };
            let remaining = remaining.checked_add(after)?;
            into.push(Outcome::Admitted(Admitted { admission: Admission { permit, limit, remaining, fresh_at } }));
        }
        Some(())
    }

    /// An admission, read from what is on record after it: the head, the fronts, and the rings between these.
    fn record(&mut self, request: &Request) -> Option<Answer> {
        let limits = request.limits();
        if usize::from(self.u8()?) != limits.len() {
            return None;
        }
        let now = self.time()?;
        let _newest = self.time()?;
        let sequence = self.u32()?;
        let _kept_until = self.time()?;
        let (mut tightest, mut slots) = (None, 0);
        for (position, limit) in limits.iter().enumerate() {
            self.skip(slots * SLOT)?;
            let (remaining, fresh_at);
            (remaining, fresh_at, slots) = self.front(*limit)?;
            if tightest.is_none_or(|(_, least, _)| remaining < least) {
                tightest = Some((position, remaining, fresh_at));
            }
        }
        let (limit, remaining, fresh_at) = tightest?;
        let Action::Take { cost, .. } = *request.action() else { return None };
        let permit = Permit { at: now, sequence, cost, undo: None };
        let admission = Admission { permit, limit, remaining: u32::try_from(remaining).ok()?, fresh_at };
        Some(Answer { now: Timestamp::from_nanos(now), outcome: Outcome::Admitted(Admitted { admission }) })
    }

    /// What one limit has left, when it is as if nobody had called, and the slots of its ring.
    fn front(&mut self, limit: Limit) -> Option<(u64, u64, usize)> {
        match self.u8()? {
            TOKEN => {
                let (last, debt, unit) = (self.u56()?, self.u56()?, self.u56()?);
                let taken = debt.div_ceil(unit.max(1));
                Some((u64::from(limit.burst()).saturating_sub(taken), full_at(last, debt, Rule::new(limit).rate)?, 0))
            }
            SLIDING | FIXED => {
                let per = self.u56()?;
                let taken = self.u40()?;
                let last = self.u56()?;
                // Its permits, the first group of the ring, the ring's first slot and slots in use.
                self.skip(5 + 7 + 5 + 1 + 1)?;
                let fresh_at = last.checked_add(per)?.checked_mul(1_000)?;
                Some((u64::from(limit.capacity()).saturating_sub(taken), fresh_at, self.u8()?.into()))
            }
            _ => None,
        }
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

    fn u40(&mut self) -> Option<u64> {
        let (bytes, rest) = self.0.split_first_chunk::<5>()?;
        self.0 = rest;
        let mut number = [0; 8];
        number[..5].copy_from_slice(bytes);
        Some(u64::from_le_bytes(number))
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
