//! The kind of function: where its body runs, and what a denied call has to return.

use proc_macro2::{Delimiter, Group, Ident, Span, TokenStream, TokenTree};
use quote::ToTokens;
use syn::{GenericArgument, PathArguments, PathSegment, ReturnType, Type, TypeParamBound};

use crate::item::Item;

/// Where the check goes.
pub(crate) enum Body {
    /// Before the body.
    Blocking(Group),
    /// Before the body of an `async fn`.
    Async(Group),
    /// Into the trailing `async` block.
    Future(TrailingBlock),
}

/// A body that ends with `async move { .. }` or `Box::pin(async move { .. })`.
pub(crate) struct TrailingBlock {
    /// The function's own braces, for their span only.
    pub(crate) braces: Group,
    /// The statements before the block. They run unlimited, and at the call.
    pub(crate) before: TokenStream,
    /// `Box::pin` and its parentheses.
    pub(crate) boxed: Option<(TokenStream, Group)>,
    /// `async move` or `async`.
    pub(crate) keywords: TokenStream,
    pub(crate) block: Group,
}

/// What the caller gets; for a future, its output.
pub(crate) enum Returns {
    /// No return type is written. Holds the function's name.
    Nothing(Ident),
    /// `()`
    Unit(Type),
    /// `!`
    Never(Type),
    /// `impl Trait`, with the name of the first trait.
    Impl(Type, String),
    Type(Type),
    /// The output of a future behind a type alias. Holds the alias.
    Unknown(Type),
}

pub(crate) struct Shape {
    pub(crate) body: Body,
    pub(crate) returns: Returns,
}

/// The return type is a future, but there is no trailing `async` block for the check.
pub(crate) struct NoAsyncBlock(pub(crate) Box<Type>);

impl Shape {
    pub(crate) fn of(item: &Item) -> Result<Shape, NoAsyncBlock> {
        let name = &item.sig.ident;
        if item.sig.asyncness.is_some() {
            let returns = match &item.sig.output {
                ReturnType::Default => Returns::Nothing(name.clone()),
                ReturnType::Type(_, ty) => Returns::of(ty),
            };
            return Ok(Shape { body: Body::Async(item.body.clone()), returns });
        }
        let ReturnType::Type(_, ty) = &item.sig.output else {
            return Ok(Shape { body: Body::Blocking(item.body.clone()), returns: Returns::Nothing(name.clone()) });
        };
        let future = future(ty);
        if let Some(block) = may_be_future(ty).then(|| TrailingBlock::of(&item.body)).flatten() {
            let returns = match future {
                Some(Future { output: Some(output) }) => Returns::of(output),
                _ => Returns::Unknown((**ty).clone()),
            };
            return Ok(Shape { body: Body::Future(block), returns });
        }
        match future {
            Some(_) => Err(NoAsyncBlock(ty.clone())),
            None => Ok(Shape { body: Body::Blocking(item.body.clone()), returns: Returns::of(ty) }),
        }
    }

    pub(crate) fn is_async(&self) -> bool {
        !matches!(self.body, Body::Blocking(_))
    }
}

impl Returns {
    fn of(ty: &Type) -> Returns {
        match bare(ty) {
            Type::Never(_) => Returns::Never(ty.clone()),
            Type::Tuple(tuple) if tuple.elems.is_empty() => Returns::Unit(ty.clone()),
            Type::ImplTrait(it) => {
                let name = it.bounds.iter().find_map(trait_segment).map(|segment| segment.ident.to_string());
                Returns::Impl(ty.clone(), name.unwrap_or_default())
            }
            _ => Returns::Type(ty.clone()),
        }
    }

    /// The type as a `let` annotation: every `impl Trait` and every lifetime is left to inference.
    /// A lifetime named in the body would silence clippy's `needless_lifetimes`.
    pub(crate) fn annotation(&self) -> TokenStream {
        match self {
            Returns::Nothing(_) => TokenTree::Group(Group::new(Delimiter::Parenthesis, TokenStream::new())).into(),
            Returns::Unknown(_) => TokenTree::Ident(Ident::new("_", Span::mixed_site())).into(),
            Returns::Unit(ty) | Returns::Never(ty) | Returns::Impl(ty, _) | Returns::Type(ty) => {
                without_lifetimes(without_impl(ty.to_token_stream()))
            }
        }
    }

    /// First and last token to underline in an error about the return type.
    pub(crate) fn ends(&self) -> (Span, Span) {
        match self {
            Returns::Nothing(name) => (name.span(), name.span()),
            Returns::Unit(ty)
            | Returns::Never(ty)
            | Returns::Impl(ty, _)
            | Returns::Type(ty)
            | Returns::Unknown(ty) => crate::item::ends(ty),
        }
    }
}

