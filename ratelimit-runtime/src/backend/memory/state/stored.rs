//! States as records by the wall clock: the form in which buckets outlive the process.

use smallvec::SmallVec;

use super::fixed::Fixed;
use super::window::{Groups, Window};
use super::words::{self, Words};
use super::{Forms, Full, Part, State, Tat};
use crate::algorithm::Rule;
use crate::algorithm::fixed_window::FixedWindow;
use crate::algorithm::offences::Offences;
use crate::algorithm::record::{self, Record};
use crate::algorithm::token_bucket::TokenBucket;
use crate::limit::Algorithm;

/// One moment by two clocks, in nanoseconds since the Unix epoch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    /// By the process's clock.
    pub(crate) now: u64,
    pub(crate) wall: u64,
}

/// The state of a bucket by the wall clock. `record.clock` is the time at which it was copied.
#[derive(Debug)]
pub(crate) struct Entry {
    /// Only the limits and the penalties.
    pub(crate) record: Record,
    /// A bit for each window that is a full log of groups.
    pub(crate) mixed: u8,
    /// Other limits than those written down judge the bucket, so `idle_at` is not theirs.
    pub(crate) varies: bool,
    /// When the whole bucket is idle.
    pub(crate) idle_at: u64,
    /// Until when the last call was denied, if the state records it.
    pub(crate) denied_until: u64,
}

/// A state that can be converted to an [`Entry`].
pub(crate) trait Stored: State + Clone {
    /// The limits, and a bit for each full log.
    fn limits(&self, form: &Self::Form, rules: &[Rule], moment: Moment) -> (SmallVec<[record::State; 1]>, u8);

    /// The state of an entry whose times are by the process's clock. `None` if this form cannot hold
    /// it: its limits are of other algorithms.
    fn of_entry(entry: &Entry, form: &Self::Form, rules: &[Rule], now: u64) -> Option<Self>;

    fn denied_until(&self) -> u64 {
        0
    }

    /// Whether other limits than those written down judge states of this form.
    fn varies(_: &Self::Form) -> bool {
        false
    }

    fn entry(&self, form: &Self::Form, rules: &[Rule], moment: Moment) -> Entry {
        let (limits, mixed) = self.limits(form, rules, moment);
        let Offences { count, last, until } = self.offended();
        let offences = Offences { count, last: moment.by_wall(last), until: moment.by_wall(until) };
        let record = Record { clock: moment.wall, offences, limits, ..Record::default() };
        let idle_at = moment.by_wall(self.idle_by(form, rules));
        let denied_until = moment.by_wall(self.denied_until());
        Entry { record, mixed, varies: Self::varies(form), idle_at, denied_until }
    }
}

impl Moment {
    /// A time of the process's clock by the wall clock. 0 stands for never, and stays.
    pub(crate) fn by_wall(self, time: u64) -> u64 {
        match time {
            0 => 0,
            _ if self.wall >= self.now => time.saturating_add(self.wall - self.now),
            _ => time.saturating_sub(self.now - self.wall).max(1),
        }
    }

    fn token(self, bucket: TokenBucket) -> record::State {
        record::State::Token(TokenBucket { last: self.by_wall(bucket.last), ..bucket })
    }

    /// Windows begin by the process's clock. If the wall clock differs, the permits of the current
    /// window count as taken now, so that they count in the window that holds the present.
    fn fixed(self, fixed: Fixed, rule: Option<&Rule>) -> record::State {
        let rule = rule.filter(|rule| rule.limit.algorithm() == Algorithm::FixedWindow);
        let late = match rule {
            Some(rule) if self.wall != self.now => fixed.as_late_as_possible(rule, self.now),
            _ => fixed,
        };
        let mut window = FixedWindow { charged: self.by_wall(late.last), taken: fixed.taken.into(), per: 0, end: 0 };
        if let Some(rule) = rule {
            window.changed_by(rule);
        }
        record::State::Fixed(window)
    }

    fn window(self, window: &Window, groups: &Groups) -> record::State {
        let mut log = window.log(groups);
        log.groups.change_times(|time| self.by_wall(time));
        record::State::Sliding(log)
    }
}

impl Entry {
    /// The same bucket at `now`. If the clock of the copy was ahead of that, as if no time had
    /// passed since.
    pub(crate) fn look(&mut self, now: u64) {
        let back = self.record.clock.saturating_sub(now);
        self.record.look(&[], now);
        self.idle_at = self.idle_at.saturating_sub(back);
        self.denied_until = self.denied_until.saturating_sub(back);
    }

    /// Cuts permits that are recorded with a time after `latest`.
    pub(crate) fn cut(&mut self, latest: u64) {
        for state in &mut self.record.limits {
            match state {
                record::State::Sliding(window) => window.groups.change_times(|time| time.min(latest)),
                record::State::Token(bucket) => {
                    (bucket.last, bucket.debt) = (bucket.last.min(latest), bucket.debt.min(u64::MAX / 2));
                }
                record::State::Fixed(window) => window.charged = window.charged.min(latest),
            }
        }
    }
}

