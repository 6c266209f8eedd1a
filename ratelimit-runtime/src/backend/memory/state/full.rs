//! The general form of the state. It holds several limits of any algorithm and rate, limits
//! replaced at run time or read at each call, and counted denials.
//!
//! The state describes itself, so each part can be read by a limit that has changed. If a limit's
//! algorithm changes, the permits taken at that moment count as taken then.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::algorithm::Rule;
use crate::algorithm::offences::{Backoff, Offences};
use crate::algorithm::token_bucket::TokenBucket;
use crate::limit::{Algorithm, MAX_LIMITS};
use crate::rt::clock::{Now, nanos};
use smallvec::{SmallVec, smallvec};

use super::super::holds::Hold;
use super::fixed::Fixed;
use super::window::{Groups, Window};
use super::words::{self, Layout, Words};
use super::{Call, Left, NEVER, Permit, Standing, State, Tat, UNDECIDED, Verdict, position_u8, take_bucket};
use crate::queue::Ahead;

/// One allocation, made by the first call.
#[derive(Debug, Default)]
pub(crate) struct Full(Option<Box<Parts<[Part]>>>);

#[derive(Debug)]
struct Parts<P: ?Sized> {
    offences: Offences,
    /// No permit lasts longer than this, by the limits of the calls.
    idle_at: u64,
    /// The last call was denied until this time.
    denied_until: u64,
    limits: P,
}

#[derive(Clone, Debug)]
pub(crate) enum Part {
    Token(TokenBucket),
    Fixed(Fixed),
    Window(Window),
}

/// What windows depend on besides the call's rules.
#[derive(Debug)]
pub(crate) struct Forms {
    groups: Box<[Groups]>,
    backoff: Option<Backoff>,
    written: Box<[Rule]>,
    /// How a few words hold the limits as written, if they can.
    layout: Option<Layout>,
    /// Limits are read at each call, or were replaced: the limits as written cannot judge the
    /// buckets.
    varies: AtomicBool,
}

impl Forms {
    pub(crate) fn new(rules: &[Rule], backoff: Option<Backoff>, varies: bool) -> Forms {
        let layout = if varies { None } else { Layout::of(rules, backoff.as_ref()) };
        let groups = rules.iter().map(|rule| Groups::new(rule, varies)).collect();
        Forms { groups, backoff, written: rules.into(), layout, varies: AtomicBool::new(varies) }
    }

    /// The same as [`new`](Forms::new) for one sliding window without `backoff`.
    pub(crate) fn of_window(rule: &Rule) -> Forms {
        let groups = Box::new([Groups::new(rule, false)]);
        Forms { groups, backoff: None, written: Box::new([*rule]), layout: None, varies: AtomicBool::new(false) }
    }

    /// Prepares for calls by `rules`.
    #[inline]
    pub(crate) fn expect(&self, rules: &[Rule]) {
        self.groups.iter().zip(rules).for_each(|(groups, rule)| groups.expect(rule));
    }

    /// What the windows of each limit as written depend on.
    pub(crate) fn groups(&self) -> &[Groups] {
        &self.groups
    }

    /// The limits as written.
    #[inline]
    pub(crate) fn written(&self) -> &[Rule] {
        &self.written
    }

    /// A call by the limits as written.
    #[inline]
    pub(crate) fn written_call(&self, cost: u32) -> Call<'_> {
        Call { rules: &self.written, backoff: self.backoff.as_ref(), cost, floor: Hold::NONE }
    }

    #[inline]
    pub(crate) fn layout(&self) -> Option<&Layout> {
        self.layout.as_ref()
    }

    /// Prepares for calls by other limits, from now on.
    pub(crate) fn vary(&self) {
        self.varies.store(true, Ordering::Relaxed);
    }

    #[inline]
    pub(crate) fn varies(&self) -> bool {
        self.varies.load(Ordering::Relaxed)
    }

    #[inline]
    pub(crate) fn of(&self, position: usize) -> &Groups {
        // A replacement can have more limits than were written. The additional ones are judged by
        // the groups of the first.
        self.groups.get(position).unwrap_or(&self.groups[0])
    }
}

impl Part {
    pub(crate) fn idle(algorithm: Algorithm) -> Part {
        match algorithm {
            Algorithm::SlidingWindow => Part::Window(Window::idle()),
            Algorithm::TokenBucket => Part::Token(TokenBucket::default()),
            Algorithm::FixedWindow => Part::Fixed(Fixed::default()),
        }
    }

