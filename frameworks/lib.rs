//! Denied handlers in frameworks for which `ratelimit-runtime` has no feature, one file each. The
//! feature `tower` answers with an `http::Response` whose body is made from a `String`. Each file
//! converts that into the framework's own response.
#![allow(clippy::needless_pass_by_value, reason = "`or_else` is handed the error by value")]

pub mod async_graphql;
pub mod axum_anyhow;
#[cfg(feature = "compiled")]
pub mod jsonrpsee;
#[cfg(feature = "compiled")]
pub mod lambda_http;
#[cfg(feature = "compiled")]
pub mod poem;
pub mod rmcp;
#[cfg(feature = "compiled")]
pub mod rocket;
#[cfg(feature = "compiled")]
pub mod salvo;
