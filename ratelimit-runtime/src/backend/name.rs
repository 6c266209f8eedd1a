//! The name of a bucket in a store that bounds the length of names.

use std::borrow::Cow;
use std::fmt::Write as _;

use sha2::{Digest, Sha256};

/// The readable part of a shortened name, in bytes.
const READABLE: usize = 128;
/// The end of a shortened name, before its hash tag is closed: `%sha256:` and the hash in
/// hexadecimal.
const HASH: usize = 72;

impl super::Request {
    /// The bucket's name in at most `bytes` bytes (at least 80), without blanks: for stores that
    /// bound the length of names. Needs one of the features `store`, `redis`, `memcached` and
    /// `postgres`.
    ///
    /// A name that fits stays as it is, except that a blank is written as `%20`. In a longer one, a
    /// SHA-256 replaces what was left out. Two buckets share a name only if SHA-256 collides.
    ///
    /// ```
    /// use ratelimit_runtime::Limit;
    /// use ratelimit_runtime::backend::{Action, Request};
    ///
    /// let named = |name: &str| Request::new(name, &[Limit::per_minute(1)], Action::Reset);
    /// assert_eq!(named("api:a b").bucket_within(250), "api:a%20b");
    /// assert!(named(&"x".repeat(1_000)).bucket_within(250).len() <= 250);
    /// ```
    pub fn bucket_within(&self, bytes: usize) -> Cow<'_, str> {
        let bucket = self.bucket();
        if bucket.contains(' ') {
            // A `%` in a bucket's name always precedes two hexadecimal digits, which are never 20.
            return Cow::Owned(within(&bucket.replace(' ', "%20"), bytes).into_owned());
        }
        within(bucket, bytes)
    }
}

/// `bucket` in at most `bytes` bytes. If it is too long, a SHA-256 at the end of the hash tag
/// replaces what was left out.
///
/// A shortened name equals no other. It contains `%s`, and a `%` in a bucket's name always precedes
/// two hexadecimal digits. Two long names share a hash only if SHA-256 collides.
pub(crate) fn within(bucket: &str, bytes: usize) -> Cow<'_, str> {
    if bucket.len() <= bytes {
        return Cow::Borrowed(bucket);
    }
    let tag = bucket.find('{').zip(bucket.rfind('}')).filter(|(open, close)| open < close);
    let (before, tag, after) = match tag {
        Some((open, close)) if bucket.len() - (close - open) <= (bytes / 2).min(bytes.saturating_sub(HASH)) => {
            (&bucket[..=open], &bucket[open + 1..close], &bucket[close..])
        }
        // The parts around the tag are themselves too long.
        _ => ("rl:{", bucket, "}"),
    };
    let mut name = String::with_capacity(bytes);
    name.push_str(before);
    name.push_str(readable(tag, bytes.saturating_sub(before.len() + HASH + after.len())));
    name.push_str("%sha256:");
    for byte in Sha256::digest(tag) {
        // Writing to a String does not fail.
        let _ = write!(name, "{byte:02x}");
    }
    name.push_str(after);
    Cow::Owned(name)
}

/// The start of `tag`, of at most `room` bytes, up to a brace, which would end the hash tag early.
fn readable(tag: &str, room: usize) -> &str {
    let mut end = READABLE.min(room).min(tag.len());
    while !tag.is_char_boundary(end) {
        end -= 1;
    }
    let start = &tag[..end];
    start.split(['{', '}']).next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Limit;
    use crate::backend::{Action, Request};

    const LONGEST: usize = 512;

    fn name(bucket: &str) -> Cow<'_, str> {
        within(bucket, LONGEST)
    }

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
            for bytes in [80, 100, 150, 250, LONGEST] {
                let name = within(&bucket, bytes);
                assert!(name.len() <= bytes, "{} of {bytes}", name.len());
                assert!(name.contains("%sha256:"));
            }
        }
    }

    #[test]
    fn names_for_a_store_have_no_blanks_and_stay_apart() {
        let names = ["a b", "a  b", "ab", "a%2520b", "a\u{a0}b"].map(|key| {
            let request = Request::new(bucket(key), &[Limit::per_minute(1)], Action::Reset);
            request.bucket_within(250).into_owned()
        });
        for (position, name) in names.iter().enumerate() {
            assert!(!name.contains(' '));
            assert!(!names[..position].contains(name));
        }
    }
}
