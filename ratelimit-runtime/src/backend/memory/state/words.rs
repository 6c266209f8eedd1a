//! Token buckets and fixed windows in one or two words each, read by the limits as written.

use crate::algorithm::Rule;
use crate::algorithm::offences::{Backoff, Offences};
use crate::algorithm::token_bucket::TokenBucket;
use crate::limit::Algorithm;
use crate::rt::clock::Now;

use super::fixed::Fixed;
use super::{Call, Left, Permit, State, Tat, UNDECIDED, Verdict, is_admitted, take_bucket};
use crate::queue::Ahead;

/// The state of one to three limits.
#[derive(Clone, Debug)]
pub(crate) struct Words<const N: usize>(pub(in super::super) [u64; N]);

/// The most words of one state.
const MOST: usize = 3;
/// Room for as many formats, rounded up so that an index is masked instead of divided.
const PARTS: usize = 4;

/// The format of one limit's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Code {
    /// A theoretical arrival time.
    Tat,
    /// The time of the last change, and the debt at that time.
    Bucket,
    /// The number of a window, with its count in the low `bits` bits.
    Window { bits: u32 },
    /// The time of the last charge, and the count.
    Count,
}

impl Layout {
    /// Of a single limit in one word.
    pub(crate) const TAT: Layout = Layout { parts: [(Code::Tat, 0); PARTS], words: 1, has_tat: true };
    /// Of a single limit in two words.
    pub(crate) const BUCKET: Layout = Layout { parts: [(Code::Bucket, 0); PARTS], words: 2, has_tat: false };

    /// Of a single fixed window in one word, with its count in `bits` bits.
    #[inline]
    pub(crate) const fn window(bits: u32) -> Layout {
        Layout { parts: [(Code::Window { bits }, 0); PARTS], words: 1, has_tat: false }
    }
}

/// The formats of a single limit that have their own fast path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Word {
    Tat,
    Window {
        bits: u32,
    },
    /// Two words.
    Bucket,
}

/// Maps limits to words.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    parts: [(Code, usize); PARTS],
    words: usize,
    has_tat: bool,
}

impl Layout {
    /// The layout of these limits, if they fit.
    pub(crate) fn of(rules: &[Rule], backoff: Option<&Backoff>) -> Option<Layout> {
        if rules.len() > MOST || backoff.is_some() {
            return None;
        }
        let (mut parts, mut words, mut has_tat) = ([(Code::Tat, 0); PARTS], 0, false);
        for (part, rule) in parts.iter_mut().zip(rules) {
            let code = match rule.limit.algorithm() {
                // A calendar's windows have no numbers.
                _ if rule.capacity() == 0 || rule.is_calendar() => return None,
                Algorithm::TokenBucket if Tat::fits(rule) => Code::Tat,
                Algorithm::TokenBucket => Code::Bucket,
                Algorithm::FixedWindow => match Fixed::bits(rule) {
                    0 => Code::Count,
                    bits => Code::Window { bits },
                },
                Algorithm::SlidingWindow => return None,
            };
            *part = (code, words);
            has_tat |= code == Code::Tat;
            words += if matches!(code, Code::Tat | Code::Window { .. }) { 1 } else { 2 };
        }
        (words <= MOST).then_some(Layout { parts, words, has_tat })
    }

    /// The format of a state's words, if they belong to a single limit.
    pub(crate) fn word(&self) -> Option<Word> {
        match (self.parts[0].0, self.words) {
            (Code::Tat, 1) => Some(Word::Tat),
            (Code::Window { bits }, 1) => Some(Word::Window { bits }),
            (Code::Bucket, 2) => Some(Word::Bucket),
            _ => None,
        }
    }

    #[inline]
    fn part(&self, position: usize) -> (Code, usize) {
        self.parts[position % PARTS]
    }

    /// Whether the limit at `position` is a theoretical arrival time.
    pub(super) fn is_tat(&self, position: usize) -> bool {
        self.part(position).0 == Code::Tat
    }

    /// The number of words of a state.
    pub(crate) fn words(&self) -> usize {
        self.words
    }
}

/// One limit's state, decoded.
pub(super) enum Part {
    Tat(Tat),
    Bucket(TokenBucket),
    Fixed(Fixed),
}

impl<const N: usize> Words<N> {
    #[inline]
    fn word(&self, index: usize) -> u64 {
        self.0.get(index).copied().unwrap_or_default()
    }

    #[inline]
    fn set(&mut self, index: usize, word: u64) {
        if let Some(place) = self.0.get_mut(index) {
            *place = word;
        }
    }

