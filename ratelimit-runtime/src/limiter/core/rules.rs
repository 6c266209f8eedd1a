//! The limits of a limiter: as written, set at run time, or read at each call.

use std::cell::RefCell;
use std::ops::Deref;
use std::rc::Rc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use once_cell::sync::OnceCell;
use parking_lot::Mutex;
use smallvec::SmallVec;

use crate::algorithm::Rule;
use crate::backend::memory::{Attempt, Store};
use crate::decision::Address;
use crate::fingerprint;
use crate::limit::{Algorithm, Limit};
use crate::limiter::spec::Reads;
use crate::rt::clock::Now;

/// The rules of one call.
pub(super) type Rules = SmallVec<[Rule; 2]>;

/// The limits of a limiter, as rules.
pub(super) struct RuleSet {
    written: Box<[Rule]>,
    /// The limit of the first rule.
    pub(super) first: Limit,
    reads: Reads,
    /// The limits that the first call read.
    seen: OnceCell<Box<[Limit]>>,
    /// The number of the limits set at run time, unique in the process; 0 before any are.
    replaced: AtomicU64,
    /// Prepares a store for limits that replace the ones written down.
    expects: OnceCell<fn(&Store, &[Rule])>,
    /// The limits set at run time. Threads look them up once for each number.
    replacement: Mutex<Box<[Rule]>>,
    /// A hash of the limits that apply, if none is read at each call. A cached denial by other
    /// limits does not apply. 0 until limits are replaced: then it is `written_hash`.
    hash: AtomicU64,
    written_hash: OnceCell<u64>,
}

/// The number of the next limits that are set at run time.
static NEXT: AtomicU64 = AtomicU64::new(1);

/// Limiters whose replaced limits a thread remembers, unless their numbers collide.
const REMEMBERED: usize = 64;

/// What concerns calls with other limits than those written down. Behind pointers, for programs that
/// neither set limits at run time nor read them at each call.
struct Other {
    /// The rules of a call.
    rules: fn(&RuleSet, Option<&[Limit]>, &mut Option<Others>),
    /// See [`RuleSet::expect_read`].
    expect: fn(&RuleSet, &Store, &[Rule]),
    /// See [`RuleSet::try_other`].
    take: TakeByOther,
}

type TakeByOther = fn(&RuleSet, Option<&Limit>, &Store, Address, Now, u32) -> Attempt;

static OTHER: OnceLock<Other> = OnceLock::new();

/// Call this before limits other than those written down apply to a call.
#[inline]
pub(in super::super) fn open_others() {
    OTHER.get_or_init(|| Other { rules: RuleSet::other, expect: RuleSet::expect_other, take: RuleSet::take_by_other });
}

/// The rules of a call, if they are not as written.
#[expect(clippy::large_enum_variant, reason = "a call with several limits allocates nothing either")]
pub(in super::super) enum Others {
    /// Replaced, or a single one that was read.
    Remembered(Rc<[Rule]>),
    Several(Rules),
}

impl Deref for Others {
    type Target = [Rule];

    #[inline]
    fn deref(&self) -> &[Rule] {
        match self {
            Others::Remembered(rules) => rules,
            Others::Several(rules) => rules,
        }
    }
}

impl RuleSet {
    pub(super) fn new(limits: &[Limit], reads: Reads) -> RuleSet {
        let written: Box<[Rule]> = limits.iter().map(|limit| Rule::new(*limit)).collect();
        RuleSet {
            written_hash: OnceCell::new(),
            hash: AtomicU64::new(0),
            replacement: Mutex::default(),
            first: limits[0],
            written,
            reads,
            seen: OnceCell::new(),
            replaced: AtomicU64::new(0),
            expects: OnceCell::new(),
        }
    }

    pub(super) fn written(&self) -> &[Rule] {
        &self.written
    }

    /// Whether these are the rules as written themselves, rather than equal ones.
    #[inline]
    pub(super) fn are_written(&self, rules: &[Rule]) -> bool {
        std::ptr::eq(rules.as_ptr(), self.written.as_ptr())
    }

    /// Whether these are the limits as written.
    #[inline]
    pub(super) fn is_written(&self, limits: &[Limit]) -> bool {
        match limits {
            [limit] => self.written.len() == 1 && self.first == *limit,
            _ => self.written.iter().map(|rule| &rule.limit).eq(limits),
        }
    }

