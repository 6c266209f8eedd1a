//! The header fields that report limits to clients.

#[cfg(any(feature = "tower", feature = "actix-web"))]
use std::time::{Duration, SystemTime};

use sfv::{Error, KeyRef, ListSerializer, StringRef};

#[cfg(any(feature = "tower", feature = "actix-web"))]
use super::answers;
use super::answers::RateLimitFields;
use crate::limit::Limit;
#[cfg(any(feature = "tower", feature = "actix-web"))]
use crate::response_context::{Left, Note};

/// A header field: its name and its value.
type Field = (&'static str, String);

/// The fields that report this limit in the form of a draft; none if it cannot be reported.
pub(super) fn standard(form: RateLimitFields, limit: &Limit, remaining: u32, reset_secs: Option<u64>) -> Vec<Field> {
    if !limit.is_reportable() {
        return Vec::new();
    }
    // A value that cannot be written as a structured field is skipped; the answer stands without
    // it.
    let mut fields = Vec::with_capacity(4);
    if form == RateLimitFields::Draft11 {
        let policy = policy_name(limit);
        let policy_field = policy_field(&policy, limit).ok().flatten();
        fields.extend(policy_field.map(|value| ("ratelimit-policy", value)));
        let limit_field = limit_field(&policy, remaining, reset_secs).ok().flatten();
        fields.extend(limit_field.map(|value| ("ratelimit", value)));
        return fields;
    }
    let window = window_secs(limit).map_or_else(String::new, |seconds| format!(";w={seconds}"));
    fields.push(("ratelimit-policy", format!("{}{window}", limit.count())));
    if let Some(seconds) = reset_secs {
        let capacity = limit.capacity();
        if form == RateLimitFields::Draft7 {
            fields.push(("ratelimit", format!("limit={capacity}, remaining={remaining}, reset={seconds}")));
        } else {
            fields.push(("ratelimit-limit", capacity.to_string()));
            fields.push(("ratelimit-remaining", remaining.to_string()));
            fields.push(("ratelimit-reset", seconds.to_string()));
        }
    }
    fields
}

/// The `X-RateLimit-*` trio beside the fields of the draft.
#[cfg(any(feature = "tower", feature = "actix-web"))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trio {
    Absent,
    /// `X-RateLimit-Reset` in seconds from now.
    Seconds,
    /// `X-RateLimit-Reset` in seconds since the Unix epoch.
    Epoch,
}

/// The draft's fields and the trio, for the decisions of one request. A response that already has
/// fields of one kind keeps them, even for another limit. A refusal gets none if an unreportable
/// limit may have caused it.
#[cfg(any(feature = "tower", feature = "actix-web"))]
pub(super) fn of_request(note: &Note, status: u16, trio: Trio, has: impl Fn(&str) -> bool) -> Vec<Field> {
    let Some(left) = note.tightest().filter(|_| status < 400 || !note.has_unreported_denial()) else {
        return Vec::new();
    };
    let Left { limit, remaining, .. } = *left;
    let reset_after = left.reset_after();
    let reset_secs = reset_after.and_then(whole_seconds);
    let mut fields = Vec::with_capacity(7);
    if !["ratelimit-policy", "ratelimit", "ratelimit-limit", "ratelimit-remaining", "ratelimit-reset"]
        .into_iter()
        .any(&has)
    {
        fields.extend(standard(answers::current().form(), &limit, remaining, reset_secs));
    }
    if trio != Trio::Absent && !["x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset"].into_iter().any(has)
    {
        let reset = if trio == Trio::Epoch {
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            reset_after.and_then(|after| whole_seconds(now.saturating_add(after)))
        } else {
            reset_secs
        };
        fields.push(("x-ratelimit-limit", limit.capacity().to_string()));
        fields.push(("x-ratelimit-remaining", remaining.to_string()));
        fields.extend(reset.map(|seconds| ("x-ratelimit-reset", seconds.to_string())));
    }
    fields
}

/// Rounded up, so that clients do not come back too early.
#[cfg(any(feature = "tower", feature = "actix-web"))]
fn whole_seconds(duration: Duration) -> Option<u64> {
    duration.as_nanos().div_ceil(1_000_000_000).try_into().ok()
}

/// A name such as `100-per-60s` or `100-per-calendar-month`: letters, digits and dashes only.
pub(super) fn policy_name(limit: &Limit) -> String {
    #[cfg(feature = "calendar")]
    if let Some(calendar) = limit.calendar() {
        return format!("{}-per-calendar-{}", limit.count(), calendar.unit().name());
    }
    let per = limit.per();
    if per.subsec_nanos() == 0 {
        format!("{}-per-{}s", limit.count(), per.as_secs())
    } else {
        format!("{}-per-{}us", limit.count(), per.as_micros())
    }
}

/// The length of the limit's windows, if it is one, and a whole number of seconds.
fn window_secs(limit: &Limit) -> Option<u64> {
    let has_length = !limit.is_calendar() && limit.per().subsec_nanos() == 0;
    has_length.then(|| limit.per().as_secs())
}

/// `"100-per-60s";q=100;w=60`, without `w` if the windows are not of one whole number of seconds.
fn policy_field(policy: &str, limit: &Limit) -> Result<Option<String>, Error> {
    let mut list = ListSerializer::new();
    let item = list
        .bare_item(StringRef::from_str(policy)?)
        .parameter(KeyRef::from_str("q")?, sfv::Integer::from(limit.count()));
    if let Some(seconds) = window_secs(limit) {
        let _ = item.parameter(KeyRef::from_str("w")?, integer(seconds));
    }
    Ok(list.finish())
}

/// `"100-per-60s";r=0;t=12`.
fn limit_field(policy: &str, remaining: u32, reset_secs: Option<u64>) -> Result<Option<String>, Error> {
    let mut list = ListSerializer::new();
    let item =
        list.bare_item(StringRef::from_str(policy)?).parameter(KeyRef::from_str("r")?, sfv::Integer::from(remaining));
    if let Some(seconds) = reset_secs {
        let _ = item.parameter(KeyRef::from_str("t")?, integer(seconds));
    }
    Ok(list.finish())
}

/// At most 584 years, far below the 15 digits of a structured field.
fn integer(seconds: u64) -> sfv::Integer {
    sfv::Integer::try_from(seconds).unwrap_or(sfv::Integer::MAX)
}
