//! JSON objects, one a line, from Caddy, Traefik or any other program. Only the wanted columns are
//! kept.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::{Format, Line, Reason, Values, alternatives};
use crate::key::Field;

#[derive(Debug)]
pub(super) struct Json {
    paths: Vec<Path>,
    needed: &'static str,
    fields: usize,
    /// The rank of the alternative that each value came from.
    ranks: Vec<usize>,
}

/// A place where a field may be.
#[derive(Debug)]
struct Path {
    names: Vec<String>,
    field: usize,
    /// A lower rank is likelier, and its value stays.
    rank: usize,
}

impl Json {
    pub(super) fn new(format: Format, fields: &[Field]) -> Json {
        let mut paths = Vec::new();
        for (position, field) in fields.iter().enumerate() {
            for (rank, names) in places(format, field).into_iter().enumerate() {
                paths.push(Path { names, field: position, rank });
            }
        }
        // Without it, the line is in another format.
        let needed = match format {
            Format::Caddy => "request",
            Format::Traefik => "ClientHost",
            _ => "",
        };
        Json { paths, needed, fields: fields.len(), ranks: Vec::new() }
    }

    pub(super) fn read(&mut self, line: &[u8], values: &mut Values) -> Result<Line, Reason> {
        if !line.starts_with(b"{") {
            return Err("the line is no JSON object");
        }
        self.ranks.clear();
        self.ranks.resize(self.fields, usize::MAX);
        let mut deserializer = serde_json::Deserializer::from_slice(line);
        let mut reading =
            Reading { values, ranks: &mut self.ranks, needed: self.needed, found: self.needed.is_empty() };
        let paths: Vec<(&Path, usize)> = self.paths.iter().map(|path| (path, 0)).collect();
        Object { paths, reading: &mut reading, top: true }
            .deserialize(&mut deserializer)
            .map_err(|_| "the line is no whole JSON object")?;
        if !reading.found {
            return Err("the object is not of this format");
        }
        deserializer.end().map_err(|_| "something stands behind the JSON object")?;
        if values.is_set(0) { Ok(Line::Call) } else { Err("the object has no column with a time") }
    }
}

/// The paths of a field, the likeliest first. A name with dots is also a path.
fn places(format: Format, field: &Field) -> Vec<Vec<String>> {
    let path = |path: &str| path.split('.').map(str::to_owned).collect::<Vec<_>>();
    let request = |name: &str| vec!["request".to_owned(), name.to_owned()];
    match (format, field) {
        (Format::Caddy, Field::Time) => vec![path("ts")],
        (Format::Caddy, Field::Ip) => vec![request("client_ip"), request("remote_ip"), request("remote_addr")],
        (Format::Caddy, Field::User) => vec![path("user_id")],
        (Format::Caddy, Field::Path) => vec![request("uri")],
        (Format::Caddy, Field::Method) => vec![request("method")],
        (Format::Caddy, Field::Host) => vec![request("host")],
        (Format::Caddy, Field::Bytes) => vec![path("size")],
        (Format::Caddy, Field::Header(name)) => vec![vec!["request".to_owned(), "headers".to_owned(), name.clone()]],
        // When the request came, rather than when the line was written.
        (Format::Traefik, Field::Time) => vec![path("StartUTC"), path("time")],
        (Format::Traefik, Field::Ip) => vec![path("ClientHost"), path("ClientAddr")],
        (_, Field::Column(name)) if name.contains('.') => vec![vec![name.clone()], path(name)],
        (_, field) => alternatives(field).into_iter().map(|name| vec![name]).collect(),
    }
}

struct Reading<'a> {
    values: &'a mut Values,
    ranks: &'a mut [usize],
    needed: &'static str,
    found: bool,
}

impl Reading<'_> {
    fn set(&mut self, path: &Path, value: &[u8]) {
        if path.rank < self.ranks[path.field] {
            self.ranks[path.field] = path.rank;
            self.values.set(path.field, value);
        }
    }
}

/// Visits an object along the paths into it, each with the number of names already followed.
struct Object<'a, 'r, 'p> {
    paths: Vec<(&'p Path, usize)>,
    reading: &'r mut Reading<'a>,
    top: bool,
}

