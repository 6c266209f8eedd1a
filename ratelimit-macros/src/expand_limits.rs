//! The attribute's numbers as tokens: in the static, at each call, and as compile-time checks.

use proc_macro2::{Ident, Literal, Span, TokenStream};
use quote::{ToTokens, quote_spanned};
use syn::{Expr, ExprPath};

use crate::arguments::Arg;
use crate::duration::{LONGEST, SHORTEST};
use crate::hygiene::{Expansion, place_of, site, variant};
use crate::model::{Calendar, Limit, Limiter, Per, Permits, StartsOn};

/// One limit: in the static, and at a call if any part of it is read there.
pub(crate) struct LimitTokens {
    pub(crate) template: TokenStream,
    pub(crate) current: TokenStream,
    pub(crate) lets: TokenStream,
    pub(crate) known: Known,
}

/// Where a limit is known.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Known {
    /// In the attribute.
    Written,
    /// In each instance of a generic function.
    Instance,
    /// At each call.
    Call,
}

impl Known {
    fn of(limit: &Limit, is_read: bool) -> Known {
        match (is_read, limit.varies()) {
            (false, _) => Known::Written,
            (true, false) => Known::Instance,
            (true, true) => Known::Call,
        }
    }
}

/// A value in the two places that may need it.
struct Value {
    /// In the static.
    fixed: Option<TokenStream>,
    current: TokenStream,
    lets: TokenStream,
}

