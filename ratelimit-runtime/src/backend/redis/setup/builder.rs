//! Setting up a Redis backend: servers, login, and what needs no round trip.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::backend::coalesce::{Coalescing, Merging};
use crate::backend::redis::batch::leases::Leases;
use crate::backend::redis::route::connection::Connection;
use crate::backend::redis::setup::config::{self, Servers, Settings};
use crate::backend::redis::setup::endpoint::{Address, Endpoint, Login};
#[cfg(feature = "redis-tls")]
use crate::backend::redis::setup::tls;
use crate::backend::redis::{Client, RedisBackend, Shared};
use crate::backend::{MAX_WAITED_KEYS, TIMEOUT};
use crate::error::BackendError;
use crate::rt::process::PerProcess;

/// Makes a [`RedisBackend`].
///
/// ```
/// use std::time::Duration;
/// use ratelimit_runtime::RedisBackend;
///
/// let backend = RedisBackend::builder().url("redis://cache:6379/2").timeout(Duration::from_millis(30)).build()?;
/// # Ok::<(), ratelimit_runtime::BackendError>(())
/// ```
#[derive(Clone)]
pub struct RedisBackendBuilder {
    servers: Option<Named>,
    login: Login,
    /// In place of the URL's.
    timeout: Option<Duration>,
    denial_cache: bool,
    max_waited_keys: usize,
    coalescing: bool,
    lease: Option<(u32, Duration)>,
    #[cfg(feature = "redis-tls")]
    certificates: tls::Certificates,
}

/// The servers, by URLs.
#[derive(Clone)]
enum Named {
    One(String),
    #[cfg(feature = "redis-sentinel")]
    Sentinel(String, Vec<String>),
    #[cfg(feature = "redis-cluster")]
    Cluster(Vec<String>),
}

impl RedisBackendBuilder {
    pub(crate) fn new() -> RedisBackendBuilder {
        RedisBackendBuilder {
            servers: None,
            login: Login::default(),
            timeout: None,
            denial_cache: true,
            max_waited_keys: MAX_WAITED_KEYS,
            coalescing: true,
            lease: None,
            #[cfg(feature = "redis-tls")]
            certificates: tls::Certificates::default(),
        }
    }

    /// The server's URL, in place of the environment's; see [`RedisBackend::new`].
    pub fn url(mut self, url: impl Into<String>) -> RedisBackendBuilder {
        self.servers = Some(Named::One(url.into()));
        self
    }

    /// The master called `master`, as these sentinels locate it. Their URLs are of the form
    /// `redis://host:26379`, with the sentinels' own login if they have one.
    /// [`username`](Self::username), [`password`](Self::password) and [`database`](Self::database)
    /// are the master's. If a sentinel's URL is `rediss://`, the master is reached by TLS too.
    #[cfg(feature = "redis-sentinel")]
    pub fn sentinel<U: Into<String>>(
        mut self,
        master: impl Into<String>,
        sentinels: impl IntoIterator<Item = U>,
    ) -> RedisBackendBuilder {
        self.servers = Some(Named::Sentinel(master.into(), sentinels.into_iter().map(Into::into).collect()));
        self
    }

    /// The cluster of these nodes, by URLs such as `redis://user:password@host:6379`. One node that
    /// answers is enough; it names the others.
    #[cfg(feature = "redis-cluster")]
    pub fn cluster<U: Into<String>>(mut self, nodes: impl IntoIterator<Item = U>) -> RedisBackendBuilder {
        self.servers = Some(Named::Cluster(nodes.into_iter().map(Into::into).collect()));
        self
    }

    /// The user to log in as, in place of the URL's. Needs a password.
    pub fn username(mut self, username: impl Into<String>) -> RedisBackendBuilder {
        self.login.username = Some(username.into());
        self
    }

    /// The password to log in with, in place of the URL's.
    pub fn password(mut self, password: impl Into<String>) -> RedisBackendBuilder {
        self.login.password = Some(password.into());
        self
    }

    /// The number of the database, in place of the URL's. The default is 0. A cluster has others
    /// from Valkey 9 on (`cluster-databases`); if the server has none, each call fails with its
    /// message.
    pub fn database(mut self, database: u32) -> RedisBackendBuilder {
        self.login.database = database;
        self
    }

