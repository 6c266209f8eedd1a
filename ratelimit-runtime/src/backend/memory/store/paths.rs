//! The fast paths of keys, a type for each frequent kind of state: so all of a decision stays in
//! registers.

use super::super::state::{Verdict, Window, is_admitted};
use super::{Keyed, Store};
use crate::rt::clock::Now;

/// The states with their own fast path; `Any` is all others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Tat,
    Bucket,
    Window,
    Fixed { bits: u32 },
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

/// See the module.
pub(crate) trait KeyPath {
    /// Takes permits of a key, from 1 to the capacity, by the one limit written down.
    #[expect(clippy::inline_always, reason = "most of a decision")]
    #[inline(always)]
    fn take<C: Cost>(store: &Store, hash: u64, now: Now, cost: C) -> Verdict {
        Self::take_with(store, hash, now, cost, || true)
    }

    /// [`take`](KeyPath::take), if `others` take theirs under this bucket's lock. If they do not, the
    /// call is undecided, and nothing has changed here.
    fn take_with<C: Cost>(store: &Store, hash: u64, now: Now, cost: C, others: impl FnOnce() -> bool) -> Verdict;
}

/// A token bucket in one word.
pub(crate) struct TatPath;
/// A token bucket in two words.
pub(crate) struct BucketPath;
/// A fixed window in one word.
pub(crate) struct FixedPath;
/// A sliding window.
pub(crate) struct WindowPath;

/// The path of `Words` in this table. The last argument takes the permits.
macro_rules! words_path {
    ($path:ident, $keyed:ident, ($words:ident, $store:ident, $now:ident, $cost:ident) => $take:expr) => {
        impl KeyPath for $path {
            #[inline(always)]
            fn take_with<C: Cost>(
                $store: &Store,
                hash: u64,
                $now: Now,
                cost: C,
                others: impl FnOnce() -> bool,
            ) -> Verdict {
                let (Keyed::$keyed(table, _), $cost) = (&$store.keyed, cost.permits()) else {
                    return Verdict::Undecided;
                };
                table.try_with(hash, |words| words.with(others, |$words| $take)).unwrap_or(Verdict::Undecided)
            }
        }
    };
}

words_path!(TatPath, One, (words, store, now, cost) => words.take_tat(&store.rule, now, cost));
words_path!(BucketPath, Two, (words, store, now, cost) => words.take_bucket(&store.rule, now, cost));
words_path!(FixedPath, One, (words, store, now, cost) => match store.kind {
    Kind::Fixed { bits } => words.take_window(&store.rule, bits, now, cost),
    _ => Verdict::Undecided,
});

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
            Kind::Any => $other,
        }
    };
}

pub(crate) use on_path;

#[expect(clippy::inline_always, reason = "most of a decision")]
impl KeyPath for WindowPath {
    #[inline(always)]
    fn take<C: Cost>(store: &Store, hash: u64, now: Now, cost: C) -> Verdict {
        let Keyed::Window(table, groups) = &store.keyed else { return Verdict::Undecided };
        let take = |window: &mut Window| window.take_now(groups, &store.rule, now, cost.permits());
        table.try_with(hash, take).unwrap_or(Verdict::Undecided)
    }

    #[inline(always)]
    fn take_with<C: Cost>(store: &Store, hash: u64, now: Now, cost: C, others: impl FnOnce() -> bool) -> Verdict {
        let Keyed::Window(table, groups) = &store.keyed else { return Verdict::Undecided };
        let take = |window: &mut Window| window.take_with(groups, &store.rule, now, cost.permits(), others);
        table.try_with(hash, take).unwrap_or(Verdict::Undecided)
    }
}

impl Store {
    /// The fast path that permits of a key take.
    #[inline]
    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    /// See [`KeyPath::take_with`].
    #[inline(never)]
    pub(in super::super) fn try_take_with(&self, hash: u64, now: Now, cost: u32, others: &dyn Fn() -> bool) -> bool {
        on_path!(self.kind, Path => is_admitted(Path::take_with(self, hash, now, cost, others)), false)
    }

    /// Takes permits of a key from this store and from `other`, each by its one limit in the code.
    /// The second is taken under the lock of the first. `None` if the two are of different kinds.
    #[inline]
    pub(in super::super) fn try_take_two<C: Cost>(
        &self,
        hash: u64,
        other: (&Store, u64),
        now: Now,
        cost: C,
    ) -> Option<bool> {
        if self.kind != other.0.kind {
            return None;
        }
        on_path!(self.kind, Path => Some(take_two::<Path, C>(self, hash, other, now, cost)), None)
    }
}

#[inline(never)]
fn take_two<P: KeyPath, C: Cost>(
    one: &Store,
    hash: u64,
    (other, other_hash): (&Store, u64),
    now: Now,
    cost: C,
) -> bool {
    let second = || is_admitted(P::take(other, other_hash, now, cost));
    is_admitted(P::take_with(one, hash, now, cost, second))
}
