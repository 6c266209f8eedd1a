//! Real proxies: who counts as the client, what it can forge, and that no proxy serves one client's
//! denial to another. These tests verify what `docs/web.md` says about nginx, haproxy and caddy.

use std::net::SocketAddr;
use std::time::Duration;

use axum::extract::ConnectInfo;
use axum::extract::connect_info::MockConnectInfo;
use axum::routing::get;
use axum::{Extension, Router};
use ratelimit_runtime::{ClientIp, ClientIpConfig, RateLimitExceeded, rate_limit};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};

use crate::gateway::Gateway;
use crate::server::{Site, serve_at};

/// Headers with which a client at 127.0.0.2 poses as 6.6.6.6.
const FORGED: [&[(&str, &str)]; 5] = [
    &[],
    &[("x-forwarded-for", "6.6.6.6")],
    &[("x-forwarded-for", "6.6.6.6"), ("x-forwarded-for", "6.6.6.6, 127.0.0.1")],
    &[("forwarded", "for=6.6.6.6"), ("forwarded", "for=\"6.6.6.6")],
    &[("x-real-ip", "6.6.6.6"), ("x-real-ip", "6.6.6.6")],
];

fn who(config: ClientIpConfig) -> Router {
    Router::new().route("/", get(async |client: ClientIp| client.to_string())).layer(Extension(config))
}

fn x_forwarded_for() -> ClientIpConfig {
    ClientIpConfig::x_forwarded_for(["127.0.0.1"]).unwrap()
}

/// The address that the application sees for a client at 127.0.0.2, for each forgery.
async fn seen(gateway: &Gateway) -> Vec<String> {
    let site = Site::asked_from_elsewhere(gateway.address());
    let mut seen = Vec::new();
    for headers in FORGED {
        let answer = site.get_with("/", headers).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        seen.push(answer.body);
    }
    seen
}

const ONE_CLIENT: [&str; 5] = ["127.0.0.2"; 5];

#[tokio::test]
async fn nginx_that_appends_or_replaces() {
    let list = serve_at(who(x_forwarded_for())).await;
    let one = serve_at(who(ClientIpConfig::header("X-Real-IP", ["127.0.0.1"]).unwrap())).await;
    let forwarded = serve_at(who(ClientIpConfig::forwarded(["127.0.0.1"]).unwrap())).await;
    for (upstream, header) in [
        (list, "X-Forwarded-For $proxy_add_x_forwarded_for"),
        (list, "X-Forwarded-For $remote_addr"),
        (one, "X-Real-IP $remote_addr"),
        (forwarded, "Forwarded \"$http_forwarded, for=$remote_addr;proto=$scheme;\""),
    ] {
        let location = format!("location / {{ proxy_pass http://{upstream}; proxy_set_header {header}; }}");
        assert_eq!(seen(&Gateway::nginx(&location, "")).await, ONE_CLIENT, "{header}");
    }
}

#[tokio::test]
async fn nginx_to_a_unix_socket() {
    let path = std::env::temp_dir().join(format!("ratelimit-web-{}.sock", std::process::id()));
    let _ = std::fs::remove_file(&path);
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    let router = who(x_forwarded_for()).layer(MockConnectInfo(SocketAddr::from(([127, 0, 0, 1], 0))));
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    let location = format!(
        "location / {{ proxy_pass http://unix:{}; proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; }}",
        path.display()
    );
    assert_eq!(seen(&Gateway::nginx(&location, "")).await, ONE_CLIENT);
    std::fs::remove_file(&path).unwrap();
}

#[tokio::test]
async fn haproxy_that_appends_or_replaces() {
    let list = serve_at(who(x_forwarded_for())).await;
    let forwarded = serve_at(who(ClientIpConfig::forwarded(["127.0.0.1"]).unwrap())).await;
    for (upstream, option) in [
        (list, "option forwardfor"),
        (list, "http-request set-header X-Forwarded-For %[src]"),
        (forwarded, "http-request set-header Forwarded for=%[src]"),
        (forwarded, "http-request add-header Forwarded for=%[src]"),
    ] {
        let haproxy = Gateway::haproxy(&format!(" {option}\n server app {upstream}"));
        assert_eq!(seen(&haproxy).await, ONE_CLIENT, "{option}");
    }
}

#[tokio::test]
async fn caddy_as_it_is_and_with_trusted_proxies() {
    let upstream = serve_at(who(x_forwarded_for())).await;
    for trusted in ["", "trusted_proxies 127.0.0.0/8"] {
        let caddy = Gateway::caddy(&format!(" reverse_proxy {upstream} {{\n {trusted}\n }}"));
        assert_eq!(seen(&caddy).await, ONE_CLIENT, "{trusted}");
    }
}

