//! The result of a replay, the source of the table, the page and JSON.

use serde::Serialize;

use crate::format::Format;
use crate::input::Unparsed;
use crate::measure::Range;

#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) logs: Vec<LogReport>,
    /// Decided calls.
    pub(crate) calls: u64,
    /// Times of the first and the last call, RFC 3339.
    pub(crate) from: String,
    pub(crate) to: String,
    /// The columns of the key; empty if all calls count as one client.
    pub(crate) key: Vec<String>,
    pub(crate) cost: Option<String>,
    /// The longest wait in seconds, if calls wait.
    pub(crate) max_wait_seconds: Option<f64>,
    pub(crate) clients: u64,
    pub(crate) order: OrderReport,
    /// Costs that are not numbers (they count as 1) or are above 2³² − 1 (they count as that).
    pub(crate) odd_costs: u64,
    pub(crate) candidates: Vec<CandidateReport>,
    pub(crate) suggestions: Vec<Suggestion>,
    pub(crate) timeline: TimelineReport,
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct LogReport {
    pub(crate) name: String,
    pub(crate) format: Format,
    pub(crate) compression: Option<&'static str>,
    pub(crate) lines: u64,
    pub(crate) calls: u64,
    pub(crate) blank: u64,
    pub(crate) headers: u64,
    pub(crate) unparsed: u64,
    pub(crate) longer_than_64_kib: u64,
    pub(crate) first_unparsed: Vec<Unparsed>,
    /// Why the log could not be read to its end.
    pub(crate) error: Option<String>,
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct OrderReport {
    pub(crate) window_seconds: f64,
    /// Calls whose line came after a later one's.
    pub(crate) out_of_order: u64,
    /// Of those, calls further out of order than the window: decided a window before the latest.
    pub(crate) too_late: u64,
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct TimelineReport {
    pub(crate) start: String,
    #[serde(skip)]
    pub(crate) start_nanos: u64,
    pub(crate) step_seconds: f64,
    pub(crate) calls: Vec<u64>,
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct CandidateReport {
    pub(crate) limit: String,
    pub(crate) denied: u64,
    pub(crate) denied_share: f64,
    pub(crate) clients_denied: u64,
    pub(crate) clients_denied_share: f64,
    pub(crate) most_denied: Vec<MostDenied>,
    /// The longest time from a client's denied call until a call would have been admitted again.
    pub(crate) longest_denial_seconds: f64,
    pub(crate) longest_denial_client: Option<String>,
    /// The fewest permits that each never-denied client had left: the value that `share` of these
    /// clients are at or below.
    pub(crate) least_remaining: Vec<Quantile>,
    pub(crate) waits: Option<Waits>,
    /// The most keys kept at the same time.
    pub(crate) peak_keys: u64,
    pub(crate) denied_over_time: Vec<u64>,
    pub(crate) demand: Demand,
    pub(crate) curve: Vec<CurvePoint>,
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct MostDenied {
    pub(crate) client: String,
    pub(crate) calls: u64,
    pub(crate) denied: u64,
    pub(crate) longest_denial_seconds: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Quantile {
    pub(crate) share: f64,
    pub(crate) value: u64,
}

/// Calls that had to wait, with `--wait`.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Waits {
    pub(crate) calls: u64,
    pub(crate) share: f64,
    pub(crate) median_seconds: f64,
    pub(crate) p99_seconds: f64,
    pub(crate) longest_seconds: f64,
}

/// Calls (permits, if calls have costs) of a client in a period, over all clients and all periods
/// with calls. Periods are aligned to the Unix epoch.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Demand {
    pub(crate) period_seconds: f64,
    pub(crate) quantiles: Vec<Quantile>,
    pub(crate) largest: u64,
    pub(crate) histogram: Vec<Range>,
}

/// The result of another count.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct CurvePoint {
    pub(crate) count: u32,
    pub(crate) clients_denied: u64,
    pub(crate) share: f64,
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct Suggestion {
    pub(crate) algorithm: &'static str,
    pub(crate) period_seconds: f64,
    /// `None` if no round count denies so few.
    pub(crate) limit: Option<String>,
    pub(crate) clients_denied: u64,
    pub(crate) share: f64,
}

/// `part` of `whole`, from 0 to 1.
pub(crate) fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

/// Nanoseconds in seconds.
pub(crate) fn seconds(nanos: u64) -> f64 {
    nanos as f64 / 1e9
}

/// A time as RFC 3339.
pub(crate) fn rfc3339(nanos: u64) -> String {
    jiff::Timestamp::from_nanosecond(i128::from(nanos)).map_or_else(|_| format!("{nanos} ns"), |time| time.to_string())
}