    fn is_of(&self, algorithm: Algorithm) -> bool {
        matches!(
            (self, algorithm),
            (Part::Window(_), Algorithm::SlidingWindow)
                | (Part::Token(_), Algorithm::TokenBucket)
                | (Part::Fixed(_), Algorithm::FixedWindow)
        )
    }

    /// When `cost` permits fit, and the time of a window's newest permit. [`NEVER`] also if the part
    /// is of another algorithm.
    #[inline(never)]
    fn judge(&mut self, groups: &Groups, rule: &Rule, now: u64, cost: u32) -> (u64, u64) {
        if cost > rule.capacity() {
            return (NEVER, 0);
        }
        match (self, rule.limit.algorithm()) {
            (Part::Window(window), Algorithm::SlidingWindow) => {
                window.fits_now_at(groups, rule, Now::exactly(now), cost)
            }
            (Part::Token(bucket), Algorithm::TokenBucket) if bucket.unit == rule.permit() => {
                (bucket.earliest(rule, now, cost), 0)
            }
            (Part::Token(bucket), Algorithm::TokenBucket) => judge_converted(bucket, rule, now, cost),
            (Part::Fixed(fixed), Algorithm::FixedWindow) => (fixed.fits_at(rule, now, cost), 0),
            _ => (NEVER, 0),
        }
    }

    fn fits_at(&self, groups: &Groups, rule: &Rule, now: Now, cost: u32) -> u64 {
        match self {
            Part::Token(bucket) => bucket.earliest(rule, now.earliest, cost),
            Part::Fixed(fixed) => fixed.fits_at(rule, now.earliest, cost),
            Part::Window(window) => window.fits_now_at(groups, rule, now, cost).0,
        }
    }

    /// Records permits that fit.
    #[inline(never)]
    fn charge(&mut self, groups: &Groups, rule: &Rule, now: Now, cost: u32) {
        match self {
            // In a function of its own, so that the others save no registers.
            Part::Window(window) => charge_window(window, groups, rule, now, cost),
            Part::Token(bucket) => bucket.charge(rule, rule.recorded(now), cost),
            Part::Fixed(fixed) => fixed.charge(rule, now.earliest, cost),
        }
    }

    /// Takes `cost` permits, from 1 to the capacity, if they fit.
    #[expect(clippy::inline_always, reason = "most of a decision")]
    #[inline(always)]
    fn take(&mut self, forms: &Forms, rule: &Rule, now: Now, cost: u32) -> Verdict {
        match self {
            Part::Window(window) => window.take_now(forms.of(0), rule, now, cost),
            Part::Token(bucket) => {
                bucket.convert(rule);
                take_bucket(bucket, rule, now, cost)
            }
            Part::Fixed(fixed) => fixed.take(rule, now, cost),
        }
    }

    fn refund(&mut self, forms: &Forms, position: usize, rule: &Rule, now: Now, permit: Permit) {
        match self {
            Part::Token(bucket) => bucket.refund(rule, now.latest, permit.at, permit.cost),
            Part::Fixed(fixed) => fixed.refund(rule, permit),
            Part::Window(window) => window.refund(forms.of(position), 0, rule, now, permit),
        }
    }

    #[expect(clippy::inline_always, reason = "a caller may need only one of the two")]
    #[inline(always)]
    fn left(&self, forms: &Forms, position: usize, rule: &Rule, now: Now) -> (u32, u64) {
        match self {
            Part::Token(bucket) => (bucket.remaining(rule, now.latest), bucket.fresh_at(rule)),
            Part::Fixed(fixed) => (fixed.remaining(rule, now.earliest), fixed.idle_at(rule)),
            Part::Window(window) => window.left(forms.of(position), 0, rule, now),
        }
    }

    /// When all permits that were taken until `now` are idle.
    #[expect(clippy::inline_always, reason = "most of a decision")]
    #[inline(always)]
    fn lasts_until(&self, rule: &Rule, now: Now) -> u64 {
        let until = now.latest.saturating_add(rule.lasts());
        match self {
            // A debt above the capacity, from a larger bucket, takes longer to refill.
            Part::Token(bucket) if bucket.debt > rule.full() => until.max(bucket.fresh_at(rule)),
            _ => until,
        }
    }

