//! Columns separated by commas, semicolons or tabs. The first line names them, unless all wanted
//! columns are given by number.

use csv_core::{ReadRecordResult, Reader, ReaderBuilder};

use super::{Line, Reason, Values, resolve};
use crate::key::Field;

#[derive(Debug)]
pub(super) struct Csv {
    fields: Vec<Field>,
    reader: Reader,
    /// Positions of the wanted columns, once the header is read.
    positions: Option<Result<Vec<usize>, Reason>>,
    text: Vec<u8>,
    ends: Vec<usize>,
}

impl Csv {
    pub(super) fn new(fields: Vec<Field>) -> Csv {
        Csv { fields, reader: Reader::new(), positions: None, text: vec![0; 4096], ends: vec![0; 64] }
    }

    pub(super) fn read(&mut self, line: &[u8], values: &mut Values) -> Result<Line, Reason> {
        let Some(positions) = &self.positions else { return self.begin(line, values) };
        let positions = positions.as_ref().map_err(|reason| *reason)?;
        let columns = split(&mut self.reader, line, &mut self.text, &mut self.ends)?;
        for (field, position) in positions.iter().enumerate() {
            if *position >= columns {
                return Err("there are fewer columns than in the header");
            }
            let start = position.checked_sub(1).map_or(0, |before| self.ends[before]);
            values.set(field, &self.text[start..self.ends[*position]]);
        }
        Ok(Line::Call)
    }

    /// The first line: names, or the first call.
    fn begin(&mut self, line: &[u8], values: &mut Values) -> Result<Line, Reason> {
        self.reader = ReaderBuilder::new().delimiter(delimiter(line)).build();
        let number = |field: &Field| match field {
            Field::Column(name) => name.parse::<usize>().ok()?.checked_sub(1),
            _ => None,
        };
        let names = columns(line);
        if let Some(positions) = self.fields.iter().map(number).collect::<Option<Vec<_>>>()
            && !self.fields.iter().any(|field| names.contains(&field.name()))
        {
            self.positions = Some(Ok(positions));
            return self.read(line, values);
        }
        self.positions = Some(resolve(&self.fields, &names).map_err(|_| "the first line names no such column"));
        Ok(Line::Header)
    }
}

/// The names of the columns in a header.
pub(super) fn columns(line: &[u8]) -> Vec<String> {
    let mut reader = ReaderBuilder::new().delimiter(delimiter(line)).build();
    let (mut text, mut ends) = (vec![0; line.len() + 1], vec![0; line.len() + 1]);
    let columns = split(&mut reader, line, &mut text, &mut ends).unwrap_or(0);
    let start = |column: usize| column.checked_sub(1).map_or(0, |before| ends[before]);
    let name = |column| String::from_utf8_lossy(&text[start(column)..ends[column]]).trim().to_owned();
    (0..columns).map(name).collect()
}

/// Splits a line. Returns the number of columns.
fn split(reader: &mut Reader, line: &[u8], text: &mut Vec<u8>, ends: &mut Vec<usize>) -> Result<usize, Reason> {
    // Both can hold the whole line, whatever it contains.
    if text.len() <= line.len() {
        text.resize(line.len() + 1, 0);
        ends.resize(line.len() + 2, 0);
    }
    if ends.len() < 64.min(line.len() + 2) {
        ends.resize(64, 0);
    }
    reader.reset();
    let (mut read, mut written, mut columns) = (0, 0, 0);
    loop {
        let (result, input, output, fields) =
            reader.read_record(&line[read..], &mut text[written..], &mut ends[columns..]);
        (read, written, columns) = (read + input, written + output, columns + fields);
        match result {
            ReadRecordResult::Record => return Ok(columns),
            // An empty second input ends the record.
            ReadRecordResult::InputEmpty => {}
            ReadRecordResult::OutputFull => text.resize(text.len() * 2, 0),
            ReadRecordResult::OutputEndsFull => ends.resize(ends.len() * 2, 0),
            ReadRecordResult::End => return Err("the line is empty"),
        }
    }
}

/// The most frequent separator in the header.
fn delimiter(line: &[u8]) -> u8 {
    let count = |separator: &u8| memchr::memchr_iter(*separator, line).count();
    [b',', b';', b'\t', b'|'].into_iter().max_by_key(|separator| (count(separator), *separator == b',')).unwrap_or(b',')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(csv: &mut Csv, line: &str) -> Result<Vec<String>, Reason> {
        let mut values = Values::default();
        values.clear(csv.fields.len());
        if csv.read(line.as_bytes(), &mut values)? == Line::Header {
            return Ok(Vec::new());
        }
        Ok((0..csv.fields.len())
            .map(|field| String::from_utf8_lossy(values.get(field).unwrap_or_default()).into_owned())
            .collect())
    }

    #[test]
    fn columns_are_found_by_name_and_by_number() {
        let fields = vec![Field::Column("when".into()), Field::Ip];
        let mut csv = Csv::new(fields);
        assert!(read(&mut csv, "id,client_ip,when").expect("a header").is_empty());
        assert_eq!(
            read(&mut csv, "1,192.0.2.1,\"2026-01-02, 03:04\"").expect("a call"),
            ["2026-01-02, 03:04", "192.0.2.1"]
        );
        assert!(read(&mut csv, "1,2").is_err());

        let mut csv = Csv::new(vec![Field::Column("2".into()), Field::Column("1".into())]);
        assert_eq!(read(&mut csv, "ann;1700000000").expect("a call"), ["1700000000", "ann"]);
        assert_eq!(read(&mut csv, "bob;1700000001").expect("a call"), ["1700000001", "bob"]);
    }

    #[test]
    fn long_lines_fit() {
        let mut csv = Csv::new(vec![Field::Column("1".into())]);
        for columns in [1, 60, 5_000] {
            let line = format!("{}{}", "x".repeat(6_000), ",".repeat(columns));
            assert_eq!(read(&mut csv, &line).expect("a call")[0].len(), 6_000);
        }
    }

    #[test]
    fn a_missing_column_is_a_reason() {
        let mut csv = Csv::new(vec![Field::Time, Field::User]);
        read(&mut csv, "time,ip").expect("a header");
        assert!(read(&mut csv, "1700000000,192.0.2.1").is_err());
    }
}
