//! The attribute on its function, validated: what the expansion is made from. Nothing in it can be missing or contradict
//! something else.

use proc_macro2::{Ident, Span};
use quote::ToTokens;
use syn::{Expr, ExprPath, Lit, UnOp};

use crate::args::{Arg, Args, BackoffArgs, LimitArgs, bare};
use crate::diagnostics::Diagnostics;
use crate::duration;
use crate::item::{Item, value_among};
use crate::shape::{Body, NoAsyncBlock, Returns, Shape};
use crate::suggest::nearest;

/// As many limits as a limiter holds.
const MAX_LIMITS: usize = 8;

/// What the runtime was built with.
#[derive(Clone, Copy)]
pub(crate) struct Features {
    pub(crate) redis: bool,
    pub(crate) tokio: bool,
    /// A web framework's responses.
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
    pub(crate) cost: Option<Cost>,
    pub(crate) wait: Option<Wait>,
    pub(crate) denial: Denial,
    pub(crate) exempt_when: Option<Arg<Expr>>,
    pub(crate) deduct_when: Option<Arg<Expr>>,
    pub(crate) shape: Shape,
    /// First, second, .. attribute on the function, from below.
    pub(crate) ordinal: u32,
}

pub(crate) enum Limiter {
    /// A static of the function's own.
    Own(Box<Own>),
    /// `limiter = ..`
    Shared(Arg<Expr>),
}

pub(crate) struct Own {
    pub(crate) name: Option<String>,
    /// At least one.
    pub(crate) limits: Vec<Limit>,
    pub(crate) backend: Option<Backend>,
    pub(crate) on_backend_error: Option<OnBackendError>,
    /// Nanoseconds: initial, max.
    pub(crate) backoff: Option<(u64, u64)>,
    pub(crate) dry_run: bool,
}

pub(crate) struct Limit {
    pub(crate) count: Permits,
    pub(crate) per: Per,
    pub(crate) algorithm: Algorithm,
    pub(crate) burst: Option<Permits>,
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
    /// Nanoseconds, and how they were written.
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

#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Wait {
    Forever,
    /// Nanoseconds, and how they were written.
    AtMost(u64, String),
}

/// What becomes of a denied call.
pub(crate) enum Denial {
    /// There is none.
    Never,
    /// The return type carries the error.
    Returned,
    /// The return type is what a web framework makes a response of, and so is the error.
    Response,
    OrElse(Box<Arg<Expr>>),
}

impl Model {
    /// Checks everything and reports all that is wrong. `None` only if something was reported.
    pub(crate) fn validate(args: Args, item: &Item, features: Features, errors: &mut Diagnostics) -> Option<Model> {
        if let Some(token) = &item.sig.constness {
            let message = "a `const fn` cannot be limited: it has no state and no clock at compile time; remove `const`, or \
                           limit the function that calls it";
            errors.at(token.span, message);
        }
        let shape = match Shape::of(item) {
            Ok(shape) => Some(shape),
            Err(NoAsyncBlock(ty)) => {
                let message = "the function returns a future, and the limit is checked when that is first polled: end the body with \
                               `async move { .. }` or `Box::pin(async move { .. })`, or write an `async fn`";
                errors.over(ty, message);
                None
            }
        };

        if let Some(Shape { body: Body::Future(trailing), .. }) = &shape {
            refuse_unbound_names(&args, &item.bound_by_async_trait(&trailing.block), errors);
        }

        let runtime = args.runtime.as_ref().and_then(|arg| runtime(arg, errors));
        let cost = args.cost.as_ref().and_then(|arg| cost(arg, errors));
        let wait = args.wait.as_ref().and_then(|arg| wait(arg, shape.as_ref(), features, errors));
        let limiter = match &args.limiter {
            Some(shared) => {
                refuse_beside_limiter(&args, errors);
                Some(Limiter::Shared(copy(shared)))
            }
            None => own(&args, item, features, errors).map(|own| Limiter::Own(Box::new(own))),
        };
        if let (Some(Limiter::Own(own)), Some(cost), Some(arg)) = (&limiter, &cost, &args.cost) {
            check_cost(own, cost, arg, errors);
        }
        let denial = denial(&args, limiter.as_ref(), cost.as_ref(), wait.as_ref(), shape.as_ref(), features, errors);
        if let (Some(shape), Some(arg)) = (&shape, &args.deduct_when)
            && matches!(shape.returns, Returns::Never(_))
        {
            errors.at(arg.name.span(), "a function that never returns has no outcome for `deduct_when`: leave it out");
        }
        Some(Model {
            runtime,
            limiter: limiter?,
            key: args.key,
            cost,
            wait,
            denial,
            exempt_when: args.exempt_when,
            deduct_when: args.deduct_when,
            shape: shape?,
            ordinal: u32::try_from(item.limits_to_come()).unwrap_or(u32::MAX).saturating_add(1),
        })
    }
}

