//! Generic functions, const generics, lifetimes, `where` clauses.

use std::fmt::{Debug, Display};
use std::time::Duration;

use crate::{Limited, admitted_of_five};
use ratelimit_runtime::{RateLimitKey, rate_limit, test_util};

#[rate_limit(count = 2, per = "1h")]
fn by_type<T: Display>(value: T) -> Limited<String> {
    Ok(value.to_string())
}

#[test]
fn instantiations_of_a_generic_function_share_a_limiter() {
    assert!(by_type(1).is_ok());
    assert!(by_type("a").is_ok());
    assert!(by_type('c').is_err());
}

#[rate_limit(count = 2, per = "1h", key = key)]
fn by_generic_key<K>(key: K) -> Limited<K>
where
    K: RateLimitKey + Debug,
{
    Ok(key)
}

#[test]
fn a_key_may_be_generic() {
    assert_eq!(admitted_of_five(|| by_generic_key("a")), 2);
    assert_eq!(admitted_of_five(|| by_generic_key(1_u8)), 2);
}

#[rate_limit(count = 2, per = "1h")]
fn by_impl(value: impl Into<String>) -> Limited<String> {
    Ok(value.into())
}

#[test]
fn an_argument_may_be_an_impl_trait() {
    assert_eq!(admitted_of_five(|| by_impl("a")), 2);
}

#[rate_limit(count = N, per = "1h")]
fn by_const<const N: u32>() -> Limited<u32> {
    Ok(N)
}

#[test]
fn a_const_generic_may_be_the_count() {
    assert_eq!(admitted_of_five(by_const::<3>), 3);
}

struct Sized<const COUNT: u32, const SIZE: usize>([u8; SIZE]);

impl<const COUNT: u32, const SIZE: usize> Sized<COUNT, SIZE> {
    #[rate_limit(count = COUNT, per = "1h", key = self.0)]
    fn call(&self) -> Limited<usize> {
        Ok(SIZE)
    }

    #[rate_limit(count = COUNT, per = "1h", algorithm = token_bucket, burst = COUNT)]
    fn associated() -> Limited<usize> {
        Ok(SIZE)
    }
}

#[test]
fn a_const_generic_of_the_impl_may_be_the_count() {
    assert_eq!(admitted_of_five(|| Sized::<2, 3>([1; 3]).call()), 2);
    assert_eq!(admitted_of_five(Sized::<2, 1>::associated), 2);
}

trait Plan {
    const CALLS: u32;
    const PERIOD: Duration;
    const COST: u32;
}

struct Free;

impl Plan for Free {
    const CALLS: u32 = 4;
    const PERIOD: Duration = Duration::from_secs(3600);
    const COST: u32 = 2;
}

impl Free {
    const OWN: u32 = 3;

    #[rate_limit(count = Self::OWN, per = Self::PERIOD)]
    fn call() -> Limited {
        Ok(())
    }
}

#[rate_limit(count = P::CALLS, per = P::PERIOD, cost = P::COST)]
fn by_plan<P: Plan>() -> Limited {
    Ok(())
}

#[test]
fn associated_constants_may_be_the_limit() {
    assert_eq!(admitted_of_five(by_plan::<Free>), 2);
    assert_eq!(admitted_of_five(Free::call), 3);
    assert_eq!(admitted_of_five(by_plan_of_a_module::<Free>), 4);
}

mod config {
    use std::time::Duration;

    pub(super) const CALLS: u32 = 3;
    pub(super) const PERIOD: Duration = Duration::from_secs(60);
    pub(super) const BURST: u32 = 1;

    pub(super) struct Of<P>(P);

    impl<P: super::Plan> Of<P> {
        pub(super) const CALLS: u32 = P::CALLS;
        pub(super) const PERIOD: Duration = P::PERIOD;
    }
}

#[rate_limit(count = config::Of::<P>::CALLS, per = config::Of::<P>::PERIOD)]
fn by_plan_of_a_module<P: Plan>() -> Limited {
    Ok(())
}

const LOCAL_CALLS: u32 = 2;
const LOCAL_PERIOD: Duration = Duration::from_secs(60);

#[rate_limit(count = config::CALLS, per = config::PERIOD)]
fn by_constants() -> Limited {
    Ok(())
}

#[rate_limit(count = LOCAL_CALLS, per = LOCAL_PERIOD)]
fn by_local_constants() -> Limited {
    Ok(())
}

#[rate_limit(count = config::CALLS, per = config::PERIOD, algorithm = token_bucket, burst = config::BURST)]
fn by_burst_constant() -> Limited {
    Ok(())
}

#[rate_limit(limit(count = config::CALLS, per = "1h"), limit(count = LOCAL_CALLS, per = LOCAL_PERIOD), cost = config::BURST)]
fn by_several_constants() -> Limited {
    Ok(())
}

#[test]
fn constants_may_be_the_limit() {
    assert_eq!(admitted_of_five(by_constants), 3);
    assert_eq!(admitted_of_five(by_local_constants), 2);
    assert_eq!(admitted_of_five(by_burst_constant), 1);
    assert_eq!(admitted_of_five(by_several_constants), 2);
}

