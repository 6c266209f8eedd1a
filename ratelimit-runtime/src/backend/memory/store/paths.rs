//! The fast paths of keys, a type for each frequent kind of state: so all of a decision stays in
//! registers.

use std::cmp::Ordering;

use super::super::state::{Layout, Left, Permit, State, Verdict, Window, Words, is_admitted};
use super::super::table::Unreached;
use super::{Keyed, Store, UNDECIDED};
use crate::algorithm::Rule;
use crate::decision::Address;
use crate::rt::clock::Now;

/// The states with their own fast path; `Any` is all others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Tat,
    Bucket,
    Window,
    Fixed {
        bits: u32,
    },
    /// The general form, whose fast path takes one permit. Other operations are those of `Any`.
    Full,
    Any,
}

/// The cost of a call on a fast path. The path is compiled for each implementation, so that no copy
/// has an out-of-line part.
pub(crate) trait Cost: Copy {
    /// Whether it is one permit, of a call that does not wait. Calls of other costs can be admitted
    /// on the fast path, but not denied.
    const IS_ONE: bool;

    fn permits(self) -> u32;
}

/// One permit, known at compile time.
#[derive(Clone, Copy)]
pub(crate) struct OnePermit;

impl Cost for OnePermit {
    const IS_ONE: bool = true;

    #[inline]
    fn permits(self) -> u32 {
        1
    }
}

impl Cost for u32 {
    const IS_ONE: bool = false;

    #[inline]
    fn permits(self) -> u32 {
        self
    }
}

/// See the module. All calls are by the one limit written down, for permits from 1 to the capacity.
pub(crate) trait KeyPath {
    /// Takes permits of a key.
    fn take<C: Cost>(store: &Store, hash: u64, now: Now, cost: C) -> Verdict;

    /// [`take`](KeyPath::take), if `others` take theirs under this bucket's lock. If they do not, the
    /// call is undecided, and nothing has changed here.
    fn take_with<C: Cost>(store: &Store, hash: u64, now: Now, cost: C, others: impl FnOnce() -> bool) -> Verdict;

    /// [`take`](KeyPath::take), with what is left then.
    fn take_with_left(store: &Store, hash: u64, now: Now, cost: u32) -> (Verdict, Left);

    /// The answer of [`take_with_left`](KeyPath::take_with_left), without taking permits.
    fn peek(store: &Store, hash: u64, now: Now, cost: u32) -> (Verdict, Left);

    /// Gives back permits if that is `still` right once the bucket is locked. `false` if it must be
    /// done elsewhere.
    fn refund(
        store: &Store,
        hash: u64,
        now: impl FnOnce() -> Now,
        permit: Permit,
        still: impl FnOnce() -> bool,
    ) -> bool;
}

/// A token bucket in one word.
pub(crate) struct TatPath;
/// A token bucket in two words.
pub(crate) struct BucketPath;
/// A fixed window in one word.
pub(crate) struct FixedPath;
/// A sliding window.
pub(crate) struct WindowPath;

