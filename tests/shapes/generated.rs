//! Functions made by `macro_rules!`, with every argument passed as a fragment.

use crate::{Limited, admitted_of_five};
use ratelimit_runtime::{RateLimiter, rate_limit};

macro_rules! literals {
    ($name:ident, $count:literal, $per:literal, $limiter:literal, $cost:literal) => {
        #[rate_limit(count = $count, per = $per, name = $limiter, cost = $cost)]
        fn $name() -> Limited {
            Ok(())
        }
    };
}
literals!(by_literals, 4, "1h", "by literals", 2);

macro_rules! expressions {
    ($name:ident, $arg:ident : $ty:ty, $count:expr, $per:expr, $key:expr, $cost:expr) => {
        #[rate_limit(count = $count, per = $per, key = $key, cost = $cost)]
        fn $name($arg: $ty) -> Limited<$ty> {
            Ok($arg)
        }
    };
}
expressions!(by_expressions, user: String, 4, "1h", user, 2);
expressions!(by_computed, user: u32, 1 + 3, std::time::Duration::from_secs(60), user + 1, 1 + 1);

// Rustfmt moves an attribute of several lines further to the right each time.
#[rustfmt::skip]
macro_rules! identifiers {
    ($name:ident, $algorithm:ident, $backend:ident, $policy:ident, $limiter:path, $or_else:expr, $exempt:expr) => {
        #[rate_limit(
            count = 2,
            per = "1h",
            algorithm = $algorithm,
            backend = $backend,
            on_backend_error = $policy,
            or_else = $or_else,
            exempt_when = $exempt
        )]
        fn $name() -> u32 {
            1
        }

        mod limiter_of {
            use super::*;

            #[rate_limit(limiter = $limiter)]
            pub(super) fn $name() -> Limited {
                Ok(())
            }
        }
    };
}
identifiers!(by_identifiers, token_bucket, memory, allow, SHARED, |_| 0, false);

static SHARED: RateLimiter =
    RateLimiter::new("generated", &[ratelimit_runtime::Limit::new(2, std::time::Duration::from_secs(60))]);

