//! What a backend's stores keep, evict and refund, at times that the tests choose.

use std::time::Duration;

use super::orphans::{retire, retire_at};
use super::state::{Layout, State, Words};
use super::*;
use crate::algorithm::Rule;
use crate::decision::Address;
use crate::error::Name;
use crate::key::RateLimitKey;
use crate::limit::{Algorithm, Limit};
use crate::rt::clock;

const HOUR: Rule = Rule::new(Limit::new(2, Duration::from_secs(3_600)));
const START: u64 = 1_700_000_000_000_000_000;

fn store(backend: &MemoryBackend, name: Option<&str>) -> Arc<Store> {
    of(backend, name, HOUR)
}

fn of(backend: &MemoryBackend, name: Option<&str>, rule: Rule) -> Arc<Store> {
    of_several(backend, name, &[rule])
}

fn of_several(backend: &MemoryBackend, name: Option<&str>, rules: &[Rule]) -> Arc<Store> {
    let written = Written {
        rules: rules.into(),
        backoff: None,
        varies: false,
        by: 0,
        limiter: Name::Static("test"),
        states: States::ANY,
    };
    backend.store(name.map(str::to_owned), &written)
}

/// Whether a call is admitted.
fn take(store: &Store, key: u64, now: u64) -> bool {
    take_by(store, &HOUR, store.address(&key), now)
}

fn take_by(store: &Store, rule: &Rule, address: Address, now: u64) -> bool {
    let call = Call { rules: std::slice::from_ref(rule), backoff: None, cost: 1, floor: Hold::NONE };
    let ask = Ask { call, is_foreign: false };
    let (verdict, _) = store.take(address, &ask, Now::exactly(now), false);
    assert_ne!(verdict, Verdict::Undecided);
    matches!(verdict, Verdict::Admitted { .. })
}

/// As an annotated function does: the fast path, then the slow one.
fn admit(store: &Store, key: u64, now: u64) -> bool {
    let address = store.address(&key);
    let Address::Hash(hash) = address else { panic!("a key") };
    let verdict = match WindowPath::take(store, hash, Now::exactly(now), OnePermit) {
        Verdict::Undecided => store.take_written(address, Now::exactly(now)).0,
        verdict => verdict,
    };
    matches!(verdict, Verdict::Admitted { .. })
}

#[test]
fn calls_of_any_cost_share_the_word_of_a_bucket() {
    let rule = Rule::new(Limit::new(10_000, Duration::from_secs(3_600)).with_algorithm(Algorithm::TokenBucket));
    let store = of(&MemoryBackend::new(), None, rule);
    // No whole microsecond, which would be taken for the tick of a coarse clock.
    let now = Now::exactly((clock::origin() + 1_000_000_000) | 1);
    for (calls, cost) in [(1_000, 3), (1_000, 1), (60, 64), (10, 200), (160, 1)] {
        for _ in 0..calls {
            assert!(store.try_take(Address::Unkeyed, now, cost).is_some(), "{cost}");
        }
    }
    assert_eq!([1, 3, 64].map(|cost| store.try_take(Address::Unkeyed, now, cost)), [None; 3]);
}

#[test]
fn it_never_keeps_more_than_max_keys() {
    for max_keys in [1, 7, 100, 1_000] {
        let backend = MemoryBackend::with_max_keys(max_keys);
        let store = store(&backend, None);
        for key in 0..5_000 {
            let _ = take(&store, key, START);
            assert!(backend.tracked_keys() <= max_keys);
        }
        assert_eq!(backend.tracked_keys(), max_keys);
    }
}

#[test]
fn what_is_counted_is_what_is_kept() {
    let backend = MemoryBackend::with_max_keys(300);
    let store = store(&backend, None);
    // In a full backend, some of a flood's new keys find room in idle buckets.
    for key in 0..3_000 {
        let now = START + key / 500 * 2 * 3_600_000_000_000;
        assert!(take(&store, key, now));
        assert_eq!(backend.tracked_keys(), store.keys());
    }
}

#[test]
fn up_to_max_keys_are_all_exact() {
    let backend = MemoryBackend::with_max_keys(500);
    let store = store(&backend, None);
    for _ in 0..2 {
        for key in 0..500 {
            assert!(take(&store, key, START));
        }
    }
    for key in 0..500 {
        assert!(!take(&store, key, START));
    }
}

