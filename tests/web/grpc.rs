//! Tonic methods under the attribute, called by a real client.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use ratelimit_runtime::{Limit, RateLimitLayer, RateLimiter, rate_limit};
use tonic::body::Body;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::codegen::{Service, http};
use tonic::metadata::MetadataValue;
use tonic::server::{Grpc, NamedService, UnaryService};
use tonic::transport::{Channel, Server};
use tonic::{Code, Request, Response, Status};
use tonic_prost::ProstCodec;
use tonic_types::StatusExt;

use crate::failing::UNSURE;

#[derive(Clone, PartialEq, prost::Message)]
struct Text {
    #[prost(string, tag = "1")]
    text: String,
}

#[tonic::async_trait]
trait Greeter: Send + Sync + 'static {
    async fn greet(&self, request: Request<Text>) -> Result<Response<Text>, Status>;
    async fn weigh(&self, request: Request<Text>) -> Result<Response<Text>, Status>;
    async fn unsure(&self, request: Request<Text>) -> Result<Response<Text>, Status>;
}

struct English;

#[tonic::async_trait]
impl Greeter for English {
    #[rate_limit(count = 2, per = "60s", key = caller(&request)?, name = "secret-grpc-limiter")]
    async fn greet(&self, request: Request<Text>) -> Result<Response<Text>, Status> {
        Ok(Response::new(Text { text: format!("hello, {}", request.get_ref().text) }))
    }

    #[rate_limit(count = 5, per = "60s", cost = request.get_ref().text.len().try_into().unwrap_or(u32::MAX))]
    async fn weigh(&self, request: Request<Text>) -> Result<Response<Text>, Status> {
        Ok(Response::new(request.into_inner()))
    }

    #[rate_limit(limiter = UNSURE)]
    async fn unsure(&self, request: Request<Text>) -> Result<Response<Text>, Status> {
        Ok(Response::new(request.into_inner()))
    }
}

fn caller(request: &Request<Text>) -> Result<String, Status> {
    let token = request.metadata().get("token").and_then(|token| token.to_str().ok());
    token.map(str::to_owned).ok_or_else(|| Status::unauthenticated("a `token` is needed"))
}

/// What tonic's code generator produces from a `.proto` file.
#[derive(Clone)]
struct GreeterServer(Arc<English>);

impl NamedService for GreeterServer {
    const NAME: &'static str = "test.Greeter";
}

impl Service<http::Request<Body>> for GreeterServer {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let method = Method(self.0.clone(), request.uri().path().to_owned());
        Box::pin(async { Ok(Grpc::new(ProstCodec::<Text, Text>::default()).unary(method, request).await) })
    }
}

struct Method(Arc<English>, String);

impl UnaryService<Text> for Method {
    type Response = Text;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Text>, Status>> + Send>>;

    fn call(&mut self, request: Request<Text>) -> Self::Future {
        let (service, path) = (self.0.clone(), self.1.clone());
        Box::pin(async move {
            match &*path {
                "/test.Greeter/Greet" => service.greet(request).await,
                "/test.Greeter/Weigh" => service.weigh(request).await,
                "/test.Greeter/Unsure" => service.unsure(request).await,
                _ => Err(Status::unimplemented(path)),
            }
        })
    }
}

struct Client(tonic::client::Grpc<Channel>);

impl Client {
    async fn of(router: tonic::transport::server::Router) -> Client {
        Client::start(|incoming| router.serve_with_incoming(incoming)).await
    }

    async fn start<F>(serve: impl FnOnce(tonic::transport::server::TcpIncoming) -> F) -> Client
    where
        F: Future<Output = Result<(), tonic::transport::Error>> + Send + 'static,
    {
        let incoming = tonic::transport::server::TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let url = format!("http://{}", incoming.local_addr().unwrap());
        let server = serve(incoming);
        tokio::spawn(async { server.await.unwrap() });
        Client(tonic::client::Grpc::new(Channel::from_shared(url).unwrap().connect().await.unwrap()))
    }

    async fn call(&mut self, method: &str, token: &str, text: &str) -> Result<String, Status> {
        let mut request = Request::new(Text { text: text.to_owned() });
        request.metadata_mut().insert("token", MetadataValue::try_from(token).unwrap());
        self.0.ready().await.unwrap();
        let path = PathAndQuery::try_from(format!("/test.Greeter/{method}")).unwrap();
        let answer = self.0.unary(request, path, ProstCodec::<Text, Text>::default()).await;
        answer.map(|response| response.into_inner().text)
    }
}

/// The trailer that clients with a retry policy obey.
fn pushback(status: &Status) -> i64 {
    status.metadata().get("grpc-retry-pushback-ms").unwrap().to_str().unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_denied_method_is_resource_exhausted() {
    let mut client = Client::of(Server::builder().add_service(GreeterServer(Arc::new(English)))).await;
    for _ in 0..2 {
        assert_eq!(client.call("Greet", "private-token", "ann").await.unwrap(), "hello, ann");
    }
    let status = client.call("Greet", "private-token", "ann").await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    let delay = status.get_details_retry_info().unwrap().retry_delay.unwrap();
    assert!(delay > Duration::from_secs(50) && delay <= Duration::from_secs(60), "{delay:?}");
    assert_eq!(u128::try_from(pushback(&status)).unwrap(), delay.as_nanos().div_ceil(1_000_000));
    for secret in ["secret-grpc-limiter", "private-token", "greet", "127.0.0.1"] {
        assert!(!format!("{status:?}").contains(secret), "{secret}: {status:?}");
    }
    assert!(client.call("Greet", "another", "bob").await.is_ok());
}

#[tokio::test]
async fn a_call_that_can_never_fit_says_no_time_to_wait() {
    let mut client = Client::of(Server::builder().add_service(GreeterServer(Arc::new(English)))).await;
    let status = client.call("Weigh", "a", "123456").await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert!(status.get_details_retry_info().is_none(), "{status:?}");
    // Clients never retry.
    assert_eq!(pushback(&status), -1);
}

#[tokio::test]
async fn a_failed_backend_is_unavailable() {
    let mut client = Client::of(Server::builder().add_service(GreeterServer(Arc::new(English)))).await;
    let status = client.call("Unsure", "a", "b").await.unwrap_err();
    assert_eq!((status.code(), pushback(&status)), (Code::Unavailable, 1_000));
    assert!(!format!("{status:?}").contains("secret"), "{status:?}");
}

#[tokio::test]
async fn a_whole_server_is_limited_by_the_layer() {
    let limiter = RateLimiter::builder("grpc-layer").limit(Limit::new(1, Duration::from_secs(60))).build().unwrap();
    let layer = RateLimitLayer::new(limiter, |request: &http::Request<Body>| {
        request.headers().get("token").map(|token| token.as_bytes().to_vec())
    })
    .deny_with(|exceeded| Status::from(exceeded).into_http());
    let server = Server::builder().layer(layer).add_service(GreeterServer(Arc::new(English)));
    let mut client = Client::start(|incoming| server.serve_with_incoming(incoming)).await;
    assert!(client.call("Greet", "layered", "ann").await.is_ok());
    let status = client.call("Greet", "layered", "ann").await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert!(status.get_details_retry_info().is_some() && pushback(&status) > 50_000, "{status:?}");
}
