//! The name of a bucket in Redis.

use std::borrow::Cow;
use std::fmt::Write as _;

use sha2::{Digest, Sha256};

/// Names up to this many bytes are used as they are.
const LONGEST: usize = 512;
/// How much of a longer name stays readable, in bytes.
const READABLE: usize = 128;

/// The bucket's name. In a name that is too long, a SHA-256 at the end of the hash tag replaces
/// what was left out.
///
/// A shortened name equals no other. It contains `%s`, and a `%` in a bucket's name always precedes
/// two hexadecimal digits. Two long names share a hash only if SHA-256 collides.
pub(super) fn name(bucket: &str) -> Cow<'_, str> {
    if bucket.len() <= LONGEST {
        return Cow::Borrowed(bucket);
    }
    let tag = bucket.find('{').zip(bucket.rfind('}')).filter(|(open, close)| open < close);
    let (before, tag, after) = match tag {
        Some((open, close)) if bucket.len() - (close - open) <= LONGEST / 2 => {
            (&bucket[..=open], &bucket[open + 1..close], &bucket[close..])
        }
        // The parts around the tag are themselves too long.
        _ => ("rl:{", bucket, "}"),
    };
    let mut name = String::with_capacity(LONGEST);
    name.push_str(before);
    name.push_str(readable(tag));
    name.push_str("%sha256:");
    for byte in Sha256::digest(tag) {
        // Writing to a String does not fail.
        let _ = write!(name, "{byte:02x}");
    }
    name.push_str(after);
    Cow::Owned(name)
}

/// The start of `tag` up to a brace, which would end the hash tag early.
fn readable(tag: &str) -> &str {
    let mut end = READABLE.min(tag.len());
    while !tag.is_char_boundary(end) {
        end -= 1;
    }
    let start = &tag[..end];
    start.split(['{', '}']).next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bucket(key: &str) -> String {
        format!("rl:1:{{api:\"{key}\"}}:s1000000")
    }

    #[test]
    fn short_names_are_used_as_they_are() {
        let bucket = bucket("alice");
        assert_eq!(name(&bucket), bucket);
    }

    #[test]
    fn long_names_are_bounded_and_keep_tag_and_shape() {
        for length in [500, 513, 100_000, 1_000_000] {
            let bucket = bucket(&"é".repeat(length));
            let name = name(&bucket);
            assert!(name.len() <= LONGEST, "{}", name.len());
            assert!(name.starts_with("rl:1:{api:\"é"));
            assert!(name.ends_with("}:s1000000"));
            assert_eq!(name.matches(['{', '}']).count(), 2);
        }
    }

    #[test]
    fn long_names_that_differ_anywhere_differ() {
        let long = "x".repeat(600);
        let names = [bucket(&long), bucket(&format!("{long}y")), bucket(&format!("y{long}")), bucket(&long) + "0"]
            .map(|bucket| name(&bucket).into_owned());
        for (position, name) in names.iter().enumerate() {
            assert!(!names[..position].contains(name));
        }
    }

    #[test]
    fn names_of_any_shape_are_bounded() {
        for bucket in ["x".repeat(10_000), format!("{}{{tag}}", "x".repeat(1_000)), format!("}}{{{}", "{}".repeat(900))]
        {
            let name = name(&bucket);
            assert!(name.len() <= LONGEST);
            assert!(name.contains("%sha256:"));
        }
    }
}
