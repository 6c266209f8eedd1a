//! The constant form of a limiter in a `static`, before its first use.

use std::panic::Location;
use std::sync::Arc;
use std::time::Duration;

use once_cell::sync::OnceCell;

use super::{OnBackendError, RateLimiter};
use crate::algorithm::GROUPS;
use crate::algorithm::offences::Backoff;
use crate::backend::{self, SharedBackend};
use crate::error::Name;
use crate::limit::{Algorithm, Limit, MAX_LIMITS};

/// The parts of a limiter: name, limits, and options around a decision.
#[derive(Clone, Copy)]
pub struct Spec {
    name: SpecName,
    ordinal: u32,
    limits: [Limit; MAX_LIMITS],
    /// The key of each limit, by its number among the keys of a call.
    groups: [u8; MAX_LIMITS],
    len: usize,
    options: Options,
    reads: Reads,
    is_without_keys: bool,
    is_one_permit: bool,
}

#[derive(Clone, Copy)]
enum SpecName {
    Given(&'static str),
    /// The type name of an item local to the function.
    Path(fn() -> &'static str),
}

/// The location of a limiter's buckets.
#[derive(Clone, Copy)]
pub(crate) enum BackendChoice {
    /// The process's default.
    Default,
    Memory,
    /// Made at the first use.
    Made {
        make: fn() -> SharedBackend,
        /// [`made`](crate::backend::made), which only programs that make a backend contain.
        made: Made,
    },
}

type Made = fn(&OnceCell<SharedBackend>, fn() -> SharedBackend) -> &SharedBackend;

/// Options around a decision.
#[derive(Clone, Copy)]
pub(crate) struct Options {
    pub(crate) backend: BackendChoice,
    pub(crate) on_backend_error: OnBackendError,
    pub(crate) backoff: Option<Backoff>,
    pub(crate) dry_run: bool,
    /// Source location of the limiter.
    pub(crate) location: Option<&'static Location<'static>>,
}

/// What a limiter's program must contain.
#[derive(Clone, Copy)]
pub(super) enum Needs {
    /// No call has a key.
    NoKeys,
    /// The same of one sliding window up to 64, without `backoff`.
    PermitsWithoutKeys,
    /// The same of one larger sliding window.
    WindowWithoutKeys,
    /// One sliding window up to 64, without `backoff`.
    Permits,
    /// One larger sliding window without `backoff`.
    Window,
    Any,
}

impl Options {
    pub(crate) const DEFAULT: Options = Options {
        backend: BackendChoice::Default,
        on_backend_error: OnBackendError::Local,
        backoff: None,
        dry_run: false,
        location: None,
    };
}

/// A specification with a known name.
pub(crate) struct Resolved {
    pub(crate) name: Name,
    /// The name was given: limiters of the same name and limits share their buckets.
    pub(crate) named: bool,
    pub(crate) limits: Vec<Limit>,
    /// The key of each limit, by its number: what limits share in calls with several keys.
    pub(crate) groups: Vec<u8>,
    pub(crate) reads: Reads,
    pub(crate) options: Options,
    /// A backend that already exists.
    pub(crate) backend: Option<SharedBackend>,
}

/// Positions of limits that are read at each call, one bit each.
#[derive(Clone, Copy)]
pub(crate) struct Reads {
    pub(crate) per: u8,
    pub(crate) count: u8,
    /// Of these, the ones that name constants, which a `static` cannot name: they may be generic.
    pub(crate) constant: u8,
}

impl Reads {
    pub(crate) const NONE: Reads = Reads { per: 0, count: 0, constant: 0 };

    #[inline]
    pub(crate) const fn is_none(self) -> bool {
        self.per | self.count == 0
    }

    /// Positions of the limits that may change from call to call.
    pub(crate) const fn varying(self) -> u8 {
        (self.per | self.count) & !self.constant
    }

    /// Those of the limits at `positions`.
    pub(crate) fn at(self, positions: &[u8]) -> Reads {
        let bits = |bits: u8| {
            let own = positions.iter().enumerate();
            own.fold(0, |all, (own, position)| all | (bits >> position & 1) << own)
        };
        Reads { per: bits(self.per), count: bits(self.count), constant: bits(self.constant) }
    }
}

/// A constant: the compiler computes it once, not for every attribute.
const UNUSED: [Limit; MAX_LIMITS] =
    [Limit::clamped(1, Duration::from_secs(1), Algorithm::SlidingWindow, 1); MAX_LIMITS];

/// Each limit has a key of its own.
const EACH_ITS_OWN: [u8; MAX_LIMITS] = [0, 1, 2, 3, 4, 5, 6, 7];

impl Spec {
    const fn new(name: SpecName) -> Spec {
        Spec {
            name,
            ordinal: 1,
            limits: UNUSED,
            groups: EACH_ITS_OWN,
            len: 0,
            options: Options::DEFAULT,
            reads: Reads::NONE,
            is_without_keys: false,
            is_one_permit: false,
        }
    }

    /// A limiter with a given name.
    pub const fn named(name: &'static str) -> Spec {
        Spec::new(SpecName::Given(name))
    }

    /// A limiter named after the function that contains the local item named by `here`.
    pub const fn unnamed(here: fn() -> &'static str) -> Spec {
        Spec::new(SpecName::Path(here))
    }

    /// The `n`th attribute of one function. From the second on, the number is part of the name.
    pub const fn ordinal(self, n: u32) -> Spec {
        Spec { ordinal: n, ..self }
    }

    /// Adds a limit.
    ///
    /// # Panics
    /// On a ninth limit. In a `static` this is a compile error.
    #[track_caller]
    pub const fn limit(mut self, limit: Limit) -> Spec {
        assert!(self.len < MAX_LIMITS, "a rate limiter has at most 8 limits");
        self.limits[self.len] = limit;
        self.len += 1;
        self
    }

    #[track_caller]
    pub(crate) const fn limits(mut self, limits: &[Limit]) -> Spec {
        assert!(!limits.is_empty(), "a rate limiter needs at least one limit");
        let mut next = 0;
        while next < limits.len() {
            self = self.limit(limits[next]);
            next += 1;
        }
        self
    }

    /// The limit added last has the key of this number.
    pub const fn key(mut self, number: u8) -> Spec {
        self.groups[self.len - 1] = number;
        self
    }

    /// The count of the limit added last is read at each call.
    pub const fn reads_count(mut self) -> Spec {
        self.reads.count |= 1 << (self.len - 1);
        self
    }

    /// The period of the limit added last is read at each call.
    pub const fn reads_per(mut self) -> Spec {
        self.reads.per |= 1 << (self.len - 1);
        self
    }

    /// What is read of the limit added last is a constant.
    pub const fn constant(mut self) -> Spec {
        self.reads.constant |= 1 << (self.len - 1);
        self
    }

    /// Keeps the buckets in this process's memory, regardless of the default.
    pub const fn memory(mut self) -> Spec {
        self.options.backend = BackendChoice::Memory;
        self
    }

    /// Keeps the buckets in a backend that is made at the first use.
    pub const fn backend(mut self, make: fn() -> SharedBackend) -> Spec {
        self.options.backend = BackendChoice::Made { make, made: backend::made };
        self
    }

    /// What happens to a call that the backend cannot decide.
    pub const fn on_backend_error(mut self, policy: OnBackendError) -> Spec {
        self.options.on_backend_error = policy;
        self
    }

    /// Denials block their key.
    pub const fn backoff(mut self, initial: Duration, max: Duration) -> Spec {
        self.options.backoff = Some(Backoff::new(initial, max));
        self
    }

    /// A denial bans its key.
    pub const fn ban(mut self, time: Duration) -> Spec {
        self.options.backoff = Some(Backoff::ban(time));
        self
    }

    /// Never denies.
    pub const fn dry_run(mut self) -> Spec {
        self.options.dry_run = true;
        self
    }

    /// Sets the source location of the limiter.
    pub const fn at(mut self, location: &'static Location<'static>) -> Spec {
        self.options.location = Some(location);
        self
    }

    /// No call has a key. Only for a limiter whose buckets no other limiter shares.
    pub const fn without_keys(mut self) -> Spec {
        self.is_without_keys = matches!(self.name, SpecName::Path(_));
        self
    }

    /// Each call takes one permit of one limit, at once or not at all, and keeps it. Only for a
    /// limiter whose buckets no other limiter shares.
    pub const fn one_permit(mut self) -> Spec {
        self.is_one_permit = matches!(self.name, SpecName::Path(_));
        self
    }

    /// The limiter.
    pub const fn limiter(self) -> RateLimiter {
        RateLimiter::from_spec(self)
    }

    pub(super) const fn needs(&self) -> Needs {
        // Its calls need no thorough path, whatever happens to them in memory.
        let is_plain_window = self.is_one_permit
            && self.len == 1
            && matches!(self.limits[0].algorithm(), Algorithm::SlidingWindow)
            && self.limits[0].count() > 0
            && self.reads.is_none()
            && self.options.backoff.is_none();
        match (self.is_without_keys, is_plain_window, self.limits[0].count() <= GROUPS) {
            (true, true, true) => Needs::PermitsWithoutKeys,
            (true, true, false) => Needs::WindowWithoutKeys,
            (true, false, _) => Needs::NoKeys,
            (false, true, true) => Needs::Permits,
            (false, true, false) => Needs::Window,
            (false, false, _) => Needs::Any,
        }
    }

    /// `constants` are the limits of the first call, if all limits that are read are constants. They
    /// count as written, so that a constant is as fast as a literal. Only the other instances of a
    /// generic function read theirs.
    pub(crate) fn resolve(&self, constants: Option<&[Limit]>) -> Resolved {
        let (name, named) = match self.name {
            SpecName::Given(name) => (Name::Static(name), true),
            SpecName::Path(here) => (function_name(here(), self.ordinal), false),
        };
        // The names of shared buckets leave out a period that is read.
        let (limits, reads) = match constants.filter(|_| self.reads.varying() == 0 && !(named && self.reads.per != 0)) {
            Some(constants) => (constants, Reads::NONE),
            None => (&self.limits[..self.len], self.reads),
        };
        Resolved {
            name,
            named,
            limits: limits.to_vec(),
            groups: self.groups[..self.len].to_vec(),
            reads,
            options: self.options,
            backend: None,
        }
    }
}

/// The path of a function, from the type name of an item local to it.
fn function_name(here: &'static str, ordinal: u32) -> Name {
    let mut path = here.rsplit_once(':').map_or(here, |(function, _)| function.strip_suffix(':').unwrap_or(function));
    while let Some(outer) = path.strip_suffix("::{{closure}}") {
        path = outer;
    }
    match ordinal {
        0 | 1 => Name::Static(path),
        _ => Name::Shared(Arc::from(format!("{path}#{ordinal}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_function_is_named_without_what_is_local_to_it() {
        let name = |here, ordinal| function_name(here, ordinal).as_str().to_owned();
        assert_eq!(name("app::Api::call::here", 1), "app::Api::call");
        assert_eq!(name("app::call::{{closure}}::{{closure}}::here", 2), "app::call#2");
    }
}
