//! The outcome of a request denied by a [`RateLimitLayer`](super::RateLimitLayer).

use std::error::Error;

use crate::error::{FromRateLimitExceeded, RateLimitExceeded};

/// Any error.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// The outcome of a denied request, for a service with responses `R` and errors `E`.
#[diagnostic::on_unimplemented(
    message = "a request denied by a `RateLimitLayer` cannot be answered with a `{R}`",
    note = "say what it gets: `.deny_with(|exceeded| ..)`, or let it fail: `.error_on_denied()`"
)]
pub trait Denial<R, E>: sealed::Sealed {
    /// The error type of the limited service.
    type Error;

    /// Answers a denied request.
    fn deny(&self, exceeded: RateLimitExceeded) -> Result<R, Self::Error>;

    /// Converts an error of the inner service.
    fn pass(error: E) -> Self::Error;
}

/// Answers with a response. For an [`http::Response`] that is a 429, or a 503 if the backend
/// failed. Errors pass unchanged.
#[derive(Clone, Copy, Debug, Default)]
pub struct Respond;

#[diagnostic::do_not_recommend]
impl<R: FromRateLimitExceeded, E> Denial<R, E> for Respond {
    type Error = E;

    fn deny(&self, exceeded: RateLimitExceeded) -> Result<R, E> {
        Ok(R::from_rate_limit_exceeded(exceeded))
    }

    fn pass(error: E) -> E {
        error
    }
}

/// Answers with the response of a closure. Errors pass unchanged.
#[derive(Clone, Copy, Debug)]
pub struct RespondWith<F>(pub(super) F);

impl<F: Fn(RateLimitExceeded) -> T, T: IntoDenialResponse<R>, R, E> Denial<R, E> for RespondWith<F> {
    type Error = E;

    fn deny(&self, exceeded: RateLimitExceeded) -> Result<R, E> {
        Ok((self.0)(exceeded).into_denial_response())
    }

    fn pass(error: E) -> E {
        error
    }
}

/// The return value of a closure of [`deny_with`](super::RateLimitLayer::deny_with), for a service
/// with responses `R`.
///
/// It is `R` itself. With the feature `axum`, and for axum's responses, it may also be a status,
/// text, `Html` or a tuple that implements [`IntoResponse`](::axum::response::IntoResponse).
#[diagnostic::on_unimplemented(
    message = "`deny_with` cannot convert `{Self}` into the service's response `{R}`",
    note = "in axum, return a tuple such as `(StatusCode, String)`, or call `.into_response()`"
)]
pub trait IntoDenialResponse<R> {
    /// Converts into the response.
    fn into_denial_response(self) -> R;
}

#[diagnostic::do_not_recommend]
impl<R> IntoDenialResponse<R> for R {
    fn into_denial_response(self) -> R {
        self
    }
}

/// Not a blanket implementation for `IntoResponse`: it would overlap with that for the response
/// itself.
#[cfg(feature = "axum")]
mod of_axum {
    use axum::http::StatusCode;
    use axum::response::{Html, IntoResponse, NoContent, Redirect, Response};

    use super::IntoDenialResponse;

    macro_rules! into_response {
        ($([$($parameter:ident)*] $type:ty;)*) => {$(
            #[diagnostic::do_not_recommend]
            impl<$($parameter),*> IntoDenialResponse<Response> for $type
            where
                $type: IntoResponse,
            {
                fn into_denial_response(self) -> Response {
                    self.into_response()
                }
            }
        )*};
    }

    into_response! {
        [] StatusCode;
        [] String;
        [] &'static str;
        [] NoContent;
        [] Redirect;
        [] crate::RateLimitExceeded;
        [T] Html<T>;
        [T E] Result<T, E>;
        [A B] (A, B);
        [A B C] (A, B, C);
        [A B C D] (A, B, C, D);
        [A B C D E] (A, B, C, D, E);
    }
}

/// Fails with the [`RateLimitExceeded`], boxed like the errors of the inner service.
#[derive(Clone, Copy, Debug, Default)]
pub struct Fail;

impl<R, E: Into<BoxError>> Denial<R, E> for Fail {
    type Error = BoxError;

    fn deny(&self, exceeded: RateLimitExceeded) -> Result<R, BoxError> {
        Err(exceeded.into())
    }

    fn pass(error: E) -> BoxError {
        error.into()
    }
}

mod sealed {
    pub trait Sealed {}

    impl Sealed for super::Respond {}
    impl<F> Sealed for super::RespondWith<F> {}
    impl Sealed for super::Fail {}
}
