//! The operations of all calls without a key, one type for each form of the bucket. Behind
//! pointers, so that a program contains only the forms that its limits need.

use super::super::state::{Attempt, Call, Forms, Judged, Layout, Left, Peek, Take, Verdict};
use super::{Fast, Unkeyed, added, take_token, take_token_exactly, try_take_token, verdict};
use super::{Line, One, StripedPermits, Tat, Window, Words};
use crate::algorithm::Rule;
use crate::rt::clock::Now;
use crate::rt::sync::Ordering;

/// See the module. A bucket of another form is undecided: the general form decides under its lock.
pub(crate) trait Form: Sync {
    fn kind(&self) -> FormKind;

    /// The fast path: from 1 permit to the capacity by the rules as written, of which `rule` is the
    /// first. Denies if it is the only one.
    fn try_take(bucket: &Unkeyed, forms: &Forms, rule: &Rule, thread: usize, now: Now, cost: u32) -> Attempt
    where
        Self: Sized;

    /// Completes an attempt that added permits to the word. `before` is the word before the
    /// addition.
    fn added(_: &Unkeyed, _: &Rule, _: Now, _before: u64, _cost: u32) -> Verdict
    where
        Self: Sized,
    {
        Verdict::Undecided
    }

    /// Takes `cost` permits, from 1 to the capacity, on thread number `thread`.
    #[inline]
    fn take(&self, _: &Unkeyed, _rule: &Rule, _thread: usize, _: Now, _cost: u32) -> Verdict {
        Verdict::Undecided
    }

    /// [`take`](Form::take), after [`try_take`](Form::try_take) has not decided.
    #[inline]
    fn take_exactly(&self, bucket: &Unkeyed, rule: &Rule, thread: usize, now: Now, cost: u32) -> Verdict {
        self.take(bucket, rule, thread, now, cost)
    }

    /// Takes permits of a state under a lock in its usual form.
    fn take_here(&self, _: &Unkeyed, _: &Call<'_>, _: &Forms, _: Now, _wants_left: bool) -> Option<(Verdict, Left)> {
        None
    }

    /// See [`Unkeyed::peek`].
    fn peek(&self, _: &Unkeyed, _: &Call<'_>, _: &Forms, _: Now) -> Option<(Verdict, Left)> {
        None
    }
}

/// The form of a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FormKind {
    Token,
    Permits,
    Words,
    Window,
    General,
}

/// See [`Fast`].
#[derive(Default)]
pub(crate) struct TokenForm;
#[derive(Default)]
pub(crate) struct PermitsForm;
#[derive(Default)]
pub(crate) struct WordsForm;
#[derive(Default)]
pub(crate) struct WindowForm;
#[derive(Default)]
pub(crate) struct GeneralForm;

impl Form for TokenForm {
    fn kind(&self) -> FormKind {
        FormKind::Token
    }

    #[expect(clippy::inline_always, reason = "most of a decision, which is to stay in registers")]
    #[inline(always)]
    fn try_take(bucket: &Unkeyed, _: &Forms, rule: &Rule, _: usize, now: Now, cost: u32) -> Attempt {
        let Fast::Token { word, seen } = &bucket.fast else { return Attempt::Contended };
        try_take_token(&word.0, &seen.0, rule, now, cost)
    }

    fn added(bucket: &Unkeyed, rule: &Rule, now: Now, before: u64, cost: u32) -> Verdict {
        let Fast::Token { word, seen } = &bucket.fast else { return Verdict::Undecided };
        added(&word.0, &seen.0, rule, now, before, cost)
    }

    #[inline]
    fn take(&self, bucket: &Unkeyed, rule: &Rule, _: usize, now: Now, cost: u32) -> Verdict {
        let Fast::Token { word, seen } = &bucket.fast else { return Verdict::Undecided };
        take_token(&word.0, &seen.0, rule, now, cost)
    }

    #[inline]
    fn take_exactly(&self, bucket: &Unkeyed, rule: &Rule, _: usize, now: Now, cost: u32) -> Verdict {
        let Fast::Token { word, seen } = &bucket.fast else { return Verdict::Undecided };
        take_token_exactly(&word.0, &seen.0, rule, now, cost)
    }

    fn peek(&self, bucket: &Unkeyed, call: &Call<'_>, _: &Forms, now: Now) -> Option<(Verdict, Left)> {
        let (Fast::Token { word, .. }, rule) = (&bucket.fast, call.rules.first()?) else { return None };
        let tat = Tat(word.0.load(Ordering::Acquire));
        if call.cost > rule.capacity() || tat.is_moved() || !Tat::is_in_range(now.earliest) {
            return None;
        }
        let until = tat.fits_at(rule, now.earliest, call.cost);
        let (remaining, idle_at) = (tat.remaining(rule, now.latest), tat.idle_at(rule));
        let left = Left { remaining, idle_at, ..Left::default() };
        Some((verdict(until, now), left))
    }
}

impl PermitsForm {
    fn of(bucket: &Unkeyed) -> Option<&StripedPermits> {
        if let Fast::Permits(permits) = &bucket.fast { Some(permits) } else { None }
    }
}

impl Form for PermitsForm {
    fn kind(&self) -> FormKind {
        FormKind::Permits
    }

    #[expect(clippy::inline_always, reason = "most of a decision, which is to stay in registers")]
    #[inline(always)]
    fn try_take(bucket: &Unkeyed, _: &Forms, rule: &Rule, thread: usize, now: Now, cost: u32) -> Attempt {
        Self::of(bucket).map_or(Attempt::Contended, |permits| permits.try_take(rule, thread, now, cost))
    }

