//! Rate limit keys: the trait, and what reads them.

mod copy;
mod erased;
#[cfg(test)]
mod tests;
mod text;
mod types;

pub(crate) use copy::KeyCopy;
pub(crate) use erased::ErasedKey;
pub(crate) use text::{TextSink, escape};
pub use types::ExactIp;
#[cfg(any(feature = "axum", feature = "actix-web"))]
pub(crate) use types::embedded_v4;

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
/// address that embeds an IPv4 address (mapped, SIIT, NAT64, Teredo, 6to4) counts as the IPv4
/// address. [`ExactIp`] keeps the full address. A `SocketAddr` is not a key, because its port
/// changes with every connection.
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
    note = "keys are numbers, text, bytes, addresses, `Option`s and tuples of them; for a `SocketAddr` use `addr.ip()`, for another type one of its fields or `#[derive(RateLimitKey)]`"
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

    /// Whether this type needs a lookup: false for the empty tuple.
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
        /// Starts a tuple of `parts` parts.
        fn begin_tuple(&mut self, parts: u8);
        fn end_tuple(&mut self);
    }

    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
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
