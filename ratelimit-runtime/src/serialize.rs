//! Hand-written `Serialize` and `Deserialize`, for operators' pages, error bodies and
//! configuration. Durations are seconds; algorithms have their names from the attribute.

use std::fmt;
use std::time::Duration;

use serde_core::de::{Deserialize, Deserializer, Error, MapAccess, Unexpected, Visitor};
use serde_core::ser::{Serialize, SerializeStruct, Serializer};

#[cfg(feature = "calendar")]
use crate::calendar::{Calendar, Weekday};
use crate::error::{ExceededKind, RateLimitExceeded};
use crate::limit::{Algorithm, Limit};
use crate::parse;
use crate::registry::{LimiterInfo, Location};

/// `{"name": "api", "limits": [..], "location": {..}, "allowed": 2, "denied": 1, "waiting": 0,
/// "abandoned": 0, "dry_run": false, "remaining": 0, "keys": 0}`.
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
            remaining,
            keys,
            ..
        } = self;
        let mut fields = serializer.serialize_struct("LimiterInfo", if *copied { 11 } else { 10 })?;
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
        fields.serialize_field("remaining", remaining)?;
        fields.serialize_field("keys", keys)?;
        fields.end()
    }
}

/// `{"count": 100, "per": 1.0, "algorithm": "token_bucket", "burst": 10}`: `per` in seconds,
/// `burst` only for a token bucket.
///
/// A calendar limit is `{"count": 100, "algorithm": "fixed_window", "calendar": "month", "zone":
/// "Europe/Berlin", "starts_on": 15}`, with `week_starts` and `starts_on` only if they are not the
/// usual ones.
impl Serialize for Limit {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[cfg(feature = "calendar")]
        if let Some(calendar) = self.calendar() {
            return by_calendar(self, calendar, serializer);
        }
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

#[cfg(feature = "calendar")]
fn by_calendar<S: Serializer>(limit: &Limit, calendar: Calendar, serializer: S) -> Result<S::Ok, S::Error> {
    let (weekday, day) = (calendar.first_weekday(), calendar.first_day());
    let (has_weekday, has_day) = (weekday != Weekday::default(), day != 1);
    let mut fields = serializer.serialize_struct("Limit", 4 + usize::from(has_weekday) + usize::from(has_day))?;
    fields.serialize_field("count", &limit.count())?;
    fields.serialize_field("algorithm", &limit.algorithm())?;
    fields.serialize_field("calendar", calendar.unit().name())?;
    fields.serialize_field("zone", calendar.zone())?;
    if has_weekday {
        fields.serialize_field("week_starts", weekday.name())?;
    } else {
        fields.skip_field("week_starts")?;
    }
    if has_day {
        fields.serialize_field("starts_on", &day)?;
    } else {
        fields.skip_field("starts_on")?;
    }
    fields.end()
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
    #[cfg(not(feature = "calendar"))]
    const FIELDS: &[&str] = &["count", "per", "algorithm", "burst"];
    #[cfg(feature = "calendar")]
    const FIELDS: &[&str] = &["count", "per", "algorithm", "burst", "calendar", "zone", "week_starts", "starts_on"];

    fn set<T, E: Error>(slot: &mut Option<T>, name: &'static str, value: T) -> Result<(), E> {
        if slot.replace(value).is_some() { Err(E::duplicate_field(name)) } else { Ok(()) }
    }

    let (mut count, mut per, mut algorithm, mut burst) = (None, None, None, None);
    #[cfg(feature = "calendar")]
    let (mut unit, mut parts) = (None, parse::CalendarParts::default());
    while let Some(name) = map.next_key::<String>()? {
        match name.as_str() {
            "count" => set(&mut count, "count", map.next_value::<u32>()?)?,
            "per" => set(&mut per, "per", map.next_value::<Per>()?.0)?,
            "algorithm" => set(&mut algorithm, "algorithm", map.next_value::<Algorithm>()?)?,
            // Serialized limits have a burst only for token buckets. Other formats may write null.
            "burst" => set(&mut burst, "burst", map.next_value::<Option<u32>>()?)?,
            #[cfg(feature = "calendar")]
            "calendar" => set(&mut unit, "calendar", map.next_value::<String>()?)?,
            #[cfg(feature = "calendar")]
            "zone" => set(&mut parts.zone, "zone", map.next_value::<String>()?)?,
            #[cfg(feature = "calendar")]
            "week_starts" => set(&mut parts.week_starts, "week_starts", map.next_value::<String>()?)?,
            #[cfg(feature = "calendar")]
            "starts_on" => set(&mut parts.starts_on, "starts_on", map.next_value::<u8>()?)?,
            #[cfg(not(feature = "calendar"))]
            "calendar" => return Err(Error::custom(parse::NO_CALENDARS)),
            other => return Err(Error::unknown_field(other, FIELDS)),
        }
    }
    let count = count.ok_or_else(|| Error::missing_field("count"))?;
    #[cfg(feature = "calendar")]
    if let Some(unit) = unit {
        if per.is_some() {
            return Err(Error::custom("a limit has a `per` or a `calendar`: leave out one of them"));
        }
        if algorithm.is_some_and(|algorithm| algorithm != Algorithm::FixedWindow) || burst.flatten().is_some() {
            return Err(Error::custom("a calendar limit is a `fixed_window`, without `burst`"));
        }
        return parts.limit(count, &unit).map_err(Error::custom);
    }
    #[cfg(feature = "calendar")]
    if let Some(name) = parts.first_given() {
        return Err(Error::custom(format!("`{name}` is for a calendar: add `calendar`, or leave `{name}` out")));
    }
    let per = per.ok_or_else(|| Error::missing_field("per"))?;
    let limit = Limit::try_new(count, per).map_err(Error::custom)?.with_algorithm(algorithm.unwrap_or_default());
    match burst.flatten() {
        Some(burst) => limit.try_with_burst(burst).map_err(Error::custom),
        None => Ok(limit),
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