    #[inline]
    fn take(&self, bucket: &Unkeyed, rule: &Rule, thread: usize, now: Now, cost: u32) -> Verdict {
        Self::of(bucket).map_or(Verdict::Undecided, |permits| permits.take(rule, thread, now, cost))
    }

    fn peek(&self, bucket: &Unkeyed, call: &Call<'_>, _: &Forms, now: Now) -> Option<(Verdict, Left)> {
        let rule = call.rules.first().filter(|rule| call.cost <= rule.capacity())?;
        let (until, left) = Self::of(bucket)?.peek(rule, now, call.cost)?;
        Some((verdict(until, now), left))
    }
}

impl WordsForm {
    #[inline]
    fn of(bucket: &Unkeyed) -> Option<(&One<Words<3>>, &Layout)> {
        if let Fast::Words(Line(one), layout) = &bucket.fast { Some((one, layout)) } else { None }
    }
}

impl Form for WordsForm {
    fn kind(&self) -> FormKind {
        FormKind::Words
    }

    #[expect(clippy::inline_always, reason = "most of a decision, which is to stay in registers")]
    #[inline(always)]
    fn try_take(bucket: &Unkeyed, forms: &Forms, rule: &Rule, _: usize, now: Now, cost: u32) -> Attempt {
        let Some((one, layout)) = Self::of(bucket) else { return Attempt::Contended };
        match one.begin(now, cost) {
            Ok(mut words) => match (&mut *words, forms.written()) {
                (Some(words), [_]) => one.end(words.take_now(layout, rule, now, cost), cost),
                (Some(words), rules) => one.end(words.take_several(layout, rules, now, cost), cost),
                (None, _) => Attempt::Contended,
            },
            Err(attempt) => attempt,
        }
    }

    fn take_here(
        &self,
        bucket: &Unkeyed,
        call: &Call<'_>,
        _: &Forms,
        now: Now,
        wants_left: bool,
    ) -> Option<(Verdict, Left)> {
        let (one, layout) = Self::of(bucket)?;
        one.run(Take { wants_left }, call, layout, now)
    }

    fn peek(&self, bucket: &Unkeyed, call: &Call<'_>, _: &Forms, now: Now) -> Option<(Verdict, Left)> {
        let (one, layout) = Self::of(bucket)?;
        one.run(Peek, call, layout, now)
    }
}

impl WindowForm {
    #[inline]
    fn of(bucket: &Unkeyed) -> Option<&One<Window>> {
        if let Fast::Window(Line(one)) = &bucket.fast { Some(one) } else { None }
    }
}

impl Form for WindowForm {
    fn kind(&self) -> FormKind {
        FormKind::Window
    }

    #[expect(clippy::inline_always, reason = "most of a decision, which is to stay in registers")]
    #[inline(always)]
    fn try_take(bucket: &Unkeyed, forms: &Forms, rule: &Rule, _: usize, now: Now, cost: u32) -> Attempt {
        let Some(one) = Self::of(bucket) else { return Attempt::Contended };
        match one.begin(now, cost) {
            Ok(mut window) => match &mut *window {
                Some(window) => one.end(window.take_now(forms.of(0), rule, now, cost), cost),
                None => Attempt::Contended,
            },
            Err(attempt) => attempt,
        }
    }

    fn take_here(
        &self,
        bucket: &Unkeyed,
        call: &Call<'_>,
        forms: &Forms,
        now: Now,
        wants_left: bool,
    ) -> Option<(Verdict, Left)> {
        Self::of(bucket)?.run(Take { wants_left }, call, forms.of(0), now)
    }

    fn peek(&self, bucket: &Unkeyed, call: &Call<'_>, forms: &Forms, now: Now) -> Option<(Verdict, Left)> {
        Self::of(bucket)?.run(Peek, call, forms.of(0), now)
    }
}

impl Form for GeneralForm {
    fn kind(&self) -> FormKind {
        FormKind::General
    }

    #[expect(clippy::inline_always, reason = "most of a decision, which is to stay in registers")]
    #[inline(always)]
    fn try_take(bucket: &Unkeyed, forms: &Forms, _: &Rule, _: usize, now: Now, cost: u32) -> Attempt {
        let one = &bucket.rest.0.general;
        let mut full = match one.begin(now, cost) {
            Ok(full) => full,
            Err(attempt) => return attempt,
        };
        let (Some(full), call) = (&mut *full, forms.written_call(cost)) else { return Attempt::Contended };
        match full.plain_limit(&call) {
            _ if cost == 0 => Attempt::Contended,
            Some(rule) => match full.take_one(forms, rule, now, cost) {
                Verdict::Denied { .. } if call.backoff.is_some() => Attempt::Contended,
                verdict => one.end(verdict, cost),
            },
            // Which limit denies, and for how long, is for the other path to find.
            None => match full.admit_now(forms, &call, now) {
                Judged::Admitted(_) => Attempt::Admitted,
                Judged::Denied { .. } | Judged::Undecided => Attempt::Contended,
            },
        }
    }

    fn take_here(
        &self,
        bucket: &Unkeyed,
        call: &Call<'_>,
        forms: &Forms,
        now: Now,
        wants_left: bool,
    ) -> Option<(Verdict, Left)> {
        bucket.run_generally(Take { wants_left }, call, forms, now)
    }

    fn peek(&self, bucket: &Unkeyed, call: &Call<'_>, forms: &Forms, now: Now) -> Option<(Verdict, Left)> {
        bucket.run_generally(Peek, call, forms, now)
    }
}
