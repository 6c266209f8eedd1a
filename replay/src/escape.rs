//! Escapes text from a log for the terminal and for HTML. JSON is escaped by serde.

use std::fmt::Write as _;

/// For a terminal: shows control characters, and characters that change the direction of text, by
/// their numbers.
pub(crate) fn terminal(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        if is_invisible(character) {
            let _ = write!(escaped, "\\u{{{:x}}}", u32::from(character));
        } else {
            escaped.push(character);
        }
    }
    escaped
}

/// For HTML and SVG, in text and in quoted attributes.
pub(crate) fn html(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            _ if is_invisible(character) => {
                let _ = write!(escaped, "\\u{{{:x}}}", u32::from(character));
            }
            _ => escaped.push(character),
        }
    }
    escaped
}

fn is_invisible(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_a_log_reaches_the_terminal_or_the_page_as_it_is() {
        assert_eq!(terminal("a\u{1b}[31mb\u{7}\u{9b}\u{202e}ä"), "a\\u{1b}[31mb\\u{7}\\u{9b}\\u{202e}ä");
        assert_eq!(html("</script><b a='\"'>&\0"), "&lt;/script&gt;&lt;b a=&#39;&quot;&#39;&gt;&amp;\\u{0}");
    }
}
