//! Hygiene: the spans of emitted tokens, and the names that an expansion refers to.

use std::fmt::Debug;

use proc_macro2::{Ident, Span, TokenStream};
use quote::ToTokens;

use crate::item::ends;
use crate::model::Model;

/// What all parts of an expansion refer to.
pub(crate) struct Expansion<'a> {
    pub(crate) model: &'a Model,
    /// The path to the runtime's support module.
    pub(crate) rt: TokenStream,
}

impl Expansion<'_> {
    /// The imported runtime's path, located at `at`.
    pub(crate) fn runtime(&self, at: Span) -> TokenStream {
        let placed = self.rt.clone().into_iter().map(|mut token| {
            token.set_span(at);
            token
        });
        placed.collect()
    }
}

/// The variant's name.
pub(crate) fn variant(variant: impl Debug) -> Ident {
    Ident::new(&format!("{variant:?}"), site())
}

/// The macro's hygiene, located at the user's tokens.
pub(crate) fn place_of(tokens: &dyn ToTokens) -> Span {
    site().located_at(ends(tokens).0)
}

pub(crate) fn site() -> Span {
    Span::mixed_site()
}
