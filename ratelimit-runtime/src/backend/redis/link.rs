//! One connection that many futures share, driven by a task of a tokio runtime.
//!
//! A call appends its commands to what is to be sent and waits for its turn among the answers. Where nothing else is in
//! flight it writes them itself, without waking the driver; else the driver does, for all that came together in one write.
//! Deadlines are watched from the background thread, one timer for all calls of a link: it goes off also where the
//! runtime has no timers, or stands still.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::async_stream::AsyncStream;
use super::node::{Failure, Message};
use super::opener::{Opener, unreachable};
use super::reply;
use super::resp::{Incoming, Reply};
use super::stream::Line;
use crate::background;

/// After so long without a call the driver looks first whether the server has closed the connection.
const IDLE: Duration = Duration::from_millis(10);

/// What is done when a link ends, on whatever way.
pub(super) type Ended = Box<dyn FnOnce(&Shared) + Send>;

/// A handle: when the last one goes, the driver ends.
#[derive(Clone)]
pub(super) struct Link {
    hold: Arc<Hold>,
}

struct Hold {
    shared: Arc<Shared>,
}

pub(super) struct Shared {
    opener: Arc<Opener>,
    queue: Mutex<Queue>,
    wire: Mutex<Wire>,
}

struct Queue {
    /// Commands that are not being written yet.
    outgoing: Vec<u8>,
    /// So many calls, the last of those that wait, are in there.
    unsent: usize,
    /// In the order of their commands.
    waiting: VecDeque<Waiting>,
    /// Wakes the driver. Taken by who does.
    driver: Option<Waker>,
    /// Takes no more calls.
    closed: bool,
    /// The deadline of the last call: how the time between two calls is told.
    last: Instant,
    /// The driver is to look at the connection before it writes.
    idle: bool,
    /// Whether somebody watches the deadlines.
    watched: bool,
    /// Replies so far.
    heard: u64,
}

struct Waiting {
    replies: u32,
    /// Nobody, where it was too late.
    sender: Option<reply::Sender<Result<Reply, Failure>>>,
    deadline: Instant,
    /// What had been heard when it came.
    heard: u64,
}

impl Link {
    pub(super) fn is_open(&self) -> bool {
        !self.hold.shared.queue.lock().closed
    }

    pub(super) fn is(&self, shared: &Shared) -> bool {
        std::ptr::eq(&raw const *self.hold.shared, shared)
    }

    /// Sends a message; the reply comes, or the deadline. Once it is polled it is sent, also where it is dropped then.
    pub(super) async fn call(&self, message: &Message, deadline: Instant) -> Result<Reply, Failure> {
        let answer = self.hold.shared.send(message, deadline)?;
        answer.await.unwrap_or_else(|| Err(Failure::new(unreachable("the connection to Redis ended"))))
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.shared.close();
    }
}

impl Shared {
    fn send(
        self: &Arc<Self>,
        message: &Message,
        deadline: Instant,
    ) -> Result<reply::Receiver<Result<Reply, Failure>>, Failure> {
        let (sender, answer) = reply::channel();
        let mut queue = self.queue.lock();
        if queue.closed {
            return Err(Failure { error: unreachable("the connection to Redis is closed"), untried: true });
        }
        let alone = queue.waiting.is_empty();
        queue.idle |= alone && deadline > queue.last + IDLE;
        queue.last = queue.last.max(deadline);
        queue.outgoing.extend_from_slice(&message.bytes);
        queue.unsent += 1;
        let heard = queue.heard;
        queue.waiting.push_back(Waiting { replies: message.replies, sender: Some(sender), deadline, heard });
        let unwatched = !std::mem::replace(&mut queue.watched, true);
        let by_itself = alone && !queue.idle;
        drop(queue);
        if unwatched && let Ok(background) = background::handle() {
            background.spawn(watch(Arc::downgrade(self)));
        }
        let written = by_itself
            && self.wire.try_lock().is_some_and(|mut wire| wire.flush(None, &self.queue).is_ok_and(|all| all));
        if !written {
            self.wake();
        }
        Ok(answer)
    }

    fn wake(&self) {
        let driver = self.queue.lock().driver.take();
        if let Some(driver) = driver {
            driver.wake();
        }
    }

    /// Takes no more calls; the driver ends when nobody waits for an answer.
    fn close(&self) {
        self.queue.lock().closed = true;
        self.wake();
    }

    /// What the driver does when it is woken.
    fn turn(&self, context: &mut Context<'_>) -> Poll<Turn> {
        {
            let mut queue = self.queue.lock();
            match &mut queue.driver {
                Some(driver) => driver.clone_from(context.waker()),
                driver @ None => *driver = Some(context.waker().clone()),
            }
            if std::mem::take(&mut queue.idle) {
                return Poll::Ready(Turn::Look);
            }
            if queue.closed && queue.waiting.iter().all(|waiting| waiting.sender.is_none()) {
                return Poll::Ready(Turn::End(None));
            }
        }
        let mut wire = self.wire.lock();
        // Read before write: nothing is written to a connection that is known to be over.
        loop {
            match wire.read(context) {
                Ok(true) => match self.deliver(&mut wire) {
                    Ok(()) => {}
                    Err(error) => return Poll::Ready(Turn::End(Some(error))),
                },
                Ok(false) => break,
                Err(error) => return Poll::Ready(Turn::End(Some(error))),
            }
        }
        match wire.flush(Some(context), &self.queue) {
            Ok(_) => Poll::Pending,
            Err(error) => Poll::Ready(Turn::End(Some(error))),
        }
    }

