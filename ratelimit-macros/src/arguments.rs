//! The table of arguments. It drives the parsing (`args.rs`), the suggestions in messages, and the
//! checks of `validate.rs` that need only names. A test compares it with the table in the docs.
//!
//! A row is: field, name as written, type of its value, an example, and the names that other crates
//! give it. A flag has, in place of an example, what to do instead of giving it a value.

use proc_macro2::Ident;
use syn::Expr;
use syn::parse::ParseStream;

use crate::diagnostics::Diagnostics;

/// An argument that a list of arguments takes.
pub(crate) struct Argument {
    pub(crate) name: &'static str,
    /// How it is written. For a flag, what to do instead of giving it a value.
    pub(crate) example: &'static str,
    /// Names that other crates give it.
    pub(crate) synonyms: &'static [&'static str],
}

/// An argument as written: its name, and its value.
pub(crate) struct Arg<T> {
    pub(crate) name: Ident,
    pub(crate) value: T,
}

/// An argument `name = value`.
pub(crate) type Value = Option<Arg<Expr>>;
/// An argument without a value.
pub(crate) type Flag = Option<Arg<()>>;
/// An argument with names in parentheses.
pub(crate) type Names = Option<Arg<Vec<Ident>>>;

/// Where an argument stands once it is read.
pub(crate) trait Slot {
    /// Reads what follows the argument's name.
    fn read(
        &mut self,
        name: &Ident,
        argument: &Argument,
        input: ParseStream<'_>,
        errors: &mut Diagnostics,
    ) -> syn::Result<()>;

    /// The argument's name as written, if it is given.
    fn name(&self) -> Option<&Ident>;
}

/// A list of arguments: what is in the attribute's parentheses, or in those of one argument.
pub(crate) trait List: Default {
    /// The argument in whose parentheses the list is; empty for the attribute's own.
    const OF: &'static str;
    /// Written where the name of an argument is missing.
    const EXAMPLE: &'static str;

    /// The arguments that it takes, each once.
    fn takes() -> Vec<&'static Argument>;

    /// The place of the argument of that name, if the list takes it.
    fn slot(&mut self, name: &str) -> Option<&mut dyn Slot>;

    /// The argument of that name as written, if it is given.
    fn given(&self, name: &str) -> Option<&Ident>;

    fn unread(&mut self) -> &mut Unread;
}

/// The arguments that could not be read because of a mistake. They are not reported as missing too.
#[derive(Default)]
pub(crate) struct Unread {
    names: Vec<String>,
    /// Something unrecognizable was written, which may have been any argument.
    pub(crate) anything: bool,
}

impl Unread {
    /// Whether a misread argument may have been `name`.
    pub(crate) fn may_be(&self, name: &str) -> bool {
        self.anything || self.names.iter().any(|unread| unread == name)
    }

    pub(crate) fn add(&mut self, name: Option<&str>) {
        match name {
            Some(name) => self.names.push(name.to_owned()),
            None => self.anything = true,
        }
    }
}

