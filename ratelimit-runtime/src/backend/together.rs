//! Decides on several buckets together, in a store that decides on one at a time. Takes from one
//! after the other, and gives everything back if one denies.

use std::time::Duration;

use super::{Action, Answer, Backend, Outcome, Request};
use crate::error::BackendError;

/// What was taken so far. If this is dropped, the call failed or was abandoned, and it is given
/// back.
struct Taken<'a, B: Backend + ?Sized> {
    backend: &'a B,
    /// Requests that give back.
    back: Vec<Request>,
}

impl<B: Backend + ?Sized> Taken<'_, B> {
    fn add(&mut self, request: &Request, answer: &Answer) {
        self.back.extend(given_back(std::slice::from_ref(request), std::slice::from_ref(answer)));
    }

    /// The call has its permits.
    fn keep(mut self) {
        self.back.clear();
    }
}

impl<B: Backend + ?Sized> Drop for Taken<'_, B> {
    fn drop(&mut self) {
        for request in self.back.drain(..) {
            self.backend.decide_later(request);
        }
    }
}

/// The requests that give back what these answers took: nothing, if one of them is a denial.
pub(crate) fn given_back(requests: &[Request], answers: &[Answer]) -> Vec<Request> {
    let back = |(request, answer): (&Request, &Answer)| match (request.action(), &answer.outcome) {
        (Action::Take { cost: 1.., .. }, Outcome::Admitted(admitted)) => {
            let action = Action::GiveBack(admitted.admission.permit.clone());
            Some(Request { action, ..request.clone() })
        }
        _ => None,
    };
    let are_taken = answers.iter().all(|answer| matches!(answer.outcome, Outcome::Admitted(_)));
    if are_taken { requests.iter().zip(answers).filter_map(back).collect() } else { Vec::new() }
}

/// The request for a bucket after one that has denied: a peek. With a `backoff` it takes, because
/// only that counts the denial.
fn behind_a_denial(request: &Request) -> Request {
    let action = match request.action {
        Action::Take { cost, .. } if request.backoff.is_none() => Action::Peek { cost, max_wait: Duration::ZERO },
        ref action => action.clone(),
    };
    Request { action, ..request.clone() }
}

/// The steps, blocking or not: `$decide` is the decision on one request.
macro_rules! in_order {
    ($backend:ident, $requests:ident, |$request:ident| $decide:expr) => {{
        let mut taken = Taken { backend: $backend, back: Vec::new() };
        let (mut answers, mut is_denied) = (Vec::with_capacity($requests.len()), false);
        for request in $requests {
            let behind;
            let $request = if is_denied {
                behind = behind_a_denial(request);
                &behind
            } else {
                request
            };
            let answer = $decide?;
            is_denied |= matches!(answer.outcome, Outcome::Denied(_));
            taken.add($request, &answer);
            answers.push(answer);
        }
        if !is_denied {
            taken.keep();
            return Ok(answers);
        }
        // Newest first, one by one: if one fails, the rest is given back by `Drop`.
        while let Some(back) = taken.back.pop() {
            let $request = &back;
            // A permit that cannot be given back stays taken: the limit is kept.
            let _ = $decide;
        }
        Ok(answers)
    }};
}

/// See [`Backend::decide_together`].
pub(crate) fn in_order<B: Backend + ?Sized>(backend: &B, requests: &[Request]) -> Result<Vec<Answer>, BackendError> {
    in_order!(backend, requests, |request| backend.decide(request))
}

/// See [`Backend::decide_together_async`].
pub(super) async fn in_order_async<B: Backend + ?Sized>(
    backend: &B,
    requests: &[Request],
) -> Result<Vec<Answer>, BackendError> {
    in_order!(backend, requests, |request| match backend.decide_async(request) {
        Some(decided) => decided.await,
        None => backend.decide(request),
    })
}
