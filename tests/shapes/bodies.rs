//! Bodies stay untouched.

use std::cell::RefCell;

use crate::{Limited, admitted_of_five};
use ratelimit_runtime::rate_limit;

#[rate_limit(count = 2, per = "1h")]
fn begins_with_items() -> Limited<u32> {
    use std::cmp::max;
    const ONE: u32 = 1;
    const fn two() -> u32 {
        2
    }
    struct Three(u32);
    Ok(max(ONE, two()) + Three(3).0)
}

#[rate_limit(count = 2, per = "1h")]
fn begins_with_inner_attributes() -> Limited<u32> {
    #![allow(unused_variables)]
    let unused = 1;
    Ok(5)
}

#[rate_limit(count = 2, per = "1h")]
async fn begins_with_inner_attributes_async() -> Limited<u32> {
    #![allow(unused_variables)]
    let unused = 1;
    Ok(5)
}

#[tokio::test]
async fn a_body_may_begin_with_anything() {
    assert_eq!(begins_with_items().ok(), Some(5));
    assert_eq!(admitted_of_five(begins_with_items), 1);
    assert_eq!(admitted_of_five(begins_with_inner_attributes), 2);
    assert_eq!(crate::admitted_of_five_async(begins_with_inner_attributes_async).await, 2);
}

#[rate_limit(count = 3, per = "1h")]
fn returns_early(early: bool) -> Limited<u32> {
    if early {
        return Ok(1);
    }
    let parsed: u32 = "2".parse().unwrap_or_default();
    Ok(parsed)
}

#[test]
fn a_body_may_return_early() {
    assert_eq!(returns_early(true).ok(), Some(1));
    assert_eq!(returns_early(false).ok(), Some(2));
    assert!(returns_early(true).is_ok());
    assert!(returns_early(true).is_err());
}

thread_local! {
    static DROPPED: RefCell<Vec<&'static str>> = const { RefCell::new(Vec::new()) };
}

struct Noisy(&'static str);

impl Drop for Noisy {
    fn drop(&mut self) {
        DROPPED.with_borrow_mut(|dropped| dropped.push(self.0));
    }
}

#[rate_limit(count = 1, per = "1h", key = first.0)]
#[expect(clippy::needless_pass_by_value, reason = "it is to be dropped")]
fn drops(first: Noisy, _: Noisy, _third: Noisy) -> Limited {
    let _local = Noisy("local");
    let _ = &first;
    Ok(())
}

#[expect(clippy::needless_pass_by_value, clippy::unnecessary_wraps, reason = "as the one above")]
fn drops_without(first: Noisy, _: Noisy, _third: Noisy) -> Limited {
    let _local = Noisy("local");
    let _ = &first;
    Ok(())
}

#[test]
fn the_drop_order_of_arguments_stays() {
    let _ = drops_without(Noisy("first"), Noisy("second"), Noisy("third"));
    let without = DROPPED.take();
    let _ = drops(Noisy("first"), Noisy("second"), Noisy("third"));
    assert_eq!(DROPPED.take(), without);
    let _ = drops(Noisy("first"), Noisy("second"), Noisy("third"));
    assert_eq!(DROPPED.take(), without[1..]);
}

#[rate_limit(count = 2, per = "1h", key = 1)]
fn is_one_expression(number: u32) -> Limited<u32> {
    match number {
        0 => Ok(0),
        other => Ok(other + 1),
    }
}

#[rate_limit(count = 2, per = "1h", or_else = |_| ())]
fn is_empty() {}

#[rate_limit(count = 2, per = "1h", or_else = |_| Box::new(std::iter::empty()))]
fn coerces(upto: u32) -> Box<dyn Iterator<Item = u32>> {
    Box::new(0..upto)
}

#[rate_limit(count = 2, per = "1h", or_else = |_| Box::new(std::iter::empty()), deduct_when = |_| true)]
fn coerces_looked_at(upto: u32) -> Box<dyn Iterator<Item = u32>> {
    Box::new(0..upto)
}

#[test]
fn a_body_may_be_any_expression() {
    assert_eq!(admitted_of_five(|| is_one_expression(1)), 2);
    is_empty();
    assert_eq!((0..5).map(|_| coerces(2).count()).sum::<usize>(), 4);
    assert_eq!((0..5).map(|_| coerces_looked_at(2).count()).sum::<usize>(), 4);
}

#[rate_limit(count = 2, per = "1h")]
fn labels_and_loops() -> Limited<u32> {
    let mut total = 0;
    'outer: loop {
        for step in 0.. {
            if step > 3 {
                break 'outer;
            }
            total += step;
        }
    }
    Ok(total)
}

#[test]
fn loops_and_labels_stay() {
    assert_eq!(labels_and_loops().ok(), Some(6));
    assert_eq!(admitted_of_five(labels_and_loops), 1);
}
