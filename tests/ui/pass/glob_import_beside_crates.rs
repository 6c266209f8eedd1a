//! A glob import of the runtime leaves the names of crates alone. A public module of the name
//! `tower` once made `tower::` ambiguous.

use ratelimit_runtime::*;
use tower::ServiceExt;

#[rate_limit(count = 1, per = "1s", key = id)]
fn limited(id: u64) -> Result<u64, RateLimitExceeded> {
    Ok(id)
}

#[allow(dead_code)]
type Crates = (
    actix_web::HttpResponse,
    axum::Router,
    http::StatusCode,
    metrics::Unit,
    redis::Client,
    serde_json::Value,
    tokio::time::Duration,
    tokio_postgres::Config,
    tonic::Status,
    tracing::Level,
);

fn main() {
    let service = tower::service_fn(|id| async move { limited(id) });
    drop(service.oneshot(7));
}
