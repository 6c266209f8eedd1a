//! Backends shared by limiters, each behind its guard, and the process's default backend.

use std::cell::RefCell;
use std::fmt;
use std::sync::{Arc, LazyLock, OnceLock};

use once_cell::sync::OnceCell;

use super::{Answer, Backend, Deadline, MemoryBackend, Request};
use crate::error::BackendError;
use crate::guard::Guard;
use crate::limiter;
use crate::switches::{self, Switch};

/// A backend that limiters share, made by [`IntoBackend`]. A cheap handle: clones share one circuit
/// breaker.
#[derive(Clone)]
pub struct SharedBackend {
    pub(crate) kind: BackendKind,
}

#[derive(Clone)]
pub(crate) enum BackendKind {
    Memory(MemoryBackend),
    Remote(Remote),
}

/// A guard behind a pointer, so that a program without a backend does not contain the code that
/// drops one.
#[derive(Clone)]
pub(crate) struct Remote(Arc<dyn Guarded>);

trait Guarded: Send + Sync {
    fn guard(&self) -> &Arc<Guard>;
}

impl Guarded for Arc<Guard> {
    fn guard(&self) -> &Arc<Guard> {
        self
    }
}

impl Remote {
    pub(crate) fn guard(&self) -> &Arc<Guard> {
        self.0.guard()
    }
}

impl fmt::Debug for SharedBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.kind {
            BackendKind::Memory(_) => "SharedBackend(memory)",
            BackendKind::Remote(_) => "SharedBackend(remote)",
        })
    }
}

/// A value that can be set as a limiter's backend.
///
/// Implemented for [`MemoryBackend`], for any [`Backend`] (also behind an `Arc` or a `&'static`),
/// and for the `Result` of a constructor. An `Err` becomes the answer to every decision.
pub trait IntoBackend {
    /// The backend to share.
    fn into_backend(self) -> SharedBackend;
}

impl<B: Backend> IntoBackend for B {
    fn into_backend(self) -> SharedBackend {
        limiter::open_elsewhere();
        SharedBackend { kind: BackendKind::Remote(Remote(Arc::new(Guard::of(Arc::new(self))))) }
    }
}

impl IntoBackend for MemoryBackend {
    fn into_backend(self) -> SharedBackend {
        SharedBackend { kind: BackendKind::Memory(self) }
    }
}

impl IntoBackend for SharedBackend {
    fn into_backend(self) -> SharedBackend {
        self
    }
}

impl<B: IntoBackend> IntoBackend for Result<B, BackendError> {
    fn into_backend(self) -> SharedBackend {
        match self {
            Ok(backend) => backend.into_backend(),
            Err(error) => Failed(error).into_backend(),
        }
    }
}

/// A backend that could not be created.
struct Failed(BackendError);

impl Backend for Failed {
    fn decide(&self, _: &Request) -> Result<Answer, BackendError> {
        Err(self.0.clone())
    }

    fn deadline(&self) -> Deadline {
        Deadline::Kept
    }
}

static DEFAULT: OnceLock<SharedBackend> = OnceLock::new();

/// The process's default backend was already set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DefaultBackendAlreadySet;

impl fmt::Display for DefaultBackendAlreadySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the default backend was set before: set it once, at the start of the program")
    }
}

impl std::error::Error for DefaultBackendAlreadySet {}

/// Sets the backend of all limiters that name none, instead of this process's memory. Call it once,
/// at the start of the program.
///
/// ```
/// use ratelimit_runtime::{MemoryBackend, set_default_backend};
///
/// assert!(set_default_backend(MemoryBackend::with_max_keys(10_000)).is_ok());
/// assert!(set_default_backend(MemoryBackend::new()).is_err());
/// ```
///
/// # Errors
/// [`DefaultBackendAlreadySet`] on a second call, which changes nothing.
pub fn set_default_backend(backend: impl IntoBackend) -> Result<(), DefaultBackendAlreadySet> {
    // Made first: a backend may call a limited function while it describes itself.
    DEFAULT.set(backend.into_backend()).map_err(|_| DefaultBackendAlreadySet)?;
    switches::turn(Switch::DefaultBackend, true);
    Ok(())
}

thread_local! {
    /// The backends that this thread is making, by the address of their cell.
    static MAKING: RefCell<Vec<usize>> = const { RefCell::new(Vec::new()) };
}

/// A limiter's backend, made at its first call. Making a backend may call a limited function, so
/// calls of the limiter on this thread meanwhile get a failing backend.
pub(crate) fn made(cell: &OnceCell<SharedBackend>, make: fn() -> SharedBackend) -> &SharedBackend {
    static UNFINISHED: LazyLock<SharedBackend> = LazyLock::new(|| {
        let message = "the limiter was called while its backend was being made";
        Failed(BackendError::configuration(message)).into_backend()
    });

    struct Making(usize);

    impl Drop for Making {
        fn drop(&mut self) {
            let _ = MAKING.try_with(|making| making.borrow_mut().retain(|address| *address != self.0));
        }
    }

    if let Some(backend) = cell.get() {
        return backend;
    }
    let address = std::ptr::from_ref(cell).addr();
    let is_nested = MAKING.try_with(|making| making.borrow().contains(&address));
    if is_nested.unwrap_or(false) {
        return &UNFINISHED;
    }
    cell.get_or_init(|| {
        let _ = MAKING.try_with(|making| making.borrow_mut().push(address));
        let _making = Making(address);
        make()
    })
}

/// The default backend, if it is not this process's memory.
pub(crate) fn default_backend() -> Option<&'static SharedBackend> {
    DEFAULT.get()
}
