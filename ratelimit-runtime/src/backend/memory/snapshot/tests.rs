//! Snapshots as bytes, at times that the tests choose.

use std::io::Cursor;

use proptest::prelude::*;

use super::super::orphans::retire_at;
use super::super::state::Call;
use super::super::{Ask, Hold, Permit, Verdict, Written};
use super::*;
use crate::algorithm::Rule;
use crate::algorithm::offences::Backoff;
use crate::error::Name;
use crate::limit::{Algorithm, Limit};
use crate::rt::clock::Now;

const SECOND: u64 = 1_000_000_000;
const HOUR: u64 = 3_600 * SECOND;

/// A moment in the time of this process that is a whole hour.
fn start() -> u64 {
    (clock::origin() + 1).next_multiple_of(HOUR)
}

fn at(now: u64) -> Moment {
    Moment { now, wall: now }
}

fn saved(backend: &MemoryBackend, moment: Moment) -> (Vec<u8>, Snapshot) {
    let mut bytes = Vec::new();
    let snapshot = backend.write_snapshot(&mut bytes, &|| moment).unwrap();
    assert_eq!(snapshot.bytes, bytes.len() as u64);
    (bytes, snapshot)
}

fn restored(bytes: &[u8], now: u64) -> Result<(MemoryBackend, Restored), SnapshotError> {
    restored_in(MemoryBackend::new(), bytes, now)
}

fn restored_in(backend: MemoryBackend, bytes: &[u8], now: u64) -> Result<(MemoryBackend, Restored), SnapshotError> {
    let restored = backend.read_snapshot(&mut Cursor::new(bytes), bytes.len() as u64, now)?;
    Ok((backend, restored))
}

fn written(limits: &[Limit], backoff: Option<Backoff>, varies: bool) -> Written {
    let rules = limits.iter().map(|limit| Rule::new(*limit)).collect();
    Written {
        rules,
        backoff,
        varies,
        by: 0,
        limiter: Name::Static("test"),
        states: crate::backend::memory::States::ANY,
    }
}

/// The store of a name, at a given time instead of the process's.
fn store(backend: &MemoryBackend, name: &str, written: &Written, now: u64) -> Arc<Store> {
    if backend.shared.stores.lock().is_saved(name) {
        return backend.revive_saved(name, written, Now::exactly(now));
    }
    backend.store(Some(name.to_owned()), written)
}

fn take(store: &Arc<Store>, address: Address, now: u64) -> bool {
    let ask = store.written_ask(1);
    matches!(store.take(address, &ask, Now::exactly(now), true).0, Verdict::Admitted { .. })
}

#[derive(Clone, Copy, Debug)]
enum Action {
    Take(u32),
    Peek(u32),
    /// Refunds the call that many calls ago.
    Refund(usize),
    /// Charges permits whatever is left.
    Charge(u32),
    /// Blocks for thousandths of the shortest period.
    Block(u64),
    Unblock,
    Reset,
    /// Switches to the other limits, or back.
    Change,
}

#[derive(Clone, Copy, Debug)]
struct Step {
    /// How far the time advances: thousandths of the shortest period, and nanoseconds.
    ahead: (u64, u64),
    margin: u64,
    key: usize,
    action: Action,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let cost = || prop_oneof![6 => Just(1_u32), 3 => 2..5_u32, 1 => 0..100_u32];
    let action = prop_oneof![
        30 => cost().prop_map(Action::Take),
        3 => cost().prop_map(Action::Peek),
        3 => (0..6_usize).prop_map(Action::Refund),
        1 => (0..300_u32).prop_map(Action::Charge),
        1 => (0..2_000_u64).prop_map(Action::Block),
        1 => Just(Action::Unblock),
        1 => Just(Action::Reset),
        2 => Just(Action::Change),
    ];
    let ahead = prop_oneof![4 => Just(0_u64), 20 => 0..150_u64, 3 => 900..1_100_u64, 1 => 0..5_000_u64];
    let margin = prop_oneof![3 => Just(0), 1 => 0..clock::MARGIN];
    let step = (ahead, 0..3_u64, margin, 0..4_usize, action).prop_map(|(thousandths, nanos, margin, key, action)| {
        Step { ahead: (thousandths, nanos), margin, key, action }
    });
    prop::collection::vec(step, 1..150)
}