macro_rules! whole {
    ($(#[$attribute:meta])* $visibility:vis fn $name:ident($($arg:pat => $ty:ty),*) -> $output:ty $body:block) => {
        $(#[$attribute])*
        $visibility fn $name($($arg: $ty),*) -> $output $body
    };
}
whole! {
    /// Of fragments.
    #[rate_limit(count = 2, per = "1h", key = a + b)]
    pub(crate) fn by_fragments((a, b) => (u32, u32), c => u32) -> Limited<u32> { Ok(a + b + c) }
}

macro_rules! item {
    ($item:item) => {
        #[rate_limit(count = 2, per = "1h")]
        $item
    };
}
item! {
    fn by_item() -> Limited<u32> { Ok(1) }
}

macro_rules! hygienic {
    ($name:ident) => {
        #[rate_limit(count = 2, per = "1h", key = user)]
        fn $name(user: u8) -> Limited<u8> {
            let doubled = user * 2;
            Ok(doubled)
        }
    };
}
hygienic!(by_hygienic_names);

macro_rules! tokens {
    ([$($args:tt)*] $($item:tt)*) => {
        #[rate_limit($($args)*)]
        $($item)*
    };
}
tokens! { [count = 2, per = "1h"] fn by_tokens() -> Limited { Ok(()) } }

macro_rules! runtime {
    ($runtime:path, $name:ident) => {
        #[rate_limit(count = 2, per = "1h", crate = $runtime)]
        fn $name() -> Limited {
            Ok(())
        }
    };
}
runtime!(::ratelimit_runtime, by_path);

macro_rules! lifetimes {
    ($name:ident, $life:lifetime) => {
        #[rate_limit(count = 2, per = "1h")]
        fn $name<$life>(text: &$life str) -> Limited<&$life str> {
            Ok(text)
        }
    };
}
lifetimes!(by_lifetime, 'a);

#[test]
fn functions_made_by_macros_are_limited() {
    assert_eq!(admitted_of_five(by_literals), 2);
    assert_eq!(admitted_of_five(|| by_expressions("a".to_owned())), 2);
    assert_eq!(admitted_of_five(|| by_computed(1)), 2);
    assert_eq!((0..5).map(|_| by_identifiers()).sum::<u32>(), 2);
    assert_eq!(admitted_of_five(limiter_of::by_identifiers), 2);
    assert_eq!(admitted_of_five(|| by_fragments((1, 2), 3)), 2);
    assert_eq!(admitted_of_five(by_item), 2);
    assert_eq!(admitted_of_five(|| by_hygienic_names(1)), 2);
    assert_eq!(admitted_of_five(by_tokens), 2);
    assert_eq!(admitted_of_five(by_path), 2);
    assert_eq!(admitted_of_five(|| by_lifetime("a")), 2);
}

#[rustfmt::skip]
macro_rules! every_other_literal {
    ($name:ident, $count:literal, $per:literal, $burst:literal, $initial:literal, $max:literal, $wait:literal) => {
        #[rate_limit(
            limit(count = $count, per = $per, algorithm = token_bucket, burst = $burst),
            limit(count = $count, per = $per),
            backoff(initial = $initial, max = $max),
            wait = $wait
        )]
        fn $name() -> Limited {
            Ok(())
        }
    };
}
every_other_literal!(by_every_other_literal, 3, "1h", 2, "1s", "1m", "1us");

macro_rules! every_other_expression {
    ($name:ident, $limiter:expr, $exempt:expr, $deduct:expr, $or_else:expr) => {
        #[rate_limit(limiter = $limiter, exempt_when = $exempt, deduct_when = $deduct, or_else = $or_else)]
        fn $name(number: u32) -> u32 {
            number
        }
    };
}
every_other_expression!(by_every_other_expression, &DEDUCTED, 1 > 2, |outcome| *outcome > 0, |_| 9);

static DEDUCTED: RateLimiter =
    RateLimiter::new("generated and deducted", &[ratelimit_runtime::Limit::new(2, std::time::Duration::from_secs(60))]);

macro_rules! constants {
    ($name:ident, $count:ident, $owner:ty, $per:path, $backend:expr) => {
        #[rate_limit(count = $count, per = $per, cost = <$owner>::COST, backend = $backend)]
        async fn $name() -> Limited {
            Ok(())
        }
    };
}
constants!(by_constants, COUNT, Costs, MINUTE, ratelimit_runtime::MemoryBackend::new());

const COUNT: u32 = 4;
const MINUTE: std::time::Duration = std::time::Duration::from_secs(60);

struct Costs;

impl Costs {
    const COST: u32 = 2;
}

macro_rules! of_this_crate {
    ($($name:ident: $key:ident),*) => {
        $(
            #[rate_limit(count = 2, per = "1h", key = $key, crate = $crate::generated::runtime)]
            fn $name($key: &str) -> Limited<usize> {
                Ok($key.len())
            }
        )*
    };
}
of_this_crate!(first_of_two: user, second_of_two: path);

/// As a macro of a framework would name it.
mod runtime {
    pub(super) use ratelimit_runtime::macro_support;
}

macro_rules! methods {
    ($owner:ident { $($name:ident ($this:ident $(, $arg:ident: $ty:ty)*) by $key:expr;)* }) => {
        impl $owner {
            $(
                #[rate_limit(count = 2, per = "1h", key = $key)]
                fn $name(&$this $(, $arg: $ty)*) -> Limited<u32> {
                    Ok($this.0 $(+ $arg)*)
                }
            )*
        }
    };
}

struct Owner(u32);

methods!(Owner { by_self(self) by self.0; by_both(self, other: u32) by (self.0, other); });

#[test]
fn every_argument_may_be_a_fragment() {
    assert_eq!(admitted_of_five(by_every_other_literal), 2);
    assert_eq!((0..5).map(|_| by_every_other_expression(0)).sum::<u32>(), 0);
    assert_eq!((0..5).map(|_| by_every_other_expression(1)).sum::<u32>(), 2 + 3 * 9);
    assert_eq!((0..5).filter(|_| crate::ready(by_constants()).is_ok()).count(), 2);
    assert_eq!(admitted_of_five(|| first_of_two("a")), 2);
    assert_eq!(admitted_of_five(|| second_of_two("a")), 2);
    assert_eq!(admitted_of_five(|| Owner(1).by_self()), 2);
    assert_eq!(admitted_of_five(|| Owner(1).by_both(2)), 2);
}
