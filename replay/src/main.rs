//! The example `replay` as a binary, for the tests.

use std::process::ExitCode;

fn main() -> ExitCode {
    ratelimit_replay::main()
}
