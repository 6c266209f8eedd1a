//! A connected socket whose reads and writes block, until a deadline.

use std::io::{self, Read, Write};
use std::net::TcpStream;
#[cfg(unix)]
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// A socket to a server.
pub(super) enum Blocking {
    Tcp(TcpStream),
    #[cfg(unix)]
    Unix(UnixStream),
}

impl Blocking {
    /// Lets the next system calls wait until the deadline.
    pub(super) fn give(&self, deadline: Instant) -> io::Result<()> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        // No shorter than what a system call can be given.
        let left = Some(left.max(Duration::from_micros(1)));
        match self {
            Blocking::Tcp(stream) => stream.set_read_timeout(left),
            #[cfg(unix)]
            Blocking::Unix(stream) => stream.set_read_timeout(left),
        }
    }

    /// Whether the connection is open, and nothing has come unasked.
    pub(super) fn is_silent(&mut self) -> bool {
        let waits = |waits: bool, socket: &Blocking| match socket {
            Blocking::Tcp(stream) => stream.set_nonblocking(!waits),
            #[cfg(unix)]
            Blocking::Unix(stream) => stream.set_nonblocking(!waits),
        };
        if waits(false, self).is_err() {
            return false;
        }
        let read = self.read(&mut [0]);
        waits(true, self).is_ok() && read.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }
}

impl Read for Blocking {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Blocking::Tcp(stream) => stream.read(buffer),
            #[cfg(unix)]
            Blocking::Unix(stream) => stream.read(buffer),
        }
    }
}

impl Write for Blocking {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Blocking::Tcp(stream) => stream.write(bytes),
            #[cfg(unix)]
            Blocking::Unix(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
