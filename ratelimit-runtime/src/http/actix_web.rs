//! Denied actix-web handlers.

use actix_web::body::{BoxBody, EitherBody};
use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, Responder, ResponseError};

use super::{Limited, answer};
use crate::error::{FromRateLimitExceeded, RateLimitExceeded};

fn response(exceeded: &RateLimitExceeded) -> HttpResponse {
    let answer = answer(exceeded);
    let mut response =
        HttpResponse::build(StatusCode::from_u16(answer.status).unwrap_or(StatusCode::TOO_MANY_REQUESTS));
    for header in answer.headers {
        response.insert_header(header);
    }
    response.body(answer.body)
}

/// By this, `actix_web::Error` is made of it: handlers may return `Result<_, actix_web::Error>`.
impl ResponseError for RateLimitExceeded {
    fn status_code(&self) -> StatusCode {
        self.error_response().status()
    }

    fn error_response(&self) -> HttpResponse {
        response(self)
    }
}

impl FromRateLimitExceeded for HttpResponse {
    fn from_rate_limit_exceeded(exceeded: RateLimitExceeded) -> Self {
        response(&exceeded)
    }
}

impl<T: Responder> Responder for Limited<T> {
    type Body = EitherBody<T::Body, BoxBody>;

    fn respond_to(self, request: &HttpRequest) -> HttpResponse<Self::Body> {
        match self {
            Limited::Admitted(body) => body.respond_to(request).map_into_left_body(),
            Limited::Denied(exceeded) => response(&exceeded).map_into_right_body(),
        }
    }
}
