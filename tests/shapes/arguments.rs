//! The arguments of the attribute, one by one.

use std::cell::RefCell;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use ratelimit_runtime::backend::{Answer, Backend, Request};
use ratelimit_runtime::{
    BackendError, BackendErrorKind, ExceededKind, Limit, MemoryBackend, RateLimitExceeded, RateLimiter, limiters,
    rate_limit, test_util,
};

use crate::{Limited, once, once_ready, ready};

const MINUTE: Duration = Duration::from_secs(60);

#[test]
fn count_and_per_are_read_at_each_call() {
    struct Plan {
        count: u32,
        window: Duration,
    }
    impl Plan {
        #[rate_limit(count = self.count, per = self.window, key = user)]
        fn call(&self, user: u32) -> Limited<u32> {
            Ok(user)
        }
        #[rate_limit(count = 2 * count, per = window * 2)]
        async fn asynchronous(count: u32, window: Duration) -> Limited<()> {
            Ok(())
        }
    }
    let clock = test_util::pause();
    let small = Plan { count: 1, window: MINUTE };
    let large = Plan { count: 3, window: MINUTE };
    assert!(small.call(1).is_ok());
    assert!(small.call(1).is_err());
    assert!(large.call(1).is_ok(), "judged by the current count");
    assert!(large.call(1).is_ok());
    assert_eq!(large.call(1).unwrap_err().limit().count(), 3);
    clock.advance(MINUTE);
    assert!(small.call(1).is_ok());
    assert!(Plan { count: 0, window: MINUTE }.call(2).is_err(), "0 denies");
    assert!(ready(Plan::asynchronous(1, MINUTE)).is_ok());
    assert!(ready(Plan::asynchronous(1, MINUTE)).is_ok());
    assert!(ready(Plan::asynchronous(1, MINUTE)).is_err());
}

#[test]
fn constants_as_count_per_burst_and_cost() {
    const COUNT: u32 = 4;
    const PER: Duration = MINUTE;
    const COST: u32 = 2;
    mod settings {
        pub(super) const BURST: u32 = 2;
    }
    #[rate_limit(count = COUNT, per = PER, cost = COST)]
    fn call() -> Limited<()> {
        Ok(())
    }
    #[rate_limit(count = 1, per = Duration::MAX.min(MINUTE), algorithm = token_bucket, burst = settings::BURST)]
    fn bucket() -> Limited<()> {
        Ok(())
    }
    let _clock = test_util::pause();
    assert!(call().is_ok());
    assert!(call().is_ok());
    assert_eq!(call().unwrap_err().limit(), Limit::new(4, MINUTE));
    assert!(bucket().is_ok());
    assert!(bucket().is_ok());
    assert!(bucket().is_err());
}

#[test]
fn the_cost_of_a_call() {
    #[rate_limit(count = 10, per = "1m", cost = 3)]
    fn fixed() -> Limited<()> {
        Ok(())
    }
    #[rate_limit(count = 10, per = "1m", cost = items.len() as u32)]
    #[expect(clippy::cast_possible_truncation, reason = "written in the attribute")]
    fn read(items: &[u8]) -> Limited<usize> {
        Ok(items.len())
    }
    let _clock = test_util::pause();
    assert_eq!((0..10).filter(|_| fixed().is_ok()).count(), 3);
    assert_eq!(read(&[0; 6]).unwrap(), 6);
    assert!(read(&[0; 6]).is_err());
    assert!(read(&[0; 4]).is_ok());
    assert!(read(&[]).is_ok(), "0 is never denied");
    assert_eq!(read(&[0; 11]).unwrap_err().kind(), ExceededKind::CostExceedsLimit);
}

#[test]
fn every_algorithm() {
    #[rate_limit(count = 1, per = "1m", algorithm = sliding_window)]
    fn sliding() -> Limited<()> {
        Ok(())
    }
    #[rate_limit(count = 1, per = "1m", algorithm = fixed_window)]
    fn fixed() -> Limited<()> {
        Ok(())
    }
    #[rate_limit(count = 60, per = "1m", algorithm = token_bucket, burst = 1)]
    fn bucket() -> Limited<()> {
        Ok(())
    }
    once(sliding);
    once(fixed);
    once(bucket);
}

