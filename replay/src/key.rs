//! The definition of a client: the columns in `--key`, as bytes that identify it.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A column of a log, by the meaning that several formats share or by its own name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Field {
    Time,
    Ip,
    User,
    Path,
    Method,
    Host,
    Status,
    Bytes,
    Header(String),
    Column(String),
}

impl Field {
    pub(crate) fn parse(text: &str) -> Result<Field, String> {
        let text = text.trim();
        Ok(match text {
            "" => return Err("a column has a name: `ip`, `user`, `path`, `header:NAME` or a column's own".to_owned()),
            "ip" => Field::Ip,
            "user" => Field::User,
            "path" => Field::Path,
            "method" => Field::Method,
            "host" => Field::Host,
            "status" => Field::Status,
            "bytes" => Field::Bytes,
            _ => match (text.strip_prefix("header:"), text.strip_prefix("column:")) {
                (Some(name), _) if !name.is_empty() => Field::Header(name.to_ascii_lowercase()),
                (_, Some(name)) if !name.is_empty() => Field::Column(name.to_owned()),
                _ => Field::Column(text.to_owned()),
            },
        })
    }

    pub(crate) fn name(&self) -> String {
        match self {
            Field::Time => "time".to_owned(),
            Field::Ip => "ip".to_owned(),
            Field::User => "user".to_owned(),
            Field::Path => "path".to_owned(),
            Field::Method => "method".to_owned(),
            Field::Host => "host".to_owned(),
            Field::Status => "status".to_owned(),
            Field::Bytes => "bytes".to_owned(),
            Field::Header(name) => format!("header:{name}"),
            Field::Column(name) => name.clone(),
        }
    }

    /// Whether a value identifies somebody, so that `--anonymize` replaces it.
    fn is_personal(&self) -> bool {
        !matches!(self, Field::Time | Field::Path | Field::Method | Field::Host | Field::Status | Field::Bytes)
    }
}

/// The columns that a replay reads: the time, the key's columns, the cost.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    /// The column with the time, if the format does not define it.
    pub(crate) time: Option<String>,
    /// `None` makes the whole log one client. Also the default if the format has no columns.
    pub(crate) key: Option<Vec<Field>>,
    /// Whether the key was given explicitly.
    pub(crate) key_is_explicit: bool,
    pub(crate) cost: Option<Field>,
}

impl Wanted {
    /// Time, key, cost: the order of a line's values.
    pub(crate) fn fields(&self) -> Vec<Field> {
        let time = self.time.as_ref().map_or(Field::Time, |name| Field::Column(name.clone()));
        let mut fields = vec![time];
        fields.extend(self.key.iter().flatten().cloned());
        fields.extend(self.cost.clone());
        fields
    }
}

/// Appends a client's value of one column: the network of an address, a path without its query,
/// otherwise the value itself.
pub(crate) fn write(field: &Field, value: Option<&[u8]>, key: &mut Vec<u8>) {
    // Logs write `-` for a missing value. It is a client of its own, never a bypass.
    let value = value.filter(|value| !value.is_empty()).unwrap_or(b"-");
    match field {
        Field::Ip => write_address(value, key),
        Field::Path => key.extend_from_slice(&value[..memchr::memchr2(b'?', b'#', value).unwrap_or(value.len())]),
        _ => key.extend_from_slice(value),
    }
}

/// An address as the product counts it: IPv6 by its /64 network, IPv4-mapped as IPv4. Drops a port;
/// of a list of addresses the first counts. Anything that is not an address, such as a host name,
/// stays as it is.
fn write_address(value: &[u8], key: &mut Vec<u8>) {
    let first = &value[..memchr::memchr(b',', value).unwrap_or(value.len())];
    let text = std::str::from_utf8(first).unwrap_or_default().trim();
    match address(text) {
        Some(IpAddr::V4(_)) if text.len() == value.len() && !text.contains([':', '[']) => key.extend_from_slice(value),
        Some(IpAddr::V4(address)) => key.extend_from_slice(address.to_string().as_bytes()),
        Some(IpAddr::V6(address)) => {
            let network = Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64));
            key.extend_from_slice(format!("{network}/64").as_bytes());
        }
        None => key.extend_from_slice(value),
    }
}

