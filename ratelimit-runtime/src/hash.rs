//! The hash that finds buckets: two keys with the same hash share a bucket.
//!
//! The hash of an ordinary table only has to spread keys. This one must also withstand an attacker
//! who chooses keys to collide, so it is universal: multilinear hashing. A key is a sequence of
//! words xᵢ; its hash is s + Σ ⌊wᵢ xᵢ / 2⁶⁴⌋ modulo 2⁶⁴, with random weights wᵢ of 128 bits.
//!
//! Any two keys of n words, chosen without knowledge of the weights, collide with a probability of
//! at most (2n - 1) / 2⁶⁴. Without the rounding of each product it would be 1 / 2⁶⁴ (D. Lemire, O.
//! Kaser, Strongly universal string hashing is fast, The Computer Journal 57, 2014); the rounding
//! is off by less than n. The random numbers come from std's `SipHash`, whose key comes from the
//! operating system.
//!
//! The weights are plain values, so that a snapshot of buckets can hold them.
//!
//! Hashes built on folded multiplications (foldhash, wyhash, ahash without AES instructions) give
//! no such guarantee. With foldhash 0.2, an eight-byte text and its complement collided for one of
//! 2²⁶ seeds, 2¹² times as often as they should.

#![allow(clippy::inline_always, reason = "a key's words are counted by the compiler if all of it is one function")]

use std::hash::{BuildHasher, Hasher};
use std::sync::LazyLock;

use parking_lot::Mutex;

use crate::key::sealed::{Kind, Sink};

/// The source of seeds. Counting instructions needs the same seeds in each run: they decide how far
/// keys are from their slots.
#[cfg(not(callgrind))]
type Random = std::hash::RandomState;
#[cfg(callgrind)]
type Random = std::hash::BuildHasherDefault<std::hash::DefaultHasher>;

/// Words per block. A longer key is hashed block by block, and `SipHash` hashes the blocks' hashes.
const WORDS: usize = 32;

/// The upper and lower half of a word's multiplier.
type Weight = (u64, u64);

/// The random numbers that all seeds of one family share.
#[derive(PartialEq, Eq)]
pub(crate) struct Weights {
    /// By lane and word.
    words: [[Weight; WORDS]; 2],
    /// The key of the hash of blocks.
    blocks: (u64, u64),
}

/// Shared by all limiters: collisions are equally rare for each.
static WEIGHTS: LazyLock<Weights> = LazyLock::new(weights);

fn weights() -> Weights {
    let random = Random::default();
    let weight = |lane, word| (random.hash_one((lane, word, 0)), random.hash_one((lane, word, 1)));
    let words = std::array::from_fn(|lane| std::array::from_fn(|word| weight(lane, word)));
    Weights { words, blocks: (random.hash_one(0_u8), random.hash_one(1_u8)) }
}

impl Weights {
    /// The number of random numbers.
    pub(crate) const NUMBERS: usize = 2 * 2 * WORDS + 2;

    /// This process's own.
    pub(crate) fn of_process() -> &'static Weights {
        &WEIGHTS
    }

    pub(crate) fn numbers(&self) -> [u64; Weights::NUMBERS] {
        let (first, second) = self.blocks;
        let words = self.words.iter().flatten().flat_map(|(high, low)| [*high, *low]);
        let mut numbers = words.chain([first, second]);
        std::array::from_fn(|_| numbers.next().unwrap_or_default())
    }

    /// The weights of these numbers. They are never freed, because seeds refer to them for ever: one
    /// kilobyte for each family that this process meets.
    pub(crate) fn of(numbers: &[u64; Weights::NUMBERS]) -> &'static Weights {
        static MET: Mutex<Vec<&'static Weights>> = Mutex::new(Vec::new());
        let weight = |lane, word| {
            let at = (lane * WORDS + word) * 2;
            (numbers[at], numbers[at + 1])
        };
        let words = std::array::from_fn(|lane| std::array::from_fn(|word| weight(lane, word)));
        let weights = Weights { words, blocks: (numbers[Weights::NUMBERS - 2], numbers[Weights::NUMBERS - 1]) };
        let mut met = MET.lock();
        if let Some(known) = met.iter().copied().chain([&*WEIGHTS]).find(|known| **known == weights) {
            return known;
        }
        let weights = Box::leak(Box::new(weights));
        met.push(weights);
        weights
    }
}

