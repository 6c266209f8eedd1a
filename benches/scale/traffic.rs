//! Calls of many processes on many keys: arrivals by a Poisson process, keys by Zipf's law.

use std::collections::HashMap;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rand_distr::{Distribution, Exp, Zipf};

pub(crate) const KEYS: u64 = 10_000_000;
pub(crate) const EXPONENTS: [f64; 3] = [0.8, 1.0, 1.2];

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Traffic {
    pub(crate) exponent: f64,
    /// Calls a second of all processes together.
    pub(crate) rate: f64,
    pub(crate) calls: usize,
    pub(crate) processes: usize,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Call {
    /// Since the start, in whole microseconds.
    pub(crate) at: Duration,
    pub(crate) process: usize,
    /// The rank of the key, from 1 on.
    pub(crate) key: u64,
}

impl Traffic {
    /// The same calls each time.
    pub(crate) fn calls(&self) -> impl Iterator<Item = Call> + use<> {
        let mut random = StdRng::seed_from_u64(1);
        let (gaps, keys, processes) = (Exp::new(self.rate).expect("a rate"), law(self.exponent), self.processes);
        let mut at = 0.0;
        (0..self.calls).map(move |_| {
            at += gaps.sample(&mut random);
            Call { at: micros(at), process: random.random_range(0..processes), key: rank(keys.sample(&mut random)) }
        })
    }
}

/// Keys by the law.
pub(crate) fn sample(exponent: f64, number: usize) -> Vec<u64> {
    let (mut random, keys) = (StdRng::seed_from_u64(2), law(exponent));
    (0..number).map(|_| rank(keys.sample(&mut random))).collect()
}

/// Each key's share of the calls, the hottest first.
pub(crate) fn weights(exponent: f64) -> Vec<f64> {
    let weights: Vec<f64> = (1..=KEYS).map(|rank| (rank as f64).powf(-exponent)).collect();
    let sum: f64 = weights.iter().sum();
    weights.into_iter().map(|weight| weight / sum).collect()
}

fn law(exponent: f64) -> Zipf<f64> {
    Zipf::new(KEYS as f64, exponent).expect("an exponent")
}

fn micros(seconds: f64) -> Duration {
    let at = Duration::from_secs_f64(seconds);
    Duration::from_micros(u64::try_from(at.as_micros()).expect("a short time"))
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a whole number from 1 to `KEYS`")]
fn rank(sampled: f64) -> u64 {
    sampled as u64
}

/// Checks the generator against the law itself: the hottest keys, and the half that is called
/// least.
pub(crate) fn check() {
    const CALLS: usize = 1_000_000;
    for exponent in EXPONENTS {
        let (keys, weights) = (sample(exponent, CALLS), weights(exponent));
        let mut counts: HashMap<u64, f64> = HashMap::new();
        for key in &keys {
            *counts.entry(*key).or_default() += 1.0;
        }
        let close = |what: &str, counted: f64, share: f64| {
            let expected = share * CALLS as f64;
            let deviation = (expected * (1.0 - share)).sqrt();
            assert!((counted - expected).abs() < 5.0 * deviation, "{what} of {exponent}: {counted}, not {expected}");
        };
        for (rank, share) in (1..=10).zip(&weights) {
            close(&format!("key {rank}"), counts.get(&rank).copied().unwrap_or(0.0), *share);
        }
        let cold = KEYS / 2;
        let counted = keys.iter().filter(|key| **key > cold).count() as f64;
        let share = weights.iter().zip(1_u64..).filter(|(_, rank)| *rank > cold).map(|(share, _)| *share).sum();
        close("the colder half", counted, share);
    }
}
