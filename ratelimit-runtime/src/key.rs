//! What limits are kept apart by.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::rc::Rc;
use std::sync::Arc;

/// A value by which calls are told apart: each has a bucket of its own.
///
/// Implemented for integers, `bool`, `char`, text, bytes, IP addresses, `Uuid` (feature `uuid`), `Option`, tuples of up to
/// six, and references and owning pointers to them. Two keys share a bucket only if they are equal and of one kind:
/// `("a", "bc")` and `("ab", "c")`, `None` and `Some("")`, `1_u8` and `"1"` are different; `"a"` and `String::from("a")`
/// are the same.
///
/// An IPv6 address counts as its /64 network, because one customer holds a whole /64, and an IPv4-mapped one as its IPv4
/// address; [`ExactIp`] keeps the full address. A `SocketAddr` is no key, since its port changes with every connection.
///
/// A type of your own writes the parts that make it up, as one:
///
/// ```
/// use ratelimit_runtime::{KeyWriter, RateLimitKey};
///
/// struct Tenant { id: u64, region: String }
///
/// impl RateLimitKey for Tenant {
///     fn write_to<W: KeyWriter>(&self, writer: &mut W) {
///         (self.id, &self.region).write_to(writer);
///     }
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the key of a rate limit",
    label = "not a rate limit key",
    note = "keys are numbers, text, bytes, addresses, `Option`s and tuples of them; of a `SocketAddr` key by `addr.ip()`, of another type by a field of it, or implement `RateLimitKey`"
)]
pub trait RateLimitKey {
    /// Writes the key's parts; two keys are the same if they write the same.
    fn write_to<W: KeyWriter>(&self, writer: &mut W);

    /// Whether there is a key at all: false of the empty tuple, for which nothing needs to be looked up.
    #[doc(hidden)]
    const KEYED: bool = true;

    /// Hands the key to `asker`, by the shortest way for what it is.
    #[doc(hidden)]
    #[inline]
    fn ask<A: KeyAsker>(&self, asker: A) -> A::Answer {
        asker.any(self)
    }
}

/// Where a [`RateLimitKey`] writes itself. Implemented by this crate only.
pub trait KeyWriter: sealed::Sink {}

impl<W: sealed::Sink> KeyWriter for W {}

/// Somebody who asks about a key. Implemented by this crate only.
#[doc(hidden)]
pub trait KeyAsker: sealed::Asker {}

impl<A: sealed::Asker> KeyAsker for A {}

pub(crate) mod sealed {
    use super::RateLimitKey;

    /// Somebody who asks about a key: those of the usual types are handed over in registers, so that one function does for
    /// all that are text, and one for all that are numbers.
    pub trait Asker {
        type Answer;

        fn text(self, key: &str) -> Self::Answer;
        /// A number of a `kind` that is not wide; a negative one as its complement of two.
        fn number(self, kind: Kind, key: u64) -> Self::Answer;
        fn any<K: RateLimitKey + ?Sized>(self, key: &K) -> Self::Answer;
    }

    /// The parts of a key.
    pub trait Sink {
        /// A number; `kind` names its type, as Rust does.
        fn number(&mut self, kind: Kind, value: u128);
        fn text(&mut self, value: &str);
        fn bytes(&mut self, value: &[u8]);
        fn none(&mut self);
        /// What is written next is inside `Some`.
        fn some(&mut self);
        /// So many parts follow.
        fn tuple(&mut self, parts: u8, write: impl FnOnce(&mut Self));
    }

    #[derive(Clone, Copy, Debug)]
    #[repr(u8)]
    pub enum Kind {
        U8 = 16,
        U16,
        U32,
        U64,
        U128,
        Usize,
        I8,
        I16,
        I32,
        I64,
        I128,
        Isize,
        Bool,
        Char,
        V4,
        /// A /64 network.
        V6Network,
        /// A full address.
        V6,
        Uuid,
    }

    impl Kind {
        /// Whether the lower 64 bits are not enough to tell its numbers apart.
        #[inline]
        pub(crate) fn is_wide(self) -> bool {
            matches!(self, Kind::U128 | Kind::I128 | Kind::V6 | Kind::Uuid)
        }
    }
}

