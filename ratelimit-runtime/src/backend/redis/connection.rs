//! The way of one call through a topology: which server it goes to, and what becomes of the answers that are none.
//!
//! Nothing that may have been charged is sent twice. What is sent again is what a server says it did not do: `NOSCRIPT`
//! (with the script in front), and in a topology of several servers `MOVED`, `ASK` and `READONLY`; and what was not sent at
//! all because the connection was found to be over.

use std::fmt;
use std::time::{Duration, Instant};

use redis::Cmd;

use super::config::Settings;
use super::node::{Message, Node, Way};
use super::resp::Reply;
use super::script;
use crate::error::{BackendError, BackendErrorKind};

/// So often a call is sent on at most.
const HOPS: u32 = 6;

pub(super) struct Connection {
    node: Node,
}

impl Connection {
    /// Does not connect yet.
    pub(super) fn new(settings: Settings, timeout: Duration) -> Connection {
        Connection { node: Node::new(settings.endpoint(), timeout) }
    }

    /// Runs a command that calls the script, and returns the script's answer. Ends by the deadline if asynchronous.
    pub(super) async fn call(&self, command: &Cmd, deadline: Instant, way: Way) -> Result<Vec<u8>, BackendError> {
        let mut message = Message { bytes: command.get_packed_command(), replies: 1 };
        for _ in 0..HOPS {
            let refusal = match self.node.call(&message, deadline, way).await {
                Ok(Reply::Bytes(answer)) => return Ok(answer),
                Ok(Reply::Refused(refusal)) => refusal,
                Ok(_) => return Err(no_decision()),
                Err(failure) if failure.untried => continue,
                Err(failure) => return Err(failure.error),
            };
            match refusal.split(' ').next() {
                Some("NOSCRIPT") if message.replies == 1 => {
                    message.bytes = [script::load().get_packed_command(), message.bytes].concat();
                    message.replies = 2;
                }
                _ => return Err(self.node.endpoint().refused(&refusal)),
            }
        }
        Err(self.node.endpoint().late())
    }
}

fn no_decision() -> BackendError {
    BackendError::new(BackendErrorKind::Refused, "Redis answered with something that is no decision")
}

/// The server's address.
impl fmt::Display for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.node.endpoint().address.fmt(f)
    }
}