impl<'de> DeserializeSeed<'de> for Object<'_, '_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Object<'_, '_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<(), M::Error> {
        while let Some(name) = map.next_key::<Name<'de>>()? {
            if self.top && name.0 == self.reading.needed {
                self.reading.found = true;
            }
            let leads = |(path, depth): &&(&Path, usize)| {
                path.names.get(*depth).is_some_and(|wanted| wanted.eq_ignore_ascii_case(&name.0))
            };
            let paths: Vec<_> = self.paths.iter().filter(leads).map(|(path, depth)| (*path, depth + 1)).collect();
            if paths.is_empty() {
                map.next_value::<IgnoredAny>()?;
            } else {
                map.next_value_seed(Object { paths, reading: &mut *self.reading, top: false })?;
            }
        }
        Ok(())
    }

    /// Of several values of a header, the first counts.
    fn visit_seq<S: SeqAccess<'de>>(self, mut seq: S) -> Result<(), S::Error> {
        if seq.next_element_seed(Object { paths: self.paths, reading: self.reading, top: false })?.is_some() {
            while seq.next_element::<IgnoredAny>()?.is_some() {}
        }
        Ok(())
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<(), E> {
        self.value(text.as_bytes());
        Ok(())
    }

    fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<(), E> {
        self.value(number.to_string().as_bytes());
        Ok(())
    }

    fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<(), E> {
        self.value(number.to_string().as_bytes());
        Ok(())
    }

    /// In the fewest digits of the same number: as written, if in at most 17 digits.
    fn visit_f64<E: serde::de::Error>(self, number: f64) -> Result<(), E> {
        self.value(number.to_string().as_bytes());
        Ok(())
    }

    fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<(), E> {
        self.value(if value { b"true" } else { b"false" });
        Ok(())
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<(), E> {
        Ok(())
    }
}

impl Object<'_, '_, '_> {
    fn value(self, value: &[u8]) {
        for (path, depth) in self.paths {
            if depth == path.names.len() {
                self.reading.set(path, value);
            }
        }
    }
}

/// A name, borrowed from the line unless it has escapes.
#[derive(serde::Deserialize)]
#[serde(transparent)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

#[cfg(test)]
mod tests {
    use super::*;

    fn read(format: Format, fields: &[Field], line: &str) -> Result<Vec<String>, Reason> {
        let mut json = Json::new(format, fields);
        let mut values = Values::default();
        values.clear(fields.len());
        json.read(line.as_bytes(), &mut values)?;
        let text = |field| String::from_utf8_lossy(values.get(field).unwrap_or(b"(none)")).into_owned();
        Ok((0..fields.len()).map(text).collect())
    }

    #[test]
    fn the_columns_of_caddy() {
        let line = r#"{"level":"info","ts":1646861401.5241024,"logger":"http.log.access","request":{"remote_ip":"192.0.2.1","client_ip":"192.0.2.9","method":"GET","host":"localhost","uri":"/a?b","headers":{"User-Agent":["curl/7.82.0"],"X-Key":["k\u00e9y","other"]}},"user_id":"","size":10900,"status":200}"#;
        let fields = [
            Field::Time,
            Field::Ip,
            Field::Path,
            Field::Header("x-key".into()),
            Field::Bytes,
            Field::Status,
            Field::Column("request.host".into()),
        ];
        let expected = ["1646861401.5241024", "192.0.2.9", "/a?b", "kéy", "10900", "200", "localhost"];
        assert_eq!(read(Format::Caddy, &fields, line).expect("a call"), expected);
    }

    #[test]
    fn the_columns_of_traefik() {
        let line = r#"{"ClientAddr":"192.0.2.1:80","ClientHost":"192.0.2.1","ClientUsername":"ann","RequestPath":"/a","StartUTC":"2026-01-02T03:04:05.123Z","DownstreamContentSize":7,"request_X-Key":"k","time":"2026-01-02T03:04:06Z"}"#;
        let fields = [Field::Time, Field::Ip, Field::User, Field::Path, Field::Bytes, Field::Header("x-key".into())];
        let expected = ["2026-01-02T03:04:05.123Z", "192.0.2.1", "ann", "/a", "7", "k"];
        assert_eq!(read(Format::Traefik, &fields, line).expect("a call"), expected);
    }

    #[test]
    fn the_likelier_of_two_columns_counts_in_either_order() {
        for line in [r#"{"ip":"a","host":"b","time":1}"#, r#"{"host":"b","time":1,"ip":"a"}"#] {
            assert_eq!(read(Format::Json, &[Field::Time, Field::Ip], line).expect("a call"), ["1", "a"]);
        }
    }

    #[test]
    fn broken_lines_have_a_reason() {
        for line in ["[1]", "{\"time\":1", "{\"time\":1} x", "{\"a\":1}", "{\"time\":{\"deep\":1}}", "{\"time\":null}"]
        {
            assert!(read(Format::Json, &[Field::Time], line).is_err(), "{line}");
        }
        assert!(read(Format::Caddy, &[Field::Time], "{\"ts\":1}").is_err());
    }
}