    fn idle_at(&self, forms: &Forms, position: usize, rule: &Rule) -> u64 {
        match self {
            Part::Token(bucket) => bucket.fresh_at(rule),
            Part::Fixed(fixed) => fixed.idle_at(rule),
            Part::Window(window) => window.idle_at(forms.of(position), 0, rule),
        }
    }

    /// When a bucket or a fixed window is idle by a limit that may not be the last one that judged it.
    fn idle_by(&self, rule: &Rule) -> u64 {
        match (self, rule.limit.algorithm()) {
            (Part::Token(bucket), Algorithm::TokenBucket) => bucket.converted(rule).fresh_at(rule),
            (Part::Fixed(fixed), Algorithm::FixedWindow) => fixed.idle_at(rule),
            _ => 0,
        }
    }

    /// The permits that count as taken at `now` in a period of `rule`, if this part is of another
    /// algorithm.
    fn taken(&self, groups: &Groups, rule: &Rule, now: Now) -> u32 {
        let taken = match self {
            Part::Token(bucket) => bucket.permits_missing(&groups.written, now.earliest),
            Part::Fixed(fixed) => return if fixed.idle_at(rule) > now.earliest { fixed.taken } else { 0 },
            Part::Window(window) => window.permits_since(groups, now.earliest.saturating_sub(rule.per())),
        };
        u32::try_from(taken).unwrap_or(u32::MAX)
    }
}

#[inline(never)]
fn charge_window(window: &mut Window, groups: &Groups, rule: &Rule, now: Now, cost: u32) {
    window.charge_now(groups, rule, now, cost);
}

#[cold]
#[inline(never)]
fn judge_converted(bucket: &mut TokenBucket, rule: &Rule, now: u64, cost: u32) -> (u64, u64) {
    bucket.convert(rule);
    (bucket.earliest(rule, now, cost), 0)
}

fn boxed(offences: Offences, limits: SmallVec<[Part; 1]>) -> Option<Box<Parts<[Part]>>> {
    fn of<const N: usize>(offences: Offences, limits: SmallVec<[Part; 1]>) -> Option<Box<Parts<[Part]>>> {
        let limits: [Part; N] = limits.into_vec().try_into().ok()?;
        Some(Box::new(Parts { offences, idle_at: 0, denied_until: 0, limits }))
    }
    const { assert!(MAX_LIMITS == 8) };
    match limits.len() {
        1 => of::<1>(offences, limits),
        2 => of::<2>(offences, limits),
        3 => of::<3>(offences, limits),
        4 => of::<4>(offences, limits),
        5 => of::<5>(offences, limits),
        6 => of::<6>(offences, limits),
        7 => of::<7>(offences, limits),
        _ => of::<8>(offences, limits),
    }
}

/// Whether a call's permits were taken.
pub(crate) enum Judged {
    /// They are recorded at this time.
    Admitted(u64),
    /// `denying` is the limit that fits last, at `until`; without it, only a block denies the call.
    Denied {
        until: u64,
        denying: Option<usize>,
    },
    Undecided,
}

impl Full {
    /// The state that `words` held, by the limits they were written by.
    pub(crate) fn of_words<const N: usize>(words: &Words<N>, layout: &Layout, rules: &[Rule], now: Now) -> Full {
        let part = |(position, rule): (usize, &Rule)| match words.part(layout, position, rule) {
            words::Part::Tat(tat) => Part::Token(tat.bucket(rule, now.earliest)),
            words::Part::Bucket(bucket) => Part::Token(bucket),
            words::Part::Fixed(fixed) => Part::Fixed(fixed.as_late_as_possible(rule, now.earliest)),
        };
        let mut full = Full(boxed(Offences::default(), rules.iter().enumerate().map(part).collect()));
        if let Some(parts) = &mut full.0 {
            let idle_at = |(position, rule)| words.idle_at(layout, position, rule);
            parts.idle_at = rules.iter().enumerate().map(idle_at).max().unwrap_or(0);
        }
        full
    }

    pub(crate) fn of_token(bucket: TokenBucket) -> Full {
        Full::of_part(Part::Token(bucket))
    }

    pub(crate) fn of_window(window: Window) -> Full {
        Full::of_part(Part::Window(window))
    }

    fn of_part(part: Part) -> Full {
        Full(boxed(Offences::default(), smallvec![part]))
    }

