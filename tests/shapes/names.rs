//! Names that could collide with those in the expansion.

#![allow(non_upper_case_globals, dead_code, non_snake_case, non_camel_case_types)]

use crate::admitted_of_five;
use ratelimit_runtime::rate_limit;

#[rate_limit(count = 2, per = "1h", key = (limiter, key, result, exceeded))]
fn arguments(limiter: u8, key: u8, result: u8, exceeded: u8, checked: u8, outcome: u8) -> crate::Limited<u8> {
    Ok(limiter + key + result + exceeded + checked + outcome)
}

#[rate_limit(count = 2, per = "1h", key = (held, begun), deduct_when = |outcome| outcome.is_ok())]
fn more_arguments(held: u8, begun: u8, outcome: u8, counts: u8, LIMITER: u8) -> crate::Limited<u8> {
    Ok(held + begun + outcome + counts + LIMITER)
}

#[test]
fn arguments_may_be_called_as_the_expansion_calls_things() {
    assert_eq!(arguments(1, 1, 1, 1, 1, 1).ok(), Some(6));
    assert_eq!(admitted_of_five(|| arguments(1, 1, 1, 1, 1, 1)), 1);
    assert_eq!(admitted_of_five(|| more_arguments(1, 1, 1, 1, 1)), 2);
}

mod shadowed {
    use ::ratelimit_runtime::rate_limit as limited;

    pub(super) struct Result;
    pub(super) struct Option;
    pub(super) struct Ok;
    pub(super) struct Err;
    pub(super) struct Some;
    pub(super) struct None;
    pub(super) struct Duration;
    pub(super) struct u32;
    pub(super) struct bool;
    pub(super) mod std {}
    pub(super) mod core {}
    pub(super) mod ratelimit_runtime {}
    pub(super) static limiter: u8 = 0;
    pub(super) const exceeded: u8 = 0;
    pub(super) const checked: u8 = 0;
    pub(super) const __unrelated: u8 = 0;

    #[limited(count = 1 + 1, per = ::core::time::Duration::from_secs(60), exempt_when = false, cost = 1)]
    pub(super) fn blocking() -> ::core::result::Result<(), ::ratelimit_runtime::RateLimitExceeded> {
        ::core::result::Result::Ok(())
    }

    #[limited(count = 2, per = "1h", deduct_when = |_| true)]
    pub(super) async fn asynchronous() -> ::core::result::Result<(), ::ratelimit_runtime::RateLimitExceeded> {
        ::core::result::Result::Ok(())
    }
}

#[tokio::test]
async fn the_names_of_the_standard_library_may_mean_something_else() {
    assert_eq!(admitted_of_five(shadowed::blocking), 2);
    assert_eq!(crate::admitted_of_five_async(shadowed::asynchronous).await, 2);
}

mod reexported {
    pub(crate) mod deep {
        pub(crate) use ratelimit_runtime as limits;
    }
}

#[rate_limit(count = 2, per = "1h", crate = reexported::deep::limits)]
fn through_a_reexport() -> crate::Limited {
    Ok(())
}

#[rate_limit(count = 2, per = "1h", crate = ::ratelimit_runtime)]
fn through_an_absolute_path() -> crate::Limited {
    Ok(())
}

#[rate_limit(count = 2, per = "1h", crate = crate::names::reexported::deep::limits)]
async fn through_the_crate() -> crate::Limited {
    Ok(())
}

#[tokio::test]
async fn the_runtime_may_be_found_elsewhere() {
    assert_eq!(admitted_of_five(through_a_reexport), 2);
    assert_eq!(admitted_of_five(through_an_absolute_path), 2);
    assert_eq!(crate::admitted_of_five_async(through_the_crate).await, 2);
}

#[rate_limit(count = 2, per = "1h", key = r#type)]
fn r#match(r#type: u8) -> crate::Limited<u8> {
    Ok(r#type)
}

