//! The `#[rate_limit]` attribute of [`ratelimit-runtime`](https://docs.rs/ratelimit-runtime).
//!
//! Depend on that crate, which re-exports the attribute, and write
//! `use ratelimit_runtime::rate_limit;`. The expansion calls the runtime, so this crate is of no
//! use by itself.

use proc_macro::TokenStream;

mod args;
#[macro_use]
mod arguments;
mod attribute;
mod denial;
mod dependency;
mod derive_key;
mod describe;
mod diagnostics;
mod duration;
mod expand;
mod expand_limits;
mod hygiene;
mod item;
mod model;
mod neighbours;
mod shape;
mod suggest;
#[cfg(test)]
mod tests;
mod validate;
mod values;

/// Limits how often a function is called.
///
/// ```
/// use ratelimit_runtime::{RateLimitExceeded, rate_limit};
///
/// #[rate_limit(count = 100, per = "1s", key = user_id)]
/// fn search(user_id: &str) -> Result<Vec<String>, RateLimitExceeded> {
///     Ok(vec![format!("a result for {user_id}")])
/// }
///
/// # fn main() -> Result<(), RateLimitExceeded> {
/// assert_eq!(search("ann")?.len(), 1);
/// # Ok(())
/// # }
/// ```
///
/// The check runs before the body, which stays as written: signature, lifetimes, `?`, `.await`,
/// drop order and lints are the same as without the attribute. Here, a user's 101st call within any
/// second returns the error and does not run the body.
///
/// # Arguments
///
/// | argument | takes | without it |
#[doc = concat!("| --- | --- | --- |", rows_of_a_limit!(), rows_of_a_call!())]
///
/// Expressions are evaluated in this order: `exempt_when`; `count`, `per`, `starts_on`; `cost`;
/// `key`, or all keys in order. If `exempt_when` is true, no other is evaluated.
///
/// If `key` is a place (`user`, `self.tenant`) it is borrowed, and so are the places in a tuple.
/// Any other expression is evaluated as written, which moves what it names. If the body needs the
/// value, write `&name` or `name.clone()`.
///
/// Constants (paths in `UPPER_CASE`) are checked by the compiler and cost a call as little as
/// literals do.
///
/// ```
/// use std::time::Duration;
/// use ratelimit_runtime::{RateLimitExceeded, rate_limit};
///
/// struct Tenant { id: u64, calls_per_minute: u32 }
///
/// impl Tenant {
///     // Several limits at once, a cost, and a method's own fields as the key.
///     #[rate_limit(
///         limit(count = 1_000, per = "1h"),
///         limit(count = 50, per = "1s", algorithm = token_bucket, burst = 100),
///         key = (self.id, region),
///         cost = documents.len() as u32,
///     )]
///     fn index(&self, region: &str, documents: &[&str]) -> Result<(), RateLimitExceeded> {
///         println!("{} documents to {region}", documents.len());
///         Ok(())
///     }
///
///     // A limit that each tenant has bought.
///     #[rate_limit(count = self.calls_per_minute, per = "1m", key = self.id)]
///     async fn fetch(&self) -> Result<String, Box<dyn std::error::Error + Send + Sync>> {
///         Ok(String::new())
///     }
/// }
///
/// // Only wrong passwords count, and administrators are never locked out.
/// #[rate_limit(
///     count = 5,
///     per = "15m",
///     key = user,
///     exempt_when = user == "admin",
///     deduct_when = |session| session.is_none(),
/// )]
/// fn log_in(user: &str, password: &str) -> Option<u64> {
///     (password == "sesame").then_some(1)
/// }
///
/// // A job that waits instead of failing.
/// #[rate_limit(count = 10, per = "1s", wait)]
/// fn send_mail(address: &str) {
///     println!("mail to {address}");
/// }
/// # let tenant = Tenant { id: 1, calls_per_minute: 60 };
/// # assert!(tenant.index("eu", &["a"]).is_ok());
/// # assert!(log_in("ann", "sesame").is_some());
/// # send_mail("ann@example.org");
/// ```
///
/// # A key for each limit
///
/// ```
/// use ratelimit_runtime::{RateLimitExceeded, rate_limit};
///
/// #[rate_limit(
///     limit(count = 10, per = "1s", key = user),
///     limit(count = 1_000, per = "1s", key = tenant),
///     limit(count = 50_000, per = "1s"),
/// )]
/// fn search(user: &str, tenant: u64) -> Result<(), RateLimitExceeded> {
///     println!("{user} of {tenant}");
///     Ok(())
/// }
/// # assert!(search("ann", 7).is_ok());
/// ```
///
/// All limits are charged or none is: a user denied by the last limit loses none of their ten
/// permits. A limit without a `key` uses the attribute's `key`, or the bucket of the whole function
/// if there is none. Limits whose keys are written alike share a bucket, and the key is evaluated
/// once.
///
/// The decision is atomic in memory, on one Redis server and in PostgreSQL. In a Redis Cluster and
/// in other stores, a denied call may hold permits for a moment, until they are given back. Through
/// any backend, a call waits for at most four of its keys in turn before it is denied. With an
/// unbounded `wait`, the return type must therefore carry the error, unless `backend = memory`.
///
/// # A denied call
///
/// A denied call returns what `FromRateLimitExceeded` makes of the error for the declared return
/// type:
///
/// | return type | a denied call returns |
/// | --- | --- |
/// | `Result<T, E>` with `E: From<RateLimitExceeded>` | `Err(E::from(exceeded))` |
/// | `Option<T>` | `None` |
/// | response types of web frameworks, `impl IntoResponse`, `impl Responder` (with their features) | 429 with its headers |
/// | any other | does not compile without `or_else`, or a `wait` that can never be denied |
///
/// ```
/// use ratelimit_runtime::rate_limit;
///
/// #[rate_limit(count = 1, per = "1h", or_else = |exceeded| format!("{name}, come back later: {exceeded}"))]
/// fn greet(name: &str) -> String {
///     format!("hello, {name}")
/// }
///
/// assert_eq!(greet("ann"), "hello, ann");
/// assert!(greet("ann").starts_with("ann, come back later"));
/// ```
///
/// # What a call really costs
///
/// The cost of some calls is known only afterwards: tokens of a language model, rows of a query.
/// `cost` is reserved before the body runs, and `settle` returns the real cost.
///
/// ```
/// use ratelimit_runtime::{RateLimitExceeded, rate_limit};
///
/// struct Answer { text: String, tokens: u32 }
///
/// #[rate_limit(count = 10_000, per = "1m", key = team, cost = 500, settle = |outcome| tokens(outcome))]
/// fn ask(team: &str, question: &str) -> Result<Answer, RateLimitExceeded> {
///     Ok(Answer { text: format!("{team}: {question}?"), tokens: 20 })
/// }
///
/// fn tokens(outcome: &Result<Answer, RateLimitExceeded>) -> u32 {
///     outcome.as_ref().map_or(0, |answer| answer.tokens)
/// }
///
/// assert_eq!(ask("blue", "why")?.text, "blue: why?");
/// # Ok::<(), RateLimitExceeded>(())
/// ```
///
/// If the outcome does not say, because the answer is streamed, `permit = reserved` binds a
/// `CallPermit` named `reserved` in the body. It can move into a task, where
/// `reserved.settle_async(tokens).await` settles the call.
///
/// - An overrun is charged when the call is settled, to each limit separately. What does not fit is
///   debt: calls are denied until it is paid, at `count` per `per`.
/// - After a panic, a cancelled future or a dropped permit, the reservation stands.
/// - A call that is exempt, denied in a dry run, or allowed because its backend failed has nothing to
///   settle.
/// - `settle`, `permit` and `deduct_when` exclude each other.
///
/// # Durations
///
/// - `"250ms"`, `"10us"`, `"1s"`, `"1m"`, `"1h"`, `"1d"`, `"1w"`;
/// - compounds such as `"1h30m"`;
/// - words such as `"2 minutes"`; a bare unit such as `"second"` means one of it.
///
/// The range is 1 µs to 366 days. Months and years have no fixed length and are refused: see
/// [calendars](#calendars). The windows of a `fixed_window` are counted from the Unix epoch in UTC:
/// `"1d"` begins at midnight, and `"1w"` on a Thursday.
///
/// # Calendars
///
/// ```
/// use ratelimit_runtime::rate_limit;
///
/// struct Customer { id: u64, billing_day: u8 }
///
/// #[rate_limit(
///     limit(count = 100, calendar = "day", zone = "Europe/Berlin", algorithm = fixed_window),
///     limit(
///         count = 1_000,
///         calendar = "month",
///         zone = "Europe/Berlin",
///         starts_on = customer.billing_day,
///         algorithm = fixed_window,
///     ),
///     key = customer.id,
/// )]
/// fn export(customer: &Customer) -> Option<String> {
///     Some(String::new())
/// }
///
/// assert!(export(&Customer { id: 7, billing_day: 31 }).is_some());
/// ```
///
/// A day is what the zone's clocks show: it has 23 or 25 hours when they change. If midnight is
/// skipped, the day begins at its first moment. If a month is too short for `starts_on`, it starts
/// on its last day. A `zone` is written as in the IANA time zone database; an unknown zone is a
/// compile error. An expression for `starts_on` is clamped to 1 to 31.
///
/// `calendar`, `zone` and `week_starts` belong to the bucket's identity. `starts_on` does not: if
/// it changes, permits already taken count in the new window that contains them.
///
/// # Functions
///
/// The attribute works on:
///
/// - free and associated functions, and methods with any `self`;
/// - trait methods that have a body;
/// - generic functions (all instantiations share one limiter);
/// - `async fn`, and functions that end with `async move { .. }` or `Box::pin(async move { .. })`,
///   including those of `#[async_trait]`;
/// - `unsafe` and `extern` functions, and functions made by `macro_rules!`.
///
/// An async function is checked when its future is first polled. The future stays `Send` if it was
/// `Send`. In a function that ends with an `async` block, `key` is evaluated inside the block, and
/// statements before the block run unlimited.
///
/// The body runs in a closure or an `async` block of its own with `deduct_when`, `settle`,
/// `pause_when`, or a return type of `impl IntoResponse` or `impl Responder`. Then:
///
/// - the arguments that the body uses are dropped before these closures see the outcome, so the
///   closures cannot use what the body takes;
/// - `?` in `key` is not available with an `impl` return type;
/// - in an async function, an outcome that is not `Send` makes the future not `Send`: it is held
///   while the permits come back or the key is paused (not with `settle_later` alone);
/// - `#[track_caller]` is refused, because the body would not see the caller.
///
/// With two `#[rate_limit]` on one function, the lower one is checked first, and its permits stay
/// taken if the upper one denies. Several `limit(..)` in one attribute are decided together. Under
/// `#[async_trait]`, `key` cannot use an argument that is a pattern: name the argument and
/// destructure it in the body.
///
/// # Other attributes
///
/// Put `#[rate_limit]` below attributes that rewrite the body or the return type (`throws`,
/// `ensures`, `maybe_async`) and above those that store results or copy attributes (`cached`). Put
/// it on the functions of an `impl`, not on a macro's trait. `docs/beside-other-attributes.md` in
/// the repository lists the attributes that were tested, in both orders.
///
/// Attributes that visibly turn a denial into a wrong answer are refused: `throws`, `try_fn`,
/// `ensures`, `debug_ensures`, `test_ensures` and `must_be_sync` below, `memoize` below and above.
/// If another macro merely has the same name, `allow(throws)` accepts it.
///
/// # Mistakes
///
/// All mistakes of one attribute are reported at once, each at the wrong token. The function is
/// still compiled, without its limit, so that one mistake causes no further errors.
///
/// # Docs
///
/// The function's docs get a line such as “Rate limit: 100 calls per 1s for each `user_id`; sliding
/// window.” The line comes before the first section (such as `# Errors`), else last. It shows only
/// the names of arguments and no expressions, because other macros publish docs. They do so in
/// `OpenAPI` documents, the help of chat bots, and the tools of language models. `docs = false`
/// omits the line. A function without docs gets the line in rustdoc only, so `missing_docs` still
/// asks for docs.
#[proc_macro_attribute]
pub fn rate_limit(args: TokenStream, item: TokenStream) -> TokenStream {
    attribute::expand(args.into(), item.into(), model::Features::ENABLED).into()
}

/// Makes a struct or an enum a rate limit key.
///
/// Every field must be a key. The fields are written as one value, after the variant's name in an
/// enum. A tuple struct with one field writes that field alone: `UserId(7)` is the same key as `7`.
/// If the runtime is renamed or re-exported,
/// `#[rate_limit_key(crate = path::to::ratelimit_runtime)]` names it.
///
/// ```
/// use ratelimit_runtime::{RateLimitExceeded, RateLimitKey, rate_limit};
///
/// #[derive(RateLimitKey)]
/// enum Caller {
///     Anonymous,
///     Member { tenant: u64, roles: Vec<String> },
/// }
///
/// #[rate_limit(count = 1, per = "1h", key = caller)]
/// fn search(caller: Caller) -> Result<(), RateLimitExceeded> { Ok(()) }
///
/// assert!(search(Caller::Anonymous).is_ok());
/// assert!(search(Caller::Member { tenant: 7, roles: vec!["admin".to_owned()] }).is_ok());
/// assert!(search(Caller::Anonymous).is_err());
/// ```
#[proc_macro_derive(RateLimitKey, attributes(rate_limit_key))]
pub fn derive_rate_limit_key(item: TokenStream) -> TokenStream {
    derive_key::expand(item.into()).into()
}
