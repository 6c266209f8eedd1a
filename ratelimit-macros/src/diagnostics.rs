//! All mistakes of one attribute, reported together and never instead of the function.

use proc_macro2::{Group, Span, TokenStream, TokenTree};
use quote::ToTokens;

/// The mistakes found so far. Every check goes on after a mistake, so that one build shows them all.
#[derive(Default)]
pub(crate) struct Diagnostics {
    found: Option<syn::Error>,
}

impl Diagnostics {
    /// A mistake at one place.
    pub(crate) fn at(&mut self, span: Span, message: impl Into<String>) {
        self.push(syn::Error::new(span, message.into()));
    }

    /// A mistake that spans all of `tokens`.
    pub(crate) fn over(&mut self, tokens: &dyn ToTokens, message: impl Into<String>) {
        self.push(syn::Error::new_spanned(tokens.to_token_stream(), message.into()));
    }

    /// A mistake that a parser found.
    pub(crate) fn push(&mut self, error: syn::Error) {
        match &mut self.found {
            None => self.found = Some(error),
            Some(found) => found.combine(error),
        }
    }

    /// What the attribute becomes: the limited function, or, if a mistake was found, the item as it stands and all mistakes
    /// behind it. The item stays so that nothing that refers to it fails as well.
    pub(crate) fn or_limited(self, limited: Option<TokenStream>, item: TokenStream) -> TokenStream {
        match (self.found, limited) {
            (None, Some(limited)) => limited,
            (found, _) => {
                // Nothing is refused without a mistake; if it were, it must not pass for limited.
                let found = found.unwrap_or_else(|| syn::Error::new(Span::call_site(), "`#[rate_limit]` failed"));
                let mut tokens = item;
                tokens.extend(compile_error(&found));
                tokens
            }
        }
    }
}

/// `::core::compile_error!` of each message. Placed where the mistake is, but in this crate's edition: in the 2015 edition a
/// path that begins with `::` begins in the user's crate.
pub(crate) fn compile_error(error: &syn::Error) -> TokenStream {
    with_own_edition(error.to_compile_error())
}

fn with_own_edition(tokens: TokenStream) -> TokenStream {
    let own = |span: Span| Span::mixed_site().located_at(span);
    let token = |token| match token {
        TokenTree::Group(group) => {
            let mut inner = Group::new(group.delimiter(), with_own_edition(group.stream()));
            inner.set_span(own(group.span()));
            TokenTree::Group(inner)
        }
        mut other => {
            other.set_span(own(other.span()));
            other
        }
    };
    tokens.into_iter().map(token).collect()
}
