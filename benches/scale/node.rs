//! The cost of a decision on one server: its processor time, calls of the script, and bytes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ratelimit_runtime::{Algorithm, Limit, OnBackendError, RateLimiter, RedisBackend, RedisBackendBuilder};

use crate::chart::grouped;
use crate::load::{Keys, Load};
use crate::server::RedisServer;
use crate::usage::Usage;
use crate::{row, table};

pub(crate) const HOUR: Duration = Duration::from_secs(3_600);
const WARM_UP: Duration = Duration::from_millis(700);
/// Of these, the run that cost the server least counts. If other load delays the callers, fewer
/// calls coincide, and each costs more.
const TURNS: usize = 8;
const TURN: Duration = Duration::from_millis(600);
/// Keys of the cases with many.
pub(crate) const MANY: u64 = 10_000;

struct Case {
    name: &'static str,
    limits: Vec<Limit>,
    /// 0 for one blocking thread.
    tasks: u32,
    keys: u64,
    set: fn(RedisBackendBuilder) -> RedisBackendBuilder,
}

/// The figures of a case.
pub(crate) struct Node {
    pub(crate) name: &'static str,
    /// The server's processor time in microseconds, of a decision and of a call of the script.
    pub(crate) cpu: f64,
    pub(crate) cpu_of_script: f64,
}

fn cases() -> Vec<Case> {
    let (window, hot) = (Limit::new(100_000, HOUR), Limit::new(4_000_000_000, HOUR));
    let token = window.with_algorithm(Algorithm::TokenBucket);
    let fixed = window.with_algorithm(Algorithm::FixedWindow);
    let day = Limit::new(1_000_000, 24 * HOUR);
    let second = Limit::new(1_000, Duration::from_secs(1));
    let usual: fn(RedisBackendBuilder) -> RedisBackendBuilder = |builder| builder;
    let alone: fn(RedisBackendBuilder) -> RedisBackendBuilder = |builder| builder.coalescing(false);
    let case = |name, limits: &[Limit], tasks, keys, set| Case { name, limits: limits.to_vec(), tasks, keys, set };
    vec![
        case("one blocking caller", &[window], 0, MANY, usual),
        case("256 tasks, no batches", &[window], 256, MANY, alone),
        case("256 tasks, no batches, denied", &[Limit::new(1, HOUR)], 256, MANY, |builder| {
            builder.coalescing(false).denial_cache(false)
        }),
        case("256 tasks, batches", &[window], 256, MANY, usual),
        case("the same, `token_bucket`", &[token], 256, MANY, usual),
        case("the same, `fixed_window`", &[fixed], 256, MANY, usual),
        case("the same, two limits", &[second, window], 256, MANY, usual),
        case("the same, three limits", &[second, window, day], 256, MANY, usual),
        case("the same, denied, no denial cache", &[Limit::new(1, HOUR)], 256, MANY, |builder| {
            builder.denial_cache(false)
        }),
        case("one key, no batches", &[hot], 256, 1, alone),
        case("one key, batches", &[hot], 256, 1, usual),
        case("one key, denied, denial cache", &[Limit::new(1, HOUR)], 256, 1, usual),
        case("leases, of one permit each, no batches", &[window], 256, MANY, |builder| {
            builder.lease(1, Duration::from_millis(50)).coalescing(false)
        }),
        case("one key, leases of 1,000", &[hot], 256, 1, |builder| builder.lease(1_000, Duration::from_millis(50))),
    ]
}

pub(crate) fn measure() -> Vec<Node> {
    let (server, load) = (RedisServer::start(), Load::new());
    table(
        "One server",
        &[
            "calls",
            "decisions a second here",
            "server's CPU, µs a decision",
            "decisions a CPU second",
            "script calls a decision",
            "CPU, µs a script call",
            "bytes to the server",
            "bytes back",
        ],
    );
    cases().into_iter().map(|case| case.measure(&server, &load)).collect()
}

impl Case {
    fn measure(self, server: &RedisServer, load: &Load) -> Node {
        let builder = RedisBackend::builder().url(server.url()).timeout(Duration::from_secs(5));
        let limiter = limiter(self.name, &self.limits, (self.set)(builder).build().expect("a URL"));
        let number = self.keys;
        let keys: Keys = Arc::new(move |call| call % number);
        load.run(&limiter, self.tasks, &keys, u64::MAX, WARM_UP);
        let turn = |_| {
            let (before, started) = (Usage::of(server), Instant::now());
            let decisions = load.run(&limiter, self.tasks, &keys, u64::MAX, TURN);
            (decisions, started.elapsed(), Usage::of(server).since(before))
        };
        let cost = |(decisions, _, used): &(u64, Duration, Usage)| used.cpu / *decisions as f64;
        let turns = (0..TURNS).map(turn);
        let (decisions, took, used) =
            turns.min_by(|one, other| cost(one).total_cmp(&cost(other))).expect("there are turns");
        let each = |total: f64| total / decisions as f64;
        let (cpu, cpu_of_script) = (each(used.cpu), used.cpu / used.scripts.max(1) as f64);
        // Reading the figures costs the server more than a handful of decisions.
        let known = |figure: String| if used.scripts < 100 { "–".to_owned() } else { figure };
        row(&[
            self.name.to_owned(),
            thousands(decisions as f64 / took.as_secs_f64()),
            format!("{cpu:.2}"),
            known(thousands(1e6 / cpu)),
            format!("{:.3}", each(used.scripts as f64)),
            known(format!("{cpu_of_script:.1}")),
            format!("{:.0}", each(used.input as f64)),
            format!("{:.0}", each(used.output as f64)),
        ]);
        Node { name: self.name, cpu, cpu_of_script }
    }
}

/// A limiter that denies if the server fails, so that nothing is decided in memory by mistake.
pub(crate) fn limiter(name: &str, limits: &[Limit], backend: RedisBackend) -> RateLimiter {
    let builder = RateLimiter::builder(name.replace(' ', "-")).backend(backend).on_backend_error(OnBackendError::Deny);
    limits.iter().fold(builder, |builder, limit| builder.limit(*limit)).build().expect("limits that fit")
}

/// Rounded to three digits.
pub(crate) fn thousands(number: f64) -> String {
    let step = 10_f64.powf((number.abs().max(1.0).log10().floor() - 2.0).max(0.0));
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rate")]
    grouped(((number / step).round() * step) as u64)
}
