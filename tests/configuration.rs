//! Limits from a document: a file that changes, and one document for a fleet through Redis.

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ratelimit_runtime::{
    Algorithm, Configuration, ExceededKind, Limit, LimiterInfo, RateLimiter, RedisBackend, limiters, rate_limit,
    set_limits, unused_limits,
};
use ratelimit_tests::{RedisServer, example};

const LOOK: Duration = Duration::from_millis(20);
const HOUR: Duration = Duration::from_secs(3_600);

/// A document applies to the whole process, so tests that apply one take turns.
fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn limiter(name: &str, count: u32) -> RateLimiter {
    RateLimiter::builder(name).limit(Limit::new(count, HOUR)).build().unwrap()
}

fn apply(toml: &str) {
    Configuration::from_toml(toml).unwrap().apply();
}

fn info(name: &str) -> LimiterInfo {
    limiters().into_iter().find(|limiter| limiter.name == name).unwrap_or_else(|| panic!("no limiter `{name}`"))
}

/// How many of five calls are admitted.
fn admitted(limiter: &RateLimiter) -> usize {
    (0..5).filter(|_| limiter.check((), 1).is_ok()).count()
}

/// Waits until `done`, or panics after ten seconds.
fn wait_until(what: &str, done: impl Fn() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(10), "waited in vain until {what}");
        std::thread::sleep(LOOK / 4);
    }
}

struct File(PathBuf);

impl File {
    fn new(name: &str) -> File {
        File(std::env::temp_dir().join(format!("ratelimit-{}-{name}", std::process::id())))
    }

