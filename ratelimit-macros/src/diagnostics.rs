//! Collects all mistakes of one attribute and reports them together, beside the function.

use proc_macro2::{Span, TokenStream, TokenTree};
use quote::ToTokens;

/// The mistakes found so far. Every check continues after a mistake, so that one build shows them
/// all.
#[derive(Default)]
pub(crate) struct Diagnostics {
    found: Option<syn::Error>,
}

impl Diagnostics {
    /// Reports a mistake at one place.
    pub(crate) fn at(&mut self, span: Span, message: impl Into<String>) {
        self.push(syn::Error::new(span, message.into()));
    }

    /// Reports a mistake that spans all of `tokens`.
    pub(crate) fn over(&mut self, tokens: &dyn ToTokens, message: impl Into<String>) {
        self.push(syn::Error::new_spanned(tokens.to_token_stream(), message.into()));
    }

    /// Reports a parser's error.
    pub(crate) fn push(&mut self, error: syn::Error) {
        match &mut self.found {
            None => self.found = Some(error),
            Some(found) => found.combine(error),
        }
    }

    /// The expansion: the limited function, or, after a mistake, the unchanged item followed by all
    /// errors. The item stays so that references to it still resolve.
    pub(crate) fn or_limited(self, limited: Option<TokenStream>, item: TokenStream) -> TokenStream {
        match (self.found, limited) {
            (None, Some(limited)) => limited,
            (found, _) => {
                // A refusal always has a mistake. Even without one, the item must not pass for
                // limited.
                let found = found.unwrap_or_else(|| syn::Error::new(Span::call_site(), "`#[rate_limit]` failed"));
                let mut tokens = item;
                tokens.extend(compile_error(&found));
                tokens
            }
        }
    }
}

/// `core::compile_error!` for each message. Without a leading `::`, which in the 2015 edition is
/// the user's crate.
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