#[test]
fn several_limits_are_decided_together() {
    #[rate_limit(
        limit(count = 2, per = "1s"),
        limit(count = hourly, per = "1h", algorithm = fixed_window),
        limit(count = 100, per = "1d", algorithm = token_bucket, burst = 50),
        key = user
    )]
    fn call(user: &str, hourly: u32) -> Limited<()> {
        let _ = user;
        Ok(())
    }
    let clock = test_util::pause();
    assert!(call("a", 3).is_ok());
    assert!(call("a", 3).is_ok());
    assert_eq!(call("a", 3).unwrap_err().limit_index(), 0);
    clock.advance(Duration::from_secs(1));
    assert!(call("a", 3).is_ok(), "a denied call charged nothing");
    assert_eq!(call("a", 3).unwrap_err().limit_index(), 1);
    assert!(call("b", 3).is_ok());
}

#[test]
fn a_name_is_what_the_limiter_is_called() {
    #[rate_limit(count = 1, per = "1m", name = "the name of it")]
    fn call() -> Limited<()> {
        Ok(())
    }
    let _clock = test_util::pause();
    assert!(call().is_ok());
    assert_eq!(call().unwrap_err().limiter(), "the name of it");
    let info = limiters().into_iter().find(|limiter| limiter.name == "the name of it").unwrap();
    assert_eq!((info.limits, info.location.unwrap().file()), (vec![Limit::new(1, MINUTE)], file!()));
}

static SHARED: RateLimiter = RateLimiter::new("shared by functions", &[Limit::new(2, MINUTE)]);

#[test]
fn a_static_limiter_is_shared_by_its_users() {
    #[rate_limit(limiter = SHARED, key = user)]
    fn first(user: u32) -> Limited<u32> {
        Ok(user)
    }
    #[rate_limit(limiter = crate::arguments::SHARED, key = user)]
    async fn second(user: u32) -> Limited<u32> {
        Ok(user)
    }
    let _clock = test_util::pause();
    assert!(first(1).is_ok());
    assert!(ready(second(1)).is_ok());
    assert!(first(1).is_err());
    assert!(ready(second(1)).is_err());
    assert!(SHARED.check(1_u32, 1).is_err());
    assert!(first(2).is_ok());
}

struct Api {
    limiter: RateLimiter,
    limiters: Vec<Arc<RateLimiter>>,
}

impl Api {
    const fn limiter(&self) -> &RateLimiter {
        &self.limiter
    }

    #[rate_limit(limiter = self.limiter, key = user)]
    fn by_field(&self, user: u32) -> Limited<u32> {
        Ok(user)
    }

    #[rate_limit(limiter = self.limiter(), key = user, cost = 2)]
    fn by_method(&self, user: u32) -> Limited<u32> {
        Ok(user)
    }

    #[rate_limit(limiter = self.limiters[index], key = index, wait = "1ms")]
    async fn by_element(&self, index: usize) -> Limited<usize> {
        Ok(index)
    }

    #[rate_limit(limiter = &*self.limiters[0], deduct_when = Result::is_ok)]
    fn by_reference(&self) -> Limited<()> {
        Ok(())
    }

    #[rate_limit(limiter = if first { &self.limiter } else { &*self.limiters[0] })]
    fn by_choice(&self, first: bool) -> Limited<bool> {
        Ok(first)
    }

    #[rate_limit(limiter = self.limiters.get(index)?)]
    async fn by_question_mark(&self, index: usize) -> Option<usize> {
        Some(index)
    }
}

#[test]
fn an_expression_as_the_limiter_is_borrowed() {
    #[rate_limit(limiter = limiter)]
    fn by_argument(limiter: Arc<RateLimiter>) -> Limited<Arc<RateLimiter>> {
        Ok(limiter)
    }
    let make = |name| RateLimiter::builder(name).limit(Limit::new(2, MINUTE)).build().unwrap();
    let api = Api { limiter: make("of a field"), limiters: vec![Arc::new(make("of an element"))] };
    let _clock = test_util::pause();
    assert!(api.by_field(1).is_ok());
    assert!(api.by_method(1).is_err(), "one left of two");
    assert!(api.by_field(1).is_ok());
    assert!(api.by_field(1).is_err());
    assert!(api.by_method(2).is_ok());
    assert_eq!(ready(api.by_element(0)).unwrap(), 0);
    assert!(ready(api.by_element(0)).is_ok());
    assert!(ready(api.by_element(0)).is_err());
    assert!(api.by_reference().is_ok());
    assert_eq!([true; 3].map(|first| api.by_choice(first).is_ok()), [true, true, false]);
    assert_eq!([0, 1].map(|index| ready(api.by_question_mark(index))), [Some(0), None]);
    assert!(api.by_choice(false).is_err());
    let limiter = Arc::new(make("of an argument"));
    assert!(by_argument(Arc::clone(&limiter)).is_ok());
    assert!(by_argument(Arc::clone(&limiter)).is_ok());
    assert!(by_argument(limiter).is_err());
}

