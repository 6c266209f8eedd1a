//! Crates of older editions: the attribute accepts what rustc accepts there, and its messages
//! arrive.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use serde_json::Value;

const TRAIT_OBJECTS: &str = "
    pub mod inner {
        use ratelimit_runtime::{rate_limit, RateLimitExceeded};

        #[rate_limit(count = 1, per = \"1s\")]
        pub fn arguments(
            f: Box<Fn(u32) -> u32>,
            g: &::std::fmt::Debug,
            h: &mut (FnMut(u32) -> u32 + Send),
            i: &::std::ops::Fn(u32) -> Box<dyn Fn(u32) -> u32>,
        ) -> Result<u32, RateLimitExceeded> {
            let _ = (g, h, i);
            Ok(f(1))
        }

        #[rate_limit(count = 1, per = \"1s\", deduct_when = |f| f(1) == 1, or_else = |_| Box::new(|x| x))]
        pub fn returned<F: Fn(u32) -> u32 + 'static>(f: F) -> Box<Fn(u32) -> u32> {
            Box::new(f)
        }

        pub trait Called {
            #[rate_limit(count = 1, per = \"1s\", key = user)]
            fn call(&self, user: u32, f: Box<FnOnce(u32)>) -> Option<()> {
                Some(f(user))
            }
        }
    }
";

#[test]
fn trait_objects_may_be_written_as_the_edition_allows() {
    for edition in ["2015", "2018"] {
        assert_eq!(errors(&format!("objects{edition}"), edition, TRAIT_OBJECTS), [""; 0]);
    }
}

#[test]
fn mistakes_are_explained_in_every_edition() {
    let source = "
        mod inner {
            use ratelimit_runtime::{rate_limit, RateLimitKey};
            const NONE: u32 = 0;

            #[rate_limit(count = 1)]
            fn without_per() -> Option<u8> { Some(1) }

            #[rate_limit(count = 1, per = \"1s\", cout = 2)]
            fn misspelt() -> Option<u8> { Some(1) }

            #[rate_limit(count = inner::NONE, per = \"1s\")]
            fn zero() -> Option<u8> { Some(1) }

            #[derive(RateLimitKey)]
            union Key { a: u32, b: i32 }

            mod inner { pub const NONE: u32 = super::NONE; }
        }
        fn main() {}
    ";
    for edition in ["2015", "2018", "2021", "2024"] {
        let errors = errors(&format!("mistakes{edition}"), edition, source);
        assert_eq!(errors.len(), 4, "{edition}: {errors:#?}");
        for expected in ["add `per = \"1s\"`", "did you mean `count`?", "is for structs and enums", "at least 1"] {
            assert!(errors.iter().any(|error| error.contains(expected)), "{edition}: {expected}: {errors:#?}");
        }
    }
}

/// The messages of the compiler's errors on a crate.
fn errors(name: &str, edition: &str, source: &str) -> Vec<String> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_owned();
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("editions");
    let package = folder.join("packages").join(name);
    fs::create_dir_all(package.join("src")).expect("a folder for the package");
    let extern_crate = if edition == "2015" { "extern crate ratelimit_runtime;" } else { "" };
    fs::write(package.join("src/lib.rs"), format!("{extern_crate}{source}")).expect("the source");
    fs::copy(workspace.join("Cargo.lock"), package.join("Cargo.lock")).expect("the versions");
    let runtime = workspace.join("ratelimit-runtime");
    let manifest = format!(
        "[package]\nname = \"{name}\"\nversion = \"0.0.0\"\nedition = \"{edition}\"\n[workspace]\n\
         [dependencies]\nratelimit-runtime = {{ path = \"{}\" }}\n",
        runtime.display()
    );
    fs::write(package.join("Cargo.toml"), manifest).expect("the manifest");
    let output = Command::new(env!("CARGO"))
        .args(["check", "--offline", "--message-format=json", "--target-dir"])
        .arg(folder.join("target"))
        .current_dir(&package)
        .output()
        .expect("cargo starts");
    let reports = String::from_utf8_lossy(&output.stdout);
    let reports = reports.lines().map(|line| serde_json::from_str::<Value>(line).expect("a report"));
    let errors: Vec<String> = reports
        .map(|report| report["message"].clone())
        .filter(|message| message["level"] == "error" && !message["spans"].as_array().is_none_or(Vec::is_empty))
        .map(|message| message["message"].as_str().unwrap_or_default().to_owned())
        .collect();
    assert_eq!(errors.is_empty(), output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    errors
}
