//! Every order in which two threads can take a table's locks and count its buckets.

use std::time::Duration;

use loom::sync::Arc;
use loom::thread;

use super::super::holds::Hold;
use super::super::state::{Call, Groups, Layout, Verdict, Window, Words};
use super::*;
use crate::limit::{Algorithm, Limit};
use crate::rt::clock;

/// The form of a rule's states.
trait Formed: State {
    fn form(rule: &Rule) -> Self::Form;
}

impl Formed for Words<1> {
    fn form(rule: &Rule) -> Layout {
        Layout::of(&[*rule], None).unwrap()
    }
}

impl Formed for Window {
    fn form(rule: &Rule) -> Groups {
        Groups::new(rule, false)
    }
}

struct Shared<S: State> {
    table: Table<S, 2>,
    bound: Bound,
    rule: Rule,
    form: S::Form,
}

impl<S: Formed> Shared<S> {
    fn new(algorithm: Algorithm, count: u32, max_keys: usize) -> Shared<S> {
        let rule = Rule::new(Limit::new(count, Duration::from_secs(60)).with_algorithm(algorithm));
        Shared { table: Table::new(), bound: Bound::new(max_keys, WhenFull::Admit), rule, form: S::form(&rule) }
    }

    fn context(&self) -> Context<'_, S> {
        Context { bound: &self.bound, form: &self.form, written: std::slice::from_ref(&self.rule) }
    }

    fn judge(&self, state: &mut S) -> bool {
        let call = Call { rules: std::slice::from_ref(&self.rule), backoff: None, cost: 1, floor: Hold::NONE };
        matches!(call.take(state, &self.form, now()), Verdict::Admitted { .. })
    }

    /// As most calls do: the fast path, else the slow one.
    fn take(&self, hash: u64) -> Option<bool> {
        let take = |state: &mut S| self.judge(state);
        let usual = || match self.table.with(self.context(), hash, now(), take).0 {
            With::Done(taken) => Some(taken),
            _ => None,
        };
        let fast = || Some(self.judge(self.table.try_reach::<false>(hash).ok()?.state()?));
        fast().or_else(usual).or_else(|| {
            self.table.evict(self.context(), hash, now(), false);
            usual()
        })
    }

    /// As a call that checks whether others wait.
    fn take_with_queue(&self, hash: u64) -> bool {
        matches!(self.table.with_queue(self.context(), hash, now(), |state, _| self.judge(state)), With::Done(true))
    }

    /// Forgets a bucket.
    fn remove(&self, hash: u64) {
        self.table.with_existing(self.context(), hash, |_, _| ((), true));
    }

    /// The count equals the number of buckets and does not exceed the bound.
    fn check(&self) {
        let kept: usize = self.table.shards.iter().map(|shard| shard.shard.lock().slots.len()).sum();
        assert_eq!(self.bound.len(), kept);
        assert!(kept <= self.bound.max_keys);
    }
}

fn now() -> Now {
    Now::exactly(clock::origin() + 1_000_000_000)
}

fn at_once<S: Formed + 'static, A: 'static, B: 'static>(
    shared: Shared<S>,
    one: impl FnOnce(&Shared<S>) -> A + 'static,
    two: impl FnOnce(&Shared<S>) -> B + 'static,
) -> (Arc<Shared<S>>, A, B) {
    let shared = Arc::new(shared);
    let other = Arc::clone(&shared);
    let handle = thread::spawn(move || two(&other));
    let a = one(&shared);
    let b = handle.join().unwrap();
    shared.check();
    (shared, a, b)
}

fn a_new_keys_permit_is_given_to_one_of_two<S: Formed + 'static>(algorithm: Algorithm) {
    loom::model(move || {
        let shared = Shared::<S>::new(algorithm, 1, 10);
        let (shared, a, b) = at_once(shared, |it| it.take(7), |it| it.take(7));
        assert_eq!([a, b].into_iter().filter(|taken| *taken == Some(true)).count(), 1);
        assert_eq!(shared.bound.len(), 1);
    });
}

#[test]
fn a_new_keys_token_is_given_to_one_of_two() {
    a_new_keys_permit_is_given_to_one_of_two::<Words<1>>(Algorithm::TokenBucket);
}

#[test]
fn a_new_keys_place_in_a_window_is_given_to_one_of_two() {
    a_new_keys_permit_is_given_to_one_of_two::<Window>(Algorithm::SlidingWindow);
}

#[test]
fn both_ways_together_give_a_key_its_count() {
    loom::model(|| {
        let shared = Shared::<Words<1>>::new(Algorithm::TokenBucket, 2, 10);
        let quick = |it: &Shared<Words<1>>| u32::from(it.take(7) == Some(true)) + u32::from(it.take(7) == Some(true));
        let (_, a, b) = at_once(shared, quick, |it| u32::from(it.take_with_queue(7)));
        assert_eq!(a + b, 2);
    });
}

#[test]
fn keys_of_two_shards_share_the_bound() {
    loom::model(|| {
        let shared = Shared::<Words<1>>::new(Algorithm::TokenBucket, 2, 1);
        // Each finds room, or makes it by evicting the other, which is not being denied.
        let (shared, ..) = at_once(shared, |it| it.take(2), |it| it.take(3));
        assert_eq!(shared.bound.len(), 1);
    });
}

#[test]
fn a_bucket_that_is_removed_meanwhile_is_counted_off_once() {
    loom::model(|| {
        let shared = Shared::<Words<1>>::new(Algorithm::TokenBucket, 1, 10);
        assert_eq!(shared.take(7), Some(true));
        let (_, (), ()) = at_once(shared, |it| it.remove(7), |it| it.remove(7));
    });
}

#[test]
fn a_bucket_that_goes_to_another_table_is_found_in_one_of_them() {
    loom::model(|| {
        let shared = Shared::<Words<1>>::new(Algorithm::TokenBucket, 2, 10);
        assert_eq!(shared.take(7), Some(true));
        let move_away = |it: &Shared<Words<1>>| {
            it.table.close();
            let mut moved = None;
            it.table.hand_over(7, |state, queue| moved = Some((state, queue.is_some())));
            moved
        };
        let shared = Arc::new(shared);
        let other = Arc::clone(&shared);
        let handle = thread::spawn(move || other.take(7));
        let moved = move_away(&shared);
        let taken = handle.join().unwrap();
        // Either the call comes first and its permit moves along, or it must look elsewhere.
        let (mut state, is_waited) = moved.unwrap();
        assert!(!is_waited);
        assert_eq!(shared.judge(&mut state), taken.is_none());
        assert_eq!(shared.table.len(), 0);
    });
}
