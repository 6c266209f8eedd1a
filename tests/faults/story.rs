//! What happened to a server, and when: by the clock that servers on this machine go by.

use std::time::{Duration, Instant, SystemTime};

/// After a fault, limits are kept again within this.
pub(crate) const RECOVERY: Duration = Duration::from_secs(2);

/// The faults of one phase.
pub(crate) struct Story {
    until: Instant,
    pub(crate) faults: u32,
    /// What was admitted before these moments may be forgotten, what was admitted after them is not of it; in microseconds
    /// since the Unix epoch.
    pub(crate) losses: Vec<u64>,
    /// When servers could be reached again.
    pub(crate) ends: Vec<u64>,
}

impl Story {
    /// One that lasts so long.
    pub(crate) fn new(length: Duration) -> Story {
        Story { until: Instant::now() + length, faults: 0, losses: Vec::new(), ends: Vec::new() }
    }

    /// Whether there is time for one more fault, and for a recovery from it. It follows when there was time for a recovery
    /// from the last one.
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

    /// Waits until it is over.
    pub(crate) fn finish(&self) {
        std::thread::sleep(self.left());
    }

    /// Lets a fault last: for more than a call waits, until callers ask rarely, and for less than a call waits, in turn.
    pub(crate) fn last(&self) {
        let lengths = [60, 400, 1_600];
        std::thread::sleep(Duration::from_millis(lengths[self.faults as usize % lengths.len()]));
    }

    /// The server is dead, and what it knew is lost, or may be.
    pub(crate) fn lost(&mut self) {
        self.losses.push(now());
    }

    /// A server can be reached again.
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
