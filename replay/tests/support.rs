//! Runs the program in its own folder, which is removed at the end.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::Value;

/// A test's folder.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new() -> Folder {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("ratelimit-replay-{}-{number}", std::process::id()));
        fs::create_dir(&path).expect("a new, empty folder");
        Folder(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Writes a file. Returns its name: the program runs in the folder.
    pub(crate) fn file(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        fs::write(self.0.join(name), content).expect("a file");
        name.to_owned()
    }

    pub(crate) fn read(&self, name: &str) -> String {
        fs::read_to_string(self.0.join(name)).expect("a file")
    }

    pub(crate) fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.0).expect("a folder");
        let mut names: Vec<String> =
            entries.map(|entry| entry.expect("a file").file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    pub(crate) fn replay(&self, arguments: &[&str]) -> Output {
        self.replay_with(arguments, b"")
    }

    /// Runs the program with this standard input.
    pub(crate) fn replay_with(&self, arguments: &[&str], input: &[u8]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_replay"));
        command
            .args(arguments)
            .current_dir(&self.0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut process = command.spawn().expect("the program can be started");
        let mut stdin = process.stdin.take().expect("a pipe");
        // The program may end without reading everything.
        let input = input.to_vec();
        let writer = std::thread::spawn(move || drop(stdin.write_all(&input)));
        let output = process.wait_with_output().expect("output");
        writer.join().expect("it does not panic");
        output
    }

    /// The report as JSON.
    #[track_caller]
    pub(crate) fn report(&self, arguments: &[&str]) -> Value {
        self.report_of(arguments, b"")
    }

    #[track_caller]
    pub(crate) fn report_of(&self, arguments: &[&str], input: &[u8]) -> Value {
        let output = self.replay_with(&[arguments, &["--json", "-"]].concat(), input);
        assert!(output.status.success(), "{arguments:?}: {}", stderr(&output));
        serde_json::from_slice(&output.stdout).expect("JSON")
    }

    /// The single line that the program prints when it fails.
    #[track_caller]
    pub(crate) fn failure(&self, arguments: &[&str]) -> String {
        let output = self.replay(arguments);
        assert!(!output.status.success(), "{arguments:?}: {}", stdout(&output));
        let message = stderr(&output);
        assert_eq!(message.trim_end().lines().count(), 1, "{message}");
        message
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("text")
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A log written by a real server.
pub(crate) fn server_log(name: &str) -> String {
    format!("{}/tests/logs/{name}", env!("CARGO_MANIFEST_DIR"))
}

pub(crate) fn gunzip(path: &str) -> String {
    let file = fs::File::open(path).expect("a log");
    std::io::read_to_string(flate2::read::GzDecoder::new(file)).expect("text")
}

pub(crate) fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("no number: {value}"))
}
