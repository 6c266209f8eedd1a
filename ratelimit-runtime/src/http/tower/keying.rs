//! How a [`RateLimitLayer`](super::RateLimitLayer) calls its limiter: with one key of the request
//! for all limits, or with a key for each limit.

use crate::key::RateLimitKey;
use crate::keys::RateLimitKeys;
use crate::keys::sealed::Visit;
use crate::limiter::{Blockable, Call, Started};

/// The key of a request: a closure makes one for all limits, or [`Keys`] makes one for each limit.
pub trait Keying<R>: sealed::Keying<R> {}

impl<R, T: sealed::Keying<R>> Keying<R> for T {}

/// A closure makes a key of the request for each limit.
#[derive(Clone, Copy, Debug)]
pub struct Keys<F>(pub(super) F);

/// A call for a request, without its keys.
pub struct Unkeyed<'a, 'b> {
    pub(super) call: Call<'a>,
    /// Where to note what the response may pause.
    pub(super) pausable: Option<&'b mut Option<Blockable>>,
}

/// A call that has done everything that needs no waiting.
pub struct StartedCall(pub(super) Started);

mod sealed {
    use super::{StartedCall, Unkeyed};

    pub trait Keying<R> {
        fn start(&self, request: &R, call: Unkeyed<'_, '_>) -> StartedCall;
    }
}

impl<R, K: RateLimitKey, F: Fn(&R) -> K> sealed::Keying<R> for F {
    fn start(&self, request: &R, Unkeyed { call, pausable }: Unkeyed<'_, '_>) -> StartedCall {
        let key = self(request);
        if let Some(pausable) = pausable {
            *pausable = Some(call.blockable(&key, None));
        }
        StartedCall(call.start(&key))
    }
}

impl<R, K: RateLimitKeys, F: Fn(&R) -> K> sealed::Keying<R> for Keys<F> {
    fn start(&self, request: &R, Unkeyed { call, pausable }: Unkeyed<'_, '_>) -> StartedCall {
        let keys = (self.0)(request);
        if let Some(pausable) = pausable {
            keys.each(&mut First { call, pausable });
        }
        StartedCall(call.start_each(&keys))
    }
}

/// Notes the first key, which a response pauses.
struct First<'a, 'b> {
    call: Call<'a>,
    pausable: &'b mut Option<Blockable>,
}

impl Visit for First<'_, '_> {
    fn key<K: RateLimitKey>(&mut self, index: usize, key: &K) {
        if index == 0 {
            *self.pausable = Some(self.call.blockable(key, Some(0)));
        }
    }
}