    /// Prepares a store that was made for other limits, if these rules were read at the call. Those
    /// set at run time are expected already.
    #[cold]
    #[inline(never)]
    pub(super) fn expect_read(&self, store: &Store, rules: &[Rule]) {
        if !self.are_written(rules)
            && let Some(other) = OTHER.get()
        {
            (other.expect)(self, store, rules);
        }
    }

    /// [`expect_read`](RuleSet::expect_read) of rules other than those written down.
    fn expect_other(&self, store: &Store, rules: &[Rule]) {
        let are_read = !self.are_replaced() || self.reads.varying() != 0;
        if are_read && !store.is_for(rules) {
            store.expect_others(rules);
        }
    }

    pub(super) fn written_limits(&self) -> Vec<Limit> {
        self.written.iter().map(|rule| rule.limit).collect()
    }

    /// The limit at `position`, as written.
    #[inline]
    pub(super) fn written_at(&self, position: u8) -> Limit {
        if position == 0 { self.first.by_parts() } else { self.written[usize::from(position)].limit.by_parts() }
    }

    pub(super) fn reads(&self) -> Reads {
        self.reads
    }

    #[inline]
    pub(super) fn see(&self, limits: &[Limit]) {
        if self.reads.is_none() {
            return;
        }
        self.seen.get_or_init(|| limits.into());
    }

    pub(super) fn seen(&self) -> Option<&[Limit]> {
        self.seen.get().map(|limits| &**limits)
    }

    /// The limits as written, or as the first call read them.
    pub(super) fn seen_limits(&self) -> Vec<Limit> {
        self.seen().map_or_else(|| self.written_limits(), <[Limit]>::to_vec)
    }

    /// Whether limits are read at each call.
    #[inline]
    pub(super) fn vary(&self) -> bool {
        !self.reads.is_none()
    }

    #[inline]
    pub(super) fn hash(&self) -> u64 {
        match self.hash.load(Ordering::Acquire) {
            0 => *self.written_hash.get_or_init(|| fingerprint::of_limits(&self.written_limits())),
            hash => hash,
        }
    }

    #[inline]
    pub(super) fn are_replaced(&self) -> bool {
        self.replaced.load(Ordering::Acquire) != 0
    }

    /// The limits set at run time, if there are any, as this thread remembers them.
    #[inline]
    fn replacement(&self) -> Option<Rc<[Rule]>> {
        /// By number.
        type Remembered = RefCell<Option<(u64, Rc<[Rule]>)>>;
        thread_local! {
            static RULES: [Remembered; REMEMBERED] = const { [const { RefCell::new(None) }; REMEMBERED] };
        }
        let number = self.replaced.load(Ordering::Acquire);
        if number == 0 {
            return None;
        }
        #[expect(clippy::cast_possible_truncation, reason = "only the lowest bits matter")]
        let remembered = RULES.try_with(|rules| {
            let mut remembered = rules[number as usize % REMEMBERED].borrow_mut();
            match &*remembered {
                Some((of, rules)) if *of == number => Rc::clone(rules),
                _ => {
                    let rules = self.looked_up();
                    *remembered = Some((number, Rc::clone(&rules)));
                    rules
                }
            }
        });
        // They are forgotten at a thread's very end.
        Some(remembered.unwrap_or_else(|_| self.looked_up()))
    }

    /// The limits set at run time: those of the number that was read before, or later ones.
    #[cold]
    #[inline(never)]
    fn looked_up(&self) -> Rc<[Rule]> {
        Rc::from(&**self.replacement.lock())
    }

    /// Call this before limits are replaced.
    pub(super) fn expects(&self, expects: fn(&Store, &[Rule])) {
        self.expects.get_or_init(|| expects);
    }

    /// Prepares a store that was made after limits were replaced.
    pub(super) fn prepare(&self, store: &Store) {
        if let Some(expects) = self.expects.get() {
            expects(store, self.applying(None, &mut None));
        }
    }

    /// The hash comes last: see the lock-free words in ARCHITECTURE.md.
    pub(super) fn replace(&self, limits: &[Limit], rules: Box<[Rule]>) {
        open_others();
        *self.replacement.lock() = rules;
        self.replaced.store(NEXT.fetch_add(1, Ordering::Relaxed), Ordering::Release);
        self.hash.store(fingerprint::of_limits(limits), Ordering::Release);
    }

