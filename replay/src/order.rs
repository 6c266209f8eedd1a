//! Sorts calls that are slightly out of order in a log, as servers with buffers and several workers
//! write them.

/// A call, to be decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Call {
    pub(crate) time: u64,
    pub(crate) client: u32,
    pub(crate) cost: u32,
}

/// Calls held back while an earlier one may still come.
#[derive(Debug)]
pub(crate) struct Order {
    window: u64,
    /// In the log's order, sorted up to `sorted`.
    held: Vec<Call>,
    is_sorted: bool,
    /// The latest time seen, and the latest released.
    latest: u64,
    released: u64,
    /// Calls that came after a later one.
    pub(crate) reordered: u64,
    /// Calls that came too late to be sorted. They are decided at the earliest possible time.
    pub(crate) late: u64,
}

/// The most calls held. With more in one window, calls are sorted only within this many.
const MOST: usize = 1 << 20;
/// Calls are released in batches of this size, because each release moves the rest.
const FEWEST: usize = 1 << 14;

impl Order {
    pub(crate) fn new(window: u64) -> Order {
        Order { window, held: Vec::new(), is_sorted: true, latest: 0, released: 0, reordered: 0, late: 0 }
    }

    pub(crate) fn push(&mut self, mut call: Call) {
        if call.time < self.latest {
            self.reordered += 1;
            let settled = self.released.max(self.latest.saturating_sub(self.window));
            if call.time < settled {
                self.late += 1;
                call.time = settled;
            }
            self.is_sorted = false;
        } else {
            self.latest = call.time;
        }
        self.held.push(call);
    }

    /// Whether it is time to [`release`](Self::release).
    pub(crate) fn is_full(&self) -> bool {
        self.held.len() >= MOST
            || self.held.len() >= FEWEST
                && self.held.first().is_some_and(|first| self.latest - first.time > 2 * self.window)
    }

    /// Moves out the calls that no later line can precede, or all at the end. Calls with equal
    /// times keep the log's order.
    pub(crate) fn release(&mut self, all: bool, calls: &mut Vec<Call>) {
        if !self.is_sorted {
            self.held.sort_by_key(|call| call.time);
            self.is_sorted = true;
        }
        let ready = if all {
            self.held.len()
        } else {
            let settled = self.latest.saturating_sub(self.window);
            let ready = self.held.partition_point(|call| call.time < settled);
            if self.held.len() >= MOST { ready.max(self.held.len() / 2) } else { ready }
        };
        calls.extend(self.held.drain(..ready));
        if let Some(last) = calls.last() {
            self.released = last.time;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn calls(order: &mut Order, times: impl IntoIterator<Item = u64>) -> Vec<u64> {
        let mut calls = Vec::new();
        for (client, time) in times.into_iter().enumerate() {
            let client = u32::try_from(client).expect("few");
            order.push(Call { time, client, cost: 1 });
            if order.is_full() {
                order.release(false, &mut calls);
            }
        }
        order.release(true, &mut calls);
        for pair in calls.windows(2) {
            assert!(pair[0].time <= pair[1].time, "{pair:?}");
            assert!(pair[0].time < pair[1].time || pair[0].client < pair[1].client, "a tie is turned around: {pair:?}");
        }
        calls.iter().map(|call| call.time).collect()
    }

    #[test]
    fn calls_within_the_window_are_put_in_order() {
        let mut order = Order::new(10);
        let shuffled =
            (0..100_000_u64).map(|position| position / 3 + [9, 0, 5, 7][usize::try_from(position % 4).expect("small")]);
        let mut sorted: Vec<u64> = shuffled.clone().collect();
        sorted.sort_unstable();
        assert_eq!(calls(&mut order, shuffled), sorted);
        assert_eq!(order.late, 0);
        assert!(order.reordered > 0);
    }

    #[test]
    fn a_late_call_is_decided_a_window_before_the_latest() {
        for (calls_before, late) in [(200_000_u64, 5), (100, 5), (100, 88)] {
            let mut order = Order::new(10);
            let times = (0..calls_before).chain([late]);
            let ordered = calls(&mut order, times);
            assert_eq!((order.reordered, order.late), (1, 1));
            let expected = calls_before - 11;
            assert_eq!(ordered.iter().filter(|time| **time == expected).count(), 2);
        }
    }

    #[test]
    fn a_second_of_many_calls_is_not_held_whole() {
        let mut order = Order::new(10_000);
        let mut calls = Vec::new();
        let mut held = 0;
        for _ in 0..3 * MOST {
            order.push(Call { time: 7, client: 0, cost: 1 });
            held = held.max(order.held.len());
            if order.is_full() {
                order.release(false, &mut calls);
            }
        }
        assert_eq!(held, MOST);
    }
}