    #[expect(clippy::inline_always, reason = "most paths know the layout")]
    #[inline(always)]
    pub(super) fn part(&self, layout: &Layout, position: usize, rule: &Rule) -> Part {
        let (code, at) = layout.part(position);
        match code {
            Code::Tat => Part::Tat(Tat(self.word(at))),
            Code::Bucket => Part::Bucket(TokenBucket {
                last: self.word(at),
                debt: self.word(at + 1),
                unit: rule.permit(),
                ..TokenBucket::default()
            }),
            Code::Window { bits } => Part::Fixed(Fixed::from_word(rule, bits, self.word(at))),
            #[expect(clippy::cast_possible_truncation, reason = "it was a count")]
            Code::Count => Part::Fixed(Fixed { last: self.word(at), taken: self.word(at + 1) as u32 }),
        }
    }

    #[expect(clippy::inline_always, reason = "most paths know the layout")]
    #[inline(always)]
    pub(super) fn put(&mut self, layout: &Layout, position: usize, rule: &Rule, part: &Part) {
        let (code, at) = layout.part(position);
        match (code, part) {
            (_, Part::Tat(tat)) => self.set(at, tat.0),
            (Code::Window { bits }, Part::Fixed(fixed)) => self.set(at, fixed.to_word(rule, bits)),
            (_, Part::Fixed(Fixed { last, taken })) => {
                self.set(at, *last);
                self.set(at + 1, (*taken).into());
            }
            (_, Part::Bucket(bucket)) => {
                self.set(at, bucket.last);
                self.set(at + 1, bucket.debt);
            }
        }
    }
}

#[expect(clippy::inline_always, reason = "most of a decision, which is to stay in registers")]
impl<const N: usize> Words<N> {
    /// Takes `cost` permits, from 1 to the capacity, of the first limit.
    #[inline(always)]
    pub(crate) fn take_now(&mut self, layout: &Layout, rule: &Rule, now: Now, cost: u32) -> Verdict {
        self.take_of((layout.part(0).0, 0), rule, now, cost)
    }

    /// [`take_now`](Words::take_now), if `others` are taken after it. If not, the call is undecided.
    #[inline(always)]
    pub(crate) fn take_with(
        &mut self,
        layout: &Layout,
        rule: &Rule,
        now: Now,
        cost: u32,
        others: impl FnOnce() -> bool,
    ) -> Verdict {
        let before = self.0;
        let verdict = self.take_now(layout, rule, now, cost);
        if is_admitted(verdict) && !others() {
            self.0 = before;
            return Verdict::Undecided;
        }
        verdict
    }

    /// Takes `cost` permits, from 1 to the capacity, of each limit, or of none. A denial is left to
    /// the path that tells which of them denies.
    #[inline(always)]
    pub(crate) fn take_several(&mut self, layout: &Layout, rules: &[Rule], now: Now, cost: u32) -> Verdict {
        let before = self.0;
        for (position, rule) in rules.iter().enumerate() {
            if !is_admitted(self.take_of(layout.part(position), rule, now, cost)) {
                self.0 = before;
                return Verdict::Undecided;
            }
        }
        Verdict::Admitted { at: now.latest }
    }

    /// Takes `cost` permits, from 1 to the capacity, of the limit in this format at this word.
    #[inline(always)]
    fn take_of(&mut self, (code, at): (Code, usize), rule: &Rule, now: Now, cost: u32) -> Verdict {
        match (code, self.0.get_mut(at..)) {
            (Code::Tat, Some([word, ..])) => {
                let mut tat = Tat(*word);
                let verdict = tat.take(rule, now, cost);
                *word = tat.0;
                verdict
            }
            (Code::Bucket, Some([last, debt, ..])) => {
                let mut bucket =
                    TokenBucket { last: *last, debt: *debt, unit: rule.permit(), ..TokenBucket::default() };
                let verdict = take_bucket(&mut bucket, rule, now, cost);
                (*last, *debt) = (bucket.last, bucket.debt);
                verdict
            }
            (Code::Window { bits }, Some([word, ..])) => match Fixed::take_in(word, rule, bits, now.earliest, cost) {
                Ok(()) => Verdict::Admitted { at: now.latest },
                Err(until) => Verdict::Denied { until, position: 0 },
            },
            (Code::Count, Some([last, taken, ..])) => {
                #[expect(clippy::cast_possible_truncation, reason = "it was a count")]
                let mut fixed = Fixed { last: *last, taken: *taken as u32 };
                let verdict = fixed.take(rule, now, cost);
                (*last, *taken) = (fixed.last, fixed.taken.into());
                verdict
            }
            _ => Verdict::Undecided,
        }
    }
}

impl<const N: usize> State for Words<N> {
    type Form = Layout;

    fn idle() -> Words<N> {
        Words([0; N])
    }

    /// Whether the time is in the range of a word: 9 years from the start of the process.
    #[inline]
    fn is_decidable(&self, layout: &Layout, now: Now) -> bool {
        !layout.has_tat || Tat::is_in_range(now.earliest)
    }

