//! From the attribute as written to the model: all checks, each with its message.

use proc_macro2::{Ident, Span};
use quote::ToTokens;
use syn::{Expr, ExprPath};

use crate::args::bare;
use crate::arguments::{self, Arg, Args, LimitArgs, List as _, Unread};
use crate::denial::denial;
use crate::dependency::{self, Runtime};
use crate::diagnostics::Diagnostics;
use crate::item::{Item, value_among};
use crate::model::{
    Algorithm, Backend, Cost, Denial, Features, Keys, Limit, Limiter, Model, Own, Pause, Penalty, Per, Permits, Settle,
};
use crate::shape::{Body, NoAsyncBlock, Returns, Shape};
use crate::suggest::listed;
use crate::values::{
    algorithm, backend, backoff, ban, calendar, copy, cost, name, on_backend_error, pause_max, per, permit, permits,
    runtime, wait,
};

/// The most limits that a limiter holds.
const MAX_LIMITS: usize = 8;

/// Checks everything and reports all mistakes. Returns `None` only if it reported one.
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
            errors.over(&ty, message);
            None
        }
    };

    if let Some(Shape { body: Body::Future(trailing), .. }) = &shape {
        refuse_unbound_names(&args, &item.bound_by_async_trait(&trailing.block), errors);
    }

    crate::neighbours::refuse(&args, item, errors);
    refuse_by_name(&args, errors);
    let docs = crate::describe::is_wanted(args.docs.as_ref(), errors);
    let runtime = match &args.runtime {
        Some(arg) => runtime(arg, errors),
        None => default_runtime(&args, errors),
    };
    let cost = args.cost.as_ref().and_then(|arg| cost(arg, errors));
    let mut wait = args.wait.as_ref().and_then(|arg| wait(arg, shape.as_ref(), features, errors));
    let mut limiter = match &args.limiter {
        Some(shared) => {
            refuse_beside_limiter(&args, errors);
            Some(Limiter::Shared(copy(shared)))
        }
        None => own(&args, item, features, errors).map(|own| Limiter::Own(Box::new(own))),
    };
    let (key, keys) = keys(&args, &mut limiter, errors);
    if let (Some(wait), Some(_)) = (&mut wait, &keys) {
        let is_memory = matches!(
            &limiter,
            Some(Limiter::Own(own)) if matches!(&own.backend, Some(Backend::Named(word)) if word == "memory")
        );
        wait.gives_up = !is_memory;
    }
    if let (Some(Limiter::Own(own)), Some(cost), Some(arg)) = (&limiter, &cost, &args.cost) {
        check_cost(own, cost, arg, errors);
    }
    let denial = denial(&args, limiter.as_ref(), cost.as_ref(), wait.as_ref(), shape.as_ref(), features, errors);
    let mut looks = [&args.deduct_when, &args.settle, &args.pause_when].into_iter().flatten().peekable();
    if let Some(Shape { body: Body::Blocking(_), .. }) = &shape {
        refuse_track_caller(item, looks.peek().copied(), &denial, errors);
    }
    for arg in looks {
        if let Some(Shape { returns: Returns::Never(_), .. }) = &shape {
            let name = &arg.name;
            errors.at(name.span(), format!("a function that never returns has no outcome for `{name}`: leave it out"));
        }
    }
    let pause_max = pause_max(args.pause_max.as_ref(), errors);
    let pause_at = match (&args.pause_when, &keys) {
        (Some(pause), Some(keys)) => paused_key(pause, args.key.as_ref(), keys, errors),
        _ => None,
    };
    let permit = args.permit.as_ref().and_then(|arg| permit(arg, item, errors));
    Some(Model {
        runtime,
        limiter: limiter?,
        key,
        keys,
        cost,
        wait,
        denial,
        exempt_when: args.exempt_when,
        deduct_when: args.deduct_when,
        pause_when: args.pause_when.zip(pause_max).map(|(when, max)| Pause { when, max, at: pause_at }),
        settle: args.settle.map(|actual| Settle { actual, is_later: args.settle_later.is_some() }),
        permit,
        shape: shape?,
        docs,
        ordinal: u32::try_from(item.limits_to_come()).unwrap_or(u32::MAX).saturating_add(1),
    })
}

/// Refuses arguments that exclude each other, or that need another one.
fn refuse_by_name(args: &Args, errors: &mut Diagnostics) {
    let mut refused: Vec<&str> = Vec::new();
    for (first, second, message) in arguments::EXCLUSIVE {
        if let (Some(_), Some(at)) = (args.given(first), args.given(second))
            && !refused.contains(first)
            && !refused.contains(second)
        {
            errors.at(at.span(), *message);
            refused.push(second);
        }
    }
    for (name, needed, message) in arguments::NEEDS {
        if let (Some(at), None) = (args.given(name), args.given(needed))
            && !refused.contains(name)
            && !args.unread.may_be(needed)
        {
            errors.at(at.span(), *message);
        }
    }
}

