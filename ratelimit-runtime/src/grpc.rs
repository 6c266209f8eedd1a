//! The gRPC answer to a denied call: tonic's `Status`.

use std::time::Duration;

use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::error::{ExceededKind, RateLimitExceeded};

/// Milliseconds that a client's retry policy must wait before it tries again; -1 forbids retries
/// (gRFC A6).
const PUSHBACK: &str = "grpc-retry-pushback-ms";

/// `RESOURCE_EXHAUSTED`, `UNAVAILABLE` if the backend failed, or `INTERNAL` if the call passed a
/// wrong number of keys.
///
/// The time to wait is sent twice: as a `google.rpc.RetryInfo`, and as the trailer
/// `grpc-retry-pushback-ms`, which clients with a retry policy obey. A call that can never fit has
/// no `RetryInfo` and a pushback of -1, which stops retries. Clients see neither the limiter's name
/// nor the key.
impl From<RateLimitExceeded> for Status {
    fn from(exceeded: RateLimitExceeded) -> Status {
        let (code, message) = match exceeded.kind() {
            ExceededKind::BackendFailed => (Code::Unavailable, "the rate limit cannot be decided at the moment"),
            ExceededKind::Limited => (Code::ResourceExhausted, "the rate limit of this method is exceeded"),
            ExceededKind::Blocked => {
                (Code::ResourceExhausted, "further calls of this method are blocked for the time being")
            }
            ExceededKind::CostExceedsLimit => (Code::ResourceExhausted, "the call is larger than its rate limit"),
            ExceededKind::WrongKeys => (Code::Internal, "the rate limit of this method is called wrongly"),
        };
        let after = exceeded.retry_after();
        let mut trailers = MetadataMap::new();
        trailers.insert(PUSHBACK, MetadataValue::from(pushback(after)));
        match after {
            Some(after) => {
                let details = ErrorDetails::with_retry_info(Some(after));
                Status::with_error_details_and_metadata(code, message, details, trailers)
            }
            None => Status::with_metadata(code, message, trailers),
        }
    }
}

/// Whole milliseconds, rounded up. Never 0, which means at once, and capped at `i32::MAX`, because
/// clients read a larger value as -1.
fn pushback(after: Option<Duration>) -> i32 {
    let millis = after.map(|after| after.as_nanos().div_ceil(1_000_000).max(1));
    millis.map_or(-1, |millis| millis.try_into().unwrap_or(i32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pushback_is_rounded_up_at_least_1_and_capped() {
        for (after, expected) in [
            (Some(Duration::ZERO), 1),
            (Some(Duration::from_nanos(1)), 1),
            (Some(Duration::from_millis(1_500)), 1_500),
            (Some(Duration::from_nanos(1_500_000_001)), 1_501),
            (Some(Duration::from_secs(60 * 60 * 24 * 366)), i32::MAX),
            (None, -1),
        ] {
            assert_eq!(pushback(after), expected, "{after:?}");
        }
    }
}