    /// Replaces the file as a whole, as configuration management does.
    fn write(&self, text: &str) {
        let new = self.0.with_extension("new");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(&new, &self.0).unwrap();
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[test]
fn a_limiter_without_a_line_has_its_own_limits_again() {
    let _alone = alone();
    let limiter = limiter("configured", 2);
    apply("configured = \"3/1h\"");
    assert_eq!((limiter.limits(), admitted(&limiter)), (vec![Limit::per_hour(3)], 3));
    apply("other = \"3/1h\"");
    assert_eq!(limiter.limits(), [Limit::per_hour(2)]);
    assert_eq!(unused_limits(), ["other"]);
    // Before its first use.
    apply("later = \"1/1h\"");
    assert_eq!(admitted(&self::limiter("later", 2)), 1);
    set_limits("configured", &[Limit::per_hour(9)]).unwrap();
    apply("");
    assert_eq!(limiter.limits(), [Limit::per_hour(9)], "a document changes what it names or named");
    assert_eq!(unused_limits(), [""; 0]);
    set_limits("configured", &[Limit::per_hour(2)]).unwrap();
}

#[test]
fn a_limiter_is_switched_off_or_tried() {
    let _alone = alone();
    let limiter = limiter("switched", 2);
    assert_eq!(admitted(&limiter), 2);
    apply("switched = { enabled = false }");
    assert_eq!(admitted(&limiter), 5);
    let off = info("switched");
    assert_eq!((off.allowed, off.denied, off.enabled), (2, 3, false), "calls are not counted while it is off");
    apply("switched = { dry_run = true }");
    assert_eq!(admitted(&limiter), 5);
    let tried = info("switched");
    assert_eq!((tried.allowed, tried.denied, tried.dry_run), (2, 8, true));
    apply("");
    assert_eq!(admitted(&limiter), 0, "the permits on record stay");
    assert!(!info("switched").dry_run && info("switched").enabled);
}

#[test]
fn one_limit_of_several_is_tried_or_off() {
    let _alone = alone();
    let limiter = RateLimiter::builder("partly").limit(Limit::per_hour(4)).limit(Limit::per_day(3)).build().unwrap();
    apply(r#"partly = [{ count = 2, per = "1h", dry_run = true }, { count = 4, per = "1d" }]"#);
    assert_eq!(admitted(&limiter), 4);
    let tried = info("partly (dry run)");
    assert_eq!((tried.allowed, tried.denied, tried.dry_run), (2, 3, true));
    // Async calls, and calls that wait, are tried as well.
    assert!(futures_executor::block_on(limiter.check_async((), 1)).is_err());
    assert!(limiter.wait_at_most((), 1, Duration::ZERO).is_err());
    assert_eq!(info("partly (dry run)").denied, 5);
    assert!(limiter.peek((), 1).is_err());
    assert_eq!(info("partly (dry run)").denied, 5, "a peek is no call");

    apply(r#"partly = [{ count = 2, per = "1h" }, { count = 4, per = "1d", enabled = false }]"#);
    limiter.reset(()).unwrap();
    assert_eq!(admitted(&limiter), 2);
    assert!(limiters().iter().all(|limiter| limiter.name != "partly (dry run)"));
    apply("");
}

#[test]
fn a_limit_with_a_key_of_its_own_is_tried_by_that_key() {
    let _alone = alone();
    let builder = RateLimiter::builder("keys").limit(Limit::per_hour(9)).limit(Limit::per_day(9));
    let limiter = builder.limit(Limit::per_hour(8)).build().unwrap();
    let call = |user: u8, tenant: u8| limiter.check_each((user, tenant, ()), 1).is_ok();
    let counts = || {
        let tried = info("keys (dry run)");
        (tried.allowed, tried.denied)
    };
    // The user's limit as before, the tenant's tried, the total's off.
    apply(r#"keys = ["9/1h", { count = 2, per = "1d", dry_run = true }, { count = 8, per = "1h", enabled = false }]"#);
    assert!((0..3).all(|user| call(user, 1)));
    // The tenant's third call would have been denied, whoever the users are.
    assert_eq!(counts(), (2, 1));
    assert!((0..3).all(|tenant| call(9, tenant)));
    assert_eq!(counts(), (4, 2));
    assert!(limiter.peek_each((9_u8, 1_u8, ()), 1).is_ok());
    assert!(futures_executor::block_on(limiter.check_each_async((9_u8, 1_u8, ()), 1)).is_ok());
    assert!(limiter.wait_each_at_most((9_u8, 2_u8, ()), 1, Duration::ZERO).is_ok());
    assert_eq!(counts(), (5, 3), "a peek is no call");
    assert_eq!(info("keys").denied, 0);

    // Two of the three are tried, and both deny.
    apply(r#"keys = [{ count = 1, per = "1h", dry_run = true }, "9/1d", { count = 1, per = "1h", dry_run = true }]"#);
    assert!(call(20, 20) && call(20, 21) && call(21, 20));
    assert_eq!(counts(), (1, 2));
    // A call with one key for all limits is tried too.
    assert!(limiter.check("ann", 1).is_ok() && limiter.check("ann", 1).is_ok());
    assert_eq!(counts(), (2, 3));
    apply("");
}

#[test]
fn calls_that_wait_go_when_their_limiter_is_switched_off() {
    let _alone = alone();
    let limiter = limiter("waited for", 1);
    limiter.check((), 1).unwrap();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| limiter.wait((), 1).unwrap());
        wait_until("a call waits", || info("waited for").waiting == 1);
        apply("\"waited for\" = { enabled = false }");
        waiting.join().unwrap();
    });
    apply("");
}

#[test]
fn calls_that_wait_when_a_dry_run_begins_count_as_denied_and_go() {
    let _alone = alone();
    let server = RedisServer::start();
    let redis = RedisBackend::builder().url(server.url()).timeout(Duration::from_secs(5)).build().unwrap();
    let in_memory = limiter("goes dry", 1);
    let in_redis = RateLimiter::builder("goes dry in redis").limit(Limit::per_hour(1)).backend(redis).build().unwrap();
    for limiter in [&in_memory, &in_redis] {
        let name = limiter.name();
        limiter.check("a", 1).unwrap();
        std::thread::scope(|scope| {
            let blocking = scope.spawn(|| limiter.wait("a", 1).unwrap());
            let future = scope.spawn(|| futures_executor::block_on(limiter.wait_async("a", 1)).unwrap());
            wait_until("the calls wait", || info(name).waiting == 2);
            apply(&format!("\"{name}\" = {{ dry_run = true }}"));
            blocking.join().unwrap();
            future.join().unwrap();
        });
        let tried = info(name);
        assert_eq!((tried.allowed, tried.denied, tried.waiting, tried.abandoned), (1, 2, 0, 0), "{name}");
        apply("");
    }

    let each =
        RateLimiter::builder("each goes dry").limit(Limit::per_hour(1)).limit(Limit::per_day(9)).build().unwrap();
    each.check_each((1_u8, ()), 1).unwrap();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| each.wait_each((1_u8, ()), 1).unwrap());
        wait_until("the call waits", || info("each goes dry").waiting == 1);
        apply("\"each goes dry\" = { dry_run = true }");
        waiting.join().unwrap();
    });
    assert_eq!((info("each goes dry").allowed, info("each goes dry").denied), (1, 1));
    apply("");
}

