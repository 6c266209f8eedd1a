//! The attribute as a function over tokens: arguments and item in, limited item out.

use proc_macro2::TokenStream;

use crate::args;
use crate::diagnostics::Diagnostics;
use crate::item::Item;
use crate::model::Features;
use crate::validate::validate;

/// The limited function; or, after a mistake, the unlimited function and all errors.
pub(crate) fn expand(args: TokenStream, tokens: TokenStream, features: Features) -> TokenStream {
    let mut errors = Diagnostics::default();
    let args = args::parse(args, &mut errors);
    let limited = match Item::parse(tokens.clone()) {
        Ok(item) => validate(args, &item, features, &mut errors).map(|model| crate::expand::expand(&model, &item)),
        Err(error) => {
            errors.push(error);
            None
        }
    };
    errors.or_limited(limited, tokens)
}
