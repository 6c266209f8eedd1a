//! Snapshots at intervals, and when the program ends.

use std::fmt;
use std::io;
use std::path::{self, Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::super::MemoryBackend;
use super::{Restored, Snapshot, SnapshotError, file};
use crate::observe;
use crate::rt::process;

/// The shortest time between two snapshots.
const SHORTEST: Duration = Duration::from_millis(10);

/// Keeps the buckets of a backend in a file; see [`MemoryBackend::keep`].
#[must_use = "dropped at once, it keeps nothing of what comes after: bind it in `main`, to a name"]
pub struct Kept {
    backend: MemoryBackend,
    path: PathBuf,
    restored: Result<Option<Restored>, SnapshotError>,
    /// Its end stops the thread, which returns whether its last snapshot failed. `None` once it has
    /// ended.
    thread: Option<(mpsc::Sender<()>, JoinHandle<bool>)>,
    /// A forked child has no thread, and leaves the file to its parent.
    process: u32,
}

impl MemoryBackend {
    /// Restores this backend from a file, if there is one, and writes the file at intervals of
    /// `every` and when the result is dropped. Call it before any limiter uses the backend.
    ///
    /// ```
    /// use ratelimit_runtime::{MemoryBackend, RateLimitExceeded, SnapshotError, rate_limit};
    /// use std::time::Duration;
    ///
    /// #[rate_limit(count = 100, per = "1d", name = "translate")]
    /// fn translate(text: &str) -> Result<String, RateLimitExceeded> {
    ///     Ok(text.to_uppercase())
    /// }
    ///
    /// fn main() -> Result<(), SnapshotError> {
    /// #   let folder = std::env::temp_dir().join(format!("ratelimit-keep-{}", std::process::id()));
    /// #   std::fs::create_dir_all(&folder).unwrap();
    /// #   let path = folder.join("limits.snapshot");
    ///     let _kept = MemoryBackend::of_process().keep(&path, Duration::from_secs(60))?;
    ///     assert!(translate("hello").is_ok());
    /// #   drop(_kept);
    /// #   assert!(path.exists());
    /// #   std::fs::remove_dir_all(&folder).unwrap();
    ///     Ok(())
    /// }
    /// ```
    ///
    /// Limiters need a `name`. If the process is killed, the admissions since its last snapshot are
    /// lost: at most `count` permits in each limit of a key. After an orderly end nothing is lost:
    /// bind the result in `main`, and let `main` return after the last limited call.
    /// `std::process::exit` and an aborting panic do not drop it.
    ///
    /// A refused file does not stop the program. It starts with fresh buckets, and the file is
    /// renamed to `PATH.refused`. [`restored`](Kept::restored) and a `WARN` event (feature
    /// `tracing`) say why. If a later snapshot fails, that is one `WARN` event, and the metric
    /// `ratelimit_snapshot_failing` (feature `metrics`) is 1 until one succeeds.
    ///
    /// One thread makes the snapshots. `every` is at least 10 ms. Each process needs its own file:
    /// of two, the last to write wins.
    ///
    /// # Errors
    /// [`SnapshotError::InUse`] if a limiter has used the backend before.
    /// [`SnapshotError::NotAFile`] if a folder, a pipe or a device is there.
    /// [`SnapshotError::Io`] if files cannot be written there, or the thread cannot be started.
    pub fn keep(&self, path: impl AsRef<Path>, every: Duration) -> Result<Kept, SnapshotError> {
        // The program may change its working directory.
        let path = path::absolute(&path).map_err(|error| SnapshotError::io(path.as_ref(), error))?;
        file::prepare(&path)?;
        let restored = match self.restore(&path) {
            Err(SnapshotError::InUse) => return Err(SnapshotError::InUse),
            Err(SnapshotError::Io { error, .. }) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(refused) => {
                // If it cannot be moved, snapshots will say why.
                let _ = file::set_aside(&path);
                observe::snapshot_refused(&path, &refused);
                Err(refused)
            }
            Ok(restored) => Ok(Some(restored)),
        };
        let (stop, stopped) = mpsc::channel();
        let (backend, to) = (self.clone(), path.clone());
        let work = move || {
            let mut failed = false;
            while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(every.max(SHORTEST)) {
                failed = report(&backend.snapshot(&to), failed);
            }
            failed
        };
        let thread = thread::Builder::new().name("ratelimit-keep".into()).spawn(work);
        let thread = thread.map_err(|error| SnapshotError::io(&path, error))?;
        Ok(Kept { backend: self.clone(), path, restored, thread: Some((stop, thread)), process: process::id() })
    }
}

impl Kept {
    /// What was restored from the file; `None` if there was none.
    ///
    /// # Errors
    /// Why the file was refused.
    pub fn restored(&self) -> Result<Option<&Restored>, &SnapshotError> {
        self.restored.as_ref().map(Option::as_ref)
    }

    /// Makes the last snapshot and stops. Dropping does the same, but only reports an error.
    ///
    /// ```
    /// # use ratelimit_runtime::{MemoryBackend, SnapshotError};
    /// # use std::time::Duration;
    /// # fn main() -> Result<(), SnapshotError> {
    /// # let folder = std::env::temp_dir().join(format!("ratelimit-close-{}", std::process::id()));
    /// # std::fs::create_dir_all(&folder).unwrap();
    /// let kept = MemoryBackend::new().keep(folder.join("limits.snapshot"), Duration::from_secs(60))?;
    /// let snapshot = kept.close()?;
    /// assert_eq!(snapshot.left_out, [""; 0]);
    /// # std::fs::remove_dir_all(&folder).unwrap();
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Those of [`MemoryBackend::snapshot`].
    pub fn close(mut self) -> Result<Snapshot, SnapshotError> {
        let failed = self.stop().unwrap_or(false);
        let result = self.backend.snapshot(&self.path);
        report(&result, failed);
        result
    }

    /// Ends the thread, if it is running. Returns whether its last snapshot failed.
    fn stop(&mut self) -> Option<bool> {
        let (stop, thread) = self.thread.take()?;
        drop(stop);
        if self.process != process::id() {
            // Joining a thread that this process does not have never ends.
            std::mem::forget(thread);
            return None;
        }
        // It does not panic.
        Some(thread.join().unwrap_or(false))
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        if let Some(failed) = self.stop() {
            report(&self.backend.snapshot(&self.path), failed);
        }
    }
}

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kept").field("path", &self.path).field("restored", &self.restored).finish_non_exhaustive()
    }
}

