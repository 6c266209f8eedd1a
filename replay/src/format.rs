//! The formats of logs: detection, and the columns of a line.

mod alb;
mod common;
mod csv;
mod json;
mod w3c;

use std::fmt;

use crate::key::{Field, Wanted};
use crate::time::Times;

/// Named in each message about an unreadable log.
pub(crate) const FORMATS: &str = "common and combined (nginx, Apache), caddy, traefik, alb (AWS load balancers), w3c (IIS, \
     CloudFront), csv, json (one object a line), times (one time a line), each plain or compressed by gzip or zstd";

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Format {
    /// Common and combined logs of nginx and Apache, with or without a leading virtual host
    #[value(alias = "combined", alias = "nginx", alias = "apache")]
    Common,
    /// Caddy's JSON
    Caddy,
    /// Traefik's JSON
    Traefik,
    /// Access logs of AWS load balancers (application, classic)
    Alb,
    /// W3C extended, as IIS writes it
    #[value(alias = "iis", alias = "cloudfront")]
    W3c,
    /// Comma, semicolon or tab separated
    Csv,
    /// One JSON object a line
    #[value(alias = "ndjson")]
    Json,
    /// One time a line
    Times,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Format::Common => "common",
            Format::Caddy => "caddy",
            Format::Traefik => "traefik",
            Format::Alb => "alb",
            Format::W3c => "w3c",
            Format::Csv => "csv",
            Format::Json => "json",
            Format::Times => "times",
        })
    }
}

/// Why a line is not a call.
pub(crate) type Reason = &'static str;

/// The kind of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Line {
    Call,
    /// A header or a directive.
    Header,
}

/// The values of a line, in the order of [`Wanted::fields`].
#[derive(Debug, Default)]
pub(crate) struct Values {
    text: Vec<u8>,
    spans: Vec<Option<(usize, usize)>>,
}

impl Values {
    pub(crate) fn clear(&mut self, fields: usize) {
        self.text.clear();
        self.spans.clear();
        self.spans.resize(fields, None);
    }

    pub(crate) fn set(&mut self, field: usize, value: &[u8]) {
        let start = self.text.len();
        self.text.extend_from_slice(value);
        self.spans[field] = Some((start, self.text.len()));
    }

    pub(crate) fn get(&self, field: usize) -> Option<&[u8]> {
        self.spans[field].map(|(start, end)| &self.text[start..end])
    }

    fn is_set(&self, field: usize) -> bool {
        self.spans[field].is_some()
    }
}

/// Reads the lines of one log.
#[derive(Debug)]
pub(crate) struct Parser {
    pub(crate) format: Format,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Common(common::Common),
    Alb(alb::Alb),
    W3c(w3c::W3c),
    Csv(Box<csv::Csv>),
    Json(json::Json),
    Times,
}

impl Parser {
    /// A parser of `format` for the wanted columns. Fails if the format lacks one of them.
    pub(crate) fn new(format: Format, wanted: &Wanted) -> Result<Parser, String> {
        let fields = wanted.fields();
        if let Some(name) = &wanted.time
            && !matches!(format, Format::Csv | Format::Json | Format::W3c | Format::Caddy | Format::Traefik)
        {
            return Err(format!(
                "`--time {name}` names a column, and a log of the format {format} has none: leave it out"
            ));
        }
        let kind = match format {
            Format::Common => Kind::Common(common::Common::new(&fields)?),
            Format::Alb => Kind::Alb(alb::Alb::new(&fields)?),
            Format::W3c => Kind::W3c(w3c::W3c::new(fields)),
            Format::Csv => Kind::Csv(Box::new(csv::Csv::new(fields))),
            Format::Caddy | Format::Traefik | Format::Json => Kind::Json(json::Json::new(format, &fields)),
            Format::Times if wanted.key.is_some() && wanted.key_is_explicit => {
                return Err("a log of times has no columns for `--key`: write `--key none`".to_owned());
            }
            Format::Times if wanted.cost.is_some() => {
                return Err("a log of times has no columns for `--cost`".to_owned());
            }
            Format::Times => Kind::Times,
        };
        Ok(Parser { format, kind })
    }

