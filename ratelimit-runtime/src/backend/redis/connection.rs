//! The way of one call through a topology: which server it goes to, and what becomes of the answers that are none.
//!
//! Nothing that may have been charged is sent twice. What is sent again is what a server says it did not do: `NOSCRIPT`
//! (with the script in front), and in a topology of several servers `MOVED`, `ASK` and `READONLY`.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use redis::{Cmd, ServerError, Value};

#[cfg(feature = "redis-cluster")]
use super::cluster;
#[cfg(any(feature = "redis-sentinel", feature = "redis-cluster"))]
use super::discovery::Discovery;
use super::endpoint::Endpoint;
use super::node::{Node, Way};
use super::script;
#[cfg(feature = "redis-sentinel")]
use super::sentinel;
use crate::error::{BackendError, BackendErrorKind};

/// So often a call is sent on at most.
const HOPS: u32 = 6;
/// A map of a cluster that is younger is not asked for anew: while a node is down, calls to it fail one after another.
#[cfg(feature = "redis-cluster")]
const FRESH: Duration = Duration::from_millis(100);

/// The servers of a backend, and the connections to them.
pub(super) struct Connection {
    topology: Topology,
    /// For messages.
    name: String,
    doubt: &'static str,
}

enum Topology {
    One(Arc<Node>),
    #[cfg(feature = "redis-sentinel")]
    Sentinel(Discovery<Node>),
    #[cfg(feature = "redis-cluster")]
    Cluster(Discovery<cluster::Map>),
}

/// Where a call goes.
struct Place {
    node: Arc<Node>,
    #[cfg(feature = "redis-cluster")]
    map: Option<(Arc<cluster::Map>, u16)>,
}

impl Connection {
    /// One server. Does not connect yet.
    pub(super) fn one(endpoint: Endpoint, timeout: Duration) -> Connection {
        let (name, doubt) = (endpoint.address.to_string(), endpoint.doubt());
        Connection { topology: Topology::One(Arc::new(Node::new(endpoint, timeout))), name, doubt }
    }

    /// The master of that name. `server` is how to log in to it.
    #[cfg(feature = "redis-sentinel")]
    pub(super) fn sentinel(
        sentinels: Vec<Endpoint>,
        master: String,
        server: Endpoint,
        timeout: Duration,
    ) -> Connection {
        let (name, doubt) = (format!("the master `{master}`"), server.doubt());
        Connection { topology: Topology::Sentinel(sentinel::master(sentinels, master, server, timeout)), name, doubt }
    }

    /// The cluster that nodes at `seeds` belong to. `server` is how to log in to all.
    #[cfg(feature = "redis-cluster")]
    pub(super) fn cluster(seeds: Vec<super::endpoint::Address>, server: Endpoint, timeout: Duration) -> Connection {
        let names: Vec<String> = seeds.iter().map(ToString::to_string).collect();
        let (name, doubt) = (format!("the cluster of {}", names.join(", ")), server.doubt());
        Connection { topology: Topology::Cluster(cluster::map(seeds, server, timeout)), name, doubt }
    }

