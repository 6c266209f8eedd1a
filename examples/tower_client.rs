//! A client that never exceeds the quota of the service that it calls: ten requests a second to
//! each host.
//!
//! `cargo run --example tower_client -- http://127.0.0.1:3000/api/status --requests 35` starts all
//! of them at once. Each waits for its turn, first come, first served.

use std::time::{Duration, Instant};

use clap::Parser;
use ratelimit_runtime::{Limit, RateLimitLayer, RateLimiter};
use reqwest::{Client, Method, Request, Url};
use tokio::task::JoinSet;
use tower::{BoxError, ServiceBuilder, ServiceExt};

/// Shared by all clients of this process, and by other processes with a Redis backend.
static QUOTA: RateLimiter = RateLimiter::new("quota", &[Limit::new(10, Duration::from_secs(1))]);

#[derive(Parser)]
struct Arguments {
    /// The URL to request.
    url: Url,
    /// The number of requests.
    #[arg(long, default_value_t = 35)]
    requests: u32,
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let Arguments { url, requests } = Arguments::parse();
    let by_host = RateLimitLayer::new(&QUOTA, |request: &Request| request.url().host_str().map(str::to_owned));
    let client = ServiceBuilder::new().layer(by_host.wait().error_on_denied()).service(Client::new());

    let start = Instant::now();
    let mut tasks = JoinSet::new();
    for _ in 0..requests {
        // A clone is a handle: there is one quota.
        tasks.spawn(client.clone().oneshot(Request::new(Method::GET, url.clone())));
    }
    let mut answered = 0;
    while let Some(response) = tasks.join_next().await {
        response??.error_for_status()?;
        answered += 1;
    }
    println!("{answered} requests answered in {:.1} s", start.elapsed().as_secs_f64());
    Ok(())
}
