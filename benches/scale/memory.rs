//! The server's memory for a key.

use std::sync::Arc;
use std::time::Duration;

use ratelimit_runtime::{Algorithm, Limit, RedisBackend};

use crate::chart::grouped;
use crate::load::{Keys, Load};
use crate::node::{HOUR, limiter};
use crate::server::RedisServer;
use crate::usage::{Usage, forget_all};
use crate::{row, table};

const LONG: Duration = Duration::from_secs(3_600);

struct Case {
    name: &'static str,
    limits: Vec<Limit>,
    keys: u64,
    /// Calls of each key, one after the other.
    calls: u64,
}

fn cases() -> Vec<Case> {
    const MANY: u64 = 1_000_000;
    const FEWER: u64 = 20_000;
    let window = |count| Limit::new(count, HOUR);
    let token = window(100).with_algorithm(Algorithm::TokenBucket);
    let fixed = window(100).with_algorithm(Algorithm::FixedWindow);
    let day = Limit::new(10_000, 24 * HOUR);
    let case = |name, limits: &[Limit], keys, calls| Case { name, limits: limits.to_vec(), keys, calls };
    vec![
        case("`token_bucket`, any count", &[token], MANY, 1),
        case("`fixed_window`, any count", &[fixed], MANY, 1),
        case("`sliding_window` of 10", &[window(10)], MANY, 1),
        case("`sliding_window` of 100", &[window(100)], MANY, 1),
        case("`sliding_window` of 10,000", &[window(10_000)], MANY, 1),
        case("two sliding windows", &[window(100), day], MANY, 1),
        case("`sliding_window` of 10", &[window(10)], FEWER, 10),
        case("`sliding_window` of 64", &[window(64)], FEWER, 64),
        case("`sliding_window` of 100", &[window(100)], FEWER, 100),
        case("two sliding windows of 100 and 10,000", &[window(100), day], FEWER, 100),
    ]
}

pub(crate) fn measure() {
    let (server, load) = (RedisServer::start(), Load::new());
    table(
        "Memory of a key",
        &[
            "limit",
            "keys",
            "calls of each",
            "bytes of `used_memory` a key",
            "`MEMORY USAGE` of a key",
            "bytes of the value",
        ],
    );
    for case in cases() {
        case.measure(&server, &load);
    }
}

impl Case {
    fn measure(self, server: &RedisServer, load: &Load) {
        let builder = RedisBackend::builder().url(server.url()).timeout(Duration::from_secs(5)).denial_cache(false);
        let limiter = limiter("memory", &self.limits, builder.build().expect("a URL"));
        let number = self.keys;
        let keys: Keys = Arc::new(move |call| call % number);
        // The connections' buffers are part of `used_memory`.
        load.run(&limiter, 256, &keys, 20_000, LONG);
        forget_all(server);
        let before = Usage::of(server);
        load.run(&limiter, 256, &keys, self.keys * self.calls, LONG);
        let used = Usage::of(server).since(before).memory;
        let mut connection = server.connection();
        let keys: u64 = redis::cmd("DBSIZE").query(&mut connection).expect("the server is running");
        assert_eq!(keys, self.keys, "no key is lost");
        let name: String = redis::cmd("RANDOMKEY").query(&mut connection).expect("there are keys");
        let own: u64 = redis::cmd("MEMORY").arg("USAGE").arg(&name).query(&mut connection).expect("a key");
        let value: u64 = redis::cmd("STRLEN").arg(&name).query(&mut connection).expect("a key");
        row(&[
            self.name.to_owned(),
            grouped(self.keys),
            grouped(self.calls),
            format!("{:.0}", used as f64 / keys as f64),
            own.to_string(),
            value.to_string(),
        ]);
        forget_all(server);
    }
}
