//! Connections of blocking calls, used on the callers' own threads: no hop to another thread, no
//! runtime.
//!
//! Flat combining (Hendler et al., 2010): a call that finds a free lane sends its command and reads
//! the answer there. If all lanes are taken, it queues at one. The next holder of that lane sends
//! the whole queue in one write, and hands out the answers in the order of the commands. Few
//! threads are as fast as with a connection each, and many share the cost of the system calls.
//!
//! A free lane goes to the first thread that takes it. Of the queue, the call with the latest
//! deadline is woken. A running thread may be faster than a woken one.
//!
//! The deadline of a batch is the latest of its calls, so no call fails because another had less
//! time left. A call takes along only calls that end with it, because it stays for their answers.
//!
//! A connection is closed on any error, late answer or invalid reply. An answer therefore never
//! goes to another call. The timeouts of redis-rs are for each read and write: a server that
//! trickles a reply one byte at a time can hold the reader past its deadline. Real servers do not.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::Thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use redis::{Cmd, Connection, RedisResult, Value};

use crate::backend::redis::script::codec::{is_valid_reply, no_decision};
use crate::backend::redis::setup::endpoint::Endpoint;
use crate::backend::redis::wire::opener::Opener;
use crate::error::BackendError;

/// The most connections to one server, opened on demand.
const LANES: usize = 4;
/// The most commands in one write.
const BATCH: usize = 128;
/// A call takes along calls whose deadlines are at most this much later than its own. The timeouts
/// of a connection are set again only if they end too early, or more than this after a deadline.
const SLACK: Duration = Duration::from_millis(4);

#[derive(Default)]
pub(crate) struct Lanes {
    lanes: [Mutex<Lane>; LANES],
    next: AtomicUsize,
}

#[derive(Default)]
struct Lane {
    taken: bool,
    line: Option<Line>,
    queue: Vec<Arc<Waiter>>,
}

/// The reply to a call.
type Replied = Result<Value, BackendError>;

impl Lanes {
    /// Sends commands and waits for the reply to the last on this thread. Only opening a connection
    /// takes more than one poll.
    pub(crate) async fn call(&self, opener: &Opener, commands: &[Cmd], deadline: Instant) -> Replied {
        let message = Message::new(commands);
        let mut combiner = match self.free() {
            Some(combiner) => combiner,
            None => match self.queue(&message, deadline) {
                Ok(combiner) => combiner,
                Err(settled) => return settled.unwrap_or_else(|| Err(opener.endpoint.late())),
            },
        };
        let mut line = match combiner.line.take() {
            Some(line) => line,
            None => Line::new(Box::pin(opener.open()).await?),
        };
        let (own, kept) = line.exchange(&opener.endpoint, &message, combiner.batch(deadline), deadline);
        combiner.line = kept.then_some(line);
        own
    }

    /// Closes the idle connections.
    pub(crate) fn clear(&self) {
        for lane in &self.lanes {
            lane.lock().line = None;
        }
    }

    /// Takes a free lane.
    fn free(&self) -> Option<Combiner<'_>> {
        self.lanes.iter().find_map(|lane| {
            let mut state = lane.try_lock()?;
            (!state.taken).then(|| {
                state.taken = true;
                Combiner { lane, line: state.line.take() }
            })
        })
    }

    /// Queues at a lane and waits, for the answer (none if it is late) or to become the combiner.
    fn queue(&self, message: &Message, deadline: Instant) -> Result<Combiner<'_>, Option<Replied>> {
        let lane = &self.lanes[self.next.fetch_add(1, Ordering::Relaxed) % LANES];
        let (message, thread) = (message.clone(), std::thread::current());
        let waiter = Arc::new(Waiter { message, deadline, thread, answer: Mutex::default() });
        {
            let mut state = lane.lock();
            if !state.taken {
                state.taken = true;
                return Ok(Combiner { lane, line: state.line.take() });
            }
            state.queue.push(Arc::clone(&waiter));
        }
        loop {
            if let Some(answer) = waiter.answer() {
                return Err(Some(answer));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let mut state = lane.lock();
            if !state.taken || left.is_zero() {
                let length = state.queue.len();
                state.queue.retain(|queued| !Arc::ptr_eq(queued, &waiter));
                let was_sent = length == state.queue.len();
                // A combiner hands out all answers before it releases the lane.
                if was_sent || left.is_zero() {
                    return Err(waiter.answer());
                }
                state.taken = true;
                return Ok(Combiner { lane, line: state.line.take() });
            }
            drop(state);
            std::thread::park_timeout(left);
        }
    }
}

