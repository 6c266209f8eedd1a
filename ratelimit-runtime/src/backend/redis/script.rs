//! The script that decides, and how it is called.

use std::sync::LazyLock;

/// The script's parts, in the order in which they use each other.
const SOURCE: &str = concat!(
    include_str!("prelude.lua"),
    include_str!("fast.lua"),
    include_str!("groups.lua"),
    include_str!("sliding_window.lua"),
    include_str!("token_bucket.lua"),
    include_str!("fixed_window.lua"),
    include_str!("record.lua"),
    include_str!("decide.lua"),
);

static SCRIPT: LazyLock<redis::Script> = LazyLock::new(|| redis::Script::new(SOURCE));

/// Decides on the bucket `key` what `request` asks, by a script that the server knows.
pub(super) fn call(key: &str, request: &[u8]) -> redis::Cmd {
    let mut command = redis::cmd("EVALSHA");
    command.arg(SCRIPT.get_hash()).arg(1).arg(key).arg(request);
    command
}

/// Makes the script known to the server.
pub(super) fn load() -> redis::Cmd {
    let mut command = redis::cmd("SCRIPT");
    command.arg("LOAD").arg(SOURCE);
    command
}
