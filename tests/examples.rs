//! Runs the examples as the README describes.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::process::Output;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ratelimit_tests::{RedisServer, ServerExample, example, quickstart};
use serde_json::Value;
use tonic::transport::Channel;
use tonic_prost::ProstCodec;
use tonic_types::StatusExt;

fn text(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    text(&output.stdout) + &text(&output.stderr)
}

/// The numbers in the table row that starts with `title`.
fn row(text: &str, title: &str) -> Vec<u32> {
    let row = text.lines().find_map(|line| line.trim_start().strip_prefix(title).filter(|rest| rest.starts_with(' ')));
    let row = row.unwrap_or_else(|| panic!("no row `{title}` in:\n{text}"));
    row.split_whitespace().map(|number| number.parse().expect("a number")).collect()
}

#[test]
fn quickstart_keeps_the_limit_in_memory() {
    let output = quickstart().args(["--calls", "300", "--every", "4"]).output().expect("it can be started");
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
    let mut command = quickstart();
    // A busy machine may take long to answer.
    let url = format!("{}?timeout=10s", server.url());
    command.args(["--redis", "--processes", "4", "--calls", "200"]).env("REDIS_URL", url);
    let output = command.output().expect("it can be started");
    let text = text(&output);
    assert!(output.status.success(), "{text}");
    let [allowed, denied] = row(&text, "all")[..] else { panic!("two columns in:\n{text}") };
    assert_eq!(allowed + denied, 800, "{text}");
    // The last calls are due after 0.995 s; some may come later.
    assert!((100..=200).contains(&allowed), "{text}");
    assert!(text.contains("the limit was kept"), "{text}");
}

#[test]
fn quickstart_says_how_to_get_a_missing_redis() {
    let mut command = quickstart();
    // No server listens on port 1.
    command.arg("--redis").env("REDIS_URL", "redis://127.0.0.1:1");
    let output = command.output().expect("it can be started");
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output).contains("apt-get install redis-server"), "{}", text(&output));
}

/// An example server and a client for it.
struct Server(ServerExample);

impl Server {
    fn start(name: &str) -> Server {
        Server(ServerExample::start(name))
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.0.url())
    }

    fn get(&self, path: &str) -> Answer {
        Answer::of(agent().get(self.url(path)).call())
    }

    fn get_from(&self, client: &str, path: &str) -> Answer {
        Answer::of(agent().get(self.url(path)).header("x-forwarded-for", client).call())
    }

    fn post(&self, path: &str, form: &[(&str, &str)]) -> Answer {
        Answer::of(agent().post(self.url(path)).send_form(form.iter().copied()))
    }
}

fn agent() -> ureq::Agent {
    ureq::Agent::new_with_config(ureq::Agent::config_builder().http_status_as_error(false).build())
}

/// A server's answer.
#[derive(Debug)]
struct Answer {
    status: u16,
    headers: ureq::http::HeaderMap,
    body: String,
}

impl Answer {
    fn of(response: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> Answer {
        let mut response = response.expect("an answer");
        let body = response.body_mut().read_to_string().expect("text");
        Answer { status: response.status().as_u16(), headers: response.headers().clone(), body }
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().expect("text"))
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.body).expect("JSON")
    }

    fn retry_after(&self) -> u64 {
        self.header("retry-after").expect("Retry-After").parse().expect("seconds")
    }
}

