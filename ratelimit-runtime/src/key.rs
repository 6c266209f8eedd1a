//! Rate limit keys, and the two sinks that write them: a hash and readable text.

use std::borrow::Cow;
use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// The key of a limited call. Each key has a bucket of its own.
///
/// Implemented for:
/// - integers and `NonZero` integers, `bool`, `char`, text, bytes;
/// - IP addresses, `Duration`, paths and `OsStr`;
/// - `Uuid` (feature `uuid`);
/// - `Method` and `HeaderValue` of HTTP (features `axum`, `tower`, `actix-web`);
/// - `Option`, arrays, slices and `Vec`s of keys, and tuples of up to twelve keys;
/// - references and owning pointers to keys.
///
/// Two keys share a bucket only if they are equal and of the same kind. `("a", "bc")` and `("ab",
/// "c")`, `None` and `Some("")`, `1_u8` and `"1"` are different; `"a"` and `String::from("a")` are
/// the same.
///
/// An IPv6 address counts as its /64 network, because one customer holds a whole /64. An IPv6
/// address that embeds an IPv4 address counts as that address: IPv4-mapped, translated (SIIT,
/// NAT64), Teredo and 6to4 addresses. [`ExactIp`] keeps the full address. A `SocketAddr` is not a
/// key, because its port changes with every connection.
///
/// Derive it for your own type:
///
/// ```
/// use ratelimit_runtime::RateLimitKey;
///
/// #[derive(RateLimitKey)]
/// enum Caller { Anonymous, Member { tenant: u64, roles: Vec<String> } }
/// ```
///
/// or write its parts as one key:
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
    note = "keys are numbers, text, bytes, addresses, `Option`s and tuples of them; of a `SocketAddr` key by `addr.ip()`, of another type by a field of it, or `#[derive(RateLimitKey)]`"
)]
pub trait RateLimitKey {
    /// Writes the key's parts. Two keys are the same if they write the same parts.
    fn write_to<W: KeyWriter>(&self, writer: &mut W);

    /// Writes several keys of this type as one value: as bytes if the type is `u8`, else as a list.
    #[doc(hidden)]
    #[inline]
    fn write_slice<W: KeyWriter>(keys: &[Self], writer: &mut W)
    where
        Self: Sized,
    {
        writer.list(keys);
    }

    /// Whether this type is a key at all: false for the empty tuple, which needs no lookup.
    #[doc(hidden)]
    const KEYED: bool = true;

    /// Hands the key to `asker` in the cheapest form for its type.
    #[doc(hidden)]
    #[inline]
    fn ask<A: KeyAsker>(&self, asker: A) -> A::Answer {
        asker.any(self)
    }
}

/// The sink that a [`RateLimitKey`] writes itself to. Sealed: implemented by this crate only.
pub trait KeyWriter: sealed::Sink {
    /// Writes keys as one delimited value, so that adjacent lists stay distinct.
    ///
    /// ```
    /// use std::collections::BTreeSet;
    /// use ratelimit_runtime::{KeyWriter, RateLimitKey};
    ///
    /// struct Roles(BTreeSet<String>);
    ///
    /// impl RateLimitKey for Roles {
    ///     fn write_to<W: KeyWriter>(&self, writer: &mut W) {
    ///         writer.list(&self.0);
    ///     }
    /// }
    /// ```
    fn list<K: RateLimitKey>(&mut self, keys: impl IntoIterator<Item = K>)
    where
        Self: Sized;
}

impl<W: sealed::Sink> KeyWriter for W {
    fn list<K: RateLimitKey>(&mut self, keys: impl IntoIterator<Item = K>) {
        self.begin_list();
        for key in keys {
            self.item();
            key.write_to(self);
        }
        self.end_list();
    }
}

/// A consumer of a key. Sealed: implemented by this crate only.
#[doc(hidden)]
pub trait KeyAsker: sealed::Asker {}

impl<A: sealed::Asker> KeyAsker for A {}

pub(crate) mod sealed {
    use super::RateLimitKey;

    /// A consumer of a key. Common types are passed in registers, so that one function serves all
    /// text keys and one all numeric keys.
    pub trait Asker {
        type Answer;

        fn text(self, key: &str) -> Self::Answer;
        /// A number of a `kind` that is not wide; a negative one in two's complement.
        fn number(self, kind: Kind, key: u64) -> Self::Answer;
        fn any<K: RateLimitKey + ?Sized>(self, key: &K) -> Self::Answer;
    }

