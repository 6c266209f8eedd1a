//! The types that are keys.

use std::borrow::Cow;
use std::ffi::{OsStr, OsString};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::sealed::Kind;
use super::{KeyAsker, KeyWriter, RateLimitKey};

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
        writer.begin_tuple(0);
        writer.end_tuple();
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
                writer.begin_tuple($parts);
                $(self.$index.write_to(writer);)*
                writer.end_tuple();
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
