//! Replays an access log through candidate limits: `cargo run --release --example replay --
//! access.log --limit "100/1m"`.

use std::process::ExitCode;

fn main() -> ExitCode {
    ratelimit_replay::main()
}
