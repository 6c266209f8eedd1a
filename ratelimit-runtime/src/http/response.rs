//! The denial as an [`http::Response`].

use http::{HeaderName, HeaderValue, StatusCode};

use super::answer;
use crate::error::{FromRateLimitExceeded, RateLimitExceeded};

pub(super) fn response<B: From<String>>(exceeded: &RateLimitExceeded) -> http::Response<B> {
    let answer = answer(exceeded);
    let mut response = http::Response::new(B::from(answer.body));
    *response.status_mut() = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::TOO_MANY_REQUESTS);
    for (name, value) in answer.headers {
        // All of them are visible ASCII.
        if let Ok(value) = HeaderValue::try_from(value) {
            response.headers_mut().insert(HeaderName::from_static(name), value);
        }
    }
    response
}

impl<B: From<String>> FromRateLimitExceeded for http::Response<B> {
    fn from_rate_limit_exceeded(exceeded: RateLimitExceeded) -> Self {
        response(&exceeded)
    }
}
