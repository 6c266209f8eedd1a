//! From a URL, the environment or a builder to a server and a login.

pub(super) mod builder;
pub(super) mod config;
pub(super) mod endpoint;
#[cfg(feature = "redis-tls")]
pub(super) mod tls;
