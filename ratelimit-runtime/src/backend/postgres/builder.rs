//! Setting up a PostgreSQL backend: server, login, and what needs no round trip.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio_postgres::config::SslMode;
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};
use tokio_postgres::{Config, NoTls, Socket};

use super::connections::{Connections, Opener, Own, PostgresConnect, Users, opener};
use super::server::Server;
use super::store::Store;
use super::table::Table;
use super::{PostgresBackend, Shared, config, remote};
use crate::backend::TIMEOUT;
use crate::error::BackendError;
use crate::rt::process::PerProcess;

const CONNECTIONS: usize = 8;

/// Makes a [`PostgresBackend`].
///
/// ```
/// use std::time::Duration;
/// use ratelimit_runtime::PostgresBackend;
///
/// let backend = PostgresBackend::builder()
///     .url("postgres://app@db.local/app")
///     .schema("limits")
///     .timeout(Duration::from_millis(50))
///     .build()?;
/// # Ok::<(), ratelimit_runtime::BackendError>(())
/// ```
pub struct PostgresBackendBuilder {
    url: Option<String>,
    schema: String,
    timeout: Duration,
    denial_cache: bool,
    connections: usize,
    synchronous_commit: bool,
    tls: Option<Box<dyn FnOnce(Config) -> Opener + Send + Sync>>,
    pool: Option<Arc<dyn Users>>,
}

impl PostgresBackendBuilder {
    pub(super) fn new() -> PostgresBackendBuilder {
        PostgresBackendBuilder {
            url: None,
            schema: "public".to_owned(),
            timeout: TIMEOUT,
            denial_cache: true,
            connections: CONNECTIONS,
            synchronous_commit: false,
            tls: None,
            pool: None,
        }
    }

    /// The server's URL, in place of the environment's; see [`PostgresBackend::new`].
    pub fn url(mut self, url: impl Into<String>) -> PostgresBackendBuilder {
        self.url = Some(url.into());
        self
    }

    /// The schema of the table, of any name. The default is `public`.
    pub fn schema(mut self, schema: impl Into<String>) -> PostgresBackendBuilder {
        self.schema = schema.into();
        self
    }

    /// The longest time for a decision, connecting included. The default is 100 ms, the minimum 1
    /// ms, the maximum 1 hour. It also bounds how long a transaction and its locks last.
    pub fn timeout(mut self, timeout: Duration) -> PostgresBackendBuilder {
        self.timeout = timeout;
        self
    }

    /// Whether denials are cached, as [`Backend::denial_cache`](crate::Backend::denial_cache)
    /// describes. On by default.
    pub fn denial_cache(mut self, on: bool) -> PostgresBackendBuilder {
        self.denial_cache = on;
        self
    }

    /// The most connections that each tokio runtime of the process opens, and this crate's background
    /// thread, which serves blocking calls. The default is 8, the minimum 1. Calls beyond that wait
    /// for one.
    pub fn connections(mut self, most: usize) -> PostgresBackendBuilder {
        self.connections = most;
        self
    }

    /// Whether a commit waits for the disk, and for standbys, as the server is set up. Off by
    /// default, and then for this backend's transactions only. See
    /// [durability](PostgresBackend#durability).
    pub fn synchronous_commit(mut self, on: bool) -> PostgresBackendBuilder {
        self.synchronous_commit = on;
        self
    }

    /// Makes TLS connections with a connector, such as that of tokio-postgres-rustls or
    /// postgres-native-tls. `sslmode` in the URL decides whether TLS is used: `prefer`, the
    /// default, falls back to a plain connection; `require` does not.
    pub fn tls<T>(mut self, connector: T) -> PostgresBackendBuilder
    where
        T: MakeTlsConnect<Socket> + Clone + Send + Sync + 'static,
        T::Stream: Send,
        T::TlsConnect: Send,
        <T::TlsConnect as TlsConnect<Socket>>::Future: Send,
    {
        self.tls = Some(Box::new(move |config| opener(config, connector)));
        self
    }

    /// Takes connections from a pool, in place of its own. See [`PostgresConnect`] for an example
    /// with deadpool-postgres. The pool's size bounds the calls under way. Start with two
    /// connections more than the rest of the program needs at its peak.
    pub fn pool(mut self, pool: impl PostgresConnect) -> PostgresBackendBuilder {
        self.pool = Some(Arc::new(pool));
        self
    }

    /// Builds the backend. Does not connect yet. Fails if the URL, an environment variable or a
    /// setting is wrong, or if `sslmode=require` is set without a connector.
    pub fn build(self) -> Result<PostgresBackend, BackendError> {
        if !(Duration::from_millis(1)..=Duration::from_secs(3_600)).contains(&self.timeout) {
            return Err(BackendError::configuration("the timeout of a PostgreSQL backend is from 1 ms to 1 hour"));
        }
        if self.connections == 0 {
            return Err(BackendError::configuration("a PostgreSQL backend needs at least one connection"));
        }
        if self.schema.is_empty() || self.schema.len() > 63 || self.schema.contains('\0') {
            return Err(BackendError::configuration("the name of a PostgreSQL schema has 1 to 63 bytes"));
        }
        let table = Table::new(&self.schema);
        let (timeout, synchronous_commit) = (self.timeout, self.synchronous_commit);
        let store = {
            let table = table.clone();
            move |connections| Store::new(Server::new(connections, table.clone(), timeout, synchronous_commit))
        };
        let shared = |server, make| Shared {
            remotes: PerProcess::new(),
            make,
            server,
            table: table.clone(),
            timeout,
            denial_cache: self.denial_cache,
        };
        if let Some(pool) = self.pool {
            if self.url.is_some() || self.tls.is_some() {
                return Err(BackendError::configuration("a PostgreSQL backend has either a pool or a URL and TLS"));
            }
            let make = Box::new(move || remote(store(Connections::Users(Arc::clone(&pool)))));
            return Ok(PostgresBackend { shared: Arc::new(shared(None, make)) });
        }
        let config = match &self.url {
            Some(url) => config::from_url(url)?,
            None => config::from_environment(|name| std::env::var_os(name))?,
        };
        let config = config::completed(config, timeout);
        let server = format!("{}, {}", config::server_name(&config), table.name());
        let opener = match self.tls {
            Some(tls) => tls(config),
            None if config.get_ssl_mode() == SslMode::Require => {
                return Err(BackendError::configuration(
                    "the PostgreSQL URL asks for TLS (`sslmode=require`): pass a connector to \
                     `PostgresBackendBuilder::tls`",
                ));
            }
            None => opener(config, NoTls),
        };
        let (opener, most, own_table) = (Arc::new(opener), self.connections, table.clone());
        let make = Box::new(move || {
            let own = Own::new(Arc::clone(&opener), own_table.clone(), most, timeout);
            remote(store(Connections::Own(Arc::new(own))))
        });
        Ok(PostgresBackend { shared: Arc::new(shared(Some(server), make)) })
    }
}

impl fmt::Debug for PostgresBackendBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The URL may hold a password.
        f.debug_struct("PostgresBackendBuilder")
            .field("schema", &self.schema)
            .field("timeout", &self.timeout)
            .field("denial_cache", &self.denial_cache)
            .field("connections", &self.connections)
            .field("synchronous_commit", &self.synchronous_commit)
            .finish_non_exhaustive()
    }
}