use sealed::{Kind, Sink};

macro_rules! numbers {
    ($($type:ty => $kind:ident $(by $short:ident)?,)*) => {$(
        impl RateLimitKey for $type {
            #[allow(clippy::cast_lossless, clippy::cast_sign_loss, reason = "one pattern for all integers; the cast is injective")]
            #[inline]
            fn write_to<W: KeyWriter>(&self, writer: &mut W) {
                writer.number(Kind::$kind, *self as u128);
            }

            $(
                #[allow(clippy::cast_lossless, clippy::cast_sign_loss, reason = "one pattern for all; the cast is injective")]
                #[inline]
                fn ask<A: KeyAsker>(&self, asker: A) -> A::Answer {
                    asker.$short(Kind::$kind, *self as u64)
                }
            )?
        }
    )*};
}

numbers! {
    u8 => U8 by number, u16 => U16 by number, u32 => U32 by number, u64 => U64 by number, u128 => U128,
    usize => Usize by number,
    i8 => I8 by number, i16 => I16 by number, i32 => I32 by number, i64 => I64 by number, i128 => I128,
    isize => Isize by number, bool => Bool by number, char => Char by number,
}

impl RateLimitKey for str {
    #[inline]
    fn write_to<W: KeyWriter>(&self, writer: &mut W) {
        writer.text(self);
    }

    #[inline]
    fn ask<A: KeyAsker>(&self, asker: A) -> A::Answer {
        asker.text(self)
    }
}

impl RateLimitKey for String {
    #[inline]
    fn write_to<W: KeyWriter>(&self, writer: &mut W) {
        writer.text(self);
    }

    #[inline]
    fn ask<A: KeyAsker>(&self, asker: A) -> A::Answer {
        asker.text(self)
    }
}

impl RateLimitKey for [u8] {
    #[inline]
    fn write_to<W: KeyWriter>(&self, writer: &mut W) {
        writer.bytes(self);
    }
}

impl<const N: usize> RateLimitKey for [u8; N] {
    #[inline]
    fn write_to<W: KeyWriter>(&self, writer: &mut W) {
        writer.bytes(self);
    }
}

impl RateLimitKey for Vec<u8> {
    #[inline]
    fn write_to<W: KeyWriter>(&self, writer: &mut W) {
        writer.bytes(self);
    }
}

impl RateLimitKey for Ipv4Addr {
    #[inline]
    fn write_to<W: KeyWriter>(&self, writer: &mut W) {
        writer.number(Kind::V4, u32::from(*self).into());
    }

    #[inline]
    fn ask<A: KeyAsker>(&self, asker: A) -> A::Answer {
        asker.number(Kind::V4, u32::from(*self).into())
    }
}

impl RateLimitKey for Ipv6Addr {
    #[inline]
    fn write_to<W: KeyWriter>(&self, writer: &mut W) {
        match self.to_ipv4_mapped() {
            Some(v4) => v4.write_to(writer),
            None => writer.number(Kind::V6Network, network(*self).into()),
        }
    }

    #[inline]
    fn ask<A: KeyAsker>(&self, asker: A) -> A::Answer {
        match self.to_ipv4_mapped() {
            Some(v4) => v4.ask(asker),
            None => asker.number(Kind::V6Network, network(*self)),
        }
    }
}

/// The upper half of an address.
#[inline]
fn network(address: Ipv6Addr) -> u64 {
    (u128::from(address) >> 64) as u64
}

impl RateLimitKey for IpAddr {
    #[inline]
    fn write_to<W: KeyWriter>(&self, writer: &mut W) {
        match self {
            IpAddr::V4(v4) => v4.write_to(writer),
            IpAddr::V6(v6) => v6.write_to(writer),
        }
    }

    #[inline]
    fn ask<A: KeyAsker>(&self, asker: A) -> A::Answer {
        match self {
            IpAddr::V4(v4) => v4.ask(asker),
            IpAddr::V6(v6) => v6.ask(asker),
        }
    }
}

