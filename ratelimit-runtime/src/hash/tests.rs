//! Searches for keys that collide under many seeds, as an attacker would who chooses keys without
//! knowing the seed. `HASH_SEEDS=1000000` in the environment searches longer.

use std::hash::Hasher;
use std::hash::RandomState;
use std::net::{IpAddr, Ipv6Addr};

use super::*;
use crate::key::{ExactIp, RateLimitKey};

fn seeds() -> u32 {
    std::env::var("HASH_SEEDS").map_or(1 << 11, |seeds| seeds.parse().expect("HASH_SEEDS is a number of seeds"))
}

fn hash<K: RateLimitKey + ?Sized>(seed: &Seed<'_, 1>, key: &K) -> u64 {
    let mut sink = HashSink::new(seed);
    key.write_to(&mut sink);
    let [hash] = sink.finish();
    hash
}

/// How often each 16-bit part of two hashes is the same.
#[derive(Default)]
struct Collisions([u32; 4]);

impl Collisions {
    fn count(&mut self, one: u64, other: u64) {
        for (part, count) in self.0.iter_mut().enumerate() {
            *count += u32::from((one ^ other) >> (16 * part) << 48 == 0);
        }
    }

    /// Whether there are more than chance explains: an ideal hash collides once in 65,536 seeds.
    fn are_many(&self, seeds: u32) -> bool {
        self.0.iter().any(|count| *count > 9 + seeds / 65_536 * 2)
    }
}

