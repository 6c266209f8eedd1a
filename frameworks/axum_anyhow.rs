//! axum with one application error around `anyhow::Error`. It recognizes a denial inside, which
//! would otherwise be a 500.

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use ratelimit_runtime::{RateLimitExceeded, rate_limit};

/// Any error of a handler.
#[derive(Debug)]
pub struct AppError(anyhow::Error);

impl<E: Into<anyhow::Error>> From<E> for AppError {
    fn from(error: E) -> AppError {
        AppError(error.into())
    }
}

impl IntoResponse for AppError {
    fn into_response(self) -> Response {
        match self.0.downcast::<RateLimitExceeded>() {
            Ok(exceeded) => exceeded.into_response(),
            Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("something went wrong: {error}")).into_response(),
        }
    }
}

/// Counts the letters of a word, for each word once a minute.
#[rate_limit(count = 1, per = "1m", key = word)]
pub async fn letters(word: String) -> Result<String, AppError> {
    if !word.is_ascii() {
        return Err(anyhow::anyhow!("no letters of ours").into());
    }
    Ok(word.len().to_string())
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::body::Body;
    use axum::http::Request;
    use axum::routing::post;
    use tower::ServiceExt;

    #[tokio::test]
    async fn a_denial_is_a_429_and_another_error_a_500() {
        let _clock = ratelimit_runtime::test_util::pause();
        let router: Router = Router::new().route("/", post(super::letters));
        let ask =
            async |word: &'static str| router.clone().oneshot(Request::post("/").body(Body::from(word)).unwrap()).await;
        assert_eq!(ask("\u{e9}").await.unwrap().status(), 500);
        assert_eq!(ask("word").await.unwrap().status(), 200);
        let denied = ask("word").await.unwrap();
        assert_eq!((denied.status().as_u16(), &denied.headers()["retry-after"]), (429, &"60".parse().unwrap()));
    }
}
