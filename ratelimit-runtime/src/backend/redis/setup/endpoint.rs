//! One server for redis-rs: its address, the login, and the meaning of its errors.

use std::error::Error;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use redis::io::tcp::TcpSettings;
use redis::{
    Client, Connection, ConnectionAddr, ConnectionInfo, ErrorKind, IntoConnectionInfo, ProtocolVersion,
    RedisConnectionInfo, RedisError, ServerError,
};

#[cfg(feature = "redis-tls")]
use crate::backend::redis::setup::tls::Tls;
use crate::error::{BackendError, BackendErrorKind};

/// The connection is dead if sent data stays unacknowledged for this long.
#[cfg(target_os = "linux")]
const UNACKNOWLEDGED: Duration = Duration::from_millis(500);

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Address {
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

/// The login and the database.
#[derive(Clone, Default)]
pub(crate) struct Login {
    pub(crate) username: Option<String>,
    pub(crate) password: Option<String>,
    pub(crate) database: u32,
    /// RESP2, for servers without `HELLO`.
    pub(crate) resp2: bool,
}

/// Everything needed to open a connection.
#[derive(Clone)]
pub(crate) struct Endpoint {
    pub(crate) address: Address,
    login: Login,
    #[cfg(feature = "redis-tls")]
    tls: Option<Tls>,
}

impl Endpoint {
    pub(crate) fn new(address: Address, login: Login, #[cfg(feature = "redis-tls")] tls: Option<Tls>) -> Endpoint {
        Endpoint {
            address,
            login,
            #[cfg(feature = "redis-tls")]
            tls,
        }
    }

    /// Another server with the same login.
    #[cfg(any(feature = "redis-sentinel", feature = "redis-cluster"))]
    pub(crate) fn at(&self, address: Address) -> Endpoint {
        Endpoint { address, ..self.clone() }
    }

    /// The redis-rs client that opens connections.
    pub(crate) fn client(&self) -> Result<Client, BackendError> {
        self.info().and_then(Client::open).map_err(|error| self.failed(&error))
    }

    /// Opens a connection and logs in, on this thread. Resolving a host name may exceed the
    /// timeout.
    pub(crate) fn open(&self, connect_timeout: Duration) -> Result<Connection, BackendError> {
        self.client()?.get_connection_with_timeout(connect_timeout).map_err(|error| self.failed(&error))
    }

    fn info(&self) -> Result<ConnectionInfo, RedisError> {
        let address = match &self.address {
            Address::Tcp(host, port) => ConnectionAddr::Tcp(host.clone(), *port),
            Address::Unix(path) => ConnectionAddr::Unix(path.clone()),
        };
        #[cfg(feature = "redis-tls")]
        let address = match (&self.tls, &self.address) {
            (Some(tls), Address::Tcp(host, port)) => tls.address(host, *port),
            _ => address,
        };
        // RESP3 reports the end of a connection at once. The client's name and version are of no
        // use to the server, and sending them would need one more right.
        let mut login = RedisConnectionInfo::default()
            .set_protocol(if self.login.resp2 { ProtocolVersion::RESP2 } else { ProtocolVersion::RESP3 })
            .set_skip_set_lib_name()
            .set_db(self.login.database.into());
        if let Some(username) = &self.login.username {
            login = login.set_username(username);
        }
        if let Some(password) = &self.login.password {
            login = login.set_password(password);
        }
        let tcp = TcpSettings::default().set_nodelay(true);
        #[cfg(target_os = "linux")]
        let tcp = tcp.set_user_timeout(UNACKNOWLEDGED);
        Ok(address.into_connection_info()?.set_redis_settings(login).set_tcp_settings(tcp))
    }

    /// The error of a connection that fails or cannot be opened.
    pub(crate) fn failed(&self, error: &RedisError) -> BackendError {
        let address = &self.address;
        let cause = error.source().and_then(|cause| cause.downcast_ref::<Arc<dyn Error + Send + Sync>>());
        let cause = cause.and_then(|cause| cause.downcast_ref::<io::Error>()).map(io::Error::kind);
        let (text, detail) = (error.to_string(), error.detail().unwrap_or_default());
        let advice = self.advice(&text, detail);
        let kind = match error.kind() {
            _ if error.is_timeout() => return self.late(),
            _ if advice.is_some() => BackendErrorKind::Configuration,
            _ if matches!(error.code(), Some("WRONGPASS" | "NOAUTH")) => BackendErrorKind::Configuration,
            ErrorKind::AuthenticationFailed | ErrorKind::InvalidClientConfig | ErrorKind::RESP3NotSupported => {
                BackendErrorKind::Configuration
            }
            // rustls's error for certificates and protocols.
            ErrorKind::Io if cause == Some(io::ErrorKind::InvalidData) => BackendErrorKind::Configuration,
            ErrorKind::Io => BackendErrorKind::Unreachable,
            _ => BackendErrorKind::Refused,
        };
        let message = match kind {
            BackendErrorKind::Unreachable => format!("Redis at {address} cannot be reached: {error}"),
            BackendErrorKind::Configuration if error.is_io_error() => {
                format!("TLS with Redis at {address} failed: {error}")
            }
            _ => format!("Redis at {address} refused: {}{}", without_arguments(&text), advice.unwrap_or_default()),
        };
        BackendError::new(kind, message)
    }

    /// The error of a server that does not answer before the deadline.
    pub(crate) fn late(&self) -> BackendError {
        let address = &self.address;
        let message = format!("Redis at {address} did not answer in time{}", self.hint());
        BackendError::new(BackendErrorKind::Timeout, message)
    }

    /// A hint for the message: a server without TLS takes a TLS greeting for the start of a
    /// command, and waits for the rest.
    pub(crate) fn hint(&self) -> &'static str {
        if self.is_encrypted() { " (over TLS; if it never does, this may be a port without TLS)" } else { "" }
    }

    #[cfg(feature = "redis-tls")]
    fn is_encrypted(&self) -> bool {
        self.tls.is_some()
    }

    #[cfg(not(feature = "redis-tls"))]
    #[expect(clippy::unused_self, reason = "as with the feature")]
    fn is_encrypted(&self) -> bool {
        false
    }

    pub(crate) fn is_resp2(&self) -> bool {
        self.login.resp2
    }

    /// What to change, if only another configuration helps.
    fn advice(&self, text: &str, detail: &str) -> Option<&'static str> {
        let text = text.to_ascii_lowercase();
        let detail = detail.to_ascii_lowercase();
        let says = |what: &str| text.contains(what) || detail.contains(what);
        if says("unknown command") && says("hello") {
            return Some("; for a server or proxy without `HELLO`, add `?protocol=resp2` to the URL");
        }
        // The only option in the script that a server may not know.
        if says("syntax error") && says("script") || says("err syntax error") {
            return Some("; it is older than Redis 6.2, which is needed");
        }
        if self.login.database != 0 && (says("switch database") || says("select is not allowed")) {
            return Some("; it has no database of that number (a cluster has only 0 before Valkey 9)");
        }
        None
    }

    /// The error of a server that answers with an error.
    pub(crate) fn refused(&self, refusal: &ServerError) -> BackendError {
        self.failed(&refusal.clone().into())
    }
}

/// Removes the arguments that servers quote from commands they do not understand: they may contain
/// a password, or a part of it.
fn without_arguments(message: &str) -> String {
    const QUOTED: &str = "with args beginning with:";
    match message.split_once(QUOTED) {
        Some((command, _)) => format!("{command}{QUOTED} ***"),
        None => message.to_owned(),
    }
}

pub(crate) fn unreachable(message: &str) -> BackendError {
    BackendError::new(BackendErrorKind::Unreachable, message)
}

pub(crate) fn no_thread(error: &io::Error) -> BackendError {
    unreachable(&format!("no background thread can be started: {error}"))
}
