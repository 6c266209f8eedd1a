//! The connections of asynchronous calls: one for each tokio runtime that calls come from, whose own reads and writes need
//! no other thread; and one on this crate's background thread for calls from anywhere else.
//!
//! What redis-rs's multiplexed connection leaves open is closed here. Each call has one deadline, connecting included, by
//! a timer of this crate's: it goes off also where the runtime has no timers, or stands still. At most one attempt to connect
//! is under way in a runtime, and a call whose deadline passes leaves it running for the next. A connection that is lost is
//! gone at once; one that did not answer anything in all of a call's time, or something that is no answer, is replaced by the
//! next call.

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

use super::codec::{is_of_the_script, no_decision};
use super::endpoint::{Endpoint, no_thread, unreachable};
use crate::background;
use crate::error::BackendError;
use crate::timer;

/// Commands that wait to be written.
const QUEUE: usize = 1_024;
/// After so long without a call the runtime looks first whether the server has closed the connection.
const IDLE: Duration = Duration::from_millis(10);

pub(super) struct Links {
    endpoint: Endpoint,
    patience: Duration,
    places: Arc<Places>,
}

struct Places {
    /// By runtime. Few: programs have one or two.
    by_runtime: Mutex<Vec<(Id, Place)>>,
    /// Closes the blocking calls' connections to the same server.
    close_lanes: Box<dyn Fn() + Send + Sync>,
}

#[derive(Clone)]
enum Place {
    Opening(Attempt),
    Open(Link),
    /// A runtime without input and output.
    Unfit,
}

/// The outcome once it is known; no link in a runtime that is unfit for one.
type Attempt = watch::Receiver<Option<Result<Option<Link>, BackendError>>>;

/// When the last one goes, the connection ends.
#[derive(Clone)]
struct Link {
    connection: MultiplexedConnection,
    /// Also what tells one link from another.
    usage: Arc<Usage>,
}

struct Usage {
    /// Which drives the connection.
    runtime: Handle,
    /// Replies so far.
    heard: AtomicU64,
    last: Mutex<Last>,
    looked: Notify,
    /// The connection is gone.
    ended: AtomicBool,
    /// Something came over it that is no answer.
    babbles: AtomicBool,
}

struct Last {
    /// The deadline of the last call: how the time between two calls is told.
    deadline: Instant,
    /// After that time: it is being looked whether the server has closed the connection, and all calls wait for that.
    is_looking: bool,
}

impl Usage {
    fn new(runtime: Handle) -> Usage {
        Usage {
            runtime,
            heard: AtomicU64::new(0),
            last: Mutex::new(Last { deadline: Instant::now(), is_looking: false }),
            looked: Notify::new(),
            ended: AtomicBool::new(false),
            babbles: AtomicBool::new(false),
        }
    }

    /// What a call has to wait for, if there has been none for a time. Calls go on in the order in which they came.
    fn look(self: &Arc<Self>, deadline: Instant) -> Option<Notified<'_>> {
        let mut last = self.last.lock();
        let is_idle = deadline > last.deadline + IDLE;
        last.deadline = deadline;
        if !is_idle && !last.is_looking {
            return None;
        }
        let looked = self.looked.notified();
        if !std::mem::replace(&mut last.is_looking, true) {
            let usage = Arc::clone(self);
            // A task, which a caller that is not polled any more does not hold up.
            self.runtime.spawn(async move {
                // A runtime that nobody ran looks at its sockets in the first turn, and the link does in the second.
                tokio::task::yield_now().await;
                tokio::task::yield_now().await;
                usage.looked.notify_waiters();
                // Those go first; who comes between waits as well.
                tokio::task::yield_now().await;
                usage.last.lock().is_looking = false;
                usage.looked.notify_waiters();
            });
        }
        Some(looked)
    }
}

impl Links {
    pub(super) fn new(endpoint: Endpoint, patience: Duration, close_lanes: impl Fn() + Send + Sync + 'static) -> Links {
        let close_lanes = Box::new(close_lanes);
        Links { endpoint, patience, places: Arc::new(Places { by_runtime: Mutex::default(), close_lanes }) }
    }