    /// Whether to speak RESP2, for servers and proxies without `HELLO`, like `?protocol=resp2` in
    /// the URL. Off by default. With it, the end of a connection is noticed only by the next
    /// asynchronous call, which fails.
    pub fn resp2(mut self, on: bool) -> RedisBackendBuilder {
        self.login.resp2 = on;
        self
    }

    /// Trusts this certificate authority (one or more certificates as PEM) instead of the system's.
    /// [`build`](Self::build) fails if the connection is not encrypted.
    #[cfg(feature = "redis-tls")]
    pub fn ca_certificate(mut self, pem: impl Into<Vec<u8>>) -> RedisBackendBuilder {
        self.certificates.authority = Some(pem.into());
        self
    }

    /// Presents this certificate chain (as PEM), whose private key is `key` (as PEM), to the
    /// server. [`build`](Self::build) fails if the connection is not encrypted.
    #[cfg(feature = "redis-tls")]
    pub fn client_certificate(mut self, pem: impl Into<Vec<u8>>, key: impl Into<Vec<u8>>) -> RedisBackendBuilder {
        self.certificates.client = Some((pem.into(), key.into()));
        self
    }

    /// The longest time for a decision, connecting included, in place of the URL's (`?timeout=30ms`).
    /// The default is 100 ms, the minimum 1 ms, the maximum 1 hour.
    pub fn timeout(mut self, timeout: Duration) -> RedisBackendBuilder {
        self.timeout = Some(timeout);
        self
    }

    /// Whether denials are cached, as [`Backend::denial_cache`](crate::Backend::denial_cache)
    /// describes. On by default.
    pub fn denial_cache(mut self, on: bool) -> RedisBackendBuilder {
        self.denial_cache = on;
        self
    }

    /// The most keys for which calls of this process may wait at the same time, as
    /// [`Backend::max_waited_keys`](crate::Backend::max_waited_keys) describes. The default is
    /// 500,000.
    ///
    /// Of several backends of one server, the setting of the first one in use applies to all.
    pub fn max_waited_keys(mut self, keys: usize) -> RedisBackendBuilder {
        self.max_waited_keys = keys;
        self
    }

    /// Whether concurrent asynchronous calls are merged into one (group commit). On by default.
    ///
    /// While fewer than 8 calls of a tokio runtime are under way, each is sent at once. From then
    /// on, calls that come while others are under way are sent together, up to 128 in one call of
    /// the script. They are decided first come first served, each as if it had come alone at that
    /// time. For many tasks, a decision then costs the server a third less processor time. For many
    /// that share a key, it costs a small part.
    ///
    /// Two such batches are in flight at a time. The next one is sent after at most half a
    /// millisecond, even if the server has not answered them. The timeout of each call holds. If a
    /// round trip fails, all its calls fail. A key that cannot be decided on, for instance because
    /// it holds something else, fails only its own calls.
    ///
    /// In a cluster and with [leases](RedisBackendBuilder::lease), only calls on one key are
    /// merged. Blocking calls are never merged.
    pub fn coalescing(mut self, coalescing: bool) -> RedisBackendBuilder {
        self.coalescing = coalescing;
        self
    }

