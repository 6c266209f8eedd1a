//! Calendars by a server's clock that differs from this process's.
//!
//! A request at a test's time carries the boundaries around that time, and ends with the time. A
//! proxy replaces it, which simulates the server's clock.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ratelimit_runtime::backend::{Action, Answer, Backend, Bucket, Outcome, Request, Timestamp};
use ratelimit_runtime::{Algorithm, Calendar, Limit, RedisBackend, Weekday};
use ratelimit_tests::RedisServer;
use tokio::task::JoinSet;

const DAY: i64 = 86_400_000_000;
/// Microseconds since the Unix epoch: 3 October 2026.
const START: u64 = 1_791_000_000_123_457;

/// A proxy that replaces the time of requests at [`START`]. Its threads end with the test process.
fn proxy(server: u16, clock: &Arc<Mutex<u64>>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let clock = Arc::clone(clock);
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let server = TcpStream::connect(("127.0.0.1", server)).unwrap();
            let clock = Arc::clone(&clock);
            let answers = (server.try_clone().unwrap(), client.try_clone().unwrap());
            std::thread::spawn(move || pass(&answers.0, &answers.1, |_| {}));
            std::thread::spawn(move || {
                pass(&client, &server, |bytes| {
                    let now = clock.lock().unwrap().to_le_bytes();
                    for at in 0..bytes.len().saturating_sub(6) {
                        if bytes[at..at + 7] == START.to_le_bytes()[..7] {
                            bytes[at..at + 7].copy_from_slice(&now[..7]);
                        }
                    }
                });
            });
        }
    });
    port
}

fn pass(mut from: &TcpStream, mut to: &TcpStream, change: impl Fn(&mut [u8])) {
    let mut bytes = vec![0; 1 << 16];
    while let Ok(read @ 1..) = from.read(&mut bytes) {
        change(&mut bytes[..read]);
        if to.write_all(&bytes[..read]).is_err() {
            return;
        }
    }
}

fn said(answer: &Answer) -> String {
    match &answer.outcome {
        Outcome::Admitted(admitted) => format!("admitted at {:?}, {} left", admitted.at(), admitted.remaining()),
        Outcome::Denied(denied) => format!("denied until {:?}", denied.admitted_at()),
        other => format!("{other:?}"),
    }
}

fn limits() -> [Limit; 3] {
    [
        Limit::per_calendar(2, Calendar::DAY.in_zone("Europe/Berlin")),
        Limit::per_calendar(5, Calendar::WEEK.week_starts(Weekday::Sunday)),
        Limit::per_hour(1_000).with_algorithm(Algorithm::FixedWindow),
    ]
}

/// Clocks that differ by nothing, by windows that the request knows, and by others.
const DIFFERENCES: [i64; 7] = [0, DAY, -DAY, 40 * DAY, -40 * DAY, 3_000 * DAY, -3_000 * DAY];

fn request(bucket: &str, max_wait: Duration) -> Request {
    let action = Action::Take { cost: 1, max_wait };
    Request::new(format!("rl:1:{{{bucket}}}:x"), &limits(), action).at(Timestamp::from_nanos(START * 1_000))
}

#[test]
fn the_servers_clock_decides_whatever_this_process_says() {
    let (server, clock) = (RedisServer::start(), Arc::new(Mutex::new(0)));
    let url = format!("redis://127.0.0.1:{}", proxy(server.port(), &clock));
    let backend = RedisBackend::builder().url(&url).timeout(Duration::from_secs(20)).build().unwrap();
    for difference in DIFFERENCES {
        let now = START.checked_add_signed(difference).unwrap();
        *clock.lock().unwrap() = now;
        let mut bucket = Bucket::default();
        for call in 0..9 {
            let wait = if call % 3 == 2 { Duration::from_secs(10 * 86_400) } else { Duration::ZERO };
            let request = request(&format!("{difference}"), wait);
            let expected = said(&bucket.apply(&request, Timestamp::from_nanos(now * 1_000)));
            assert_eq!(said(&backend.decide(&request).unwrap()), expected, "{difference}, call {call}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_servers_clock_decides_on_calls_that_come_together() {
    let (server, clock) = (RedisServer::start(), Arc::new(Mutex::new(0)));
    let url = format!("redis://127.0.0.1:{}", proxy(server.port(), &clock));
    let backend = Arc::new(RedisBackend::builder().url(&url).timeout(Duration::from_secs(20)).build().unwrap());
    for difference in DIFFERENCES {
        let now = START.checked_add_signed(difference).unwrap();
        *clock.lock().unwrap() = now;
        let mut tasks = JoinSet::new();
        for call in 0..64 {
            let backend = Arc::clone(&backend);
            tasks.spawn(async move {
                let request = request(&format!("{difference} {}", call % 32), Duration::ZERO);
                said(&backend.decide_async(&request).unwrap().await.unwrap())
            });
        }
        let mut bucket = Bucket::default();
        let mut expected =
            [(); 2].map(|()| said(&bucket.apply(&request("x", Duration::ZERO), Timestamp::from_nanos(now * 1_000))));
        expected.sort();
        let mut answers = tasks.join_all().await;
        answers.sort();
        answers.dedup();
        assert_eq!(answers, expected, "{difference}");
    }
}
