//! Encodes requests to the script and decodes its answers: little-endian integers, times in
//! microseconds.
//!
//! The server decides in whole microseconds. A time of this process is rounded down, the duration
//! of a backoff is rounded up.

use std::time::Duration;

use redis::Value;
use smallvec::SmallVec;

use crate::algorithm::fixed_window::FixedWindow;
use crate::algorithm::groups::Group;
use crate::algorithm::offences::Backoff;
use crate::algorithm::record::{self, Admission, Given, Permit, Previous, Refusal, Undo};
use crate::algorithm::token_bucket::TokenBucket;
use crate::algorithm::{Rate, Rule};
#[cfg(feature = "calendar")]
use crate::backend::redis::script::calendars;
use crate::backend::{Action, Admitted, Answer, Denied, Outcome, Request, Timestamp};
use crate::error::{BackendError, BackendErrorKind};
use crate::limit::{Algorithm, Limit};

/// Numbers shared with the script, and their names. `script.rs` replaces the names in the script.
macro_rules! numbers {
    ($($(#[$doc:meta])* $name:ident = $value:literal;)*) => {
        $($(#[$doc])* const $name: u8 = $value;)*
        pub(crate) const NUMBERS: &[(&str, u8)] = &[$((stringify!($name), $name)),*];
    };
}

numbers! {
    TAKE = 0;
    PEEK = 1;
    GIVE_BACK = 2;
    RESET = 3;
    /// Calls of one cost, merged or asked for to lease permits.
    TAKE_RUN = 4;
    /// Takes permits whatever is left.
    CHARGE = 8;
    // All further actions concern a block.
    BLOCK = 9;
    UNBLOCK = 10;
    BLOCKED_UNTIL = 11;

    // The mode of a decision, if not the plain one.
    BACKOFF = 1;
    WAITS = 2;
    LEASES = 3;

    ADMITTED = 0;
    DENIED = 1;
    NEVER = 2;
    DONE = 3;
    RUN = 4;
    /// Denied because the key is blocked or banned.
    BLOCKED = 8;
    HELD = 9;
    /// The request's boundaries of a calendar do not cover the time that follows. Nothing was
    /// decided.
    #[cfg_attr(not(feature = "calendar"), allow(dead_code, reason = "only in the script"))]
    BEYOND = 5;
    /// Admitted. The record's head and hot parts follow, as stored. A record with more than the
    /// plain parts begins with `RICH`.
    PLAIN = 23;
    /// Charged as of a time ahead. The record's front follows, as stored; for a booking also the
    /// state before it.
    AHEAD = 24;
    #[allow(dead_code, reason = "only in the script")]
    RICH = 25;

    SLIDING = 0;
    TOKEN = 1;
    FIXED = 2;
    /// A fixed window of a calendar.
    CALENDAR = 3;
}

/// The longest duration that is sent, 142 years. With it, a current time is still an exact integer
/// in the script's doubles.
const LONGEST: u64 = 1 << 52;
/// The latest time that the script reports, in microseconds.
const FAR: u64 = (1 << 53) - 1;

/// Consecutive calls of one cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    /// Permits for each call, at least one.
    pub(crate) cost: u32,
    pub(crate) calls: u32,
}

impl Run {
    /// The run of a single request.
    pub(crate) fn of(request: &Request) -> Run {
        let cost = if let Action::Take { cost, .. } = request.action { cost } else { 0 };
        Run { cost, calls: 1 }
    }

    /// The permits of the run, saturating. Calls beyond that are denied with the rest.
    fn permits(self) -> u32 {
        self.cost.saturating_mul(self.calls)
    }
}

/// The terms of a requested lease.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Terms {
    /// How long it may be spent, in nanoseconds.
    pub(crate) valid_for: u64,
    /// The rest of the previous lease.
    pub(crate) back: Option<Back>,
}

/// Unspent permits of a lease.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Back {
    pub(crate) at: u64,
    pub(crate) sequence: u64,
    pub(crate) permits: u32,
}

/// The decisions on a run of calls.
pub(crate) struct Decided {
    /// One answer for each call, in order.
    pub(crate) answers: Vec<Answer>,
    /// How long the leased permits may be spent, in nanoseconds.
    pub(crate) valid_for: u64,
}

/// Encodes a request. `leases` says whether this process leases permits.
pub(crate) fn encode(request: &Request, leases: bool) -> Vec<u8> {
    let (action, cost, max_wait) = match request.action() {
        Action::Take { cost, max_wait } => (TAKE, *cost, *max_wait),
        Action::Peek { cost, max_wait } => (PEEK, *cost, *max_wait),
        Action::Charge { cost: 0 } => (PEEK, 0, Duration::ZERO),
        Action::Charge { cost } => (CHARGE, *cost, Duration::ZERO),
        Action::GiveBack(permit) => (GIVE_BACK, permit.cost, Duration::ZERO),
        Action::Reset => (RESET, 0, Duration::ZERO),
        Action::Block { .. } => (BLOCK, 0, Duration::ZERO),
        Action::Unblock => (UNBLOCK, 0, Duration::ZERO),
        Action::Blocked => (BLOCKED_UNTIL, 0, Duration::ZERO),
    };
    let how = match action {
        BLOCK | UNBLOCK | BLOCKED_UNTIL => 0,
        // Charges that lie ahead count for a charge, those of leases too.
        TAKE | CHARGE => how(request, max_wait, false),
        _ => how(request, max_wait, leases),
    };
    let mut bytes = Writer::new(action, request, cost, how);
    match request.action() {
        Action::GiveBack(permit) => bytes.permit(permit),
        Action::Block { time } => bytes.u56(micros_up(*time)),
        Action::Reset | Action::Unblock | Action::Blocked => {}
        Action::Take { .. } | Action::Peek { .. } | Action::Charge { .. } => {
            if how == LEASES {
                bytes.terms(&Terms::default());
            } else if how != 0 {
                bytes.backoff_and_wait(request, max_wait);
            }
            bytes.u56(record::new_start());
        }
    }
    bytes.finish(request)
}

fn how(request: &Request, max_wait: Duration, leases: bool) -> u8 {
    match request.backoff() {
        Some(_) => BACKOFF,
        None if !max_wait.is_zero() => WAITS,
        None if leases => LEASES,
        None => 0,
    }
}

/// Encodes a run of calls that are like `request` and that take permits at once or not at all.
///
/// With the terms of a lease, the last calls of the run may be permits to spend later.
pub(crate) fn encode_run(request: &Request, run: Run, terms: Option<&Terms>) -> Vec<u8> {
    let how = how(request, Duration::ZERO, terms.is_some());
    let mut bytes = Writer::new(TAKE_RUN, request, run.permits(), how);
    bytes.u32(run.cost);
    bytes.u32(run.calls);
    match terms {
        Some(terms) => bytes.terms(terms),
        None if how != 0 => bytes.backoff_and_wait(request, Duration::ZERO),
        None => {}
    }
    bytes.u56(record::new_start());
    bytes.finish(request)
}

/// Bytes of a group of a sliding window on record, as laid out in `slot.lua`. They hold its time,
/// modulo a span of at least the period, and its permits, of which one call may take all.
fn slot_bytes(limit: Limit) -> u8 {
    match (limit.per_micros(), limit.capacity()) {
        (..=0x00FF_FFFF, ..=0xFF) => 3 + 1,
        (..=0xFFFF_FFFF, ..=0xFF) => 4 + 1,
        (..=0xFFFF_FFFF, ..=0xFFFF) => 4 + 2,
        (..=0xFF_FFFF_FFFF, ..=0x00FF_FFFF) => 5 + 3,
        _ => 7 + 5,
    }
}

/// A 52-bit FNV-1a hash of the encoded limits, the same in every process. The script recognizes the
/// limits of the last charge by it.
fn print(rules: &[u8]) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    let hash = rules.iter().fold(0xcbf2_9ce4_8422_2325, step);
    (hash ^ hash >> 52) & ((1 << 52) - 1)
}