    /// Leases permits: a process takes up to `permits` of a key at once, and spends them without
    /// the server for `valid_for`. That is 1 ms to 10 s; a few round trips to a few tenths of a
    /// second make sense. More than a second counts as one second, so that a
    /// [block](crate::RateLimiter::block) reaches all processes within a second. Off by default.
    ///
    /// A busy key then costs the server one call for that many decisions. A decision takes well
    /// under a microsecond instead of a round trip. The limits hold as without leases: never more
    /// than `count` in any `per`, over all processes. A lease is charged when it is taken, as of
    /// its end, and is never spent after that.
    ///
    /// A process starts with one permit. It doubles the lease each time it has used all permits
    /// within `valid_for`; if some were left, it takes as many as it used. It takes at most a tenth
    /// of the limit at once, so that with a limit below 20 every call asks the server. No lease is
    /// valid for longer than a twentieth of the shortest period (`1s`: 50 ms).
    ///
    /// # What it costs
    /// - *Fairness.* The holder of a lease spends it while others are denied. With leases of 10
    ///   from 100 a second, ten processes can hold all permits for 50 ms. Leases are first come
    ///   first served, calls are not.
    /// - *Unused permits.* The rest of a lease is given back when it ends: with the next call on
    ///   the key, or at most half of `valid_for` later. Until then other processes cannot use it.
    ///   Under steady calls nothing is left; after they stop it is up to `permits`, for 1.5 times
    ///   `valid_for`. A process that ends without giving them back leaves them charged for one
    ///   `per`. A `token_bucket` gets back less: the permits, minus the refill since.
    /// - *Rate.* A permit of a `sliding_window` counts from the end of its lease. Under saturation
    ///   the rate is lower by `valid_for` / (`per` + `valid_for`), at most 4.8 %. The other
    ///   algorithms lose nothing.
    /// - *Reported values.* `remaining` is as of when the lease was taken. The reset time is that
    ///   of the whole lease, later by up to `valid_for`. A denial holds for calls of this process
    ///   for at most `valid_for`, instead of until its `retry_after`, because another process may
    ///   give permits back. The [denial cache](Self::denial_cache) is therefore off.
    ///
    /// Some calls always go to the server: those with `backoff`, and those that wait when the lease
    /// is used up. So do calls whose cost differs from the calls before. Calls that wait come after
    /// the leased permits, and calls that do not wait are no longer denied because others wait. A
    /// refund goes back into its lease while that lasts, else to the server. A reset drops the
    /// lease of this process. Leases of other processes are spent on top of the new bucket, or
    /// given back to it, within `valid_for`. Give all processes that share a limit the same
    /// setting: one without leases is denied while the leases of others last.
    ///
    /// ```
    /// use std::time::Duration;
    /// use ratelimit_runtime::RedisBackend;
    ///
    /// let backend = RedisBackend::builder().url("redis://cache:6379").lease(100, Duration::from_millis(50)).build()?;
    /// # Ok::<(), ratelimit_runtime::BackendError>(())
    /// ```
    pub fn lease(mut self, permits: u32, valid_for: Duration) -> RedisBackendBuilder {
        self.lease = Some((permits, valid_for));
        self
    }

    /// Builds the backend. Fails if a URL, an environment variable, a certificate, the lease or the
    /// timeout is wrong.
    pub fn build(self) -> Result<RedisBackend, BackendError> {
        let settings = self.settings()?;
        let timeout = self.timeout.or(settings.timeout).unwrap_or(TIMEOUT);
        if !(Duration::from_millis(1)..=Duration::from_secs(3_600)).contains(&timeout) {
            return Err(BackendError::configuration("the timeout of a Redis backend is from 1 ms to 1 hour"));
        }
        if let Some((permits, valid_for)) = self.lease
            && (permits == 0 || !(Duration::from_millis(1)..=Duration::from_secs(10)).contains(&valid_for))
        {
            return Err(BackendError::configuration("a lease has at least 1 permit, and is valid for 1 ms to 10 s"));
        }
        #[cfg(feature = "redis-tls")]
        let tls = {
            let given = self.certificates.authority.is_some() || self.certificates.client.is_some();
            if given && !settings.encrypted {
                return Err(BackendError::configuration(
                    "there are certificates for TLS, but the Redis URL does not begin with `rediss://`",
                ));
            }
            if settings.encrypted { Some(tls::Tls::new(self.certificates)?) } else { None }
        };
        let endpoint = move |address: Address, login: Login, encrypted: bool| {
            #[cfg(not(feature = "redis-tls"))]
            let _ = encrypted;
            Endpoint::new(
                address,
                login,
                #[cfg(feature = "redis-tls")]
                tls.clone().filter(|_| encrypted),
            )
        };
        let Settings { servers, login, encrypted, .. } = settings;
        let server = server_name(&servers, &login);
        let connect: Box<dyn Fn() -> Connection + Send + Sync> = match servers {
            Servers::One(address) => {
                let server = endpoint(address, login, encrypted);
                Box::new(move || Connection::one(server.clone(), timeout))
            }
            #[cfg(feature = "redis-sentinel")]
            Servers::Sentinel(sentinels, master) => {
                let mut endpoints = Vec::new();
                for sentinel in sentinels {
                    if let Servers::One(address) = sentinel.servers {
                        endpoints.push(endpoint(address, sentinel.login, sentinel.encrypted));
                    }
                }
                let server = endpoint(Address::Tcp(String::new(), 0), login, encrypted);
                Box::new(move || Connection::sentinel(endpoints.clone(), master.clone(), server.clone(), timeout))
            }
            #[cfg(feature = "redis-cluster")]
            Servers::Cluster(seeds) => {
                let server = endpoint(Address::Tcp(String::new(), 0), login, encrypted);
                Box::new(move || Connection::cluster(seeds.clone(), server.clone(), timeout))
            }
        };
        let (coalescing, lease) = (self.coalescing, self.lease);
        let make = move || {
            let connection = connect();
            let merging = match () {
                () if lease.is_some() => Merging::LEASES,
                () if connection.is_cluster() => Merging::BY_BUCKET,
                () => Merging::ALL,
            };
            Client {
                connection: Arc::new(connection),
                timeout,
                coalescing: coalescing.then(|| Arc::new(Coalescing::new(merging))),
                leases: lease.map(|(permits, valid_for)| Arc::new(Leases::new(permits, valid_for))),
                later: Arc::default(),
            }
        };
        Ok(RedisBackend {
            shared: Arc::new(Shared {
                server,
                clients: PerProcess::new(),
                make: Box::new(make),
                denial_cache: self.denial_cache && self.lease.is_none(),
                max_waited_keys: self.max_waited_keys,
            }),
        })
    }