/// Reports the result of a snapshot, and whether the one before failed. Returns whether this one did.
fn report(result: &Result<Snapshot, SnapshotError>, failed: bool) -> bool {
    observe::snapshot_made(result.as_ref().err().map(|error| error as &dyn std::error::Error), failed);
    result.is_err()
}

#[cfg(all(test, feature = "tracing", not(loom_model)))]
mod tests {
    use std::fs;

    use super::*;
    use crate::observe::tests::Log;

    const HOUR: Duration = Duration::from_secs(3_600);

    #[test]
    fn what_is_refused_and_what_is_not_saved_is_reported() {
        let folder = std::env::temp_dir().join(format!("ratelimit-reports-{}", process::id()));
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join("limits.snapshot");
        fs::write(&path, "nothing of ours").unwrap();
        let log = Log::of(|| {
            let kept = MemoryBackend::new().keep(&path, HOUR).unwrap();
            fs::remove_dir_all(&folder).unwrap();
            drop(kept);
            let failed = report(&MemoryBackend::new().snapshot(&path), true);
            fs::create_dir_all(&folder).unwrap();
            // Another one that is saved does not save the first.
            drop(MemoryBackend::new().keep(&path, HOUR).unwrap());
            let failed = report(&MemoryBackend::new().snapshot(&path), failed);
            report(&MemoryBackend::new().snapshot(&path), failed);
        });
        fs::remove_dir_all(&folder).unwrap();
        let [refused, lost, saved] = &log[..] else { panic!("{log:?}") };
        assert!(refused.starts_with("WARN ") && refused.contains("not a snapshot"), "{refused}");
        assert!(lost.starts_with("WARN ") && lost.contains("not saved"), "{lost}");
        assert!(saved.starts_with("INFO ") && saved.contains("saved again"), "{saved}");
    }
}