/// `#[async_trait]` takes patterns apart behind the place where the limit is checked.
fn refuse_unbound_names(args: &Args, names: &[String], errors: &mut Diagnostics) {
    let limits = std::iter::once(&args.limit).chain(args.limits.iter().map(|arg| &arg.value));
    let read = limits.flat_map(|limit| [&limit.count, &limit.per]);
    let other = [&args.exempt_when, &args.cost, &args.key, &args.limiter, &args.or_else];
    for arg in read.chain(other).flatten() {
        if let Some(name) = value_among(arg.value.to_token_stream(), names) {
            let message = format!(
                "`{name}` is part of a pattern, which `#[async_trait]` takes apart only behind the check: give the argument a name, and \
                 take it apart in the body"
            );
            errors.at(name.span(), message);
        }
    }
}

/// `limiter = ..` brings limits, name, backend and all that belongs to them. One mistake, however many there are.
fn refuse_beside_limiter(args: &Args, errors: &mut Diagnostics) {
    let limit = &args.limit;
    let excluded: Vec<&Ident> = [
        limit.count.as_ref().map(|arg| &arg.name),
        limit.per.as_ref().map(|arg| &arg.name),
        limit.algorithm.as_ref().map(|arg| &arg.name),
        limit.burst.as_ref().map(|arg| &arg.name),
        args.limits.first().map(|arg| &arg.name),
        args.name.as_ref().map(|arg| &arg.name),
        args.backend.as_ref().map(|arg| &arg.name),
        args.backoff.as_ref().map(|arg| &arg.name),
        args.on_backend_error.as_ref().map(|arg| &arg.name),
        args.dry_run.as_ref().map(|arg| &arg.name),
    ]
    .into_iter()
    .flatten()
    .collect();
    if let Some(first) = excluded.first() {
        let names = names(&excluded);
        errors.at(first.span(), format!("`limiter` has its own {names}: remove {names} here, or `limiter`"));
    }
}

fn own(args: &Args, item: &Item, features: Features, errors: &mut Diagnostics) -> Option<Own> {
    let limits = limits(args, errors);
    let name = args.name.as_ref().and_then(|arg| name(arg, errors));
    let backend = args.backend.as_ref().and_then(|arg| backend(arg, item, features, errors));
    let on_backend_error = args.on_backend_error.as_ref().and_then(|arg| on_backend_error(arg, errors));
    let backoff = args.backoff.as_ref().and_then(|arg| backoff(arg, errors));
    Some(Own { name, limits: limits?, backend, on_backend_error, backoff, dry_run: args.dry_run.is_some() })
}

fn limits(args: &Args, errors: &mut Diagnostics) -> Option<Vec<Limit>> {
    if args.limits.is_empty() {
        if args.unread.may_be("limit") || args.unread.may_be("limiter") {
            return None;
        }
        return limit(&args.limit, None, &args.unread, errors).map(|limit| vec![limit]);
    }
    let top = &args.limit;
    let excluded: Vec<&Ident> =
        [&top.count, &top.per, &top.algorithm, &top.burst].into_iter().flatten().map(|arg| &arg.name).collect();
    if let Some(first) = excluded.first() {
        let names = names(&excluded);
        errors.at(first.span(), format!("{names} beside `limit(..)`: write {names} inside of each `limit(..)`"));
    }
    if let Some(excess) = args.limits.get(MAX_LIMITS) {
        let message = format!(
            "a limiter holds at most {MAX_LIMITS} limits, and this is one more: leave out what another implies"
        );
        errors.at(excess.name.span(), message);
    }
    let limits: Vec<Option<Limit>> =
        args.limits.iter().map(|arg| limit(&arg.value, Some(&arg.name), &arg.value.unread, errors)).collect();
    limits.into_iter().collect()
}

