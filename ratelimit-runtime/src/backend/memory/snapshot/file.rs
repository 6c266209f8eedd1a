//! A snapshot's file: written under another name and renamed, and read only if this user owns it.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::SnapshotError;

/// Replaces the file at `path` by what `write` writes. After a crash at any moment, either the old
/// or the new file is there. A symbolic link is replaced; a folder or a device is not.
pub(super) fn replace<R>(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<&File>) -> io::Result<R>,
) -> Result<R, SnapshotError> {
    check_replaceable(path)?;
    let (temporary, file) = Temporary::beside(path).map_err(|error| SnapshotError::io(path, error))?;
    let replaced = || {
        let mut out = BufWriter::with_capacity(1 << 16, &file);
        let result = write(&mut out)?;
        out.flush()?;
        drop(out);
        file.sync_all()?;
        fs::rename(&temporary.0, path)?;
        sync_folder(path)?;
        Ok(result)
    };
    replaced().map_err(|error| SnapshotError::io(path, error))
}

/// Opens a file that only this process's user can have written. Follows no symbolic link.
pub(super) fn open(path: &Path) -> Result<File, SnapshotError> {
    let io = |error| SnapshotError::io(path, error);
    let named = fs::symlink_metadata(path).map_err(io)?;
    // Before it is opened: that would wait for the other end of a pipe.
    if !named.is_file() {
        return Err(SnapshotError::NotAFile);
    }
    let file = File::open(path).map_err(io)?;
    let opened = file.metadata().map_err(io)?;
    check_owner(path, &named, &opened)?;
    Ok(file)
}

#[cfg(unix)]
fn check_owner(path: &Path, named: &fs::Metadata, opened: &fs::Metadata) -> Result<(), SnapshotError> {
    use std::os::unix::fs::MetadataExt as _;

    if (named.dev(), named.ino()) != (opened.dev(), opened.ino()) {
        return Err(SnapshotError::NotAFile);
    }
    // The standard library does not expose the process's user, but a file that the process creates
    // belongs to it.
    let (_temporary, own) = Temporary::beside(path).map_err(|error| SnapshotError::io(path, error))?;
    let own = own.metadata().map_err(|error| SnapshotError::io(path, error))?;
    if opened.uid() != own.uid() {
        return Err(SnapshotError::NotOwned);
    }
    if opened.mode() & 0o022 != 0 {
        return Err(SnapshotError::WritableByOthers);
    }
    Ok(())
}

#[cfg(not(unix))]
#[expect(clippy::unnecessary_wraps, reason = "it fails on Unix")]
fn check_owner(_: &Path, _: &fs::Metadata, _: &fs::Metadata) -> Result<(), SnapshotError> {
    Ok(())
}

/// Fails if something is at `path` that is neither a file nor a symbolic link. A rename would remove a
/// device such as `/dev/null`, or move a folder with all that is in it.
fn check_replaceable(path: &Path) -> Result<(), SnapshotError> {
    let is_other = |kind: fs::Metadata| !kind.is_file() && !kind.is_symlink();
    if fs::symlink_metadata(path).is_ok_and(is_other) { Err(SnapshotError::NotAFile) } else { Ok(()) }
}

/// Checks that files can be made at and beside `path`, and removes those that a killed process has
/// left.
pub(super) fn prepare(path: &Path) -> Result<(), SnapshotError> {
    check_replaceable(path)?;
    let io = |error| SnapshotError::io(path, error);
    drop(Temporary::beside(path).map_err(io)?);
    let name = path.file_name().unwrap_or_default();
    for entry in fs::read_dir(folder(path)).map_err(io)? {
        let entry = entry.map_err(io)?;
        if is_temporary(entry.file_name().as_encoded_bytes(), name.as_encoded_bytes()) {
            // Another process may have removed it.
            let _ = fs::remove_file(entry.path());
        }
    }
    Ok(())
}

/// Moves a refused file out of the way, and replaces what was there.
pub(super) fn set_aside(path: &Path) -> io::Result<()> {
    fs::rename(path, with_end(path, ".refused")?)
}

/// A new file beside another, removed when this is dropped.
struct Temporary(PathBuf);

impl Temporary {
    fn beside(path: &Path) -> io::Result<(Temporary, File)> {
        /// Two snapshots of one process may be written at the same time.
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let temporary = with_end(path, &format!(".{}-{number}.tmp", crate::rt::process::id()))?;
        let mut options = OpenOptions::new();
        // Makes a new file or fails, also if a symbolic link has that name.
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let file = match options.open(&temporary) {
            // Left by a process with the same ID, perhaps in another container.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                fs::remove_file(&temporary)?;
                options.open(&temporary)?
            }
            opened => opened?,
        };
        Ok((Temporary(temporary), file))
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // Once it is renamed, there is none.
        let _ = fs::remove_file(&self.0);
    }
}

fn is_temporary(name: &[u8], of: &[u8]) -> bool {
    let number = name.strip_prefix(of).and_then(|end| end.strip_prefix(b".")).and_then(|end| end.strip_suffix(b".tmp"));
    number.is_some_and(|number| {
        number.contains(&b'-') && number.iter().all(|byte| byte.is_ascii_digit() || *byte == b'-')
    })
}

fn with_end(path: &Path, end: &str) -> io::Result<PathBuf> {
    let no_name = || io::Error::new(io::ErrorKind::InvalidInput, "the path has no file name");
    let mut name = OsString::from(path.file_name().ok_or_else(no_name)?);
    name.push(end);
    Ok(path.with_file_name(name))
}

fn folder(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Makes a rename durable.
fn sync_folder(path: &Path) -> io::Result<()> {
    // Other systems do not open folders.
    if cfg!(unix) { File::open(folder(path))?.sync_all() } else { Ok(()) }
}
