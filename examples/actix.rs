//! An actix-web server with two limited routes: five requests a minute from each client, and one
//! report an hour in all.
//!
//! `cargo run --example actix` listens on 127.0.0.1:3000. `ADDR` or `PORT` in the environment
//! change that; port 0 is any free port. `TRUSTED_PROXIES=10.0.0.0/8,fd00::/8` names proxies whose
//! `X-Forwarded-For` is trusted.

use actix_web::{App, HttpResponse, HttpServer, Responder, get, web};
use ratelimit_examples::{address, trusted_proxies};
use ratelimit_runtime::{ClientIp, RateLimitHeaders, rate_limit};
use serde_json::json;

/// A denied request is answered with 429 and `Retry-After`.
#[get("/api/data")]
#[rate_limit(count = 5, per = "60s", key = client)]
async fn data(client: ClientIp) -> Result<HttpResponse, actix_web::Error> {
    Ok(HttpResponse::Ok().json(json!({ "data": [1, 2, 3], "you": client.address() })))
}

/// The attribute also works above the route, and with any responder.
#[rate_limit(count = 1, per = "1h")]
#[get("/api/report")]
async fn report() -> impl Responder {
    web::Json(json!({ "sold": 17 }))
}

#[get("/api/status")]
async fn status() -> &'static str {
    "ok\n"
}

#[actix_web::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let clients = trusted_proxies()?;
    let server = HttpServer::new(move || {
        App::new()
            .app_data(clients.clone())
            // Reports the remaining permits in every response.
            .wrap(RateLimitHeaders::new())
            .service(data)
            .service(report)
            .service(status)
    })
    .workers(2)
    .bind(address(3000))?;
    println!("listening on http://{}", server.addrs()[0]);
    server.run().await?;
    Ok(())
}
