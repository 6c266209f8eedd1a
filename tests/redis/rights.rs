//! The rights of a user of a Redis server: the documented list suffices for all operations, and
//! none of it is unused. Nothing else is therefore ever sent to a server: no `KEYS`, no `SCAN`, no
//! `FLUSHDB`.

use std::error::Error;
use std::time::Duration;

use ratelimit_runtime::{
    Algorithm, BackendErrorKind, ExceededKind, IntoBackend, Limit, OnBackendError, RateLimitExceeded, RateLimiter,
    RedisBackend, RedisBackendBuilder,
};
use ratelimit_tests::{RedisCluster, RedisServer};
use tokio::task::JoinSet;

const HOUR: Duration = Duration::from_secs(3_600);
/// The documented list.
const RIGHTS: [&str; 8] = ["+evalsha", "+script|load", "+time", "+get", "+set", "+setrange", "+del", "~rl:*"];
const OF_A_CLUSTER: [&str; 2] = ["+asking", "+cluster|slots"];

/// Creates a user with exactly these rights.
fn allow(server: &RedisServer, user: &str, rights: &[&str]) {
    let mut command = redis::cmd("ACL");
    command.arg("SETUSER").arg(user).arg(&["reset", "on", ">s3cret", "-@all"]).arg(rights);
    command.exec(&mut server.connection()).unwrap();
}

fn builder(server: &RedisServer, user: &str) -> RedisBackendBuilder {
    RedisBackend::builder().url(server.url()).username(user).password("s3cret").timeout(Duration::from_secs(20))
}

/// The number of refused commands on all servers.
fn refused(server: &RedisServer) -> usize {
    let log: Vec<redis::Value> = redis::cmd("ACL").arg("LOG").query(&mut server.connection()).unwrap();
    log.len()
}

/// Fails if the backend failed.
fn decided<T>(result: Result<T, RateLimitExceeded>) -> Result<Option<T>, RateLimitExceeded> {
    match result {
        Err(exceeded) if exceeded.kind() == ExceededKind::BackendFailed => Err(exceeded),
        result => Ok(result.ok()),
    }
}

/// Runs every operation of limiters, blocking and async, on a few keys.
fn everything(builder: &RedisBackendBuilder, script: &[&RedisServer]) -> Result<(), Box<dyn Error>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    for builder in [builder.clone().denial_cache(false), builder.clone().lease(100, Duration::from_millis(50))] {
        for server in script {
            redis::cmd("SCRIPT").arg("FLUSH").exec(&mut server.connection())?;
        }
        let backend = builder.build()?.into_backend();
        for algorithm in [Algorithm::SlidingWindow, Algorithm::TokenBucket, Algorithm::FixedWindow] {
            let one = || {
                let builder = RateLimiter::builder("rights").backend(backend.clone());
                let builder = builder.on_backend_error(OnBackendError::Deny);
                builder.limit(Limit::new(100, HOUR).with_algorithm(algorithm))
            };
            let several = || one().limit(Limit::new(50, HOUR)).backoff(HOUR, HOUR);
            for limiter in [one().build()?, several().build()?] {
                for key in 0..8_u32 {
                    let first = decided(limiter.check(key, 1))?;
                    for _ in 0..4 {
                        decided(limiter.check(key, 1))?;
                    }
                    if let Some(first) = first {
                        limiter.refund(first)?;
                    }
                    decided(limiter.peek(key, 1))?;
                    decided(limiter.check(key, 100))?;
                    decided(limiter.wait_at_most(key, 100, Duration::from_millis(1)))?;
                }
                runtime.block_on(async {
                    let mut together = JoinSet::new();
                    for _ in 0..64 {
                        let limiter = limiter.clone();
                        together.spawn(async move { decided(limiter.check_async(0_u32, 1).await).map(drop) });
                    }
                    together.join_all().await.into_iter().collect::<Result<(), _>>()
                })?;
                for key in 0..8_u32 {
                    limiter.reset(key)?;
                }
            }
        }
    }
    Ok(())
}

#[test]
fn the_documented_rights_are_enough_for_everything() {
    let server = RedisServer::start();
    allow(&server, "limiter", &RIGHTS);
    everything(&builder(&server, "limiter"), &[&server]).unwrap();
    assert_eq!(refused(&server), 0);
}

