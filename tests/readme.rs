//! Runs the tests in the README with the dependencies and features that it prints above them.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

#[test]
fn tests_in_the_readme_pass_with_the_features_that_it_prints() {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_owned();
    let readme = fs::read_to_string(workspace.join("docs/testing.md")).expect("the doc");
    let mut blocks = blocks(&readme);
    blocks.retain(|(kind, _)| *kind == "toml" || *kind == "rust,test_harness");
    let mut packages = 0;
    for [(_, manifest), (_, source)] in blocks.windows(2).filter_map(|pair| <&[_; 2]>::try_from(pair).ok()) {
        if !source.contains("#[test]") && !source.contains("#[tokio::test") {
            continue;
        }
        assert!(manifest.contains("[dev-dependencies]"), "no dependencies above the test:\n{source}");
        run(&workspace, &format!("readme{packages}"), manifest, source);
        packages += 1;
    }
    assert_eq!(packages, 3);
}

/// The code blocks, each with the text after its first fence.
fn blocks(text: &str) -> Vec<(&str, &str)> {
    let parts: Vec<&str> = text.split("```").collect();
    parts.chunks_exact(2).filter_map(|pair| pair[1].split_once('\n')).collect()
}

fn run(workspace: &Path, name: &str, manifest: &str, source: &str) {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("readme");
    let package = folder.join("packages").join(name);
    fs::create_dir_all(package.join("src")).expect("a folder for the package");
    fs::write(package.join("src/lib.rs"), source).expect("the source");
    fs::copy(workspace.join("Cargo.lock"), package.join("Cargo.lock")).expect("the versions");
    let runtime = workspace.join("ratelimit-runtime");
    let manifest = manifest
        .replace("ratelimit-runtime = \"0.1\"", "ratelimit-runtime = { version = \"0.1\" }")
        .replace("ratelimit-runtime = {", &format!("ratelimit-runtime = {{ path = \"{}\",", runtime.display()));
    let head = format!("[package]\nname = \"{name}\"\nversion = \"0.0.0\"\nedition = \"2024\"\n[workspace]\n");
    fs::write(package.join("Cargo.toml"), head + &manifest).expect("the manifest");
    let output = Command::new(env!("CARGO"))
        .args(["test", "--lib", "--offline", "--target-dir"])
        .arg(folder.join("target"))
        .current_dir(&package)
        .output()
        .expect("cargo starts");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    let tests = source.matches("#[test]").count() + source.matches("#[tokio::test").count();
    assert!(text.contains(&format!("{tests} passed")), "{text}");
}
