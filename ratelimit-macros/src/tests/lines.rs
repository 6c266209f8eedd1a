//! The line in the docs.

use super::{FUNCTION, expanded};

/// The documented line, without the marks around it.
fn line(args: &str) -> String {
    let text = expanded(args, FUNCTION);
    let (_, line) = text.split_once("Rate limit: ").unwrap_or_else(|| panic!("no line: {text}"));
    let (line, _) = line.split_once(".\"").unwrap_or_else(|| panic!("no end: {text}"));
    format!("Rate limit: {line}.")
}

#[test]
fn it_states_the_limit_in_words() {
    for (args, expected) in [
        (
            r#"count = 100, per = "1s", key = user_id"#,
            "Rate limit: 100 calls per 1s for each `user_id`; sliding window.",
        ),
        (r#"count = 1, per = "2 minutes""#, "Rate limit: 1 call per 2 minutes; sliding window."),
        (
            r#"count = 10, per = "1s", algorithm = token_bucket, burst = 50"#,
            "Rate limit: 10 calls per 1s; token bucket of 50.",
        ),
        (
            r#"limit(count = 10, per = "1s"), limit(count = 500, per = "1h"), key = (self.tenant, &user.id())"#,
            "Rate limit: 10 calls per 1s and 500 calls per 1h for each `(self.tenant, &user.id())`; sliding window.",
        ),
        (
            r#"limit(count = 10, per = "1s", algorithm = fixed_window), limit(count = 500, per = "1h")"#,
            "Rate limit: 10 calls per 1s (fixed window) and 500 calls per 1h (sliding window).",
        ),
        (
            "count = self.plan.calls(), per = config::PERIOD, cost = 5",
            "Rate limit: `self.plan.calls()` permits per `config::PERIOD`; sliding window; a call takes 5 permits.",
        ),
        (
            r#"count = 1, per = "1s", wait = "2s", dry_run, exempt_when = user == 0 || !ok(user)"#,
            "Rate limit: 1 call per 1s; sliding window; calls wait at most 2s; not if `user == 0 || !ok(user)`; counted, not \
             enforced.",
        ),
        ("limiter = self.limiter, key = user", "Rate limit: that of `self.limiter` for each `user`."),
        (
            r#"count = 1, per = "1s", key = { let a = format!("{user:?}"); a.len() as u64 }"#,
            r#"Rate limit: 1 call per 1s for each `{ let a = format!(\"{user:?}\"); a.len() as u64 }`; sliding window."#,
        ),
        (
            r#"count = 1, per = "1s", key = a::<Vec<u8>>(*x, -1, |y| y + 1, &mut z?)[0]"#,
            "Rate limit: 1 call per 1s for each `a::<Vec<u8>>(*x, -1, |y| y + 1, &mut z?)[0]`; sliding window.",
        ),
        (
            r#"count = 1, per = "1s", key = user.to_string().trim().to_lowercase().replace("abc", "def").into_boxed_str().into_string().len()"#,
            "Rate limit: 1 call per 1s for each key; sliding window.",
        ),
    ] {
        assert_eq!(line(args), expected);
    }
}

#[test]
fn it_is_the_last_paragraph_of_docs_and_only_for_rustdoc_where_there_are_none() {
    let documented = expanded("count = 1, per = \"1s\"", &format!("/// Documented.\n#[must_use] {FUNCTION}"));
    let before: Vec<&str> = documented.lines().take_while(|line| !line.starts_with("fn")).collect();
    assert_eq!(before, ["/// Documented.", "#[must_use]", "///", "///Rate limit: 1 call per 1s; sliding window."]);
    let undocumented = expanded("count = 1, per = \"1s\"", FUNCTION);
    assert!(undocumented.starts_with("#[cfg_attr(doc, doc = "), "{undocumented}");
}
