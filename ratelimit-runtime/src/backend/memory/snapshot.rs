//! Buckets that outlive the process, in a file from which a new process restores them.
//!
//! A file holds the states of buckets, keyed by the hashes by which the tables find them, and the
//! random weights of that hash. Limits come from the code. A new process keeps what it has read as
//! bytes until the limiter of that name is used, because only then is the form of its states known.
//! The next snapshot also holds what was not used by then.

mod checksum;
mod copy;
mod file;
mod format;
mod keep;
mod saved;
#[cfg(all(test, not(loom_model)))]
mod tests;

use std::collections::{BTreeSet, HashSet};
use std::error::Error;
use std::fmt;
use std::io::{self, BufReader, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;

use self::copy::Copies;
use self::format::{Item, LONGEST_IDENTITY, Place, Reader, Section, Writer};
pub(super) use self::saved::Saved;
use super::orphans::{Orphans, retire};
use super::state::Moment;
use super::{MemoryBackend, Store, Stores};
use crate::decision::Address;
use crate::hash::Weights;
use crate::rt::clock;

pub use self::keep::Kept;

/// What a snapshot holds; see [`MemoryBackend::snapshot`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Snapshot {
    /// The number of buckets of keys in the file. Idle ones are left out.
    pub keys: usize,
    /// The size of the file.
    pub bytes: u64,
    /// How long it took.
    pub took: Duration,
    /// The number of keys with waiting calls. Their places are not in the file, and they hold no
    /// permits.
    pub waiting: usize,
    /// The limiters whose buckets are not in the file, by name: those without an explicit name, and
    /// those with names of more than 64 kB.
    pub left_out: Vec<String>,
}

/// What was restored from a snapshot; see [`MemoryBackend::restore`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Restored {
    /// The number of buckets of keys.
    pub keys: usize,
    /// How old the file is by the wall clock; 0 if the wall clock was set back meanwhile.
    pub age: Duration,
    /// Buckets in use for which the backend has no room ([`max_keys`](MemoryBackend::max_keys)).
    pub without_room: usize,
}

/// Why a snapshot was not made, or not restored.
#[derive(Debug)]
#[non_exhaustive]
pub enum SnapshotError {
    /// The file, or another one beside it, cannot be read or written.
    Io {
        /// The path of the snapshot.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// It is no regular file, but a folder, a symbolic link, a pipe or the like.
    NotAFile,
    /// It belongs to another user.
    NotOwned,
    /// Other users may write to it.
    WritableByOthers,
    /// It is not a snapshot.
    Foreign,
    /// It is of an older version, which is no longer read.
    Older(u32),
    /// It is of a newer version.
    Newer(u32),
    /// It ends too early, or something follows.
    Torn,
    /// Its bytes are not those that were written.
    Corrupt,
    /// Its keys were hashed in another way, so no bucket would be found.
    OtherHash,
    /// A limiter has used the backend before, or a snapshot was restored before.
    InUse,
}

impl SnapshotError {
    fn io(path: &Path, error: io::Error) -> SnapshotError {
        SnapshotError::Io { path: path.to_owned(), error }
    }

    /// An error in the middle of a file that is open.
    fn reading(error: &io::Error) -> SnapshotError {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => SnapshotError::Torn,
            kind => SnapshotError::io(Path::new(""), io::Error::new(kind, error.to_string())),
        }
    }

    fn at(self, path: &Path) -> SnapshotError {
        match self {
            SnapshotError::Io { error, .. } => SnapshotError::io(path, error),
            other => other,
        }
    }
}

impl fmt::Display for SnapshotError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SnapshotError::Io { path, error } => write!(f, "{}: {error}", path.display()),
            SnapshotError::NotAFile => f.write_str("a snapshot is a file, and this is something else: name another path"),
            SnapshotError::NotOwned => f.write_str("the snapshot belongs to another user: make it this process's own"),
            SnapshotError::WritableByOthers => {
                f.write_str("other users may write to the snapshot: take that right away (`chmod 600`)")
            }
            SnapshotError::Foreign => f.write_str("the file is not a snapshot of buckets: name another path"),
            SnapshotError::Older(version) => write!(f, "the snapshot is of version {version}, which is no longer read"),
            SnapshotError::Newer(version) => {
                write!(f, "the snapshot is of version {version}, newer than this program reads")
            }
            SnapshotError::Torn => f.write_str("the snapshot is not complete"),
            SnapshotError::Corrupt => f.write_str("the snapshot was changed since it was written"),
            SnapshotError::OtherHash => f.write_str("the snapshot is of a build that hashes keys in another way"),
            SnapshotError::InUse => f.write_str(
                "the backend is in use already: restore a snapshot once, before the first call of a limiter, and before \
                 `limiters()`",
            ),
        }
    }
}

impl Error for SnapshotError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            SnapshotError::Io { error, .. } => Some(error),
            _ => None,
        }
    }
}

