//! Invariants of a bucket for any backend: resets, refunds and bookings in any order.
//!
//! Each function takes a closure that carries out an action on one bucket by one limit, at a time
//! in seconds.

use std::time::Duration;

use ratelimit_runtime::backend::{Action, Outcome, Permit};
use ratelimit_runtime::{Algorithm, Limit};

/// Carries out an action by a limit at a time, in a separate bucket for each name.
pub type Decide<'a> = &'a mut dyn FnMut(&str, Limit, Action, f64) -> Outcome;

const ALGORITHMS: [Algorithm; 3] = [Algorithm::SlidingWindow, Algorithm::TokenBucket, Algorithm::FixedWindow];
const HOUR: Duration = Duration::from_secs(3_600);

/// Runs all scenarios.
pub fn all(decide: Decide<'_>) {
    a_reset_leaves_nothing_to_give_back(decide);
    a_refund_before_a_booking_is_given_up_is_not_lost(decide);
    a_booking_is_given_up_once(decide);
    many_cancelled_bookings_leave_nothing(decide);
    another_kind_of_limit_takes_over_taken_permits(decide);
}

fn take(cost: u32) -> Action {
    Action::Take { cost, max_wait: Duration::ZERO }
}

fn book(cost: u32) -> Action {
    Action::Take { cost, max_wait: Duration::MAX }
}

fn permit(outcome: &Outcome) -> Permit {
    match outcome {
        Outcome::Admitted(admitted) => admitted.permit().clone(),
        other => panic!("not admitted: {other:?}"),
    }
}

/// The number of single permits admitted at a time.
fn drain(decide: Decide<'_>, name: &str, limit: Limit, at: f64) -> u32 {
    let is_admitted = |outcome| matches!(outcome, Outcome::Admitted(_));
    (0..1_000).take_while(|_| is_admitted(decide(name, limit, take(1), at))).count().try_into().unwrap()
}

fn a_reset_leaves_nothing_to_give_back(decide: Decide<'_>) {
    for algorithm in ALGORITHMS {
        let name = format!("reset {algorithm:?}");
        let limit = Limit::new(3, HOUR).with_algorithm(algorithm);
        let taken = permit(&decide(&name, limit, take(3), 0.0));
        let booked = permit(&decide(&name, limit, book(2), 0.0));
        decide(&name, limit, Action::Reset, 1.0);
        assert_eq!(drain(decide, &name, limit, 2.0), 3, "{name}");
        decide(&name, limit, Action::GiveBack(taken), 2.0);
        decide(&name, limit, Action::GiveBack(booked), 2.0);
        assert_eq!(drain(decide, &name, limit, 2.0), 0, "{name}");
    }
}

fn a_refund_before_a_booking_is_given_up_is_not_lost(decide: Decide<'_>) {
    for algorithm in ALGORITHMS {
        let name = format!("refund {algorithm:?}");
        let limit = Limit::new(10, HOUR).with_algorithm(algorithm);
        let (first, second) =
            (permit(&decide(&name, limit, take(4), 0.0)), permit(&decide(&name, limit, take(6), 0.0)));
        let booked = permit(&decide(&name, limit, book(3), 0.0));
        decide(&name, limit, Action::GiveBack(first), 0.0);
        decide(&name, limit, Action::GiveBack(booked), 0.0);
        assert_eq!(drain(decide, &name, limit, 0.0), 4, "{name}");
        decide(&name, limit, Action::GiveBack(second), 0.0);
        assert_eq!(drain(decide, &name, limit, 0.0), 6, "{name}");
    }
}

fn a_booking_is_given_up_once(decide: Decide<'_>) {
    for algorithm in ALGORITHMS {
        let name = format!("once {algorithm:?}");
        let limit = Limit::new(100, HOUR).with_algorithm(algorithm);
        decide(&name, limit, take(100), 0.0);
        let first = permit(&decide(&name, limit, book(10), 0.0));
        decide(&name, limit, Action::GiveBack(first.clone()), 0.0);
        // Of the same size, at the same time.
        let second = permit(&decide(&name, limit, book(10), 0.0));
        decide(&name, limit, Action::GiveBack(first), 0.0);
        let third = permit(&decide(&name, limit, book(10), 0.0));
        decide(&name, limit, Action::GiveBack(third), 0.0);
        // The second stands, and nothing is admitted before it.
        assert_eq!(drain(decide, &name, limit, 0.0), 0, "{name}");
        decide(&name, limit, Action::GiveBack(second), 0.0);
        assert_eq!(drain(decide, &name, limit, 3_600.0 * 3.0), 100, "{name}");
    }
}

fn many_cancelled_bookings_leave_nothing(decide: Decide<'_>) {
    for algorithm in ALGORITHMS {
        let name = format!("many {algorithm:?}");
        let limit = Limit::new(1, Duration::from_secs(10)).with_algorithm(algorithm);
        decide(&name, limit, take(1), 0.0);
        let mut booked: Vec<Permit> = (0..300).map(|_| permit(&decide(&name, limit, book(1), 0.0))).collect();
        while let Some(newest) = booked.pop() {
            decide(&name, limit, Action::GiveBack(newest), 0.0);
        }
        assert_eq!(drain(decide, &name, limit, 9.0), 0, "{name}");
        assert_eq!(drain(decide, &name, limit, 10.0), 1, "{name}");
    }
}

fn another_kind_of_limit_takes_over_taken_permits(decide: Decide<'_>) {
    for before in ALGORITHMS {
        for after in ALGORITHMS {
            let name = format!("{before:?} then {after:?}");
            let limit = |algorithm| Limit::new(10, HOUR).with_algorithm(algorithm);
            let taken = permit(&decide(&name, limit(before), take(7), 1.0));
            assert_eq!(drain(decide, &name, limit(after), 1.0), 3, "{name}");
            // Permits taken under another kind of limit give nothing back to this one.
            decide(&name, limit(after), Action::GiveBack(taken), 1.0);
            assert_eq!(drain(decide, &name, limit(after), 1.0), if before == after { 7 } else { 0 }, "{name}");
        }
    }
}
