//! Mutation testing: plants one fault at a time and runs the tests that must find it.
//! `scripts/mutants [PART OF A FAULT'S NAME..]`.
//!
//! Faults in the memory backend and its fast paths must fail the conformance suite through the
//! attribute. Faults in the Redis script must fail the comparison of a real server with memory, or the
//! conformance suite on such a server.
//!
//! The faults are listed in `mutants.txt`. They are planted in a copy of the working tree in
//! `target/mutants` with its own target directory. Only what a fault touches is compiled again.

mod list;

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Output, Stdio};
use std::time::{Duration, Instant};
use std::{env, fs, io, thread};

use list::Mutant;

/// Tests that must find a fault.
#[derive(Clone, Copy, Debug)]
struct Suite {
    /// The test binary.
    name: &'static str,
    /// Part of the names of the tests to run.
    filter: &'static str,
}

/// Calls annotated functions.
const MEMORY: Suite = Suite { name: "conformance", filter: "memory_by_attribute" };
/// On the fast path, which calls by a test's clock do not take. The next two too.
const BLOCKS: Suite = Suite { name: "blocks", filter: "in_memory::" };
const SETTLING: Suite = Suite { name: "settling", filter: "the_fast_path" };
const EACH: Suite = Suite { name: "each", filter: "attribute::" };
/// On the fast path at times of the test's choice, which is impossible from outside.
const UNKEYED: Suite = Suite { name: LIB, filter: "unkeyed::tests" };
/// All states by their fast paths and by the others, at times of the test's choice.
const STATES: Suite = Suite { name: LIB, filter: "state::tests" };
/// Threads that remember limits.
const RULES: Suite = Suite { name: LIB, filter: "rules::tests" };
/// Compares each decision of a server with that of memory.
const REDIS: Suite = Suite { name: "redis", filter: "conformance::" };
/// The scenarios of all backends, on a real server.
const SCENARIOS: Suite = Suite { name: "conformance", filter: "redis_asked_each_time" };
/// Only merged calls are sent as runs.
const RUNS: Suite = Suite { name: "redis", filter: "coalescing::" };

impl Suite {
    /// The suites that may find a fault, in order.
    fn of(mutant: &Mutant) -> &'static [Suite] {
        if mutant.file.contains("/redis/") {
            &[REDIS, RUNS, SCENARIOS]
        } else {
            &[MEMORY, BLOCKS, SETTLING, EACH, UNKEYED, STATES, RULES]
        }
    }
}

/// The runtime's own tests.
const LIB: &str = "ratelimit_runtime";

/// A fault that keeps the tests busy for longer counts as found.
const TIMEOUT: Duration = Duration::from_secs(180);

/// The result of planting a fault.
#[derive(Debug, PartialEq)]
enum Fate {
    Killed(String),
    Survived,
    /// The fault proves nothing: the list has to be fixed.
    Invalid(String),
}

