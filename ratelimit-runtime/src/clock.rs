//! The one source of time: nanoseconds since the Unix epoch that never go backwards.
//!
//! The wall clock is read once, at the first use, and a monotonic clock is added to it: a wall clock that is set later
//! changes nothing, and a fixed window begins at midnight UTC as the wall clock said at the start. 64 bits last until the
//! year 2554; sums saturate there.

use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime};

struct Origin {
    instant: Instant,
    unix: u64,
}

static ORIGIN: OnceLock<Origin> = OnceLock::new();

/// Nanoseconds since the Unix epoch.
pub(crate) fn now() -> u64 {
    let origin = ORIGIN.get_or_init(|| Origin {
        instant: Instant::now(),
        unix: SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, nanos),
    });
    origin.unix.saturating_add(nanos(origin.instant.elapsed()))
}

/// A duration in nanoseconds, `u64::MAX` (584 years) where it is longer.
pub(crate) const fn nanos(duration: Duration) -> u64 {
    let nanos = duration.as_nanos();
    #[expect(clippy::cast_possible_truncation, reason = "compared before")]
    if nanos > u64::MAX as u128 { u64::MAX } else { nanos as u64 }
}
