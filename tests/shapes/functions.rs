//! Free functions and their signatures.
#![allow(unsafe_code, reason = "`unsafe fn` is one of the shapes")]

use crate::{Limited, admitted_of_five};
use ratelimit_runtime::rate_limit;

#[rate_limit(count = 2, per = "1h")]
fn without_a_key() -> Limited<u32> {
    Ok(7)
}

#[test]
fn a_function_without_a_key_has_one_bucket() {
    assert_eq!(without_a_key().ok(), Some(7));
    assert_eq!(admitted_of_five(without_a_key), 1);
}

#[rate_limit(count = 2, per = "1h", key = user_id)]
fn by_reference(user_id: &str) -> Limited<usize> {
    Ok(user_id.len())
}

#[test]
fn each_key_has_a_bucket_of_its_own() {
    assert_eq!(admitted_of_five(|| by_reference("a")), 2);
    assert_eq!(admitted_of_five(|| by_reference("b")), 2);
}

#[rate_limit(count = 2, per = "1h", key = user)]
fn by_value(user: String) -> Limited<String> {
    Ok(user)
}

#[test]
fn a_key_is_borrowed_and_the_body_still_owns_it() {
    assert_eq!(admitted_of_five(|| by_value("a".to_owned())), 2);
}

#[rate_limit(count = 2, per = "1h", key = (user, (tenant, id)))]
fn by_tuple(user: String, tenant: &str, id: u64) -> Limited<String> {
    Ok(user + tenant + &id.to_string())
}

#[test]
fn a_tuple_of_places_is_borrowed_element_by_element() {
    assert_eq!(admitted_of_five(|| by_tuple("a".to_owned(), "t", 1)), 2);
    assert_eq!(admitted_of_five(|| by_tuple("a".to_owned(), "t", 2)), 2);
}

#[rate_limit(count = 2, per = "1h", key = ("search", user, user.len()))]
fn by_mixed_tuple(user: String) -> Limited<String> {
    Ok(user)
}

#[test]
fn a_place_in_a_mixed_tuple_is_borrowed_too() {
    assert_eq!(admitted_of_five(|| by_mixed_tuple("a".to_owned())), 2);
}

#[rate_limit(count = 2, per = "1h", key = text.parse::<u32>().unwrap_or_default())]
fn by_expression(text: &str) -> Limited<usize> {
    Ok(text.len())
}

#[test]
fn a_key_may_be_computed() {
    assert_eq!(admitted_of_five(|| by_expression("07")), 2);
    assert!(by_expression("7").is_err());
    assert!(by_expression("8").is_ok());
}

#[derive(Debug)]
enum Fault {
    Number,
    Limited,
}

impl From<std::num::ParseIntError> for Fault {
    fn from(_: std::num::ParseIntError) -> Self {
        Self::Number
    }
}

impl From<ratelimit_runtime::RateLimitExceeded> for Fault {
    fn from(_: ratelimit_runtime::RateLimitExceeded) -> Self {
        Self::Limited
    }
}

#[rate_limit(count = 2, per = "1h", key = text.parse::<u32>()?)]
fn by_question_mark(text: &str) -> Result<usize, Fault> {
    Ok(text.len())
}

#[test]
fn a_key_may_return_early() {
    assert!(matches!(by_question_mark("x"), Err(Fault::Number)));
    assert_eq!(admitted_of_five(|| by_question_mark("1")), 2);
    assert!(matches!(by_question_mark("1"), Err(Fault::Limited)));
}

#[rate_limit(count = 2, per = "1h", key = a + d)]
fn patterns((a, _b): (u32, u32), [_c, .., d]: [u32; 3], Point { x, y: _ }: Point) -> Limited<u32> {
    Ok(a + d + x)
}

struct Point {
    x: u32,
    y: u32,
}

#[test]
fn arguments_may_be_patterns() {
    let call = || patterns((1, 2), [3, 4, 5], Point { x: 6, y: 7 });
    assert_eq!(call().ok(), Some(12));
    assert_eq!(admitted_of_five(call), 1);
    assert_eq!(Point { x: 0, y: 7 }.y, 7);
}

#[rate_limit(count = 2, per = "1h", key = total)]
fn mutable_argument(mut total: u32) -> Limited<u32> {
    total += 1;
    Ok(total)
}

#[test]
fn an_argument_may_be_mutable() {
    assert_eq!(mutable_argument(1).ok(), Some(2));
    assert_eq!(admitted_of_five(|| mutable_argument(1)), 1);
}

#[rate_limit(count = 2, per = "1h", key = list.len())]
fn mutable_reference(list: &mut [u32]) -> Limited<&mut u32> {
    Ok(&mut list[0])
}

#[test]
fn a_mutable_borrow_can_be_returned() {
    let mut list = [1, 2];
    *mutable_reference(&mut list).unwrap() = 5;
    assert_eq!(list[0], 5);
    assert!(mutable_reference(&mut list).is_ok());
    assert!(mutable_reference(&mut list).is_err());
}

#[rate_limit(count = 2, per = "1h", key = _reserved)]
#[expect(clippy::used_underscore_binding, reason = "by the attribute")]
fn underscored(_reserved: u8) -> Limited {
    Ok(())
}

