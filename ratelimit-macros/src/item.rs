//! The function: attributes, signature, and the body as one unparsed token group.

use proc_macro2::{Delimiter, Group, Ident, Span, TokenStream, TokenTree};
use quote::ToTokens;
use syn::ext::IdentExt;
use syn::parse::discouraged::Speculative;
use syn::parse::{ParseStream, Parser};
use syn::{Attribute, Expr, ExprLit, FnArg, Lit, Meta, MetaNameValue, Signature, Token, Visibility};

/// The attribute's name, unless its import renames it.
const ATTRIBUTE: &str = "rate_limit";

/// A function with a body.
pub(crate) struct Item {
    /// As written, doc comments included.
    pub(crate) attrs: Vec<Attribute>,
    /// Visibility and signature, as written.
    pub(crate) head: TokenStream,
    /// The signature, parsed.
    pub(crate) sig: Signature,
    /// The body with its braces.
    pub(crate) body: Group,
}

impl Item {
    /// Splits the item into its parts. The error says what the item is instead of a function with a
    /// body.
    pub(crate) fn parse(tokens: TokenStream) -> syn::Result<Item> {
        let mut tokens: Vec<TokenTree> = without_invisible_groups(tokens).into_iter().collect();
        // Sets the body aside before parsing: parsing its tokens takes longer than all the rest.
        let body = match tokens.pop() {
            Some(TokenTree::Group(group)) if matches!(group.delimiter(), Delimiter::Brace | Delimiter::None) => {
                Some(braces(group))
            }
            other => {
                tokens.extend(other);
                None
            }
        };
        let parser = |input: ParseStream<'_>| Item::parser(input, body);
        parser.parse2(tokens.into_iter().collect())
    }

    fn parser(input: ParseStream<'_>, body: Option<Group>) -> syn::Result<Item> {
        let attrs = Attribute::parse_outer(input)?;
        let head: TokenStream = input.fork().parse()?;
        if let Some(other) = what_it_is(head.clone()) {
            // Parsers reject leftover tokens.
            input.parse::<TokenStream>()?;
            return Err(other.refusal());
        }
        let ahead = input.fork();
        let sig = match signature(&ahead) {
            Ok(sig) => {
                input.advance_to(&ahead);
                sig
            }
            // Before the 2021 edition, trait objects may be written without `dyn`.
            Err(error) => {
                let tokens = with_dyn(input.fork().parse()?);
                let semicolon = |input: ParseStream<'_>| {
                    let sig = signature(input)?;
                    Ok((sig, input.parse::<Option<Token![;]>>()?))
                };
                let Ok((sig, semicolon)) = semicolon.parse2(tokens) else { return Err(error) };
                if semicolon.is_none() {
                    input.parse::<TokenStream>()?;
                }
                sig
            }
        };
        match body {
            Some(body) if input.is_empty() => Ok(Item { attrs, head, sig, body }),
            None if input.peek(Token![;]) => {
                input.parse::<TokenStream>()?;
                Err(syn::Error::new(
                    sig.ident.span(),
                    format!(
                        "`{}` has no body that could be limited: put `#[rate_limit]` on a function that implements or \
                         calls it, or give it a body here (if it has one, a macro has copied the attribute to a declaration: limit a \
                         function that it calls)",
                        sig.ident
                    ),
                ))
            }
            _ => Err(input.error("`#[rate_limit]` expected the body of the function here")),
        }
    }

    /// Whether the function has a doc comment.
    pub(crate) fn is_documented(&self) -> bool {
        self.attrs.iter().any(|attr| matches!(&attr.meta, Meta::NameValue(meta) if meta.path.is_ident("doc")))
    }

    /// The position of the attribute at which the first section of the docs begins, such as
    /// `# Errors`. `None` if nothing comes before it, or if it is not at the start of a comment.
    pub(crate) fn first_section(&self) -> Option<usize> {
        let (mut has_text, mut is_code) = (false, false);
        for (position, attr) in self.attrs.iter().enumerate() {
            let Some(text) = docs_of(attr) else { continue };
            for (number, line) in text.lines().enumerate() {
                let line = line.trim_start();
                if line.starts_with("```") || line.starts_with("~~~") {
                    is_code = !is_code;
                } else if !is_code && line.starts_with('#') && line.trim_start_matches('#').starts_with(' ') {
                    return (has_text && number == 0).then_some(position);
                }
                has_text |= !line.is_empty();
            }
        }
        None
    }

    /// The first of the function's arguments that `expression` uses as a value.
    pub(crate) fn argument_in(&self, expression: TokenStream) -> Option<Ident> {
        let mut arguments = Vec::new();
        for input in &self.sig.inputs {
            match input {
                FnArg::Receiver(_) => arguments.push("self".to_owned()),
                FnArg::Typed(typed) => names(typed.pat.to_token_stream(), &mut arguments),
            }
        }
        value_among(expression, &arguments)
    }

    /// Arguments that `#[async_trait]` binds only inside `block`, because they are patterns.
    pub(crate) fn bound_by_async_trait(&self, block: &Group) -> Vec<String> {
        let mut bound = Vec::new();
        if !self.sig.generics.lifetimes().any(|parameter| parameter.lifetime.ident == "async_trait") {
            return bound;
        }
        let mut pattern = TokenStream::new();
        let mut tokens = block.stream().into_iter().peekable();
        while let Some(token) = tokens.next() {
            let is_equals = matches!(&token, TokenTree::Punct(punct) if punct.as_char() == '=');
            match tokens.peek() {
                // `let (a, b) = __arg1;` or `let (a, b) = { let __arg1 = __arg1; __arg1 };`
                Some(value) if is_equals && names_argument(value) => {
                    names(std::mem::take(&mut pattern), &mut bound);
                }
                _ if matches!(&token, TokenTree::Ident(word) if word == "let") => pattern = TokenStream::new(),
                _ => pattern.extend([token]),
            }
        }
        bound
    }

    /// The name of `#[track_caller]`, also in `#[cfg_attr(..)]`.
    pub(crate) fn track_caller(&self) -> Option<Ident> {
        self.attrs.iter().find_map(|attr| match &attr.meta {
            Meta::Path(path) => path.get_ident().filter(|name| *name == "track_caller").cloned(),
            Meta::List(meta) if meta.path.is_ident("cfg_attr") => {
                meta.tokens.clone().into_iter().find_map(|token| match token {
                    TokenTree::Ident(name) if name == "track_caller" => Some(name),
                    _ => None,
                })
            }
            _ => None,
        })
    }

    /// Number of further `#[rate_limit]` on this function.
    pub(crate) fn limits_to_come(&self) -> usize {
        self.attrs.iter().filter(|attr| is_rate_limit(attr)).count()
    }
}

