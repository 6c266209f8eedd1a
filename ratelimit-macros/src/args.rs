//! The arguments as written: names and values. Only the grammar and duplicates are checked here.

use proc_macro2::{Ident, TokenStream};
use syn::ext::IdentExt;
use syn::parse::discouraged::Speculative;
use syn::parse::{ParseStream, Parser};
use syn::punctuated::Punctuated;
use syn::{Expr, Token, parenthesized, token};

use crate::arguments::{Arg, Args, Argument, BackoffArgs, LimitArgs, List, Slot, WaitArgs};
use crate::diagnostics::Diagnostics;
use crate::suggest::{listed, nearest, nearest_three};

/// Reads every argument that can be read, and reports the others.
pub(crate) fn parse(tokens: TokenStream, errors: &mut Diagnostics) -> Args {
    let mut args = Args::default();
    let parser = |input: ParseStream<'_>| {
        read(&mut args, input, errors);
        Ok(())
    };
    // Fails only on leftover tokens, and `read` leaves none.
    if let Err(error) = parser.parse2(tokens) {
        errors.push(error);
    }
    args
}

/// What follows the name of an argument.
trait Written: Sized {
    fn read(name: &Ident, example: &str, input: ParseStream<'_>, errors: &mut Diagnostics) -> syn::Result<Self>;
}

impl Written for Expr {
    fn read(name: &Ident, example: &str, input: ParseStream<'_>, _: &mut Diagnostics) -> syn::Result<Expr> {
        value(name, example, input)
    }
}

/// A flag.
impl Written for () {
    fn read(name: &Ident, instead: &str, input: ParseStream<'_>, _: &mut Diagnostics) -> syn::Result<()> {
        if at_end(input) {
            return Ok(());
        }
        Err(syn::Error::new(input.span(), format!("`{name}` takes no value: {instead}, or leave it out")))
    }
}

impl Written for Vec<Ident> {
    fn read(name: &Ident, example: &str, input: ParseStream<'_>, _: &mut Diagnostics) -> syn::Result<Vec<Ident>> {
        names_of_attributes(name, example, input)
    }
}

impl Written for LimitArgs {
    fn read(name: &Ident, example: &str, input: ParseStream<'_>, errors: &mut Diagnostics) -> syn::Result<LimitArgs> {
        list(name, example, input, errors)
    }
}

impl Written for BackoffArgs {
    fn read(name: &Ident, example: &str, input: ParseStream<'_>, errors: &mut Diagnostics) -> syn::Result<BackoffArgs> {
        list(name, example, input, errors)
    }
}

impl Written for WaitArgs {
    fn read(name: &Ident, example: &str, input: ParseStream<'_>, errors: &mut Diagnostics) -> syn::Result<WaitArgs> {
        if input.peek(token::Paren) {
            return list(name, "wait(max = \"2s\", queue = 100)", input, errors);
        }
        let mut wait = WaitArgs::default();
        if !at_end(input) {
            wait.max = Some(Arg { name: name.clone(), value: value(name, example, input)? });
        }
        Ok(wait)
    }
}

impl<T: Written> Slot for Option<Arg<T>> {
    fn read(
        &mut self,
        name: &Ident,
        argument: &Argument,
        input: ParseStream<'_>,
        errors: &mut Diagnostics,
    ) -> syn::Result<()> {
        let value = T::read(name, argument.example, input, errors)?;
        if self.is_some() {
            errors.at(name.span(), format!("`{name}` is given twice: keep one"));
        } else {
            *self = Some(Arg { name: name.clone(), value });
        }
        Ok(())
    }

    fn name(&self) -> Option<&Ident> {
        self.as_ref().map(|arg| &arg.name)
    }
}

/// An argument that may be repeated.
impl<T: Written> Slot for Vec<Arg<T>> {
    fn read(
        &mut self,
        name: &Ident,
        argument: &Argument,
        input: ParseStream<'_>,
        errors: &mut Diagnostics,
    ) -> syn::Result<()> {
        let value = T::read(name, argument.example, input, errors)?;
        self.push(Arg { name: name.clone(), value });
        Ok(())
    }

