//! Limited web services: real servers on 127.0.0.1, called by real clients.

mod actix;
mod axum;
mod bodies;
mod cors;
mod failing;
mod gateway;
mod grpc;
mod headers;
mod layer;
mod proxies;
mod server;