#[test]
fn a_flood_of_new_keys_does_not_free_one_that_is_being_denied() {
    let backend = MemoryBackend::with_max_keys(1_000);
    let store = store(&backend, None);
    for _ in 0..3 {
        let _ = take(&store, u64::MAX, START);
    }
    for key in 0..100_000 {
        let _ = take(&store, key, START + 1);
    }
    assert!(!take(&store, u64::MAX, START + 2));
}

/// Calls by which the long-lived keys of a flood are denied from their second call on.
fn once(backend: &MemoryBackend) -> (Arc<Store>, impl Fn(&Store, u64, u64) -> bool + use<>) {
    const ONCE: Rule = Rule::new(Limit::new(1, Duration::from_secs(3_600)));
    (of(backend, None, ONCE), |store: &Store, key: u64, now: u64| take_by(store, &ONCE, store.address(&key), now))
}

#[test]
fn a_backend_that_nobody_has_any_more_is_gone() {
    let backend = MemoryBackend::new();
    drop(store(&backend, Some("named")));
    let shared = Arc::downgrade(&backend.shared);
    drop(backend);
    assert_eq!(shared.strong_count(), 0);
}

#[test]
fn of_keys_that_are_all_denied_the_latest_are_kept() {
    let backend = MemoryBackend::with_max_keys(2_000);
    let (store, take) = once(&backend);
    for key in 0..20_000 {
        assert!(take(&store, key, START + key));
    }
    let kept = (19_000..20_000).filter(|key| !take(&store, *key, START + 20_000)).count();
    assert!(kept > 800, "{kept}");
}

#[test]
fn buckets_that_another_limiter_has_left_make_room_before_ones_in_use() {
    let backend = MemoryBackend::with_max_keys(10_000);
    let (left, used) = (store(&backend, None), store(&backend, None));
    for key in 0..10_000 {
        assert!(take(&left, key, START));
    }
    for later in [START + 1, START + 2 * 3_600_000_000_000] {
        for _ in 0..2 {
            for key in 0..1_000 {
                assert!(take(&used, key, later));
            }
        }
        let denied = (0..1_000).filter(|key| !take(&used, *key, later)).count();
        assert_eq!(denied, 1_000, "each key has been called twice before");
    }
}

#[test]
fn the_memory_of_a_limiter_that_is_not_called_any_more_is_given_back() {
    for max_keys in [20_000, MAX_KEYS] {
        let backend = MemoryBackend::with_max_keys(max_keys);
        let (left, used) = (store(&backend, None), store(&backend, None));
        for key in 0..20_000 {
            assert!(take(&left, key, START));
        }
        let later = START + 2 * 3_600_000_000_000;
        for key in 0..100_000_u64 {
            assert!(admit(&used, key, later));
        }
        assert!(left.slots() < 5_000, "{}", left.slots());
        assert!(backend.evicted() == 0 || max_keys == 20_000);
    }
}

#[test]
fn idle_buckets_are_reclaimed_by_calls_that_bring_new_keys() {
    let backend = MemoryBackend::new();
    let store = store(&backend, None);
    for key in 0..10_000 {
        let _ = take(&store, key, START);
    }
    let later = START + 2 * 3_600_000_000_000;
    for key in 10_000..20_000 {
        let _ = take(&store, key, later);
    }
    assert!(backend.tracked_keys() < 11_000, "{}", backend.tracked_keys());
}

#[test]
fn keys_that_come_once_each_take_little_more_room_than_those_in_use() {
    const HOUR_LONG: u64 = 3_600_000_000_000;
    for in_use in [1_000, 10_000] {
        let backend = MemoryBackend::with_max_keys(in_use * 2);
        let store = store(&backend, None);
        let step = HOUR_LONG / in_use as u64;
        for key in 0..8 * in_use as u64 {
            let now = START + key * step;
            assert!(admit(&store, key, now));
            // A bucket whose hour is over survives its shard's current sweep and goes in the next
            // one. That is half as many more on average, and a few more in a small backend, by
            // chance of the hash.
            assert!(backend.tracked_keys() < in_use * 8 / 5, "{} of {in_use}", backend.tracked_keys());
        }
        // Buckets whose hour is over make room for the new ones, not those in use.
        assert_eq!(backend.evicted(), 0);
        let slots = store.slots();
        assert!(slots < in_use * 3, "{slots} for {in_use}");
    }
}

