//! The header fields that tell a limit to clients.

use std::time::Duration;

use sfv::{Error, KeyRef, ListSerializer, StringRef};

use crate::limit::Limit;
#[cfg(any(feature = "tower", feature = "actix-web"))]
use crate::noted::Left;

/// `RateLimit-Policy` and `RateLimit`; none for what the draft cannot express.
pub(super) fn standard(
    limit: &Limit,
    remaining: u32,
    reset_secs: Option<u64>,
) -> impl Iterator<Item = (&'static str, String)> + use<> {
    // The draft has whole seconds only: a window shorter than one is not told.
    let is_told = limit.per() >= Duration::from_secs(1);
    let fields = is_told.then(|| {
        let policy = policy_name(limit);
        // What cannot be written as a structured field is left out; the answer stands without.
        let policy_field = policy_field(&policy, limit).ok().flatten().map(|value| ("ratelimit-policy", value));
        let limit_field = limit_field(&policy, remaining, reset_secs).ok().flatten().map(|value| ("ratelimit", value));
        [policy_field, limit_field].into_iter().flatten()
    });
    fields.into_iter().flatten()
}

/// The fields that tell what the decisions of a request left: the draft's and, `with_trio`, those for old clients. What its
/// response tells already, be it of another limit, is left to it.
#[cfg(any(feature = "tower", feature = "actix-web"))]
pub(super) fn of_request(left: &Left, with_trio: bool, has: impl Fn(&str) -> bool) -> Vec<(&'static str, String)> {
    let reset_secs = left.reset_after().and_then(|after| after.as_nanos().div_ceil(1_000_000_000).try_into().ok());
    let mut fields = Vec::with_capacity(5);
    if !has("ratelimit-policy") && !has("ratelimit") {
        fields.extend(standard(&left.limit, left.remaining, reset_secs));
    }
    if with_trio && !["x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset"].into_iter().any(has) {
        fields.push(("x-ratelimit-limit", left.limit.capacity().to_string()));
        fields.push(("x-ratelimit-remaining", left.remaining.to_string()));
        fields.extend(reset_secs.map(|seconds| ("x-ratelimit-reset", seconds.to_string())));
    }
    fields
}

/// As in `100-per-60s`: letters, digits and dashes only.
pub(super) fn policy_name(limit: &Limit) -> String {
    let per = limit.per();
    if per.subsec_nanos() == 0 {
        format!("{}-per-{}s", limit.count(), per.as_secs())
    } else {
        format!("{}-per-{}us", limit.count(), per.as_micros())
    }
}

/// `"100-per-60s";q=100;w=60`, without `w` where the window is no whole number of seconds.
fn policy_field(policy: &str, limit: &Limit) -> Result<Option<String>, Error> {
    let per = limit.per();
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
fn limit_field(policy: &str, remaining: u32, reset_secs: Option<u64>) -> Result<Option<String>, Error> {
    let mut list = ListSerializer::new();
    let item =
        list.bare_item(StringRef::from_str(policy)?).parameter(KeyRef::from_str("r")?, sfv::Integer::from(remaining));
    if let Some(seconds) = reset_secs {
        let _ = item.parameter(KeyRef::from_str("t")?, integer(seconds));
    }
    Ok(list.finish())
}

/// 584 years at the most, far below the 15 digits of a structured field.
fn integer(seconds: u64) -> sfv::Integer {
    sfv::Integer::try_from(seconds).unwrap_or(sfv::Integer::MAX)
}
