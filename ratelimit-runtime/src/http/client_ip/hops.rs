//! The addresses in `X-Forwarded-For` and `Forwarded`, from the right to the left.
//!
//! Each proxy appends on the right. What it appends to may contain anything, such as an open quote
//! that swallows the rest of the line. Read from the right, a proxy's own addresses are parsed
//! before anything that it did not write.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The hops of a line, the last one first; `None` for a hop that is not an address. Empty hops are
/// skipped.
pub(super) type Hops<'a> = Box<dyn Iterator<Item = Option<IpAddr>> + 'a>;

pub(super) fn x_forwarded_for(line: &[u8]) -> Hops<'_> {
    let elements = line.rsplit(|&byte| byte == b',').map(<[u8]>::trim_ascii);
    Box::new(elements.filter(|element| !element.is_empty()).map(node))
}

pub(super) fn forwarded(line: &[u8]) -> Hops<'_> {
    let elements = Elements { left: Some(line) }.map(<[u8]>::trim_ascii);
    Box::new(elements.filter(|element| !element.is_empty()).map(|element| node(&for_value(element)?)))
}

/// The elements of a list, the last one first, split at commas outside quoted strings.
struct Elements<'a> {
    left: Option<&'a [u8]>,
}

impl<'a> Iterator for Elements<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let line = self.left?;
        let mut is_quoted = false;
        for (position, byte) in line.iter().enumerate().rev() {
            match byte {
                b'"' if is_quoted => is_quoted = is_escaped(line, position),
                b'"' => is_quoted = true,
                b',' if !is_quoted => {
                    self.left = Some(&line[..position]);
                    return Some(&line[position + 1..]);
                }
                _ => {}
            }
        }
        self.left = None;
        Some(line)
    }
}

/// Whether an odd number of backslashes precedes `position`.
fn is_escaped(line: &[u8], position: usize) -> bool {
    line[..position].iter().rev().take_while(|&&byte| byte == b'\\').count() % 2 == 1
}

/// The only address of a header such as `X-Real-IP`.
pub(super) fn address(line: &[u8]) -> Hops<'_> {
    Box::new(std::iter::once(node(line.trim_ascii())))
}

/// The value of the only parameter `for`, unquoted. `None` if there is none or several, or if the
/// element is malformed.
fn for_value(element: &[u8]) -> Option<Vec<u8>> {
    let mut found = None;
    let mut rest = Some(element);
    while let Some(pairs) = rest {
        let pairs = pairs.trim_ascii_start();
        // RFC 7239, section 4: pairs may be empty.
        match pairs.split_first() {
            None => break,
            Some((b';', after)) => {
                rest = Some(after);
                continue;
            }
            Some(_) => {}
        }
        let equals = pairs.iter().position(|&byte| byte == b'=')?;
        let name = pairs[..equals].trim_ascii();
        let (value, after) = value(pairs[equals + 1..].trim_ascii_start())?;
        rest = after;
        if name.eq_ignore_ascii_case(b"for") && found.replace(value).is_some() {
            return None;
        }
    }
    found
}

/// A token or quoted string, and the text after the semicolon that follows it, if any.
fn value(text: &[u8]) -> Option<(Vec<u8>, Option<&[u8]>)> {
    let Some(quoted) = text.strip_prefix(b"\"") else {
        let end = text.iter().position(|&byte| byte == b';');
        let token = &text[..end.unwrap_or(text.len())];
        return Some((token.trim_ascii_end().to_vec(), end.map(|end| &text[end + 1..])));
    };
    let mut value = Vec::new();
    let mut bytes = quoted.iter();
    loop {
        match bytes.next()? {
            b'"' => break,
            b'\\' => value.push(*bytes.next()?),
            byte => value.push(*byte),
        }
    }
    match bytes.as_slice().trim_ascii_start() {
        [] => Some((value, None)),
        [b';', after @ ..] => Some((value, Some(after))),
        _ => None,
    }
}

/// `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`, `[2001:db8::1]` or `[2001:db8::1]:80`.
fn node(text: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(text).ok()?;
    if let Some(bracketed) = text.strip_prefix('[') {
        let (address, port) = bracketed.split_once(']')?;
        return (port.is_empty() || port.strip_prefix(':').is_some_and(is_port))
            .then(|| address.parse::<Ipv6Addr>().ok().map(IpAddr::V6))?;
    }
    if let Ok(address) = text.parse() {
        return Some(address);
    }
    let (address, port) = text.split_once(':')?;
    is_port(port).then(|| address.parse::<Ipv4Addr>().ok().map(IpAddr::V4))?
}

/// A port number, or an obfuscated port such as `_hidden`.
fn is_port(text: &str) -> bool {
    let is_name = |name: &str| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
    text.parse::<u16>().is_ok() || text.strip_prefix('_').is_some_and(|name| !name.is_empty() && is_name(name))
}