fn limit() -> impl Strategy<Value = Limit> {
    let algorithms = [Algorithm::SlidingWindow, Algorithm::TokenBucket, Algorithm::FixedWindow];
    let per = prop_oneof![Just(1_000_u64), Just(1_000_000), 100..100_000_u64, Just(3_600_000_000)];
    let counts = prop_oneof![1..6_u32, 1..65_u32, 65..400_u32];
    (counts, per, prop::sample::select(algorithms.to_vec()), 0..4_u32).prop_map(|(count, per, algorithm, burst)| {
        let limit = Limit::new(count, Duration::from_micros(per)).with_algorithm(algorithm);
        if algorithm == Algorithm::TokenBucket && burst > 0 { limit.with_burst(burst * count) } else { limit }
    })
}

fn penalty() -> impl Strategy<Value = Option<Backoff>> {
    let time = || (1..10_000_u64).prop_map(Duration::from_micros);
    prop_oneof![
        6 => Just(None),
        1 => (time(), time()).prop_map(|(initial, max)| Some(Backoff::new(initial, max))),
        1 => time().prop_map(|time| Some(Backoff::ban(time))),
    ]
}

/// A bucket's answer to an action, without times that no caller sees: of a full bucket, one that is
/// over, or one that denies.
fn answer(
    store: &Arc<Store>,
    address: Address,
    rules: &[Rule],
    step: Step,
    now: Now,
    permit: Option<Permit>,
) -> (Verdict, (u32, u8, bool, u64)) {
    let backoff = store.written.backoff;
    let ask = |cost| {
        let call = Call { rules, backoff: backoff.as_ref(), cost, floor: Hold::NONE };
        Ask { call, is_foreign: !store.is_for(rules) }
    };
    let (verdict, left) = match step.action {
        Action::Take(cost) => store.take(address, &ask(cost), now, true),
        Action::Refund(_) => {
            if let Some(permit) = permit {
                store.refund(address, &ask(permit.cost), now, permit);
            }
            store.peek(address, &ask(1), now)
        }
        Action::Charge(cost) => (Verdict::Undecided, store.charge(address, &ask(cost), now)),
        Action::Block(thousandths) => {
            store.block(address, now.earliest + rules[0].per() / 1_000 * thousandths, now);
            store.peek(address, &ask(1), now)
        }
        Action::Unblock => {
            store.unblock(address, now);
            store.peek(address, &ask(1), now)
        }
        Action::Reset => {
            store.reset(address, &ask(0), now);
            store.peek(address, &ask(1), now)
        }
        Action::Peek(cost) => store.peek(address, &ask(cost), now),
        Action::Change => store.peek(address, &ask(1), now),
    };
    let is_full = left.remaining == rules[usize::from(left.position)].capacity();
    let shows_left = !is_full && left.idle_at > now.earliest && !matches!(verdict, Verdict::Denied { .. });
    let idle_at = if shows_left { left.idle_at } else { 0 };
    (verdict, (left.remaining, left.position, left.is_blocked, idle_at))
}

