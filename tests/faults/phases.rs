//! The faults, each alone and then together, and which of them lose data.

use std::path::PathBuf;
use std::time::Duration;

use ratelimit_tests::{MemcachedServer, Network, Proxy, RedisCluster, RedisSentinel, RedisServer};

use crate::crowd::Crowd;
use crate::namespace::{Lost, Namespace};
use crate::report::Row;
use crate::servers::{Server, postgres};
use crate::story::Story;

/// A phase of this length.
type Phase = fn(Duration) -> Row;

/// All phases, by name.
pub(crate) const PHASES: &[(&str, Phase)] = &[
    ("calm", calm),
    ("stop", stop),
    ("slow", slow),
    ("flush", flush),
    ("packets", packets),
    ("network", network),
    ("restart", restart),
    ("leases", leases),
    ("slots", slots),
    ("by-hand", by_hand),
    ("kill", kill),
    ("sentinel", sentinel),
    ("cluster", cluster),
    ("all", all),
    ("memcached-stop", memcached_stop),
    ("memcached-slow", memcached_slow),
    ("memcached-kill", memcached_kill),
    ("postgres-stop", postgres_stop),
    ("postgres-slow", postgres_slow),
    ("postgres-kill", postgres_kill),
    ("postgres-failover", postgres_failover),
];

/// Phases for servers that not every machine has. They run only if named.
pub(crate) const OTHER_SERVERS: &[(&str, Phase)] = &[("migrate", migrate)];

/// A server that writes each decision to disk before it answers.
struct Durable {
    server: RedisServer,
    directory: PathBuf,
}

impl Durable {
    fn start() -> Durable {
        // The server is killed, not the machine: its files are as safe in memory, and no busy disk
        // delays it.
        let memory = PathBuf::from("/dev/shm");
        let place = if memory.is_dir() { memory } else { std::env::temp_dir() };
        let directory = place.join(format!("faults-{}", std::process::id()));
        std::fs::create_dir_all(&directory).expect("the directory can be made");
        let path = directory.to_str().expect("a path of text");
        let options = ["--dir", path, "--appendonly", "yes", "--appendfsync", "always"];
        Durable { server: RedisServer::start_with(&options), directory }
    }
}

