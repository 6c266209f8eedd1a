//! A document as settings: the grammar, and the line of each mistake.

use std::collections::BTreeMap;
use std::fmt;

use serde_core::de::value::MapAccessDeserializer;
use serde_core::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use super::ConfigurationError;
use crate::limit::{Limit, MAX_LIMITS};
use crate::limiter::Settings;
use crate::serialize::{LimitFields, set};
use crate::suggest::{listed, nearest};

pub(super) fn from_toml(text: &str) -> Result<BTreeMap<String, Settings>, ConfigurationError> {
    toml::from_str::<Document>(text).map(|document| document.0).map_err(|error| {
        let line = error.span().map(|span| text[..span.start.min(text.len())].matches('\n').count() + 1);
        ConfigurationError::new(error.message(), line)
    })
}

pub(super) fn from_json(text: &str) -> Result<BTreeMap<String, Settings>, ConfigurationError> {
    serde_json::from_str::<Document>(text).map(|document| document.0).map_err(|error| {
        // The message ends with the place.
        let (message, place) = (error.to_string(), format!(" at line {} column {}", error.line(), error.column()));
        ConfigurationError::new(message.strip_suffix(&place).unwrap_or(&message), Some(error.line().max(1)))
    })
}

/// Settings by the names of limiters.
struct Document(BTreeMap<String, Settings>);

/// A limiter's line.
struct Line(Settings);

/// One limit, and whether it applies.
struct OneLimit {
    limit: Limit,
    dry_run: bool,
    enabled: bool,
}

/// The limits of a limiter: one, or a list.
struct Limits(Vec<OneLimit>);

impl<'de> Deserialize<'de> for Document {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Document, D::Error> {
        struct Lines;

        impl<'de> Visitor<'de> for Lines {
            type Value = Document;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a table of limiters by their names")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Document, A::Error> {
                let mut lines = BTreeMap::new();
                while let Some(name) = map.next_key::<String>()? {
                    let Line(settings) = map.next_value()?;
                    if lines.contains_key(&name) {
                        return Err(Error::custom(format!("the limiter `{name}` is given twice")));
                    }
                    lines.insert(name, settings);
                }
                Ok(Document(lines))
            }
        }

        deserializer.deserialize_map(Lines)
    }
}

impl<'de> Deserialize<'de> for Line {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Line, D::Error> {
        struct LineVisitor;

        impl<'de> Visitor<'de> for LineVisitor {
            type Value = Line;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a limit, as in `100/1m`, a list of limits, or a table with `limits`")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Line, E> {
                line(&[text.parse().map(OneLimit::of).map_err(E::custom)?], None, true)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Line, A::Error> {
                line(&limits(&mut list)?, None, true)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Line, A::Error> {
                table(map)
            }
        }

        deserializer.deserialize_any(LineVisitor)
    }
}

impl<'de> Deserialize<'de> for Limits {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Limits, D::Error> {
        struct OneOrMore;

        impl<'de> Visitor<'de> for OneOrMore {
            type Value = Limits;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a limit, as in `100/1m`, or a list of limits")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Limits, E> {
                Ok(Limits(vec![text.parse().map(OneLimit::of).map_err(E::custom)?]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Limits, A::Error> {
                limits(&mut list).map(Limits)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Limits, A::Error> {
                Ok(Limits(vec![OneLimit::deserialize(MapAccessDeserializer::new(map))?]))
            }
        }

        deserializer.deserialize_any(OneOrMore)
    }
}

impl<'de> Deserialize<'de> for OneLimit {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<OneLimit, D::Error> {
        struct TextOrTable;

