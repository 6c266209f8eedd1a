//! Parses single values of the attribute: numbers, durations, words. Each has a message for
//! anything else.

mod calendar;

use proc_macro2::Ident;
use quote::ToTokens;
use syn::{Expr, ExprLit, ExprPath, Lit, LitStr, Path, UnOp};

use crate::args::bare;
use crate::arguments::{Arg, BackoffArgs, WaitArgs};
use crate::diagnostics::Diagnostics;
use crate::duration;
use crate::item::Item;
use crate::model::{Algorithm, BACKENDS, Backend, Cost, Features, Name, OnBackendError, Per, Permits, Wait, Waiting};
use crate::shape::Shape;
use crate::suggest::{listed, nearest};

pub(crate) use calendar::calendar;

/// A number of permits: `count`, `burst`, or `cost`, which may be zero.
pub(crate) fn permits(arg: &Arg<Expr>, at_least_one: bool, errors: &mut Diagnostics) -> Option<Permits> {
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

/// The name of the call's permits in the body.
pub(crate) fn permit(arg: &Arg<Expr>, item: &Item, errors: &mut Diagnostics) -> Option<Ident> {
    let example = "write a name that the body uses, such as `permit = reserved`";
    let Expr::Path(path) = bare(&arg.value) else {
        errors.over(&arg.value, format!("`permit` takes a name: {example}"));
        return None;
    };
    let Some(name) = path.path.get_ident().filter(|_| path.qself.is_none() && path.attrs.is_empty()) else {
        errors.over(&arg.value, format!("`permit` takes a single name: {example}"));
        return None;
    };
    if syn::parse2::<Ident>(name.to_token_stream()).is_err() {
        errors.at(name.span(), format!("`{name}` cannot be a variable: {example}"));
        return None;
    }
    if item.argument_in(name.to_token_stream()).is_some() {
        errors.at(name.span(), format!("`{name}` is an argument, which the permit would hide: choose another name"));
        return None;
    }
    Some(name.clone())
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

/// Whether a path's last name is in upper case: a constant, an associated constant or a const
/// generic.
fn is_constant(path: &ExprPath) -> bool {
    let Some(last) = path.path.segments.last() else {
        return false;
    };
    let name = last.ident.to_string();
    last.arguments.is_none()
        && name.contains(|letter: char| letter.is_ascii_uppercase())
        && !name.contains(|letter: char| letter.is_lowercase())
}

pub(crate) fn per(arg: &Arg<Expr>, errors: &mut Diagnostics) -> Option<Per> {
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
    /// A mistake, reported already.
    Mistake,
    /// Not a literal.
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
                // The compiler lexes `1s` as an integer literal with a suffix.
                let meant = if duration::parse(&written).is_ok() {
                    written.clone()
                } else {
                    format!("{}s", number.base10_digits())
                };
                let message =
                    format!("`{written}` is not a duration: write it in quotes with its unit, `{name} = \"{meant}\"`");
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

/// A duration that has to be a literal.
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

/// A value that has to be one of a few words. `Err` if it is not a word at all.
fn word(value: &Expr) -> Result<&Ident, &Expr> {
    match bare(value) {
        Expr::Path(path) => path.path.get_ident().ok_or(value),
        _ => Err(value),
    }
}

pub(crate) fn algorithm(arg: &Arg<Expr>, errors: &mut Diagnostics) -> Option<Algorithm> {
    let names = Algorithm::ALL.map(Algorithm::name);
    let choices = listed(&names, " or ");
    let written = match word(&arg.value) {
        Ok(word) => word.to_string(),
        Err(value) => {
            let message = match bare(value) {
                Expr::Lit(literal) => match &literal.lit {
                    Lit::Str(text) if names.contains(&text.value().as_str()) => {
                        format!("an algorithm is written without quotes: `algorithm = {}`", text.value())
                    }
                    _ => format!("unknown algorithm: write {choices}"),
                },
                Expr::Path(path) => {
                    let last = path.path.segments.last().map(|segment| snake_case(&segment.ident.to_string()));
                    match last.and_then(|last| nearest(&last, &names)) {
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
    let known = Algorithm::ALL.into_iter().find(|algorithm| algorithm.name() == written);
    if known.is_some() {
        return known;
    }
    let message = match written.as_str() {
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
            match nearest(&snake, &names) {
                Some(meant) => format!("unknown algorithm `{other}`: did you mean `{meant}`?"),
                None => format!("unknown algorithm `{other}`: write {choices}"),
            }
        }
    };
    errors.over(&arg.value, message);
    None
}

fn text(value: &Expr) -> Option<&LitStr> {
    match bare(value) {
        Expr::Lit(ExprLit { lit: Lit::Str(text), .. }) => Some(text),
        _ => None,
    }
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

/// Macros that expand to text known at compile time.
const TEXT_MACROS: &[&str] = &["concat", "env", "module_path", "stringify"];

pub(crate) fn name(arg: &Arg<Expr>, errors: &mut Diagnostics) -> Option<Name> {
    match bare(&arg.value) {
        Expr::Lit(literal) => {
            if let Lit::Str(text) = &literal.lit {
                if text.value().trim().is_empty() {
                    let message = "the name is empty: write what the limit is called in errors, logs and the backend";
                    errors.at(text.span(), message);
                    return None;
                }
                return Some(Name::Literal(text.value()));
            }
        }
        Expr::Macro(text) => {
            let name = text.mac.path.segments.last().map(|segment| segment.ident.to_string()).unwrap_or_default();
            if TEXT_MACROS.contains(&name.as_str()) {
                return Some(Name::Constant(Box::new(copy(arg))));
            }
        }
        Expr::Path(path) if is_constant(path) => return Some(Name::Constant(Box::new(copy(arg)))),
        _ => {}
    }
    errors.over(
        &arg.value,
        "`name` is text that the compiler knows: write `name = \"api\"`, an `UPPER_CASE` constant, or `concat!(..)`",
    );
    None
}

pub(crate) fn backend(arg: &Arg<Expr>, item: &Item, features: Features, errors: &mut Diagnostics) -> Option<Backend> {
    let Ok(word) = word(&arg.value) else {
        if let Expr::Lit(literal) = bare(&arg.value) {
            let written = match &literal.lit {
                Lit::Str(text) => text.value(),
                _ => String::new(),
            };
            let message = match written.as_str() {
                written if BACKENDS.contains(&written) => {
                    format!("a backend is written without quotes: `backend = {written}`")
                }
                _ => {
                    let words = BACKENDS.map(|word| format!("`{word}`")).join(", ");
                    format!("a literal is not a backend: write {words}, or an expression that makes one")
                }
            };
            errors.over(&arg.value, message);
            return None;
        }
        return made(arg, item, errors);
    };
    let written = word.to_string();
    if let Some(known) = BACKENDS.iter().position(|backend| *backend == written) {
        if features.backends[known] {
            return Some(Backend::Named(word.clone()));
        }
        errors.at(
            word.span(),
            format!(
                "`backend = {written}` needs the feature `{written}` of `ratelimit-runtime`: enable it in Cargo.toml"
            ),
        );
        return None;
    }
    match nearest(&written, &BACKENDS) {
        // Any other name is a constant or a variable.
        Some(meant) if !written.starts_with(|letter: char| letter.is_ascii_uppercase()) => {
            errors.at(word.span(), format!("unknown backend `{written}`: did you mean `{meant}`?"));
            None
        }
        _ => made(arg, item, errors),
    }
}

/// An expression for a backend. Arguments of the call cannot appear in it.
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

pub(crate) fn on_backend_error(arg: &Arg<Expr>, errors: &mut Diagnostics) -> Option<OnBackendError> {
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

pub(crate) fn backoff(arg: &Arg<BackoffArgs>, errors: &mut Diagnostics) -> Option<(u64, u64)> {
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

pub(crate) fn ban(arg: &Arg<Expr>, errors: &mut Diagnostics) -> Option<u64> {
    fixed_duration(arg, "ban = \"10m\"", errors).map(|(nanos, _)| nanos)
}

/// The longest pause, in nanoseconds.
pub(crate) fn pause_max(arg: Option<&Arg<Expr>>, errors: &mut Diagnostics) -> Option<u64> {
    // An upstream chooses its `Retry-After`.
    const HOUR: u64 = 3_600_000_000_000;
    match arg {
        None => Some(HOUR),
        Some(arg) => fixed_duration(arg, "pause_max = \"1d\"", errors).map(|(nanos, _)| nanos),
    }
}

pub(crate) fn wait(
    arg: &Arg<WaitArgs>,
    shape: Option<&Shape>,
    features: Features,
    errors: &mut Diagnostics,
) -> Option<Waiting> {
    if !features.tokio && shape.is_some_and(Shape::is_async) {
        let message =
            "`wait` in an async function needs the feature `tokio` of `ratelimit-runtime`: enable it in Cargo.toml";
        errors.at(arg.name.span(), message);
    }
    let WaitArgs { max, queue, priority, unread } = &arg.value;
    let queue = queue.as_ref().map(|queue| places(queue, errors));
    let bound = match max {
        None if unread.may_be("max") => return None,
        None => Wait::Forever,
        Some(max) => {
            if let Expr::Lit(literal) = bare(&max.value)
                && let Lit::Bool(_) = &literal.lit
            {
                let message = "`wait` takes no `bool`: write `wait` to wait as long as it takes, `wait = \"2s\"` to wait at most so \
                               long, or leave it out";
                errors.over(&max.value, message);
                return None;
            }
            let example = if max.name == "wait" { "wait = \"2s\"" } else { "wait(max = \"2s\")" };
            let (nanos, text) = fixed_duration(max, example, errors)?;
            Wait::AtMost(nanos, text)
        }
    };
    // An unreadable `queue` still counts as one.
    let queue = if unread.may_be("queue") { Some(1) } else { queue.map(|queue| queue.unwrap_or(1)) };
    Some(Waiting { bound, queue, priority: priority.as_ref().map(copy), gives_up: false })
}

/// The most calls that may wait.
fn places(arg: &Arg<Expr>, errors: &mut Diagnostics) -> Option<u32> {
    let Expr::Lit(ExprLit { lit: Lit::Int(number), .. }) = bare(&arg.value) else {
        errors.over(&arg.value, "`queue` is a number, the most calls of a key that wait: write `queue = 100`");
        return None;
    };
    match number.base10_parse::<u32>() {
        Ok(0) => {
            let message = "a `queue` of 0 lets no call wait: it is at least 1, or leave `wait` out";
            errors.over(&arg.value, message);
            None
        }
        Ok(calls) => Some(calls),
        Err(_) => {
            errors.over(&arg.value, "`queue` is at most 4294967295: write `queue = 100`");
            None
        }
    }
}

/// The message for a `crate` that no `use` can name.
pub(crate) const RUNTIME_PATH: &str = "`crate` is the path to the runtime: write `crate = path::to::ratelimit_runtime`";

/// Whether a `use` can name this path: without type arguments, and not by `Self`.
pub(crate) fn is_importable(path: &Path) -> bool {
    path.segments.iter().all(|segment| segment.arguments.is_none() && segment.ident != "Self")
}

pub(crate) fn runtime(arg: &Arg<Expr>, errors: &mut Diagnostics) -> Option<ExprPath> {
    let message = match bare(&arg.value) {
        Expr::Path(path) if path.attrs.is_empty() && path.qself.is_none() && is_importable(&path.path) => {
            return Some(path.clone());
        }
        Expr::Lit(ExprLit { lit: Lit::Str(text), .. }) => {
            format!("`crate` is a path, without quotes: write `crate = {}`", text.value())
        }
        _ => RUNTIME_PATH.to_owned(),
    };
    errors.over(&arg.value, message);
    None
}

pub(crate) fn cost(arg: &Arg<Expr>, errors: &mut Diagnostics) -> Option<Cost> {
    permits(arg, false, errors).map(|permits| Cost { name: arg.name.clone(), permits })
}

pub(crate) fn copy(arg: &Arg<Expr>) -> Arg<Expr> {
    Arg { name: arg.name.clone(), value: arg.value.clone() }
}