    fn settings(&self) -> Result<Settings, BackendError> {
        #[cfg(any(feature = "redis-sentinel", feature = "redis-cluster"))]
        let all = |urls: &[String]| urls.iter().map(|url| config::from_url(url)).collect::<Result<Vec<_>, _>>();
        let mut settings = match &self.servers {
            Some(Named::One(url)) => config::from_url(url)?,
            #[cfg(feature = "redis-sentinel")]
            Some(Named::Sentinel(master, sentinels)) => config::sentinel(all(sentinels)?, master.clone())?,
            #[cfg(feature = "redis-cluster")]
            Some(Named::Cluster(nodes)) => config::cluster(all(nodes)?)?,
            None => config::from_environment(|name| std::env::var_os(name))?,
        };
        let Login { username, password, database, resp2 } = self.login.clone();
        settings.login.resp2 |= resp2;
        #[cfg(feature = "redis-sentinel")]
        if let Servers::Sentinel(sentinels, _) = &mut settings.servers {
            for sentinel in sentinels {
                sentinel.login.resp2 |= resp2;
            }
        }
        if username.is_some() {
            settings.login.username = username;
        }
        if password.is_some() {
            settings.login.password = password;
        }
        if database != 0 {
            settings.login.database = database;
        }
        if settings.login.username.is_some() && settings.login.password.is_none() {
            return Err(BackendError::configuration("a Redis user logs in with a password, and there is none"));
        }
        Ok(settings)
    }
}

/// Server and database. Handles with the same name share their buckets.
fn server_name(servers: &Servers, login: &Login) -> String {
    let servers = match servers {
        Servers::One(address) => address.to_string(),
        #[cfg(feature = "redis-sentinel")]
        Servers::Sentinel(sentinels, master) => {
            let address = |sentinel: &Settings| {
                // A sentinel is one server.
                if let Servers::One(address) = &sentinel.servers { address.to_string() } else { String::new() }
            };
            let mut addresses: Vec<String> = sentinels.iter().map(address).collect();
            addresses.sort_unstable();
            format!("{master} of {}", addresses.join(","))
        }
        #[cfg(feature = "redis-cluster")]
        Servers::Cluster(nodes) => {
            let mut addresses: Vec<String> = nodes.iter().map(ToString::to_string).collect();
            addresses.sort_unstable();
            addresses.join(",")
        }
    };
    format!("{servers}/{}", login.database)
}

impl fmt::Debug for RedisBackendBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // URLs and the other fields may hold passwords and keys.
        f.debug_struct("RedisBackendBuilder")
            .field("timeout", &self.timeout)
            .field("denial_cache", &self.denial_cache)
            .field("coalescing", &self.coalescing)
            .field("lease", &self.lease)
            .finish_non_exhaustive()
    }
}
