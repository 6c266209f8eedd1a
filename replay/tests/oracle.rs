//! A brute-force oracle: a log of all admissions, which shares nothing with the product.

use std::collections::{BTreeMap, BTreeSet};

/// A call: time in nanoseconds, client, permits.
pub(crate) type Call = (u64, String, u64);

#[derive(Clone, Copy, Debug)]
pub(crate) enum Limit {
    Sliding { count: u64, per: u64 },
    Fixed { count: u64, per: u64 },
    Token { count: u64, per: u64, burst: u64 },
}

/// The positions of the calls that any of the limits denies. The limits are charged together or not
/// at all.
pub(crate) fn denied(calls: &[Call], limits: &[Limit]) -> BTreeSet<usize> {
    let mut admitted: BTreeMap<&str, Vec<(u64, u64)>> = BTreeMap::new();
    let mut denied = BTreeSet::new();
    for (position, (now, client, cost)) in calls.iter().enumerate() {
        let log = admitted.entry(client).or_default();
        if limits.iter().all(|limit| fits(*limit, log, *now, *cost)) {
            log.push((*now, *cost));
        } else {
            denied.insert(position);
        }
    }
    denied
}

fn fits(limit: Limit, log: &[(u64, u64)], now: u64, cost: u64) -> bool {
    let sum =
        |counts: &dyn Fn(u64) -> bool| log.iter().filter(|(at, _)| counts(*at)).map(|(_, cost)| cost).sum::<u64>();
    match limit {
        Limit::Sliding { count, per } => sum(&|at| at + per > now) + cost <= count,
        Limit::Fixed { count, per } => sum(&|at| at / per == now / per) + cost <= count,
        Limit::Token { count, per, burst } => {
            // A permit is `per` units, and `count` units flow back each nanosecond.
            let full = u128::from(burst) * u128::from(per);
            let (mut level, mut last) = (full, 0);
            for (at, cost) in log.iter().copied().chain([(now, 0)]) {
                level =
                    full.min(level + u128::from(at - last) * u128::from(count)) - u128::from(cost) * u128::from(per);
                last = at;
            }
            level >= u128::from(cost) * u128::from(per)
        }
    }
}

/// For a sliding window: how long each admitted call waits; `None` for calls that would wait longer
/// than `longest`.
pub(crate) fn waits(calls: &[Call], count: u64, per: u64, longest: u64) -> Vec<Option<u64>> {
    let mut booked: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
    let mut waits = Vec::new();
    for (now, client, _) in calls {
        let log = booked.entry(client).or_default();
        let from = log.last().copied().unwrap_or(0).max(*now);
        let has_room = |at: u64| (log.iter().filter(|booked| **booked + per > at).count() as u64) < count;
        let moments = log.iter().map(|booked| booked + per).chain([from]).filter(|at| *at >= from);
        let at = moments.filter(|at| has_room(*at)).min().expect("room, in the end");
        waits.push((at - now <= longest).then_some(at - now));
        if at - now <= longest {
            log.push(at);
        }
    }
    waits
}

/// The denied calls of each client that has any.
pub(crate) fn by_client(calls: &[Call], denied: &BTreeSet<usize>) -> BTreeMap<String, u64> {
    let mut clients = BTreeMap::new();
    for position in denied {
        *clients.entry(calls[*position].1.clone()).or_insert(0) += 1;
    }
    clients
}