/// The same limits with other counts, and other periods for sliding windows. `None` with a token
/// bucket: if its rate changes, a bucket that was idle at the old rate may not be idle at the new
/// one, and sweeps do not wait for that.
fn others(limits: &[Limit]) -> Option<Vec<Limit>> {
    let other = |limit: &Limit| {
        let longer = if limit.algorithm() == Algorithm::SlidingWindow { 1 + u64::from(limit.count() % 3) } else { 1 };
        let per = Duration::from_micros(limit.per_micros() * longer);
        let other = Limit::new(limit.count() / 2 + 3, per).with_algorithm(limit.algorithm());
        (limit.algorithm() != Algorithm::TokenBucket).then_some(other)
    };
    limits.iter().map(other).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// Buckets continue in another backend as they would have in the first, and so do those whose
    /// limiter was dropped and made again.
    #[test]
    fn restored_and_revived_buckets_answer_as_the_originals(
        limits in prop::collection::vec(limit(), 1..4),
        backoff in penalty(),
        varies: bool,
        changes: bool,
        steps in steps(),
        cut in 0..150_usize,
    ) {
        let written = written(&limits, backoff, varies);
        let rules: Vec<Rule> = written.rules.to_vec();
        let other = others(&limits).filter(|_| changes);
        let other: Vec<Rule> = other.map_or_else(|| rules.clone(), |other| other.into_iter().map(Rule::new).collect());
        // Applies the other limits as a limiter does.
        let opened = |backend: &MemoryBackend, now: u64| {
            let store = store(backend, "a", &written, now);
            if changes {
                store.expect(&other);
            }
            if other.iter().zip(&rules).any(|(other, rule)| other.per() != rule.per()) {
                // The usual state of a bucket without a key keeps no more than the limits written down need.
                let call = Call { rules: &other, backoff: None, cost: 1, floor: Hold::NONE };
                let _ = store.peek(Address::Unkeyed, &Ask { call, is_foreign: true }, Now::exactly(now));
            }
            store
        };
        let [backend, dropped] = [(); 2].map(|()| MemoryBackend::new());
        let mut all = vec![opened(&backend, start()), opened(&dropped, start())];
        let (mut now, mut by_other) = (start(), false);
        let mut taken: [Vec<Permit>; 4] = Default::default();
        // Refunds to token buckets and windows of groups depend on nothing but the state either.
        for (index, step) in steps.iter().enumerate() {
            if index == cut {
                let restore = |backend: &MemoryBackend| restored(&saved(backend, at(now)).0, now).unwrap().0;
                all.push(opened(&restore(&backend), now));
                retire_at(all.remove(1), Now::exactly(now));
                all.push(opened(&restore(&dropped), now));
                all.push(opened(&dropped, now));
            }
            let shortest = rules.iter().map(Rule::per).min().unwrap();
            now += shortest / 1_000 * step.ahead.0 + step.ahead.1;
            // A refund sets the time of an idle bucket too, which a copy no longer has.
            let margin = if matches!(step.action, Action::Refund(_)) { 0 } else { step.margin };
            let moment = Now { earliest: now, latest: now + margin };
            by_other ^= matches!(step.action, Action::Change);
            let rules = if by_other { &other } else { &rules };
            let permit = match step.action {
                Action::Refund(back) => {
                    let permits = &mut taken[step.key];
                    permits.len().checked_sub(back + 1).map(|index| permits.remove(index))
                }
                _ => None,
            };
            let address = |store: &Arc<Store>| match step.key {
                0 => Address::Unkeyed,
                key => store.address(&key.to_string()),
            };
            let answers: Vec<_> =
                all.iter().map(|store| answer(store, address(store), rules, *step, moment, permit)).collect();
            for (copy, of) in answers.iter().skip(1).zip(["restored", "restored without its limiter", "revived"]) {
                prop_assert_eq!(&answers[0], copy, "step {} of {:?}: original, {}", index, step, of);
            }
            match (step.action, answers[0].0) {
                (Action::Take(cost), Verdict::Admitted { at }) if cost > 0 => {
                    taken[step.key].push(Permit { at, cost });
                }
                (Action::Reset, _) => taken[step.key].clear(),
                _ => {}
            }
        }
    }
}

fn second(count: u32) -> Limit {
    Limit::new(count, Duration::from_secs(1))
}

