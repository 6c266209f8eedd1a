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
/// The most permits in a window, so that sums do not overflow.
const MOST_TAKEN: u64 = 1 << 53;

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
        read_record(&mut bytes).filter(|_| bytes.is_empty()).ok_or_else(no_bucket)
    }
}

/// Whether two encoded records differ in more than the time of the latest decision. Empty bytes are
/// an unused record.
#[cfg(any(feature = "memcached", feature = "postgres"))]
pub(crate) fn has_changed(before: &[u8], after: &[u8]) -> bool {
    if before.is_empty() {
        return has_changed(&Record::default().encode(), after);
    }
    behind_clock(before) != behind_clock(after)
}

/// An encoded record without the time of its latest decision: its version and what follows.
#[cfg(any(feature = "memcached", feature = "postgres"))]
fn behind_clock(mut bytes: &[u8]) -> Option<(u64, &[u8])> {
    let version = read(&mut bytes)?;
    read(&mut bytes)?;
    Some((version, bytes))
}

pub(crate) fn no_bucket() -> BackendError {
    BackendError::new(BackendErrorKind::Refused, "the stored bytes are no bucket of this version")
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
                let (per, charged, taken) = (read(bytes)?, read(bytes)?, taken(bytes)?);
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
        groups.push(Group { at, permits: taken(bytes)? });
        if groups.total() > MOST_TAKEN {
            return None;
        }
    }
    Some(groups)
}

/// Takes a number of permits from the front.
fn taken(bytes: &mut &[u8]) -> Option<u64> {
    read(bytes).filter(|permits| *permits <= MOST_TAKEN)
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
    // Most numbers are one byte.
    if let [byte @ 0..0x80, rest @ ..] = *bytes {
        *bytes = rest;
        return Some(u64::from(*byte));
    }
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
    use std::time::Duration;

    use super::*;
    use crate::algorithm::offences::Backoff;
    use crate::backend::{Action, Bucket, Outcome, Request, Timestamp};
    use crate::limit::{Algorithm, Limit};
    use proptest::prelude::*;

    const NOW: u64 = 1_700_000_000_000_000_000;

    fn number() -> impl Strategy<Value = u64> {
        let near = |to: u64| (to.saturating_sub(3_000_000_000)..=to.saturating_add(3_000_000_000)).boxed();
        prop_oneof![0..5_u64, Just(u64::MAX), near(NOW), near(u64::MAX), near(u64::MAX / 2), any::<u64>()]
    }

    fn state() -> impl Strategy<Value = Vec<u64>> {
        let groups = proptest::collection::vec((number(), number()), 0..4).prop_map(|groups| {
            let mut numbers = vec![groups.len() as u64];
            numbers.extend(groups.into_iter().flat_map(|(at, permits)| [at, permits]));
            numbers
        });
        prop_oneof![
            (number(), number(), number(), groups).prop_map(|(largest, longest, per, groups)| {
                let largest = largest % (1 << 32);
                [vec![SLIDING, largest, longest, per], groups].concat()
            }),
            proptest::collection::vec(number(), 5).prop_map(|numbers| [vec![TOKEN], numbers].concat()),
            proptest::collection::vec(number(), 3).prop_map(|numbers| [vec![FIXED], numbers].concat()),
            proptest::collection::vec(number(), 4).prop_map(|numbers| [vec![CALENDAR], numbers].concat()),
        ]
    }

    proptest! {
        #[test]
        fn whatever_is_read_can_be_decided_on(
            blocked: bool,
            head in proptest::collection::vec(number(), 9),
            count: u32,
            block in number(),
            states in proptest::collection::vec(state(), 0..3),
            given in proptest::collection::vec((number(), number()), 0..3),
            algorithms in proptest::collection::vec(0..3_usize, 1..3),
            cost in 1..5_u32,
            backs: bool,
        ) {
            let mut numbers = vec![if blocked { BLOCKED } else { VERSION }];
            numbers.extend(&head[..6]);
            numbers.extend([count.into(), head[6], head[7], states.len() as u64]);
            numbers.extend(blocked.then_some(block));
            numbers.extend(states.iter().flatten());
            numbers.extend(given.iter().flat_map(|(window, amount)| [window, amount]));
            let mut bytes = Vec::new();
            for number in numbers {
                write(&mut bytes, number);
            }
            let Ok(bucket) = Bucket::from_bytes(&bytes) else { return Ok(()) };
            let algorithm = |of: &usize| Algorithm::ALL[*of];
            let limits: Vec<Limit> = algorithms.iter()
                .map(|of| Limit::new(5, Duration::from_secs(1)).with_algorithm(algorithm(of))).collect();
            let max_wait = Duration::MAX;
            for action in [
                Action::Take { cost, max_wait: Duration::ZERO },
                Action::Take { cost, max_wait },
                Action::Peek { cost, max_wait },
                Action::Charge { cost: cost * 7 },
                Action::Block { time: Duration::from_secs(9) },
                Action::Unblock,
                Action::Blocked,
                Action::Reset,
            ] {
                let request = Request::new("a", &limits, action);
                let request = if backs { request.with_backoff(Backoff::ban(Duration::from_secs(9))) } else { request };
                let mut bucket = bucket.clone();
                let answer = bucket.apply(&request, Timestamp::from_nanos(NOW));
                let _ = bucket.expires_at(&request);
                if let Outcome::Admitted(admitted) = answer.outcome {
                    let back = Request::new("a", &limits, Action::GiveBack(admitted.permit().clone()));
                    bucket.apply(&back, Timestamp::from_nanos(NOW + 1));
                }
                prop_assert_eq!(Bucket::from_bytes(&bucket.to_bytes()).unwrap().to_bytes(), bucket.to_bytes());
            }
        }

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