fn fixed(window: &FixedWindow) -> Fixed {
    Fixed { last: window.charged, taken: u32::try_from(window.taken).unwrap_or(u32::MAX) }
}

impl<const N: usize> Stored for Words<N> {
    fn limits(&self, layout: &Self::Form, rules: &[Rule], moment: Moment) -> (SmallVec<[record::State; 1]>, u8) {
        let limit = |(position, rule): (usize, &Rule)| {
            let bucket = match self.part(layout, position, rule) {
                words::Part::Fixed(fixed) => return moment.fixed(fixed, Some(rule)),
                words::Part::Tat(tat) => tat.bucket(rule, moment.now),
                words::Part::Bucket(bucket) => bucket,
            };
            moment.token(TokenBucket { flow: (rule.units(), rule.step()), ..bucket })
        };
        (rules.iter().enumerate().map(limit).collect(), 0)
    }

    fn of_entry(entry: &Entry, layout: &Self::Form, rules: &[Rule], now: u64) -> Option<Words<N>> {
        let mut words = Words::idle();
        if entry.record.limits.len() != rules.len() {
            return None;
        }
        for (position, (state, rule)) in entry.record.limits.iter().zip(rules).enumerate() {
            let part = match (state, words.part(layout, position, rule)) {
                (record::State::Token(bucket), words::Part::Bucket(_)) => words::Part::Bucket(bucket.converted(rule)),
                (record::State::Token(bucket), words::Part::Tat(_)) => {
                    let bucket = bucket.converted(rule);
                    let empty = TokenBucket { last: now, debt: rule.full(), ..bucket };
                    // A word cannot hold a time before the process started.
                    let forms = [bucket, bucket.at(rule, now), empty];
                    words::Part::Tat(forms.iter().find_map(|bucket| Tat::of(bucket, rule))?)
                }
                (record::State::Fixed(window), words::Part::Fixed(_)) => {
                    let most = match Fixed::bits(rule) {
                        0 => u64::MAX,
                        bits => (1 << bits) - 1,
                    };
                    words::Part::Fixed(fixed(&FixedWindow { taken: window.taken.min(most), ..*window }))
                }
                _ => return None,
            };
            words.put(layout, position, rule, &part);
        }
        Some(words)
    }
}

impl Stored for Window {
    fn limits(&self, groups: &Groups, _: &[Rule], moment: Moment) -> (SmallVec<[record::State; 1]>, u8) {
        ([moment.window(self, groups)].into_iter().collect(), self.is_mixed().into())
    }

    fn of_entry(entry: &Entry, groups: &Groups, _: &[Rule], _: u64) -> Option<Window> {
        match &entry.record.limits[..] {
            [record::State::Sliding(log)] => Some(Window::of_log(log.clone(), groups, entry.mixed & 1 == 1)),
            _ => None,
        }
    }
}

impl Stored for Full {
    fn limits(&self, forms: &Forms, _: &[Rule], moment: Moment) -> (SmallVec<[record::State; 1]>, u8) {
        let (parts, _) = self.parts();
        let limit = |(position, part): (usize, &Part)| match part {
            Part::Token(bucket) => moment.token(*bucket),
            Part::Fixed(fixed) => moment.fixed(*fixed, forms.written().get(position)),
            Part::Window(window) => moment.window(window, forms.of(position)),
        };
        let is_mixed = |part: &Part| matches!(part, Part::Window(window) if window.is_mixed());
        let mixed = parts.iter().enumerate().fold(0, |mixed, (at, part)| mixed | u8::from(is_mixed(part)) << at);
        (parts.iter().enumerate().map(limit).collect(), mixed)
    }

    fn of_entry(entry: &Entry, forms: &Forms, rules: &[Rule], _: u64) -> Option<Full> {
        let part = |(position, state): (usize, &record::State)| match state {
            record::State::Token(bucket) => match rules.get(position) {
                Some(rule) if !entry.varies && rule.limit.algorithm() == Algorithm::TokenBucket => {
                    Part::Token(bucket.converted(rule))
                }
                // The next call converts it.
                _ => Part::Token(*bucket),
            },
            record::State::Fixed(window) => Part::Fixed(fixed(window)),
            record::State::Sliding(log) => {
                Part::Window(Window::of_log(log.clone(), forms.of(position), entry.mixed >> position & 1 == 1))
            }
        };
        let parts = entry.record.limits.iter().enumerate().map(part).collect();
        Some(Full::of_parts(parts, entry.record.offences, entry.denied_until, entry.idle_at))
    }

    fn denied_until(&self) -> u64 {
        self.parts().1
    }

    fn varies(forms: &Forms) -> bool {
        forms.varies()
    }
}