fn micros_up(duration: Duration) -> u64 {
    duration.as_nanos().div_ceil(1_000).try_into().unwrap_or(LONGEST).min(LONGEST)
}

/// Identifies the calendars of one unit, zone and first day, the same in every process; 0 for a
/// limit without a calendar.
fn calendar_print(limit: Limit) -> u32 {
    #[cfg(feature = "calendar")]
    if let Some(calendar) = limit.calendar() {
        let print = print(calendar.to_string().as_bytes());
        return u32::try_from(print & u64::from(u32::MAX)).unwrap_or(0);
    }
    let _ = limit;
    0
}

struct Writer(Vec<u8>);

impl Writer {
    /// The common start of all requests. For a run, `cost` is that of all its calls.
    fn new(action: u8, request: &Request, cost: u32, how: u8) -> Writer {
        let mut bytes = Writer(Vec::with_capacity(96));
        bytes.u8(action);
        // At most 8.
        bytes.u8(request.limits().len().to_le_bytes()[0]);
        bytes.u8(how);
        let flags = u8::from(request.test_time.is_some());
        #[cfg(feature = "calendar")]
        let flags = flags | calendars::flag(action != RESET && request.limits().iter().any(Limit::is_calendar));
        bytes.u8(flags);
        bytes.u32(cost);
        let print_at = bytes.0.len();
        bytes.u56(0);
        let rules_at = bytes.0.len();
        for limit in request.limits() {
            bytes.rule(&Rule::new(*limit));
        }
        let print = print(&bytes.0[rules_at..]).to_le_bytes();
        bytes.0[print_at..rules_at].copy_from_slice(&print[..7]);
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
                self.u8(if rule.is_calendar() { CALENDAR } else { FIXED });
                self.u8(0);
                self.u32(rule.capacity());
                self.u32(calendar_print(limit));
                self.u56(limit.per_micros());
            }
        }
    }

    fn finish(mut self, request: &Request) -> Vec<u8> {
        #[cfg(feature = "calendar")]
        if calendars::are_in(&self.0) {
            let now = request.now().as_nanos();
            // A single time needs few boundaries.
            let _ = calendars::append(&mut self.0, request.limits().iter().filter_map(Limit::calendar), now, now);
        }
        if let Some(time) = request.test_time {
            self.time(time.as_nanos());
        }
        self.0
    }

    fn backoff_and_wait(&mut self, request: &Request, max_wait: Duration) {
        let backoff = request.backoff();
        // A ban is the longest block at once.
        let initial = |backoff: Backoff| if backoff.is_ban() { LONGEST } else { micros_up(backoff.initial()) };
        self.u56(backoff.map_or(0, initial));
        self.u56(backoff.map_or(0, |backoff| micros_up(backoff.max())));
        self.u56(max_wait.as_micros().try_into().unwrap_or(LONGEST).min(LONGEST));
    }

    fn u8(&mut self, number: u8) {
        self.0.push(number);
    }

    fn u32(&mut self, number: u32) {
        self.0.extend_from_slice(&number.to_le_bytes());
    }

    /// Seven bytes hold every integer that a double can.
    fn u56(&mut self, number: u64) {
        self.0.extend_from_slice(&number.to_le_bytes()[..7]);
    }

    fn time(&mut self, nanos: u64) {
        self.u56(nanos / 1_000);
    }

    fn terms(&mut self, terms: &Terms) {
        let Back { at, sequence, permits } = terms.back.unwrap_or_default();
        self.u56(sequence);
        self.u32(permits);
        self.time(terms.valid_for);
        self.time(at);
        self.u56(0);
    }

    fn permit(&mut self, permit: &Permit) {
        let start = self.0.len();
        if let Some(undo) = &permit.undo {
            self.undo(undo);
        }
        let undo_bytes = self.0.len() - start;
        self.time(permit.at);
        self.u56(permit.sequence);
        // At most 8 limits of 44 bytes.
        self.0.extend_from_slice(&undo_bytes.to_le_bytes()[..2]);
    }

    fn undo(&mut self, undo: &Undo) {
        self.time(undo.newest);
        self.time(undo.floor);
        self.u56(undo.top);
        for previous in &undo.limits {
            match previous {
                Previous::Sliding { dropped } => {
                    self.u8(SLIDING);
                    self.time(dropped.at);
                    self.0.extend_from_slice(&dropped.permits.to_le_bytes()[..5]);
                }
                Previous::Token { bucket, given } => {
                    self.u8(TOKEN);
                    let (units, step) = bucket.flow;
                    for number in [bucket.last / 1_000, bucket.debt, bucket.unit, units, step, given.amount] {
                        self.u56(number);
                    }
                }
                Previous::Fixed { window, given } => {
                    self.u8(FIXED);
                    self.time(window.charged);
                    self.u32(u32::try_from(window.taken).unwrap_or(u32::MAX));
                    self.time(window.per);
                    self.time(given.window);
                    self.u56(given.amount);
                }
            }
        }
    }
}

