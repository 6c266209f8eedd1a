//! Methods: every `self`, traits, impls.

use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;

use crate::{Limited, admitted_of_five, once};
use ratelimit_runtime::{Limit, RateLimitExceeded, RateLimiter, rate_limit, test_util};

#[derive(Clone)]
struct Service {
    tenant: String,
    calls: u32,
}

impl Service {
    fn new(tenant: &str) -> Self {
        Self { tenant: tenant.to_owned(), calls: 0 }
    }

    #[rate_limit(count = 2, per = "1h")]
    fn associated() -> Limited<Self> {
        Ok(Self::new("x"))
    }

    #[rate_limit(count = 2, per = "1h", key = self.tenant)]
    fn shared(&self) -> Limited<&str> {
        Ok(&self.tenant)
    }

    #[rate_limit(count = 2, per = "1h", key = self.tenant)]
    fn exclusive(&mut self) -> Limited<&mut u32> {
        self.calls += 1;
        Ok(&mut self.calls)
    }

    #[rate_limit(count = 2, per = "1h", key = self.tenant)]
    fn consumed(self) -> Limited<String> {
        Ok(self.tenant)
    }

    #[rate_limit(count = 2, per = "1h", key = self.tenant)]
    fn consumed_mutably(mut self) -> Limited<u32> {
        self.calls += 1;
        Ok(self.calls)
    }

    #[rate_limit(count = 2, per = "1h", key = self.tenant)]
    fn boxed(self: Box<Self>) -> Limited<Box<Self>> {
        Ok(self)
    }

    #[rate_limit(count = 2, per = "1h", key = self.tenant)]
    fn counted(self: Arc<Self>) -> Limited<u32> {
        Ok(self.calls)
    }

    #[rate_limit(count = 2, per = "1h", key = self.tenant)]
    fn counted_locally(self: &Rc<Self>) -> Limited<u32> {
        Ok(self.calls)
    }

    #[rate_limit(count = 2, per = "1h", key = self.tenant)]
    fn pinned(self: Pin<&mut Self>) -> Limited<u32> {
        self.get_mut().calls += 1;
        Ok(1)
    }

    #[rate_limit(count = 2, per = "1h", key = (self.tenant, user))]
    fn with_argument(&self, user: &str) -> Limited<String> {
        Ok(format!("{}{user}", self.tenant))
    }
}

#[test]
fn associated_functions_are_limited() {
    assert_eq!(admitted_of_five(Service::associated), 2);
}

#[test]
fn methods_are_limited_whatever_their_self() {
    let mut service = Service::new("a");
    assert_eq!(admitted_of_five(|| service.shared().map(str::len)), 2);
    assert_eq!(admitted_of_five(|| service.exclusive().map(|calls| *calls)), 2);
    assert_eq!(service.calls, 2);
    assert_eq!(admitted_of_five(|| service.clone().consumed()), 2);
    assert_eq!(admitted_of_five(|| service.clone().consumed_mutably()), 2);
    assert_eq!(admitted_of_five(|| Box::new(service.clone()).boxed()), 2);
    assert_eq!(admitted_of_five(|| Arc::new(service.clone()).counted()), 2);
    assert_eq!(admitted_of_five(|| Rc::new(service.clone()).counted_locally()), 2);
    assert_eq!(admitted_of_five(|| Pin::new(&mut service).pinned()), 2);
    assert_eq!(admitted_of_five(|| service.with_argument("u")), 2);
    assert_eq!(admitted_of_five(|| service.with_argument("v")), 2);
    assert_eq!(admitted_of_five(|| Service::new("b").shared().map(str::len)), 2);
}

trait Greets {
    fn name(&self) -> String;

    #[rate_limit(count = 2, per = "1h", key = self.name())]
    fn greet(&self) -> Limited<String> {
        Ok(format!("hello, {}", self.name()))
    }

    fn implemented(&self) -> Limited<String>;

    fn named_by_default(&self) -> Limited<String>;
}

impl Greets for u32 {
    fn name(&self) -> String {
        self.to_string()
    }

    #[rate_limit(count = 2, per = "1h")]
    fn implemented(&self) -> Limited<String> {
        Ok(self.name())
    }

    #[rate_limit(count = 1, per = "1h")]
    fn named_by_default(&self) -> Limited<String> {
        Ok(self.name())
    }
}

impl Greets for bool {
    fn name(&self) -> String {
        self.to_string()
    }

    #[rate_limit(count = 3, per = "1h")]
    fn implemented(&self) -> Limited<String> {
        Ok(self.name())
    }

    #[rate_limit(count = 1, per = "1h")]
    fn named_by_default(&self) -> Limited<String> {
        Ok(self.name())
    }
}

#[test]
fn a_trait_method_with_a_body_has_one_limiter_for_all_types() {
    assert_eq!(admitted_of_five(|| 1_u32.greet()), 2);
    assert_eq!(admitted_of_five(|| true.greet()), 2);
}

#[test]
fn each_impl_of_a_trait_method_has_its_own_limiter() {
    assert_eq!(admitted_of_five(|| 1_u32.implemented()), 2);
    assert_eq!(admitted_of_five(|| true.implemented()), 3);
    let object: &dyn Greets = &false;
    assert!(object.implemented().is_err());
}