    /// Reads the wanted values of a line that is not blank.
    pub(crate) fn read(&mut self, line: &[u8], values: &mut Values) -> Result<Line, Reason> {
        match &mut self.kind {
            Kind::Common(common) => common.read(line, values),
            Kind::Alb(alb) => alb.read(line, values),
            Kind::W3c(w3c) => w3c.read(line, values),
            Kind::Csv(csv) => csv.read(line, values),
            Kind::Json(json) => json.read(line, values),
            Kind::Times => {
                values.set(0, line);
                Ok(Line::Call)
            }
        }
    }

    /// Whether this log's key consists of columns: a log of times has none.
    pub(crate) fn has_columns(&self) -> bool {
        self.format != Format::Times
    }
}

/// The first lines of a log, by which its format is detected.
const LOOKED_AT: usize = 200;

/// The format that parses the most of a log's first lines. If none parses any, the error names the
/// formats.
pub(crate) fn detect(lines: &[&[u8]], wanted: &Wanted) -> Result<Parser, String> {
    let mut best: Option<(usize, Format)> = None;
    let mut problem = None;
    for format in candidates(lines, wanted) {
        let mut parser = match Parser::new(format, wanted) {
            Ok(parser) => parser,
            Err(error) => {
                // The format matches but lacks the column: worth reporting.
                let plain = Wanted { time: None, key: None, key_is_explicit: false, cost: None };
                if let Ok(mut parser) = Parser::new(format, &plain)
                    && calls(&mut parser, lines, &plain) > 0
                {
                    problem.get_or_insert(error);
                }
                continue;
            }
        };
        let calls = calls(&mut parser, lines, wanted);
        if calls > best.map_or(0, |(most, _)| most) {
            best = Some((calls, format));
        }
    }
    let problem = problem.or_else(|| missing_column(lines, wanted));
    match (best, problem) {
        (Some((_, format)), _) => {
            check_columns(format, lines, wanted)?;
            Parser::new(format, wanted)
        }
        (None, Some(problem)) => Err(problem),
        (None, None) => Err(unknown(lines, wanted)),
    }
}

/// The missing column, if the log names its columns and one holds the time.
fn missing_column(lines: &[&[u8]], wanted: &Wanted) -> Option<String> {
    let fields = wanted.fields();
    let directive = lines.iter().find_map(|line| line.strip_prefix(b"#Fields:"));
    let names = match directive {
        Some(names) => String::from_utf8_lossy(names).split_ascii_whitespace().map(str::to_owned).collect(),
        None => csv::columns(lines.first()?),
    };
    column(&fields[0], &names).ok()?;
    resolve(&fields, &names).err()
}

/// Fails if no first line has a wanted column: all clients would be one.
pub(crate) fn check_columns(format: Format, lines: &[&[u8]], wanted: &Wanted) -> Result<(), String> {
    let (mut parser, mut values, fields) = (Parser::new(format, wanted)?, Values::default(), wanted.fields());
    let mut is_set = vec![false; fields.len()];
    let mut calls = 0;
    for line in lines {
        values.clear(fields.len());
        if parser.read(line, &mut values) == Ok(Line::Call) {
            calls += 1;
            is_set.iter_mut().enumerate().for_each(|(field, is_set)| *is_set |= values.is_set(field));
        }
    }
    // Not every call has a user or every header. But every object of one kind has the same other
    // columns.
    let is_needed = |field: &Field| match format {
        Format::Json => !matches!(field, Field::Header(_)),
        Format::Caddy | Format::Traefik => matches!(field, Field::Column(_)),
        _ => matches!(field, Field::Column(_) | Field::Header(_) | Field::Host),
    };
    let missing = fields.iter().zip(is_set).find(|(field, is_set)| !is_set && is_needed(field));
    match missing {
        Some((field, _)) if calls > 0 => Err(format!("has no column `{}` in its first {calls} calls", field.name())),
        _ => Ok(()),
    }
}

