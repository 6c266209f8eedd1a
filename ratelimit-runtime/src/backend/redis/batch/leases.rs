//! Leases: permits taken in advance, to be spent without asking the server.
//!
//! The limits hold because every permit is charged as of a time at or after that of its spending:
//!
//! - The server charges a lease as of the end of its validity, by the server's clock.
//! - This process counts the validity from when it sent the request, which is before the server
//!   decided. It spends nothing later.
//! - Why no period then holds more spent permits than a window allows: see `decide.lua`.
//! - A token bucket is full again no earlier than the spending alone would make it, in whatever
//!   order leases are spent. A lease ends with the fixed window to which it is charged.
//!
//! The size of a lease follows the calls. It is one until the key is used again within the
//! validity. Then it doubles while leases are used up, and falls to what was used if some is left.
//! The rest of a lease goes back with the next call on the key, or soon after in the background.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use foldhash::quality::RandomState;
use parking_lot::Mutex;

use crate::backend::coalesce::Transport as _;
use crate::backend::redis::script::codec::{self, Back, Decided, Run, Terms};
use crate::backend::redis::{Client, Mode};
use crate::backend::{Action, Admitted, Answer, Denied, Outcome, Permit, Request, Timestamp};
use crate::error::BackendError;
use crate::limit::Limit;
use crate::rt::background;
use crate::rt::clock;

/// The most keys in a shard. One more evicts the oldest.
const KEYS_PER_SHARD: usize = 256;
const SHARDS: usize = 16;
/// A lease takes at most 1/10 of a limit, and is valid for at most 1/20 of its period.
const SHARE: u32 = 10;
const SHARE_OF_PERIOD: u64 = 20;
/// The shortest lease that is worth a request, in nanoseconds.
const MIN_VALIDITY: u64 = 100_000;
/// The longest lease, in nanoseconds: within this time all processes learn of a block.
const LONGEST: u64 = 1_000_000_000;
/// Two clocks drift by less than 1/1000. Spending ends earlier by this fraction.
const DRIFT: u64 = 1_000;

/// The leases of one process, by bucket.
pub(crate) struct Leases {
    permits: u32,
    /// In nanoseconds, as are all times here.
    valid_for: u64,
    hasher: RandomState,
    shards: [Mutex<HashMap<u64, Held, RandomState>>; SHARDS],
    /// The number of calls that have led, which numbers the next leader.
    led: AtomicU64,
    is_swept: AtomicBool,
}

/// The lease and the denial of a bucket. A bucket whose limits or costs change from call to call
/// has no lease.
struct Held {
    /// The call that started it.
    request: Request,
    cost: u32,
    /// The call that is asking for a lease. There is one at a time.
    led_by: Option<u64>,
    /// Calls that the last lease was for, including the one that asked.
    size: u32,
    lease: Option<Lease>,
    /// The end of the last requested lease, whether it was granted or not.
    until: u64,
    refusal: Option<Refused>,
}

struct Lease {
    /// Calls left.
    left: u32,
    /// The last admission of the lease.
    last: Admitted,
}

/// A denial. It holds only briefly, because permits may come back from other processes.
struct Refused {
    denied: Denied,
    /// The decision's time, by the server's clock and, at the latest, by this process's.
    now: u64,
    sent: u64,
    until: u64,
}

/// A call that asks the server for permits. If it `leads`, it also asks for a lease.
pub(crate) struct Ask {
    leases: Arc<Leases>,
    held: u64,
    /// Its number, if it leads.
    leads: Option<u64>,
    sent: u64,
    /// Calls to lease permits for.
    extra: u32,
    terms: Terms,
}

impl Leases {
    pub(crate) fn new(permits: u32, valid_for: Duration) -> Leases {
        Leases {
            permits,
            valid_for: clock::nanos(valid_for).min(LONGEST),
            hasher: RandomState::default(),
            shards: std::array::from_fn(|_| Mutex::default()),
            led: AtomicU64::new(0),
            is_swept: AtomicBool::new(false),
        }
    }