/// The bytes of a backend with limiters of all forms, and some keys of each.
fn varied(now: u64) -> Vec<u8> {
    let backend = MemoryBackend::new();
    let mut stores = Vec::new();
    let per = Duration::from_secs(10);
    let (window, token, fixed) = (Limit::new(5, per), Limit::new(7, per), Limit::new(9, per));
    let token = token.with_algorithm(Algorithm::TokenBucket);
    let fixed = fixed.with_algorithm(Algorithm::FixedWindow);
    let groups = Limit::new(500, per);
    let odd = Limit::new(997, Duration::from_millis(777)).with_algorithm(Algorithm::TokenBucket);
    let ban = Some(Backoff::ban(per));
    let forms = [
        (vec![window], None),
        (vec![token], None),
        (vec![fixed], None),
        (vec![groups], None),
        (vec![odd], None),
        (vec![token, fixed], None),
        (vec![window, token, fixed], None),
        (vec![window], ban),
    ];
    for (number, (limits, backoff)) in forms.iter().enumerate() {
        let store = store(&backend, &number.to_string(), &written(limits, *backoff, false), now);
        for key in 0..20_u32 {
            let address = if key == 0 { Address::Unkeyed } else { store.address(&key) };
            (0..key).for_each(|call| _ = take(&store, address, now + u64::from(call)));
            if key == 5 {
                store.block(address, now + 2 * SECOND, Now::exactly(now + 20));
            }
            if key == 6 {
                store.charge(address, &store.written_ask(30), Now::exactly(now + 20));
            }
        }
        stores.push(store);
    }
    let (bytes, snapshot) = saved(&backend, at(now + 100));
    assert_eq!(snapshot.keys, forms.len() * 19);
    bytes
}

#[test]
fn a_file_with_flipped_bits_is_refused() {
    let bytes = varied(start());
    assert!(restored(&bytes, start() + 200).is_ok());
    for byte in (0..bytes.len()).step_by(bytes.len() / 700) {
        let mut flipped = bytes.clone();
        flipped[byte] ^= 1 << (byte % 8);
        assert!(restored(&flipped, start() + 200).is_err(), "byte {byte}");
    }
}

#[test]
fn a_file_that_ends_too_early_or_too_late_is_refused() {
    let bytes = varied(start());
    for length in (0..bytes.len()).step_by(bytes.len() / 300).chain([bytes.len() - 1]) {
        let error = restored(&bytes[..length], start() + 200).unwrap_err();
        let is_named =
            if length < 12 { matches!(error, SnapshotError::Foreign) } else { matches!(error, SnapshotError::Torn) };
        assert!(is_named, "{length}: {error}");
    }
    let longer = [&bytes[..], &[0]].concat();
    assert!(matches!(restored(&longer, start() + 200), Err(SnapshotError::Torn)));
}

/// Corrects the length and the checksum.
fn sealed(mut bytes: Vec<u8>) -> Vec<u8> {
    let before = bytes.len() - 24;
    let length = bytes.len() as u64;
    let mut checksum = checksum::Checksum::new();
    checksum.add(&bytes[..before]);
    // As the writer does: the length is not part of the checksum.
    bytes[before..before + 8].copy_from_slice(&length.to_le_bytes());
    bytes[before + 8..before + 16].copy_from_slice(&checksum.get().to_le_bytes());
    bytes
}

#[test]
fn the_kind_and_the_version_are_told() {
    let bytes = varied(start());
    let with = |place: usize, byte| {
        let mut other = bytes.clone();
        other[place] = byte;
        restored(&sealed(other), start() + 200).unwrap_err()
    };
    assert!(matches!(with(0, b'R'), SnapshotError::Foreign));
    assert!(matches!(with(8, 0), SnapshotError::Older(0)));
    assert!(matches!(with(8, 2), SnapshotError::Newer(2)));
    // The probe of the hash, and its random numbers.
    assert!(matches!(with(20, !bytes[20]), SnapshotError::OtherHash));
    assert!(matches!(with(40, !bytes[40]), SnapshotError::OtherHash));
}

