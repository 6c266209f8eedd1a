//! `#[derive(RateLimitKey)]`: writes the fields as one value; for an enum, the variant's name
//! first.

use proc_macro2::{Ident, Span, TokenStream};
use quote::{ToTokens, format_ident, quote, quote_spanned};
use syn::{ExprPath, Fields, Generics, Index, Item, Member, Path, parse_quote};

use crate::item::ends;
use crate::values::{RUNTIME_PATH, is_importable};

/// The implementation, or an error.
pub(crate) fn expand(item: TokenStream) -> TokenStream {
    match implementation(item) {
        Ok(tokens) => tokens,
        Err(error) => crate::diagnostics::compile_error(&error),
    }
}

fn implementation(item: TokenStream) -> syn::Result<TokenStream> {
    let (attrs, name, mut generics, body) = match syn::parse2(item)? {
        Item::Struct(item) => {
            let fields = fields_of_self(&item.fields);
            // A newtype is the same key as its value.
            let body = match (&item.fields, fields.as_slice()) {
                (Fields::Unnamed(_), [field]) => write(field),
                _ => parts(&fields),
            };
            (item.attrs, item.ident, item.generics, body)
        }
        Item::Enum(item) => {
            let arms = item.variants.iter().map(|variant| {
                let name = &variant.ident;
                let text = name.to_string();
                let (pattern, bound) = pattern(&variant.fields);
                let types = variant.fields.iter().map(|field| place_of(&field.ty));
                let mut fields = vec![Field { value: quote!(#text), place: place_of(name) }];
                fields.extend(bound.iter().zip(types).map(|(name, place)| Field { value: quote!(#name), place }));
                let body = parts(&fields);
                quote!(Self::#name #pattern => #body,)
            });
            // An enum without variants has no values.
            let body = if item.variants.is_empty() { quote!(match *self {}) } else { quote!(match self { #(#arms)* }) };
            (item.attrs, item.ident, item.generics, body)
        }
        other => {
            let message = "`#[derive(RateLimitKey)]` is for structs and enums: implement `RateLimitKey` by hand";
            return Err(syn::Error::new_spanned(other, message));
        }
    };
    let runtime = runtime(&attrs)?;
    bound(&mut generics);
    let (impl_generics, type_generics, where_clause) = generics.split_for_impl();
    Ok(quote! {
        const _: () = {
            use #runtime::macro_support::v1 as __runtime;

            #[automatically_derived]
            impl #impl_generics __runtime::RateLimitKey for #name #type_generics #where_clause {
                fn write_to<__W: __runtime::KeyWriter>(&self, __writer: &mut __W) {
                    #body
                }
            }
        };
    })
}

/// A field to write, and the type at which an error is reported if it is not a key.
struct Field {
    value: TokenStream,
    place: Span,
}

/// `&self.name` or `&self.0` of each field.
fn fields_of_self(fields: &Fields) -> Vec<Field> {
    let field = |(position, field): (usize, &syn::Field)| {
        let name = field.ident.clone().map_or_else(|| Member::Unnamed(Index::from(position)), Member::Named);
        let place = place_of(&field.ty);
        Field { value: quote_spanned!(place=> &self.#name), place }
    };
    fields.iter().enumerate().map(field).collect()
}

/// The pattern that destructures a variant, and the names that it binds.
fn pattern(fields: &Fields) -> (TokenStream, Vec<Ident>) {
    let bound: Vec<Ident> = (0..fields.len()).map(|position| format_ident!("__field{position}")).collect();
    let pattern = match fields {
        Fields::Unit => TokenStream::new(),
        Fields::Unnamed(_) => quote!((#(#bound),*)),
        Fields::Named(_) => {
            let names = fields.iter().map(|field| &field.ident);
            quote!({ #(#names: #bound),* })
        }
    };
    (pattern, bound)
}

/// Writes fields as one value.
fn parts(fields: &[Field]) -> TokenStream {
    let number = fields.len();
    let writes = fields.iter().map(write);
    quote!(__runtime::key_parts(__writer, #number, |__writer| {
        let _ = &__writer;
        #(#writes;)*
    }))
}

fn write(field: &Field) -> TokenStream {
    let Field { value, place } = field;
    let call = quote_spanned!(*place=> __runtime::RateLimitKey::write_to);
    quote!(#call(#value, __writer))
}

/// The macro's hygiene, located at the user's first token.
fn place_of(tokens: &dyn ToTokens) -> Span {
    Span::call_site().located_at(ends(tokens).0)
}

/// Requires every type parameter to be a key.
fn bound(generics: &mut Generics) {
    for parameter in generics.type_params_mut() {
        parameter.bounds.push(parse_quote!(__runtime::RateLimitKey));
    }
}

/// The path in `#[rate_limit_key(crate = path)]`, else the runtime.
fn runtime(attrs: &[syn::Attribute]) -> syn::Result<Path> {
    let mut runtime: Path = syn::parse_quote_spanned!(Span::mixed_site()=> ::ratelimit_runtime);
    for attr in attrs.iter().filter(|attr| attr.path().is_ident("rate_limit_key")) {
        attr.parse_nested_meta(|meta| {
            if meta.path.is_ident("crate") {
                let path: ExprPath = meta.value()?.parse()?;
                if path.qself.is_some() || !is_importable(&path.path) {
                    return Err(syn::Error::new_spanned(path, RUNTIME_PATH));
                }
                runtime = path.path;
                return Ok(());
            }
            Err(meta.error("`#[rate_limit_key]` takes `crate = path::to::ratelimit_runtime` only"))
        })?;
    }
    Ok(runtime)
}
