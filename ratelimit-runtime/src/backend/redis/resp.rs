//! What servers send: the replies of the Redis protocol, version 2, as far as they are asked for here.

use std::io;

/// Replies nest no deeper than those of `CLUSTER SLOTS`.
const DEPTH: u32 = 8;
/// The longest text of a reply. Nothing that is asked for comes near it.
const LONGEST: usize = 1 << 24;
/// Room for what one read brings.
const ROOM: usize = 16 * 1_024;

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Reply {
    Bytes(Vec<u8>),
    Number(i64),
    List(Vec<Reply>),
    Nothing,
    /// What the server answers in place of a result, beginning with a word in capitals.
    Refused(String),
}

/// What has come in over a connection, and is not taken yet.
#[derive(Default)]
pub(super) struct Incoming {
    bytes: Vec<u8>,
    /// What is before this position is taken.
    taken: usize,
    /// What is before this position has come in.
    filled: usize,
}

impl Incoming {
    /// Where the next bytes go.
    pub(super) fn room(&mut self) -> &mut [u8] {
        if self.taken == self.filled {
            (self.taken, self.filled) = (0, 0);
        }
        if self.bytes.len() - self.filled < ROOM {
            self.bytes.drain(..self.taken);
            self.filled -= self.taken;
            self.taken = 0;
            self.bytes.resize(self.filled + 2 * ROOM, 0);
        }
        &mut self.bytes[self.filled..]
    }

    /// So many bytes have come in.
    pub(super) fn fill(&mut self, count: usize) {
        self.filled += count;
    }

    /// Takes the next reply, if it has come in whole. An error if what came is none.
    pub(super) fn next(&mut self) -> io::Result<Option<Reply>> {
        let mut rest = Rest { bytes: &self.bytes[self.taken..self.filled], at: 0 };
        match rest.reply(DEPTH) {
            Ok(reply) => {
                self.taken += rest.at;
                Ok(Some(reply))
            }
            Err(Stop::Unfinished) => Ok(None),
            Err(Stop::Nonsense) => {
                Err(io::Error::new(io::ErrorKind::InvalidData, "what it answers is not the Redis protocol"))
            }
        }
    }
}

enum Stop {
    /// More bytes are to come.
    Unfinished,
    Nonsense,
}

struct Rest<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Rest<'a> {
    fn reply(&mut self, depth: u32) -> Result<Reply, Stop> {
        let line = self.line()?;
        let Some((kind, text)) = line.split_first() else { return Err(Stop::Nonsense) };
        Ok(match kind {
            b'$' => match length(text)? {
                None => Reply::Nothing,
                Some(length) => {
                    let bytes = self.take(length)?;
                    if self.take(2)? != b"\r\n" {
                        return Err(Stop::Nonsense);
                    }
                    Reply::Bytes(bytes.to_vec())
                }
            },
            b'+' => Reply::Bytes(text.to_vec()),
            b'-' => Reply::Refused(String::from_utf8_lossy(text).into_owned()),
            b':' => Reply::Number(number(text)?),
            b'*' => match length(text)? {
                None => Reply::Nothing,
                Some(_) if depth == 0 => return Err(Stop::Nonsense),
                // Not collected before they are there: the length is only what the server says.
                Some(length) => Reply::List((0..length).map(|_| self.reply(depth - 1)).collect::<Result<_, _>>()?),
            },
            _ => return Err(Stop::Nonsense),
        })
    }

    fn line(&mut self) -> Result<&'a [u8], Stop> {
        let rest = &self.bytes[self.at..];
        let Some(end) = rest.iter().position(|byte| *byte == b'\n') else {
            return Err(if rest.len() > LONGEST { Stop::Nonsense } else { Stop::Unfinished });
        };
        self.at += end + 1;
        rest[..end].strip_suffix(b"\r").ok_or(Stop::Nonsense)
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], Stop> {
        let taken = self.bytes.get(self.at..self.at + count).ok_or(Stop::Unfinished)?;
        self.at += count;
        Ok(taken)
    }
}

fn number(text: &[u8]) -> Result<i64, Stop> {
    std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()).ok_or(Stop::Nonsense)
}

/// `None` stands for nothing at all.
fn length(text: &[u8]) -> Result<Option<usize>, Stop> {
    match number(text)? {
        -1 => Ok(None),
        length => match usize::try_from(length) {
            Ok(length) if length <= LONGEST => Ok(Some(length)),
            _ => Err(Stop::Nonsense),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The replies in `bytes`, which come in `step` at a time; and whether they ended in nonsense.
    fn read(bytes: &[u8], step: usize) -> (Vec<Reply>, bool) {
        let (mut incoming, mut replies) = (Incoming::default(), Vec::new());
        for part in bytes.chunks(step) {
            incoming.room()[..part.len()].copy_from_slice(part);
            incoming.fill(part.len());
            loop {
                match incoming.next() {
                    Ok(Some(reply)) => replies.push(reply),
                    Ok(None) => break,
                    Err(_) => return (replies, true),
                }
            }
        }
        (replies, false)
    }

    #[test]
    fn replies_are_read_however_they_are_cut() {
        let bytes = b"$5\r\na\r\nbc\r\n+OK\r\n:-7\r\n$-1\r\n*-1\r\n*2\r\n*1\r\n:1\r\n$0\r\n\r\n-NOSCRIPT no\r\n";
        let list = vec![Reply::List(vec![Reply::Number(1)]), Reply::Bytes(vec![])];
        let expected = vec![
            Reply::Bytes(b"a\r\nbc".to_vec()),
            Reply::Bytes(b"OK".to_vec()),
            Reply::Number(-7),
            Reply::Nothing,
            Reply::Nothing,
            Reply::List(list),
            Reply::Refused("NOSCRIPT no".to_owned()),
        ];
        for step in 1..=bytes.len() {
            assert_eq!(read(bytes, step), (expected.clone(), false), "{step} at a time");
        }
    }

    #[test]
    fn what_is_no_reply_is_an_error() {
        let nested = b"*1\r\n".repeat(100);
        let nonsense: [&[u8]; 8] = [
            b"\r\n",
            b"HTTP/1.1 400 Bad Request\r\n",
            b"$-5\r\n",
            b"$99999999999\r\n",
            b"$1\r\nabc",
            b"\0\n",
            b":1\n",
            &nested,
        ];
        for bytes in nonsense {
            assert!(read(bytes, 1).1, "{:?}", String::from_utf8_lossy(bytes));
        }
    }

    #[test]
    fn many_replies_at_once_are_read() {
        let reply = [b"$1000\r\n".to_vec(), vec![b'x'; 1_000], b"\r\n".to_vec()].concat();
        assert_eq!(read(&reply.repeat(200), 7_777).0.len(), 200);
    }
}
