//! Functions that return a future by a trailing `async` block, and methods of `#[async_trait]`.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering};

use async_trait::async_trait;
use ratelimit_runtime::{RateLimitExceeded, rate_limit, test_util};

use crate::{Limited, assert_send, once_ready, ready};

type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

#[test]
fn an_impl_future() {
    #[rate_limit(count = 1, per = "1m", key = user)]
    #[expect(clippy::manual_async_fn, reason = "the shape")]
    fn greet(user: &str) -> impl Future<Output = Limited<String>> + Send {
        async move { Ok(format!("hello, {user}")) }
    }
    assert_eq!(once_ready(|| assert_send(greet("alice"))), "hello, alice");
}

#[test]
fn an_impl_future_with_lifetimes_and_bounds() {
    #[rate_limit(count = 1, per = "1m", key = user)]
    fn call<'a, T>(user: &'a str, value: T) -> impl Future<Output = Result<(T, &'a str), RateLimitExceeded>> + Send + 'a
    where
        T: Send + 'a,
    {
        let user = user.trim();
        async move {
            std::future::ready(()).await;
            Ok((value, user))
        }
    }
    assert_eq!(once_ready(|| assert_send(call(" alice ", 1))), (1, "alice"));
}

#[test]
fn an_async_block_that_does_not_move() {
    #[rate_limit(count = 1, per = "1m", key = "all")]
    #[expect(clippy::manual_async_fn, reason = "the shape")]
    fn length(user: &str) -> impl Future<Output = Limited<usize>> {
        async { Ok(user.len()) }
    }
    assert_eq!(once_ready(|| assert_send(length("alice"))), 5);
}

#[test]
fn a_pinned_box() {
    #[rate_limit(count = 1, per = "1m", key = user)]
    fn boxed<'a>(user: &'a str, greeting: &'a str) -> Pin<Box<dyn Future<Output = Limited<String>> + Send + 'a>> {
        Box::pin(async move { Ok(format!("{greeting}, {user}")) })
    }
    assert_eq!(once_ready(|| boxed("alice", "hello")), "hello, alice");
}

#[test]
fn a_pinned_box_by_other_ways_to_write_it() {
    #[rate_limit(count = 1, per = "1m", key = id)]
    fn by_alias(id: u32) -> BoxFuture<'static, Limited<u32>> {
        let doubled = id * 2;
        std::boxed::Box::pin(async move { Ok(doubled) })
    }
    #[rate_limit(count = 1, per = "1m", key = id)]
    fn local(id: u32) -> Pin<Box<dyn Future<Output = Limited<u32>>>> {
        if id == 0 {
            return Box::pin(async { Ok(0) });
        }
        Box::pin(async move {
            let id = std::rc::Rc::new(id);
            std::future::ready(()).await;
            Ok(*id)
        })
    }
    assert_eq!(once_ready(|| assert_send(by_alias(2))), 4);
    assert_eq!(once_ready(|| local(3)), 3);
}

#[test]
fn the_check_happens_at_the_first_poll_in_the_block() {
    static CALLED: AtomicU32 = AtomicU32::new(0);
    #[rate_limit(count = 1, per = "1m")]
    fn call() -> impl Future<Output = Limited<u32>> {
        let number = CALLED.fetch_add(1, Ordering::SeqCst);
        async move { Ok(number) }
    }
    let _clock = test_util::pause();
    let first = call();
    let second = call();
    assert_eq!(CALLED.load(Ordering::SeqCst), 2, "unlimited");
    assert_eq!(ready(second).unwrap(), 1, "polled first");
    assert!(ready(first).is_err());
}

#[test]
fn returns_and_question_marks_belong_to_the_block() {
    #[rate_limit(count = 1, per = "1m")]
    fn parse(text: &str) -> impl Future<Output = Result<u32, Box<dyn std::error::Error + Send + Sync>>> + Send + '_ {
        let text = text.trim();
        async move {
            if text.is_empty() {
                return Ok(0);
            }
            Ok(text.parse::<u32>()?)
        }
    }
    assert_eq!(once_ready(|| assert_send(parse(" 7 "))), 7);
}