#[test]
fn none_of_them_can_be_left_out() {
    let server = RedisServer::start();
    for left_out in RIGHTS {
        let others: Vec<&str> = RIGHTS.into_iter().filter(|right| *right != left_out).collect();
        allow(&server, "limiter", &others);
        everything(&builder(&server, "limiter"), &[&server]).expect_err(left_out);
    }
}

#[test]
fn a_user_who_may_not_load_scripts_may_send_them() {
    let server = RedisServer::start();
    let others: Vec<&str> = RIGHTS.into_iter().filter(|right| *right != "+script|load").collect();
    allow(&server, "limiter", &[&others[..], &["+eval"]].concat());
    everything(&builder(&server, "limiter"), &[&server]).unwrap();
    // If nothing helps, the error names the first refusal.
    allow(&server, "limiter", &others);
    redis::cmd("SCRIPT").arg("FLUSH").exec(&mut server.connection()).unwrap();
    let limiter = RateLimiter::builder("rights").backend(builder(&server, "limiter").build());
    let limiter = limiter.on_backend_error(OnBackendError::Deny).limit(Limit::new(1, HOUR)).build().unwrap();
    let error = limiter.reset("a").unwrap_err().to_string();
    assert!(error.contains("script|load"), "{error}");
}

#[test]
fn another_database_needs_one_more() {
    let server = RedisServer::start();
    allow(&server, "limiter", &RIGHTS);
    everything(&builder(&server, "limiter").database(3), &[&server]).unwrap_err();
    allow(&server, "limiter", &[&RIGHTS[..], &["+select"]].concat());
    everything(&builder(&server, "limiter").database(3), &[&server]).unwrap();
}

#[test]
fn a_user_who_may_not_says_so_without_the_password() {
    let server = RedisServer::start();
    allow(&server, "other", &["~x:*", "+@all"]);
    let limiter = RateLimiter::builder("rights").backend(builder(&server, "other").build());
    let limiter = limiter.on_backend_error(OnBackendError::Deny).limit(Limit::new(1, HOUR)).build().unwrap();
    let decision = limiter.check("a", 1).unwrap_err();
    assert_eq!(decision.kind(), ExceededKind::BackendFailed);
    let error = limiter.reset("a").unwrap_err();
    assert_eq!(error.kind(), BackendErrorKind::Refused, "{error}");
    assert!(!format!("{error} {error:?} {decision} {decision:?}").contains("s3cret"), "{error:?}");
}

#[test]
fn a_cluster_needs_two_more() {
    let redis = RedisCluster::start(&[]);
    let masters: Vec<&RedisServer> = redis.masters.iter().collect();
    let allow_everywhere = |rights: &[&str]| {
        for server in masters.iter().copied().chain([&redis.replica]) {
            allow(server, "limiter", rights);
        }
    };
    let url = format!("redis+cluster://limiter:s3cret@127.0.0.1:{},127.0.0.1:1", masters[1].port());
    let builder = RedisBackend::builder().url(url).timeout(Duration::from_secs(20));
    allow_everywhere(&[&RIGHTS[..], &OF_A_CLUSTER].concat());
    everything(&builder, &masters).unwrap();
    // One of the keys is being migrated between nodes.
    let limiter = RateLimiter::builder("rights").backend(builder.clone().build());
    let limiter = limiter.on_backend_error(OnBackendError::Deny).limit(Limit::new(1_000, HOUR)).build().unwrap();
    limiter.check(0_u32, 1).unwrap();
    let keys =
        |server: &RedisServer| -> Vec<String> { redis::cmd("KEYS").arg("*").query(&mut server.connection()).unwrap() };
    let from = masters.iter().position(|master| !keys(master).is_empty()).unwrap();
    let (key, from, to) = (keys(masters[from]).remove(0), masters[from], masters[(from + 1) % 3]);
    let slot = RedisCluster::slot(from, &key);
    RedisCluster::open_slot(slot, from, to);
    RedisCluster::empty_slot(slot, from, to);
    limiter.check(0_u32, 1).unwrap();
    everything(&builder, &masters).unwrap();
    for server in &masters {
        assert_eq!(refused(server), 0);
    }
    for (left_out, other) in [(0, 1), (1, 0)] {
        allow_everywhere(&[&RIGHTS[..], &[OF_A_CLUSTER[other]]].concat());
        everything(&builder, &masters).expect_err(OF_A_CLUSTER[left_out]);
    }
}