#[test]
fn a_length_is_bounded_before_memory_is_allocated_for_it() {
    let bytes = varied(start());
    let head = 8 + 4 + 8 + 8 + 8 * Weights::NUMBERS;
    let mut huge = bytes.clone();
    huge[head + 1..head + 5].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(matches!(restored(&sealed(huge), start()), Err(SnapshotError::Corrupt)));
    // A heading whose name is longer than the heading.
    let mut huge = bytes;
    huge[head + 5] = 0x7f;
    assert!(matches!(restored(&sealed(huge), start()), Err(SnapshotError::Corrupt)));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// Even with a correct checksum, no bytes do harm.
    #[test]
    fn any_bytes_are_read_or_refused(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20),
        later in 0..HOUR,
    ) {
        let (now, head) = (start(), 8 + 4 + 8 + 8 + 8 * Weights::NUMBERS);
        let mut bytes = varied(now);
        let length = bytes.len() - 24 - head;
        for (place, byte) in changes {
            bytes[head + place.index(length)] = byte;
        }
        if let Ok((backend, _)) = restored(&sealed(bytes), now + later) {
            let names = backend.shared.stores.lock().names();
            let window = Limit::new(5, Duration::from_secs(10));
            let limits = [
                vec![window],
                vec![window.with_algorithm(Algorithm::TokenBucket)],
                vec![window.with_algorithm(Algorithm::FixedWindow)],
                vec![Limit::new(500, Duration::from_secs(10))],
                vec![window, window.with_algorithm(Algorithm::TokenBucket)],
            ];
            for (name, limits) in names.iter().zip(limits.iter().cycle()) {
                let store = store(&backend, name, &written(limits, None, false), now + later);
                for key in 0..20_u32 {
                    for address in [store.address(&key), Address::Unkeyed] {
                        let _ = take(&store, address, now + later + 1);
                        let _ = store.charge(address, &store.written_ask(3), Now::exactly(now + later + 2));
                    }
                }
                // No state is in use for longer than a debt that was charged now, and a period.
                let end = now + later + 2 * 366 * 24 * HOUR;
                for key in 0..20_u32 {
                    prop_assert!(take(&store, store.address(&key), end), "key {} of {:?}", key, name);
                }
            }
            let _ = saved(&backend, at(now + later + 3));
        }
    }
}

#[test]
fn time_that_passes_in_between_counts() {
    let backend = MemoryBackend::new();
    let (now, limit) = (start(), written(&[second(1)], None, false));
    let before = store(&backend, "a", &limit, now);
    assert!(take(&before, Address::Unkeyed, now) && take(&before, before.address(&1), now));
    let (bytes, _) = saved(&backend, at(now + 1));
    for (later, admits) in [(SECOND - 1, false), (SECOND, true)] {
        let (backend, restored) = restored(&bytes, now + later).unwrap();
        assert_eq!((restored.keys, restored.age), (usize::from(!admits), Duration::from_nanos(later - 1)));
        let after = store(&backend, "a", &limit, now + later);
        assert_eq!(take(&after, Address::Unkeyed, now + later), admits);
        assert_eq!(take(&after, after.address(&1), now + later), admits);
    }
}