#[test]
fn a_table_does_not_grow_for_buckets_that_nobody_uses() {
    let backend = MemoryBackend::new();
    let store = store(&backend, None);
    let slots = || store.slots();
    let admit = |key: u64, now| assert!(admit(&store, key, now));
    // Half of the shards are just about to grow.
    (0..27_000).for_each(|key| admit(key, START));
    let before = slots();
    for key in 27_000..28_000 {
        admit(key, START + 2 * 3_600_000_000_000);
        assert!(slots() <= before, "{} instead of {before}", slots());
    }
}

#[test]
fn stores_share_buckets_by_name_only() {
    let backend = MemoryBackend::new();
    let named = |name: Option<&str>| store(&backend, name);
    let (a, b, other, anonymous) = (named(Some("a")), named(Some("a")), named(Some("b")), named(None));
    for _ in 0..2 {
        assert!(take(&a, 1, START));
    }
    assert!(!take(&b, 1, START));
    assert!(take(&other, 1, START));
    assert!(take(&anonymous, 1, START));
}

#[test]
fn memory_is_given_back_after_a_flood() {
    let backend = MemoryBackend::new();
    let store = store(&backend, None);
    let slots = || store.slots();
    for key in 0..50_000 {
        let _ = take(&store, key, START);
    }
    let flooded = slots();
    let later = START + 2 * 3_600_000_000_000;
    // No new keys: calls on a few old ones reclaim the rest.
    for call in 0..2_000_000 {
        let _ = admit(&store, call % 1_000, later);
    }
    assert!(backend.tracked_keys() < 2_000, "{}", backend.tracked_keys());
    assert!(slots() * 4 < flooded, "{} of {flooded}", slots());
}

#[test]
fn a_clock_that_goes_back_admits_no_more() {
    for keyed in [false, true] {
        let store = store(&MemoryBackend::new(), None);
        let take = |now| {
            let address = if keyed { store.address(&1_u8) } else { store.address(&()) };
            take_by(&store, &HOUR, address, now)
        };
        let hour = 3_600_000_000_000;
        assert!(take(START) && take(START - hour));
        assert!(!take(START - 2 * hour) && !take(START + hour - 1));
        assert!(take(START + hour));
    }
}

#[test]
fn keys_and_limiters_have_nothing_to_do_with_each_other() {
    const KEYS: u32 = 100_000;
    let backend = MemoryBackend::new();
    let (a, b) = (store(&backend, None), store(&backend, None));
    let hash = |store: &Store, key: u32| match store.address(&key) {
        Address::Hash(hash) => hash,
        Address::Unkeyed => panic!("a key"),
    };
    // The bits that select the shard, and those that select the bucket in it.
    for of in [|hash| hash, fingerprint::fingerprint] {
        let all: Vec<u64> = (0..KEYS).map(|key| of(hash(&a, key))).collect();
        // No two are equal, and each bit is set in half of them, whatever the others are: six sigma
        // of √(n/4).
        assert_eq!(all.iter().collect::<std::collections::HashSet<_>>().len(), all.len());
        let near = |count: usize| count.abs_diff(all.len() / 2) < 950;
        for bit in 0..64 {
            assert!(near(all.iter().filter(|it| **it >> bit & 1 == 1).count()), "bit {bit}");
            for other in 0..bit {
                let equal = all.iter().filter(|it| (**it >> bit ^ **it >> other) & 1 == 0).count();
                assert!(near(equal), "bits {bit} and {other}");
            }
            // A key's bits say nothing about the next key's, nor about the same key's in another
            // limiter.
            let next = all.windows(2).filter(|pair| (pair[0] ^ pair[1]) >> bit & 1 == 0).count();
            let elsewhere = (0..KEYS).zip(&all).filter(|(key, it)| (**it ^ of(hash(&b, *key))) >> bit & 1 == 0);
            assert!(near(next) && near(elsewhere.count()), "bit {bit}");
        }
    }
}

