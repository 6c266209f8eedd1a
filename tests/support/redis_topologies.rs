//! Real Redis servers in each topology: with TLS, with Sentinel, as a cluster.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};

use crate::{RedisServer, free_port};

/// How long servers may take to agree on something.
const AGREE: Duration = Duration::from_secs(30);

/// A certificate authority and two certificates that it signed, as PEM.
#[derive(Debug)]
pub struct Certificates {
    /// The authority's certificate.
    pub authority: String,
    /// For a server at 127.0.0.1, with its key.
    pub server: (String, String),
    /// For a client, with its key.
    pub client: (String, String),
}

impl Certificates {
    /// Creates new certificates.
    ///
    /// # Panics
    /// If cryptography fails.
    pub fn new() -> Certificates {
        let mut params = CertificateParams::new(Vec::default()).expect("no names are good names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign];
        params.distinguished_name.push(DnType::CommonName, "authority");
        let key = KeyPair::generate().expect("a key");
        let authority = params.self_signed(&key).expect("a certificate").pem();
        let issuer = Issuer::new(params, key);
        let sign = |name: &str| {
            let key = KeyPair::generate().expect("a key");
            let mut params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
            params.distinguished_name.push(DnType::CommonName, name);
            (params.signed_by(&key, &issuer).expect("a certificate").pem(), key.serialize_pem())
        };
        Certificates { authority, server: sign("127.0.0.1"), client: sign("client") }
    }
}

impl Default for Certificates {
    fn default() -> Certificates {
        Certificates::new()
    }
}

/// A server with a TLS port.
#[derive(Debug)]
pub struct RedisTls {
    /// The server. Its own port is without TLS.
    pub server: RedisServer,
    /// The certificates that it shows and accepts.
    pub certificates: Certificates,
    port: u16,
    directory: PathBuf,
}

impl RedisTls {
    /// Starts a server, which may require a client certificate.
    ///
    /// # Panics
    /// If the server does not start.
    pub fn start(client_certificates: bool) -> RedisTls {
        let certificates = Certificates::new();
        let directory = directory();
        let file = |name: &str, text: &str| {
            let path = directory.join(name);
            std::fs::write(&path, text).expect("the directory can be written");
            path.to_str().expect("a path of text").to_owned()
        };
        let port = free_port();
        let server = RedisServer::start_with(&[
            "--tls-port",
            &port.to_string(),
            "--tls-ca-cert-file",
            &file("ca.pem", &certificates.authority),
            "--tls-cert-file",
            &file("server.pem", &certificates.server.0),
            "--tls-key-file",
            &file("server.key", &certificates.server.1),
            "--tls-auth-clients",
            if client_certificates { "yes" } else { "no" },
        ]);
        RedisTls { server, certificates, port, directory }
    }

    /// The TLS port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its address, by the IP address in the certificate.
    pub fn url(&self) -> String {
        format!("rediss://127.0.0.1:{}", self.port)
    }

