//! One document for all processes, under a key in Redis, and the limiters that they publish beside
//! it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::watch::{self, Seen};
use super::{Configuration, ConfigurationError, ConfigurationWatch};
use crate::algorithm::offences::Backoff;
use crate::backend::redis::RedisBackend;
use crate::error::BackendError;
use crate::limit::Limit;
use crate::registry;

/// The key of the document.
const DOCUMENT: &str = "rl:1:configuration";
/// The key of a hash: a limiter's name, NUL and the shape of its limits; and its limits as JSON.
const LIMITERS: &str = "rl:1:limiters";

const READ: &str = "return '\\1' .. (redis.call('GET', KEYS[1]) or '')";
const REPLACE: &str = "if (redis.call('GET', KEYS[1]) or '') ~= ARGV[1] then return '\\1changed' end \
                       redis.call('SET', KEYS[1], ARGV[2]) return '\\1'";
const PUBLISH: &str =
    "redis.call('HSET', KEYS[1], unpack(ARGV)) redis.call('PEXPIRE', KEYS[1], 604800000) return '\\1'";
const PUBLISHED: &str = "return '\\1' .. cjson.encode(redis.call('HGETALL', KEYS[1]))";

/// The hash of limiters expires a week after a process published last. Each does so this often.
const PUBLISH_EVERY: Duration = Duration::from_secs(3_600);

/// The most limiters that one command publishes.
const AT_ONCE: usize = 100;

/// A limiter that a process of the fleet has published; see [`RedisBackend::published`]. Limiters
/// of one name with different algorithms, periods or keys have separate buckets and entries.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PublishedLimiter {
    /// The limiter's name.
    pub name: String,
    /// Its limits as written. Their algorithms and periods are part of the names of its buckets.
    pub written: Vec<Limit>,
    /// The limits that applied when it was published.
    pub limits: Vec<Limit>,
    /// For each limit as written, the position of its key among the keys of a call. Limits without
    /// keys of their own have one position each.
    pub keys: Vec<u8>,
    /// How denials block a key for longer, or ban it.
    pub backoff: Option<Backoff>,
}

/// A [`Backoff`] as it is published: times in microseconds, and whether it is a ban.
type PublishedBackoff = (u64, u64, bool);

/// Configuration of a fleet, with the feature `configuration`.
impl RedisBackend {
    /// Applies the document that all processes share, checks it at intervals of `every` (a few
    /// seconds), and applies it again whenever it changes. One command changes a limit everywhere.
    ///
    /// The document is a string under the key `rl:1:configuration`, in JSON if it begins with `{`,
    /// else in TOML; no key is an empty document. [`replace_configuration`] writes it. A document
    /// that cannot be read or has a mistake changes no limit and is reported as by
    /// [`Configuration::watch`], even the first one.
    ///
    /// Also publishes this process's limiters on this backend, for
    /// [`published`](RedisBackend::published). The user needs `+eval +get +hset +pexpire` on
    /// `~rl:*`.
    ///
    /// [`replace_configuration`]: RedisBackend::replace_configuration
    ///
    /// # Errors
    /// [`ConfigurationError`] if no thread can be started.
    pub fn watch_configuration(&self, every: Duration) -> Result<ConfigurationWatch, ConfigurationError> {
        let mut seen = Seen::of(String::new());
        seen.look(self.look(), parsed);
        let (backend, mut published) = (self.clone(), Published::default());
        watch::start(every, seen, parsed, move || {
            published.publish(&backend);
            backend.look()
        })
    }

    /// The document that all processes share; empty if there is none.
    ///
    /// # Errors
    /// [`BackendError`] if the server fails.
    pub fn configuration(&self) -> Result<String, BackendError> {
        Ok(String::from_utf8_lossy(&self.eval(READ, DOCUMENT, &[])?).into_owned())
    }