#[test]
fn times_that_no_word_can_say_are_decided_elsewhere() {
    let rule = Rule::new(Limit::new(1, Duration::from_secs(1)).with_algorithm(Algorithm::TokenBucket));
    let origin = clock::origin();
    for now in [0, origin - 1, origin + (1 << 59), u64::MAX - (1 << 40)] {
        let mut words = Words::<1>::idle();
        assert_eq!(words.take_now(&Layout::TAT, &rule, Now::exactly(now), 1), Verdict::Undecided);
        assert_eq!(words.0, [0]);
        // The key's bucket continues in a state that can express them.
        let store = of(&MemoryBackend::new(), None, rule);
        for key in [Address::Unkeyed, store.address(&1_u8)] {
            assert!(take_by(&store, &rule, key, now) && !take_by(&store, &rule, key, now), "{now}, {key:?}");
        }
    }
}

#[test]
fn keys_of_all_kinds_are_spread_over_the_shards() {
    const KEYS: u32 = 64_000;
    fn most<K: RateLimitKey>(key: impl Fn(u32) -> K) -> u32 {
        let store = store(&MemoryBackend::new(), None);
        let mut shards = [0; 64];
        for number in 0..KEYS {
            let Address::Hash(hash) = store.address(&key(number)) else { panic!("a key") };
            shards[(hash % 64) as usize] += 1;
        }
        shards.into_iter().max().unwrap()
    }
    // A thousand keys a shard, and eight sigma of √1000 more.
    for _ in 0..20 {
        assert!(most(|number| number) < 1_253);
        assert!(most(|number| u64::from(number) * 1_000) < 1_253);
        assert!(most(|number| format!("user:{number}")) < 1_253);
        assert!(most(|number| (number % 7, Some("a"), number / 7)) < 1_253);
    }
    // The hash of long text is weaker: with one seed in some hundreds, a shard has half as many
    // more.
    let mut of_long_text: Vec<u32> = (0..21).map(|_| most(|number| format!("customers/region/{number:08}"))).collect();
    of_long_text.sort_unstable();
    assert!(of_long_text[10] < 1_253, "{of_long_text:?}");
}

#[test]
fn a_blocked_key_is_denied_until_the_later_of_its_block_and_its_limit() {
    let backend = MemoryBackend::new();
    for key in [Some(7), None] {
        let store = store(&backend, None);
        let address = key.map_or(Address::Unkeyed, |key: u64| store.address(&key));
        let ask = |cost| {
            let call = Call { rules: std::slice::from_ref(&HOUR), backoff: None, cost, floor: Hold::NONE };
            Ask { call, is_foreign: false }
        };
        let until = |cost, now| store.take(address, &ask(cost), Now::exactly(now), true);
        assert!(take_by(&store, &HOUR, address, START));
        store.block(address, START + 10, Now::exactly(START));
        // An earlier end changes nothing.
        store.block(address, START + 5, Now::exactly(START));
        for cost in [0, 1] {
            let (verdict, left) = until(cost, START + 9);
            assert_eq!(verdict, Verdict::Denied { until: START + 10, position: 0 });
            assert_eq!((left.remaining, left.is_blocked), (1, true));
        }
        let (verdict, _) = until(2, START + 9);
        assert_eq!(verdict, Verdict::Denied { until: START + HOUR.per(), position: 0 });
        assert_eq!(until(3, START + 9).0, Verdict::Denied { until: NEVER, position: 0 });
        assert!(take_by(&store, &HOUR, address, START + 10));
        assert!(!store.holds_any());
        store.block(address, START + 100, Now::exactly(START + 20));
        store.unblock(address, Now::exactly(START + 21));
        let (verdict, left) = until(1, START + 22);
        assert_eq!(verdict, Verdict::Denied { until: START + HOUR.per(), position: 0 });
        assert!(!left.is_blocked);
    }
}

#[test]
fn a_block_outlives_the_limiter_that_set_it() {
    let backend = MemoryBackend::new();
    let now = clock::now();
    let first = store(&backend, Some("blocked"));
    first.block(first.address(&7_u64), now + 3_600_000_000_000, Now::exactly(now));
    retire(first);
    let second = store(&backend, Some("blocked"));
    assert!(second.holds_any());
    assert!(!take(&second, 7, now + 1_000) && take(&second, 8, now + 1_000));
    retire(second);
}

