//! The arguments as written: names and values. Only the grammar and duplicates are checked here.

use proc_macro2::{Ident, TokenStream};
use syn::ext::IdentExt;
use syn::parse::discouraged::Speculative;
use syn::parse::{ParseStream, Parser};
use syn::punctuated::Punctuated;
use syn::{Expr, Token, parenthesized, token};

use crate::diagnostics::Diagnostics;
use crate::suggest::{listed, nearest, nearest_three};

/// The arguments, in the order of the attribute's docs.
const NAMES: &[&str] = &[
    "count",
    "per",
    "calendar",
    "zone",
    "week_starts",
    "starts_on",
    "key",
    "algorithm",
    "burst",
    "cost",
    "limit",
    "name",
    "limiter",
    "keys",
    "backend",
    "wait",
    "or_else",
    "exempt_when",
    "deduct_when",
    "pause_when",
    "pause_max",
    "settle",
    "settle_later",
    "permit",
    "backoff",
    "ban",
    "on_backend_error",
    "dry_run",
    "docs",
    "allow",
    "crate",
];
const LIMIT_NAMES: &[&str] =
    &["count", "per", "calendar", "zone", "week_starts", "starts_on", "algorithm", "burst", "key"];
const BACKOFF_NAMES: &[&str] = &["initial", "max"];
const WAIT_NAMES: &[&str] = &["max", "queue", "priority"];

/// Names that other crates give to our arguments.
const SYNONYMS: &[(&str, &str)] = &[
    ("calls", "count"),
    ("requests", "count"),
    ("max", "count"),
    ("max_calls", "count"),
    ("max_requests", "count"),
    ("rate", "count"),
    ("quota", "count"),
    ("permits", "count"),
    ("period", "per"),
    ("window", "per"),
    ("interval", "per"),
    ("duration", "per"),
    ("every", "per"),
    ("time", "per"),
    ("timezone", "zone"),
    ("time_zone", "zone"),
    ("tz", "zone"),
    ("week_start", "week_starts"),
    ("first_day", "starts_on"),
    ("billing_day", "starts_on"),
    ("by", "key"),
    ("key_func", "key"),
    ("algo", "algorithm"),
    ("strategy", "algorithm"),
    ("capacity", "burst"),
    ("bucket", "burst"),
    ("weight", "cost"),
    ("tokens", "cost"),
    ("limits", "limit"),
    ("storage", "backend"),
    ("store", "backend"),
    ("blocking", "wait"),
    ("block", "wait"),
    ("timeout", "wait"),
    ("max_wait", "wait"),
    ("fallback", "or_else"),
    ("on_deny", "or_else"),
    ("on_limit", "or_else"),
    ("skip_when", "exempt_when"),
    ("skip_if", "exempt_when"),
    ("exempt", "exempt_when"),
    ("unless", "exempt_when"),
    ("refund_when", "deduct_when"),
    ("count_when", "deduct_when"),
    ("pause", "pause_when"),
    ("block_when", "pause_when"),
    ("max_pause", "pause_max"),
    ("jail", "ban"),
    ("penalty", "ban"),
    ("actual", "settle"),
    ("actual_cost", "settle"),
    ("handle", "permit"),
    ("on_error", "on_backend_error"),
    ("fail_open", "on_backend_error"),
    ("fail_closed", "on_backend_error"),
    ("shadow", "dry_run"),
    ("doc", "docs"),
    ("krate", "crate"),
    ("maximum", "max"),
    ("cap", "max"),
    ("start", "initial"),
    ("first", "initial"),
    ("base", "initial"),
    ("min", "initial"),
];

/// An argument: its name as written, and its value.
pub(crate) struct Arg<T> {
    pub(crate) name: Ident,
    pub(crate) value: T,
}

