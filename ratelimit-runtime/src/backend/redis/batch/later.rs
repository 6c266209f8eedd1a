//! Requests whose answer is not awaited: permits that come back, and charges.
//!
//! They are queued, and sent in front of the next decision on their bucket or of the next batch, in
//! one call of the script. What is left after [`PAUSE`] is sent in a call of its own.
//!
//! They stay ahead of later decisions on their bucket. A decision takes the queued requests along,
//! and waits for those that another connection is sending. It need not wait for those on its own
//! connection, because a server answers a connection in order.

use std::collections::HashMap;
use std::future::poll_fn;
use std::mem;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use foldhash::quality::RandomState;
use parking_lot::Mutex;
use tokio::runtime::{Handle, Id};
use tokio::sync::Notify;

use crate::backend::coalesce::Transport as _;
use crate::backend::redis::script::Question;
use crate::backend::redis::wire::links;
use crate::backend::redis::wire::node::Mode;
use crate::backend::redis::{Client, name};
use crate::rt::background;

/// The longest time that a request is queued.
const PAUSE: Duration = Duration::from_millis(2);
/// The most queued requests. With one more, all are sent at once.
const MOST: usize = 128;

#[derive(Default)]
pub(crate) struct Later {
    /// Requests queued or under way. Read first, because there are seldom any.
    len: AtomicUsize,
    state: Mutex<State>,
    /// Requests under way were written or answered.
    news: Notify,
}

#[derive(Default)]
struct State {
    queue: Vec<Queued>,
    /// A task sends the queue when its pause is over.
    is_timed: bool,
    under_way: HashMap<Arc<str>, UnderWay, RandomState>,
}

struct Queued {
    bucket: Arc<str>,
    request: Vec<u8>,
}

/// Requests of one bucket that are being sent.
struct UnderWay {
    requests: usize,
    /// The number of those not yet written.
    unwritten: usize,
    /// The runtime whose connection sends all of them.
    on: Option<Id>,
}

/// The buckets of a decision, and what goes along with it.
pub(crate) enum With<'a> {
    /// The requests queued for them.
    Own(&'a [&'a str]),
    /// All that is queued.
    All(&'a [&'a str]),
}

/// Requests to send with a decision. Under way until this is dropped.
pub(crate) struct Along {
    later: Arc<Later>,
    requests: Vec<Queued>,
    on: Option<Id>,
    is_written: AtomicBool,
}

impl Later {
    /// Whether nothing is queued or under way.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.len.load(Ordering::Acquire) == 0
    }

    /// Whether anything is queued or under way for a bucket.
    #[inline]
    pub(crate) fn concerns(&self, bucket: &str) -> bool {
        !self.is_empty() && self.has(bucket)
    }

    fn has(&self, bucket: &str) -> bool {
        let state = self.state.lock();
        state.under_way.contains_key(bucket) || state.queue.iter().any(|queued| *queued.bucket == *bucket)
    }

    /// Queues a request.
    pub(crate) fn push(self: &Arc<Later>, client: &Client, bucket: Arc<str>, request: Vec<u8>) {
        // A permit that is given back late or never stays taken: the limit is kept.
        let Ok(background) = background::handle() else { return };
        let mut state = self.state.lock();
        self.len.fetch_add(1, Ordering::Release);
        state.queue.push(Queued { bucket, request });
        if state.queue.len() >= MOST {
            let all = self.start(&mut state, |_| true, Some(background.id()));
            drop(state);
            background.spawn(client.clone().send_alone(all));
        } else if !mem::replace(&mut state.is_timed, true) {
            drop(state);
            let client = client.clone();
            background.spawn(async move {
                tokio::time::sleep(PAUSE).await;
                let all = client.later.after_pause();
                client.send_alone(all).await;
            });
        }
    }

    fn after_pause(self: &Arc<Later>) -> Along {
        let mut state = self.state.lock();
        state.is_timed = false;
        self.start(&mut state, |_| true, Handle::try_current().ok().map(|runtime| runtime.id()))
    }

    /// What to send with a decision, once no other connection sends requests on its buckets.
    pub(crate) async fn take(self: &Arc<Later>, with: With<'_>, mode: Mode) -> Along {
        let on = match mode {
            // Blocking calls share several connections.
            Mode::Blocking => None,
            Mode::Async => Handle::try_current().or_else(|_| background::handle()).ok().map(|runtime| runtime.id()),
        };
        let (With::Own(buckets) | With::All(buckets)) = with;
        loop {
            let mut news = pin!(self.news.notified());
            news.as_mut().enable();
            {
                let mut state = self.state.lock();
                if !buckets.iter().any(|bucket| state.holds_up(bucket, on)) {
                    let is_all = matches!(with, With::All(_));
                    return self.start(&mut state, |bucket| is_all || buckets.contains(&bucket), on);
                }
            }
            news.await;
        }
    }

    /// Takes requests from the queue, which are then under way.
    fn start(self: &Arc<Later>, state: &mut State, is_wanted: impl Fn(&str) -> bool, on: Option<Id>) -> Along {
        let State { queue, under_way, .. } = state;
        let requests: Vec<Queued> = queue.extract_if(.., |queued| is_wanted(&queued.bucket)).collect();
        for queued in &requests {
            let new = || UnderWay { requests: 0, unwritten: 0, on };
            let bucket = under_way.entry(Arc::clone(&queued.bucket)).or_insert_with(new);
            bucket.requests += 1;
            bucket.unwritten += 1;
            if bucket.on != on {
                bucket.on = None;
            }
        }
        Along { later: Arc::clone(self), requests, on, is_written: AtomicBool::new(false) }
    }
}