impl TrailingBlock {
    fn of(body: &Group) -> Option<TrailingBlock> {
        let mut before: Vec<TokenTree> = body.stream().into_iter().collect();
        // `$body:expr` arrives as one token without delimiters.
        while let Some(TokenTree::Group(fragment)) = before.pop_if(is_fragment) {
            before.extend(fragment.stream());
        }
        let last = group(before.pop()?)?;
        let (boxed, keywords, block) = match last.delimiter() {
            Delimiter::Brace => {
                let keywords = pop_async(&mut before)?;
                (None, keywords, last)
            }
            Delimiter::Parenthesis => {
                let path = pop_box_pin(&mut before)?;
                let mut inner: Vec<TokenTree> = last.stream().into_iter().collect();
                if matches!(inner.last(), Some(TokenTree::Punct(comma)) if comma.as_char() == ',') {
                    inner.pop();
                }
                let block = group(inner.pop()?).filter(|group| group.delimiter() == Delimiter::Brace)?;
                let keywords = pop_async(&mut inner)?;
                if !inner.is_empty() {
                    return None;
                }
                (Some((path, last)), keywords, block)
            }
            _ => return None,
        };
        // The block is the body's value only where a statement may begin: after a statement or a
        // block.
        let begins_a_statement = match before.last() {
            None => true,
            Some(TokenTree::Punct(punct)) => punct.as_char() == ';',
            Some(TokenTree::Group(group)) => group.delimiter() == Delimiter::Brace,
            Some(_) => false,
        };
        let before = before.into_iter().collect();
        begins_a_statement.then(|| TrailingBlock { braces: body.clone(), before, boxed, keywords, block })
    }
}

fn group(token: TokenTree) -> Option<Group> {
    match token {
        TokenTree::Group(group) => Some(group),
        _ => None,
    }
}

fn is_fragment(token: &mut TokenTree) -> bool {
    matches!(token, TokenTree::Group(group) if group.delimiter() == Delimiter::None)
}

/// Pops `async` or `async move` off the end.
fn pop_async(tokens: &mut Vec<TokenTree>) -> Option<TokenStream> {
    let moves = tokens.pop_if(|token| is_word(token, "move"));
    let keyword = tokens.pop_if(|token| is_word(token, "async"))?;
    let mut keywords = TokenStream::from(keyword);
    keywords.extend(moves);
    Some(keywords)
}

/// Pops `Box::pin`, with any path before it, off the end.
fn pop_box_pin(tokens: &mut Vec<TokenTree>) -> Option<TokenStream> {
    let is_path = |token: &&TokenTree| match token {
        TokenTree::Ident(_) => true,
        TokenTree::Punct(punct) => punct.as_char() == ':',
        _ => false,
    };
    let length = tokens.iter().rev().take_while(is_path).count();
    let path = tokens.split_off(tokens.len() - length);
    let words: Vec<&TokenTree> = path.iter().filter(|token| matches!(token, TokenTree::Ident(_))).collect();
    match words.as_slice() {
        [.., owner, function] if is_word(owner, "Box") && is_word(function, "pin") => Some(path.into_iter().collect()),
        _ => None,
    }
}

fn is_word(token: &TokenTree, word: &str) -> bool {
    matches!(token, TokenTree::Ident(ident) if ident == word)
}

/// Whether a type can be a future, under any name. Most return types cannot.
fn may_be_future(ty: &Type) -> bool {
    match bare(ty) {
        Type::Path(it) => {
            !it.path.segments.last().is_some_and(|segment| segment.ident == "Result" || segment.ident == "Option")
        }
        Type::ImplTrait(_) | Type::Macro(_) | Type::Verbatim(_) => true,
        _ => false,
    }
}

/// A type that looks like a future.
struct Future<'a> {
    /// Its output type, if written.
    output: Option<&'a Type>,
}

fn future(ty: &Type) -> Option<Future<'_>> {
    match bare(ty) {
        Type::ImplTrait(it) => it.bounds.iter().find_map(future_bound),
        Type::TraitObject(it) => it.bounds.iter().find_map(future_bound),
        Type::Path(it) => {
            let segment = it.path.segments.last()?;
            if segment.ident == "BoxFuture" || segment.ident == "LocalBoxFuture" {
                return Some(Future { output: last_type(segment) });
            }
            if segment.ident == "Pin" || segment.ident == "Box" {
                return future(last_type(segment)?);
            }
            None
        }
        _ => None,
    }
}