/// The contents of `#[rate_limit(..)]`.
#[derive(Default)]
pub(crate) struct Args {
    pub(crate) limit: LimitArgs,
    pub(crate) key: Option<Arg<Expr>>,
    pub(crate) cost: Option<Arg<Expr>>,
    pub(crate) limits: Vec<Arg<LimitArgs>>,
    pub(crate) name: Option<Arg<Expr>>,
    pub(crate) limiter: Option<Arg<Expr>>,
    pub(crate) keys: Option<Arg<Expr>>,
    pub(crate) backend: Option<Arg<Expr>>,
    pub(crate) wait: Option<Arg<WaitArgs>>,
    pub(crate) or_else: Option<Arg<Expr>>,
    pub(crate) exempt_when: Option<Arg<Expr>>,
    pub(crate) deduct_when: Option<Arg<Expr>>,
    pub(crate) pause_when: Option<Arg<Expr>>,
    pub(crate) pause_max: Option<Arg<Expr>>,
    pub(crate) ban: Option<Arg<Expr>>,
    pub(crate) settle: Option<Arg<Expr>>,
    pub(crate) settle_later: Option<Arg<()>>,
    pub(crate) permit: Option<Arg<Expr>>,
    pub(crate) backoff: Option<Arg<BackoffArgs>>,
    pub(crate) on_backend_error: Option<Arg<Expr>>,
    pub(crate) dry_run: Option<Arg<()>>,
    pub(crate) docs: Option<Arg<Expr>>,
    /// Names of attributes.
    pub(crate) allow: Option<Arg<Vec<Ident>>>,
    pub(crate) runtime: Option<Arg<Expr>>,
    /// Arguments that could not be read, so that they are not reported as missing too.
    pub(crate) unread: Unread,
}

/// The contents of `limit(..)`, or the top-level arguments of a single limit.
#[derive(Default)]
pub(crate) struct LimitArgs {
    pub(crate) count: Option<Arg<Expr>>,
    pub(crate) per: Option<Arg<Expr>>,
    pub(crate) calendar: Option<Arg<Expr>>,
    pub(crate) zone: Option<Arg<Expr>>,
    pub(crate) week_starts: Option<Arg<Expr>>,
    pub(crate) starts_on: Option<Arg<Expr>>,
    pub(crate) algorithm: Option<Arg<Expr>>,
    pub(crate) burst: Option<Arg<Expr>>,
    /// Only inside of `limit(..)`.
    pub(crate) key: Option<Arg<Expr>>,
    pub(crate) unread: Unread,
}

/// The contents of `backoff(..)`.
#[derive(Default)]
pub(crate) struct BackoffArgs {
    pub(crate) initial: Option<Arg<Expr>>,
    pub(crate) max: Option<Arg<Expr>>,
    pub(crate) unread: Unread,
}

/// `wait` alone, `wait = ".."` (its `max`), or the contents of `wait(..)`.
#[derive(Default)]
pub(crate) struct WaitArgs {
    pub(crate) max: Option<Arg<Expr>>,
    pub(crate) queue: Option<Arg<Expr>>,
    pub(crate) priority: Option<Arg<Expr>>,
    pub(crate) unread: Unread,
}

/// The arguments that could not be read because of a mistake.
#[derive(Default)]
pub(crate) struct Unread {
    names: Vec<String>,
    /// Something unrecognizable was written, which may have been any argument.
    anything: bool,
}

impl Unread {
    /// Whether a misread argument may have been `name`.
    pub(crate) fn may_be(&self, name: &str) -> bool {
        self.anything || self.names.iter().any(|unread| unread == name)
    }

    fn add(&mut self, name: Option<&str>) {
        match name {
            Some(name) => self.names.push(name.to_owned()),
            None => self.anything = true,
        }
    }
}

