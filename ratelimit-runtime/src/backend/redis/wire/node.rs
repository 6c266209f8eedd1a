//! One server: the connections to it, of blocking and of asynchronous calls.

use std::sync::Arc;
use std::time::{Duration, Instant};

use redis::{Cmd, Value};

use crate::backend::redis::setup::endpoint::Endpoint;
use crate::backend::redis::wire::lanes::Lanes;
use crate::backend::redis::wire::links::Links;
use crate::backend::redis::wire::opener::Opener;
use crate::error::BackendError;

/// The minimum timeout of an attempt to connect. If it exceeds the call's own, the attempt
/// continues, and a later call uses the connection.
const MIN_CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// How a call waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// On its own thread, which it blocks in its first poll.
    Blocking,
    Async,
}

pub(crate) struct Node {
    opener: Opener,
    lanes: Arc<Lanes>,
    links: Arc<Links>,
}

impl Node {
    /// Does not connect yet.
    pub(crate) fn new(endpoint: Endpoint, timeout: Duration) -> Node {
        let connect_timeout = timeout.max(MIN_CONNECT_TIMEOUT);
        let lanes = Arc::new(Lanes::default());
        let links = Arc::new(Links::new(endpoint.clone(), connect_timeout, {
            let lanes = Arc::downgrade(&lanes);
            move || lanes.upgrade().iter().for_each(|lanes| lanes.clear())
        }));
        Node { opener: Opener::new(endpoint, connect_timeout, Arc::clone(&links)), lanes, links }
    }

    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.opener.endpoint
    }

    /// Sends commands together and waits for the reply to the last, until the deadline at most. The
    /// poller of a blocking call enforces its deadline.
    pub(crate) async fn call(&self, commands: &[Cmd], deadline: Instant, mode: Mode) -> Result<Value, BackendError> {
        match mode {
            Mode::Blocking => self.lanes.call(&self.opener, commands, deadline).await,
            Mode::Async => self.links.call(commands, deadline).await,
        }
    }

    /// Makes later calls use new connections, because these lead to a read-only server.
    pub(crate) fn reconnect(&self) {
        self.lanes.clear();
        self.links.clear();
    }
}
