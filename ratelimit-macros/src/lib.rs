//! The `#[rate_limit]` attribute of [`ratelimit-runtime`](https://docs.rs/ratelimit-runtime), which re-exports it: depend on
//! that crate and write `use ratelimit_runtime::rate_limit;`. This crate is of no use by itself, since what it expands to
//! calls the runtime.

use proc_macro::TokenStream;

mod args;
mod attribute;
mod denial;
mod dependency;
mod derive_key;
mod describe;
mod diagnostics;
mod duration;
mod expand;
mod expand_limits;
mod item;
mod model;
mod neighbours;
mod shape;
mod suggest;
#[cfg(test)]
mod tests;
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
/// The check runs in front of the body, which stays as it is written: signature, lifetimes, `?`, `.await`, drop order and
/// lints are what they are without the attribute. The hundred and first call of one user within any second returns the
/// error, and the body does not run.
///
/// # Arguments
///
/// | argument | takes | without it |
/// | --- | --- | --- |
/// | `count` | integer from 1, or a `u32` expression over the arguments of the function, read at each call (0 denies) | required |
/// | `per` | [duration](#durations) in quotes, or a `Duration` expression, read at each call | required |
/// | `key` | expression over the arguments, `self` included, whose type is a `RateLimitKey`: each key has its own bucket | one bucket for the whole function |
/// | `algorithm` | `sliding_window`, `token_bucket`, `fixed_window` | `sliding_window` |
/// | `burst` | integer or constant, of a `token_bucket` only: size of the bucket | `count` |
/// | `cost` | `u32` expression: permits that the call takes; 0 takes none and is never denied | 1 |
/// | `limit(count, per, algorithm, burst)` | instead of `count` and `per` at the top, up to eight times: several limits on one key, of which all are charged or none | one limit |
/// | `name` | string, an `UPPER_CASE` constant, or `concat!(..)`, `stringify!(..)`, `env!(..)`: the limiter's name in the backend, in errors, logs and metrics | path of the function |
/// | `limiter` | path to a `static` limiter, or an expression such as `self.limiter` (borrowed), instead of limits, name and backend: its buckets are shared with whoever else uses it | a limiter of the function's own |
/// | `backend` | `memory`, `redis` (feature `redis`), or an expression, evaluated once | the process's default |
/// | `wait`, `wait = "2s"` | wait for the permits: as long as it takes; only if they come within that time, else fail at once. In an async function it needs the feature `tokio` | fail at once |
/// | `wait(max = "2s", queue = 100, priority = expr)` | the same with bounds: only if fewer than `queue` calls of the key wait, and those of a higher `priority` (`u8`) first; each step counts as having come a minute earlier, so that none starves. Through a backend both are about the calls of this process | – |
/// | `or_else` | closure or path, from `RateLimitExceeded` to what the function returns; it may use the arguments | see [below](#a-denied-call) |
/// | `exempt_when` | `bool` expression: if true, the body runs and the limiter is not touched | never |
/// | `deduct_when` | closure or path, from `&R` to `bool`, `R` being what the body returned: if false, the permits are given back | every call counts |
/// | `backoff(initial, max)` | two durations: a denial blocks the key for `initial`, the next one for twice that, up to `max`; `max` without a denial forgives | off |
/// | `on_backend_error` | what happens while the backend fails: `local` (the same limits in this process), `allow`, `deny` | `local` |
/// | `dry_run` | flag: count and report, but never deny | off |
/// | `docs = false` | no line about the limit in the docs of the function | [one line](#docs) |
/// | `allow(..)` | names of attributes below, such as `throws`, that are other macros than those refused by that name | [refused](#other-attributes) |
/// | `crate` | path to the runtime where it is re-exported | `::ratelimit_runtime`, or what `Cargo.toml` calls it |
///
/// They are evaluated in the order `exempt_when`; `count`, `per`; `cost`; `key`, and none of them but the first if that
/// is true.
///
/// A place as `key` (`user`, `self.tenant`) is borrowed, and so are the places in a tuple; anything else is evaluated as
/// written, which moves what it names: write `&name` or `name.clone()` in it if the body needs it.
///
/// A constant (a path in `UPPER_CASE`) is checked by the compiler as a literal is.
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
/// // A job that takes its time rather than fail.
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
/// # A denied call
///
/// It returns what `FromRateLimitExceeded` makes of the error for the return type that is written:
///
/// | return type | a denied call returns |
/// | --- | --- |
/// | `Result<T, E>` with `E: From<RateLimitExceeded>` | `Err(E::from(exceeded))` |
/// | `Option<T>` | `None` |
/// | response types of web frameworks, `impl IntoResponse`, `impl Responder` (with their features) | 429 with its headers |
/// | any other | does not compile, unless `or_else` is given, or `wait` lets no call be denied |
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
/// # Durations
///
/// `"250ms"`, `"10us"`, `"1s"`, `"1m"`, `"1h"`, `"1d"`, `"1w"`; compounds such as `"1h30m"`; words such as `"2 minutes"`;
/// a bare unit such as `"second"` is one of it. From one microsecond to 366 days. Months and years have no fixed length
/// and are refused.
///
/// # Functions
///
/// Free and associated functions; methods, whatever their `self`; methods of traits that have a body; generic functions
/// (which have one limiter for all their instantiations); `async fn`, and functions that end with `async move { .. }` or
/// `Box::pin(async move { .. })` (so those of `#[async_trait]` too); `unsafe` and `extern` functions; functions made by
/// `macro_rules!`.
///
/// An async function is checked when its future is first polled, and its future is `Send` where it was. In a function that
/// ends with an `async` block, `key` is evaluated inside the block, and the statements before the block run unlimited.
///
/// With `deduct_when`, and where `impl IntoResponse` or `impl Responder` is returned, the body runs in a closure or an
/// `async` block of its own: arguments that it uses are dropped before `deduct_when` sees the outcome, which therefore
/// cannot use what the body takes; `?` in `key` is not available where `impl` is returned; and `#[track_caller]` is refused,
/// because the body would not see the caller.
///
/// Of two `#[rate_limit]` on one function the lower one is checked first, and
/// its permits stay taken if the upper one denies; several `limit(..)` in one attribute are decided together. Under
/// `#[async_trait]`, an argument that is a pattern has no name that `key` could use: give it one, and take it apart in the
/// body.
///
/// # Other attributes
///
/// Put `#[rate_limit]` below attributes that rewrite the body or the return type (`throws`,
/// `ensures`, `maybe_async`), above those that store results or copy attributes (`cached`), and on
/// the functions of an `impl` rather than on a macro's trait. `docs/beside-other-attributes.md` in
/// the repository lists those that were tried, in both orders. Some are refused if they can be seen
/// to make a wrong answer of a denial: `throws`, `try_fn`, `ensures`, `debug_ensures`,
/// `test_ensures` and `must_be_sync` below, `memoize` below and above. If the name is that of
/// another macro, `allow(throws)` lets it stand.
///
/// # Mistakes
///
/// All mistakes of one attribute are reported at once, each at the token that is wrong. The function is still compiled,
/// without its limit, so that nothing else fails because of them.
///
/// # Docs
///
/// The docs of the function end with a line such as “Rate limit: 100 calls per 1s for each
/// `user_id`; sliding window.” Of expressions it shows only names of arguments, because other
/// macros show docs to strangers: in `OpenAPI` documents, the help of chat bots, the tools of
/// language models. `docs = false` leaves it out. A function without docs gets the line from
/// rustdoc only, so that `missing_docs` still asks for its own.
#[proc_macro_attribute]
pub fn rate_limit(args: TokenStream, item: TokenStream) -> TokenStream {
    attribute::expand(args.into(), item.into(), model::Features::ENABLED).into()
}

/// Makes a struct or an enum a key: its fields, of which each is a key, are written as one value; of an enum the name of the
/// variant before them.
///
/// A tuple struct of one field writes that field alone: `UserId(7)` is the same key as `7`. Where the runtime is renamed or
/// re-exported, `#[rate_limit_key(crate = path::to::ratelimit_runtime)]` names it.
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
