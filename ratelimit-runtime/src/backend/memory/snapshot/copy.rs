//! Copies the buckets of limiters while calls go on.

use std::io;

use super::super::holds::Hold;
use super::super::retired::{Keys, Retired};
use super::super::state::{Entry, Forms, Full, Groups, Layout, Moment, Stored};
use super::super::store::{Free, Keyed, Store, on_table};
use super::format::{Heading, Item, Place, Reach};
use crate::algorithm::Rule;
use crate::algorithm::record::Record;
use crate::decision::Address;
use crate::rt::clock::Now;

/// Where copies go, while no lock is held.
pub(super) struct Copies<'a> {
    /// Reads both clocks.
    pub(super) clocks: &'a dyn Fn() -> Moment,
    pub(super) put: &'a mut dyn FnMut(&Item) -> io::Result<()>,
}

impl Copies<'_> {
    /// Passes on those buckets of keys that are in use.
    fn keyed<S: Stored>(
        &mut self,
        copies: &[(u64, S)],
        form: &S::Form,
        rules: &[Rule],
        place: Place,
    ) -> io::Result<()> {
        let moment = (self.clocks)();
        let are_idle = S::are_idle(form, rules, moment.now);
        for (fingerprint, state) in copies.iter().filter(|(_, state)| !are_idle(state)) {
            let entry = state.entry(form, rules, moment);
            (self.put)(&Item { address: Address::Hash(*fingerprint), place, entry })?;
        }
        Ok(())
    }

    fn unkeyed(&mut self, state: &Full, forms: &Forms, rules: &[Rule]) -> io::Result<()> {
        let moment = (self.clocks)();
        let entry = state.entry(forms, rules, moment);
        if entry.idle_at <= moment.wall {
            return Ok(());
        }
        (self.put)(&Item { address: Address::Unkeyed, place: Place::Usual, entry })
    }

    fn hold(&mut self, address: Address, hold: Hold) -> io::Result<()> {
        let moment = (self.clocks)();
        if hold.until() <= moment.now {
            return Ok(());
        }
        let (blocked, newest) = (moment.by_wall(hold.blocked_until), moment.by_wall(hold.owed_until));
        let record = Record { clock: moment.wall, blocked, newest, ..Record::default() };
        let entry = Entry { record, mixed: 0, varies: false, idle_at: moment.by_wall(hold.until()), denied_until: 0 };
        (self.put)(&Item { address, place: Place::Held, entry })
    }
}

fn heading(identity: &str, start: u64, rules: &[Rule], groups: &[Groups]) -> Heading {
    let limits = rules.iter().zip(groups).map(|(rule, groups)| Reach::new(rule, groups.reached())).collect();
    Heading { identity: identity.to_owned(), start, limits }
}

impl Store {
    pub(super) fn heading(&self, identity: &str) -> Heading {
        let groups = match &self.keyed {
            Keyed::Window(_, groups) => std::slice::from_ref(groups),
            _ => self.forms.groups(),
        };
        heading(identity, self.hasher.start(), &self.written.rules, groups)
    }

    /// Keys with waiting calls.
    pub(super) fn waited(&self) -> usize {
        on_table!(self, (table, _form) => table.waited()) + self.free.get().map_or(0, |free| free.table.waited())
    }

    /// Copies all buckets in use. A bucket that moves to the table of other limits meanwhile may come
    /// twice, the second time with [`Place::Free`].
    pub(super) fn copy(&self, copies: &mut Copies<'_>) -> io::Result<()> {
        let rules = &self.written.rules;
        let now = Now::exactly((copies.clocks)().now);
        copies.unkeyed(&self.copied_unkeyed(now), &self.forms, rules)?;
        let mut result = Ok(());
        on_table!(self, (table, form) => {
            result = table.each_copied(|some| copies.keyed(some, form, rules, Place::Usual));
        });
        result?;
        // After the usual table: buckets move from there to here, and never back.
        if let Some(Free { table, .. }) = self.free.get() {
            table.each_copied(|some| copies.keyed(some, &self.forms, rules, Place::Free))?;
        }
        // Last: a debt is noted here when it is charged. If the charge came after the copy of its
        // bucket, the debt alone denies.
        self.holds.each_copied(|address, hold| copies.hold(address, hold))
    }
}

impl Retired {
    pub(super) fn heading(&self, identity: &str) -> Heading {
        heading(identity, self.hasher.start(), &self.written.rules, self.forms().groups())
    }

    /// Copies all buckets in use.
    pub(super) fn copy(&self, copies: &mut Copies<'_>) -> io::Result<()> {
        let (forms, rules) = (self.forms(), &self.written.rules);
        copies.unkeyed(&self.unkeyed, &forms, rules)?;
        macro_rules! keyed {
            ($buckets:expr, $form:expr, $place:expr) => {
                for (_, fingerprint, state) in $buckets {
                    copies.keyed(&[(*fingerprint, state.clone())], $form, rules, $place)?;
                }
            };
        }
        let layout = Layout::of(rules, self.written.backoff.as_ref());
        match (&self.keyed, layout) {
            (Keys::One(buckets), Some(layout)) => keyed!(buckets, &layout, Place::Usual),
            (Keys::Two(buckets), Some(layout)) => keyed!(buckets, &layout, Place::Usual),
            (Keys::Three(buckets), Some(layout)) => keyed!(buckets, &layout, Place::Usual),
            (Keys::Window(buckets), _) => keyed!(buckets, forms.of(0), Place::Usual),
            (Keys::Full(buckets), _) => keyed!(buckets, &forms, Place::Usual),
            // Words have a layout.
            (Keys::One(_) | Keys::Two(_) | Keys::Three(_), None) => {}
        }
        keyed!(&self.free, &forms, Place::Free);
        self.holds.iter().try_for_each(|(address, hold)| copies.hold(address, hold))
    }
}
