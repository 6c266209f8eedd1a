//! `async fn`, and functions that return a future.
#![allow(unsafe_code, reason = "`unsafe fn` is one of the shapes")]

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex};

use crate::{Limited, admitted_of_five_async, assert_send, once_ready};
use async_trait::async_trait;
use ratelimit_runtime::{KeyWriter, RateLimitKey, rate_limit, test_util};

#[rate_limit(count = 2, per = "1h", key = user)]
async fn plain(user: &str) -> Limited<usize> {
    tokio::task::yield_now().await;
    Ok(user.len())
}

#[tokio::test]
async fn an_async_function_is_limited_and_stays_send() {
    assert_eq!(assert_send(plain("a")).await.ok(), Some(1));
    assert_eq!(admitted_of_five_async(|| plain("a")).await, 1);
}

#[rate_limit(count = 1, per = "1h")]
async fn lazy() -> Limited {
    Ok(())
}

#[tokio::test]
async fn the_check_happens_at_the_first_poll() {
    drop(lazy());
    drop(lazy());
    let first = lazy();
    let second = lazy();
    assert!(second.await.is_ok());
    assert!(first.await.is_err());
}

struct NotSync(Cell<u32>);

#[rate_limit(count = 2, per = "1h", key = shared.0.get())]
async fn key_from_not_sync(shared: NotSync) -> Limited<u32> {
    let value = shared.0.get();
    tokio::task::yield_now().await;
    Ok(value)
}

#[tokio::test]
async fn nothing_borrowed_from_the_key_lives_across_an_await() {
    let call = || assert_send(key_from_not_sync(NotSync(Cell::new(1))));
    assert_eq!(admitted_of_five_async(call).await, 2);
}

#[rate_limit(count = 2, per = "1h", key = shared.borrow().len())]
#[expect(clippy::future_not_send, reason = "the argument is not")]
async fn key_through_a_guard(shared: Rc<std::cell::RefCell<String>>) -> Limited {
    shared.borrow_mut().push('x');
    Ok(())
}

#[tokio::test]
async fn a_guard_in_the_key_is_released_before_the_body_runs() {
    let shared = Rc::default();
    assert!(key_through_a_guard(Rc::clone(&shared)).await.is_ok());
    assert_eq!(*shared.borrow(), "x");
}

async fn user_of(token: &str) -> Result<String, std::num::ParseIntError> {
    tokio::task::yield_now().await;
    token.parse::<u32>().map(|id| id.to_string())
}

#[rate_limit(count = 2, per = "1h", key = user_of(token).await?)]
async fn key_awaits(token: &str) -> Result<usize, Box<dyn std::error::Error + Send + Sync>> {
    Ok(token.len())
}

#[tokio::test]
async fn a_key_may_await_and_return_early() {
    assert!(key_awaits("x").await.unwrap_err().is::<std::num::ParseIntError>());
    assert_eq!(admitted_of_five_async(|| assert_send(key_awaits("1"))).await, 2);
}

#[rate_limit(count = 2, per = "1h", key = user)]
#[expect(clippy::manual_async_fn, reason = "the shape")]
fn returns_impl_future(user: u32) -> impl Future<Output = Limited<u32>> {
    async move { Ok(user) }
}

#[rate_limit(count = 2, per = "1h", key = user)]
fn returns_impl_future_send(user: u32) -> impl Future<Output = Limited<u32>> + Send + 'static {
    let doubled = user * 2;
    async move {
        tokio::task::yield_now().await;
        Ok(doubled)
    }
}

#[rate_limit(count = 2, per = "1h", key = user)]
fn returns_boxed_future(user: &str) -> Pin<Box<dyn Future<Output = Limited<usize>> + Send + '_>> {
    Box::pin(async move {
        tokio::task::yield_now().await;
        Ok(user.len())
    })
}

type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

#[rate_limit(count = 2, per = "1h", key = user)]
fn returns_alias(user: &str) -> BoxFuture<'_, Limited<usize>> {
    if user.is_empty() {
        tracing::debug!("nobody");
    }
    Box::pin(async move { Ok(user.len()) })
}

#[tokio::test]
async fn returned_futures_are_limited_when_polled() {
    drop(returns_impl_future(1));
    assert_eq!(admitted_of_five_async(|| returns_impl_future(1)).await, 2);
    assert_eq!(admitted_of_five_async(|| assert_send(returns_impl_future_send(1))).await, 2);
    assert_eq!(admitted_of_five_async(|| assert_send(returns_boxed_future("a"))).await, 2);
    assert_eq!(admitted_of_five_async(|| returns_alias("a")).await, 2);
}

#[async_trait]
trait Fetch: Sync {
    async fn fetch(&self, id: u32) -> Limited<u32>;

