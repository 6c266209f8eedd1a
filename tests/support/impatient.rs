//! Callers that arrive and give up until all permits are used up. The tests count admitted permits
//! that no call gets, and measure no times: the count does not depend on the machine's load.

use std::time::{Duration, Instant};

use ratelimit_runtime::{Algorithm, Limit, OnBackendError, RateLimiter, SharedBackend};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::{ALGORITHMS, SECOND};

/// Returned permits are free after at most half of this time.
const HOPE: Duration = Duration::from_secs(2);

/// A limiter of `limit` that has `in_all` permits.
///
/// # Panics
///
/// If `in_all` is 0.
pub fn limiter(name: &str, backend: SharedBackend, limit: Limit, in_all: u32) -> RateLimiter {
    let in_all = Limit::new(in_all, Duration::from_secs(366 * 86_400)).with_algorithm(Algorithm::FixedWindow);
    let builder = RateLimiter::builder(name).backend(backend).on_backend_error(OnBackendError::Deny);
    builder.limit(limit).limit(in_all).build().unwrap()
}

/// Starts a call every `every`, which gives up after `patience`, until no permit is left. Returns
/// how many calls were served.
///
/// # Panics
///
/// If a call fails.
pub async fn served(limiter: &RateLimiter, every: Duration, patience: Duration) -> usize {
    let (mut calls, mut served, mut last_hope) = (JoinSet::new(), 0, Instant::now());
    loop {
        if last_hope.elapsed() < HOPE {
            let limiter = limiter.clone();
            let wait = async move { limiter.wait_at_most_async("a", 1, Duration::from_secs(60)).await };
            calls.spawn(timeout(patience, wait));
        } else if calls.is_empty() {
            return served;
        }
        sleep(every).await;
        while let Some(call) = calls.try_join_next() {
            match call.expect("a call panics") {
                Ok(Err(exceeded)) if exceeded.limit_index() == 1 => continue,
                Ok(decision) => served += decision.map_or_else(|exceeded| panic!("{exceeded:?}"), |_| 1),
                Err(_gave_up) => {}
            }
            last_hope = Instant::now();
        }
    }
}

/// Half of the calls give up, by each algorithm. At least 95 of 100 permits serve a call.
///
/// # Panics
///
/// If they do not.
pub async fn others_get_what_callers_who_give_up_would_have_had(store: &'static str, backend: SharedBackend) {
    const IN_ALL: u32 = 80;
    let mut runs = JoinSet::new();
    for algorithm in ALGORITHMS {
        let limit = Limit::new(20, SECOND).with_algorithm(algorithm);
        let limiter = limiter(&format!("impatient {algorithm:?}"), backend.clone(), limit, IN_ALL);
        runs.spawn(async move {
            let (calls, all) = (served(&limiter, SECOND / 40, SECOND / 4).await, IN_ALL as usize);
            assert!((all * 95 / 100..=all).contains(&calls), "{algorithm:?} in {store}: {calls} of {all}");
        });
    }
    runs.join_all().await;
}
