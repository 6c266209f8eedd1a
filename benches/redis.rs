//! The Redis backend beside redis-rs and its peers: `cargo bench -p benches --bench redis [-- PART
//! OF A CASE'S NAME]`.
//!
//! One server, started here. Ours is called through the attribute. The yardsticks are raw redis-rs
//! calls over the same kind of connection: `PING`, and a bare GCRA in a script of ten lines.

#[path = "redis/blocking.rs"]
mod blocking;
#[path = "redis/ours.rs"]
mod ours;
#[path = "redis/peers.rs"]
mod peers;
#[path = "redis/rounds.rs"]
mod rounds;
#[path = "../tests/support/redis_server.rs"]
#[allow(dead_code, unreachable_pub, reason = "the tests' own, of which a part is enough here")]
mod server;

use std::time::Duration;

use blocking::Ways;
use peers::{KEYS, Peers};
use rounds::{Case, Contender, Tasks, threads};
use server::RedisServer;

fn main() {
    // cargo passes `--bench`.
    let wanted: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    let server = RedisServer::start();
    ours::set_server(&server.url());
    let tasks = Tasks::new();
    let peers = Peers::new(&server, &tasks);
    let ways = Ways::new(&server);
    let mut cases = one_caller(&server, &ways, &peers, &tasks);
    cases.extend(many_keys(&peers, &tasks));
    cases.extend(one_key(&peers, &tasks));
    cases.extend(beside_peers(&peers, &tasks));
    cases.extend(ways.cases());
    cases.extend(whatever_is_asked(&tasks));
    let wanted = |name: &str| wanted.is_empty() || wanted.iter().any(|part| name.contains(part.as_str()));
    let lines: Vec<String> = cases.into_iter().filter(|case| wanted(&case.name)).flat_map(Case::run).collect();
    rounds::print(&lines);
}

/// A contender of this many tasks. Each call gets a number without a pattern.
macro_rules! tasks {
    ($name:literal, $tasks:ident, $number:literal, $call:expr) => {
        Contender::new($name, move |turn: Duration| $tasks.run($number, turn, $call))
    };
}

/// Beside `PING` and the bare script, which is the minimum of a decision.
fn one_caller<'a>(server: &'a RedisServer, ways: &'a Ways, peers: &'a Peers, tasks: &'a Tasks) -> Vec<Case<'a>> {
    let blocking = vec![
        Contender::new("PING", move |turn| {
            threads(1, turn, || server.connection(), |connection| redis::cmd("PING").query::<()>(connection).is_ok())
        }),
        Contender::new("bare script", move |turn| {
            threads(1, turn, || server.connection(), |connection| ways.decide(connection))
        }),
        Contender::new("ours", |turn| threads(1, turn, || (), |()| ours::blocking_allowed().is_ok())),
    ];
    let asynchronous = vec![
        tasks!("PING", tasks, 1, {
            let peers = peers.clone();
            move |_| peers.clone().ping()
        }),
        tasks!("bare script", tasks, 1, {
            let peers = peers.clone();
            move |number| peers.clone().gcra(number % KEYS)
        }),
        tasks!("ours", tasks, 1, |number| async move { ours::one_task(number % KEYS).await.is_ok() }),
    ];
    let settled_later = vec![
        tasks!("plain", tasks, 1, |number| async move { ours::one_task(number % KEYS).await.is_ok() }),
        tasks!("ours", tasks, 1, |number| async move { ours::settled_later(number % KEYS).await.is_ok() }),
    ];
    vec![
        Case::new("blocking, 1 thread, allowed", 0.80, blocking).p50_goal(1.25),
        Case::new("async, 1 task, allowed", 0.85, asynchronous).p50_goal(1.20),
        Case::new("async, 1 task, settle_later, beside a plain call", 0.85, settled_later).p50_goal(1.05),
    ]
}

/// 256 tasks on 10,000 keys beside the bare script.
fn many_keys<'a>(peers: &'a Peers, tasks: &'a Tasks) -> Vec<Case<'a>> {
    macro_rules! case {
        ($name:literal, $goal:literal, $yardstick:ident, $ours:ident) => {
            Case::new(
                concat!("256 tasks, 10,000 keys, ", $name),
                $goal,
                vec![
                    tasks!("bare script", tasks, 256, {
                        let peers = peers.clone();
                        move |number| peers.clone().$yardstick(number % KEYS)
                    }),
                    tasks!("ours", tasks, 256, |number| async move { ours::$ours(number % KEYS).await.is_ok() }),
                ],
            )
        };
    }
    vec![
        case!("token_bucket", 0.95, gcra, token),
        case!("sliding_window of 10,000", 0.85, gcra, window_10_000),
        case!("sliding_window, up to 16 live groups", 0.85, gcra, window_few_groups).warm_up(Duration::from_secs(2)),
        case!("sliding_window, 64 live groups", 0.70, gcra, window_64_groups).warm_up(Duration::from_secs(8)),
        case!("token_bucket, denied", 0.95, gcra_denied, token_denied).warm_up(Duration::from_secs(1)),
        case!("2 limits", 0.75, gcra, two_limits),
        case!("3 limits", 0.65, gcra, three_limits),
    ]
}