    /// The rules that apply: read at the call, set at run time, or as written. Those that are not as
    /// written are put into `others`.
    #[inline]
    pub(super) fn applying<'a>(&'a self, read: Option<&[Limit]>, others: &'a mut Option<Others>) -> &'a [Rule] {
        if (read.is_some() || self.are_replaced())
            && let Some(other) = OTHER.get()
        {
            (other.rules)(self, read, others);
        }
        self.or_written(others.as_ref())
    }

    /// These rules, or those as written.
    #[inline]
    pub(super) fn or_written<'a>(&'a self, others: Option<&'a Others>) -> &'a [Rule] {
        others.map_or(&self.written, |others| others)
    }

    /// The fast path of permits if a single limit applies that is not as written.
    /// [`Attempt::Contended`] if the call must be decided elsewhere.
    #[inline]
    pub(super) fn try_other(
        &self,
        read: Option<&[Limit]>,
        store: &Store,
        address: Address,
        now: Now,
        cost: u32,
    ) -> Attempt {
        let limit = match (read, self.are_replaced()) {
            (Some([limit]), false) => Some(limit),
            (None, true) => None,
            // Several limits, or one that is read beside others that were replaced.
            _ => return Attempt::Contended,
        };
        OTHER.get().map_or(Attempt::Contended, |other| (other.take)(self, limit, store, address, now, cost))
    }

    #[inline(never)]
    fn take_by_other(&self, read: Option<&Limit>, store: &Store, address: Address, now: Now, cost: u32) -> Attempt {
        let rules = match read {
            Some(limit) => Some(Rule::remembered(limit)),
            None => self.replacement(),
        };
        let Some([rule]) = rules.as_deref() else { return Attempt::Contended };
        if read.is_some() && !store.varies() {
            self.expect_other(store, std::slice::from_ref(rule));
        }
        match address {
            Address::Hash(hash) => store.try_take_by(hash, rule, now, cost),
            Address::Unkeyed => store.try_take_unkeyed_by(rule, now, cost),
        }
    }

    #[inline(never)]
    fn other(&self, read: Option<&[Limit]>, others: &mut Option<Others>) {
        let replacement = self.replacement();
        let read = read.filter(|_| replacement.is_none() || self.reads.varying() != 0);
        // Each is made in its place, because the largest has 256 bytes.
        match (read, replacement) {
            (None, None) => {}
            (None, Some(rules)) => *others = Some(Others::Remembered(rules)),
            (Some([limit]), None) => *others = Some(Others::Remembered(Rule::remembered(limit))),
            (Some(limits), replacement) => {
                let rule = |(position, limit): (usize, &Limit)| {
                    let is_read = self.reads.varying() >> position & 1 == 1;
                    match replacement.as_deref().and_then(|rules| rules.get(position)) {
                        Some(rule) if !is_read => *rule,
                        _ => Rule::remembered(limit)[0],
                    }
                };
                *others = Some(Others::Several(limits.iter().enumerate().map(rule).collect()));
            }
        }
    }
}

/// The algorithms of limits, two bits each. Permits of one algorithm cannot be given back to
/// another.
#[inline]
pub(in super::super) fn kinds_of(rules: &[Rule]) -> u16 {
    if let [rule] = rules {
        return kinds_of_one(rule.limit.algorithm());
    }
    rules.iter().fold(0, |kinds, rule| kinds << 2 | kinds_of_one(rule.limit.algorithm()))
}

/// [`kinds_of`] for one limit.
pub(in super::super) fn kinds_of_one(algorithm: Algorithm) -> u16 {
    algorithm as u16 + 1
}

#[cfg(all(test, not(loom_model)))]
mod tests {
    use super::*;

    #[test]
    fn a_thread_follows_every_replacement_of_many_limiters() {
        let written = Limit::per_second(1_000);
        let sets: Vec<RuleSet> = (0..2 * REMEMBERED + 3).map(|_| RuleSet::new(&[written], Reads::NONE)).collect();
        for round in 0..3 {
            for (set, count) in sets.iter().zip(1_u32..) {
                let limits = [Limit::per_second(count), Limit::per_minute(count + round)];
                set.replace(&limits, limits.iter().map(|limit| Rule::new(*limit)).collect());
            }
            for (set, count) in sets.iter().zip(1_u32..) {
                let expected = [Limit::per_second(count), Limit::per_minute(count + round)];
                let limits: Vec<Limit> = set.applying(None, &mut None).iter().map(|rule| rule.limit).collect();
                assert_eq!(limits, expected);
            }
        }
    }
}
