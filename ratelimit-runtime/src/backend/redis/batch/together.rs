//! Decides on the buckets of one call: by one script on one server, or, in a cluster, slot after
//! slot. If a later slot denies, the permits of the earlier ones are given back.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use crate::backend::coalesce::Transport as _;
use crate::backend::redis::batch::later::With;
#[cfg(feature = "calendar")]
use crate::backend::redis::script::calendars;
use crate::backend::redis::script::codec;
use crate::backend::redis::wire::node::Mode;
use crate::backend::redis::{Client, ScriptReply, name, script};
use crate::backend::{Action, Answer, Outcome, Request, given_back};
use crate::error::BackendError;
use crate::rt::background;

/// Permits of earlier slots. If this is dropped, the call failed or was abandoned, and they are
/// given back.
struct Taken<'a> {
    client: &'a Client,
    back: Vec<Request>,
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.back.drain(..).for_each(|request| self.client.decide_later(request));
    }
}

impl Client {
    /// Decides on all buckets, all or none, by `deadline`.
    pub(crate) async fn decide_together(
        &self,
        requests: &[Request],
        deadline: Instant,
        mode: Mode,
    ) -> Result<Vec<Answer>, BackendError> {
        let slots = self.by_slot(requests);
        if slots.len() == 1 {
            return self.decide_in_slot(requests, deadline, mode).await;
        }
        let mut taken = Taken { client: self, back: Vec::new() };
        let (mut answers, mut is_denied): (Vec<Option<Answer>>, bool) = (vec![None; requests.len()], false);
        for positions in slots {
            let mut own: Vec<Request> = positions.iter().map(|position| requests[*position].clone()).collect();
            for request in own.iter_mut().filter(|request| is_denied && request.backoff.is_none()) {
                // After a denial, nothing must be taken. But with a `backoff`, only a call that
                // takes counts the denial.
                if let Action::Take { cost, .. } = request.action {
                    request.action = Action::Peek { cost, max_wait: Duration::ZERO };
                }
            }
            let decided = self.decide_in_slot(&own, deadline, mode).await?;
            is_denied |= decided.iter().any(|answer| matches!(answer.outcome, Outcome::Denied(_)));
            taken.back.extend(given_back(&own, &decided));
            for (position, answer) in positions.into_iter().zip(decided) {
                answers[position] = Some(answer);
            }
        }
        if !is_denied {
            taken.back.clear();
        }
        while let Some(back) = taken.back.pop() {
            // A permit that cannot be given back stays taken: the limit is kept.
            let _ = self.call(back.bucket(), self.encode(&back, None), deadline, mode).await;
        }
        answers.into_iter().collect::<Option<Vec<Answer>>>().ok_or_else(codec::no_decision)
    }

    /// Positions of the requests, by the slot of their buckets, in the order of the first of each.
    fn by_slot(&self, requests: &[Request]) -> Vec<Vec<usize>> {
        if !self.connection.is_cluster() {
            return vec![(0..requests.len()).collect()];
        }
        let mut slots: BTreeMap<u16, usize> = BTreeMap::new();
        let mut positions: Vec<Vec<usize>> = Vec::new();
        for (position, request) in requests.iter().enumerate() {
            let slot = slots.entry(slot(request)).or_insert_with(|| {
                positions.push(Vec::new());
                positions.len() - 1
            });
            positions[*slot].push(position);
        }
        positions
    }

    async fn decide_in_slot(
        &self,
        requests: &[Request],
        deadline: Instant,
        mode: Mode,
    ) -> Result<Vec<Answer>, BackendError> {
        #[cfg_attr(not(feature = "calendar"), expect(unused_mut, reason = "no question is asked again"))]
        let mut questions: Vec<script::Question<'_>> =
            requests.iter().map(|request| (name(request.bucket()), codec::encode(request, false))).collect();
        #[cfg_attr(not(feature = "calendar"), expect(unused_mut, reason = "no question is asked again"))]
        let mut replies = if self.later.is_empty() {
            self.connection.call_many(&script::call_together(&questions), questions.len(), deadline, mode).await?
        } else {
            Box::pin(self.ask_together_with_others(requests, &questions, deadline, mode)).await?
        };
        // Nothing was charged if a calendar did not cover the server's time.
        #[cfg(feature = "calendar")]
        for _ in 0..calendars::TRIES {
            let mut is_missing = false;
            for ((_, bytes), reply) in questions.iter_mut().zip(&replies) {
                if let Some((now, time)) = reply.as_deref().ok().and_then(codec::beyond) {
                    *bytes = calendars::widened(bytes, now, time)?;
                    is_missing = true;
                }
            }
            if !is_missing {
                break;
            }
            let command = script::call_together(&questions);
            replies = self.connection.call_many(&command, questions.len(), deadline, mode).await?;
        }
        let answer = |(request, reply): (&Request, Result<Vec<u8>, BackendError>)| {
            let answer = codec::decode(&reply?, request)?;
            if let Some(leases) = &self.leases {
                leases.changed(request, &answer);
            }
            Ok(answer)
        };
        requests.iter().zip(replies).map(answer).collect()
    }

    /// Sends the questions with what is queued for their buckets in front.
    async fn ask_together_with_others(
        &self,
        requests: &[Request],
        questions: &[script::Question<'_>],
        deadline: Instant,
        mode: Mode,
    ) -> Result<Vec<ScriptReply>, BackendError> {
        let buckets: Vec<&str> = requests.iter().map(Request::bucket).collect();
        let along = self.along(With::Own(&buckets), deadline, mode).await?;
        let all: Vec<script::Question<'_>> = along.questions().chain(questions.iter().cloned()).collect();
        let command = script::call_together(&all);
        let replies = along.carried_by(self.connection.call_many(&command, all.len(), deadline, mode)).await;
        Ok(replies?.split_off(along.len()))
    }

    /// As [`decide_together`](Client::decide_together), in a future that gives back what was taken
    /// if it is dropped.
    pub(crate) fn together_in_flight(&self, requests: &[Request]) -> InFlight {
        let (client, deadline) = (self.clone(), self.until());
        let requests = requests.to_vec();
        let call = Box::pin(async move {
            let answers = client.decide_together(&requests, deadline, Mode::Async).await;
            (client, requests, answers)
        });
        InFlight { call: Some(call) }
    }
}

#[cfg(feature = "redis-cluster")]
fn slot(request: &Request) -> u16 {
    crate::backend::redis::route::cluster::slot(name(request.bucket()).as_bytes())
}

#[cfg(not(feature = "redis-cluster"))]
fn slot(_: &Request) -> u16 {
    0
}

type Answered = (Client, Vec<Request>, Result<Vec<Answer>, BackendError>);

/// A call in flight. If it is dropped before the answer has come, it continues in the background,
/// and its permits are given back.
pub(crate) struct InFlight {
    /// None once it is done.
    call: Option<Pin<Box<dyn Future<Output = Answered> + Send>>>,
}

impl Future for InFlight {
    type Output = Result<Vec<Answer>, BackendError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(call) = &mut self.call else { return Poll::Pending };
        let (_, _, answers) = ready!(call.as_mut().poll(context));
        self.call = None;
        Poll::Ready(answers)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if let Some(call) = self.call.take()
            && let Ok(background) = background::handle()
        {
            background.spawn(async move {
                if let (client, requests, Ok(answers)) = call.await {
                    for back in given_back(&requests, &answers) {
                        client.decide_later(back);
                    }
                }
            });
        }
    }
}
