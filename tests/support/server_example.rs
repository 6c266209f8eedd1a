//! Runs the examples. Those that are HTTP servers listen on a free port and end when they are
//! dropped.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Once;

/// `cargo run --example NAME` at the root of the workspace, to which arguments can be added.
///
/// # Panics
/// If the examples do not build.
pub fn example(name: &str) -> Command {
    static BUILT: Once = Once::new();
    BUILT.call_once(|| {
        let built = cargo().args(["build", "--quiet", "--examples"]).status().expect("cargo can be started");
        assert!(built.success(), "the examples do not build");
    });
    let mut command = cargo();
    command.args(["run", "--quiet", "--example", name, "--"]);
    command
}

/// The command that runs the quickstart, with Redis, as the README does.
pub fn quickstart() -> Command {
    let mut command = cargo();
    command.args(["run", "--quiet", "--bin", "quickstart", "--features", "quickstart/redis", "--"]);
    command
}

fn cargo() -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("..")).stdin(Stdio::null());
    cargo
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
            .expect("cargo can be started");
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