#[test]
fn a_limit_that_does_not_apply_is_not_listed() {
    let _alone = alone();
    let builder = RateLimiter::builder("unlisted").limit(Limit::per_hour(4));
    let limiter = builder.limit(Limit::per_day(3)).build().unwrap();
    apply(r#"unlisted = [{ count = 2, per = "1h", enabled = false }, { count = 4, per = "1d" }]"#);
    assert!(limiter.check((), 1).is_ok());
    assert_eq!((info("unlisted").limits, info("unlisted").remaining), (vec![Limit::per_day(4)], Some(3)));
    apply(r#"unlisted = [{ count = 2, per = "1h", enabled = false }, { count = 4, per = "1d", dry_run = true }]"#);
    assert!(limiter.check((), 1).is_ok());
    assert_eq!((info("unlisted").limits, info("unlisted").remaining), (vec![], None));
    apply("");
}

const HOURLY: u32 = 2;

struct Tenant<const COUNT: u32>;

impl Tenant<3> {
    const PER: Duration = HOUR;
}

impl<const COUNT: u32> Tenant<COUNT> {
    #[rate_limit(count = COUNT, per = HOUR, name = "of a generic constant")]
    fn call() -> Option<()> {
        Some(())
    }
}

#[rate_limit(count = HOURLY, per = "1h", name = "of a constant")]
fn of_a_constant() -> Option<()> {
    Some(())
}

#[rate_limit(
    limit(count = HOURLY, per = "1h", algorithm = token_bucket, burst = HOURLY, key = ()),
    limit(count = 4, per = Tenant::<3>::PER, key = 1),
    name = "of constants"
)]
fn of_constants() -> Option<()> {
    Some(())
}

#[rate_limit(count = count, per = per, name = "of expressions")]
fn of_expressions(count: u32, per: Duration) -> Option<()> {
    Some(())
}

#[test]
fn constants_are_listed_and_replaced_as_numbers_are() {
    let _alone = alone();
    let admitted = |call: fn() -> Option<()>| (0..6).filter(|_| call().is_some()).count();
    for (name, call, written, limits) in [
        ("of a constant", of_a_constant as fn() -> _, 2, vec![Limit::per_hour(2)]),
        ("of a generic constant", Tenant::<3>::call, 3, vec![Limit::per_hour(3)]),
        ("of constants", of_constants, 2, {
            vec![Limit::per_hour(2).with_algorithm(Algorithm::TokenBucket), Limit::per_hour(4)]
        }),
    ] {
        assert_eq!((admitted(call), info(name).limits), (written, limits.clone()), "{name}");
        let replaced = limits
            .iter()
            .map(|limit| format!("{{ count = 5, per = '1h', algorithm = '{}' }}", limit.algorithm().name()));
        apply(&format!("'{name}' = [{}]", replaced.collect::<Vec<_>>().join(", ")));
        assert!(info(name).limits.iter().all(|limit| limit.count() == 5), "{name}: {:?}", info(name).limits);
        assert_eq!(admitted(call), 5 - written, "{name}");
        apply(&format!("'{name}' = {{ limits = '1/1h', enabled = false }}"));
        assert_eq!(admitted(call), 6, "{name}");
        apply("");
        assert_eq!((admitted(call), info(name).limits), (0, limits), "{name}");
    }
}

