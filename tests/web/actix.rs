//! Actix-web handlers under the attribute.

use actix_web::{App, HttpResponse, Responder, get, web};
use ratelimit_runtime::{ClientIp, ClientIpConfig, RateLimitHeaders, rate_limit};

use crate::failing::UNSURE;
use crate::server::serve_actix;

#[get("/below/{name}")]
#[rate_limit(count = 1, per = "60s", key = name.as_str(), name = "secret-actix-limiter")]
async fn below(name: web::Path<String>) -> Result<String, actix_web::Error> {
    if name.as_str() == "nobody" {
        return Err(actix_web::error::ErrorNotFound("nobody"));
    }
    Ok(format!("hello, {name}"))
}

#[rate_limit(count = 1, per = "60s")]
#[get("/above")]
async fn above() -> HttpResponse {
    HttpResponse::Created().body("hello")
}

#[get("/responder")]
#[rate_limit(count = 1, per = "60s", key = client)]
async fn responder(client: ClientIp) -> impl Responder {
    client.to_string()
}

#[rate_limit(count = 1, per = "60s", key = client)]
async fn routed(
    client: Option<ClientIp>,
    query: web::Query<Vec<(String, String)>>,
) -> Result<String, actix_web::Error> {
    Ok(format!("{} {}", client.map_or_else(|| "unknown".to_owned(), |client| client.to_string()), query.len()))
}

#[actix_web::test]
async fn an_attribute_below_the_route() {
    let site = serve_actix!(App::new().service(below));
    assert_eq!(site.get("/below/private-ann").await.body, "hello, private-ann");
    let denied = site.get("/below/private-ann").await;
    denied.assert_is_429("below");
    for secret in ["secret-actix-limiter", "private-ann", "127.0.0.1", "below"] {
        assert!(!denied.tells(secret), "{secret}: {denied:?}");
    }
    assert_eq!(site.statuses("/below/nobody", 2).await, [404, 429]);
}

#[actix_web::test]
async fn an_attribute_above_the_route() {
    let site = serve_actix!(App::new().service(above));
    assert_eq!(site.get("/above").await.status, 201);
    site.get("/above").await.assert_is_429("above");
}

#[actix_web::test]
async fn a_handler_that_returns_any_responder() {
    let site = serve_actix!(App::new().service(responder));
    assert_eq!(site.get("/responder").await.body, "127.0.0.1");
    let denied = site.get_with("/responder", &[("x-forwarded-for", "203.0.113.1"), ("forwarded", "for=203.0.113.1")]);
    denied.await.assert_is_429("responder");
}

#[actix_web::test]
async fn clients_behind_a_proxy_are_told_apart() {
    let site = serve_actix!(
        App::new().app_data(ClientIpConfig::forwarded(["127.0.0.1"]).unwrap()).route("/", web::get().to(routed))
    );
    let body = async |forwarded: &str| site.get_with("/?a=1", &[("forwarded", forwarded)]).await.body;
    assert_eq!(body("for=203.0.113.1;proto=https").await, "203.0.113.1 1");
    assert_eq!(body("for=203.0.113.2").await, "203.0.113.2 1");
    let again = site.get_with("/?a=1", &[("forwarded", "for=\"198.51.100.99, for=203.0.113.1")]).await;
    again.assert_is_429("routed");
    let lines = [("forwarded", "for=198.51.100.99"), ("forwarded", "for=203.0.113.1")];
    assert_eq!(site.get_with("/?a=1", &lines).await.status, 429);
}

#[actix_web::test]
async fn a_header_of_one_address_is_read() {
    let config = ClientIpConfig::header("X-Real-IP", ["127.0.0.1"]).unwrap();
    let site = serve_actix!(App::new().app_data(config.clone()).service(responder));
    let lines = [("x-real-ip", "198.51.100.9"), ("x-real-ip", "203.0.113.45")];
    assert_eq!(site.get_with("/responder", &lines).await.body, "203.0.113.45");
}

#[actix_web::test]
async fn a_configuration_in_shared_data_is_found() {
    let data = web::Data::new(ClientIpConfig::x_forwarded_for(["127.0.0.1"]).unwrap());
    let site = serve_actix!(App::new().app_data(data.clone()).service(responder));
    assert_eq!(site.get_with("/responder", &[("x-forwarded-for", "203.0.113.44")]).await.body, "203.0.113.44");
}

#[actix_web::test]
async fn a_client_whose_address_is_not_known_is_no_bypass() {
    let app = App::new().service(responder).route("/", web::get().to(routed));
    let app = actix_web::test::init_service(app).await;
    // Without a peer address.
    let status = async |path: &str| {
        let request = actix_web::test::TestRequest::with_uri(path).to_request();
        actix_web::test::call_service(&app, request).await.status().as_u16()
    };
    assert_eq!([status("/responder").await, status("/responder").await], [500, 500]);
    assert_eq!([status("/?a=1").await, status("/?a=1").await], [200, 429]);
}

#[actix_web::test]
async fn a_limit_that_cannot_be_decided_is_503() {
    #[rate_limit(limiter = UNSURE)]
    async fn handler() -> Result<String, actix_web::Error> {
        Ok("hello".to_owned())
    }

    #[rate_limit(limiter = UNSURE)]
    async fn response() -> HttpResponse {
        HttpResponse::Ok().finish()
    }

    let headers = || RateLimitHeaders::new().with_x_rate_limit();
    let site = serve_actix!(
        App::new()
            .wrap(headers())
            .route("/handler", web::get().to(handler))
            .route("/response", web::get().to(response))
    );
    site.get("/handler").await.assert_is_503();
    site.get("/response").await.assert_is_503();
}
