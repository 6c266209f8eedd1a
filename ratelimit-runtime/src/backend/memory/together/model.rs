//! Every order in which two threads can take the locks of two buckets: no deadlock, and all are
//! charged or none is.

use std::time::Duration;

use loom::sync::Arc as Shared;
use loom::thread;

use super::super::holds::Hold;
use super::super::state::Call;
use super::super::{MemoryBackend, WhenFull};
use super::*;
use crate::algorithm::Rule;
use crate::backend::memory::Written as StoreWritten;
use crate::limit::{Algorithm, Limit};
use crate::rt::clock;

/// The stores of two parts, in the order of their locks. The order of two allocations varies, and
/// loom must be able to repeat a run.
struct Two {
    rule: Rule,
    stores: [Arc<Store>; 2],
    _backend: MemoryBackend,
}

fn now() -> Now {
    Now::exactly(clock::origin() + 1_000_000_000)
}

impl Two {
    fn new(algorithm: Algorithm, count: u32) -> Two {
        let rule = Rule::new(Limit::new(count, Duration::from_secs(60)).with_algorithm(algorithm));
        let backend = MemoryBackend::bounded(10, WhenFull::Admit);
        let written = StoreWritten {
            rules: Box::new([rule]),
            backoff: None,
            varies: false,
            by: 0,
            limiter: crate::error::Name::Static("test"),
            states: crate::backend::memory::States::ANY,
        };
        let mut stores = [backend.store(None, &written), backend.store(None, &written)];
        stores.sort_by_key(|store| store.id());
        Two { rule, stores, _backend: backend }
    }

    fn call(&self, cost: u32) -> Call<'_> {
        Call { rules: std::slice::from_ref(&self.rule), backoff: None, cost, floor: Hold::NONE }
    }

    /// Takes a permit from the buckets of both stores, which the call lists in this order.
    fn take(&self, listed: [usize; 2]) -> bool {
        let mut quick = listed.map(|index| (&self.stores[index], Address::Hash(2)));
        match try_take(&mut quick, now(), 1) {
            Tried::Taken => return true,
            Tried::First(_) | Tried::Second(_) | Tried::Both(_) => return false,
            Tried::Undecided => {}
        }
        let bucket = |index: usize| {
            let ask = Ask { call: self.call(1), is_foreign: false };
            Bucket { store: &self.stores[index], address: Address::Hash(2), ask }
        };
        take(&listed.map(bucket), now(), true, &Verdicts::new())
    }

    /// Takes a permit from one bucket alone.
    fn take_one(&self, index: usize) -> bool {
        let ask = Ask { call: self.call(1), is_foreign: false };
        let (verdict, _) = self.stores[index].take(Address::Hash(2), &ask, now(), false);
        matches!(verdict, Verdict::Admitted { .. })
    }

    fn left(&self, index: usize) -> u32 {
        let ask = Ask { call: self.call(0), is_foreign: false };
        self.stores[index].peek(Address::Hash(2), &ask, now()).1.remaining
    }
}

fn both(
    algorithm: Algorithm,
    count: u32,
    begin: impl Fn(&Two) + Sync + Send + 'static,
    one: fn(&Two) -> bool,
    two: fn(&Two) -> bool,
    check: fn(&Two, [bool; 2]),
) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(move || {
        let stores = Shared::new(Two::new(algorithm, count));
        begin(&stores);
        let other = Shared::clone(&stores);
        let thread = thread::spawn(move || two(&other));
        let taken = [one(&stores), thread.join().unwrap()];
        check(&stores, taken);
    });
}

#[test]
fn two_calls_that_list_their_keys_crosswise() {
    for algorithm in [Algorithm::TokenBucket, Algorithm::SlidingWindow] {
        // The buckets exist, and have one permit each.
        let begin = |two: &Two| assert!(two.take([0, 1]));
        both(
            algorithm,
            2,
            begin,
            |two| two.take([0, 1]),
            |two| two.take([1, 0]),
            |two, taken| {
                assert_eq!(taken.map(u8::from).iter().sum::<u8>(), 1);
                assert_eq!([two.left(0), two.left(1)], [0, 0]);
            },
        );
    }
}

#[test]
fn two_calls_that_make_their_buckets() {
    let nothing = |_: &Two| {};
    both(
        Algorithm::SlidingWindow,
        1,
        nothing,
        |two| two.take([0, 1]),
        |two| two.take([1, 0]),
        |two, taken| {
            assert_eq!(taken.map(u8::from).iter().sum::<u8>(), 1);
            assert_eq!([two.left(0), two.left(1)], [0, 0]);
        },
    );
}

#[test]
fn a_call_on_one_of_the_buckets_comes_in_between() {
    for index in [0, 1] {
        let begin = |two: &Two| assert!(two.take([0, 1]));
        let one: fn(&Two) -> bool = if index == 0 { |two| two.take_one(0) } else { |two| two.take_one(1) };
        let check: fn(&Two, [bool; 2]) = if index == 0 {
            |two, [alone, together]| {
                assert!(alone != together);
                assert_eq!([two.left(0), two.left(1)], [0, u32::from(alone)]);
            }
        } else {
            |two, [alone, together]| {
                assert!(alone != together);
                assert_eq!([two.left(0), two.left(1)], [u32::from(alone), 0]);
            }
        };
        both(Algorithm::SlidingWindow, 2, begin, one, |two| two.take([0, 1]), check);
    }
}