    #[rate_limit(count = 2, per = "1h", key = id)]
    async fn provided(&self, id: u32) -> Limited<u32> {
        self.fetch(id).await
    }
}

struct Local {
    tenant: String,
}

#[async_trait]
impl Fetch for Local {
    #[rate_limit(count = 2, per = "1h", key = (self.tenant, id))]
    async fn fetch(&self, mut id: u32) -> Limited<u32> {
        tokio::task::yield_now().await;
        id += 1;
        Ok(id)
    }
}

#[async_trait(?Send)]
trait FetchHere {
    async fn fetch_here(self, pair: (u32, u32)) -> Limited<u32>;
}

#[async_trait(?Send)]
impl FetchHere for Rc<u32> {
    #[rate_limit(count = 2, per = "1h", key = *self)]
    async fn fetch_here(self, (a, b): (u32, u32)) -> Limited<u32> {
        tokio::task::yield_now().await;
        Ok(*self + a + b)
    }
}

#[tokio::test]
async fn methods_of_async_trait_are_limited() {
    let local = Local { tenant: "t".to_owned() };
    let object: &dyn Fetch = &local;
    assert_eq!(assert_send(object.fetch(1)).await.ok(), Some(2));
    assert_eq!(admitted_of_five_async(|| object.fetch(1)).await, 1);
    assert_eq!(admitted_of_five_async(|| object.provided(7)).await, 2);
    assert_eq!(admitted_of_five_async(|| Rc::new(1).fetch_here((1, 2))).await, 2);
}

trait Native {
    fn native(&self, id: u32) -> impl Future<Output = Limited<u32>> + Send;
}

impl Native for Local {
    #[rate_limit(count = 2, per = "1h", key = id)]
    async fn native(&self, id: u32) -> Limited<u32> {
        Ok(id)
    }
}

#[tokio::test]
async fn an_async_function_in_a_trait_is_limited() {
    let local = Local { tenant: String::new() };
    assert_eq!(admitted_of_five_async(|| assert_send(local.native(1))).await, 2);
}

impl Local {
    #[rate_limit(count = 2, per = "1h", key = self.tenant)]
    async fn method(&mut self) -> Limited<&mut String> {
        self.tenant.push('x');
        tokio::task::yield_now().await;
        Ok(&mut self.tenant)
    }

    #[rate_limit(count = 1, per = "1h", key = self.tenant)]
    async fn pinned(self: Pin<&mut Self>) -> Limited<usize> {
        Ok(self.tenant.len())
    }
}

#[tokio::test]
async fn an_async_method_may_borrow_mutably() {
    let mut local = Local { tenant: String::new() };
    assert_eq!(assert_send(local.method()).await.map(|tenant| tenant.as_str()).ok(), Some("x"));
    assert!(Pin::new(&mut local).pinned().await.is_ok());
    assert!(Pin::new(&mut local).pinned().await.is_err());
}

#[rate_limit(count = 4, per = "1h")]
async fn recursive(depth: u32) -> Limited<u32> {
    if depth == 0 { Ok(0) } else { Box::pin(recursive(depth - 1)).await.map(|below| below + 1) }
}

#[tokio::test]
async fn an_async_function_may_call_itself() {
    assert_eq!(recursive(3).await.ok(), Some(3));
    assert!(recursive(0).await.is_err());
}

/// # Safety
/// None is needed.
#[rate_limit(count = 2, per = "1h")]
async unsafe fn dangerous<T: Send>(value: T) -> Limited<T> {
    Ok(value)
}

#[tokio::test]
async fn an_async_function_may_be_unsafe_and_generic() {
    // SAFETY: it needs none.
    assert_eq!(admitted_of_five_async(|| unsafe { dangerous(1) }).await, 2);
}

impl RateLimitKey for NotSync {
    fn write_to<W: KeyWriter>(&self, writer: &mut W) {
        self.0.get().write_to(writer);
    }
}

#[rate_limit(count = 1, per = "1h", key = key)]
async fn borrows_a_place(key: NotSync) -> Limited<u32> {
    tokio::task::yield_now().await;
    Ok(key.0.get())
}

#[rate_limit(count = 1, per = "1h", key = (key, &other))]
async fn borrows_a_tuple(key: NotSync, other: NotSync) -> Limited<u32> {
    tokio::task::yield_now().await;
    Ok(key.0.get() + other.0.get())
}

#[rate_limit(count = 1, per = "1h", key = *shared.lock().unwrap())]
async fn locks(shared: &Mutex<u32>) -> Limited<u32> {
    tokio::task::yield_now().await;
    Ok(*shared.lock().unwrap())
}