macro_rules! arguments {
    (
        $(#[$about:meta])*
        $list:ident of $of:literal, as in $instead:literal $(, with those of $rest:ident in $at:ident)?
        $($field:ident $name:literal $slot:ty, $example:literal, [$($synonym:literal)*];)*
    ) => {
        $(#[$about])*
        #[derive(Default)]
        pub(crate) struct $list {
            $(pub(crate) $field: $slot,)*
            $(pub(crate) $at: $rest,)?
            pub(crate) unread: Unread,
        }

        impl List for $list {
            const OF: &'static str = $of;
            const EXAMPLE: &'static str = $instead;

            fn takes() -> Vec<&'static Argument> {
                static ARGUMENTS: &[Argument] = &[
                    $(Argument { name: $name, example: $example, synonyms: &[$($synonym),*] },)*
                ];
                #[allow(unused_mut, reason = "not all lists have those of another one too")]
                let mut all: Vec<&Argument> = Vec::new();
                // First, because the first of the nearest names is suggested.
                $(all.extend($rest::takes().into_iter().filter(|other| {
                    ARGUMENTS.iter().all(|argument| argument.name != other.name)
                }));)?
                all.extend(ARGUMENTS);
                all
            }

            fn slot(&mut self, name: &str) -> Option<&mut dyn Slot> {
                match name {
                    $($name => return Some(&mut self.$field),)*
                    _ => {}
                }
                $(if let Some(slot) = self.$at.slot(name) {
                    return Some(slot);
                })?
                None
            }

            fn given(&self, name: &str) -> Option<&Ident> {
                match name {
                    $($name => return Slot::name(&self.$field),)*
                    _ => {}
                }
                $(if let Some(given) = self.$at.given(name) {
                    return Some(given);
                })?
                None
            }

            fn unread(&mut self) -> &mut Unread {
                &mut self.unread
            }
        }
    };
}

arguments! {
    /// The contents of `#[rate_limit(..)]`.
    Args of "", as in "count = 100, per = \"1s\"", with those of LimitArgs in limit
    key "key" Value, "key = user_id", ["by" "key_func"];
    cost "cost" Value, "cost = 5", ["weight" "tokens"];
    limits "limit" Vec<Arg<LimitArgs>>, "limit(count = 100, per = \"1s\")", ["limits"];
    name "name" Value, "name = \"api\"", [];
    limiter "limiter" Value, "limiter = API", [];
    keys "keys" Value, "keys = (user, tenant, ())", [];
    backend "backend" Value, "backend = memory", ["storage" "store"];
    wait "wait" Option<Arg<WaitArgs>>, "wait = \"2s\"", ["blocking" "block" "timeout" "max_wait"];
    or_else "or_else" Value, "or_else = |exceeded| ..", ["fallback" "on_deny" "on_limit"];
    exempt_when "exempt_when" Value, "exempt_when = user.is_admin()", ["skip_when" "skip_if" "exempt" "unless"];
    deduct_when "deduct_when" Value, "deduct_when = |outcome| outcome.is_ok()", ["refund_when" "count_when"];
    pause_when "pause_when" Value, "pause_when = |outcome| outcome.retry_after()", ["pause" "block_when"];
    pause_max "pause_max" Value, "pause_max = \"1d\"", ["max_pause"];
    settle "settle" Value, "settle = |outcome| outcome.tokens()", ["actual" "actual_cost"];
    settle_later "settle_later" Flag, "write it beside `settle = |outcome| ..`", [];
    permit "permit" Value, "permit = reserved", ["handle"];
    backoff "backoff" Option<Arg<BackoffArgs>>, "backoff(initial = \"1s\", max = \"1h\")", [];
    ban "ban" Value, "ban = \"10m\"", ["jail" "penalty"];
    on_backend_error "on_backend_error" Value, "on_backend_error = deny", ["on_error" "fail_open" "fail_closed"];
    dry_run "dry_run" Flag, "write `dry_run` to count without denying", ["shadow"];
    docs "docs" Value, "docs = false", ["doc"];
    allow "allow" Names, "allow(throws)", [];
    runtime "crate" Value, "crate = path::to::ratelimit_runtime", ["krate"];
}

arguments! {
    /// The contents of `limit(..)`, or the top-level arguments of a single limit. `key` only inside
    /// `limit(..)`.
    LimitArgs of "limit", as in "count = 100, per = \"1s\""
    count "count" Value, "count = 100",
        ["calls" "requests" "max" "max_calls" "max_requests" "rate" "quota" "permits"];
    per "per" Value, "per = \"1s\"", ["period" "window" "interval" "duration" "every" "time"];
    calendar "calendar" Value, "calendar = \"month\"", [];
    zone "zone" Value, "zone = \"Europe/Berlin\"", ["timezone" "time_zone" "tz"];
    week_starts "week_starts" Value, "week_starts = sunday", ["week_start"];
    starts_on "starts_on" Value, "starts_on = 15", ["first_day" "billing_day"];
    algorithm "algorithm" Value, "algorithm = token_bucket", ["algo" "strategy"];
    burst "burst" Value, "burst = 20", ["capacity" "bucket"];
    key "key" Value, "key = user_id", ["by" "key_func"];
}

arguments! {
    /// The contents of `backoff(..)`.
    BackoffArgs of "backoff", as in "initial = \"1s\", max = \"1h\""
    initial "initial" Value, "initial = \"1s\"", ["start" "first" "base" "min"];
    max "max" Value, "max = \"1h\"", ["maximum" "cap"];
}

arguments! {
    /// `wait` alone, `wait = ".."` (its `max`), or the contents of `wait(..)`.
    WaitArgs of "wait", as in "max = \"2s\", queue = 100"
    max "max" Value, "max = \"1h\"", ["maximum" "cap"];
    queue "queue" Value, "queue = 100", [];
    priority "priority" Value, "priority = 1", [];
}

/// Arguments that a `limiter = ..` brings itself, besides those of a limit.
pub(crate) const OF_LIMITER: &[&str] = &["limit", "name", "backend", "backoff", "ban", "on_backend_error", "dry_run"];

/// Arguments that exclude each other, and why. The error is at the second.
pub(crate) const EXCLUSIVE: &[(&str, &str, &str)] = &[
    ("backoff", "ban", "`ban` blocks for a fixed time and `backoff` for one that grows: keep one of them"),
    ("keys", "key", "`key` beside `keys`: write one key for each limit into `keys`, or `key` alone"),
    (
        "deduct_when",
        "settle",
        "`settle` beside `deduct_when`, and each says what the call cost: keep one; `settle` alone can give everything \
         back, with a cost of 0",
    ),
    (
        "deduct_when",
        "permit",
        "`permit` beside `deduct_when`, and each says what the call cost: keep one; `permit` alone can give everything \
         back, by `permit.settle(0)`",
    ),
    (
        "settle",
        "permit",
        "`permit` beside `settle`, and each says what the call cost: keep one; a call is settled once, by its outcome or \
         by its permit",
    ),
    (
        "permit",
        "settle_later",
        "`settle_later` belongs to `settle`: leave it out, and call `settle_later` of the permit in the body",
    ),
];

/// Arguments that need another one, and what to do.
pub(crate) const NEEDS: &[(&str, &str, &str)] = &[
    ("settle_later", "settle", "`settle_later` belongs to `settle`: add `settle = |outcome| ..`, or leave it out"),
    (
        "pause_max",
        "pause_when",
        "`pause_max` is the longest pause of `pause_when`: add `pause_when = |outcome| ..`, or leave it out",
    ),
    (
        "keys",
        "limiter",
        "`keys` are those of a `limiter` that is defined elsewhere: write the `key` of each limit inside of its \
         `limit(..)`",
    ),
];
