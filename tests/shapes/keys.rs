//! Every kind of key expression.

use std::future::Future;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use ratelimit_runtime::{ExactIp, KeyWriter, RateLimitKey, rate_limit, test_util};

use crate::{Limited, once, once_ready, ready};

struct User {
    id: u64,
    name: String,
    tenant: Option<Tenant>,
    addresses: Vec<IpAddr>,
}

#[derive(Clone, PartialEq, Eq)]
struct Tenant(Arc<str>);

impl RateLimitKey for Tenant {
    fn write_to<W: KeyWriter>(&self, writer: &mut W) {
        self.0.write_to(writer);
    }
}

fn user(name: &str) -> User {
    User { id: 1, name: name.to_owned(), tenant: Some(Tenant("acme".into())), addresses: vec![[127, 0, 0, 1].into()] }
}

#[test]
fn a_place_is_borrowed_not_moved() {
    #[rate_limit(count = 1, per = "1m", key = name)]
    fn by_argument(name: String) -> Limited<String> {
        Ok(name)
    }
    #[rate_limit(count = 1, per = "1m", key = user.name)]
    fn by_field(user: User) -> Limited<String> {
        Ok(user.name)
    }
    #[rate_limit(count = 1, per = "1m", key = user.tenant)]
    fn by_own_type(user: &User) -> Limited<u64> {
        Ok(user.id)
    }
    #[rate_limit(count = 1, per = "1m", key = user.addresses[0])]
    fn by_element(user: &User) -> Limited<u64> {
        Ok(user.id)
    }
    #[rate_limit(count = 1, per = "1m", key = *name)]
    fn by_what_it_points_to(name: Box<str>) -> Limited<Box<str>> {
        Ok(name)
    }
    #[rate_limit(count = 1, per = "1m", key = (user.name))]
    fn in_parentheses(user: User) -> Limited<String> {
        Ok(user.name)
    }
    #[rate_limit(count = 1, per = "1m", key = user.0.id)]
    fn by_inner_field(user: (User, u8)) -> Limited<String> {
        Ok(user.0.name)
    }
    assert_eq!(once(|| by_argument("a".to_owned())), "a");
    assert_eq!(once(|| by_field(user("a"))), "a");
    assert_eq!(once(|| by_own_type(&user("a"))), 1);
    assert_eq!(once(|| by_element(&user("a"))), 1);
    assert_eq!(&*once(|| by_what_it_points_to("a".into())), "a");
    assert_eq!(once(|| in_parentheses(user("a"))), "a");
    assert_eq!(once(|| by_inner_field((user("a"), 1))), "a");
}

#[test]
fn a_tuple_of_places_is_borrowed_element_by_element() {
    #[rate_limit(count = 1, per = "1m", key = (user.name, path))]
    fn pair(user: User, path: String) -> Limited<(String, String)> {
        Ok((user.name, path))
    }
    #[rate_limit(count = 1, per = "1m", key = ((user.name, (user.tenant, path)), method, 1_u8))]
    fn nested(user: User, path: String, method: &str) -> Limited<(String, String)> {
        Ok((user.name, path + method))
    }
    #[rate_limit(count = 1, per = "1m", key = (name,))]
    fn single(name: String) -> Limited<String> {
        Ok(name)
    }
    #[rate_limit(count = 1, per = "1m", key = (name.len(), name, &name[..1], name.to_uppercase()))]
    fn mixed(name: String) -> Limited<String> {
        Ok(name)
    }
    let pair_of = |first: &str, second: &str| (first.to_owned(), second.to_owned());
    assert_eq!(once(|| pair(user("a"), "/".to_owned())), pair_of("a", "/"));
    assert_eq!(once(|| nested(user("a"), "/".to_owned(), "GET")), pair_of("a", "/GET"));
    assert_eq!(once(|| single("a".to_owned())), "a");
    assert_eq!(once(|| mixed("a".to_owned())), "a");
    let _clock = test_util::pause();
    assert!(pair(user("a"), "bc".to_owned()).is_ok());
    assert!(pair(user("ab"), "c".to_owned()).is_ok(), "another bucket");
}