/// A family member: 64 bits of hash per lane.
#[derive(Clone, Copy)]
pub(crate) struct Seed<'w, const LANES: usize> {
    weights: &'w Weights,
    starts: [u64; LANES],
}

impl<const LANES: usize> Seed<'static, LANES> {
    /// A new seed at each call.
    pub(crate) fn new() -> Seed<'static, LANES> {
        Seed::of(&WEIGHTS)
    }
}

impl Seed<'static, 1> {
    /// Hashes nothing.
    pub(crate) const UNUSED: Seed<'static, 1> =
        Seed { weights: &Weights { words: [[(0, 0); WORDS]; 2], blocks: (0, 0) }, starts: [0] };

    /// The seed that [`start`](Seed::start) is of.
    pub(crate) fn at(weights: &'static Weights, start: u64) -> Seed<'static, 1> {
        Seed { weights, starts: [start] }
    }

    pub(crate) fn start(&self) -> u64 {
        self.starts[0]
    }
}

impl<'w, const LANES: usize> Seed<'w, LANES> {
    /// A new seed of a family.
    pub(crate) fn of(weights: &'w Weights) -> Seed<'w, LANES> {
        let random = Random::default();
        Seed { weights, starts: std::array::from_fn(|lane| random.hash_one(lane)) }
    }
}

/// Feeds a key to the hash, as a prefix code: no key's words are a prefix of another's.
///
/// Each part is a word for its kind and length, which is never zero, then its bytes in as many
/// words as needed.
pub(crate) struct HashSink<'a, const LANES: usize> {
    seed: &'a Seed<'a, LANES>,
    sums: [u64; LANES],
    words: usize,
    /// Hashes of the blocks before this one.
    before: [u64; LANES],
}

/// Kinds other than numbers. The kinds of numbers begin at 16.
const TEXT: u64 = 1;
const BYTES: u64 = 2;
const NONE: u64 = 3;
const SOME: u64 = 4;
const TUPLE: u64 = 5;
const LIST: u64 = 6;
const ITEM: u64 = 7;
const END: u64 = 8;

impl<'a, const LANES: usize> HashSink<'a, LANES> {
    #[inline]
    pub(crate) fn new(seed: &'a Seed<'_, LANES>) -> HashSink<'a, LANES> {
        HashSink { seed, sums: seed.starts, words: 0, before: [0; LANES] }
    }

    /// The hashes of everything written.
    #[inline]
    pub(crate) fn finish(self) -> [u64; LANES] {
        if self.words <= WORDS {
            self.sums.map(folded)
        } else {
            chained(self.seed.weights.blocks, self.before, self.sums)
        }
    }

    /// Writes one word of a key that keeps its own words apart.
    #[inline(always)]
    pub(crate) fn word(&mut self, word: u64) {
        let place = self.words % WORDS;
        if place == 0 && self.words > 0 {
            self.before = chained(self.seed.weights.blocks, self.before, self.sums);
            self.sums = self.seed.starts;
        }
        for (sum, weights) in self.sums.iter_mut().zip(&self.seed.weights.words) {
            let (high, low) = weights[place];
            let product = u128::from(low) * u128::from(word);
            *sum = sum.wrapping_add(high.wrapping_mul(word)).wrapping_add((product >> 64) as u64);
        }
        self.words += 1;
    }

    #[inline(always)]
    fn tagged_bytes(&mut self, tag: u64, bytes: &[u8]) {
        let length = bytes.len();
        self.word((length as u64) << 8 | tag);
        // Words overlap instead of being padded: the length determines how.
        match length {
            0 => {}
            1..4 => self.word(u64::from_le_bytes([bytes[0], bytes[length / 2], bytes[length - 1], 0, 0, 0, 0, 0])),
            4..8 => self.word(u64::from(half(bytes, 0)) << 32 | u64::from(half(bytes, length - 4))),
            8..=16 => {
                self.word(whole(bytes, 0));
                self.word(whole(bytes, length - 8));
            }
            17..=24 => {
                self.word(whole(bytes, 0));
                self.word(whole(bytes, 8));
                self.word(whole(bytes, length - 8));
            }
            25..=32 => {
                self.word(whole(bytes, 0));
                self.word(whole(bytes, 8));
                self.word(whole(bytes, 16));
                self.word(whole(bytes, length - 8));
            }
            _ => *self = many(HashSink { ..*self }, bytes),
        }
    }
}