#[test]
fn expressions_are_listed_as_first_read_and_not_replaced() {
    let _alone = alone();
    assert!(of_expressions(2, HOUR).is_some());
    assert_eq!(info("of expressions").limits, [Limit::per_hour(2)]);
    apply("'of expressions' = '1/1h'");
    assert!(of_expressions(3, HOUR).is_some());
    apply("");
}

#[test]
fn a_file_is_applied_whenever_it_changes_as_a_whole_or_not_at_all() {
    let _alone = alone();
    let (one, other) = (limiter("in file", 2), limiter("also in file", 2));
    let limits = || (one.limits()[0].count(), other.limits()[0].count());
    let file = File::new("limits.toml");
    let missing = Configuration::watch(&file.0, LOOK).unwrap_err();
    assert!(missing.to_string().contains("limits.toml: "), "{missing}");
    file.write("\"in file\" = \"3/1x\"");
    let wrong = Configuration::watch(&file.0, LOOK).unwrap_err();
    assert!(wrong.to_string().contains("limits.toml, line 1: "), "{wrong}");
    assert_eq!(limits(), (2, 2));

    file.write("\"in file\" = \"3/1h\"");
    let watch = Configuration::watch(&file.0, LOOK).unwrap();
    assert_eq!(limits(), (3, 2));
    file.write("\"in file\" = \"4/1h\"\n\"also in file\" = \"4/1h\"");
    wait_until("the change is applied", || limits() == (4, 4));
    // The first line is right, and must not be applied without the second.
    file.write("\"in file\" = \"5/1h\"\n\"also in file\" = \"5 per\"");
    std::thread::sleep(LOOK * 5);
    assert_eq!(limits(), (4, 4));
    std::fs::remove_file(&file.0).unwrap();
    std::thread::sleep(LOOK * 5);
    assert_eq!(limits(), (4, 4), "a file that is gone changes nothing");
    file.write("\"in file\" = \"6/1h\"");
    wait_until("the mended file is applied", || limits() == (6, 2));
    drop(watch);
    file.write("");
    std::thread::sleep(LOOK * 5);
    assert_eq!(limits(), (6, 2), "nobody looks any more");
    apply("");
}

