//! The W3C extended log format, as IIS and `CloudFront` write it: `#Fields:` names the columns,
//! times are UTC.

use super::{Line, Reason, Values, resolve};
use crate::key::Field;

#[derive(Debug)]
pub(super) struct W3c {
    fields: Vec<Field>,
    /// The date of `#Date:`, for logs whose lines have only a time.
    date: Vec<u8>,
    columns: Option<Columns>,
}

#[derive(Debug)]
struct Columns {
    /// The column of each wanted field. The first is used only if `--time` names it.
    positions: Vec<usize>,
    date: Option<usize>,
    time: Option<usize>,
}

impl W3c {
    pub(super) fn new(fields: Vec<Field>) -> W3c {
        W3c { fields, date: Vec::new(), columns: None }
    }

    pub(super) fn read(&mut self, line: &[u8], values: &mut Values) -> Result<Line, Reason> {
        if line.starts_with(b"#") {
            if let Some(names) = line.strip_prefix(b"#Fields:") {
                self.columns = self.columns_of(names);
            } else if let Some(date) = line.strip_prefix(b"#Date:") {
                self.date = date.trim_ascii().split(|byte| *byte == b' ').next().unwrap_or_default().to_vec();
            }
            return Ok(Line::Header);
        }
        let columns = self.columns.as_ref().ok_or("the last `#Fields:` lacks a column that is needed")?;
        let separator = if memchr::memchr(b'\t', line).is_some() { b'\t' } else { b' ' };
        let found: Vec<&[u8]> = line.split(|byte| *byte == separator).collect();
        for (field, position) in columns.positions.iter().enumerate() {
            let value = found.get(*position).ok_or("there are fewer columns than `#Fields:` names")?;
            if field > 0 || self.fields[0] != Field::Time {
                values.set(field, value);
            }
        }
        if self.fields[0] == Field::Time {
            let column = |position: Option<usize>| position.and_then(|position| found.get(position)).copied();
            let date = column(columns.date).unwrap_or(&self.date);
            let time = column(columns.time).ok_or("there is no column `time`")?;
            values.set(0, &[date, b" ", time].concat());
        }
        Ok(Line::Call)
    }

    fn columns_of(&self, names: &[u8]) -> Option<Columns> {
        let names: Vec<String> =
            String::from_utf8_lossy(names).split_ascii_whitespace().map(str::to_ascii_lowercase).collect();
        let position = |name: &str| names.iter().position(|column| column == name);
        Some(Columns { positions: resolve(&self.fields, &names).ok()?, date: position("date"), time: position("time") })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_may_change_within_a_log() {
        let fields = vec![Field::Time, Field::Ip, Field::Header("user-agent".to_owned())];
        let mut w3c = W3c::new(fields);
        let mut values = Values::default();
        let mut read = |line: &str| {
            values.clear(3);
            let read = w3c.read(line.as_bytes(), &mut values)?;
            let text = |field| String::from_utf8_lossy(values.get(field).unwrap_or_default()).into_owned();
            Ok::<_, Reason>((read, [text(0), text(1), text(2)]))
        };
        let call = |time: &str| Ok((Line::Call, [time.to_owned(), "192.0.2.1".to_owned(), "curl+8".to_owned()]));
        assert!(read("192.0.2.1").is_err());
        assert_eq!(read("#Version: 1.0").expect("a header").0, Line::Header);
        assert_eq!(read("#Fields: date time c-ip cs(User-Agent) sc-status").expect("a header").0, Line::Header);
        assert_eq!(read("2026-01-02 03:04:05 192.0.2.1 curl+8 200"), call("2026-01-02 03:04:05"));
        assert!(read("2026-01-02 03:04:05").is_err());
        read("#Date: 2026-01-03 00:00:00").expect("a header");
        read("#Fields: time cs(User-Agent) c-ip").expect("a header");
        assert_eq!(read("03:04:05\tcurl+8\t192.0.2.1"), call("2026-01-03 03:04:05"));
        read("#Fields: time cs(User-Agent)").expect("a header");
        assert!(read("03:04:05 curl+8").is_err());
    }
}
