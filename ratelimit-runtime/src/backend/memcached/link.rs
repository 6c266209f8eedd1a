//! One connection to a server, on which commands of many tasks are under way at once (pipelining).
//!
//! A task of the connection's runtime does all its I/O. Callers append commands to a buffer; it
//! writes what has come together in one system call, reads the replies and hands them out in order.
//! Replies are read to their end whether or not a caller still waits for them. After a malformed
//! reply the connection is closed, and all calls waiting on it fail.

use std::collections::VecDeque;
use std::future::Future;
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};

use super::address::{Address, Socket};
use super::protocol::{self, Condition, Incoming, Kind, Reply, Unusable};
use super::seen::Seen;
use crate::error::{BackendError, BackendErrorKind};
use crate::rt::reply;

/// What one system call reads at most, in bytes.
const READ: usize = 16_384;

/// A connection without a command for this long is idle.
pub(super) const IDLE: Duration = Duration::from_millis(1);

/// A connection. Closed when the last handle of a caller is dropped.
pub(super) struct Link {
    wire: Arc<Wire>,
    /// CAS numbers start again with the server, and no connection outlives the server's process.
    seen: Mutex<Seen>,
}

/// A connection, as a decision uses it.
pub(super) trait Commands: Sync {
    /// Asks for the value of a key.
    fn get(&self, key: &str) -> impl Future<Output = Result<Reply, Failure>> + Send;

    /// Stores a value on a condition. `and_get` asks, in the same round trip, for the value that is
    /// there afterwards.
    fn set(
        &self,
        key: &str,
        bytes: &[u8],
        ttl: u64,
        condition: Condition,
        and_get: bool,
    ) -> impl Future<Output = Result<(Reply, Option<Pending>), Failure>> + Send;

    fn address(&self) -> &Address;

    /// What this connection has seen of buckets.
    fn seen(&self) -> &Mutex<Seen>;
}

/// What callers and the I/O task share.
struct Wire {
    address: Address,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Commands that are not yet written.
    out: Vec<u8>,
    awaited: VecDeque<Awaited>,
    /// How many of the awaited replies are to commands that were handed to the socket.
    written: usize,
    /// The number of the last command.
    number: u64,
    /// When it was appended.
    last: Option<Instant>,
    /// The I/O task, if it sleeps.
    task: Option<Waker>,
    closed: Option<BackendError>,
}

/// A reply that is to come.
struct Awaited {
    kind: Kind,
    number: u64,
    since: Instant,
    sender: reply::Sender<Result<Reply, Failure>>,
}

/// Why a command has no reply.
#[derive(Clone, Debug)]
pub(super) enum Failure {
    /// It was not sent, because the connection was closed before.
    Unsent,
    /// It may have been carried out.
    Lost(BackendError),
}

/// A reply to be waited for.
pub(super) type Pending = reply::Receiver<Result<Reply, Failure>>;

impl Link {
    /// Connects and makes sure that the server knows meta commands.
    pub(super) async fn open(address: &Address) -> Result<Link, BackendError> {
        let socket = address.connect().await.map_err(|error| address.unreachable(error))?;
        let wire = Arc::new(Wire { address: address.clone(), state: Mutex::default() });
        tokio::spawn(Io::new(socket, Arc::clone(&wire)).run());
        let link = Link { wire, seen: Mutex::default() };
        let (alive, _) = link.send(|state| (state.noop(), None));
        match received(alive, address).await {
            Ok(Reply::Alive) => Ok(link),
            Ok(_) => Err(address.refused("its first reply is no reply to a no-op")),
            Err(Failure::Lost(error)) if error.kind() != BackendErrorKind::Unreachable => Err(error),
            // As some proxies do, and servers that want TLS or the binary protocol.
            Err(_) => Err(address.unreachable("it closed the connection at the first meta command (`mn`)")),
        }
    }

    /// Whether new commands can be sent: it is open, and no reply is awaited for longer than
    /// `patience`. If one is, the connection is closed.
    pub(super) fn is_usable(&self, patience: Duration) -> bool {
        let state = self.wire.state.lock();
        if state.closed.is_some() {
            return false;
        }
        let is_silent = state.awaited.front().is_some_and(|oldest| oldest.since.elapsed() > patience);
        drop(state);
        if is_silent {
            self.wire.close(&self.wire.address.late());
        }
        !is_silent
    }

