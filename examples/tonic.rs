//! A gRPC server with one limited method: three calls a minute for each token.
//!
//! `cargo run --example tonic` listens on 127.0.0.1:50051. `ADDR` or `PORT` in the environment
//! change that; port 0 is any free port.

use ratelimit_examples::address;
use ratelimit_runtime::rate_limit;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

use greeting::greeter_server::{Greeter, GreeterServer};

#[allow(missing_docs, unreachable_pub, rust_2018_idioms, clippy::pedantic, reason = "generated: see build.rs")]
mod greeting {
    include!(concat!(env!("OUT_DIR"), "/greeting.Greeter.rs"));
}

/// The person to greet.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Name {
    /// Their name.
    #[prost(string, tag = "1")]
    pub name: String,
}

/// The greeting.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Greeting {
    /// One sentence.
    #[prost(string, tag = "1")]
    pub text: String,
}

struct English;

#[tonic::async_trait]
impl Greeter for English {
    /// A denied call fails with `RESOURCE_EXHAUSTED` and a `RetryInfo` with the time to wait.
    #[rate_limit(count = 3, per = "60s", key = token(&request)?)]
    async fn greet(&self, request: Request<Name>) -> Result<Response<Greeting>, Status> {
        Ok(Response::new(Greeting { text: format!("hello, {}", request.into_inner().name) }))
    }
}

/// Refuses calls without a token before they are counted.
fn token(request: &Request<Name>) -> Result<Vec<u8>, Status> {
    let token = request.metadata().get("authorization");
    token.map(|token| token.as_bytes().to_vec()).ok_or_else(|| Status::unauthenticated("send a token"))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let incoming = TcpIncoming::bind(address(50051).parse()?)?;
    println!("listening on http://{}", incoming.local_addr()?);
    Server::builder().add_service(GreeterServer::new(English)).serve_with_incoming(incoming).await?;
    Ok(())
}
