//! Every shape of function that the attribute accepts. Each is limited, and otherwise behaves as
//! without the attribute.
//!
//! The functions are written as users write them and must be free of warnings, with clippy's
//! strictest groups denied.
#![deny(warnings, clippy::all, clippy::pedantic, clippy::nursery)]
#![allow(clippy::redundant_closure_for_method_calls, reason = "inside of the attribute, written as most would")]
#![allow(clippy::redundant_pub_crate, reason = "the compiler's `unreachable_pub` says the opposite")]
#![allow(clippy::significant_drop_tightening, reason = "a test's clock stands until its end")]

mod arguments;
mod asynchronous;
mod attributes;
mod bodies;
mod functions;
mod futures;
mod generated;
mod generics;
mod keys;
mod methods;
mod names;
mod outcomes;
mod returns;
mod settled;
mod waiting;

use std::fmt::Debug;
use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use ratelimit_runtime::{RateLimitExceeded, test_util};

/// The return type of most functions here.
type Limited<T = ()> = Result<T, RateLimitExceeded>;

/// How many of five calls in a row are admitted.
fn admitted_of_five<T, E>(mut call: impl FnMut() -> Result<T, E>) -> usize {
    (0..5).filter(|_| call().is_ok()).count()
}

/// How many of five calls in a row are admitted.
async fn admitted_of_five_async<T, E, F: Future<Output = Result<T, E>>>(mut call: impl FnMut() -> F) -> usize {
    let mut admitted = 0;
    for _ in 0..5 {
        admitted += usize::from(call().await.is_ok());
    }
    admitted
}

/// The result of the first call; asserts that the second is denied. For limits of one call.
#[track_caller]
fn once<T, E: Debug>(mut call: impl FnMut() -> Result<T, E>) -> T {
    let _clock = test_util::pause();
    let value = call().expect("the first call is admitted");
    assert!(call().is_err(), "the second call is denied");
    value
}

/// The output of the first call; asserts that the second is denied. For futures that never wait.
#[track_caller]
fn once_ready<T, E: Debug, F: Future<Output = Result<T, E>>>(mut call: impl FnMut() -> F) -> T {
    once(|| ready(call()))
}

/// The output of a future that never waits. With a memory backend, none does.
#[track_caller]
fn ready<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("the future waits"),
    }
}

/// Compiles only for values that may move to another thread.
const fn assert_send<T: Send>(value: T) -> T {
    value
}