impl MemoryBackend {
    /// Writes all buckets in use to a file, for [`restore`](MemoryBackend::restore).
    /// [`keep`](MemoryBackend::keep) does both at the right times.
    ///
    /// ```
    /// use ratelimit_runtime::{Limit, MemoryBackend, RateLimiter};
    ///
    /// # let folder = std::env::temp_dir().join(format!("ratelimit-{}", std::process::id()));
    /// # std::fs::create_dir_all(&folder)?;
    /// # let path = folder.join("limits.snapshot");
    /// let limiter = |memory: &MemoryBackend| {
    ///     let builder = RateLimiter::builder("export").limit(Limit::per_day(1));
    ///     builder.backend(memory.clone()).build().unwrap()
    /// };
    /// let before = MemoryBackend::new();
    /// assert!(limiter(&before).check("ann", 1).is_ok());
    /// assert_eq!(before.snapshot(&path)?.keys, 1);
    ///
    /// // In the next process:
    /// let after = MemoryBackend::new();
    /// after.restore(&path)?;
    /// assert!(limiter(&after).check("ann", 1).is_err());
    /// # std::fs::remove_dir_all(&folder)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// The file holds buckets with keys and without, debts, blocks, bans and `backoff` of limiters
    /// with an explicit name. It does not hold limits, which are in the code, the places of waiting
    /// calls, or the buckets of limiters without an explicit name.
    ///
    /// The file is secret. It holds no keys, but their hashes and the weights of the hash. Anyone
    /// who can read it can test whether a key is in it, and can find keys that share a bucket. It
    /// is created with the mode `0600`.
    ///
    /// The file is replaced as a whole: after a crash, the old or the new one is there. Calls go on
    /// meanwhile; a bucket is copied as it is at some moment in between. A million keys take 60 to
    /// 110 MB.
    ///
    /// # Errors
    /// [`SnapshotError::Io`] if the file, or one beside it, cannot be written. The old file stays.
    /// [`SnapshotError::NotAFile`] if a folder, a pipe or a device is there.
    pub fn snapshot(&self, path: impl AsRef<Path>) -> Result<Snapshot, SnapshotError> {
        let started = clock::now();
        let _copying = self.shared.copying.lock();
        let snapshot = file::replace(path.as_ref(), |out| self.write_snapshot(out, &moment))?;
        Ok(Snapshot { took: Duration::from_nanos(clock::now().saturating_sub(started)), ..snapshot })
    }

    /// Restores the buckets of a [`snapshot`](MemoryBackend::snapshot), before any limiter uses
    /// this backend. A limiter's buckets are kept as bytes until its first call. That call takes
    /// longer: 0.1 to 0.5 s for a million keys.
    ///
    /// Times are those of the wall clock, and the time in between counts as elapsed. If the wall
    /// clock was set back meanwhile, all ages stay as they were. No permit has come back in
    /// between, and no key is blocked for longer than before.
    ///
    /// # Errors
    /// The whole file is read and checked before anything is restored, and after an error the
    /// backend is unchanged. A file that other users own or may write to is refused (on Unix).
    pub fn restore(&self, path: impl AsRef<Path>) -> Result<Restored, SnapshotError> {
        let path = path.as_ref();
        if self.shared.stores.lock().is_in_use() {
            return Err(SnapshotError::InUse);
        }
        let file = file::open(path)?;
        let length = file.metadata().map_err(|error| SnapshotError::io(path, error))?.len();
        let mut input = BufReader::with_capacity(1 << 16, file);
        self.read_snapshot(&mut input, length, clock::now()).map_err(|error| error.at(path))
    }

    fn write_snapshot(&self, out: &mut dyn Write, clocks: &dyn Fn() -> Moment) -> io::Result<Snapshot> {
        let mut writer = Writer::new(out, clocks().wall, self.shared.weights())?;
        let (mut keys, mut waiting, mut left_out) = (0, 0, BTreeSet::new());
        let (names, stores) = {
            let mut stores = self.shared.stores.lock();
            (stores.names(), stores.all.clone())
        };
        for store in stores.iter().filter_map(Weak::upgrade) {
            if store.name.is_none() {
                left_out.insert(store.written.limiter.as_str().to_owned());
            }
            retire(store);
        }
        for name in names {
            if name.len() > LONGEST_IDENTITY - 1_024 {
                left_out.insert(name.split('\0').next().unwrap_or_default().to_owned());
                continue;
            }
            let mut has_heading = false;
            let mut write = |heading: &dyn Fn() -> format::Heading, item: &Item| {
                if !has_heading {
                    has_heading = true;
                    writer.limiter(&heading())?;
                }
                keys += usize::from(item.place != Place::Held && item.address != Address::Unkeyed);
                writer.item(item)
            };
            let found = self.shared.stores.lock().find(&name);
            match found {
                Some(Found::Used(store)) => {
                    waiting += store.waited();
                    let heading = || store.heading(&name);
                    let copied = store.copy(&mut Copies { clocks, put: &mut |item| write(&heading, item) });
                    // The limiter may be gone meanwhile.
                    retire(store);
                    copied?;
                }
                Some(Found::Orphans(Orphans::Retired(retired))) => {
                    let heading = || retired.heading(&name);
                    retired.copy(&mut Copies { clocks, put: &mut |item| write(&heading, item) })?;
                }
                Some(Found::Orphans(Orphans::Saved(saved))) => {
                    let heading = || saved.heading.clone();
                    saved.copy(&mut Copies { clocks, put: &mut |item| write(&heading, item) })?;
                }
                None => {}
            }
        }
        let bytes = writer.finish()?;
        Ok(Snapshot { keys, bytes, took: Duration::ZERO, waiting, left_out: left_out.into_iter().collect() })
    }

