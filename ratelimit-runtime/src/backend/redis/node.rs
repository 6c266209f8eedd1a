//! One server: the connections to it, of blocking calls and of asynchronous ones.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::lanes::Lanes;
use super::links::Links;
use super::opener::Opener;
use super::resp::Reply;
use super::stream::Endpoint;
use crate::error::BackendError;

/// How a call waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// On its own thread, which it blocks in its first poll.
    Blocking,
    Async,
}

/// Commands that are sent together. Only the last reply counts.
#[derive(Clone)]
pub(super) struct Message {
    pub(super) bytes: Vec<u8>,
    pub(super) replies: u32,
}

/// Why there is no reply.
#[derive(Clone)]
pub(super) struct Failure {
    pub(super) error: BackendError,
    /// The connection was found to be over before anything was sent: another may be tried.
    pub(super) untried: bool,
}

impl Failure {
    pub(super) fn new(error: BackendError) -> Failure {
        Failure { error, untried: false }
    }

    pub(super) fn late(opener: &Opener) -> Failure {
        Failure::new(opener.endpoint.late())
    }
}

pub(super) struct Node {
    opener: Arc<Opener>,
    lanes: Lanes,
    links: Links,
}

impl Node {
    /// Does not connect yet.
    pub(super) fn new(endpoint: Endpoint, timeout: Duration) -> Node {
        let opener = Arc::new(Opener::new(endpoint, timeout));
        Node { links: Links::new(Arc::clone(&opener)), lanes: Lanes::default(), opener }
    }

    pub(super) fn endpoint(&self) -> &Endpoint {
        &self.opener.endpoint
    }

    /// Sends a message and waits for the reply, at most until the deadline; a blocking call's is kept by whoever polls.
    pub(super) async fn call(&self, message: &Message, deadline: Instant, way: Way) -> Result<Reply, Failure> {
        match way {
            Way::Blocking => self.lanes.call(&self.opener, message, deadline).await,
            Way::Async => self.links.call(message, deadline).await,
        }
    }

    /// Later calls use new connections: these lead to a server that takes no writes any more.
    pub(super) fn reconnect(&self) {
        self.lanes.clear();
        self.links.clear();
    }
}
