//! The common and combined log formats of nginx and Apache: `host ident user [time] "request"
//! status bytes "referer" "user agent"`, optionally with a virtual host before and further columns
//! after them.

use memchr::{memchr, memmem};

use super::{Line, Reason, Values};
use crate::key::{Field, address};

#[derive(Debug)]
pub(super) struct Common {
    columns: Vec<Column>,
}

#[derive(Clone, Copy, Debug)]
enum Column {
    Host,
    User,
    Time,
    Method,
    Path,
    Status,
    Bytes,
    VirtualHost,
    /// Counted from 0. The columns after the bytes are usually the referer and the user agent.
    Behind(usize),
    /// Any column, counted from 0. Text in brackets or quotes is one column.
    Nth(usize),
}

impl Common {
    pub(super) fn new(fields: &[Field]) -> Result<Common, String> {
        let column = |field: &Field| {
            Ok(match field {
                Field::Time => Column::Time,
                Field::Ip => Column::Host,
                Field::User => Column::User,
                Field::Path => Column::Path,
                Field::Method => Column::Method,
                Field::Status => Column::Status,
                Field::Bytes => Column::Bytes,
                Field::Host => Column::VirtualHost,
                Field::Header(name) if name == "referer" => Column::Behind(0),
                Field::Header(name) if name == "user-agent" => Column::Behind(1),
                Field::Column(name) if name.parse::<usize>().is_ok_and(|number| number > 0) => {
                    Column::Nth(name.parse::<usize>().unwrap_or(1) - 1)
                }
                other => {
                    return Err(format!(
                        "a common or combined log has no column `{}`: it has ip, user, method, path, status, bytes, host \
                         (with a virtual host in front), header:referer, header:user-agent, and columns by number, as in \
                         `column:10`",
                        other.name()
                    ));
                }
            })
        };
        Ok(Common { columns: fields.iter().map(column).collect::<Result<_, String>>()? })
    }

    pub(super) fn read(&self, line: &[u8], values: &mut Values) -> Result<Line, Reason> {
        let parts = Parts::of(line)?;
        for (field, column) in self.columns.iter().enumerate() {
            let value = match column {
                Column::Time => Some(parts.time),
                Column::Host => Some(parts.who().0),
                Column::User => Some(parts.who().1),
                Column::Method => request(parts.request).map(|(method, _)| method),
                Column::Path => request(parts.request).map(|(_, path)| path),
                Column::Status => Some(parts.status),
                Column::Bytes => tokens(parts.rest).next(),
                Column::VirtualHost => parts.virtual_host(),
                Column::Behind(position) => tokens(parts.rest).nth(position + 1),
                Column::Nth(position) => tokens(line).nth(*position),
            };
            if let Some(value) = value {
                values.set(field, value);
            }
        }
        Ok(Line::Call)
    }
}

/// A line, split at its time and its request.
struct Parts<'a> {
    before: &'a [u8],
    time: &'a [u8],
    request: &'a [u8],
    status: &'a [u8],
    /// The rest, from the number of bytes on.
    rest: &'a [u8],
}

impl<'a> Parts<'a> {
    fn of(line: &'a [u8]) -> Result<Parts<'a>, Reason> {
        let (open, close) = time(line).ok_or("there is no time in brackets")?;
        let before = line[..open].trim_ascii_end();
        if before.is_empty() {
            return Err("there is no client in front of the time");
        }
        let behind = line[close + 1..].strip_prefix(b" \"").ok_or("no \"request\" stands behind the time")?;
        let end = quote(behind).ok_or("the request has no closing quote")?;
        let behind_request = behind[end + 1..].trim_ascii_start();
        let status_end = memchr(b' ', behind_request).unwrap_or(behind_request.len());
        let (status, rest) = behind_request.split_at(status_end);
        if status.is_empty() || !(status == b"-" || status.iter().all(u8::is_ascii_digit)) {
            return Err("no status stands behind the request");
        }
        Ok(Parts { before, time: &line[open + 1..close], request: &behind[..end], status, rest })
    }

    /// The address and the user, whose name may contain several words.
    fn who(&self) -> (&'a [u8], &'a [u8]) {
        let (host, rest) = cut(self.before);
        let (second, behind) = cut(rest);
        if !behind.is_empty() && is_address(second) && !is_address(host) {
            return (second, cut(behind).1);
        }
        (host, behind)
    }

    fn virtual_host(&self) -> Option<&'a [u8]> {
        let (host, rest) = cut(self.before);
        (is_address(cut(rest).0) && !is_address(host)).then(|| host.split(|byte| *byte == b':').next().unwrap_or(host))
    }
}

/// The brackets around the time. A user's name may contain brackets too.
fn time(line: &[u8]) -> Option<(usize, usize)> {
    let mut from = 0;
    loop {
        let open = from + memmem::find(&line[from..], b" [")? + 1;
        let close = open + memchr(b']', &line[open..])?;
        if line.get(open + 1).is_some_and(u8::is_ascii_digit) && close - open > 8 {
            return Some((open, close));
        }
        from = open;
    }
}

