//! What a denied call answers over HTTP.
//!
//! 429 with `Retry-After` (RFC 9110), `RateLimit-Policy` and `RateLimit` (IETF draft-ietf-httpapi-ratelimit-headers-11) and
//! a problem document (RFC 9457) of the draft's type; 503 where the backend failed. A policy is named for its numbers:
//! neither the limiter's name nor the key is told to clients.

#[cfg(feature = "actix-web")]
mod actix_web;
#[cfg(feature = "axum")]
mod axum;

use std::time::Duration;

use sfv::{Error, KeyRef, ListSerializer, StringRef};

use crate::error::{ExceededKind, RateLimitExceeded};
use crate::limit::Limit;

/// An answer, for whatever framework.
struct Answer {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: String,
}

const CONTENT_TYPE: &str = "application/problem+json";

fn answer(exceeded: &RateLimitExceeded) -> Answer {
    let failed = exceeded.kind() == ExceededKind::BackendFailed;
    let mut headers = Vec::with_capacity(4);
    headers.push(("content-type", CONTENT_TYPE.to_owned()));
    if let Some(seconds) = exceeded.retry_after_secs() {
        headers.push(("retry-after", seconds.to_string()));
    }
    if failed {
        let body = r#"{"title":"The rate limit cannot be decided at the moment","status":503}"#.to_owned();
        return Answer { status: 503, headers, body };
    }
    let policy = policy_name(&exceeded.limit());
    // What cannot be written as a structured field is left out; the answer stands without.
    if let Ok(Some(value)) = policy_field(&policy, &exceeded.limit()) {
        headers.push(("ratelimit-policy", value));
    }
    if let Ok(Some(value)) = limit_field(&policy, exceeded) {
        headers.push(("ratelimit", value));
    }
    let body = format!(
        r#"{{"type":"https://iana.org/assignments/http-problem-types#quota-exceeded","title":"The rate limit of this resource is exceeded","status":429,"violated-policies":["{policy}"]}}"#
    );
    Answer { status: 429, headers, body }
}

/// As in `100-per-60s`: letters, digits and dashes only.
fn policy_name(limit: &Limit) -> String {
    let per = limit.per();
    if per.subsec_nanos() == 0 {
        format!("{}-per-{}s", limit.count(), per.as_secs())
    } else {
        format!("{}-per-{}us", limit.count(), per.as_micros())
    }
}

/// `"100-per-60s";q=100;w=60`. The draft cannot express a window shorter than a second: nothing then.
fn policy_field(policy: &str, limit: &Limit) -> Result<Option<String>, Error> {
    let per = limit.per();
    if per < Duration::from_secs(1) {
        return Ok(None);
    }
    let mut list = ListSerializer::new();
    let item = list
        .bare_item(StringRef::from_str(policy)?)
        .parameter(KeyRef::from_str("q")?, sfv::Integer::from(limit.count()));
    if per.subsec_nanos() == 0 {
        let _ = item.parameter(KeyRef::from_str("w")?, integer(per.as_secs()));
    }
    Ok(list.finish())
}

/// `"100-per-60s";r=0;t=12`.
fn limit_field(policy: &str, exceeded: &RateLimitExceeded) -> Result<Option<String>, Error> {
    if exceeded.limit().per() < Duration::from_secs(1) {
        return Ok(None);
    }
    let mut list = ListSerializer::new();
    let item = list
        .bare_item(StringRef::from_str(policy)?)
        .parameter(KeyRef::from_str("r")?, sfv::Integer::from(exceeded.remaining()));
    if let Some(seconds) = exceeded.retry_after_secs() {
        let _ = item.parameter(KeyRef::from_str("t")?, integer(seconds));
    }
    Ok(list.finish())
}

/// 584 years at the most, far below the 15 digits of a structured field.
fn integer(seconds: u64) -> sfv::Integer {
    sfv::Integer::try_from(seconds).unwrap_or(sfv::Integer::MAX)
}

/// What an annotated function that returns `impl IntoResponse` or `impl Responder` really returns.
#[derive(Debug)]
pub enum Limited<T> {
    /// What the body returned.
    Admitted(T),
    /// The call was denied.
    Denied(RateLimitExceeded),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Name;

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
    fn a_failed_backend_is_unavailable() {
        let answer = answer(&exceeded(Limit::new(5, Duration::from_secs(60)), ExceededKind::BackendFailed));
        assert_eq!(answer.status, 503);
        assert!(answer.headers.iter().any(|(name, _)| *name == "retry-after"));
    }
}
