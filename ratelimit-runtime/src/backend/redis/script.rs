//! The script that decides, and the commands that call it.

#[cfg(feature = "calendar")]
pub(super) mod calendars;
pub(super) mod codec;

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::LazyLock;

use redis::{Cmd, Script};

use crate::backend::redis::script::codec::NUMBERS;

/// The files by their names. They are inlined, because a function call in Lua would cost more than
/// most of them.
macro_rules! files {
    ($($name:literal)*) => { [$(($name, include_str!(concat!("script/", $name, ".lua")))),*] };
}

#[rustfmt::skip]
static FILES: LazyLock<HashMap<&str, &str>> = LazyLock::new(|| {
    HashMap::from(files![
        "back_now" "block" "charge" "close" "convert"
        "debt_fixed" "debt_sliding" "debt_token" "edits" "expire" "fixed" "fixed_now" "flow" "keep"
        "new" "offence" "outcome" "record" "revive" "rich" "ring" "set" "sliding"
        "sliding_now" "slot" "slot_edit" "span" "steps" "token" "token_now" "undo_now"
        "undo_sliding" "undo_token" "usual" "widen" "widen_now" "write"
    ])
});

/// Decides on one bucket.
static ONE: LazyLock<Script> = LazyLock::new(|| Script::new(&ONE_SOURCE));
/// Decides on several, each by the same script.
static MANY: LazyLock<Script> = LazyLock::new(|| Script::new(&MANY_SOURCE));
/// Decides on the buckets of one call: all are charged, or none is.
static TOGETHER: LazyLock<Script> = LazyLock::new(|| Script::new(&TOGETHER_SOURCE));

static ONE_SOURCE: LazyLock<String> = LazyLock::new(|| {
    let mut source = String::new();
    append(&mut source, include_str!("script/decide.lua"));
    with_constants(&source)
});
static MANY_SOURCE: LazyLock<String> = LazyLock::new(|| on_several(include_str!("script/many.lua")));
static TOGETHER_SOURCE: LazyLock<String> = LazyLock::new(|| on_several(include_str!("script/together.lua")));

/// Appends a file and, in the places of `--inline`, what it inlines. Comments stay here.
fn append(source: &mut String, file: &str) {
    for line in file.lines().map(str::trim_start) {
        if let Some(name) = line.strip_prefix("--inline ") {
            append(source, FILES[name.trim_end_matches(".lua")]);
        } else if !line.starts_with("--") {
            source.push_str(line);
            source.push('\n');
        }
    }
}

/// A script around the decision on one bucket.
fn on_several(script: &str) -> String {
    // The clock is read once for all.
    let decision = ONE_SOURCE.replace("call('TIME')", "time");
    with_constants(script).replace("--inline decision\n", &decision)
}

/// Replaces the names in `constants.lua` and the codec's numbers by their values.
fn with_constants(source: &str) -> String {
    let numbers = NUMBERS.iter().map(|(name, number)| (*name, number.to_string()));
    let layouts = include_str!("script/constants.lua").lines();
    let layouts = layouts.filter_map(|line| line.strip_prefix("local ")?.split_once(" = "));
    let constants: HashMap<&str, String> =
        numbers.chain(layouts.map(|(name, value)| (name, value.to_owned()))).collect();
    let is_name = |character: char| character.is_ascii_alphanumeric() || character == '_';
    let mut rest = source;
    let mut result = String::with_capacity(source.len());
    while !rest.is_empty() {
        let (name, after) = rest.split_at(rest.find(|character| !is_name(character)).unwrap_or(rest.len()));
        result.push_str(constants.get(name).map_or(name, String::as_str));
        let (between, next) = after.split_at(after.find(is_name).unwrap_or(after.len()));
        result.push_str(between);
        rest = next;
    }
    result
}

/// A question about one bucket: its key and the request.
pub(crate) type Question<'a> = (Cow<'a, str>, Vec<u8>);

/// Calls the script, by its hash, on the bucket `key`.
pub(crate) fn call((key, request): &Question<'_>) -> Cmd {
    let mut command = start(&ONE, 1, key.len() + request.len());
    command.arg(&**key).arg(request);
    command
}

/// Calls the script on several buckets. The reply is an array of replies.
pub(crate) fn call_many(questions: &[Question<'_>]) -> Cmd {
    call_on(&MANY, questions)
}

/// Calls the script on the buckets of one call, of which all are charged or none is. The reply is an
/// array of replies.
pub(crate) fn call_together(questions: &[Question<'_>]) -> Cmd {
    call_on(&TOGETHER, questions)
}

fn call_on(script: &Script, questions: &[Question<'_>]) -> Cmd {
    let bytes = questions.iter().map(|(key, request)| key.len() + request.len()).sum();
    let mut command = start(script, questions.len(), bytes);
    for (key, _) in questions {
        command.arg(&**key);
    }
    for (_, request) in questions {
        command.arg(request);
    }
    command
}

/// A command with enough capacity for its arguments.
fn start(script: &Script, keys: usize, bytes: usize) -> Cmd {
    let mut command = Cmd::with_capacity(3 + 2 * keys, bytes + 64);
    command.arg("EVALSHA").arg(script.get_hash()).arg(keys);
    command
}

/// Loads the script of `call` into the server.
pub(crate) fn load(call: &Cmd) -> Cmd {
    let mut command = redis::cmd("SCRIPT");
    command.arg("LOAD").arg(source(call));
    command
}

/// The same call with the script itself, which also loads it. For users who may not load scripts.
pub(crate) fn in_full(call: &Cmd) -> Cmd {
    let mut command = redis::cmd("EVAL");
    command.arg(source(call));
    for argument in call.args_iter().skip(2) {
        if let redis::Arg::Simple(argument) = argument {
            command.arg(argument);
        }
    }
    command
}

fn source(call: &Cmd) -> &'static str {
    let is = |script: &Script| call.args_iter().nth(1) == Some(redis::Arg::Simple(script.get_hash().as_bytes()));
    match () {
        () if is(&MANY) => &MANY_SOURCE,
        () if is(&TOGETHER) => &TOGETHER_SOURCE,
        () => &ONE_SOURCE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_constant_has_its_value_in_the_script() {
        let both = [&**MANY_SOURCE, &**TOGETHER_SOURCE].join("\n");
        let code = both.lines().map(|line| line.split("--").next().unwrap_or_default()).collect::<Vec<_>>().join("\n");
        // Every other part is a string literal.
        let code: String = code.split('\'').step_by(2).collect();
        let words = code.split(|character: char| !character.is_ascii_alphanumeric() && character != '_');
        let mut names: Vec<&str> =
            words.filter(|word| word.starts_with(|first: char| first.is_ascii_uppercase())).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names, ["ARGV", "KEYS"]);
        assert!(!both.contains("--inline"));
    }

    #[test]
    fn decisions_on_several_buckets_read_the_clock_once() {
        for source in [&MANY_SOURCE, &TOGETHER_SOURCE] {
            assert_eq!(source.matches("'TIME'").count(), 1);
        }
    }

    #[test]
    fn only_whole_names_are_constants() {
        assert_eq!(with_constants("TAKE, TAKE_RUN, X_TAKE, TAKE2 = 'TAKE'"), "0, 4, X_TAKE, TAKE2 = '0'");
    }
}
