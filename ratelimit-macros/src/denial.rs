//! Whether a call can be denied, and whether the return type can carry the error.

use quote::ToTokens;

use crate::arguments::Args;
use crate::diagnostics::Diagnostics;
use crate::model::{Cost, Denial, Features, Limiter, OnBackendError, Permits, Waiting};
use crate::shape::{Returns, Shape};
use crate::values::copy;

/// Whether a call can be denied, and what it then returns.
pub(crate) fn denial(
    args: &Args,
    limiter: Option<&Limiter>,
    cost: Option<&Cost>,
    wait: Option<&Waiting>,
    shape: Option<&Shape>,
    features: Features,
    errors: &mut Diagnostics,
) -> Denial {
    // A `wait` with an unreadable time counts as bounded.
    let unbounded = wait.is_some_and(Waiting::is_unbounded);
    let gives_up = wait.is_some_and(|wait| wait.gives_up);
    let never_denied = |limiter, cost| if gives_up { Certainty::No } else { never_denied(limiter, cost) };
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
    // An attempt at `or_else` or `wait` has its own error already.
    if args.unread.may_be("or_else") || args.unread.may_be("wait") || (args.wait.is_some() && wait.is_none()) {
        return Denial::Returned;
    }
    match shape.map(|shape| &shape.returns) {
        Some(Returns::Impl(_, name)) if features.responses && is_response(name) => return Denial::Response,
        Some(returns) => {
            let otherwise = match (unbounded, gives_up) {
                (false, _) => ", give `or_else = |exceeded| ..`, or let the call `wait` until it is admitted",
                (true, false) => {
                    " or give `or_else = |exceeded| ..`: `wait` does not help if the `cost` is above the limit"
                }
                (true, true) => {
                    " or give `or_else = |exceeded| ..`: with several keys a call may give up its `wait`, unless \
                     `backend = memory`"
                }
            };
            check_return_type(returns, otherwise, errors);
        }
        None => {}
    }
    Denial::Returned
}

/// Whether a web framework turns values of this trait into responses.
fn is_response(name: &str) -> bool {
    name == "IntoResponse" || name == "Responder"
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Certainty {
    No,
    /// Depends on constants that the compiler checks, or on a limiter defined elsewhere.
    Likely,
    Sure,
}

/// Whether an unbounded wait always gets its permits.
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
    let mut certainty = cost_fits;
    match limiter {
        Some(Limiter::Own(own)) => {
            for limit in &own.limits {
                certainty = certainty.min(of(&limit.count)).min(of(limit.capacity()));
            }
        }
        Some(Limiter::Shared(_)) | None => certainty = certainty.min(Certainty::Likely),
    }
    certainty
}

fn refuse_beside_unbounded_wait(args: &Args, limiter: Option<&Limiter>, cost: Option<&Cost>, errors: &mut Diagnostics) {
    if let (Some(Limiter::Own(own)), Some(arg)) = (limiter, &args.on_backend_error)
        && own.on_backend_error == Some(OnBackendError::Deny)
    {
        let message = "`deny` would deny a call that an unbounded `wait` promises to admit: write `local` or `allow`, or \
                           `wait = \"2s\"`";
        errors.over(&arg.value, message);
    }
    let penalties = [args.backoff.as_ref().map(|arg| &arg.name), args.ban.as_ref().map(|arg| &arg.name)];
    for name in penalties.into_iter().flatten() {
        if never_denied(limiter, cost) == Certainty::Sure {
            let message = format!(
                "an unbounded `wait` is never denied, so nothing is ever blocked by `{name}`: remove one of them, or write \
                 `wait = \"2s\"`"
            );
            errors.at(name.span(), message);
        }
    }
}

/// Reports return types that the macro can see are unable to carry the error. The compiler sees the
/// rest. `otherwise` says what else to do.
fn check_return_type(returns: &Returns, otherwise: &str, errors: &mut Diagnostics) {
    let ways_out = format!("return a `Result` whose error is `From<RateLimitExceeded>`{otherwise}");
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
                "the `{name}` of {feature} is answered with a 429 by the feature `{feature}` of `ratelimit-runtime`: enable it; that \
                 of another framework takes `or_else = |exceeded| ..`, which returns what the body returns"
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
