//! Parses `calendar` and the arguments beside it.

use syn::{Expr, ExprLit, Lit, LitStr};

use super::{copy, is_constant, is_negative_number, text, word};
use crate::args::bare;
use crate::arguments::{Arg, LimitArgs};
use crate::diagnostics::Diagnostics;
use crate::duration;
use crate::model::{Calendar, CalendarUnit, StartsOn};
use crate::suggest::nearest;

/// A calendar, with the arguments beside it.
pub(crate) fn calendar(arg: &Arg<Expr>, beside: &LimitArgs, errors: &mut Diagnostics) -> Option<Calendar> {
    let unit = unit(arg, errors);
    let zone = beside.zone.as_ref().map(|arg| zone(arg, errors));
    let week_starts = beside.week_starts.as_ref().map(|arg| weekday(arg, errors));
    let starts_on = beside.starts_on.as_ref().map(|arg| day_of_month(arg, errors));
    let unit = unit?;
    for (arg, of) in [(&beside.week_starts, CalendarUnit::Week), (&beside.starts_on, CalendarUnit::Month)] {
        if let Some(Arg { name, .. }) = arg
            && unit != of
        {
            let (written, of) = (unit.name(), of.name());
            let message = format!("`{name}` is for `calendar = \"{of}\"`, and this is a {written}: leave `{name}` out");
            errors.at(name.span(), message);
            return None;
        }
    }
    Some(Calendar {
        unit,
        zone: zone.map_or(Some(None), |zone| zone.map(Some))?,
        week_starts: week_starts.map_or(Some(None), |day| day.map(Some))?,
        starts_on: starts_on.map_or(Some(None), |day| day.map(Some))?,
    })
}

const UNITS: [CalendarUnit; 4] = [CalendarUnit::Day, CalendarUnit::Week, CalendarUnit::Month, CalendarUnit::Year];

fn unit(arg: &Arg<Expr>, errors: &mut Diagnostics) -> Option<CalendarUnit> {
    let names = UNITS.map(CalendarUnit::name);
    let choices = "`\"day\"`, `\"week\"`, `\"month\"` or `\"year\"`";
    let Some(text) = text(&arg.value) else {
        let message = match word(&arg.value).map(ToString::to_string) {
            Ok(word) if names.contains(&word.as_str()) => {
                format!("a calendar is written in quotes: `calendar = \"{word}\"`")
            }
            _ => format!("unknown calendar: write {choices}"),
        };
        errors.over(&arg.value, message);
        return None;
    };
    let written = text.value();
    let known = UNITS.into_iter().find(|unit| unit.name() == written);
    if known.is_none() {
        let message = match duration::parse(&written) {
            Ok(_) if !matches!(written.as_str(), "1d" | "1w") => {
                format!("`{written}` has one length: write `per = \"{written}\"`, or one of the calendars {choices}")
            }
            _ => match nearest(&written, &names) {
                Some(meant) => format!("unknown calendar `{written}`: did you mean `\"{meant}\"`?"),
                None => format!("unknown calendar `{written}`: write {choices}"),
            },
        };
        errors.at(text.span(), message);
    }
    known
}

/// The name of a time zone. The runtime knows the existing ones, so only invalid names are refused
/// here.
fn zone(arg: &Arg<Expr>, errors: &mut Diagnostics) -> Option<LitStr> {
    let example = "write a name of the IANA time zone database, such as `zone = \"Europe/Berlin\"`";
    let Some(text) = text(&arg.value) else {
        errors.over(&arg.value, format!("`zone` is part of the bucket's identity, and a literal: {example}"));
        return None;
    };
    let name = text.value();
    let is_offset = name.starts_with(['+', '-']);
    let is_name = !name.is_empty()
        && name.chars().all(|letter| letter.is_ascii_alphanumeric() || matches!(letter, '/' | '_' | '-' | '+'));
    if is_offset {
        errors.at(text.span(), format!("an offset has no daylight saving time: {example}"));
        return None;
    }
    if !is_name {
        errors.at(text.span(), format!("this is not a time zone: {example}"));
        return None;
    }
    Some(text.clone())
}

const WEEKDAYS: &[&str] = &["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"];

fn weekday(arg: &Arg<Expr>, errors: &mut Diagnostics) -> Option<&'static str> {
    let known = |word: &str| WEEKDAYS.iter().find(|day| **day == word).copied();
    let message = match word(&arg.value).map(ToString::to_string) {
        Ok(word) => match known(&word) {
            Some(day) => return Some(day),
            None => match nearest(&word.to_lowercase(), WEEKDAYS) {
                Some(meant) => format!("unknown day of the week `{word}`: did you mean `{meant}`?"),
                None => format!("unknown day of the week `{word}`: write `monday` to `sunday`"),
            },
        },
        Err(value) => match text(value).map(|text| text.value().to_lowercase()).as_deref().and_then(known) {
            Some(day) => format!("a day of the week is written without quotes: `week_starts = {day}`"),
            None => "`week_starts` is a day of the week: write `monday` to `sunday`".to_owned(),
        },
    };
    errors.over(&arg.value, message);
    None
}

fn day_of_month(arg: &Arg<Expr>, errors: &mut Diagnostics) -> Option<StartsOn> {
    let message = "`starts_on` is a day of the month: write a number from 1 to 31, or a `u8` expression";
    match bare(&arg.value) {
        Expr::Lit(ExprLit { lit: Lit::Int(number), .. }) if matches!(number.suffix(), "" | "u8") => {
            if let Ok(day @ 1..=31) = number.base10_parse::<u8>() {
                return Some(StartsOn::Literal(day));
            }
        }
        Expr::Lit(_) => {}
        Expr::Unary(unary) if is_negative_number(unary) => {}
        Expr::Path(path) if is_constant(path) => {
            return Some(StartsOn::Constant(Arg { name: arg.name.clone(), value: path.clone() }));
        }
        _ => return Some(StartsOn::Read(copy(arg))),
    }
    errors.over(&arg.value, message);
    None
}
