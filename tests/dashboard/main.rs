//! The example `dashboard`, as a user sees it in a browser.

mod browser;

use std::io::{Read, Write};
use std::net::TcpStream;

use browser::Browser;
use ratelimit_tests::ServerExample;
use serde_json::json;

/// Allowed, denied and remaining, as the card of a limiter shows them.
fn figures(browser: &Browser, limiter: &str) -> [String; 3] {
    ["allowed", "denied", "remaining"].map(|figure| browser.text(&format!("[data-limiter={limiter}] .{figure}")))
}

/// The bars with denials in a limiter's chart: their number, and the position of the last one.
fn denied_bars(browser: &Browser, limiter: &str) -> (u64, f64) {
    let bars = browser.run(&format!(
        "const bars = [...document.querySelectorAll('[data-limiter={limiter}] rect.bar-denied')]
             .map(bar => bar.getBoundingClientRect()).filter(bar => bar.height > 1);
         return [bars.length, bars.at(-1)?.x ?? 0]"
    ));
    (bars[0].as_u64().expect("a number"), bars[1].as_f64().expect("a number"))
}

#[test]
fn a_burst_shows_its_denials_live() {
    let server = ServerExample::start("dashboard");
    let browser = Browser::start();
    browser.open(server.url());
    browser.wait_for("that it is connected", |page| page.text("#connection"), |text| text == "live");
    assert_eq!(browser.text("[data-limiter=search] .limits"), "20 per 10 s · sliding window");
    assert_eq!(browser.text("[data-limiter=upload] .limits"), "5 per s, burst 40 · token bucket");
    assert_eq!(figures(&browser, "search"), ["0", "0", "20"]);
    assert_eq!(denied_bars(&browser, "search").0, 0);

    browser.click("#limiter option[value=search]");
    browser.enter("#calls", "50");
    browser.click("#burst button");
    browser.wait_for("the outcome", |page| page.text("#result"), |text| text == "search: 20 allowed, 30 denied");
    browser.wait_for("the denials", |page| figures(page, "search"), |figures| figures[..2] == ["20", "30"]);
    let (_, x) = browser.wait_for("a bar", |page| denied_bars(page, "search"), |bars| bars.0 > 0);
    browser.wait_for("that the chart moves", |page| denied_bars(page, "search"), |bars| bars.1 < x - 5.0);
    let label = browser.run("return document.querySelector('[data-limiter=search] svg').getAttribute('aria-label')");
    assert_eq!(label, "Calls of the last minute: 20 allowed, 30 denied");

    // Ten users, three tries each.
    browser.click("#limiter option[value=login]");
    browser.enter("#calls", "1000");
    browser.click("#burst button");
    browser.wait_for("users", |page| figures(page, "login"), |figures| *figures == ["30", "970", "10"]);
    assert_eq!(figures(&browser, "search")[..2], ["20", "30"], "nobody else's");
    assert_eq!(figures(&browser, "upload"), ["0", "0", "40"]);
    browser.picture("dashboard");
}

#[test]
fn the_page_loads_nothing_external_and_reports_errors() {
    let server = ServerExample::start("dashboard");
    let browser = Browser::start();
    browser.open(server.url());
    browser.wait_for("that it is connected", |page| page.text("#connection"), |text| text == "live");
    let elsewhere = browser.run(
        "return performance.getEntriesByType('resource').map(entry => entry.name)
             .filter(name => new URL(name).origin !== location.origin)",
    );
    assert_eq!(elsewhere, json!([]));
    // Each control has a name, and the page one heading above those of the cards.
    let unnamed = browser.run(
        "return [...document.querySelectorAll('input, select')].filter(control => !control.labels.length).map(c => c.id)",
    );
    assert_eq!(unnamed, json!([]));
    let headings = browser.run("return [...document.querySelectorAll('h1, h2')].map(heading => heading.innerText)");
    assert_eq!(headings, json!(["Rate limits", "search", "upload", "login"]));
    drop(server);
    let lost = "connection lost, trying again";
    browser.wait_for("that nobody answers", |page| page.text("#connection"), |text| text == lost);
    browser.click("#burst button");
    browser.wait_for("that it was not sent", |page| page.text("#result"), |text| text.starts_with("not sent: "));
}

