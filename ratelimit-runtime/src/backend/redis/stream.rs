//! One connection to a server that a thread reads and writes, no longer than until a deadline; and how it is opened.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
#[cfg(unix)]
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::resp::{Incoming, Reply};
#[cfg(feature = "redis-tls")]
use super::tls::Tls;
use crate::error::{BackendError, BackendErrorKind};

/// A time-out that the socket has may be this much longer than what is left: it is not set anew then.
const NEAR: Duration = Duration::from_millis(4);

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Address {
    Tcp(String, u16),
    Unix(PathBuf),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(host, port) if host.contains(':') => write!(f, "[{host}]:{port}"),
            Address::Tcp(host, port) => write!(f, "{host}:{port}"),
            Address::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

/// Who one is to the server, and which of its databases is meant.
#[derive(Clone, Default)]
pub(super) struct Login {
    pub(super) username: Option<String>,
    pub(super) password: Option<String>,
    pub(super) database: u32,
}

/// All that it takes to open a connection.
#[derive(Clone)]
pub(super) struct Endpoint {
    pub(super) address: Address,
    pub(super) login: Login,
    #[cfg(feature = "redis-tls")]
    pub(super) tls: Option<Tls>,
}

impl Endpoint {
    /// Opens a connection and logs in, on this thread. Resolving a host's name may take longer than until the deadline.
    pub(super) fn open(&self, until: Instant) -> Result<Line, BackendError> {
        let socket = Socket::connect(&self.address, until).map_err(|error| self.failed(&error))?;
        #[cfg(feature = "redis-tls")]
        let stream = match &self.tls {
            Some(tls) => Stream::Tls(Box::new(tls.shake_hands(socket, &self.address)?)),
            None => Stream::Plain(socket),
        };
        #[cfg(not(feature = "redis-tls"))]
        let stream = Stream::Plain(socket);
        let mut line = Line { stream, incoming: Incoming::default(), used: Instant::now() };
        self.log_in(&mut line)?;
        Ok(line)
    }

    fn log_in(&self, line: &mut Line) -> Result<(), BackendError> {
        let Login { username, password, database } = &self.login;
        let mut commands = Vec::new();
        let mut kinds = Vec::new();
        if let Some(password) = password {
            let mut command = redis::cmd("AUTH");
            command.arg(username.as_deref()).arg(password);
            commands.extend(command.get_packed_command());
            kinds.push(BackendErrorKind::Configuration);
        }
        if *database != 0 {
            commands.extend(redis::cmd("SELECT").arg(*database).get_packed_command());
            kinds.push(BackendErrorKind::Refused);
        }
        line.send(&commands).map_err(|error| self.failed(&error))?;
        for kind in kinds {
            if let Reply::Refused(message) = line.reply().map_err(|error| self.failed(&error))? {
                return Err(self.refusal(kind, &message));
            }
        }
        Ok(())
    }

    /// The error of a connection that fails.
    pub(super) fn failed(&self, error: &io::Error) -> BackendError {
        let address = &self.address;
        match error.kind() {
            io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => self.late(),
            io::ErrorKind::InvalidData => {
                BackendError::new(BackendErrorKind::Refused, format!("Redis at {address} refused: {error}"))
            }
            _ => BackendError::new(
                BackendErrorKind::Unreachable,
                format!("Redis at {address} cannot be reached: {error}"),
            ),
        }
    }

    /// The error of a server that does not answer before the deadline.
    pub(super) fn late(&self) -> BackendError {
        let address = &self.address;
        BackendError::new(BackendErrorKind::Timeout, format!("Redis at {address} did not answer in time"))
    }

    /// The error of a server that answers `message` in place of a result.
    pub(super) fn refused(&self, message: &str) -> BackendError {
        let kind = match message.split(' ').next() {
            Some("WRONGPASS" | "NOAUTH") => BackendErrorKind::Configuration,
            _ => BackendErrorKind::Refused,
        };
        self.refusal(kind, message)
    }

    fn refusal(&self, kind: BackendErrorKind, message: &str) -> BackendError {
        // Servers quote the commands that they do not understand, with their arguments.
        let message = match &self.login.password {
            Some(password) if !password.is_empty() => message.replace(password.as_str(), "***"),
            _ => message.to_owned(),
        };
        BackendError::new(kind, format!("Redis at {} refused: {message}", self.address))
    }
}

/// An open connection, and what has come in over it.
pub(super) struct Line {
    pub(super) stream: Stream,
    pub(super) incoming: Incoming,
    /// When it was used last, or a little before.
    pub(super) used: Instant,
}

impl Line {
    /// Until when what follows may take.
    pub(super) fn set_deadline(&mut self, until: Instant) {
        self.stream.socket().until = until;
    }

    pub(super) fn send(&mut self, commands: &[u8]) -> io::Result<()> {
        self.stream.write_all(commands)?;
        self.stream.flush()
    }

    /// The next reply.
    pub(super) fn reply(&mut self) -> io::Result<Reply> {
        loop {
            if let Some(reply) = self.incoming.next()? {
                return Ok(reply);
            }
            match self.stream.read(self.incoming.room()) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => self.incoming.fill(count),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Whether the server has ended the connection, or said something that nobody asked for.
    pub(super) fn is_over(&mut self) -> bool {
        if self.stream.socket().set_looking(true).is_err() {
            return true;
        }
        let looked = self.stream.read(&mut [0]);
        let back = self.stream.socket().set_looking(false);
        back.is_err() || !looked.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }
}

pub(super) enum Stream {
    Plain(Socket),
    #[cfg(feature = "redis-tls")]
    Tls(Box<rustls::StreamOwned<rustls::ClientConnection, Socket>>),
}

impl Stream {
    fn socket(&mut self) -> &mut Socket {
        match self {
            Stream::Plain(socket) => socket,
            #[cfg(feature = "redis-tls")]
            Stream::Tls(stream) => &mut stream.sock,
        }
    }
}

impl Read for Stream {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(socket) => socket.read(bytes),
            #[cfg(feature = "redis-tls")]
            Stream::Tls(stream) => stream.read(bytes),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(socket) => socket.write(bytes),
            #[cfg(feature = "redis-tls")]
            Stream::Tls(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Stream::Plain(_) => Ok(()),
            #[cfg(feature = "redis-tls")]
            Stream::Tls(stream) => stream.flush(),
        }
    }
}

/// A socket whose reads and writes end at a deadline.
pub(super) struct Socket {
    pub(super) kind: SocketKind,
    until: Instant,
    /// The time-out that the socket has for reads and for writes.
    timeout: Duration,
    looking: bool,
}

pub(super) enum SocketKind {
    Tcp(TcpStream),
    #[cfg(unix)]
    Unix(UnixStream),
}

impl Socket {
    fn connect(address: &Address, until: Instant) -> io::Result<Socket> {
        let kind = match address {
            Address::Tcp(host, port) => SocketKind::Tcp(connect_tcp(host, *port, until)?),
            #[cfg(unix)]
            Address::Unix(path) => SocketKind::Unix(UnixStream::connect(path)?),
            #[cfg(not(unix))]
            Address::Unix(_) => return Err(io::ErrorKind::Unsupported.into()),
        };
        let mut socket = Socket { kind, until, timeout: Duration::ZERO, looking: false };
        socket.set_timeout(left(until)?)?;
        Ok(socket)
    }

    fn set_timeout(&mut self, timeout: Duration) -> io::Result<()> {
        let some = Some(timeout);
        match &self.kind {
            SocketKind::Tcp(stream) => stream.set_read_timeout(some).and_then(|()| stream.set_write_timeout(some))?,
            #[cfg(unix)]
            SocketKind::Unix(stream) => stream.set_read_timeout(some).and_then(|()| stream.set_write_timeout(some))?,
        }
        self.timeout = timeout;
        Ok(())
    }

    /// Runs one system call until it does something, at most until the deadline.
    fn within<T>(&mut self, mut call: impl FnMut(&mut SocketKind) -> io::Result<T>) -> io::Result<T> {
        loop {
            if self.looking {
                return call(&mut self.kind);
            }
            let left = left(self.until)?;
            if self.timeout > left + NEAR || self.timeout + NEAR < left / 2 {
                self.set_timeout(left)?;
            }
            match call(&mut self.kind) {
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
                result => return result,
            }
        }
    }

    /// Whether reads end at once where nothing is there to be read.
    fn set_looking(&mut self, looking: bool) -> io::Result<()> {
        self.looking = looking;
        match &self.kind {
            SocketKind::Tcp(stream) => stream.set_nonblocking(looking),
            #[cfg(unix)]
            SocketKind::Unix(stream) => stream.set_nonblocking(looking),
        }
    }
}

impl Read for Socket {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.within(|kind| match kind {
            SocketKind::Tcp(stream) => stream.read(bytes),
            #[cfg(unix)]
            SocketKind::Unix(stream) => stream.read(bytes),
        })
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.within(|kind| match kind {
            SocketKind::Tcp(stream) => stream.write(bytes),
            #[cfg(unix)]
            SocketKind::Unix(stream) => stream.write(bytes),
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn left(until: Instant) -> io::Result<Duration> {
    let left = until.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
}

fn connect_tcp(host: &str, port: u16, until: Instant) -> io::Result<TcpStream> {
    let mut error = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
    for address in (host, port).to_socket_addrs()? {
        match left(until).and_then(|left| TcpStream::connect_timeout(&address, left)) {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Err(failed) => error = failed,
        }
    }
    Err(error)
}
