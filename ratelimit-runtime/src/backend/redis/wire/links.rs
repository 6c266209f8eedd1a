//! Connections of asynchronous calls. Each tokio runtime from which calls come has one, driven by
//! that runtime, so that no other thread takes part. Calls from anywhere else use one on this
//! crate's background thread.
//!
//! This adds what the multiplexed connection of redis-rs lacks. Each call has one deadline,
//! connecting included, by this crate's timer, which goes off even if the runtime has no timers or
//! stands still. A runtime makes one attempt to connect at a time, and a call that gives up leaves
//! it running for the next. A lost connection is dropped at once. The next call replaces a
//! connection that was silent for all of a call's time, or that sent an invalid reply.

use std::cell::Cell;
use std::future::{Future as _, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use redis::aio::{MultiplexedConnection, SendError};
use redis::{AsyncConnectionConfig, Cmd, Pipeline, PushInfo, RedisResult, Value};
use tokio::runtime::{Handle, Id};
use tokio::sync::futures::Notified;
use tokio::sync::{Notify, watch};

use crate::backend::redis::script::codec::{is_valid_reply, no_decision};
use crate::backend::redis::setup::endpoint::{Endpoint, no_thread, unreachable};
use crate::error::BackendError;
use crate::rt::background;
use crate::rt::timer;

/// Commands that may wait to be written.
const QUEUE: usize = 1_024;
/// After this long without a call, the runtime first checks whether the server has closed the
/// connection.
const IDLE: Duration = Duration::from_millis(10);

thread_local! {
    /// Whether the call that is polled has put its commands into a connection's queue.
    static IS_SENT: Cell<bool> = const { Cell::new(false) };
}

/// Polls a call, and tells whether its commands were put into the queue of an asynchronous
/// connection, which writes them before those of later calls.
pub(crate) fn sends<T>(poll: impl FnOnce() -> T) -> (T, bool) {
    IS_SENT.set(false);
    let polled = poll();
    (polled, IS_SENT.get())
}

pub(crate) struct Links {
    endpoint: Endpoint,
    connect_timeout: Duration,
    places: Arc<Places>,
}

struct Places {
    /// By runtime. A short list, because programs have one or two.
    by_runtime: Mutex<Vec<(Id, Place)>>,
    /// Closes the blocking calls' connections to the same server.
    close_lanes: Box<dyn Fn() + Send + Sync>,
}

#[derive(Clone)]
enum Place {
    Opening(Attempt),
    Open(Link),
    /// A runtime without I/O.
    NoIo,
}

/// The outcome, once it is known. No link if the runtime has no I/O.
type Attempt = watch::Receiver<Option<Result<Option<Link>, BackendError>>>;

/// The connection ends when the last clone is dropped.
#[derive(Clone)]
struct Link {
    connection: MultiplexedConnection,
    /// Also the identity of the link.
    usage: Arc<Usage>,
}

struct Usage {
    /// The runtime that drives the connection.
    runtime: Handle,
    /// Replies so far.
    heard: AtomicU64,
    last: Mutex<Last>,
    checked: Notify,
    /// The connection is gone.
    ended: AtomicBool,
    /// An invalid reply came, so that later replies may belong to other calls.
    desynced: AtomicBool,
}

struct Last {
    /// The deadline of the last call. Deadlines measure the time between calls.
    deadline: Instant,
    /// A check for a closed connection is running after an idle time. All calls wait for it.
    is_checking: bool,
}

impl Usage {
    fn new(runtime: Handle) -> Usage {
        Usage {
            runtime,
            heard: AtomicU64::new(0),
            last: Mutex::new(Last { deadline: Instant::now(), is_checking: false }),
            checked: Notify::new(),
            ended: AtomicBool::new(false),
            desynced: AtomicBool::new(false),
        }
    }

    /// Returns what a call must wait for if the link was idle. Calls continue in the order in which
    /// they came.
    fn check_if_idle(self: &Arc<Self>, deadline: Instant) -> Option<Notified<'_>> {
        let mut last = self.last.lock();
        let is_idle = deadline > last.deadline + IDLE;
        last.deadline = deadline;
        if !is_idle && !last.is_checking {
            return None;
        }
        let checked = self.checked.notified();
        if !std::mem::replace(&mut last.is_checking, true) {
            let usage = Arc::clone(self);
            // A task, so that a caller that is no longer polled cannot delay it.
            self.runtime.spawn(async move {
                // A runtime that was idle polls its sockets in the first turn, and the link in the
                // second.
                tokio::task::yield_now().await;
                tokio::task::yield_now().await;
                usage.checked.notify_waiters();
                // The waiting calls go first. Those that come in between wait as well.
                tokio::task::yield_now().await;
                usage.last.lock().is_checking = false;
                usage.checked.notify_waiters();
            });
        }
        Some(checked)
    }
}