impl Args {
    /// Reads every argument that can be read, and reports the others.
    pub(crate) fn parse(tokens: TokenStream, errors: &mut Diagnostics) -> Args {
        let mut args = Args::default();
        let mut unread = Unread::default();
        let parser = |input: ParseStream<'_>| {
            list(input, "", NAMES, errors, &mut unread, &mut |name, input, errors| args.argument(name, input, errors));
            Ok(())
        };
        // Fails only on leftover tokens, and `list` leaves none.
        if let Err(error) = parser.parse2(tokens) {
            errors.push(error);
        }
        args.unread = unread;
        args
    }

    fn argument(&mut self, name: &Ident, input: ParseStream<'_>, errors: &mut Diagnostics) -> syn::Result<()> {
        match name.to_string().as_str() {
            "limit" => {
                let mut limit = LimitArgs::default();
                let mut unread = Unread::default();
                group(name, input, "limit(count = 100, per = \"1s\")", &mut |content| {
                    list(content, "limit", LIMIT_NAMES, errors, &mut unread, &mut |name, input, errors| {
                        limit.argument(name, input, errors)
                    });
                })?;
                limit.unread = unread;
                self.limits.push(Arg { name: name.clone(), value: limit });
                Ok(())
            }
            "backoff" => {
                let mut backoff = BackoffArgs::default();
                let mut unread = Unread::default();
                group(name, input, "backoff(initial = \"1s\", max = \"1h\")", &mut |content| {
                    list(content, "backoff", BACKOFF_NAMES, errors, &mut unread, &mut |name, input, errors| {
                        let slot = if name == "initial" { &mut backoff.initial } else { &mut backoff.max };
                        set(slot, name, value(name, input)?, errors);
                        Ok(())
                    });
                })?;
                backoff.unread = unread;
                set(&mut self.backoff, name, backoff, errors);
                Ok(())
            }
            "allow" => {
                set(&mut self.allow, name, names_of_attributes(name, input)?, errors);
                Ok(())
            }
            "wait" => {
                let mut wait = WaitArgs::default();
                if input.peek(token::Paren) {
                    let mut unread = Unread::default();
                    group(name, input, "wait(max = \"2s\", queue = 100)", &mut |content| {
                        list(content, "wait", WAIT_NAMES, errors, &mut unread, &mut |name, input, errors| {
                            let slot = match name.to_string().as_str() {
                                "max" => &mut wait.max,
                                "queue" => &mut wait.queue,
                                _ => &mut wait.priority,
                            };
                            set(slot, name, value(name, input)?, errors);
                            Ok(())
                        });
                    })?;
                    wait.unread = unread;
                } else if !at_end(input) {
                    wait.max = Some(Arg { name: name.clone(), value: value(name, input)? });
                }
                set(&mut self.wait, name, wait, errors);
                Ok(())
            }
            "dry_run" => {
                flag(name, input, "write `dry_run` to count without denying, or leave it out")?;
                set(&mut self.dry_run, name, (), errors);
                Ok(())
            }
            "settle_later" => {
                flag(name, input, "write it beside `settle = |outcome| ..`, or leave it out")?;
                set(&mut self.settle_later, name, (), errors);
                Ok(())
            }
            other => {
                let slot = match other {
                    "key" => &mut self.key,
                    "cost" => &mut self.cost,
                    "name" => &mut self.name,
                    "limiter" => &mut self.limiter,
                    "keys" => &mut self.keys,
                    "backend" => &mut self.backend,
                    "or_else" => &mut self.or_else,
                    "exempt_when" => &mut self.exempt_when,
                    "deduct_when" => &mut self.deduct_when,
                    "pause_when" => &mut self.pause_when,
                    "pause_max" => &mut self.pause_max,
                    "ban" => &mut self.ban,
                    "settle" => &mut self.settle,
                    "permit" => &mut self.permit,
                    "on_backend_error" => &mut self.on_backend_error,
                    "docs" => &mut self.docs,
                    "crate" => &mut self.runtime,
                    _ => return self.limit.argument(name, input, errors),
                };
                set(slot, name, value(name, input)?, errors);
                Ok(())
            }
        }
    }
}

impl LimitArgs {
    fn argument(&mut self, name: &Ident, input: ParseStream<'_>, errors: &mut Diagnostics) -> syn::Result<()> {
        let slot = match name.to_string().as_str() {
            "count" => &mut self.count,
            "per" => &mut self.per,
            "calendar" => &mut self.calendar,
            "zone" => &mut self.zone,
            "week_starts" => &mut self.week_starts,
            "starts_on" => &mut self.starts_on,
            "algorithm" => &mut self.algorithm,
            "key" => &mut self.key,
            _ => &mut self.burst,
        };
        set(slot, name, value(name, input)?, errors);
        Ok(())
    }
}

/// The contents of `allow(..)`.
fn names_of_attributes(name: &Ident, input: ParseStream<'_>) -> syn::Result<Vec<Ident>> {
    let mut names = Vec::new();
    let mut mistake = None;
    group(name, input, "allow(throws)", &mut |content| match Punctuated::<Ident, Token![,]>::parse_terminated_with(
        content,
        Ident::parse_any,
    ) {
        Ok(parsed) => names.extend(parsed),
        Err(error) => {
            mistake = Some(error);
            while !content.is_empty() {
                skip_token(content);
            }
        }
    })?;
    match mistake {
        Some(mistake) => {
            Err(syn::Error::new(mistake.span(), "`allow(..)` takes names of attributes: write `allow(throws)`"))
        }
        None => Ok(names),
    }
}