/// Refuses `#[track_caller]` if the body is wrapped in a closure: `Location::caller()` would be the
/// closure's.
fn refuse_track_caller(item: &Item, looks_at_outcome: Option<&Arg<Expr>>, denial: &Denial, errors: &mut Diagnostics) {
    let Some(track_caller) = item.track_caller() else {
        return;
    };
    let reason = match (looks_at_outcome, denial) {
        (Some(arg), _) => format!("`{}` looks at what the body returns", arg.name),
        (None, Denial::Response) => "a denied call returns another response than the body's".to_owned(),
        _ => return,
    };
    let message = format!(
        "`#[track_caller]` has no effect here: {reason}, so the body runs in a closure and does not see the caller; \
         move the body into a function of its own and pass it `Location::caller()`"
    );
    errors.at(track_caller.span(), message);
}

/// The runtime's name in the surrounding crate; `None` for `::ratelimit_runtime`.
fn default_runtime(args: &Args, errors: &mut Diagnostics) -> Option<ExprPath> {
    match dependency::runtime() {
        Runtime::Usual => None,
        Runtime::Renamed(name) => syn::parse_str(&format!("::{name}")).ok(),
        Runtime::Absent => {
            if !args.unread.may_be("crate") {
                let message = "this crate has no dependency `ratelimit_runtime`: add it, or say where it is re-exported, as in \
                               `crate = facade::ratelimit_runtime`";
                errors.at(Span::call_site(), message);
            }
            None
        }
    }
}

/// Refuses names that `#[async_trait]` binds only after the limit is checked, because they come
/// from patterns.
fn refuse_unbound_names(args: &Args, names: &[String], errors: &mut Diagnostics) {
    if names.is_empty() {
        return;
    }
    let mut read = vec![&args.exempt_when, &args.cost, &args.key, &args.keys, &args.limiter, &args.or_else];
    read.extend([&args.limit.count, &args.limit.per, &args.limit.starts_on]);
    read.extend(args.wait.as_ref().map(|wait| &wait.value.priority));
    for limit in &args.limits {
        read.extend([&limit.value.count, &limit.value.per, &limit.value.starts_on, &limit.value.key]);
    }
    for arg in read {
        let Some(arg) = arg else { continue };
        if let Some(name) = value_among(arg.value.to_token_stream(), names) {
            let message = format!(
                "`{name}` is part of a pattern, which `#[async_trait]` takes apart only behind the check: give the argument a name, and \
                 take it apart in the body"
            );
            errors.at(name.span(), message);
        }
    }
}

/// Refuses limits, name, backend and related arguments beside `limiter = ..`. All of them are one
/// mistake.
fn refuse_beside_limiter(args: &Args, errors: &mut Diagnostics) {
    let mut excluded = of_limit(&args.limit);
    excluded.extend(arguments::OF_LIMITER.iter().filter_map(|name| args.given(name)));
    if let Some(first) = excluded.first() {
        let names = names(&excluded);
        errors.at(first.span(), format!("`limiter` has its own {names}: remove {names} here, or `limiter`"));
    }
}

fn own(args: &Args, item: &Item, features: Features, errors: &mut Diagnostics) -> Option<Own> {
    let limits = limits(args, features, errors);
    let name = args.name.as_ref().and_then(|arg| name(arg, errors));
    let backend = args.backend.as_ref().and_then(|arg| backend(arg, item, features, errors));
    let on_backend_error = args.on_backend_error.as_ref().and_then(|arg| on_backend_error(arg, errors));
    let backoff = args.backoff.as_ref().and_then(|arg| backoff(arg, errors));
    let ban = args.ban.as_ref().and_then(|arg| ban(arg, errors));
    let backoff = backoff.map(|(initial, max)| Penalty::Backoff { initial, max });
    let penalty = backoff.or(ban.map(Penalty::Ban));
    Some(Own { name, limits: limits?, backend, on_backend_error, penalty, dry_run: args.dry_run.is_some() })
}