/// The text of a doc comment, or of one line of it.
fn docs_of(attr: &Attribute) -> Option<String> {
    match &attr.meta {
        Meta::NameValue(MetaNameValue { path, value: Expr::Lit(ExprLit { lit: Lit::Str(text), .. }), .. })
            if path.is_ident("doc") =>
        {
            Some(text.value())
        }
        _ => None,
    }
}

/// Whether a value is an argument named by `#[async_trait]`.
fn names_argument(value: &TokenTree) -> bool {
    match value {
        TokenTree::Ident(word) => word.to_string().starts_with("__arg"),
        TokenTree::Group(block) => block.stream().into_iter().any(|token| names_argument(&token)),
        TokenTree::Punct(_) | TokenTree::Literal(_) => false,
    }
}

/// The names that a pattern binds. Includes names of fields, which do no harm.
fn names(pattern: TokenStream, found: &mut Vec<String>) {
    for token in pattern {
        match token {
            TokenTree::Ident(word) if word != "mut" && word != "ref" => found.push(word.to_string()),
            TokenTree::Group(group) => names(group.stream(), found),
            _ => {}
        }
    }
}

/// The first of `names` that `tokens` uses as a value: not as a method, field, function or part of
/// a path.
pub(crate) fn value_among(tokens: TokenStream, names: &[String]) -> Option<Ident> {
    let mut before = None;
    let mut tokens = tokens.into_iter().peekable();
    while let Some(token) = tokens.next() {
        match &token {
            TokenTree::Ident(word) if names.iter().any(|name| word == name) => {
                let is_part = matches!(before, Some('.' | ':'));
                let is_other = match tokens.peek() {
                    Some(TokenTree::Punct(next)) => matches!(next.as_char(), ':' | '!'),
                    Some(TokenTree::Group(next)) => next.delimiter() == Delimiter::Parenthesis,
                    _ => false,
                };
                if !is_part && !is_other {
                    return Some(word.clone());
                }
            }
            TokenTree::Group(group) => {
                if let Some(found) = value_among(group.stream(), names) {
                    return Some(found);
                }
            }
            _ => {}
        }
        before = match token {
            TokenTree::Punct(punct) => Some(punct.as_char()),
            _ => None,
        };
    }
    None
}

fn is_rate_limit(attr: &Attribute) -> bool {
    match &attr.meta {
        Meta::List(meta) if meta.path.is_ident("cfg_attr") => {
            meta.tokens.clone().into_iter().any(|token| matches!(token, TokenTree::Ident(word) if word == ATTRIBUTE))
        }
        meta => meta.path().segments.last().is_some_and(|segment| segment.ident == ATTRIBUTE),
    }
}

fn signature(input: ParseStream<'_>) -> syn::Result<Signature> {
    input.parse::<Visibility>()?;
    // `default fn` (specialization)
    if input.peek(syn::Ident) && input.fork().call(Ident::parse_any)? == "default" {
        input.call(Ident::parse_any)?;
    }
    input.parse()
}

