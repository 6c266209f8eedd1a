//! The faults of a server and their times, by the clock that all servers on this machine share.

use std::time::{Duration, Instant, SystemTime};

/// Limits are enforced again within this after a fault.
pub(crate) const RECOVERY: Duration = Duration::from_secs(2);

/// The faults of one phase.
pub(crate) struct Story {
    until: Instant,
    pub(crate) faults: u32,
    /// Times of losses, in microseconds since the Unix epoch. Admissions before one may be
    /// forgotten; those after it are not part of it.
    pub(crate) losses: Vec<u64>,
    /// When servers became reachable again.
    pub(crate) ends: Vec<u64>,
}

impl Story {
    /// A phase of this length.
    pub(crate) fn new(length: Duration) -> Story {
        Story { until: Instant::now() + length, faults: 0, losses: Vec::new(), ends: Vec::new() }
    }

    /// Whether there is time for one more fault and its recovery. Waits first until the last fault
    /// had time for its own.
    pub(crate) fn goes_on(&mut self) -> bool {
        let calm = if self.faults == 0 { RECOVERY / 4 } else { RECOVERY + RECOVERY / 10 };
        std::thread::sleep(self.left().min(calm));
        let goes_on = self.left() > RECOVERY;
        if goes_on {
            self.faults += 1;
        } else {
            self.finish();
        }
        goes_on
    }

    /// Waits until the phase is over.
    pub(crate) fn finish(&self) {
        std::thread::sleep(self.left());
    }

    /// Lets a fault last. In turn: longer than a call waits, until callers ask rarely; and shorter
    /// than a call waits.
    pub(crate) fn last(&self) {
        let lengths = [60, 400, 1_600];
        std::thread::sleep(Duration::from_millis(lengths[self.faults as usize % lengths.len()]));
    }

    /// The server is dead, and its data is lost or may be.
    pub(crate) fn lost(&mut self) {
        self.losses.push(now());
    }

    /// A server is reachable again.
    pub(crate) fn ended(&mut self) {
        self.ends.push(now());
    }

    fn left(&self) -> Duration {
        self.until.saturating_duration_since(Instant::now())
    }
}

fn now() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("it is after 1970");
    u64::try_from(now.as_micros()).expect("it is before the year 586,524")
}
