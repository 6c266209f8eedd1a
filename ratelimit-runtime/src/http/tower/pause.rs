//! Whether a response of a [`RateLimitLayer`](super::RateLimitLayer)'s service pauses its key.

use std::pin::Pin;
use std::time::Duration;

/// The longest pause: an upstream chooses its `Retry-After`.
const LONGEST: Duration = Duration::from_secs(3_600);

/// For how long a response pauses the key of its request.
pub trait Pause<R>: sealed::Sealed {
    /// Whether any response does.
    #[doc(hidden)]
    const PAUSES: bool;

    /// The time of this response.
    fn time(&self, response: &R) -> Option<Duration>;
}

/// No response pauses the key.
#[derive(Clone, Copy, Debug, Default)]
pub struct Never;

impl<R> Pause<R> for Never {
    const PAUSES: bool = false;

    fn time(&self, _: &R) -> Option<Duration> {
        None
    }
}

/// A closure says for how long a response pauses the key: an hour at most.
#[derive(Clone, Copy, Debug)]
pub struct PauseWhen<F>(pub(super) F);

impl<R, F: Fn(&R) -> Option<Duration>> Pause<R> for PauseWhen<F> {
    const PAUSES: bool = true;

    fn time(&self, response: &R) -> Option<Duration> {
        (self.0)(response).map(|time| time.min(LONGEST))
    }
}

/// A pause under way.
pub(super) type Pausing = Pin<Box<dyn Future<Output = ()> + Send>>;

mod sealed {
    pub trait Sealed {}

    impl Sealed for super::Never {}
    impl<F> Sealed for super::PauseWhen<F> {}
}
