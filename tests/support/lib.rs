//! Shared fixtures of the tests.

pub mod oracle;
mod proxy;
mod redis_server;

pub use proxy::{Network, Proxy};
pub use redis_server::RedisServer;
