//! Hand-written `Serialize` and `Deserialize`, for operators' pages, error bodies and
//! configuration. Durations are seconds; algorithms have their names from the attribute.

use std::fmt;
use std::time::Duration;

use serde_core::de::{Deserialize, Deserializer, Error, MapAccess, Unexpected, Visitor};
use serde_core::ser::{Serialize, SerializeStruct, Serializer};

use crate::error::{ExceededKind, RateLimitExceeded};
use crate::limit::{Algorithm, Limit};
use crate::parse;
use crate::registry::{LimiterInfo, Location};

/// `{"name": "api", "limits": [..], "location": {..}, "allowed": 2, "denied": 1, "waiting": 0,
/// "abandoned": 0, "dry_run": false, "enabled": true, "remaining": 0, "keys": 0}`.
///
/// `None` is `null`. `"copied": true` is present only if it is true.
impl Serialize for LimiterInfo {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let LimiterInfo {
            name,
            limits,
            location,
            copied,
            allowed,
            denied,
            waiting,
            abandoned,
            dry_run,
            enabled,
            remaining,
            keys,
            ..
        } = self;
        let mut fields = serializer.serialize_struct("LimiterInfo", if *copied { 12 } else { 11 })?;
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
        fields.serialize_field("waiting", waiting)?;
        fields.serialize_field("abandoned", abandoned)?;
        fields.serialize_field("dry_run", dry_run)?;
        fields.serialize_field("enabled", enabled)?;
        fields.serialize_field("remaining", remaining)?;
        fields.serialize_field("keys", keys)?;
        fields.end()
    }
}

/// `{"count": 100, "per": 1.0, "algorithm": "token_bucket", "burst": 10}`: `per` in seconds,
/// `burst` only for a token bucket.
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

/// The name in the attribute: `"sliding_window"`.
impl Serialize for Algorithm {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// The name in the attribute: `"sliding_window"`.
impl<'de> Deserialize<'de> for Algorithm {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Algorithm, D::Error> {
        struct Name;

        impl Visitor<'_> for Name {
            type Value = Algorithm;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the name of an algorithm")
            }

            fn visit_str<E: Error>(self, name: &str) -> Result<Algorithm, E> {
                parse::algorithm(name).map_err(E::custom)
            }
        }

        deserializer.deserialize_str(Name)
    }
}

/// A string that [`FromStr`](std::str::FromStr) reads (`"100/1m"`), or a table: `count`, `per`
/// (`"1m"`, or a number of seconds), and optionally `algorithm` and `burst`.
impl<'de> Deserialize<'de> for Limit {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Limit, D::Error> {
        struct TextOrTable;

        impl<'de> Visitor<'de> for TextOrTable {
            type Value = Limit;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a limit, as in `100/1m`, or a table of `count` and `per`")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Limit, E> {
                text.parse().map_err(E::custom)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Limit, A::Error> {
                table(map)
            }
        }

        deserializer.deserialize_any(TextOrTable)
    }
}

fn table<'de, A: MapAccess<'de>>(mut map: A) -> Result<Limit, A::Error> {
    let mut fields = LimitFields::default();
    while let Some(name) = map.next_key::<String>()? {
        if !fields.read(&name, &mut map)? {
            return Err(Error::unknown_field(&name, LimitFields::NAMES));
        }
    }
    fields.finish()
}

/// The fields of a limit in a table, as far as they were read.
#[derive(Default)]
pub(crate) struct LimitFields {
    count: Option<u32>,
    per: Option<Per>,
    algorithm: Option<Algorithm>,
    /// Serialized limits have a burst only for token buckets. Other formats may write null.
    #[expect(clippy::option_option, reason = "absent, null, or a number")]
    burst: Option<Option<u32>>,
}

impl LimitFields {
    pub(crate) const NAMES: &[&str] = &["count", "per", "algorithm", "burst"];

    /// Reads the value of a field. Returns false if a limit has no field of this name.
    pub(crate) fn read<'de, A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> Result<bool, A::Error> {
        fn set<'de, T: Deserialize<'de>, A: MapAccess<'de>>(
            slot: &mut Option<T>,
            name: &'static str,
            map: &mut A,
        ) -> Result<bool, A::Error> {
            if slot.replace(map.next_value()?).is_some() { Err(Error::duplicate_field(name)) } else { Ok(true) }
        }

        match name {
            "count" => set(&mut self.count, "count", map),
            "per" => set(&mut self.per, "per", map),
            "algorithm" => set(&mut self.algorithm, "algorithm", map),
            "burst" => set(&mut self.burst, "burst", map),
            _ => Ok(false),
        }
    }

    /// The limit of the fields.
    pub(crate) fn finish<E: Error>(self) -> Result<Limit, E> {
        let count = self.count.ok_or_else(|| E::missing_field("count"))?;
        let Per(per) = self.per.ok_or_else(|| E::missing_field("per"))?;
        let algorithm = self.algorithm.unwrap_or_default();
        let limit = Limit::try_new(count, per).map_err(E::custom)?.with_algorithm(algorithm);
        match self.burst.flatten() {
            Some(burst) => limit.try_with_burst(burst).map_err(E::custom),
            None => Ok(limit),
        }
    }

    /// Whether no field was read.
    #[cfg(feature = "configuration")]
    pub(crate) fn is_empty(&self) -> bool {
        let LimitFields { count, per, algorithm, burst } = self;
        count.is_none() && per.is_none() && algorithm.is_none() && burst.is_none()
    }
}

/// A duration as text or in seconds.
struct Per(Duration);

impl<'de> Deserialize<'de> for Per {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Per, D::Error> {
        struct TextOrSeconds;

        impl Visitor<'_> for TextOrSeconds {
            type Value = Per;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a duration, as in `1m`, or a number of seconds")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Per, E> {
                parse::period(text).map(Per).map_err(E::custom)
            }

            fn visit_u64<E: Error>(self, seconds: u64) -> Result<Per, E> {
                Ok(Per(Duration::from_secs(seconds)))
            }

            fn visit_i64<E: Error>(self, seconds: i64) -> Result<Per, E> {
                let positive = u64::try_from(seconds).map(Duration::from_secs);
                positive.map(Per).map_err(|_| E::invalid_value(Unexpected::Signed(seconds), &self))
            }

            fn visit_f64<E: Error>(self, seconds: f64) -> Result<Per, E> {
                let duration = Duration::try_from_secs_f64(seconds);
                duration.map(Per).map_err(|_| E::invalid_value(Unexpected::Float(seconds), &self))
            }
        }

        deserializer.deserialize_any(TextOrSeconds)
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

/// `{"limiter": "api", "kind": "limited", "limit": {..}, "remaining": 0, "retry_after": 0.25}`:
/// `retry_after` in seconds, `null` for never.
///
/// The limiter's name is internal: think twice before you send it to strangers.
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