/// Adds `dyn` before a bare `Fn(..)` in a type position.
fn with_dyn(tokens: TokenStream) -> TokenStream {
    let mut written: Vec<TokenTree> = Vec::new();
    for token in tokens {
        if let TokenTree::Group(group) = &token {
            if group.delimiter() == Delimiter::Parenthesis && ends_with_fn(&written) {
                let start = path_start(&written);
                if begins_type(written[..start].last()) {
                    written.insert(start, TokenTree::Ident(Ident::new("dyn", Span::mixed_site())));
                }
            }
            let mut inner = Group::new(group.delimiter(), with_dyn(group.stream()));
            inner.set_span(group.span());
            written.push(TokenTree::Group(inner));
        } else {
            written.push(token);
        }
    }
    written.into_iter().collect()
}

/// The start of the path that ends with the last token.
fn path_start(tokens: &[TokenTree]) -> usize {
    let is_colon = |token: Option<&TokenTree>| matches!(token, Some(TokenTree::Punct(punct)) if punct.as_char() == ':');
    let mut start = tokens.len() - 1;
    while start >= 2 && is_colon(tokens.get(start - 1)) && is_colon(tokens.get(start - 2)) {
        start -= 2;
        if start == 0 || !matches!(tokens[start - 1], TokenTree::Ident(_)) {
            break;
        }
        start -= 1;
    }
    start
}

fn ends_with_fn(tokens: &[TokenTree]) -> bool {
    let traits = ["Fn", "FnMut", "FnOnce"];
    matches!(tokens.last(), Some(TokenTree::Ident(word)) if traits.iter().any(|name| word == name))
}

/// Whether a type may follow a token, and not a bound.
fn begins_type(before: Option<&TokenTree>) -> bool {
    match before {
        None => true,
        Some(TokenTree::Punct(punct)) => matches!(punct.as_char(), '<' | ',' | '&' | '=' | '>'),
        Some(TokenTree::Ident(word)) => word == "mut" || word == "const",
        Some(_) => false,
    }
}

/// Unwraps the invisible group of a `macro_rules!` fragment.
fn without_invisible_groups(tokens: TokenStream) -> TokenStream {
    let mut outer = tokens.clone().into_iter();
    match (outer.next(), outer.next()) {
        (Some(TokenTree::Group(group)), None) if group.delimiter() == Delimiter::None => {
            without_invisible_groups(group.stream())
        }
        _ => tokens,
    }
}

/// The braces of the body, also of a `$body:block`.
fn braces(group: Group) -> Group {
    let mut inner = group.stream().into_iter();
    match (group.delimiter(), inner.next(), inner.next()) {
        (Delimiter::None, Some(TokenTree::Group(inner)), None) => braces(inner),
        _ => group,
    }
}

/// An item other than a function.
struct Other {
    span: Span,
    what: &'static str,
    instead: &'static str,
}

impl Other {
    fn refusal(&self) -> syn::Error {
        let Other { span, what, instead } = *self;
        syn::Error::new(span, format!("`#[rate_limit]` limits a function, and this is {what}{instead}"))
    }
}

/// Reads the tokens before `fn`. Anything else there says what the item is.
fn what_it_is(tokens: TokenStream) -> Option<Other> {
    let mut constant = None;
    let first = tokens.clone().into_iter().next();
    for token in tokens {
        let word = match &token {
            TokenTree::Ident(word) => word,
            // `pub(crate)`, `extern "C"`, or a visibility passed through a macro
            TokenTree::Group(group) if matches!(group.delimiter(), Delimiter::Parenthesis | Delimiter::None) => {
                continue;
            }
            TokenTree::Literal(_) => continue,
            _ => break,
        };
        let (what, instead) = match word.to_string().as_str() {
            "fn" => return None,
            "const" => {
                constant = Some(word.span());
                continue;
            }
            "pub" | "crate" | "default" | "async" | "unsafe" | "safe" | "extern" | "gen" => continue,
            "impl" => ("an `impl` block", ": put it on each method that should be limited"),
            "trait" => ("a trait", ": put it on its methods with a body, or on the methods that implement it"),
            "mod" => (
                "a module",
                ": put it on each function that should be limited (if it is on one, a macro such as `#[automock]` has copied it: \
                 `cfg_attr(not(test), rate_limit(..))`)",
            ),
            "struct" => ("a struct", ""),
            "enum" => ("an enum", ""),
            "union" => ("a union", ""),
            "type" => ("a type alias", ""),
            "use" => ("an import", ": put it where the function is written"),
            "static" => ("a static", ""),
            "let" => ("a `let` statement", ": a closure cannot carry it, a function inside the function can"),
            "macro_rules" => ("a macro", ": put it on the function inside the macro"),
            _ => break,
        };
        return Some(Other { span: word.span(), what, instead });
    }
    let span = constant.or_else(|| first.map(|token| token.span())).unwrap_or_else(Span::call_site);
    let what = if constant.is_some() { "a constant" } else { "something else" };
    Some(Other { span, what, instead: "" })
}

/// First and last span of some tokens. On stable Rust, where spans cannot be joined, an error
/// underlines from one to the other.
pub(crate) fn ends(tokens: &dyn ToTokens) -> (Span, Span) {
    let mut spans = tokens.to_token_stream().into_iter().map(|token| token.span());
    let first = spans.next().unwrap_or_else(Span::call_site);
    (first, spans.last().unwrap_or(first))
}
