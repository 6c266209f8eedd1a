//! Splits the input at its first line feed into arguments and item. The macro never panics, and a
//! valid item still parses.
//!
//! A proc-macro crate exports nothing but its macros, so its sources are compiled in.
//!
//! `cargo +nightly fuzz run attribute -- -dict=attribute.dict`

#![no_main]

#[path = "../../src/args.rs"]
mod args;
#[path = "../../src/attribute.rs"]
mod attribute;
#[path = "../../src/denial.rs"]
mod denial;
#[path = "../../src/describe.rs"]
mod describe;
#[path = "../../src/diagnostics.rs"]
mod diagnostics;
#[path = "../../src/duration.rs"]
mod duration;
#[path = "../../src/expand.rs"]
mod expand;
#[path = "../../src/expand_limits.rs"]
mod expand_limits;
#[path = "../../src/item.rs"]
mod item;
#[path = "../../src/model.rs"]
mod model;
#[path = "../../src/shape.rs"]
mod shape;
#[path = "../../src/suggest.rs"]
mod suggest;
#[path = "../../src/values.rs"]
mod values;

use libfuzzer_sys::fuzz_target;
use proc_macro2::TokenStream;

fuzz_target!(|text: &str| {
    let Some((args, item)) = text.split_once('\n') else {
        return;
    };
    let (Ok(args), Ok(item)) = (args.parse::<TokenStream>(), item.parse::<TokenStream>()) else {
        return;
    };
    let was_valid = syn::parse2::<syn::Item>(item.clone()).is_ok();
    let output = attribute::expand(args, item, model::Features::ENABLED);
    if was_valid {
        assert!(syn::parse2::<syn::File>(output.clone()).is_ok(), "does not parse: {output}");
    }
});