#[test]
fn a_key_may_be_an_argument_that_the_body_ignores() {
    assert_eq!(admitted_of_five(|| underscored(1)), 2);
}

/// Adds one.
///
/// # Safety
/// `number` points to a number.
#[rate_limit(count = 2, per = "1h")]
unsafe fn dangerous(number: *const u32) -> Limited<u32> {
    // SAFETY: guaranteed by the caller.
    Ok(unsafe { *number } + 1)
}

#[test]
fn a_function_may_be_unsafe() {
    let number = 1;
    // SAFETY: the pointer is a reference to a number.
    assert_eq!(admitted_of_five(|| unsafe { dangerous(&raw const number) }), 2);
}

#[rate_limit(count = 2, per = "1h", or_else = |_| -1)]
extern "C" fn foreign(number: i32) -> i32 {
    number
}

#[test]
fn a_function_may_have_another_abi() {
    let call: extern "C" fn(i32) -> i32 = foreign;
    assert_eq!([call(1), call(2), call(3)], [1, 2, -1]);
}

#[rate_limit(count = 3, per = "1h", key = start)]
fn recursive(start: u32, depth: u32) -> Limited<u32> {
    if depth == 0 { Ok(start) } else { recursive(start, depth - 1) }
}

#[test]
fn each_step_of_a_recursion_is_a_call() {
    assert_eq!(recursive(1, 2).ok(), Some(1));
    assert!(recursive(1, 0).is_err());
    assert!(recursive(2, 3).is_err());
}

fn outer(limited: bool) -> Limited<u32> {
    #[rate_limit(count = 2, per = "1h")]
    fn inner() -> Limited<u32> {
        Ok(1)
    }
    if limited { inner() } else { Ok(0) }
}

#[test]
fn a_function_within_a_function_is_limited_alone() {
    assert_eq!(admitted_of_five(|| outer(true)), 2);
    assert_eq!(admitted_of_five(|| outer(false)), 5);
}

#[rate_limit(count = 3, per = "1h")]
#[rate_limit(count = 2, per = "1h", key = user)]
fn twice(user: u8) -> Limited<u8> {
    Ok(user)
}

#[test]
fn two_attributes_on_one_function_both_hold() {
    assert_eq!(admitted_of_five(|| twice(1)), 2);
    assert_eq!(admitted_of_five(|| twice(2)), 1);
}

#[rate_limit(count = 3, per = "1h")]
#[rate_limit(count = 2, per = "1h")]
fn named_twice() -> Limited {
    Ok(())
}

#[test]
fn two_attributes_on_one_function_have_names_of_their_own() {
    let _ = named_twice();
    let limiters = ratelimit_runtime::limiters();
    let names: Vec<&str> = limiters
        .iter()
        .map(|limiter| limiter.name.as_str())
        .filter(|name| name.contains("functions::named_twice"))
        .collect();
    assert_eq!(names.len(), 2, "{names:?}");
    assert_ne!(names[0], names[1]);
}

mod visible {
    use super::Limited;
    use ratelimit_runtime::rate_limit;

    #[rate_limit(count = 2, per = "1h")]
    pub(in crate::functions) fn restricted() -> Limited {
        Ok(())
    }
}

#[test]
fn visibility_stays() {
    assert_eq!(admitted_of_five(visible::restricted), 2);
}

#[rate_limit(count = 1, per = "1h")]
fn callbacks(
    once: impl FnOnce() -> u32,
    many: &mut dyn FnMut(u32),
    plain: for<'a> fn(&'a str) -> &'a str,
) -> Limited<u32> {
    many(once());
    Ok(u32::try_from(plain("abc").len()).unwrap_or(0))
}

#[test]
fn an_argument_may_be_a_function() {
    let mut seen = Vec::new();
    let mut call = || callbacks(|| 7, &mut |number| seen.push(number), |text| text);
    assert_eq!(call().ok(), Some(3));
    assert!(call().is_err());
    assert_eq!(seen, [7]);
}

#[rate_limit(count = 1, per = "1h", key = (first, name))]
fn borrowed_patterns(
    &mut (ref mut total, ref name): &mut (u32, String),
    &[first, .., last]: &[u32; 3],
    _: bool,
) -> Limited<u32> {
    *total += last;
    Ok(first)
}

#[test]
fn a_pattern_may_borrow() {
    let mut pair = (1, "a".to_owned());
    assert_eq!(borrowed_patterns(&mut pair, &[1, 2, 3], true).ok(), Some(1));
    assert!(borrowed_patterns(&mut pair, &[1, 2, 3], true).is_err());
    assert_eq!(pair.0, 4);
}

/// # Safety
/// `number` points to a number.
#[rate_limit(count = 1, per = "1h", or_else = |_| -1)]
unsafe extern "C" fn dangerous_and_foreign(number: *const i32) -> i32 {
    // SAFETY: guaranteed by the caller.
    unsafe { *number }
}

#[test]
fn a_function_may_be_unsafe_and_of_another_abi() {
    let number = 5;
    let call: unsafe extern "C" fn(*const i32) -> i32 = dangerous_and_foreign;
    // SAFETY: the pointer is a reference to a number.
    assert_eq!(unsafe { [call(&raw const number), call(&raw const number)] }, [5, -1]);
}
