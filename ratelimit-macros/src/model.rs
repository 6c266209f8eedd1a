//! The validated attribute and its function, from which the expansion is generated. Complete and
//! free of contradictions by construction.

use proc_macro2::Ident;
use syn::{Expr, ExprPath, LitStr};

use crate::arguments::Arg;
use crate::shape::Shape;

/// The words for backends. Each but the first needs a feature of its name, and is in the runtime's
/// `backend::environments`.
pub(crate) const BACKENDS: [&str; 4] = ["memory", "memcached", "postgres", "redis"];

/// The features of the runtime that matter to the attribute.
#[derive(Clone, Copy)]
pub(crate) struct Features {
    /// Which of [`BACKENDS`] there are.
    pub(crate) backends: [bool; BACKENDS.len()],
    pub(crate) calendar: bool,
    pub(crate) tokio: bool,
    /// A web framework's responses are supported.
    pub(crate) responses: bool,
}

impl Features {
    pub(crate) const ENABLED: Features = Features {
        backends: [true, cfg!(feature = "memcached"), cfg!(feature = "postgres"), cfg!(feature = "redis")],
        calendar: cfg!(feature = "calendar"),
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
    pub(crate) pause_when: Option<Pause>,
    pub(crate) settle: Option<Settle>,
    /// The name that the body uses for the call's permits.
    pub(crate) permit: Option<Ident>,
    pub(crate) shape: Shape,
    /// Whether the function's docs state the limit.
    pub(crate) docs: bool,
    /// Counts the attributes on the function, from below.
    pub(crate) ordinal: u32,
}

pub(crate) struct Settle {
    /// From the outcome to what the call really cost.
    pub(crate) actual: Arg<Expr>,
    /// Whether the call does not wait for the settlement.
    pub(crate) is_later: bool,
}

impl Model {
    /// The argument that inspects what the body returns, if there is one.
    pub(crate) fn looks_at_outcome(&self) -> Option<&Arg<Expr>> {
        let settle = self.settle.as_ref().map(|settle| &settle.actual);
        self.deduct_when.as_ref().or(settle).or(self.pause_when.as_ref().map(|pause| &pause.when))
    }

    /// Whether the permits of a call may come back, or more be charged.
    pub(crate) fn settles(&self) -> bool {
        self.deduct_when.is_some() || self.settle.is_some() || self.permit.is_some()
    }

    /// Whether each call takes one permit of one limit, at once or not at all, and keeps it, and no
    /// other limiter shares the bucket.
    pub(crate) fn takes_one_permit(&self, own: &Own) -> bool {
        let is_one = own.limits.len() == 1 && self.keys.is_none() && self.cost.is_none();
        let is_kept = self.wait.is_none() && !self.holds() && own.penalty.is_none() && !own.dry_run;
        is_one && is_kept && own.name.is_none() && own.backend.is_none()
    }

    /// Whether something of the call is held while the body runs.
    pub(crate) fn holds(&self) -> bool {
        self.settles() || self.pause_when.is_some()
    }
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
    pub(crate) penalty: Option<Penalty>,
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
    Calendar(Calendar),
}

/// The windows of a calendar.
pub(crate) struct Calendar {
    pub(crate) unit: CalendarUnit,
    /// The name of a time zone, which the runtime checks.
    pub(crate) zone: Option<LitStr>,
    /// A day of the week, in lower case.
    pub(crate) week_starts: Option<&'static str>,
    pub(crate) starts_on: Option<StartsOn>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum CalendarUnit {
    Day,
    Week,
    Month,
    Year,
}

impl CalendarUnit {
    pub(crate) fn name(self) -> &'static str {
        match self {
            CalendarUnit::Day => "day",
            CalendarUnit::Week => "week",
            CalendarUnit::Month => "month",
            CalendarUnit::Year => "year",
        }
    }
}

/// A day of the month.
pub(crate) enum StartsOn {
    Literal(u8),
    Constant(Arg<ExprPath>),
    /// Read at each call.
    Read(Arg<Expr>),
}

/// The variants are named as in the runtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Algorithm {
    SlidingWindow,
    TokenBucket,
    FixedWindow,
}

impl Algorithm {
    pub(crate) const ALL: [Algorithm; 3] = [Algorithm::SlidingWindow, Algorithm::TokenBucket, Algorithm::FixedWindow];

    /// As it is written in the attribute.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Algorithm::SlidingWindow => "sliding_window",
            Algorithm::TokenBucket => "token_bucket",
            Algorithm::FixedWindow => "fixed_window",
        }
    }

    pub(crate) fn has_burst(self) -> bool {
        self == Algorithm::TokenBucket
    }
}

pub(crate) enum Backend {
    /// One of [`BACKENDS`].
    Named(Ident),
    Made(Arg<Expr>),
}

/// The variants are named as in the runtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OnBackendError {
    Local,
    Allow,
    Deny,
}

/// What a denial does to its key. In nanoseconds.
#[derive(Clone, Copy)]
pub(crate) enum Penalty {
    Backoff { initial: u64, max: u64 },
    Ban(u64),
}

/// `pause_when`, and the longest pause in nanoseconds.
pub(crate) struct Pause {
    pub(crate) when: Arg<Expr>,
    pub(crate) max: u64,
    /// The position of the paused key, if limits have different ones.
    pub(crate) at: Option<usize>,
}

pub(crate) struct Waiting {
    pub(crate) bound: Wait,
    /// The most calls of one key that may wait.
    pub(crate) queue: Option<u32>,
    pub(crate) priority: Option<Arg<Expr>>,
    /// Whether the call waits for several keys in turn, and through a backend at most a few times.
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

    /// Whether a part of it may change from call to call.
    pub(crate) fn varies(&self) -> bool {
        let varies = |permits: &Permits| matches!(permits, Permits::Read(_));
        varies(&self.count)
            || self.burst.as_ref().is_some_and(varies)
            || match &self.per {
                Per::Literal(..) | Per::Constant(_) => false,
                Per::Read(_) => true,
                Per::Calendar(calendar) => matches!(calendar.starts_on, Some(StartsOn::Read(_))),
            }
    }
}
