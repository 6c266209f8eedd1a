//! The list of faults, and how a fault is planted.

use std::fs;
use std::path::Path;

/// One fault.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Mutant {
    pub(super) name: String,
    /// Relative to the root of the repository.
    pub(super) file: String,
    /// The lines to replace, and their replacement.
    pub(super) original: String,
    pub(super) replacement: String,
}

/// The faults in `mutants.txt`.
pub(super) fn all(root: &Path) -> Result<Vec<Mutant>, String> {
    let path = root.join("tests/mutants/mutants.txt");
    let text = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    parse(&text)
}

/// `== NAME`, `file: PATH`, then lines that begin with `-` and lines that begin with `+`, as in a
/// patch; `#` starts a remark. A fault without a file is in the same file as the one before.
fn parse(text: &str) -> Result<Vec<Mutant>, String> {
    let mut mutants: Vec<Mutant> = Vec::new();
    let mut file = String::new();
    for (index, line) in text.lines().enumerate() {
        let at = |what: &str| format!("mutants.txt, line {}: {what}: {line}", index + 1);
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(path) = line.strip_prefix("file: ") {
            path.trim().clone_into(&mut file);
            continue;
        }
        if let Some(name) = line.strip_prefix("== ") {
            if mutants.iter().any(|mutant| mutant.name == name.trim()) {
                return Err(at("a second fault of that name"));
            }
            mutants.push(Mutant { name: name.trim().to_owned(), file: file.clone(), ..Mutant::default() });
            continue;
        }
        let mutant = mutants.last_mut().ok_or_else(|| at("no fault has begun"))?;
        let (lines, code) = match line.split_at_checked(1) {
            Some(("-", code)) => (&mut mutant.original, code),
            Some(("+", code)) => (&mut mutant.replacement, code),
            _ => return Err(at("neither `==`, `file:`, `-`, `+` nor `#`")),
        };
        if !lines.is_empty() {
            lines.push('\n');
        }
        lines.push_str(code.trim_end());
    }
    match mutants.iter().find(|mutant| mutant.original.is_empty() || mutant.file.is_empty()) {
        Some(mutant) => Err(format!("mutants.txt: `{}` has no file or no lines with `-`", mutant.name)),
        None => Ok(mutants),
    }
}

impl Mutant {
    /// The text with the fault. Ignores indentation, so that the list survives moved lines.
    pub(super) fn planted(&self, text: &str) -> Result<String, String> {
        let lines: Vec<&str> = text.lines().collect();
        let original: Vec<&str> = self.original.lines().map(str::trim).collect();
        let matches = |at: &usize| lines[*at..].iter().zip(&original).all(|(line, original)| line.trim() == *original);
        let last = (lines.len() + 1).saturating_sub(original.len());
        let places: Vec<usize> = (0..last).filter(matches).collect();
        let [place] = places[..] else {
            return Err(format!("its lines stand in {} {} times, not once", self.file, places.len()));
        };
        let mut planted = lines[..place].to_vec();
        planted.extend(self.replacement.lines());
        planted.extend(&lines[place + original.len()..]);
        planted.push("");
        let planted = planted.join("\n");
        if planted == text { Err("it changes nothing".to_owned()) } else { Ok(planted) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_has_one_place_in_the_code() {
        let root = super::super::root();
        let mutants = all(&root).unwrap();
        assert!(!mutants.is_empty());
        let wrong: Vec<String> = mutants
            .iter()
            .filter_map(|mutant| {
                let text = fs::read_to_string(root.join(&mutant.file)).unwrap_or_default();
                mutant.planted(&text).err().map(|why| format!("{}: {why}", mutant.name))
            })
            .collect();
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }

    #[test]
    fn a_list_is_read() {
        let list = "# remark\nfile: a.rs\n== one\n-  a < b\n-  c\n+  a <= b\n== two\n-x\n";
        let mutants = parse(list).unwrap();
        assert_eq!(mutants.len(), 2);
        assert_eq!((mutants[0].original.as_str(), mutants[0].replacement.as_str()), ("  a < b\n  c", "  a <= b"));
        assert_eq!((mutants[1].name.as_str(), mutants[1].file.as_str()), ("two", "a.rs"));
        assert_eq!(mutants[0].planted("fn\n    a < b\n    c\n}\n").unwrap(), "fn\n  a <= b\n}\n");
        assert!(mutants[0].planted("a < b\nd\n").unwrap_err().contains("0 times"));
        assert!(mutants[1].planted("x\nx\n").unwrap_err().contains("2 times"));
        assert!(parse("-x").is_err());
        assert!(parse("file: a\n== one\n-x\n== one\n-y\n").is_err());
        assert!(parse("file: a\n== one\n+x\n").is_err());
    }
}
