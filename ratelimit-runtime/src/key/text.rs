//! Keys as readable text. Different keys have different texts.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, Ipv6Addr};

use super::sealed::{Kind, Sink};

/// Writes a key as readable text, for stores that name their buckets: `"alice"`, `7u64`,
/// `10.0.0.1`, `(Some("a"),true)`, `[1u8;2u8;]`.
///
/// Quotes, braces, control characters and `%` inside text are escaped, so the text is as injective
/// as the key. No colon appears outside quotes and brackets.
pub(crate) struct TextSink<'a> {
    text: &'a mut String,
    /// A comma is due before the next part.
    separate: bool,
    /// Number of open `Some(`.
    open: u32,
    /// For each open list or tuple: the `Some(` open around it, and whether it has an item.
    lists: Vec<(u32, bool)>,
}

impl<'a> TextSink<'a> {
    pub(crate) fn new(text: &'a mut String) -> TextSink<'a> {
        TextSink { text, separate: false, open: 0, lists: Vec::new() }
    }

    /// Writes one part that has no parts of its own.
    fn part(&mut self, write: impl FnOnce(&mut String)) {
        if std::mem::take(&mut self.separate) {
            self.text.push(',');
        }
        write(self.text);
        for _ in 0..std::mem::take(&mut self.open) {
            self.text.push(')');
        }
        self.separate = true;
    }
}

impl Sink for TextSink<'_> {
    fn number(&mut self, kind: Kind, value: u128) {
        #[expect(clippy::cast_possible_truncation, clippy::cast_possible_wrap, reason = "undoes the cast of the key")]
        self.part(|text| {
            let written = match kind {
                Kind::U8 => write!(text, "{value}u8"),
                Kind::U16 => write!(text, "{value}u16"),
                Kind::U32 => write!(text, "{value}u32"),
                Kind::U64 => write!(text, "{value}u64"),
                Kind::U128 => write!(text, "{value}u128"),
                Kind::Usize => write!(text, "{value}usize"),
                Kind::I8 => write!(text, "{}i8", value as i128),
                Kind::I16 => write!(text, "{}i16", value as i128),
                Kind::I32 => write!(text, "{}i32", value as i128),
                Kind::I64 => write!(text, "{}i64", value as i128),
                Kind::I128 => write!(text, "{}i128", value as i128),
                Kind::Isize => write!(text, "{}isize", value as i128),
                Kind::Bool => write!(text, "{}", value != 0),
                Kind::Char => {
                    text.push('\'');
                    escape(text, char::from_u32(value as u32).unwrap_or_default().encode_utf8(&mut [0; 4]));
                    text.push('\'');
                    Ok(())
                }
                Kind::V4 => write!(text, "{}", Ipv4Addr::from(value as u32)),
                Kind::V6Network => write!(text, "[{}/64]", Ipv6Addr::from(value << 64)),
                Kind::V6 => write!(text, "[{}]", Ipv6Addr::from(value)),
                Kind::Duration => write!(text, "{value}ns"),
                // A UUID: hexadecimal digits in groups of 8, 4, 4, 4 and 12.
                Kind::Uuid => {
                    let digits = format!("{value:032x}");
                    let groups = [&digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..]];
                    text.push_str(&groups.join("-"));
                    Ok(())
                }
            };
            debug_assert!(written.is_ok(), "a String takes all that is written");
        });
    }

    fn text(&mut self, value: &str) {
        self.part(|text| {
            text.push('"');
            escape(text, value);
            text.push('"');
        });
    }

    fn bytes(&mut self, value: &[u8]) {
        self.part(|text| {
            text.push_str("b\"");
            for chunk in value.utf8_chunks() {
                escape(text, chunk.valid());
                for byte in chunk.invalid() {
                    percent(text, *byte);
                }
            }
            text.push('"');
        });
    }

    fn none(&mut self) {
        self.part(|text| text.push_str("None"));
    }

    fn some(&mut self) {
        if std::mem::take(&mut self.separate) {
            self.text.push(',');
        }
        self.text.push_str("Some(");
        self.open += 1;
    }

    fn begin_list(&mut self) {
        if std::mem::take(&mut self.separate) {
            self.text.push(',');
        }
        self.text.push('[');
        self.lists.push((std::mem::take(&mut self.open), false));
    }

    fn item(&mut self) {
        if let Some((_, has_item)) = self.lists.last_mut()
            && std::mem::replace(has_item, true)
        {
            self.text.push(';');
        }
        self.separate = false;
    }

    fn end_list(&mut self) {
        let (open, has_item) = self.lists.pop().unwrap_or_default();
        // Tells a list of one item that writes nothing from an empty list.
        self.text.push_str(if has_item { ";]" } else { "]" });
        for _ in 0..open {
            self.text.push(')');
        }
        self.separate = true;
    }

    fn begin_tuple(&mut self, _: u8) {
        if std::mem::take(&mut self.separate) {
            self.text.push(',');
        }
        self.text.push('(');
        self.lists.push((std::mem::take(&mut self.open), false));
    }

    fn end_tuple(&mut self) {
        let (open, _) = self.lists.pop().unwrap_or_default();
        self.text.push(')');
        for _ in 0..open {
            self.text.push(')');
        }
        self.separate = true;
    }
}

/// Appends `value`, with `%`, quotes, braces and control characters escaped as `%XX`.
pub(crate) fn escape(text: &mut String, value: &str) {
    for character in value.chars() {
        if matches!(character, '%' | '"' | '\'' | '{' | '}') || character.is_control() {
            for byte in character.encode_utf8(&mut [0; 4]).bytes() {
                percent(text, byte);
            }
        } else {
            text.push(character);
        }
    }
}

fn percent(text: &mut String, byte: u8) {
    let digit = |value: u8| char::from_digit(u32::from(value), 16).unwrap_or('0');
    text.push('%');
    text.push(digit(byte >> 4));
    text.push(digit(byte & 15));
}
