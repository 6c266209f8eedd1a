//! The line about the limit in the docs of the function.

use proc_macro2::{Delimiter, Spacing, TokenStream, TokenTree};
use quote::ToTokens;

use crate::model::{Algorithm, Limit, Limiter, Model, Own, Per, Permits, Wait};

/// An expression longer than this is not shown.
const LONGEST_CODE: usize = 80;

/// `Rate limit: 100 calls per 1s for each ``user_id``; sliding window.`
pub(crate) fn doc_line(model: &Model) -> String {
    let what = match &model.limiter {
        Limiter::Own(own) => limits(own, model),
        Limiter::Shared(limiter) => format!("that of {}", code(&limiter.value, "another limiter")),
    };
    let mut line = format!("Rate limit: {what}");
    if let Some(key) = &model.key {
        line.push_str(" for each ");
        line.push_str(&code(&key.value, "key"));
    }
    if let Limiter::Own(own) = &model.limiter
        && let Some(algorithm) = one_algorithm(&own.limits)
    {
        line.push_str("; ");
        line.push_str(&algorithm);
    }
    if let Some(cost) = &model.cost {
        line.push_str("; a call takes ");
        line.push_str(&count(&cost.permits, "permit"));
    }
    match &model.wait {
        Some(Wait::Forever) => line.push_str("; calls wait for it"),
        Some(Wait::AtMost(_, text)) => {
            line.push_str("; calls wait at most ");
            line.push_str(text);
        }
        None => {}
    }
    if let Some(exempt) = &model.exempt_when {
        line.push_str("; not if ");
        line.push_str(&code(&exempt.value, "the call is exempt"));
    }
    if matches!(&model.limiter, Limiter::Own(own) if own.dry_run) {
        line.push_str("; counted, not enforced");
    }
    line.push('.');
    line
}

fn limits(own: &Own, model: &Model) -> String {
    let unit = if model.cost.is_some() { "permit" } else { "call" };
    let names_algorithm = one_algorithm(&own.limits).is_none();
    let mut text = String::new();
    for (index, limit) in own.limits.iter().enumerate() {
        if index > 0 {
            text.push_str(if index + 1 == own.limits.len() { " and " } else { ", " });
        }
        text.push_str(&count(&limit.count, unit));
        text.push_str(" per ");
        match &limit.per {
            Per::Literal(_, per) => text.push_str(per),
            Per::Constant(arg) => text.push_str(&code(&arg.value, "period")),
            Per::Read(arg) => text.push_str(&code(&arg.value, "period")),
        }
        if names_algorithm {
            text.push_str(" (");
            text.push_str(&algorithm(limit));
            text.push(')');
        }
    }
    text
}

fn count(permits: &Permits, unit: &str) -> String {
    match permits {
        Permits::Literal(1) => format!("1 {unit}"),
        Permits::Literal(count) => format!("{count} {unit}s"),
        Permits::Constant(arg) => format!("{} {unit}s", code(&arg.value, "so many")),
        Permits::Read(arg) => format!("{} {unit}s", code(&arg.value, "so many")),
    }
}

/// The algorithm that all limits share, in words.
fn one_algorithm(limits: &[Limit]) -> Option<String> {
    let (first, rest) = limits.split_first()?;
    let words = algorithm(first);
    rest.iter().all(|limit| algorithm(limit) == words).then_some(words)
}

fn algorithm(limit: &Limit) -> String {
    match limit.algorithm {
        Algorithm::SlidingWindow => "sliding window".to_owned(),
        Algorithm::FixedWindow => "fixed window".to_owned(),
        Algorithm::TokenBucket => match &limit.burst {
            None => "token bucket".to_owned(),
            Some(Permits::Literal(burst)) => format!("token bucket of {burst}"),
            Some(Permits::Constant(arg)) => format!("token bucket of {}", code(&arg.value, "its own size")),
            Some(Permits::Read(arg)) => format!("token bucket of {}", code(&arg.value, "its own size")),
        },
    }
}

