//! Bodies with lints of rustc and clippy. Each function is checked with and without the attribute,
//! which replaces the lines that say `limited`.

#![allow(clippy::blanket_clippy_restriction_lints, reason = "all that clippy can say is of interest")]
#![warn(clippy::all, clippy::pedantic, clippy::nursery, clippy::restriction)]
#![warn(unused, let_underscore, unused_qualifications, unused_results, single_use_lifetimes, trivial_casts)]
#![warn(unused_lifetimes, trivial_numeric_casts, variant_size_differences, unit_bindings, redundant_lifetimes)]
#![allow(dead_code, reason = "the functions are here to be looked at")]
#![allow(clippy::missing_const_for_fn, reason = "no limited function is one")]
#![allow(clippy::unused_async, reason = "each limited function awaits its limit")]
#![allow(clippy::unnecessary_wraps, reason = "each limited function may fail")]

// limited
fn empty_line() -> Option<()> {
    println!("");
    Some(())
}

// limited
fn on_one_line() -> Option<()> { println!(""); Some(()) }

// limited
fn newline() -> Option<()> {
    print!("line\n");
    eprint!("line\n");
    eprintln!("");
    Some(())
}

// limited
fn assertions(number: u32) -> Option<u32> {
    assert!(true);
    debug_assert!(number == number);
    assert_eq!(number, 1, "one");
    assert_eq!(true, number > 1);
    Some(number)
}

// limited
fn formats(number: u32) -> Option<String> {
    println!("{}", number.to_string());
    let text = format!("{}", "text");
    let _again = format!("{}", text);
    Some(format!("text"))
}

// limited
#[expect(clippy::print_stdout, reason = "fulfilled")]
fn expected() -> Option<()> {
    println!("text");
    Some(())
}

// limited
#[expect(clippy::print_stdout, reason = "fulfilled")]
fn expected_on_one_line() -> Option<()> { println!("text"); None }

// limited
fn with_inner_attribute() -> Option<()> {
    #![expect(clippy::print_stdout, reason = "fulfilled")]
    println!("text");
    return Some(());
}

// limited
fn with_inner_attributes_about_arguments(unused: u32, mut changed: u32) -> Option<u32> {
    #![allow(unused_mut)]
    #![expect(unused_variables, reason = "fulfilled")]
    Some(changed)
}

// limited
fn with_inner_attribute_on_one_line(unused: u32) -> Option<u32> { #![allow(unused_variables)] Some(1) }

macro_rules! of_fragments {
    ($body:block, $value:expr) => {
// limited
fn of_fragments() -> Option<u32> {
    let _value = $value;
    $body
}
    };
}

of_fragments!({ Some(1) }, (true));

// limited
fn with_items(number: u32) -> Option<u32> {
    use std::fmt;
    use std::cmp::Ordering;
    fn inner(number: u32) -> u32 {
        return number + 1;
    }
    let more = inner(number);
    const LATE: u32 = 1;
    Some(more + LATE)
}

// limited
fn item_on_one_line() -> Option<u32> { fn inner() -> u32 { 1 } Some(inner()) }

// limited
fn returns(number: u32) -> Option<u32> {
    if number == 1 {
        return Some(1);
    } else {
        return Some(2);
    }
}

// limited
fn returns_on_one_line(number: u32) -> Option<u32> { return Some(number); }

// limited
fn let_and_return(number: u32) -> Option<u32> {
    let found = Some(number);
    found
}

// limited
fn question_marks(found: Option<u32>) -> Option<u32> {
    if found.is_none() {
        return None;
    }
    Some(found?)
}

// limited
fn needless_question_mark(found: Option<u32>) -> Option<u32> { Some(found?) }

// limited
fn matches(found: Option<u32>) -> Option<u32> {
    match found {
        Some(number) => Some(number + 1),
        None => None,
    }
}

// limited
fn braces(found: Option<u32>) -> Option<u32> { { found } }

// limited
fn parentheses(found: Option<u32>) -> Option<u32> { (found) }

// limited
fn parentheses_within(number: u32) -> Option<u32> { if (number > 1) { Some({ number }) } else { None } }

// limited
fn unit(number: &mut u32) -> Option<()> { Some({ *number = 1; }) }

// limited
fn shadows(number: u32) -> Option<u32> {
    let number = number;
    let number = number + 1;
    let unused = number;
    let mut needless = number;
    Some(needless)
}

// limited
fn loops(numbers: &[u32]) -> Option<u32> {
    for index in 0..numbers.len() {
        println!("{}", numbers[index]);
    }
    loop {
        break;
    }
    let mut iterator = numbers.iter();
    while let Some(number) = iterator.next() {
        let _ = *number as u8;
    }
    numbers.first().map(|number| *number)
}

// limited
fn closures(numbers: Vec<u32>) -> Option<usize> {
    let length = (|| numbers.len())();
    numbers.iter().map(|number| number.clone()).map(|number| u64::from(number)).count().checked_add(length)
}

// limited
fn unwraps(found: Option<u32>) -> Option<u32> { Some(found.unwrap() + found.expect("found")) }

// limited
fn never_made() -> Option<u32> { todo!() }

// limited
fn panics() -> Option<u32> { panic!("always") }

// limited
fn unreachable(number: u32) -> Option<u32> {
    return Some(number);
    println!("never");
    None
}

// limited
fn lifetimes<'a>(text: &'a str) -> Option<&'a str> { Some(text) }

// limited
fn by_value(text: String) -> Option<usize> { Some(text.len()) }

// limited
fn debugged(number: u32) -> Option<u32> { dbg!(number); Some(dbg!(number)) }

// limited
fn without_semicolon(numbers: &mut Vec<u32>) -> Option<()> {
    if numbers.is_empty() {
        numbers.push(1)
    }
    drop(numbers);
    None
}

// limited
fn blocks(number: u32) -> Option<u32> {
    let more = unsafe { number.unchecked_add(1) };
    if { let more = number; more } > 1 {
        Some(more)
    } else {
        None
    }
}

// limited
fn conditions(number: u32) -> Option<u32> {
    if number > 1 {
        if number < 3 {
            return Some(2);
        }
    }
    let is_one = if number == 1 { true } else { false };
    if is_one == true { Some(1) } else { None }
}

// limited
fn vectors() -> Option<u32> {
    let numbers = vec![1, 2];
    let mut more = Vec::new();
    more.push(1);
    numbers.iter().chain(&more).nth(0).copied()
}

// limited
fn todo_later() -> Option<u32> {
    // TODO: later
    unimplemented!("later");
}

// limited
fn dropped(text: &str) -> Option<()> {
    text.to_string();
    text.len();
    let _ = text.parse::<u32>();
    text.parse::<u32>().ok();
    Some(())
}

// limited
fn same_arms(number: u32) -> Option<u32> { match number { 1 => Some(1), 2 => Some(1), _ => None } }

// limited
fn strings() -> Option<String> { Some("text".to_owned() + &"more".to_string()) }

// limited
fn deprecated_call() -> Option<u32> { old(); Some(old()) }

#[deprecated]
fn old() -> u32 { 1 }

/// Methods, too.
struct Counter(u32);

impl Counter {
    // limited
    fn new(number: u32) -> Option<Self> { Some(Counter { 0: number }) }

    // limited
    pub fn next(&mut self) -> Option<u32> { self.0 += 1; println!(""); Some(self.0) }

    // limited
    fn to_number(self) -> Option<u32> { Some(self.0) }

    // limited
    fn unused_self(&self, _used: u32) -> Option<u32> { Some(_used) }
}