    /// The state of these limits, with the penalties, the end of the last denial, and the time at
    /// which it is idle.
    pub(super) fn of_parts(limits: SmallVec<[Part; 1]>, offences: Offences, denied_until: u64, idle_at: u64) -> Full {
        let mut full = Full(if limits.is_empty() { None } else { boxed(offences, limits) });
        if let Some(parts) = &mut full.0 {
            (parts.denied_until, parts.idle_at) = (denied_until, idle_at);
        }
        full
    }

    /// The states of the limits, and the end of the last denial.
    pub(super) fn parts(&self) -> (&[Part], u64) {
        self.0.as_ref().map_or((&[], 0), |parts| (&parts.limits, parts.denied_until))
    }

    /// The only window.
    pub(crate) fn take_window(&mut self) -> Option<Window> {
        match self.0.as_mut().map(|parts| &mut parts.limits) {
            None => Some(Window::idle()),
            Some([Part::Window(window)]) => Some(std::mem::replace(window, Window::idle())),
            Some(_) => None,
        }
    }

    /// The state in words, by the limits that they will be read by.
    pub(crate) fn words<const N: usize>(&self, layout: &Layout, rules: &[Rule]) -> Option<Words<N>> {
        let mut words = Words::idle();
        let Some(parts) = &self.0 else { return Some(words) };
        if !self.is_of(rules) {
            return None;
        }
        for (position, (part, rule)) in parts.limits.iter().zip(rules).enumerate() {
            let part = match part {
                Part::Token(bucket) if layout.is_tat(position) => words::Part::Tat(Tat::of(bucket, rule)?),
                Part::Token(bucket) => words::Part::Bucket(bucket.converted(rule)),
                Part::Fixed(fixed) if fixed.taken > rule.capacity() => return None,
                Part::Fixed(fixed) => words::Part::Fixed(*fixed),
                Part::Window(_) => return None,
            };
            words.put(layout, position, rule, &part);
        }
        Some(words)
    }

    /// The only token bucket as one number.
    pub(crate) fn tat(&self, rule: &Rule) -> Option<Tat> {
        match self.0.as_ref().map(|parts| &parts.limits) {
            None => Some(Tat(0)),
            Some([Part::Token(bucket)]) => Tat::of(bucket, rule),
            Some(_) => None,
        }
    }

    /// The times of the single permits of the only window.
    pub(crate) fn singles(&self, forms: &Forms) -> Option<SmallVec<[u64; 64]>> {
        match self.0.as_ref().map(|parts| &parts.limits) {
            None => Some(SmallVec::new()),
            Some([Part::Window(window)]) => window.singles(forms.of(0)),
            Some(_) => None,
        }
    }

