//! salvo: the usual 429, rendered into the handler's response.

use ::salvo::prelude::*;
use ratelimit_runtime::{FromRateLimitExceeded, RateLimitExceeded, rate_limit};

/// For the attribute's `or_else`.
pub fn limited(exceeded: RateLimitExceeded, response: &mut Response) {
    *response = http::Response::<String>::from_rate_limit_exceeded(exceeded).into();
}

/// A search, for each address once a minute.
#[handler]
#[rate_limit(
    count = 1,
    per = "1m",
    key = request.remote_addr().clone().into_std().map(|address| address.ip()),
    or_else = |exceeded| limited(exceeded, response)
)]
pub async fn search(request: &mut Request, response: &mut Response) {
    response.render(format!("found {}", request.uri()));
}
