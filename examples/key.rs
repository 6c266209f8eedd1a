//! Keys and times typed by an operator.

use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use ratelimit_runtime::{
    Decision, ExceededKind, KeyWriter, Limit, MAX_LIMITS, RateLimitExceeded, RateLimitKey, RateLimiter,
};

/// A time as typed: `10m`, as in the attribute.
///
/// # Errors
/// What to write instead.
pub fn time(text: &str) -> Result<Duration, String> {
    // A period of a limit, which has the same format.
    let limit: Result<Limit, _> = format!("1/{text}").parse();
    limit.map(|limit| limit.per()).map_err(|error| error.to_string())
}

/// The keys of one call, as typed: one key for all limits, or one for each limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keys(pub Vec<Key>);

/// Evaluates an expression with the only key, or one with a tuple of as many keys as limits.
macro_rules! on_keys {
    ($keys:expr, $key:ident => $one:expr, $tuple:ident => $each:expr) => {
        on_keys!(@ $keys, $key => $one, $tuple => $each,
            [a b] [a b c] [a b c d] [a b c d e] [a b c d e f] [a b c d e f g] [a b c d e f g h])
    };
    (@ $keys:expr, $key:ident => $one:expr, $tuple:ident => $each:expr, $([$($part:ident)*])*) => {
        match &$keys[..] {
            [$key] => $one,
            $([$($part),*] => { let $tuple = ($($part,)*); $each })*
            _ => return Err(format!("write from one to {MAX_LIMITS} keys")),
        }
    };
}

impl Keys {
    /// What the keys have left.
    ///
    /// # Errors
    /// If the limits have another number of keys.
    pub fn peek(&self, limiter: &RateLimiter) -> Result<Result<Decision, RateLimitExceeded>, String> {
        let told = on_keys!(self.0, key => limiter.peek(key, 0), keys => limiter.peek_each(keys, 0));
        match told {
            Err(exceeded) if exceeded.kind() == ExceededKind::WrongKeys => {
                Err(format!("the limits of `{}` have another number of keys than {}", limiter.name(), self.0.len()))
            }
            told => Ok(told),
        }
    }

    /// Resets the keys.
    ///
    /// # Errors
    /// If the limits have another number of keys, or the backend fails.
    pub fn reset(&self, limiter: &RateLimiter) -> Result<(), String> {
        // A reset of too many or too few keys does nothing.
        let _ = self.peek(limiter)?;
        let reset = on_keys!(self.0, key => limiter.reset(key), keys => limiter.reset_each(keys));
        reset.map_err(|error| error.to_string())
    }
}

/// Several keys are separated by `;`: `str:ann;u64:7;()`. In text, it is escaped with a `\`.
impl FromStr for Keys {
    type Err = String;

    fn from_str(text: &str) -> Result<Keys, String> {
        parts(text, ';')?.iter().map(|part| part.parse()).collect::<Result<_, _>>().map(Keys)
    }
}

/// A key as typed: `u64:42`, `str:ann`, `ip:203.0.113.9`, `none`, `some:str:ann`, or several in
/// parentheses, `(str:ann,u8:1)`. `()` is the bucket of all calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Key {
    /// `()`
    All,
    /// `str:ann`. In a tuple, `,`, `(`, `)` and `\` are escaped with a `\`.
    Text(String),
    /// `bool:true`
    Bool(bool),
    /// `u64:42`
    U64(u64),
    /// `u32:42`
    U32(u32),
    /// `u16:42`
    U16(u16),
    /// `u8:42`
    U8(u8),
    /// `usize:42`
    Usize(usize),
    /// `i64:-42`
    I64(i64),
    /// `i32:-42`
    I32(i32),
    /// `ip:203.0.113.9`
    Ip(IpAddr),
    /// `none`
    None,
    /// `some:str:ann`
    Some(Box<Key>),
    /// `(str:ann,u8:1)`
    Tuple(Vec<Key>),
}

impl FromStr for Key {
    type Err = String;

    fn from_str(text: &str) -> Result<Key, String> {
        let text = text.trim();
        if let Some(inner) = text.strip_prefix('(').and_then(|rest| rest.strip_suffix(')')) {
            if inner.trim().is_empty() {
                return Ok(Key::All);
            }
            let parts: Result<Vec<Key>, String> = parts(inner, ',')?.iter().map(|part| part.parse()).collect();
            return match parts? {
                parts if parts.len() <= 4 => Ok(Key::Tuple(parts)),
                _ => Err("a tuple has at most four keys here".to_owned()),
            };
        }
        if text == "none" {
            return Ok(Key::None);
        }
        let (kind, value) =
            text.split_once(':').ok_or_else(|| format!("`{text}` has no type: write for example `str:{text}`"))?;
        Ok(match kind {
            "str" => Key::Text(unescaped(value)),
            "bool" => Key::Bool(number(kind, value)?),
            "u64" => Key::U64(number(kind, value)?),
            "u32" => Key::U32(number(kind, value)?),
            "u16" => Key::U16(number(kind, value)?),
            "u8" => Key::U8(number(kind, value)?),
            "usize" => Key::Usize(number(kind, value)?),
            "i64" => Key::I64(number(kind, value)?),
            "i32" => Key::I32(number(kind, value)?),
            "ip" => Key::Ip(number(kind, value)?),
            "some" => Key::Some(Box::new(value.parse()?)),
            _ => {
                return Err(format!(
                    "`{kind}` is not a type of key: u8, u16, u32, u64, usize, i32, i64, bool, str, ip, some"
                ));
            }
        })
    }
}

