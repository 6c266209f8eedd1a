//! The attribute's compile-time cost: `cargo check` and `cargo build` of 2,000 functions without an
//! attribute, with `#[rate_limit]`, and with `#[tracing::instrument(skip_all)]`. Also the clean build
//! of the macro crate beside that of tokio-macros.
//!
//! `cargo bench -p benches --bench compile`. Three interleaved rounds, of which the fastest counts:
//! other load only adds time.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, fs, io};

const FUNCTIONS: usize = 2_000;
const ROUNDS: usize = 3;

/// The attribute may add at most this share of what `#[instrument]` adds.
const LARGEST_SURCHARGES: [(&str, f64); 2] = [("check", 0.35), ("build", 0.45)];
/// The macro crate's clean build may take at most this share of tokio-macros'.
const LONGEST_BUILD: f64 = 1.1;

fn main() -> io::Result<()> {
    let scratch = scratch()?;
    for (command, largest) in LARGEST_SURCHARGES {
        let [plain, limited, instrumented] = functions(&scratch, command)?;
        println!("cargo {command} of {FUNCTIONS} functions (fastest of {ROUNDS})");
        println!("  no attribute                       {plain:>8.2?}");
        println!("  #[rate_limit(count, per, key)]     {limited:>8.2?}");
        println!("  #[tracing::instrument(skip_all)]   {instrumented:>8.2?}");
        let each = |time: Duration| 1e3 * (time.as_secs_f64() - plain.as_secs_f64()) / FUNCTIONS as f64;
        println!("  surcharge a function               {:>7.3} ms against {:.3} ms", each(limited), each(instrumented));
        report("  surcharge", each(limited) / each(instrumented), largest);
    }

    let [ours, tokio] = build_macros(&scratch)?;
    println!("clean build of the macro crate with its dependencies (fastest of {ROUNDS})");
    println!("  ratelimit-macros                   {ours:>8.2?}");
    println!("  tokio-macros                       {tokio:>8.2?}");
    report("  build", ours.as_secs_f64() / tokio.as_secs_f64(), LONGEST_BUILD);
    Ok(())
}

fn report(what: &str, ratio: f64, bound: f64) {
    let verdict = if ratio <= bound { "within" } else { "ABOVE" };
    println!("{what:<36} {ratio:>7.2} x, {verdict} {bound}");
}

/// Times of the command without attribute, with ours, and with tracing's.
fn functions(scratch: &Path, command: &str) -> io::Result<[Duration; 3]> {
    let package = scratch.join("functions");
    let runtime = workspace().join("ratelimit-runtime");
    let manifest = format!(
        "[package]\nname = \"functions\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\n[dependencies]\n\
         ratelimit-runtime = {{ path = \"{}\" }}\n\
         tracing = {{ version = \"0.1\", default-features = false, features = [\"std\", \"attributes\"] }}\n\n[workspace]\n",
        runtime.display()
    );
    write(&package.join("Cargo.toml"), &manifest)?;
    let attributes =
        ["", "#[rate_limit(count = 100, per = \"1s\", key = user_id)]\n", "#[tracing::instrument(skip_all)]\n"];
    let sources = attributes.map(source);
    write(&package.join("src/lib.rs"), &sources[0])?;
    // Builds dependencies before anything is timed.
    run(&package, &[command])?;
    fastest(|which| {
        write(&package.join("src/lib.rs"), &sources[which])?;
        timed(|| run(&package, &[command]))
    })
}

/// Functions typical of services: a few statements, a loop, an early return.
fn source(attribute: &str) -> String {
    let mut source =
        String::from("#![allow(unused_imports)]\nuse ratelimit_runtime::{RateLimitExceeded, rate_limit};\n\n");
    for number in 0..FUNCTIONS {
        write!(
            source,
            "{attribute}pub fn function_{number}(user_id: &str, items: &[u32]) -> Result<String, RateLimitExceeded> {{
    if items.is_empty() {{
        return Ok(String::new());
    }}
    let mut total = {number};
    for (index, item) in items.iter().enumerate() {{
        total += index * (*item as usize);
    }}
    let label = match total % 3 {{
        0 => \"none\",
        1 => \"one\",
        _ => \"several\",
    }};
    Ok(format!(\"{{user_id}}: {{total}} ({{label}})\"))
}}

"
        )
        .expect("a string can be written to");
    }
    source
}

/// Times of a clean build of our macro crate and of tokio's.
fn build_macros(scratch: &Path) -> io::Result<[Duration; 2]> {
    let ours = format!("ratelimit-macros = {{ path = \"{}\" }}", workspace().join("ratelimit-macros").display());
    let packages = [("ours", ours.as_str()), ("tokio", "tokio-macros = \"2\"")].map(|(name, dependency)| {
        let package = scratch.join(name);
        let manifest = format!(
            "[package]\nname = \"{name}\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\n[dependencies]\n{dependency}\n\n[workspace]\n"
        );
        (package, manifest)
    });
    for (package, manifest) in &packages {
        write(&package.join("Cargo.toml"), manifest)?;
        write(&package.join("src/lib.rs"), "")?;
        run(package, &["fetch"])?;
    }
    fastest(|which| {
        let package = &packages[which].0;
        run(package, &["clean"])?;
        timed(|| run(package, &["build"]))
    })
}

/// The fastest time of each of `N`, interleaved.
fn fastest<const N: usize>(mut time: impl FnMut(usize) -> io::Result<Duration>) -> io::Result<[Duration; N]> {
    let mut fastest = [Duration::MAX; N];
    for _ in 0..ROUNDS {
        for (which, fastest) in fastest.iter_mut().enumerate() {
            *fastest = (*fastest).min(time(which)?);
        }
    }
    Ok(fastest)
}

fn timed(work: impl FnOnce() -> io::Result<()>) -> io::Result<Duration> {
    let start = Instant::now();
    work()?;
    Ok(start.elapsed())
}

fn run(package: &Path, arguments: &[&str]) -> io::Result<()> {
    let status = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(arguments)
        .arg("--quiet")
        .current_dir(package)
        .env("CARGO_TARGET_DIR", package.join("target"))
        .env("CARGO_INCREMENTAL", "0")
        .env_remove("RUSTFLAGS")
        .stdin(Stdio::null())
        .status()?;
    if status.success() { Ok(()) } else { Err(io::Error::other(format!("cargo {} failed", arguments.join(" ")))) }
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(path, text)
}

/// A folder in the build's temporary directory.
fn scratch() -> io::Result<PathBuf> {
    let scratch = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("compile");
    fs::create_dir_all(&scratch)?;
    Ok(scratch)
}

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map_or_else(PathBuf::new, Path::to_path_buf)
}