#[rate_limit(count = *Rc::new(1), per = "1h", cost = *Rc::new(1), exempt_when = *Rc::new(false))]
async fn reads_through_what_is_not_send() -> Limited<u32> {
    tokio::task::yield_now().await;
    Ok(1)
}

#[rate_limit(count = 1, per = "1h", deduct_when = |_| *Rc::new(true), or_else = |_| *Rc::new(0))]
async fn looks_at_the_outcome_through_what_is_not_send() -> u32 {
    tokio::task::yield_now().await;
    1
}

#[tokio::test]
async fn a_future_stays_send_whatever_is_borrowed_in_the_attribute() {
    let key = || NotSync(Cell::new(3));
    assert_eq!(assert_send(borrows_a_place(key())).await.ok(), Some(3));
    assert!(borrows_a_place(key()).await.is_err());
    assert_eq!(assert_send(borrows_a_tuple(key(), key())).await.ok(), Some(6));
    assert!(borrows_a_tuple(key(), key()).await.is_err());
    let shared = Mutex::new(3);
    assert_eq!(assert_send(locks(&shared)).await.ok(), Some(3));
    assert!(locks(&shared).await.is_err());
    assert_eq!(assert_send(reads_through_what_is_not_send()).await.ok(), Some(1));
    assert!(reads_through_what_is_not_send().await.is_err());
    assert_eq!(assert_send(looks_at_the_outcome_through_what_is_not_send()).await, 1);
    assert_eq!(looks_at_the_outcome_through_what_is_not_send().await, 0);
}

#[rate_limit(count = 1, per = "1h", key = (key, first))]
async fn generic<'a, K, T, const N: usize>(
    key: &'a K,
    _: &'a str,
    (first, _): (u32, [u32; N]),
    mut values: Vec<T>,
    _: bool,
) -> Limited<(&'a K, Vec<T>)>
where
    K: RateLimitKey + Sync + ?Sized,
    T: Send,
{
    tokio::task::yield_now().await;
    values = values.into_iter().rev().collect();
    Ok((key, values))
}

#[tokio::test]
async fn generics_lifetimes_and_patterns_together() {
    let call = || generic("a", "b", (1, [1, 2]), vec![1, 2], true);
    assert_eq!(assert_send(call()).await.ok(), Some(("a", vec![2, 1])));
    assert!(call().await.is_err());
}

impl Local {
    #[rate_limit(count = 1, per = "1h", key = tenant)]
    async fn associated(tenant: &str) -> Limited<Self> {
        Ok(Self { tenant: tenant.to_owned() })
    }

    #[rate_limit(count = 1, per = "1h", key = self.tenant)]
    async fn consumed(mut self) -> Limited<String> {
        self.tenant.push('!');
        Ok(self.tenant)
    }

    #[rate_limit(count = 1, per = "1h", key = self.tenant)]
    async fn boxed(self: Box<Self>) -> Limited<String> {
        Ok(self.tenant)
    }

    #[rate_limit(count = 1, per = "1h", key = self.tenant)]
    async fn counted(self: Arc<Self>) -> Limited<String> {
        Ok(self.tenant.clone())
    }
}

#[test]
fn async_methods_are_limited_whatever_their_self() {
    let local = || Local { tenant: "t".to_owned() };
    assert_eq!(once_ready(|| assert_send(Local::associated("t"))).tenant, "t");
    assert_eq!(once_ready(|| assert_send(local().consumed())), "t!");
    assert_eq!(once_ready(|| assert_send(Box::new(local()).boxed())), "t");
    assert_eq!(once_ready(|| assert_send(Arc::new(local()).counted())), "t");
}

#[rate_limit(count = 1, per = "1h", key = user)]
async fn spawned(user: String) -> Limited<String> {
    tokio::task::yield_now().await;
    Ok(user)
}

#[test]
fn a_task_on_another_thread_is_limited() {
    let clock = test_util::pause();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    let spawn = || runtime.block_on(runtime.spawn(clock.handle().scope(spawned("alice".to_owned())))).unwrap();
    assert_eq!(spawn().unwrap(), "alice");
    assert!(spawn().is_err());
}

#[rate_limit(count = 1, per = "1h")]
async fn returns_early(texts: &[&str]) -> Result<u32, Box<dyn std::error::Error + Send + Sync>> {
    let mut total = 0;
    'texts: for text in texts {
        if text.is_empty() {
            continue 'texts;
        }
        if *text == "end" {
            return Ok(total);
        }
        total += std::future::ready(text.parse::<u32>()).await?;
    }
    Ok(total)
}

#[test]
fn an_async_body_may_return_early() {
    assert_eq!(once_ready(|| assert_send(returns_early(&["1", "", "2", "end", "x"]))), 3);
}