#[test]
fn times_are_those_of_the_wall_clock() {
    // The wall clock was set forward by an hour, or back, since the process started. The last case
    // puts the permits into the fixed window before the snapshot's, in which they still count.
    for wall in [start() + HOUR, start() - HOUR + 5, start() - HOUR - 5] {
        for algorithm in [Algorithm::SlidingWindow, Algorithm::TokenBucket, Algorithm::FixedWindow] {
            let backend = MemoryBackend::new();
            let now = start();
            let limit = written(&[second(1).with_algorithm(algorithm)], None, false);
            let before = store(&backend, "a", &limit, now);
            let addresses = [Address::Unkeyed, before.address(&1)];
            for address in addresses {
                assert!(take(&before, address, now));
            }
            before.block(before.address(&2), now + 2 * SECOND, Now::exactly(now));
            let (bytes, _) = saved(&backend, Moment { now: now + 5, wall: wall + 5 });
            let (backend, _) = restored(&bytes, wall + 10).unwrap();
            let after = store(&backend, "a", &limit, wall + 10);
            for address in addresses {
                assert!(!take(&after, address, wall + 10), "{algorithm:?}");
                assert!(take(&after, address, wall + SECOND + 5), "{algorithm:?}");
            }
            let blocked = after.address(&2);
            assert!(!take(&after, blocked, wall + 2 * SECOND - 1) && take(&after, blocked, wall + 2 * SECOND));
        }
    }
}

#[test]
fn a_file_from_the_future_admits_no_more_and_blocks_no_longer() {
    const AHEAD: u64 = 10 * 366 * 24 * HOUR;
    for algorithm in [Algorithm::SlidingWindow, Algorithm::TokenBucket, Algorithm::FixedWindow] {
        let backend = MemoryBackend::new();
        let (now, limits) = (start(), [second(2).with_algorithm(algorithm)]);
        let (plain, banned) =
            (written(&limits, None, false), written(&limits, Some(Backoff::ban(Duration::from_secs(5))), false));
        let one = store(&backend, "plain", &plain, now);
        let two = store(&backend, "banned", &banned, now);
        let key = one.address(&1);
        for address in [Address::Unkeyed, key] {
            assert!(take(&one, address, now) && take(&one, address, now + 1));
        }
        let owing = one.address(&2);
        one.charge(owing, &one.written_ask(6), Now::exactly(now));
        let of_two = two.address(&1);
        (0..3).for_each(|call| assert_eq!(take(&two, of_two, now + call), call < 2));
        let (bytes, _) = saved(&backend, Moment { now: now + 5, wall: now + 5 + AHEAD });
        let (backend, restored) = restored(&bytes, now).unwrap();
        assert_eq!((restored.age, restored.without_room), (Duration::ZERO, 0));
        let (one, two) = (store(&backend, "plain", &plain, now), store(&backend, "banned", &banned, now));
        for address in [Address::Unkeyed, key] {
            assert!(!take(&one, address, now + 1), "{algorithm:?}");
            assert!(take(&one, address, now + SECOND) && take(&one, address, now + SECOND), "{algorithm:?}");
        }
        assert!(!take(&one, owing, now + SECOND) && take(&one, owing, now + 3 * SECOND), "{algorithm:?}");
        assert!(!take(&two, of_two, now + 4 * SECOND) && take(&two, of_two, now + 5 * SECOND), "{algorithm:?}");
    }
}

#[test]
fn limiters_that_are_not_used_are_handed_on() {
    let now = start();
    let limit = written(&[Limit::new(1, Duration::from_secs(60))], None, false);
    let backend = MemoryBackend::new();
    let stores = ["used", "unused"].map(|name| store(&backend, name, &limit, now));
    for store in &stores {
        assert!(take(store, store.address(&1), now) && take(store, Address::Unkeyed, now));
        store.block(store.address(&2), now + HOUR, Now::exactly(now));
    }
    let (mut bytes, _) = saved(&backend, at(now));
    for generation in 1..4 {
        let now = now + generation * SECOND;
        let (backend, restored) = restored(&bytes, now).unwrap();
        assert_eq!((restored.keys, backend.tracked_keys()), (2, 2));
        let used = store(&backend, "used", &limit, now);
        assert!(!take(&used, used.address(&1), now) && !take(&used, Address::Unkeyed, now));
        assert_eq!(backend.tracked_keys(), 2);
        let snapshot;
        (bytes, snapshot) = saved(&backend, at(now));
        assert_eq!(snapshot.keys, 2);
    }
    let now = now + 4 * SECOND;
    let (backend, _) = restored(&bytes, now).unwrap();
    let unused = store(&backend, "unused", &limit, now);
    assert!(!take(&unused, unused.address(&1), now) && !take(&unused, unused.address(&2), now + 50 * SECOND));
    assert!(take(&unused, unused.address(&1), now + 56 * SECOND));
}

