//! doc later
use proc_macro::TokenStream;

mod args;
mod describe;
mod diagnostics;
mod duration;
mod expand;
mod item;
mod model;
mod shape;
mod suggest;
#[cfg(test)]
mod tests;

/// later
#[proc_macro_attribute]
pub fn rate_limit(args: TokenStream, item: TokenStream) -> TokenStream {
    limit(args.into(), item.into(), model::Features::ENABLED).into()
}

/// The attribute over tokens: the function with its limit, or unlimited beside all mistakes.
fn limit(
    args: proc_macro2::TokenStream,
    tokens: proc_macro2::TokenStream,
    features: model::Features,
) -> proc_macro2::TokenStream {
    let mut errors = diagnostics::Diagnostics::default();
    let args = args::Args::parse(args, &mut errors);
    let expansion = match item::Item::parse(tokens.clone()) {
        Ok(item) => {
            model::Model::validate(args, &item, features, &mut errors).map(|model| expand::expand(&model, &item))
        }
        Err(error) => {
            errors.push(error);
            None
        }
    };
    match (errors.beside(tokens), expansion) {
        (Err(unlimited), _) => unlimited,
        (Ok(()), Some(limited)) => limited,
        (Ok(()), None) => quote::quote!(::core::compile_error! { "`#[rate_limit]` has no limit" }),
    }
}
