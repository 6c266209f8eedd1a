//! A connection as a task of a tokio runtime reads and writes it: with TLS or without, and without blocking.

use std::io::{self, Read, Write};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
#[cfg(unix)]
use tokio::net::UnixStream;

use super::stream::{Socket, SocketKind, Stream};

pub(super) enum AsyncStream {
    Plain(AsyncSocket),
    #[cfg(feature = "redis-tls")]
    Tls(Box<rustls::ClientConnection>, AsyncSocket),
}

pub(super) enum AsyncSocket {
    Tcp(TcpStream),
    #[cfg(unix)]
    Unix(UnixStream),
}

impl AsyncStream {
    /// The same connection, for the runtime around.
    ///
    /// # Panics
    /// In a runtime without input and output.
    pub(super) fn new(stream: Stream) -> io::Result<AsyncStream> {
        Ok(match stream {
            Stream::Plain(socket) => AsyncStream::Plain(AsyncSocket::new(socket)?),
            #[cfg(feature = "redis-tls")]
            Stream::Tls(stream) => {
                let rustls::StreamOwned { conn, sock } = *stream;
                AsyncStream::Tls(Box::new(conn), AsyncSocket::new(sock)?)
            }
        })
    }

    /// What has come in; `WouldBlock` if nothing has, and the task is woken when something does.
    pub(super) fn read(&mut self, context: &mut Context<'_>, bytes: &mut [u8]) -> io::Result<usize> {
        match self {
            AsyncStream::Plain(socket) => Polled { socket, context: Some(context) }.read(bytes),
            #[cfg(feature = "redis-tls")]
            AsyncStream::Tls(tls, socket) => {
                rustls::Stream::new(tls.as_mut(), &mut Polled { socket, context: Some(context) }).read(bytes)
            }
        }
    }

    /// Writes what can be written at once; with a context, the task is woken when it could be more.
    pub(super) fn write(&mut self, context: Option<&mut Context<'_>>, bytes: &[u8]) -> io::Result<usize> {
        match self {
            AsyncStream::Plain(socket) => Polled { socket, context }.write(bytes),
            #[cfg(feature = "redis-tls")]
            AsyncStream::Tls(tls, socket) => {
                // Only so much is kept of what is encrypted: that goes first.
                if !send(tls, &mut Polled { socket, context })? {
                    return Err(io::ErrorKind::WouldBlock.into());
                }
                tls.writer().write(bytes)
            }
        }
    }

    /// Whether all is with the system, and not only encrypted.
    #[cfg_attr(
        not(feature = "redis-tls"),
        expect(clippy::unused_self, clippy::unnecessary_wraps, reason = "TLS needs it")
    )]
    #[cfg_attr(not(feature = "redis-tls"), expect(clippy::needless_pass_by_value, reason = "TLS needs it"))]
    pub(super) fn flush(&mut self, context: Option<&mut Context<'_>>) -> io::Result<bool> {
        #[cfg(feature = "redis-tls")]
        if let AsyncStream::Tls(tls, socket) = self {
            return send(tls, &mut Polled { socket, context });
        }
        let _ = context;
        Ok(true)
    }
}

/// Writes what is encrypted, as far as that goes at once: whether all of it did.
#[cfg(feature = "redis-tls")]
fn send(tls: &mut rustls::ClientConnection, socket: &mut Polled<'_, '_, '_>) -> io::Result<bool> {
    while tls.wants_write() {
        match tls.write_tls(socket) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

impl AsyncSocket {
    fn new(socket: Socket) -> io::Result<AsyncSocket> {
        Ok(match socket.kind {
            SocketKind::Tcp(stream) => {
                stream.set_nonblocking(true)?;
                AsyncSocket::Tcp(TcpStream::from_std(stream)?)
            }
            #[cfg(unix)]
            SocketKind::Unix(stream) => {
                stream.set_nonblocking(true)?;
                AsyncSocket::Unix(UnixStream::from_std(stream)?)
            }
        })
    }

    fn poll_read(&mut self, context: &mut Context<'_>, bytes: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut bytes = ReadBuf::new(bytes);
        ready!(match self {
            AsyncSocket::Tcp(stream) => Pin::new(stream).poll_read(context, &mut bytes),
            #[cfg(unix)]
            AsyncSocket::Unix(stream) => Pin::new(stream).poll_read(context, &mut bytes),
        })?;
        Poll::Ready(Ok(bytes.filled().len()))
    }

    fn poll_write(&mut self, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            AsyncSocket::Tcp(stream) => Pin::new(stream).poll_write(context, bytes),
            #[cfg(unix)]
            AsyncSocket::Unix(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            AsyncSocket::Tcp(stream) => stream.try_write(bytes),
            #[cfg(unix)]
            AsyncSocket::Unix(stream) => stream.try_write(bytes),
        }
    }
}

/// A socket as one that does not block, which wakes whoever polls, if anybody does.
struct Polled<'a, 'b, 'c> {
    socket: &'a mut AsyncSocket,
    context: Option<&'b mut Context<'c>>,
}

impl Read for Polled<'_, '_, '_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        match &mut self.context {
            Some(context) => blocking(self.socket.poll_read(context, bytes)),
            None => Err(io::ErrorKind::WouldBlock.into()),
        }
    }
}

impl Write for Polled<'_, '_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.context {
            Some(context) => blocking(self.socket.poll_write(context, bytes)),
            None => self.socket.try_write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn blocking<T>(poll: Poll<io::Result<T>>) -> io::Result<T> {
    match poll {
        Poll::Ready(result) => result,
        Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
    }
}
