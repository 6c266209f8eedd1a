//! The address of a server, how to connect to it, and its errors.

use std::fmt;
use std::io;
#[cfg(unix)]
use std::path::PathBuf;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::blocking::Blocking;
use crate::error::{BackendError, BackendErrorKind};

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Address {
    Tcp(String, u16),
    #[cfg(unix)]
    Unix(PathBuf),
}

/// A connected socket.
pub(super) trait Socket: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Socket for S {}

impl Address {
    /// Opens a connection.
    pub(super) async fn connect(&self) -> io::Result<Box<dyn Socket>> {
        match self {
            Address::Tcp(host, port) => {
                let stream = TcpStream::connect((host.as_str(), *port)).await?;
                stream.set_nodelay(true)?;
                Ok(Box::new(stream))
            }
            #[cfg(unix)]
            Address::Unix(path) => Ok(Box::new(tokio::net::UnixStream::connect(path).await?)),
        }
    }

    /// Opens a connection whose reads and writes block.
    pub(super) async fn connect_blocking(&self) -> io::Result<Blocking> {
        match self {
            Address::Tcp(host, port) => {
                let stream = TcpStream::connect((host.as_str(), *port)).await?.into_std()?;
                stream.set_nodelay(true)?;
                stream.set_nonblocking(false)?;
                Ok(Blocking::Tcp(stream))
            }
            #[cfg(unix)]
            Address::Unix(path) => {
                let stream = tokio::net::UnixStream::connect(path).await?.into_std()?;
                stream.set_nonblocking(false)?;
                Ok(Blocking::Unix(stream))
            }
        }
    }

    pub(super) fn unreachable(&self, why: impl fmt::Display) -> BackendError {
        BackendError::new(BackendErrorKind::Unreachable, format!("Memcached at {self} cannot be reached: {why}"))
    }

    pub(super) fn refused(&self, why: impl fmt::Display) -> BackendError {
        BackendError::new(BackendErrorKind::Refused, format!("Memcached at {self} refused: {why}"))
    }

    /// The error of a server that does not answer before the deadline.
    pub(super) fn late(&self) -> BackendError {
        BackendError::new(BackendErrorKind::Timeout, format!("Memcached at {self} did not answer in time"))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(host, port) if host.contains(':') => write!(f, "[{host}]:{port}"),
            Address::Tcp(host, port) => write!(f, "{host}:{port}"),
            #[cfg(unix)]
            Address::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}
