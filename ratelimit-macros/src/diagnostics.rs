//! All mistakes of one attribute, reported together and never instead of the function.

use proc_macro2::{Span, TokenStream, TokenTree};
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

/// `core::compile_error!` of each message, without the `::` in front: in the 2015 edition that is the user's crate.
pub(crate) fn compile_error(error: &syn::Error) -> TokenStream {
    let mut tokens = TokenStream::new();
    let mut begins = true;
    for token in error.to_compile_error() {
        let is_colon = matches!(&token, TokenTree::Punct(punct) if punct.as_char() == ':');
        let is_leading = begins && is_colon;
        begins = is_leading || matches!(token, TokenTree::Group(_));
        if !is_leading {
            tokens.extend([token]);
        }
    }
    tokens
}