/// A blocked key's denial on the fast path: the last call's, if it still holds.
fn deny(store: &Store, address: Address, now: Now) -> (u64, u32) {
    let Address::Hash(hash) = address else { panic!("a key") };
    store.repeated_denial(hash, now).unwrap_or_else(|| match store.take_if_held(hash, now) {
        Some((Verdict::Denied { until, position: 0 }, Left { remaining, is_blocked: true, .. })) => (until, remaining),
        other => panic!("{other:?}"),
    })
}

#[test]
fn a_repeated_denial_of_a_blocked_key_is_what_the_limit_says_now() {
    let limit =
        |count, secs, algorithm| Rule::new(Limit::new(count, Duration::from_secs(secs)).with_algorithm(algorithm));
    let rules = [
        HOUR,
        limit(5, 60, Algorithm::SlidingWindow),
        limit(1_000, 60, Algorithm::SlidingWindow),
        limit(5, 60, Algorithm::TokenBucket),
        limit(17, 1, Algorithm::TokenBucket),
        limit(5, 60, Algorithm::FixedWindow),
    ];
    for rule in rules {
        let store = of(&MemoryBackend::new(), None, rule);
        let (address, mut now, mut random) = (store.address(&1_u64), START, 7_u64);
        let ask = |cost| {
            let call = Call { rules: std::slice::from_ref(&rule), backoff: None, cost, floor: Hold::NONE };
            Ask { call, is_foreign: false }
        };
        let mut taken = None;
        for _ in 0..2_000 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            now += (random >> 30) % [1_000, 300_000_000, 30_000_000_000][(random >> 60) as usize % 3];
            let at = Now::exactly(now);
            store.block(address, now + 5_000_000_000, at);
            match (random >> 50) % 8 {
                0 => _ = store.charge(address, &ask(1), at),
                1 => store.reset(address, &ask(1), at),
                2 => {
                    store.unblock(address, at);
                    if let (Verdict::Admitted { at }, _) = store.take(address, &ask(1), at, false) {
                        taken = Some(Permit { at, cost: 1 });
                    }
                    store.block(address, now + 50_000_000, at);
                }
                3 => taken.take().into_iter().for_each(|permit| store.refund(address, &ask(1), at, permit)),
                _ => {}
            }
            // The first call records it, the second repeats it.
            for _ in 0..2 {
                let (Verdict::Denied { until, .. }, Left { remaining, .. }) = store.peek(address, &ask(1), at) else {
                    panic!("it is blocked");
                };
                assert_eq!(deny(&store, address, at), (until, remaining), "{rule:?}");
            }
        }
    }
}

#[test]
fn no_denial_is_repeated_after_its_block() {
    let store = store(&MemoryBackend::new(), None);
    let address = store.address(&1_u64);
    assert!(take(&store, 1, START) && take(&store, 1, START));
    // The limit denies for longer than the block.
    store.block(address, START + 1_000, Now::exactly(START));
    for now in [START, START + 999] {
        assert_eq!(deny(&store, address, Now::exactly(now)), (START + HOUR.per(), 0));
    }
    let Address::Hash(hash) = address else { panic!("a key") };
    let over = Now::exactly(START + 1_000);
    assert_eq!(store.repeated_denial(hash, over), None);
    assert_eq!(store.take_if_held(hash, over), None);
    // A block that is set anew, and ends sooner.
    store.block(address, START + 9_000, Now::exactly(START + 2_000));
    let _ = deny(&store, address, Now::exactly(START + 2_000));
    store.unblock(address, Now::exactly(START + 2_001));
    assert_eq!(store.repeated_denial(hash, Now::exactly(START + 2_002)), None);
}

#[test]
fn a_denied_call_of_a_blocked_key_makes_no_bucket() {
    let backend = MemoryBackend::with_max_keys(1);
    let store = store(&backend, None);
    store.block(store.address(&1_u64), START + 100, Now::exactly(START));
    assert!(take(&store, 2, START));
    let found = deny(&store, store.address(&1_u64), Now::exactly(START));
    assert_eq!(found, (START + 100, 2));
    assert_eq!((backend.tracked_keys(), backend.evicted()), (1, 0));
}

