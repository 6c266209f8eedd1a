//! rmcp: a denied tool tells the model when to retry, as a result with `isError: true`. An
//! `Err(ErrorData)` would be a protocol error, which the model may never see.
//!
//! The attribute belongs above `#[tool]`: below it, rmcp drops the description in the doc comment.
//! `docs = false` keeps the limit out of the description.

use ratelimit_runtime::{RateLimitExceeded, rate_limit};
use rmcp::model::{CallToolResult, ContentBlock};
use rmcp::{ErrorData, ServerHandler, tool, tool_handler, tool_router};

/// For the attribute's `or_else`.
///
/// # Errors
/// Never.
pub fn limited(exceeded: RateLimitExceeded) -> Result<CallToolResult, ErrorData> {
    Ok(CallToolResult::error(vec![ContentBlock::text(exceeded.to_string())]))
}

/// A server of tools.
#[derive(Clone, Debug, Default)]
pub struct Archive;

#[tool_router]
impl Archive {
    /// Searches the archive.
    #[rate_limit(count = 1, per = "1m", docs = false, or_else = limited)]
    #[tool]
    pub async fn search(&self) -> Result<CallToolResult, ErrorData> {
        Ok(CallToolResult::success(vec![ContentBlock::text("found")]))
    }
}

#[tool_handler]
impl ServerHandler for Archive {}

#[cfg(test)]
mod tests {
    use rmcp::ServiceExt;
    use rmcp::model::CallToolRequestParams;

    use super::Archive;

    #[tokio::test]
    async fn a_denied_tool_tells_the_model_when_to_try_again() {
        let (server, client) = tokio::io::duplex(4_096);
        let server = tokio::spawn(async move { Archive.serve(server).await.unwrap().waiting().await });
        let client = ().serve(client).await.unwrap();
        let tools = client.list_all_tools().await.unwrap();
        assert_eq!(tools[0].description.as_deref(), Some("Searches the archive."));
        let call = async || {
            serde_json::to_value(client.call_tool(CallToolRequestParams::new("search")).await.unwrap()).unwrap()
        };
        assert_eq!(call().await["content"][0]["text"], "found");
        let denied = call().await;
        assert_eq!(denied["isError"], true);
        let text = denied["content"][0]["text"].as_str().unwrap();
        assert!(text.starts_with("rate limit exceeded: 1 per 1m; retry after "), "{text}");
        client.cancel().await.unwrap();
        server.await.unwrap().unwrap();
    }
}