/// One limit: of `limit(..)`, whose name is `of`, or of the attribute itself.
fn limit(
    args: &LimitArgs,
    of: Option<&Ident>,
    unread: &crate::args::Unread,
    errors: &mut Diagnostics,
) -> Option<Limit> {
    let place = match of {
        Some(_) => "`limit(..)`",
        None => "`#[rate_limit]`",
    };
    let span = of.map_or_else(Span::call_site, Ident::span);
    let has = |arg: &Option<Arg<Expr>>, name: &str| arg.is_some() || unread.may_be(name);
    match (has(&args.count, "count"), has(&args.per, "per")) {
        (true, true) => {}
        (false, false) => {
            errors.at(span, format!("{place} needs a `count` and a `per`: write `count = 100, per = \"1s\"`"));
        }
        (true, false) => {
            let span = args.count.as_ref().map_or(span, |arg| arg.name.span());
            errors.at(span, "a `count` needs the time in which it is allowed: add `per = \"1s\"`");
        }
        (false, true) => {
            let span = args.per.as_ref().map_or(span, |arg| arg.name.span());
            errors.at(span, "a `per` needs the number of calls that it allows: add `count = 100`");
        }
    }
    let algorithm = match &args.algorithm {
        Some(arg) => algorithm(arg, errors),
        None => Some(Algorithm::SlidingWindow),
    };
    let burst = args.burst.as_ref().and_then(|arg| {
        match algorithm {
            Some(Algorithm::TokenBucket) | None => {}
            Some(_) if unread.may_be("algorithm") => {}
            Some(_) => {
                let message = "only a token bucket has a `burst`: add `algorithm = token_bucket`, or leave `burst` out";
                errors.at(arg.name.span(), message);
                return None;
            }
        }
        let burst = permits(arg, true, errors)?;
        if let Permits::Read(arg) = &burst {
            let message = "`burst` is the fixed size of the bucket: write a number or an `UPPER_CASE` constant";
            errors.over(&arg.value, message);
            return None;
        }
        Some(burst)
    });
    let count = args.count.as_ref().and_then(|arg| permits(arg, true, errors));
    let per = args.per.as_ref().and_then(|arg| per(arg, errors));
    Some(Limit { count: count?, per: per?, algorithm: algorithm?, burst })
}

/// `count`, `burst`, `cost`.
fn permits(arg: &Arg<Expr>, at_least_one: bool, errors: &mut Diagnostics) -> Option<Permits> {
    let Arg { name, value } = arg;
    match bare(value) {
        Expr::Lit(literal) => match &literal.lit {
            Lit::Int(number) => {
                if !matches!(number.suffix(), "" | "u32") {
                    let digits = number.base10_digits();
                    errors.at(
                        number.span(),
                        format!("`{name}` is a `u32`, not a `{}`: write `{digits}`", number.suffix()),
                    );
                    return None;
                }
                match number.base10_parse::<u32>() {
                    Ok(0) if at_least_one => errors.at(number.span(), zero(name)),
                    Ok(permits) => return Some(Permits::Literal(permits)),
                    Err(_) => errors.at(number.span(), format!("`{name}` is too large: the largest is {}", u32::MAX)),
                }
            }
            Lit::Str(text) => {
                let meant = text.value();
                let number = meant.trim().parse::<u32>().unwrap_or(100);
                errors.at(text.span(), format!("`{name}` is a number, without quotes: write `{name} = {number}`"));
            }
            Lit::Float(number) => errors.at(number.span(), format!("`{name}` is a whole number: write `{name} = 10`")),
            other => errors.at(other.span(), format!("`{name}` is a whole number: write `{name} = 10`")),
        },
        Expr::Unary(unary) if is_negative_number(unary) => {
            let from = if at_least_one { "1" } else { "0" };
            errors.over(value, format!("`{name}` is a number from {from} to {}", u32::MAX));
        }
        Expr::Path(path) if is_constant(path) => {
            return Some(Permits::Constant(Arg { name: name.clone(), value: path.clone() }));
        }
        _ => return Some(Permits::Read(copy(arg))),
    }
    None
}

