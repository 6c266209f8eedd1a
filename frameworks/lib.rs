//! What denied handlers answer in frameworks that `ratelimit-runtime` has no feature for, a file
//! each. The answer of the feature `tower` is an `http::Response` of any body that is made of a
//! `String`; what follows turns it into each framework's own.
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
