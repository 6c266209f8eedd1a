//! Which server a call goes to: the only one, the master behind Sentinel, or a cluster's by slot.

#[cfg(feature = "redis-cluster")]
pub(super) mod cluster;
pub(super) mod connection;
#[cfg(any(feature = "redis-sentinel", feature = "redis-cluster"))]
pub(super) mod discovery;
#[cfg(feature = "redis-sentinel")]
pub(super) mod sentinel;