    /// An answer without the server, if there is one.
    pub(crate) fn answer(&self, request: &Request) -> Option<Answer> {
        let number = self.number(request);
        let mut shard = self.shard(number).lock();
        if matches!(request.action, Action::Reset) {
            // A lease is no longer charged once the bucket is forgotten.
            shard.remove(&number);
            return None;
        }
        let held = shard.get_mut(&number)?;
        let now = request.now();
        match &request.action {
            Action::Take { cost, max_wait } if held.is_for(request, *cost) => {
                held.spend(now.as_nanos()).or_else(|| held.denied(now.as_nanos()).filter(|_| max_wait.is_zero()))
            }
            Action::Peek { cost, max_wait: Duration::ZERO } if held.is_for(request, *cost) => {
                held.peek(now.as_nanos()).or_else(|| held.denied(now.as_nanos()))
            }
            Action::GiveBack(permit) if held.is_for(request, permit.cost) => {
                held.refusal = None;
                held.take_back(permit.at, now.as_nanos()).then_some(Answer { now, outcome: Outcome::Done })
            }
            Action::GiveBack(_) => {
                held.refusal = None;
                None
            }
            _ => None,
        }
    }

    /// Ends the lease of a bucket whose key was blocked or unblocked. Returns what is left of it.
    pub(crate) fn end(&self, request: &Request) -> Option<(Request, Back)> {
        let number = self.number(request);
        let held = self.shard(number).lock().remove(&number)?;
        let back = held.back()?;
        Some((held.request, back))
    }

    /// Forgets a bucket's denial after a charge by a call of another cost or one that waits: the
    /// denial may last longer now.
    pub(crate) fn changed(&self, request: &Request, answer: &Answer) {
        let is_charged = match request.action {
            Action::Take { cost, .. } | Action::Charge { cost } => cost > 0,
            _ => false,
        };
        if is_charged
            && matches!(answer.outcome, Outcome::Admitted(_))
            && let Some(held) = self.shard(self.number(request)).lock().get_mut(&self.number(request))
        {
            held.refusal = None;
        }
    }

    /// The request for one call or, in a batch, for the first. `None` if the call is asked the
    /// ordinary way.
    pub(crate) fn ask(self: &Arc<Self>, backend: &Client, request: &Request) -> Option<Ask> {
        let Action::Take { cost: cost @ 1.., max_wait: Duration::ZERO } = request.action else { return None };
        if request.backoff.is_some() {
            return None;
        }
        let (number, sent) = (self.number(request), request.now().as_nanos());
        let mut ask =
            Ask { leases: Arc::clone(self), held: number, leads: None, sent, extra: 0, terms: Terms::default() };
        let valid_for = self.valid_for(&request.limits);
        let most = if valid_for < MIN_VALIDITY { 1 } else { self.most(request, cost) };
        let mut shard = self.shard(number).lock();
        if !shard.contains_key(&number) && shard.len() >= KEYS_PER_SHARD {
            forget_oldest(&mut shard, backend);
        }
        let held = shard.entry(number).or_insert_with(|| Held::new(request, cost));
        let mut back = None;
        if !held.is_for(request, cost) && held.led_by.is_none() && held.until <= sent {
            back = held.back().filter(|_| held.request.bucket == request.bucket);
            *held = Held::new(request, cost);
        }
        // A lease may have come since the call looked for one.
        if held.is_for(request, cost) && held.led_by.is_none() && held.peek(sent).is_none() {
            ask.leads = Some(self.led.fetch_add(1, Ordering::Relaxed));
            held.led_by = ask.leads;
            held.size = held.next_size(sent, valid_for).min(most);
            ask.extra = held.size - 1;
            ask.terms =
                Terms { valid_for: if ask.extra > 0 { valid_for } else { 0 }, back: back.or_else(|| held.back()) };
            held.lease = None;
            held.until = sent.saturating_add(valid_for);
        }
        drop(shard);
        if ask.leads.is_some() && request.test_time.is_none() {
            self.sweep(backend);
        }
        Some(ask)
    }

    /// The largest lease, in calls.
    fn most(&self, request: &Request, cost: u32) -> u32 {
        let share = request.limits.iter().map(|limit| limit.capacity() / SHARE).min().unwrap_or(0);
        (self.permits.min(share) / cost).max(1)
    }

    fn valid_for(&self, limits: &[Limit]) -> u64 {
        // Also at most the time in which a bucket fills.
        let period = |limit: &Limit| limit.refill(limit.burst()).unwrap_or(u64::MAX).min(limit.per_nanos());
        let share = limits.iter().map(|limit| period(limit) / SHARE_OF_PERIOD).min().unwrap_or(0);
        self.valid_for.min(share)
    }