#[test]
fn axum_answers_429_with_retry_after_and_json_above_the_limit() {
    let server = Server::start("axum");
    for left in (0..5).rev() {
        let answer = server.get("/api/data");
        assert_eq!((answer.status, answer.header("retry-after")), (200, None), "{answer:?}");
        assert_eq!(answer.json()["you"], "127.0.0.1");
        assert!(answer.header("ratelimit").expect("RateLimit").starts_with(&format!("\"5-per-60s\";r={left};t=")));
    }
    let denied = server.get("/api/data");
    assert_eq!(denied.status, 429, "{denied:?}");
    assert!((1..=60).contains(&denied.retry_after()), "{denied:?}");
    assert_eq!(denied.json()["error"], "too many requests");
    assert_eq!(denied.json()["retry_after"], denied.retry_after());
    // Not a trusted proxy, so its header is ignored.
    assert_eq!(server.get_from("203.0.113.1", "/api/data").status, 429);
    for _ in 0..10 {
        let answer = server.get("/api/status");
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("ratelimit-policy"), Some(r#""1000-per-1s";q=1000;w=1"#));
    }
}

#[test]
fn axum_tells_clients_behind_a_trusted_proxy_apart() {
    let server = Server(ServerExample::start_with("axum", &[("TRUSTED_PROXIES", "127.0.0.1,10.0.0.0/8")]));
    for _ in 0..5 {
        assert_eq!(server.get_from("203.0.113.1, 10.0.0.7", "/api/data").json()["you"], "203.0.113.1");
    }
    assert_eq!(server.get_from("198.51.100.1, 203.0.113.1", "/api/data").status, 429);
    assert_eq!(server.get_from("203.0.113.2", "/api/data").status, 200);
}

#[test]
fn actix_answers_429_above_the_limit() {
    let server = Server::start("actix");
    for left in (0..5).rev() {
        let answer = server.get("/api/data");
        assert_eq!(answer.json()["you"], "127.0.0.1");
        assert!(answer.header("ratelimit").expect("RateLimit").starts_with(&format!("\"5-per-60s\";r={left};t=")));
    }
    let denied = server.get("/api/data");
    assert_eq!(denied.status, 429, "{denied:?}");
    assert!((1..=60).contains(&denied.retry_after()), "{denied:?}");
    assert_eq!(denied.json()["violated-policies"][0], "5-per-60s");
    assert_eq!(server.get("/api/report").json()["sold"], 17);
    assert_eq!(server.get("/api/report").status, 429);
    assert_eq!(server.get("/api/status").status, 200);
}

#[test]
fn login_counts_failures_only() {
    let server = Server::start("login");
    let login = |user: &str, password: &str| server.post("/login", &[("user", user), ("password", password)]);
    for _ in 0..30 {
        let answer = login("ann", "ann's secret");
        assert_eq!((answer.status, &*answer.body), (200, "welcome, ann\n"));
    }
    for _ in 0..5 {
        assert_eq!(login("ann", "guess").status, 401);
    }
    let locked = login("ann", "ann's secret");
    assert_eq!(locked.status, 429, "{locked:?}");
    assert!((800..=900).contains(&locked.retry_after()), "{locked:?}");
    // One password on many users: 20 failures in all, 5 of them on ann.
    for user in 0..15 {
        assert_eq!(login(&format!("user{user}"), "12345").status, 401, "{user}");
    }
    assert_eq!(login("user15", "12345").status, 429);
}

#[test]
fn login_lets_a_thousand_guesses_at_once_have_five_tries() {
    let server = Server::start("login");
    let guess = || server.post("/login", &[("user", "ann"), ("password", "guess")]).status;
    let statuses: Vec<u16> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..20).map(|_| scope.spawn(|| [(); 50].map(|()| guess()))).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("a thread")).collect()
    });
    let count = |status| statuses.iter().filter(|&&is| is == status).count();
    assert_eq!((count(401), count(429)), (5, 995));
}

/// Answers every request with 200 until the test ends, and records when each came.
fn counting_server() -> (String, Arc<Mutex<Vec<Instant>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}/", listener.local_addr().expect("an address"));
    let requests = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&requests);
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let (connection, kept) = (connection.expect("a connection"), Arc::clone(&kept));
            std::thread::spawn(move || {
                let mut lines = BufReader::new(connection.try_clone().expect("a handle")).lines();
                while let Some(Ok(line)) = lines.next() {
                    // A request ends with an empty line.
                    if line.is_empty() {
                        kept.lock().expect("no panic").push(Instant::now());
                        let mut connection = &connection;
                        connection.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").expect("a client");
                    }
                }
            });
        }
    });
    (url, requests)
}

#[test]
fn tower_client_never_exceeds_its_quota() {
    let (url, requests) = counting_server();
    let output = example("tower_client").args([&url, "--requests", "35"]).output().expect("it can be started");
    assert!(output.status.success(), "{}", text(&output));
    assert!(text(&output).contains("35 requests answered"), "{}", text(&output));
    let requests = requests.lock().expect("no panic");
    assert_eq!(requests.len(), 35);
    // Ten are sent per second. Transit times may differ by less than three quarters of a second.
    for (position, &last) in requests.iter().enumerate().skip(10) {
        let between = last - requests[position - 10];
        assert!(between > Duration::from_millis(250), "11 requests within {between:?}");
    }
}

/// The request and the answer of the `tonic` example: one text.
#[derive(Clone, PartialEq, prost::Message)]
struct Text {
    #[prost(string, tag = "1")]
    text: String,
}

#[tokio::test]
async fn tonic_denies_with_resource_exhausted_and_the_time_to_wait() {
    let server = Server::start("tonic");
    let channel = Channel::from_shared(server.url("")).expect("a URL").connect().await.expect("a connection");
    let greet = async |token: &'static str| {
        let mut client = tonic::client::Grpc::new(channel.clone());
        client.ready().await.expect("a connection");
        let mut request = tonic::Request::new(Text { text: "ann".to_owned() });
        request.metadata_mut().insert("authorization", token.parse().expect("ASCII"));
        let path = "/greeting.Greeter/Greet".parse().expect("a path");
        client.unary(request, path, ProstCodec::<Text, Text>::default()).await.map(|answer| answer.into_inner().text)
    };
    for _ in 0..3 {
        assert_eq!(greet("one").await.expect("an answer"), "hello, ann");
    }
    let status = greet("one").await.expect_err("a denial");
    assert_eq!(status.code(), tonic::Code::ResourceExhausted);
    let delay = status.get_details_retry_info().and_then(|info| info.retry_delay).expect("a RetryInfo");
    assert!(delay > Duration::ZERO && delay <= Duration::from_secs(60), "{delay:?}");
    assert!(greet("two").await.is_ok());
}
