//! A limiter's identity, and the names of its buckets.

use std::fmt::Write as _;
use std::sync::Arc;

use once_cell::sync::OnceCell;

use super::{Core, Target, Venue};
use crate::error::Name;
use crate::fingerprint::Fingerprint;
use crate::guard::denials::DenialKey;
use crate::key::{RateLimitKey, TextSink, escape};
use crate::limit::Limit;

/// A limiter's name, and the parts that the names of its buckets share.
pub(super) struct Identity {
    pub(super) name: Name,
    pub(super) named: bool,
    /// See [`Core::shape`].
    shape: OnceCell<Box<str>>,
    /// The prefix of its buckets' names in backends.
    prefix: OnceCell<Box<str>>,
    /// The part of the fingerprint that all its buckets share.
    fingerprint: OnceCell<Fingerprint>,
}

impl Identity {
    /// `shape` is that of a part of a limiter.
    pub(super) fn new(name: Name, named: bool, shape: Option<String>) -> Identity {
        let shape = shape.map_or_else(OnceCell::new, |shape| OnceCell::with_value(shape.into()));
        Identity { fingerprint: OnceCell::new(), prefix: OnceCell::new(), name, named, shape }
    }

    pub(super) fn prefix(&self) -> &str {
        self.prefix.get_or_init(|| prefix(self.name.as_str()).into())
    }
}

impl Core {
    /// Algorithms and literal periods of the limits as written: part of every bucket's identity.
    fn shape(&self) -> &str {
        self.identity.shape.get_or_init(|| shape(&self.rules.written_limits(), self.rules.reads().per).into())
    }

    /// The identity by which limiters in one memory share buckets; `None` if they do not.
    pub(super) fn shared_identity(&self) -> Option<String> {
        self.is_named().then(|| self.name_and_shape())
    }

    /// The common part of its buckets' names.
    pub(super) fn name_and_shape(&self) -> String {
        format!("{}\u{0}{}", self.name(), self.shape())
    }

    pub(crate) fn name(&self) -> &str {
        self.identity.name.as_str()
    }

    /// Whether the name is explicit.
    pub(crate) fn is_named(&self) -> bool {
        self.identity.named
    }

    pub(crate) fn shared_name(&self) -> Name {
        self.identity.name.clone()
    }

    /// The key of a call in the denial cache, if its limits are not read at each call. See
    /// [`crate::guard::denials`].
    #[inline]
    pub(in super::super) fn asked<K: RateLimitKey>(&self, venue: &Venue<'_>, key: &K, cost: u32) -> DenialKey {
        DenialKey { bucket: self.fingerprint(venue, key), cost, limits: self.rules.hash() }
    }

    #[inline]
    pub(super) fn fingerprint<K: RateLimitKey>(&self, venue: &Venue<'_>, key: &K) -> Fingerprint {
        if let Some(scope) = &venue.scope {
            return Fingerprint::of_limiter(&[self.name(), self.shape(), scope.id()]).of_key(key);
        }
        let fingerprint = || Fingerprint::of_limiter(&[self.name(), self.shape()]);
        self.identity.fingerprint.get_or_init(fingerprint).of_key(key)
    }

    /// The name of a key's bucket in a backend.
    pub(super) fn bucket_name<K: RateLimitKey>(&self, venue: &Venue<'_>, key: &K) -> Arc<str> {
        let (prefix, shape) = (self.identity.prefix(), self.shape());
        let mut bucket = String::with_capacity(prefix.len() + shape.len() + 32);
        bucket.push_str(prefix);
        key.write_to(&mut TextSink::new(&mut bucket));
        bucket.push_str("}:");
        bucket.push_str(shape);
        match &venue.scope {
            Some(scope) => format!("{bucket}:test{}", scope.id()).into(),
            None => bucket.into(),
        }
    }

    /// The fingerprint of a key's bucket, if the backend uses fingerprints.
    pub(super) fn bucket_fingerprint<K: RateLimitKey>(&self, venue: &Venue<'_>, key: &K) -> Option<Fingerprint> {
        match &venue.target {
            Target::Remote(guard) if guard.needs_fingerprint() => Some(self.fingerprint(venue, key)),
            _ => None,
        }
    }
}

/// A bucket's name up to the key.
fn prefix(name: &str) -> String {
    let mut prefix = "rl:1:{".to_owned();
    escape(&mut prefix, name);
    prefix.push(':');
    prefix
}

/// Algorithm and period of each limit; `*` for a period that is read at each call. For a calendar
/// its unit, the first day of the week, and the zone.
pub(super) fn shape(limits: &[Limit], reads_per: u8) -> String {
    let mut shape = String::new();
    for (position, limit) in limits.iter().enumerate() {
        if position > 0 {
            shape.push(',');
        }
        #[cfg(feature = "calendar")]
        if let Some(calendar) = limit.calendar() {
            shape.push('c');
            calendar.write_identity(&mut shape);
            continue;
        }
        shape.push(limit.algorithm().letter());
        if reads_per >> position & 1 == 1 {
            shape.push('*');
        } else {
            // Writing to a String does not fail.
            let _ = write!(shape, "{}", limit.per_micros());
        }
    }
    shape
}
