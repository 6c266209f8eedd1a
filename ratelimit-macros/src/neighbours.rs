//! Other crates' attributes that would turn a denial into a wrong answer.
//!
//! A macro sees the attributes below its own, and the result of those above. It sees only names,
//! which may belong to another macro: `allow(..)` accepts those.

use proc_macro2::{Delimiter, Ident, TokenStream, TokenTree};
use syn::Meta;

use crate::arguments::Args;
use crate::diagnostics::Diagnostics;
use crate::item::Item;
use crate::suggest::listed;

/// The names that `allow(..)` accepts.
pub(crate) const NAMES: &[&str] =
    &["throws", "try_fn", "ensures", "debug_ensures", "test_ensures", "must_be_sync", "memoize"];

/// The prefix of the function that `#[memoize]` has wrapped.
const MEMOIZED: &str = "memoized_original_";

/// Refuses each of them at its own tokens.
pub(crate) fn refuse(args: &Args, item: &Item, errors: &mut Diagnostics) {
    let allowed = args.allow.as_ref().map_or(&[][..], |arg| &arg.value);
    for name in allowed {
        if !NAMES.iter().any(|known| name == known) {
            let message = format!(
                "`allow(..)` takes names of attributes that `#[rate_limit]` refuses to stand above: {}",
                listed(NAMES, ", ")
            );
            errors.at(name.span(), message);
        }
    }
    let is_allowed = |name: &str| args.unread.may_be("allow") || allowed.iter().any(|allowed| allowed == name);
    for attr in &item.attrs {
        for neighbour in attribute_names(&attr.meta) {
            let name = neighbour.to_string();
            if let Some(trouble) = trouble(&name, item).filter(|_| !is_allowed(&name)) {
                errors.at(neighbour.span(), format!("{trouble} (is this another `{name}`? write `allow({name})`)"));
            }
        }
    }
    if item.sig.ident.to_string().starts_with(MEMOIZED) && !is_allowed("memoize") {
        let message = "`#[memoize]` above `#[rate_limit]` stores a denial for ever: limit a function that calls this one \
                       (is this another `memoize`? write `allow(memoize)`)";
        errors.at(item.sig.ident.span(), message);
    }
}

/// The problem with an attribute of that name below ours, if any.
fn trouble(name: &str, item: &Item) -> Option<String> {
    let below = format!("put `#[rate_limit]` below `#[{name}]`");
    match name {
        "throws" | "try_fn" => Some(format!("`#[{name}]` wraps a denial in `Ok(..)`: {below}")),
        "ensures" | "debug_ensures" | "test_ensures" => {
            Some(format!("`#[{name}]` checks what a denied call returns, and panics: {below}"))
        }
        "must_be_sync" if item.sig.asyncness.is_some() => Some(format!(
            "`#[{name}]` makes a blocking function of this one, behind the check of an async one: {below}"
        )),
        "memoize" => Some(format!("`#[{name}]` stores a denial for ever: limit a function that calls this one")),
        _ => None,
    }
}

/// The last segment of an attribute's path; for a `cfg_attr`, those of the attributes in it.
fn attribute_names(meta: &Meta) -> Vec<Ident> {
    match meta {
        Meta::List(list) if list.path.is_ident("cfg_attr") => {
            let mut parts = Vec::new();
            split_at_commas(list.tokens.clone(), &mut parts);
            parts.into_iter().skip(1).filter_map(last_segment).collect()
        }
        meta => meta.path().segments.last().map(|segment| segment.ident.clone()).into_iter().collect(),
    }
}

fn split_at_commas(tokens: TokenStream, parts: &mut Vec<TokenStream>) {
    let mut part = TokenStream::new();
    for token in tokens {
        match token {
            TokenTree::Punct(punct) if punct.as_char() == ',' => parts.push(std::mem::take(&mut part)),
            token => part.extend([token]),
        }
    }
    parts.push(part);
}

/// `ensures` for `contracts::ensures(ret > 0)`.
fn last_segment(attribute: TokenStream) -> Option<Ident> {
    let mut last = None;
    for token in attribute {
        match token {
            TokenTree::Ident(word) => last = Some(word),
            TokenTree::Punct(punct) if punct.as_char() == ':' => {}
            TokenTree::Group(group) if group.delimiter() == Delimiter::None => {
                last = last_segment(group.stream()).or(last);
            }
            _ => break,
        }
    }
    last
}
