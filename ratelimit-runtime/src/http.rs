//! What a denied call answers over HTTP.
//!
//! 429 with `Retry-After` (RFC 9110), `RateLimit-Policy` and `RateLimit` (IETF draft-ietf-httpapi-ratelimit-headers-11) and
//! a problem document (RFC 9457) of the draft's type; 503 where the backend failed. A policy is named for its numbers:
//! neither the limiter's name nor the key is told to clients.

#[cfg(feature = "actix-web")]
pub(crate) mod actix_web;
#[cfg(feature = "axum")]
mod axum;
#[cfg(any(feature = "axum", feature = "actix-web"))]
pub(crate) mod client_ip;
mod fields;
#[cfg(any(feature = "axum", feature = "tower"))]
mod response;
#[cfg(feature = "tower")]
pub(crate) mod tower;

use crate::error::{ExceededKind, RateLimitExceeded};

/// An answer, for whatever framework.
struct Answer {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: String,
}

const CONTENT_TYPE: &str = "application/problem+json";

fn answer(exceeded: &RateLimitExceeded) -> Answer {
    let mut headers = Vec::with_capacity(4);
    headers.push(("content-type", CONTENT_TYPE.to_owned()));
    if let Some(seconds) = exceeded.retry_after_secs() {
        headers.push(("retry-after", seconds.to_string()));
    }
    let detail = match exceeded.kind() {
        ExceededKind::BackendFailed => {
            // A problem without a type has its status's own title.
            let body = r#"{"title":"Service Unavailable","status":503,"detail":"The rate limit cannot be decided at the moment"}"#;
            return Answer { status: 503, headers, body: body.to_owned() };
        }
        ExceededKind::Limited => "",
        ExceededKind::CostExceedsLimit => r#","detail":"The request is larger than the limit: waiting does not help""#,
    };
    headers.extend(fields::standard(&exceeded.limit(), exceeded.remaining(), exceeded.retry_after_secs()));
    let policy = fields::policy_name(&exceeded.limit());
    let body = format!(
        r#"{{"type":"https://iana.org/assignments/http-problem-types#quota-exceeded","title":"The rate limit of this resource is exceeded","status":429{detail},"violated-policies":["{policy}"]}}"#
    );
    Answer { status: 429, headers, body }
}

/// What an annotated function that returns `impl IntoResponse` or `impl Responder` really returns.
#[cfg(any(feature = "axum", feature = "actix-web"))]
#[derive(Debug)]
pub enum Limited<T> {
    /// What the body returned.
    Admitted(T),
    /// The call was denied.
    Denied(RateLimitExceeded),
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::error::Name;
    use crate::limit::Limit;

    fn exceeded(limit: Limit, kind: ExceededKind) -> RateLimitExceeded {
        RateLimitExceeded {
            limiter: Name::Static("secret::name"),
            limit,
            retry_after: 11_100_000_000,
            remaining: 2,
            position: 0,
            kind,
        }
    }

    #[test]
    fn a_denied_call_tells_the_policy_and_when_to_come_back() {
        let answer = answer(&exceeded(Limit::new(5, Duration::from_secs(60)), ExceededKind::Limited));
        let header = |name| answer.headers.iter().find(|(header, _)| *header == name).map(|(_, value)| value.as_str());
        assert_eq!(answer.status, 429);
        assert_eq!(header("retry-after"), Some("12"));
        assert_eq!(header("ratelimit-policy"), Some(r#""5-per-60s";q=5;w=60"#));
        assert_eq!(header("ratelimit"), Some(r#""5-per-60s";r=2;t=12"#));
        assert!(answer.body.contains(r#""violated-policies":["5-per-60s"]"#));
        assert!(!format!("{:?}{}", answer.headers, answer.body).contains("secret"));
    }

    #[test]
    fn windows_below_a_second_are_left_out() {
        let answer = answer(&exceeded(Limit::new(5, Duration::from_millis(10)), ExceededKind::Limited));
        assert!(answer.headers.iter().all(|(name, _)| !name.starts_with("ratelimit")));
    }

    #[test]
    fn a_request_that_never_fits_is_told_so_and_no_time() {
        let never = RateLimitExceeded {
            retry_after: u64::MAX,
            ..exceeded(Limit::new(5, Duration::from_secs(60)), ExceededKind::CostExceedsLimit)
        };
        let answer = answer(&never);
        assert!(answer.headers.iter().all(|(name, _)| *name != "retry-after"));
        assert!(answer.headers.contains(&("ratelimit", r#""5-per-60s";r=2"#.to_owned())), "{:?}", answer.headers);
        assert!(answer.body.contains("waiting does not help"), "{}", answer.body);
    }

    #[test]
    fn a_failed_backend_is_unavailable() {
        let answer = answer(&exceeded(Limit::new(5, Duration::from_secs(60)), ExceededKind::BackendFailed));
        assert_eq!(answer.status, 503);
        assert!(answer.headers.iter().any(|(name, _)| *name == "retry-after"));
        assert!(answer.body.contains(r#""status":503"#), "{}", answer.body);
    }
}