/// The expression as code, or `otherwise` where it is too long to be read or would end the code.
fn code(value: &dyn ToTokens, otherwise: &str) -> String {
    let text = text(value.to_token_stream());
    if text.contains('`') || text.chars().count() > LONGEST_CODE { otherwise.to_owned() } else { format!("`{text}`") }
}

/// Source text of tokens on one line, spaced much as rustfmt would.
pub(crate) fn text(tokens: TokenStream) -> String {
    let mut writer = Writer { text: String::new(), space: false, after: After::Start, in_bars: false };
    writer.tokens(tokens);
    writer.text
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum After {
    /// The beginning, an opening bracket or a prefix operator.
    Start,
    Word,
    Close,
    Operator,
}

struct Writer {
    text: String,
    space: bool,
    after: After,
    /// Between the bars of a closure.
    in_bars: bool,
}

impl Writer {
    fn tokens(&mut self, tokens: TokenStream) {
        let mut tokens = tokens.into_iter().peekable();
        while let Some(token) = tokens.next() {
            match token {
                TokenTree::Ident(word) => self.word(&word.to_string()),
                TokenTree::Literal(literal) => self.word(&literal.to_string()),
                TokenTree::Group(group) => self.group(group.delimiter(), group.stream()),
                TokenTree::Punct(punct) => {
                    let mut operator = String::from(punct.as_char());
                    let mut last = punct;
                    // `<` and `>` of generics stand alone even where they touch.
                    while last.spacing() == Spacing::Joint && !matches!(last.as_char(), '\'' | '<' | '>') {
                        let Some(TokenTree::Punct(next)) = tokens.peek() else { break };
                        let pair = format!("{}{}", last.as_char(), next.as_char());
                        if !matches!(pair.as_str(), "::" | "&&" | "||" | "==" | "!=" | "=>" | "->" | "..") {
                            break;
                        }
                        operator.push(next.as_char());
                        last = next.clone();
                        tokens.next();
                    }
                    self.operator(&operator);
                }
            }
        }
    }

    fn word(&mut self, word: &str) {
        if self.space || matches!(self.after, After::Word | After::Close) {
            self.text.push(' ');
        }
        self.text.push_str(word);
        self.space = false;
        self.after = After::Word;
    }

    fn group(&mut self, delimiter: Delimiter, inner: TokenStream) {
        let (open, close) = match delimiter {
            Delimiter::Parenthesis => ("(", ")"),
            Delimiter::Bracket => ("[", "]"),
            Delimiter::Brace => ("{ ", " }"),
            Delimiter::None => return self.tokens(inner),
        };
        if self.space || (delimiter == Delimiter::Brace && self.after != After::Start) {
            self.text.push(' ');
        }
        self.text.push_str(open);
        self.space = false;
        self.after = After::Start;
        self.tokens(inner);
        self.text.push_str(close);
        self.space = false;
        self.after = After::Close;
    }

    fn operator(&mut self, operator: &str) {
        let is_behind_value = matches!(self.after, After::Word | After::Close);
        match operator {
            "." | "::" | "?" | "<" | ">" if is_behind_value => {
                self.text.push_str(operator);
                self.space = false;
                self.after = if matches!(operator, "?" | ">") { After::Close } else { After::Start };
            }
            "," | ";" | ":" => {
                self.text.push_str(operator);
                self.space = true;
                self.after = After::Operator;
            }
            "|" if self.in_bars => {
                self.text.push_str(operator);
                self.in_bars = false;
                self.space = true;
                self.after = After::Operator;
            }
            // In front of a value: `&x`, `*x`, `!x`, `'a`, `|x|`.
            _ if !is_behind_value || operator == "!" || operator == "'" => {
                if self.space || operator == "'" && self.after == After::Word {
                    self.text.push(' ');
                }
                self.in_bars = operator == "|";
                self.text.push_str(operator);
                self.space = false;
                self.after = After::Start;
            }
            _ => {
                self.text.push(' ');
                self.text.push_str(operator);
                self.space = true;
                self.after = After::Operator;
            }
        }
    }
}