    fn name(&self) -> Option<&Ident> {
        self.first().map(|arg| &arg.name)
    }
}

/// A list in the parentheses of an argument.
fn list<L: List>(name: &Ident, example: &str, input: ParseStream<'_>, errors: &mut Diagnostics) -> syn::Result<L> {
    let mut inner = L::default();
    group(name, input, example, &mut |content| read(&mut inner, content, errors))?;
    Ok(inner)
}

/// The contents of `allow(..)`.
fn names_of_attributes(name: &Ident, example: &str, input: ParseStream<'_>) -> syn::Result<Vec<Ident>> {
    let mut names = Vec::new();
    let mut mistake = None;
    group(name, input, example, &mut |content| match Punctuated::<Ident, Token![,]>::parse_terminated_with(
        content,
        Ident::parse_any,
    ) {
        Ok(parsed) => names.extend(parsed),
        Err(error) => {
            mistake = Some(error);
            while !content.is_empty() {
                skip_token(content);
            }
        }
    })?;
    match mistake {
        Some(mistake) => {
            Err(syn::Error::new(mistake.span(), "`allow(..)` takes names of attributes: write `allow(throws)`"))
        }
        None => Ok(names),
    }
}

/// Arguments separated by commas. Reports a mistake in one and continues with the next.
fn read<L: List>(list: &mut L, input: ParseStream<'_>, errors: &mut Diagnostics) {
    let takes = L::takes();
    let known: Vec<&str> = takes.iter().map(|argument| argument.name).collect();
    let known = known.as_slice();
    while !input.is_empty() {
        let Ok(name) = input.call(Ident::parse_any) else {
            // A second nameless value repeats the first misunderstanding.
            if !list.unread().anything {
                errors.push(input.error(format!("expected the name of an argument: write `{}`", L::EXAMPLE)));
            }
            list.unread().add(None);
            skip_argument(input, known);
            continue;
        };
        let written = name.to_string();
        let argument = takes.iter().find(|argument| argument.name == written);
        let (Some(argument), Some(slot)) = (argument, list.slot(&written)) else {
            let meant = likely(&written, &takes, known);
            errors.at(name.span(), unknown(&written, L::OF, known, meant));
            list.unread().add(meant);
            skip_argument(input, known);
            continue;
        };
        if let Err(error) = slot.read(&name, argument, input, errors) {
            errors.push(error);
            list.unread().add(Some(&written));
            skip_argument(input, known);
            continue;
        }
        if input.is_empty() {
            break;
        }
        if input.peek(Token![,]) {
            skip_token(input);
        } else if starts_argument(input, known) {
            errors.at(input.span(), format!("a comma is missing before `{}`", next_word(input)));
        } else {
            errors.at(input.span(), format!("expected a comma after `{name}`"));
            skip_token(input);
            // `;` instead of a comma
            if !starts_argument(input, known) {
                skip_argument(input, known);
            }
        }
    }
}

/// `= value`. If something else follows the name, the error shows how to write it.
fn value(name: &Ident, example: &str, input: ParseStream<'_>) -> syn::Result<Expr> {
    if at_end(input) {
        return Err(syn::Error::new(name.span(), format!("`{name}` has no value: write `{example}`")));
    }
    if !input.peek(Token![=]) || input.peek(Token![==]) || input.peek(Token![=>]) {
        return Err(input.error(format!("expected `=` after `{name}`: write `{example}`")));
    }
    let equals: Token![=] = input.parse()?;
    if at_end(input) {
        return Err(syn::Error::new(equals.span, format!("`{name}` has no value: write `{example}`")));
    }
    // A failed expression may have consumed the following arguments: parse a fork, and advance only
    // if it succeeds.
    let ahead = input.fork();
    let value = ahead.parse::<Expr>()?;
    input.advance_to(&ahead);
    Ok(value)
}

/// `(..)` after a name.
fn group(
    name: &Ident,
    input: ParseStream<'_>,
    example: &str,
    read: &mut dyn FnMut(ParseStream<'_>),
) -> syn::Result<()> {
    if !input.peek(syn::token::Paren) {
        let span = if at_end(input) { name.span() } else { input.span() };
        return Err(syn::Error::new(span, format!("`{name}` takes its values in parentheses: write `{example}`")));
    }
    let content;
    parenthesized!(content in input);
    read(&content);
    Ok(())
}

fn unknown(written: &str, of: &str, known: &[&str], meant: Option<&str>) -> String {
    let inner = [(WaitArgs::OF, WaitArgs::takes()), (BackoffArgs::OF, BackoffArgs::takes())];
    for (list, takes) in inner.into_iter().filter(|_| of.is_empty()) {
        if let Some(argument) = takes.iter().find(|argument| argument.name == written) {
            let example = argument.example;
            return format!("`{written}` belongs in `{list}(..)`: write `{list}({example}, ..)`");
        }
    }
    let place = if of.is_empty() { "`#[rate_limit]`".to_owned() } else { format!("`{of}(..)`") };
    if let Some(meant) = meant {
        return format!("{place} has no argument `{written}`: did you mean `{meant}`?");
    }
    if is_of_attribute(written) {
        return format!("`{written}` does not belong in {place}: write it beside it, or leave it out");
    }
    match nearest_three(written, known) {
        three if known.len() > 2 * three.len() => {
            format!("{place} has no argument `{written}`: the nearest are {}", listed(&three, " and "))
        }
        _ => format!("{place} has no argument `{written}`: it takes {}", listed(known, ", ")),
    }
}

fn likely<'a>(written: &str, takes: &[&'static Argument], known: &[&'a str]) -> Option<&'a str> {
    let written = written.trim_start_matches("r#");
    let ours = takes.iter().position(|argument| argument.synonyms.contains(&written));
    match ours.and_then(|place| known.get(place)) {
        Some(ours) => Some(ours),
        None if is_of_attribute(written) => None,
        None => nearest(written, known),
    }
}

fn is_of_attribute(name: &str) -> bool {
    Args::takes().iter().any(|argument| argument.name == name)
}

fn at_end(input: ParseStream<'_>) -> bool {
    input.is_empty() || input.peek(Token![,])
}

/// Skips to the likely start of the next argument. A comma inside the unreadable expression is not
/// one.
fn skip_argument(input: ParseStream<'_>, known: &[&str]) {
    while !input.is_empty() {
        let at_comma = input.peek(Token![,]);
        skip_token(input);
        if at_comma && (input.is_empty() || starts_argument(input, known) || is_named(input)) {
            return;
        }
    }
}

fn starts_argument(input: ParseStream<'_>, known: &[&str]) -> bool {
    known.contains(&next_word(input).as_str())
}

/// `name =`, whatever the name.
fn is_named(input: ParseStream<'_>) -> bool {
    let ahead = input.fork();
    ahead.call(Ident::parse_any).is_ok() && ahead.peek(Token![=]) && !ahead.peek(Token![==])
}

fn next_word(input: ParseStream<'_>) -> String {
    input.fork().call(Ident::parse_any).map(|word| word.to_string()).unwrap_or_default()
}

fn skip_token(input: ParseStream<'_>) {
    let skipped = input.step(|cursor| match cursor.token_tree() {
        Some((_, rest)) => Ok(((), rest)),
        None => Err(cursor.error("nothing left")),
    });
    // The callers have checked that the input is not empty.
    drop(skipped);
}

/// The expression without enclosing parentheses or invisible groups.
pub(crate) fn bare(expr: &Expr) -> &Expr {
    match expr {
        Expr::Group(it) if it.attrs.is_empty() => bare(&it.expr),
        Expr::Paren(it) if it.attrs.is_empty() => bare(&it.expr),
        _ => expr,
    }
}