fn number<T: FromStr>(kind: &str, value: &str) -> Result<T, String> {
    value.parse().map_err(|_| format!("`{value}` is not a `{kind}`"))
}

/// The parts of a text between separators outside of parentheses.
fn parts(text: &str, separator: char) -> Result<Vec<String>, String> {
    let (mut parts, mut depth, mut is_escaped) = (vec![String::new()], 0_usize, false);
    for character in text.chars() {
        match character {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            '(' => depth += 1,
            ')' => depth = depth.checked_sub(1).ok_or_else(|| format!("a `)` too many in `{text}`"))?,
            _ if character == separator && depth == 0 => {
                parts.push(String::new());
                continue;
            }
            _ => {}
        }
        if let Some(part) = parts.last_mut() {
            part.push(character);
        }
    }
    if depth > 0 { Err(format!("a `)` is missing in `{text}`")) } else { Ok(parts) }
}

fn unescaped(text: &str) -> String {
    let (mut plain, mut is_escaped) = (String::new(), false);
    for character in text.chars() {
        if character == '\\' && !is_escaped {
            is_escaped = true;
        } else {
            plain.push(character);
            is_escaped = false;
        }
    }
    plain
}

impl RateLimitKey for Key {
    fn write_to<W: KeyWriter>(&self, writer: &mut W) {
        match self {
            Key::All => ().write_to(writer),
            Key::Text(text) => text.write_to(writer),
            Key::Bool(value) => value.write_to(writer),
            Key::U64(number) => number.write_to(writer),
            Key::U32(number) => number.write_to(writer),
            Key::U16(number) => number.write_to(writer),
            Key::U8(number) => number.write_to(writer),
            Key::Usize(number) => number.write_to(writer),
            Key::I64(number) => number.write_to(writer),
            Key::I32(number) => number.write_to(writer),
            Key::Ip(address) => address.write_to(writer),
            Key::None => None::<u8>.write_to(writer),
            Key::Some(key) => Some(&**key).write_to(writer),
            Key::Tuple(keys) => match &keys[..] {
                [a] => (a,).write_to(writer),
                [a, b] => (a, b).write_to(writer),
                [a, b, c] => (a, b, c).write_to(writer),
                [a, b, c, d] => (a, b, c, d).write_to(writer),
                // Not made by `from_str`.
                _ => {}
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use ratelimit_runtime::RateLimiter;

    use super::*;

    #[test]
    fn a_time_is_written_as_in_the_attribute() {
        assert_eq!(time("1h30m"), Ok(Duration::from_secs(5_400)));
        assert!(time("10").unwrap_err().contains("has no unit"));
    }

    #[test]
    fn a_typed_key_is_the_key_of_the_code() {
        fn same(typed: &str, key: impl RateLimitKey) {
            let limiter = RateLimiter::builder("typed").limit(Limit::per_day(1)).build().unwrap();
            limiter.reset(&key).unwrap();
            limiter.check(&key, 1).unwrap();
            let typed: Key = typed.parse().unwrap();
            assert_eq!(limiter.peek(&typed, 0).unwrap().remaining(), 0, "{typed:?}");
        }
        same("u64:42", 42_u64);
        same("i32:-42", -42);
        same("str:ann", "ann");
        same("str:", "");
        same("ip:203.0.113.9", "203.0.113.9".parse::<IpAddr>().unwrap());
        same("(str:ann,u8:1)", ("ann", 1_u8));
        same("(str:a\\,b\\),some:(bool:true,none))", ("a,b)", Some((true, None::<u8>))));
    }

    #[test]
    fn several_keys_are_those_of_limits_with_keys_of_their_own() {
        let limits = [Limit::per_day(2), Limit::per_day(3), Limit::per_day(9)];
        let builder = limits.iter().fold(RateLimiter::builder("keys"), |builder, limit| builder.limit(*limit));
        let limiter = builder.ban(Duration::from_secs(600)).build().unwrap();
        limiter.check_each(("a;b", 7_u64, ()), 2).unwrap();
        let keys: Keys = r"str:a\;b;u64:7;()".parse().unwrap();
        let left = keys.peek(&limiter).unwrap().unwrap();
        assert_eq!((left.remaining(), left.limit()), (0, limits[0]));
        let tenant: Keys = "str:other;u64:7;()".parse().unwrap();
        assert_eq!(tenant.peek(&limiter).unwrap().unwrap().limit(), limits[1]);
        // The next call bans the user.
        limiter.check_each(("a;b", 7_u64, ()), 1).unwrap_err();
        assert_eq!(keys.peek(&limiter).unwrap().unwrap_err().kind(), ExceededKind::Blocked);
        keys.reset(&limiter).unwrap();
        assert_eq!(keys.peek(&limiter).unwrap().unwrap().remaining(), 2);
        let few: Keys = "str:a;u64:7".parse().unwrap();
        assert!(few.peek(&limiter).is_err() && few.reset(&limiter).unwrap_err().contains("another number of keys"));
    }

    #[test]
    fn a_mistyped_key_says_what_to_write() {
        for (typed, message) in [
            ("ann", "`ann` has no type: write for example `str:ann`"),
            ("u8:256", "`256` is not a `u8`"),
            ("uuid:1", "`uuid` is not a type of key"),
            ("((str:a)", "a `)` is missing"),
            ("(str:a))", "a `)` too many"),
        ] {
            let told = typed.parse::<Key>().unwrap_err();
            assert!(told.contains(message), "{typed}: {told}");
        }
    }
}