#[cfg(feature = "uuid")]
impl RateLimitKey for uuid::Uuid {
    #[inline]
    fn write_to<W: KeyWriter>(&self, writer: &mut W) {
        writer.number(Kind::Uuid, self.as_u128());
    }
}

/// Keys by the full IP address, where an IPv6 address would otherwise count as its /64 network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ExactIp(pub IpAddr);

impl RateLimitKey for ExactIp {
    #[inline]
    fn write_to<W: KeyWriter>(&self, writer: &mut W) {
        match self.0.to_canonical() {
            IpAddr::V4(v4) => v4.write_to(writer),
            IpAddr::V6(v6) => writer.number(Kind::V6, v6.into()),
        }
    }
}

impl<K: RateLimitKey> RateLimitKey for Option<K> {
    #[inline]
    fn write_to<W: KeyWriter>(&self, writer: &mut W) {
        match self {
            None => writer.none(),
            Some(key) => {
                writer.some();
                key.write_to(writer);
            }
        }
    }
}

macro_rules! pointers {
    ($($pointer:ty),*) => {$(
        impl<K: RateLimitKey + ?Sized> RateLimitKey for $pointer {
            #[inline]
            fn write_to<W: KeyWriter>(&self, writer: &mut W) {
                (**self).write_to(writer);
            }

            #[inline]
            fn ask<A: KeyAsker>(&self, asker: A) -> A::Answer {
                (**self).ask(asker)
            }

            const KEYED: bool = K::KEYED;
        }
    )*};
}

pointers!(&K, &mut K, Box<K>, Rc<K>, Arc<K>);

impl<K: RateLimitKey + ToOwned + ?Sized> RateLimitKey for Cow<'_, K> {
    #[inline]
    fn write_to<W: KeyWriter>(&self, writer: &mut W) {
        (**self).write_to(writer);
    }

    #[inline]
    fn ask<A: KeyAsker>(&self, asker: A) -> A::Answer {
        (**self).ask(asker)
    }

    const KEYED: bool = K::KEYED;
}

/// No key: one bucket for all calls.
impl RateLimitKey for () {
    #[inline]
    fn write_to<W: KeyWriter>(&self, writer: &mut W) {
        writer.tuple(0, |_| {});
    }
    const KEYED: bool = false;
}

macro_rules! tuples {
    ($($parts:literal: $($part:ident $index:tt),*;)*) => {$(
        impl<$($part: RateLimitKey),*> RateLimitKey for ($($part,)*) {
            // One function for all parts, in which the compiler counts the hash's words.
            #[allow(clippy::inline_always, reason = "measured: a fifth less for two parts")]
            #[inline(always)]
            fn write_to<W: KeyWriter>(&self, writer: &mut W) {
                writer.tuple($parts, |writer| { $(self.$index.write_to(writer);)* });
            }
        }
    )*};
}

tuples! {
    1: A 0;
    2: A 0, B 1;
    3: A 0, B 1, C 2;
    4: A 0, B 1, C 2, D 3;
    5: A 0, B 1, C 2, D 3, E 4;
    6: A 0, B 1, C 2, D 3, E 4, F 5;
}

/// Writes a key as text that a person can read, for stores that name their buckets: `"alice"`, `7u64`, `10.0.0.1`,
/// `(Some("a"),true)`. Quotes, braces, control characters and `%` inside text are escaped, so that the text is as
/// injective as the key. No colon stands outside quotes and brackets.
pub(crate) struct TextSink<'a> {
    text: &'a mut String,
    /// A part was written before: a comma is due.
    separate: bool,
    /// `Some(` that are open.
    open: u32,
}

