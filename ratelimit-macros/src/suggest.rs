//! "Did you mean": the known name nearest to a misspelt one.

/// The known name that `written` most likely stands for, if any is near enough to suggest.
pub(crate) fn nearest<'a>(written: &str, known: &[&'a str]) -> Option<&'a str> {
    let lower = written.to_ascii_lowercase();
    // A third of the letters may be wrong: `cout` is `count`, but `foo` is not `per`.
    let tolerance = (lower.chars().count() / 3).max(1);
    let mut nearest = None;
    let mut least = tolerance + 1;
    for name in known {
        let distance = distance(&lower, name);
        if distance < least && distance < name.len() {
            least = distance;
            nearest = Some(*name);
        }
    }
    nearest
}

/// The three known names that are nearest to `written`, the nearest first.
pub(crate) fn nearest_three<'a>(written: &str, known: &[&'a str]) -> Vec<&'a str> {
    let (lower, mut names) = (written.to_ascii_lowercase(), known.to_vec());
    names.sort_by_key(|name| distance(&lower, name));
    names.truncate(3);
    names
}

/// A list such as `count`, `per` and `burst`, each as code.
pub(crate) fn listed(names: &[&str], last: &str) -> String {
    let mut text = String::new();
    for (index, name) in names.iter().enumerate() {
        if index > 0 {
            text.push_str(if index + 1 == names.len() { last } else { ", " });
        }
        text.push('`');
        text.push_str(name);
        text.push('`');
    }
    text
}

/// Letters to insert, remove, replace or swap with a neighbour to turn `a` into `b` (optimal string
/// alignment).
fn distance(a: &str, b: &str) -> usize {
    let a: Vec<char> = a.chars().collect();
    let b: Vec<char> = b.chars().collect();
    let mut before_last: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.iter().enumerate() {
        let mut row = Vec::with_capacity(b.len() + 1);
        row.push(i + 1);
        for (j, to) in b.iter().enumerate() {
            let mut cost = (last[j] + usize::from(from != to)).min(last[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && *from == b[j - 1] && a[i - 1] == *to {
                cost = cost.min(before_last[j - 1] + 1);
            }
            row.push(cost);
        }
        before_last = last;
        last = row;
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_keyboard_is_recognised() {
        let known = ["count", "per", "key", "cost", "burst"];
        assert_eq!(nearest("cout", &known), Some("count"));
        assert_eq!(nearest("cuont", &known), Some("count"));
        assert_eq!(nearest("Key", &known), Some("key"));
        assert_eq!(nearest("brust", &known), Some("burst"));
    }

    #[test]
    fn another_word_is_not() {
        assert_eq!(nearest("frobnicate", &["count", "per", "key"]), None);
        assert_eq!(nearest("x", &["key"]), None);
    }
}