/// A store that always fails.
struct Broken;

impl Backend for Broken {
    fn decide(&self, _: &Request) -> Result<Answer, BackendError> {
        Err(BackendError::new(BackendErrorKind::Unreachable, "out of order"))
    }
}

#[test]
fn backends_and_on_backend_error() {
    static MADE: AtomicU32 = AtomicU32::new(0);
    fn memory() -> MemoryBackend {
        MADE.fetch_add(1, Ordering::SeqCst);
        MemoryBackend::new()
    }
    #[rate_limit(count = 1, per = "1m", backend = memory)]
    fn in_memory() -> Limited<u8> {
        Ok(1)
    }
    #[rate_limit(count = 1, per = "1m", backend = memory())]
    fn made() -> Limited<u8> {
        Ok(1)
    }
    #[rate_limit(count = 1, per = "1m", backend = Broken)]
    fn local() -> Limited<u8> {
        Ok(1)
    }
    #[rate_limit(count = 1, per = "1m", backend = Broken, on_backend_error = local)]
    async fn local_as_written() -> Limited<u8> {
        Ok(1)
    }
    #[rate_limit(count = 1, per = "1m", backend = Broken, on_backend_error = allow)]
    fn allowed() -> Limited<u8> {
        Ok(1)
    }
    #[rate_limit(count = 1, per = "1m", backend = Broken, on_backend_error = deny)]
    fn denied() -> Limited<u8> {
        Ok(1)
    }
    once(in_memory);
    once(local);
    once_ready(local_as_written);
    assert!((0..5).all(|_| allowed().is_ok()));
    assert_eq!(denied().unwrap_err().kind(), ExceededKind::BackendFailed);
    assert!(made().is_ok());
    assert!(made().is_err());
    assert_eq!(MADE.load(Ordering::SeqCst), 1, "made at the first use, once");
}

#[expect(clippy::needless_pass_by_value, reason = "what `or_else` calls is given it")]
fn too_many(exceeded: RateLimitExceeded) -> (u16, Option<u64>) {
    (429, exceeded.retry_after_secs())
}

#[test]
fn or_else_says_what_a_denied_call_returns() {
    #[rate_limit(count = 1, per = "1m", or_else = |exceeded| format!("{user}: {:?}", exceeded.retry_after_secs()))]
    fn closure(user: &str) -> String {
        user.to_owned()
    }
    #[rate_limit(count = 1, per = "1m", or_else = too_many)]
    fn path() -> (u16, Option<u64>) {
        (200, None)
    }
    #[rate_limit(count = 1, per = "1m", or_else = |_: RateLimitExceeded| ())]
    fn nothing(calls: &mut u32) {
        *calls += 1;
    }
    #[rate_limit(count = 1, per = "1m", or_else = |_| vec![user])]
    fn taking(user: String) -> Vec<String> {
        vec![user.clone(), user]
    }
    #[rate_limit(count = 1, per = "1m", key = user, or_else = move |_| user.len())]
    async fn asynchronous(user: String) -> usize {
        std::future::ready(user.len() + 10).await
    }
    #[rate_limit(count = 1, per = "1m", or_else = |_| Err("denied".into()))]
    fn result(fails: bool) -> Result<u8, Box<dyn std::error::Error>> {
        if fails { Err("failed".into()) } else { Ok(1) }
    }
    #[rate_limit(count = 1, per = "1m", or_else = |_| Box::new(std::iter::empty()))]
    fn dynamic() -> Box<dyn Iterator<Item = u8>> {
        Box::new(std::iter::once(1))
    }
    #[rate_limit(count = 1, per = "1m", or_else = |_| panic!("denied"))]
    fn panicking() -> u8 {
        1
    }
    #[rate_limit(count = 1, per = "1m", or_else = |_| None.into_iter())]
    fn opaque() -> impl Iterator<Item = u8> {
        Some(1).into_iter()
    }
    let _clock = test_util::pause();
    assert_eq!([closure("a"), closure("a")], ["a".to_owned(), "a: Some(60)".to_owned()]);
    assert_eq!([path(), path()], [(200, None), (429, Some(60))]);
    let mut calls = 0;
    nothing(&mut calls);
    nothing(&mut calls);
    assert_eq!(calls, 1);
    assert_eq!([taking("a".to_owned()).len(), taking("a".to_owned()).len()], [2, 1]);
    assert_eq!([ready(asynchronous("a".to_owned())), ready(asynchronous("a".to_owned()))], [11, 1]);
    assert_eq!(result(true).unwrap_err().to_string(), "failed");
    assert_eq!(result(true).unwrap_err().to_string(), "denied");
    assert_eq!([dynamic().count(), dynamic().count()], [1, 0]);
    assert_eq!(panicking(), 1);
    assert!(std::panic::catch_unwind(panicking).is_err());
    assert_eq!([opaque().count(), opaque().count()], [1, 0]);
}