/// The lines that determine the format.
pub(crate) fn first_lines(text: &[u8]) -> Vec<&[u8]> {
    let lines = text.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
    lines.filter(|line| !line.is_empty()).take(LOOKED_AT).collect()
}

/// The formats that match these lines, the most specific first.
fn candidates(lines: &[&[u8]], wanted: &Wanted) -> Vec<Format> {
    let json = lines.iter().any(|line| line.starts_with(b"{"));
    let directives = lines.iter().any(|line| line.starts_with(b"#Fields:"));
    match (json, directives) {
        (true, _) if wanted.time.is_some() => vec![Format::Json],
        (true, _) => vec![Format::Caddy, Format::Traefik, Format::Json],
        (_, true) => vec![Format::W3c],
        _ => vec![Format::Common, Format::Alb, Format::Times, Format::Csv],
    }
}

fn calls(parser: &mut Parser, lines: &[&[u8]], wanted: &Wanted) -> usize {
    let (mut values, mut times) = (Values::default(), Times::default());
    let fields = wanted.fields().len();
    let mut is_call = |line: &&&[u8]| {
        values.clear(fields);
        parser.read(line, &mut values) == Ok(Line::Call)
            && values.get(0).is_some_and(|time| times.parse(time).is_some())
    };
    lines.iter().filter(|line| is_call(line)).count()
}

/// Why no format fits, with a hint if there is one.
fn unknown(lines: &[&[u8]], wanted: &Wanted) -> String {
    let hint = match lines.first() {
        Some(first) if first.starts_with(b"{") => {
            " (its JSON objects have no known column with a time: name it by `--time`)"
        }
        Some(first) if csv::columns(first).len() > 1 && wanted.time.is_none() => {
            " (if it has columns, name the one with the time by `--time`)"
        }
        _ => "",
    };
    format!("is no log of a known format{hint}. The formats are: {FORMATS}")
}

/// For each field, the position in `names` of its first alternative that is present.
fn resolve(fields: &[Field], names: &[String]) -> Result<Vec<usize>, String> {
    fields.iter().map(|field| column(field, names)).collect()
}

fn column(field: &Field, names: &[String]) -> Result<usize, String> {
    for name in alternatives(field) {
        if let Some(position) = names.iter().position(|column| column.eq_ignore_ascii_case(&name)) {
            return Ok(position);
        }
    }
    let number = match field {
        Field::Column(name) => name.parse::<usize>().ok(),
        _ => None,
    };
    match number {
        Some(number) if (1..=names.len()).contains(&number) => Ok(number - 1),
        _ => {
            let shown: Vec<&str> = names.iter().take(20).map(String::as_str).collect();
            Err(format!("has no column `{}`; its columns are {}", field.name(), shown.join(", ")))
        }
    }
}