    /// Hands out the replies that have come.
    fn deliver(&self, wire: &mut Wire) -> io::Result<()> {
        while let Some(reply) = wire.incoming.next()? {
            let sender = {
                let mut queue = self.queue.lock();
                queue.heard += 1;
                let Some(first) = queue.waiting.front_mut() else {
                    return Err(io::Error::new(io::ErrorKind::InvalidData, "it answers what nobody asked"));
                };
                first.replies -= 1;
                if first.replies > 0 {
                    continue;
                }
                queue.waiting.pop_front().and_then(|waiting| waiting.sender)
            };
            if let Some(sender) = sender {
                sender.send(Ok(reply));
            }
        }
        Ok(())
    }

    /// Fails all calls that wait.
    fn end(&self, error: Option<&io::Error>) {
        let (waiting, unsent) = {
            let mut queue = self.queue.lock();
            queue.closed = true;
            (std::mem::take(&mut queue.waiting), queue.unsent)
        };
        let error = match error {
            Some(error) => self.opener.endpoint.failed(error),
            None => unreachable("the connection to Redis ended"),
        };
        let sent = waiting.len() - unsent.min(waiting.len());
        for (position, waiting) in waiting.into_iter().enumerate() {
            if let Some(sender) = waiting.sender {
                sender.send(Err(Failure { error: error.clone(), untried: position >= sent }));
            }
        }
    }

    /// Fails the calls that are late at `now`. When the next one will be, if any waits.
    fn expire(&self, now: Instant) -> Option<Instant> {
        let mut late = Vec::new();
        let mut silent = false;
        let next = {
            let mut queue = self.queue.lock();
            let heard = queue.heard;
            let mut next = None;
            for waiting in &mut queue.waiting {
                if waiting.deadline > now {
                    next = Some(waiting.deadline);
                    break;
                }
                // Not one reply in all its time.
                silent |= waiting.heard == heard;
                late.extend(waiting.sender.take());
            }
            queue.watched = next.is_some();
            next
        };
        for sender in late {
            sender.send(Err(Failure::late(&self.opener)));
        }
        if silent {
            self.close();
        }
        next
    }
}

/// Watches the deadlines of a link's calls, as long as there are some.
async fn watch(link: Weak<Shared>) {
    loop {
        let Some(next) = link.upgrade().and_then(|link| link.expire(Instant::now())) else { return };
        tokio::time::sleep_until(next.into()).await;
    }
}

enum Turn {
    /// Let the runtime look for what has come in.
    Look,
    End(Option<io::Error>),
}

/// Makes a link of a connection, says so, and drives it until it ends.
///
/// # Panics
/// In a runtime without input and output, before it says anything.
pub(super) async fn drive(line: Line, opener: Arc<Opener>, started: oneshot::Sender<Link>, ended: Ended) {
    let Ok(wire) = Wire::new(line) else { return };
    let queue = Queue {
        outgoing: Vec::new(),
        unsent: 0,
        waiting: VecDeque::new(),
        driver: None,
        closed: false,
        last: Instant::now(),
        idle: false,
        watched: false,
        heard: 0,
    };
    let shared = Arc::new(Shared { opener, queue: Mutex::new(queue), wire: Mutex::new(wire) });
    let mut end = End { shared: Arc::clone(&shared), error: None, ended: Some(ended) };
    // Nobody takes it where the backend is gone: then it ends at once.
    let _ = started.send(Link { hold: Arc::new(Hold { shared: Arc::clone(&shared) }) });
    loop {
        match std::future::poll_fn(|context| shared.turn(context)).await {
            Turn::Look => tokio::task::yield_now().await,
            Turn::End(error) => {
                end.error = error;
                return;
            }
        }
    }
}

/// What is to be done when the driver ends, or is dropped with its runtime.
struct End {
    shared: Arc<Shared>,
    error: Option<io::Error>,
    ended: Option<Ended>,
}

impl Drop for End {
    fn drop(&mut self) {
        self.shared.end(self.error.as_ref());
        if let Some(ended) = self.ended.take() {
            ended(&self.shared);
        }
    }
}

/// The connection itself.
struct Wire {
    stream: AsyncStream,
    incoming: Incoming,
    /// Commands that are being written.
    outgoing: Vec<u8>,
    written: usize,
}

impl Wire {
    fn new(line: Line) -> io::Result<Wire> {
        let stream = AsyncStream::new(line.stream)?;
        Ok(Wire { stream, incoming: line.incoming, outgoing: Vec::new(), written: 0 })
    }

    /// Whether something has come in; if not, the driver is woken when it does.
    fn read(&mut self, context: &mut Context<'_>) -> io::Result<bool> {
        match self.stream.read(context, self.incoming.room()) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => {
                self.incoming.fill(count);
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Writes what is to be sent, as far as that goes at once: whether all of it did. The driver says where it can be woken
    /// to go on.
    fn flush(&mut self, mut context: Option<&mut Context<'_>>, queue: &Mutex<Queue>) -> io::Result<bool> {
        loop {
            if self.written == self.outgoing.len() {
                self.outgoing.clear();
                self.written = 0;
                let mut queue = queue.lock();
                if queue.outgoing.is_empty() {
                    drop(queue);
                    return self.stream.flush(context);
                }
                std::mem::swap(&mut self.outgoing, &mut queue.outgoing);
                queue.unsent = 0;
            }
            match self.stream.write(context.as_deref_mut(), &self.outgoing[self.written..]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => self.written += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
    }
}