/// The path of these states. `by_time` says whether the age of permits decides how many of them come
/// back. The last arguments are their table, and their form: as far as the compiler knows it, it
/// leaves out the code of other forms.
macro_rules! key_path {
    ($path:ident, $state:ty, by_time: $by_time:literal, $store:ident => $table:ident, $form:expr, $pattern:pat = $of:expr) => {
        impl KeyPath for $path {
            #[inline(always)]
            fn take<C: Cost>($store: &Store, hash: u64, now: Now, cost: C) -> Verdict {
                let $pattern = $of else { return Verdict::Undecided };
                let Ok(mut reached) = $table.try_reach::<false>(hash) else { return Verdict::Undecided };
                let Some(state) = reached.state() else { return Verdict::Undecided };
                state.take_now(&$form, &$store.rule, now, cost.permits())
            }

            #[inline(always)]
            fn take_with<C: Cost>(
                $store: &Store,
                hash: u64,
                now: Now,
                cost: C,
                others: impl FnOnce() -> bool,
            ) -> Verdict {
                let $pattern = $of else { return Verdict::Undecided };
                let Ok(mut reached) = $table.try_reach::<false>(hash) else { return Verdict::Undecided };
                let Some(state) = reached.state() else { return Verdict::Undecided };
                state.take_with(&$form, &$store.rule, now, cost.permits(), others)
            }

            #[inline(always)]
            fn take_with_left($store: &Store, hash: u64, now: Now, cost: u32) -> (Verdict, Left) {
                let $pattern = $of else { return UNDECIDED };
                let Ok(mut reached) = $table.try_reach::<false>(hash) else { return UNDECIDED };
                let Some(state) = reached.state() else { return UNDECIDED };
                let verdict = state.take_now(&$form, &$store.rule, now, cost);
                (verdict, left(state, &$form, &$store.rule, now, cost, verdict))
            }

            #[inline(always)]
            fn peek($store: &Store, hash: u64, now: Now, cost: u32) -> (Verdict, Left) {
                let $pattern = $of else { return UNDECIDED };
                match $table.try_reach::<true>(hash) {
                    Ok(mut reached) => match reached.state() {
                        Some(state) => judge(state, &$form, &$store.rule, now, cost),
                        None => UNDECIDED,
                    },
                    // A missing bucket is idle, unless it was moved.
                    Err(Unreached::Missing) if $store.free.get().is_none() => {
                        judge(&<$state>::idle(), &$form, &$store.rule, now, cost)
                    }
                    Err(_) => UNDECIDED,
                }
            }

            #[inline(always)]
            fn refund(
                $store: &Store,
                hash: u64,
                now: impl FnOnce() -> Now,
                permit: Permit,
                still: impl FnOnce() -> bool,
            ) -> bool {
                let $pattern = $of else { return false };
                let now = if $by_time { now() } else { Now::exactly(permit.at) };
                let Ok(mut reached) = $table.try_reach::<false>(hash) else { return false };
                let Some(state) = reached.state() else { return false };
                if !still() {
                    return false;
                }
                state.refund(&$form, 0, &$store.rule, now, permit);
                true
            }
        }
    };
}

key_path!(TatPath, Words<1>, by_time: true, store => table, Layout::TAT, Keyed::One(table, _) = &store.keyed);
key_path!(BucketPath, Words<2>, by_time: true, store => table, Layout::BUCKET, Keyed::Two(table, _) = &store.keyed);
key_path!(FixedPath, Words<1>, by_time: false, store => table, Layout::window(bits),
    (Keyed::One(table, _), Kind::Fixed { bits }) = (&store.keyed, store.kind));
key_path!(WindowPath, Window, by_time: true, store => table, groups, Keyed::Window(table, groups) = &store.keyed);

/// [`KeyPath::take`] of permits that can be given back. Returns the time that they are recorded with.
#[inline(never)]
pub(super) fn take_by<P: KeyPath>(store: &Store, hash: u64, now: Now, cost: u32) -> Option<u64> {
    if let Verdict::Admitted { at } = P::take(store, hash, now, cost) { Some(at) } else { None }
}

/// See [`KeyPath::refund`]. A reset or a debt changes its count before it locks the bucket.
#[inline(never)]
pub(super) fn refund_by<P: KeyPath>(store: &Store, hash: u64, is_async: bool, permit: Permit, resets: u32) -> bool {
    let still = || !store.holds_any() && store.resets(Address::Hash(hash)) == resets;
    P::refund(store, hash, || store.now_for(is_async), permit, still)
}

/// What is left after a call by one limit.
#[expect(clippy::inline_always, reason = "most of a decision")]
#[inline(always)]
fn left<S: State>(state: &S, form: &S::Form, rule: &Rule, now: Now, cost: u32, verdict: Verdict) -> Left {
    let (remaining, idle_at) = match verdict {
        // A limit that cannot admit one permit has none left.
        Verdict::Denied { .. } if cost == 1 => (0, 0),
        Verdict::Undecided => (0, 0),
        _ => state.left(form, 0, rule, now),
    };
    Left { remaining, idle_at, ..Left::default() }
}

/// The answer to a call by one limit that takes no permits.
#[expect(clippy::inline_always, reason = "most of a decision")]
#[inline(always)]
fn judge<S: State>(state: &S, form: &S::Form, rule: &Rule, now: Now, cost: u32) -> (Verdict, Left) {
    if !state.is_decidable(form, now) {
        return UNDECIDED;
    }
    let until = state.fits_at(form, 0, rule, now, cost);
    let verdict = if until <= now.earliest {
        Verdict::Admitted { at: now.latest }
    } else {
        Verdict::Denied { until, position: 0 }
    };
    (verdict, left(state, form, rule, now, cost, verdict))
}

