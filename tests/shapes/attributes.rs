//! Other attributes on the same function, in either order.

use crate::{Limited, admitted_of_five, admitted_of_five_async};
use ratelimit_runtime::rate_limit;

#[tracing::instrument(skip_all)]
#[rate_limit(count = 2, per = "1h", key = user)]
fn below_instrument(user: u8) -> Limited<u8> {
    Ok(user)
}

#[rate_limit(count = 2, per = "1h", key = user)]
#[tracing::instrument(skip_all)]
fn above_instrument(user: u8) -> Limited<u8> {
    Ok(user)
}

#[tracing::instrument(skip_all)]
#[rate_limit(count = 2, per = "1h", key = user)]
async fn below_instrument_async(user: u8) -> Limited<u8> {
    Ok(user)
}

#[rate_limit(count = 2, per = "1h", key = user)]
#[tracing::instrument(skip_all, err)]
async fn above_instrument_async(user: u8) -> Limited<u8> {
    Ok(user)
}

#[async_trait::async_trait]
trait Traced {
    async fn below(&self) -> Limited;
    async fn above(&self) -> Limited;
}

#[async_trait::async_trait]
impl Traced for u8 {
    #[tracing::instrument(skip_all)]
    #[rate_limit(count = 2, per = "1h", key = *self)]
    async fn below(&self) -> Limited {
        Ok(())
    }

    #[rate_limit(count = 2, per = "1h", key = *self)]
    #[tracing::instrument(skip_all)]
    async fn above(&self) -> Limited {
        Ok(())
    }
}

#[tokio::test]
async fn instrumented_functions_are_limited() {
    assert_eq!(admitted_of_five(|| below_instrument(1)), 2);
    assert_eq!(admitted_of_five(|| above_instrument(1)), 2);
    assert_eq!(admitted_of_five_async(|| below_instrument_async(1)).await, 2);
    assert_eq!(admitted_of_five_async(|| above_instrument_async(1)).await, 2);
    assert_eq!(admitted_of_five_async(|| 1_u8.below()).await, 2);
    assert_eq!(admitted_of_five_async(|| 1_u8.above()).await, 2);
}

#[tokio::main(flavor = "current_thread")]
#[rate_limit(count = 2, per = "1h")]
async fn below_main() -> Limited {
    tokio::task::yield_now().await;
    Ok(())
}

#[rate_limit(count = 2, per = "1h")]
#[tokio::main(flavor = "current_thread")]
async fn above_main() -> Limited {
    tokio::task::yield_now().await;
    Ok(())
}

#[test]
fn functions_that_start_a_runtime_are_limited() {
    assert_eq!(admitted_of_five(below_main), 2);
    assert_eq!(admitted_of_five(above_main), 2);
}

#[tokio::test]
#[rate_limit(count = 1, per = "1h")]
async fn below_tokio_test() -> Limited {
    Ok(())
}

#[rate_limit(count = 1, per = "1h")]
#[tokio::test]
async fn above_tokio_test() -> Limited {
    Ok(())
}

#[test]
#[rate_limit(count = 1, per = "1h")]
fn below_test() -> Limited {
    Ok(())
}

#[rate_limit(count = 1, per = "1h")]
#[test]
fn above_test() -> Limited {
    Ok(())
}

#[axum::debug_handler]
#[rate_limit(count = 2, per = "1h", or_else = |_| "denied")]
async fn below_debug_handler() -> &'static str {
    std::future::ready("served").await
}

#[rate_limit(count = 2, per = "1h", or_else = |_| "denied")]
#[axum::debug_handler]
async fn above_debug_handler() -> &'static str {
    "served"
}

#[tokio::test]
async fn handlers_are_limited() {
    let _: axum::Router = axum::Router::new()
        .route("/below", axum::routing::get(below_debug_handler))
        .route("/above", axum::routing::get(above_debug_handler));
    for _ in 0..2 {
        assert_eq!((below_debug_handler().await, above_debug_handler().await), ("served", "served"));
    }
    assert_eq!((below_debug_handler().await, above_debug_handler().await), ("denied", "denied"));
}

#[must_use = "it took a permit"]
#[rate_limit(count = 2, per = "1h", or_else = |_| 0)]
fn below_must_use() -> u32 {
    1
}

#[rate_limit(count = 2, per = "1h", or_else = |_| 0)]
#[must_use = "it took a permit"]
fn above_must_use() -> u32 {
    1
}

#[cfg(test)]
#[rate_limit(count = 2, per = "1h")]
fn below_cfg() -> Limited {
    Ok(())
}

#[rate_limit(count = 2, per = "1h")]
#[cfg(test)]
fn above_cfg() -> Limited {
    Ok(())
}

#[rate_limit(count = 2, per = "1h")]
#[cfg(not(test))]
fn above_cfg() -> Limited {
    Ok(())
}

#[cfg_attr(test, rate_limit(count = 2, per = "1h"))]
fn in_cfg_attr() -> Limited {
    Ok(())
}

#[cfg_attr(not(test), rate_limit(count = 2, per = "1h"))]
#[expect(clippy::missing_const_for_fn, clippy::unnecessary_wraps, reason = "it is not limited")]
fn in_other_cfg_attr() -> Limited {
    Ok(())
}

#[rate_limit(count = 3, per = "1h")]
#[cfg_attr(test, rate_limit(count = 2, per = "1h"))]
#[cfg_attr(test, inline)]
fn above_cfg_attr(#[cfg(test)] number: u32) -> Limited<u32> {
    Ok(number)
}

#[test]
fn conditional_functions_are_limited() {
    assert_eq!((0..5).map(|_| below_must_use() + above_must_use()).sum::<u32>(), 4);
    assert_eq!(admitted_of_five(below_cfg), 2);
    assert_eq!(admitted_of_five(above_cfg), 2);
    assert_eq!(admitted_of_five(in_cfg_attr), 2);
    assert_eq!(admitted_of_five(in_other_cfg_attr), 5);
    assert_eq!(admitted_of_five(|| above_cfg_attr(1)), 2);
}

#[inline(never)]
#[track_caller]
#[doc(alias = "limited")]
#[rate_limit(count = 2, per = "1h")]
fn with_built_in_attributes() -> Limited<u32> {
    Ok(std::panic::Location::caller().line())
}

#[test]
fn the_body_of_a_function_with_track_caller_sees_the_caller() {
    assert_eq!(with_built_in_attributes().ok(), Some(line!()));
    assert_eq!(admitted_of_five(with_built_in_attributes), 1);
}