thread_local! {
    static READ: RefCell<Vec<&'static str>> = const { RefCell::new(Vec::new()) };
}

/// Records that an argument was evaluated.
fn noted<T>(what: &'static str, value: T) -> T {
    READ.with_borrow_mut(|read| read.push(what));
    value
}

#[test]
fn an_exempt_call_evaluates_nothing_else() {
    #[rate_limit(
        key = noted("key", id),
        cost = noted("cost", 1),
        per = noted("per", MINUTE),
        count = noted("count", 1),
        exempt_when = noted("exempt_when", id == 0)
    )]
    fn call(id: u32) -> Limited<u32> {
        Ok(id)
    }
    let _clock = test_util::pause();
    assert!((0..3).all(|_| call(0).is_ok()));
    assert_eq!(READ.take(), ["exempt_when"; 3]);
    assert!(call(1).is_ok());
    assert_eq!(READ.take(), ["exempt_when", "count", "per", "cost", "key"]);
    assert!(call(1).is_err());
}

#[test]
fn exempt_when_in_every_shape() {
    struct User {
        is_admin: bool,
    }
    impl User {
        #[rate_limit(count = 1, per = "1m", exempt_when = self.is_admin)]
        async fn call(&self) -> Limited<u8> {
            Ok(1)
        }

        #[rate_limit(count = 1, per = "1m", exempt_when = self.is_admin, deduct_when = |_| true, or_else = |_| 0)]
        fn deducting(&self) -> u8 {
            1
        }

        #[rate_limit(count = 1, per = "1m", exempt_when = self.is_admin, wait)]
        fn waiting(&self) {}
    }
    let admin = User { is_admin: true };
    let other = User { is_admin: false };
    let clock = test_util::pause();
    let before = clock.now();
    assert!((0..3).all(|_| ready(admin.call()).is_ok()));
    assert!(ready(other.call()).is_ok());
    assert!(ready(other.call()).is_err());
    assert!((0..3).all(|_| admin.deducting() == 1));
    assert_eq!([other.deducting(), other.deducting()], [1, 0]);
    (0..3).for_each(|_| admin.waiting());
    assert_eq!(clock.now(), before);
    (0..3).for_each(|_| other.waiting());
    assert_eq!(clock.now().since(before), Duration::from_secs(120));
}

#[test]
fn backoff_blocks_a_key_that_goes_on() {
    #[rate_limit(count = 1, per = "1s", key = id, backoff(initial = "10s", max = "1m"))]
    fn call(id: u32) -> Limited<u32> {
        Ok(id)
    }
    let clock = test_util::pause();
    assert!(call(1).is_ok());
    assert_eq!(call(1).unwrap_err().retry_after_secs(), Some(10));
    clock.advance(Duration::from_secs(9));
    assert_eq!(call(1).unwrap_err().retry_after_secs(), Some(20));
    assert!(call(2).is_ok());
    clock.advance(Duration::from_secs(20));
    assert!(call(1).is_ok());
}