    pub(super) async fn call(&self, commands: &[Cmd], deadline: Instant) -> Result<Value, BackendError> {
        let background = background::handle().map_err(|error| no_thread(&error))?;
        let runtime = Handle::try_current().unwrap_or_else(|_| background.clone());
        // What few calls wait for is in a box, for which the others need no room.
        let mut link = match self.places.of(runtime.id()) {
            Some(Place::Open(link)) => link,
            _ => Box::pin(self.link(&runtime, &background, deadline)).await?,
        };
        let usage = Arc::clone(&link.usage);
        if let Some(looked) = usage.look(deadline) {
            Box::pin(timer::bounded(looked, deadline)).await.ok_or_else(|| self.endpoint.late())?;
            link = Box::pin(self.link(&runtime, &background, deadline)).await?;
        }
        let heard = link.usage.heard.load(Ordering::Relaxed);
        let mut sending = pin!(send(&mut link.connection, commands));
        match timer::bounded(sending.as_mut(), deadline).await {
            Some(Ok(reply)) => {
                link.usage.heard.fetch_add(1, Ordering::Relaxed);
                if !is_of_the_script(&reply) {
                    link.usage.babbles.store(true, Ordering::Relaxed);
                    self.places.close(&link.usage);
                }
                // Later answers may be to other calls than they seem to be.
                if link.usage.babbles.load(Ordering::Relaxed) { Err(no_decision()) } else { Ok(reply) }
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

    /// Opens the background's link if there is none: when the server closes it, or it cannot be opened, the lanes are closed
    /// too. Their connections tell nobody before they are used.
    pub(super) async fn watch(&self, background: &Handle) {
        let _ = self.open(background.clone(), background).await;
        if !matches!(self.places.of(background.id()), Some(Place::Open(_))) {
            (self.places.close_lanes)();
        }
    }

    /// Closes the links; calls that wait for answers go on waiting.
    pub(super) fn clear(&self) {
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

    /// The link of a runtime, or of the background where the runtime is unfit.
    async fn open(&self, mut runtime: Handle, background: &Handle) -> Result<Link, BackendError> {
        loop {
            let mut attempt = match self.attempt(&runtime, background) {
                Place::Open(link) => return Ok(link),
                Place::Opening(attempt) => attempt,
                Place::Unfit if runtime.id() == background.id() => {
                    return Err(unreachable("the background thread has ended"));
                }
                Place::Unfit => {
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

    /// What there is for a runtime; an attempt to open a link is begun where there is nothing.
    fn attempt(&self, runtime: &Handle, background: &Handle) -> Place {
        let id = runtime.id();
        let mut places = self.places.by_runtime.lock();
        if let Some(position) = places.iter().position(|(other, _)| *other == id) {
            // An attempt whose end nobody will tell is over.
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
        let (places, until, late) = (Arc::clone(&self.places), Instant::now() + self.patience, self.endpoint.late());
        let background = background.clone();
        background.clone().spawn(async move {
            let outcome = match timer::bounded(&mut opening, until).await {
                Some(Ok(Ok(link))) => Ok(Some(link)),
                Some(Ok(Err(error))) => Err(error),
                // Without input and output, tokio's sockets panic.
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

    /// Puts what came of an attempt in its place.
    fn settle(&self, id: Id, outcome: &Result<Option<Link>, BackendError>) {
        let mut places = self.by_runtime.lock();
        let place = match outcome {
            Ok(Some(link)) if !link.usage.ended.load(Ordering::Relaxed) => Some(Place::Open(link.clone())),
            Ok(None) => Some(Place::Unfit),
            Ok(Some(_)) | Err(_) => None,
        };
        places.retain(|(other, _)| *other != id);
        places.extend(place.map(|place| (id, place)));
    }

    /// Gives up a link; calls that wait for its answers go on waiting. The background's takes the lanes along.
    fn close(&self, usage: &Arc<Usage>) {
        let mut places = self.by_runtime.lock();
        let is = |(_, place): &(Id, Place)| matches!(place, Place::Open(link) if Arc::ptr_eq(&link.usage, usage));
        let gone = places.iter().position(is).map(|position| places.swap_remove(position));
        // Dropped without the lock.
        drop(places);
        if let Some((id, _)) = gone
            && background::handle().is_ok_and(|background| background.id() == id)
        {
            (self.close_lanes)();
        }
    }
}

/// Opens a link in the runtime around, which drives it.
///
/// # Panics
/// In a runtime without input and output.
async fn open(endpoint: Endpoint, usage: Arc<Usage>, places: Weak<Places>) -> Result<Link, BackendError> {
    let mut config = AsyncConnectionConfig::new()
        // Both need timers, which the runtime may not have; the calls' own deadlines are for all of it.
        .set_connection_timeout(None)
        .set_response_timeout(None)
        .set_pipeline_buffer_size(QUEUE);
    // Only version 3 of the protocol has pushes.
    if !endpoint.is_resp2() {
        let end = End { places, usage: Arc::clone(&usage) };
        config = config.set_push_sender(move |_: PushInfo| {
            // What counts is when it is dropped.
            let _ = &end;
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

/// What is to be done when a connection ends, is lost, or goes with its runtime: it is all that redis-rs drops then.
struct End {
    places: Weak<Places>,
    usage: Arc<Usage>,
}

impl Drop for End {
    fn drop(&mut self) {
        // Before the lock is taken: whoever puts the link in its place looks at this with it.
        self.usage.ended.store(true, Ordering::Relaxed);
        if let Some(places) = self.places.upgrade() {
            places.close(&self.usage);
        }
    }
}