/// Decodes the script's answer to `request`.
pub(crate) fn decode(bytes: &[u8], request: &Request) -> Result<Answer, BackendError> {
    let mut rest = Reader(bytes);
    rest.answer(request).filter(|_| rest.0.is_empty()).ok_or_else(no_decision)
}

/// Decodes the script's answer to a run of calls, on the terms of a lease if permits are leased.
///
/// The time of an admission is then that of its charge, which may be later than the decision.
pub(crate) fn decode_run(bytes: &[u8], request: &Request, run: Run) -> Result<Decided, BackendError> {
    let mut rest = Reader(bytes);
    rest.run(request, run).filter(|_| rest.0.is_empty()).ok_or_else(no_decision)
}

/// The server's time, and a time that the boundaries in the request do not cover, in nanoseconds,
/// if the script asks for others. It has then decided nothing.
#[cfg(feature = "calendar")]
#[inline]
pub(crate) fn beyond(reply: &[u8]) -> Option<(u64, u64)> {
    let mut times = Reader(reply.strip_prefix(&[BEYOND])?);
    Some((times.time()?, times.time()?))
}

/// Whether a reply can be the script's: its bytes, of which the first is a small number, or a
/// refusal. After anything else, it is unknown which reply belongs to which call, and the
/// connection is useless.
pub(crate) fn is_valid_reply(reply: &Value) -> bool {
    match reply {
        Value::BulkString(bytes) => bytes.first().is_some_and(|first| *first < b' '),
        Value::Array(replies) => replies.iter().all(is_valid_reply),
        Value::ServerError(_) => true,
        _ => false,
    }
}

