//! What a denied call returns.

use std::fmt::Display;
use std::io;
use std::pin::Pin;

use crate::{admitted_of_five, admitted_of_five_async};
use ratelimit_runtime::{FromRateLimitExceeded, RateLimitExceeded, rate_limit};

#[derive(Debug, PartialEq)]
enum AppError {
    Limited(String),
}

impl From<RateLimitExceeded> for AppError {
    fn from(exceeded: RateLimitExceeded) -> Self {
        Self::Limited(exceeded.limiter().to_owned())
    }
}

#[rate_limit(count = 1, per = "1h", name = "of an error of one's own")]
fn own_error() -> Result<u32, AppError> {
    Ok(1)
}

#[rate_limit(count = 1, per = "1h")]
fn boxed_error() -> Result<u32, Box<dyn std::error::Error + Send + Sync>> {
    Ok("1".parse()?)
}

#[rate_limit(count = 1, per = "1h")]
fn io_error() -> io::Result<u32> {
    Ok(1)
}

#[rate_limit(count = 1, per = "1h")]
fn option() -> Option<u32> {
    Some(1)
}

#[rate_limit(count = 1, per = "1h")]
fn impl_inside() -> Result<impl Display, RateLimitExceeded> {
    Ok(1)
}

#[derive(Debug, PartialEq)]
enum Answer {
    Served,
    TooMany,
}

impl FromRateLimitExceeded for Answer {
    fn from_rate_limit_exceeded(_: RateLimitExceeded) -> Self {
        Self::TooMany
    }
}

#[rate_limit(count = 1, per = "1h")]
fn own_type() -> Answer {
    Answer::Served
}

#[rate_limit(count = 1, per = "1h", or_else = |exceeded| format!("{text}: {}", exceeded.retry_after_secs().is_some()))]
fn by_closure(text: &str) -> String {
    text.to_owned()
}

fn fallback(exceeded: RateLimitExceeded) -> u32 {
    drop(exceeded);
    0
}

#[rate_limit(count = 1, per = "1h", or_else = fallback)]
fn by_path() -> u32 {
    1
}

#[rate_limit(count = 1, per = "1h", or_else = |_| owned)]
fn takes_an_argument(owned: String) -> String {
    owned + "!"
}

#[rate_limit(count = 1, per = "1h", or_else = |_| "denied".to_owned())]
fn opaque(number: u32) -> impl Display + Clone {
    number.to_string()
}

#[rate_limit(count = 1, per = "1h", or_else = |_| 0)]
async fn asynchronous() -> u32 {
    1
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

#[rate_limit(count = 1, per = "1h", or_else = |exceeded| Err(Box::new(exceeded)))]
fn coerced(text: &str) -> Result<&str, BoxError> {
    Ok(text)
}

#[rate_limit(count = 1, per = "1h", or_else = |exceeded| Err(Box::new(exceeded)))]
async fn coerced_async(text: &str) -> Result<Option<impl Display>, BoxError> {
    Ok(Some(text))
}

#[rate_limit(count = 1, per = "1h", or_else = |exceeded| Err(Box::new(exceeded)))]
#[expect(clippy::manual_async_fn, reason = "the shape")]
fn coerced_in_a_block(text: &str) -> impl Future<Output = Result<u32, BoxError>> {
    async move { Ok(text.parse()?) }
}

#[rate_limit(count = 1, per = "1h", or_else = |exceeded| Err(Box::new(exceeded)), deduct_when = Result::is_ok)]
fn coerced_in_a_box(text: &str) -> Pin<Box<dyn Future<Output = Result<u32, BoxError>> + '_>> {
    Box::pin(async move { Ok(text.parse()?) })
}

#[tokio::test]
async fn or_else_may_return_what_coerces_to_the_return_type() {
    assert_eq!(admitted_of_five(|| coerced("1")), 1);
    assert_eq!(admitted_of_five_async(|| coerced_async("1")).await, 1);
    assert_eq!(admitted_of_five_async(|| coerced_in_a_block("1")).await, 1);
    assert_eq!(admitted_of_five_async(|| coerced_in_a_box("1")).await, 1);
}

#[rate_limit(count = 1, per = "1h", or_else = |_| panic!("denied"))]
fn never(flag: bool) -> ! {
    panic!("admitted {flag}")
}

#[tokio::test]
async fn a_denied_call_returns_by_its_type_or_or_else() {
    assert_eq!(own_error(), Ok(1));
    assert_eq!(own_error(), Err(AppError::Limited("of an error of one's own".to_owned())));
    assert_eq!(admitted_of_five(boxed_error), 1);
    assert!(boxed_error().unwrap_err().is::<RateLimitExceeded>());
    assert_eq!(admitted_of_five(io_error), 1);
    assert!(io_error().unwrap_err().get_ref().is_some_and(|error| error.is::<RateLimitExceeded>()));
    assert_eq!([option(), option()], [Some(1), None]);
    assert_eq!(admitted_of_five(impl_inside), 1);
    assert_eq!([own_type(), own_type()], [Answer::Served, Answer::TooMany]);
    assert_eq!([by_closure("a"), by_closure("a")], ["a", "a: true"]);
    assert_eq!([by_path(), by_path()], [1, 0]);
    assert_eq!([takes_an_argument("a".to_owned()), takes_an_argument("a".to_owned())], ["a!", "a"]);
    assert_eq!([format!("{}", opaque(1)), format!("{}", opaque(1))], ["1", "denied"]);
    assert_eq!([asynchronous().await, asynchronous().await], [1, 0]);
}

#[test]
fn a_function_that_never_returns_may_be_limited() {
    let message = |call: fn()| *std::panic::catch_unwind(call).unwrap_err().downcast::<String>().unwrap();
    assert_eq!(message(|| never(true)), "admitted true");
    let denied = std::panic::catch_unwind(|| never(true)).unwrap_err();
    assert_eq!(denied.downcast_ref::<&str>(), Some(&"denied"));
}
