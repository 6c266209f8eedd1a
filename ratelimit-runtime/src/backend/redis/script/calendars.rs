//! The boundaries of calendar windows in a request. The script decides by the server's clock but
//! knows no time zones: it gets the previous window, the current one and the next. It asks for
//! others if the server's time, or a booking, lies outside of them.
//!
//! They follow the rest of a request: for each calendar the number of boundaries, the calendar and
//! the boundaries; then the number of all these bytes. `decide.lua` reads them.

use crate::calendar::Calendar;
use crate::error::{BackendError, BackendErrorKind};

/// The position of the request's flags, and these: at a test's time, with boundaries of calendars.
const FLAGS_AT: usize = 3;
const TESTED: u8 = 1;
const WITH_CALENDARS: u8 = 2;
/// The latest boundary, in microseconds: Lua's numbers are exact up to here.
const FAR: u64 = (1 << 53) - 1;

/// The most attempts with other boundaries. The second is for a server whose clock differs, the
/// third for bookings far ahead of it.
pub(crate) const TRIES: usize = 4;
/// The most boundaries of a calendar in a request: days for more than ten years. More than a few
/// are needed only while permits are booked that far ahead.
const MOST: usize = 4_000;
/// Bytes of a test's time, which comes last.
const TEST_TIME: usize = 7;

/// Appends the boundaries of the windows before, around and after the times `from` to `until`, in
/// nanoseconds. `None` if there are too many.
pub(crate) fn append(
    bytes: &mut Vec<u8>,
    calendars: impl Iterator<Item = Calendar>,
    from: u64,
    until: u64,
) -> Option<()> {
    let start = bytes.len();
    for calendar in calendars {
        let (mut begin, mut end) = calendar.window(from);
        let mut boundaries = vec![calendar.window(begin.saturating_sub(1)).0.min(begin), begin, end];
        loop {
            let is_last = end > until;
            (begin, end) = calendar.window(end);
            boundaries.push(end.max(begin));
            if is_last {
                break;
            }
            if boundaries.len() >= MOST {
                return None;
            }
        }
        bytes.extend_from_slice(&u16::try_from(boundaries.len()).ok()?.to_le_bytes());
        bytes.extend_from_slice(&calendar.bits().to_le_bytes());
        for boundary in boundaries {
            bytes.extend_from_slice(&(boundary / 1_000).min(FAR).to_le_bytes()[..7]);
        }
    }
    let length = u32::try_from(bytes.len() - start).ok()?;
    bytes.extend_from_slice(&length.to_le_bytes());
    Some(())
}

/// The flag of a request with calendars.
pub(crate) fn flag(has_calendars: bool) -> u8 {
    if has_calendars { WITH_CALENDARS } else { 0 }
}

/// Whether a request has boundaries of calendars.
pub(crate) fn are_in(request: &[u8]) -> bool {
    request.get(FLAGS_AT).is_some_and(|flags| flags & WITH_CALENDARS != 0)
}

/// The same request with the boundaries around the times `now` to `time`, in nanoseconds.
pub(crate) fn widened(request: &[u8], now: u64, time: u64) -> Result<Vec<u8>, BackendError> {
    with_boundaries(request, now, time.max(now)).ok_or_else(|| {
        let message = "a calendar limit is booked further ahead than a request can express";
        BackendError::new(BackendErrorKind::Refused, message)
    })
}

fn with_boundaries(request: &[u8], from: u64, until: u64) -> Option<Vec<u8>> {
    let is_tested = request.get(FLAGS_AT)? & TESTED != 0;
    let (rest, test_time) = request.split_at_checked(request.len() - if is_tested { TEST_TIME } else { 0 })?;
    let (rest, length) = rest.split_last_chunk::<4>()?;
    let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
    let (start, mut before) = rest.split_at_checked(rest.len().checked_sub(length)?)?;
    let mut calendars = Vec::new();
    while let Some((boundaries, behind)) = before.split_first_chunk::<2>() {
        let (bits, behind) = behind.split_first_chunk::<4>()?;
        calendars.push(Calendar::from_bits(u32::from_le_bytes(*bits))?);
        before = behind.get(usize::from(u16::from_le_bytes(*boundaries)) * 7..)?;
    }
    let mut bytes = start.to_vec();
    append(&mut bytes, calendars.into_iter(), from, until)?;
    bytes.extend_from_slice(test_time);
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use std::ops::Range;

    use super::*;

    /// In microseconds.
    const DAY: u64 = 86_400_000_000;

    fn request(flags: u8, test_time: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0, 1, 0, flags, 9, 9];
        append(&mut bytes, [Calendar::DAY, Calendar::DAY.in_zone("Etc/GMT-1")].into_iter(), 0, 0).unwrap();
        bytes.extend_from_slice(test_time);
        bytes
    }

    #[test]
    fn a_request_gets_the_boundaries_around_the_times_that_it_lacks() {
        for (flags, test_time) in [(WITH_CALENDARS, &[][..]), (WITH_CALENDARS | TESTED, &[1, 2, 3, 4, 5, 6, 7])] {
            let request = request(flags, test_time);
            let widened = widened(&request, (10 * DAY + 1) * 1_000, 12 * DAY * 1_000).unwrap();
            // For both calendars, from the day before the first time to the day after the second.
            let boundaries = |days: Range<u64>, shift: u64| {
                days.flat_map(|day| (day * DAY - shift).to_le_bytes()[..7].to_vec()).collect::<Vec<u8>>()
            };
            let hour = DAY / 24;
            let expected = [
                &[0, 1, 0, flags, 9, 9, 6, 0][..],
                &Calendar::DAY.bits().to_le_bytes(),
                &boundaries(9..15, 0),
                &[6, 0],
                &Calendar::DAY.in_zone("Etc/GMT-1").bits().to_le_bytes(),
                &boundaries(9..15, hour),
                &[96, 0, 0, 0],
                test_time,
            ];
            assert_eq!(widened, expected.concat());
        }
    }

    #[test]
    fn a_booking_too_far_ahead_is_an_error() {
        let widened = widened(&request(WITH_CALENDARS, &[]), DAY * 1_000, 5_000 * DAY * 1_000);
        assert_eq!(widened.unwrap_err().kind(), BackendErrorKind::Refused);
    }
}