#[test]
fn expressions_are_evaluated_as_written() {
    #[rate_limit(count = 1, per = "1m", key = &user.name)]
    fn reference(user: User) -> Limited<String> {
        Ok(user.name)
    }
    #[rate_limit(count = 1, per = "1m", key = user.name.to_lowercase())]
    fn method(user: User) -> Limited<String> {
        Ok(user.name)
    }
    #[rate_limit(count = 1, per = "1m", key = format!("{}/{}", user.id, user.name))]
    fn formatted(user: User) -> Limited<String> {
        Ok(user.name)
    }
    #[rate_limit(count = 1, per = "1m", key = address.ip())]
    fn address(address: SocketAddr) -> Limited<u16> {
        Ok(address.port())
    }
    #[rate_limit(count = 1, per = "1m", key = ExactIp(*address))]
    fn exact(address: &IpAddr) -> Limited<IpAddr> {
        Ok(*address)
    }
    #[rate_limit(count = 1, per = "1m", key = if user.id == 0 { None } else { Some(&user.name) })]
    fn conditional(user: User) -> Limited<String> {
        Ok(user.name)
    }
    #[rate_limit(count = 1, per = "1m", key = match user.id { 0 => Some("zero"), _ => None })]
    fn matched(user: User) -> Limited<String> {
        Ok(user.name)
    }
    #[rate_limit(count = 1, per = "1m", key = { let id = user.id; id % 10 })]
    fn block(user: User) -> Limited<String> {
        Ok(user.name)
    }
    #[rate_limit(count = 1, per = "1m", key = user.name.len() as u64)]
    fn cast(user: User) -> Limited<String> {
        Ok(user.name)
    }
    #[rate_limit(count = 1, per = "1m", key = (user.id + 1) << 1)]
    fn sum(user: User) -> Limited<String> {
        Ok(user.name)
    }
    #[rate_limit(count = 1, per = "1m", key = [1_u8, 2])]
    fn array() -> Limited<u8> {
        Ok(1)
    }
    #[rate_limit(count = 1, per = "1m", key = "everybody")]
    fn literal() -> Limited<u8> {
        Ok(1)
    }
    assert_eq!(once(|| reference(user("A"))), "A");
    assert_eq!(once(|| method(user("A"))), "A");
    assert_eq!(once(|| formatted(user("A"))), "A");
    assert_eq!(once(|| address(([127, 0, 0, 1], 80).into())), 80);
    let address = IpAddr::V6(Ipv6Addr::LOCALHOST);
    assert_eq!(once(|| exact(&address)), address);
    assert_eq!(once(|| conditional(user("A"))), "A");
    assert_eq!(once(|| matched(user("A"))), "A");
    assert_eq!(once(|| block(user("A"))), "A");
    assert_eq!(once(|| cast(user("A"))), "A");
    assert_eq!(once(|| sum(user("A"))), "A");
    assert_eq!(once(array), 1);
    assert_eq!(once(literal), 1);
}

#[test]
fn a_constant_and_a_static_as_the_key() {
    const NAME: &str = "name";
    static NUMBER: u32 = 7;
    #[rate_limit(count = 1, per = "1m", key = (NAME, NUMBER))]
    fn call() -> Limited<u8> {
        Ok(1)
    }
    assert_eq!(once(call), 1);
}

#[test]
fn a_question_mark_in_the_key_returns_from_the_function() {
    #[rate_limit(count = 1, per = "1m", key = id.parse::<u32>()?)]
    fn blocking(id: &str) -> Result<u32, Box<dyn std::error::Error>> {
        Ok(id.parse()?)
    }
    #[rate_limit(count = 1, per = "1m", key = id?)]
    fn optional(id: Option<u32>) -> Option<u32> {
        id
    }
    assert_eq!(once(|| blocking("7")), 7);
    let _clock = test_util::pause();
    assert_eq!(blocking("x").unwrap_err().to_string(), "invalid digit found in string");
    assert_eq!(optional(None), None);
    assert_eq!(optional(Some(1)), Some(1));
    assert_eq!(optional(Some(1)), None);
}

async fn look_up(name: &str) -> Result<u64, std::num::ParseIntError> {
    std::future::ready(name.parse()).await
}

#[test]
fn an_await_in_the_key() {
    #[rate_limit(count = 1, per = "1m", key = look_up(name).await?)]
    async fn asynchronous(name: &str) -> Result<String, Box<dyn std::error::Error>> {
        Ok(name.to_owned())
    }
    #[rate_limit(count = 1, per = "1m", key = (look_up(&name).await?, name))]
    #[expect(clippy::manual_async_fn, reason = "the shape")]
    fn trailing(name: String) -> impl Future<Output = Result<String, Box<dyn std::error::Error>>> {
        async move { Ok(name) }
    }
    #[rate_limit(count = 1, per = "1m", cost = u32::try_from(look_up(name).await?)?)]
    async fn in_the_cost(name: &str) -> Result<(), Box<dyn std::error::Error>> {
        let _ = name;
        Ok(())
    }
    assert_eq!(once_ready(|| asynchronous("7")), "7");
    assert_eq!(once_ready(|| trailing("7".to_owned())), "7");
    once_ready(|| in_the_cost("1"));
    assert!(ready(asynchronous("x")).is_err());
}

