//! The master that sentinels watch, as they report it. It is looked up again when it fails or
//! reports that it is no longer master.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use redis::Value;

use crate::backend::redis::route::discovery::{Discovery, ask};
use crate::backend::redis::setup::endpoint::{Address, Endpoint};
use crate::backend::redis::wire::node::Node;
use crate::error::{BackendError, BackendErrorKind};

/// The most chained replicas to follow.
const MAX_FOLLOWED: usize = 4;

/// The search for the master called `name`. `server` holds the login to it.
pub(crate) fn master(sentinels: Vec<Endpoint>, name: String, server: Endpoint, timeout: Duration) -> Discovery<Node> {
    let (next, last) = (AtomicUsize::new(0), Mutex::new(None::<Arc<Node>>));
    Discovery::new(move || {
        let mut command = redis::cmd("SENTINEL");
        command.arg("get-master-addr-by-name").arg(&name);
        // A sentinel that is cut off from the others may be out of date, so each search starts with
        // the next one.
        let first = next.fetch_add(1, Ordering::Relaxed);
        let mut failed = None;
        for position in 0..sentinels.len() {
            let sentinel = &sentinels[(first + position) % sentinels.len()];
            match ask(sentinel, &command).and_then(|reply| address(&reply, sentinel, &name)) {
                Ok(named) => {
                    let mut last = last.lock();
                    // The last master, which was given up. After a manual failover, the sentinels
                    // still name the old master, which knows whom it follows.
                    let is_given_up = last.as_ref().is_some_and(|node| node.endpoint().address == named);
                    let address = if is_given_up { followed(&server, named) } else { named };
                    // The same address keeps its connections.
                    let node = match last.take() {
                        Some(node) if node.endpoint().address == address => node,
                        _ => Arc::new(Node::new(server.at(address), timeout)),
                    };
                    *last = Some(Arc::clone(&node));
                    return Ok(node);
                }
                Err(error) => failed = Some(error),
            }
        }
        Err(failed.unwrap_or_else(|| BackendError::configuration("there is no sentinel to ask")))
    })
}

/// The master that a server follows if it is a replica whose master confirms its role; else the
/// server.
fn followed(server: &Endpoint, named: Address) -> Address {
    let role = redis::cmd("ROLE");
    let mut address = named.clone();
    for _ in 0..MAX_FOLLOWED {
        let Ok(Value::Array(parts)) = ask(&server.at(address.clone()), &role) else { return named };
        match parts.as_slice() {
            [Value::BulkString(role), ..] if role == b"master" => return address,
            [Value::BulkString(_), Value::BulkString(host), Value::Int(port), ..] => {
                let (Ok(host), Ok(port)) = (std::str::from_utf8(host), u16::try_from(*port)) else { return named };
                address = Address::Tcp(host.to_owned(), port);
            }
            _ => return named,
        }
    }
    named
}

fn address(reply: &Value, sentinel: &Endpoint, name: &str) -> Result<Address, BackendError> {
    if let Value::Array(parts) = reply
        && let [Value::BulkString(host), Value::BulkString(port)] = parts.as_slice()
        && let (Ok(host), Ok(port)) = (std::str::from_utf8(host), std::str::from_utf8(port))
        && let Ok(port) = port.parse()
    {
        return Ok(Address::Tcp(host.to_owned(), port));
    }
    let sentinel = &sentinel.address;
    Err(match reply {
        Value::Nil => BackendError::configuration(format!("the sentinel at {sentinel} knows no master `{name}`")),
        _ => BackendError::new(BackendErrorKind::Refused, format!("the server at {sentinel} is not a sentinel")),
    })
}
