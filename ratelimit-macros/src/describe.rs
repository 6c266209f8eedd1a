//! The line about the limit in the function's docs.

use proc_macro2::{Delimiter, Spacing, TokenStream, TokenTree};
use quote::ToTokens;
use syn::{Expr, Lit};

use crate::args::bare;
use crate::arguments::Arg;
use crate::diagnostics::Diagnostics;
use crate::item::Item;
use crate::model::{Keys, Limit, Limiter, Model, Own, Per, Permits, StartsOn, Wait};
use crate::suggest::listed;

/// Whether the docs get the line: not with `docs = false`.
pub(crate) fn is_wanted(docs: Option<&Arg<Expr>>, errors: &mut Diagnostics) -> bool {
    let Some(arg) = docs else { return true };
    if let Expr::Lit(literal) = bare(&arg.value)
        && let Lit::Bool(is_wanted) = &literal.lit
    {
        return is_wanted.value;
    }
    errors.over(
        &arg.value,
        "`docs` says whether the docs of the function state the limit: write `docs = false`, or leave it out",
    );
    true
}

/// `Rate limit: 100 calls per 1s for each ``user_id``; sliding window.`
///
/// Shows only the names of arguments, which the signature shows as well, and no expressions. Other
/// macros publish docs: in `OpenAPI` documents, in the help of chat bots, to language models.
pub(crate) fn doc_line(model: &Model, item: &Item) -> String {
    let mut line = String::from("Rate limit: ");
    match &model.limiter {
        Limiter::Own(own) => line.push_str(&limits(own, model, item)),
        Limiter::Shared(_) => line.push_str("set by a shared limiter"),
    }
    let shared_keys = if let Some(Keys::Shared(keys)) = &model.keys { Some(keys) } else { None };
    if let Some(key) = model.key.as_ref().or(shared_keys) {
        line.push_str(" for each ");
        line.push_str(&arguments(&key.value, item).unwrap_or_else(|| "key".to_owned()));
    }
    if let Limiter::Own(own) = &model.limiter
        && let Some(algorithm) = one_algorithm(&own.limits, item)
    {
        line.push_str("; ");
        line.push_str(&algorithm);
    }
    if let Some(cost) = &model.cost {
        line.push_str("; a call takes ");
        line.push_str(&count(&cost.permits, "permit", item));
    }
    match model.wait.as_ref().map(|wait| &wait.bound) {
        Some(Wait::Forever) => line.push_str("; waits"),
        Some(Wait::AtMost(_, text)) => {
            line.push_str("; waits at most ");
            line.push_str(text);
        }
        None => {}
    }
    if let Some(exempt) = &model.exempt_when {
        match arguments(&exempt.value, item) {
            Some(argument) => {
                line.push_str("; exempt if ");
                line.push_str(&argument);
            }
            None => line.push_str("; some calls are exempt"),
        }
    }
    if matches!(&model.limiter, Limiter::Own(own) if own.dry_run) {
        line.push_str("; counted, not enforced");
    }
    line.push('.');
    line
}

fn limits(own: &Own, model: &Model, item: &Item) -> String {
    let unit = if model.cost.is_some() { "permit" } else { "call" };
    let names_algorithm = one_algorithm(&own.limits, item).is_none();
    let mut text = String::new();
    for (index, limit) in own.limits.iter().enumerate() {
        if index > 0 {
            text.push_str(if index + 1 == own.limits.len() { " and " } else { ", " });
        }
        text.push_str(&count(&limit.count, unit, item));
        text.push(' ');
        text.push_str(&period(&limit.per, item));
        if let Some(Keys::Own(keys)) = &model.keys {
            match keys.get(limit.key).and_then(Option::as_ref) {
                Some(key) => {
                    text.push_str(" for each ");
                    text.push_str(&arguments(&key.value, item).unwrap_or_else(|| "key".to_owned()));
                }
                None => text.push_str(" in all"),
            }
        }
        if names_algorithm {
            text.push_str(" (");
            text.push_str(&algorithm(limit, item));
            text.push(')');
        }
    }
    text
}