trait Remote {
    fn name(&self) -> &str;

    fn fetch(&self, path: &str) -> impl Future<Output = Limited<String>> + Send;

    #[rate_limit(count = 1, per = "1m", key = self.name())]
    fn ping(&self) -> impl Future<Output = Limited<String>> + Send
    where
        Self: Sync,
    {
        async move { Ok(format!("{} pings", self.name())) }
    }
}

struct Server(String);

impl Remote for Server {
    fn name(&self) -> &str {
        &self.0
    }

    #[rate_limit(count = 1, per = "1m", key = (self.0, path))]
    #[expect(clippy::manual_async_fn, reason = "the shape")]
    fn fetch(&self, path: &str) -> impl Future<Output = Limited<String>> + Send {
        async move { Ok(format!("{}{path}", self.0)) }
    }
}

impl Server {
    #[rate_limit(count = 1, per = "1m", key = self.0)]
    fn boxed(&mut self) -> BoxFuture<'_, Limited<&mut String>> {
        Box::pin(async move {
            self.0.push('!');
            Ok(&mut self.0)
        })
    }
}

#[test]
fn methods_that_return_futures() {
    let mut server = Server("acme".to_owned());
    assert_eq!(once_ready(|| assert_send(server.ping())), "acme pings");
    assert_eq!(once_ready(|| assert_send(server.fetch("/"))), "acme/");
    let _clock = test_util::pause();
    ready(server.boxed()).unwrap().push('?');
    assert_eq!(server.0, "acme!?");
}

#[async_trait]
trait Job: Send + Sync {
    fn id(&self) -> u32;

    async fn below(&self, text: &str) -> Limited<String>;

    async fn above(&mut self, by: u32) -> Result<u32, Box<dyn std::error::Error + Send + Sync>>;

    #[rate_limit(count = 1, per = "1m", key = self.id())]
    async fn with_a_body(&self) -> Limited<u32> {
        Ok(self.id())
    }
}

struct Copy(u32);

#[async_trait]
impl Job for Copy {
    fn id(&self) -> u32 {
        self.0
    }

    #[rate_limit(count = 1, per = "1m", key = (self.0, text))]
    async fn below(&self, text: &str) -> Limited<String> {
        std::future::ready(()).await;
        Ok(format!("{} {text}", self.0))
    }

    #[rate_limit(count = 1, per = "1m", key = self.0)]
    async fn above(&mut self, by: u32) -> Result<u32, Box<dyn std::error::Error + Send + Sync>> {
        let by = i32::try_from(by)?;
        self.0 = self.0.checked_add_signed(std::future::ready(by).await).ok_or("too much")?;
        Ok(self.0)
    }
}

#[test]
fn async_trait_methods() {
    let mut job: Box<dyn Job> = Box::new(Copy(1));
    assert_eq!(once_ready(|| assert_send(job.below("x"))), "1 x");
    assert_eq!(once_ready(|| assert_send(job.with_a_body())), 1);
    let _clock = test_util::pause();
    assert_eq!(ready(assert_send(job.above(0))).unwrap(), 1);
    assert!(ready(job.above(0)).is_err());
}

/// A method as `#[async_trait]` leaves it if it is expanded first. The limit is on the result.
struct Expanded(u32);

#[async_trait]
trait Step {
    async fn step(&self, by: u32) -> Limited<u32>;
}

impl Step for Expanded {
    #[rate_limit(count = 1, per = "1m", key = self.0)]
    fn step<'life0, 'async_trait>(
        &'life0 self,
        by: u32,
    ) -> Pin<Box<dyn Future<Output = Limited<u32>> + Send + 'async_trait>>
    where
        'life0: 'async_trait,
        Self: 'async_trait,
    {
        Box::pin(async move {
            if let Some(result) = None::<Limited<u32>> {
                return result;
            }
            let __self = self;
            let result: Limited<u32> = { Ok(__self.0 + by) };
            result
        })
    }
}

#[test]
fn a_method_that_async_trait_has_expanded_already() {
    assert_eq!(once_ready(|| assert_send(Expanded(1).step(2))), 3);
}
