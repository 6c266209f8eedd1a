//! Hand-written `Serialize` and `Deserialize`, for operators' pages, error bodies and
//! configuration. Durations are seconds; algorithms have their names from the attribute.

use std::fmt;
use std::panic::Location;
use std::time::Duration;

use serde_core::de::{Deserialize, Deserializer, Error, MapAccess, Unexpected, Visitor};
use serde_core::ser::{Serialize, SerializeStruct, Serializer};

#[cfg(feature = "calendar")]
use crate::calendar::{Calendar, Weekday};
use crate::error::{ExceededKind, RateLimitExceeded};
use crate::limit::{Algorithm, Limit};
use crate::parse;
use crate::registry::LimiterInfo;

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
        fields.serialize_field("location", &location.map(Place))?;
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
    #[cfg(feature = "calendar")]
    unit: Option<String>,
    #[cfg(feature = "calendar")]
    parts: parse::CalendarParts,
}

impl LimitFields {
    #[cfg(not(feature = "calendar"))]
    pub(crate) const NAMES: &[&str] = &["count", "per", "algorithm", "burst"];
    #[cfg(feature = "calendar")]
    pub(crate) const NAMES: &[&str] =
        &["count", "per", "algorithm", "burst", "calendar", "zone", "week_starts", "starts_on"];

    /// Reads the value of a field. Returns false if a limit has no field of this name.
    pub(crate) fn read<'de, A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> Result<bool, A::Error> {
        match name {
            "count" => set(&mut self.count, "count", map),
            "per" => set(&mut self.per, "per", map),
            "algorithm" => set(&mut self.algorithm, "algorithm", map),
            "burst" => set(&mut self.burst, "burst", map),
            #[cfg(feature = "calendar")]
            "calendar" => set(&mut self.unit, "calendar", map),
            #[cfg(feature = "calendar")]
            "zone" => set(&mut self.parts.zone, "zone", map),
            #[cfg(feature = "calendar")]
            "week_starts" => set(&mut self.parts.week_starts, "week_starts", map),
            #[cfg(feature = "calendar")]
            "starts_on" => set(&mut self.parts.starts_on, "starts_on", map),
            #[cfg(not(feature = "calendar"))]
            "calendar" => Err(Error::custom(parse::NO_CALENDARS)),
            _ => Ok(false),
        }
    }

    /// The limit of the fields.
    pub(crate) fn finish<E: Error>(self) -> Result<Limit, E> {
        let count = self.count.ok_or_else(|| E::missing_field("count"))?;
        #[cfg(feature = "calendar")]
        if let Some(unit) = self.unit {
            if self.per.is_some() {
                return Err(E::custom("a limit has a `per` or a `calendar`: leave out one of them"));
            }
            let is_fixed = self.algorithm.is_none_or(|algorithm| algorithm == Algorithm::FixedWindow);
            if !is_fixed || self.burst.flatten().is_some() {
                return Err(E::custom("a calendar limit is a `fixed_window`, without `burst`"));
            }
            return self.parts.limit(count, &unit).map_err(E::custom);
        }
        #[cfg(feature = "calendar")]
        if let Some(name) = self.parts.first_given() {
            return Err(E::custom(format!("`{name}` is for a calendar: add `calendar`, or leave `{name}` out")));
        }
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
        #[cfg(feature = "calendar")]
        if self.unit.is_some() || self.parts.first_given().is_some() {
            return false;
        }
        let LimitFields { count, per, algorithm, burst, .. } = self;
        count.is_none() && per.is_none() && algorithm.is_none() && burst.is_none()
    }
}

/// Reads the value of a field, which must be the only one of its name. Always true.
pub(crate) fn set<'de, T: Deserialize<'de>, A: MapAccess<'de>>(
    slot: &mut Option<T>,
    name: &'static str,
    map: &mut A,
) -> Result<bool, A::Error> {
    if slot.replace(map.next_value()?).is_some() { Err(Error::duplicate_field(name)) } else { Ok(true) }
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
struct Place(&'static Location<'static>);

impl Serialize for Place {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_struct("Location", 3)?;
        fields.serialize_field("file", self.0.file())?;
        fields.serialize_field("line", &self.0.line())?;
        fields.serialize_field("column", &self.0.column())?;
        fields.end()
    }
}

/// `{"limiter": "api", "kind": "limited", "limit": {..}, "remaining": 0, "retry_after": 0.25}`:
/// `retry_after` in seconds, `null` for never.
///
/// The limiter's name is internal: consider that before you send it to strangers.
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

/// `"limited"`, `"cost_exceeds_limit"`, `"backend_failed"`, `"blocked"` or `"wrong_keys"`.
impl Serialize for ExceededKind {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}
