//! The masters of a cluster, by the hash slots that they serve.
//!
//! redis-rs has a cluster client, but it resends a command after a connection failure, when the
//! command may already have been charged. This crate therefore uses redis-rs's connections to
//! single nodes, and routes between them itself.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use redis::{ServerError, Value};

use crate::backend::redis::route::discovery::{Discovery, ask};
use crate::backend::redis::setup::endpoint::{Address, Endpoint};
use crate::backend::redis::wire::node::Node;
use crate::error::{BackendError, BackendErrorKind};

const SLOTS: u16 = 16_384;

/// Which node serves which slots: one node's answer, and the redirects since.
pub(crate) struct Map {
    /// First and last slot of each range, in order.
    ranges: Vec<(u16, u16, Arc<Node>)>,
    moved: Mutex<HashMap<u16, Arc<Node>>>,
    nodes: Arc<Nodes>,
}

/// All nodes in use, with their connections.
struct Nodes {
    by_address: Mutex<HashMap<Address, Arc<Node>>>,
    /// The login, to whichever node.
    server: Endpoint,
    timeout: Duration,
}

/// Finds the masters. Any of `seeds` that answers knows them all.
pub(crate) fn map(seeds: Vec<Address>, server: Endpoint, timeout: Duration) -> Discovery<Map> {
    let nodes = Arc::new(Nodes { by_address: Mutex::default(), server, timeout });
    let next = AtomicUsize::new(0);
    Discovery::new(move || {
        let mut asked: Vec<Address> = nodes.by_address.lock().keys().cloned().collect();
        asked.extend(seeds.iter().cloned());
        // Rotates, so that a silent node does not come first every time.
        let first = next.fetch_add(1, Ordering::Relaxed) % asked.len().max(1);
        asked.rotate_left(first);
        let mut failed = BackendError::configuration("there is no node of the cluster to ask");
        for address in asked {
            let endpoint = nodes.server.at(address);
            let mut command = redis::cmd("CLUSTER");
            command.arg("SLOTS");
            match ask(&endpoint, &command).and_then(|reply| ranges(&reply, &endpoint)) {
                Ok(ranges) => return Ok(Arc::new(Map::new(ranges, &nodes))),
                Err(error) => failed = error,
            }
        }
        Err(failed)
    })
}

impl Map {
    fn new(ranges: Vec<(u16, u16, Address)>, nodes: &Arc<Nodes>) -> Map {
        let ranges: Vec<_> =
            ranges.into_iter().map(|(first, last, address)| (first, last, nodes.at(address))).collect();
        nodes.by_address.lock().retain(|_, node| ranges.iter().any(|(_, _, used)| Arc::ptr_eq(node, used)));
        Map { ranges, moved: Mutex::default(), nodes: Arc::clone(nodes) }
    }

    /// The node that serves a slot.
    pub(crate) fn node(&self, slot: u16) -> Result<Arc<Node>, BackendError> {
        if let Some(node) = self.moved.lock().get(&slot) {
            return Ok(Arc::clone(node));
        }
        let position = self.ranges.partition_point(|(_, last, _)| *last < slot);
        match self.ranges.get(position) {
            Some((first, _, node)) if *first <= slot => Ok(Arc::clone(node)),
            _ => {
                Err(BackendError::new(BackendErrorKind::Refused, format!("no node of the cluster serves slot {slot}")))
            }
        }
    }

    /// The node that `from` named in `MOVED` or `ASK`, as in `MOVED 3999 127.0.0.1:6381`.
    pub(crate) fn named(&self, refusal: &ServerError, from: &Node) -> Option<Arc<Node>> {
        let (host, port) = refusal.details()?.split(' ').nth(1)?.rsplit_once(':')?;
        Some(self.nodes.at(reached(host, port.parse().ok()?, &from.endpoint().address)))
    }

    /// Records that another node now serves a slot.
    pub(crate) fn moved(&self, slot: u16, node: Arc<Node>) {
        self.moved.lock().insert(slot, node);
    }
}

impl Nodes {
    fn at(&self, address: Address) -> Arc<Node> {
        let mut nodes = self.by_address.lock();
        let server = &self.server;
        let node = nodes
            .entry(address)
            .or_insert_with_key(|address| Arc::new(Node::new(server.at(address.clone()), self.timeout)));
        Arc::clone(node)
    }
}

/// The address of a node. If the node does not know its host, the host that was asked.
fn reached(host: &str, port: u16, asked: &Address) -> Address {
    match asked {
        Address::Tcp(asked, _) if host.is_empty() || host == "?" => Address::Tcp(asked.clone(), port),
        _ => Address::Tcp(host.to_owned(), port),
    }
}

/// Decodes the reply to `CLUSTER SLOTS`: for each range the first slot, the last, the master and
/// its replicas.
fn ranges(reply: &Value, asked: &Endpoint) -> Result<Vec<(u16, u16, Address)>, BackendError> {
    let read = |range: &Value| {
        let Value::Array(parts) = range else { return None };
        let [Value::Int(first), Value::Int(last), Value::Array(master), ..] = parts.as_slice() else {
            return None;
        };
        let [host, Value::Int(port), ..] = master.as_slice() else { return None };
        let host = match host {
            Value::BulkString(host) => std::str::from_utf8(host).ok()?,
            Value::Nil => "",
            _ => return None,
        };
        let address = reached(host, u16::try_from(*port).ok()?, &asked.address);
        Some((u16::try_from(*first).ok()?, u16::try_from(*last).ok()?, address))
    };
    let ranges = match reply {
        Value::Array(ranges) => ranges.iter().map(read).collect::<Option<Vec<_>>>(),
        _ => None,
    };
    let mut ranges = ranges.filter(|ranges| !ranges.is_empty()).ok_or_else(|| {
        let message = format!("the node at {} serves no slots, or is not in a cluster", asked.address);
        BackendError::new(BackendErrorKind::Refused, message)
    })?;
    ranges.sort_unstable_by_key(|(first, _, _)| *first);
    Ok(ranges)
}

/// The slot of a key: that of the part between its first `{` and the next `}`, unless that is
/// empty.
pub(crate) fn slot(key: &[u8]) -> u16 {
    let tag = key.iter().position(|byte| *byte == b'{').and_then(|open| {
        let rest = &key[open + 1..];
        let close = rest.iter().position(|byte| *byte == b'}')?;
        (close > 0).then(|| &rest[..close])
    });
    crc16(tag.unwrap_or(key)) % SLOTS
}

/// CRC-16/XMODEM, as in the Redis Cluster specification.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, byte| {
        (0..8).fold(
            crc ^ (u16::from(*byte) << 8),
            |crc, _| if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 },
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_redis() {
        // From the specification, and from `CLUSTER KEYSLOT`.
        assert_eq!(crc16(b"123456789"), 0x31c3);
        assert_eq!(slot(b"foo"), 12_182);
        assert_eq!(slot(b"{user1000}.following"), slot(b"user1000"));
        assert_eq!(slot(b"foo{}{bar}"), 8_363);
        assert_eq!(slot(b"foo{{bar}}zap"), slot(b"{bar"));
    }
}
