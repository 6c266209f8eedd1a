//! jsonrpsee: an error object whose data say when to retry. The attribute belongs on the methods of
//! the `impl`: jsonrpsee drops it from those of the `#[rpc]` trait, and nothing is limited.

use ::jsonrpsee::core::{RpcResult, async_trait};
use ::jsonrpsee::proc_macros::rpc;
use ::jsonrpsee::types::ErrorObject;
use ratelimit_runtime::{RateLimitExceeded, rate_limit};

/// The application's own code, from the range that JSON-RPC leaves to servers.
const RATE_LIMITED: i32 = -32_029;

/// For the attribute's `or_else`.
///
/// # Errors
/// Always.
pub fn limited<T>(exceeded: RateLimitExceeded) -> RpcResult<T> {
    Err(ErrorObject::owned(RATE_LIMITED, exceeded.to_string(), exceeded.retry_after_secs()))
}

/// Methods.
#[rpc(server)]
pub trait Api {
    /// A search.
    #[method(name = "search")]
    async fn search(&self, user: String) -> RpcResult<String>;
}

/// Their server.
#[derive(Clone, Copy, Debug)]
pub struct Server;

#[async_trait]
impl ApiServer for Server {
    #[rate_limit(count = 1, per = "1m", key = user, or_else = limited)]
    async fn search(&self, user: String) -> RpcResult<String> {
        Ok(format!("found for {user}"))
    }
}