    /// The only limit of a call that takes permits, no more than it has, while no penalty is on record.
    #[expect(clippy::inline_always, reason = "most of a decision")]
    #[inline(always)]
    pub(crate) fn plain_limit<'a>(&self, call: &Call<'a>) -> Option<&'a Rule> {
        let [rule] = call.rules else { return None };
        let is_plain = call.backoff.is_none() || self.offended().count == 0;
        ((1..=rule.capacity()).contains(&call.cost) && is_plain).then_some(rule)
    }

    /// Takes any number of permits from all limits, or from none.
    #[inline(never)]
    fn take_some(&mut self, forms: &Forms, call: &Call<'_>, now: Now) -> (Verdict, Left) {
        let Call { rules, backoff, cost, .. } = *call;
        match self.plain_limit(call) {
            _ if cost == 0 => UNDECIDED,
            Some(rule) => match self.take_one(forms, rule, now, cost) {
                Verdict::Denied { until, .. } => self.deny(forms, call, now, until, Some(0)),
                verdict => (verdict, Left::default()),
            },
            None => self.take_now(forms, rules, backoff, now, cost),
        }
    }

    /// Takes `cost` permits, from 1 to the capacity, by the only limit. Undecided if the state is not of
    /// that limit's algorithm; nothing has changed then.
    #[expect(clippy::inline_always, reason = "most of a decision")]
    #[inline(always)]
    pub(crate) fn take_one(&mut self, forms: &Forms, rule: &Rule, now: Now, cost: u32) -> Verdict {
        let Some(parts) = &mut self.0 else { return Verdict::Undecided };
        let [part] = &mut parts.limits else { return Verdict::Undecided };
        if !part.is_of(rule.limit.algorithm()) {
            return Verdict::Undecided;
        }
        let verdict = part.take(forms, rule, now, cost);
        if forms.varies() && verdict != Verdict::Undecided {
            parts.denied_until = if let Verdict::Denied { until, .. } = verdict { until } else { 0 };
            parts.idle_at = parts.idle_at.max(part.lasts_until(rule, now));
        }
        verdict
    }

    /// Takes 1 or more permits from all limits, or from none. Tells what a limit that denies has left.
    #[expect(clippy::inline_always, reason = "most of a decision")]
    #[inline(always)]
    pub(crate) fn take_now(
        &mut self,
        forms: &Forms,
        rules: &[Rule],
        backoff: Option<&Backoff>,
        now: Now,
        cost: u32,
    ) -> (Verdict, Left) {
        let call = Call { rules, backoff, cost, floor: Hold::NONE };
        match self.admit_now(forms, &call, now) {
            Judged::Admitted(at) => (Verdict::Admitted { at }, Left::default()),
            Judged::Undecided => UNDECIDED,
            Judged::Denied { until, denying } if backoff.is_none() && cost == 1 && !forms.varies() => {
                // A limit that cannot admit one permit has none left.
                let position = position_u8(denying.unwrap_or(0));
                (Verdict::Denied { until, position }, Left { position, ..Left::default() })
            }
            Judged::Denied { until, denying } => self.deny(forms, &call, now, until, denying),
        }
    }

    /// Takes 1 or more permits from all limits, or from none. Records no denial.
    #[expect(clippy::inline_always, reason = "most of a decision")]
    #[inline(always)]
    pub(crate) fn admit_now(&mut self, forms: &Forms, call: &Call<'_>, now: Now) -> Judged {
        let Call { rules, backoff, cost, .. } = *call;
        let Some(parts) = &mut self.0 else { return Judged::Undecided };
        let Some(groups) = forms.groups.get(..rules.len()) else { return Judged::Undecided };
        if parts.limits.len() != rules.len() {
            return Judged::Undecided;
        }
        let (mut until, mut denying, mut latest) = (now.earliest, None, now.latest);
        for (position, ((part, rule), groups)) in parts.limits.iter_mut().zip(rules).zip(groups).enumerate() {
            let (fits_at, newest) = part.judge(groups, rule, now.earliest, cost);
            latest = latest.max(newest);
            if fits_at > until {
                (until, denying) = (fits_at, Some(position));
            }
        }
        if until == NEVER {
            return Judged::Undecided;
        }
        let is_blocked = backoff.is_some_and(|backoff| {
            let offences = &parts.offences;
            offences.count > 0 && offences.until > until && offences.fresh_at(backoff) > now.earliest
        });
        if is_blocked || denying.is_some() {
            return Judged::Denied { until, denying };
        }
        let now = Now { latest, ..now };
        for ((part, rule), groups) in parts.limits.iter_mut().zip(rules).zip(groups) {
            part.charge(groups, rule, now, cost);
        }
        if forms.varies() {
            self.keep(call, now, 0);
        }
        Judged::Admitted(latest)
    }

    /// Denies a call, see [`Judged::Denied`].
    #[inline(never)]
    fn deny(
        &mut self,
        forms: &Forms,
        call: &Call<'_>,
        now: Now,
        mut until: u64,
        denying: Option<usize>,
    ) -> (Verdict, Left) {
        let Some(parts) = &mut self.0 else { return UNDECIDED };
        let Parts { offences, limits, .. } = &mut **parts;
        let mut is_blocked = false;
        if let Some(backoff) = call.backoff {
            is_blocked = offences.are_banned(backoff, now.earliest);
            if offences.until > until && offences.fresh_at(backoff) > now.earliest {
                // The block tells of the limit with the fewest permits left.
                let [_] = call.rules else { return UNDECIDED };
                until = offences.until;
            }
            if until > now.latest {
                offences.trim(backoff, now.earliest);
                offences.deny(backoff, now.earliest);
                until = until.max(offences.until);
            }
        }
        let index = denying.unwrap_or(0);
        let remaining = match denying {
            Some(_) if call.cost == 1 => 0,
            _ => limits[index].left(forms, index, &call.rules[index], now).0,
        };
        let position = position_u8(index);
        self.note(call, forms, now, until);
        (Verdict::Denied { until, position }, Left { remaining, position, is_blocked, idle_at: 0 })
    }

    /// When the whole state is idle: by the limits as written, the limits of the calls since they vary,
    /// and the longest period so far.
    pub(super) fn idle_at_last(&self, forms: &Forms) -> u64 {
        let Some(parts) = &self.0 else { return 0 };
        // Calls note a time as soon as limits vary. Before that, all were by the limits as written.
        let is_noted = forms.varies() && parts.idle_at > 0;
        let mut idle_at = parts.idle_at;
        if !is_noted && self.is_of(&forms.written) {
            idle_at = forms.written_call(1).idle_at(self, forms);
            if !forms.varies() {
                return idle_at;
            }
        }
        // The limits as written may apply again, and may last longer than those of the calls that noted
        // a time.
        let parts = parts.limits.iter().enumerate().map(|(position, part)| match (part, forms.of(position)) {
            (Part::Window(window), groups) => window.until(groups.longest()),
            (part, groups) => groups.as_written().map_or(0, |written| part.idle_by(written)),
        });
        parts.max().unwrap_or(0).max(idle_at)
    }

    #[inline]
    fn is_of(&self, rules: &[Rule]) -> bool {
        self.0.as_ref().is_some_and(|parts| {
            parts.limits.len() == rules.len()
                && parts.limits.iter().zip(rules).all(|(part, rule)| part.is_of(rule.limit.algorithm()))
        })
    }

    #[inline]
    fn part(&self, position: usize) -> Option<&Part> {
        self.0.as_ref()?.limits.get(position)
    }

    #[inline]
    fn part_mut(&mut self, position: usize) -> Option<&mut Part> {
        self.0.as_mut()?.limits.get_mut(position)
    }

    /// See [`note`](State::note).
    #[inline(never)]
    fn keep(&mut self, call: &Call<'_>, now: Now, denied_until: u64) {
        let Some(parts) = &mut self.0 else { return };
        parts.denied_until = denied_until;
        let lasts = call.backoff.map_or(0, |backoff| nanos(backoff.max()));
        let mut idle_at = parts.idle_at.max(now.latest.saturating_add(lasts));
        for (part, rule) in parts.limits.iter().zip(call.rules) {
            idle_at = idle_at.max(part.lasts_until(rule, now));
        }
        parts.idle_at = idle_at;
    }

    #[cold]
    #[inline(never)]
    fn convert(&mut self, forms: &Forms, rules: &[Rule], now: Now) {
        let (offences, mut before): (_, SmallVec<[Part; 1]>) = match &mut self.0 {
            Some(parts) => {
                let take = |part: &mut Part| std::mem::replace(part, Part::Fixed(Fixed::default()));
                (parts.offences, parts.limits.iter_mut().map(take).collect())
            }
            None => (Offences::default(), SmallVec::new()),
        };
        before.reverse();
        let part = |(position, rule): (usize, &Rule)| {
            let algorithm = rule.limit.algorithm();
            let Some(part) = before.pop() else { return Part::idle(algorithm) };
            if part.is_of(algorithm) {
                return part;
            }
            match (part.taken(forms.of(position), rule, now), algorithm) {
                (0, _) => Part::idle(algorithm),
                (taken, Algorithm::SlidingWindow) => Part::Window(Window::One { permits: taken, at: now.latest }),
                (taken, Algorithm::FixedWindow) => Part::Fixed(Fixed { last: now.earliest, taken }),
                (taken, Algorithm::TokenBucket) => {
                    let debt = u64::from(taken).saturating_mul(rule.permit()).min(u64::MAX / 2);
                    Part::Token(TokenBucket { last: now.latest, debt, unit: rule.permit(), ..TokenBucket::default() })
                }
            }
        };
        let noted = self.0.as_ref().map(|parts| parts.idle_at);
        self.0 = boxed(offences, rules.iter().enumerate().map(part).collect());
        if let (Some(parts), Some(idle_at)) = (&mut self.0, noted) {
            parts.idle_at = idle_at;
            let call = Call { rules, backoff: forms.backoff.as_ref(), cost: 0, floor: Hold::NONE };
            self.note(&call, forms, now, 0);
        }
    }
}