fn period(per: &Per, item: &Item) -> String {
    match per {
        Per::Literal(_, per) => format!("per {per}"),
        Per::Constant(_) => "in a fixed period".to_owned(),
        Per::Calendar(calendar) => {
            let zone = calendar.zone.as_ref().map_or_else(|| "UTC".to_owned(), syn::LitStr::value);
            let from = match (&calendar.starts_on, calendar.week_starts) {
                (Some(StartsOn::Literal(day)), _) => format!(" from day {day}"),
                (Some(StartsOn::Constant(_)), _) => " from a fixed day".to_owned(),
                (Some(StartsOn::Read(arg)), _) => match arguments(&arg.value, item) {
                    Some(argument) => format!(" from day {argument}"),
                    None => " from a varying day".to_owned(),
                },
                (None, Some(day)) => format!(" from {day}"),
                (None, None) => String::new(),
            };
            format!("per calendar {}{from} ({zone})", calendar.unit.name())
        }
        Per::Read(arg) => match arguments(&arg.value, item) {
            Some(argument) => format!("per {argument}"),
            None => "in a varying period".to_owned(),
        },
    }
}

fn count(permits: &Permits, unit: &str, item: &Item) -> String {
    match permits {
        Permits::Literal(1) => format!("1 {unit}"),
        Permits::Literal(count) => format!("{count} {unit}s"),
        Permits::Constant(_) => format!("a fixed number of {unit}s"),
        Permits::Read(arg) => match arguments(&arg.value, item) {
            Some(argument) => format!("{argument} {unit}s"),
            None => format!("a varying number of {unit}s"),
        },
    }
}

/// The algorithm in words, if all limits share it.
fn one_algorithm(limits: &[Limit], item: &Item) -> Option<String> {
    let (first, rest) = limits.split_first()?;
    let words = algorithm(first, item);
    rest.iter().all(|limit| algorithm(limit, item) == words).then_some(words)
}

fn algorithm(limit: &Limit, item: &Item) -> String {
    let name = limit.algorithm.name().replace('_', " ");
    match &limit.burst {
        None => name,
        Some(Permits::Literal(burst)) => format!("{name} of {burst}"),
        Some(permits) => format!("{name} of {}", count(permits, "permit", item)),
    }
}

/// The arguments that make up an expression: one, or a tuple of them.
fn arguments(value: &Expr, item: &Item) -> Option<String> {
    let mut names = Vec::new();
    collect(value, item, &mut names)?;
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    (!names.is_empty()).then(|| listed(&names, " and "))
}

/// Collects names of arguments. `None` if the expression contains anything else.
fn collect(value: &Expr, item: &Item, names: &mut Vec<String>) -> Option<()> {
    match bare(value) {
        Expr::Reference(it) => collect(&it.expr, item, names),
        Expr::Tuple(it) => it.elems.iter().try_for_each(|element| collect(element, item, names)),
        Expr::Path(it) => {
            let name = it.path.get_ident().filter(|name| *name != "self")?;
            names.push(item.argument_in(name.to_token_stream())?.to_string());
            Some(())
        }
        _ => None,
    }
}

/// The source text of tokens on one line, spaced roughly as rustfmt would.
pub(crate) fn text(tokens: TokenStream) -> String {
    let mut writer = Writer { text: String::new(), space: false, after: After::Start, in_bars: false };
    writer.tokens(tokens);
    writer.text
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum After {
    /// The beginning, or the position after an opening bracket or a prefix operator.
    Start,
    Word,
    Close,
    Operator,
}

struct Writer {
    text: String,
    space: bool,
    after: After,
    /// Inside the bars of a closure.
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
                    // `<` and `>` of generics stand alone even if they touch.
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
            // A prefix operator: `&x`, `*x`, `!x`, `'a`, `|x|`.
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
