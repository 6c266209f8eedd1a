//! What is done with each key of a call: visitors of its keys.

use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;

use super::super::super::call::{Call, Refusal};
use super::super::super::core::{Each, Fast, Question, Target};
use super::Member;
use crate::algorithm::Rule;
use crate::backend::Action;
use crate::backend::memory::{Bucket, WrittenBucket};
use crate::guard::Guard;
use crate::key::RateLimitKey;
use crate::keys::sealed::{Map, Visit};
use crate::limit::Limit;
use crate::switches::Switches;

/// The buckets of the fast path.
pub(super) struct Quick<'a> {
    pub(super) each: &'a Each,
    pub(super) cost: u32,
}

impl<'a> Map for Quick<'a> {
    type Value = WrittenBucket<'a>;

    #[inline]
    fn key<K: RateLimitKey>(&self, index: usize, key: &K) -> Option<WrittenBucket<'a>> {
        let store =
            self.each.parts.get(index)?.core.fast().map(|fast| &fast.store).filter(|store| store.admits(self.cost))?;
        let address = store.address(key);
        (!store.may_hold(address)).then_some((store, address))
    }
}

/// The buckets of a call by the limits written down.
pub(super) struct FastBuckets<'a> {
    pub(super) each: &'a Each,
    pub(super) cost: u32,
    pub(super) buckets: SmallVec<[Bucket<'a>; 4]>,
}

impl Visit for FastBuckets<'_> {
    #[inline]
    fn key<K: RateLimitKey>(&mut self, index: usize, key: &K) {
        if let Some(Fast { store, .. }) = self.each.parts[index].core.fast() {
            let (address, ask) = (store.address(key), store.written_ask(self.cost));
            self.buckets.push(Bucket { store, address, ask });
        }
    }
}

/// The buckets of any call.
pub(super) struct Members<'a> {
    pub(super) call: Call<'a>,
    pub(super) each: &'a Each,
    pub(super) switches: Switches,
    pub(super) all: SmallVec<[Member; 4]>,
    pub(super) guard: Option<Arc<Guard>>,
}

impl Visit for Members<'_> {
    fn key<K: RateLimitKey>(&mut self, index: usize, key: &K) {
        let part = &self.each.parts[index];
        let limits = self.call.limits.map(|limits| part.share(limits));
        let venue = part.core.venue(self.switches, self.call.is_async);
        part.core.send_blocks(&venue);
        let (address, request) = match &venue.target {
            Target::Memory(store) => (store.address(key), None),
            Target::Remote(guard) => {
                self.guard.get_or_insert_with(|| Arc::clone(guard));
                let max_wait = Duration::ZERO;
                let action = if self.call.peek {
                    Action::Peek { cost: self.call.cost, max_wait }
                } else {
                    Action::Take { cost: self.call.cost, max_wait }
                };
                let request =
                    part.core.with_rules(limits.as_deref(), |rules| part.core.request(&venue, key, rules, action));
                (part.core.fallback(&venue).address(key), Some(request))
            }
        };
        self.all.push(Member { part: index, address, limits, request });
    }
}

/// Hands out the keys of tried limits, by the part that each belongs to.
pub(super) struct TriedKeys<'a, 'b> {
    pub(super) parts: SmallVec<[Option<usize>; 4]>,
    pub(super) members: &'b mut Members<'a>,
}

impl Visit for TriedKeys<'_, '_> {
    fn key<K: RateLimitKey>(&mut self, index: usize, key: &K) {
        if let Some(part) = self.parts[index] {
            self.members.key(part, key);
        }
    }
}

/// The cached denial of any of the keys.
pub(super) struct Cached<'a> {
    pub(super) call: Call<'a>,
    pub(super) each: &'a Each,
    pub(super) found: Option<(Limit, Refusal)>,
}

impl Visit for Cached<'_> {
    fn key<K: RateLimitKey>(&mut self, index: usize, key: &K) {
        let part = &self.each.parts[index];
        let venue = part.core.venue(Switches::load(), self.call.is_async);
        let Target::Remote(guard) = &venue.target else { return };
        let own = Call { core: &part.core, ..self.call };
        let Some(denials) = guard.denials().filter(|_| !part.is_off() && own.is_denied_alike()) else { return };
        let now = venue.backend_now();
        let Some(denial) = denials.find(part.core.asked(&venue, key, self.call.cost), now) else { return };
        let denial = if self.call.peek { denial } else { denial.to_a_try(now) };
        let limit = |rules: &[Rule]| rules.get(usize::from(denial.limit)).map(|rule| rule.limit);
        let Some(limit) = part.core.with_rules(None, limit) else { return };
        let refusal = Refusal {
            position: part.position(usize::from(denial.limit), self.call.core.groups().len()),
            remaining: denial.remaining,
            retry_after: denial.admitted_at.saturating_sub(now),
            is_blocked: denial.is_blocked,
        };
        if self.found.as_ref().is_none_or(|(_, found)| found.retry_after < refusal.retry_after) {
            self.found = Some((limit, refusal));
        }
    }
}

/// Forgets the bucket of each key.
pub(super) struct Resets<'a> {
    pub(super) each: &'a Each,
    pub(super) is_async: bool,
    pub(super) requests: Vec<Question>,
}

impl Visit for Resets<'_> {
    fn key<K: RateLimitKey>(&mut self, index: usize, key: &K) {
        self.requests.extend(self.each.parts[index].core.start_reset(key, self.is_async));
    }
}