/// Evaluates an expression with the path of a kind of state, or the last one for all other states.
macro_rules! on_path {
    ($kind:expr, $path:ident => $result:expr, $other:expr) => {
        match $kind {
            Kind::Tat => {
                type $path = TatPath;
                $result
            }
            Kind::Bucket => {
                type $path = BucketPath;
                $result
            }
            Kind::Fixed { .. } => {
                type $path = FixedPath;
                $result
            }
            Kind::Window => {
                type $path = WindowPath;
                $result
            }
            Kind::Full | Kind::Any => $other,
        }
    };
}

pub(crate) use on_path;

impl Store {
    /// The fast path that permits of a key take.
    #[inline]
    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    /// Takes one permit of a key by the limits written down, from the general form.
    #[expect(clippy::inline_always, reason = "most of a decision")]
    #[inline(always)]
    pub(crate) fn try_full(&self, hash: u64, now: Now) -> (Verdict, Left) {
        let Keyed::Full(table) = &self.keyed else { return UNDECIDED };
        let Ok(mut reached) = table.try_reach::<false>(hash) else { return UNDECIDED };
        let Some(full) = reached.state() else { return UNDECIDED };
        full.take_now(&self.forms, &self.written.rules, self.written.backoff.as_ref(), now, 1)
    }

    /// See [`KeyPath::take_with`].
    #[inline(never)]
    pub(in super::super) fn try_take_with(&self, hash: u64, now: Now, cost: u32, others: &dyn Fn() -> bool) -> bool {
        on_path!(self.kind, Path => is_admitted(Path::take_with(self, hash, now, cost, others)), false)
    }

    /// Takes permits of a key from this store and from `other` of the same kind, each by its one limit
    /// in the code. The second is taken under the lock of the first.
    #[inline]
    pub(in super::super) fn try_take_two<C: Cost>(&self, hash: u64, other: (&Store, u64), now: Now, cost: C) -> Tried {
        on_path!(self.kind, Path => take_two::<Path, C>(self, hash, other, now, cost), Tried::Undecided)
    }
}

/// The outcome of the fast path of a call on several buckets. In two registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tried {
    Taken,
    /// One permit is denied until this time, by the first of two buckets for longer than by the second.
    First(u64),
    Second(u64),
    /// By both for equally long.
    Both(u64),
    /// The call must be decided elsewhere. Nothing has changed.
    Undecided,
}

#[inline(never)]
fn take_two<P: KeyPath, C: Cost>(
    one: &Store,
    hash: u64,
    (other, other_hash): (&Store, u64),
    now: Now,
    cost: C,
) -> Tried {
    let others = || is_admitted(P::take(other, other_hash, now, cost));
    match P::take_with(one, hash, now, cost, others) {
        Verdict::Admitted { .. } => Tried::Taken,
        Verdict::Denied { until, .. } if C::IS_ONE => deny_two::<P>((one, hash, Some(until)), (other, other_hash), now),
        Verdict::Undecided if C::IS_ONE => deny_two::<P>((one, hash, None), (other, other_hash), now),
        _ => Tried::Undecided,
    }
}

/// The denial of a call that one of two buckets has not admitted. `until` is what the first one says,
/// if it denies. The others are judged one after the other.
#[inline(never)]
fn deny_two<P: KeyPath>((one, hash, until): (&Store, u64, Option<u64>), other: (&Store, u64), now: Now) -> Tried {
    let until_of = |(store, hash): (&Store, u64)| match P::peek(store, hash, now, 1).0 {
        Verdict::Denied { until, .. } => Some(until),
        Verdict::Admitted { .. } => Some(0),
        Verdict::Undecided => None,
    };
    let (Some(first), Some(second)) = (until.or_else(|| until_of((one, hash))), until_of(other)) else {
        return Tried::Undecided;
    };
    match first.cmp(&second) {
        _ if first.max(second) <= now.latest => Tried::Undecided,
        Ordering::Greater => Tried::First(first),
        Ordering::Less => Tried::Second(second),
        Ordering::Equal => Tried::Both(first),
    }
}
