//! One kind of decision, so many times: what `scripts/callgrind` counts. Without arguments, the names of the kinds.

use std::hint::black_box;
use std::num::NonZeroU32;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use governor::{Quota, RateLimiter as Governor};
use ratelimit_runtime::{RateLimitExceeded, rate_limit};

type Limited = Result<(), RateLimitExceeded>;

#[rate_limit(count = 1_000_000_000, per = "1h", algorithm = token_bucket)]
fn token_allowed() -> Limited {
    Ok(())
}

#[rate_limit(count = 1_000_000_000, per = "1h", algorithm = token_bucket)]
async fn token_allowed_async() -> Limited {
    Ok(())
}

#[rate_limit(count = 1, per = "1h", algorithm = token_bucket)]
fn token_denied() -> Limited {
    Ok(())
}

#[rate_limit(count = 1_000_000_000, per = "1h")]
fn window_allowed() -> Limited {
    Ok(())
}

#[rate_limit(count = 1, per = "1h")]
fn window_denied() -> Limited {
    Ok(())
}

#[rate_limit(count = 1_000_000, per = "366d", algorithm = token_bucket, key = key)]
fn token_text(key: &str) -> Limited {
    Ok(())
}

#[rate_limit(count = 1_000_000, per = "366d", algorithm = token_bucket, key = key)]
fn token_number(key: u64) -> Limited {
    Ok(())
}

#[rate_limit(count = 1_000_000, per = "1h", key = key)]
fn window_text(key: &str) -> Limited {
    Ok(())
}

#[rate_limit(count = 1_000_000, per = "1h", algorithm = fixed_window, key = key)]
fn fixed_text(key: &str) -> Limited {
    Ok(())
}

fn quota(burst: u32) -> Quota {
    Quota::with_period(Duration::from_secs(3_600)).unwrap().allow_burst(NonZeroU32::new(burst).unwrap())
}

fn main() {
    let texts: Vec<String> = (0..100).map(|key| format!("user:{key:016}")).collect();
    let (direct, denied) = (Governor::direct(quota(1_000_000)), Governor::direct(quota(1)));
    let (by_text, by_number) = (Governor::keyed(quota(1_000_000)), Governor::keyed(quota(1_000_000)));
    let text = |call: usize| texts[call % 100].as_str();
    let number = |call: usize| call as u64 % 100;
    let cases: [(&str, &dyn Fn(usize) -> bool); 13] = [
        ("token_bucket, allowed", &|_| token_allowed().is_ok()),
        ("token_bucket, allowed, async", &|_| at_once(token_allowed_async()).is_ok()),
        ("token_bucket, denied", &|_| token_denied().is_ok()),
        ("sliding_window, allowed", &|_| window_allowed().is_ok()),
        ("sliding_window, denied", &|_| window_denied().is_ok()),
        ("token_bucket, `&str` key", &|call| token_text(text(call)).is_ok()),
        ("token_bucket, `u64` key", &|call| token_number(number(call)).is_ok()),
        ("sliding_window, `&str` key", &|call| window_text(text(call)).is_ok()),
        ("fixed_window, `&str` key", &|call| fixed_text(text(call)).is_ok()),
        ("governor, allowed", &|_| direct.check().is_ok()),
        ("governor, denied", &|_| denied.check().is_ok()),
        ("governor, `String` key", &|call| by_text.check_key(&texts[call % 100]).is_ok()),
        ("governor, `u64` key", &|call| by_number.check_key(&number(call)).is_ok()),
    ];
    #[cfg(feature = "metrics")]
    metrics_exporter_prometheus::PrometheusBuilder::new().install_recorder().expect("the first recorder");
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let [wanted, calls] = &arguments[..] else {
        for (name, _) in cases {
            println!("{name}");
        }
        return;
    };
    let calls: usize = calls.parse().expect("a number of calls");
    for (name, call) in cases {
        if name == wanted {
            // Buckets are made, clocks calibrated.
            for number in 0..100 {
                black_box(call(number));
            }
            counted(calls, call);
        }
    }
}

/// What a future comes to that does not wait.
fn at_once<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => unreachable!("nothing is waited for"),
    }
}

/// The calls that are counted.
#[inline(never)]
fn counted(calls: usize, call: &dyn Fn(usize) -> bool) {
    for number in 0..calls {
        black_box(call(number));
    }
}