#[test]
fn none_is_a_bucket_of_its_own() {
    #[rate_limit(count = 1, per = "1m", key = user)]
    fn call(user: Option<&str>) -> Limited<()> {
        let _ = user;
        Ok(())
    }
    let _clock = test_util::pause();
    assert!(call(None).is_ok());
    assert!(call(Some("")).is_ok());
    assert!(call(None).is_err(), "never a bypass");
}

#[test]
fn a_key_that_the_body_takes_apart() {
    #[rate_limit(count = 1, per = "1m", key = (first, rest.len()))]
    fn call((first, rest): (String, Vec<String>)) -> Limited<Vec<String>> {
        Ok(std::iter::once(first).chain(rest).collect())
    }
    assert_eq!(once(|| call(("a".to_owned(), vec!["b".to_owned()]))), ["a", "b"]);
}

#[test]
fn a_mutable_reference_as_the_key_is_not_used_up() {
    #[rate_limit(count = 1, per = "1m", key = *counter)]
    fn call(counter: &mut u32) -> Limited<&mut u32> {
        *counter += 1;
        Ok(counter)
    }
    let _clock = test_util::pause();
    let mut counter = 1;
    *call(&mut counter).unwrap() += 1;
    counter = 1;
    assert!(call(&mut counter).is_err());
}

impl RateLimitKey for User {
    fn write_to<W: KeyWriter>(&self, writer: &mut W) {
        self.id.write_to(writer);
    }
}

impl User {
    #[rate_limit(count = 1, per = "1m", key = self)]
    fn by_self(&self) -> Limited<u64> {
        Ok(self.id)
    }

    #[rate_limit(count = 1, per = "1m", key = (self, path))]
    fn by_self_taken(self, path: &str) -> Limited<String> {
        Ok(self.name + path)
    }

    #[rate_limit(count = 1, per = "1m", key = *self)]
    async fn by_self_in_a_future(&mut self) -> Limited<&mut String> {
        Ok(&mut self.name)
    }
}

#[test]
fn self_itself_as_the_key() {
    assert_eq!(once(|| user("a").by_self()), 1);
    assert_eq!(once(|| user("a").by_self_taken("/")), "a/");
    let mut user = user("a");
    let _clock = test_util::pause();
    ready(user.by_self_in_a_future()).unwrap().push('b');
    assert!(ready(user.by_self_in_a_future()).is_err());
    assert_eq!(user.name, "ab");
}

#[test]
fn a_return_in_the_key_returns_from_the_function() {
    #[rate_limit(count = 1, per = "1m", key = match user { Some(user) => user, None => return Ok("nobody") })]
    fn blocking(user: Option<&str>) -> Limited<&str> {
        Ok(user.unwrap_or_default())
    }
    #[rate_limit(count = 1, per = "1m", key = { let Some(user) = user else { return Ok(0) }; user.len() })]
    async fn asynchronous(user: Option<&str>) -> Limited<usize> {
        Ok(user.map_or(0, str::len))
    }
    let _clock = test_util::pause();
    assert!((0..3).all(|_| matches!(blocking(None), Ok("nobody"))));
    assert_eq!(blocking(Some("a")).unwrap(), "a");
    assert!(blocking(Some("a")).is_err());
    assert!((0..3).all(|_| matches!(ready(asynchronous(None)), Ok(0))));
    assert_eq!(ready(asynchronous(Some("a"))).unwrap(), 1);
    assert!(ready(asynchronous(Some("a"))).is_err());
}

#[derive(RateLimitKey)]
struct Named<'a, T> {
    id: u64,
    region: &'a str,
    rest: T,
}

#[derive(RateLimitKey)]
struct UserId(u64);

#[derive(RateLimitKey)]
struct Pair(u64, Option<UserId>);

#[derive(RateLimitKey)]
struct Unit;

#[derive(RateLimitKey)]
enum Caller<const N: usize> {
    Anonymous,
    Robot,
    Member { tenant: u64, roles: Vec<String> },
    Address(IpAddr, [u16; N]),
}

/// For each key in order, whether it is the first with its bucket.
fn buckets<K: RateLimitKey>(keys: impl IntoIterator<Item = K>) -> Vec<bool> {
    #[rate_limit(count = 1, per = "1h", key = key)]
    fn call<K: RateLimitKey>(key: K) -> Limited {
        Ok(())
    }
    let _clock = test_util::pause();
    keys.into_iter().map(|key| call(key).is_ok()).collect()
}