impl Links {
    pub(crate) fn new(
        endpoint: Endpoint,
        connect_timeout: Duration,
        close_lanes: impl Fn() + Send + Sync + 'static,
    ) -> Links {
        let close_lanes = Box::new(close_lanes);
        Links { endpoint, connect_timeout, places: Arc::new(Places { by_runtime: Mutex::default(), close_lanes }) }
    }

    pub(crate) async fn call(&self, commands: &[Cmd], deadline: Instant) -> Result<Value, BackendError> {
        let background = background::handle().map_err(|error| no_thread(&error))?;
        let runtime = Handle::try_current().unwrap_or_else(|_| background.clone());
        // The rare waits are boxed, so that other calls need no room for them.
        let mut link = match self.places.of(runtime.id()) {
            Some(Place::Open(link)) => link,
            _ => Box::pin(self.link(&runtime, &background, deadline)).await?,
        };
        let usage = Arc::clone(&link.usage);
        if let Some(checked) = usage.check_if_idle(deadline) {
            Box::pin(timer::bounded(checked, deadline)).await.ok_or_else(|| self.endpoint.late())?;
            link = Box::pin(self.link(&runtime, &background, deadline)).await?;
        }
        let heard = link.usage.heard.load(Ordering::Relaxed);
        // Its first poll puts the commands into the connection's queue. With its task's cooperative
        // budget spent, it would not.
        let mut sending = pin!(tokio::task::coop::unconstrained(send(&mut link.connection, commands)));
        let sending = poll_fn(|context| {
            let polled = sending.as_mut().poll(context);
            IS_SENT.set(true);
            polled
        });
        match timer::bounded(sending, deadline).await {
            Some(Ok(reply)) => {
                link.usage.heard.fetch_add(1, Ordering::Relaxed);
                if !is_valid_reply(&reply) {
                    link.usage.desynced.store(true, Ordering::Relaxed);
                    self.places.close(&link.usage);
                }
                // Later replies may belong to other calls.
                if link.usage.desynced.load(Ordering::Relaxed) { Err(no_decision()) } else { Ok(reply) }
            }
            Some(Err(error)) => {
                self.places.close(&link.usage);
                Err(self.endpoint.failed(&error))
            }
            None => {
                if link.usage.heard.load(Ordering::Relaxed) == heard {
                    self.places.close(&link.usage);
                }
                Err(self.endpoint.late())
            }
        }
    }

    /// Opens the background's link if there is none. When the server closes that link, or it cannot
    /// be opened, the lanes are closed too: a lane does not notice before it is used.
    pub(crate) async fn watch(&self, background: &Handle) {
        let _ = self.open(background.clone(), background).await;
        if !matches!(self.places.of(background.id()), Some(Place::Open(_))) {
            (self.places.close_lanes)();
        }
    }

    /// Closes the links. Calls in flight keep waiting for their answers.
    pub(crate) fn clear(&self) {
        let open = |(_, place): &mut (Id, Place)| matches!(place, Place::Open(_));
        let gone: Vec<_> = self.places.by_runtime.lock().extract_if(.., open).collect();
        drop(gone);
    }

    async fn link(&self, runtime: &Handle, background: &Handle, deadline: Instant) -> Result<Link, BackendError> {
        if let Some(Place::Open(link)) = self.places.of(runtime.id()) {
            return Ok(link);
        }
        let opened = timer::bounded(self.open(runtime.clone(), background), deadline).await;
        opened.unwrap_or_else(|| Err(self.endpoint.late()))
    }

    /// The link of a runtime, or the background's if the runtime has no I/O.
    async fn open(&self, mut runtime: Handle, background: &Handle) -> Result<Link, BackendError> {
        loop {
            let mut attempt = match self.attempt(&runtime, background) {
                Place::Open(link) => return Ok(link),
                Place::Opening(attempt) => attempt,
                Place::NoIo if runtime.id() == background.id() => {
                    return Err(unreachable("the background thread has ended"));
                }
                Place::NoIo => {
                    runtime = background.clone();
                    continue;
                }
            };
            let outcome = attempt.wait_for(Option::is_some).await.ok().and_then(|outcome| outcome.clone());
            if let Some(link) = outcome.unwrap_or_else(|| Err(unreachable("the attempt to reach Redis ended")))? {
                return Ok(link);
            }
        }
    }

