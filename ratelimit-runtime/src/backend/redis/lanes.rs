//! The connections that blocking calls use, on their own threads: no hop to another thread, no runtime.
//!
//! A call that finds a lane free sends its command and reads the answer there. Where all lanes are taken it queues at one:
//! whoever has the lane next sends all that is queued in one write and hands out the answers, in the order of the
//! commands. So few threads go as fast as with a connection each, and many share the cost of the system calls.
//!
//! A lane that becomes free is whoever's comes first, though the first in its queue is woken to look: a thread that runs
//! anyway gets on faster than one that the system must give a processor first, and takes the whole queue along.
//!
//! A connection on which anything fails, comes late or is no answer is closed: none is ever taken for another call's. The
//! time-outs of redis-rs are for each read and write; a server that sends an answer byte by byte, each in time, may hold the
//! thread that reads it for longer than its deadline, which a server that is one does not.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::Thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use redis::{Cmd, Connection, RedisResult, Value};

use super::codec::{is_of_the_script, no_decision};
use super::endpoint::Endpoint;
use super::opener::Opener;
use crate::error::BackendError;

/// Connections to one server, opened only where so many calls come at the same time.
const LANES: usize = 4;
/// Commands that are sent in one write.
const BATCH: usize = 128;
/// The time-outs that a connection has may be this much longer than what is left: they are not set anew then.
const NEAR: Duration = Duration::from_millis(4);

#[derive(Default)]
pub(super) struct Lanes {
    lanes: [Mutex<Lane>; LANES],
    next: AtomicUsize,
}

#[derive(Default)]
struct Lane {
    taken: bool,
    line: Option<Line>,
    queue: VecDeque<Arc<Turn>>,
}

/// What a call gets.
type Replied = Result<Value, BackendError>;

impl Lanes {
    /// Sends commands and waits for the answer to the last on this thread. Only to open a connection takes more than one
    /// poll.
    pub(super) async fn call(&self, opener: &Opener, commands: &[Cmd], deadline: Instant) -> Replied {
        let message = Message::new(commands);
        let mut lead = match self.free() {
            Some(lead) => lead,
            None => match self.queue(&message, deadline) {
                Ok(lead) => lead,
                Err(settled) => return settled.unwrap_or_else(|| Err(opener.endpoint.late())),
            },
        };
        let mut line = match lead.line.take() {
            Some(line) => line,
            None => Line::new(Box::pin(opener.open()).await?),
        };
        let (own, kept) = line.exchange(&opener.endpoint, &message, lead.batch(), deadline);
        lead.line = kept.then_some(line);
        own
    }

    /// Closes the connections that nobody is using.
    pub(super) fn clear(&self) {
        for lane in &self.lanes {
            lane.lock().line = None;
        }
    }

    /// Takes a lane that nobody has.
    fn free(&self) -> Option<Lead<'_>> {
        self.lanes.iter().find_map(|lane| {
            let mut state = lane.try_lock()?;
            (!state.taken).then(|| {
                state.taken = true;
                Lead { lane, line: state.line.take() }
            })
        })
    }

    /// Waits at a lane, for the answer (none if it comes too late) or for the lead.
    fn queue(&self, message: &Message, deadline: Instant) -> Result<Lead<'_>, Option<Replied>> {
        let lane = &self.lanes[self.next.fetch_add(1, Ordering::Relaxed) % LANES];
        let turn =
            Arc::new(Turn { message: message.clone(), thread: std::thread::current(), answer: Mutex::default() });
        {
            let mut state = lane.lock();
            if !state.taken {
                state.taken = true;
                return Ok(Lead { lane, line: state.line.take() });
            }
            state.queue.push_back(Arc::clone(&turn));
        }
        loop {
            if let Some(answer) = turn.answer() {
                return Err(Some(answer));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let mut state = lane.lock();
            if !state.taken || left.is_zero() {
                let length = state.queue.len();
                state.queue.retain(|queued| !Arc::ptr_eq(queued, &turn));
                let was_sent = length == state.queue.len();
                // Who had the lane handed out all answers before it let go of it.
                if was_sent || left.is_zero() {
                    return Err(turn.answer());
                }
                state.taken = true;
                return Ok(Lead { lane, line: state.line.take() });
            }
            drop(state);
            std::thread::park_timeout(left);
        }
    }
}

/// Commands as they are sent. Only the last reply counts.
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
    /// What it has for reads and for writes.
    timeout: Duration,
}

impl Line {
    fn new(connection: Connection) -> Line {
        // It has none yet.
        Line { connection, timeout: Duration::MAX }
    }

    /// Sends a message, and what is queued behind it, and hands out the answers. Whether the connection can be used on.
    fn exchange(
        &mut self,
        endpoint: &Endpoint,
        message: &Message,
        batch: Vec<Arc<Turn>>,
        deadline: Instant,
    ) -> (Replied, bool) {
        let sent = if batch.is_empty() {
            self.send(&message.bytes, deadline)
        } else {
            let parts = std::iter::once(message).chain(batch.iter().map(|turn| &turn.message));
            let parts: Vec<&[u8]> = parts.map(|message| message.bytes.as_slice()).collect();
            self.send(&parts.concat(), deadline)
        };
        let mut failed = sent.err().map(|error| endpoint.failed(&error));
        let mut answer = |message: &Message| {
            let mut last = Value::Nil;
            for _ in 0..message.replies {
                if failed.is_none() {
                    match self.reply(deadline) {
                        Ok(reply) => last = reply,
                        Err(error) => failed = Some(endpoint.failed(&error)),
                    }
                }
            }
            if failed.is_none() && !is_of_the_script(&last) {
                failed = Some(no_decision());
            }
            match &failed {
                Some(error) => Err(error.clone()),
                None => Ok(last),
            }
        };
        let own = answer(message);
        for turn in batch {
            let answer = answer(&turn.message);
            turn.settle(answer);
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
                // Nothing that anybody asked for.
                Value::Push { .. } => {}
                reply => return Ok(reply),
            }
        }
    }

    /// Reads and writes take until the deadline at most.
    fn limit(&mut self, deadline: Instant) -> RedisResult<()> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::Error::from(io::ErrorKind::TimedOut).into());
        }
        if self.timeout > left + NEAR || self.timeout + NEAR < left {
            self.connection.set_read_timeout(Some(left))?;
            self.connection.set_write_timeout(Some(left))?;
            self.timeout = left;
        }
        Ok(())
    }
}

/// The right to use a lane's connection.
struct Lead<'a> {
    lane: &'a Mutex<Lane>,
    line: Option<Line>,
}

impl Lead<'_> {
    /// What is queued, and now being sent.
    fn batch(&self) -> Vec<Arc<Turn>> {
        let mut state = self.lane.lock();
        let length = state.queue.len().min(BATCH);
        state.queue.drain(..length).collect()
    }
}

impl Drop for Lead<'_> {
    fn drop(&mut self) {
        let mut state = self.lane.lock();
        state.taken = false;
        state.line = self.line.take();
        let first = state.queue.front().map(Arc::clone);
        drop(state);
        if let Some(first) = first {
            first.thread.unpark();
        }
    }
}

/// A call that waits at a lane.
struct Turn {
    message: Message,
    thread: Thread,
    answer: Mutex<Option<Replied>>,
}

impl Turn {
    fn answer(&self) -> Option<Replied> {
        self.answer.lock().take()
    }

    fn settle(&self, answer: Replied) {
        *self.answer.lock() = Some(answer);
        self.thread.unpark();
    }
}