#[test]
fn a_flood_of_new_keys_ends_no_block() {
    let backend = MemoryBackend::with_max_keys(50);
    let now = clock::now();
    let hour = now + 3_600_000_000_000;
    // One of the limiters is dropped.
    let gone = store(&backend, Some("gone"));
    let blocked = store(&backend, Some("blocked"));
    for store in [&gone, &blocked] {
        (0..10).for_each(|key| assert!(take(store, key, now)));
        (5..15_u64).for_each(|key| store.block(store.address(&key), hour, Now::exactly(now)));
    }
    retire(gone);
    let other = store(&backend, None);
    for key in 0..5_000 {
        let _ = (take(&other, key, now + 1), take(&blocked, 1_000 + key, now + 1));
    }
    assert!(backend.evicted() > 0 && backend.tracked_keys() <= 50);
    let gone = store(&backend, Some("gone"));
    for store in [&gone, &blocked] {
        assert!((5..15).all(|key| !take(store, key, now + 2)));
        assert!(take(store, 0, now + 2));
        // They end at their old times.
        assert!((5..15).all(|key| take(store, key, hour)));
    }
    [gone, blocked].into_iter().for_each(retire);
}

#[test]
fn limiters_that_are_gone_keep_as_many_blocks_as_the_backend_has_room_for_buckets() {
    let backend = MemoryBackend::with_max_keys(10);
    let now = clock::now();
    let end = |limiter: u64| now + (limiter + 1) * 3_600_000_000_000;
    let name = |limiter: u64| format!("limiter {limiter}");
    for limiter in 0..5 {
        let store = store(&backend, Some(&name(limiter)));
        (0..4_u64).for_each(|key| store.block(store.address(&key), end(limiter), Now::exactly(now)));
        retire(store);
    }
    let blocked = |limiter| {
        let store = store(&backend, Some(&name(limiter)));
        let blocked = (0..4_u64).filter(|key| !take(&store, *key, now + 1)).count();
        retire(store);
        blocked
    };
    assert_eq!([4, 3, 2, 1, 0].map(blocked), [4, 4, 0, 0, 0]);
    let mut stores = backend.shared.stores.lock();
    let orphans = stores.orphans();
    assert_eq!((orphans.holds, orphans.held.len()), (8, 2));
}

#[test]
fn buckets_stay_if_a_call_of_another_limiter_drops_their_store_last() {
    let backend = MemoryBackend::new();
    let limiter = || {
        let builder = crate::RateLimiter::builder("dropped by others").backend(backend.clone());
        builder.limit(Limit::new(1, Duration::from_secs(3_600))).build().unwrap()
    };
    let first = limiter();
    first.check("a", 1).unwrap();
    // As if a call of another limiter were sweeping.
    let lent: Vec<Lent> = backend.shared.all().collect();
    drop(first);
    drop(lent);
    assert!(limiter().check("a", 1).is_err());
}

/// Takes a permit by limits that may be others than those written down.
fn take_by_others(store: &Store, rules: &[Rule], address: Address, now: u64) -> bool {
    let call = Call { rules, backoff: None, cost: 1, floor: Hold::NONE };
    let ask = Ask { call, is_foreign: !store.is_for(rules) };
    matches!(store.take(address, &ask, Now::exactly(now), false).0, Verdict::Admitted { .. })
}

const SECOND: u64 = 1_000_000_000;

#[test]
fn buckets_of_replaced_limits_outlive_their_limiter() {
    let backend = MemoryBackend::new();
    for algorithm in [Algorithm::SlidingWindow, Algorithm::TokenBucket, Algorithm::FixedWindow] {
        let of = |secs| Rule::new(Limit::new(1, Duration::from_secs(secs)).with_algorithm(algorithm));
        let (written, replaced) = ([of(1)], [of(86_400)]);
        for is_keyed in [false, true] {
            let opened = || {
                let store = of_several(&backend, Some(&format!("{algorithm:?} {is_keyed}")), &written);
                store.expect_others(&replaced);
                let address = if is_keyed { store.address(&1_u8) } else { Address::Unkeyed };
                (store, address)
            };
            let (first, address) = opened();
            assert!(take_by_others(&first, &replaced, address, START));
            retire_at(first, Now::exactly(START + 10 * SECOND));
            let (second, address) = opened();
            assert!(!take_by_others(&second, &replaced, address, START + 11 * SECOND), "{algorithm:?}, {is_keyed}");
            retire_at(second, Now::exactly(START + 100_000 * SECOND));
        }
    }
    assert_eq!(backend.tracked_keys(), 0, "idle ones are left behind by no limiter");
}

