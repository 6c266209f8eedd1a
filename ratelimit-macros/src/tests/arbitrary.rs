//! Arbitrary tokens: the macro never panics, and what it limits still parses.

use proptest::prelude::*;

use super::{ALL, FUNCTION, NONE, limited, tokens};

const ARGS: &[&str] = &[
    r#"count = 100, per = "1s", key = user"#,
    r#"limit(count = 2, per = "1s"), limit(count = N, per = PER, algorithm = token_bucket, burst = 5), cost = 2"#,
    "count = self.calls, per = Duration::from_secs(1), or_else = |_| Err(()), exempt_when = a < b || c, dry_run, docs = false, \
     allow(throws, memoize)",
    r#"limiter = self.limiter, key = (self.a, (b, c[0])), wait = "2s", deduct_when = Result::is_ok"#,
    r#"count = 1, per = "1h", name = "n", backend = redis, on_backend_error = deny, backoff(initial = "1s", max = "1h")"#,
    r#"count = 1, per = "1s", wait, crate = a::b"#,
    r#"count = 1, per = "1s", ban = "1m", pause_when = |it| it.after, pause_max = "1d""#,
    r#"count = 9, per = "1s", cost = 3, settle = |outcome| outcome.tokens(), settle_later"#,
    r#"count = 9, per = "1s", key = user, permit = reserved, exempt_when = c"#,
];

const ITEMS: &[&str] = &[
    FUNCTION,
    "pub(crate) async unsafe fn f<'a, T: Into<u32>, const N: usize>(&'a mut self, (a, b): (T, [u8; N])) -> io::Result<&'a T> where T: Copy { x.await? }",
    "fn f(self: Pin<&mut Self>) -> Pin<Box<dyn Future<Output = Result<(), E>> + Send>> { let a = 1; Box::pin(async move { a }) }",
    "/// Docs.\n#[must_use] extern \"C\" fn f() -> impl Future<Output = impl Iterator<Item = u32>> { async {} }",
    "fn f(x: impl Fn(u32) -> u32) -> Result<impl Iterator<Item = (u8, impl Copy)>, E> { loop {} }",
    "const fn f() -> ! { loop {} }",
    "struct S { a: u32 }",
    "trait T { fn f(); }",
    "fn f();",
    "async fn f() -> impl IntoResponse { \"\" }",
];

/// The tokens from which inputs are built.
const WORDS: &[&str] = &[
    "count",
    "per",
    "calendar",
    "zone",
    "week_starts",
    "starts_on",
    "\"month\"",
    "key",
    "cost",
    "limit",
    "wait",
    "or_else",
    "crate",
    "backoff",
    "self",
    "Self",
    "fn",
    "async",
    "move",
    "const",
    "impl",
    "dyn",
    "Future",
    "Output",
    "Result",
    "Box",
    "Pin",
    "pin",
    "where",
    "unsafe",
    "extern",
    "pub",
    "let",
    "as",
    "N",
    "PER",
    "_",
    "x",
    "r#type",
    "$crate",
    "0",
    "1",
    "-1",
    "1.5",
    "1s",
    "\"1s\"",
    "\"\"",
    "\"1M\"",
    "'a'",
    "'a",
    "true",
    "b\"x\"",
    "99999999999999999999",
    "=",
    "==",
    "=>",
    ",",
    ";",
    ":",
    "::",
    "->",
    "<",
    ">",
    "&",
    "&&",
    "|",
    "||",
    "+",
    "-",
    "*",
    "!",
    "?",
    ".",
    "..",
    "#",
    "@",
    "$",
    "()",
    "[]",
    "{}",
    "(,)",
    "{ ; }",
    "#[a]",
    "#![a]",
    "async {}",
    "async move { 1 }",
    "Box::pin(async move {})",
    "|x| x",
    "x.await",
    "x?",
    "match x { _ => 1 }",
    "if a { b } else { c }",
];

/// A seed with some of its tokens replaced, removed or added.
fn mutated(seeds: &'static [&'static str]) -> impl Strategy<Value = String> {
    let edits = proptest::collection::vec((any::<prop::sample::Index>(), 0..3_u8, 0..WORDS.len()), 0..6);
    (0..seeds.len(), edits).prop_map(move |(seed, edits)| {
        let mut parts: Vec<String> = split(seeds[seed]);
        for (at, kind, word) in edits {
            let at = at.index(parts.len() + 1);
            match kind {
                0 => parts.insert(at, WORDS[word].to_owned()),
                1 if at < parts.len() => parts[at] = WORDS[word].to_owned(),
                _ if at < parts.len() => drop(parts.remove(at)),
                _ => {}
            }
        }
        parts.join(" ")
    })
}

/// Arbitrary tokens.
fn any_tokens() -> impl Strategy<Value = String> {
    proptest::collection::vec(0..WORDS.len(), 0..12)
        .prop_map(|words| words.into_iter().map(|word| WORDS[word]).collect::<Vec<_>>().join(" "))
}

/// The text in exchangeable pieces: words, literals, single signs and brackets.
fn split(text: &str) -> Vec<String> {
    let spaced: String = text
        .chars()
        .flat_map(|letter| if "(){}[],;=|".contains(letter) { vec![' ', letter, ' '] } else { vec![letter] })
        .collect();
    spaced.split_whitespace().map(str::to_owned).collect()
}

fn check(args: &str, item: &str) -> Result<(), TestCaseError> {
    // Text that does not lex never reaches a macro.
    let (Ok(_), Ok(item_tokens)) = (args.parse::<proc_macro2::TokenStream>(), item.parse::<proc_macro2::TokenStream>())
    else {
        return Ok(());
    };
    let was_valid = syn::parse2::<syn::Item>(item_tokens).is_ok();
    for features in [ALL, NONE] {
        let output = limited(args, item, features);
        if was_valid {
            let parsed = syn::parse2::<syn::File>(output.clone());
            prop_assert!(parsed.is_ok(), "{:?}\n{}", parsed.err().map(|error| error.to_string()), output);
        }
    }
    Ok(())
}

#[test]
fn the_seeds_are_valid() {
    for args in ARGS {
        let output = limited(args, FUNCTION, ALL).to_string();
        assert!(!output.contains("compile_error"), "{args}: {output}");
    }
    for item in ITEMS {
        let _ = tokens(item);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn changed_arguments_never_panic(args in mutated(ARGS), item in 0..ITEMS.len()) {
        check(&args, ITEMS[item])?;
    }

    #[test]
    fn changed_items_never_panic(args in 0..ARGS.len(), item in mutated(ITEMS)) {
        check(ARGS[args], &item)?;
    }

    #[test]
    fn any_tokens_never_panic(args in any_tokens(), item in any_tokens()) {
        check(&args, &item)?;
    }
}
