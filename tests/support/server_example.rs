//! An example that is an HTTP server, on a free port, ended when it is dropped.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// A running example.
#[derive(Debug)]
pub struct ServerExample {
    process: Child,
    url: String,
}

impl ServerExample {
    /// `cargo run --example NAME`, until it says where it listens.
    ///
    /// # Panics
    /// Where it does not.
    pub fn start(name: &str) -> ServerExample {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut process = Command::new(cargo)
            .args(["run", "--quiet", "--example", name])
            .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."))
            .env_remove("ADDR")
            .env("PORT", "0")
            .stdin(Stdio::null())
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

    /// Where it listens: `http://` and an address.
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
