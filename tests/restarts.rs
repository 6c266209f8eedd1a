//! Buckets that outlive the process: how much killed processes admitted in all, and the file
//! between two processes. The processes are in `support/keeper.rs`.

#![cfg(unix)]

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use ratelimit_runtime::{Limit, MemoryBackend, RateLimiter, SnapshotError};
use ratelimit_tests::{Admission, above, kept_limits};

/// A folder of a test, removed in the end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let folder = std::env::temp_dir().join(format!("ratelimit-restarts-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).unwrap();
        Folder(folder)
    }

    fn path(&self) -> PathBuf {
        self.0.join("limits.snapshot")
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(&self.0).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort_unstable();
        names
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn keeper(snapshot: &Path, log: &Path) -> Child {
    Command::new(env!("CARGO_BIN_EXE_keeper")).arg(snapshot).arg(log).arg("20").stdin(Stdio::piped()).spawn().unwrap()
}

/// When the copy in the file was begun, in microseconds by `CLOCK_REALTIME`. It contains calls that
/// ended before.
fn begun(snapshot: &Path) -> u64 {
    let bytes = fs::read(snapshot).unwrap();
    u64::from_le_bytes(bytes[12..20].try_into().unwrap()) / 1_000
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Bucket {
    limit: usize,
    key: usize,
}

fn read_log(log: &Path) -> Vec<(Bucket, Admission)> {
    // The last line of a killed process may not be complete.
    let text = fs::read_to_string(log).unwrap();
    let line = |line: &str| {
        let numbers: Vec<u64> = line.split(' ').map_while(|number| number.parse().ok()).collect();
        let [limit, key, from, to] = numbers[..] else { return None };
        let bucket = Bucket { limit: usize::try_from(limit).unwrap(), key: usize::try_from(key).unwrap() };
        Some((bucket, Admission { from, to }))
    };
    text.split_inclusive('\n').filter_map(|text| line(text.strip_suffix('\n')?)).collect()
}

/// How far `CLOCK_REALTIME` may be adjusted against the monotonic clock during a period, in
/// microseconds.
const SLACK: u64 = 1_000;

#[test]
fn killed_processes_admit_no_more_than_they_lose() {
    let folder = Folder::new("killed");
    let (snapshot, mut kept) = (folder.path(), BTreeMap::<Bucket, Vec<Admission>>::new());
    let (mut lost, mut rounds_with_losses) = (0, 0);
    for round in 0..36_u64 {
        let log = folder.0.join(format!("log-{round}"));
        let mut process = keeper(&snapshot, &log);
        let is_killed = round % 6 != 5;
        let started = Instant::now();
        // Some snapshots are complete before the process is killed, which may happen anywhere in
        // the next one.
        while !(log.exists() && snapshot.exists()) || started.elapsed() < Duration::from_millis(100 + round * 37 % 170)
        {
            assert!(started.elapsed() < Duration::from_secs(60), "no snapshot is made");
            thread::sleep(Duration::from_millis(1));
        }
        if is_killed {
            process.kill().unwrap();
            process.wait().unwrap();
        } else {
            drop(process.stdin.take());
            assert!(process.wait().unwrap().success());
        }
        let begun = if is_killed { begun(&snapshot) } else { u64::MAX };
        let before = lost;
        for (bucket, admission) in read_log(&log) {
            if admission.to < begun {
                let Admission { from, to } = admission;
                kept.entry(bucket).or_default().push(Admission { from: from - SLACK, to: to + SLACK });
            } else {
                lost += 1;
            }
        }
        rounds_with_losses += usize::from(lost > before);
    }
    let mut limits: Vec<Limit> = kept_limits().into_iter().map(|(_, limit)| limit).collect();
    limits.push(Limit::new(25, Duration::from_secs(2)));
    assert_eq!(kept.len(), (limits.len() - 1) * 4 + 1);
    for (Bucket { limit, key }, admissions) in &kept {
        let limit = &limits[*limit];
        assert_eq!(above(limit, admissions), 0, "{limit}, key {key}");
        // Nor is any key denied for longer than it should be.
        assert!(admissions.len() >= 2 * limit.count() as usize, "{limit}, key {key}: {}", admissions.len());
    }
    println!("{lost} admissions lost in {rounds_with_losses} rounds");
}

fn limiter(memory: &MemoryBackend) -> RateLimiter {
    RateLimiter::builder("daily").limit(Limit::per_day(1)).backend(memory.clone()).build().unwrap()
}

/// A snapshot of a used key.
fn made(folder: &Folder) -> PathBuf {
    let memory = MemoryBackend::new();
    limiter(&memory).check("ann", 1).unwrap();
    memory.snapshot(folder.path()).unwrap();
    folder.path()
}

fn error(path: &Path) -> SnapshotError {
    MemoryBackend::new().restore(path).unwrap_err()
}

#[test]
fn a_relative_path_outlasts_a_change_of_the_working_directory() {
    let folder = Folder::new("relative");
    let mut keeper = Command::new(env!("CARGO_BIN_EXE_keeper"));
    let keeper = keeper.args(["limits.snapshot", "log", "20"]).current_dir(&folder.0).stdin(Stdio::null());
    assert!(keeper.status().unwrap().success());
    assert_eq!(folder.names(), ["limits.snapshot", "log"]);
}

#[test]
fn a_snapshot_is_one_file_that_only_its_owner_reads() {
    let folder = Folder::new("mode");
    let path = made(&folder);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    // An existing file is replaced, whatever its permissions, and nothing else is left.
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    made(&folder);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(folder.names(), ["limits.snapshot"]);
    let memory = MemoryBackend::new();
    assert_eq!(memory.restore(&path).unwrap().keys, 1);
    assert!(limiter(&memory).check("ann", 1).is_err());
    assert_eq!(folder.names(), ["limits.snapshot"]);
}

#[test]
fn a_file_that_others_may_have_written_is_refused() {
    let folder = Folder::new("rights");
    let path = made(&folder);
    for mode in [0o620, 0o602] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        assert!(matches!(error(&path), SnapshotError::WritableByOthers));
    }
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    // Only root may give files away.
    if chown(&path, Some(65_534), None).is_ok() {
        assert!(matches!(error(&path), SnapshotError::NotOwned));
    }
}

#[test]
fn what_is_no_file_is_refused() {
    let folder = Folder::new("links");
    let (path, link) = (made(&folder), folder.0.join("link"));
    symlink(&path, &link).unwrap();
    assert!(matches!(error(&link), SnapshotError::NotAFile));
    assert!(matches!(error(&folder.0), SnapshotError::NotAFile));
    let missing = error(&folder.0.join("missing"));
    assert!(matches!(&missing, SnapshotError::Io { error, .. } if error.kind() == io::ErrorKind::NotFound));
    assert!(missing.to_string().contains("missing"), "{missing}");
    // A snapshot replaces a link, not its target.
    let before = fs::read(&path).unwrap();
    MemoryBackend::new().snapshot(&link).unwrap();
    assert!(fs::symlink_metadata(&link).unwrap().is_file());
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[test]
fn neither_folder_nor_device_is_moved_or_replaced() {
    let folder = Folder::new("others");
    let (data, socket) = (folder.0.join("data"), folder.0.join("socket"));
    fs::create_dir(&data).unwrap();
    fs::write(data.join("precious"), "").unwrap();
    let _listener = UnixListener::bind(&socket).unwrap();
    for path in [&data, &socket] {
        let kept = MemoryBackend::new().keep(path, Duration::from_secs(3_600));
        assert!(matches!(kept, Err(SnapshotError::NotAFile)), "{kept:?}");
        assert!(matches!(MemoryBackend::new().snapshot(path), Err(SnapshotError::NotAFile)));
    }
    assert_eq!(folder.names(), ["data", "socket"]);
    assert!(data.join("precious").exists() && !socket.is_file());
}

#[test]
fn a_refused_file_is_set_aside_and_the_buckets_are_fresh() {
    let folder = Folder::new("refused");
    let path = folder.path();
    fs::write(&path, "limits = 7").unwrap();
    let memory = MemoryBackend::new();
    let kept = memory.keep(&path, Duration::from_secs(3_600)).unwrap();
    assert!(matches!(kept.restored(), Err(SnapshotError::Foreign)));
    assert_eq!(fs::read_to_string(folder.0.join("limits.snapshot.refused")).unwrap(), "limits = 7");
    limiter(&memory).check("ann", 1).unwrap();
    assert_eq!(kept.close().unwrap().keys, 1);
    let kept = MemoryBackend::new().keep(&path, Duration::from_secs(3_600)).unwrap();
    assert_eq!(kept.restored().unwrap().unwrap().keys, 1);
}

#[test]
fn the_end_of_the_guard_saves_everything() {
    let folder = Folder::new("guard");
    for round in 0..5 {
        let memory = MemoryBackend::new();
        let kept = memory.keep(folder.path(), Duration::from_secs(3_600)).unwrap();
        assert_eq!(kept.restored().unwrap().map(|restored| restored.keys), (round > 0).then_some(round));
        for key in 0..=round {
            assert_eq!(limiter(&memory).check(key, 1).is_ok(), key == round);
        }
        drop(kept);
    }
    assert_eq!(folder.names(), ["limits.snapshot"]);
}

#[test]
fn what_a_killed_process_has_left_is_removed() {
    let folder = Folder::new("left");
    made(&folder);
    fs::write(folder.0.join("limits.snapshot.4294967295-7.tmp"), "half").unwrap();
    fs::write(folder.0.join("limits.snapshot.mine.tmp"), "not ours").unwrap();
    let kept = MemoryBackend::new().keep(folder.path(), Duration::from_secs(3_600)).unwrap();
    assert_eq!(folder.names(), ["limits.snapshot", "limits.snapshot.mine.tmp"]);
    drop(kept);
}

#[test]
fn a_backend_in_use_is_not_restored() {
    let folder = Folder::new("in-use");
    let path = made(&folder);
    let memory = MemoryBackend::new();
    limiter(&memory).check("bob", 1).unwrap();
    assert!(matches!(memory.restore(&path), Err(SnapshotError::InUse)));
    assert!(matches!(memory.keep(&path, Duration::from_secs(1)), Err(SnapshotError::InUse)));
    assert_eq!(folder.names(), ["limits.snapshot"]);
}

#[test]
fn a_folder_that_cannot_be_written_is_told_at_once() {
    let folder = Folder::new("missing");
    let path = folder.0.join("no such folder").join("limits.snapshot");
    let memory = MemoryBackend::new();
    assert!(matches!(memory.keep(&path, Duration::from_secs(1)), Err(SnapshotError::Io { .. })));
    assert!(matches!(memory.snapshot(&path), Err(SnapshotError::Io { .. })));
}