impl Clone for Full {
    fn clone(&self) -> Full {
        let (limits, denied_until) = self.parts();
        let idle_at = self.0.as_ref().map_or(0, |parts| parts.idle_at);
        Full::of_parts(limits.into(), self.offended(), denied_until, idle_at)
    }
}

impl State for Full {
    type Form = Forms;

    fn idle() -> Full {
        Full(None)
    }

    fn newest(&self) -> u64 {
        let newest = |part: &Part| if let Part::Window(window) = part { window.newest() } else { 0 };
        self.0.as_ref().and_then(|parts| parts.limits.iter().map(newest).max()).unwrap_or(0)
    }

    #[inline]
    fn prepare(&mut self, forms: &Forms, rules: &[Rule], now: Now) {
        if !self.is_of(rules) {
            self.convert(forms, rules, now);
        }
        let Some(parts) = &mut self.0 else { return };
        for (part, rule) in parts.limits.iter_mut().zip(rules) {
            if let Part::Token(bucket) = part {
                bucket.convert(rule);
            }
        }
    }

    fn is_decidable(&self, _: &Forms, _: Now) -> bool {
        true
    }

    #[inline]
    fn fits_at(&self, forms: &Forms, position: usize, rule: &Rule, now: Now, cost: u32) -> u64 {
        self.part(position).map_or(now.earliest, |part| part.fits_at(forms.of(position), rule, now, cost))
    }