    #[expect(clippy::inline_always, reason = "most paths know the layout")]
    #[inline(always)]
    fn fits_at(&self, layout: &Layout, position: usize, rule: &Rule, now: Now, cost: u32) -> u64 {
        if let (Code::Window { bits }, at) = layout.part(position) {
            return Fixed::take_in(&mut self.word(at), rule, bits, now.earliest, cost).err().unwrap_or(now.earliest);
        }
        match self.part(layout, position, rule) {
            Part::Tat(tat) => tat.fits_at(rule, now.earliest, cost),
            Part::Bucket(bucket) => bucket.earliest(rule, now.earliest, cost),
            Part::Fixed(fixed) => fixed.fits_at(rule, now.earliest, cost),
        }
    }

    fn fits_behind(&self, layout: &Layout, position: usize, rule: &Rule, now: Now, cost: u32, ahead: Ahead) -> u64 {
        match self.part(layout, position, rule) {
            Part::Tat(tat) => tat.bucket(rule, now.earliest).fits_behind(rule, now.earliest, cost, ahead.permits),
            Part::Bucket(bucket) => bucket.fits_behind(rule, now.earliest, cost, ahead.permits),
            Part::Fixed(fixed) => fixed.fits_behind(rule, now.earliest, cost, ahead),
        }
    }

    #[inline]
    fn charge(&mut self, layout: &Layout, position: usize, rule: &Rule, now: Now, cost: u32) {
        let mut part = self.part(layout, position, rule);
        match &mut part {
            Part::Tat(tat) => tat.charge(rule, rule.recorded(now), cost),
            Part::Bucket(bucket) => bucket.charge(rule, rule.recorded(now), cost),
            Part::Fixed(fixed) => fixed.charge(rule, now.earliest, cost),
        }
        self.put(layout, position, rule, &part);
    }

    #[expect(clippy::inline_always, reason = "most paths know the layout")]
    #[inline(always)]
    fn refund(&mut self, layout: &Layout, position: usize, rule: &Rule, now: Now, permit: Permit) {
        let mut part = self.part(layout, position, rule);
        match &mut part {
            Part::Tat(tat) => tat.refund(rule, now, permit),
            Part::Bucket(bucket) => bucket.refund(rule, now.latest, permit.at, permit.cost),
            Part::Fixed(fixed) => fixed.refund(rule, permit),
        }
        self.put(layout, position, rule, &part);
    }

    #[expect(clippy::inline_always, reason = "most paths know the layout")]
    #[inline(always)]
    fn left(&self, layout: &Layout, position: usize, rule: &Rule, now: Now) -> (u32, u64) {
        if let (Code::Window { bits }, at) = layout.part(position) {
            return Fixed::left_in(self.word(at), rule, bits, now.earliest);
        }
        match self.part(layout, position, rule) {
            Part::Tat(tat) => (tat.remaining(rule, now.latest), tat.idle_at(rule)),
            Part::Bucket(bucket) => (bucket.remaining(rule, now.latest), bucket.fresh_at(rule)),
            Part::Fixed(fixed) => (fixed.remaining(rule, now.earliest), fixed.idle_at(rule)),
        }
    }

    #[inline]
    fn idle_at(&self, layout: &Layout, position: usize, rule: &Rule) -> u64 {
        match self.part(layout, position, rule) {
            Part::Tat(tat) => tat.idle_at(rule),
            Part::Bucket(bucket) => bucket.fresh_at(rule),
            Part::Fixed(fixed) => fixed.idle_at(rule),
        }
    }

    fn offences(&mut self) -> Option<&mut Offences> {
        None
    }

    fn offended(&self) -> Offences {
        Offences::default()
    }

    #[expect(clippy::inline_always, reason = "most of a decision")]
    #[inline(always)]
    fn take_all(&mut self, layout: &Layout, call: &Call<'_>, now: Now) -> (Verdict, Left) {
        if !call.is_possible() {
            return UNDECIDED;
        }
        (self.take_several(layout, call.rules, now, call.cost), Left::default())
    }

    fn are_idle<'a>(layout: &'a Layout, written: &'a [Rule], by: u64) -> impl Fn(&Self) -> bool + 'a {
        // Avoids a division per state.
        let units = match (layout.parts[0].0, written) {
            (Code::Tat, [rule]) => Tat::units(rule, by),
            _ => None,
        };
        move |state| match (units, &state.0[..]) {
            (Some(units), [word]) => *word <= units,
            _ => written.iter().enumerate().all(|(position, rule)| match state.part(layout, position, rule) {
                Part::Tat(tat) => tat.idle_at(rule) <= by,
                Part::Bucket(bucket) => bucket.fresh_at(rule).max(bucket.last) <= by,
                // Also if all permits were given back: calls of the key may continue in the same
                // window.
                Part::Fixed(fixed) => fixed.end(rule) <= by,
            }),
        }
    }
}
