//! The script that decides, and how it is called.

use std::sync::LazyLock;

/// The script's parts, in the order in which they use each other.
const PARTS: [&str; 9] = [
    include_str!("prelude.lua"),
    include_str!("one_now.lua"),
    include_str!("several_now.lua"),
    include_str!("groups.lua"),
    include_str!("sliding_window.lua"),
    include_str!("token_bucket.lua"),
    include_str!("fixed_window.lua"),
    include_str!("record.lua"),
    include_str!("decide.lua"),
];

/// What stands in the place of `--inline` and a name: a function's call would cost more than what it does.
const INLINED: [(&str, &str); 3] = [
    ("--inline token_now.lua\n", include_str!("token_now.lua")),
    ("--inline window_now.lua\n", include_str!("window_now.lua")),
    ("--inline write_now.lua\n", include_str!("write_now.lua")),
];

static SCRIPT: LazyLock<redis::Script> = LazyLock::new(|| redis::Script::new(&SOURCE));

static SOURCE: LazyLock<String> =
    LazyLock::new(|| INLINED.iter().fold(PARTS.concat(), |source, (place, code)| source.replace(place, code)));

/// Decides on the bucket `key` what `request` asks, by a script that the server knows.
pub(super) fn call(key: &str, request: &[u8]) -> redis::Cmd {
    let mut command = redis::cmd("EVALSHA");
    command.arg(SCRIPT.get_hash()).arg(1).arg(key).arg(request);
    command
}

/// Makes the script known to the server.
pub(super) fn load() -> redis::Cmd {
    let mut command = redis::cmd("SCRIPT");
    command.arg("LOAD").arg(SOURCE.as_str());
    command
}
