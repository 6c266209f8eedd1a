//! `lambda_http`: a handler's `Err` is a failed invocation, so a denial is an `Ok` with the 429.

use ::lambda_http::{Body, Error, Request, Response};
use ratelimit_runtime::{FromRateLimitExceeded, rate_limit};

/// A page, for each path once a minute.
///
/// # Errors
/// If the response cannot be made.
#[rate_limit(
    count = 1,
    per = "1m",
    key = request.uri().path().to_owned(),
    or_else = |exceeded| Ok(Response::from_rate_limit_exceeded(exceeded))
)]
pub async fn search(request: Request) -> Result<Response<Body>, Error> {
    Ok(Response::builder().body(Body::from(format!("found {}", request.uri())))?)
}