#[test]
fn limiters_that_are_gone_are_in_it() {
    let backend = MemoryBackend::new();
    // Whether buckets of limiters that are dropped are idle is judged by the real clock.
    let now = clock::now();
    let forms = [
        vec![second(900)],
        vec![Limit::per_hour(1).with_algorithm(Algorithm::TokenBucket)],
        vec![Limit::per_day(1), Limit::per_day(2).with_algorithm(Algorithm::FixedWindow)],
        vec![Limit::per_hour(1).with_algorithm(Algorithm::TokenBucket); 2],
        vec![Limit::new(1, Duration::from_secs(3_600))],
    ];
    let addresses: Vec<_> = forms
        .iter()
        .enumerate()
        .map(|(number, limits)| {
            let store = store(&backend, &number.to_string(), &written(limits, None, false), now);
            let address = store.address(&1);
            store.block(store.address(&2), now + HOUR, Now::exactly(now));
            assert!(take(&store, address, now) && take(&store, Address::Unkeyed, now));
            retire(store);
            address
        })
        .collect();
    let (bytes, snapshot) = saved(&backend, at(now + 1));
    assert_eq!(snapshot.keys, 5);
    // Those that stay behind still serve the next limiter of their name.
    for backend in [restored(&bytes, now + 2).unwrap().0, backend] {
        for (number, limits) in forms.iter().enumerate().skip(1) {
            let store = store(&backend, &number.to_string(), &written(limits, None, false), now + 2);
            assert!(!take(&store, addresses[number], now + 3), "{number}");
            assert!(!take(&store, Address::Unkeyed, now + 3), "{number}");
            assert!(!take(&store, store.address(&2), now + 3), "{number}");
        }
    }
}

#[test]
fn a_snapshot_is_restored_before_the_first_use_only() {
    let now = start();
    let bytes = varied(now);
    let in_use = |result| matches!(result, Err(SnapshotError::InUse));
    let (backend, restored) = restored(&bytes, now + 200).unwrap();
    assert_eq!(backend.tracked_keys(), restored.keys);
    assert!(in_use(restored_in(backend.clone(), &bytes, now + 200)));
    assert_eq!(backend.tracked_keys(), restored.keys);
    let used = MemoryBackend::new();
    let _store = store(&used, "a", &written(&[second(1)], None, false), now);
    assert!(in_use(restored_in(used.clone(), &bytes, now + 200)));
    assert_eq!(used.tracked_keys(), 0);
}

#[test]
fn a_changed_count_applies_to_the_permits_on_record() {
    let now = start();
    for algorithm in [Algorithm::SlidingWindow, Algorithm::TokenBucket, Algorithm::FixedWindow] {
        for (old, new, left) in [(4, 6, 2), (1_000, 3, 0), (4, 1_000, 996), (300, 290, 286)] {
            let limit = |count| written(&[Limit::per_hour(count).with_algorithm(algorithm)], None, false);
            let backend = MemoryBackend::new();
            let before = store(&backend, "a", &limit(old), now);
            let addresses = [Address::Unkeyed, before.address(&1)];
            for address in addresses {
                (0..4).for_each(|_| assert!(take(&before, address, now)));
            }
            let (bytes, _) = saved(&backend, at(now));
            let (backend, _) = restored(&bytes, now).unwrap();
            let after = store(&backend, "a", &limit(new), now);
            for address in addresses {
                let (_, outcome) = after.peek(address, &after.written_ask(0), Now::exactly(now));
                assert_eq!(outcome.remaining, left, "{algorithm:?} {old} {new}");
            }
        }
    }
}

