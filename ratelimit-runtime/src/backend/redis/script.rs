//! The script that decides, and how it is called.

use std::collections::HashMap;
use std::sync::LazyLock;

/// What the usual call goes through, and what every call begins with.
const USUAL: [&str; 3] = [include_str!("prelude.lua"), include_str!("one_now.lua"), include_str!("several_now.lua")];

/// All other calls, in the order in which the parts use each other.
const ANY: [&str; 7] = [
    include_str!("any.lua"),
    include_str!("groups.lua"),
    include_str!("sliding_window.lua"),
    include_str!("token_bucket.lua"),
    include_str!("fixed_window.lua"),
    include_str!("record.lua"),
    include_str!("decide.lua"),
];

/// What stands in the place of `--inline` and a name: a function's call would cost more than what it does.
const INLINED: [(&str, &str); 5] = [
    ("--inline slot.lua\n", include_str!("slot.lua")),
    ("--inline sliding_now.lua\n", include_str!("sliding_now.lua")),
    ("--inline token_now.lua\n", include_str!("token_now.lua")),
    ("--inline fixed_now.lua\n", include_str!("fixed_now.lua")),
    ("--inline write_now.lua\n", include_str!("write_now.lua")),
];

static SCRIPT: LazyLock<redis::Script> = LazyLock::new(|| redis::Script::new(&SOURCE));

/// What is not usual is a function of its own: Lua clears the room for a function's locals whenever it is called.
static SOURCE: LazyLock<String> = LazyLock::new(|| {
    let source = format!("{}return (function()\n{}end)()\n", USUAL.concat(), ANY.concat());
    with_constants(&INLINED.iter().fold(source, |source, (place, code)| source.replace(place, code)))
});

/// The source with the values of `constants.lua` in the places of their names.
fn with_constants(source: &str) -> String {
    let constants: HashMap<&str, &str> = include_str!("constants.lua")
        .lines()
        .filter_map(|line| line.strip_prefix("local ")?.split_once(" = "))
        .collect();
    let is_name = |character: char| character.is_ascii_alphanumeric() || character == '_';
    let mut rest = source;
    let mut result = String::with_capacity(source.len());
    while !rest.is_empty() {
        let (name, after) = rest.split_at(rest.find(|character| !is_name(character)).unwrap_or(rest.len()));
        result.push_str(constants.get(name).unwrap_or(&name));
        let (between, next) = after.split_at(after.find(is_name).unwrap_or(after.len()));
        result.push_str(between);
        rest = next;
    }
    result
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_constant_has_its_value_in_the_script() {
        let code =
            SOURCE.lines().map(|line| line.split("--").next().unwrap_or_default()).collect::<Vec<_>>().join("\n");
        // Every other part is a text.
        let code: String = code.split('\'').step_by(2).collect();
        let words = code.split(|character: char| !character.is_ascii_alphanumeric() && character != '_');
        let mut names: Vec<&str> =
            words.filter(|word| word.starts_with(|first: char| first.is_ascii_uppercase())).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names, ["ARGV", "KEYS"]);
        assert!(!SOURCE.contains("--inline"));
    }

    #[test]
    fn only_whole_names_are_constants() {
        assert_eq!(with_constants("TAKE, TAKE_NOW, X_TAKE, TAKE2 = 'TAKE'"), "0, 4, X_TAKE, TAKE2 = '0'");
    }
}