pub(crate) fn no_decision() -> BackendError {
    BackendError::new(BackendErrorKind::Refused, "Redis sent something other than a decision")
}

/// When a token bucket that lacks `debt` units at `last` (microseconds) is full, in nanoseconds.
fn full_at(last: u64, debt: u64, rate: Rate) -> Option<u64> {
    debt.div_ceil(rate.units).saturating_mul(rate.step).saturating_add(last).min(FAR).checked_mul(1_000)
}

/// The last admission of a run, by its tightest limit.
struct Last {
    sequence: u64,
    limit: usize,
    remaining: u32,
    /// Nanoseconds.
    fresh_at: u64,
    /// For a token bucket its debt, in units, and the time of that, in microseconds; else 0.
    debt: u64,
    debt_at: u64,
}

impl Last {
    /// The admission of the call `behind` places before the last of its run, at `at` in
    /// nanoseconds.
    fn admission(&self, request: &Request, run: Run, behind: u32, at: u64) -> Option<Admission> {
        let limit = *request.limits().get(self.limit)?;
        let after = behind.checked_mul(run.cost)?;
        let fresh_at = match (behind, self.debt) {
            (0, _) | (_, 0) => self.fresh_at,
            // It depends on permits taken later for a token bucket only.
            (_, debt) => {
                let rate = Rule::new(limit).rate;
                full_at(self.debt_at, debt.checked_sub(u64::from(after).checked_mul(rate.permit)?)?, rate)?
            }
        };
        let permit = Permit { at, sequence: self.sequence.saturating_sub(behind.into()), cost: run.cost, undo: None };
        Some(Admission { permit, limit: self.limit, remaining: self.remaining.checked_add(after)?, fresh_at })
    }
}

