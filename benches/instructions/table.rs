//! The committed table: the machine that it was made on, a count for each case, and why a count was
//! raised.

use std::fmt;
use std::path::Path;

use super::machine::Machine;

pub(super) struct Table {
    pub(super) machine: Machine,
    rows: Vec<Row>,
}

struct Row {
    name: String,
    count: u64,
    reason: String,
}

/// Placeholder for a missing reason.
const MISSING: &str = "WHY?";

/// Tolerance of a count: hash seeds and the clock move it by one or two. The folder of the build
/// moves it by up to 2 %, because it is part of the names by which the compiler orders functions.
fn tolerance(count: u64) -> u64 {
    (count / 33).max(4)
}

impl Table {
    pub(super) fn new(machine: Machine, counts: &[(&'static str, u64)]) -> Table {
        let row = |(name, count): &(&str, u64)| Row { name: (*name).to_owned(), count: *count, reason: String::new() };
        Table { machine, rows: counts.iter().map(row).collect() }
    }

    pub(super) fn read(path: &Path) -> Result<Table, String> {
        let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
        Table::parse(&text)
    }

    /// `# NAME: VALUE` of the machine, `CASE | COUNT | REASON` of a case; other lines with `#` are
    /// remarks.
    fn parse(text: &str) -> Result<Table, String> {
        let mut table = Table { machine: Machine(Vec::new()), rows: Vec::new() };
        for (index, line) in text.lines().enumerate() {
            if let Some(remark) = line.strip_prefix('#') {
                if let Some((name, value)) = remark.trim().split_once(": ") {
                    table.machine.0.push((name.to_owned(), value.to_owned()));
                }
                continue;
            }
            if line.trim().is_empty() {
                continue;
            }
            let mut cells = line.splitn(3, '|').map(str::trim);
            let (Some(name), Some(count)) = (cells.next(), cells.next()) else {
                return Err(format!("line {} is no `CASE | COUNT | REASON`: {line}", index + 1));
            };
            let count = count.parse().map_err(|_| format!("line {}: `{count}` is not a count", index + 1))?;
            let reason = cells.next().unwrap_or_default().to_owned();
            table.rows.push(Row { name: name.to_owned(), count, reason });
        }
        Ok(table)
    }

    fn row(&self, name: &str) -> Option<&Row> {
        self.rows.iter().find(|row| row.name == name)
    }

    /// A line for each case that differs from this table.
    pub(super) fn differences(&self, found: &Table) -> Vec<String> {
        let mut differences = Vec::new();
        for Row { name, count, reason } in &self.rows {
            match found.row(name) {
                None => differences.push(format!("  {name}: there is no such case any more")),
                Some(row) if row.count.abs_diff(*count) > tolerance(*count) => {
                    let change = row.count.cast_signed() - count.cast_signed();
                    differences.push(format!("  {name}: {} instead of {count} ({change:+})", row.count));
                }
                Some(_) if reason == MISSING => differences.push(format!("  {name}: its reason is not written")),
                Some(_) => {}
            }
        }
        for row in found.rows.iter().filter(|row| self.row(&row.name).is_none()) {
            differences.push(format!("  {}: {}, not in the table", row.name, row.count));
        }
        differences
    }

    /// Takes over reasons, and counts that differ only by chance. A rise needs a new reason.
    pub(super) fn keep_reasons(&mut self, before: &Table) {
        for row in &mut self.rows {
            let Some(Row { count, reason, .. }) = before.row(&row.name) else { continue };
            if row.count > count + tolerance(*count) {
                MISSING.clone_into(&mut row.reason);
                continue;
            }
            reason.clone_into(&mut row.reason);
            if row.count.abs_diff(*count) <= tolerance(*count) {
                row.count = *count;
            }
        }
    }

    /// Cases whose count rose without a reason.
    pub(super) fn without_reason(&self) -> impl Iterator<Item = &str> {
        self.rows.iter().filter(|row| row.reason == MISSING).map(|row| row.name.as_str())
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "# Instructions of one decision. `scripts/callgrind --check` compares them, `--update` rewrites them."
        )?;
        writeln!(f, "# The third column says why a count was raised.")?;
        for (name, value) in &self.machine.0 {
            writeln!(f, "# {name}: {value}")?;
        }
        for Row { name, count, reason } in &self.rows {
            let line = format!("{name:<36} | {count:>5} | {reason}");
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(counts: &[(&'static str, u64)]) -> Table {
        Table::new(Machine(vec![("rustc".to_owned(), "1".to_owned())]), counts)
    }

    #[test]
    fn a_table_is_read_as_it_is_written() {
        let mut written = table(&[("a, denied", 100), ("b", 7)]);
        written.rows[0].reason = "a | b: it is worth it".to_owned();
        let read = Table::parse(&written.to_string()).unwrap();
        assert_eq!(read.to_string(), written.to_string());
        assert_eq!(read.machine, written.machine);
    }

    #[test]
    fn counts_beyond_the_tolerance_differ() {
        let before = table(&[("a", 100), ("b", 1_000), ("gone", 1)]);
        assert_eq!(before.differences(&table(&[("a", 104), ("b", 970), ("gone", 1)])), [""; 0]);
        assert_eq!(
            before.differences(&table(&[("a", 105), ("b", 969), ("new", 3)])),
            [
                "  a: 105 instead of 100 (+5)",
                "  b: 969 instead of 1000 (-31)",
                "  gone: there is no such case any more",
                "  new: 3, not in the table"
            ]
        );
    }

    #[test]
    fn a_rise_has_to_be_explained_anew() {
        let mut before = table(&[("a", 100), ("b", 100), ("c", 100)]);
        before.rows.iter_mut().for_each(|row| row.reason = "old".to_owned());
        let mut after = table(&[("a", 110), ("b", 102), ("c", 90)]);
        after.keep_reasons(&before);
        assert_eq!(after.without_reason().collect::<Vec<_>>(), ["a"]);
        assert_eq!(after.differences(&after), ["  a: its reason is not written"]);
        assert_eq!((after.rows[1].count, after.rows[1].reason.as_str()), (100, "old"));
        assert_eq!((after.rows[2].count, after.rows[2].reason.as_str()), (90, "old"));
    }

    #[test]
    fn another_machine_is_named() {
        let [one, two] = ["1", "2"].map(|value| Machine(vec![("rustc".to_owned(), value.to_owned())]));
        assert_eq!(one.differences(&two), ["  rustc: 1 in the table, 2 here"]);
        assert!(one.differences(&one).is_empty());
    }
}
