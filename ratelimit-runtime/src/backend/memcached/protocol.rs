//! Memcached's meta commands: a writer, and a strict parser of replies.
//!
//! Each command carries a number (`O`), which its reply repeats. A reply with another number, or of
//! a kind that does not fit the command, is malformed and ends the connection.

/// The longest line of a reply, in bytes. Errors quote nothing that is longer.
const LONGEST_LINE: usize = 2_048;
/// The longest value that is read into memory, in bytes: three times a bucket of eight windows. A
/// longer value is not this crate's and is skipped.
pub(super) const LONGEST_VALUE: usize = 65_536;
/// The longest key, in bytes.
pub(super) const LONGEST_KEY: usize = 250;

/// The kind of reply that a command expects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Noop,
    Get,
    Set,
}

/// When a value is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Condition {
    /// There is none.
    Absent,
    /// The one there is has this CAS number.
    Unchanged(u64),
}

/// A reply to a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reply {
    /// To a no-op.
    Alive,
    /// To a get.
    Value { bytes: Vec<u8>, cas: u64 },
    /// To a get: the value is longer than [`LONGEST_VALUE`].
    TooLong,
    /// To a get, and to a set on condition that the value is unchanged.
    Missing,
    /// To a set; with the value's new CAS number.
    Stored { cas: Option<u64> },
    /// To a set: its condition is not met.
    Changed,
    /// The server cannot carry out the command.
    Failed(String),
}

/// The connection cannot be used any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Unusable {
    /// The server does not understand the command.
    Refused(String),
    /// The bytes are no reply to the command.
    Malformed,
}

pub(super) fn write_noop(out: &mut Vec<u8>) {
    out.extend_from_slice(b"mn\r\n");
}

/// Asks for the value and its CAS number.
pub(super) fn write_get(out: &mut Vec<u8>, key: &str, number: u64) {
    write_words(out, &["mg ", key, " c v O"], number);
    out.extend_from_slice(b"\r\n");
}

/// Stores a value that expires after `ttl` seconds, or at that Unix time if it is beyond 30 days.
pub(super) fn write_set(out: &mut Vec<u8>, key: &str, bytes: &[u8], ttl: u64, condition: Condition, number: u64) {
    write_words(out, &["ms ", key, " "], bytes.len() as u64);
    write_words(out, &[" c T"], ttl);
    write_words(out, &[" O"], number);
    match condition {
        Condition::Absent => out.extend_from_slice(b" ME"),
        Condition::Unchanged(cas) => write_words(out, &[" C"], cas),
    }
    for part in [b"\r\n", bytes, b"\r\n"] {
        out.extend_from_slice(part);
    }
}

