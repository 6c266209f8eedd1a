//! Routes one call through a topology: which server gets it, and how replies other than an answer
//! are handled.
//!
//! Nothing that may have been charged is sent twice. A call is sent again only if a server says
//! that it did not run it: on `NOSCRIPT` (after the script) and, with several servers, on `MOVED`,
//! `ASK` and `READONLY`.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use redis::{Cmd, ServerError, Value};

#[cfg(feature = "redis-cluster")]
use crate::backend::redis::route::cluster;
#[cfg(any(feature = "redis-sentinel", feature = "redis-cluster"))]
use crate::backend::redis::route::discovery::Discovery;
#[cfg(feature = "redis-sentinel")]
use crate::backend::redis::route::sentinel;
use crate::backend::redis::script;
use crate::backend::redis::script::codec::no_decision;
use crate::backend::redis::setup::endpoint::Endpoint;
use crate::backend::redis::wire::node::{Mode, Node};
use crate::error::BackendError;

/// Attempts for one call, redirects included.
const ATTEMPTS: u32 = 6;
/// A younger map of a cluster is not fetched again: while a node is down, its calls fail one after
/// another.
#[cfg(feature = "redis-cluster")]
const MIN_MAP_AGE: Duration = Duration::from_millis(100);

/// The servers of a backend, and the connections to them.
pub(crate) struct Connection {
    topology: Topology,
    /// For messages.
    name: String,
    hint: &'static str,
}

enum Topology {
    One(Arc<Node>),
    #[cfg(feature = "redis-sentinel")]
    Sentinel(Discovery<Node>),
    #[cfg(feature = "redis-cluster")]
    Cluster(Discovery<cluster::Map>),
}

/// The server of a call.
struct Route {
    node: Arc<Node>,
    #[cfg(feature = "redis-cluster")]
    map: Option<(Arc<cluster::Map>, u16)>,
}

impl Connection {
    /// One server. Does not connect yet.
    pub(crate) fn one(endpoint: Endpoint, timeout: Duration) -> Connection {
        let (name, hint) = (endpoint.address.to_string(), endpoint.hint());
        Connection { topology: Topology::One(Arc::new(Node::new(endpoint, timeout))), name, hint }
    }

    /// The master called `master`. `server` holds the login to it.
    #[cfg(feature = "redis-sentinel")]
    pub(crate) fn sentinel(
        sentinels: Vec<Endpoint>,
        master: String,
        server: Endpoint,
        timeout: Duration,
    ) -> Connection {
        let (name, hint) = (format!("the master `{master}`"), server.hint());
        Connection { topology: Topology::Sentinel(sentinel::master(sentinels, master, server, timeout)), name, hint }
    }

    /// The cluster of the nodes at `seeds`. `server` holds the login to all nodes.
    #[cfg(feature = "redis-cluster")]
    pub(crate) fn cluster(
        seeds: Vec<crate::backend::redis::setup::endpoint::Address>,
        server: Endpoint,
        timeout: Duration,
    ) -> Connection {
        let names: Vec<String> = seeds.iter().map(ToString::to_string).collect();
        let (name, hint) = (format!("the cluster of {}", names.join(", ")), server.hint());
        Connection { topology: Topology::Cluster(cluster::map(seeds, server, timeout)), name, hint }
    }

