//! Shared fixtures of the tests.

pub mod oracle;
mod redis_server;

pub use redis_server::RedisServer;