/// Words, and a number behind them. Formatting by `write!` took four times as long.
fn write_words(out: &mut Vec<u8>, words: &[&str], number: u64) {
    for word in words {
        out.extend_from_slice(word.as_bytes());
    }
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

/// Whether the key can stand in a command.
pub(super) fn is_key(key: &str) -> bool {
    (1..=LONGEST_KEY).contains(&key.len()) && key.bytes().all(|byte| byte > b' ' && byte != 0x7f)
}

/// The bytes of replies that are not yet complete.
#[derive(Debug, Default)]
pub(super) struct Incoming {
    bytes: Vec<u8>,
    /// Where the next reply begins.
    start: usize,
    /// Bytes of a long value and its line end that are still to come.
    skipped: usize,
}

impl Incoming {
    pub(super) fn extend(&mut self, bytes: &[u8]) {
        let skipped = self.skipped.min(bytes.len());
        self.skipped -= skipped;
        self.bytes.drain(..self.start);
        self.start = 0;
        self.bytes.extend_from_slice(&bytes[skipped..]);
    }

    /// Whether no part of a next reply has arrived. The rest of a long value does not count.
    pub(super) fn is_empty(&self) -> bool {
        self.start == self.bytes.len()
    }

    /// Whether no rest of a long value is outstanding.
    pub(super) fn is_whole(&self) -> bool {
        self.skipped == 0
    }

    /// The next reply, if it is complete. It must answer a command of this kind and number.
    pub(super) fn next(&mut self, kind: Kind, number: u64) -> Result<Option<Reply>, Unusable> {
        let rest = &self.bytes[self.start..];
        let window = &rest[..rest.len().min(LONGEST_LINE)];
        let Some(end) = window.windows(2).position(|pair| pair == b"\r\n") else {
            return if rest.len() < LONGEST_LINE { Ok(None) } else { Err(Unusable::Malformed) };
        };
        let line = std::str::from_utf8(&rest[..end]).map_err(|_| Unusable::Malformed)?;
        let behind = &rest[end + 2..];
        let (word, parts) = line.split_once(' ').unwrap_or((line, ""));
        let (reply, used) = match (kind, word) {
            (_, "SERVER_ERROR") => (Reply::Failed(parts.to_owned()), 0),
            (_, "ERROR" | "CLIENT_ERROR") => return Err(Unusable::Refused(line.to_owned())),
            (Kind::Noop, "MN") if parts.is_empty() => (Reply::Alive, 0),
            // Early versions of 1.6 do not repeat the number here. A wrong reply does no harm:
            // nothing is admitted without a confirmed set.
            (Kind::Get, "EN") if parts.is_empty() => (Reply::Missing, 0),
            (Kind::Get, "EN") | (Kind::Set, "NF") => {
                Flags::read(parts).for_command(number)?;
                (Reply::Missing, 0)
            }
            (Kind::Get, "VA") => {
                let (size, flags) = parts.split_once(' ').ok_or(Unusable::Malformed)?;
                let size = decimal(size).and_then(|size| u32::try_from(size).ok());
                let size = size.and_then(|size| usize::try_from(size).ok()).ok_or(Unusable::Malformed)?;
                let cas = Flags::read(flags).for_command(number)?.cas.ok_or(Unusable::Malformed)?;
                if size > LONGEST_VALUE {
                    let used = behind.len().min(size + 2);
                    self.skipped = size + 2 - used;
                    (Reply::TooLong, used)
                } else if behind.len() < size + 2 {
                    return Ok(None);
                } else if &behind[size..size + 2] == b"\r\n" {
                    (Reply::Value { bytes: behind[..size].to_vec(), cas }, size + 2)
                } else {
                    return Err(Unusable::Malformed);
                }
            }
            (Kind::Set, "HD") => {
                let flags = Flags::read(parts).for_command(number)?;
                (Reply::Stored { cas: flags.cas.filter(|cas| *cas != 0) }, 0)
            }
            (Kind::Set, "NS" | "EX") => {
                Flags::read(parts).for_command(number)?;
                (Reply::Changed, 0)
            }
            _ => return Err(Unusable::Malformed),
        };
        self.start += end + 2 + used;
        Ok(Some(reply))
    }
}

/// The flags of a reply that matter here.
#[derive(Default)]
struct Flags {
    cas: Option<u64>,
    number: Option<u64>,
}

impl Flags {
    fn read(text: &str) -> Flags {
        let mut flags = Flags::default();
        for flag in text.split(' ') {
            if let Some(cas) = flag.strip_prefix('c') {
                flags.cas = decimal(cas);
            } else if let Some(number) = flag.strip_prefix('O') {
                flags.number = decimal(number);
            }
        }
        flags
    }

    fn for_command(self, number: u64) -> Result<Flags, Unusable> {
        if self.number == Some(number) { Ok(self) } else { Err(Unusable::Malformed) }
    }
}

/// A number in decimal digits, without a sign.
fn decimal(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(bytes: &[u8], kind: Kind) -> Result<Option<Reply>, Unusable> {
        let mut incoming = Incoming::default();
        incoming.extend(bytes);
        incoming.next(kind, 7)
    }

    #[test]
    fn replies_are_what_the_server_says() {
        let value = Reply::Value { bytes: b"a\r\nb".to_vec(), cas: 12 };
        for (bytes, kind, reply) in [
            (&b"MN\r\n"[..], Kind::Noop, Reply::Alive),
            (b"EN\r\n", Kind::Get, Reply::Missing),
            (b"EN O7\r\n", Kind::Get, Reply::Missing),
            (b"VA 4 c12 O7\r\na\r\nb\r\n", Kind::Get, value),
            (b"HD c9 O7\r\n", Kind::Set, Reply::Stored { cas: Some(9) }),
            (b"HD O7\r\n", Kind::Set, Reply::Stored { cas: None }),
            (b"NS c0 O7\r\n", Kind::Set, Reply::Changed),
            (b"EX c0 O7\r\n", Kind::Set, Reply::Changed),
            (b"NF c0 O7\r\n", Kind::Set, Reply::Missing),
            (b"SERVER_ERROR out of memory\r\n", Kind::Set, Reply::Failed("out of memory".into())),
        ] {
            assert_eq!(read(bytes, kind), Ok(Some(reply)));
            for cut in 0..bytes.len() {
                assert_eq!(read(&bytes[..cut], kind), Ok(None), "{cut}");
            }
        }
    }

    #[test]
    fn replies_to_another_command_are_malformed() {
        for (bytes, kind) in [
            (&b"HD c9 O8\r\n"[..], Kind::Set),
            (b"HD c9\r\n", Kind::Set),
            (b"HD c9 O7\r\n", Kind::Get),
            (b"HD c9 O7\r\n", Kind::Noop),
            (b"VA 1 c9 O8\r\nx\r\n", Kind::Get),
            (b"VA 1 O7\r\nx\r\n", Kind::Get),
            (b"VA 1 c9 O7\r\nxy\r\n", Kind::Get),
            (b"VA -1 c9 O7\r\nxy\r\n", Kind::Get),
            (b"VA +1 c9 O7\r\nx\r\n", Kind::Get),
            (b"VA 99999999999 c9 O7\r\nx\r\n", Kind::Get),
            (b"EN O8\r\n", Kind::Get),
            (b"MN O7\r\n", Kind::Noop),
            (b"STORED\r\n", Kind::Set),
            (b"\r\n", Kind::Set),
            (b"\xff\r\n", Kind::Set),
        ] {
            assert_eq!(read(bytes, kind), Err(Unusable::Malformed), "{:?}", String::from_utf8_lossy(bytes));
        }
        assert!(matches!(read(b"ERROR\r\n", Kind::Noop), Err(Unusable::Refused(_))));
        assert_eq!(read(&[b'x'; LONGEST_LINE], Kind::Get), Err(Unusable::Malformed));
    }

    #[test]
    fn a_long_value_is_skipped_and_the_next_reply_read() {
        let mut incoming = Incoming::default();
        let size = LONGEST_VALUE + 1;
        let mut bytes = format!("VA {size} c9 O7\r\n").into_bytes();
        bytes.resize(bytes.len() + size, b'x');
        bytes.extend_from_slice(b"\r\nHD c1 O8\r\n");
        let mut replies = Vec::new();
        for piece in bytes.chunks(1_000) {
            incoming.extend(piece);
            assert!(incoming.bytes.len() < 2_000);
            let (kind, number) = if replies.is_empty() { (Kind::Get, 7) } else { (Kind::Set, 8) };
            replies.extend(incoming.next(kind, number).unwrap());
        }
        assert_eq!(replies, [Reply::TooLong, Reply::Stored { cas: Some(1) }]);
        assert!(incoming.is_empty());
    }

    #[test]
    fn keys_that_would_be_commands_are_none() {
        assert!(is_key("rl:1:{api:\"é\"}:s1") && is_key(&"k".repeat(250)));
        for key in ["", "a b", "a\r\nflush_all", "a\0", "a\x7f", &"k".repeat(251)] {
            assert!(!is_key(key), "{key:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_in_any_pieces_are_read_or_refused(
            bytes in proptest::collection::vec(any::<u8>(), 0..300),
            pieces in 1_usize..50,
        ) {
            let mut incoming = Incoming::default();
            for piece in bytes.chunks(pieces) {
                incoming.extend(piece);
                for kind in [Kind::Noop, Kind::Get, Kind::Set] {
                    if incoming.next(kind, 7).is_err() {
                        return Ok(());
                    }
                }
            }
        }

        #[test]
        fn what_looks_like_a_reply_is_read_or_refused(
            word in "(VA|HD|EN|NS|EX|NF|MN|ERROR|SERVER_ERROR)",
            size in "[0-9+-]{0,20}",
            flags in "( [cOtf][0-9]{0,22}){0,4}",
            rest in proptest::collection::vec(any::<u8>(), 0..40),
        ) {
            let mut bytes = format!("{word} {size}{flags}\r\n").into_bytes();
            bytes.extend_from_slice(&rest);
            for kind in [Kind::Noop, Kind::Get, Kind::Set] {
                let _ = read(&bytes, kind);
            }
        }

        #[test]
        fn values_come_back_whatever_they_hold_and_however_they_come(
            value in proptest::collection::vec(any::<u8>(), 0..300),
            pieces in 1_usize..50,
        ) {
            let mut bytes = format!("VA {} c3 O7\r\n", value.len()).into_bytes();
            bytes.extend_from_slice(&value);
            bytes.extend_from_slice(b"\r\n");
            let (mut incoming, mut found) = (Incoming::default(), None);
            for piece in bytes.chunks(pieces) {
                prop_assert_eq!(&found, &None);
                incoming.extend(piece);
                found = incoming.next(Kind::Get, 7).unwrap();
            }
            prop_assert_eq!(found, Some(Reply::Value { bytes: value, cas: 3 }));
        }
    }
}