fn is_negative_number(unary: &syn::ExprUnary) -> bool {
    matches!(unary.op, UnOp::Neg(_)) && matches!(bare(&unary.expr), Expr::Lit(_))
}

fn zero(name: &Ident) -> String {
    if name == "burst" {
        "a `burst` of 0 would deny every call: it is at least 1".to_owned()
    } else {
        format!("a `{name}` of 0 would deny every call: it is at least 1")
    }
}

/// A path whose last name is in upper case: a constant, an associated one, or a const generic.
fn is_constant(path: &ExprPath) -> bool {
    let Some(last) = path.path.segments.last() else {
        return false;
    };
    let name = last.ident.to_string();
    last.arguments.is_none()
        && name.contains(|letter: char| letter.is_ascii_uppercase())
        && !name.contains(|letter: char| letter.is_lowercase())
}

fn per(arg: &Arg<Expr>, errors: &mut Diagnostics) -> Option<Per> {
    let Arg { name, value } = arg;
    match bare(value) {
        Expr::Lit(_) | Expr::Unary(_) => match literal_duration(name, value, errors) {
            Literal::Duration(nanos, text) => Some(Per::Literal(nanos, text)),
            Literal::Mistake => None,
            Literal::None => Some(Per::Read(copy(arg))),
        },
        Expr::Path(path) if is_constant(path) => Some(Per::Constant(Arg { name: name.clone(), value: path.clone() })),
        _ => Some(Per::Read(copy(arg))),
    }
}

enum Literal {
    Duration(u64, String),
    /// Reported.
    Mistake,
    /// No literal.
    None,
}

fn literal_duration(name: &Ident, value: &Expr, errors: &mut Diagnostics) -> Literal {
    match bare(value) {
        Expr::Lit(literal) => match &literal.lit {
            Lit::Str(text) => match duration::parse(&text.value()) {
                Ok(nanos) => return Literal::Duration(nanos, text.value().trim().to_owned()),
                Err(mistake) => errors.at(text.span(), mistake.to_string()),
            },
            Lit::Int(number) => {
                let written = number.to_string();
                // `1s` is an integer literal with a suffix to the compiler.
                let meant = if duration::parse(&written).is_ok() {
                    written.clone()
                } else {
                    format!("{}s", number.base10_digits())
                };
                let message =
                    format!("`{written}` is no duration: write it in quotes with its unit, `{name} = \"{meant}\"`");
                errors.at(number.span(), message);
            }
            other => errors.at(other.span(), format!("`{name}` is a duration in quotes: write `{name} = \"1s\"`")),
        },
        Expr::Unary(unary) if is_negative_number(unary) => {
            errors.over(value, format!("`{name}` is a duration in quotes: write `{name} = \"1s\"`"));
        }
        _ => return Literal::None,
    }
    Literal::Mistake
}

/// A duration that must be a literal.
fn fixed_duration(arg: &Arg<Expr>, example: &str, errors: &mut Diagnostics) -> Option<(u64, String)> {
    match literal_duration(&arg.name, &arg.value, errors) {
        Literal::Duration(nanos, text) => Some((nanos, text)),
        Literal::Mistake => None,
        Literal::None => {
            errors.over(&arg.value, format!("`{}` takes a duration in quotes: write `{example}`", arg.name));
            None
        }
    }
}

/// A value that is one of a few words. `Err` if it is no word at all.
fn word(value: &Expr) -> Result<&Ident, &Expr> {
    match bare(value) {
        Expr::Path(path) => path.path.get_ident().ok_or(value),
        _ => Err(value),
    }
}