/// Packed commands. Only the last reply counts.
#[derive(Clone)]
struct Message {
    bytes: Vec<u8>,
    replies: usize,
}

impl Message {
    fn new(commands: &[Cmd]) -> Message {
        let bytes = match commands {
            [command] => command.get_packed_command(),
            commands => commands.iter().flat_map(Cmd::get_packed_command).collect(),
        };
        Message { bytes, replies: commands.len() }
    }
}

/// An open connection.
struct Line {
    connection: Connection,
    /// The current read and write timeout.
    timeout: Duration,
}

impl Line {
    fn new(connection: Connection) -> Line {
        // No timeout is set yet.
        Line { connection, timeout: Duration::MAX }
    }

    /// Sends a message and the queue behind it, and hands out the answers. Returns whether the
    /// connection can still be used.
    fn exchange(
        &mut self,
        endpoint: &Endpoint,
        message: &Message,
        batch: Vec<Arc<Waiter>>,
        deadline: Instant,
    ) -> (Replied, bool) {
        let last = batch.iter().map(|waiter| waiter.deadline).max().unwrap_or(deadline);
        let until = deadline.max(last);
        let sent = if batch.is_empty() {
            self.send(&message.bytes, until)
        } else {
            let parts = std::iter::once(message).chain(batch.iter().map(|waiter| &waiter.message));
            let parts: Vec<&[u8]> = parts.map(|message| message.bytes.as_slice()).collect();
            self.send(&parts.concat(), until)
        };
        let mut failed = sent.err().map(|error| endpoint.failed(&error));
        let mut answer = |message: &Message, until| {
            let mut last = Value::Nil;
            for _ in 0..message.replies {
                if failed.is_none() {
                    match self.reply(until) {
                        Ok(reply) => last = reply,
                        Err(error) => failed = Some(endpoint.failed(&error)),
                    }
                }
            }
            if failed.is_none() && !is_valid_reply(&last) {
                failed = Some(no_decision());
            }
            match &failed {
                Some(error) => Err(error.clone()),
                None => Ok(last),
            }
        };
        let own = answer(message, until);
        for waiter in batch {
            let answer = answer(&waiter.message, last);
            waiter.settle(answer);
        }
        (own, failed.is_none())
    }

    fn send(&mut self, bytes: &[u8], deadline: Instant) -> RedisResult<()> {
        self.limit(deadline)?;
        self.connection.send_packed_command(bytes)
    }

    fn reply(&mut self, deadline: Instant) -> RedisResult<Value> {
        self.limit(deadline)?;
        loop {
            match self.connection.recv_response()? {
                // Unsolicited.
                Value::Push { .. } => {}
                reply => return Ok(reply),
            }
        }
    }

    /// Bounds reads and writes by the deadline.
    fn limit(&mut self, deadline: Instant) -> RedisResult<()> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::Error::from(io::ErrorKind::TimedOut).into());
        }
        if self.timeout < left || self.timeout > left + SLACK {
            self.timeout = left + SLACK / 2;
            self.connection.set_read_timeout(Some(self.timeout))?;
            self.connection.set_write_timeout(Some(self.timeout))?;
        }
        Ok(())
    }
}

/// The right to use a lane's connection.
struct Combiner<'a> {
    lane: &'a Mutex<Lane>,
    line: Option<Line>,
}

impl Combiner<'_> {
    /// Takes the queued calls that end with a call until `deadline`, up to a batch.
    fn batch(&self, deadline: Instant) -> Vec<Arc<Waiter>> {
        let mut state = self.lane.lock();
        state.queue.extract_if(.., |waiter| waiter.deadline <= deadline + SLACK).take(BATCH).collect()
    }
}

impl Drop for Combiner<'_> {
    fn drop(&mut self) {
        let mut state = self.lane.lock();
        state.taken = false;
        state.line = self.line.take();
        let last = state.queue.iter().max_by_key(|waiter| waiter.deadline).map(Arc::clone);
        drop(state);
        if let Some(last) = last {
            last.thread.unpark();
        }
    }
}

/// A call queued at a lane.
struct Waiter {
    message: Message,
    deadline: Instant,
    thread: Thread,
    answer: Mutex<Option<Replied>>,
}

impl Waiter {
    fn answer(&self) -> Option<Replied> {
        self.answer.lock().take()
    }

    fn settle(&self, answer: Replied) {
        *self.answer.lock() = Some(answer);
        self.thread.unpark();
    }
}