    /// Whether nothing was sent for a while, so that the server may have closed the connection without
    /// the I/O task having run since.
    pub(super) fn is_idle(&self) -> bool {
        let state = self.wire.state.lock();
        state.awaited.is_empty() && state.last.is_none_or(|last| last.elapsed() > IDLE)
    }

    /// Appends commands, and wakes the task that sends them. On a closed connection they are unsent.
    fn send(&self, append: impl FnOnce(&mut State) -> (Pending, Option<Pending>)) -> (Pending, Option<Pending>) {
        let mut state = self.wire.state.lock();
        let appended = append(&mut state);
        if state.closed.is_some() {
            state.out.clear();
            let unsent = mem::take(&mut state.awaited);
            drop(state);
            for awaited in unsent {
                awaited.sender.send(Err(Failure::Unsent));
            }
            return appended;
        }
        let task = state.task.take();
        drop(state);
        if let Some(task) = task {
            task.wake();
        }
        appended
    }
}

impl Commands for Link {
    async fn get(&self, key: &str) -> Result<Reply, Failure> {
        let (value, _) = self.send(|state| (state.get(key), None));
        received(value, &self.wire.address).await
    }

    async fn set(
        &self,
        key: &str,
        bytes: &[u8],
        ttl: u64,
        condition: Condition,
        and_get: bool,
    ) -> Result<(Reply, Option<Pending>), Failure> {
        let (set, value) = self.send(|state| (state.set(key, bytes, ttl, condition), and_get.then(|| state.get(key))));
        Ok((received(set, &self.wire.address).await?, value))
    }

    fn address(&self) -> &Address {
        &self.wire.address
    }

    fn seen(&self) -> &Mutex<Seen> {
        &self.seen
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.wire.close(&self.wire.address.unreachable("the connection is no longer used"));
    }
}

/// Waits for a reply.
pub(super) async fn received(pending: Pending, address: &Address) -> Result<Reply, Failure> {
    pending.await.unwrap_or_else(|| Err(Failure::Lost(address.unreachable("the connection was closed"))))
}

impl State {
    fn noop(&mut self) -> Pending {
        protocol::write_noop(&mut self.out);
        self.awaits(Kind::Noop)
    }

    fn get(&mut self, key: &str) -> Pending {
        protocol::write_get(&mut self.out, key, self.number + 1);
        self.awaits(Kind::Get)
    }

    fn set(&mut self, key: &str, bytes: &[u8], ttl: u64, condition: Condition) -> Pending {
        protocol::write_set(&mut self.out, key, bytes, ttl, condition, self.number + 1);
        self.awaits(Kind::Set)
    }

    fn awaits(&mut self, kind: Kind) -> Pending {
        self.number += 1;
        let (sender, receiver) = reply::channel();
        let now = Instant::now();
        self.last = Some(now);
        self.awaited.push_back(Awaited { kind, number: self.number, since: now, sender });
        receiver
    }
}

impl Wire {
    /// Ends the connection: no more commands are sent, and all waiting calls fail.
    fn close(&self, error: &BackendError) {
        let mut state = self.state.lock();
        if state.closed.is_none() {
            state.closed = Some(error.clone());
        }
        let written = mem::take(&mut state.written);
        state.out = Vec::new();
        let awaited = mem::take(&mut state.awaited);
        let task = state.task.take();
        drop(state);
        for (position, awaited) in awaited.into_iter().enumerate() {
            let failure = if position < written { Failure::Lost(error.clone()) } else { Failure::Unsent };
            awaited.sender.send(Err(failure));
        }
        if let Some(task) = task {
            task.wake();
        }
    }
}

/// The task that writes and reads. If it is dropped, its runtime was shut down.
struct Io {
    socket: Box<dyn Socket>,
    wire: Arc<Wire>,
    incoming: Incoming,
    /// What is being written, from `written` on.
    outgoing: Vec<u8>,
    written: usize,
    buffer: Box<[u8]>,
}