/// The configurations that the page warns about.
#[tokio::test]
async fn a_proxy_that_passes_the_header_on_lets_anybody_be_anybody() {
    let upstream = serve_at(who(x_forwarded_for())).await;
    let bare = Gateway::nginx(&format!("location / {{ proxy_pass http://{upstream}; }}"), "");
    let real_ip = format!("location / {{ proxy_pass http://{upstream}; proxy_set_header X-Real-IP $remote_addr; }}");
    let real_ip = Gateway::nginx(&real_ip, "");
    let if_none = Gateway::haproxy(&format!(" option forwardfor if-none\n server app {upstream}"));
    for gateway in [bare, real_ip, if_none] {
        assert_eq!(seen(&gateway).await[1], "6.6.6.6");
    }
}

/// Reads the PROXY protocol's line at the start of each connection, and takes the client's address
/// from it.
struct ProxyProtocol(TcpListener);

impl axum::serve::Listener for ProxyProtocol {
    type Io = TcpStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (TcpStream, SocketAddr) {
        loop {
            let Ok((mut stream, _)) = self.0.accept().await else { continue };
            let mut line = Vec::new();
            while !line.ends_with(b"\r\n") && line.len() < 107 {
                match stream.read_u8().await {
                    Ok(byte) => line.push(byte),
                    Err(_) => break,
                }
            }
            let text = String::from_utf8_lossy(&line);
            // PROXY TCP4 127.0.0.2 127.0.0.1 41234 443
            if let ["PROXY", "TCP4" | "TCP6", address, _, port, _] = text.split_whitespace().collect::<Vec<_>>()[..]
                && let (Ok(address), Ok(port)) = (address.parse(), port.parse())
            {
                return (stream, SocketAddr::new(address, port));
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

#[tokio::test]
async fn the_proxy_protocol() {
    use axum::serve::ListenerExt;

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    // axum accepts the address type of a custom listener only behind `tap_io`.
    let listener = ProxyProtocol(listener).tap_io(|_| {});
    let service = who(ClientIpConfig::peer()).into_make_service_with_connect_info::<SocketAddr>();
    tokio::spawn(async move { axum::serve(listener, service).await.unwrap() });
    let haproxy = Gateway::haproxy(&format!(" server app {address} send-proxy"));
    assert_eq!(seen(&haproxy).await, ONE_CLIENT);
}

#[tokio::test]
async fn a_connect_info_that_a_middleware_inserts() {
    let router = who(ClientIpConfig::peer()).layer(Extension(ConnectInfo(SocketAddr::from(([203, 0, 113, 9], 1)))));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let site = Site::at(listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    assert_eq!(site.get("/").await.body, "203.0.113.9");
}

#[tokio::test]
async fn nginx_serves_no_client_the_denial_of_another() {
    #[rate_limit(count = 1, per = "60s", key = client)]
    async fn handler(client: ClientIp) -> Result<([(&'static str, &'static str); 1], String), RateLimitExceeded> {
        Ok(([("cache-control", "no-store")], client.to_string()))
    }

    let upstream = serve_at(Router::new().route("/", get(handler)).layer(Extension(x_forwarded_for()))).await;
    let directory = std::env::temp_dir().join(format!("ratelimit-web-cache-{}", std::process::id()));
    let cache = format!("proxy_cache_path {} keys_zone=all:1m;", directory.display());
    let location = format!(
        "location / {{
            proxy_pass http://{upstream}; proxy_set_header X-Forwarded-For $remote_addr;
            proxy_cache all; proxy_cache_valid any 10s; add_header X-Cache $upstream_cache_status always;
        }}"
    );
    let nginx = Gateway::nginx(&location, &cache);
    let one = Site::at(nginx.address());
    assert_eq!(one.statuses("/", 2).await, [200, 429]);
    let other = Site::asked_from_elsewhere(nginx.address()).get("/").await;
    assert_eq!((other.status, other.header("x-cache")), (200, Some("MISS")), "{other:?}");
    drop(nginx);
    let _ = std::fs::remove_dir_all(directory);
}

#[tokio::test]
async fn haproxy_and_caddy_pass_the_429_of_an_upload_on() {
    use ratelimit_runtime::{Limit, RateLimitLayer, RateLimiter};

    let limiter = RateLimiter::builder("proxies-upload").limit(Limit::new(1, Duration::from_secs(60))).build().unwrap();
    limiter.check((), 1).unwrap();
    let router = Router::new().route("/", axum::routing::any(async || "hello")).layer(RateLimitLayer::unkeyed(limiter));
    let upstream = serve_at(router).await;
    let haproxy = Gateway::haproxy(&format!(" server app {upstream}"));
    let caddy = Gateway::caddy(&format!(" reverse_proxy {upstream}"));
    for gateway in [haproxy, caddy] {
        let site = Site::at(gateway.address());
        for _ in 0..5 {
            assert_eq!(site.upload("/", 1 << 20).await.status, 429);
        }
    }
}
