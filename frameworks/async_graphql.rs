//! async-graphql: a denied field is an error whose extensions say when to retry, such as
//! `"extensions": {"code": "RATE_LIMITED", "retryAfter": 60}`.

use async_graphql::{EmptyMutation, EmptySubscription, Error, ErrorExtensions, Object, Schema};
use ratelimit_runtime::{RateLimitExceeded, rate_limit};

/// For the attribute's `or_else`.
pub fn limited<T>(exceeded: RateLimitExceeded) -> Result<T, Error> {
    let retry_after = exceeded.retry_after_secs();
    Err(Error::new(exceeded.to_string()).extend_with(|_, extensions| {
        extensions.set("code", "RATE_LIMITED");
        if let Some(seconds) = retry_after {
            extensions.set("retryAfter", seconds);
        }
    }))
}

/// The root of queries.
#[derive(Clone, Copy, Debug)]
pub struct Query;

#[Object]
impl Query {
    /// A search, for each user once a minute.
    #[rate_limit(count = 1, per = "1m", key = user, or_else = limited)]
    async fn search(&self, user: u32) -> Result<String, Error> {
        Ok(format!("found for {user}"))
    }
}

/// A schema with a limited field.
pub fn schema() -> Schema<Query, EmptyMutation, EmptySubscription> {
    Schema::new(Query, EmptyMutation, EmptySubscription)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    #[tokio::test]
    async fn a_denied_field_says_when_to_try_again() {
        let _clock = ratelimit_runtime::test_util::pause();
        let schema = super::schema();
        let ask = async || serde_json::to_value(schema.execute("{ search(user: 7) }").await).unwrap();
        assert_eq!(ask().await["data"], json!({ "search": "found for 7" }));
        let denied = ask().await;
        assert_eq!(denied["errors"][0]["message"], "rate limit exceeded: 1 per 1m; retry after 60s");
        assert_eq!(denied["errors"][0]["extensions"], json!({ "code": "RATE_LIMITED", "retryAfter": 60 }));
        assert!(!denied.to_string().contains("frameworks"), "{denied}");
        // Nor does the schema, which clients can query.
        assert!(!schema.sdl().contains("self"), "{}", schema.sdl());
    }
}