impl Drop for Durable {
    fn drop(&mut self) {
        self.server.kill();
        // Leftovers are in the temporary directory.
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

fn calm(length: Duration) -> Row {
    let server = RedisServer::start();
    let crowd = Crowd::start(&server.url(), false, None);
    let story = Story::new(length);
    story.finish();
    Row::new("none", &crowd.end(), &story, &[&server])
}

fn stop(length: Duration) -> Row {
    stopped("stopped (SIGSTOP)", &RedisServer::start(), length)
}

fn memcached_stop(length: Duration) -> Row {
    stopped("Memcached: stopped (SIGSTOP)", &MemcachedServer::start(), length)
}

fn postgres_stop(length: Duration) -> Row {
    stopped("PostgreSQL: stopped (SIGSTOP)", &postgres(), length)
}

fn stopped(name: &'static str, server: &impl Server, length: Duration) -> Row {
    let crowd = Crowd::start(&server.url(), false, None);
    let mut story = Story::new(length);
    while story.goes_on() {
        freeze(server, &mut story);
    }
    Row::new(name, &crowd.end(), &story, &[server])
}

fn slow(length: Duration) -> Row {
    slowed("slow: stopped 16 ms of each 20", &RedisServer::start(), length)
}

fn memcached_slow(length: Duration) -> Row {
    slowed("Memcached: slow, stopped 16 ms of each 20", &MemcachedServer::start(), length)
}

fn postgres_slow(length: Duration) -> Row {
    slowed("PostgreSQL: slow, stopped 16 ms of each 20", &postgres(), length)
}

/// A server that gets a fifth of the processor time, so that each decision takes longer.
fn slowed(name: &'static str, server: &impl Server, length: Duration) -> Row {
    let crowd = Crowd::start(&server.url(), false, None);
    let mut story = Story::new(length);
    while story.goes_on() {
        for _ in 0..80 {
            server.freeze();
            std::thread::sleep(Duration::from_millis(16));
            server.thaw();
            std::thread::sleep(Duration::from_millis(4));
        }
        story.ended();
    }
    Row::new(name, &crowd.end(), &story, &[server])
}

fn flush(length: Duration) -> Row {
    let server = RedisServer::start();
    let crowd = Crowd::start(&server.url(), false, None);
    let mut story = Story::new(length);
    while story.goes_on() {
        flush_often(&server);
    }
    Row::new("scripts flushed, each 2 ms", &crowd.end(), &story, &[&server])
}

fn packets(length: Duration) -> Row {
    let namespace = match Namespace::new() {
        Ok(namespace) => namespace,
        Err(reason) => {
            eprintln!("no network namespace, so that a proxy loses what is lost: {reason}");
            return swallowed(length);
        }
    };
    let address = Namespace::address();
    let server = RedisServer::start_with(&["--bind", "127.0.0.1", address, "--protected-mode", "no"]);
    let url = format!("redis://{address}:{}", server.port());
    let crowd = Crowd::start(&url, false, Some(&namespace));
    let mut story = Story::new(length);
    while story.goes_on() {
        let lost = if story.faults.is_multiple_of(2) { Lost::Requests } else { Lost::Answers };
        namespace.lose(lost);
        story.last();
        namespace.heal(lost);
        story.ended();
    }
    Row::new("packets lost, in either direction", &crowd.end(), &story, &[&server])
}

fn swallowed(length: Duration) -> Row {
    let server = RedisServer::start();
    let proxy = Proxy::start(server.port());
    let crowd = Crowd::start(&proxy.url(), false, None);
    let mut story = Story::new(length);
    while story.goes_on() {
        let requests = story.faults.is_multiple_of(2);
        misbehave(&proxy, if requests { Network::LosesAll } else { Network::LosesAnswers }, &mut story);
    }
    Row::new("all lost, or the answers, by a proxy", &crowd.end(), &story, &[&server])
}

fn network(length: Duration) -> Row {
    let server = RedisServer::start();
    let proxy = Proxy::start(server.port());
    let crowd = Crowd::start(&proxy.url(), false, None);
    let mut story = Story::new(length);
    while story.goes_on() {
        let turn = story.faults;
        disturb(&proxy, turn, &mut story);
    }
    Row::new("network: connections lost, slow, garbage", &crowd.end(), &story, &[&server])
}

fn restart(length: Duration) -> Row {
    let durable = Durable::start();
    let crowd = Crowd::start(&durable.server.url(), false, None);
    let mut story = Story::new(length);
    while story.goes_on() {
        kill_for_a_time(&durable.server, &mut story);
    }
    Row::new("killed, with `appendfsync always`", &crowd.end(), &story, &[&durable.server])
}

fn leases(length: Duration) -> Row {
    let server = RedisServer::start();
    let crowd = Crowd::start(&server.url(), true, None);
    let mut story = Story::new(length);
    while story.goes_on() {
        flush_often(&server);
        freeze(&server, &mut story);
    }
    Row::new("stopped and flushed, leases on", &crowd.end(), &story, &[&server])
}

/// Masters hand over to their replicas and back, slots move, scripts are flushed, a node is
/// stopped. All data is kept.
fn slots(length: Duration) -> Row {
    let redis = RedisCluster::start(&[]);
    let url = format!("redis+cluster://127.0.0.1:{}", redis.masters[0].port());
    let crowd = Crowd::start(&url, false, None);
    let mut story = Story::new(length);
    let pair = [&redis.masters[0], &redis.replica];
    while story.goes_on() {
        let turn = story.faults as usize;
        match turn % 3 {
            1 => {
                redis.hand_over(pair[turn / 3 % 2], pair[(turn / 3 + 1) % 2]);
                story.ended();
            }
            2 => {
                let (from, to) = (&redis.masters[1 + turn % 2], &redis.masters[2 - turn % 2]);
                move_keys(from, to);
                flush_often(from);
            }
            _ => freeze(&redis.masters[2], &mut story),
        }
    }
    let records = crowd.end();
    let [serving, _] = if pair[0].is_master() { pair } else { [pair[1], pair[0]] };
    let servers: [&dyn Server; 3] = [serving, &redis.masters[1], &redis.masters[2]];
    Row::new("cluster: handed over, slots moved, stopped, flushed", &records, &story, &servers)
}

fn kill(length: Duration) -> Row {
    killed("killed, nothing kept", &RedisServer::start(), length)
}

fn memcached_kill(length: Duration) -> Row {
    killed("Memcached: killed", &MemcachedServer::start(), length)
}

/// It forgets its last moments, because no transaction waits for the disk.
fn postgres_kill(length: Duration) -> Row {
    killed("PostgreSQL: killed", &postgres(), length)
}

fn killed(name: &'static str, server: &impl Server, length: Duration) -> Row {
    let crowd = Crowd::start(&server.url(), false, None);
    let mut story = Story::new(length);
    while story.goes_on() {
        server.kill();
        story.lost();
        story.last();
        server.restart();
        story.ended();
    }
    Row::new(name, &crowd.end(), &story, &[server])
}

/// A primary is killed, and its standby promoted, which may lack the last decisions.
fn postgres_failover(length: Duration) -> Row {
    let primary = postgres();
    let standby = primary.start_standby();
    let hosts = format!("127.0.0.1:{},127.0.0.1:{}", primary.port(), standby.port());
    let url = format!("postgres://postgres@{hosts}/postgres?target_session_attrs=read-write");
    let crowd = Crowd::start(&url, false, None);
    let mut story = Story::new(length);
    // Once, because there is one standby.
    if story.goes_on() {
        primary.kill();
        story.lost();
        story.last();
        standby.promote();
        story.ended();
        story.finish();
    }
    Row::new("PostgreSQL: primary killed, standby promoted", &crowd.end(), &story, &[&standby])
}

fn sentinel(length: Duration) -> Row {
    let quick = "sentinel down-after-milliseconds mymaster 400\nsentinel failover-timeout mymaster 1000\n";
    let redis = RedisSentinel::start(&[], quick);
    let hosts: Vec<String> = redis.sentinels.iter().map(|sentinel| format!("127.0.0.1:{}", sentinel.port())).collect();
    let crowd = Crowd::start(&format!("redis+sentinel://{}/mymaster", hosts.join(",")), false, None);
    let mut story = Story::new(length);
    while story.goes_on() {
        let (master, replica) = if redis.servers[0].is_master() { (0, 1) } else { (1, 0) };
        redis.servers[master].kill();
        story.lost();
        redis.wait_for_master(replica);
        story.ended();
        redis.rejoin(master);
    }
    let records = crowd.end();
    Row::new("sentinel: master killed", &records, &story, &[&redis.servers[0], &redis.servers[1]])
}

/// A master hands over to its replica by hand, which the sentinels do not notice at first. All data
/// is kept.
fn by_hand(length: Duration) -> Row {
    let redis = RedisSentinel::start(&[], "");
    let hosts: Vec<String> = redis.sentinels.iter().map(|sentinel| format!("127.0.0.1:{}", sentinel.port())).collect();
    let crowd = Crowd::start(&format!("redis+sentinel://{}/mymaster", hosts.join(",")), false, None);
    let mut story = Story::new(length);
    while story.goes_on() {
        let (master, replica) = if redis.servers[0].is_master() { (0, 1) } else { (1, 0) };
        redis.hand_over(master, replica);
        story.ended();
    }
    let records = crowd.end();
    let serving = usize::from(redis.servers[1].is_master());
    Row::new("sentinel: failover by hand", &records, &story, &[&redis.servers[serving]])
}

/// Most slots of the second master. One without any would become a replica.
const MIGRATED: (u16, u16) = (5_461, 10_000);

/// Valkey 9 moves slots of a master to another one and back, with all keys.
fn migrate(length: Duration) -> Row {
    let redis = RedisCluster::start(&[]);
    let url = format!("redis+cluster://127.0.0.1:{}", redis.masters[0].port());
    let crowd = Crowd::start(&url, false, None);
    let mut story = Story::new(length);
    let pair = [&redis.masters[1], &redis.masters[2]];
    while story.goes_on() {
        let turn = story.faults as usize;
        RedisCluster::migrate_slots(pair[(turn + 1) % 2], pair[turn % 2], MIGRATED);
        story.ended();
    }
    Row::new("Valkey: slots migrated", &crowd.end(), &story, &[&redis.masters[0], pair[0], pair[1]])
}

fn cluster(length: Duration) -> Row {
    let redis = RedisCluster::start(&["--cluster-node-timeout", "1000"]);
    let url = format!("redis+cluster://127.0.0.1:{}", redis.masters[2].port());
    let crowd = Crowd::start(&url, false, None);
    let mut story = Story::new(length);
    // Once, because there is one replica.
    if story.goes_on() {
        redis.masters[0].kill();
        story.lost();
        redis.wait_for_failover();
        story.ended();
        story.finish();
    }
    let records = crowd.end();
    let servers: [&dyn Server; 3] = [&redis.replica, &redis.masters[1], &redis.masters[2]];
    Row::new("cluster: a master killed", &records, &story, &servers)
}

/// All faults that lose no data, in turn, for three times as long.
fn all(length: Duration) -> Row {
    let durable = Durable::start();
    let server = &durable.server;
    let proxy = Proxy::start(server.port());
    let crowd = Crowd::start(&proxy.url(), false, None);
    let mut story = Story::new(3 * length);
    while story.goes_on() {
        let turn = story.faults;
        match turn % 4 {
            0 => flush_often(server),
            1 => freeze(server, &mut story),
            2 => kill_for_a_time(server, &mut story),
            _ => disturb(&proxy, turn / 4, &mut story),
        }
    }
    Row::new("all of one server, nothing lost", &crowd.end(), &story, &[server])
}

fn freeze(server: &impl Server, story: &mut Story) {
    server.freeze();
    story.last();
    server.thaw();
    story.ended();
}

fn kill_for_a_time(server: &impl Server, story: &mut Story) {
    server.kill();
    story.last();
    server.restart();
    story.ended();
}

fn flush_often(server: &RedisServer) {
    let mut connection = server.connection();
    for _ in 0..200 {
        redis::cmd("SCRIPT").arg("FLUSH").exec(&mut connection).expect("the server is well");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// One network fault after another.
fn disturb(proxy: &Proxy, turn: u32, story: &mut Story) {
    let network = match turn % 4 {
        0 => Network::LosesAll,
        1 => Network::Slow(Duration::from_millis(150)),
        2 => Network::Garbage(b"HTTP/1.1 400 Bad Request\r\n\r\n"),
        _ => Network::LosesConnections,
    };
    misbehave(proxy, network, story);
}

/// Applies a network fault for a time. Then drops the connections that lived through it, as after a
/// partition: a TCP stream never has gaps.
fn misbehave(proxy: &Proxy, network: Network, story: &mut Story) {
    proxy.set(network);
    story.last();
    proxy.set(Network::LosesConnections);
    story.ended();
}

/// Moves the slots of a few keys in use.
fn move_keys(from: &RedisServer, to: &RedisServer) {
    let mut connection = from.connection();
    let keys: Vec<String> = redis::cmd("KEYS").arg("*0u32*").query(&mut connection).expect("the server is well");
    for key in keys.iter().filter(|key| !key.contains("total")) {
        let slot = RedisCluster::slot(from, key);
        RedisCluster::open_slot(slot, from, to);
        std::thread::sleep(Duration::from_millis(20));
        RedisCluster::empty_slot(slot, from, to);
        std::thread::sleep(Duration::from_millis(20));
        RedisCluster::assign_slot(slot, from, to);
    }
}