const ALGORITHMS: &[&str] = &["sliding_window", "token_bucket", "fixed_window"];

fn algorithm(arg: &Arg<Expr>, errors: &mut Diagnostics) -> Option<Algorithm> {
    let choices = "`sliding_window`, `token_bucket` or `fixed_window`";
    let written = match word(&arg.value) {
        Ok(word) => word.to_string(),
        Err(value) => {
            let message = match bare(value) {
                Expr::Lit(literal) => match &literal.lit {
                    Lit::Str(text) if ALGORITHMS.contains(&text.value().as_str()) => {
                        format!("an algorithm is written without quotes: `algorithm = {}`", text.value())
                    }
                    _ => format!("unknown algorithm: write {choices}"),
                },
                Expr::Path(path) => {
                    let last = path.path.segments.last().map(|segment| snake_case(&segment.ident.to_string()));
                    match last.and_then(|last| nearest(&last, ALGORITHMS)) {
                        Some(meant) => format!("an algorithm is written by its name: `algorithm = {meant}`"),
                        None => format!("unknown algorithm: write {choices}"),
                    }
                }
                _ => format!("unknown algorithm: write {choices}"),
            };
            errors.over(value, message);
            return None;
        }
    };
    let message = match written.as_str() {
        "sliding_window" => return Some(Algorithm::SlidingWindow),
        "token_bucket" => return Some(Algorithm::TokenBucket),
        "fixed_window" => return Some(Algorithm::FixedWindow),
        "gcra" | "GCRA" | "Gcra" => "`gcra` is how the token bucket is computed here: write `token_bucket`".to_owned(),
        "leaky_bucket" | "LeakyBucket" => {
            "`leaky_bucket` is the same limit as a token bucket, seen from the other side: write `token_bucket`, with `wait` for a \
             bucket that delays"
                .to_owned()
        }
        "sliding_log" | "sliding_window_log" | "log" => {
            format!("`{written}` is what the sliding window does here, it is exact: write `sliding_window`")
        }
        "sliding_window_counter" | "sliding_counter" => {
            format!("`{written}` is an approximation of the sliding window, which is exact here: write `sliding_window`")
        }
        other => {
            let snake = snake_case(other);
            match nearest(&snake, ALGORITHMS) {
                Some(meant) => format!("unknown algorithm `{other}`: did you mean `{meant}`?"),
                None => format!("unknown algorithm `{other}`: write {choices}"),
            }
        }
    };
    errors.over(&arg.value, message);
    None
}

/// `TokenBucket` as `token_bucket`.
fn snake_case(name: &str) -> String {
    let mut snake = String::new();
    for letter in name.chars() {
        if letter.is_ascii_uppercase() && !snake.is_empty() && !snake.ends_with('_') {
            snake.push('_');
        }
        snake.push(letter.to_ascii_lowercase());
    }
    snake
}

fn name(arg: &Arg<Expr>, errors: &mut Diagnostics) -> Option<String> {
    if let Expr::Lit(literal) = bare(&arg.value)
        && let Lit::Str(text) = &literal.lit
    {
        if text.value().trim().is_empty() {
            errors.at(text.span(), "the name is empty: write what the limit is called in errors, logs and the backend");
            return None;
        }
        return Some(text.value());
    }
    errors.over(&arg.value, "`name` is a string literal: write `name = \"api\"`");
    None
}

