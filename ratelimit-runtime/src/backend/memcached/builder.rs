//! Setting up a Memcached backend.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::client::Client;
use super::config;
use super::{MemcachedBackend, Shared};
use crate::backend::TIMEOUT;
use crate::backend::coalesce::Merging;
use crate::backend::remote::Remote;
use crate::error::BackendError;
use crate::rt::process::PerProcess;

/// Makes a [`MemcachedBackend`].
///
/// ```
/// use std::time::Duration;
/// use ratelimit_runtime::MemcachedBackend;
///
/// let backend = MemcachedBackend::builder().url("memcached://cache:11211").timeout(Duration::from_millis(30)).build()?;
/// # Ok::<(), ratelimit_runtime::BackendError>(())
/// ```
#[derive(Clone)]
pub struct MemcachedBackendBuilder {
    url: Option<String>,
    timeout: Option<Duration>,
    denial_cache: bool,
}

impl MemcachedBackendBuilder {
    pub(super) fn new() -> MemcachedBackendBuilder {
        MemcachedBackendBuilder { url: None, timeout: None, denial_cache: true }
    }

    /// The servers' URL, in place of the environment's; see [`MemcachedBackend::new`].
    pub fn url(mut self, url: impl Into<String>) -> MemcachedBackendBuilder {
        self.url = Some(url.into());
        self
    }

    /// The longest time for a decision, connecting included, in place of the URL's. The default is
    /// 100 ms, the minimum 1 ms, the maximum 1 hour.
    pub fn timeout(mut self, timeout: Duration) -> MemcachedBackendBuilder {
        self.timeout = Some(timeout);
        self
    }

    /// Whether denials are cached, as [`Backend::denial_cache`](crate::Backend::denial_cache)
    /// describes. On by default.
    pub fn denial_cache(mut self, on: bool) -> MemcachedBackendBuilder {
        self.denial_cache = on;
        self
    }

    /// Builds the backend. Fails if the URL, an environment variable or the timeout is wrong.
    pub fn build(self) -> Result<MemcachedBackend, BackendError> {
        let settings = match &self.url {
            Some(url) => config::from_url(url)?,
            None => config::from_environment(|name| std::env::var_os(name))?,
        };
        let timeout = self.timeout.or(settings.timeout).unwrap_or(TIMEOUT);
        if !(Duration::from_millis(1)..=Duration::from_secs(3_600)).contains(&timeout) {
            return Err(BackendError::configuration("the timeout of a Memcached backend is from 1 ms to 1 hour"));
        }
        let servers = settings.servers;
        let names: Vec<String> = servers.iter().map(ToString::to_string).collect();
        let make = move || Remote::new(Client::new(&servers, timeout), Merging::BY_SWAP);
        Ok(MemcachedBackend {
            shared: Arc::new(Shared {
                server: names.join(","),
                timeout,
                uses_denial_cache: self.denial_cache,
                remotes: PerProcess::new(),
                make: Box::new(make),
            }),
        })
    }
}

/// Without the URL: it might hold a password, although none is supported.
impl fmt::Debug for MemcachedBackendBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemcachedBackendBuilder")
            .field("timeout", &self.timeout)
            .field("denial_cache", &self.denial_cache)
            .finish_non_exhaustive()
    }
}
