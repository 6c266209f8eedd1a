//! Generates the server code of the `tonic` example from a description in Rust, so that no `protoc`
//! is needed.

use tonic_build::manual::{Builder, Method, Service};

fn main() {
    let greet = Method::builder()
        .name("greet")
        .route_name("Greet")
        .input_type("crate::Name")
        .output_type("crate::Greeting")
        .codec_path("tonic_prost::ProstCodec")
        .build();
    let greeter = Service::builder().package("greeting").name("Greeter").method(greet).build();
    Builder::new().build_client(false).compile(&[greeter]);
}