fn backend(arg: &Arg<Expr>, item: &Item, features: Features, errors: &mut Diagnostics) -> Option<Backend> {
    let Ok(word) = word(&arg.value) else {
        if let Expr::Lit(literal) = bare(&arg.value) {
            let written = match &literal.lit {
                Lit::Str(text) => text.value(),
                _ => String::new(),
            };
            let message = match written.as_str() {
                "memory" | "redis" => format!("a backend is written without quotes: `backend = {written}`"),
                _ => "a literal is no backend: write `memory`, `redis`, or an expression that makes one".to_owned(),
            };
            errors.over(&arg.value, message);
            return None;
        }
        return made(arg, item, errors);
    };
    if word == "memory" {
        return Some(Backend::Memory);
    }
    if word == "redis" {
        if features.redis {
            return Some(Backend::Redis);
        }
        let message = "`backend = redis` needs the feature `redis` of `ratelimit-runtime`: enable it in Cargo.toml";
        errors.at(word.span(), message);
        return None;
    }
    let written = word.to_string();
    match nearest(&written, &["memory", "redis"]) {
        // Another name is a constant or a variable.
        Some(meant) if !written.starts_with(|letter: char| letter.is_ascii_uppercase()) => {
            errors.at(word.span(), format!("unknown backend `{written}`: did you mean `{meant}`?"));
            None
        }
        _ => made(arg, item, errors),
    }
}

/// An expression for a backend, which the arguments of a call cannot be part of.
fn made(arg: &Arg<Expr>, item: &Item, errors: &mut Diagnostics) -> Option<Backend> {
    let Some(argument) = item.argument_in(arg.value.to_token_stream()) else {
        return Some(Backend::Made(copy(arg)));
    };
    let message = format!(
        "`backend` is made once, at the first call, and cannot depend on `{argument}`: write `limiter = ..` for a limiter that \
         does"
    );
    errors.at(argument.span(), message);
    None
}

fn on_backend_error(arg: &Arg<Expr>, errors: &mut Diagnostics) -> Option<OnBackendError> {
    let known = ["local", "allow", "deny"];
    let message = match word(&arg.value).map(ToString::to_string).as_deref() {
        Ok("local") => return Some(OnBackendError::Local),
        Ok("allow") => return Some(OnBackendError::Allow),
        Ok("deny") => return Some(OnBackendError::Deny),
        Ok(other) => match nearest(other, &known) {
            Some(meant) => format!("unknown policy `{other}`: did you mean `{meant}`?"),
            None => format!("unknown policy `{other}`: write `local`, `allow` or `deny`"),
        },
        Err(_) => "`on_backend_error` is `local`, `allow` or `deny`, without quotes".to_owned(),
    };
    errors.over(&arg.value, message);
    None
}

fn backoff(arg: &Arg<BackoffArgs>, errors: &mut Diagnostics) -> Option<(u64, u64)> {
    let BackoffArgs { initial, max, unread } = &arg.value;
    let example = "backoff(initial = \"1s\", max = \"1h\")";
    let is_missing = |arg: &Option<Arg<Expr>>, name: &str| arg.is_none() && !unread.may_be(name);
    let missing = match (is_missing(initial, "initial"), is_missing(max, "max")) {
        (true, true) => Some("an `initial` and a `max`"),
        (true, false) => Some("an `initial`"),
        (false, true) => Some("a `max`"),
        (false, false) => None,
    };
    if let Some(missing) = missing {
        errors.at(arg.name.span(), format!("`backoff` needs {missing}: write `{example}`"));
    }
    let initial_nanos = initial.as_ref().and_then(|arg| fixed_duration(arg, example, errors));
    let max_nanos = max.as_ref().and_then(|arg| fixed_duration(arg, example, errors));
    let ((initial_nanos, _), (max_nanos, _)) = (initial_nanos?, max_nanos?);
    if initial_nanos > max_nanos {
        if let Some(max) = max {
            errors.over(&max.value, "`max` is shorter than `initial`: a block grows from `initial` to `max`");
        }
        return None;
    }
    Some((initial_nanos, max_nanos))
}

fn wait(arg: &Arg<Option<Expr>>, shape: Option<&Shape>, features: Features, errors: &mut Diagnostics) -> Option<Wait> {
    if !features.tokio && shape.is_some_and(Shape::is_async) {
        let message =
            "`wait` in an async function needs the feature `tokio` of `ratelimit-runtime`: enable it in Cargo.toml";
        errors.at(arg.name.span(), message);
    }
    let Some(value) = &arg.value else {
        return Some(Wait::Forever);
    };
    if let Expr::Lit(literal) = bare(value)
        && let Lit::Bool(_) = &literal.lit
    {
        let message = "`wait` takes no `bool`: write `wait` to wait as long as it takes, `wait = \"2s\"` to wait at most so long, \
                           or leave it out";
        errors.over(value, message);
        return None;
    }
    let arg = Arg { name: arg.name.clone(), value: value.clone() };
    fixed_duration(&arg, "wait = \"2s\"", errors).map(|(nanos, text)| Wait::AtMost(nanos, text))
}