    /// The parts of a key.
    pub trait Sink {
        /// A number; `kind` names its Rust type.
        fn number(&mut self, kind: Kind, value: u128);
        fn text(&mut self, value: &str);
        fn bytes(&mut self, value: &[u8]);
        fn none(&mut self);
        /// The next part is inside `Some`.
        fn some(&mut self);
        /// Starts a list of items.
        fn begin_list(&mut self);
        /// The next part is an item.
        fn item(&mut self);
        fn end_list(&mut self);
        /// Writes a tuple of `parts` parts.
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
        Duration,
    }

    impl Kind {
        /// Whether its numbers need more than 64 bits.
        #[inline]
        pub(crate) fn is_wide(self) -> bool {
            matches!(self, Kind::U128 | Kind::I128 | Kind::V6 | Kind::Uuid | Kind::Duration)
        }
    }
}

use sealed::{Kind, Sink};

macro_rules! numbers {
    ($($type:ty => $kind:ident $(by $short:ident)? $(as $bytes:ident)?,)*) => {$(
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

            $(
                #[inline]
                fn write_slice<W: KeyWriter>(keys: &[u8], writer: &mut W) {
                    writer.$bytes(keys);
                }
            )?
        }
    )*};
}

numbers! {
    u8 => U8 by number as bytes, u16 => U16 by number, u32 => U32 by number, u64 => U64 by number, u128 => U128,
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

macro_rules! lists {
    ($([$($length:tt)*] $list:ty),*) => {$(
        impl<K: RateLimitKey, $($length)*> RateLimitKey for $list {
            #[inline]
            fn write_to<W: KeyWriter>(&self, writer: &mut W) {
                K::write_slice(self, writer);
            }
        }
    )*};
}

lists!([] [K], [const N: usize] [K; N], [] Vec<K>);

macro_rules! non_zero {
    ($($type:ident),*) => {$(
        /// The same key as the plain number.
        impl RateLimitKey for num::$type {
            #[inline]
            fn write_to<W: KeyWriter>(&self, writer: &mut W) {
                self.get().write_to(writer);
            }

            #[inline]
            fn ask<A: KeyAsker>(&self, asker: A) -> A::Answer {
                self.get().ask(asker)
            }
        }
    )*};
}

non_zero!(NonZeroU8, NonZeroU16, NonZeroU32, NonZeroU64, NonZeroU128, NonZeroUsize);
non_zero!(NonZeroI8, NonZeroI16, NonZeroI32, NonZeroI64, NonZeroI128, NonZeroIsize);

impl RateLimitKey for Duration {
    #[inline]
    fn write_to<W: KeyWriter>(&self, writer: &mut W) {
        writer.number(Kind::Duration, self.as_nanos());
    }
}

macro_rules! bytes {
    ($($(#[$attribute:meta])* $type:ty => $bytes:ident $(.$as_bytes:ident())?,)*) => {$(
        $(#[$attribute])*
        impl RateLimitKey for $type {
            #[inline]
            fn write_to<W: KeyWriter>(&self, writer: &mut W) {
                writer.bytes(self.$bytes()$(.$as_bytes())?);
            }
        }
    )*};
}

bytes! {
    OsStr => as_encoded_bytes,
    OsString => as_encoded_bytes,
    /// Byte by byte: `a/b` and `a//b` are two keys.
    Path => as_os_str.as_encoded_bytes(),
    /// Byte by byte: `a/b` and `a//b` are two keys.
    PathBuf => as_os_str.as_encoded_bytes(),
    #[cfg(any(feature = "axum", feature = "tower"))]
    http::HeaderValue => as_bytes,
    #[cfg(any(feature = "axum", feature = "tower"))]
    http::Method => as_str.as_bytes(),
    #[cfg(feature = "actix-web")]
    actix_web::http::header::HeaderValue => as_bytes,
    #[cfg(feature = "actix-web")]
    actix_web::http::Method => as_str.as_bytes(),
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
        match embedded_v4(*self) {
            Some(v4) => v4.write_to(writer),
            None => writer.number(Kind::V6Network, network(*self).into()),
        }
    }

    #[inline]
    fn ask<A: KeyAsker>(&self, asker: A) -> A::Answer {
        match embedded_v4(*self) {
            Some(v4) => v4.ask(asker),
            None => asker.number(Kind::V6Network, network(*self)),
        }
    }
}

/// The upper 64 bits: the /64 network.
#[inline]
fn network(address: Ipv6Addr) -> u64 {
    (u128::from(address) >> 64) as u64
}

/// The IPv4 address embedded in an IPv6 address. One /64 then holds the addresses of many
/// customers.
pub(crate) fn embedded_v4(address: Ipv6Addr) -> Option<Ipv4Addr> {
    #[expect(clippy::cast_possible_truncation, reason = "32 of the bits")]
    let bits_above = |low: u32| (u128::from(address) >> low) as u32;
    let last = bits_above(0);
    let v4 = match address.segments() {
        // A local-use NAT64 prefix (RFC 8215) of 48 bits. Bits 64 to 71 and the last 40 are zero.
        [0x64, 0xff9b, 1, high, third, fourth, 0, 0] if third < 0x100 && fourth.trailing_zeros() >= 8 => {
            u32::from(high) << 16 | u32::from(third) << 8 | u32::from(fourth >> 8)
        }
        // A local-use or well-known NAT64 prefix of 96 bits (RFC 8215, RFC 6052). IPv4-mapped (RFC
        // 4291), IPv4-translated (SIIT, RFC 7915).
        [0x64, 0xff9b, 1, ..]
        | [0x64, 0xff9b, 0, 0, 0, 0, ..]
        | [0, 0, 0, 0, 0, 0xffff, ..]
        | [0, 0, 0, 0, 0xffff, 0, ..] => last,
        // Teredo (RFC 4380): the client's address, inverted.
        [0x2001, 0, ..] => !last,
        // 6to4 (RFC 3056).
        [0x2002, ..] => bits_above(80),
        _ => return None,
    };
    Some(Ipv4Addr::from(v4))
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

/// Keys by the full IP address, while a plain IPv6 address counts as its /64 network.
///
/// ```
/// use ratelimit_runtime::{ExactIp, Limit, RateLimiter};
/// use std::net::IpAddr;
///
/// static PER_HOST: RateLimiter = RateLimiter::new("host", &[Limit::per_minute(1)]);
/// let (one, other): (IpAddr, IpAddr) = ("2001:db8::1".parse()?, "2001:db8::2".parse()?);
/// assert!(PER_HOST.check(ExactIp(one), 1).is_ok());
/// assert!(PER_HOST.check(ExactIp(other), 1).is_ok());
/// assert!(PER_HOST.check(one, 1).is_ok() && PER_HOST.check(other, 1).is_err());
/// # Ok::<(), std::net::AddrParseError>(())
/// ```
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
            // Writes all parts in one function, so that the compiler counts the hash's words.
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
    7: A 0, B 1, C 2, D 3, E 4, F 5, G 6;
    8: A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7;
    9: A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7, I 8;
    10: A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7, I 8, J 9;
    11: A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7, I 8, J 9, K 10;
    12: A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7, I 8, J 9, K 10, L 11;
}

/// Writes a key as readable text, for stores that name their buckets: `"alice"`, `7u64`,
/// `10.0.0.1`, `(Some("a"),true)`, `[1u8;2u8;]`.
///
/// Quotes, braces, control characters and `%` inside text are escaped, so the text is as injective
/// as the key. No colon appears outside quotes and brackets.
pub(crate) struct TextSink<'a> {
    text: &'a mut String,
    /// A comma is due before the next part.
    separate: bool,
    /// Number of open `Some(`.
    open: u32,
    /// For each open list: the `Some(` open around it, and whether it has an item.
    lists: Vec<(u32, bool)>,
}

impl<'a> TextSink<'a> {
    pub(crate) fn new(text: &'a mut String) -> TextSink<'a> {
        TextSink { text, separate: false, open: 0, lists: Vec::new() }
    }

    /// Writes one part that has no parts of its own.
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
                Kind::Duration => write!(text, "{value}ns"),
                // A UUID: hexadecimal digits in groups of 8, 4, 4, 4 and 12.
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

    fn begin_list(&mut self) {
        if std::mem::take(&mut self.separate) {
            self.text.push(',');
        }
        self.text.push('[');
        self.lists.push((std::mem::take(&mut self.open), false));
    }

    fn item(&mut self) {
        if let Some((_, has_item)) = self.lists.last_mut()
            && std::mem::replace(has_item, true)
        {
            self.text.push(';');
        }
        self.separate = false;
    }

    fn end_list(&mut self) {
        let (open, has_item) = self.lists.pop().unwrap_or_default();
        // Tells a list of one item that writes nothing from an empty list.
        self.text.push_str(if has_item { ";]" } else { "]" });
        for _ in 0..open {
            self.text.push(')');
        }
        self.separate = true;
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

/// Appends `value`, with `%`, quotes, braces and control characters escaped as `%XX`.
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
}