fn main() -> ExitCode {
    let parts: Vec<String> = env::args().skip(1).collect();
    match run(&parts) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(failures) => {
            eprintln!("scripts/mutants: {failures} faults were not found, or do not match the code any more");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("scripts/mutants: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The number of faults that were not found.
fn run(parts: &[String]) -> io::Result<usize> {
    let mutants = list::all(&root()).map_err(io::Error::other)?;
    let wanted = |name: &str| parts.is_empty() || parts.iter().any(|part| name.contains(part));
    let mutants: Vec<Mutant> = mutants.into_iter().filter(|mutant| wanted(&mutant.name)).collect();
    let copy = Copy::new()?;
    for suite in [MEMORY, BLOCKS, SETTLING, EACH, UNKEYED, STATES, RULES, REDIS, RUNS, SCENARIOS] {
        if mutants.iter().all(|mutant| Suite::of(mutant).iter().all(|own| own.name != suite.name)) {
            continue;
        }
        match copy.test(suite)? {
            Fate::Survived => {}
            fate => return Err(io::Error::other(format!("{} fails without a fault: {fate:?}", suite.name))),
        }
    }
    let mut failures = 0;
    for mutant in &mutants {
        let start = Instant::now();
        let fate = copy.plant(mutant)?;
        let what = match &fate {
            Fate::Killed(by) => format!("found by {by}"),
            Fate::Survived => "NOT FOUND".to_owned(),
            Fate::Invalid(why) => format!("INVALID: {why}"),
        };
        failures += usize::from(!matches!(fate, Fate::Killed(_)));
        println!("{} ({} s): {what}", mutant.name, start.elapsed().as_secs());
    }
    println!("{} of {} faults found", mutants.len() - failures, mutants.len());
    Ok(failures)
}

/// The repository.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// A copy of the working tree.
struct Copy {
    tree: PathBuf,
    target: PathBuf,
}

impl Copy {
    /// Copies the files that git tracks or would add. Unchanged files stay as they are, with
    /// everything compiled from them.
    fn new() -> io::Result<Copy> {
        let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
        let folder = target.join("mutants");
        let copy = Copy { tree: folder.join("tree"), target: folder.join("target") };
        let listed = Command::new("git")
            .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
            .current_dir(root())
            .output()?;
        let listed = String::from_utf8(listed.stdout).map_err(io::Error::other)?;
        let files: HashSet<&str> = listed.split('\0').filter(|file| root().join(file).is_file()).collect();
        for file in &files {
            let bytes = fs::read(root().join(file))?;
            let to = copy.tree.join(file);
            if fs::read(&to).is_ok_and(|there| there == bytes) {
                continue;
            }
            fs::create_dir_all(to.parent().expect("a file has a folder"))?;
            // Keeps permissions: tests run scripts.
            fs::copy(root().join(file), &to)?;
            touch(&to)?;
        }
        for old in copied(&copy.tree)? {
            let name = old.strip_prefix(&copy.tree).map_err(io::Error::other)?.to_string_lossy().into_owned();
            if !files.contains(name.as_str()) {
                fs::remove_file(old)?;
            }
        }
        Ok(copy)
    }

    /// Plants a fault, runs the tests, and removes it again.
    fn plant(&self, mutant: &Mutant) -> io::Result<Fate> {
        let path = self.tree.join(&mutant.file);
        let text = fs::read_to_string(&path)?;
        let planted = match mutant.planted(&text) {
            Ok(planted) => planted,
            Err(why) => return Ok(Fate::Invalid(why)),
        };
        fs::write(&path, planted)?;
        let mut fate = Ok(Fate::Survived);
        for suite in Suite::of(mutant) {
            fate = self.test(*suite);
            if !matches!(fate, Ok(Fate::Survived)) {
                break;
            }
        }
        fs::write(&path, text)?;
        fate
    }

    fn test(&self, suite: Suite) -> io::Result<Fate> {
        let tests: &[&str] = match suite.name {
            LIB => &["-p", "ratelimit-runtime", "--all-features", "--lib"],
            name => &["-p", "ratelimit-tests", "--test", name],
        };
        let built = Command::new("cargo")
            .args(["test", "--no-run", "--message-format=json"])
            .args(tests)
            .current_dir(&self.tree)
            .env("CARGO_TARGET_DIR", &self.target)
            .stderr(Stdio::piped())
            .output()?;
        if !built.status.success() {
            return Ok(Fate::Invalid(format!("it does not compile:\n{}", errors(&built))));
        }
        let stdout = String::from_utf8_lossy(&built.stdout);
        let name = format!(r#""name":"{}""#, suite.name);
        let program = stdout.lines().filter(|line| line.contains(&name)).find_map(executable);
        let program =
            program.ok_or_else(|| io::Error::other(format!("cargo names no executable of {}", suite.name)))?;
        self.run(suite, program)
    }

    fn run(&self, suite: Suite, program: &str) -> io::Result<Fate> {
        let out = self.target.join("out.txt");
        let mut tests = Command::new(program)
            .arg(suite.filter)
            .current_dir(self.tree.join("tests"))
            .env_remove("RUST_BACKTRACE")
            .stdin(Stdio::null())
            .stdout(fs::File::create(&out)?)
            .stderr(Stdio::null())
            .spawn()?;
        let start = Instant::now();
        let status = loop {
            if let Some(status) = tests.try_wait()? {
                break status;
            }
            if start.elapsed() > TIMEOUT {
                tests.kill()?;
                tests.wait()?;
                return Ok(Fate::Killed(format!("tests that did not end in {} s", TIMEOUT.as_secs())));
            }
            thread::sleep(Duration::from_millis(50));
        };
        let text = fs::read_to_string(&out)?;
        if status.success() {
            // An empty test run finds nothing.
            let ran = text.lines().any(|line| line.starts_with("test ") && line.ends_with("... ok"));
            return if ran { Ok(Fate::Survived) } else { Err(io::Error::other(format!("no test was run: {suite:?}"))) };
        }
        let failed = text.lines().filter_map(|line| line.strip_prefix("test ")?.strip_suffix(" ... FAILED"));
        let failed: Vec<&str> = failed.collect();
        Ok(Fate::Killed(match failed.split_first() {
            Some((first, [])) => (*first).to_owned(),
            Some((first, others)) => format!("{first} and {} more", others.len()),
            None if status.code().is_none() => format!("tests that ended with {status}"),
            None => return Err(io::Error::other(format!("no test failed, and {program} ended with {status}"))),
        }))
    }
}

/// Sets a file's time to now, by which cargo detects changes.
fn touch(path: &Path) -> io::Result<()> {
    fs::File::options().append(true).open(path)?.set_modified(std::time::SystemTime::now())
}

/// All files in a folder and its subfolders.
fn copied(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            files.extend(copied(&entry.path())?);
        } else {
            files.push(entry.path());
        }
    }
    Ok(files)
}

/// The executable named in a line of cargo's messages.
fn executable(line: &str) -> Option<&str> {
    let (_, rest) = line.split_once(r#""executable":""#)?;
    rest.split_once('"').map(|(program, _)| program)
}

/// The first lines of the compiler's errors.
fn errors(built: &Output) -> String {
    let text = String::from_utf8_lossy(&built.stderr);
    let from = text.find("error").unwrap_or(0);
    text[from..].lines().take(12).collect::<Vec<_>>().join("\n")
}