#[test]
fn a_derived_key_tells_its_fields_apart() {
    let named = |id, region, rest: &'static [&'static str]| Named { id, region, rest };
    let keys = [
        named(1, "ab", &["c"]),
        named(1, "a", &["bc"]),
        named(1, "ab", &[]),
        named(2, "ab", &["c"]),
        named(1, "ab", &["c"]),
    ];
    assert_eq!(buckets(keys), [true, true, true, true, false]);
    assert_eq!(buckets([Pair(1, None), Pair(1, Some(UserId(1))), Pair(1, Some(UserId(1)))]), [true, true, false]);
    assert_eq!(buckets([Unit, Unit]), [true, false]);
}

#[test]
fn a_deprecated_type_derives_a_key_without_a_warning() {
    #[derive(RateLimitKey)]
    #[deprecated]
    struct Old(u64);

    #[expect(deprecated, reason = "of its user")]
    let keys = [Old(1), Old(1)];
    assert_eq!(buckets(keys), [true, false]);
}

#[test]
fn a_derived_key_of_one_value_is_that_value() {
    use ratelimit_runtime::{Limit, RateLimiter};

    let limiter = RateLimiter::builder("a newtype").limit(Limit::per_day(1)).build().unwrap();
    limiter.check(UserId(7), 1).unwrap();
    assert!(limiter.check(7_u64, 1).is_err());
    assert!(limiter.check((7_u64,), 1).is_ok());
}

#[test]
fn a_derived_key_tells_its_variants_apart() {
    let member = |tenant, roles: &[&str]| Caller::<2>::Member {
        tenant,
        roles: roles.iter().map(|role| (*role).to_owned()).collect(),
    };
    let address = |ports| Caller::Address([127, 0, 0, 1].into(), ports);
    let keys = [
        Caller::Anonymous,
        Caller::Robot,
        member(1, &[]),
        member(1, &["a", "b"]),
        member(1, &["ab"]),
        address([1, 2]),
        address([2, 1]),
        Caller::Anonymous,
        member(1, &["a", "b"]),
    ];
    assert_eq!(buckets(keys), [true, true, true, true, true, true, true, false, false]);
}

#[test]
fn lists_side_by_side_are_keys_of_their_own() {
    struct Two(Vec<&'static str>, Vec<&'static str>);

    impl RateLimitKey for Two {
        fn write_to<W: KeyWriter>(&self, writer: &mut W) {
            writer.list(&self.0);
            writer.list(&self.1);
        }
    }

    let keys = [Two(vec!["a"], vec!["b"]), Two(vec!["a", "b"], vec![]), Two(vec![], vec!["a", "b"])];
    assert_eq!(buckets(keys), [true, true, true]);
}

#[test]
fn keys_of_twelve_parts_and_of_other_types() {
    use std::ffi::OsStr;
    use std::num::NonZeroU32;
    use std::path::Path;
    use std::time::Duration;

    use axum::http::{HeaderValue, Method};

    let twelve = |last: u8| (1_u8, 2_u8, 3_u8, 4_u8, 5_u8, 6_u8, 7_u8, 8_u8, 9_u8, 10_u8, 11_u8, last);
    assert_eq!(buckets([twelve(1), twelve(2), twelve(1)]), [true, true, false]);
    assert_eq!(buckets([Duration::ZERO, Duration::from_nanos(1), Duration::ZERO]), [true, true, false]);
    assert_eq!(buckets([NonZeroU32::MIN, NonZeroU32::MAX, NonZeroU32::MIN]), [true, true, false]);
    assert_eq!(buckets([Path::new("a"), Path::new("b"), Path::new("a")]), [true, true, false]);
    assert_eq!(buckets([OsStr::new("a"), OsStr::new("b"), OsStr::new("a")]), [true, true, false]);
    assert_eq!(buckets([[Some(1_u8), None], [None, Some(1)], [Some(1), None]]), [true, true, false]);
    assert_eq!(buckets([Method::GET, Method::POST, Method::GET]), [true, true, false]);
    let value = HeaderValue::from_static;
    assert_eq!(buckets([value("a"), value("b"), value("a")]), [true, true, false]);
}

#[test]
fn addresses_that_stand_for_ipv4_addresses_count_as_those() {
    let v6 = |text: &str| text.parse::<Ipv6Addr>().unwrap();
    let keys = ["64:ff9b::1.2.3.4", "64:ff9b::1.2.3.5", "::ffff:1.2.3.4", "2002:102:304:9::9", "64:ff9b:1::1.2.3.4"];
    assert_eq!(buckets(keys.map(v6)), [true, true, false, false, false]);
}