/// The possible names of a field in logs with named columns, the likeliest first.
fn alternatives(field: &Field) -> Vec<String> {
    let names: &[&str] = match field {
        Field::Time => &[
            "time",
            "timestamp",
            "ts",
            "@timestamp",
            "datetime",
            "date_time",
            "time_iso8601",
            "time_local",
            "msec",
            "StartUTC",
            "date",
        ],
        Field::Ip => &[
            "ip",
            "client_ip",
            "clientip",
            "remote_addr",
            "remote_ip",
            "c-ip",
            "ClientHost",
            "ip_address",
            "client",
            "addr",
            "remote_host",
            "host",
        ],
        Field::User => &["user", "user_id", "userid", "username", "remote_user", "cs-username", "ClientUsername"],
        Field::Path => &["path", "uri", "url", "request_uri", "cs-uri-stem", "RequestPath", "endpoint"],
        Field::Method => &["method", "request_method", "cs-method", "RequestMethod", "verb"],
        Field::Host => &["host", "cs-host", "RequestHost", "server_name", "vhost"],
        Field::Status => &["status", "sc-status", "status_code", "DownstreamStatus", "code"],
        Field::Bytes => {
            &["bytes", "bytes_sent", "body_bytes_sent", "size", "sc-bytes", "DownstreamContentSize", "response_size"]
        }
        Field::Header(name) => {
            let underscored = name.replace('-', "_");
            return vec![
                format!("cs({name})"),
                name.clone(),
                underscored.clone(),
                format!("http_{underscored}"),
                format!("request_{name}"),
            ];
        }
        Field::Column(name) => return vec![name.clone()],
    };
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::write_parts;
    use proptest::prelude::*;

    /// A line of each format, to be mutated.
    const LINES: [(Format, &str); 9] = [
        (
            Format::Common,
            "192.0.2.1 - ann [10/Oct/2000:13:55:36 -0700] \"GET /a?b HTTP/1.0\" 200 2326 \"http://x/\" \"Agent \\\"7\"",
        ),
        (
            Format::Caddy,
            "{\"ts\":1646861401.5,\"request\":{\"remote_ip\":\"::1\",\"uri\":\"/\",\"headers\":{\"User-Agent\":[\"x\"]}},\"size\":1}",
        ),
        (
            Format::Traefik,
            "{\"ClientHost\":\"192.0.2.1\",\"StartUTC\":\"2026-01-02T03:04:05.1Z\",\"RequestPath\":\"/\"}",
        ),
        (
            Format::Alb,
            "h2 2026-07-02T22:23:00.186641Z a/b/c [::1]:1 - 0 0 0 200 200 0 57 \"GET https://x:443/a HTTP/2.0\" \"curl\" - -",
        ),
        (Format::W3c, "#Fields: date time c-ip cs-uri-stem cs(User-Agent) sc-bytes"),
        (Format::W3c, "2026-01-02 03:04:05 192.0.2.1 /a curl 7"),
        (Format::Csv, "time,ip,path,user-agent,bytes"),
        (Format::Csv, "1700000000,192.0.2.1,\"/a,\"\"b\",curl,7"),
        (
            Format::Json,
            "{\"time\":\"2026-01-02 03:04:05,678\",\"ip\":\"192.0.2.1\",\"path\":[{\"a\":null}],\"bytes\":-7e400}",
        ),
    ];

    proptest! {
        #[test]
        fn no_line_stops_a_parser(
            lines in prop::collection::vec((0..LINES.len(), 0_usize..200, 0_usize..40, prop::collection::vec(any::<u8>(), 0..6)), 1..20),
        ) {
            let wanted = Wanted {
                time: None,
                key: Some(vec![Field::Ip, Field::Path, Field::Header("user-agent".to_owned())]),
                key_is_explicit: true,
                cost: Some(Field::Bytes),
            };
            let fields = wanted.fields();
            let (mut values, mut times) = (Values::default(), Times::default());
            for format in LINES.map(|(format, _)| format) {
                let mut parser = Parser::new(format, &wanted).expect("columns");
                for (line, from, length, bytes) in &lines {
                    // Replaces a piece with one from a line of any format.
                    let line = LINES[*line].1.as_bytes();
                    let from = (*from).min(line.len());
                    let rest = (from + length).min(line.len());
                    let broken = [&line[..from], bytes, &line[rest..]].concat();
                    values.clear(fields.len());
                    if parser.read(&broken, &mut values) == Ok(Line::Call) {
                        let _ = values.get(0).map(|time| times.parse(time));
                        let mut key = Vec::new();
                        write_parts(&fields[1..4], |position| values.get(position + 1), &mut key);
                        prop_assert!(crate::key::label(Some(&fields[1..4]), &key, None).contains(" · "));
                    }
                    let _ = times.parse(&broken);
                }
                let all: Vec<u8> = lines.iter().flat_map(|(line, ..)| [LINES[*line].1.as_bytes(), b"\n"].concat()).collect();
                let _ = detect(&first_lines(&all), &wanted);
            }
        }
    }
}