fn one_key<'a>(peers: &'a Peers, tasks: &'a Tasks) -> Vec<Case<'a>> {
    let script = |peers: Peers| move |_| peers.clone().gcra(0);
    vec![
        Case::new(
            "256 tasks, one key",
            5.0,
            vec![
                tasks!("bare script", tasks, 256, script(peers.clone())),
                tasks!("ours", tasks, 256, |_| async { ours::hot().await.is_ok() }),
            ],
        ),
        Case::new(
            "16 tasks, one key",
            0.85,
            vec![
                tasks!("bare script", tasks, 16, script(peers.clone())),
                tasks!("ours", tasks, 16, |_| async { ours::hot().await.is_ok() }),
            ],
        ),
        Case::new(
            "64 tasks, one key",
            1.0,
            vec![
                tasks!("bare script", tasks, 64, script(peers.clone())),
                tasks!("ours", tasks, 64, |_| async { ours::hot().await.is_ok() }),
            ],
        ),
        Case::new(
            "256 tasks, one key, leases of 1,000",
            10.0,
            vec![
                tasks!("bare script", tasks, 256, script(peers.clone())),
                tasks!("ours", tasks, 256, |_| async { ours::leased_by_1_000().await.is_ok() }),
            ],
        ),
        Case::new(
            "1 task, one key, leases of 100",
            20.0,
            vec![
                tasks!("bare script", tasks, 1, script(peers.clone())),
                tasks!("ours", tasks, 1, |_| async { ours::leased_by_100().await.is_ok() }),
            ],
        ),
        Case::new(
            "1 task, a key that is denied",
            100.0,
            vec![
                tasks!("PING", tasks, 1, {
                    let peers = peers.clone();
                    move |_| peers.clone().ping()
                }),
                tasks!("ours", tasks, 1, |_| async { ours::blocked().await.is_ok() }),
            ],
        )
        .warm_up(Duration::from_millis(100)),
    ]
}

/// Other requests to a limiter beside a plain decision: 64 tasks on 1,000 keys, without a denial
/// cache.
fn whatever_is_asked(tasks: &Tasks) -> Vec<Case<'_>> {
    macro_rules! case {
        ($name:literal, $goal:literal, $call:expr) => {
            Case::new(
                concat!("64 tasks, 1,000 keys, ", $name, ", beside a plain call"),
                $goal,
                vec![
                    tasks!("plain", tasks, 64, |number| async move { ours::plain(number % 1_000).await.is_ok() }),
                    tasks!("ours", tasks, 64, $call),
                ],
            )
            .warm_up(Duration::from_millis(300))
        };
    }
    vec![
        case!("token_bucket", 0.93, |number| async move { ours::token(number % 1_000).await.is_ok() }),
        case!("fixed_window", 0.93, |number| async move { ours::fixed(number % 1_000).await.is_ok() }),
        case!("window of 64", 0.90, |number| async move { ours::window_64_groups(number % 1_000).await.is_ok() }),
        case!("cost of 3", 0.93, |number| async move { ours::cost_of_3(number % 1_000).await.is_ok() }),
        case!("three limits", 0.80, |number| async move { ours::three_limits(number % 1_000).await.is_ok() }),
        case!("denied by one of two limits", 1.0, |number| async move {
            ours::denied_by_one_of_two(number % 1_000).await.is_ok()
        }),
        case!("banned", 1.0, |number| async move { ours::banned(number % 1_000).await.is_ok() }),
        case!("with backoff, allowed", 0.93, |number| async move { ours::with_backoff(number % 1_000).await.is_ok() }),
        case!("wait without need", 0.93, |number| async move { ours::wait_without_need(number % 1_000).await.is_ok() }),
        case!("with backoff, denied, with the denial cache", 4.0, |number| async move {
            ours::banned_and_cached(number % 1_000).await.is_ok()
        }),
        case!("given back (two calls)", 0.5, |number| async move { ours::given_back(number % 1_000).await.is_ok() }),
        case!("settle (two calls)", 0.5, |number| async move { ours::settled(number % 1_000).await.is_ok() }),
        case!(
            "settle_later (two calls)",
            0.5,
            |number| async move { ours::settled_later(number % 1_000).await.is_ok() }
        ),
        case!("charge", 0.93, |number| async move { ours::handle().charge_async(number % 1_000, 3).await.is_ok() }),
        case!("blocked keys", 1.0, |number| async move {
            ours::blocked_keys(1_000).check_async(number % 1_000, 1).await.is_ok()
        }),
        case!("two keys", 0.6, |number| async move { ours::two_keys(number % 1_000, number % 10).await.is_ok() }),
        case!("a booking that waits, on 10,000 keys", 0.8, |number| async move {
            ours::booked(number % KEYS).await.is_some()
        }),
        case!("a booking given up (two calls)", 0.4, |number| async move {
            ours::booked_and_given_up(number % 1_000 + KEYS).await
        }),
        case!("peek", 1.0, |number| async move { ours::handle().peek_async(number % 1_000, 1).await.is_ok() }),
        case!("reset", 0.9, |number| async move { ours::handle().reset_async(number % 1_000).await.is_ok() }),
    ]
}

fn beside_peers<'a>(peers: &'a Peers, tasks: &'a Tasks) -> Vec<Case<'a>> {
    macro_rules! case {
        ($name:literal, $goal:literal, $peer:ident) => {
            Case::new(
                concat!("256 tasks, 10,000 keys, beside ", $name),
                $goal,
                vec![
                    tasks!($name, tasks, 256, {
                        let peers = peers.clone();
                        move |number| peers.clone().$peer(number % KEYS)
                    }),
                    tasks!("ours", tasks, 256, |number| async move { ours::fixed(number % KEYS).await.is_ok() }),
                ],
            )
        };
    }
    vec![case!("limitador's two scripts", 2.5, limitador), case!("actix-limitation", 10.0, actix)]
}