    /// What may be the matter if nothing is answered.
    pub(super) fn doubt(&self) -> &'static str {
        self.doubt
    }

    /// Whether buckets may be on several servers.
    pub(super) fn is_cluster(&self) -> bool {
        match &self.topology {
            Topology::One(_) => false,
            #[cfg(feature = "redis-sentinel")]
            Topology::Sentinel(_) => false,
            #[cfg(feature = "redis-cluster")]
            Topology::Cluster(_) => true,
        }
    }

    /// Runs a command that calls the script, and returns the script's answer. Ends by the deadline if asynchronous.
    pub(super) async fn call(&self, command: &Cmd, deadline: Instant, way: Way) -> Result<Vec<u8>, BackendError> {
        match self.reply(command, deadline, way).await? {
            (Value::BulkString(answer), _) => Ok(answer),
            _ => Err(no_decision()),
        }
    }

    /// As [`call`](Connection::call) of a command that asks of `number` buckets: an answer or a refusal of each.
    pub(super) async fn call_many(
        &self,
        command: &Cmd,
        number: usize,
        deadline: Instant,
        way: Way,
    ) -> Result<Vec<Result<Vec<u8>, BackendError>>, BackendError> {
        match self.reply(command, deadline, way).await? {
            (Value::Array(answers), node) if answers.len() == number => {
                let answer = |answer| match answer {
                    Value::BulkString(answer) => Ok(answer),
                    Value::ServerError(refusal) => Err(node.endpoint().refused(&refusal)),
                    _ => Err(no_decision()),
                };
                Ok(answers.into_iter().map(answer).collect())
            }
            _ => Err(no_decision()),
        }
    }

    /// What the server that is in charge replied, and which that was.
    async fn reply(&self, command: &Cmd, deadline: Instant, way: Way) -> Result<(Value, Arc<Node>), BackendError> {
        let mut commands = Cow::Borrowed(std::slice::from_ref(command));
        let mut place = self.place(command, deadline, way).await?;
        let (mut script, mut asking, mut demoted) = (Script::Known, false, false);
        for _ in 0..HOPS {
            let mut unanswered = Unanswered { connection: self, place: (way == Way::Blocking).then_some(&place) };
            let answered = place.node.call(&commands, deadline, way).await;
            unanswered.place = None;
            drop(unanswered);
            let refusal = match answered {
                Ok(Value::ServerError(refusal)) => refusal,
                Ok(Value::Array(answers)) => match answers.iter().find_map(read_only) {
                    Some(refusal) => refusal,
                    None => return Ok((Value::Array(answers), place.node)),
                },
                Ok(reply) => return Ok((reply, place.node)),
                Err(error) => {
                    self.distrust(&place);
                    return Err(error);
                }
            };
            match refusal.code() {
                "NOSCRIPT" if script == Script::Known => script = Script::Loaded,
                // It may not be loaded: perhaps it may be sent with the call.
                "NOSCRIPT" if script == Script::Loaded => script = Script::Sent,
                // The slot may be some other node's soon, or this one's in part.
                #[cfg(feature = "redis-cluster")]
                word @ ("MOVED" | "ASK")
                    if let Some((map, slot)) = &place.map
                        && let Some(node) = map.named(&refusal, &place.node) =>
                {
                    asking = word == "ASK";
                    if !asking {
                        map.moved(*slot, Arc::clone(&node));
                    }
                    (place.node, script) = (node, Script::Known);
                }
                "READONLY" if !demoted => {
                    demoted = true;
                    place.node.reconnect();
                    self.distrust(&place);
                    if matches!(self.topology, Topology::One(_)) {
                        return Err(place.node.endpoint().refused(&refusal));
                    }
                    place = self.place(command, deadline, way).await?;
                    (asking, script) = (false, Script::Known);
                }
                // Why it may not be loaded is what has to be known.
                "NOPERM" | "ERR" if script == Script::Sent => {
                    let reply = place.node.call(&[script::load(command)], deadline, way).await?;
                    let refusal = if let Value::ServerError(first) = reply { first } else { refusal };
                    return Err(place.node.endpoint().refused(&refusal));
                }
                word => {
                    if word == "CLUSTERDOWN" {
                        self.distrust(&place);
                    }
                    return Err(place.node.endpoint().refused(&refusal));
                }
            }
            commands = in_front(command, script, asking);
        }
        Err(no_decision())
    }

    #[cfg_attr(
        not(any(feature = "redis-sentinel", feature = "redis-cluster")),
        expect(clippy::unused_async, reason = "only one server has not to be looked for")
    )]
    async fn place(&self, command: &Cmd, deadline: Instant, way: Way) -> Result<Place, BackendError> {
        // By which another topology finds it.
        let _ = (command, deadline, way);
        Ok(match &self.topology {
            Topology::One(node) => Place::of(Arc::clone(node)),
            #[cfg(feature = "redis-sentinel")]
            Topology::Sentinel(master) => Place::of(master.get(deadline, way).await?),
            #[cfg(feature = "redis-cluster")]
            Topology::Cluster(maps) => {
                let map = maps.get(deadline, way).await?;
                let slot = cluster::slot(key(command));
                let node = map.node(slot).inspect_err(|_| maps.forget(&map, FRESH))?;
                Place { node, map: Some((map, slot)) }
            }
        })
    }

    /// What led to a server that failed is asked for anew.
    fn distrust(&self, place: &Place) {
        match &self.topology {
            Topology::One(_) => {
                let _ = place;
            }
            #[cfg(feature = "redis-sentinel")]
            Topology::Sentinel(master) => master.forget(&place.node, Duration::ZERO),
            #[cfg(feature = "redis-cluster")]
            Topology::Cluster(maps) => {
                if let Some((map, _)) = &place.map {
                    maps.forget(map, FRESH);
                }
            }
        }
    }
}

impl Place {
    fn of(node: Arc<Node>) -> Place {
        Place {
            node,
            #[cfg(feature = "redis-cluster")]
            map: None,
        }
    }
}

/// A blocking call under way: where its deadline ends it, it is dropped, as while it waits for a connection to a server that
/// hangs. It says where that was.
struct Unanswered<'a> {
    connection: &'a Connection,
    place: Option<&'a Place>,
}

impl Drop for Unanswered<'_> {
    fn drop(&mut self) {
        if let Some(place) = self.place {
            self.connection.distrust(place);
        }
    }
}

/// What a call does about the script.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Script {
    Known,
    Loaded,
    Sent,
}

/// A call with what must come before it on the same connection.
fn in_front(call: &Cmd, script: Script, asking: bool) -> Cow<'static, [Cmd]> {
    let load = (script == Script::Loaded).then(|| script::load(call));
    let asking = asking.then(|| redis::cmd("ASKING"));
    let call = if script == Script::Sent { script::in_full(call) } else { call.clone() };
    load.into_iter().chain(asking).chain([call]).collect()
}

/// The refusal of a server that takes no writes, among the answers to several: it has charged nothing for any of them.
fn read_only(answer: &Value) -> Option<ServerError> {
    match answer {
        Value::ServerError(refusal) if refusal.code() == "READONLY" => Some(refusal.clone()),
        _ => None,
    }
}

/// The key of a call of the script, the first of several: `EVALSHA sha 1 key ..`.
#[cfg(feature = "redis-cluster")]
fn key(command: &Cmd) -> &[u8] {
    match command.args_iter().nth(3) {
        Some(redis::Arg::Simple(key)) => key,
        _ => &[],
    }
}

fn no_decision() -> BackendError {
    BackendError::new(BackendErrorKind::Refused, "Redis answered with something that is no decision")
}

/// Where the servers are.
impl fmt::Display for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}
