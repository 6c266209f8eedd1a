//! Polls a source of configuration, on a thread of its own.

use std::fs;
use std::path::{self, Path};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use super::{Configuration, ConfigurationError};
use crate::observe;

/// The shortest interval between two checks.
const SHORTEST: Duration = Duration::from_millis(10);

/// Keeps this process's limits in step with a document; see [`Configuration::watch`]. When it is
/// dropped, the limits stay as they are.
#[derive(Debug)]
#[must_use = "the document is watched only as long as this is kept"]
pub struct ConfigurationWatch {
    /// Its end stops the thread.
    _stop: mpsc::Sender<()>,
}

/// The result of a check of a source.
pub(super) type Look = Result<String, ConfigurationError>;

pub(super) fn read(path: &Path) -> Look {
    fs::read_to_string(path).map_err(|error| ConfigurationError::new(error, None).in_source(path.display()))
}

pub(super) fn parsed(path: &Path, text: &str) -> Result<Configuration, ConfigurationError> {
    let is_json = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("json"));
    let read = if is_json { Configuration::from_json(text) } else { Configuration::from_toml(text) };
    read.map_err(|error| error.in_source(path.display()))
}

pub(super) fn file(path: &Path, every: Duration) -> Result<ConfigurationWatch, ConfigurationError> {
    // The program may change its working directory.
    let path = path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let first = read(&path)?;
    parsed(&path, &first)?.apply();
    let mut written = Written { last: first.clone(), whole: first.clone() };
    let source = path.clone();
    start(every, Seen::of(first), move |text| parsed(&path, text), move || written.look(read(&source)))
}

/// A file that may be read while it is written. A half-written document may be a valid one with
/// fewer limits, so a document counts as whole once two checks in a row have found it.
struct Written {
    last: String,
    whole: String,
}

impl Written {
    fn look(&mut self, look: Look) -> Look {
        let text = look?;
        let found = if text == self.last { &mut self.whole } else { &mut self.last };
        *found = text;
        Ok(self.whole.clone())
    }
}

/// Starts the thread, which polls the source for changes since `seen`.
pub(super) fn start(
    every: Duration,
    mut seen: Seen,
    parse: impl Fn(&str) -> Result<Configuration, ConfigurationError> + Send + 'static,
    mut look: impl FnMut() -> Look + Send + 'static,
) -> Result<ConfigurationWatch, ConfigurationError> {
    let (stop, stopped) = mpsc::channel();
    let watch = move || {
        while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(every.max(SHORTEST)) {
            seen.look(look(), &parse);
        }
    };
    let thread = thread::Builder::new().name("ratelimit-limits".into()).spawn(watch);
    thread.map_err(|error| ConfigurationError::new(format_args!("no thread to watch it: {error}"), None))?;
    Ok(ConfigurationWatch { _stop: stop })
}

/// The last state of the source.
pub(super) struct Seen {
    text: String,
    /// The text has a mistake.
    is_wrong: bool,
    /// The last check failed.
    is_lost: bool,
}

impl Seen {
    /// This text was applied.
    pub(super) fn of(text: String) -> Seen {
        Seen { text, is_wrong: false, is_lost: false }
    }

    /// Applies what has changed, and reports once what cannot be applied.
    pub(super) fn look(&mut self, look: Look, parse: impl Fn(&str) -> Result<Configuration, ConfigurationError>) {
        let was_lost = std::mem::replace(&mut self.is_lost, look.is_err());
        match look {
            Err(error) if !was_lost => observe::configured(Some(&error)),
            Err(_) => {}
            Ok(text) if text == self.text => {
                if was_lost && !self.is_wrong {
                    observe::configured(None);
                }
            }
            Ok(text) => {
                let configuration = parse(&text);
                (self.text, self.is_wrong) = (text, configuration.is_err());
                if let Ok(configuration) = &configuration {
                    configuration.apply();
                }
                let error = configuration.err();
                observe::configured(error.as_ref().map(|error| error as &dyn std::error::Error));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_is_whole_once_two_looks_have_found_it() {
        let text = |text: &str| Ok(text.to_owned());
        let gone = || Err(ConfigurationError::new("gone", None));
        let mut written = Written { last: "old".to_owned(), whole: "old".to_owned() };
        for (look, whole) in [
            (text("old"), text("old")),
            (text("ne"), text("old")),
            (text("new, half"), text("old")),
            (text("new, whole"), text("old")),
            (text("new, whole"), text("new, whole")),
            (text(""), text("new, whole")),
            (gone(), gone()),
            (text("last"), text("new, whole")),
            (text("last"), text("last")),
        ] {
            assert_eq!(written.look(look), whole);
        }
    }

    #[cfg(feature = "tracing")]
    #[test]
    fn a_document_that_cannot_be_applied_is_reported_once() {
        let log = crate::observe::tests::Log::of(|| {
            let mut seen = Seen::of(String::new());
            for text in ["", "a = 1", "a = 1", "a = 2"] {
                seen.look(Ok(text.to_owned()), Configuration::from_toml);
            }
            let gone = || Err(ConfigurationError::new("gone", None));
            seen.look(gone(), Configuration::from_toml);
            seen.look(gone(), Configuration::from_toml);
            seen.look(Ok("# mended".to_owned()), Configuration::from_toml);
        });
        let [one, two, gone, mended] = &log[..] else { panic!("{log:?}") };
        assert!(one.starts_with("WARN ") && one.contains("line 1: ") && one.contains("integer `1`"), "{one}");
        assert!(two.starts_with("WARN ") && two.contains("integer `2`"), "{two}");
        assert!(gone.starts_with("WARN ") && gone.contains("gone"), "{gone}");
        assert!(mended.starts_with("INFO "), "{mended}");
    }
}