#[test]
fn a_dry_run_counts_and_never_denies() {
    #[rate_limit(count = 1, per = "1m", dry_run, name = "dry")]
    fn call() -> Limited<u8> {
        Ok(1)
    }
    let _clock = test_util::pause();
    assert!((0..5).all(|_| call().is_ok()));
    let info = limiters().into_iter().find(|limiter| limiter.name == "dry").unwrap();
    assert_eq!((info.allowed, info.denied, info.dry_run), (1, 4, true));
}

/// A framework that re-exports the runtime.
mod framework {
    pub(crate) mod limits {
        pub(crate) use ratelimit_runtime::*;
    }
}

#[test]
fn the_runtime_under_another_path() {
    use framework::limits;

    #[limits::rate_limit(count = 1, per = "1m", crate = limits)]
    fn renamed() -> Limited<u8> {
        Ok(1)
    }
    #[rate_limit(count = 1, per = "1m", crate = crate::arguments::framework::limits, deduct_when = Result::is_ok)]
    fn by_path() -> Limited<u8> {
        Ok(1)
    }
    #[rate_limit(count = 1, per = "1m", crate = ::ratelimit_runtime)]
    async fn absolute() -> Limited<u8> {
        Ok(1)
    }
    assert_eq!(once(renamed), 1);
    assert_eq!(once(by_path), 1);
    assert_eq!(once_ready(absolute), 1);
}

#[test]
fn arguments_in_any_order_with_a_trailing_comma() {
    #[rate_limit(key = user, per = "1 minute", count = 1_u32,)]
    fn call(user: &str) -> Limited<usize> {
        Ok(user.len())
    }
    assert_eq!(once(|| call("a")), 1);
}

static LAZY: LazyLock<RateLimiter> =
    LazyLock::new(|| RateLimiter::builder("made at the first use").limit(Limit::new(1, MINUTE)).build().unwrap());

#[test]
fn a_limiter_behind_any_pointer() {
    #[rate_limit(limiter = LAZY)]
    fn lazy() -> Limited<u8> {
        Ok(1)
    }
    #[rate_limit(limiter = limiter)]
    fn reference(limiter: &RateLimiter) -> Limited<&RateLimiter> {
        Ok(limiter)
    }
    #[rate_limit(limiter = limiter)]
    async fn boxed(limiter: Box<RateLimiter>) -> Limited<Box<RateLimiter>> {
        Ok(limiter)
    }
    #[rate_limit(limiter = *limiter)]
    fn pointed_at(limiter: &Arc<RateLimiter>) -> Limited<u8> {
        Ok(Arc::strong_count(limiter).try_into().unwrap_or(0))
    }
    let make = |name| RateLimiter::builder(name).limit(Limit::new(1, MINUTE)).build().unwrap();
    assert_eq!(once(lazy), 1);
    let limiter = make("behind a reference");
    assert_eq!(once(|| reference(&limiter)).name(), "behind a reference");
    assert_eq!(once_ready(|| boxed(Box::new(make("in a box")))).name(), "in a box");
    let limiter = Arc::new(make("in an arc"));
    assert_eq!(once(|| pointed_at(&limiter)), 1);
}

#[test]
fn every_expression_of_an_async_function_may_await() {
    #[rate_limit(
        count = std::future::ready(count).await,
        per = std::future::ready(MINUTE).await,
        cost = std::future::ready(1).await,
        key = std::future::ready(id).await,
        exempt_when = std::future::ready(id == 0).await
    )]
    async fn call(id: u32, count: u32) -> Limited<u32> {
        Ok(id)
    }
    let _clock = test_util::pause();
    assert!((0..3).all(|_| ready(call(0, 1)).is_ok()));
    assert!(ready(crate::assert_send(call(1, 1))).is_ok());
    assert!(ready(call(1, 1)).is_err());
}

#[test]
fn expressions_with_blocks() {
    #[rate_limit(
        count = if premium { 2 } else { 1 },
        per = match u8::from(premium) { 1 => MINUTE, _ => 2 * MINUTE },
        cost = { const COST: u32 = 1; COST },
        key = if premium { "premium" } else { "free" }
    )]
    fn call(premium: bool) -> Limited<bool> {
        Ok(premium)
    }
    let _clock = test_util::pause();
    assert_eq!((0..5).filter(|_| call(true).is_ok()).count(), 2);
    assert_eq!((0..5).filter(|_| call(false).is_ok()).count(), 1);
    assert_eq!(call(false).unwrap_err().retry_after(), Some(2 * MINUTE));
}