    /// The place of a runtime. If it is empty, starts an attempt to open a link.
    fn attempt(&self, runtime: &Handle, background: &Handle) -> Place {
        let id = runtime.id();
        let mut places = self.places.by_runtime.lock();
        if let Some(position) = places.iter().position(|(other, _)| *other == id) {
            // An attempt whose sender is gone is over.
            if !matches!(&places[position].1, Place::Opening(attempt) if attempt.has_changed().is_err()) {
                return places[position].1.clone();
            }
            places.swap_remove(position);
        }
        let (sender, attempt) = watch::channel(None);
        places.push((id, Place::Opening(attempt.clone())));
        drop(places);
        let usage = Arc::new(Usage::new(runtime.clone()));
        let mut opening = runtime.spawn(open(self.endpoint.clone(), usage, Arc::downgrade(&self.places)));
        let (places, until, late) =
            (Arc::clone(&self.places), Instant::now() + self.connect_timeout, self.endpoint.late());
        let background = background.clone();
        background.clone().spawn(async move {
            let outcome = match timer::bounded(&mut opening, until).await {
                Some(Ok(Ok(link))) => Ok(Some(link)),
                Some(Ok(Err(error))) => Err(error),
                // Without I/O, tokio's sockets panic.
                Some(Err(error)) if error.is_panic() => Ok(None),
                Some(Err(_)) => Err(unreachable("the runtime ended")),
                None => {
                    opening.abort();
                    Err(late)
                }
            };
            places.settle(id, &outcome);
            sender.send_replace(Some(outcome));
        });
        Place::Opening(attempt)
    }
}

impl Places {
    fn of(&self, id: Id) -> Option<Place> {
        self.by_runtime.lock().iter().find(|(other, _)| *other == id).map(|(_, place)| place.clone())
    }

    /// Stores the outcome of an attempt.
    fn settle(&self, id: Id, outcome: &Result<Option<Link>, BackendError>) {
        let mut places = self.by_runtime.lock();
        let place = match outcome {
            Ok(Some(link)) if !link.usage.ended.load(Ordering::Relaxed) => Some(Place::Open(link.clone())),
            Ok(None) => Some(Place::NoIo),
            Ok(Some(_)) | Err(_) => None,
        };
        places.retain(|(other, _)| *other != id);
        places.extend(place.map(|place| (id, place)));
    }

    /// Drops a link. Calls in flight keep waiting for their answers. The background's link takes
    /// the lanes along.
    fn close(&self, usage: &Arc<Usage>) {
        let mut places = self.by_runtime.lock();
        let is = |(_, place): &(Id, Place)| matches!(place, Place::Open(link) if Arc::ptr_eq(&link.usage, usage));
        let gone = places.iter().position(is).map(|position| places.swap_remove(position));
        // Dropped outside the lock.
        drop(places);
        if let Some((id, _)) = gone
            && background::handle().is_ok_and(|background| background.id() == id)
        {
            (self.close_lanes)();
        }
    }
}

/// Opens a link in the current runtime, which drives it.
///
/// # Panics
/// If the runtime has no I/O.
async fn open(endpoint: Endpoint, usage: Arc<Usage>, places: Weak<Places>) -> Result<Link, BackendError> {
    let mut config = AsyncConnectionConfig::new()
        // Both need timers, which the runtime may lack. The calls' own deadlines cover everything.
        .set_connection_timeout(None)
        .set_response_timeout(None)
        .set_pipeline_buffer_size(QUEUE);
    // Only RESP3 has pushes.
    if !endpoint.is_resp2() {
        let on_close = OnClose { places, usage: Arc::clone(&usage) };
        config = config.set_push_sender(move |_: PushInfo| {
            // Only its drop matters.
            let _ = &on_close;
            Ok::<(), SendError>(())
        });
    }
    let client = endpoint.client()?;
    let connection = client.get_multiplexed_async_connection_with_config(&config).await;
    Ok(Link { connection: connection.map_err(|error| endpoint.failed(&error))?, usage })
}

async fn send(connection: &mut MultiplexedConnection, commands: &[Cmd]) -> RedisResult<Value> {
    if let [command] = commands {
        return connection.send_packed_command(command).await;
    }
    let mut pipeline = Pipeline::with_capacity(commands.len());
    for command in commands {
        pipeline.add_command(command.clone());
    }
    let mut replies = connection.send_packed_commands(&pipeline, commands.len() - 1, 1).await?;
    Ok(replies.pop().unwrap_or(Value::Nil))
}

/// Runs when a connection ends, is lost, or goes with its runtime. The only sign of that is that
/// redis-rs drops the push sender.
struct OnClose {
    places: Weak<Places>,
    usage: Arc<Usage>,
}

impl Drop for OnClose {
    fn drop(&mut self) {
        // Set before the lock is taken: `settle` reads this under the lock before it stores the
        // link.
        self.usage.ended.store(true, Ordering::Relaxed);
        if let Some(places) = self.places.upgrade() {
            places.close(&self.usage);
        }
    }
}