    fn fits_behind(&self, forms: &Forms, position: usize, rule: &Rule, now: Now, cost: u32, ahead: Ahead) -> u64 {
        match self.part(position) {
            Some(Part::Token(bucket)) => bucket.fits_behind(rule, now.earliest, cost, ahead.permits),
            Some(Part::Fixed(fixed)) => fixed.fits_behind(rule, now.earliest, cost, ahead),
            Some(Part::Window(window)) => window.fits_behind(forms.of(position), 0, rule, now, cost, ahead),
            None => now.earliest,
        }
    }

    #[inline]
    fn charge(&mut self, forms: &Forms, position: usize, rule: &Rule, now: Now, cost: u32) {
        if let Some(part) = self.part_mut(position) {
            part.charge(forms.of(position), rule, now, cost);
        }
    }

    fn refund(&mut self, forms: &Forms, position: usize, rule: &Rule, now: Now, permit: Permit) {
        if let Some(part) = self.part_mut(position) {
            part.refund(forms, position, rule, now, permit);
        }
    }

    #[expect(clippy::inline_always, reason = "a caller may need only one of the two")]
    #[inline(always)]
    fn left(&self, forms: &Forms, position: usize, rule: &Rule, now: Now) -> (u32, u64) {
        self.part(position).map_or((rule.capacity(), 0), |part| part.left(forms, position, rule, now))
    }

    fn idle_at(&self, forms: &Forms, position: usize, rule: &Rule) -> u64 {
        self.part(position).map_or(0, |part| part.idle_at(forms, position, rule))
    }

    #[inline]
    fn note(&mut self, call: &Call<'_>, forms: &Forms, now: Now, denied_until: u64) {
        if forms.varies() {
            self.keep(call, now, denied_until);
        }
    }

    fn are_idle<'a>(forms: &'a Forms, _: &'a [Rule], by: u64) -> impl Fn(&Full) -> bool + 'a {
        move |state| state.idle_at_last(forms) <= by
    }

    fn idle_by(&self, forms: &Forms, _: &[Rule]) -> u64 {
        self.idle_at_last(forms)
    }

    fn standing(&self, forms: &Forms, _: &[Rule], now: Now) -> Standing {
        let denied_until = self.0.as_ref().map_or(0, |parts| parts.denied_until);
        let is_denying = denied_until > now.earliest
            || !forms.varies()
                && self.is_of(&forms.written)
                && matches!(forms.written_call(1).judge(self, forms, now), Verdict::Denied { .. });
        Standing { is_denying, idle_at: self.idle_at_last(forms) }
    }

    #[inline]
    fn take_all(&mut self, forms: &Forms, call: &Call<'_>, now: Now) -> (Verdict, Left) {
        self.take_some(forms, call, now)
    }

    fn offences(&mut self) -> Option<&mut Offences> {
        self.0.as_mut().map(|parts| &mut parts.offences)
    }

    #[inline]
    fn offended(&self) -> Offences {
        self.0.as_ref().map_or_else(Offences::default, |parts| parts.offences)
    }
}