/// Writes all words of `bytes`. The state is passed by value: a reference would force it into
/// memory even for short keys.
#[cold]
#[inline(never)]
fn many<'a, const LANES: usize>(mut sink: HashSink<'a, LANES>, bytes: &[u8]) -> HashSink<'a, LANES> {
    let (words, rest) = bytes.as_chunks();
    for word in words {
        sink.word(u64::from_le_bytes(*word));
    }
    if !rest.is_empty() {
        sink.word(whole(bytes, bytes.len() - 8));
    }
    sink
}

/// Folds a sum so that each bit of the result depends on all bits of the sum: the XOR of the two
/// halves of a product. Sequential words make sequential sums; without mixing the sum's halves
/// first, products would be sequential too. Two sums fold to one hash with the probability of a
/// random function.
#[inline]
#[expect(clippy::cast_possible_truncation, reason = "the halves")]
fn folded(sum: u64) -> u64 {
    // 2⁶⁴ divided by the golden ratio.
    let product = u128::from(sum ^ sum >> 32) * 0x9e37_79b9_7f4a_7c15;
    product as u64 ^ (product >> 64) as u64
}

/// Chains the hash of the earlier blocks with one more.
#[cold]
#[inline(never)]
fn chained<const LANES: usize>(key: (u64, u64), before: [u64; LANES], sums: [u64; LANES]) -> [u64; LANES] {
    // `RandomState` does not expose its key, and its algorithm may change with the compiler.
    #[expect(deprecated, reason = "SipHash 2-4 with a key, which nothing else in the standard library has")]
    let sip = std::hash::SipHasher::new_with_keys(key.0, key.1);
    std::array::from_fn(|lane| {
        let mut sip = sip.clone();
        for word in [lane as u64, before[lane], sums[lane]] {
            sip.write(&word.to_le_bytes());
        }
        sip.finish()
    })
}

#[inline]
fn whole(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(std::array::from_fn(|index| bytes[at + index]))
}

#[inline]
fn half(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(std::array::from_fn(|index| bytes[at + index]))
}

impl<const LANES: usize> Sink for HashSink<'_, LANES> {
    #[inline(always)]
    fn number(&mut self, kind: Kind, value: u128) {
        self.word(kind as u64);
        #[expect(clippy::cast_possible_truncation, reason = "the halves are written one after the other")]
        let (low, high) = (value as u64, (value >> 64) as u64);
        self.word(low);
        if kind.is_wide() {
            self.word(high);
        }
    }

    #[inline(always)]
    fn text(&mut self, value: &str) {
        self.tagged_bytes(TEXT, value.as_bytes());
    }

    #[inline(always)]
    fn bytes(&mut self, value: &[u8]) {
        self.tagged_bytes(BYTES, value);
    }

    #[inline(always)]
    fn none(&mut self) {
        self.word(NONE);
    }

    #[inline(always)]
    fn some(&mut self) {
        self.word(SOME);
    }

    fn begin_list(&mut self) {
        self.word(LIST);
    }

    fn item(&mut self) {
        self.word(ITEM);
    }

    fn end_list(&mut self) {
        self.word(END);
    }

    #[inline(always)]
    fn begin_tuple(&mut self, parts: u8) {
        self.word(u64::from(parts) << 8 | TUPLE);
    }

    #[inline(always)]
    fn end_tuple(&mut self) {}
}

#[cfg(all(test, not(loom_model)))]
mod tests;