/// The end of the quoted text that starts before `text`. A backslash escapes.
fn quote(text: &[u8]) -> Option<usize> {
    let mut from = 0;
    loop {
        let at = from + memchr(b'"', &text[from..])?;
        let backslashes = text[..at].iter().rev().take_while(|byte| **byte == b'\\').count();
        if backslashes.is_multiple_of(2) {
            return Some(at);
        }
        from = at + 1;
    }
}

/// The method and the path of `GET /path HTTP/1.1`.
pub(super) fn request(request: &[u8]) -> Option<(&[u8], &[u8])> {
    let (method, rest) = cut(request);
    let path = cut(rest).0;
    (!path.is_empty()).then_some((method, path))
}

/// The first word and the rest.
pub(super) fn cut(text: &[u8]) -> (&[u8], &[u8]) {
    match memchr(b' ', text) {
        Some(end) => (&text[..end], &text[end + 1..]),
        None => (text, b""),
    }
}

fn is_address(text: &[u8]) -> bool {
    std::str::from_utf8(text).is_ok_and(|text| address(text).is_some())
}

/// Splits into words. Text in quotes or brackets is one word.
pub(super) fn tokens(mut text: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        text = text.trim_ascii_start();
        let (token, rest) = match text.first()? {
            b'"' => {
                let end = quote(&text[1..]).map_or(text.len(), |end| end + 1);
                (&text[1..end], text.get(end + 1..).unwrap_or_default())
            }
            b'[' => {
                let end = memchr(b']', text).unwrap_or(text.len());
                match text.get(end + 1) {
                    // An address with its port.
                    Some(b':') => cut(text),
                    _ => (&text[1..end], text.get(end + 1..).unwrap_or_default()),
                }
            }
            _ => cut(text),
        };
        text = rest;
        Some(token)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(fields: &[Field], line: &str) -> Result<Vec<String>, Reason> {
        let common = Common::new(fields).expect("columns");
        let mut values = Values::default();
        values.clear(fields.len());
        common.read(line.as_bytes(), &mut values)?;
        let text = |field| String::from_utf8_lossy(values.get(field).unwrap_or(b"(none)")).into_owned();
        Ok((0..fields.len()).map(text).collect())
    }

    const ALL: [Field; 6] = [Field::Time, Field::Ip, Field::User, Field::Method, Field::Path, Field::Status];

    #[test]
    fn the_columns_of_a_combined_line() {
        let line = r#"192.0.2.1 - ann [10/Oct/2000:13:55:36 -0700] "GET /a?b HTTP/1.0" 200 2326 "http://x/" "Agent \"7\" x" "10.1.1.1""#;
        let values = read(&ALL, line).expect("a call");
        assert_eq!(values, ["10/Oct/2000:13:55:36 -0700", "192.0.2.1", "ann", "GET", "/a?b", "200"]);
        let fields = [
            Field::Bytes,
            Field::Header("referer".into()),
            Field::Header("user-agent".into()),
            Field::Column("10".into()),
        ];
        assert_eq!(read(&fields, line).expect("a call"), ["2326", "http://x/", r#"Agent \"7\" x"#, "10.1.1.1"]);
    }

    #[test]
    fn odd_lines_that_servers_write() {
        let common = r#"::1 - john [x] doe [10/Oct/2000:13:55:36 -0700] "\x16\x03\x01" 400 -"#;
        let values = read(&ALL, common).expect("a call");
        assert_eq!(values, ["10/Oct/2000:13:55:36 -0700", "::1", "john [x] doe", "(none)", "(none)", "400"]);
        let hosted = r#"shop.test:443 192.0.2.1 - - [10/Oct/2000:13:55:36 -0700] "GET / HTTP/1.1" 200 5"#;
        assert_eq!(
            read(&[Field::Ip, Field::User, Field::Host], hosted).expect("a call"),
            ["192.0.2.1", "-", "shop.test"]
        );
        let quoted = r#"192.0.2.1 - - [10/Oct/2000:13:55:36 -0700] "GET /\"x\\" 200 5"#;
        assert_eq!(read(&[Field::Path], quoted).expect("a call"), [r#"/\"x\\"#]);
    }

    #[test]
    fn broken_lines_have_a_reason() {
        for (line, reason) in [
            ("", "no time in brackets"),
            ("hello", "no time in brackets"),
            (" [10/Oct/2000:13:55:36 -0700] \"GET / HTTP/1.1\" 200 5", "no client"),
            ("192.0.2.1 - - [10/Oct/2000:13:55:36 -0700] GET", "no \"request\""),
            ("192.0.2.1 - - [10/Oct/2000:13:55:36 -0700] \"GET / HTTP", "no closing quote"),
            ("192.0.2.1 - - [10/Oct/2000:13:55:36 -0700] \"GET / HTTP/1.1\" ok", "no status"),
        ] {
            assert!(read(&ALL, line).expect_err(line).contains(reason), "{line}");
        }
    }
}
