//! Requests sent together, as questions to the script: equal calls on one bucket are one question.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::backend::coalesce::{Answers, Transport};
use crate::backend::redis::batch::later::{Along, With};
use crate::backend::redis::batch::leases::Ask;
use crate::backend::redis::script::Question;
use crate::backend::redis::script::codec::{self, Run};
use crate::backend::redis::{Client, Mode, name};
use crate::backend::{Action, Answer, Request};
use crate::error::{BackendError, BackendErrorKind};

impl Transport for Client {
    async fn send(&self, requests: &[&Request], deadline: Instant) -> Answers {
        let groups: Vec<Group<'_>> =
            requests.chunk_by(|one, other| is_like(one, other)).map(|group| Group::new(group, self)).collect();
        // Requests without a waiting caller go in front.
        let along = self.along_with(requests, deadline).await?;
        let first = along.as_ref().map_or(0, Along::len);
        let in_front = along.iter().flat_map(Along::questions);
        let questions: Vec<_> = in_front.chain(groups.iter().map(|group| group.question(self))).collect();
        let call = self.ask_all(&questions, deadline, Mode::Async);
        let mut replies = match &along {
            Some(along) => along.carried_by(call).await?,
            None => call.await?,
        };
        let replies = replies.split_off(first);
        let mut answers = Vec::with_capacity(requests.len());
        for (group, reply) in groups.into_iter().zip(replies) {
            let calls = group.requests.len();
            match group.answers(reply, self) {
                Ok(own) => answers.extend(own.into_iter().map(Ok)),
                Err(error) => answers.extend(std::iter::repeat_n(Err(error), calls)),
            }
        }
        Ok(answers)
    }

    fn decide_later(&self, request: Request) {
        if self.leased(&request).is_some() {
            return;
        }
        self.later.push(self, Arc::clone(&request.bucket), self.encode(&request, None));
    }

    fn timeout(&self) -> Duration {
        self.timeout
    }

    fn late(&self) -> BackendError {
        let hint = self.connection.hint();
        let message = format!("Redis at {} did not answer within {:?}{hint}", self.connection, self.timeout);
        BackendError::new(BackendErrorKind::Timeout, message)
    }
}

impl Client {
    /// What is queued, to be sent with a batch.
    async fn along_with(&self, requests: &[&Request], deadline: Instant) -> Result<Option<Along>, BackendError> {
        if self.later.is_empty() {
            return Ok(None);
        }
        let buckets: Vec<&str> = requests.iter().map(|request| request.bucket()).collect();
        // The batch is of one bucket, and others may be on another server.
        let is_of_one = self.connection.is_cluster() || self.leases.is_some();
        let with = if is_of_one { With::Own(&buckets[..1]) } else { With::All(&buckets) };
        self.along(with, deadline, Mode::Async).await.map(Some)
    }
}

/// Requests that are one question to the script.
struct Group<'a> {
    requests: &'a [&'a Request],
    run: Run,
    ask: Option<Ask>,
}

impl<'a> Group<'a> {
    fn new(requests: &'a [&'a Request], client: &Client) -> Group<'a> {
        let calls = u32::try_from(requests.len()).unwrap_or(u32::MAX);
        let run = Run { calls, ..Run::of(requests[0]) };
        Group { requests, run, ask: client.ask(requests[0]) }
    }

    fn question(&self, client: &Client) -> Question<'a> {
        let request = self.requests[0];
        let bytes = match &self.ask {
            Some(ask) => ask.encode(request, self.run),
            None if self.run.calls > 1 => codec::encode_run(request, self.run, None),
            None => client.encode(request, None),
        };
        (name(request.bucket()), bytes)
    }

    fn answers(self, reply: Result<Vec<u8>, BackendError>, client: &Client) -> Result<Vec<Answer>, BackendError> {
        let (bytes, request) = (reply?, self.requests[0]);
        match self.ask {
            _ if self.run.calls == 1 => Ok(vec![client.decoded(&bytes, request, self.ask)?]),
            Some(ask) => ask.settle(&bytes, request, self.run),
            None => Ok(codec::decode_run(&bytes, request, self.run)?.answers),
        }
    }
}

/// Whether two calls are equal and take permits at once or not at all. With a backoff, each denial
/// makes the next one worse, so such calls are never alike.
fn is_like(one: &Request, other: &Request) -> bool {
    let cost = |request: &Request| match request.action {
        Action::Take { cost: cost @ 1.., max_wait: Duration::ZERO } => Some(cost),
        _ => None,
    };
    cost(one).is_some()
        && cost(one) == cost(other)
        && one.bucket == other.bucket
        && one.limits == other.limits
        && one.backoff.is_none()
        && other.backoff.is_none()
        && one.test_time == other.test_time
}
