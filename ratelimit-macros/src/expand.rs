//! Generates the tokens: a prologue before the user's own body.
//!
//! All emitted tokens have the macro's hygiene (`mixed_site`), at most located at one of the user's
//! tokens. No name and no lint of the user's code applies to them. Local names start with two
//! underscores all the same: a pattern named like a constant would match it instead of binding, and
//! constants are not hygienic.

use proc_macro2::{Delimiter, Group, Ident, Literal, TokenStream, TokenTree};
use quote::{ToTokens, quote, quote_spanned};
use syn::{Expr, UnOp};

use crate::args::bare;
use crate::arguments::Arg;
use crate::describe::doc_line;
use crate::expand_limits::{Known, LimitTokens, checked_name, primitive};
use crate::hygiene::{Expansion, place_of, site, variant};
use crate::item::{Item, ends};
use crate::model::{Backend, Denial, Keys, Limiter, Model, Name, Own, Penalty, Settle, Wait};
use crate::shape::{Body, Returns, TrailingBlock};

/// The item with its prologue.
pub(crate) fn expand(model: &Model, item: &Item) -> TokenStream {
    let Item { attrs, head, .. } = item;
    let expansion = Expansion { model, rt: quote_spanned!(site()=> __runtime) };
    let docs = docs(model, item);
    let body = match &model.shape.body {
        Body::Blocking(body) => expansion.limited(body, None),
        Body::Async(body) => expansion.limited(body, Some(&move_keywords())),
        Body::Future(trailing) => expansion.inside(trailing),
    };
    // The line about the limit is no part of a section such as `# Errors`.
    let (before, after) = attrs.split_at(item.first_section().unwrap_or(attrs.len()));
    quote!(#(#before)* #docs #(#after)* #head #body)
}

/// The line about the limit, unless `docs = false`. If the function has no docs, the line is for
/// rustdoc only: the compiler would count it as docs and silence `missing_docs`.
///
/// It starts with a blank, like the text of `///`, because macros that read docs strip the blanks
/// that all lines share.
fn docs(model: &Model, item: &Item) -> TokenStream {
    if !model.docs {
        return TokenStream::new();
    }
    let line = format!(" {}", doc_line(model, item));
    if item.is_documented() {
        let end = item.first_section().map(|_| quote_spanned!(site()=> #[doc = ""]));
        quote_spanned!(site()=> #[doc = ""] #[doc = #line] #end)
    } else {
        quote_spanned!(site()=> #[cfg_attr(doc, doc = #line)])
    }
}

impl Expansion<'_> {
    /// The function's own body after its prologue. `block` holds the keywords of the `async` block
    /// in which the body runs if its outcome is read; `None` in a blocking function.
    fn limited(&self, body: &Group, block: Option<&TokenStream>) -> Group {
        let mut prologue = self.prologue(block.is_some());
        // Inner attributes are about the arguments, too, so they stay outermost.
        let (inner_attributes, statements) = split_body(body);
        let own = own_braces(body, statements);
        // Spanned so that clippy treats the closure as the user's: `implicit_return` applies to it
        // as to the body.
        let closure = quote_spanned!(body.span()=> move ||);
        let rt = &self.rt;
        if let (Some(name), None) = (&self.model.permit, self.model.looks_at_outcome()) {
            prologue = quote_spanned!(site()=> let #name = #rt::permit(#prologue););
        }
        let tokens = match self.model.looks_at_outcome() {
            None if matches!(self.model.denial, Denial::Response) => {
                let outcome = match block {
                    None => quote_spanned!(site()=> #rt::run(#closure #own)),
                    Some(keywords) => quote_spanned!(site()=> #keywords { #own }.await),
                };
                quote_spanned!(site()=> #prologue return #rt::Limited::Admitted(#outcome))
            }
            None => quote_spanned!(site()=> #prologue #own),
            Some(_) => {
                let ty = self.model.shape.returns.annotation();
                let settle = self.settle(block.is_some());
                let (held, permit) = match &self.model.permit {
                    None => (quote_spanned!(site()=> __held), None),
                    Some(name) => (
                        quote_spanned!(site()=> mut __held),
                        Some(quote_spanned!(site()=> let #name = #rt::permit_of(&mut __held);)),
                    ),
                };
                let outcome = match block {
                    None => quote_spanned!(site()=> #rt::run(#closure -> #ty #own)),
                    // The first statement fixes the block's type, as the signature does for an
                    // unwrapped body.
                    Some(keywords) => quote_spanned!(site()=>
                        #keywords {
                            if let #rt::Some(__outcome) = #rt::no_outcome::<#ty>() {
                                return __outcome;
                            }
                            #own
                        }
                        .await
                    ),
                };
                let result = if let Denial::Response = self.model.denial {
                    quote_spanned!(site()=> #rt::Limited::Admitted(__outcome))
                } else {
                    quote_spanned!(site()=> __outcome)
                };
                quote_spanned!(site()=>
                    let #held = #prologue;
                    #permit
                    let __outcome: #ty = #outcome;
                    if let #rt::Some(__held) = __held {
                        #settle
                    }
                    return #result
                )
            }
        };
        let import = self.import();
        // The outer braces keep the user's span: it distinguishes the function from generated code,
        // where lints such as `dead_code` are silent.
        let mut limited = Group::new(Delimiter::Brace, quote_spanned!(site()=> #inner_attributes #import #tokens));
        limited.set_span(body.span());
        limited
    }

    /// Statements after the body, which act on `__held` according to `__outcome`.
    fn settle(&self, is_async: bool) -> TokenStream {
        let mut settle = TokenStream::new();
        if let Some(pause) = &self.model.pause_when {
            let (wanted, max) = (&pause.when.value, Literal::u64_unsuffixed(pause.max));
            let time = self.call("pause", &pause.when, None, quote_spanned!(site()=> &__outcome, #max, #wanted));
            settle.extend(if is_async {
                quote_spanned!(site()=>
                    let __pause = #time;
                    __held.pause_async(__pause).await;
                )
            } else {
                quote_spanned!(site()=> __held.pause(#time);)
            });
        }
        let (function, settles, settles_async) = match &self.model.settle {
            None => ("counts", "settle", "settle_async"),
            Some(Settle { is_later: false, .. }) => ("actual", "took", "took_async"),
            Some(Settle { is_later: true, .. }) => ("actual", "took_later", "took_later"),
        };
        let predicate = self.model.deduct_when.as_ref().or(self.model.settle.as_ref().map(|settle| &settle.actual));
        if let Some(predicate) = predicate {
            let wanted = &predicate.value;
            let counts = self.call(function, predicate, None, quote_spanned!(site()=> &__outcome, #wanted));
            let method = Ident::new(if is_async { settles_async } else { settles }, site());
            let waits = (is_async && settles_async.ends_with("async")).then(|| quote_spanned!(site()=> .await));
            settle.extend(if is_async {
                quote_spanned!(site()=>
                    let __counts = #counts;
                    __held.#method(__counts)#waits;
                )
            } else {
                quote_spanned!(site()=> __held.#method(#counts);)
            });
        }
        settle
    }

    /// The body with the prologue inside its trailing `async` block.
    fn inside(&self, trailing: &TrailingBlock) -> Group {
        let TrailingBlock { braces: outer, before, boxed, keywords, block } = trailing;
        let limited = self.limited(block, Some(keywords));
        let mut tokens = before.clone();
        match boxed {
            None => tokens.extend([keywords.clone(), limited.into_token_stream()]),
            Some((path, parentheses)) => {
                let mut inner = keywords.clone();
                inner.extend(limited.into_token_stream());
                let mut call = Group::new(Delimiter::Parenthesis, inner);
                call.set_span(parentheses.span());
                tokens.extend([path.clone(), call.into_token_stream()]);
            }
        }
        let mut body = Group::new(Delimiter::Brace, tokens);
        body.set_span(outer.span());
        body
    }

    /// Statements that end with the call admitted. If its permits are held or its outcome is
    /// inspected, they form an expression for what is held.
    fn prologue(&self, is_async: bool) -> TokenStream {
        let holds = self.model.holds();
        let rt = &self.rt;
        let limits = self.limits();
        let limiter = self.limiter(&limits);
        let lets: TokenStream = limits.iter().map(|limit| limit.lets.clone()).collect();
        let (cost_let, cost) = self.cost();
        let checked = self.checked(&limits, &cost, is_async, holds);
        let admission = quote_spanned!(site()=> #limiter #lets #cost_let #checked);
        let denied = match &self.model.denial {
            Denial::Never => None,
            Denial::Returned => Some(self.returned()),
            Denial::Response => Some(quote_spanned!(site()=> return #rt::Limited::Denied(__exceeded))),
            Denial::OrElse(or_else) => {
                let f = &or_else.value;
                let returns = &self.model.shape.returns;
                let never = matches!(returns, Returns::Never(_));
                // With the type, the returned value is coerced to it, as in
                // `Err(Box::new(exceeded))`.
                let (function, ty) = match returns {
                    Returns::Never(_) => ("or_else_never", None),
                    Returns::Type(_) => ("or_else", Some(returns.annotation())),
                    _ => ("or_else", None),
                };
                let at = site().located_at(or_else.name.span());
                let ty = ty.map(|ty| quote_spanned!(at=> ::<#ty>));
                let call = self.call(function, or_else, ty.as_ref(), quote_spanned!(site()=> __exceeded, #f));
                // `return` around a diverging expression would be a second one: unreachable code.
                Some(if never { call } else { quote_spanned!(site()=> return #call) })
            }
        };
        let exempt = self.model.exempt_when.as_ref().map(|arg| {
            let value = &arg.value;
            let bool = primitive("bool", arg.name.span());
            quote_spanned!(site()=> let __exempt: #bool = #value;)
        });
        match (holds, denied) {
            (false, denied) => {
                let verdict = match denied {
                    None => quote_spanned!(site()=> #rt::admitted(__checked);),
                    Some(denied) => quote_spanned!(site()=>
                        if let #rt::Err(__exceeded) = __checked {
                            #denied;
                        }
                    ),
                };
                match exempt {
                    // In a block, so that the body's future keeps no room for the outcome.
                    None if is_async => quote_spanned!(site()=> { #admission #verdict }),
                    None => quote_spanned!(site()=> #admission #verdict),
                    Some(exempt) => quote_spanned!(site()=> #exempt if !__exempt { #admission #verdict }),
                }
            }
            (true, denied) => {
                let held = match denied {
                    None => quote_spanned!(site()=> #rt::Result::ok(__checked)),
                    Some(denied) => quote_spanned!(site()=>
                        match __checked {
                            #rt::Ok(__held) => #rt::Some(__held),
                            #rt::Err(__exceeded) => #denied,
                        }
                    ),
                };
                match exempt {
                    None => quote_spanned!(site()=> { #admission #held }),
                    Some(exempt) => quote_spanned!(site()=> {
                        #exempt
                        if __exempt { #rt::None } else { #admission #held }
                    }),
                }
            }
        }
    }

    /// `let __checked = ..;`, a separate statement, so that temporaries of the key end with it.
    fn checked(&self, limits: &[LimitTokens], cost: &TokenStream, is_async: bool, holds: bool) -> TokenStream {
        let rt = &self.rt;
        let currents = limits.iter().map(|limit| &limit.current);
        let currents = quote_spanned!(site()=> &[#(#currents),*]);
        let limiter = match (&self.model.limiter, limits.iter().map(|limit| limit.known).max()) {
            (Limiter::Shared(arg), _) => {
                let shared = Ident::new("__shared", place_of(&arg.value));
                self.call("call_of_shared", arg, None, shared.into_token_stream())
            }
            (_, Some(Known::Call)) => quote_spanned!(site()=> #rt::call(__limiter).limits(#currents)),
            (_, Some(Known::Instance)) => quote_spanned!(site()=> #rt::call_by_constants(__limiter, #currents)),
            _ => quote_spanned!(site()=> #rt::call(__limiter)),
        };
        let mut wait = match self.model.wait.as_ref().map(|wait| &wait.bound) {
            None => TokenStream::new(),
            Some(Wait::Forever) => quote_spanned!(site()=> .wait(#rt::Wait::Forever)),
            Some(Wait::AtMost(nanos, _)) => {
                let nanos = Literal::u64_unsuffixed(*nanos);
                quote_spanned!(site()=> .wait(#rt::Wait::AtMost(#nanos)))
            }
        };
        if let Some(queue) = self.model.wait.as_ref().and_then(|wait| wait.queue) {
            let queue = Literal::u32_unsuffixed(queue);
            wait.extend(quote_spanned!(site()=> .queue(#queue)));
        }
        if let Some(priority) = self.model.wait.as_ref().and_then(|wait| wait.priority.as_ref()) {
            let (at, priority) = (site().located_at(priority.name.span()), &priority.value);
            wait.extend(quote_spanned!(at=> .priority(#priority)));
        }
        let (key, key_span) = match &self.model.key {
            None => (quote_spanned!(site()=> ()), site()),
            Some(arg) => (key_of(&arg.value), site().located_at(arg.name.span())),
        };
        let (key, key_span) = match &self.model.keys {
            None => (key, key_span),
            Some(Keys::Shared(arg)) => {
                let keys = match bare(&arg.value) {
                    Expr::Tuple(tuple) => tuple.elems.iter().map(|key| self.one_key(key)).collect(),
                    // Refused before.
                    _ => Vec::new(),
                };
                (quote_spanned!(site()=> (#(#keys,)*)), site().located_at(arg.name.span()))
            }
            Some(Keys::Own(keys)) => {
                let keys = keys.iter().map(|arg| match arg {
                    None => quote_spanned!(site()=> ()),
                    Some(arg) => self.one_key(&arg.value),
                });
                (quote_spanned!(site()=> (#(#keys,)*)), key_span)
            }
        };
        let method = match (is_async, holds) {
            (false, false) => "check",
            (false, true) => "hold",
            (true, false) => "begin",
            (true, true) => "begin_held",
        };
        let each = if self.model.keys.is_some() { "_each" } else { "" };
        let method = Ident::new(&format!("{method}{each}"), key_span);
        let at = self.model.pause_when.as_ref().and_then(|pause| pause.at).map(|at| {
            let at = Literal::usize_unsuffixed(at);
            quote_spanned!(site()=> ::<#at, _>)
        });
        let pausing = match (&self.model.pause_when, self.model.settles()) {
            (None, _) => None,
            (Some(_), false) => Some(quote_spanned!(site()=> .pausing())),
            (Some(_), true) => Some(quote_spanned!(site()=> .pausing().giving_back())),
        };
        let mut call = quote_spanned!(site()=> #limiter #cost #wait #pausing . #method #at (#key));
        if let Limiter::Shared(arg) = &self.model.limiter {
            // No type annotation, so that `if a { &A } else { &B }` works, too.
            let (value, shared) = (borrowed(&arg.value), Ident::new("__shared", site()));
            call = quote_spanned!(site()=> match (#value,) { (#shared,) => #call });
        }
        if is_async {
            // A separate statement, so that nothing borrowed by the key lives across the await.
            quote_spanned!(site()=>
                let __begun = #call;
                let __checked = __begun.finish().await;
            )
        } else {
            quote_spanned!(site()=> let __checked = #call;)
        }
    }

    /// One key of several. Passed through a function, so that an error about its type is at the key.
    fn one_key(&self, expr: &Expr) -> TokenStream {
        let at = place_of(expr);
        let (rt, key) = (self.runtime(at), key_of(expr));
        let mut parentheses = Group::new(Delimiter::Parenthesis, key);
        parentheses.set_span(site().located_at(ends(expr).1));
        quote_spanned!(at=> #rt::key #parentheses)
    }

    /// `let __limiter = ..;`
    fn limiter(&self, limits: &[LimitTokens]) -> TokenStream {
        let Limiter::Own(own) = &self.model.limiter else {
            return TokenStream::new();
        };
        let rt = &self.rt;
        let (here, spec) = match &own.name {
            Some(Name::Literal(name)) => (TokenStream::new(), quote_spanned!(site()=> #rt::Spec::named(#name))),
            Some(Name::Constant(name)) => {
                let name = checked_name(&name.value);
                (TokenStream::new(), quote_spanned!(site()=> #rt::Spec::named(#name)))
            }
            // The type name of an item inside the function contains the function's path, including
            // its impl.
            None => (
                quote_spanned!(site()=> enum __Here {}),
                quote_spanned!(site()=> #rt::Spec::unnamed(#rt::path::<__Here>)),
            ),
        };
        let ordinal = (self.model.ordinal > 1).then(|| {
            let ordinal = Literal::u32_unsuffixed(self.model.ordinal);
            quote_spanned!(site()=> .ordinal(#ordinal))
        });
        // A function, not a closure: if the expression uses an argument, the compiler's error says
        // so.
        let backend = match &own.backend {
            Some(Backend::Made(arg)) => {
                let made = self.call("backend", arg, None, arg.value.to_token_stream());
                quote_spanned!(site()=> fn __backend() -> #rt::SharedBackend { #made })
            }
            _ => TokenStream::new(),
        };
        let has_keys = self.model.keys.is_some();
        let templates = limits.iter().zip(&own.limits).enumerate().map(|(index, (limit, own))| {
            let template = &limit.template;
            if !has_keys || own.key == index {
                return template.clone();
            }
            // By default, each limit has a key of its own.
            let key = Literal::usize_unsuffixed(own.key);
            quote_spanned!(site()=> #template .key(#key))
        });
        let settings = self.settings(own);
        // Other limiters may share the buckets of a given name, and have keys.
        let has_no_key = own.name.is_none() && self.model.key.is_none() && !has_keys;
        let without_keys = has_no_key.then(|| quote_spanned!(site()=> .without_keys()));
        let one_permit = self.model.takes_one_permit(own).then(|| quote_spanned!(site()=> .one_permit()));
        quote_spanned!(site()=>
            let __limiter = {
                #here
                #backend
                static __LIMITER: #rt::RateLimiter = #spec
                    #ordinal
                    #(#templates)*
                    #settings
                    #without_keys
                    #one_permit
                    .limiter_here();
                &__LIMITER
            };
        )
    }

    fn settings(&self, own: &Own) -> TokenStream {
        let rt = &self.rt;
        let mut settings = match &own.backend {
            None => TokenStream::new(),
            Some(Backend::Named(word)) if word == "memory" => quote_spanned!(site()=> .memory()),
            Some(Backend::Named(word)) => {
                let word = Ident::new(&word.to_string(), site());
                quote_spanned!(site()=> .backend(#rt::environments::#word))
            }
            Some(Backend::Made(_)) => quote_spanned!(site()=> .backend(__backend)),
        };
        if let Some(policy) = own.on_backend_error {
            let policy = variant(policy);
            settings.extend(quote_spanned!(site()=> .on_backend_error(#rt::OnBackendError::#policy)));
        }
        match own.penalty {
            None => {}
            Some(Penalty::Backoff { initial, max }) => {
                let (initial, max) = (Literal::u64_unsuffixed(initial), Literal::u64_unsuffixed(max));
                settings.extend(quote_spanned!(site()=> .backoff(#rt::per(#initial), #rt::per(#max))));
            }
            Some(Penalty::Ban(time)) => {
                let time = Literal::u64_unsuffixed(time);
                settings.extend(quote_spanned!(site()=> .ban(#rt::per(#time))));
            }
        }
        if own.dry_run {
            settings.extend(quote_spanned!(site()=> .dry_run()));
        }
        settings
    }

    /// The trait's value of the error for the return type. Spanned at the type, where its error
    /// shows.
    fn returned(&self) -> TokenStream {
        let (first, last) = self.model.shape.returns.ends();
        let (first, last) = (site().located_at(first), site().located_at(last));
        let rt = self.runtime(first);
        let method = Ident::new("from_rate_limit_exceeded", last);
        let implementation = match (&self.model.shape.body, &self.model.shape.returns) {
            // An `async` block infers its output from its first `return`, which is this one.
            (Body::Future(_), Returns::Type(ty)) if !names_impl(ty.to_token_stream()) => {
                quote_spanned!(first=> <#ty as #rt::FromRateLimitExceeded>)
            }
            _ => quote_spanned!(first=> #rt::FromRateLimitExceeded),
        };
        quote_spanned!(first=> return #implementation::#method(__exceeded))
    }

    /// A call of a runtime function, located at the argument that requires it.
    fn call(
        &self,
        function: &str,
        argument: &Arg<Expr>,
        types: Option<&TokenStream>,
        parameters: TokenStream,
    ) -> TokenStream {
        let at = site().located_at(argument.name.span());
        let rt = self.runtime(at);
        let function = Ident::new(function, at);
        let mut parentheses = Group::new(Delimiter::Parenthesis, parameters);
        parentheses.set_span(site().located_at(ends(&argument.value).1));
        quote_spanned!(at=> #rt::#function #types #parentheses)
    }

    /// Imports the runtime. A wrong path is then one error, at the `crate` argument or at the
    /// attribute.
    fn import(&self) -> TokenStream {
        let named = self.model.runtime.as_ref().map(ToTokens::to_token_stream);
        let path = named.unwrap_or_else(|| quote_spanned!(site()=> ::ratelimit_runtime));
        quote_spanned!(site()=> use #path::macro_support::v1 as __runtime;)
    }
}

/// The key as passed: places are borrowed, also inside tuples; any other expression is evaluated as
/// written.
fn key_of(expr: &Expr) -> TokenStream {
    if is_place(expr) {
        return borrowed(expr);
    }
    match bare(expr) {
        Expr::Tuple(tuple) if tuple.attrs.is_empty() && !tuple.elems.is_empty() => {
            let elements = tuple.elems.iter().map(key_of);
            let mut group = Group::new(Delimiter::Parenthesis, quote_spanned!(site()=> #(#elements,)*));
            group.set_span(site().located_at(tuple.paren_token.span.join()));
            group.into_token_stream()
        }
        _ => expr.to_token_stream(),
    }
}

/// Whether an expression is a place: a name, a field, an element or a dereference.
fn is_place(expr: &Expr) -> bool {
    match expr {
        Expr::Path(it) => it.attrs.is_empty(),
        Expr::Field(it) => it.attrs.is_empty(),
        Expr::Index(it) => it.attrs.is_empty(),
        Expr::Unary(it) => it.attrs.is_empty() && matches!(it.op, UnOp::Deref(_)),
        Expr::Group(it) => it.attrs.is_empty() && is_place(&it.expr),
        Expr::Paren(it) => it.attrs.is_empty() && is_place(&it.expr),
        _ => false,
    }
}

/// `&expr`, parenthesized if `&` would bind to a part of it.
fn borrowed(expr: &Expr) -> TokenStream {
    let at = place_of(expr);
    let binds_weaker = matches!(
        bare(expr),
        Expr::Binary(_) | Expr::Cast(_) | Expr::Range(_) | Expr::Assign(_) | Expr::Closure(_) | Expr::Let(_)
    );
    let expr = if matches!(expr, Expr::Group(_)) { bare(expr) } else { expr };
    if binds_weaker { quote_spanned!(at=> &(#expr)) } else { quote_spanned!(at=> & #expr) }
}

/// Whether a type is or contains an `impl Trait`.
fn names_impl(ty: TokenStream) -> bool {
    ty.into_iter().any(|token| match token {
        TokenTree::Ident(word) => word == "impl",
        TokenTree::Group(group) => names_impl(group.stream()),
        TokenTree::Punct(_) | TokenTree::Literal(_) => false,
    })
}

/// The inner attributes of a body, and its statements.
fn split_body(body: &Group) -> (TokenStream, TokenStream) {
    let mut attributes = TokenStream::new();
    let mut rest = body.stream().into_iter();
    loop {
        let mut ahead = rest.clone();
        match (ahead.next(), ahead.next(), ahead.next()) {
            (Some(TokenTree::Punct(hash)), Some(TokenTree::Punct(bang)), Some(brackets))
                if hash.as_char() == '#' && bang.as_char() == '!' =>
            {
                attributes.extend([TokenTree::Punct(hash), TokenTree::Punct(bang), brackets]);
                rest = ahead;
            }
            _ => return (attributes, rest.collect()),
        }
    }
}

/// The statements of a body in its own braces, with the user's spans. In the macro's braces, clippy
/// would treat a macro call directly in the body as part of the expansion, and stay silent.
fn own_braces(body: &Group, statements: TokenStream) -> Group {
    let mut tokens = TokenStream::new();
    let ends_statement = |token: TokenTree| matches!(token, TokenTree::Punct(punct) if punct.as_char() == ';');
    if !statements.clone().into_iter().any(ends_statement) {
        // Silences `unused_braces`, a lint about braces around a single expression.
        tokens.extend(quote_spanned!(site()=> const _: () = ();));
    }
    tokens.extend(statements.into_iter().map(block_fragment));
    let mut group = Group::new(Delimiter::Brace, tokens);
    group.set_span(body.span());
    group
}

/// Marks a `$body:block` as part of the macro that wrote it, as the compiler has marked its invisible
/// group, which no macro can pass on. `unused_braces` is silent about such a block.
fn block_fragment(token: TokenTree) -> TokenTree {
    let TokenTree::Group(fragment) = &token else { return token };
    let mut content = fragment.stream().into_iter();
    match (fragment.delimiter(), content.next(), content.next()) {
        (Delimiter::None, Some(TokenTree::Group(mut block)), None) if block.delimiter() == Delimiter::Brace => {
            block.set_span(fragment.span().located_at(block.span()));
            let mut marked = Group::new(Delimiter::None, TokenTree::Group(block).into());
            marked.set_span(fragment.span());
            TokenTree::Group(marked)
        }
        _ => token,
    }
}

fn move_keywords() -> TokenStream {
    quote_spanned!(site()=> async move)
}