const SPAN: Duration = Duration::from_millis(100);

#[rate_limit(count = N, per = SPAN)]
fn unkeyed<const N: u32>() -> Limited {
    Ok(())
}

#[rate_limit(count = N, per = SPAN, key = key)]
fn keyed<const N: u32>(key: u8) -> Limited {
    Ok(())
}

#[rate_limit(count = N, per = "1h", key = key)]
fn grown<const N: u32>(key: u8) -> Limited {
    Ok(())
}

#[rate_limit(count = N, per = "366d", algorithm = fixed_window, key = key)]
fn grown_fixed<const N: u32>(key: u8) -> Limited {
    Ok(())
}

#[rate_limit(count = N, per = "366d", algorithm = token_bucket, key = key)]
fn grown_bucket<const N: u32>(key: u8) -> Limited {
    Ok(())
}

/// The buckets were made for a smaller count. By the real clock: a test's takes a slower path.
#[test]
fn a_later_instance_counts_all_its_permits() {
    assert!(
        (0..3).all(|key| grown::<2>(key).is_ok() && grown_fixed::<2>(key).is_ok() && grown_bucket::<2>(key).is_ok())
    );
    for key in 0..3 {
        assert_eq!((0..50).filter(|_| grown::<20>(key).is_ok()).count(), 19);
        assert_eq!((0..100).filter(|_| grown::<60>(key).is_ok()).count(), 40);
        assert!(grown::<2>(key).is_err() && grown::<20>(key).is_err());
        assert_eq!((0..50).filter(|_| grown_fixed::<20>(key).is_ok()).count(), 19);
        assert_eq!((0..100).filter(|_| grown_fixed::<60>(key).is_ok()).count(), 40);
        assert!(grown_fixed::<2>(key).is_err() && grown_fixed::<20>(key).is_err());
        assert_eq!((0..50).filter(|_| grown_bucket::<20>(key).is_ok()).count(), 19);
        assert!(grown_bucket::<2>(key).is_err() && grown_bucket::<20>(key).is_err());
    }
}

/// Against a log of the times of all admitted calls.
#[test]
fn instances_share_buckets_and_judge_by_their_own_constants() {
    type Call = fn(u8) -> bool;
    let instances: [(usize, Call, Call); 4] = [
        (3, |_| unkeyed::<3>().is_ok(), |key| keyed::<3>(key).is_ok()),
        (1, |_| unkeyed::<1>().is_ok(), |key| keyed::<1>(key).is_ok()),
        (40, |_| unkeyed::<40>().is_ok(), |key| keyed::<40>(key).is_ok()),
        (64, |_| unkeyed::<64>().is_ok(), |key| keyed::<64>(key).is_ok()),
    ];
    let clock = test_util::pause();
    // By key. The last log is of the calls without one.
    let mut logs: [Vec<u64>; 4] = Default::default();
    let (mut now, mut random) = (0, 1_u32);
    for call in 0..20_000 {
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let [step, which, key, _] = (random >> 8).to_le_bytes();
        // Few calls, then many.
        let step = u64::from(step) * if call / 500 % 2 == 0 { 100 } else { 10 };
        clock.advance(Duration::from_micros(step));
        now += step;
        let (count, unkeyed, keyed) = instances[usize::from(which % 4)];
        let key = key % 4;
        let log = &mut logs[usize::from(key)];
        let live = log.iter().rev().take_while(|taken| **taken + 100_000 > now).count();
        let is_admitted = if key == 3 { unkeyed(key) } else { keyed(key) };
        assert_eq!(is_admitted, live < count, "call {call} of {count} at {now} µs on {key}: {live} are live");
        if is_admitted {
            log.push(now);
        }
    }
}

#[rate_limit(count = 2, per = "1h", key = a)]
fn longest<'a>(a: &'a str, b: &'a str) -> Limited<&'a str> {
    Ok(if a.len() < b.len() { b } else { a })
}

#[test]
fn lifetimes_pass_through() {
    assert_eq!(longest("ab", "c").ok(), Some("ab"));
    assert_eq!(admitted_of_five(|| longest("ab", "c")), 1);
}

struct Wrapper<T>(T);

impl<T: RateLimitKey + Clone> Wrapper<T> {
    #[rate_limit(count = 2, per = "1h", key = self.0)]
    fn call(&self) -> Limited<T> {
        Ok(self.0.clone())
    }
}

#[test]
fn a_method_of_a_generic_type_shares_one_limiter() {
    assert_eq!(admitted_of_five(|| Wrapper(1_u32).call()), 2);
    assert_eq!(admitted_of_five(|| Wrapper("a".to_owned()).call()), 2);
}

#[rate_limit(count = 2, per = "1h", key = f(1))]
fn higher_ranked<F>(f: F) -> Limited<u64>
where
    F: for<'a> Fn(u64) -> u64,
{
    Ok(f(2))
}

#[test]
fn a_closure_argument_may_be_called_in_the_key() {
    assert_eq!(admitted_of_five(|| higher_ranked(|x| x + 1)), 2);
}
