//! The table of arguments. It drives the parsing (`args.rs`), the suggestions in messages, the
//! checks of `validate.rs` that need only names, and the table in the attribute's docs.
//!
//! A row is: its rows in the docs, field, name as written, type of its value, an example, and the
//! names that other crates give it. A flag has, in place of an example, what to do instead of giving
//! it a value.

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
        , in the docs by $rows:ident;
        $($(#[doc = $row:literal])* $field:ident $name:literal $slot:ty, $example:literal, [$($synonym:literal)*];)*
    ) => {
        $(#[$about])*
        #[derive(Default)]
        pub(crate) struct $list {
            $(pub(crate) $field: $slot,)*
            $(pub(crate) $at: $rest,)?
            pub(crate) unread: Unread,
        }

        /// The rows of the docs' table, each on a new line.
        #[allow(unused_macros, reason = "the docs have no table for a list inside of another")]
        macro_rules! $rows {
            () => {
                concat!($($("\n", $row,)*)*)
            };
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
    Args of "", as in "count = 100, per = \"1s\"", with those of LimitArgs in limit,
    in the docs by rows_of_a_call;
    /// | `key` | expression over the arguments, including `self`, whose type is a `RateLimitKey`: each key has its own bucket | one bucket for the whole function |
    key "key" Value, "key = user_id", ["by" "key_func"];
    /// | `cost` | `u32` expression: permits that the call takes; 0 takes none and is never denied, unless the key is blocked or banned | 1 |
    cost "cost" Value, "cost = 5", ["weight" "tokens"];
    /// | `limit(count, per, algorithm, burst, key)`, `limit(count, calendar, ..)` | instead of a top-level `count` and `per`, up to eight times: several limits. A call is charged to all of them or to none. A `key` inside is [that limit's own](#a-key-for-each-limit); `key = ()` is the bucket of the whole function | one limit |
    limits "limit" Vec<Arg<LimitArgs>>, "limit(count = 100, per = \"1s\")", ["limits"];
    /// | `name` | string, an `UPPER_CASE` constant, or `concat!(..)`, `stringify!(..)`, `env!(..)`: the limiter's name in the backend, in errors, logs and metrics | path of the function |
    name "name" Value, "name = \"api\"", [];
    /// | `limiter` | path to a `static` limiter, or an expression such as `self.limiter` (borrowed), instead of limits, name and backend: shares its buckets with all other users of that limiter | the function's own limiter |
    limiter "limiter" Value, "limiter = API", [];
    /// | `keys` | tuple of one key for each limit of the `limiter`, instead of `key` | one key for all its limits |
    keys "keys" Value, "keys = (user, tenant, ())", [];
    /// | `backend` | `memory`, or the feature of another backend, such as `redis`; or an expression, evaluated once | the process's default |
    backend "backend" Value, "backend = memory", ["storage" "store"];
    /// | `wait`, `wait = "2s"` | waits for the permits: as long as it takes, or only if they come within that time; otherwise it fails at once. An async function needs the feature `tokio` | fails at once |
    /// | `wait(max = "2s", queue = 100, priority = expr)` | waits only if fewer than `queue` calls of the key wait. A higher `priority` (`u8`) is served first; each step counts as a minute of waiting, so no call starves. Through a backend, both apply to the calls of this process | – |
    wait "wait" Option<Arg<WaitArgs>>, "wait = \"2s\"", ["blocking" "block" "timeout" "max_wait"];
    /// | `or_else` | closure or path from `RateLimitExceeded` to the return type; it may use the arguments | see [below](#a-denied-call) |
    or_else "or_else" Value, "or_else = |exceeded| ..", ["fallback" "on_deny" "on_limit"];
    /// | `exempt_when` | `bool` expression: if true, the body runs without a check | never |
    exempt_when "exempt_when" Value, "exempt_when = user.is_admin()", ["skip_when" "skip_if" "exempt" "unless"];
    /// | `deduct_when` | closure or path from `&R` to `bool`, where `R` is what the body returned: if false, the permits are given back | every call counts |
    deduct_when "deduct_when" Value, "deduct_when = |outcome| outcome.is_ok()", ["refund_when" "count_when"];
    /// | `pause_when` | closure or path from `&R` to `Option<Duration>`: pauses the call's `key`, or the function without one, for that long. An exempt call pauses no key | never |
    pause_when "pause_when" Value, "pause_when = |outcome| outcome.retry_after()", ["pause" "block_when"];
    /// | `pause_max` | the longest pause, in quotes: it bounds an upstream's `Retry-After` | `"1h"` |
    pause_max "pause_max" Value, "pause_max = \"1d\"", ["max_pause"];
    /// | `settle` | closure or path from `&R` to `u32`: the permits that the call really took. The unused part of `cost` is given back; an overrun is charged, as a debt if it does not fit. See [below](#what-a-call-really-costs) | `cost` stands |
    settle "settle" Value, "settle = |outcome| outcome.tokens()", ["actual" "actual_cost"];
    /// | `settle_later` | flag beside `settle`: the call does not wait for the backend's answer | waits for it |
    settle_later "settle_later" Flag, "write it beside `settle = |outcome| ..`", [];
    /// | `permit` | a name: binds a `CallPermit` in the body, which settles the call from there or from a spawned task | – |
    permit "permit" Value, "permit = reserved", ["handle"];
    /// | `backoff(initial, max)` | two durations: a denial blocks the key for `initial`, the next one for twice that, up to `max`; `max` without a denial resets it | off |
    backoff "backoff" Option<Arg<BackoffArgs>>, "backoff(initial = \"1s\", max = \"1h\")", [];
    /// | `ban` | duration in quotes: a call that exceeds the limit bans the key for this long. Calls during the ban do not prolong it. Not with `backoff` | off |
    ban "ban" Value, "ban = \"10m\"", ["jail" "penalty"];
    /// | `on_backend_error` | while the backend fails: `local` (the same limits in this process), `allow`, `deny` | `local` |
    on_backend_error "on_backend_error" Value, "on_backend_error = deny", ["on_error" "fail_open" "fail_closed"];
    /// | `dry_run` | flag: counts and reports, but never denies | off |
    dry_run "dry_run" Flag, "write `dry_run` to count without denying", ["shadow"];
    /// | `docs = false` | omits the line about the limit from the function's docs | [one line](#docs) |
    docs "docs" Value, "docs = false", ["doc"];
    /// | `allow(..)` | names of attributes on the function, such as `throws`, that only share their name with a [refused](#other-attributes) one | refused |
    allow "allow" Names, "allow(throws)", [];
    /// | `crate` | path to the runtime if it is re-exported | `::ratelimit_runtime`, or its name in `Cargo.toml` |
    runtime "crate" Value, "crate = path::to::ratelimit_runtime", ["krate"];
}

arguments! {
    /// The contents of `limit(..)`, or the top-level arguments of a single limit. `key` only inside
    /// `limit(..)`.
    LimitArgs of "limit", as in "count = 100, per = \"1s\"", in the docs by rows_of_a_limit;
    /// | `count` | integer from 1, or a `u32` expression over the function's arguments, read at each call (0 denies) | required |
    count "count" Value, "count = 100",
        ["calls" "requests" "max" "max_calls" "max_requests" "rate" "quota" "permits"];
    /// | `per` | [duration](#durations) in quotes, or a `Duration` expression, read at each call | required |
    per "per" Value, "per = \"1s\"", ["period" "window" "interval" "duration" "every" "time"];
    /// | `calendar` | `"day"`, `"week"`, `"month"`, `"year"`, instead of `per`, for a `fixed_window`: [windows of a time zone](#calendars) (feature `calendar`) | windows of `per` from the Unix epoch in UTC |
    calendar "calendar" Value, "calendar = \"month\"", [];
    /// | `zone` | name of a time zone in quotes, for a `calendar` | `"UTC"` |
    zone "zone" Value, "zone = \"Europe/Berlin\"", ["timezone" "time_zone" "tz"];
    /// | `week_starts` | `monday` to `sunday`, for `calendar = "week"` | `monday` |
    week_starts "week_starts" Value, "week_starts = sunday", ["week_start"];
    /// | `starts_on` | day of the month, 1 to 31, or a `u8` expression over the function's arguments, read at each call, for `calendar = "month"` | 1 |
    starts_on "starts_on" Value, "starts_on = 15", ["first_day" "billing_day"];
    /// | `algorithm` | `sliding_window`, `token_bucket`, `fixed_window` | `sliding_window` |
    algorithm "algorithm" Value, "algorithm = token_bucket", ["algo" "strategy"];
    /// | `burst` | integer or constant, for a `token_bucket` only: capacity of the bucket | `count` |
    burst "burst" Value, "burst = 20", ["capacity" "bucket"];
    key "key" Value, "key = user_id", ["by" "key_func"];
}

arguments! {
    /// The contents of `backoff(..)`.
    BackoffArgs of "backoff", as in "initial = \"1s\", max = \"1h\"", in the docs by rows_of_a_backoff;
    initial "initial" Value, "initial = \"1s\"", ["start" "first" "base" "min"];
    max "max" Value, "max = \"1h\"", ["maximum" "cap"];
}

arguments! {
    /// `wait` alone, `wait = ".."` (its `max`), or the contents of `wait(..)`.
    WaitArgs of "wait", as in "max = \"2s\", queue = 100", in the docs by rows_of_a_wait;
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