#[test]
fn names_may_be_raw() {
    assert_eq!(admitted_of_five(|| r#match(1)), 2);
}

/// The name of a function's limiter, found by its source line.
fn name_of(line: u32) -> String {
    let is_there = |limiter: &ratelimit_runtime::LimiterInfo| {
        limiter.location.is_some_and(|location| location.file() == file!() && location.line() == line)
    };
    let found: Vec<_> = ratelimit_runtime::limiters().into_iter().filter(is_there).collect();
    assert_eq!(found.len(), 1, "{found:?}");
    found[0].name.clone()
}

mod named {
    use ratelimit_runtime::rate_limit;

    use crate::Limited;

    pub(super) const LINE: u32 = line!() + 2;

    #[rate_limit(count = 1, per = "1h")]
    pub(super) fn function() -> Limited {
        Ok(())
    }

    pub(super) const ASYNC: u32 = line!() + 2;

    #[rate_limit(count = 1, per = "1h")]
    pub(super) async fn asynchronous() -> Limited {
        Ok(())
    }

    pub(super) struct One;
    pub(super) struct Two<T>(pub(super) T);

    impl One {
        pub(super) const LINE: u32 = line!() + 1;
        #[rate_limit(count = 1, per = "1h")]
        pub(super) fn method(&self) -> Limited {
            let _ = self;
            Ok(())
        }
    }

    impl<T> Two<T> {
        pub(super) const LINE: u32 = line!() + 1;
        #[rate_limit(count = 1, per = "1h")]
        pub(super) fn method(&self) -> Limited {
            let _ = &self.0;
            Ok(())
        }
    }

    pub(super) trait Named {
        const LINE: u32;
        fn named(&self) -> Limited;
    }

    impl Named for One {
        const LINE: u32 = line!() + 1;
        #[rate_limit(count = 1, per = "1h")]
        fn named(&self) -> Limited {
            Ok(())
        }
    }

    impl Named for bool {
        const LINE: u32 = line!() + 1;
        #[rate_limit(count = 1, per = "1h")]
        fn named(&self) -> Limited {
            Ok(())
        }
    }
}

#[test]
fn a_default_name_is_the_full_path_with_the_type_of_the_impl() {
    use named::{Named, One, Two};

    let _ = (named::function(), crate::ready(named::asynchronous()), One.method(), Two(1).method());
    let _ = (One.named(), true.named());
    assert_eq!(name_of(named::LINE), "shapes::names::named::function");
    assert_eq!(name_of(named::ASYNC), "shapes::names::named::asynchronous");
    let names = [name_of(One::LINE), name_of(Two::<u8>::LINE), name_of(<One as Named>::LINE), name_of(bool::LINE)];
    assert!(names[0].ends_with("One>::method") || names[0].ends_with("One::method"), "{names:?}");
    assert!(names[1].contains("Two"), "{names:?}");
    assert!(names[2].contains("One") && names[2].contains("Named") && names[2].ends_with("::named"), "{names:?}");
    assert!(names[3].contains("bool"), "{names:?}");
}

const API: &str = "named by a constant";

mod constants {
    pub(super) const NESTED: &str = concat!("named by ", "a nested constant");
}

#[rate_limit(count = 1, per = "1h", name = API)]
fn by_constant() -> crate::Limited {
    Ok(())
}

#[rate_limit(count = 1, per = "1h", name = constants::NESTED, deduct_when = Result::is_ok)]
async fn by_nested_constant() -> crate::Limited {
    Ok(())
}

#[rate_limit(count = 1, per = "1h", name = concat!("named by ", stringify!(concat)))]
fn by_concat() -> crate::Limited {
    Ok(())
}

#[rate_limit(count = 1, per = "1h", name = env!("CARGO_PKG_NAME"))]
fn by_environment() -> crate::Limited {
    Ok(())
}

macro_rules! named {
    ($name:ident) => {
        #[rate_limit(count = 1, per = "1h", name = stringify!($name))]
        fn $name() -> crate::Limited {
            Ok(())
        }
    };
}

named!(by_macro);

#[test]
fn a_name_may_be_a_constant_or_a_macro() {
    let _clock = ::ratelimit_runtime::test_util::pause();
    let name = |denied: crate::Limited| denied.unwrap_err().limiter().to_owned();
    for (first, second, expected) in [
        (by_constant(), by_constant(), API),
        (crate::ready(by_nested_constant()), crate::ready(by_nested_constant()), constants::NESTED),
        (by_concat(), by_concat(), "named by concat"),
        (by_environment(), by_environment(), "ratelimit-tests"),
        (by_macro(), by_macro(), "by_macro"),
    ] {
        first.unwrap();
        assert_eq!(name(second), expected);
    }
}