impl<'a> TextSink<'a> {
    pub(crate) fn new(text: &'a mut String) -> TextSink<'a> {
        TextSink { text, separate: false, open: 0 }
    }

    /// One part without parts of its own.
    fn part(&mut self, write: impl FnOnce(&mut String)) {
        if std::mem::take(&mut self.separate) {
            self.text.push(',');
        }
        write(self.text);
        for _ in 0..std::mem::take(&mut self.open) {
            self.text.push(')');
        }
        self.separate = true;
    }
}

impl Sink for TextSink<'_> {
    fn number(&mut self, kind: Kind, value: u128) {
        #[expect(clippy::cast_possible_truncation, clippy::cast_possible_wrap, reason = "undoes the cast of the key")]
        self.part(|text| {
            let written = match kind {
                Kind::U8 => write!(text, "{value}u8"),
                Kind::U16 => write!(text, "{value}u16"),
                Kind::U32 => write!(text, "{value}u32"),
                Kind::U64 => write!(text, "{value}u64"),
                Kind::U128 => write!(text, "{value}u128"),
                Kind::Usize => write!(text, "{value}usize"),
                Kind::I8 => write!(text, "{}i8", value as i128),
                Kind::I16 => write!(text, "{}i16", value as i128),
                Kind::I32 => write!(text, "{}i32", value as i128),
                Kind::I64 => write!(text, "{}i64", value as i128),
                Kind::I128 => write!(text, "{}i128", value as i128),
                Kind::Isize => write!(text, "{}isize", value as i128),
                Kind::Bool => write!(text, "{}", value != 0),
                Kind::Char => {
                    text.push('\'');
                    escape(text, char::from_u32(value as u32).unwrap_or_default().encode_utf8(&mut [0; 4]));
                    text.push('\'');
                    Ok(())
                }
                Kind::V4 => write!(text, "{}", Ipv4Addr::from(value as u32)),
                Kind::V6Network => write!(text, "[{}/64]", Ipv6Addr::from(value << 64)),
                Kind::V6 => write!(text, "[{}]", Ipv6Addr::from(value)),
                // As a UUID is written: hexadecimal digits in groups of 8, 4, 4, 4 and 12.
                Kind::Uuid => {
                    let digits = format!("{value:032x}");
                    let groups = [&digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..]];
                    text.push_str(&groups.join("-"));
                    Ok(())
                }
            };
            debug_assert!(written.is_ok(), "a String takes all that is written");
        });
    }

    fn text(&mut self, value: &str) {
        self.part(|text| {
            text.push('"');
            escape(text, value);
            text.push('"');
        });
    }

    fn bytes(&mut self, value: &[u8]) {
        self.part(|text| {
            text.push_str("b\"");
            for chunk in value.utf8_chunks() {
                escape(text, chunk.valid());
                for byte in chunk.invalid() {
                    percent(text, *byte);
                }
            }
            text.push('"');
        });
    }

    fn none(&mut self) {
        self.part(|text| text.push_str("None"));
    }

    fn some(&mut self) {
        if std::mem::take(&mut self.separate) {
            self.text.push(',');
        }
        self.text.push_str("Some(");
        self.open += 1;
    }

    fn tuple(&mut self, _: u8, write: impl FnOnce(&mut Self)) {
        if std::mem::take(&mut self.separate) {
            self.text.push(',');
        }
        let open = std::mem::take(&mut self.open);
        self.text.push('(');
        write(self);
        self.text.push(')');
        for _ in 0..open {
            self.text.push(')');
        }
        self.separate = true;
    }
}

/// Appends `value` with `%`, quotes, braces and control characters as `%XX`.
pub(crate) fn escape(text: &mut String, value: &str) {
    for character in value.chars() {
        if matches!(character, '%' | '"' | '\'' | '{' | '}') || character.is_control() {
            for byte in character.encode_utf8(&mut [0; 4]).bytes() {
                percent(text, byte);
            }
        } else {
            text.push(character);
        }
    }
}

fn percent(text: &mut String, byte: u8) {
    let digit = |value: u8| char::from_digit(u32::from(value), 16).unwrap_or('0');
    text.push('%');
    text.push(digit(byte >> 4));
    text.push(digit(byte & 15));
}

#[cfg(test)]
mod tests {
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

    /// A key of two parts that does not write them as one.
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
        assert_eq!(hash([1, 2]), hash(vec![1_u8, 2]));
        assert_eq!(text([1, 2]), text(vec![1_u8, 2]));
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
}
