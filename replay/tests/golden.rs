//! Logs of real servers: the replay must agree with a brute-force log of all admissions.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv6Addr;

use serde_json::Value;

use crate::oracle::{self, Call, Limit};
use crate::support::{Folder, gunzip, number, server_log};

const SECOND: u64 = 1_000_000_000;
const MINUTE: u64 = 60 * SECOND;

/// An address as it is counted: IPv6 by the first four of its groups.
fn network(address: &str) -> String {
    let Ok(address) = address.parse::<Ipv6Addr>() else { return address.to_owned() };
    let [a, b, c, d, ..] = address.segments();
    format!("{}/64", Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
}

/// The calls of a common log of one day in UTC, in order, with column `host` as the client.
fn common(log: &str, host: usize) -> Vec<Call> {
    let call = |line: &str| {
        let clock = line.split(['[', ']']).nth(1).expect("a time");
        let part =
            |position: usize| clock.split([':', ' ']).nth(position).expect("a part").parse::<u64>().expect("a number");
        let client = network(line.split(' ').nth(host).expect("a client"));
        ((part(1) * 3_600 + part(2) * 60 + part(3)) * SECOND, client, 1)
    };
    let mut calls: Vec<Call> = log.lines().map(call).collect();
    calls.sort_by_key(|call| call.0);
    calls
}

/// The calls of Caddy's log, with its bytes as cost.
fn caddy(log: &str) -> Vec<Call> {
    let call = |line: &str| {
        let line: Value = serde_json::from_str(line).expect("JSON");
        let micros = (line["ts"].as_f64().expect("a time") * 1e6).round();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a time of our days")]
        let time = micros as u64 * 1_000;
        let client = line["request"]["remote_ip"].as_str().expect("an address").replace("::1", "::/64");
        (time, client, number(&line["size"]))
    };
    let mut calls: Vec<Call> = log.lines().map(call).collect();
    calls.sort_by_key(|call| call.0);
    calls
}

#[track_caller]
fn assert_denied(candidate: &Value, calls: &[Call], denied: &BTreeSet<usize>) {
    let limit = &candidate["limit"];
    let by_client = oracle::by_client(calls, denied);
    let clients: BTreeSet<&String> = calls.iter().map(|call| &call.1).collect();
    assert_eq!(number(&candidate["denied"]), denied.len() as u64, "{limit}");
    assert_eq!(number(&candidate["clients_denied"]), by_client.len() as u64, "{limit}");
    let share = candidate["clients_denied_share"].as_f64().expect("a share");
    assert!((share - by_client.len() as f64 / clients.len() as f64).abs() < 1e-12, "{limit}");
    let most: BTreeMap<String, u64> = candidate["most_denied"]
        .as_array()
        .expect("clients")
        .iter()
        .map(|client| (client["client"].as_str().expect("a name").to_owned(), number(&client["denied"])))
        .collect();
    assert_eq!(most, by_client, "{limit}");
    let over_time: u64 = candidate["denied_over_time"].as_array().expect("counts").iter().map(number).sum();
    assert_eq!(over_time, denied.len() as u64, "{limit}");
}

fn candidates() -> Vec<(&'static str, Vec<Limit>)> {
    let sliding = |count, per| Limit::Sliding { count, per };
    vec![
        ("30/1m", vec![sliding(30, MINUTE)]),
        ("5/1s", vec![sliding(5, SECOND)]),
        ("20/10s fixed_window", vec![Limit::Fixed { count: 20, per: 10 * SECOND }]),
        ("60/1m token_bucket", vec![Limit::Token { count: 60, per: MINUTE, burst: 60 }]),
        ("2/1s token_bucket burst 10", vec![Limit::Token { count: 2, per: SECOND, burst: 10 }]),
        ("5/1s + 50/1m", vec![sliding(5, SECOND), sliding(50, MINUTE)]),
    ]
}

#[track_caller]
fn assert_like_the_oracle(arguments: &[&str], calls: &[Call]) {
    let folder = Folder::new();
    let candidates = candidates();
    let mut all = [arguments, &["--top", "1000"]].concat();
    for (limit, _) in &candidates {
        all.extend(["--limit", limit]);
    }
    let report = folder.report(&all);
    assert_eq!(number(&report["calls"]), calls.len() as u64);
    assert_eq!(number(&report["order"]["too_late"]), 0);
    for (position, (limit, limits)) in candidates.iter().enumerate() {
        let candidate = &report["candidates"][position];
        assert_eq!(candidate["limit"], *limit);
        let denied = oracle::denied(calls, limits);
        assert!(!denied.is_empty() && denied.len() < calls.len(), "{limit} tells nothing");
        assert_denied(candidate, calls, &denied);
    }
    // The curve of the first candidate: each count must match a separate run. Above 64 the window
    // is exact to a group.
    for point in report["candidates"][0]["curve"].as_array().expect("points") {
        let count = number(&point["count"]);
        if count <= 64 {
            let denied = oracle::denied(calls, &[Limit::Sliding { count, per: MINUTE }]);
            assert_eq!(number(&point["clients_denied"]), oracle::by_client(calls, &denied).len() as u64, "{count}");
        }
    }
}

#[test]
fn a_log_of_nginx_is_decided_as_by_brute_force() {
    let log = server_log("nginx.log.gz");
    let text = gunzip(&log);
    let times: Vec<u64> = text.lines().map(|line| common(line, 0)[0].0).collect();
    assert!(!times.is_sorted(), "its workers buffered, so its lines should be out of order");
    assert_like_the_oracle(&[&log], &common(&text, 0));
}

#[test]
fn a_log_of_apache_is_decided_as_by_brute_force() {
    let log = server_log("apache.log");
    let text = std::fs::read_to_string(&log).expect("a log");
    assert_like_the_oracle(&[&log], &common(&text, 0));
}

#[test]
fn a_log_of_caddy_is_decided_as_by_brute_force() {
    let log = server_log("caddy.log.zst");
    let text =
        String::from_utf8(zstd::decode_all(std::fs::File::open(&log).expect("a log")).expect("zstd")).expect("text");
    let calls = caddy(&text);
    let calls_of_one: Vec<Call> = calls.iter().map(|(time, client, _)| (*time, client.clone(), 1)).collect();
    assert_like_the_oracle(&[&log], &calls_of_one);

    // Bytes as permits: a call above the limit is denied for ever.
    let report = Folder::new().report(&[&log, "--cost", "bytes", "--limit", "60/10s", "--top", "1000"]);
    let denied = oracle::denied(&calls, &[Limit::Sliding { count: 60, per: 10 * SECOND }]);
    assert_denied(&report["candidates"][0], &calls, &denied);
}

#[test]
fn a_virtual_host_in_front_is_not_the_client() {
    let log = server_log("apache_vhosts.log");
    let calls = common(&std::fs::read_to_string(&log).expect("a log"), 1);
    let report = Folder::new().report(&[&log, "--limit", "3/10s", "--top", "1000"]);
    let denied = oracle::denied(&calls, &[Limit::Sliding { count: 3, per: 10 * SECOND }]);
    assert_denied(&report["candidates"][0], &calls, &denied);
}

#[test]
#[ignore = "needs a public log of one day, as `replay/samples` downloads it: PUBLIC_LOG"]
fn a_public_log_is_decided_as_by_brute_force() {
    let log = std::env::var("PUBLIC_LOG").expect("PUBLIC_LOG names a common log");
    let text = std::fs::read_to_string(&log).expect("a log");
    let calls: String =
        text.lines().filter(|line| line.contains(" [")).fold(String::new(), |all, line| all + line + "\n");
    assert_like_the_oracle(&[&log], &common(&calls, 0));
}

#[test]
fn a_candidates_figures_match_its_calls() {
    const COUNT: u64 = 30;
    let log = server_log("nginx.log.gz");
    let calls = common(&gunzip(&log), 0);
    let denied = oracle::denied(&calls, &[Limit::Sliding { count: COUNT, per: MINUTE }]);
    let report = Folder::new().report(&[&log, "--limit", "30/1m"]);
    let candidate = &report["candidates"][0];

    let mut admitted: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
    let (mut peak, mut longest) = (0, 0);
    let mut denied_since: BTreeMap<&str, u64> = BTreeMap::new();
    let mut least: BTreeMap<&str, u64> = BTreeMap::new();
    let mut demand: BTreeMap<(&str, u64), u64> = BTreeMap::new();
    for (position, (now, client, _)) in calls.iter().enumerate() {
        *demand.entry((client, now / MINUTE)).or_insert(0) += 1;
        let log = admitted.entry(client).or_default();
        if denied.contains(&position) {
            let since = *denied_since.entry(client).or_insert(*now);
            let again = log[log.len() - usize::try_from(COUNT).expect("small")] + MINUTE;
            longest = longest.max(again - since);
        } else {
            denied_since.remove(client.as_str());
            log.push(*now);
        }
        let taken = |log: &[u64]| log.iter().filter(|at| **at + MINUTE > *now).count() as u64;
        let left = COUNT - taken(log);
        let fewest = least.entry(client).or_insert(left);
        *fewest = left.min(*fewest);
        peak = peak.max(admitted.values().filter(|log| taken(log) > 0).count());
    }
    assert_eq!(number(&candidate["peak_keys"]), peak as u64);
    let seconds = candidate["longest_denial_seconds"].as_f64().expect("seconds");
    assert!((seconds - longest as f64 / 1e9).abs() < 1e-6, "{seconds}");

    let clients = oracle::by_client(&calls, &denied);
    let mut behaved: Vec<u64> =
        least.iter().filter(|(client, _)| !clients.contains_key(**client)).map(|(_, left)| *left).collect();
    behaved.sort_unstable();
    for quantile in candidate["least_remaining"].as_array().expect("quantiles") {
        let share = quantile["share"].as_f64().expect("a share");
        let value = number(&quantile["value"]);
        let at_most = behaved.iter().filter(|left| **left <= value).count() as f64;
        let below = behaved.iter().filter(|left| **left < value).count() as f64;
        assert!(at_most >= share * behaved.len() as f64 && below < share * behaved.len() as f64, "{quantile}");
    }

    let largest = demand.values().max().expect("some");
    assert_eq!(number(&candidate["demand"]["largest"]), *largest);
    for range in candidate["demand"]["histogram"].as_array().expect("ranges") {
        let (from, to) = (number(&range["from"]), number(&range["to"]));
        let within = demand.values().filter(|calls| (from..=to).contains(*calls)).count() as u64;
        assert_eq!(number(&range["count"]), within, "{range}");
    }
}

#[test]
fn calls_that_wait_wait_as_long_as_by_brute_force() {
    let log = server_log("nginx.log.gz");
    let calls = common(&gunzip(&log), 0);
    for (wait, longest) in [(&["--wait", "5s"][..], 5 * SECOND), (&["--wait"], u64::MAX)] {
        let report = Folder::new().report(&[&[log.as_str(), "--limit", "30/1m"], wait].concat());
        let candidate = &report["candidates"][0];
        let waits = oracle::waits(&calls, 30, MINUTE, longest);
        let waited: Vec<u64> = waits.iter().flatten().copied().filter(|wait| *wait > 0).collect();
        assert!(waited.len() > 50);
        assert_eq!(number(&candidate["denied"]), waits.iter().filter(|wait| wait.is_none()).count() as u64, "{wait:?}");
        assert_eq!(number(&candidate["waits"]["calls"]), waited.len() as u64, "{wait:?}");
        let most = candidate["waits"]["longest_seconds"].as_f64().expect("seconds");
        assert!((most - *waited.iter().max().expect("some") as f64 / 1e9).abs() < 1e-6, "{wait:?}: {most}");
    }
}

/// The limit with another count.
type OfCount = fn(u64) -> Limit;

#[test]
fn the_smallest_round_limit_is_found_for_each_algorithm() {
    let log = server_log("nginx.log.gz");
    let calls = common(&gunzip(&log), 0);
    let folder = Folder::new();
    for (share, allowed) in [("5%", 0.05), ("0.2", 0.2)] {
        let report = folder.report(&[&log, "--suggest", share, "--per", "10s"]);
        let clients = report["clients"].as_u64().expect("a number") as f64;
        let algorithms: [(&str, OfCount); 3] = [
            ("sliding_window", |count| Limit::Sliding { count, per: 10 * SECOND }),
            ("token_bucket", |count| Limit::Token { count, per: 10 * SECOND, burst: count }),
            ("fixed_window", |count| Limit::Fixed { count, per: 10 * SECOND }),
        ];
        let round = [1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 25, 30, 40, 50, 60, 80, 100, 120, 150, 200];
        for (position, (algorithm, limit)) in algorithms.into_iter().enumerate() {
            let denies = |count: u64| oracle::by_client(&calls, &oracle::denied(&calls, &[limit(count)])).len();
            let smallest = round.into_iter().find(|count| denies(*count) as f64 / clients <= allowed).expect("a limit");
            let suggestion = &report["suggestions"][position];
            assert_eq!(suggestion["algorithm"], algorithm);
            let text = suggestion["limit"].as_str().expect("a limit");
            assert!(text.starts_with(&format!("{smallest}/10s")), "{text}: {smallest}");
            assert_eq!(number(&suggestion["clients_denied"]), denies(smallest) as u64);
        }
    }
}
