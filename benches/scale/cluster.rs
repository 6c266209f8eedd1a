//! How a Cluster of masters grows: each node's processor time for a decision, and the effect of hot
//! keys.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ratelimit_runtime::{Limit, RedisBackend};

use crate::load::{Keys, Load};
use crate::node::{HOUR, MANY, limiter, thousands};
use crate::server::{RedisServer, free_port};
use crate::traffic::{EXPONENTS, KEYS, sample, weights};
use crate::usage::Usage;
use crate::{row, table};

const SLOTS: u16 = 16_384;
const TURN: Duration = Duration::from_secs(4);
/// How long nodes may take to agree.
const AGREE: Duration = Duration::from_secs(30);

/// Masters that share the slots evenly, without replicas, whose processor time would be counted
/// with their masters'.
struct Cluster(Vec<RedisServer>);

impl Cluster {
    fn start(nodes: u16) -> Cluster {
        let start = |_| {
            // The default bus port, 10,000 above, may be out of range or taken.
            let bus = free_port().to_string();
            let options = ["--cluster-enabled", "yes", "--cluster-node-timeout", "15000", "--cluster-port", &bus];
            (RedisServer::start_with(&options), bus)
        };
        let started: Vec<_> = (0..nodes).map(start).collect();
        let ask = |server: &RedisServer, arguments: &[&str]| {
            redis::cmd("CLUSTER").arg(arguments).query::<redis::Value>(&mut server.connection()).expect("it obeys");
        };
        for (position, (server, _)) in (0..nodes).zip(&started) {
            let edge = |position: u16| u32::from(position) * u32::from(SLOTS) / u32::from(nodes);
            let (first, last) = (edge(position).to_string(), (edge(position + 1) - 1).to_string());
            ask(server, &["ADDSLOTSRANGE", &first, &last]);
        }
        let until = Instant::now() + AGREE;
        let is_whole = |server: &RedisServer| {
            let told: String = redis::cmd("CLUSTER").arg("INFO").query(&mut server.connection()).expect("it answers");
            told.contains("cluster_state:ok") && told.contains(&format!("cluster_known_nodes:{nodes}"))
        };
        while !started.iter().all(|(server, _)| is_whole(server)) {
            assert!(Instant::now() < until, "the nodes do not agree");
            for (server, bus) in &started[1..] {
                ask(&started[0].0, &["MEET", "127.0.0.1", &server.port().to_string(), bus]);
            }
            std::thread::sleep(Duration::from_secs(1));
        }
        Cluster(started.into_iter().map(|(server, _)| server).collect())
    }

    /// Calls by 256 tasks, and each node's usage for them.
    fn under(&self, load: &Load, batches: bool, limit: Limit, keys: &Keys) -> (u64, Vec<Usage>) {
        let builder = RedisBackend::builder().cluster(self.0.iter().map(RedisServer::url));
        let builder = builder.coalescing(batches).denial_cache(false).timeout(Duration::from_secs(5));
        let limiter = limiter("cluster", &[limit], builder.build().expect("URLs"));
        load.run(&limiter, 256, keys, u64::MAX, Duration::from_millis(700));
        let before: Vec<Usage> = self.0.iter().map(Usage::of).collect();
        let decisions = load.run(&limiter, 256, keys, u64::MAX, TURN);
        (decisions, self.0.iter().zip(before).map(|(server, before)| Usage::of(server).since(before)).collect())
    }

    /// Checks the slots computed here by the name of a bucket on each node.
    fn check_slots(&self) {
        for server in &self.0 {
            let mut connection = server.connection();
            let name: String = redis::cmd("RANDOMKEY").query(&mut connection).expect("there are buckets");
            let number = |name: &str| name.split_once("cluster:")?.1.split_once("u64}")?.0.parse::<u64>().ok();
            let found: u16 = redis::cmd("CLUSTER").arg("KEYSLOT").arg(&name).query(&mut connection).expect("a slot");
            assert_eq!(number(&name).map(slot), Some(found), "{name}");
        }
    }
}

pub(crate) fn measure() {
    let load = Load::new();
    let window = Limit::new(100_000, HOUR);
    let even: Keys = Arc::new(|call| call % MANY);
    table(
        "A Cluster, 10,000 keys of equal heat, no batches",
        &[
            "nodes",
            "decisions a second here",
            "CPU, µs a decision, all nodes",
            "the busiest node",
            "the idlest node",
            "decisions a CPU second of the busiest node",
        ],
    );
    let mut largest = None;
    for nodes in [1, 3, 6] {
        let cluster = Cluster::start(nodes);
        let (decisions, used) = cluster.under(&load, false, window, &even);
        let cpu: Vec<f64> = used.iter().map(|used| used.cpu / decisions as f64).collect();
        let (most, least) = (cpu.iter().copied().fold(0.0, f64::max), cpu.iter().copied().fold(f64::MAX, f64::min));
        row(&[
            nodes.to_string(),
            thousands(decisions as f64 / TURN.as_secs_f64()),
            format!("{:.2}", cpu.iter().sum::<f64>()),
            format!("{most:.2}"),
            format!("{least:.2}"),
            thousands(1e6 / most),
        ]);
        largest = Some(cluster);
    }
    let cluster = largest.expect("three clusters");
    uneven(&cluster, &load);
}

/// Keys by Zipf's law on six nodes.
fn uneven(cluster: &Cluster, load: &Load) {
    table(
        "Six nodes, 10,000,000 keys by Zipf's law",
        &[
            "exponent",
            "hottest key",
            "hottest slot",
            "busiest node by the law",
            "CPU at the busiest node",
            "the same with batches",
        ],
    );
    cluster.check_slots();
    let slots: Vec<u16> = (1..=KEYS).map(slot).collect();
    for exponent in EXPONENTS {
        let (mut by_slot, mut by_node) = (vec![0.0; usize::from(SLOTS)], vec![0.0; cluster.0.len()]);
        let weights = weights(exponent);
        for (weight, slot) in weights.iter().zip(&slots) {
            by_slot[usize::from(*slot)] += weight;
            by_node[usize::from(*slot) * cluster.0.len() / usize::from(SLOTS)] += weight;
        }
        let most = |shares: &[f64]| shares.iter().copied().fold(0.0, f64::max);
        let keys = sample(exponent, 1_000_000);
        #[expect(clippy::cast_possible_truncation, reason = "a million keys")]
        let keys: Keys = Arc::new(move |call| keys[call as usize % keys.len()]);
        let limit = Limit::new(4_000_000_000, HOUR);
        let (_, alone) = cluster.under(load, false, limit, &keys);
        let (_, merged) = cluster.under(load, true, limit, &keys);
        let share = |used: &[Usage]| {
            let cpu: Vec<f64> = used.iter().map(|used| used.cpu).collect();
            most(&cpu) / cpu.iter().sum::<f64>()
        };
        let percent = |share: f64| format!("{:.1} %", share * 100.0);
        row(&[
            format!("{exponent:.1}"),
            percent(weights[0]),
            percent(most(&by_slot)),
            percent(most(&by_node)),
            percent(share(&alone)),
            percent(share(&merged)),
        ]);
    }
}

/// The slot of a key's bucket: CRC16 of the text between the braces of its name.
fn slot(key: u64) -> u16 {
    let crc = format!("cluster:{key}u64").bytes().fold(0_u16, |crc, byte| {
        (0..8).fold(crc ^ u16::from(byte) << 8, |crc, _| if crc & 0x8000 == 0 { crc << 1 } else { crc << 1 ^ 0x1021 })
    });
    crc % SLOTS
}
