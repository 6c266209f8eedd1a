//! A module that redefines names of the prelude and of the runtime.
#![deny(warnings)]
#![no_implicit_prelude]
#![allow(non_camel_case_types, non_upper_case_globals, reason = "of names that the expansion must not meet")]
#![allow(dead_code, reason = "nothing but their names is of use")]

struct Result;
struct Option;
struct Some;
struct None;
struct Ok;
struct Err;
struct Duration;
struct Box;
struct u32;
struct u64;
struct bool;
struct str;
mod std {}
mod core {}
mod ratelimit_runtime {}
const limiter: () = ();
const key: () = ();
const exceeded: () = ();
static rt: () = ();
fn drop() {}
macro_rules! file {
    () => {
        ()
    };
}
macro_rules! line {
    () => {
        ()
    };
}
macro_rules! assert {
    ($($any:tt)*) => {
        ()
    };
}

#[::ratelimit_runtime::rate_limit(count = 1 + 1, per = "1m", cost = 1, exempt_when = false, key = user)]
fn call(user: &::core::primitive::str) -> ::core::option::Option<&::core::primitive::str> {
    ::core::option::Option::Some(user)
}

#[::ratelimit_runtime::rate_limit(count = 2, per = "1m", deduct_when = ::core::option::Option::is_some)]
async fn asynchronous() -> ::core::option::Option<::core::primitive::u32> {
    ::core::option::Option::Some(1)
}

fn main() {
    let _ = (file!(), line!());
    for admitted in [true, true, false] {
        ::core::assert_eq!(call("alice").is_some(), admitted);
    }
    let _ = (asynchronous(), assert!(false));
}
