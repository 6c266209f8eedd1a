//! What a response of a [`RateLimitLayer`](super::RateLimitLayer)'s service does to the key of its
//! request: it may pause the key and settle the request's real cost.

use std::pin::Pin;
use std::time::Duration;

/// The longest pause, because an upstream chooses its `Retry-After`.
const LONGEST: Duration = Duration::from_secs(3_600);

/// What a response does to the key of its request.
pub trait After<R>: sealed::Sealed {
    /// Whether any response pauses the key.
    #[doc(hidden)]
    const PAUSES: bool = false;
    /// Whether any response says what its request cost.
    #[doc(hidden)]
    const SETTLES: bool = false;

    /// For how long this response pauses the key.
    #[doc(hidden)]
    fn pause(&self, _: &R) -> Option<Duration> {
        None
    }

    /// What the request of this response really cost.
    #[doc(hidden)]
    fn actual(&self, _: &R) -> Option<u32> {
        None
    }
}

/// A response does nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Nothing;

impl<R> After<R> for Nothing {}

/// A closure says for how long a response pauses the key: an hour at most.
#[derive(Clone, Copy, Debug)]
pub struct PauseWhen<F>(pub(super) F);

impl<R, F: Fn(&R) -> Option<Duration>> After<R> for PauseWhen<F> {
    const PAUSES: bool = true;

    fn pause(&self, response: &R) -> Option<Duration> {
        (self.0)(response).map(|time| time.min(LONGEST))
    }
}

/// A closure says what the request of a response really cost.
#[derive(Clone, Copy, Debug)]
pub struct Settle<F>(pub(super) F);

impl<R, F: Fn(&R) -> u32> After<R> for Settle<F> {
    const SETTLES: bool = true;

    fn actual(&self, response: &R) -> Option<u32> {
        Some((self.0)(response))
    }
}

/// Both.
impl<R, A: After<R>, B: After<R>> After<R> for (A, B) {
    const PAUSES: bool = A::PAUSES || B::PAUSES;
    const SETTLES: bool = A::SETTLES || B::SETTLES;

    fn pause(&self, response: &R) -> Option<Duration> {
        self.1.pause(response).or_else(|| self.0.pause(response))
    }

    fn actual(&self, response: &R) -> Option<u32> {
        self.1.actual(response).or_else(|| self.0.actual(response))
    }
}

/// A pause or a settlement under way.
pub(super) type Ending = Pin<Box<dyn Future<Output = ()> + Send>>;

mod sealed {
    pub trait Sealed {}

    impl Sealed for super::Nothing {}
    impl<F> Sealed for super::PauseWhen<F> {}
    impl<F> Sealed for super::Settle<F> {}
    impl<A, B> Sealed for (A, B) {}
}