    /// The same server, by a name that is not in the certificate.
    pub fn url_by_name(&self) -> String {
        format!("rediss://localhost:{}", self.port)
    }
}

impl Drop for RedisTls {
    fn drop(&mut self) {
        // A leftover folder is in the system's temporary directory.
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

fn directory() -> PathBuf {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let directory = std::env::temp_dir().join(format!("ratelimit-{}-{number}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("the directory can be made");
    Path::new(&directory).to_owned()
}

/// A master, a replica, and three sentinels that monitor them under the name `mymaster`.
#[derive(Debug)]
pub struct RedisSentinel {
    /// The initial master and its replica.
    pub servers: [RedisServer; 2],
    /// The sentinels.
    pub sentinels: Vec<RedisServer>,
}

impl RedisSentinel {
    /// Starts them with options for the servers and configuration lines for the sentinels. Waits
    /// until all know each other and the replica is in sync. The master counts as dead after 5 s
    /// unless those lines say otherwise.
    ///
    /// # Panics
    /// If a server does not start, or they do not agree.
    pub fn start(options: &[&str], configuration: &str) -> RedisSentinel {
        // Starts replication without waiting for further replicas.
        let options = &[&["--repl-diskless-sync-delay", "0"], options].concat()[..];
        let master = RedisServer::start_with(options);
        let port = master.port().to_string();
        let replica = RedisServer::start_with(&[&["--replicaof", "127.0.0.1", port.as_str()], options].concat());
        let sentinels = (0..3)
            .map(|_| {
                RedisServer::start_sentinel(&format!(
                    "dir /tmp\nsentinel monitor mymaster 127.0.0.1 {port} 2\n\
                     sentinel down-after-milliseconds mymaster 5000\nsentinel failover-timeout mymaster 3000\n\
                     {configuration}"
                ))
            })
            .collect();
        let redis = RedisSentinel { servers: [master, replica], sentinels };
        // Before that, an empty replica could be promoted.
        agree("the replica", || redis.servers[1].replication()?.contains("master_link_status:up").then_some(()));
        for sentinel in &redis.sentinels {
            agree("the sentinels", || {
                let told: HashMap<String, String> =
                    look(sentinel, redis::cmd("SENTINEL").arg("MASTER").arg("mymaster"))?;
                (told["num-slaves"] == "1" && told["num-other-sentinels"] == "2").then_some(())
            });
        }
        redis
    }

    /// The URLs of the sentinels.
    pub fn urls(&self) -> Vec<String> {
        self.sentinels.iter().map(RedisServer::url).collect()
    }

    /// Waits until the replica is master.
    ///
    /// # Panics
    /// If it does not become one.
    pub fn wait_for_failover(&self) {
        self.wait_for_master(1);
    }

    /// Waits until the server at this position is the master.
    ///
    /// # Panics
    /// If it does not become one.
    pub fn wait_for_master(&self, position: usize) {
        agree("the failover", || self.servers[position].is_master().then_some(()));
    }

    /// Has the server at `from` hand over to its replica at `to`, by hand, and waits until it has.
    ///
    /// # Panics
    /// If they do not obey or agree.
    pub fn hand_over(&self, from: usize, to: usize) {
        let (from, to) = (&self.servers[from], &self.servers[to]);
        agree("the replica", || to.replication()?.contains("master_link_status:up").then_some(()));
        let mut by_hand = redis::cmd("FAILOVER");
        by_hand.arg("TO").arg("127.0.0.1").arg(to.port()).exec(&mut from.connection()).expect("the master obeys");
        agree("the failover", || (to.is_master() && !from.is_master()).then_some(()));
    }

    /// Restarts a killed server as the other one's replica, and waits until all know it.
    ///
    /// # Panics
    /// If it does not start, or they do not agree.
    pub fn rejoin(&self, position: usize) {
        let (server, master) = (&self.servers[position], &self.servers[1 - position]);
        let port = master.port().to_string();
        // No client may be sent to it before it knows its role.
        for sentinel in &self.sentinels {
            agree("the sentinels", || {
                let told: HashMap<String, String> =
                    look(sentinel, redis::cmd("SENTINEL").arg("MASTER").arg("mymaster"))?;
                (told["port"] == port && told["flags"] == "master").then_some(())
            });
        }
        server.restart();
        let follow = ["127.0.0.1", port.as_str()];
        redis::cmd("REPLICAOF").arg(&follow).exec(&mut server.connection()).expect("the server obeys");
        agree("the replica", || server.replication()?.contains("master_link_status:up").then_some(()));
    }
}

/// Three masters with a third of the slots each, and a replica of the first.
#[derive(Debug)]
pub struct RedisCluster {
    /// The masters.
    pub masters: Vec<RedisServer>,
    /// The replica of the first master.
    pub replica: RedisServer,
}

impl RedisCluster {
    /// The first and the last slot of each master.
    pub const SLOTS: [(u16, u16); 3] = [(0, 5_460), (5_461, 10_922), (10_923, 16_383)];

    /// Starts a cluster with options for all nodes, and waits until it serves all slots. A node
    /// counts as dead after 5 s unless the options say otherwise, so that a busy machine loses
    /// none.
    ///
    /// # Panics
    /// If a server does not start, or they do not agree.
    pub fn start(options: &[&str]) -> RedisCluster {
        let start = || {
            // The default bus port, 10,000 above, may be out of range or taken.
            let bus = free_port();
            let port = bus.to_string();
            let cluster = ["--cluster-enabled", "yes", "--cluster-node-timeout", "5000", "--cluster-port", &port];
            let coverage = ["--cluster-require-full-coverage", "no"];
            (RedisServer::start_with(&[&cluster[..], &coverage, options].concat()), bus)
        };
        let masters: Vec<_> = (0..3).map(|_| start()).collect();
        let replica = start();
        for ((master, _), (first, last)) in masters.iter().zip(Self::SLOTS) {
            Self::cluster(master, &["ADDSLOTSRANGE", &first.to_string(), &last.to_string()]);
        }
        let nodes: Vec<_> = masters.iter().chain([&replica]).collect();
        let info = |node: &RedisServer, what: &str| Self::text(node, "INFO").contains(what);
        let mut met = None::<Instant>;
        agree("the cluster's nodes", || {
            // On a busy machine a handshake may time out.
            if met.is_none_or(|met| met.elapsed() > Duration::from_secs(2)) {
                met = Some(Instant::now());
                for (other, bus) in &nodes[1..] {
                    let (port, bus) = (other.port().to_string(), bus.to_string());
                    Self::cluster(&nodes[0].0, &["MEET", "127.0.0.1", &port, &bus]);
                }
            }
            let known = |node| info(node, "cluster_known_nodes:4") && info(node, "cluster_slots_ok:16384");
            nodes.iter().all(|(node, _)| known(node)).then_some(())
        });
        let cluster =
            RedisCluster { masters: masters.into_iter().map(|(server, _)| server).collect(), replica: replica.0 };
        Self::cluster(&cluster.replica, &["REPLICATE", &Self::id(&cluster.masters[0])]);
        agree("the replica", || cluster.replica.replication()?.contains("master_link_status:up").then_some(()));
        cluster
    }

    /// The URLs of the nodes.
    pub fn urls(&self) -> Vec<String> {
        self.masters.iter().map(RedisServer::url).collect()
    }

    /// A node's ID in the cluster.
    ///
    /// # Panics
    /// If it does not answer.
    pub fn id(server: &RedisServer) -> String {
        Self::text(server, "MYID")
    }

    /// Runs a subcommand of `CLUSTER` on a node.
    ///
    /// # Panics
    /// If that fails.
    pub fn cluster(server: &RedisServer, arguments: &[&str]) {
        redis::cmd("CLUSTER").arg(arguments).exec(&mut server.connection()).expect("the cluster obeys");
    }

    fn text(server: &RedisServer, subcommand: &str) -> String {
        redis::cmd("CLUSTER").arg(subcommand).query(&mut server.connection()).expect("the cluster answers")
    }

    /// Waits until the first master's replica is promoted.
    ///
    /// # Panics
    /// If it is not.
    pub fn wait_for_failover(&self) {
        agree("the failover", || Self::is_master(&self.replica));
    }

    /// Makes a master hand over to its replica without loss, and waits until it has.
    ///
    /// # Panics
    /// If they refuse or do not agree.
    pub fn hand_over(&self, from: &RedisServer, to: &RedisServer) {
        agree("the replica", || to.replication()?.contains("master_link_status:up").then_some(()));
        Self::cluster(to, &["FAILOVER"]);
        agree("the failover", || Self::is_master(to));
        agree("the master that was", || from.replication()?.contains("role:slave").then_some(()));
    }

    /// Has `from` send slots to `to`, as Valkey does from version 9 on, and waits until both say that it has.
    ///
    /// # Panics
    /// Where the server cannot do so, or they do not agree.
    pub fn migrate_slots(from: &RedisServer, to: &RedisServer, (first, last): (u16, u16)) {
        let (first, last) = (first.to_string(), last.to_string());
        let mut migrate = redis::cmd("CLUSTER");
        migrate.arg("MIGRATESLOTS").arg("SLOTSRANGE").arg(&[&first, &last]).arg("NODE").arg(Self::id(to));
        migrate.exec(&mut from.connection()).expect("a server of Valkey 9: it can migrate slots");
        let range = format!("{first}-{last}");
        agree("the migration", || {
            let has = |server| {
                let nodes: String = look(server, redis::cmd("CLUSTER").arg("NODES"))?;
                let own = nodes.lines().find(|line| line.contains("myself"))?;
                Some(own.contains(&range))
            };
            (has(to)? && !has(from)?).then_some(())
        });
    }

    fn is_master(server: &RedisServer) -> Option<()> {
        let nodes: String = look(server, redis::cmd("CLUSTER").arg("NODES"))?;
        nodes.contains("myself,master").then_some(())
    }

    /// The slot of a key.
    ///
    /// # Panics
    /// If the node does not answer.
    pub fn slot(server: &RedisServer, key: &str) -> u16 {
        redis::cmd("CLUSTER").arg("KEYSLOT").arg(key).query(&mut server.connection()).expect("the cluster answers")
    }

    /// Starts to migrate a slot: keys no longer at `from` are at `to` from now on.
    ///
    /// # Panics
    /// If a node refuses.
    pub fn open_slot(slot: u16, from: &RedisServer, to: &RedisServer) {
        let slot = slot.to_string();
        Self::cluster(to, &["SETSLOT", &slot, "IMPORTING", &Self::id(from)]);
        Self::cluster(from, &["SETSLOT", &slot, "MIGRATING", &Self::id(to)]);
    }

    /// Moves all keys of an open slot.
    ///
    /// # Panics
    /// If a node refuses.
    pub fn empty_slot(slot: u16, from: &RedisServer, to: &RedisServer) {
        let mut connection = from.connection();
        loop {
            let left = redis::cmd("CLUSTER").arg("GETKEYSINSLOT").arg(slot).arg(100).query(&mut connection);
            let left: Vec<String> = left.expect("the cluster answers");
            if left.is_empty() {
                return;
            }
            for key in left {
                let mut migrate = redis::cmd("MIGRATE");
                migrate.arg("127.0.0.1").arg(to.port()).arg(key).arg(0).arg(10_000);
                migrate.exec(&mut connection).expect("the key can be moved");
            }
        }
    }

    /// Completes the migration of an emptied slot.
    ///
    /// # Panics
    /// If a node refuses.
    pub fn assign_slot(slot: u16, from: &RedisServer, to: &RedisServer) {
        for server in [to, from] {
            Self::cluster(server, &["SETSLOT", &slot.to_string(), "NODE", &Self::id(to)]);
        }
    }
}

fn agree<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + AGREE;
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(Instant::now() < until, "{what}: no agreement in {AGREE:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A server's answer, if there is one.
fn look<T: redis::FromRedisValue>(server: &RedisServer, command: &redis::Cmd) -> Option<T> {
    command.query(&mut redis::Client::open(server.url()).ok()?.get_connection().ok()?).ok()
}
