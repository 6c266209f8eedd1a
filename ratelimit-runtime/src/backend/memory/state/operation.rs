//! The operations on a bucket on the fast path, whatever its state.

use super::{Call, Fate, Left, Permit, State, Verdict};
use crate::rt::clock::Now;

/// An operation on a key's bucket on the fast path. The key is not held.
pub(crate) trait Operation: Copy {
    fn run<S: State>(self, call: &Call<'_>, state: &mut S, form: &S::Form, now: Now) -> (Verdict, Left);
}

/// Takes permits. Reports what is left if the call is denied, or always.
#[derive(Clone, Copy)]
pub(crate) struct Take {
    pub(crate) wants_left: bool,
}

#[derive(Clone, Copy)]
pub(crate) struct Peek;

/// Gives back permits that were recorded with this time.
#[derive(Clone, Copy)]
pub(crate) struct Refund(pub(crate) u64);

/// Judges a call on this bucket, has its other buckets judged under this one's lock, and charges
/// the call if all admit it. The flag says whether to report what is left.
#[derive(Clone, Copy)]
pub(crate) struct Together<'a>(pub(crate) &'a dyn Fn(Verdict) -> Fate, pub(crate) bool);

impl Operation for Take {
    #[expect(clippy::inline_always, reason = "most of a decision")]
    #[inline(always)]
    fn run<S: State>(self, call: &Call<'_>, state: &mut S, form: &S::Form, now: Now) -> (Verdict, Left) {
        match state.take_all(form, call, now) {
            (Verdict::Undecided, _) => call.take_with_left(state, form, now, self.wants_left),
            (verdict @ Verdict::Admitted { .. }, _) if self.wants_left => (verdict, call.left(state, form, now)),
            outcome => outcome,
        }
    }
}

impl Operation for Peek {
    #[expect(clippy::inline_always, reason = "most of a decision")]
    #[inline(always)]
    fn run<S: State>(self, call: &Call<'_>, state: &mut S, form: &S::Form, now: Now) -> (Verdict, Left) {
        state.prepare(form, call.rules, now);
        let verdict = call.judge(state, form, now);
        (verdict, call.left_after(state, form, now, verdict, call.is_banned(state, now)))
    }
}

impl Operation for Refund {
    #[expect(clippy::inline_always, reason = "most of a decision")]
    #[inline(always)]
    fn run<S: State>(self, call: &Call<'_>, state: &mut S, form: &S::Form, now: Now) -> (Verdict, Left) {
        call.give_back(state, form, now, Permit { at: self.0, cost: call.cost });
        (Verdict::Admitted { at: now.latest }, Left::default())
    }
}

impl Operation for Together<'_> {
    #[expect(clippy::inline_always, reason = "most of a decision")]
    #[inline(always)]
    fn run<S: State>(self, call: &Call<'_>, state: &mut S, form: &S::Form, now: Now) -> (Verdict, Left) {
        let Together(others, wants_left) = self;
        let was_banned = call.is_banned(state, now);
        state.prepare(form, call.rules, now);
        let verdict = match call.judge(state, form, now) {
            Verdict::Undecided => Verdict::Undecided,
            verdict => call.held(state, form, now, verdict, others(verdict)),
        };
        let shows_left = wants_left || matches!(verdict, Verdict::Denied { .. });
        (verdict, if shows_left { call.left_after(state, form, now, verdict, was_banned) } else { Left::default() })
    }
}

#[inline]
pub(crate) fn is_admitted(verdict: Verdict) -> bool {
    matches!(verdict, Verdict::Admitted { .. })
}
