//! A scope without `test-util`: the same methods, and no value to call them on.

use std::convert::Infallible;
use std::future::Ready;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use crate::backend::memory::{MemoryBackend, Store};
use crate::limiter::Journal;

#[derive(Clone)]
pub(crate) struct Scope(Infallible);

impl Scope {
    pub(crate) fn id(&self) -> &str {
        match self.0 {}
    }

    pub(crate) fn now(&self) -> u64 {
        match self.0 {}
    }

    pub(crate) fn store(&self, _: u64, _: impl FnOnce(&MemoryBackend) -> Arc<Store>) -> Arc<Store> {
        match self.0 {}
    }

    pub(crate) fn existing(&self, _: u64) -> Option<Arc<Store>> {
        match self.0 {}
    }

    pub(crate) fn journal(&self) -> &Journal {
        match self.0 {}
    }

    pub(crate) fn advance_to(&self, _: u64) {
        match self.0 {}
    }

    pub(crate) fn sleep(&self, _: Duration) {
        match self.0 {}
    }

    pub(crate) fn sleep_async(&self, _: Duration) -> Ready<()> {
        match self.0 {}
    }

    pub(crate) fn enter(&self) -> Infallible {
        self.0
    }
}

pub(crate) struct Sleep(Infallible);

impl Sleep {
    pub(crate) fn until(scope: &Scope, _: u64) -> Sleep {
        Sleep(scope.0)
    }

    pub(crate) fn time(&self) -> u64 {
        match self.0 {}
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
        match self.0 {}
    }
}

// It costs nothing.
const _: () = assert!(size_of::<Option<Scope>>() == 0 && size_of::<Option<Sleep>>() == 0);