    fn read_snapshot<R: Read + Seek>(&self, input: &mut R, length: u64, now: u64) -> Result<Restored, SnapshotError> {
        format::check(input, length)?;
        let (mut reader, head) = Reader::new(input)?;
        let age = Duration::from_nanos(now.saturating_sub(head.wall));
        let mut all = Vec::new();
        let read = self.read_limiters(&mut reader, head.weights, now, &mut all);
        let keys = all.iter().map(Saved::keys).sum();
        match read.and_then(|without_room| self.install(all, head.weights).map(|()| without_room)) {
            Ok(without_room) => Ok(Restored { keys, age, without_room }),
            Err(error) => {
                self.shared.bound.release(keys);
                Err(error)
            }
        }
    }

    /// Reads all limiters, and counts their keys. Returns how many had no room.
    fn read_limiters<R: Read>(
        &self,
        reader: &mut Reader<R>,
        weights: &'static Weights,
        now: u64,
        all: &mut Vec<Saved>,
    ) -> Result<usize, SnapshotError> {
        let (mut names, mut without_room) = (HashSet::new(), 0);
        loop {
            match reader.section()? {
                Section::Last => return Ok(without_room),
                Section::Limiter(heading) => {
                    if !names.insert(heading.identity.clone()) {
                        return Err(SnapshotError::Corrupt);
                    }
                    all.push(Saved::new(heading, weights));
                }
                Section::Buckets(bytes) => {
                    let saved = all.last_mut().ok_or(SnapshotError::Corrupt)?;
                    let mut bytes = &bytes[..];
                    while !bytes.is_empty() {
                        let item = Item::decode(&mut bytes).ok_or(SnapshotError::Corrupt)?;
                        without_room += usize::from(!saved.add(item, now, &self.shared.bound));
                    }
                }
            }
        }
    }

    fn install(&self, all: Vec<Saved>, weights: &'static Weights) -> Result<(), SnapshotError> {
        let mut stores = self.shared.stores.lock();
        // Before any store is made, so that all have the same.
        if stores.is_in_use() || self.shared.weights.set(weights).is_err() {
            return Err(SnapshotError::InUse);
        }
        for saved in all.into_iter().filter(|saved| !saved.is_empty()) {
            stores.orphans().orphan(
                saved.heading.identity.clone(),
                Orphans::Saved(Arc::new(saved)),
                &self.shared.bound,
            );
        }
        Ok(())
    }
}

/// Where the buckets of a name are now.
enum Found {
    Used(Arc<Store>),
    Orphans(Orphans),
}

impl Stores {
    /// Whether a limiter has used the backend, or a snapshot was restored.
    fn is_in_use(&mut self) -> bool {
        let orphans = self.orphans();
        let has_orphans = !(orphans.retired.is_empty() && orphans.reviving.is_empty());
        has_orphans || !self.all.is_empty()
    }

    fn names(&mut self) -> BTreeSet<String> {
        let used: Vec<String> = self.named.iter().flatten().map(|(name, _)| name.clone()).collect();
        let orphans = self.orphans();
        orphans.retired.keys().chain(orphans.reviving.keys()).cloned().chain(used).collect()
    }

    fn find(&mut self, name: &str) -> Option<Found> {
        if let Some(store) = self.named.as_ref().and_then(|named| named.get(name)).and_then(Weak::upgrade) {
            return Some(Found::Used(store));
        }
        let orphans = self.orphans();
        let saved = || orphans.reviving.get(name).cloned().map(Orphans::Saved);
        orphans.retired.get(name).cloned().or_else(saved).map(Found::Orphans)
    }
}

/// The present by both clocks: the shortest of three readings, in which the process was least
/// likely interrupted.
fn moment() -> Moment {
    let reading = |_| {
        let now = clock::now();
        let wall = clock::wall();
        (clock::now().saturating_sub(now), Moment { now, wall })
    };
    let [first, second, third] = [0; 3].map(reading);
    [second, third].into_iter().fold(first, |least, other| if other.0 < least.0 { other } else { least }).1
}
