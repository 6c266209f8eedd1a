//! What a denied call answers over gRPC: denied tonic methods.

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::error::{ExceededKind, RateLimitExceeded};

/// `RESOURCE_EXHAUSTED`, with the time to wait as a `google.rpc.RetryInfo` (none where waiting does not help);
/// `UNAVAILABLE` where the backend failed. Neither the limiter's name nor the key is told to clients.
impl From<RateLimitExceeded> for Status {
    fn from(exceeded: RateLimitExceeded) -> Status {
        let (code, message) = match exceeded.kind() {
            ExceededKind::BackendFailed => (Code::Unavailable, "the rate limit cannot be decided at the moment"),
            ExceededKind::Limited => (Code::ResourceExhausted, "the rate limit of this method is exceeded"),
            ExceededKind::CostExceedsLimit => (Code::ResourceExhausted, "the call is larger than its rate limit"),
        };
        match exceeded.retry_after() {
            Some(after) => Status::with_error_details(code, message, ErrorDetails::with_retry_info(Some(after))),
            None => Status::new(code, message),
        }
    }
}
