//! An HTTP server with metrics: `/quote`, three a minute from each client, and `/metrics` for
//! Prometheus.
//!
//! `cargo run --example metrics` listens on 127.0.0.1:3000. `ADDR` or `PORT` in the environment
//! change that; port 0 is any free port.

use std::net::SocketAddr;
use std::time::Duration;

use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use ratelimit_examples::address;
use ratelimit_runtime::{ClientIp, LimiterInfo, limiters, rate_limit};

/// The name is the label `limiter` of the metrics.
#[rate_limit(count = 3, per = "1m", key = client, name = "quote")]
async fn quote(client: ClientIp) -> impl IntoResponse {
    "Simplicity is prerequisite for reliability.\n"
}

/// For Prometheus.
async fn figures(State(recorder): State<PrometheusHandle>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], recorder.render())
}

/// For operators.
async fn rate_limits() -> Json<Vec<LimiterInfo>> {
    Json(limiters())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let recorder = PrometheusBuilder::new().install_recorder()?;
    let upkeep = recorder.clone();
    // Otherwise histograms grow until somebody reads them.
    tokio::spawn(async move {
        let mut ticks = tokio::time::interval(Duration::from_secs(5));
        loop {
            ticks.tick().await;
            upkeep.run_upkeep();
        }
    });
    let router = Router::new()
        .route("/quote", get(quote))
        .route("/metrics", get(figures))
        .route("/admin/rate-limits", get(rate_limits))
        .with_state(recorder);
    let listener = tokio::net::TcpListener::bind(address(3000)).await?;
    println!("listening on http://{}", listener.local_addr()?);
    axum::serve(listener, router.into_make_service_with_connect_info::<SocketAddr>()).await?;
    Ok(())
}
