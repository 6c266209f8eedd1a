//! poem: the usual 429, by `or_else`.

use ::poem::{Response, Route, handler, post};
use ratelimit_runtime::{FromRateLimitExceeded, RateLimitExceeded, rate_limit};

/// For the attribute's `or_else`.
pub fn limited(exceeded: RateLimitExceeded) -> Response {
    let (parts, body) = http::Response::<String>::from_rate_limit_exceeded(exceeded).into_parts();
    let mut response = Response::from((parts.status, body));
    response.headers_mut().extend(parts.headers);
    response
}

/// A limited route.
pub fn routes() -> Route {
    Route::new().at("/search", post(search))
}

/// A search, for each word once a minute.
#[handler]
#[rate_limit(count = 1, per = "1m", key = word, or_else = limited)]
async fn search(word: String) -> Response {
    Response::from(format!("found {word}"))
}