#[test]
fn default_names_of_two_impls_differ() {
    let _ = (2_u32.named_by_default(), true.named_by_default());
    let names: Vec<String> = ratelimit_runtime::limiters()
        .iter()
        .map(|limiter| limiter.name.clone())
        .filter(|name| name.contains("named_by_default"))
        .collect();
    assert_eq!(names.len(), 2, "{names:?}");
    assert_ne!(names[0], names[1]);
}

struct Owner {
    limiter: RateLimiter,
}

impl Owner {
    #[rate_limit(limiter = self.limiter, key = user)]
    fn by_field(&self, user: u8) -> Limited<u8> {
        Ok(user)
    }

    #[rate_limit(limiter = self.limiter, key = user)]
    fn by_field_exclusive(&mut self, user: u8) -> Limited<&mut RateLimiter> {
        let _ = user;
        Ok(&mut self.limiter)
    }

    #[rate_limit(limiter = self.limiter(), key = user)]
    async fn by_method(&self, user: u8) -> Limited<u8> {
        Ok(user)
    }

    const fn limiter(&self) -> &RateLimiter {
        &self.limiter
    }
}

fn owner() -> Owner {
    let limiter = RateLimiter::builder("of a field").limit(Limit::new(2, std::time::Duration::from_secs(60)));
    Owner { limiter: limiter.build().unwrap() }
}

#[tokio::test]
async fn a_limiter_may_be_a_field() {
    let mut owner = owner();
    assert_eq!(admitted_of_five(|| owner.by_field(1)), 2);
    assert_eq!(admitted_of_five(|| owner.by_field_exclusive(2).map(drop)), 2);
    assert!(owner.by_method(1).await.is_err());
    assert!(owner.by_method(3).await.is_ok());
}

trait Typed {
    type Reply;
    type Error: From<RateLimitExceeded>;
    const COUNT: u32 = 1;

    fn reply(&self) -> Self::Reply;

    #[rate_limit(count = 1, per = "1h")]
    fn call(&self) -> Result<Self::Reply, Self::Error> {
        Ok(self.reply())
    }

    #[rate_limit(count = Self::COUNT, per = "1h")]
    fn by_constant(&self) -> Limited<Self::Reply> {
        Ok(self.reply())
    }

    #[rate_limit(count = 1, per = "1h")]
    fn make() -> Limited<Self>
    where
        Self: Sized + Default,
    {
        Ok(Self::default())
    }
}

#[derive(Default)]
struct First;
struct Second;

impl Typed for First {
    type Reply = u32;
    type Error = RateLimitExceeded;

    fn reply(&self) -> u32 {
        1
    }
}

impl Typed for Second {
    type Reply = &'static str;
    type Error = Box<dyn std::error::Error>;
    const COUNT: u32 = 2;

    fn reply(&self) -> &'static str {
        "second"
    }
}

#[test]
fn a_trait_method_may_use_associated_items() {
    let _clock = test_util::pause();
    assert_eq!(First.call().ok(), Some(1));
    assert!(Second.call().unwrap_err().is::<RateLimitExceeded>());
    assert_eq!(First.by_constant().ok(), Some(1));
    assert_eq!(Second.by_constant().ok(), Some("second"), "judged by its own count");
    assert!(First.by_constant().is_err());
    assert!(First::make().is_ok());
    assert!(First::make().is_err());
}

impl TryFrom<Service> for u32 {
    type Error = RateLimitExceeded;

    #[rate_limit(count = 1, per = "1h", key = service.tenant)]
    fn try_from(service: Service) -> Result<Self, Self::Error> {
        Ok(service.calls)
    }
}

impl Iterator for Service {
    type Item = u32;

    #[rate_limit(count = 2, per = "1h", key = self.tenant)]
    fn next(&mut self) -> Option<Self::Item> {
        self.calls += 1;
        Some(self.calls)
    }
}

#[test]
fn traits_of_the_standard_library() {
    assert_eq!(once(|| u32::try_from(Service::new("a"))), 0);
    assert!(Service::new("a").eq([1, 2]));
}

trait Blanket {
    fn text(&self) -> &str;

    #[rate_limit(count = 1, per = "1h", key = self.text())]
    fn echo(&self) -> Limited<String> {
        Ok(self.text().to_owned())
    }
}

impl<T: AsRef<str>> Blanket for T {
    fn text(&self) -> &str {
        self.as_ref()
    }
}

#[test]
fn trait_objects_of_a_blanket_impl_share_one_limiter() {
    let first: &dyn Blanket = &"a";
    let second: Box<dyn Blanket> = Box::new(String::from("a"));
    let _clock = test_util::pause();
    assert_eq!(first.echo().unwrap(), "a");
    assert!(second.echo().is_err());
}

impl Service {
    #[rate_limit(count = 1, per = "1h")]
    fn projected(self: Pin<&mut Self>) -> Limited<&mut u32> {
        Ok(&mut self.get_mut().calls)
    }
}

#[test]
fn a_borrow_of_a_pinned_self_can_be_returned() {
    let mut service = Service::new("a");
    *Pin::new(&mut service).projected().unwrap() = 5;
    assert!(Pin::new(&mut service).projected().is_err());
    assert_eq!(service.calls, 5);
}

#[test]
fn a_denied_call_drops_what_it_was_given() {
    let _clock = test_util::pause();
    let service = Arc::new(Service::new("a"));
    assert_eq!((0..5).filter(|_| Arc::clone(&service).counted().is_err()).count(), 3);
    assert_eq!(Arc::strong_count(&service), 1);
}