fn future_bound(bound: &TypeParamBound) -> Option<Future<'_>> {
    let segment = trait_segment(bound).filter(|segment| segment.ident == "Future")?;
    let PathArguments::AngleBracketed(arguments) = &segment.arguments else {
        return Some(Future { output: None });
    };
    let output = arguments.args.iter().find_map(|argument| match argument {
        GenericArgument::AssocType(it) if it.ident == "Output" => Some(&it.ty),
        _ => None,
    });
    Some(Future { output })
}

fn trait_segment(bound: &TypeParamBound) -> Option<&PathSegment> {
    match bound {
        TypeParamBound::Trait(bound) => bound.path.segments.last(),
        _ => None,
    }
}

fn last_type(segment: &PathSegment) -> Option<&Type> {
    let PathArguments::AngleBracketed(arguments) = &segment.arguments else {
        return None;
    };
    arguments.args.iter().rev().find_map(|argument| match argument {
        GenericArgument::Type(ty) => Some(ty),
        _ => None,
    })
}

/// The type without enclosing parentheses or invisible groups.
fn bare(ty: &Type) -> &Type {
    match ty {
        Type::Group(it) => bare(&it.elem),
        Type::Paren(it) => bare(&it.elem),
        _ => ty,
    }
}

/// Replaces every `impl Bounds` by `_`. Works on tokens, because a type may nest them at any depth.
/// The bounds end at the enclosing comma or closing bracket, or at the semicolon of an array.
fn without_impl(tokens: TokenStream) -> TokenStream {
    let mut result = TokenStream::new();
    let mut tokens = tokens.into_iter().peekable();
    while let Some(token) = tokens.next() {
        match token {
            TokenTree::Ident(word) if word == "impl" => {
                let mut depth = 0_u32;
                let mut after_dash = false;
                while let Some(next) = tokens.peek() {
                    match next {
                        TokenTree::Punct(punct) => match punct.as_char() {
                            '<' => depth += 1,
                            '>' if after_dash => {}
                            '>' | ',' | ';' if depth == 0 => break,
                            '>' => depth -= 1,
                            _ => {}
                        },
                        TokenTree::Ident(_) | TokenTree::Group(_) | TokenTree::Literal(_) => {}
                    }
                    after_dash = matches!(next, TokenTree::Punct(punct) if punct.as_char() == '-');
                    tokens.next();
                }
                result.extend([TokenTree::Ident(Ident::new("_", word.span()))]);
            }
            TokenTree::Group(group) => {
                let mut inner = Group::new(group.delimiter(), without_impl(group.stream()));
                inner.set_span(group.span());
                result.extend([TokenTree::Group(inner)]);
            }
            other => result.extend([other]),
        }
    }
    result
}

/// Replaces every lifetime except `'static` by `'_`, if the type binds no lifetimes itself.
fn without_lifetimes(tokens: TokenStream) -> TokenStream {
    if binds_lifetimes(&tokens) { tokens } else { with_lifetimes_inferred(tokens) }
}

/// Whether a type may bind lifetimes: by `for<'a>`, or as `'_` in the parameters of a `fn(..)` or
/// `Fn(..)`.
fn binds_lifetimes(tokens: &TokenStream) -> bool {
    let binders = ["for", "fn", "Fn", "FnMut", "FnOnce", "AsyncFn", "AsyncFnMut", "AsyncFnOnce"];
    tokens.clone().into_iter().any(|token| match token {
        TokenTree::Ident(ident) => binders.iter().any(|binder| ident == binder),
        TokenTree::Group(group) => binds_lifetimes(&group.stream()),
        TokenTree::Punct(_) | TokenTree::Literal(_) => false,
    })
}

fn with_lifetimes_inferred(tokens: TokenStream) -> TokenStream {
    let mut after_quote = false;
    tokens
        .into_iter()
        .map(|token| {
            let is_lifetime = std::mem::replace(&mut after_quote, is_quote(&token));
            match token {
                TokenTree::Ident(name) if is_lifetime && name != "static" => {
                    TokenTree::Ident(Ident::new("_", name.span()))
                }
                TokenTree::Group(group) => {
                    let mut inner = Group::new(group.delimiter(), with_lifetimes_inferred(group.stream()));
                    inner.set_span(group.span());
                    TokenTree::Group(inner)
                }
                other => other,
            }
        })
        .collect()
}

fn is_quote(token: &TokenTree) -> bool {
    matches!(token, TokenTree::Punct(punct) if punct.as_char() == '\'')
}
