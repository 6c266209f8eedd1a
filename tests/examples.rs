//! The examples, run as the README says.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Once;

use ratelimit_tests::RedisServer;
use serde_json::Value;

/// `cargo run --example NAME` with these arguments, at the root of the workspace.
fn example(name: &str) -> Command {
    static BUILT: Once = Once::new();
    BUILT.call_once(|| {
        let built = cargo().args(["build", "--quiet", "--examples"]).status().expect("cargo can be started");
        assert!(built.success(), "the examples do not build");
    });
    let mut command = cargo();
    command.args(["run", "--quiet", "--example", name, "--"]);
    command
}

fn cargo() -> Command {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("..")).stdin(Stdio::null());
    cargo
}

fn text(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    text(&output.stdout) + &text(&output.stderr)
}

/// The numbers in the row of the table that begins with `title`.
fn row(text: &str, title: &str) -> Vec<u32> {
    let row = text.lines().find_map(|line| line.trim_start().strip_prefix(title).filter(|rest| rest.starts_with(' ')));
    let row = row.unwrap_or_else(|| panic!("no row `{title}` in:\n{text}"));
    row.split_whitespace().map(|number| number.parse().expect("a number")).collect()
}

#[test]
fn quickstart_keeps_the_limit_in_memory() {
    let output = example("quickstart").args(["--calls", "300", "--every", "4"]).output().expect("cargo can be started");
    let text = text(&output);
    assert!(output.status.success(), "{text}");
    assert!(row(&text, "1")[0] <= 100, "{text}");
    let [allowed, denied] = row(&text, "all")[..] else { panic!("two columns in:\n{text}") };
    assert_eq!(allowed + denied, 300, "{text}");
    // The last call is due after 1.196 s.
    assert!((100..=200).contains(&allowed), "{text}");
    assert!(text.contains("the limit was kept"), "{text}");
}

#[test]
fn quickstart_shares_the_limit_between_processes_through_redis() {
    let server = RedisServer::start();
    let mut command = example("quickstart");
    command.args(["--redis", "--processes", "4", "--calls", "200"]).env("REDIS_URL", server.url());
    let output = command.output().expect("cargo can be started");
    let text = text(&output);
    assert!(output.status.success(), "{text}");
    let [allowed, denied] = row(&text, "all")[..] else { panic!("two columns in:\n{text}") };
    assert_eq!(allowed + denied, 800, "{text}");
    // The last calls are due after 0.995 s; some may come later.
    assert!((100..=200).contains(&allowed), "{text}");
    assert!(text.contains("the limit was kept"), "{text}");
}

#[test]
fn quickstart_says_how_to_get_a_redis_that_is_missing() {
    let mut command = example("quickstart");
    // Nothing listens on port 1.
    command.arg("--redis").env("REDIS_URL", "redis://127.0.0.1:1");
    let output = command.output().expect("cargo can be started");
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output).contains("apt-get install redis-server"), "{}", text(&output));
}

/// The web example, ended when dropped.
struct Web {
    process: Child,
    url: String,
}

impl Web {
    fn start() -> Web {
        let mut process = example("web")
            .env_remove("ADDR")
            .env("PORT", "0")
            .stdout(Stdio::piped())
            .spawn()
            .expect("cargo can be started");
        let stdout = process.stdout.take().expect("a pipe");
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line).expect("a line of text");
        let url = line.trim().strip_prefix("listening on ").unwrap_or_else(|| panic!("{line:?}")).to_owned();
        Web { process, url }
    }

    /// Status, `Retry-After` and body.
    fn get(&self, path: &str) -> (u16, Option<String>, String) {
        let agent = ureq::Agent::new_with_config(ureq::Agent::config_builder().http_status_as_error(false).build());
        let mut response = agent.get(format!("{}{path}", self.url)).call().expect("an answer");
        let retry_after = response.headers().get("retry-after").map(|value| value.to_str().expect("text").to_owned());
        let body = response.body_mut().read_to_string().expect("text");
        (response.status().as_u16(), retry_after, body)
    }
}

impl Drop for Web {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn web_answers_429_with_retry_after_and_json_above_the_limit() {
    let web = Web::start();
    for _ in 0..5 {
        let (status, retry_after, body) = web.get("/api/data");
        assert_eq!((status, retry_after), (200, None), "{body}");
    }
    let (status, retry_after, body) = web.get("/api/data");
    assert_eq!(status, 429, "{body}");
    let retry_after: u64 = retry_after.expect("Retry-After").parse().expect("seconds");
    assert!((1..=60).contains(&retry_after), "{retry_after}");
    let body: Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!(body["error"], "too many requests");
    assert_eq!(body["retry_after"], retry_after);
    for _ in 0..10 {
        assert_eq!(web.get("/api/status").0, 200);
    }
}