/// An address with or without brackets, zone and port.
pub(crate) fn address(text: &str) -> Option<IpAddr> {
    if let Ok(address) = text.parse::<Ipv4Addr>() {
        return Some(IpAddr::V4(address));
    }
    let bare = match text.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?.0,
        None => match text.split_once(':') {
            Some((host, port)) if !port.contains(':') => return host.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
            _ => text,
        },
    };
    let bare = bare.split_once('%').map_or(bare, |(address, _)| address);
    match bare.parse().ok()? {
        IpAddr::V6(address) => Some(address.to_ipv4_mapped().map_or(IpAddr::V6(address), IpAddr::V4)),
        address @ IpAddr::V4(_) => Some(address),
    }
}

/// Appends all of a client's columns. Several are prefixed with their lengths, so that no value can
/// pass for another.
pub(crate) fn write_parts<'a>(fields: &[Field], mut value: impl FnMut(usize) -> Option<&'a [u8]>, key: &mut Vec<u8>) {
    if let [field] = fields {
        return write(field, value(0), key);
    }
    for (position, field) in fields.iter().enumerate() {
        let start = key.len();
        key.extend_from_slice(&[0; 4]);
        write(field, value(position), key);
        // Lines are at most 64 KiB long.
        let length = u32::try_from(key.len() - start - 4).unwrap_or(u32::MAX);
        key[start..start + 4].copy_from_slice(&length.to_le_bytes());
    }
}

/// The columns of a key that [`write_parts`] wrote.
fn parts<'a>(fields: &[Field], mut key: &'a [u8]) -> Vec<&'a [u8]> {
    if let [_] = fields {
        return vec![key];
    }
    let mut parts = Vec::new();
    while let Some((length, rest)) = key.split_first_chunk::<4>() {
        let (part, rest) = rest.split_at((u32::from_le_bytes(*length) as usize).min(rest.len()));
        parts.push(part);
        key = rest;
    }
    parts
}

/// A client's name in the report. With hidden names, `number` replaces identifying values.
pub(crate) fn label(fields: Option<&[Field]>, key: &[u8], number: Option<u32>) -> String {
    let Some(fields) = fields else { return "all calls".to_owned() };
    let mut label = String::new();
    for (field, part) in fields.iter().zip(parts(fields, key)) {
        if !label.is_empty() {
            label.push_str(" · ");
        }
        match number {
            Some(number) if field.is_personal() => {
                let _ = write!(label, "{} {}", field.name(), u64::from(number) + 1);
            }
            _ => label.push_str(&String::from_utf8_lossy(part)),
        }
    }
    label
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(field: &Field, value: &str) -> String {
        let mut key = Vec::new();
        write(field, Some(value.as_bytes()), &mut key);
        String::from_utf8(key).expect("text")
    }

    #[test]
    fn addresses_count_as_the_product_counts_them() {
        for (text, expected) in [
            ("192.0.2.1", "192.0.2.1"),
            ("192.0.2.1:4711", "192.0.2.1"),
            ("[192.0.2.1]:80", "192.0.2.1"),
            ("::ffff:192.0.2.1", "192.0.2.1"),
            ("[::ffff:192.0.2.1]:80", "192.0.2.1"),
            ("192.0.2.1, 10.0.0.1", "192.0.2.1"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
            ("[2001:db8:1:2::9]:443", "2001:db8:1:2::/64"),
            ("fe80::1%eth0", "fe80::/64"),
            ("localhost", "localhost"),
            ("unix:", "unix:"),
            ("", "-"),
        ] {
            assert_eq!(key(&Field::Ip, text), expected, "{text}");
        }
    }

    #[test]
    fn a_path_is_taken_without_its_query() {
        assert_eq!(key(&Field::Path, "/a/b?c=d"), "/a/b");
    }

    #[test]
    fn parts_cannot_pass_for_each_other() {
        let fields = [Field::User, Field::Path];
        let write = |user: &'static str, path: &'static str| {
            let mut key = Vec::new();
            write_parts(&fields, |position| Some([user, path][position].as_bytes()), &mut key);
            key
        };
        assert_ne!(write("a", "bc"), write("ab", "c"));
        assert_eq!(label(Some(&fields), &write("ann", "/x"), None), "ann · /x");
        assert_eq!(label(Some(&fields), &write("ann", "/x"), Some(6)), "user 7 · /x");
    }
}