/// Two keys, as a function from a seed to their hashes.
type Pair = (String, Box<dyn Fn(&Seed<'_, 1>) -> (u64, u64)>);

fn pair<K: RateLimitKey + 'static, L: RateLimitKey + 'static>(name: String, one: K, other: L) -> Pair {
    (name, Box::new(move |seed| (hash(seed, &one), hash(seed, &other))))
}

/// Flips bits in some of the bytes.
fn flipped(bytes: &[u8], places: &[usize], bits: u8) -> Vec<u8> {
    let mut flipped = bytes.to_vec();
    for place in places {
        if let Some(byte) = flipped.get_mut(*place) {
            *byte ^= bits;
        }
    }
    flipped
}

/// Pairs of byte strings of one length that differ little, or in patterns that multiplications are
/// blind to.
fn bytes_of(length: usize, pairs: &mut Vec<Pair>) {
    let counted: Vec<u8> = (0..length).map(|index| b'0' + u8::try_from(index % 10).unwrap()).collect();
    let all: Vec<usize> = (0..length).collect();
    for base in [vec![b'A'; length], vec![0; length], counted] {
        let mut add = |what: &str, other: Vec<u8>| {
            if other != base {
                pairs.push(pair(format!("{length} bytes, {what}"), base.clone(), other));
            }
        };
        add("complement", flipped(&base, &all, 0xff));
        add("first", flipped(&base, &[0], 1));
        add("last", flipped(&base, &[length - 1], 0x80));
        add("a byte in each word", flipped(&base, &(2..length).step_by(8).collect::<Vec<_>>(), 1));
        for distance in [8, 16, 24] {
            add("two words", flipped(&base, &[2, 2 + distance], 4));
            add("two words from the end", flipped(&base, &[length.saturating_sub(distance + 2), length - 1], 4));
        }
        add("reversed", base.iter().rev().copied().collect());
        add("rotated by a word", base.iter().cycle().skip(8).take(length).copied().collect());
        add("longer", [&base[..], &base[length - 1..]].concat());
        add("longer by zero", [&base[..], &[0]].concat());
        add("twice", [&base[..], &base[..]].concat());
    }
}

fn numbers(pairs: &mut Vec<Pair>) {
    for number in [0_u64, 1, 42, 1 << 32, 0x0123_4567_89ab_cdef] {
        let others = [
            !number,
            number.wrapping_neg(),
            number + 1,
            number ^ 1 << 63,
            number.rotate_left(32),
            number << 1 | 1,
            number.swap_bytes() ^ 1,
            number ^ 0xaaaa_aaaa_aaaa_aaaa,
            number ^ 0xffff_ffff,
        ];
        for other in others.into_iter().filter(|other| *other != number) {
            pairs.push(pair(format!("{number} and {other}"), number, other));
            let wide = |low: u64, high: u64| u128::from(high) << 64 | u128::from(low);
            pairs.push(pair(format!("low halves {number} and {other}"), wide(number, 7), wide(other, 7)));
            pairs.push(pair(format!("high halves {number} and {other}"), wide(7, number), wide(7, other)));
            pairs.push(pair(format!("halves {number} and {other}"), wide(number, other), wide(other, number)));
            pairs.push(pair(format!("pairs {number} and {other}"), (number, other), (other, number)));
            let address = |low, high| ExactIp(IpAddr::V6(Ipv6Addr::from(wide(low, high))));
            pairs.push(pair(format!("addresses {number}, {other}"), address(number, 9 << 48), address(other, 9 << 48)));
        }
        pairs.push(pair(format!("{number} of two kinds"), number, i64::from_ne_bytes(number.to_ne_bytes())));
        pairs.push(pair(format!("{number} and its text"), number, number.to_string()));
        pairs.push(pair(format!("{number} in `Some`"), number, Some(number)));
    }
}

fn composites(pairs: &mut Vec<Pair>) {
    let mut add = |name: &str, pair: Pair| pairs.push((name.to_owned(), pair.1));
    let key = |one: &str, other: &str| (one.to_owned(), other.to_owned());
    add("cut elsewhere", pair(String::new(), key("a", "bc"), key("ab", "c")));
    add("cut at a word", pair(String::new(), key("aaaaaaaa", "bbbbbbbb"), key("aaaaaaaab", "bbbbbbb")));
    add("swapped", pair(String::new(), key("tenant", "user"), key("user", "tenant")));
    add("flat and not", pair(String::new(), (key("a", "b"), "c".to_owned()), ("a".to_owned(), key("b", "c"))));
    add("none", pair(String::new(), None::<u64>, Some(0_u64)));
    add("nested", pair(String::new(), (Some(1_u8), 2_u8), (1_u8, Some(2_u8))));
    add("tenants", pair(String::new(), (1_u32, "user".to_owned()), (2_u32, "user".to_owned())));
    add("complements", pair(String::new(), (1_u64, 2_u64), (!1_u64, !2_u64)));
    for length in [255, 256, 257, 512, 1_000] {
        for place in [0, 8, 100, length - 1] {
            let bytes = vec![b'A'; length];
            add("long", pair(String::new(), bytes.clone(), flipped(&bytes, &[place], 1)));
            add(
                "long, twice",
                pair(String::new(), bytes.clone(), flipped(&bytes, &[place, (place + 248) % length], 1)),
            );
        }
    }
}

#[test]
fn no_pair_of_keys_collides_under_many_seeds() {
    let mut pairs = Vec::new();
    (1..=64).for_each(|length| bytes_of(length, &mut pairs));
    numbers(&mut pairs);
    composites(&mut pairs);
    let mut found: Vec<Collisions> = pairs.iter().map(|_| Collisions::default()).collect();
    let seeds = seeds();
    for _ in 0..seeds {
        let weights = weights();
        let seed = Seed::of(&weights);
        for ((_, hashes), found) in pairs.iter().zip(&mut found) {
            let (one, other) = hashes(&seed);
            found.count(one, other);
        }
    }
    let many = pairs.iter().zip(&found).filter(|(_, found)| found.are_many(seeds));
    let many: Vec<String> = many.map(|((name, _), found)| format!("{name}: {:?}", found.0)).collect();
    assert!(many.is_empty(), "of {seeds} seeds:\n{}", many.join("\n"));
}

/// Validates the search: it finds the known collisions of a hash of folded multiplications.
#[test]
fn the_search_finds_pairs_for_another_hash() {
    let hash = |shared: &'static foldhash::SharedSeed, seed: u64, key: &[u8]| {
        let mut hasher = foldhash::fast::FoldHasher::with_seed(seed, shared);
        hasher.write(key);
        hasher.finish()
    };
    let random = RandomState::new();
    let one = [&b"user:0000000012"[..], &[b'A'; 16]].concat();
    let other = flipped(&one, &[2, 10], 1);
    let mut found = Collisions::default();
    for run in 0..16 {
        let shared = Box::leak(Box::new(foldhash::SharedSeed::from_u64(random.hash_one(run))));
        for call in 0..256 {
            let seed = random.hash_one((run, call));
            found.count(hash(shared, seed, &one), hash(shared, seed, &other));
        }
    }
    assert!(found.are_many(1 << 12), "{:?}", found.0);
}

#[test]
fn sequential_keys_spread_in_low_and_high_bits() {
    const KEYS: u32 = 16_000;
    fn most<K: RateLimitKey>(seed: &Seed<'_, 1>, key: impl Fn(u32) -> K) -> u32 {
        let (mut low, mut high) = ([0_u32; 256], [0_u32; 256]);
        for number in 0..KEYS {
            let hash = hash(seed, &key(number));
            low[(hash & 0xff) as usize] += 1;
            high[(hash >> 56) as usize] += 1;
        }
        low.into_iter().chain(high).max().unwrap()
    }
    let mut worst: Vec<u32> = Vec::new();
    for _ in 0..21 {
        let weights = weights();
        let seed = Seed::of(&weights);
        worst.push(most(&seed, |number| number));
        worst.push(most(&seed, |number| u64::from(number) * 1_000));
        worst.push(most(&seed, |number| format!("user:{number}")));
        worst.push(most(&seed, |number| format!("customers/region/{number:08}")));
        worst.push(most(&seed, |number| (number % 7, Some("a"), number / 7)));
    }
    worst.sort_unstable();
    // The mean is 62.5; a random hash reaches no more than 110.
    assert!(worst[worst.len() / 2] < 110 && worst[worst.len() * 9 / 10] < 200, "{worst:?}");
}
