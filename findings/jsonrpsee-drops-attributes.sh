#!/usr/bin/env bash
# jsonrpsee (Rust) 0.26.1, 29 November 2026.
#
# `#[rpc(server)]` makes a server of a trait whose methods may have default bodies. One would guess
# that an attribute macro on such a method is expanded, or that the compiler refuses it. It is
# dropped in silence: here an attribute that makes any function return an error compiles and changes
# nothing. On the same method of the `impl`, it does what it should.
set -euo pipefail
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
cd "$directory"
mkdir -p src closed/src

cat >closed/Cargo.toml <<'TOML'
[package]
name = "closed"
version = "0.0.0"
edition = "2021"
[lib]
proc-macro = true
TOML
cat >closed/src/lib.rs <<'RS'
use proc_macro::{Delimiter, Group, TokenStream, TokenTree};

/// The function fails, whatever its body says.
#[proc_macro_attribute]
pub fn closed(_: TokenStream, item: TokenStream) -> TokenStream {
    let mut tokens: Vec<TokenTree> = item.into_iter().collect();
    let body = "return Err(jsonrpsee::types::ErrorObject::owned(1, \"closed\", None::<()>));".parse().unwrap();
    *tokens.last_mut().unwrap() = TokenTree::Group(Group::new(Delimiter::Brace, body));
    tokens.into_iter().collect()
}
RS
cat >Cargo.toml <<'TOML'
[package]
name = "finding"
version = "0.0.0"
edition = "2021"
[dependencies]
closed = { path = "closed" }
jsonrpsee = { version = "=0.26.1", default-features = false, features = ["macros", "server-core"] }
tokio = { version = "1", features = ["macros", "rt"] }
[workspace]
TOML
cat >src/main.rs <<'RS'
#![allow(unreachable_code)]
use closed::closed;
use jsonrpsee::core::RpcResult;
use jsonrpsee::proc_macros::rpc;

#[rpc(server)]
pub trait Api {
    #[method(name = "on_the_trait")]
    #[closed]
    fn on_the_trait(&self) -> RpcResult<u32> { Ok(1) }

    #[method(name = "on_the_impl")]
    fn on_the_impl(&self) -> RpcResult<u32>;
}

struct Server;

impl ApiServer for Server {
    #[closed]
    fn on_the_impl(&self) -> RpcResult<u32> { Ok(1) }
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let module = Server.into_rpc();
    let call = |name: &'static str| module.call::<_, u32>(name, [(); 0]);
    let (on_the_trait, on_the_impl) = (call("on_the_trait").await, call("on_the_impl").await);
    println!("on the trait: {on_the_trait:?}\non the impl: {on_the_impl:?}");
    assert!(on_the_trait.is_ok() && on_the_impl.is_err());
}
RS
cargo run --quiet
