//! The environment that counts depend on besides the code.

use std::process::Command;

/// Names and values, in the order of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Machine(pub(super) Vec<(String, String)>);

/// Processor features by which libraries select code.
const FEATURES: &[&str] =
    &["sse4_2", "avx", "avx2", "bmi2", "erms", "avx512f", "constant_tsc", "nonstop_tsc", "rdtscp"];

/// This machine and its tools.
pub(super) fn here() -> Machine {
    let rustc = output("rustc", &["-vV"]);
    let field = |text: &str, name: &str| {
        let found = text.lines().find_map(|line| line.strip_prefix(name));
        found.map_or("unknown", |value| value.trim_start_matches([' ', '\t', ':']).trim()).to_owned()
    };
    let processor = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let flags = field(&processor, "flags");
    let flags: Vec<&str> = flags.split(' ').filter(|flag| FEATURES.contains(flag)).collect();
    let libc = output("ldd", &["--version"]);
    let named = [
        ("rustc", rustc.lines().next().unwrap_or("unknown").trim_start_matches("rustc ").to_owned()),
        ("target", field(&rustc, "host")),
        ("processor", format!("{} family {}", field(&processor, "vendor_id"), field(&processor, "cpu family"))),
        ("features", flags.join(" ")),
        ("libc", libc.lines().next().unwrap_or("unknown").to_owned()),
        ("valgrind", output("valgrind", &["--version"]).trim().to_owned()),
    ];
    Machine(named.map(|(name, value)| (name.to_owned(), value)).to_vec())
}

/// A program's output; empty if the program is missing.
fn output(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default()
}

impl Machine {
    /// A line for each value that differs.
    pub(super) fn differences(&self, here: &Machine) -> Vec<String> {
        let value = |name: &str| here.0.iter().find(|(other, _)| other == name).map_or("unknown", |(_, value)| value);
        let differing = self.0.iter().filter(|(name, expected)| value(name) != expected);
        differing.map(|(name, expected)| format!("  {name}: {expected} in the table, {} here", value(name))).collect()
    }
}
