//! Keys that differ have texts and hashes that differ.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::types::embedded_v4;
use super::*;
use crate::hash::{HashSink, Seed};

fn text(key: impl RateLimitKey) -> String {
    let mut text = String::new();
    key.write_to(&mut TextSink::new(&mut text));
    text
}

fn hash(key: impl RateLimitKey) -> u64 {
    static SEED: std::sync::LazyLock<Seed<'static, 1>> = std::sync::LazyLock::new(Seed::new);
    let mut sink = HashSink::new(&*SEED);
    key.write_to(&mut sink);
    let [hash] = sink.finish();
    hash
}

/// A key that writes two parts without a tuple around them.
#[derive(Clone, Copy)]
struct Bare<A, B>(A, B);

impl<A: RateLimitKey, B: RateLimitKey> RateLimitKey for Bare<A, B> {
    fn write_to<W: KeyWriter>(&self, writer: &mut W) {
        self.0.write_to(writer);
        self.1.write_to(writer);
    }
}

#[test]
fn text_reads_like_the_key() {
    assert_eq!(text("alice"), r#""alice""#);
    assert_eq!(text(("a", 7_u64, Some((true, None::<char>)))), r#"("a",7u64,Some((true,None)))"#);
    assert_eq!(text((Some(Some(-1_i8)), b"\xff{")), r#"(Some(Some(-1i8)),b"%ff%7b")"#);
    assert_eq!(text("10.0.0.1".parse::<IpAddr>().unwrap()), "10.0.0.1");
    assert_eq!(text("2001:db8:1:2:3::4".parse::<IpAddr>().unwrap()), "[2001:db8:1:2::/64]");
    assert_eq!(text(ExactIp("2001:db8:1:2:3::4".parse().unwrap())), "[2001:db8:1:2:3::4]");
    assert_eq!(text(()), "()");
    assert_eq!(text((Some([1_u16, 2]), [""; 0], vec![Some("a")])), r#"(Some([1u16;2u16;]),[],[Some("a");])"#);
    assert_eq!(text((Duration::from_micros(1), Path::new("a/b"))), r#"(1000ns,b"a/b")"#);
}

#[test]
fn a_copy_of_a_key_is_the_key() {
    fn check(key: impl RateLimitKey) {
        let copy = KeyCopy::of(&key).unwrap();
        assert_eq!((text(&copy), hash(&copy)), (text(&key), hash(&key)));
    }
    check("a");
    check((Some(Some(-1_i8)), b"\xff{", None::<u128>, ((1_u8, 'x'), true)));
    check(vec![("a", [1_u64, 2]), ("b", [3, 4])]);
    check(Bare(("a",), Bare(["b"; 0], Duration::from_micros(1))));
    check("2001:db8:1:2:3::4".parse::<IpAddr>().unwrap());
    assert_eq!(KeyCopy::of(&()), None);
    assert_ne!(KeyCopy::of(&(("a",), "b")), KeyCopy::of(&(("a", "b"),)));
}

#[test]
fn adjacent_lists_differ() {
    let lists: [(&[&str], &[&str]); 6] = [
        (&["a"], &["b", "c"]),
        (&["a", "b"], &["c"]),
        (&["a", "b", "c"], &[]),
        (&[], &["a", "b", "c"]),
        (&["a;b"], &["c"]),
        (&["a", "b", "", "c"], &[]),
    ];
    for (i, one) in lists.iter().enumerate() {
        for other in &lists[..i] {
            assert_ne!(text(*one), text(*other));
            assert_ne!(hash(*one), hash(*other));
            let bare = |(a, b): (&'static [&'static str], &'static [&'static str])| Bare(a, b);
            assert_ne!(text(bare(*one)), text(bare(*other)));
            assert_ne!(hash(bare(*one)), hash(bare(*other)));
        }
    }
    assert_ne!(text([[1_u32], [2]].as_slice()), text([[1_u32, 2]].as_slice()));
    assert_ne!(hash([[1_u32], [2]].as_slice()), hash([[1_u32, 2]].as_slice()));
    assert_ne!(text([1_u32].as_slice()), text(1_u32));
    assert_ne!(text(Vec::<u32>::new()), text(vec![Vec::<u32>::new()]));
}

#[test]
fn an_address_counts_as_the_ipv4_address_that_it_stands_for() {
    let v4 = Ipv4Addr::new(192, 0, 2, 33);
    for address in [
        "::ffff:192.0.2.33",
        "::ffff:0:192.0.2.33",
        "64:ff9b::192.0.2.33",
        "64:ff9b:1::192.0.2.33",
        "64:ff9b:1:fffe::192.0.2.33",
        "64:ff9b:1:c000:2:2100::",
        "2001:0:4136:e378:8000:63bf:3fff:fdde",
        "2002:c000:221::1",
    ] {
        let v6: Ipv6Addr = address.parse().unwrap();
        assert_eq!(embedded_v4(v6), Some(v4), "{address}");
        assert_eq!((text(v6), hash(v6)), (text(v4), hash(v4)));
    }
    for address in ["::1", "::", "64:ff9b:2::1", "2001:db8::1", "2001:1::1", "2003::1", "fe80::1"] {
        assert_eq!(embedded_v4(address.parse().unwrap()), None, "{address}");
    }
}

#[test]
fn a_non_zero_number_is_the_same_key() {
    assert_eq!(text(num::NonZeroU32::MIN), text(1_u32));
    assert_eq!(hash(num::NonZeroI64::MIN), hash(i64::MIN));
}

#[cfg(feature = "uuid")]
#[test]
fn a_uuid_is_written_as_uuids_are() {
    let id = uuid::Uuid::from_u128(0x1234_5678_9abc_def0_1234_5678_9abc_def0);
    assert_eq!(text(id), id.to_string());
    assert_ne!(hash(id), hash(id.as_u128()));
}

#[test]
fn keys_that_look_alike_differ() {
    macro_rules! differ {
        ($($a:expr, $b:expr;)*) => {$(
            assert_ne!(text($a), text($b));
            assert_ne!(hash($a), hash($b));
        )*};
    }
    differ! {
        ("a", "bc"), ("ab", "c");
        None::<&str>, Some("");
        None::<&str>, "\u{3}\0\0\0\0\0\0\0";
        1_u8, "1";
        1_u8, 1_u16;
        (("a", "b"), "c"), ("a", ("b", "c"));
        ("a",), "a";
        "a", b"a";
        Some("a"), "a";
        Some(Some("a")), Some("a");
        (Some("a"), "b"), Some(("a", "b"));
        "a\",\"b", ("a", "b");
        "%22", "\"";
        "\u{0}", "%00";
        b"\xff".as_slice(), b"%ff".as_slice();
        1_u32, '\u{1}';
        true, 1_u8;
        Ipv4Addr::new(0, 0, 0, 1), 1_u32;
        "::1".parse::<Ipv6Addr>().unwrap(), "1:0:0:1::1".parse::<Ipv6Addr>().unwrap();
        u64::MAX, i64::MIN;
        (1_u8, "a"), ("a", 1_u8);
        (1_u8, 2_u8), (2_u8, 1_u8);
        (None::<u8>, "a"), ("a", None::<u8>);
        (Some("a"), "b"), ("a", Some("b"));
        (Some(1_u8), 2_u8), (1_u8, Some(2_u8));
        (1_u64, "a", 2_u64), (1_u64, 2_u64, "a");
        Bare(1_u8, "a"), Bare("a", 1_u8);
        Bare("a", "bc"), Bare("ab", "c");
        Bare("\u{4}\0\0\0\0\0\0\0", 1_u8), Some(1_u8);
    }
}

#[test]
fn texts_of_one_letter_differ_by_their_length() {
    let hashes: std::collections::HashSet<u64> = (0..300).map(|length| hash("a".repeat(length))).collect();
    assert_eq!(hashes.len(), 300);
}

#[test]
fn the_same_value_behind_a_pointer_is_the_same_key() {
    assert_eq!(hash("a"), hash(String::from("a")));
    assert_eq!(hash("a"), hash(Arc::new(Box::new(Cow::Borrowed("a")))));
    assert_eq!(hash([1_u8, 2]), hash(vec![1_u8, 2]));
    assert_eq!(text([1_u8, 2]), text(vec![1_u8, 2]));
}

#[test]
fn addresses_count_by_customer() {
    let ip = |text: &str| text.parse::<IpAddr>().unwrap();
    assert_eq!(hash(ip("2001:db8::1")), hash(ip("2001:db8::ffff:2")));
    assert_ne!(hash(ip("2001:db8::1")), hash(ip("2001:db8:0:1::1")));
    assert_eq!(hash(ip("::ffff:10.0.0.1")), hash(ip("10.0.0.1")));
    assert_ne!(hash(ExactIp(ip("2001:db8::1"))), hash(ExactIp(ip("2001:db8::2"))));
    assert_eq!(hash(ExactIp(ip("::ffff:10.0.0.1"))), hash(ip("10.0.0.1")));
}