impl Io {
    fn new(socket: Box<dyn Socket>, wire: Arc<Wire>) -> Io {
        let buffer = vec![0; READ].into_boxed_slice();
        Io { socket, wire, incoming: Incoming::default(), outgoing: Vec::new(), written: 0, buffer }
    }

    async fn run(mut self) {
        let error = std::future::poll_fn(|context| self.poll(context)).await;
        self.wire.close(&error);
    }

    /// Ready when the connection has ended.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<BackendError> {
        loop {
            // Reads first: commands appended after the server has closed the connection stay
            // unwritten, and can be sent again.
            if let Some(error) = self.read_all(context) {
                return Poll::Ready(error);
            }
            if self.written == self.outgoing.len() {
                self.outgoing.clear();
                self.written = 0;
                let mut state = self.wire.state.lock();
                if let Some(error) = &state.closed {
                    return Poll::Ready(error.clone());
                }
                if state.out.is_empty() {
                    state.task = Some(context.waker().clone());
                    return Poll::Pending;
                }
                mem::swap(&mut state.out, &mut self.outgoing);
                state.written = state.awaited.len();
            }
            match Pin::new(&mut self.socket).poll_write(context, &self.outgoing[self.written..]) {
                Poll::Ready(Ok(0)) => return Poll::Ready(self.unreachable("it closed the connection")),
                Poll::Ready(Ok(written)) => self.written += written,
                Poll::Ready(Err(error)) => return Poll::Ready(self.unreachable(error)),
                Poll::Pending => {
                    let mut state = self.wire.state.lock();
                    if let Some(error) = &state.closed {
                        return Poll::Ready(error.clone());
                    }
                    state.task = Some(context.waker().clone());
                    return Poll::Pending;
                }
            }
        }
    }

    /// Reads what has come and hands out replies. Returns why the connection has ended.
    fn read_all(&mut self, context: &mut Context<'_>) -> Option<BackendError> {
        loop {
            let mut buffer = ReadBuf::new(&mut self.buffer);
            match Pin::new(&mut self.socket).poll_read(context, &mut buffer) {
                Poll::Pending => return None,
                Poll::Ready(Err(error)) => return Some(self.unreachable(error)),
                Poll::Ready(Ok(())) if buffer.filled().is_empty() => {
                    return Some(self.unreachable("it closed the connection"));
                }
                Poll::Ready(Ok(())) => {
                    self.incoming.extend(buffer.filled());
                    if let Err(error) = self.hand_out() {
                        return Some(unusable(&self.wire.address, error));
                    }
                }
            }
        }
    }

    fn hand_out(&mut self) -> Result<(), Unusable> {
        while !self.incoming.is_empty() {
            let mut state = self.wire.state.lock();
            // Only what was written has a reply.
            let oldest = state.awaited.front().filter(|_| state.written > 0).ok_or(Unusable::Malformed)?;
            let Some(reply) = self.incoming.next(oldest.kind, oldest.number)? else { return Ok(()) };
            state.written -= 1;
            let awaited = state.awaited.pop_front();
            drop(state);
            if let Some(awaited) = awaited {
                awaited.sender.send(Ok(reply));
            }
        }
        Ok(())
    }

    fn unreachable(&self, why: impl std::fmt::Display) -> BackendError {
        self.wire.address.unreachable(why)
    }
}

/// The error of a connection that an answer has made unusable.
pub(super) fn unusable(address: &Address, unusable: Unusable) -> BackendError {
    match unusable {
        Unusable::Malformed => address.refused("its reply is not one of Memcached's"),
        Unusable::Refused(error) if error.contains("unauthenticated") => BackendError::new(
            BackendErrorKind::Configuration,
            format!("Memcached at {address} asks for a login, which is not supported"),
        ),
        Unusable::Refused(error) if error == "ERROR" => BackendError::new(
            BackendErrorKind::Configuration,
            format!("Memcached at {address} knows no meta commands: version 1.6 or later is needed"),
        ),
        Unusable::Refused(error) => address.refused(error),
    }
}

impl Drop for Io {
    fn drop(&mut self) {
        self.wire.close(&self.wire.address.unreachable("the runtime that sends commands was shut down"));
    }
}
