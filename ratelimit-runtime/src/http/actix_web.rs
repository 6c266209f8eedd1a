//! actix-web: denied handlers, the client's address, and a middleware that reports limits.

mod headers;

use std::future::{Ready, ready};

use actix_web::body::{BoxBody, EitherBody};
use actix_web::dev::Payload;
use actix_web::http::StatusCode;
use actix_web::http::header::HeaderValue;
use actix_web::web::Data;
use actix_web::{FromRequest, HttpRequest, HttpResponse, Responder, ResponseError};

pub use headers::RateLimitHeaders;

use super::client_ip::{ClientIp, ClientIpConfig, UnknownClient};
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

/// Converts into `actix_web::Error`, so that handlers may return `Result<_, actix_web::Error>`.
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

/// Configured by `app_data`: a [`ClientIpConfig`], or one in a [`Data`]. With `Option<ClientIp>`,
/// requests from unknown clients are `None`, which is a bucket of its own.
impl FromRequest for ClientIp {
    type Error = UnknownClient;
    type Future = Ready<Result<ClientIp, UnknownClient>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(client(request))
    }
}

fn client(request: &HttpRequest) -> Result<ClientIp, UnknownClient> {
    let peer = request.peer_addr().ok_or(UnknownClient)?.ip();
    let default = ClientIpConfig::peer();
    let in_data = || request.app_data::<Data<ClientIpConfig>>().map(|data| &***data);
    let config = request.app_data::<ClientIpConfig>().or_else(in_data).unwrap_or(&default);
    let lines: Vec<_> = match config.header_name() {
        Some(name) => request.headers().get_all(name).map(HeaderValue::as_bytes).collect(),
        None => Vec::new(),
    };
    Ok(config.resolve(peer, lines))
}

/// The answer is 500.
impl ResponseError for UnknownClient {}
