//! The HTTP answer to a denied call.
//!
//! 429 with `Retry-After` (RFC 9110), `RateLimit-Policy` and `RateLimit` (IETF
//! draft-ietf-httpapi-ratelimit-headers-11) and a problem document (RFC 9457) of the draft's type.
//! 503 if the backend failed; 422 if the cost can never fit, because clients repeat a 429. None may
//! be stored (RFC 6585, section 4). A policy is named after its numbers: clients see neither the
//! limiter's name nor the key.

#[cfg(feature = "actix-web")]
pub(crate) mod actix_web;
pub(crate) mod answers;
#[cfg(feature = "axum")]
mod axum;
#[cfg(any(feature = "axum", feature = "actix-web"))]
pub(crate) mod client_ip;
mod fields;
#[cfg(any(feature = "axum", feature = "tower"))]
mod response;
#[cfg(feature = "tower")]
pub(crate) mod tower;

use self::answers::HttpAnswers;
use crate::error::{ExceededKind, RateLimitExceeded};

/// An answer, independent of the framework.
struct Answer {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: String,
}

const CONTENT_TYPE: &str = "application/problem+json";

fn answer(exceeded: &RateLimitExceeded) -> Answer {
    answer_as(exceeded, answers::current())
}

fn answer_as(exceeded: &RateLimitExceeded, answers: HttpAnswers) -> Answer {
    let mut headers = Vec::with_capacity(8);
    headers.push(("content-type", CONTENT_TYPE.to_owned()));
    headers.push(("cache-control", "no-store".to_owned()));
    if let Some(seconds) = exceeded.retry_after_secs() {
        headers.push(("retry-after", seconds.to_string()));
        if answers.sends_retry_after_ms()
            && let Some(after) = exceeded.retry_after()
        {
            headers.push(("retry-after-ms", after.as_nanos().div_ceil(1_000_000).max(1).to_string()));
        }
    }
    if exceeded.kind() == ExceededKind::BackendFailed {
        // A problem without a type takes the title of its status.
        let body =
            r#"{"title":"Service Unavailable","status":503,"detail":"The rate limit cannot be decided at the moment"}"#;
        return Answer { status: 503, headers, body: body.to_owned() };
    }
    if exceeded.kind() == ExceededKind::WrongKeys {
        let body = r#"{"title":"Internal Server Error","status":500,"detail":"The rate limit is called wrongly"}"#;
        return Answer { status: 500, headers, body: body.to_owned() };
    }
    let (status, detail) = match exceeded.retry_after_secs() {
        Some(_) if exceeded.kind() == ExceededKind::Blocked => {
            (429, r#","detail":"Further requests are blocked for the time being""#)
        }
        Some(_) => (429, ""),
        None => (answers.never_fits(), r#","detail":"The request is larger than the limit: waiting does not help""#),
    };
    let limit = exceeded.limit();
    // A blocked key cannot use the permits that it has left.
    let remaining = if exceeded.kind() == ExceededKind::Blocked { 0 } else { exceeded.remaining() };
    headers.extend(fields::standard(answers.form(), &limit, remaining, exceeded.retry_after_secs()));
    // A blocked key violates no policy if its limit does not apply.
    let violated = if limit.is_unlimited() { String::new() } else { format!("\"{}\"", fields::policy_name(&limit)) };
    let body = format!(
        r#"{{"type":"https://iana.org/assignments/http-problem-types#quota-exceeded","title":"The rate limit of this resource is exceeded","status":{status}{detail},"violated-policies":[{violated}]}}"#
    );
    Answer { status, headers, body }
}

/// For responses of your own.
impl RateLimitExceeded {
    /// The HTTP status of this denial: 429; 503 if the backend failed; 500 if the call passed a
    /// wrong number of keys. A cost that can never fit gets 422, or the status set by
    /// [`set_http_answers`](crate::set_http_answers).
    pub fn http_status(&self) -> u16 {
        answer(self).status
    }

    /// The header fields of this denial, for a response with a body of its own: `Cache-Control`,
    /// `Retry-After` (and `Retry-After-Ms` if it is switched on), `RateLimit-Policy` and `RateLimit`.
    ///
    /// ```
    /// # #[cfg(feature = "axum")] {
    /// use axum::{http::StatusCode, response::{AppendHeaders, IntoResponse}};
    /// use ratelimit_runtime::RateLimitExceeded;
    ///
    /// fn slow_down(exceeded: RateLimitExceeded) -> impl IntoResponse {
    ///     (StatusCode::TOO_MANY_REQUESTS, AppendHeaders(exceeded.http_headers()), "Slow down, please.")
    /// }
    /// # }
    /// ```
    ///
    /// In actix-web, pass each of them to `HttpResponseBuilder::insert_header`.
    pub fn http_headers(&self) -> impl Iterator<Item = (&'static str, String)> + use<> {
        answer(self).headers.into_iter().filter(|(name, _)| *name != "content-type")
    }
}

/// The real return type of an annotated function that is declared as `impl IntoResponse` or `impl
/// Responder`.
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

    use super::answers::RateLimitFields;
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
        assert_eq!(header("retry-after-ms"), None);
        assert_eq!(header("cache-control"), Some("no-store"));
        assert_eq!(header("ratelimit-policy"), Some(r#""5-per-60s";q=5;w=60"#));
        assert_eq!(header("ratelimit"), Some(r#""5-per-60s";r=2;t=12"#));
        assert!(answer.body.contains(r#""violated-policies":["5-per-60s"]"#));
        assert!(!format!("{:?}{}", answer.headers, answer.body).contains("secret"));
    }

    #[cfg(feature = "calendar")]
    #[test]
    fn a_calendar_tells_no_length_of_its_windows() {
        use crate::calendar::Calendar;

        let exceeded = exceeded(Limit::per_calendar(5, Calendar::MONTH), ExceededKind::Limited);
        let told = |form| {
            let headers = answer_as(&exceeded, HttpAnswers::new().fields(form)).headers;
            let told = headers.into_iter().filter(|(name, _)| name.starts_with("ratelimit"));
            told.map(|(_, value)| value).collect::<Vec<_>>()
        };
        let draft_11 = [r#""5-per-calendar-month";q=5"#, r#""5-per-calendar-month";r=2;t=12"#];
        assert_eq!(told(RateLimitFields::Draft11), draft_11);
        assert_eq!(told(RateLimitFields::Draft7), ["5", "limit=5, remaining=2, reset=12"]);
        assert_eq!(told(RateLimitFields::Draft6), ["5", "5", "2", "12"]);
    }

    #[test]
    fn windows_below_a_second_are_left_out() {
        let answer = answer(&exceeded(Limit::new(5, Duration::from_millis(10)), ExceededKind::Limited));
        assert!(answer.headers.iter().all(|(name, _)| !name.starts_with("ratelimit")));
    }

    fn never_fits() -> RateLimitExceeded {
        RateLimitExceeded {
            retry_after: u64::MAX,
            ..exceeded(Limit::new(5, Duration::from_secs(60)), ExceededKind::CostExceedsLimit)
        }
    }

    #[test]
    fn a_request_that_never_fits_gets_422_and_no_time() {
        let answer = answer(&never_fits());
        assert_eq!(answer.status, 422);
        assert!(answer.headers.iter().all(|(name, _)| !name.starts_with("retry-after")));
        assert!(answer.headers.contains(&("ratelimit", r#""5-per-60s";r=2"#.to_owned())), "{:?}", answer.headers);
        assert!(answer.headers.contains(&("cache-control", "no-store".to_owned())), "{:?}", answer.headers);
        assert!(answer.body.contains("waiting does not help") && answer.body.contains(r#""status":422"#));
    }

    #[test]
    fn the_status_of_a_request_that_never_fits_can_be_chosen() {
        let answers = HttpAnswers::new().never_fits_status(400).unwrap();
        let answer = answer_as(&never_fits(), answers);
        assert_eq!(answer.status, 400);
        assert!(answer.body.contains(r#""status":400"#), "{}", answer.body);
    }

    #[test]
    fn retry_after_ms_is_rounded_up_and_optional() {
        let answers = HttpAnswers::new().retry_after_ms(true);
        let limit = Limit::new(5, Duration::from_millis(200));
        for (nanos, millis, seconds) in
            [(144_000_001, "145", "1"), (1, "1", "1"), (0, "1", "1"), (2_000_000_000, "2000", "2")]
        {
            let exceeded = RateLimitExceeded { retry_after: nanos, ..exceeded(limit, ExceededKind::Limited) };
            let headers = answer_as(&exceeded, answers).headers;
            assert!(headers.contains(&("retry-after-ms", millis.to_owned())), "{headers:?}");
            assert!(headers.contains(&("retry-after", seconds.to_owned())), "{headers:?}");
        }
    }

    #[test]
    fn older_drafts_are_written_as_they_were() {
        let headers = |form, exceeded: &RateLimitExceeded| answer_as(exceeded, HttpAnswers::new().fields(form)).headers;
        let exceeded = exceeded(Limit::new(5, Duration::from_secs(60)), ExceededKind::Limited);
        let told = |form| {
            let headers = headers(form, &exceeded);
            headers.into_iter().filter(|(name, _)| name.starts_with("ratelimit")).collect::<Vec<_>>()
        };
        let owned = |fields: &[(&'static str, &str)]| {
            fields.iter().map(|(name, value)| (*name, (*value).to_owned())).collect::<Vec<_>>()
        };
        let seven = [("ratelimit-policy", "5;w=60"), ("ratelimit", "limit=5, remaining=2, reset=12")];
        assert_eq!(told(RateLimitFields::Draft7), owned(&seven));
        let six = [
            ("ratelimit-policy", "5;w=60"),
            ("ratelimit-limit", "5"),
            ("ratelimit-remaining", "2"),
            ("ratelimit-reset", "12"),
        ];
        assert_eq!(told(RateLimitFields::Draft6), owned(&six));
        // Both drafts require a time: without one, only the policy is sent.
        for form in [RateLimitFields::Draft6, RateLimitFields::Draft7] {
            let headers = headers(form, &never_fits());
            assert!(headers.contains(&("ratelimit-policy", "5;w=60".to_owned())), "{headers:?}");
            assert!(!headers.iter().any(|(name, _)| name.starts_with("ratelimit") && *name != "ratelimit-policy"));
        }
    }

    #[test]
    fn a_failed_backend_is_unavailable() {
        let answer = answer(&exceeded(Limit::new(5, Duration::from_secs(60)), ExceededKind::BackendFailed));
        assert_eq!(answer.status, 503);
        assert!(answer.headers.iter().any(|(name, _)| *name == "retry-after"));
        assert!(answer.body.contains(r#""status":503"#), "{}", answer.body);
    }
}