fn limits(args: &Args, features: Features, errors: &mut Diagnostics) -> Option<Vec<Limit>> {
    if args.limits.is_empty() {
        if args.unread.may_be("limit") || args.unread.may_be("limiter") {
            return None;
        }
        return limit(&args.limit, None, &args.unread, features, errors).map(|limit| vec![limit]);
    }
    let excluded = of_limit(&args.limit);
    if let Some(first) = excluded.first() {
        let names = names(&excluded);
        errors.at(first.span(), format!("{names} beside `limit(..)`: write {names} inside each `limit(..)`"));
    }
    if let Some(excess) = args.limits.get(MAX_LIMITS) {
        let message = format!(
            "a limiter holds at most {MAX_LIMITS} limits, and this is one more: remove one that another implies"
        );
        errors.at(excess.name.span(), message);
    }
    let mut limits = Some(Vec::new());
    for arg in &args.limits {
        let limit = limit(&arg.value, Some(&arg.name), &arg.value.unread, features, errors);
        limits = limits.zip(limit).map(|(mut limits, limit)| {
            limits.push(limit);
            limits
        });
    }
    limits
}

/// One limit: from `limit(..)`, named by `of`, or from the top level.
fn limit(
    args: &LimitArgs,
    of: Option<&Ident>,
    unread: &Unread,
    features: Features,
    errors: &mut Diagnostics,
) -> Option<Limit> {
    let place = match of {
        Some(_) => "`limit(..)`",
        None => "`#[rate_limit]`",
    };
    let span = of.map_or_else(Span::call_site, Ident::span);
    let has = |arg: &Option<Arg<Expr>>, name: &str| arg.is_some() || unread.may_be(name);
    let has_calendar = has(&args.calendar, "calendar");
    match (has(&args.count, "count"), has(&args.per, "per") || has_calendar) {
        (true, true) => {}
        (false, false) => {
            errors.at(span, format!("{place} needs a `count` and a `per`: write `count = 100, per = \"1s\"`"));
        }
        (true, false) => {
            let span = args.count.as_ref().map_or(span, |arg| arg.name.span());
            errors.at(span, "a `count` needs the time in which it is allowed: add `per = \"1s\"`");
        }
        (false, true) => {
            let arg = args.per.as_ref().or(args.calendar.as_ref());
            let (span, name) = arg.map_or((span, "per".to_owned()), |arg| (arg.name.span(), arg.name.to_string()));
            errors.at(span, format!("a `{name}` needs the number of calls that it allows: add `count = 100`"));
        }
    }
    let algorithm = match &args.algorithm {
        Some(arg) => algorithm(arg, errors),
        None => Some(Algorithm::SlidingWindow),
    };
    let burst = args.burst.as_ref().and_then(|arg| {
        match algorithm {
            None => {}
            Some(algorithm) if algorithm.has_burst() || unread.may_be("algorithm") => {}
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
    let mut per = args.per.as_ref().and_then(|arg| per(arg, errors));
    if let Some(arg) = &args.calendar {
        let is_fixed = algorithm == Some(Algorithm::FixedWindow) || unread.may_be("algorithm");
        if !features.calendar {
            let message = "`calendar` needs the feature `calendar` of `ratelimit-runtime`: enable it in Cargo.toml";
            errors.at(arg.name.span(), message);
        } else if args.per.is_some() {
            let message =
                "`calendar` beside `per`: keep `per` for windows of one length, or `calendar` for those of a time zone";
            errors.at(arg.name.span(), message);
        } else if let (Some(of), Some(_), false) = (&args.algorithm, algorithm, is_fixed) {
            errors.over(&of.value, "a calendar counts in fixed windows: write `algorithm = fixed_window`");
        } else if args.algorithm.is_none() && !is_fixed {
            let message = "a calendar counts in fixed windows: add `algorithm = fixed_window`";
            errors.at(arg.name.span(), message);
        }
        per = calendar(arg, args, errors).map(Per::Calendar);
    } else if !has_calendar {
        for arg in [&args.zone, &args.week_starts, &args.starts_on].into_iter().flatten() {
            let name = &arg.name;
            let message = format!("`{name}` is for a calendar: add `calendar = \"month\"`, or leave `{name}` out");
            errors.at(name.span(), message);
        }
    }
    Some(Limit { count: count?, per: per?, algorithm: algorithm?, burst, key: 0 })
}

/// The one key of all limits, or the keys of limits that have different ones. Limits whose keys are
/// written alike share one, and it is evaluated once.
fn keys(args: &Args, limiter: &mut Option<Limiter>, errors: &mut Diagnostics) -> (Option<Arg<Expr>>, Option<Keys>) {
    if let Some(keys) = &args.keys {
        return (None, shared_keys(args, keys, errors));
    }
    let top = args.key.as_ref();
    if args.limits.iter().all(|limit| limit.value.key.is_none()) {
        return (top.map(copy), None);
    }
    if let Some(top) = top
        && args.limits.iter().all(|limit| limit.value.key.is_some())
    {
        errors.at(top.name.span(), "no limit has this `key`, because each `limit(..)` has its own: remove it");
    }
    let (mut texts, mut keys): (Vec<String>, Vec<Option<Arg<Expr>>>) = (Vec::new(), Vec::new());
    let mut of_limits = Vec::new();
    for limit in &args.limits {
        let key = limit.value.key.as_ref().or(top).filter(|key| !is_unit(&key.value));
        let text = key.map(|key| bare(&key.value).to_token_stream().to_string()).unwrap_or_default();
        let known = texts.iter().position(|known| *known == text);
        of_limits.push(known.unwrap_or(texts.len()));
        if known.is_none() {
            texts.push(text);
            keys.push(key.map(copy));
        }
    }
    if keys.len() == 1 {
        return (keys.pop().flatten(), None);
    }
    if let Some(Limiter::Own(own)) = limiter {
        for (limit, key) in own.limits.iter_mut().zip(of_limits) {
            limit.key = key;
        }
    }
    (None, Some(Keys::Own(keys)))
}

/// `keys = (..)` beside `limiter`.
fn shared_keys(args: &Args, keys: &Arg<Expr>, errors: &mut Diagnostics) -> Option<Keys> {
    if args.limiter.is_none() || args.key.is_some() {
        return None;
    }
    match bare(&keys.value) {
        Expr::Tuple(tuple) if (1..=MAX_LIMITS).contains(&tuple.elems.len()) => Some(Keys::Shared(copy(keys))),
        Expr::Tuple(tuple) if tuple.elems.len() > MAX_LIMITS => {
            errors.over(&keys.value, format!("a limiter has at most {MAX_LIMITS} limits, and as many keys"));
            None
        }
        _ => {
            let message = "`keys` is a tuple of one key for each limit of the limiter: write `keys = (user, tenant, ())`, \
                           where `()` is the bucket of all calls";
            errors.over(&keys.value, message);
            None
        }
    }
}

/// The position of the key that `pause_when` pauses: that of the limits without a `key` of their own.
fn paused_key(pause: &Arg<Expr>, top: Option<&Arg<Expr>>, keys: &Keys, errors: &mut Diagnostics) -> Option<usize> {
    let text = |arg: Option<&Arg<Expr>>| arg.map(|arg| bare(&arg.value).to_token_stream().to_string());
    let Keys::Own(keys) = keys else {
        errors.at(pause.name.span(), "`pause_when` pauses the `key` of a call: it does not go with `keys`");
        return None;
    };
    let top = top.filter(|top| !is_unit(&top.value));
    let at = keys.iter().position(|key| text(key.as_ref()) == text(top));
    if at.is_none() {
        let message = "`pause_when` pauses the `key` of the call, and here each limit has a key of its own: leave `key` out of \
                       one `limit(..)`, and write it beside them";
        errors.at(pause.name.span(), message);
    }
    at
}

/// `()`, the key of all calls.
fn is_unit(value: &Expr) -> bool {
    matches!(bare(value), Expr::Tuple(tuple) if tuple.attrs.is_empty() && tuple.elems.is_empty())
}

/// Refuses a literal cost that never fits.
fn check_cost(own: &Own, cost: &Cost, arg: &Arg<Expr>, errors: &mut Diagnostics) {
    let Permits::Literal(cost) = cost.permits else {
        return;
    };
    let mut least: Option<(u32, &str)> = None;
    for limit in &own.limits {
        let Permits::Literal(capacity) = *limit.capacity() else {
            continue;
        };
        if least.is_none_or(|(least, _)| capacity < least) {
            least = Some((capacity, if limit.burst.is_some() { "burst" } else { "count" }));
        }
    }
    if let Some((capacity, of)) = least
        && cost > capacity
    {
        let message =
            format!("a call that costs {cost} never fits into a `{of}` of {capacity}: lower `cost` or raise `{of}`");
        errors.over(&arg.value, message);
    }
}

/// The names of the arguments of a limit.
fn of_limit(limit: &LimitArgs) -> Vec<&Ident> {
    let arguments = LimitArgs::takes();
    arguments
        .iter()
        .filter(|argument| argument.name != "key")
        .filter_map(|argument| limit.given(argument.name))
        .collect()
}

/// A list such as `count`, `per` and `burst`.
fn names(arguments: &[&Ident]) -> String {
    let mut names = Vec::new();
    for argument in arguments {
        names.push(argument.to_string());
    }
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    listed(&names, " and ")
}
