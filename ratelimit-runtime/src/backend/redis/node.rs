//! One server: the connections to it, of blocking calls and of asynchronous ones.

use std::sync::Arc;
use std::time::{Duration, Instant};

use redis::{Cmd, Value};

use super::endpoint::Endpoint;
use super::lanes::Lanes;
use super::links::Links;
use super::opener::Opener;
use crate::error::BackendError;

/// An attempt to connect may take this long where a call's own timeout is shorter: a server that takes longer than that to
/// say hello can be reached by a later call.
const PATIENCE: Duration = Duration::from_secs(1);

/// How a call waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// On its own thread, which it blocks in its first poll.
    Blocking,
    Async,
}

pub(super) struct Node {
    opener: Opener,
    lanes: Arc<Lanes>,
    links: Arc<Links>,
}

impl Node {
    /// Does not connect yet.
    pub(super) fn new(endpoint: Endpoint, timeout: Duration) -> Node {
        let patience = timeout.max(PATIENCE);
        let lanes = Arc::new(Lanes::default());
        let links = Arc::new(Links::new(endpoint.clone(), patience, {
            let lanes = Arc::downgrade(&lanes);
            move || lanes.upgrade().iter().for_each(|lanes| lanes.clear())
        }));
        Node { opener: Opener::new(endpoint, patience, Arc::clone(&links)), lanes, links }
    }

    pub(super) fn endpoint(&self) -> &Endpoint {
        &self.opener.endpoint
    }

    /// Sends commands together and waits for the reply to the last, at most until the deadline; a blocking call's is kept by
    /// whoever polls.
    pub(super) async fn call(&self, commands: &[Cmd], deadline: Instant, way: Way) -> Result<Value, BackendError> {
        match way {
            Way::Blocking => self.lanes.call(&self.opener, commands, deadline).await,
            Way::Async => self.links.call(commands, deadline).await,
        }
    }

    /// Later calls use new connections: these lead to a server that takes no writes any more.
    pub(super) fn reconnect(&self) {
        self.lanes.clear();
        self.links.clear();
    }
}
