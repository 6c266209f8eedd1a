//! Runs the examples. Those that are HTTP servers listen on a free port and end when they are
//! dropped.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Once;

/// The program that `cargo run --example NAME` runs, to which arguments can be added.
///
/// # Panics
/// If the examples do not build.
pub fn example(name: &str) -> Command {
    program("examples", name)
}

/// The quickstart, with Redis.
pub fn quickstart() -> Command {
    program("", "quickstart")
}

/// A program of the workspace, built with the features that the tests were built with. Other
/// features would build all dependencies once more.
fn program(folder: &str, name: &str) -> Command {
    static BUILT: Once = Once::new();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    BUILT.call_once(|| {
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.args(["build", "--quiet", "--bins", "--examples", "--all-features"]);
        // `ring` is built anew, and with it all that uses it, whenever these change.
        for (name, _) in std::env::vars().filter(|(name, _)| is_of_package(name)) {
            cargo.env_remove(name);
        }
        let built = cargo.current_dir(&root).stdin(Stdio::null()).status();
        assert!(built.expect("cargo can be started").success(), "the examples do not build");
    });
    // The test's own program is in `deps`, beside `examples`.
    let test = std::env::current_exe().expect("the test's program");
    let profile = test.parent().and_then(Path::parent).expect("the folder of the profile");
    let mut command = Command::new(profile.join(folder).join(name));
    command.current_dir(root).stdin(Stdio::null());
    command
}

/// Whether a variable is one that cargo sets for the package whose test it runs.
fn is_of_package(variable: &str) -> bool {
    ["CARGO_PKG_", "CARGO_MANIFEST_"].iter().any(|prefix| variable.starts_with(prefix))
}

/// A running example.
#[derive(Debug)]
pub struct ServerExample {
    process: Child,
    url: String,
}

impl ServerExample {
    /// Runs it until it prints its address.
    ///
    /// # Panics
    /// If it does not.
    pub fn start(name: &str) -> ServerExample {
        ServerExample::start_with(name, &[])
    }

    /// Runs it with these environment variables.
    ///
    /// # Panics
    /// If it does not print its address.
    pub fn start_with(name: &str, variables: &[(&str, &str)]) -> ServerExample {
        let mut process = example(name)
            .env_remove("ADDR")
            .env_remove("TRUSTED_PROXIES")
            .env("PORT", "0")
            .envs(variables.iter().copied())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the example can be started");
        let stdout = process.stdout.take().expect("a pipe");
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line).expect("a line of text");
        let Some(url) = line.trim().strip_prefix("listening on ").map(str::to_owned) else {
            panic!("`{name}` does not say where it listens: {line:?}");
        };
        ServerExample { process, url }
    }

    /// Its base URL: `http://` and an address.
    pub fn url(&self) -> &str {
        &self.url
    }
}

impl Drop for ServerExample {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
