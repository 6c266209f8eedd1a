//! Counts the instructions of one decision with valgrind's callgrind, and compares them with a
//! committed table.
//!
//! `scripts/callgrind [PART OF A NAME..]` prints counts, `--check` compares them with
//! `benches/instructions.txt`, `--update` rewrites that file. One valgrind runs all cases. It
//! counts the loop around the calls after a warm-up: neither the start of the process nor the first
//! use of a limiter.

mod cases;
mod machine;
mod table;

use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use cases::{Case, KEYS};
use table::Table;

const CALLS: usize = 6 * KEYS;
const WARM_UP: usize = 3 * KEYS;
/// Processes per case, of which the median count is taken: hash seeds differ in each.
const RUNS: usize = 5;
/// The environment variable for the process under valgrind: the names of the cases, one a line.
const COUNTED: &str = "INSTRUCTIONS_COUNTED";

fn main() -> ExitCode {
    #[cfg(feature = "metrics")]
    metrics_exporter_prometheus::PrometheusBuilder::new().install_recorder().expect("the first recorder");
    let cases = cases::all();
    if let Ok(wanted) = std::env::var(COUNTED) {
        let wanted: Vec<&str> = wanted.lines().collect();
        cases.iter().filter(|case| wanted.contains(&case.name)).for_each(run);
        return ExitCode::SUCCESS;
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let parts: Vec<&str> = arguments.iter().map(String::as_str).filter(|part| !part.starts_with("--")).collect();
    let wanted = |name: &str| parts.is_empty() || parts.iter().any(|part| name.contains(part));
    let names: Vec<&'static str> = cases.iter().map(|case| case.name).filter(|name| wanted(name)).collect();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../instructions.txt");
    let result = match arguments.iter().find(|argument| argument.starts_with("--")).map(String::as_str) {
        None => counts(&names).map(|counts| print!("{}", Table::new(machine::here(), &counts))),
        Some("--check") if parts.is_empty() => check(&path, &names),
        Some("--update") if parts.is_empty() => update(&path, &names),
        Some(_) => Err("usage: scripts/callgrind [PART OF A NAME..] | --check | --update".to_owned()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("scripts/callgrind: {message}");
            ExitCode::FAILURE
        }
    }
}

fn check(path: &Path, names: &[&'static str]) -> Result<(), String> {
    let expected = Table::read(path)?;
    let found = Table::new(machine::here(), &counts(names)?);
    let differences = expected.differences(&found);
    if differences.is_empty() {
        println!("{} counts are those of benches/instructions.txt.", names.len());
        return Ok(());
    }
    let elsewhere = expected.machine.differences(&found.machine);
    if elsewhere.is_empty() {
        return Err(format!("counts differ from benches/instructions.txt:\n{}\n\n{HELP}", differences.join("\n")));
    }
    println!("Counts differ from benches/instructions.txt:\n{}\n", differences.join("\n"));
    println!("The table is of another machine, so this is no failure:\n{}", elsewhere.join("\n"));
    Ok(())
}

/// Advice for a difference.
const HELP: &str = "If a count rose: find out why, and take the instructions out again. If the rise is worth it, run\n\
    `scripts/callgrind --update`, write the reason beside the number, and commit both.\n\
    If a count fell or a case is new, run `scripts/callgrind --update` and commit the table.";

fn update(path: &Path, names: &[&'static str]) -> Result<(), String> {
    let mut table = Table::new(machine::here(), &counts(names)?);
    if path.exists() {
        let before = Table::read(path)?;
        println!("{}", before.differences(&table).join("\n"));
        table.keep_reasons(&before);
    }
    std::fs::write(path, table.to_string()).map_err(|error| format!("{}: {error}", path.display()))?;
    for name in table.without_reason() {
        println!("{name}: write the reason for the rise into benches/instructions.txt");
    }
    Ok(())
}

/// Runs a case inside valgrind, which writes a count at each call of this function.
#[inline(never)]
fn run(case: &Case) {
    for number in 0..WARM_UP {
        black_box((case.call)(number));
    }
    counted(&case.call);
}

/// The counted calls. Valgrind knows both functions by name, and handles each differently.
#[inline(never)]
fn counted(call: &dyn Fn(usize) -> bool) {
    for number in 0..CALLS {
        black_box(call(number));
    }
}

/// Instructions per call of each case.
fn counts(names: &[&'static str]) -> Result<Vec<(&'static str, u64)>, String> {
    let runs: Vec<Vec<u64>> = (0..RUNS).map(|_| counts_of_one_run(names)).collect::<Result<_, _>>()?;
    let middle = |index: usize| {
        let mut counts: Vec<u64> = runs.iter().map(|run| run[index]).collect();
        counts.sort_unstable();
        counts[RUNS / 2]
    };
    Ok(names.iter().enumerate().map(|(index, name)| (*name, middle(index))).collect())
}

fn counts_of_one_run(names: &[&str]) -> Result<Vec<u64>, String> {
    let folder = Folder::new()?;
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let status = Command::new("valgrind")
        .args(["--tool=callgrind", "--quiet", "--combine-dumps=no"])
        .args(["--toggle-collect=instructions::counted*", "--dump-after=instructions::run*"])
        .arg(format!("--callgrind-out-file={}", folder.0.join("out").display()))
        .arg(program)
        // Nothing else: a larger environment moves the stack.
        .env_clear()
        .env(COUNTED, names.join("\n"))
        .stdout(Stdio::null())
        .status()
        .map_err(|error| format!("`valgrind` does not start, install it: {error}"))?;
    if !status.success() {
        return Err(format!("valgrind: {status}"));
    }
    (1..=names.len()).map(|dump| total(&folder.0.join(format!("out.{dump}")))).collect()
}

/// Instructions per call in one dump of callgrind.
fn total(dump: &Path) -> Result<u64, String> {
    let text = std::fs::read_to_string(dump).map_err(|error| format!("{}: {error}", dump.display()))?;
    let total = text.lines().find_map(|line| line.strip_prefix("totals: "));
    match total.and_then(|total| total.trim().parse::<u64>().ok()) {
        Some(total) if total > 0 => Ok(total / CALLS as u64),
        // The dump also contains other functions.
        _ => Err(format!("{} counts nothing", dump.display())),
    }
}

/// A folder of this process, removed at its end.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Result<Folder, String> {
        let path = std::env::temp_dir().join(format!("ratelimit-instructions-{}", std::process::id()));
        std::fs::create_dir_all(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(Folder(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