    /// A guess at the cause if the server does not answer.
    pub(crate) fn hint(&self) -> &'static str {
        self.hint
    }

    /// Whether buckets may be on several servers.
    pub(crate) fn is_cluster(&self) -> bool {
        match &self.topology {
            Topology::One(_) => false,
            #[cfg(feature = "redis-sentinel")]
            Topology::Sentinel(_) => false,
            #[cfg(feature = "redis-cluster")]
            Topology::Cluster(_) => true,
        }
    }

    /// Runs a command that calls the script, and returns the script's answer. An asynchronous call
    /// ends by the deadline.
    pub(crate) async fn call(&self, command: &Cmd, deadline: Instant, mode: Mode) -> Result<Vec<u8>, BackendError> {
        match self.reply(command, deadline, mode).await? {
            (Value::BulkString(answer), _) => Ok(answer),
            _ => Err(no_decision()),
        }
    }

    /// Runs a command that calls the script on `number` buckets, and returns an answer or a refusal
    /// for each.
    pub(crate) async fn call_many(
        &self,
        command: &Cmd,
        number: usize,
        deadline: Instant,
        mode: Mode,
    ) -> Result<Vec<Result<Vec<u8>, BackendError>>, BackendError> {
        match self.reply(command, deadline, mode).await? {
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

    /// The reply of the server in charge, and that server.
    async fn reply(&self, command: &Cmd, deadline: Instant, mode: Mode) -> Result<(Value, Arc<Node>), BackendError> {
        let mut commands = Cow::Borrowed(std::slice::from_ref(command));
        let mut route = self.route(command, deadline, mode).await?;
        let (mut script, mut asking, mut demoted) = (Script::Known, false, false);
        for _ in 0..ATTEMPTS {
            let mut in_flight = BlockingCall { connection: self, route: (mode == Mode::Blocking).then_some(&route) };
            let answered = route.node.call(&commands, deadline, mode).await;
            in_flight.route = None;
            drop(in_flight);
            let refusal = match answered {
                Ok(Value::ServerError(refusal)) => refusal,
                Ok(Value::Array(answers)) => match answers.iter().find_map(read_only) {
                    Some(refusal) => refusal,
                    None => return Ok((Value::Array(answers), route.node)),
                },
                Ok(reply) => return Ok((reply, route.node)),
                Err(error) => {
                    self.distrust(&route);
                    return Err(error);
                }
            };
            match refusal.code() {
                "NOSCRIPT" if script == Script::Known => script = Script::Loaded,
                // Loading is not allowed; sending the script with the call may be.
                "NOSCRIPT" if script == Script::Loaded => script = Script::Sent,
                // The slot may soon belong to another node, or to this one in part.
                #[cfg(feature = "redis-cluster")]
                word @ ("MOVED" | "ASK")
                    if let Some((map, slot)) = &route.map
                        && let Some(node) = map.named(&refusal, &route.node) =>
                {
                    asking = word == "ASK";
                    if !asking {
                        map.moved(*slot, Arc::clone(&node));
                    }
                    (route.node, script) = (node, Script::Known);
                }
                "READONLY" if !demoted => {
                    demoted = true;
                    route.node.reconnect();
                    self.distrust(&route);
                    if matches!(self.topology, Topology::One(_)) {
                        return Err(route.node.endpoint().refused(&refusal));
                    }
                    route = self.route(command, deadline, mode).await?;
                    (asking, script) = (false, Script::Known);
                }
                // The user must learn why the script could not be loaded.
                "NOPERM" | "ERR" if script == Script::Sent => {
                    let reply = route.node.call(&[script::load(command)], deadline, mode).await?;
                    let refusal = if let Value::ServerError(first) = reply { first } else { refusal };
                    return Err(route.node.endpoint().refused(&refusal));
                }
                word => {
                    if word == "CLUSTERDOWN" {
                        self.distrust(&route);
                    }
                    return Err(route.node.endpoint().refused(&refusal));
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
    async fn route(&self, command: &Cmd, deadline: Instant, mode: Mode) -> Result<Route, BackendError> {
        // Only other topologies use these.
        let _ = (command, deadline, mode);
        Ok(match &self.topology {
            Topology::One(node) => Route::of(Arc::clone(node)),
            #[cfg(feature = "redis-sentinel")]
            Topology::Sentinel(master) => Route::of(master.get(deadline, mode).await?),
            #[cfg(feature = "redis-cluster")]
            Topology::Cluster(maps) => {
                let map = maps.get(deadline, mode).await?;
                let slot = cluster::slot(key(command));
                let node = map.node(slot).inspect_err(|_| maps.forget(&map, MIN_MAP_AGE))?;
                Route { node, map: Some((map, slot)) }
            }
        })
    }

    /// Makes the next call look for the servers again, because this one failed.
    fn distrust(&self, route: &Route) {
        match &self.topology {
            Topology::One(_) => {
                let _ = route;
            }
            #[cfg(feature = "redis-sentinel")]
            Topology::Sentinel(master) => master.forget(&route.node, Duration::ZERO),
            #[cfg(feature = "redis-cluster")]
            Topology::Cluster(maps) => {
                if let Some((map, _)) = &route.map {
                    maps.forget(map, MIN_MAP_AGE);
                }
            }
        }
    }
}

impl Route {
    fn of(node: Arc<Node>) -> Route {
        Route {
            node,
            #[cfg(feature = "redis-cluster")]
            map: None,
        }
    }
}

/// A blocking call in flight. If it is dropped at its deadline, for instance while connecting to a
/// server that hangs, it distrusts the route.
struct BlockingCall<'a> {
    connection: &'a Connection,
    route: Option<&'a Route>,
}

impl Drop for BlockingCall<'_> {
    fn drop(&mut self) {
        if let Some(route) = self.route {
            self.connection.distrust(route);
        }
    }
}

/// How a call makes the script available.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Script {
    Known,
    Loaded,
    Sent,
}

/// A call, preceded by the commands that it needs on the same connection.
fn in_front(call: &Cmd, script: Script, asking: bool) -> Cow<'static, [Cmd]> {
    let load = (script == Script::Loaded).then(|| script::load(call));
    let asking = asking.then(|| redis::cmd("ASKING"));
    let call = if script == Script::Sent { script::in_full(call) } else { call.clone() };
    load.into_iter().chain(asking).chain([call]).collect()
}

/// A refusal of a read-only server among several answers. Such a server has charged none of them.
fn read_only(answer: &Value) -> Option<ServerError> {
    match answer {
        Value::ServerError(refusal) if refusal.code() == "READONLY" => Some(refusal.clone()),
        _ => None,
    }
}

/// The first key of a call of the script: `EVALSHA sha 1 key ..`.
#[cfg(feature = "redis-cluster")]
fn key(command: &Cmd) -> &[u8] {
    match command.args_iter().nth(3) {
        Some(redis::Arg::Simple(key)) => key,
        _ => &[],
    }
}

/// Where the servers are, for messages.
impl fmt::Display for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}
