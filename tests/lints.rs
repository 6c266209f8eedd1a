//! rustc and clippy report the same lints on a function, at the same places, with and without the
//! attribute.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use serde_json::Value;

/// Functions, each below a line `// limited`.
const CORPUS: &str = include_str!("lints/corpus.rs");

/// A lint: its span (first and last line and column) and its name.
type Lint = (u64, u64, u64, u64, String);

#[test]
fn a_limited_body_draws_the_same_lints() {
    let plain = lints("plain", CORPUS);
    assert!(plain.len() > 200, "{} lints in the corpus", plain.len());
    for (name, arguments) in [
        ("denied", r#"count = 1, per = "1s""#),
        ("waiting", r#"count = 1, per = "1s", wait"#),
        ("several", r#"limit(count = 1, per = "1s"), limit(count = 2, per = "1m"), dry_run"#),
    ] {
        assert_same(&plain, &lints(name, &limited(CORPUS, arguments)), arguments);
    }
    // The body's captures are moved into a closure, on which clippy has no such lints.
    let of_functions = ["clippy::needless_pass_by_value", "clippy::redundant_locals", "clippy::unwrap_in_result"];
    let arguments = r#"count = 1, per = "1s", deduct_when = Option::is_some"#;
    let deducting = lints("deducting", &limited(CORPUS, arguments));
    assert_same(&without(plain, &of_functions), &without(deducting, &of_functions), arguments);
}

#[test]
fn a_limited_async_body_draws_the_same_lints() {
    let corpus = CORPUS.replace("\nfn ", "\nasync fn ").replace("\nasync fn old", "\nfn old");
    let plain = lints("async-plain", &corpus);
    let arguments = r#"count = 1, per = "1s""#;
    assert_same(&plain, &lints("async-denied", &limited(&corpus, arguments)), arguments);
    // Clippy has no such lints on an async block.
    let of_functions = ["clippy::implicit_return", "clippy::needless_return", "clippy::redundant_locals"];
    let arguments = r#"count = 1, per = "1s", deduct_when = Option::is_some"#;
    let deducting = lints("async-deducting", &limited(&corpus, arguments));
    assert_same(&without(plain, &of_functions), &without(deducting, &of_functions), arguments);
}

#[test]
fn forbidden_lints_allow_functions_that_never_return() {
    let source = r#"
        #![forbid(clippy::diverging_sub_expression, clippy::implicit_return, unused_braces, unreachable_code)]
        #[ratelimit_runtime::rate_limit(count = 1, per = "1s", or_else = |_| std::process::exit(1))]
        pub fn serve() -> ! { loop {} }
        #[ratelimit_runtime::rate_limit(count = 1, per = "1s", exempt_when = true, or_else = never)]
        pub async fn serve_async() -> ! { loop { std::future::ready(()).await; } }
        fn never(_: ratelimit_runtime::RateLimitExceeded) -> ! { std::process::exit(1) }
    "#;
    let lints = lints("never", source);
    assert!(lints.iter().all(|lint| lint.4 == "clippy::empty_loop"), "{lints:?}");
}

fn limited(corpus: &str, arguments: &str) -> String {
    corpus.replace("// limited", &format!("#[ratelimit_runtime::rate_limit({arguments})]"))
}

fn without(lints: BTreeSet<Lint>, names: &[&str]) -> BTreeSet<Lint> {
    lints.into_iter().filter(|lint| !names.contains(&lint.4.as_str())).collect()
}

#[track_caller]
fn assert_same(plain: &BTreeSet<Lint>, limited: &BTreeSet<Lint>, arguments: &str) {
    let lost: Vec<&Lint> = plain.difference(limited).collect();
    let added: Vec<&Lint> = limited.difference(plain).collect();
    assert!(lost.is_empty() && added.is_empty(), "{arguments}\nlost: {lost:#?}\nadded: {added:#?}");
}

/// clippy's lints on a crate.
fn lints(name: &str, source: &str) -> BTreeSet<Lint> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_owned();
    let target = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("lints");
    let package = target.join("packages").join(name);
    fs::create_dir_all(package.join("src")).expect("a folder for the package");
    fs::write(package.join("src/lib.rs"), source).expect("the source");
    fs::copy(workspace.join("Cargo.lock"), package.join("Cargo.lock")).expect("the versions");
    let runtime = workspace.join("ratelimit-runtime");
    let manifest = format!(
        "[package]\nname = \"{name}\"\nversion = \"0.0.0\"\nedition = \"2024\"\n[workspace]\n\
         [dependencies]\nratelimit-runtime = {{ path = \"{}\" }}\n",
        runtime.display()
    );
    fs::write(package.join("Cargo.toml"), manifest).expect("the manifest");
    let output = Command::new(env!("CARGO"))
        .args(["clippy", "--offline", "--message-format=json", "--target-dir"])
        .arg(target.join("target"))
        .current_dir(&package)
        .env_remove("RUSTFLAGS")
        .output()
        .expect("cargo starts");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "clippy (`rustup component add clippy`) fails on `{name}`: {errors}");
    let mut lints = BTreeSet::new();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let report: Value = serde_json::from_str(line).expect("a report");
        let message = &report["message"];
        if report["target"]["name"] != name.replace('-', "_").as_str() {
            continue;
        }
        for span in message["spans"].as_array().into_iter().flatten().filter(|span| span["is_primary"] == true) {
            let place = |what: &str| span[what].as_u64().unwrap_or_default();
            let code = message["code"]["code"].as_str().unwrap_or("no lint").to_owned();
            lints.insert((place("line_start"), place("column_start"), place("line_end"), place("column_end"), code));
        }
    }
    lints
}
