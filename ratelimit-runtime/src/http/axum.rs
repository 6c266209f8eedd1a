//! Denied axum handlers, and whatever else answers with an [`http::Response`].

use axum_core::body::Body;
use axum_core::response::{IntoResponse, Response};
use http::{HeaderName, HeaderValue, StatusCode};

use super::{Limited, answer};
use crate::error::{FromRateLimitExceeded, RateLimitExceeded};

fn response<B: From<String>>(exceeded: &RateLimitExceeded) -> http::Response<B> {
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

/// For handlers that return `Result<_, Response>`.
impl From<RateLimitExceeded> for http::Response<Body> {
    fn from(exceeded: RateLimitExceeded) -> Self {
        response(&exceeded)
    }
}

impl IntoResponse for RateLimitExceeded {
    fn into_response(self) -> Response {
        response(&self)
    }
}

impl<T: IntoResponse> IntoResponse for Limited<T> {
    fn into_response(self) -> Response {
        match self {
            Limited::Admitted(body) => body.into_response(),
            Limited::Denied(exceeded) => exceeded.into_response(),
        }
    }
}
