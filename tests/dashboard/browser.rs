//! A headless Chromium, driven by the `WebDriver` protocol: a few JSON requests, for which no crate
//! is needed.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// The key of an element in `WebDriver` JSON.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// The longest time for a page to show something. Long, because the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(60);

const ARGUMENTS: [&str; 10] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1280,1000",
];

/// A browser, closed when it is dropped.
pub(crate) struct Browser {
    driver: Child,
    agent: ureq::Agent,
    session: String,
    profile: PathBuf,
}

impl Browser {
    pub(crate) fn start() -> Browser {
        static STARTED: AtomicU32 = AtomicU32::new(0);
        let mut driver = Command::new("chromedriver")
            .arg("--port=0")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| {
                panic!("`chromedriver` cannot be started ({error}): `apt-get install chromium chromium-driver`")
            });
        let mut stdout = BufReader::new(driver.stdout.take().expect("a pipe"));
        let mut line = String::new();
        let port = loop {
            line.clear();
            assert_ne!(stdout.read_line(&mut line).expect("text"), 0, "chromedriver ended before it said its port");
            if let Some((_, port)) = line.trim().trim_end_matches('.').rsplit_once("successfully on port ") {
                break port.to_owned();
            }
        };
        // Drains its output, so that it never blocks on a full pipe.
        std::thread::spawn(move || std::io::copy(&mut stdout, &mut std::io::sink()));

        let config = ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(PATIENCE * 2));
        let started = STARTED.fetch_add(1, Ordering::Relaxed);
        let profile = std::env::temp_dir().join(format!("ratelimit-browser-{}-{started}", std::process::id()));
        std::fs::create_dir(&profile).expect("a new, empty folder");
        let mut browser = Browser {
            driver,
            agent: ureq::Agent::new_with_config(config.build()),
            session: format!("http://127.0.0.1:{port}/session"),
            profile,
        };
        let mut arguments: Vec<String> = ARGUMENTS.map(str::to_owned).into();
        arguments.push(format!("--user-data-dir={}", browser.profile.display()));
        let options = json!({ "browserName": "chrome", "goog:chromeOptions": { "args": arguments } });
        let session = browser.post("", &json!({ "capabilities": { "alwaysMatch": options } }));
        let id = session["sessionId"].as_str().unwrap_or_else(|| panic!("no session: {session}")).to_owned();
        browser.session = format!("{}/{id}", browser.session);
        browser
    }

    fn post(&self, path: &str, body: &Value) -> Value {
        let request = self.agent.post(format!("{}{path}", self.session)).content_type("application/json");
        let answer = request.send(body.to_string());
        Browser::value(path, answer)
    }

    fn value(path: &str, answer: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> Value {
        let mut answer = answer.unwrap_or_else(|error| panic!("{path}: {error}"));
        let text = answer.body_mut().with_config().limit(100 << 20).read_to_string().expect("text");
        let mut json: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{path}: {error}: {text}"));
        assert!(answer.status().is_success(), "{path}: {json}");
        json["value"].take()
    }

    pub(crate) fn open(&self, url: &str) {
        self.post("/url", &json!({ "url": url }));
    }

    /// Runs a function body in the page and returns its result.
    pub(crate) fn run(&self, script: &str) -> Value {
        self.post("/execute/sync", &json!({ "script": script, "args": [] }))
    }

    /// The element's visible text; `""` if it does not exist.
    pub(crate) fn text(&self, selector: &str) -> String {
        let script = format!("return document.querySelector({})?.innerText ?? ''", json!(selector));
        self.run(&script).as_str().expect("text").to_owned()
    }

    fn element(&self, selector: &str) -> String {
        let element = self.post("/element", &json!({ "using": "css selector", "value": selector }));
        format!("/element/{}", element[ELEMENT].as_str().unwrap_or_else(|| panic!("no `{selector}`: {element}")))
    }

    /// Clicks like a user. Fails if another element covers it.
    pub(crate) fn click(&self, selector: &str) {
        self.post(&format!("{}/click", self.element(selector)), &json!({}));
    }

    /// Clears an element and types into it.
    pub(crate) fn enter(&self, selector: &str, text: &str) {
        let element = self.element(selector);
        self.post(&format!("{element}/clear"), &json!({}));
        self.post(&format!("{element}/value"), &json!({ "text": text }));
    }

    /// Waits until `is_shown` finds something in the page, and returns that.
    #[track_caller]
    pub(crate) fn wait_for<T: std::fmt::Debug>(
        &self,
        what: &str,
        see: impl Fn(&Browser) -> T,
        is_shown: impl Fn(&T) -> bool,
    ) -> T {
        let start = Instant::now();
        loop {
            let seen = see(self);
            if is_shown(&seen) {
                return seen;
            }
            assert!(start.elapsed() < PATIENCE, "the page does not show {what}, but {seen:?}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Writes a screenshot into the folder that the variable `SCREENSHOTS` names, if it is set.
    pub(crate) fn picture(&self, name: &str) {
        let Some(folder) = std::env::var_os("SCREENSHOTS") else { return };
        let answer = self.agent.get(format!("{}/screenshot", self.session)).call();
        let picture = Browser::value("/screenshot", answer);
        let path = PathBuf::from(folder).join(format!("{name}.png.base64"));
        std::fs::write(path, picture.as_str().expect("base64")).expect("a file");
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Closes the browser, which would outlive its driver.
        let _ = self.agent.delete(&self.session).call();
        let _ = self.driver.kill();
        let _ = self.driver.wait();
        let _ = std::fs::remove_dir_all(&self.profile);
    }
}
