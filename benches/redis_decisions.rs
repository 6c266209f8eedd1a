//! Repeats one kind of operation on a Redis server, for `scripts/callgrind-redis` to count in the
//! server. Without arguments, prints the names of the kinds.

use std::time::Duration;

use ratelimit_runtime::backend::{Action, Backend, Outcome, Permit, Request};
use ratelimit_runtime::{Algorithm, Backoff, IntoBackend as _, Limit, OnBackendError, RateLimiter, RedisBackend};

const HOUR: Duration = Duration::from_secs(3_600);
/// Buckets per case: few, so that each is soon in use.
const KEYS: usize = 16;
/// Buckets per case whose operations change what the next one costs: as many as calls.
const ONCE: usize = 1_920;

/// A kind of operation.
struct Case {
    name: &'static str,
    limits: Vec<Limit>,
    backoff: Option<Backoff>,
    /// Prepares each bucket, before anything is counted.
    before: Vec<Action>,
    operation: Operation,
    /// Buckets.
    keys: usize,
}

enum Operation {
    Once(Action),
    /// A take and its refund, which count as two operations.
    GivenBack,
    /// As many waits as there are rounds.
    Booked,
    /// A booking and its cancellation, which count as two operations.
    GivenUp,
    /// A take from a key of the limits and from a second one of one limit, in one call.
    Together(Limit),
    /// A hundred tries a second of a login with a `backoff` of a second, with the denial cache.
    Attack,
}

impl Case {
    /// Of each key only one operation is counted.
    fn each_once(self) -> Case {
        Case { keys: ONCE, ..self }
    }
}

fn take(cost: u32) -> Action {
    Action::Take { cost, max_wait: Duration::ZERO }
}

fn wait(cost: u32) -> Action {
    Action::Take { cost, max_wait: Duration::MAX }
}

