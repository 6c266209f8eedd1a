//! A record as bytes: a version, then variable-length integers (LEB128, seven bits a byte).

use super::fixed_window::FixedWindow;
use super::groups::{Group, Groups};
use super::record::{Given, Record, State};
use super::sliding_window::SlidingWindow;
use super::token_bucket::TokenBucket;
use crate::error::{BackendError, BackendErrorKind};
use crate::limit::MAX_LIMITS;

const VERSION: u64 = 2;
/// The end of a block follows. Written only for a blocked key, so that older versions read the rest.
const BLOCKED: u64 = 3;
const SLIDING: u64 = 0;
const TOKEN: u64 = 1;
const FIXED: u64 = 2;
/// A fixed window of a calendar.
const CALENDAR: u64 = 3;

impl Record {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(64);
        self.encode_to(&mut bytes);
        bytes
    }

    /// Appends the bytes of [`encode`](Record::encode).
    pub(crate) fn encode_to(&self, bytes: &mut Vec<u8>) {
        let offences = &self.offences;
        let version = if self.blocked > 0 { BLOCKED } else { VERSION };
        for number in [version, self.clock, self.newest, self.floor, self.number, self.top, self.start] {
            write(bytes, number);
        }
        for number in [u64::from(offences.count), offences.last, offences.until, self.limits.len() as u64] {
            write(bytes, number);
        }
        if version == BLOCKED {
            write(bytes, self.blocked);
        }
        for state in &self.limits {
            match state {
                State::Sliding(window) => {
                    for number in [SLIDING, u64::from(window.largest), window.longest, window.per] {
                        write(bytes, number);
                    }
                    write_groups(bytes, &window.groups);
                }
                State::Token(bucket) => {
                    let (units, step) = bucket.flow;
                    for number in [TOKEN, bucket.last, bucket.debt, bucket.unit, units, step] {
                        write(bytes, number);
                    }
                }
                State::Fixed(window) => {
                    let kind = if window.end > 0 { CALENDAR } else { FIXED };
                    for number in [kind, window.per, window.charged, window.taken] {
                        write(bytes, number);
                    }
                    if kind == CALENDAR {
                        write(bytes, window.end);
                    }
                }
            }
        }
        for given in &self.given {
            write(bytes, given.window);
            write(bytes, given.amount);
        }
    }

    /// Empty bytes are an unused record.
    pub(crate) fn decode(mut bytes: &[u8]) -> Result<Record, BackendError> {
        if bytes.is_empty() {
            return Ok(Record::default());
        }
        read_record(&mut bytes).filter(|_| bytes.is_empty()).ok_or_else(|| {
            BackendError::new(BackendErrorKind::Refused, "the stored bytes are no bucket of this version")
        })
    }
}

fn read_record(bytes: &mut &[u8]) -> Option<Record> {
    let version = read(bytes)?;
    if version != VERSION && version != BLOCKED {
        return None;
    }
    let mut record = Record {
        clock: read(bytes)?,
        newest: read(bytes)?,
        floor: read(bytes)?,
        number: read(bytes)?,
        top: read(bytes)?,
        start: read(bytes)?,
        ..Record::default()
    };
    record.offences.count = read(bytes)?.try_into().ok()?;
    record.offences.last = read(bytes)?;
    record.offences.until = read(bytes)?;
    let limits = read(bytes)?;
    if limits > MAX_LIMITS as u64 {
        return None;
    }
    if version == BLOCKED {
        record.blocked = read(bytes)?;
    }
    for _ in 0..limits {
        record.limits.push(match read(bytes)? {
            SLIDING => {
                let largest = read(bytes)?.try_into().ok()?;
                let (longest, per) = (read(bytes)?, read(bytes)?);
                State::Sliding(SlidingWindow { groups: read_groups(bytes)?, largest, longest, per })
            }
            TOKEN => {
                let (last, debt, unit) = (read(bytes)?, read(bytes)?, read(bytes)?);
                State::Token(TokenBucket { last, debt, unit, flow: (read(bytes)?, read(bytes)?) })
            }
            kind @ (FIXED | CALENDAR) => {
                let (per, charged, taken) = (read(bytes)?, read(bytes)?, read(bytes)?);
                let end = if kind == CALENDAR { read(bytes)? } else { 0 };
                State::Fixed(FixedWindow { per, charged, taken, end })
            }
            _ => return None,
        });
    }
    while !bytes.is_empty() && record.given.len() < MAX_LIMITS {
        record.given.push(Given { window: read(bytes)?, amount: read(bytes)? });
    }
    Some(record)
}

fn write_groups(bytes: &mut Vec<u8>, groups: &Groups) {
    write(bytes, groups.len() as u64);
    let mut before = 0;
    for group in groups.iter() {
        write(bytes, group.at - before);
        write(bytes, group.permits);
        before = group.at;
    }
}

fn read_groups(bytes: &mut &[u8]) -> Option<Groups> {
    let mut groups = Groups::default();
    let mut at = 0_u64;
    for _ in 0..read(bytes)? {
        at = at.checked_add(read(bytes)?)?;
        let permits = read(bytes)?;
        groups.total().checked_add(permits)?;
        groups.push(Group { at, permits });
    }
    Some(groups)
}

/// Appends a number.
pub(crate) fn write(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(number.to_le_bytes()[0] | 0x80);
        number >>= 7;
    }
    bytes.push(number.to_le_bytes()[0]);
}

/// Takes a number from the front.
pub(crate) fn read(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0_u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        let bits = u64::from(byte & 0x7f);
        if bits << shift >> shift != bits {
            return None;
        }
        number |= bits << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Record::decode(&bytes);
        }

        #[test]
        fn numbers_come_back(number: u64) {
            let mut bytes = Vec::new();
            write(&mut bytes, number);
            prop_assert_eq!(read(&mut bytes.as_slice()), Some(number));
        }
    }
}