/// Refuses a value.
fn flag(name: &Ident, input: ParseStream<'_>, instead: &str) -> syn::Result<()> {
    if at_end(input) {
        return Ok(());
    }
    Err(syn::Error::new(input.span(), format!("`{name}` takes no value: {instead}")))
}

/// Sets an argument. The only place that finds duplicates.
fn set<T>(slot: &mut Option<Arg<T>>, name: &Ident, value: T, errors: &mut Diagnostics) {
    if slot.is_some() {
        errors.at(name.span(), format!("`{name}` is given twice: keep one"));
    } else {
        *slot = Some(Arg { name: name.clone(), value });
    }
}

/// Arguments separated by commas. Reports a mistake in one, and goes on with the next.
fn list(
    input: ParseStream<'_>,
    of: &str,
    known: &[&str],
    errors: &mut Diagnostics,
    unread: &mut Unread,
    argument: &mut dyn FnMut(&Ident, ParseStream<'_>, &mut Diagnostics) -> syn::Result<()>,
) {
    while !input.is_empty() {
        let Ok(name) = input.call(Ident::parse_any) else {
            // A second nameless value repeats the first misunderstanding.
            if !unread.anything {
                errors.push(nameless(input, of));
            }
            unread.add(None);
            skip_argument(input, known);
            continue;
        };
        let written = name.to_string();
        if !known.contains(&written.as_str()) {
            let meant = likely(&written, known);
            errors.at(name.span(), unknown(&written, of, known, meant));
            unread.add(meant);
            skip_argument(input, known);
            continue;
        }
        if let Err(error) = argument(&name, input, errors) {
            errors.push(error);
            unread.add(Some(&written));
            skip_argument(input, known);
            continue;
        }
        if input.is_empty() {
            break;
        }
        if input.peek(Token![,]) {
            skip_token(input);
        } else if starts_argument(input, known) {
            errors.at(input.span(), format!("a comma is missing in front of `{}`", next_word(input)));
        } else {
            errors.at(input.span(), format!("expected a comma behind `{name}`"));
            skip_token(input);
            // `;` instead of a comma
            if !starts_argument(input, known) {
                skip_argument(input, known);
            }
        }
    }
}

/// `= value`. If something else follows the name, the error shows how to write it.
fn value(name: &Ident, input: ParseStream<'_>) -> syn::Result<Expr> {
    let example = example(name);
    if at_end(input) {
        return Err(syn::Error::new(name.span(), format!("`{name}` has no value: write `{example}`")));
    }
    if !input.peek(Token![=]) || input.peek(Token![==]) || input.peek(Token![=>]) {
        return Err(input.error(format!("expected `=` behind `{name}`: write `{example}`")));
    }
    let equals: Token![=] = input.parse()?;
    if at_end(input) {
        return Err(syn::Error::new(equals.span, format!("`{name}` has no value: write `{example}`")));
    }
    // A failed expression may have consumed the following arguments: parse a fork, and advance only
    // if it succeeds.
    let ahead = input.fork();
    let value = ahead.parse::<Expr>()?;
    input.advance_to(&ahead);
    Ok(value)
}

/// `(..)` after a name.
fn group(
    name: &Ident,
    input: ParseStream<'_>,
    example: &str,
    read: &mut dyn FnMut(ParseStream<'_>),
) -> syn::Result<()> {
    if !input.peek(syn::token::Paren) {
        let span = if at_end(input) { name.span() } else { input.span() };
        return Err(syn::Error::new(span, format!("`{name}` takes its values in parentheses: write `{example}`")));
    }
    let content;
    parenthesized!(content in input);
    read(&content);
    Ok(())
}

fn example(name: &Ident) -> &'static str {
    match name.to_string().as_str() {
        "count" => "count = 100",
        "per" => "per = \"1s\"",
        "calendar" => "calendar = \"month\"",
        "zone" => "zone = \"Europe/Berlin\"",
        "week_starts" => "week_starts = sunday",
        "starts_on" => "starts_on = 15",
        "key" => "key = user_id",
        "algorithm" => "algorithm = token_bucket",
        "burst" => "burst = 20",
        "cost" => "cost = 5",
        "name" => "name = \"api\"",
        "limiter" => "limiter = API",
        "keys" => "keys = (user, tenant, ())",
        "backend" => "backend = memory",
        "wait" => "wait = \"2s\"",
        "or_else" => "or_else = |exceeded| ..",
        "exempt_when" => "exempt_when = user.is_admin()",
        "deduct_when" => "deduct_when = |outcome| outcome.is_ok()",
        "pause_when" => "pause_when = |outcome| outcome.retry_after()",
        "pause_max" => "pause_max = \"1d\"",
        "ban" => "ban = \"10m\"",
        "settle" => "settle = |outcome| outcome.tokens()",
        "permit" => "permit = reserved",
        "on_backend_error" => "on_backend_error = deny",
        "docs" => "docs = false",
        "initial" => "initial = \"1s\"",
        "max" => "max = \"1h\"",
        "queue" => "queue = 100",
        "priority" => "priority = 1",
        _ => "crate = path::to::ratelimit_runtime",
    }
}

fn nameless(input: ParseStream<'_>, of: &str) -> syn::Error {
    let example = match of {
        "backoff" => "initial = \"1s\", max = \"1h\"",
        "wait" => "max = \"2s\", queue = 100",
        _ => "count = 100, per = \"1s\"",
    };
    input.error(format!("expected the name of an argument: write `{example}`"))
}

fn unknown(written: &str, of: &str, known: &[&str], meant: Option<&str>) -> String {
    let place = if of.is_empty() { "`#[rate_limit]`".to_owned() } else { format!("`{of}(..)`") };
    if let Some(meant) = meant {
        return format!("{place} has no argument `{written}`: did you mean `{meant}`?");
    }
    if NAMES.contains(&written) {
        return format!("`{written}` does not belong in {place}: write it beside it, or leave it out");
    }
    match nearest_three(written, known) {
        three if known.len() > 2 * three.len() => {
            format!("{place} has no argument `{written}`: the nearest are {}", listed(&three, " and "))
        }
        _ => format!("{place} has no argument `{written}`: it takes {}", listed(known, ", ")),
    }
}

fn likely<'a>(written: &str, known: &[&'a str]) -> Option<&'a str> {
    let written = written.trim_start_matches("r#");
    for (other, ours) in SYNONYMS {
        if *other == written && known.contains(ours) {
            return Some(ours);
        }
    }
    if NAMES.contains(&written) { None } else { nearest(written, known) }
}

