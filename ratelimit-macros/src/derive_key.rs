//! `#[derive(RateLimitKey)]`: writes the fields as one value; for an enum, the variant's name
//! first.

use proc_macro2::{Ident, Span, TokenStream};
use quote::{ToTokens, format_ident, quote, quote_spanned};
use syn::{Attribute, ExprPath, Fields, Generics, Index, Item, Member, Path, parse_quote};

use crate::item::ends;
use crate::values::{RUNTIME_PATH, is_importable};

/// The attribute of the derive.
const ATTRIBUTE: &str = "rate_limit_key";

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
            refuse_inside(item.fields.iter().map(|field| &field.attrs))?;
            let fields = fields_of_self(&item.fields);
            // A newtype is the same key as its value.
            let body = match (&item.fields, fields.as_slice()) {
                (Fields::Unnamed(_), [field]) => write(field),
                _ => parts(&fields),
            };
            (item.attrs, item.ident, item.generics, body)
        }
        Item::Enum(item) => {
            refuse_inside(item.variants.iter().map(|variant| &variant.attrs))?;
            refuse_inside(item.variants.iter().flat_map(|variant| &variant.fields).map(|field| &field.attrs))?;
            let arms = item.variants.iter().map(|variant| {
                let name = &variant.ident;
                let text = name.to_string();
                let (pattern, bound) = pattern(&variant.fields);
                let types = variant.fields.iter().map(|field| place_of(&field.ty));
                let mut fields = vec![Field { value: quote!(#text), place: place_of(name) }];
                fields.extend(bound.iter().zip(types).map(|(name, place)| {
                    let value = at(name, place.0).into_token_stream();
                    Field { value, place }
                }));
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
    // A deprecated type may be used by its derives.
    let name = at(&name, place_of(&name).0);
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
    place: (Span, Span),
}

/// `&self.name` or `&self.0` of each field.
fn fields_of_self(fields: &Fields) -> Vec<Field> {
    let field = |(position, field): (usize, &syn::Field)| {
        let place = place_of(&field.ty);
        let member = match &field.ident {
            Some(name) => Member::Named(at(name, place.1)),
            None => Member::Unnamed(Index { span: place.1, ..Index::from(position) }),
        };
        Field { value: quote_spanned!(place.0=> &self.#member), place }
    };
    fields.iter().enumerate().map(field).collect()
}

fn at(name: &Ident, span: Span) -> Ident {
    let mut name = name.clone();
    name.set_span(span);
    name
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
    let Field { value, place: (first, last) } = field;
    let method = Ident::new("write_to", *last);
    let call = quote_spanned!(*first=> __runtime::RateLimitKey::#method);
    quote_spanned!(*first=> #call(#value, __writer))
}

/// The macro's hygiene, located at the user's first and last token.
fn place_of(tokens: &dyn ToTokens) -> (Span, Span) {
    let (first, last) = ends(tokens);
    (Span::call_site().located_at(first), Span::call_site().located_at(last))
}

/// Requires every type parameter to be a key.
fn bound(generics: &mut Generics) {
    for parameter in generics.type_params_mut() {
        parameter.bounds.push(parse_quote!(__runtime::RateLimitKey));
    }
}

/// Refuses `#[rate_limit_key]` on a field or a variant.
fn refuse_inside<'a>(mut attrs: impl Iterator<Item = &'a Vec<Attribute>>) -> syn::Result<()> {
    match attrs.find_map(|attrs| attrs.iter().find(|attr| attr.path().is_ident(ATTRIBUTE))) {
        None => Ok(()),
        Some(attr) => {
            let message = "`#[rate_limit_key(crate = ..)]` belongs above the type: all fields are parts of the key; to leave one \
                           out, implement `RateLimitKey` by hand";
            Err(syn::Error::new_spanned(attr, message))
        }
    }
}

/// The path in `#[rate_limit_key(crate = path)]`, else the runtime.
fn runtime(attrs: &[Attribute]) -> syn::Result<Path> {
    let mut runtime: Path = syn::parse_quote_spanned!(Span::mixed_site()=> ::ratelimit_runtime);
    for attr in attrs.iter().filter(|attr| attr.path().is_ident(ATTRIBUTE)) {
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
