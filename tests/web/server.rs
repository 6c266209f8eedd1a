//! Servers for tests, and a client for them.

use std::net::SocketAddr;

use axum::Router;
use reqwest::Client;
use reqwest::header::HeaderMap;

/// Serves until the test's runtime ends.
pub(crate) async fn serve(router: Router) -> Site {
    Site::at(serve_at(router).await)
}

/// Serves until the test's runtime ends. Returns its address.
pub(crate) async fn serve_at(router: Router) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let service = router.into_make_service_with_connect_info::<SocketAddr>();
    tokio::spawn(async move { axum::serve(listener, service).await.unwrap() });
    address
}

/// Serves until the test's actix system ends.
macro_rules! serve_actix {
    ($app:expr) => {{
        let server = actix_web::HttpServer::new(move || $app).workers(1).bind("127.0.0.1:0").unwrap();
        let address = server.addrs()[0];
        actix_web::rt::spawn(server.run());
        crate::server::Site::at(address)
    }};
}

pub(crate) use serve_actix;

/// A running server and a client for it.
pub(crate) struct Site {
    url: String,
    client: Client,
}

impl Site {
    pub(crate) fn at(address: SocketAddr) -> Site {
        Site { url: format!("http://{address}"), client: Client::builder().no_proxy().build().unwrap() }
    }

    /// A request from a client at 127.0.0.2.
    pub(crate) fn asked_from_elsewhere(address: SocketAddr) -> Site {
        let client = Client::builder().no_proxy().local_address(std::net::IpAddr::from([127, 0, 0, 2]));
        Site { url: format!("http://{address}"), client: client.build().unwrap() }
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.get_with(path, &[]).await
    }

    pub(crate) async fn get_with(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        self.request("GET", path, headers).await
    }

    pub(crate) async fn request(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
        let mut request = self.client.request(method.parse().unwrap(), format!("{}{path}", self.url));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        Answer::of(request.send().await.unwrap()).await
    }

    pub(crate) async fn post(&self, path: &str, body: &'static str) -> Answer {
        let request = self.client.post(format!("{}{path}", self.url)).header("content-type", "application/json");
        Answer::of(request.body(body).send().await.unwrap()).await
    }

    pub(crate) async fn upload(&self, path: &str, size: usize) -> Answer {
        let request = self.client.post(format!("{}{path}", self.url)).body(vec![b'a'; size]);
        Answer::of(request.send().await.unwrap()).await
    }

    /// The statuses of this many requests, one after the other.
    pub(crate) async fn statuses(&self, path: &str, requests: usize) -> Vec<u16> {
        let mut statuses = Vec::new();
        for _ in 0..requests {
            statuses.push(self.get(path).await.status);
        }
        statuses
    }
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

impl Answer {
    async fn of(response: reqwest::Response) -> Answer {
        Answer {
            status: response.status().as_u16(),
            headers: response.headers().clone(),
            body: response.text().await.unwrap(),
        }
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    /// Whether the answer contains a text anywhere.
    pub(crate) fn tells(&self, text: &str) -> bool {
        self.body.contains(text) || format!("{:?}", self.headers).contains(text)
    }

    /// Asserts this crate's 429, for a limit of one a minute.
    pub(crate) fn assert_is_429(&self, name: &str) {
        assert_eq!(self.status, 429, "{name}: {self:?}");
        let retry_after: u64 = self.header("retry-after").expect(name).parse().unwrap();
        assert!((1..=60).contains(&retry_after), "{name}: {retry_after}");
        assert_eq!(self.header("ratelimit-policy"), Some(r#""1-per-60s";q=1;w=60"#), "{name}");
        assert_eq!(self.header("ratelimit"), Some(&*format!(r#""1-per-60s";r=0;t={retry_after}"#)), "{name}");
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{name}");
        assert_eq!(self.header("cache-control"), Some("no-store"), "{name}");
        let problem: serde_json::Value = serde_json::from_str(&self.body).unwrap();
        assert_eq!(problem["type"], "https://iana.org/assignments/http-problem-types#quota-exceeded", "{name}");
        assert_eq!(problem["violated-policies"], serde_json::json!(["1-per-60s"]), "{name}");
    }

    /// Asserts this crate's 503 for a failed backend, which reports no limit.
    pub(crate) fn assert_is_503(&self) {
        assert_eq!(self.status, 503, "{self:?}");
        assert_eq!(self.header("retry-after"), Some("1"), "{self:?}");
        assert_eq!(self.header("content-type"), Some("application/problem+json"));
        assert_eq!(self.header("cache-control"), Some("no-store"));
        let problem: serde_json::Value = serde_json::from_str(&self.body).unwrap();
        assert_eq!((&problem["title"], &problem["status"]), (&"Service Unavailable".into(), &503.into()));
        assert!(!self.tells("ratelimit") && !self.tells("secret"), "{self:?}");
    }
}
