//! The example `replay`, as a program: the tests run it.

use std::process::ExitCode;

fn main() -> ExitCode {
    ratelimit_replay::main()
}
