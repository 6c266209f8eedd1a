//! What a request that is denied by a [`RateLimitLayer`](super::RateLimitLayer) gets.

use std::error::Error;

use crate::error::{FromRateLimitExceeded, RateLimitExceeded};

/// Any error.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// What a denied request gets from a service with responses `R` and errors `E`.
#[diagnostic::on_unimplemented(
    message = "a request denied by a `RateLimitLayer` cannot be answered with a `{R}`",
    note = "say what it gets: `.deny_with(|exceeded| ..)`, or let it fail: `.error_on_denied()`"
)]
pub trait Denial<R, E>: sealed::Sealed {
    /// Errors of the limited service.
    type Error;

    /// What a denied request gets.
    fn deny(&self, exceeded: RateLimitExceeded) -> Result<R, Self::Error>;

    /// An error of the service within.
    fn pass(error: E) -> Self::Error;
}

/// A response: of an [`http::Response`], the 429 (503 where the backend failed). Errors stay what they are.
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

/// The response that a closure makes. Errors stay what they are.
#[derive(Clone, Copy, Debug)]
pub struct RespondWith<F>(pub(super) F);

impl<F: Fn(RateLimitExceeded) -> R, R, E> Denial<R, E> for RespondWith<F> {
    type Error = E;

    fn deny(&self, exceeded: RateLimitExceeded) -> Result<R, E> {
        Ok((self.0)(exceeded))
    }

    fn pass(error: E) -> E {
        error
    }
}

/// The [`RateLimitExceeded`] as an error, in a box as those of the service within.
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