fn runtime(arg: &Arg<Expr>, errors: &mut Diagnostics) -> Option<ExprPath> {
    let message = match bare(&arg.value) {
        Expr::Path(path)
            if path.qself.is_none() && path.path.segments.iter().all(|segment| segment.arguments.is_none()) =>
        {
            return Some(path.clone());
        }
        Expr::Lit(literal) => match &literal.lit {
            Lit::Str(text) => format!("`crate` is a path, without quotes: write `crate = {}`", text.value()),
            _ => "`crate` is the path to the runtime: write `crate = path::to::ratelimit_runtime`".to_owned(),
        },
        _ => "`crate` is the path to the runtime: write `crate = path::to::ratelimit_runtime`".to_owned(),
    };
    errors.over(&arg.value, message);
    None
}

fn cost(arg: &Arg<Expr>, errors: &mut Diagnostics) -> Option<Cost> {
    permits(arg, false, errors).map(|permits| Cost { name: arg.name.clone(), permits })
}

/// A literal cost that never fits.
fn check_cost(own: &Own, cost: &Cost, arg: &Arg<Expr>, errors: &mut Diagnostics) {
    let Permits::Literal(cost) = cost.permits else {
        return;
    };
    let capacities = own.limits.iter().filter_map(|limit| match (limit.capacity(), &limit.burst) {
        (Permits::Literal(capacity), Some(_)) => Some((*capacity, "burst")),
        (Permits::Literal(capacity), None) => Some((*capacity, "count")),
        _ => None,
    });
    if let Some((capacity, of)) = capacities.min_by_key(|(capacity, _)| *capacity)
        && cost > capacity
    {
        let message =
            format!("a call that costs {cost} never fits into a `{of}` of {capacity}: lower `cost` or raise `{of}`");
        errors.over(&arg.value, message);
    }
}

impl Limit {
    /// The most permits that one call can take.
    pub(crate) fn capacity(&self) -> &Permits {
        self.burst.as_ref().unwrap_or(&self.count)
    }
}

/// Whether a call can be denied, and what it returns then.
fn denial(
    args: &Args,
    limiter: Option<&Limiter>,
    cost: Option<&Cost>,
    wait: Option<&Wait>,
    shape: Option<&Shape>,
    features: Features,
    errors: &mut Diagnostics,
) -> Denial {
    // A `wait` whose time could not be read is one with a time.
    let unbounded = matches!(wait, Some(Wait::Forever));
    if unbounded {
        refuse_beside_unbounded_wait(args, limiter, cost, errors);
    }
    if let Some(or_else) = &args.or_else {
        if unbounded && never_denied(limiter, cost) == Certainty::Sure {
            let message = "an unbounded `wait` is never denied, so `or_else` is never called: remove one of them, or write \
                           `wait = \"2s\"`";
            errors.at(or_else.name.span(), message);
        }
        return Denial::OrElse(Box::new(copy(or_else)));
    }
    if unbounded && never_denied(limiter, cost) != Certainty::No {
        return Denial::Never;
    }
    // Whoever tried to write an `or_else` or a `wait` needs no second lecture.
    if args.unread.may_be("or_else") || args.unread.may_be("wait") || (args.wait.is_some() && wait.is_none()) {
        return Denial::Returned;
    }
    match shape.map(|shape| &shape.returns) {
        Some(Returns::Impl(_, name)) if features.responses && is_response(name) => return Denial::Response,
        Some(returns) => check_return_type(returns, errors),
        None => {}
    }
    Denial::Returned
}

