//! The line about the limit in the function's docs.

use super::{FUNCTION, expanded};

/// The text of the documented line, without its markers.
fn line(args: &str) -> String {
    line_of(args, FUNCTION)
}

fn line_of(args: &str, function: &str) -> String {
    let text = expanded(args, function);
    let (_, line) = text.split_once("Rate limit: ").unwrap_or_else(|| panic!("no line: {text}"));
    let (line, _) = line.split_once(".\"").unwrap_or_else(|| panic!("no end: {text}"));
    format!("Rate limit: {line}.")
}

#[test]
fn it_states_the_limit_in_words() {
    for (args, expected) in [
        (r#"count = 100, per = "1s", key = user"#, "Rate limit: 100 calls per 1s for each `user`; sliding window."),
        (r#"count = 1, per = "2 minutes""#, "Rate limit: 1 call per 2 minutes; sliding window."),
        (
            r#"count = 10, per = "1s", algorithm = token_bucket, burst = 50"#,
            "Rate limit: 10 calls per 1s; token bucket of 50.",
        ),
        (
            r#"limit(count = 10, per = "1s"), limit(count = 500, per = "1h"), key = user"#,
            "Rate limit: 10 calls per 1s and 500 calls per 1h for each `user`; sliding window.",
        ),
        (
            r#"limit(count = 10, per = "1s", algorithm = fixed_window), limit(count = 500, per = "1h")"#,
            "Rate limit: 10 calls per 1s (fixed window) and 500 calls per 1h (sliding window).",
        ),
        (
            "count = self.plan.calls(), per = config::PERIOD, cost = 5",
            "Rate limit: a varying number of permits in a fixed period; sliding window; a call takes 5 permits.",
        ),
        (
            "count = CALLS, per = period(), algorithm = token_bucket, burst = BURST",
            "Rate limit: a fixed number of calls in a varying period; token bucket of a fixed number of permits.",
        ),
        (
            r#"count = 1, per = "1s", wait = "2s", dry_run, exempt_when = user == 0 || !ok(user)"#,
            "Rate limit: 1 call per 1s; sliding window; waits at most 2s; some calls are exempt; counted, not enforced.",
        ),
        (
            r#"count = 9, calendar = "month", zone = "Europe/Berlin", starts_on = user, algorithm = fixed_window"#,
            "Rate limit: 9 calls per calendar month from day `user` (Europe/Berlin); fixed window.",
        ),
        (
            r#"limit(count = 9, calendar = "week", week_starts = sunday, algorithm = fixed_window),
               limit(count = 1, calendar = "day", algorithm = fixed_window)"#,
            "Rate limit: 9 calls per calendar week from sunday (UTC) and 1 call per calendar day (UTC); fixed window.",
        ),
        (
            r#"limit(count = 10, per = "1s", key = user), limit(count = 99, per = "1m"), limit(count = 5, per = "1h", key = ()), key = tenant()"#,
            "Rate limit: 10 calls per 1s for each `user`, 99 calls per 1m for each key and 5 calls per 1h in all; sliding window.",
        ),
        ("limiter = self.limiter, key = user", "Rate limit: set by a shared limiter for each `user`."),
        ("limiter = self.limiter, keys = (user, ())", "Rate limit: set by a shared limiter for each `user`."),
    ] {
        assert_eq!(line(args), expected);
    }
}

#[test]
fn expressions_show_only_names_of_arguments() {
    const FUNCTION: &str =
        "fn f(&self, user: u64, (region, admin): (u8, bool), calls: u32, window: Duration) -> Option<()> { None }";
    let line = |args: &str| line_of(args, FUNCTION);
    for (key, shown) in [
        ("user", "`user`"),
        ("&user", "`user`"),
        ("(user, &(region))", "`user` and `region`"),
        ("self.tenant", "key"),
        ("self", "key"),
        ("(self.tenant, user)", "key"),
        ("user.id()", "key"),
        ("ctx.author().id.get()", "key"),
        ("SECRET", "key"),
        ("{ user }", "key"),
        ("()", "key"),
    ] {
        let expected = format!("Rate limit: 1 call per 1s for each {shown}; sliding window.");
        assert_eq!(line(&format!("count = 1, per = \"1s\", key = {key}")), expected);
    }
    assert_eq!(
        line("count = calls, per = window, cost = calls, exempt_when = admin"),
        "Rate limit: `calls` permits per `window`; sliding window; a call takes `calls` permits; exempt if `admin`."
    );
}

#[test]
fn docs_false_omits_the_line() {
    for function in [FUNCTION.to_owned(), format!("/// Documented.\n{FUNCTION}")] {
        assert!(!expanded("count = 1, per = \"1s\", docs = false", &function).contains("Rate limit"));
        assert!(expanded("count = 1, per = \"1s\", docs = true", &function).contains("Rate limit"));
    }
}

#[test]
fn without_docs_the_line_is_for_rustdoc_only() {
    let documented = expanded("count = 1, per = \"1s\"", &format!("/// Documented.\n#[must_use] {FUNCTION}"));
    let before: Vec<&str> = documented.lines().take_while(|line| !line.starts_with("fn")).collect();
    assert_eq!(before, ["/// Documented.", "#[must_use]", "///", "/// Rate limit: 1 call per 1s; sliding window."]);
    let undocumented = expanded("count = 1, per = \"1s\"", FUNCTION);
    assert!(undocumented.starts_with("#[cfg_attr(doc, doc = "), "{undocumented}");
}

#[test]
fn the_line_is_in_no_section() {
    let shown = |docs: &str| {
        let text = expanded("count = 1, per = \"1s\"", &format!("{docs}\n{FUNCTION}"));
        let docs: Vec<String> = text.lines().take_while(|line| !line.starts_with("fn")).map(str::to_owned).collect();
        docs
    };
    let line = "/// Rate limit: 1 call per 1s; sliding window.";
    let errors = shown("/// Sends.\n///\n/// ```\n/// # let x = 1;\n/// ```\n///\n/// # Errors\n/// If it fails.");
    let expected = [
        "/// Sends.",
        "///",
        "/// ```",
        "/// # let x = 1;",
        "/// ```",
        "///",
        "///",
        line,
        "///",
        "/// # Errors",
        "/// If it fails.",
    ];
    assert_eq!(errors, expected);
    // The first line of docs is their summary.
    assert_eq!(shown("/// # Errors\n/// If it fails."), ["/// # Errors", "/// If it fails.", "///", line]);
    assert_eq!(shown("/// Sends #1.\n/// #2 too."), ["/// Sends #1.", "/// #2 too.", "///", line]);
}