    /// Replaces the document that all processes share. Returns false, and replaces nothing, if
    /// another process has changed it and it is no longer `before`.
    ///
    /// ```no_run
    /// use ratelimit_runtime::RedisBackend;
    ///
    /// let redis = RedisBackend::from_env()?;
    /// let before = redis.configuration()?;
    /// assert!(redis.replace_configuration(&before, r#"{"search": "200/1m"}"#)?);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`ConfigurationError`] if `after` has a mistake, or if the server fails.
    pub fn replace_configuration(&self, before: &str, after: &str) -> Result<bool, ConfigurationError> {
        parsed(after)?;
        let answer = self.eval(REPLACE, DOCUMENT, &[before, after]);
        answer.map(|answer| answer.is_empty()).map_err(|error| ConfigurationError::new(error, None))
    }

    /// The limiters that processes of the fleet have published, by name. They are forgotten a week
    /// after the last process has published anything.
    ///
    /// # Errors
    /// [`BackendError`] if the server fails.
    pub fn published(&self) -> Result<Vec<PublishedLimiter>, BackendError> {
        let answer = self.eval(PUBLISHED, LIMITERS, &[])?;
        // A value of another form is not this crate's.
        let fields: Vec<String> = serde_json::from_slice(&answer).unwrap_or_default();
        let limiter = |pair: &[String]| -> Option<PublishedLimiter> {
            let [identity, limits] = pair else { return None };
            let (name, _) = identity.split_once('\0').unwrap_or((identity, ""));
            let (written, limits, keys, backoff): (_, _, _, Option<PublishedBackoff>) =
                serde_json::from_str(limits).ok()?;
            let backoff = backoff.map(|(initial, max, is_ban)| {
                let (initial, max) = (Duration::from_micros(initial), Duration::from_micros(max));
                if is_ban { Backoff::ban(initial) } else { Backoff::new(initial, max) }
            });
            Some(PublishedLimiter { name: name.to_owned(), written, limits, keys, backoff })
        };
        let mut limiters: Vec<_> = fields.chunks(2).filter_map(limiter).collect();
        limiters.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(limiters)
    }

    fn look(&self) -> watch::Look {
        self.configuration().map_err(|error| ConfigurationError::new(error, None).in_source(DOCUMENT))
    }
}

fn parsed(text: &str) -> Result<Configuration, ConfigurationError> {
    let is_json = text.trim_start().starts_with('{');
    let read = if is_json { Configuration::from_json(text) } else { Configuration::from_toml(text) };
    read.map_err(|error| error.in_source(DOCUMENT))
}

/// What this process has published.
#[derive(Default)]
struct Published {
    limiters: BTreeMap<String, String>,
    at: Option<Instant>,
}

impl Published {
    /// Publishes the limiters on this backend, if there are others than before or it is time.
    fn publish(&mut self, backend: &RedisBackend) {
        let limiters: BTreeMap<String, String> = registry::all()
            .iter()
            .filter(|core| core.is_on(backend))
            .filter_map(|core| {
                let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
                let backoff = core.options().backoff.map(|it| (micros(it.initial()), micros(it.max()), it.is_ban()));
                let limits = (core.written_limits()?, core.limits(), core.groups(), backoff);
                let limits = serde_json::to_string(&limits).ok()?;
                Some((core.published_name(), limits))
            })
            .collect();
        let is_due = self.at.is_none_or(|at| at.elapsed() >= PUBLISH_EVERY);
        if limiters.is_empty() || self.limiters == limiters && !is_due {
            return;
        }
        let fields: Vec<&str> = limiters.iter().flat_map(|(name, limits)| [&**name, &**limits]).collect();
        // What cannot be published now is published at the next check.
        if fields.chunks(2 * AT_ONCE).all(|fields| backend.eval(PUBLISH, LIMITERS, fields).is_ok()) {
            (self.limiters, self.at) = (limiters, Some(Instant::now()));
        }
    }
}