impl Expansion<'_> {
    /// The limits of the function's own limiter.
    pub(crate) fn limits(&self) -> Vec<LimitTokens> {
        let Limiter::Own(own) = &self.model.limiter else {
            return Vec::new();
        };
        let rt = &self.rt;
        let literals: Option<Vec<LimitTokens>> = own.limits.iter().map(|limit| literal(limit, rt)).collect();
        if let Some(literals) = literals {
            return literals;
        }
        own.limits
            .iter()
            .enumerate()
            .map(|(index, limit)| {
                let count = self.permits(&limit.count, &local("count", index));
                if let Per::Calendar(calendar) = &limit.per {
                    return self.calendar(limit, calendar, count, &local("starts_on", index));
                }
                let per = self.per(&limit.per, &local("per", index));
                let burst = limit.burst.as_ref().map(|burst| self.permits(burst, &local("burst", index)));
                let algorithm = variant(limit.algorithm);
                let algorithm = quote_spanned!(site()=> #rt::Algorithm::#algorithm);
                let make = |count: &TokenStream, per: &TokenStream, burst: Option<&TokenStream>| match burst {
                    None => quote_spanned!(site()=> #rt::limit(#count, #per, #algorithm)),
                    Some(burst) => quote_spanned!(site()=> #rt::limit_with_burst(#count, #per, #algorithm, #burst)),
                };
                let reads_burst = burst.as_ref().is_some_and(|burst| burst.fixed.is_none());
                let reads_count = count.fixed.is_none() || reads_burst;
                let reads_per = per.fixed.is_none();
                let one = quote_spanned!(site()=> 1);
                let template = make(
                    count.fixed.as_ref().filter(|_| !reads_count).unwrap_or(&one),
                    per.fixed.as_ref().unwrap_or(&quote_spanned!(site()=> #rt::per(1))),
                    burst.as_ref().map(|burst| burst.fixed.as_ref().unwrap_or(&one)),
                );
                let current = make(&count.current, &per.current, burst.as_ref().map(|burst| &burst.current));
                let mut template = quote_spanned!(site()=> .limit(#template));
                if reads_count {
                    template.extend(quote_spanned!(site()=> .reads_count()));
                }
                if reads_per {
                    template.extend(quote_spanned!(site()=> .reads_per()));
                }
                let known = Known::of(limit, reads_count || reads_per);
                if known == Known::Instance {
                    template.extend(quote_spanned!(site()=> .constant()));
                }
                let mut lets = count.lets;
                lets.extend(per.lets);
                lets.extend(burst.map(|burst| burst.lets));
                LimitTokens { template, current, lets, known }
            })
            .collect()
    }

    /// A limit by the calendar.
    fn calendar(&self, limit: &Limit, calendar: &Calendar, count: Value, local: &Ident) -> LimitTokens {
        let rt = &self.rt;
        let at = calendar.zone.as_ref().map_or_else(site, |zone| site().located_at(zone.span()));
        let unit = Ident::new(&calendar.unit.name().to_uppercase(), at);
        let mut fixed = match &calendar.zone {
            None => quote_spanned!(at=> #rt::#unit),
            // The compiler looks the zone up, as an item so that `cargo check` does so too.
            Some(zone) => {
                let rt = self.runtime(at);
                quote_spanned!(at=> {
                    const __ZONED: #rt::Calendar = #rt::#unit.in_zone(#zone);
                    __ZONED
                })
            }
        };
        if let Some(day) = calendar.week_starts {
            let day = Ident::new(&day.to_uppercase(), site());
            fixed = quote_spanned!(site()=> #fixed.week_starts(#rt::#day));
        }
        let day = calendar.starts_on.as_ref().map(|day| day_of_month(day, local));
        let is_fixed = day.as_ref().is_none_or(|day| day.fixed.is_some());
        if let Some(day) = day.as_ref().and_then(|day| day.fixed.as_ref()) {
            fixed = quote_spanned!(site()=> #rt::starting_on(#fixed, #day));
        }
        let current = match &day {
            Some(Value { fixed: None, current, .. }) => quote_spanned!(site()=> #rt::starting_on(#fixed, #current)),
            _ => fixed.clone(),
        };
        let known = Known::of(limit, count.fixed.is_none() || !is_fixed);
        let one = quote_spanned!(site()=> 1);
        let first = count.fixed.as_ref().unwrap_or(&one);
        let mut template = quote_spanned!(site()=> .limit(#rt::calendar(#first, #fixed)));
        if known != Known::Written {
            template.extend(quote_spanned!(site()=> .reads_count()));
        }
        if known == Known::Instance {
            template.extend(quote_spanned!(site()=> .constant()));
        }
        let count_now = &count.current;
        let current = quote_spanned!(site()=> #rt::calendar(#count_now, #current));
        let mut lets = count.lets;
        lets.extend(day.map(|day| day.lets));
        LimitTokens { template, current, lets, known }
    }

    /// `count` or `burst`.
    fn permits(&self, permits: &Permits, local: &Ident) -> Value {
        match permits {
            Permits::Literal(number) => {
                let number = Literal::u32_unsuffixed(*number).into_token_stream();
                Value { fixed: Some(number.clone()), current: number, lets: TokenStream::new() }
            }
            Permits::Read(arg) => read("u32", arg, local),
            Permits::Constant(arg) => {
                let Arg { name, value } = arg;
                let at = place_of(value);
                let message = format!("`{name}` is at least 1: with 0 every call would be denied");
                match scope(value) {
                    Scope::Module => {
                        let u32 = primitive("u32", at);
                        let test = quote_spanned!(at=> __VALUE >= 1);
                        Value {
                            fixed: Some(checked_item(value, &u32, &test, &message)),
                            current: value.to_token_stream(),
                            lets: TokenStream::new(),
                        }
                    }
                    // As a generic argument, so that `cargo check` evaluates it too.
                    Scope::Name => {
                        let rt = self.runtime(at);
                        let u32 = primitive("u32", name.span());
                        let lets = quote_spanned!(at=>
                            let #local: #u32 = {
                                use #rt::AtLeastOne as _;
                                // A const generic is known only in the instantiated function.
                                const {
                                    let __constant = #rt::Constant::<{ #value }>;
                                    ::core::assert!(__constant.permits() >= 1, #message);
                                    __constant
                                }
                                .at_least_one(())
                            };
                        );
                        Value { fixed: None, current: local.to_token_stream(), lets }
                    }
                    Scope::Type => {
                        let test = quote_spanned!(at=> __value >= 1);
                        let u32 = primitive("u32", name.span());
                        checked_inline(value, local, &u32, &test, &message)
                    }
                }
            }
        }
    }

    fn per(&self, per: &Per, local: &Ident) -> Value {
        let rt = &self.rt;
        match per {
            Per::Literal(nanos, _) => {
                let nanos = Literal::u64_unsuffixed(*nanos);
                let per = quote_spanned!(site()=> #rt::per(#nanos));
                Value { fixed: Some(per.clone()), current: per, lets: TokenStream::new() }
            }
            // Made into tokens as a whole, see `calendar`.
            Per::Calendar(_) => Value { fixed: None, current: TokenStream::new(), lets: TokenStream::new() },
            Per::Read(arg) => read_as(&duration(&arg.name), arg, local),
            Per::Constant(arg) => {
                let Arg { name, value } = arg;
                let at = place_of(value);
                let message = "`per` is a duration from 1 microsecond to 366 days";
                let shortest = Literal::u64_unsuffixed(SHORTEST);
                let longest = Literal::u64_unsuffixed(LONGEST);
                let test = |nanos: TokenStream| quote_spanned!(at=> #nanos.as_nanos() >= #shortest && #nanos.as_nanos() <= #longest);
                let duration = duration(name);
                match scope(value) {
                    // A duration cannot be a const generic, so a static can name it.
                    Scope::Module | Scope::Name => {
                        let test = test(quote_spanned!(at=> __VALUE));
                        Value {
                            fixed: Some(checked_item(value, &duration, &test, message)),
                            current: value.to_token_stream(),
                            lets: TokenStream::new(),
                        }
                    }
                    Scope::Type => {
                        checked_inline(value, local, &duration, &test(quote_spanned!(at=> __value)), message)
                    }
                }
            }
        }
    }

    /// The statements that read the cost, and the part of the call that passes it.
    pub(crate) fn cost(&self) -> (TokenStream, TokenStream) {
        let Some(cost) = &self.model.cost else {
            return (TokenStream::new(), TokenStream::new());
        };
        let local = Ident::new("__cost", site());
        let value = match &cost.permits {
            Permits::Literal(number) => {
                let number = Literal::u32_unsuffixed(*number);
                let mut lets = TokenStream::new();
                self.check_constant_cost(&mut lets);
                return (lets, quote_spanned!(site()=> .cost(#number)));
            }
            Permits::Read(arg) => read("u32", arg, &local),
            Permits::Constant(arg) => {
                read("u32", &Arg { name: arg.name.clone(), value: Expr::Path(arg.value.clone()) }, &local)
            }
        };
        let mut lets = value.lets;
        self.check_constant_cost(&mut lets);
        (lets, quote_spanned!(site()=> .cost(#local)))
    }

    /// Checks a cost against the limit if one of the two is a constant.
    fn check_constant_cost(&self, lets: &mut TokenStream) {
        let (Limiter::Own(own), Some(cost)) = (&self.model.limiter, &self.model.cost) else {
            return;
        };
        for limit in &own.limits {
            let capacity = limit.capacity();
            if matches!((&cost.permits, capacity), (Permits::Literal(_), Permits::Literal(_))) {
                // Both are literals and checked already.
                continue;
            }
            let (Some((cost_value, cost_scope)), Some((capacity, capacity_scope))) =
                (known(&cost.permits), known(capacity))
            else {
                continue;
            };
            let at = match &cost.permits {
                Permits::Constant(arg) => place_of(&arg.value),
                _ => site().located_at(cost.name.span()),
            };
            let u64 = primitive("u64", site());
            // Compared as `u64`, to which both can be cast. Their types are checked elsewhere.
            let check = quote_spanned!(at=>
                ::core::assert!(#cost_value as #u64 <= #capacity as #u64, "`cost` is above the limit: the call never fits")
            );
            lets.extend(if cost_scope == Scope::Module && capacity_scope == Scope::Module {
                quote_spanned!(at=> { const _: () = #check; })
            } else {
                quote_spanned!(at=> const { #check };)
            });
        }
    }
}

/// `starts_on`.
fn day_of_month(day: &StartsOn, local: &Ident) -> Value {
    match day {
        StartsOn::Literal(day) => {
            let day = Literal::u8_unsuffixed(*day).into_token_stream();
            Value { fixed: Some(day.clone()), current: day, lets: TokenStream::new() }
        }
        StartsOn::Read(arg) => read("u8", arg, local),
        StartsOn::Constant(arg) => {
            let Arg { name, value } = arg;
            let at = place_of(value);
            let message = "`starts_on` is a day of the month, from 1 to 31";
            let u8 = primitive("u8", name.span());
            if scope(value) == Scope::Module {
                let test = quote_spanned!(at=> __VALUE >= 1 && __VALUE <= 31);
                let value = checked_item(value, &u8, &test, message);
                return Value { fixed: Some(value.clone()), current: value, lets: TokenStream::new() };
            }
            checked_inline(value, local, &u8, &quote_spanned!(at=> __value >= 1 && __value <= 31), message)
        }
    }
}

/// A limit of literals: the common case.
fn literal(limit: &Limit, rt: &TokenStream) -> Option<LimitTokens> {
    let (Permits::Literal(count), Per::Literal(nanos, _)) = (&limit.count, &limit.per) else {
        return None;
    };
    let count = Literal::u32_unsuffixed(*count);
    // Rounded as in the runtime: a fraction of a microsecond counts as a whole one.
    let micros = Literal::u64_unsuffixed(nanos.div_ceil(1_000));
    let burst = match &limit.burst {
        None => count.clone(),
        Some(Permits::Literal(burst)) => Literal::u32_unsuffixed(*burst),
        Some(_) => return None,
    };
    let algorithm = variant(limit.algorithm);
    let template = quote_spanned!(site()=> .literal(#rt::Algorithm::#algorithm, #count, #micros, #burst));
    Some(LimitTokens { template, current: TokenStream::new(), lets: TokenStream::new(), known: Known::Written })
}

fn local(name: &str, index: usize) -> Ident {
    Ident::new(&format!("__{name}{index}"), site())
}

/// Where a constant can be named.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Scope {
    /// Also in a nested item: its path starts with a module, and has no type arguments.
    Module,
    /// A single name: a constant, or a const generic, which a nested item cannot see.
    Name,
    /// Through a type, which may be a generic parameter or `Self`.
    Type,
}

fn scope(path: &ExprPath) -> Scope {
    let segments = &path.path.segments;
    let first = segments.first().map(|segment| segment.ident.to_string()).unwrap_or_default();
    let is_module = path.path.leading_colon.is_some()
        // A type parameter called `Duration` is not supported.
        || first == "Duration"
        || first.starts_with(|letter: char| !letter.is_uppercase());
    if path.qself.is_some() {
        Scope::Type
    } else if segments.len() == 1 {
        Scope::Name
    } else if is_module && segments.iter().all(|segment| segment.arguments.is_none()) {
        Scope::Module
    } else {
        Scope::Type
    }
}

/// Permits known to the compiler, and where they can be named.
fn known(permits: &Permits) -> Option<(TokenStream, Scope)> {
    match permits {
        Permits::Literal(number) => Some((Literal::u32_unsuffixed(*number).into_token_stream(), Scope::Module)),
        Permits::Constant(arg) => Some((arg.value.to_token_stream(), scope(&arg.value))),
        Permits::Read(_) => None,
    }
}

/// A constant and its check as items, which `cargo check` evaluates.
fn checked_item(value: &ExprPath, ty: &TokenStream, test: &TokenStream, message: &str) -> TokenStream {
    let at = place_of(value);
    quote_spanned!(at=> {
        const __VALUE: #ty = #value;
        const _: () = ::core::assert!(#test, #message);
        __VALUE
    })
}

/// A name known to the compiler, with its check.
pub(crate) fn checked_name(value: &Expr) -> TokenStream {
    let at = place_of(value);
    let str = primitive("str", at);
    let message = "the name is empty: write what the limit is called in errors, logs and the backend";
    quote_spanned!(at=> {
        const __NAME: &#str = #value;
        const _: () = ::core::assert!(!__NAME.is_empty(), #message);
        __NAME
    })
}

/// A possibly generic constant, checked in each instantiation of the function.
fn checked_inline(value: &ExprPath, local: &Ident, ty: &TokenStream, test: &TokenStream, message: &str) -> Value {
    let at = place_of(value);
    let lets = quote_spanned!(at=>
        let #local: #ty = const {
            let __value: #ty = #value;
            ::core::assert!(#test, #message);
            __value
        };
    );
    Value { fixed: None, current: local.to_token_stream(), lets }
}

fn read(ty: &str, arg: &Arg<Expr>, local: &Ident) -> Value {
    read_as(&primitive(ty, arg.name.span()), arg, local)
}

/// A `let` with its type, so that a wrong type is reported at the expression.
fn read_as(ty: &TokenStream, arg: &Arg<Expr>, local: &Ident) -> Value {
    let value = &arg.value;
    let lets = quote_spanned!(site()=> let #local: #ty = #value;);
    Value { fixed: None, current: local.to_token_stream(), lets }
}

fn duration(name: &Ident) -> TokenStream {
    quote_spanned!(site().located_at(name.span())=> ::core::time::Duration)
}

/// `::core::primitive::u32`: the bare name may be the user's type.
pub(crate) fn primitive(name: &str, at: Span) -> TokenStream {
    let at = site().located_at(at);
    let name = Ident::new(name, at);
    quote_spanned!(at=> ::core::primitive::#name)
}
