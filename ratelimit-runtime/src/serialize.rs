//! `Serialize`, by hand: what an operator's page or an error's body shows. Durations are seconds, algorithms are named as in
//! the attribute.

use std::time::Duration;

use serde_core::ser::{Serialize, SerializeStruct, Serializer};

use crate::error::{ExceededKind, RateLimitExceeded};
use crate::limit::{Algorithm, Limit};
use crate::registry::{LimiterInfo, Location};

/// `{"name": "api", "limits": [..], "location": {..}, "allowed": 2, "denied": 1, "dry_run": false, "remaining": 0, "keys": 0}`,
/// `null` for what is `None`; `"copied": true` if it is.
impl Serialize for LimiterInfo {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let LimiterInfo { name, limits, location, copied, allowed, denied, dry_run, remaining, keys } = self;
        let mut fields = serializer.serialize_struct("LimiterInfo", if *copied { 9 } else { 8 })?;
        fields.serialize_field("name", name.as_str())?;
        fields.serialize_field("limits", limits.as_slice())?;
        fields.serialize_field("location", location)?;
        if *copied {
            fields.serialize_field("copied", copied)?;
        } else {
            fields.skip_field("copied")?;
        }
        fields.serialize_field("allowed", allowed)?;
        fields.serialize_field("denied", denied)?;
        fields.serialize_field("dry_run", dry_run)?;
        fields.serialize_field("remaining", remaining)?;
        fields.serialize_field("keys", keys)?;
        fields.end()
    }
}

/// `{"count": 100, "per": 1.0, "algorithm": "token_bucket", "burst": 10}`: `per` in seconds, `burst` of a token bucket only.
impl Serialize for Limit {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let has_burst = self.algorithm() == Algorithm::TokenBucket;
        let mut fields = serializer.serialize_struct("Limit", if has_burst { 4 } else { 3 })?;
        fields.serialize_field("count", &self.count())?;
        fields.serialize_field("per", &self.per().as_secs_f64())?;
        fields.serialize_field("algorithm", &self.algorithm())?;
        if has_burst {
            fields.serialize_field("burst", &self.burst())?;
        } else {
            fields.skip_field("burst")?;
        }
        fields.end()
    }
}

/// As the attribute names it: `"sliding_window"`.
impl Serialize for Algorithm {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// `{"file": "src/api.rs", "line": 12, "column": 1}`.
impl Serialize for Location {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Location { file, line, column } = self;
        let mut fields = serializer.serialize_struct("Location", 3)?;
        fields.serialize_field("file", file)?;
        fields.serialize_field("line", line)?;
        fields.serialize_field("column", column)?;
        fields.end()
    }
}

/// `{"limiter": "api", "kind": "limited", "limit": {..}, "remaining": 0, "retry_after": 0.25}`: `retry_after` in seconds, `null`
/// where it is never. The limiter's name is an internal one: think before it goes to strangers.
impl Serialize for RateLimitExceeded {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_struct("RateLimitExceeded", 5)?;
        fields.serialize_field("limiter", self.limiter())?;
        fields.serialize_field("kind", &self.kind())?;
        fields.serialize_field("limit", &self.limit())?;
        fields.serialize_field("remaining", &self.remaining())?;
        fields.serialize_field("retry_after", &self.retry_after().map(|after| Duration::as_secs_f64(&after)))?;
        fields.end()
    }
}

/// `"limited"`, `"cost_exceeds_limit"` or `"backend_failed"`.
impl Serialize for ExceededKind {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}