    fn number(&self, request: &Request) -> u64 {
        self.hasher.hash_one(request.bucket())
    }

    fn shard(&self, number: u64) -> &Mutex<HashMap<u64, Held, RandomState>> {
        #[expect(clippy::cast_possible_truncation, reason = "a few bits of it are enough")]
        let shard = number as usize % SHARDS;
        &self.shards[shard]
    }

    /// Starts the background task that gives back the rest of ended leases. It runs as long as
    /// there are leases.
    fn sweep(self: &Arc<Self>, backend: &Client) {
        if self.is_swept.load(Ordering::Relaxed) || self.is_swept.swap(true, Ordering::AcqRel) {
            return;
        }
        let Ok(background) = background::handle() else {
            self.is_swept.store(false, Ordering::Release);
            return;
        };
        let backend = backend.clone();
        background.spawn(async move {
            let Some(leases) = backend.leases.as_ref() else { return };
            let pause = Duration::from_nanos(leases.valid_for / 2).max(Duration::from_millis(1));
            loop {
                tokio::time::sleep(pause).await;
                if leases.end_old(&backend) {
                    continue;
                }
                leases.is_swept.store(false, Ordering::Release);
                // A lease that came meanwhile found the sweeper still running.
                if !leases.end_old(&backend) || leases.is_swept.swap(true, Ordering::AcqRel) {
                    return;
                }
            }
        });
    }

    /// Ends expired leases, and returns whether there are more. A lease by a test's clock ends with
    /// the next call on its key.
    fn end_old(&self, backend: &Client) -> bool {
        let now = clock::now();
        let mut is_more = false;
        for shard in &self.shards {
            shard.lock().retain(|_, held| {
                if held.request.test_time.is_some() {
                    return true;
                }
                if now >= held.until
                    && let Some(back) = held.back()
                {
                    held.size = held.next_size(now, 0);
                    held.lease = None;
                    backend.return_lease(&held.request, back);
                }
                let is_kept = held.led_by.is_some() || now < held.until.saturating_add(self.valid_for);
                is_more |= is_kept;
                is_kept
            });
        }
        is_more
    }
}

/// Makes room in a shard. The rest of the oldest lease is given back.
fn forget_oldest(shard: &mut HashMap<u64, Held, RandomState>, backend: &Client) {
    let oldest = shard.iter().filter(|(_, held)| held.led_by.is_none()).min_by_key(|(_, held)| held.until);
    if let Some(number) = oldest.map(|(number, _)| *number)
        && let Some(held) = shard.remove(&number)
        && let Some(back) = held.back()
    {
        backend.return_lease(&held.request, back);
    }
}

impl Held {
    fn new(request: &Request, cost: u32) -> Held {
        Held { request: request.clone(), cost, led_by: None, size: 0, lease: None, until: 0, refusal: None }
    }

    fn is_for(&self, request: &Request, cost: u32) -> bool {
        self.cost == cost
            && self.request.bucket == request.bucket
            && self.request.limits == request.limits
            && request.backoff.is_none()
            && self.request.test_time.is_some() == request.test_time.is_some()
    }

    fn spend(&mut self, now: u64) -> Option<Answer> {
        let lease = self.lease.as_mut().filter(|lease| lease.left > 0 && now < self.until)?;
        lease.left -= 1;
        Some(lease.answer(self.cost))
    }

    fn peek(&self, now: u64) -> Option<Answer> {
        let lease = self.lease.as_ref().filter(|lease| lease.left > 0 && now < self.until)?;
        Some(lease.answer(self.cost))
    }

    /// Returns permits that were charged as of `at` to their lease, while it may be spent.
    fn take_back(&mut self, at: u64, now: u64) -> bool {
        match &mut self.lease {
            Some(lease) if lease.last.permit().at == at && now < self.until => {
                lease.left = lease.left.saturating_add(1);
                true
            }
            _ => false,
        }
    }

    fn denied(&self, now: u64) -> Option<Answer> {
        let refused = self.refusal.as_ref().filter(|refused| (refused.sent..refused.until).contains(&now))?;
        let now = Timestamp::from_nanos(refused.now.saturating_add(now - refused.sent));
        Some(Answer { now, outcome: Outcome::Denied(refused.denied) })
    }

