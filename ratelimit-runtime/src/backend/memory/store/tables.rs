//! The operations of all calls on the buckets of keys, whatever their state. Behind pointers, so
//! that a program contains only the states that its limits need. `unkeyed/forms.rs` has the bucket
//! without a key.
//!
//! Rarer operations (refunds, waiting, snapshots) go through `on_table!`, which names all states.

use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

use super::super::state::{Call, Forms, Full, Groups, Left, Operation as _, State, Take, Verdict, Window, Word, Words};
use super::super::table::{Table, With};
use super::super::unkeyed::Unkeyed;
use super::{Ask, Keyed, Kind, Shared, Store, UNDECIDED, Written, open_thorough, open_thorough_without_keys};
use crate::algorithm::Rule;
use crate::decision::Address;
use crate::hash::Seed;
use crate::limit::Algorithm;
use crate::rt::clock::Now;

/// See the module. A store without a table for keys has no keys.
pub(super) trait Tables: Sync {
    fn try_take(
        &self,
        store: &Store,
        hash: u64,
        call: &Call<'_>,
        now: Now,
        wants_left: bool,
    ) -> Option<(Verdict, Left)>;
    /// See [`Store::take_key`].
    fn take_key(&self, store: &Store, hash: u64, ask: &Ask<'_>, now: Now) -> (Verdict, Left);
    /// Takes the permits of a call, and makes the key's bucket if it is missing.
    fn take(&self, store: &Store, hash: u64, call: &Call<'_>, now: Now) -> With<(Verdict, Left)>;
    fn len(&self, store: &Store) -> usize;
    fn sweep(&self, store: &Store, shard: usize, now: Now, slots: usize) -> bool;
    fn evict(&self, store: &Store, hash: u64, now: Now, denying: bool) -> bool;
    fn clear(&self, store: &Store);
    /// Prepares for states that this form cannot hold.
    fn open(&self, store: &Store);
}

/// The states that a program contains for a limiter.
#[derive(Clone, Copy)]
pub(crate) struct States(pub(super) fn(&Shared, &Written) -> Made);

/// The buckets of a new store, without keys and with.
pub(in super::super) struct Made {
    pub(super) forms: Forms,
    pub(super) unkeyed: Unkeyed,
    pub(super) keyed: Keyed,
    pub(super) tables: &'static dyn Tables,
    pub(super) hasher: Seed<'static, 1>,
}

impl States {
    /// For a limiter that is never called with a key.
    pub(crate) const NO_KEYS: States = States(|_, written| {
        open_thorough_without_keys();
        Made::of(written.forms(), |forms| Unkeyed::new(&written.rules, forms, written.is_plain()), |_| Keys::none())
    });
    /// The same of one sliding window up to 64, without `backoff`.
    pub(crate) const PERMITS_WITHOUT_KEYS: States =
        States(|_, written| Made::of_window(written, Unkeyed::permits, Keys::none));
    /// The same of one larger sliding window.
    pub(crate) const WINDOW_WITHOUT_KEYS: States =
        States(|_, written| Made::of_window(written, Unkeyed::window, Keys::none));
    /// For one sliding window up to 64, without `backoff`.
    pub(crate) const PERMITS: States =
        States(|shared, written| Made::of_window(written, Unkeyed::permits, || Keys::of(shared, || window(written))));
    /// For one larger sliding window without `backoff`.
    pub(crate) const WINDOW: States =
        States(|shared, written| Made::of_window(written, Unkeyed::window, || Keys::of(shared, || window(written))));
    /// For all others.
    pub(crate) const ANY: States = States(|shared, written| {
        open_thorough();
        let unkeyed = |forms: &Forms| Unkeyed::new(&written.rules, forms, written.is_plain());
        Made::of(written.forms(), unkeyed, |forms| Keys::of(shared, || any(written, forms)))
    });
}

impl Made {
    /// Keys come last, so that no code here drops their tables.
    fn of(forms: Forms, unkeyed: impl FnOnce(&Forms) -> Unkeyed, keys: impl FnOnce(&Forms) -> Keys) -> Made {
        let unkeyed = unkeyed(&forms);
        let Keys { hasher, keyed, tables } = keys(&forms);
        Made { forms, unkeyed, keyed, tables, hasher }
    }

    fn of_window(written: &Written, unkeyed: fn(&Rule) -> Unkeyed, keys: impl FnOnce() -> Keys) -> Made {
        let rule = &written.rules[0];
        Made::of(Forms::of_window(rule), |_| unkeyed(rule), |_| keys())
    }
}

/// The part of [`Made`] with keys.
struct Keys {
    keyed: Keyed,
    tables: &'static dyn Tables,
    hasher: Seed<'static, 1>,
}

impl Keys {
    fn none() -> Keys {
        Keys { keyed: Keyed::Nothing, tables: &In::<Nowhere, Words<1>, 4>::HERE, hasher: Seed::UNUSED }
    }

    /// Tables come last, so that no code here drops them.
    fn of(shared: &Shared, tables: impl FnOnce() -> (Keyed, &'static dyn Tables)) -> Keys {
        let hasher = Seed::of(shared.weights());
        let (keyed, tables) = tables();
        Keys { keyed, tables, hasher }
    }
}

impl Written {
    fn forms(&self) -> Forms {
        Forms::new(&self.rules, self.backoff, self.varies)
    }

    fn is_plain(&self) -> bool {
        self.backoff.is_none() && !self.varies
    }
}

fn window(written: &Written) -> (Keyed, &'static dyn Tables) {
    let groups = Groups::new(&written.rules[0], written.varies);
    (Keyed::Window(Table::new(), groups), &In::<InWindow, Window, 2>::HERE)
}

fn any(written: &Written, forms: &Forms) -> (Keyed, &'static dyn Tables) {
    let Written { rules, backoff, .. } = written;
    match (forms.layout().copied(), &rules[..]) {
        (Some(layout), _) => match layout.words() {
            1 => (Keyed::One(Table::new(), layout), &In::<InOne, Words<1>, 4>::HERE),
            2 => (Keyed::Two(Table::new(), layout), &In::<InTwo, Words<2>, 5>::HERE),
            _ => (Keyed::Three(Table::new(), layout), &In::<InThree, Words<3>, 2>::HERE),
        },
        (None, [rule]) if rule.limit.algorithm() == Algorithm::SlidingWindow && backoff.is_none() => window(written),
        _ => (Keyed::Full(FullTable::new()), &In::<InFull, Full, 5>::HERE),
    }
}

impl Keyed {
    /// The fast path of these states.
    pub(super) fn kind(&self, varies: bool) -> Kind {
        match self {
            Keyed::One(_, layout) if layout.word() == Some(Word::Tat) => Kind::Tat,
            Keyed::One(_, layout) => match layout.word() {
                Some(Word::Window { bits }) => Kind::Fixed { bits },
                _ => Kind::Any,
            },
            Keyed::Two(_, layout) if layout.word() == Some(Word::Bucket) => Kind::Bucket,
            Keyed::Window(..) if !varies => Kind::Window,
            Keyed::Full(_) if !varies => Kind::Full,
            _ => Kind::Any,
        }
    }
}

/// A table of the general form. Behind a pointer, because few programs contain the code that drops
/// one.
pub(in super::super) struct FullTable(Box<dyn HasFull>);

trait HasFull: Send + Sync {
    fn table(&self) -> &Table<Full, 5>;
    fn table_mut(&mut self) -> &mut Table<Full, 5>;
}

impl HasFull for Table<Full, 5> {
    fn table(&self) -> &Table<Full, 5> {
        self
    }

    fn table_mut(&mut self) -> &mut Table<Full, 5> {
        self
    }
}

impl FullTable {
    fn new() -> FullTable {
        FullTable(Box::new(Table::new()))
    }
}

impl Deref for FullTable {
    type Target = Table<Full, 5>;

    fn deref(&self) -> &Table<Full, 5> {
        self.0.table()
    }
}

impl DerefMut for FullTable {
    fn deref_mut(&mut self) -> &mut Table<Full, 5> {
        self.0.table_mut()
    }
}

/// The table of other limits than those written down, which the first of these limits opens.
pub(in super::super) struct Free {
    pub(in super::super) table: FullTable,
    pub(super) tables: &'static dyn Tables,
}

impl Free {
    pub(super) fn new() -> Free {
        Free { table: FullTable::new(), tables: &In::<InFree, Full, 5>::HERE }
    }
}

/// Where a store has a table of such states.
trait Place<S: State, const W: usize>: Sync {
    fn of(store: &Store) -> Option<(&Table<S, W>, &S::Form)>;
    /// The state can be one that this form cannot hold.
    const OPENS: bool;
}

macro_rules! place {
    ($place:ident, $state:ty, $width:literal, $opens:literal, $store:ident => $of:expr) => {
        struct $place;

        impl Place<$state, $width> for $place {
            const OPENS: bool = $opens;

            #[inline]
            fn of($store: &Store) -> Option<(&Table<$state, $width>, &<$state as State>::Form)> {
                $of
            }
        }
    };
}

place!(Nowhere, Words<1>, 4, false, _store => None);
place!(InOne, Words<1>, 4, true, store => if let Keyed::One(table, form) = &store.keyed { Some((table, form)) } else { None });
place!(InTwo, Words<2>, 5, true, store => if let Keyed::Two(table, form) = &store.keyed { Some((table, form)) } else { None });
place!(InThree, Words<3>, 2, true, store => if let Keyed::Three(table, form) = &store.keyed { Some((table, form)) } else { None });
place!(InWindow, Window, 2, false, store => if let Keyed::Window(table, form) = &store.keyed { Some((table, form)) } else { None });
place!(InFull, Full, 5, true, store => if let Keyed::Full(table) = &store.keyed { Some((&**table, &store.forms)) } else { None });
place!(InFree, Full, 5, true, store => store.free.get().map(|free| (&*free.table, &store.forms)));

struct In<P, S, const W: usize>(PhantomData<fn() -> (P, S)>);

impl<P, S, const W: usize> In<P, S, W> {
    const HERE: In<P, S, W> = In(PhantomData);
}

impl<S: State, P: Place<S, W>, const W: usize> Tables for In<P, S, W> {
    fn try_take(
        &self,
        store: &Store,
        hash: u64,
        call: &Call<'_>,
        now: Now,
        wants_left: bool,
    ) -> Option<(Verdict, Left)> {
        let (table, form) = P::of(store)?;
        let mut reached = table.try_reach::<false>(hash).ok()?;
        let state = reached.state()?;
        Some(Take { wants_left }.run(call, state, form, now))
    }

    fn take_key(&self, store: &Store, hash: u64, ask: &Ask<'_>, now: Now) -> (Verdict, Left) {
        if P::of(store).is_none() { UNDECIDED } else { store.take_key(hash, ask, now) }
    }

    fn take(&self, store: &Store, hash: u64, call: &Call<'_>, now: Now) -> With<(Verdict, Left)> {
        let Some((table, form)) = P::of(store) else { return With::Closed };
        let (done, swept) = table.with(store.context(form), hash, now, |state| {
            let call = Call { floor: store.holds.of(Address::Hash(hash), now), ..*call };
            state.prepare(form, call.rules, now.at_least(call.floor.owed_until));
            let was_banned = call.is_banned(state, now);
            let verdict = call.take_behind_floor(state, form, now);
            (verdict, call.left_behind_floor(state, form, now, verdict, was_banned))
        });
        store.sweep_others(swept, hash, now);
        done
    }

    fn len(&self, store: &Store) -> usize {
        P::of(store).map_or(0, |(table, _)| table.len())
    }

    fn sweep(&self, store: &Store, shard: usize, now: Now, slots: usize) -> bool {
        P::of(store).is_some_and(|(table, form)| table.sweep(store.context(form), shard, now, slots))
    }

    fn evict(&self, store: &Store, hash: u64, now: Now, denying: bool) -> bool {
        P::of(store).is_some_and(|(table, form)| table.evict(store.context(form), hash, now, denying))
    }

    fn clear(&self, store: &Store) {
        if let Some((table, _)) = P::of(store) {
            table.clear(&store.shared.bound);
        }
    }

    fn open(&self, store: &Store) {
        if P::OPENS {
            store.open();
        }
    }
}
