//! The validated attribute and its function, from which the expansion is generated. Complete and
//! free of contradictions by construction.

use proc_macro2::Ident;
use syn::{Expr, ExprPath};

use crate::args::Arg;
use crate::shape::Shape;

/// The features of the runtime that matter to the attribute.
#[derive(Clone, Copy)]
pub(crate) struct Features {
    pub(crate) redis: bool,
    pub(crate) tokio: bool,
    /// A web framework's responses are supported.
    pub(crate) responses: bool,
}

impl Features {
    pub(crate) const ENABLED: Features = Features {
        redis: cfg!(feature = "redis"),
        tokio: cfg!(feature = "tokio"),
        responses: cfg!(feature = "responses"),
    };
}

pub(crate) struct Model {
    /// The `crate` argument.
    pub(crate) runtime: Option<ExprPath>,
    pub(crate) limiter: Limiter,
    pub(crate) key: Option<Arg<Expr>>,
    /// Instead of `key`, if limits have different keys.
    pub(crate) keys: Option<Keys>,
    pub(crate) cost: Option<Cost>,
    pub(crate) wait: Option<Waiting>,
    pub(crate) denial: Denial,
    pub(crate) exempt_when: Option<Arg<Expr>>,
    pub(crate) deduct_when: Option<Arg<Expr>>,
    pub(crate) shape: Shape,
    /// Whether the function's docs state the limit.
    pub(crate) docs: bool,
    /// Counts the attributes on the function, from below.
    pub(crate) ordinal: u32,
}

pub(crate) enum Limiter {
    /// The function's own static.
    Own(Box<Own>),
    /// `limiter = ..`
    Shared(Arg<Expr>),
}

/// The keys of limits that have different ones, in the order in which they are evaluated.
pub(crate) enum Keys {
    /// Of the function's own limits, at least two. `None` is the bucket of the whole function.
    Own(Vec<Option<Arg<Expr>>>),
    /// `keys = (..)`, a tuple.
    Shared(Arg<Expr>),
}

pub(crate) struct Own {
    pub(crate) name: Option<Name>,
    /// At least one.
    pub(crate) limits: Vec<Limit>,
    pub(crate) backend: Option<Backend>,
    pub(crate) on_backend_error: Option<OnBackendError>,
    /// Initial and maximum, in nanoseconds.
    pub(crate) backoff: Option<(u64, u64)>,
    pub(crate) dry_run: bool,
}

pub(crate) enum Name {
    Literal(String),
    /// An expression whose value is known at compile time.
    Constant(Box<Arg<Expr>>),
}

pub(crate) struct Limit {
    pub(crate) count: Permits,
    pub(crate) per: Per,
    pub(crate) algorithm: Algorithm,
    pub(crate) burst: Option<Permits>,
    /// The index of its key, if limits have different keys.
    pub(crate) key: usize,
}

/// A number of permits.
pub(crate) enum Permits {
    Literal(u32),
    /// An `UPPER_CASE` path, checked by the compiler.
    Constant(Arg<ExprPath>),
    /// Read at each call.
    Read(Arg<Expr>),
}

pub(crate) struct Cost {
    pub(crate) name: Ident,
    pub(crate) permits: Permits,
}

pub(crate) enum Per {
    /// The nanoseconds, and the text as written.
    Literal(u64, String),
    Constant(Arg<ExprPath>),
    Read(Arg<Expr>),
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Algorithm {
    SlidingWindow,
    TokenBucket,
    FixedWindow,
}

pub(crate) enum Backend {
    Memory,
    Redis,
    Made(Arg<Expr>),
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum OnBackendError {
    Local,
    Allow,
    Deny,
}

pub(crate) struct Waiting {
    pub(crate) bound: Wait,
    /// The most calls of one key that may wait.
    pub(crate) queue: Option<u32>,
    pub(crate) priority: Option<Arg<Expr>>,
    /// Waits for several keys in turn, and through a backend only for a few.
    pub(crate) gives_up: bool,
}

impl Waiting {
    /// Whether a call waits for any length of time, behind any number of others.
    pub(crate) fn is_unbounded(&self) -> bool {
        matches!(self.bound, Wait::Forever) && self.queue.is_none()
    }
}

#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Wait {
    Forever,
    /// The nanoseconds, and the text as written.
    AtMost(u64, String),
}

/// What a denied call returns.
pub(crate) enum Denial {
    /// No call can be denied.
    Never,
    /// The return type carries the error.
    Returned,
    /// The return type and the error are both turned into a response by a web framework.
    Response,
    OrElse(Box<Arg<Expr>>),
}

impl Limit {
    /// The most permits that one call can take.
    pub(crate) fn capacity(&self) -> &Permits {
        self.burst.as_ref().unwrap_or(&self.count)
    }
}
