//! Shared fixtures of the tests.

pub mod oracle;
mod proxy;
mod redis_server;
mod server_example;

pub use proxy::{Network, Proxy};
pub use redis_server::RedisServer;
pub use server_example::ServerExample;