fn at_end(input: ParseStream<'_>) -> bool {
    input.is_empty() || input.peek(Token![,])
}

/// Skips to the likely start of the next argument. A comma inside the unreadable expression is not
/// one.
fn skip_argument(input: ParseStream<'_>, known: &[&str]) {
    while !input.is_empty() {
        let at_comma = input.peek(Token![,]);
        skip_token(input);
        if at_comma && (input.is_empty() || starts_argument(input, known) || is_named(input)) {
            return;
        }
    }
}

fn starts_argument(input: ParseStream<'_>, known: &[&str]) -> bool {
    known.contains(&next_word(input).as_str())
}

/// `name =`, whatever the name.
fn is_named(input: ParseStream<'_>) -> bool {
    let ahead = input.fork();
    ahead.call(Ident::parse_any).is_ok() && ahead.peek(Token![=]) && !ahead.peek(Token![==])
}

fn next_word(input: ParseStream<'_>) -> String {
    input.fork().call(Ident::parse_any).map(|word| word.to_string()).unwrap_or_default()
}

fn skip_token(input: ParseStream<'_>) {
    let skipped = input.step(|cursor| match cursor.token_tree() {
        Some((_, rest)) => Ok(((), rest)),
        None => Err(cursor.error("nothing left")),
    });
    // The callers have checked that the input is not empty.
    drop(skipped);
}

/// The expression without enclosing parentheses or invisible groups.
pub(crate) fn bare(expr: &Expr) -> &Expr {
    match expr {
        Expr::Group(it) if it.attrs.is_empty() => bare(&it.expr),
        Expr::Paren(it) if it.attrs.is_empty() => bare(&it.expr),
        _ => expr,
    }
}