#[test]
fn one_command_changes_a_limit_in_every_process() {
    let _alone = alone();
    let server = RedisServer::start();
    // A busy machine may take longer than the usual 100 ms, which this does not test.
    let redis = RedisBackend::builder().url(server.url()).timeout(Duration::from_secs(5)).build().unwrap();
    let build =
        |name: &str| RateLimiter::builder(name).limit(Limit::per_hour(2)).backend(redis.clone()).build().unwrap();
    let limiter = build("fleet");
    assert!(limiter.check(("ann", 1_u8), 1).is_ok());
    // Two tries for each user, and nine in all; one more bans the key.
    let builder = RateLimiter::builder("tries").limit(Limit::per_hour(2)).limit(Limit::per_hour(9)).ban(HOUR);
    let tries = builder.backend(redis.clone()).build().unwrap();
    assert!(tries.check_each(("ann", ()), 1).is_ok());
    let watch = redis.watch_configuration(LOOK).unwrap();

    let run = |arguments: &[&str]| {
        let output = example("limits").args(arguments).env("REDIS_URL", server.url()).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        (output.status.success(), text)
    };
    wait_until("they are published", || redis.published().unwrap().len() == 2);
    assert_eq!(run(&["show"]), (true, "fleet: 2 per 1h\ntries: 2 per 1h, 9 per 1h\n".to_owned()));
    assert_eq!(run(&["peek", "fleet", "(str:ann,u8:1)"]), (true, "1 left of 2 per 1h\n".to_owned()));
    assert_eq!(run(&["reset", "fleet", "(str:ann,u8:1)"]), (true, String::new()));
    assert_eq!(limiter.peek(("ann", 1_u8), 0).unwrap().remaining(), 2);

    assert_eq!(run(&["block", "fleet", "(str:ann,u8:1)", "10m"]), (true, String::new()));
    assert_eq!(limiter.check(("ann", 1_u8), 1).unwrap_err().kind(), ExceededKind::Blocked);
    assert_eq!(run(&["unblock", "fleet", "(str:ann,u8:1)"]), (true, String::new()));
    // This process may cache a denial for a second.
    wait_until("the block ends", || limiter.peek(("ann", 1_u8), 1).is_ok());

    // The tool reaches all limiters of a name, whatever their limits.
    let daily = RateLimiter::builder("fleet").limit(Limit::per_day(90)).backend(redis.clone()).build().unwrap();
    assert!(daily.check(("ann", 1_u8), 1).is_ok());
    wait_until("it is published", || redis.published().unwrap().len() == 3);
    assert_eq!(run(&["block", "fleet", "(str:ann,u8:1)", "10m"]), (true, String::new()));
    for limiter in [&limiter, &daily] {
        assert_eq!(limiter.check(("ann", 1_u8), 1).unwrap_err().kind(), ExceededKind::Blocked);
    }
    assert_eq!(run(&["unblock", "fleet", "(str:ann,u8:1)"]), (true, String::new()));
    wait_until("the blocks end", || limiter.peek(("ann", 1_u8), 1).is_ok() && daily.peek(("ann", 1_u8), 1).is_ok());

    // Limits with keys of their own.
    assert_eq!(run(&["peek", "tries", "str:ann", "()"]), (true, "1 left of 2 per 1h\n".to_owned()));
    assert!(tries.check_each(("ann", ()), 1).is_ok() && tries.check_each(("ann", ()), 1).is_err());
    let (is_done, told) = run(&["peek", "tries", "str:ann", "()"]);
    assert!(is_done && told.starts_with("further calls are blocked"), "{told}");
    assert_eq!(run(&["reset", "tries", "str:ann", "()"]), (true, String::new()));
    assert_eq!(run(&["peek", "tries", "str:ann", "()"]), (true, "2 left of 2 per 1h\n".to_owned()));
    assert_eq!(run(&["block", "tries", "str:ann", "10m"]), (true, String::new()));
    let (is_done, told) = run(&["peek", "tries", "str:ann", "()"]);
    assert!(is_done && told.starts_with("further calls are blocked"), "{told}");
    let (is_done, told) = run(&["reset", "tries", "str:ann", "()", "()"]);
    assert!(!is_done && told.contains("another number of keys than 3"), "{told}");

    assert_eq!(run(&["set", "fleet", "5/1h"]), (true, String::new()));
    wait_until("the limit is another one", || limiter.limits() == [Limit::per_hour(5)]);
    let (is_done, told) = run(&["set", "fleet", "5/1x"]);
    assert!(!is_done && told.contains("5/1x"), "{told}");
    let (is_done, told) = run(&["peek", "nobody's", "u64:1"]);
    assert!(!is_done && told.contains("no process has published"), "{told}");

    // A document that another process has changed meanwhile is not overwritten.
    let before = redis.configuration().unwrap();
    assert!(!redis.replace_configuration("", "{}").unwrap());
    let mistake = redis.replace_configuration(&before, "fleet = 1").unwrap_err();
    assert_eq!(mistake.line(), Some(1));
    assert!(redis.replace_configuration(&before, "fleet = \"7/1h\"").unwrap());
    wait_until("TOML is read as well", || limiter.limits() == [Limit::per_hour(7)]);

    // Only the document never expires.
    let mut client = server.connection();
    let keys: Vec<String> = redis::cmd("KEYS").arg("*").query(&mut client).unwrap();
    for key in keys.iter().filter(|key| *key != "rl:1:configuration") {
        let left: i64 = redis::cmd("PTTL").arg(key).query(&mut client).unwrap();
        assert!(left > 0, "{key} has no expiry");
    }

    // A server that fails changes no limit, and one that is back is followed again.
    server.restart();
    std::thread::sleep(LOOK * 5);
    let restarted = limiter.limits();
    assert!(restarted == [Limit::per_hour(7)] || restarted == [Limit::per_hour(2)], "{restarted:?}");
    wait_until("the empty server is followed", || limiter.limits() == [Limit::per_hour(2)]);
    drop(watch);
    apply("");
}