#[test]
fn what_has_no_room_is_told() {
    let now = start();
    let limit = written(&[Limit::per_hour(1)], None, false);
    let backend = MemoryBackend::new();
    let before = store(&backend, "a", &limit, now);
    (0..100_u64).for_each(|key| assert!(take(&before, before.address(&key), now)));
    let (bytes, _) = saved(&backend, at(now));
    let (backend, restored) = restored_in(MemoryBackend::with_max_keys(30), &bytes, now).unwrap();
    assert_eq!((restored.keys, restored.without_room), (30, 70));
    let after = store(&backend, "a", &limit, now);
    assert_eq!((after.keys(), backend.tracked_keys()), (30, 30));
    // Under pressure, the buckets of an unused limiter are evicted too.
    let (backend, _) = restored_in(MemoryBackend::with_max_keys(100), &bytes, now).unwrap();
    let other = store(&backend, "b", &limit, now);
    assert!((0..100_u64).all(|key| take(&other, other.address(&key), now)));
    assert!(backend.tracked_keys() <= 100);
}

#[test]
fn every_key_of_a_table_that_changes_is_copied() {
    let now = start();
    let limit = written(&[Limit::per_hour(1)], None, false);
    let backend = MemoryBackend::new();
    let before = store(&backend, "a", &limit, now);
    let key = |key: u64| before.address(&key);
    (0..50_000).for_each(|number| assert!(take(&before, key(number), now)));
    let stop = std::sync::atomic::AtomicBool::new(false);
    let (bytes, snapshot) = std::thread::scope(|scope| {
        scope.spawn(|| {
            // Other keys come and go meanwhile, and the table grows.
            for number in 50_000.. {
                assert!(take(&before, key(number), now));
                if number % 2 == 0 {
                    before.reset(key(number), &before.written_ask(0), Now::exactly(now));
                }
                if stop.load(std::sync::atomic::Ordering::Relaxed) || number > 400_000 {
                    break;
                }
            }
        });
        let saved = saved(&backend, at(now));
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        saved
    });
    let (restored_backend, restored) = restored(&bytes, now).unwrap();
    assert_eq!(restored.keys, snapshot.keys);
    let after = store(&restored_backend, "a", &limit, now);
    assert!((0..50_000).all(|number| !take(&after, key(number), now)));
}

#[test]
fn holds_that_change_meanwhile_are_copied() {
    let now = start();
    let limit = written(&[second(1)], None, false);
    let backend = MemoryBackend::new();
    let store = store(&backend, "a", &limit, now);
    (0..2_000_u64).for_each(|key| store.block(store.address(&key), now + HOUR + key, Now::exactly(now)));
    let (mut found, mut is_first) = (HashSet::new(), true);
    let copy = |address, hold: Hold| {
        if std::mem::take(&mut is_first) {
            // One that was not copied yet ends before those that were.
            store.unblock(store.address(&1_999_u64), Now::exactly(now));
            store.block(store.address(&1_999_u64), now + SECOND, Now::exactly(now));
        }
        found.insert((address, hold.blocked_until));
        Ok::<(), ()>(())
    };
    store.holds.each_copied(copy).unwrap();
    assert!(found.contains(&(store.address(&1_999_u64), now + SECOND)));
    assert_eq!(found.len(), 2_000);
}

#[test]
fn limiters_without_a_name_are_left_out() {
    let backend = MemoryBackend::new();
    let limit = written(&[second(1)], None, false);
    let named = store(&backend, "a", &limit, start());
    let unnamed = backend.store(None, &limit);
    assert!(take(&named, named.address(&1), start()) && take(&unnamed, unnamed.address(&1), start()));
    let (_, snapshot) = saved(&backend, at(start()));
    assert_eq!((snapshot.keys, snapshot.left_out, snapshot.waiting), (1, vec!["test".to_owned()], 0));
}
