//! The name of the runtime in the crate being compiled.
//!
//! The compiler's command line lists dependencies by name and file. That is not a stable interface,
//! so if it cannot be read (in an editor), the name is `::ratelimit_runtime`.

use std::fs;
use std::path::Path;
use std::sync::OnceLock;

/// The result of reading the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Runtime {
    /// `::ratelimit_runtime`, by default too.
    Usual,
    /// Renamed in `Cargo.toml`.
    Renamed(String),
    /// Not a dependency: the attribute came through another crate.
    Absent,
}

const NAME: &str = "ratelimit_runtime";

/// Reads the command line once per process: it is the same for all attributes of a crate.
pub(crate) fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| runtime_of(std::env::args_os().map(|arg| arg.to_string_lossy().into_owned())))
}

fn runtime_of(args: impl Iterator<Item = String>) -> Runtime {
    let mut crate_name = None;
    let mut dependencies = Vec::new();
    let Some(args) = with_files(args.skip(1)) else {
        return Runtime::Usual;
    };
    let mut args = args.into_iter();
    while let Some(arg) = args.next() {
        let (option, value) = match arg.split_once('=') {
            Some((option, value)) => (option, Some(value.to_owned())),
            None => (&*arg, None),
        };
        match option {
            "--crate-name" => crate_name = value.or_else(|| args.next()),
            "--extern" => dependencies.extend(value.or_else(|| args.next())),
            _ => {}
        }
    }
    if crate_name.as_deref() == Some(NAME) || dependencies.is_empty() {
        return Runtime::Usual;
    }
    let mut renamed = None;
    for dependency in &dependencies {
        let (name, file) = dependency.split_once('=').unwrap_or((dependency, ""));
        // `priv:name=file`
        let name = name.rsplit(':').next().unwrap_or(name);
        if name == NAME {
            return Runtime::Usual;
        }
        if is_runtime(file) {
            renamed = Some(name.to_owned());
        }
    }
    match renamed {
        Some(name) => Runtime::Renamed(name),
        // Build tools name the crate. Doc tests and commands by hand may not.
        None if crate_name.is_none() => Runtime::Usual,
        None => Runtime::Absent,
    }
}

/// The arguments, with those in an `@file` (one a line) in its place. Rustdoc writes such a file for
/// doc tests, and cargo for long command lines. `None` if it cannot be read.
fn with_files(args: impl Iterator<Item = String>) -> Option<Vec<String>> {
    let mut all = Vec::new();
    for arg in args {
        match arg.strip_prefix('@') {
            None => all.push(arg),
            Some(file) => all.extend(fs::read_to_string(file).ok()?.lines().map(str::to_owned)),
        }
    }
    Some(all)
}

/// `libratelimit_runtime-0123456789abcdef.rmeta`, with or without the hash.
fn is_runtime(file: &str) -> bool {
    let stem = Path::new(file).file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    stem.strip_prefix("lib").map(|stem| stem.split('-').next()) == Some(Some(NAME))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(line: &str) -> Runtime {
        runtime_of(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn a_dependency_is_found_by_its_name_or_its_file() {
        for (line, expected) in [
            ("rustc --crate-name app --extern ratelimit_runtime=/t/libratelimit_runtime-0f.rmeta", Runtime::Usual),
            ("rustc --crate-name app --extern=priv:ratelimit_runtime=/t/libx.rlib", Runtime::Usual),
            (
                "rustc --crate-name app --extern a=/t/liba-1.rlib --extern rl=/t/libratelimit_runtime-0f.rmeta",
                renamed("rl"),
            ),
            ("clippy-driver rustc --crate-name=app --extern=priv:rl=/t/libratelimit_runtime.rlib", renamed("rl")),
            ("rustc --crate-name app --extern facade=/t/libfacade-1.rlib --extern proc_macro", Runtime::Absent),
            ("rustc --crate-name app --extern x=/t/libratelimit_runtime_more-1.rlib", Runtime::Absent),
        ] {
            assert_eq!(of(line), expected, "{line}");
        }
    }

    #[test]
    fn dependencies_are_found_in_a_file_of_arguments() {
        let file = std::env::temp_dir().join(format!("ratelimit-macros-arguments-{}", std::process::id()));
        fs::write(&file, "--edition=2024\n--extern=a=/t/liba-1.rlib\n--extern=rl=/t/libratelimit_runtime-0f.rlib\n")
            .expect("a file of arguments");
        let doc_test = of(&format!("rustc @{} --edition 2024 /t/doctest.rs", file.display()));
        fs::remove_file(&file).expect("the file");
        assert_eq!(doc_test, renamed("rl"));
    }

    fn renamed(name: &str) -> Runtime {
        Runtime::Renamed(name.to_owned())
    }

    #[test]
    fn an_unreadable_command_line_means_the_default() {
        for line in [
            "",
            "rust-analyzer proc-macro",
            "rustc --crate-name app",
            "rustc @arguments --crate-name app --extern a=/t/liba.rlib",
            "rustc --crate-name ratelimit_runtime --extern a=/t/liba.rlib",
            "rustc --extern a=/t/liba.rlib",
            "rustc --crate-name",
        ] {
            assert_eq!(of(line), Runtime::Usual, "{line}");
        }
    }
}