#[expect(clippy::too_many_lines, reason = "a list")]
fn cases() -> Vec<Case> {
    let window = Limit::new(100_000, HOUR);
    let token = window.with_algorithm(Algorithm::TokenBucket);
    let fixed = window.with_algorithm(Algorithm::FixedWindow);
    let (two, three) = (vec![Limit::new(100_000, HOUR), Limit::new(1_000_000, 24 * HOUR)], 3);
    let few = |count| Limit::new(count, HOUR);
    let backoff = Some(Backoff::new(HOUR, 24 * HOUR));
    let once = |name, limits: Vec<Limit>, before, action| Case {
        name,
        limits,
        backoff: None,
        before,
        operation: Operation::Once(action),
        keys: KEYS,
    };
    let three = vec![window; three];
    // A limiter that waits says so in each call.
    let full: Vec<Action> = std::iter::once(Action::Reset).chain(vec![wait(1); 10]).collect();
    let nine: Vec<Action> = std::iter::once(Action::Reset).chain(vec![take(3); 3]).collect();
    let in_debt = vec![Action::Reset, Action::Charge { cost: 25 }];
    let (few_tokens, few_two) =
        (few(10).with_algorithm(Algorithm::TokenBucket), vec![few(10), Limit::new(100, 24 * HOUR)]);
    vec![
        once("sliding_window", vec![window], vec![], take(1)),
        once("token_bucket", vec![token], vec![], take(1)),
        once("fixed_window", vec![fixed], vec![], take(1)),
        once("cost of 3", vec![window], vec![], take(3)),
        once("sliding_window of 64, 64 on record", vec![few(64)], vec![take(1); 64], take(1)),
        once("sliding_window of 64, 100 ms", vec![Limit::new(64, Duration::from_millis(100))], vec![], take(1)),
        once("two limits", two.clone(), vec![], take(1)),
        once("three limits", three.clone(), vec![], take(1)),
        once("denied", vec![few(1)], vec![take(1)], take(1)),
        once("denied, two limits", vec![few(1), Limit::new(10, 24 * HOUR)], vec![take(1)], take(1)),
        Case {
            name: "denied by backoff",
            limits: vec![few(1)],
            backoff,
            before: vec![take(1), take(1)],
            operation: Operation::Once(take(1)),
            keys: KEYS,
        },
        Case {
            name: "backoff, allowed",
            limits: vec![window],
            backoff,
            before: vec![],
            operation: Operation::Once(take(1)),
            keys: KEYS,
        },
        once("peek", vec![window], vec![take(1)], Action::Peek { cost: 1, max_wait: Duration::ZERO }),
        once("peek, two limits", two, vec![take(1)], Action::Peek { cost: 1, max_wait: Duration::ZERO }),
        Case {
            name: "given back",
            limits: vec![window],
            backoff: None,
            before: vec![],
            operation: Operation::GivenBack,
            keys: KEYS,
        },
        Case {
            name: "given back, token_bucket",
            limits: vec![token],
            backoff: None,
            before: vec![],
            operation: Operation::GivenBack,
            keys: KEYS,
        },
        Case {
            name: "given back, three limits",
            limits: three,
            backoff: None,
            before: vec![],
            operation: Operation::GivenBack,
            keys: KEYS,
        },
        once("first call", vec![window], vec![Action::Reset], take(1)).each_once(),
        once("first call, token_bucket", vec![token], vec![Action::Reset], take(1)).each_once(),
        once("wait without need", vec![window], vec![], wait(1)),
        Case {
            name: "a booking that waits",
            limits: vec![few(10)],
            backoff: None,
            before: full.clone(),
            operation: Operation::Booked,
            keys: ONCE,
        },
        Case {
            name: "a booking of a token_bucket",
            limits: vec![few_tokens],
            backoff: None,
            before: full.clone(),
            operation: Operation::Booked,
            keys: ONCE,
        },
        Case {
            name: "a booking that waits behind 100",
            limits: vec![few(10)],
            backoff: None,
            before: vec![take(1); 10],
            operation: Operation::Booked,
            keys: KEYS,
        },
        Case {
            name: "a booking given up",
            limits: vec![few(10)],
            backoff: None,
            before: vec![take(1); 10],
            operation: Operation::GivenUp,
            keys: KEYS,
        },
        once("reset", vec![window], vec![], Action::Reset),
        once("charge", vec![window], vec![], Action::Charge { cost: 3 }),
        once("charge into debt", vec![few(10)], nine.clone(), Action::Charge { cost: 3 }).each_once(),
        once("charge of 25 into debt", vec![few(10)], nine.clone(), Action::Charge { cost: 25 }).each_once(),
        once("charge into debt, token_bucket", vec![few_tokens], nine.clone(), Action::Charge { cost: 3 }).each_once(),
        once("charge into debt, two limits", few_two.clone(), nine, Action::Charge { cost: 3 }).each_once(),
        once("charge in debt", vec![few(10)], in_debt.clone(), Action::Charge { cost: 3 }).each_once(),
        once("charge in debt, token_bucket", vec![few_tokens], in_debt.clone(), Action::Charge { cost: 3 }).each_once(),
        once("charge in debt, two limits", few_two, in_debt, Action::Charge { cost: 3 }).each_once(),
        once(
            "charge in debt after 100 others",
            vec![few(10)],
            vec![Action::Charge { cost: 25 }],
            Action::Charge { cost: 3 },
        ),
        once("denied in debt", vec![few(10)], vec![Action::Charge { cost: 25 }], take(1)),
        once("block", vec![window], vec![take(1)], Action::Block { time: HOUR }),
        once("denied by a block", vec![window], vec![take(1), Action::Block { time: HOUR }], take(1)),
        Case {
            name: "two keys in one call",
            limits: vec![window],
            backoff: None,
            before: vec![],
            operation: Operation::Together(window),
            keys: KEYS,
        },
        Case {
            name: "two keys in one call, the second denies",
            limits: vec![window],
            backoff: None,
            before: vec![],
            operation: Operation::Together(few(1)),
            keys: KEYS,
        },
        Case {
            name: "a try of an attack on one login",
            limits: vec![],
            backoff: None,
            before: vec![],
            operation: Operation::Attack,
            keys: 1,
        },
        Case {
            name: "a try of an attack on 32 logins",
            limits: vec![],
            backoff: None,
            before: vec![],
            operation: Operation::Attack,
            keys: 32,
        },
        Case {
            name: "denied by a ban",
            limits: vec![few(1)],
            backoff: Some(Backoff::ban(HOUR)),
            before: vec![take(1), take(1)],
            operation: Operation::Once(take(1)),
            keys: KEYS,
        },
    ]
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let [url, wanted, calls] = &arguments[..] else {
        for case in cases() {
            println!("{}", case.name);
        }
        return;
    };
    let calls: usize = calls.parse().expect("a number of calls");
    let backend = RedisBackend::builder().url(url.as_str()).timeout(Duration::from_secs(60)).build().expect("a URL");
    let case = cases().into_iter().find(|case| case.name == wanted).expect("the name of a case");
    let ask = |key: usize, action: Action| {
        let request = Request::new(format!("rl:1:{{counted:{key:06}}}:x"), &case.limits, action);
        let request = case.backoff.map_or(request.clone(), |backoff| request.with_backoff(backoff));
        backend.decide(&request).expect("a server").outcome
    };
    let ask_both = |key: usize, second: Limit| {
        let name = |suffix| format!("rl:1:{{counted:{key:06}}}:{suffix}");
        let both = [Request::new(name("x"), &case.limits, take(1)), Request::new(name("y"), &[second], take(1))];
        backend.decide_together(&both).expect("a server")
    };
    let permit = |outcome: Outcome| -> Permit {
        match outcome {
            Outcome::Admitted(admitted) => admitted.permit().clone(),
            other => panic!("{other:?}"),
        }
    };
    let login = RateLimiter::builder("login")
        .backend(backend.clone().into_backend())
        .on_backend_error(OnBackendError::Deny)
        .limit(Limit::new(5, HOUR))
        .backoff(Duration::from_secs(1), HOUR)
        .build()
        .expect("limits");
    for key in 0..case.keys {
        for action in &case.before {
            ask(key, action.clone());
        }
    }
    match case.operation {
        Operation::Once(action) => (0..calls).for_each(|call| drop(ask(call % case.keys, action.clone()))),
        Operation::Booked => (0..calls).for_each(|call| drop(permit(ask(call % case.keys, wait(1))))),
        Operation::GivenBack => (0..calls / 2).for_each(|call| {
            let key = call % case.keys;
            ask(key, Action::GiveBack(permit(ask(key, take(1)))));
        }),
        Operation::Attack => (0..calls).for_each(|call| {
            let _ = login.check(call % case.keys, 1);
            std::thread::sleep(Duration::from_millis(10));
        }),
        Operation::Together(second) => (0..calls).for_each(|call| drop(ask_both(call % case.keys, second))),
        Operation::GivenUp => (0..calls / 2).for_each(|call| {
            let key = call % case.keys;
            ask(key, Action::GiveBack(permit(ask(key, wait(1)))));
        }),
    }
}
