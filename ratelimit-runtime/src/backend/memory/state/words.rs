//! Token buckets and fixed windows in one or two words each, read by the limits as they were written down.

use crate::algorithm::Rule;
use crate::algorithm::offences::{Backoff, Offences};
use crate::algorithm::token_bucket::TokenBucket;
use crate::clock::Now;
use crate::limit::Algorithm;

use super::fixed::Fixed;
use super::super::queue::Ahead;
use super::{Permit, State, Tat, Verdict, bucket_take_one};

/// The state of one to three limits.
#[derive(Debug)]
pub(crate) struct Words<const N: usize>(pub(super) [u64; N]);

/// The most words of a state.
const MOST: usize = 3;

/// How one limit's state is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Code {
    /// A theoretical arrival time.
    Tat,
    /// The time of the last change, and the debt by then.
    Bucket,
    /// The number of a window, and so many bits for its count.
    Window { bits: u32 },
    /// The time of the last charge, and the count.
    Count,
}

/// Which words are which limit's.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    parts: [(Code, usize); MOST],
    words: usize,
    has_tat: bool,
}

impl Layout {
    /// The layout of these limits, if they fit.
    pub(crate) fn of(rules: &[Rule], backoff: Option<&Backoff>) -> Option<Layout> {
        if rules.len() > MOST || backoff.is_some() {
            return None;
        }
        let (mut parts, mut words, mut has_tat) = ([(Code::Tat, 0); MOST], 0, false);
        for (part, rule) in parts.iter_mut().zip(rules) {
            let code = match rule.limit.algorithm() {
                _ if rule.capacity() == 0 => return None,
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

    /// Words of a state.
    pub(crate) fn words(&self) -> usize {
        self.words
    }
}

/// One limit's state, taken apart.
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

    #[inline]
    pub(super) fn part(&self, layout: &Layout, position: usize, rule: &Rule) -> Part {
        let (code, at) = layout.parts[position % MOST];
        match code {
            Code::Tat => Part::Tat(Tat(self.word(at))),
            Code::Bucket => {
                Part::Bucket(TokenBucket { last: self.word(at), debt: self.word(at + 1), unit: rule.permit() })
            }
            Code::Window { bits } => Part::Fixed(Fixed::from_word(rule, bits, self.word(at))),
            #[expect(clippy::cast_possible_truncation, reason = "it was a count")]
            Code::Count => Part::Fixed(Fixed { last: self.word(at), taken: self.word(at + 1) as u32 }),
        }
    }

    #[inline]
    fn put(&mut self, layout: &Layout, position: usize, rule: &Rule, part: &Part) {
        let (code, at) = layout.parts[position % MOST];
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

impl<const N: usize> State for Words<N> {
    type Form = Layout;

    fn idle() -> Words<N> {
        Words([0; N])
    }

    /// The time is in a word's range: nine years from the start of the process.
    #[inline]
    fn is_decidable(&self, layout: &Layout, now: Now) -> bool {
        !layout.has_tat || Tat::is_in_range(now.earliest)
    }

    #[inline]
    fn fits_at(&self, layout: &Layout, position: usize, rule: &Rule, now: Now, cost: u32) -> u64 {
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

    fn refund(&mut self, layout: &Layout, position: usize, rule: &Rule, now: Now, permit: Permit) {
        let mut part = self.part(layout, position, rule);
        match &mut part {
            Part::Tat(tat) => tat.refund(rule, now, permit),
            Part::Bucket(bucket) => bucket.refund(rule, now.latest, permit.at, permit.cost),
            Part::Fixed(fixed) => fixed.refund(rule, permit),
        }
        self.put(layout, position, rule, &part);
    }

    #[inline]
    fn remaining(&self, layout: &Layout, position: usize, rule: &Rule, now: Now) -> u32 {
        match self.part(layout, position, rule) {
            Part::Tat(tat) => tat.remaining(rule, now.earliest),
            Part::Bucket(bucket) => bucket.remaining(rule, now.earliest),
            Part::Fixed(fixed) => fixed.remaining(rule, now.earliest),
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

    #[inline]
    fn take_one(&mut self, layout: &Layout, rule: &Rule, now: Now) -> Verdict {
        match (layout.parts[0].0, &mut self.0[..]) {
            (Code::Tat, [word]) => {
                let mut tat = Tat(*word);
                let verdict = tat.take(rule, now, 1);
                *word = tat.0;
                verdict
            }
            (Code::Window { bits }, [word]) => match Fixed::take_one(word, rule, bits, now.earliest) {
                Ok(()) => Verdict::Admitted { at: now.latest },
                Err(until) => Verdict::Denied { until, position: 0 },
            },
            (Code::Bucket, [last, debt]) => {
                let mut bucket = TokenBucket { last: *last, debt: *debt, unit: rule.permit() };
                let verdict = bucket_take_one(&mut bucket, rule, now);
                (*last, *debt) = (bucket.last, bucket.debt);
                verdict
            }
            (_, [last, taken]) => {
                #[expect(clippy::cast_possible_truncation, reason = "it was a count")]
                let mut fixed = Fixed { last: *last, taken: *taken as u32 };
                let verdict = fixed.take(rule, now, 1);
                (*last, *taken) = (fixed.last, fixed.taken.into());
                verdict
            }
            _ => Verdict::Undecided,
        }
    }
}