/// The answers to the first `fit` calls of a run, decided at `now` and charged at `at`.
fn answers(request: &Request, run: Run, fit: u32, now: u64, at: u64, last: &Last) -> Option<Vec<Answer>> {
    let answer = |behind| {
        let mut admission = last.admission(request, run, behind, at)?;
        // Relative to its charge, or it would be taken for a booking.
        admission.fresh_at = admission.fresh_at.saturating_add(at.saturating_sub(now));
        Some(Answer { now: Timestamp::from_nanos(at), outcome: Outcome::Admitted(Admitted { admission }) })
    };
    (0..fit).rev().map(answer).collect()
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn answer(&mut self, request: &Request) -> Option<Answer> {
        let kind = self.u8()?;
        if kind == PLAIN {
            let cost = match *request.action() {
                Action::Take { cost, .. } => cost,
                Action::Charge { .. } => 0,
                _ => return None,
            };
            let (now, last) = self.record(request)?;
            let admission = last.admission(request, Run { cost, calls: 1 }, 0, now)?;
            return Some(Answer {
                now: Timestamp::from_nanos(now),
                outcome: Outcome::Admitted(Admitted { admission }),
            });
        }
        if kind == AHEAD {
            return self.ahead(request);
        }
        let now = Timestamp::from_nanos(self.time()?);
        let outcome = match kind {
            ADMITTED => {
                let at = self.time()?;
                let sequence = self.u56()?;
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
            DENIED | BLOCKED | NEVER => self.denied(kind, request)?,
            DONE => Outcome::Done,
            HELD => {
                let until = Some(self.time()?).filter(|until| *until > 0);
                Outcome::Blocked { until: until.map(Timestamp::from_nanos) }
            }
            _ => return None,
        };
        Some(Answer { now, outcome })
    }

    fn denied(&mut self, kind: u8, request: &Request) -> Option<Outcome> {
        let limit = self.position(request)?;
        let remaining = self.u32()?;
        let at = self.time()?;
        let admitted_at = (kind != NEVER).then_some(at);
        Some(Outcome::Denied(Denied {
            refusal: Refusal { limit, remaining, admitted_at, is_blocked: kind == BLOCKED },
        }))
    }

    fn run(&mut self, request: &Request, run: Run) -> Option<Decided> {
        match self.u8()? {
            RUN => {}
            PLAIN => {
                let (now, last) = self.record(request)?;
                return Some(Decided { answers: answers(request, run, run.calls, now, now, &last)?, valid_for: 0 });
            }
            _ => return None,
        }
        let (now, at, ends) = (self.time()?, self.time()?, self.time()?);
        let fit = self.u32()?;
        if fit > run.calls {
            return None;
        }
        let last = Last {
            sequence: self.u56()?,
            limit: self.u8()?.into(),
            remaining: self.u32()?,
            fresh_at: self.time()?,
            debt_at: self.u56()?,
            debt: self.u56()?,
        };
        let kind = self.u8().filter(|kind| matches!(*kind, DENIED | BLOCKED | NEVER))?;
        let denied = Answer { now: Timestamp::from_nanos(now), outcome: self.denied(kind, request)? };
        let mut answers = answers(request, run, fit, now, at, &last)?;
        answers.resize(run.calls as usize, denied);
        Some(Decided { answers, valid_for: ends.saturating_sub(now) })
    }

    /// The charge's time in nanoseconds, and the last admission, read from the record after the
    /// charge.
    fn record(&mut self, request: &Request) -> Option<(u64, Last)> {
        let limits = request.limits();
        if usize::from(self.u8()?) != limits.len() {
            return None;
        }
        let (now, sequence, _print) = (self.u56()?, self.u56()?, self.u56()?);
        let mut tightest: Option<Last> = None;
        for (position, limit) in limits.iter().enumerate() {
            let front = Last { sequence, limit: position, ..self.front(*limit, now)? };
            if tightest.as_ref().is_none_or(|tightest| front.remaining < tightest.remaining) {
                tightest = Some(front);
            }
        }
        Some((now.checked_mul(1_000)?, tightest?))
    }

    /// A booking or a debt of one limit: the record's front; for a booking also the state before it.
    fn ahead(&mut self, request: &Request) -> Option<Answer> {
        let (at, last) = self.record(request)?;
        let (_kept, now, _floor, _top) = (self.u56()?, self.time()?, self.u56()?, self.u56()?);
        let mut admission = last.admission(request, Run { cost: 0, calls: 1 }, 0, at)?;
        match *request.action() {
            Action::Take { cost, .. } => {
                admission.permit.cost = cost;
                admission.permit.undo = Some(Box::new(self.before(*request.limits().first()?)?));
            }
            // A bucket in debt has nothing left.
            Action::Charge { .. } => admission.remaining = 0,
            _ => return None,
        }
        let outcome = Outcome::Admitted(Admitted { admission });
        Some(Answer { now: Timestamp::from_nanos(now), outcome })
    }

    /// The state to which a cancelled booking returns. No group was dropped and nothing had been given
    /// back.
    fn before(&mut self, limit: Limit) -> Option<Undo> {
        let (newest, floor, top) = (self.time()?, self.time()?, self.u56()?);
        let given = Given { window: 0, amount: 0 };
        let previous = if limit.algorithm() == Algorithm::SlidingWindow {
            Previous::Sliding { dropped: Group { at: 0, permits: 0 } }
        } else {
            let (at, amount) = (self.time()?, self.u56()?);
            if limit.algorithm() == Algorithm::TokenBucket {
                let Rate { units, permit, step, .. } = Rule::new(limit).rate;
                let bucket = TokenBucket { last: at, debt: amount, unit: permit, flow: (units, step) };
                Previous::Token { bucket, given }
            } else {
                let per = limit.per_micros().checked_mul(1_000)?;
                Previous::Fixed { window: FixedWindow { per, charged: at, taken: amount, end: 0 }, given }
            }
        };
        let mut limits = SmallVec::new();
        limits.push(previous);
        Some(Undo { newest, floor, top, limits })
    }

    /// One limit's part of an admission at `now`, in microseconds.
    fn front(&mut self, limit: Limit, now: u64) -> Option<Last> {
        let (mut debt_at, mut debt) = (0, 0);
        let (taken, fresh_at) = match limit.algorithm() {
            Algorithm::TokenBucket => {
                (debt_at, debt) = (self.u56()?, self.u56()?);
                self.skip(4)?;
                let rate = Rule::new(limit).rate;
                (debt.div_ceil(rate.permit), full_at(debt_at, debt, rate)?)
            }
            Algorithm::SlidingWindow => {
                let (_on_record, taken) = (self.u40()?, self.u40()?);
                // Skips the last group and the ring.
                self.skip(4 + 4)?;
                (taken, now.checked_add(limit.per_micros())?.checked_mul(1_000)?)
            }
            Algorithm::FixedWindow => {
                // The end of the window is of calendars only.
                let (_charged, taken, ended) = (self.u56()?, self.u32()?, self.u56()?);
                let per = limit.per_micros();
                let fresh_at = if limit.is_calendar() { ended } else { (now - now % per).checked_add(per)? };
                (u64::from(taken), fresh_at.checked_mul(1_000)?)
            }
        };
        let taken = u32::try_from(taken).unwrap_or(u32::MAX);
        Some(Last { sequence: 0, limit: 0, remaining: limit.capacity().saturating_sub(taken), fresh_at, debt, debt_at })
    }

    #[expect(clippy::option_option, reason = "the outer one says whether the bytes could be read")]
    fn undo(&mut self) -> Option<Option<Box<Undo>>> {
        if self.0.is_empty() {
            return Some(None);
        }
        let (newest, floor, top) = (self.time()?, self.time()?, self.u56()?);
        let mut limits = SmallVec::new();
        while !self.0.is_empty() {
            limits.push(match self.u8()? {
                SLIDING => {
                    let dropped = Group { at: self.time()?, permits: self.u40()? };
                    Previous::Sliding { dropped }
                }
                TOKEN => {
                    let (last, debt, unit) = (self.time()?, self.u56()?, self.u56()?);
                    let flow = (self.u56()?, self.u56()?);
                    let given = Given { window: 0, amount: self.u56()? };
                    Previous::Token { bucket: TokenBucket { last, debt, unit, flow }, given }
                }
                FIXED => {
                    let (charged, taken) = (self.time()?, self.u32()?.into());
                    let window = FixedWindow { per: self.time()?, charged, taken, end: 0 };
                    Previous::Fixed { window, given: Given { window: self.time()?, amount: self.u56()? } }
                }
                _ => return None,
            });
        }
        Some(Some(Box::new(Undo { newest, floor, top, limits })))
    }

    /// The position of one of the request's limits.
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
        let (low, high) = (self.u32()?, self.u8()?);
        Some(u64::from(high) << 32 | u64::from(low))
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
