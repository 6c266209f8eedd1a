//! Decides every call by one candidate, with the product's own buckets, and collects the report's
//! figures.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use ratelimit_runtime::Limit;
use ratelimit_runtime::backend::{Action, Bucket, Outcome, Request, Timestamp};

use crate::limit::Candidate;
use crate::measure::{Histogram, Timeline};
use crate::order::Call;

/// One candidate's requests. The request for one permit, which most calls need, is reused.
#[derive(Debug)]
pub(crate) struct Requests {
    limits: Vec<Limit>,
    max_wait: Duration,
    of_one: Request,
}

impl Requests {
    pub(crate) fn new(limits: &[Limit], max_wait: Duration) -> Requests {
        Requests { of_one: request(limits, 1, max_wait), limits: limits.to_vec(), max_wait }
    }

    pub(crate) fn of(&self, cost: u32) -> Cow<'_, Request> {
        if cost == 1 { Cow::Borrowed(&self.of_one) } else { Cow::Owned(request(&self.limits, cost, self.max_wait)) }
    }
}

fn request(limits: &[Limit], cost: u32, max_wait: Duration) -> Request {
    Request::new("", limits, Action::Take { cost, max_wait })
}

/// The state of one client.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Client {
    /// Its bucket, or `IDLE`.
    bucket: u32,
    /// The fewest permits left after any call or denial.
    pub(crate) least_remaining: u32,
    pub(crate) denied: u64,
    /// When the client's calls began to be denied; 0 while they are admitted.
    denied_since: u64,
    /// The longest time from a denied call until a call would be admitted again, in nanoseconds.
    pub(crate) longest_denial: u64,
    /// The period of the last call, and the permits requested in it.
    period: u64,
    in_period: u64,
}

const IDLE: u32 = u32::MAX;

impl Client {
    const NEW: Client = Client {
        bucket: IDLE,
        least_remaining: u32::MAX,
        denied: 0,
        denied_since: 0,
        longest_denial: 0,
        period: 0,
        in_period: 0,
    };
}

/// The decisions of one candidate.
#[derive(Debug)]
pub(crate) struct Decisions {
    requests: Requests,
    per: u64,
    pub(crate) clients: Vec<Client>,
    /// Buckets in use, and free ones.
    buckets: Vec<Bucket>,
    free: Vec<u32>,
    /// When each bucket becomes idle, at the earliest. One entry per bucket in use, corrected when
    /// it is due.
    expiries: BinaryHeap<Reverse<(u64, u32)>>,
    pub(crate) denied: u64,
    pub(crate) denials: Timeline,
    /// The waits of calls that had to wait, in nanoseconds.
    pub(crate) waits: Histogram,
    /// Permits that a client requested in a period.
    pub(crate) demand: Histogram,
    /// The most buckets in use at the same time.
    pub(crate) peak: usize,
}

impl Decisions {
    pub(crate) fn new(candidate: &Candidate, max_wait: Duration) -> Decisions {
        let per = candidate.limits.first().map_or(Duration::from_secs(1), Limit::per);
        Decisions {
            requests: Requests::new(&candidate.limits, max_wait),
            per: u64::try_from(per.as_nanos()).unwrap_or(u64::MAX),
            clients: Vec::new(),
            buckets: Vec::new(),
            free: Vec::new(),
            expiries: BinaryHeap::new(),
            denied: 0,
            denials: Timeline::default(),
            waits: Histogram::default(),
            demand: Histogram::default(),
            peak: 0,
        }
    }

    /// Decides calls in order, from clients with numbers below `clients`.
    pub(crate) fn decide(&mut self, calls: &[Call], clients: usize) {
        self.clients.resize(clients.max(self.clients.len()), Client::NEW);
        for call in calls {
            self.reclaim(call.time);
            self.call(call);
        }
    }

    fn call(&mut self, call: &Call) {
        let client = &mut self.clients[call.client as usize];
        let period = call.time / self.per;
        if period != client.period {
            if client.in_period > 0 {
                self.demand.record(client.in_period);
            }
            (client.period, client.in_period) = (period, 0);
        }
        client.in_period += u64::from(call.cost);

        let is_idle = client.bucket == IDLE;
        if is_idle {
            client.bucket = self.free.pop().unwrap_or_else(|| {
                self.buckets.push(Bucket::default());
                // At most one per client, and clients have 32-bit numbers.
                u32::try_from(self.buckets.len() - 1).unwrap_or(0)
            });
        }
        let bucket = &mut self.buckets[client.bucket as usize];
        let request = self.requests.of(call.cost);
        match bucket.apply(&request, Timestamp::from_nanos(call.time)).outcome {
            Outcome::Admitted(admitted) => {
                client.least_remaining = client.least_remaining.min(admitted.remaining());
                client.denied_since = 0;
                let wait = admitted.at().as_nanos().saturating_sub(call.time);
                if wait > 0 {
                    self.waits.record(wait);
                }
            }
            Outcome::Denied(denied) => {
                client.least_remaining = client.least_remaining.min(denied.remaining());
                client.denied += 1;
                if client.denied_since == 0 {
                    client.denied_since = call.time;
                }
                let until = denied.admitted_at().map_or(call.time, Timestamp::as_nanos);
                client.longest_denial = client.longest_denial.max(until - client.denied_since);
                self.denied += 1;
                self.denials.add(call.time, 1);
            }
            _ => {}
        }
        if is_idle {
            let expires_at = bucket.expires_at(&request).as_nanos();
            if expires_at > call.time {
                self.expiries.push(Reverse((expires_at, call.client)));
                self.peak = self.peak.max(self.buckets.len() - self.free.len());
            } else {
                // It took nothing: its cost is zero, or more than can ever fit.
                self.free.push(client.bucket);
                client.bucket = IDLE;
            }
        }
    }

    /// Drops the buckets that are idle at `now`.
    fn reclaim(&mut self, now: u64) {
        while let Some(&Reverse((time, number))) = self.expiries.peek()
            && time <= now
        {
            self.expiries.pop();
            let client = &mut self.clients[number as usize];
            let bucket = &mut self.buckets[client.bucket as usize];
            let expires_at = bucket.expires_at(&self.requests.of_one).as_nanos();
            if expires_at > now {
                self.expiries.push(Reverse((expires_at, number)));
            } else {
                *bucket = Bucket::default();
                self.free.push(client.bucket);
                client.bucket = IDLE;
            }
        }
    }

    /// Completes the figures at the end of the log.
    pub(crate) fn finish(&mut self) {
        for client in self.clients.iter().filter(|client| client.in_period > 0) {
            self.demand.record(client.in_period);
        }
        self.buckets = Vec::new();
        self.expiries = BinaryHeap::new();
    }
}
