//! Tests of the attribute as a function over tokens.

use std::collections::BTreeSet;

use proc_macro2::TokenStream;

use crate::arguments::{self, Args, List as _};
use crate::model::{BACKENDS, Features};

mod arbitrary;
mod expansions;
mod lines;

/// A runtime with all features.
const ALL: Features = Features { backends: [true; BACKENDS.len()], calendar: true, responses: true, tokio: true };
/// A runtime without features.
const NONE: Features = Features { backends: [false; BACKENDS.len()], calendar: false, responses: false, tokio: false };

/// `#[rate_limit(args)] item`, expanded and formatted. The runtime's import is removed and its path
/// is `rt`.
fn expanded(args: &str, item: &str) -> String {
    let import = "use :: ratelimit_runtime :: macro_support :: v1 as __runtime ;";
    let tokens = limited(args, item, ALL).to_string();
    let tokens = if tokens.contains(import) { tokens.replace(import, "").replace("__runtime", "rt") } else { tokens };
    match syn::parse_str::<syn::File>(&tokens) {
        Ok(file) => prettyplease::unparse(&file),
        Err(error) => panic!("the expansion does not parse: {error}\n{tokens}"),
    }
}

fn limited(args: &str, item: &str, features: Features) -> TokenStream {
    crate::attribute::expand(tokens(args), tokens(item), features)
}

fn tokens(text: &str) -> TokenStream {
    text.parse().unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// The messages of all mistakes, in the order in which they are reported.
fn mistakes(args: &str, item: &str, features: Features) -> Vec<String> {
    let file: syn::File = match syn::parse2(limited(args, item, features)) {
        Ok(file) => file,
        Err(error) => panic!("the output does not parse: {error}"),
    };
    file.items
        .iter()
        .filter_map(|item| match item {
            syn::Item::Macro(item) if item.mac.path.segments.last()?.ident == "compile_error" => {
                syn::parse2::<syn::LitStr>(item.mac.tokens.clone()).ok().map(|message| message.value())
            }
            _ => None,
        })
        .collect()
}

const FUNCTION: &str = "fn call(user: u32) -> Result<u32, RateLimitExceeded> { Ok(user) }";

#[test]
fn a_missing_runtime_is_one_error() {
    let args = "limit(count = N, per = P), limit(count = user, per = q(), algorithm = token_bucket, burst = B), backend = b(), \
                key = user, cost = C, deduct_when = d, backoff(initial = \"1s\", max = \"2s\"), exempt_when = e, dry_run";
    assert_eq!(limited(args, FUNCTION, ALL).to_string().matches("ratelimit_runtime").count(), 1);
}

#[test]
fn a_condition_is_no_neighbours_name() {
    let function = |attribute: &str| format!("#[cfg_attr({attribute})] {FUNCTION}");
    let mistakes = |attribute: &str| mistakes("count = 1, per = \"1s\"", &function(attribute), ALL).len();
    assert_eq!(mistakes("all(throws, memoize), inline, doc(ensures)"), 0);
    assert_eq!(mistakes("throws, inline, ::culpa::throws(E), contracts::ensures(ret > 0)"), 2);
}

#[test]
fn on_a_mistake_the_function_stays_as_it_is() {
    let output = limited("count = 0, per = \"1s\"", FUNCTION, ALL).to_string();
    let function = tokens(FUNCTION).to_string();
    assert!(output.starts_with(&function), "{output}");
    assert!(output.contains("compile_error"), "{output}");
}

#[test]
fn all_mistakes_of_an_attribute_are_reported_at_once() {
    let found = mistakes("cout = 0, per = \"1x\", algorithm = gcra, cost = -1, wait = 5", "const fn f() {}", ALL);
    assert_eq!(found.len(), 6, "{found:#?}");
}

#[test]
fn unreadable_arguments_are_not_reported_missing() {
    for args in ["cout = 1, per = \"1s\"", "count = @, per = \"1s\"", "1, 2, 3", "frequency = 5", "count: 1, per: 2"] {
        let found = mistakes(args, FUNCTION, ALL);
        assert!(!found.iter().any(|message| message.contains("needs")), "{args}: {found:#?}");
    }
}

#[test]
fn the_docs_have_a_row_for_every_argument() {
    let rows = concat!(rows_of_a_limit!(), rows_of_a_call!()).lines().filter_map(|row| row.strip_prefix(" | `"));
    let documented: BTreeSet<&str> =
        rows.filter_map(|row| row.split(|other: char| !other.is_ascii_lowercase() && other != '_').next()).collect();
    let known: BTreeSet<&str> = Args::takes().iter().map(|argument| argument.name).collect();
    assert_eq!(documented, known);
}

#[test]
fn rules_name_arguments_that_exist() {
    let takes = Args::takes();
    let exclusive = arguments::EXCLUSIVE.iter().chain(arguments::NEEDS);
    let named = exclusive.flat_map(|(one, other, _)| [*one, *other]).chain(arguments::OF_LIMITER.iter().copied());
    for name in named {
        assert!(takes.iter().any(|argument| argument.name == name), "{name}");
    }
}

#[test]
fn missing_features_are_named() {
    for backend in &BACKENDS[1..] {
        let found = mistakes(&format!("count = 1, per = \"1s\", backend = {backend}"), FUNCTION, NONE);
        assert!(
            matches!(found.as_slice(), [message] if message.contains(&format!("feature `{backend}`"))),
            "{found:?}"
        );
        assert!(mistakes(&format!("count = 1, per = \"1s\", backend = {backend}"), FUNCTION, ALL).is_empty());
    }
    let calendar = mistakes("count = 1, calendar = \"day\", algorithm = fixed_window", FUNCTION, NONE);
    assert!(matches!(calendar.as_slice(), [message] if message.contains("`calendar`")), "{calendar:?}");
    let tokio = mistakes("count = 1, per = \"1s\", wait", "async fn call() {}", NONE);
    assert!(matches!(tokio.as_slice(), [message] if message.contains("`tokio`")), "{tokio:?}");
    assert!(mistakes("count = 1, per = \"1s\", wait", "fn call() {}", NONE).is_empty());
    let response = mistakes("count = 1, per = \"1s\"", "fn call() -> impl IntoResponse {}", NONE);
    assert!(matches!(response.as_slice(), [message] if message.contains("`axum`")), "{response:?}");
}

#[test]
fn arguments_after_a_broken_value_are_read() {
    let found =
        mistakes("count = 1, per = \"1s\", key = (user +), colour = red, cost = 2 +, dry_run = 1", FUNCTION, ALL);
    assert_eq!(found.len(), 4, "{found:#?}");
}

#[test]
fn a_pattern_moved_by_async_trait_is_no_key() {
    let method = "fn call<'life0, 'async_trait>(&'life0 self, __arg1: (u32, u32)) -> Pin<Box<dyn Future<Output = Option<u32>> + 'async_trait>> {
        Box::pin(async move { let __self = self; let (a, b) = { let __arg1 = __arg1; __arg1 }; let __ret: Option<u32> = { Some(a + b) }; __ret })
    }";
    let found = mistakes("count = 1, per = \"1s\", key = (self.id, a)", method, ALL);
    assert!(matches!(found.as_slice(), [message] if message.starts_with("`a` is part of a pattern")), "{found:?}");
    assert!(mistakes("count = 1, per = \"1s\", key = self.id", method, ALL).is_empty());
}
