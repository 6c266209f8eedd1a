//! Limits from configuration: a document in TOML or JSON, applied as a whole or not at all.

mod document;
#[cfg(feature = "redis")]
mod fleet;
mod watch;

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::time::Duration;

use crate::limiter::Settings;
use crate::registry;

#[cfg(feature = "redis")]
pub use fleet::PublishedLimiter;
pub use watch::ConfigurationWatch;

/// Limits by the names of limiters, read from a document in TOML or JSON.
///
/// Each limiter has a line: a limit, a list of limits, or a table with `limits`, `dry_run` and
/// `enabled`. A limit is text, as [`Limit`](crate::Limit) reads it, or a table of its parts; in a
/// table, it has its own `dry_run` and `enabled`.
///
/// ```
/// use ratelimit_runtime::{Configuration, rate_limit};
///
/// #[rate_limit(count = 100, per = "1m", name = "search")]
/// fn search() -> Option<()> { Some(()) }
///
/// let limits = Configuration::from_toml(r#"
///     search = "2/1m"
///     upload = [
///         { count = 5, per = "1s", algorithm = "token_bucket", burst = 40 },
///         { count = 1000, per = "1d", dry_run = true },
///     ]
///     export = { limits = ["10/1h"], enabled = false }
/// "#)?;
/// limits.apply();
/// assert_eq!([search(), search(), search()], [Some(()), Some(()), None]);
/// # Configuration::from_toml("")?.apply();
/// # Ok::<(), ratelimit_runtime::ConfigurationError>(())
/// ```
///
/// - `dry_run = true` of a limiter: its calls are decided and counted but never denied.
/// - `dry_run = true` of a limit: that limit denies no call. A limiter of its own,
///   `NAME (dry run)`, tries it, and [`limiters`](crate::limiters) lists what it would have denied.
///   Its buckets are in this process's memory, and it ignores refunds and settlements. If the
///   limiter is called with a key for each limit, it goes by its limit's key.
/// - `enabled = false` of a limiter: its calls are admitted and not counted. Of a limit: that limit
///   does not apply.
/// - A limit of 4,294,967,295 permits replaces a limit that is off or in a dry run. Response
///   headers and [`limiters`](crate::limiters) leave it out.
///
/// A limiter without a line keeps the limits in its code, and gets them back if its line is
/// removed. [`unused_limits`](crate::unused_limits) lists names that no limiter has had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Configuration {
    limiters: BTreeMap<String, Settings>,
}

/// What is wrong in a document, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigurationError {
    message: String,
    /// From 1.
    line: Option<usize>,
    /// The file, if it is from one.
    source: Option<String>,
}

impl Configuration {
    /// Reads a document in TOML.
    ///
    /// # Errors
    /// [`ConfigurationError`] with the line of the mistake.
    pub fn from_toml(text: &str) -> Result<Configuration, ConfigurationError> {
        document::from_toml(text).map(|limiters| Configuration { limiters })
    }

    /// Reads a document in JSON.
    ///
    /// # Errors
    /// [`ConfigurationError`] with the line of the mistake.
    pub fn from_json(text: &str) -> Result<Configuration, ConfigurationError> {
        document::from_json(text).map(|limiters| Configuration { limiters })
    }

    /// Reads a file: JSON if its name ends in `.json`, else TOML.
    ///
    /// # Errors
    /// [`ConfigurationError`] with the line of the mistake, or why the file cannot be read.
    pub fn read(path: impl AsRef<Path>) -> Result<Configuration, ConfigurationError> {
        watch::read(path.as_ref()).and_then(|text| watch::parsed(path.as_ref(), &text))
    }

    /// Applies the document to all limiters of this process, also to those first used later. It
    /// applies to their next calls and, at once, to waiting calls.
    ///
    /// The permits on record stay, as in [`set_limits`](crate::set_limits). A document replaces the
    /// previous one, and the limits that `set_limits` has set for the limiters that it names.
    pub fn apply(&self) {
        registry::configure(&self.limiters);
    }

    /// Reads and applies a file, then checks it at intervals of `every` and applies it again
    /// whenever its content changes.
    ///
    /// A changed file is applied once two checks in a row have found the same content: a
    /// half-written file may be a valid document with fewer limits. Write the new file beside the
    /// old one and rename it, so that no process starts with half of it either.
    ///
    /// A thread does this until the result is dropped. If it cannot read the file or finds a
    /// mistake, all limits stay as they are. That is one `WARN` event, and the metric
    /// `ratelimit_configuration_failing` is 1 until a document is applied again.
    ///
    /// ```no_run
    /// use ratelimit_runtime::Configuration;
    /// use std::time::Duration;
    ///
    /// let _watch = Configuration::watch("limits.toml", Duration::from_secs(2))?;
    /// # Ok::<(), ratelimit_runtime::ConfigurationError>(())
    /// ```
    ///
    /// # Errors
    /// [`ConfigurationError`] if the file cannot be read now or has a mistake.
    pub fn watch(path: impl AsRef<Path>, every: Duration) -> Result<ConfigurationWatch, ConfigurationError> {
        watch::file(path.as_ref(), every)
    }

    /// The names of the limiters in the document.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.limiters.keys().map(String::as_str)
    }
}

impl ConfigurationError {
    fn new(message: impl fmt::Display, line: Option<usize>) -> ConfigurationError {
        ConfigurationError { message: message.to_string(), line, source: None }
    }

    fn in_source(self, source: impl fmt::Display) -> ConfigurationError {
        ConfigurationError { source: Some(source.to_string()), ..self }
    }

    /// The line of the mistake, from 1.
    pub fn line(&self) -> Option<usize> {
        self.line
    }
}

/// `limits.toml, line 3: unknown field `cuont`..`
impl fmt::Display for ConfigurationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.source, self.line) {
            (Some(source), Some(line)) => write!(f, "{source}, line {line}: ")?,
            (Some(source), None) => write!(f, "{source}: ")?,
            (None, Some(line)) => write!(f, "line {line}: ")?,
            (None, None) => {}
        }
        f.write_str(&self.message)
    }
}

impl std::error::Error for ConfigurationError {}
