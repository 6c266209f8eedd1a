//! Access logs of AWS load balancers: application (which start with the connection's type) and
//! classic.

use super::common::{request, tokens};
use super::{Line, Reason, Values};
use crate::key::Field;

#[derive(Debug)]
pub(super) struct Alb {
    fields: Vec<Field>,
}

const TYPES: [&[u8]; 6] = [b"http", b"https", b"h2", b"grpcs", b"ws", b"wss"];

impl Alb {
    pub(super) fn new(fields: &[Field]) -> Result<Alb, String> {
        for field in fields {
            let known = match field {
                Field::User => false,
                Field::Header(name) => name == "user-agent",
                Field::Column(name) => name.parse::<usize>().is_ok_and(|number| number > 0),
                _ => true,
            };
            if !known {
                return Err(format!(
                    "a load balancer's log has no column `{}`: it has ip, method, path, host, status, bytes, \
                     header:user-agent, and columns by number, as in `column:3`",
                    field.name()
                ));
            }
        }
        Ok(Alb { fields: fields.to_vec() })
    }

    pub(super) fn read(&self, line: &[u8], values: &mut Values) -> Result<Line, Reason> {
        let columns: Vec<&[u8]> = tokens(line).collect();
        let first = usize::from(columns.first().is_some_and(|kind| TYPES.contains(kind)));
        let column = |position: usize| columns.get(first + position).copied();
        // Time, load balancer, client, target, three durations, two statuses, two sizes, the
        // request.
        let Some((_, path)) = column(11).and_then(request) else {
            return Err("there is no request where a load balancer writes it");
        };
        let (method, _) = column(11).and_then(request).unwrap_or_default();
        for (position, field) in self.fields.iter().enumerate() {
            let value = match field {
                Field::Time => column(0),
                Field::Ip => column(2),
                Field::Status => column(7),
                Field::Bytes => column(10),
                Field::Method => Some(method),
                Field::Path => Some(without_authority(path)),
                Field::Host => column(17).filter(|host| first == 1 && *host != b"-").or(Some(authority(path))),
                Field::Header(_) => column(12),
                Field::Column(name) => name.parse::<usize>().ok().and_then(|number| columns.get(number - 1).copied()),
                Field::User => None,
            };
            if let Some(value) = value {
                values.set(position, value);
            }
        }
        Ok(Line::Call)
    }
}

/// The path of `https://host:443/path`.
fn without_authority(url: &[u8]) -> &[u8] {
    let Some(scheme) = memchr::memmem::find(url, b"://") else { return url };
    let rest = &url[scheme + 3..];
    memchr::memchr(b'/', rest).map_or(b"/", |slash| &rest[slash..])
}

fn authority(url: &[u8]) -> &[u8] {
    let Some(scheme) = memchr::memmem::find(url, b"://") else { return b"-" };
    let rest = &url[scheme + 3..];
    &rest[..memchr::memchr3(b'/', b':', b'?', rest).unwrap_or(rest.len())]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(fields: &[Field], line: &str) -> Result<Vec<String>, Reason> {
        let alb = Alb::new(fields).expect("columns");
        let mut values = Values::default();
        values.clear(fields.len());
        alb.read(line.as_bytes(), &mut values)?;
        Ok((0..fields.len())
            .map(|field| String::from_utf8_lossy(values.get(field).unwrap_or_default()).into_owned())
            .collect())
    }

    const FIELDS: [Field; 6] = [Field::Time, Field::Ip, Field::Path, Field::Host, Field::Status, Field::Bytes];

    #[test]
    fn the_columns_of_both_kinds() {
        let application = r#"https 2026-07-02T22:23:00.186641Z app/my-lb/50dc6c495c0c9188 192.0.2.7:2817 10.0.0.1:80 0.086 0.048 0.037 200 200 0 57 "GET https://www.example.com:443/a?b HTTP/1.1" "curl/7.46.0" ECDHE TLSv1.2 arn "Root=1" "example.com" "arn" 0 2026-07-02T22:22:48.364000Z "forward" "-" "-""#;
        let expected = ["2026-07-02T22:23:00.186641Z", "192.0.2.7:2817", "/a?b", "example.com", "200", "57"];
        assert_eq!(read(&FIELDS, application).expect("a call"), expected);
        let classic = r#"2026-07-02T22:23:00.186641Z my-lb 192.0.2.7:2817 10.0.0.1:80 0.000073 0.001048 0.000057 200 200 0 29 "GET http://example.com:80/ HTTP/1.1" "curl/7.38.0" - -"#;
        let expected = ["2026-07-02T22:23:00.186641Z", "192.0.2.7:2817", "/", "example.com", "200", "29"];
        assert_eq!(read(&FIELDS, classic).expect("a call"), expected);
    }

    #[test]
    fn another_line_is_refused() {
        assert!(read(&FIELDS, "2026-07-02T22:23:00Z my-lb 192.0.2.7:2817").is_err());
    }
}
