//! axum: denied handlers and the client's address.

use std::convert::Infallible;
use std::net::SocketAddr;

use axum::body::Body;
use axum::extract::connect_info::MockConnectInfo;
use axum::extract::{ConnectInfo, FromRequestParts, OptionalFromRequestParts};
use axum::response::{IntoResponse, Response};
use http::request::Parts;
use http::{Extensions, HeaderMap, HeaderValue, StatusCode};

use super::Limited;
use super::client_ip::{ClientIp, ClientIpConfig, UnknownClient};
use super::response::response;
use crate::error::RateLimitExceeded;

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

/// Configured by an `Extension<ClientIpConfig>`.
impl<S: Sync> FromRequestParts<S> for ClientIp {
    type Rejection = UnknownClient;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<ClientIp, UnknownClient> {
        client(&parts.extensions, &parts.headers, None)
    }
}

/// `None` if the address is unknown, which is a bucket of its own.
impl<S: Sync> OptionalFromRequestParts<S> for ClientIp {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Option<ClientIp>, Infallible> {
        Ok(client(&parts.extensions, &parts.headers, None).ok())
    }
}

impl IntoResponse for UnknownClient {
    fn into_response(self) -> Response {
        (StatusCode::INTERNAL_SERVER_ERROR, self.to_string()).into_response()
    }
}

impl ClientIp {
    /// The client of a request to an axum server, as the extractor finds it. For the closures of
    /// layers, which have no extractors.
    ///
    /// ```
    /// use std::time::Duration;
    /// use axum::extract::Request;
    /// use ratelimit_runtime::{ClientIp, Limit, RateLimitLayer, RateLimiter};
    ///
    /// static API: RateLimiter = RateLimiter::new("api", &[Limit::new(100, Duration::from_secs(1))]);
    ///
    /// // Unknown clients share a bucket.
    /// let layer = RateLimitLayer::new(&API, |request: &Request| ClientIp::of(request).ok());
    /// ```
    ///
    /// Add an `Extension` with a [`ClientIpConfig`] after (outside) the layer that calls this.
    ///
    /// # Errors
    /// [`UnknownClient`] if the request carries no peer address.
    pub fn of<B>(request: &http::Request<B>) -> Result<ClientIp, UnknownClient> {
        client(request.extensions(), request.headers(), None)
    }
}

impl ClientIpConfig {
    /// The client of a request to an axum server, by this configuration instead of the request's.
    ///
    /// # Errors
    /// [`UnknownClient`] if the request carries no peer address.
    pub fn client_of<B>(&self, request: &http::Request<B>) -> Result<ClientIp, UnknownClient> {
        client(request.extensions(), request.headers(), Some(self))
    }
}

/// The client, by `config` or else by the request's configuration.
fn client(
    extensions: &Extensions,
    headers: &HeaderMap,
    config: Option<&ClientIpConfig>,
) -> Result<ClientIp, UnknownClient> {
    let connection = extensions.get::<ConnectInfo<SocketAddr>>().map(|ConnectInfo(peer)| peer);
    let mock = || extensions.get::<MockConnectInfo<SocketAddr>>().map(|MockConnectInfo(peer)| peer);
    let peer = connection.or_else(mock).ok_or(UnknownClient)?.ip();
    let default = ClientIpConfig::peer();
    let config = config.or_else(|| extensions.get()).unwrap_or(&default);
    let lines = config.header_name().map(|name| headers.get_all(name).iter().map(HeaderValue::as_bytes));
    Ok(match lines {
        Some(lines) => config.resolve(peer, lines),
        None => config.resolve(peer, []),
    })
}