        impl<'de> Visitor<'de> for TextOrTable {
            type Value = OneLimit;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a limit, as in `100/1m`, or a table of `count` and `per`")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<OneLimit, E> {
                text.parse().map(OneLimit::of).map_err(E::custom)
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<OneLimit, A::Error> {
                let mut fields = LimitFields::default();
                let (mut dry_run, mut enabled) = (None, None);
                while let Some(name) = map.next_key::<String>()? {
                    let is_known = match name.as_str() {
                        "dry_run" => set(&mut dry_run, "dry_run", &mut map)?,
                        "enabled" => set(&mut enabled, "enabled", &mut map)?,
                        _ => fields.read(&name, &mut map)?,
                    };
                    if !is_known {
                        return Err(unknown(&name, &["dry_run", "enabled"]));
                    }
                }
                let (dry_run, enabled) = (dry_run.unwrap_or(false), enabled.unwrap_or(true));
                Ok(OneLimit { limit: fields.finish()?, dry_run, enabled })
            }
        }

        deserializer.deserialize_any(TextOrTable)
    }
}

impl OneLimit {
    fn of(limit: Limit) -> OneLimit {
        OneLimit { limit, dry_run: false, enabled: true }
    }

    /// The limit as it applies: a limit that admits every call replaces one that is tried or off.
    fn applying(&self) -> Limit {
        if self.dry_run || !self.enabled { self.limit.unlimited() } else { self.limit }
    }
}

/// A table: one limit with its options, or `limits` with the options of the limiter.
fn table<'de, A: MapAccess<'de>>(mut map: A) -> Result<Line, A::Error> {
    let (mut fields, mut limits) = (LimitFields::default(), None);
    let (mut dry_run, mut enabled) = (None, None);
    while let Some(name) = map.next_key::<String>()? {
        let is_known = match name.as_str() {
            "dry_run" => set(&mut dry_run, "dry_run", &mut map)?,
            "enabled" => set(&mut enabled, "enabled", &mut map)?,
            "limits" => set(&mut limits, "limits", &mut map)?,
            _ => fields.read(&name, &mut map)?,
        };
        if !is_known {
            return Err(unknown(&name, &["limits", "dry_run", "enabled"]));
        }
    }
    let is_switched = dry_run.is_some() || enabled.is_some();
    let enabled = enabled.unwrap_or(true);
    match limits {
        Some(_) if !fields.is_empty() => {
            Err(Error::custom("`limits` beside a limit's own fields: write them inside of `limits`"))
        }
        Some(Limits(limits)) => line(&limits, dry_run, enabled),
        // Only switches: the limits are those in the code.
        None if fields.is_empty() && is_switched => {
            Ok(Line(Settings { limits: None, tried: Vec::new(), dry_run, enabled }))
        }
        None => line(&[OneLimit::of(fields.finish()?)], dry_run, enabled),
    }
}

fn limits<'de, A: SeqAccess<'de>>(list: &mut A) -> Result<Vec<OneLimit>, A::Error> {
    let mut limits = Vec::new();
    while let Some(limit) = list.next_element()? {
        limits.push(limit);
    }
    Ok(limits)
}

fn line<E: Error>(limits: &[OneLimit], dry_run: Option<bool>, enabled: bool) -> Result<Line, E> {
    match limits.len() {
        0 => return Err(E::custom("a limiter needs at least one limit; `enabled = false` turns it off")),
        1..=MAX_LIMITS => {}
        _ => return Err(E::custom(format!("a limiter has at most {MAX_LIMITS} limits"))),
    }
    let is_tried = |(_, limit): &(u8, &OneLimit)| limit.dry_run && limit.enabled;
    let tried = (0..).zip(limits).filter(is_tried).map(|(position, limit)| (position, limit.limit)).collect();
    let limits = Some(limits.iter().map(OneLimit::applying).collect());
    Ok(Line(Settings { limits, tried, dry_run, enabled }))
}

fn unknown<E: Error>(name: &str, others: &[&str]) -> E {
    let known: Vec<&str> = others.iter().chain(LimitFields::NAMES).copied().collect();
    E::custom(match nearest(name, &known) {
        Some(meant) => format!("unknown field `{name}`: did you mean `{meant}`?"),
        None => format!("unknown field `{name}`: it is {}", listed(&known, " or ")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn toml(text: &str) -> String {
        match from_toml(text) {
            Ok(document) => {
                document.iter().map(|(name, settings)| [name, ": ", &shown(settings), "\n"].concat()).collect()
            }
            Err(error) => format!("error: {error}"),
        }
    }

    fn shown(settings: &Settings) -> String {
        let Settings { limits, tried, dry_run, enabled } = settings;
        let texts = |limits: &[Limit]| limits.iter().map(ToString::to_string).collect::<Vec<_>>().join(" + ");
        let limits = limits.as_deref().map_or("as written".to_owned(), texts);
        let tried: Vec<String> = tried.iter().map(|(position, limit)| format!("{position}: {limit}")).collect();
        format!("{limits}; tried: {}; {dry_run:?} {enabled}", tried.join(" + "))
    }

    #[test]
    fn a_line_is_a_limit_a_list_or_a_table() {
        let text = r#"
            search = "200/1m"
            upload = [{ count = 5, per = "1s", algorithm = "token_bucket", burst = 40 }, "1000/1d"]
            export = { count = 10, per = "1h", dry_run = true }
            off = { enabled = false }
            on = { enabled = true }
            trial = [{ count = 1, per = "1s", dry_run = true }, { count = 9, per = "1h" }]
            [login]
            limits = "3/1m"
            enabled = false
        "#;
        let read = "export: 10 per 1h; tried: ; Some(true) true\n\
                    login: 3 per 1m; tried: ; None false\n\
                    off: as written; tried: ; None false\n\
                    on: as written; tried: ; None true\n\
                    search: 200 per 1m; tried: ; None true\n\
                    trial: 4294967295 per 1s + 9 per 1h; tried: 0: 1 per 1s; None true\n\
                    upload: 5 per 1s (token_bucket, burst 40) + 1000 per 1d; tried: ; None true\n";
        assert_eq!(toml(text), read);
        let json = r#"{
            "search": "200/1m", "off": {"enabled": false}, "on": {"enabled": true}, "login": {"limits": ["3/1m"], "enabled": false},
            "upload": [{"count": 5, "per": 1, "algorithm": "token_bucket", "burst": 40}, "1000 per day"],
            "export": {"count": 10, "per": "1h", "dry_run": true},
            "trial": [{"count": 1, "per": "1s", "dry_run": true}, {"count": 9, "per": 3600.0}]
        }"#;
        assert_eq!(from_json(json), from_toml(text));
    }

    #[test]
    fn a_mistake_is_told_with_its_line() {
        for (text, message) in [
            ("a = \"1/1s\"\nb = \"1/1x\"", "line 2: "),
            ("a = \"1/1s\"\n\nb = { cuont = 1, per = \"1s\" }", "line 3: unknown field `cuont`: did you mean `count`?"),
            ("a = { count = 1 }", "line 1: missing field `per`"),
            ("a = []", "line 1: a limiter needs at least one limit"),
            ("a = 5", "line 1: invalid type: integer `5`, expected a limit"),
            ("\na = \"1/1s\"\na = \"2/1s\"", "line 3: duplicate key"),
            ("a = { limits = \"1/1s\", count = 1 }", "line 1: `limits` beside"),
            ("a = { dry_rnu = true }", "did you mean `dry_run`?"),
            ("a = \"1/1s", "line 1: "),
        ] {
            let told = toml(text);
            assert!(told.starts_with("error: ") && told.contains(message), "{text}: {told}");
        }
        let told = from_json("{\n\"a\": \"1/1s\",\n\"a\": \"1/1s\"}").unwrap_err().to_string();
        assert_eq!(told, "line 3: the limiter `a` is given twice");
        for text in [
            r#"{"a": {"limits": "1/1s", "limits": "2/1s"}}"#,
            r#"{"a": {"count": 1, "per": 1, "enabled": true, "enabled": false}}"#,
            r#"{"a": [{"count": 1, "per": 1, "dry_run": true, "dry_run": false}]}"#,
        ] {
            let told = from_json(text).unwrap_err().to_string();
            assert!(told.starts_with("line 1: duplicate field `"), "{text}: {told}");
        }
        let nine = format!("a = [{}]", "\"1/1s\",".repeat(9));
        assert_eq!(toml(&nine), "error: line 1: a limiter has at most 8 limits");
    }
}