#[test]
fn a_bucket_of_several_limits_stays_in_use_when_they_are_replaced() {
    let limit =
        |count, secs, algorithm| Rule::new(Limit::new(count, Duration::from_secs(secs)).with_algorithm(algorithm));
    let rules = |count, algorithm| [limit(100, 1, Algorithm::SlidingWindow), limit(count, 86_400, algorithm)];
    let written = rules(1, Algorithm::TokenBucket);
    for (replaced, looks) in [
        (rules(2, Algorithm::TokenBucket), false),
        // A peek converts the state, and no call takes permits by the other limits.
        (rules(1, Algorithm::FixedWindow), true),
    ] {
        let backend = MemoryBackend::new();
        let store = of_several(&backend, None, &written);
        let address = store.address(&1_u8);
        assert!(take_by_others(&store, &written, address, START));
        store.expect_others(&replaced);
        if looks {
            let call = Call { rules: &replaced, backoff: None, cost: 1, floor: Hold::NONE };
            let _ = store.peek(address, &Ask { call, is_foreign: true }, Now::exactly(START + 1));
        }
        let later = START + 10 * SECOND;
        for _ in 0..10_000 {
            backend.shared.sweep(Now::exactly(later), SWEPT);
        }
        assert!(!take_by_others(&store, &written, address, later), "{looks}");
    }
}

#[test]
fn a_bucket_of_several_limits_stays_in_use_after_calls_by_shorter_ones() {
    let window = Rule::new(Limit::new(100, Duration::from_secs(1)));
    let bucket = Rule::new(window.limit.with_algorithm(Algorithm::TokenBucket));
    let later = START + 10 * SECOND;
    assert_eq!(START / (86_400 * SECOND), later / (86_400 * SECOND), "it is the same day");
    for algorithm in [Algorithm::TokenBucket, Algorithm::FixedWindow] {
        let of = |secs| Rule::new(Limit::new(1, Duration::from_secs(secs)).with_algorithm(algorithm));
        let (day, short, of_a_bucket) = ([window, of(86_400)], [window, of(2)], [bucket, of(2)]);
        for (written, shorter) in [(day, short), (day, of_a_bucket), (short, short), (short, of_a_bucket)] {
            let backend = MemoryBackend::new();
            let store = of_several(&backend, None, &written);
            [day, shorter].iter().filter(|rules| **rules != written).for_each(|rules| store.expect_others(rules));
            let address = store.address(&1_u8);
            assert!(take_by_others(&store, &day, address, START));
            assert!(!take_by_others(&store, &shorter, address, START + 1));
            for _ in 0..10_000 {
                backend.shared.sweep(Now::exactly(later), SWEPT);
            }
            assert!(!take_by_others(&store, &day, address, later), "{written:?}, {shorter:?}");
        }
    }
}

#[cfg(feature = "tokio")]
#[test]
fn buckets_stay_if_the_timer_drops_their_store_last() {
    use std::pin::Pin;
    use std::sync::atomic::AtomicBool;
    use std::task::{Context, Wake, Waker};

    type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

    struct DropsAll(Mutex<Option<Task>>, AtomicBool);

    impl Wake for DropsAll {
        fn wake(self: Arc<DropsAll>) {
            drop(self.0.lock().take());
            self.1.store(true, Ordering::SeqCst);
        }
    }

    let backend = MemoryBackend::new();
    let limiter = || {
        let builder = crate::RateLimiter::builder("dropped by the timer").backend(backend.clone());
        builder.limit(Limit::new(1, Duration::from_secs(3_600))).build().unwrap()
    };
    let first = limiter();
    first.check("a", 1).unwrap();
    first.block("b", Duration::from_millis(20)).unwrap();
    let store = backend.shared.stores.lock().all[0].clone();
    let waits = Box::pin(async move { drop(first.wait_async("b", 0).await) });
    let task = Arc::new(DropsAll(Mutex::new(Some(waits)), AtomicBool::new(false)));
    let waker = Waker::from(Arc::clone(&task));
    assert!(task.0.lock().as_mut().unwrap().as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    while !task.1.load(Ordering::SeqCst) || store.strong_count() > 0 {
        std::thread::yield_now();
    }
    assert!(limiter().check("a", 1).is_err());
}
