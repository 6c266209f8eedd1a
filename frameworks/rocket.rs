//! rocket: the usual 429, by a custom responder.

use std::io::Cursor;

use ::rocket::http::Status;
use ::rocket::response::{Responder, Response, Result as Answer};
use ::rocket::{Build, Request, Rocket, get, routes};
use ratelimit_runtime::{FromRateLimitExceeded, RateLimitExceeded, rate_limit};

/// A denial, as an error of handlers.
#[derive(Debug)]
pub struct Limited(RateLimitExceeded);

impl From<RateLimitExceeded> for Limited {
    fn from(exceeded: RateLimitExceeded) -> Limited {
        Limited(exceeded)
    }
}

impl<'r> Responder<'r, 'static> for Limited {
    fn respond_to(self, _: &'r Request<'_>) -> Answer<'static> {
        let (parts, body) = http::Response::<String>::from_rate_limit_exceeded(self.0).into_parts();
        let mut response = Response::build();
        response.status(Status::new(parts.status.as_u16())).sized_body(body.len(), Cursor::new(body));
        for (name, value) in &parts.headers {
            if let Ok(value) = value.to_str() {
                response.raw_header(name.to_string(), value.to_owned());
            }
        }
        response.ok()
    }
}

/// A search, for each word once a minute.
#[get("/search/<word>")]
#[rate_limit(count = 1, per = "1m", key = word)]
fn search(word: &str) -> Result<String, Limited> {
    Ok(format!("found {word}"))
}

/// A server with a limited route.
pub fn server() -> Rocket<Build> {
    ::rocket::build().mount("/", routes![search])
}