impl State {
    /// Whether a decision on `bucket` over the connection of the runtime `on` must wait.
    fn holds_up(&self, bucket: &str, on: Option<Id>) -> bool {
        let is_behind = |under_way: &UnderWay| under_way.unwritten == 0 && on.is_some() && under_way.on == on;
        self.under_way.get(bucket).is_some_and(|under_way| !is_behind(under_way))
    }
}

impl Along {
    pub(crate) fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.requests.len()
    }

    pub(crate) fn questions(&self) -> impl Iterator<Item = Question<'_>> {
        self.requests.iter().map(|queued| (name(&queued.bucket), queued.request.clone()))
    }

    /// Runs a call that carries the requests.
    pub(crate) async fn carried_by<T>(&self, call: impl Future<Output = T>) -> T {
        let mut call = pin!(call);
        poll_fn(|context| {
            let (polled, is_sent) = links::sends(|| call.as_mut().poll(context));
            if is_sent {
                self.written();
            }
            polled
        })
        .await
    }

    fn written(&self) {
        if self.on.is_none() || self.requests.is_empty() || self.is_written.swap(true, Ordering::Relaxed) {
            return;
        }
        let mut state = self.later.state.lock();
        for queued in &self.requests {
            if let Some(bucket) = state.under_way.get_mut(&queued.bucket) {
                bucket.unwritten -= 1;
            }
        }
        drop(state);
        self.later.news.notify_waiters();
    }

    /// Parts by bucket, for buckets that may be on several servers.
    fn by_bucket(mut self) -> Vec<Along> {
        let mut parts: Vec<Along> = Vec::new();
        for queued in mem::take(&mut self.requests) {
            if let Some(part) = parts.iter_mut().find(|part| part.requests[0].bucket == queued.bucket) {
                part.requests.push(queued);
                continue;
            }
            let (later, is_written) = (Arc::clone(&self.later), AtomicBool::new(false));
            parts.push(Along { later, requests: vec![queued], on: self.on, is_written });
        }
        parts
    }
}

impl Drop for Along {
    fn drop(&mut self) {
        if self.requests.is_empty() {
            return;
        }
        let mut state = self.later.state.lock();
        for queued in &self.requests {
            if let Some(bucket) = state.under_way.get_mut(&queued.bucket) {
                bucket.requests -= 1;
                bucket.unwritten -= usize::from(!*self.is_written.get_mut());
                if bucket.requests == 0 {
                    state.under_way.remove(&queued.bucket);
                }
            }
        }
        drop(state);
        self.later.len.fetch_sub(self.requests.len(), Ordering::Release);
        self.later.news.notify_waiters();
    }
}

impl Client {
    /// Sends queued requests without a decision.
    async fn send_alone(self, all: Along) {
        if !self.connection.is_cluster() {
            self.send_part(all).await;
            return;
        }
        for part in all.by_bucket() {
            tokio::spawn(self.clone().send_part(part));
        }
    }

    async fn send_part(self, part: Along) {
        if part.is_empty() {
            return;
        }
        let questions: Vec<Question<'_>> = part.questions().collect();
        // Permits that cannot be given back stay taken.
        let _ = part.carried_by(self.ask_all(&questions, self.until(), Mode::Async)).await;
    }
}