    /// The rest of the lease.
    fn back(&self) -> Option<Back> {
        let lease = self.lease.as_ref().filter(|lease| lease.left > 0)?;
        let permit = lease.last.permit();
        Some(Back { at: permit.at, sequence: permit.sequence, permits: lease.left.saturating_mul(self.cost) })
    }

    /// The size of the next lease, in calls.
    fn next_size(&self, now: u64, valid_for: u64) -> u32 {
        match &self.lease {
            Some(lease) if lease.left > 0 => self.size.saturating_sub(lease.left).max(1),
            // Used up before its end, or soon after.
            _ if now < self.until => self.size.saturating_mul(2).max(1),
            _ if now < self.until.saturating_add(valid_for) => self.size.max(1),
            _ => 1,
        }
    }
}

impl Lease {
    /// The admission of a call: that of the lease, with the permits left now.
    fn answer(&self, cost: u32) -> Answer {
        let mut admitted = self.last.clone();
        let after = self.left.saturating_mul(cost);
        admitted.admission.remaining = admitted.admission.remaining.saturating_add(after);
        Answer { now: admitted.at(), outcome: Outcome::Admitted(admitted) }
    }
}

impl Ask {
    /// Encodes a run of calls that are like `request`, and the request for a lease.
    pub(crate) fn encode(&self, request: &Request, run: Run) -> Vec<u8> {
        codec::encode_run(request, self.with_lease(run), Some(&self.terms))
    }

    /// Decodes the answers to the calls, and keeps the lease.
    pub(crate) fn settle(self, bytes: &[u8], request: &Request, run: Run) -> Result<Vec<Answer>, BackendError> {
        let Decided { mut answers, valid_for } = codec::decode_run(bytes, request, self.with_lease(run))?;
        let leased = answers.split_off(answers.len().saturating_sub(self.extra as usize));
        self.keep(&answers, leased, valid_for);
        Ok(answers)
    }

    fn with_lease(&self, run: Run) -> Run {
        Run { calls: run.calls + self.extra, ..run }
    }

    /// Whether this call still leads: the bucket may have been forgotten meanwhile.
    fn leads(&self, held: &Held) -> bool {
        self.leads.is_some() && self.leads == held.led_by
    }

    fn keep(&self, answers: &[Answer], leased: Vec<Answer>, valid_for: u64) {
        let mut shard = self.leases.shard(self.held).lock();
        let Some(held) = shard.get_mut(&self.held) else { return };
        if answers.iter().any(|answer| matches!(answer.outcome, Outcome::Admitted(_))) {
            held.refusal = None;
        }
        if !self.leads(held) {
            return;
        }
        if let Some(Answer { now, outcome: Outcome::Denied(denied) }) = answers.last() {
            let (now, sent) = (now.as_nanos(), self.sent);
            let until = denied.refusal.admitted_at.map_or(u64::MAX, |at| sent.saturating_add(at.saturating_sub(now)));
            let until = until.min(sent.saturating_add(self.leases.valid_for));
            held.refusal = Some(Refused { denied: *denied, now, sent, until });
            held.size = 1;
        }
        let admitted = leased.into_iter().map_while(|answer| match answer.outcome {
            Outcome::Admitted(admitted) => Some(admitted),
            _ => None,
        });
        let (mut left, mut last) = (0, None);
        for admission in admitted {
            left += 1;
            last = Some(admission);
        }
        if let Some(last) = last {
            held.size = left + 1;
            held.lease = Some(Lease { left, last });
            held.until = self.sent.saturating_add(valid_for - valid_for / DRIFT);
        }
    }
}

impl Drop for Ask {
    fn drop(&mut self) {
        if self.leads.is_some()
            && let Some(held) = self.leases.shard(self.held).lock().get_mut(&self.held)
            && self.leads(held)
        {
            held.led_by = None;
        }
    }
}

impl Client {
    /// Gives back the rest of a lease in the background. If that fails, it stays charged. So does a
    /// lease by a test's clock, because the background may run in another test.
    pub(crate) fn return_lease(&self, request: &Request, back: Back) {
        if request.test_time.is_none()
            && let Ok(background) = background::handle()
        {
            let permit = Permit { at: back.at, sequence: back.sequence, cost: back.permits, undo: None };
            let request = Request { action: Action::GiveBack(permit), ..request.clone() };
            let bytes = codec::encode(&request, true);
            background.spawn(self.call(request.bucket(), bytes, self.until(), Mode::Async));
        }
    }
}