/// What the server answers to a request with these header lines and this body: status line and text.
fn answer(url: &str, path: &str, headers: &str, body: &str) -> (String, String) {
    let address = url.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    let length = body.len();
    let request = format!(
        "POST {path} HTTP/1.1\r\n{headers}Content-Type: application/json\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {answer:?}"));
    assert!(head.contains("content-security-policy: default-src 'none'") || head.contains(" 421 "), "{head}");
    (head.lines().next().unwrap_or_default().to_owned(), body.to_owned())
}

#[test]
fn only_who_has_the_token_changes_a_limiter() {
    let server = ServerExample::start_with("dashboard", &[("DASHBOARD_TOKEN", "s3cret")]);
    let block = r#"{"limiter": "login", "action": "block", "value": "10m", "key": "u64:3"}"#;
    let act = |headers: &str, body: &str| answer(server.url(), "/act", headers, body);
    let (host, token) = ("Host: localhost\r\n", "Host: 127.0.0.1:1\r\nAuthorization: Bearer s3cret\r\n");
    assert_eq!(act(host, block).0, "HTTP/1.1 401 Unauthorized");
    assert_eq!(act("Host: [::1]\r\nAuthorization: Bearer s3cre\r\n", block).0, "HTTP/1.1 401 Unauthorized");
    // A foreign name that resolves to this machine.
    let foreign = "Host: elsewhere.example\r\nAuthorization: Bearer s3cret\r\n";
    assert_eq!(act(foreign, block).0, "HTTP/1.1 421 Misdirected Request");
    let peek = r#"{"limiter": "login", "action": "peek", "key": "u64:3"}"#;
    assert_eq!(act(token, peek).1, "3 left of 3 per 30s");
    assert_eq!(act(token, block), ("HTTP/1.1 200 OK".to_owned(), "blocked".to_owned()));
    assert!(act(token, peek).1.starts_with("further calls are blocked"));
    let wrong = r#"{"limiter": "login", "action": "block", "value": "10", "key": "u64:3"}"#;
    assert_eq!(act(token, wrong).0, "HTTP/1.1 400 Bad Request");
    // Without a token in the environment, no one may.
    let closed = ServerExample::start("dashboard");
    assert_eq!(answer(closed.url(), "/act", token, block).0, "HTTP/1.1 403 Forbidden");
}

#[test]
fn a_limiter_is_changed_from_the_page() {
    let server = ServerExample::start_with("dashboard", &[("DASHBOARD_TOKEN", "s3cret")]);
    let browser = Browser::start();
    browser.open(server.url());
    browser.wait_for("that it is connected", |page| page.text("#connection"), |text| text == "live");
    browser.click("#limiter option[value=search]");
    browser.enter("#value", "7/1m");
    browser.enter("#token", "s3cret");
    browser.click("#act button");
    browser.wait_for("the outcome", |page| page.text("#done"), |text| text == "set");
    browser.wait_for(
        "the limit",
        |page| page.text("[data-limiter=search] .limits"),
        |text| text == "7 per min · sliding window",
    );
}

#[test]
fn a_restarted_server_shows_no_negative_calls() {
    let server = ServerExample::start("dashboard");
    let browser = Browser::start();
    browser.open(server.url());
    let label = browser.run(
        "const limiter = { name: 'again', limits: [{ count: 9, per: 1, algorithm: 'fixed_window' }], remaining: 9, denied: 7 };
         show({ ...limiter, allowed: 50 });
         show({ ...limiter, allowed: 53 });
         show({ ...limiter, allowed: 2, denied: 0 });
         return document.querySelector('[data-limiter=again] svg').getAttribute('aria-label')",
    );
    assert_eq!(label, "Calls of the last minute: 5 allowed, 0 denied");
}
