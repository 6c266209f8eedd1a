//! A connection for blocking calls. The calling thread writes and reads itself, so that no other
//! thread has to be woken.

use std::io::{self, Read as _, Write as _};
use std::time::Instant;

use parking_lot::Mutex;

use super::address::Address;
use super::blocking::Blocking;
use super::link::{Commands, Failure, IDLE, Pending, unusable};
use super::protocol::{self, Condition, Incoming, Kind, Reply};
use super::seen::Seen;
use crate::error::{BackendError, BackendErrorKind};
use crate::rt::{background, reply, timer};

/// What one system call reads at most, in bytes.
const READ: usize = 4_096;

/// A connection of one call at a time.
pub(super) struct Lane {
    address: Address,
    wire: Mutex<Wire>,
    seen: Mutex<Seen>,
}

struct Wire {
    socket: Blocking,
    incoming: Incoming,
    /// The number of the last command.
    number: u64,
    last: Instant,
    /// Whether no reply is outstanding and nothing else has arrived.
    is_sound: bool,
    /// The deadline of the call that has the lane.
    deadline: Instant,
}

impl Lane {
    /// Connects in the background, because a DNS look-up has no deadline, and checks that the
    /// server knows meta commands.
    pub(super) fn open(address: &Address, deadline: Instant) -> Result<Lane, BackendError> {
        let (sender, receiver) = reply::channel();
        let background = background::handle().map_err(|error| address.unreachable(error))?;
        let connecting = address.clone();
        background.spawn(async move { sender.send(timer::bounded(connecting.connect_blocking(), deadline).await) });
        let socket = receiver.wait(deadline).flatten().ok_or_else(|| address.late())?;
        let socket = socket.map_err(|error| address.unreachable(error))?;
        let incoming = Incoming::default();
        let wire = Wire { socket, incoming, number: 0, last: Instant::now(), is_sound: true, deadline };
        let lane = Lane { address: address.clone(), wire: Mutex::new(wire), seen: Mutex::default() };
        let mut noop = Vec::new();
        protocol::write_noop(&mut noop);
        match lane.exchange(&noop, &[Kind::Noop], 0) {
            Ok(_) => Ok(lane),
            Err(Failure::Lost(error)) if error.kind() != BackendErrorKind::Unreachable => Err(error),
            Err(_) => Err(address.unreachable("it closed the connection at the first meta command (`mn`)")),
        }
    }

    /// Gives it to the next call. False if the server has closed the connection meanwhile, or the last
    /// call did not get its replies.
    pub(super) fn begin(&self, deadline: Instant) -> bool {
        let mut wire = self.wire.lock();
        wire.deadline = deadline;
        wire.is_sound && (wire.last.elapsed() <= IDLE || wire.socket.is_silent())
    }

    /// Sends commands, and waits for their replies.
    fn exchange(&self, commands: &[u8], kinds: &[Kind], first: u64) -> Result<Vec<Reply>, Failure> {
        let mut wire = self.wire.lock();
        let wire = &mut *wire;
        wire.last = Instant::now();
        if wire.last >= wire.deadline {
            return Err(Failure::Lost(self.address.late()));
        }
        wire.is_sound = false;
        let lost = |error: io::Error| match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Failure::Lost(self.address.late()),
            _ => Failure::Lost(self.address.unreachable(error)),
        };
        wire.socket.write_all(commands).map_err(lost)?;
        let (mut replies, mut buffer) = (Vec::with_capacity(kinds.len()), [0; READ]);
        loop {
            while let Some(kind) = kinds.get(replies.len()) {
                let reply = wire.incoming.next(*kind, first + replies.len() as u64);
                match reply.map_err(|error| Failure::Lost(unusable(&self.address, error)))? {
                    Some(reply) => replies.push(reply),
                    None => break,
                }
            }
            if replies.len() == kinds.len() && wire.incoming.is_whole() {
                wire.is_sound = wire.incoming.is_empty();
                return Ok(replies);
            }
            match wire.socket.give(wire.deadline).and_then(|()| wire.socket.read(&mut buffer)) {
                Ok(0) => return Err(Failure::Lost(self.address.unreachable("it closed the connection"))),
                Ok(read) => wire.incoming.extend(&buffer[..read]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(lost(error)),
            }
        }
    }

    /// The number of the next command, of several.
    fn number(&self, of: u64) -> u64 {
        let mut wire = self.wire.lock();
        wire.number += of;
        wire.number - of + 1
    }
}

impl Commands for Lane {
    async fn get(&self, key: &str) -> Result<Reply, Failure> {
        let (number, mut get) = (self.number(1), Vec::new());
        protocol::write_get(&mut get, key, number);
        let mut replies = self.exchange(&get, &[Kind::Get], number)?;
        Ok(replies.remove(0))
    }

    async fn set(
        &self,
        key: &str,
        bytes: &[u8],
        ttl: u64,
        condition: Condition,
        and_get: bool,
    ) -> Result<(Reply, Option<Pending>), Failure> {
        let (number, mut commands) = (self.number(2), Vec::new());
        protocol::write_set(&mut commands, key, bytes, ttl, condition, number);
        if !and_get {
            let mut replies = self.exchange(&commands, &[Kind::Set], number)?;
            return Ok((replies.remove(0), None));
        }
        protocol::write_get(&mut commands, key, number + 1);
        let mut replies = self.exchange(&commands, &[Kind::Set, Kind::Get], number)?;
        let (sender, value) = reply::channel();
        sender.send(Ok(replies.remove(1)));
        Ok((replies.remove(0), Some(value)))
    }

    fn address(&self) -> &Address {
        &self.address
    }

    fn seen(&self) -> &Mutex<Seen> {
        &self.seen
    }
}
