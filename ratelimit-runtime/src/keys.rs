//! [`RateLimitKeys`]: the keys of one call, one for each limit.

use crate::key::RateLimitKey;

/// The keys of a call whose limits have different keys: a tuple of one to eight keys, in the order
/// of the limits.
///
/// See [`RateLimiter::check_each`](crate::RateLimiter::check_each). `()` stands for the bucket of
/// all calls.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the keys of a rate limit",
    label = "not a tuple of one to eight keys",
    note = "write one key for each limit, in a tuple: `(&user, &tenant, ())`; a single one is `(&user,)`"
)]
pub trait RateLimitKeys: RateLimitKey + sealed::Keys {}

impl<K: RateLimitKey + sealed::Keys> RateLimitKeys for K {}

pub(crate) mod sealed {
    use super::RateLimitKey;

    /// Hands out the keys, one after the other.
    pub trait Keys {
        /// Their number.
        const LEN: usize;
        /// One value for each key.
        type Array<T>: AsRef<[T]> + AsMut<[T]>;

        fn each(&self, visit: &mut impl Visit);

        /// A value for each key; `None` if there is none for one of them.
        fn map<M: Map>(&self, map: &M) -> Option<Self::Array<M::Value>>;
    }

    /// Makes a value of each key.
    pub trait Map {
        type Value;

        fn key<K: RateLimitKey>(&self, index: usize, key: &K) -> Option<Self::Value>;
    }

    pub trait Visit {
        fn key<K: RateLimitKey>(&mut self, index: usize, key: &K);
    }
}

impl<K: sealed::Keys + ?Sized> sealed::Keys for &K {
    const LEN: usize = K::LEN;
    type Array<T> = K::Array<T>;

    #[inline]
    fn each(&self, visit: &mut impl sealed::Visit) {
        (**self).each(visit);
    }

    #[inline]
    fn map<M: sealed::Map>(&self, map: &M) -> Option<Self::Array<M::Value>> {
        (**self).map(map)
    }
}

macro_rules! tuples {
    ($($len:literal: $($part:ident $index:tt),*;)*) => {$(
        impl<$($part: RateLimitKey),*> sealed::Keys for ($($part,)*) {
            const LEN: usize = $len;
            type Array<T> = [T; $len];

            #[inline]
            fn each(&self, visit: &mut impl sealed::Visit) {
                $(visit.key($index, &self.$index);)*
            }

            #[inline]
            fn map<Maps: sealed::Map>(&self, map: &Maps) -> Option<[Maps::Value; $len]> {
                Some([$(map.key($index, &self.$index)?),*])
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
}