/// Whether a web framework makes responses of values of this trait.
fn is_response(name: &str) -> bool {
    name == "IntoResponse" || name == "Responder"
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Certainty {
    No,
    /// As far as constants that the compiler checks, or a limiter from elsewhere, can be known.
    Likely,
    Sure,
}

/// Whether a call that waits as long as it takes always gets its permits.
fn never_denied(limiter: Option<&Limiter>, cost: Option<&Cost>) -> Certainty {
    let of = |permits: &Permits| match permits {
        Permits::Literal(_) => Certainty::Sure,
        Permits::Constant(_) => Certainty::Likely,
        Permits::Read(_) => Certainty::No,
    };
    let cost_fits = match (cost.map(|cost| &cost.permits), limiter) {
        (None, _) => Certainty::Sure,
        (Some(Permits::Literal(2..)), Some(Limiter::Shared(_))) => Certainty::No,
        (Some(permits), _) => of(permits),
    };
    let limits = match limiter {
        Some(Limiter::Own(own)) => {
            own.limits.iter().flat_map(|limit| [of(&limit.count), of(limit.capacity())]).min_by_key(|it| *it as u8)
        }
        Some(Limiter::Shared(_)) | None => Some(Certainty::Likely),
    };
    let limits = limits.unwrap_or(Certainty::Likely);
    if (limits as u8) < (cost_fits as u8) { limits } else { cost_fits }
}

fn refuse_beside_unbounded_wait(args: &Args, limiter: Option<&Limiter>, cost: Option<&Cost>, errors: &mut Diagnostics) {
    if let (Some(Limiter::Own(own)), Some(arg)) = (limiter, &args.on_backend_error)
        && own.on_backend_error == Some(OnBackendError::Deny)
    {
        let message = "`deny` would deny a call that an unbounded `wait` promises to admit: write `local` or `allow`, or \
                           `wait = \"2s\"`";
        errors.over(&arg.value, message);
    }
    if let Some(arg) = &args.backoff
        && never_denied(limiter, cost) == Certainty::Sure
    {
        let message = "an unbounded `wait` is never denied, so nothing is ever blocked by `backoff`: remove one of them, or write \
                           `wait = \"2s\"`";
        errors.at(arg.name.span(), message);
    }
}

/// What the macro can see of a return type that cannot carry the error; the compiler sees the rest.
fn check_return_type(returns: &Returns, errors: &mut Diagnostics) {
    let ways_out = "return a `Result` whose error is `From<RateLimitExceeded>`, give `or_else = |exceeded| ..`, or let the call \
                    `wait` until it is admitted";
    match returns {
        Returns::Nothing(name) => {
            let message = format!("`{name}` returns nothing, so a denied call cannot say so: {ways_out}");
            errors.at(name.span(), message);
        }
        Returns::Unit(ty) => errors.over(ty, format!("`()` cannot say that a call was denied: {ways_out}")),
        Returns::Never(ty) => {
            errors.over(ty, format!("a function that never returns cannot say that a call was denied: {ways_out}"));
        }
        Returns::Impl(ty, name) if is_response(name) => {
            let feature = if name == "Responder" { "actix-web" } else { "axum" };
            let message = format!(
                "`impl {name}` is answered with a 429 only with the feature `{feature}` of `ratelimit-runtime`: enable it, or \
                 give `or_else = |exceeded| ..` that returns what the body returns"
            );
            errors.over(ty, message);
        }
        Returns::Impl(ty, _) => {
            let written = crate::describe::text(ty.to_token_stream());
            errors.over(ty, format!("`{written}` cannot say that a call was denied: {ways_out}"));
        }
        Returns::Type(_) | Returns::Unknown(_) => {}
    }
}

fn copy(arg: &Arg<Expr>) -> Arg<Expr> {
    Arg { name: arg.name.clone(), value: arg.value.clone() }
}

/// `count`, `per` and `burst` of several arguments.
fn names(arguments: &[&Ident]) -> String {
    let quoted: Vec<String> = arguments.iter().map(|name| format!("`{name}`")).collect();
    match quoted.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, rest)) => format!("{} and {last}", rest.join(", ")),
        None => String::new(),
    }
}
