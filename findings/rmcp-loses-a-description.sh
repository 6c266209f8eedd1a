#!/usr/bin/env bash
# rmcp (Rust, the SDK of the Model Context Protocol) 3.11.0, 29 November 2026.
#
# The doc comment of a `#[tool]` is the description that models read. One would guess that other
# attributes change nothing about that. If one stands behind the doc comment, whatever it is (here
# `#[allow(dead_code)]`), the tool has no description, and no warning says so. In front of the doc
# comment it does no harm.
set -euo pipefail
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
cd "$directory"
mkdir src

cat >Cargo.toml <<'TOML'
[package]
name = "finding"
version = "0.0.0"
edition = "2024"
[dependencies]
rmcp = { version = "=3.11.0", default-features = false, features = ["macros", "server"] }
[workspace]
TOML
cat >src/main.rs <<'RS'
use rmcp::{tool, tool_router};

struct Tools;

#[tool_router]
impl Tools {
    #[allow(dead_code)]
    /// Finds things.
    #[tool]
    async fn in_front(&self) -> String { String::new() }

    /// Finds things.
    #[tool]
    #[allow(dead_code)]
    async fn behind(&self) -> String { String::new() }
}

fn main() {
    let tools = Tools::tool_router().list_all();
    let description = |name| tools.iter().find(|tool| tool.name == name).unwrap().description.as_deref();
    println!("the attribute in front: {:?}\nthe attribute behind: {:?}", description("in_front"), description("behind"));
    assert_eq!((description("in_front"), description("behind")), (Some("Finds things."), None));
}
RS
cargo run --quiet
