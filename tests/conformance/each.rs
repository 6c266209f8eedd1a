//! Scenarios of limits with a key each: all of them are charged, or none is.

use std::time::{Instant, UNIX_EPOCH};

use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use ratelimit_runtime::{
    Algorithm, BackendErrorKind, Calendar, Decision, ExceededKind, Limit, RateLimitExceeded, RateLimiter, rate_limit,
    test_util,
};
use ratelimit_tests::oracle::{Entry, Log, nanos};
use ratelimit_tests::poll_once;

use super::{ALGORITHMS, Duration, Front, HashMap, MINUTE, SECOND, Stage, block_on};

type Decided = Result<Decision, RateLimitExceeded>;
/// Each bucket by the position of its limit, and its key.
type Buckets = [(usize, u8); 3];
/// A user, a tenant, and everyone.
type Keys = (u8, u8, ());

/// A limiter whose limits have a key each.
struct Subject {
    limiter: RateLimiter,
    is_async: bool,
}

impl Subject {
    fn of(stage: &Stage, limits: &[Limit]) -> Subject {
        Subject { limiter: stage.subject(limits).limiter, is_async: matches!(stage.front, Front::Async) }
    }

    fn check(&self, keys: Keys, cost: u32) -> Decided {
        if self.is_async {
            block_on(self.limiter.check_each_async(keys, cost))
        } else {
            self.limiter.check_each(keys, cost)
        }
    }

    fn peek(&self, keys: Keys, cost: u32) -> Decided {
        if self.is_async {
            block_on(self.limiter.peek_each_async(keys, cost))
        } else {
            self.limiter.peek_each(keys, cost)
        }
    }

    fn refund(&self, decision: Decision) {
        if self.is_async {
            block_on(self.limiter.refund_async(decision)).unwrap();
        } else {
            self.limiter.refund(decision).unwrap();
        }
    }

    fn charge(&self, keys: Keys, cost: u32) -> Decision {
        if self.is_async {
            block_on(self.limiter.charge_each_async(keys, cost)).unwrap()
        } else {
            self.limiter.charge_each(keys, cost).unwrap()
        }
    }

    fn reset(&self, keys: Keys) {
        if self.is_async {
            block_on(self.limiter.reset_each_async(keys)).unwrap();
        } else {
            self.limiter.reset_each(keys).unwrap();
        }
    }

    fn admitted(&self, keys: Keys, calls: usize) -> usize {
        (0..calls).filter(|_| self.check(keys, 1).is_ok()).count()
    }
}

/// All limits have the same shape, and user and tenant the same number, but their buckets differ.
pub(super) fn keys_are_charged_together_or_not_at_all(stage: &Stage) {
    for algorithm in ALGORITHMS {
        let limits = [2, 3, 4].map(|count| Limit::new(count, MINUTE).with_algorithm(algorithm));
        let subject = Subject::of(stage, &limits);
        let _clock = test_util::pause();
        let decision = subject.check((7, 7, ()), 1).unwrap();
        assert_eq!((decision.remaining(), decision.limit_index(), decision.limit()), (1, 0, limits[0]));
        let decision = subject.check((7, 7, ()), 1).unwrap();
        assert_eq!((decision.remaining(), decision.limit_index()), (0, 0), "{algorithm:?}");
        // Denied by the user's limit: the tenant keeps its last permit, and all keep two.
        let exceeded = subject.check((7, 7, ()), 1).unwrap_err();
        assert_eq!((exceeded.limit_index(), exceeded.limit(), exceeded.remaining()), (0, limits[0], 0));
        assert_eq!(exceeded.limiter(), "conformance");
        assert_eq!(subject.check((8, 7, ()), 1).unwrap().remaining(), 0);
        // Denied by the tenant's limit: the user keeps a permit.
        assert_eq!(subject.check((8, 7, ()), 1).unwrap_err().limit_index(), 1);
        assert_eq!(subject.check((8, 8, ()), 1).unwrap().remaining(), 0);
        // Denied by the limit of all: neither user nor tenant loses anything.
        for _ in 0..5 {
            assert_eq!(subject.check((9, 9, ()), 1).unwrap_err().limit_index(), 2);
        }
        subject.reset((7, 7, ()));
        assert_eq!(subject.admitted((9, 9, ()), 5), 2);
        // A cost that never fits into one limit is charged to none.
        let never = subject.check((10, 10, ()), 3).unwrap_err();
        assert_eq!((never.kind(), never.limit_index(), never.retry_after()), (ExceededKind::CostExceedsLimit, 0, None));
        assert_eq!(subject.peek((10, 10, ()), 0).unwrap().remaining(), 2);
        assert!(subject.check((7, 9, ()), 0).is_ok());
    }
}

pub(super) fn keys_are_peeked_at_given_back_and_reset(stage: &Stage) {
    for algorithm in ALGORITHMS {
        let limits = [3, 3, 3].map(|count| Limit::new(count, MINUTE).with_algorithm(algorithm));
        let subject = Subject::of(stage, &limits);
        let _clock = test_util::pause();
        assert_eq!(subject.peek((1, 2, ()), 1).unwrap().remaining(), 3);
        let decision = subject.check((1, 2, ()), 2).unwrap();
        assert_eq!(subject.peek((1, 2, ()), 1).unwrap().remaining(), 1);
        assert_eq!(subject.peek((3, 4, ()), 2).unwrap_err().limit_index(), 2);
        subject.refund(decision);
        for keys in [(1, 3, ()), (3, 2, ()), (3, 4, ())] {
            assert_eq!(subject.peek(keys, 1).unwrap().remaining(), 3, "{algorithm:?}");
        }
        assert_eq!(subject.admitted((1, 2, ()), 5), 3);
        subject.reset((1, 2, ()));
        assert_eq!(subject.admitted((1, 2, ()), 5), 3);
    }
}

pub(super) fn each_key_is_charged_whatever_it_has_left(stage: &Stage) {
    for algorithm in ALGORITHMS {
        let limits = [2, 4, 9].map(|count| Limit::new(count, MINUTE).with_algorithm(algorithm));
        let subject = Subject::of(stage, &limits);
        let _clock = test_util::pause();
        let charged = subject.charge((7, 7, ()), 1);
        assert_eq!((charged.remaining(), charged.limit_index(), charged.limit()), (1, 0, limits[0]));
        // Two permits of the user are owed, and none of the tenant.
        let charged = subject.charge((7, 7, ()), 3);
        assert_eq!((charged.remaining(), charged.limit_index()), (0, 0), "{algorithm:?}");
        assert_eq!(subject.check((8, 7, ()), 1).unwrap_err().limit_index(), 1);
        let denied = subject.check((7, 8, ()), 1).unwrap_err();
        assert_eq!(denied.limit_index(), 0);
        if algorithm == Algorithm::TokenBucket {
            assert_eq!(denied.retry_after(), Some(3 * MINUTE / 2));
        }
        assert_eq!(subject.charge((9, 9, ()), 1).remaining(), 1);
        // Five of nine are charged. Two more charges use up the limit of all.
        subject.charge((10, 10, ()), 2);
        let charged = subject.charge((11, 11, ()), 2);
        assert_eq!((charged.remaining(), charged.limit_index()), (0, 0));
        assert_eq!(subject.check((12, 12, ()), 1).unwrap_err().limit_index(), 2);
        // A charge is no decision: it gives nothing back.
        subject.refund(charged);
        assert!(subject.check((11, 12, ()), 1).is_err());
        subject.reset((7, 7, ()));
        assert_eq!(subject.admitted((7, 7, ()), 5), 2);
        let wrong = subject.limiter.charge_each((1_u8, ()), 1).unwrap_err();
        assert_eq!(wrong.kind(), BackendErrorKind::Configuration);
    }
}

pub(super) fn a_wait_for_keys_ends_when_the_last_of_them_is_due(stage: &Stage) {
    let limits = [Limit::new(1, SECOND), Limit::new(2, 3 * SECOND), Limit::new(9, MINUTE)];
    let subject = Subject::of(stage, &limits);
    let clock = test_util::pause();
    let start = clock.now();
    for expected in [0, 1, 3, 4, 6] {
        let decision = subject.limiter.wait_each((1_u8, 1_u8, ()), 1).unwrap();
        assert_eq!(clock.now().since(start), Duration::from_secs(expected));
        drop(decision);
    }
    let denied = subject.limiter.wait_each_at_most((1_u8, 1_u8, ()), 1, SECOND / 2).unwrap_err();
    assert_eq!((denied.limit_index(), denied.retry_after()), (0, Some(SECOND)));
    // A denied wait has taken nothing: of the other tenant, and of the 9 of all, 4 are left.
    assert_eq!(subject.peek((2, 2, ()), 1).unwrap().remaining(), 1);
    assert_eq!(subject.admitted((2, 2, ()), 3), 1);
    assert!(subject.limiter.wait_each((1_u8, 1_u8, ()), 2).is_err());
}

#[rate_limit(limiter = limiter, keys = (user, tenant, ()))]
fn by_attribute(limiter: &RateLimiter, user: u8, tenant: u8) -> Result<(), RateLimitExceeded> {
    Ok(())
}

#[rate_limit(limiter = limiter, keys = (user, tenant, ()))]
async fn by_attribute_async(limiter: &RateLimiter, user: u8, tenant: u8) -> Result<(), RateLimitExceeded> {
    Ok(())
}

pub(super) fn a_call_that_does_not_wait_overtakes_none_that_waits_for_one_of_its_keys(stage: &Stage) {
    for algorithm in ALGORITHMS {
        let [many, one] = [9, 1].map(|count| Limit::new(count, MINUTE).with_algorithm(algorithm));
        let subject = Subject::of(stage, &[many, many, one]);
        let clock = test_util::pause_at(UNIX_EPOCH + 30_000_000 * MINUTE);
        let told = |user: u8| {
            let denied = subject.check((user, user, ()), 1).unwrap_err();
            assert_eq!(denied.limit_index(), 2, "{algorithm:?}");
            let peeked = subject.peek((user, user, ()), 1).unwrap_err();
            let attributed = if subject.is_async {
                block_on(by_attribute_async(&subject.limiter, user, user)).unwrap_err()
            } else {
                by_attribute(&subject.limiter, user, user).unwrap_err()
            };
            assert_eq!([peeked.retry_after(), attributed.retry_after()], [denied.retry_after(); 2], "{algorithm:?}");
            denied.retry_after().unwrap()
        };
        subject.check((1, 1, ()), 1).unwrap();
        assert_eq!(told(2), MINUTE);
        let mut waits = Vec::new();
        for ahead in 1..3 {
            let mut wait = Box::pin(subject.limiter.wait_each_async((2_u8, 2_u8, ()), 1));
            // A server takes a moment to answer.
            let start = Instant::now();
            while told(3) != (ahead + 1) * MINUTE {
                assert!(poll_once(wait.as_mut()).is_pending() && start.elapsed() < 20 * SECOND, "{algorithm:?}");
            }
            waits.push(wait);
        }
        // The first is due, but not polled.
        clock.advance(MINUTE);
        assert_eq!(told(3), 2 * MINUTE, "{algorithm:?}");
        drop(waits.pop());
        assert_eq!(told(3), MINUTE, "{algorithm:?}");
        let first = block_on(waits.pop().unwrap()).unwrap();
        assert_eq!(first.waited(), MINUTE, "{algorithm:?}");
        clock.advance(MINUTE);
        assert!(subject.check((3, 3, ()), 1).is_ok(), "{algorithm:?}");
    }
}

pub(super) fn a_backoff_blocks_the_key_whose_limit_denies(stage: &Stage) {
    let limits = [Limit::new(1, SECOND), Limit::new(9, SECOND), Limit::new(99, SECOND)];
    let limiter = stage.with(&limits, |builder| builder.backoff(5 * SECOND, 20 * SECOND)).limiter;
    let subject = Subject { limiter, is_async: matches!(stage.front, Front::Async) };
    let clock = test_util::pause();
    subject.check((1, 1, ()), 1).unwrap();
    for expected in [5, 10, 20, 20] {
        let exceeded = subject.check((1, 1, ()), 1).unwrap_err();
        assert_eq!((exceeded.limit_index(), exceeded.retry_after()), (0, Some(expected * SECOND)));
    }
    // Neither the tenant nor everyone is blocked.
    assert!(subject.check((2, 1, ()), 1).is_ok());
    clock.advance(20 * SECOND);
    assert!(subject.check((1, 1, ()), 1).is_ok());
}

pub(super) fn replaced_limits_keep_their_keys(stage: &Stage) {
    let limit = |count| Limit::new(count, MINUTE);
    let subject = Subject::of(stage, &[limit(2), limit(5), limit(9)]);
    let _clock = test_util::pause();
    assert_eq!(subject.admitted((1, 1, ()), 3), 2);
    subject.limiter.set_limits(&[limit(3), limit(4), limit(9)]).unwrap();
    assert_eq!(subject.admitted((1, 1, ()), 3), 1);
    assert_eq!(subject.admitted((2, 1, ()), 3), 1);
    assert_eq!(subject.check((2, 1, ()), 1).unwrap_err().limit_index(), 1);
    // Without a limit for everyone, nobody is counted there.
    subject.limiter.set_limits(&[limit(3), limit(8)]).unwrap();
    assert_eq!(subject.admitted((3, 1, ()), 9), 3);
    // A limit beyond those written down has the last key.
    subject.limiter.set_limits(&[limit(99), limit(99), limit(99), Limit::new(6, 2 * MINUTE)]).unwrap();
    assert_eq!(subject.admitted((4, 4, ()), 9), 6);
    assert_eq!(subject.check((5, 5, ()), 1).unwrap_err().limit_index(), 3);
}

#[derive(Clone, Debug)]
enum Step {
    Check(u8, u8, u32),
    Peek(u8, u8, u32),
    Wait(u8, u8, u32, u32),
    Advance(u32),
    Refund,
    Reset(u8, u8),
}

fn limit() -> impl Strategy<Value = Limit> {
    (1_u32..=12, 1_u64..=10_000_000, proptest::sample::select(&ALGORITHMS))
        .prop_map(|(count, per, algorithm)| Limit::new(count, Duration::from_micros(per)).with_algorithm(algorithm))
}

fn step() -> impl Strategy<Value = Step> {
    let (user, tenant) = (0_u8..3, 0_u8..2);
    let cost = prop_oneof![8 => 1_u32..=3, 1 => 1_u32..=13, 1 => Just(0_u32)];
    prop_oneof![
        12 => (user.clone(), tenant.clone(), cost.clone()).prop_map(|(user, tenant, cost)| Step::Check(user, tenant, cost)),
        2 => (user.clone(), tenant.clone(), cost.clone()).prop_map(|(user, tenant, cost)| Step::Peek(user, tenant, cost)),
        2 => (user.clone(), tenant.clone(), cost, 0_u32..=2_000)
            .prop_map(|(user, tenant, cost, wait)| Step::Wait(user, tenant, cost, wait)),
        4 => (0_u32..=500).prop_map(Step::Advance),
        1 => Just(Step::Refund),
        1 => (user, tenant).prop_map(|(user, tenant)| Step::Reset(user, tenant)),
    ]
}

pub(super) fn random_calls_with_keys_are_what_full_logs_say(stage: &Stage) {
    random_calls(stage, true);
}

/// A cached denial knows when its key admits again, but nothing about the other keys.
pub(super) fn random_calls_with_keys_are_admitted_as_full_logs_say(stage: &Stage) {
    random_calls(stage, false);
}

fn random_calls(stage: &Stage, tells_the_longest: bool) {
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(60) };
    let trace = ([limit(), limit(), limit()], prop::collection::vec(step(), 1..60));
    let follow = |(limits, steps): ([Limit; 3], Vec<Step>)| follow(stage, limits, &steps, tells_the_longest);
    TestRunner::new(config).run(&trace, follow).unwrap();
}

/// One full log for each limit and key.
fn follow(stage: &Stage, limits: [Limit; 3], steps: &[Step], tells_the_longest: bool) -> Result<(), TestCaseError> {
    let subject = Subject::of(stage, &limits);
    let clock = test_util::pause();
    let thousandths =
        |of: u32| Duration::from_micros(u64::try_from(limits[0].per().as_micros() * u128::from(of) / 1_000).unwrap());
    let mut logs: HashMap<(usize, u8), Log> = HashMap::new();
    let buckets = |user: u8, tenant: u8| [(0, user), (1, tenant), (2, 0)];
    // A token bucket that has got permits back holds less than a log without those calls suggests.
    let mut exact = true;
    let mut last: Option<(Decision, Buckets, Entry)> = None;
    for step in steps {
        let now = clock.now().as_nanos();
        let (user, tenant, cost, max_wait) = match *step {
            Step::Advance(by) => {
                clock.advance(thousandths(by));
                continue;
            }
            Step::Refund => {
                if let Some((decision, of, entry)) = last.take() {
                    subject.refund(decision);
                    for bucket in of {
                        let log = logs.entry(bucket).or_default();
                        log.0.retain(|logged| logged.at != entry.at || logged.cost != entry.cost);
                    }
                    exact &= limits.iter().all(|limit| limit.algorithm() != Algorithm::TokenBucket);
                }
                continue;
            }
            Step::Reset(user, tenant) => {
                subject.reset((user, tenant, ()));
                for bucket in buckets(user, tenant) {
                    logs.remove(&bucket);
                }
                last = None;
                continue;
            }
            Step::Check(user, tenant, cost) | Step::Peek(user, tenant, cost) => (user, tenant, cost, Duration::ZERO),
            Step::Wait(user, tenant, cost, wait) => (user, tenant, cost, thousandths(wait)),
        };
        let of = buckets(user, tenant);
        let possible = cost == 0 || limits.iter().all(|limit| cost <= limit.capacity());
        let nothing = Log::default();
        let earliest = of.map(|bucket| match cost {
            0 => now,
            _ if cost > limits[bucket.0].capacity() => u64::MAX,
            _ => logs.get(&bucket).unwrap_or(&nothing).earliest(&limits[bucket.0], now, cost),
        });
        let expected = earliest.into_iter().max().unwrap();
        let keys = (user, tenant, ());
        let result = match step {
            Step::Peek(..) => subject.peek(keys, cost),
            Step::Wait(..) => subject.limiter.wait_each_at_most(keys, cost, max_wait),
            _ => subject.check(keys, cost),
        };
        match result {
            Ok(decision) => {
                prop_assert!(possible && expected - now <= nanos(max_wait), "admitted too early");
                let at = clock.now().as_nanos();
                if exact {
                    prop_assert_eq!(at, expected);
                    prop_assert_eq!(nanos(decision.waited()), at - now);
                }
                if cost > 0 && !matches!(step, Step::Peek(..)) {
                    let entry = Entry { at, cost };
                    // Neither log nor limit distinguishes two calls of one time and cost.
                    let is_twin = |bucket| {
                        let log: &Log = logs.get(&bucket).unwrap_or(&nothing);
                        log.0.iter().any(|logged| logged.at == at && logged.cost == cost)
                    };
                    let has_twin = of.into_iter().any(is_twin);
                    for bucket in of {
                        logs.entry(bucket).or_default().0.push(entry);
                    }
                    last = (!has_twin).then_some((decision, of, entry));
                }
            }
            Err(exceeded) => {
                prop_assert_ne!(exceeded.kind(), ExceededKind::BackendFailed);
                prop_assert_eq!(exceeded.kind() == ExceededKind::CostExceedsLimit, !possible);
                let after = exceeded.retry_after().map(nanos);
                if exact {
                    let told = earliest[exceeded.limit_index()];
                    prop_assert_eq!(after, possible.then(|| told - now));
                    prop_assert!(told == expected || !tells_the_longest && told > now, "not the longest");
                    prop_assert_eq!(exceeded.limit(), limits[exceeded.limit_index()]);
                }
                prop_assert!(after.is_none_or(|after| after > nanos(max_wait)));
            }
        }
    }
    Ok(())
}

pub(super) fn a_banned_or_blocked_key_takes_nothing_from_the_others(stage: &Stage) {
    let limits = [Limit::new(1, SECOND), Limit::new(20, MINUTE), Limit::new(99, MINUTE)];
    let limiter = stage.with(&limits, |builder| builder.ban(5 * SECOND)).limiter;
    let subject = Subject { limiter, is_async: matches!(stage.front, Front::Async) };
    let clock = test_util::pause();
    subject.check((1, 1, ()), 1).unwrap();
    let kind = |keys| subject.check(keys, 1).unwrap_err().kind();
    assert_eq!(kind((1, 1, ())), ExceededKind::Limited);
    for _ in 0..30 {
        assert_eq!(kind((1, 1, ())), ExceededKind::Blocked);
    }
    assert_eq!(subject.check((2, 1, ()), 1).unwrap().remaining(), 0);
    assert_eq!(subject.peek((3, 1, ()), 0).unwrap().remaining(), 1);
    assert_eq!(subject.admitted((3, 1, ()), 1), 1);
    assert_eq!(subject.limiter.set_limits(&[Limit::new(50, SECOND), limits[1], limits[2]]), Ok(()));
    // Three of the tenant's twenty are taken, and none by the calls that a ban has denied.
    assert_eq!(subject.admitted((4, 1, ()), 30), 17);

    clock.advance(MINUTE);
    subject.limiter.block(1_u8, 2 * MINUTE).unwrap();
    for _ in 0..30 {
        assert_eq!(kind((1, 2, ())), ExceededKind::Blocked);
    }
    assert_eq!(subject.admitted((5, 2, ()), 30), 20);
    subject.limiter.unblock(1_u8).unwrap();
    assert!(subject.check((1, 3, ()), 1).is_ok());
}

pub(super) fn a_call_by_several_keys_is_settled_at_each(stage: &Stage) {
    let subject = Subject::of(stage, &[Limit::new(10, MINUTE), Limit::new(50, MINUTE), Limit::new(99, MINUTE)]);
    let clock = test_util::pause();
    let settle = |decision, actual| {
        if subject.is_async {
            block_on(subject.limiter.settle_async(decision, actual)).unwrap();
        } else {
            subject.limiter.settle(decision, actual).unwrap();
        }
    };
    let left = |keys| subject.peek(keys, 0).map(|left| (left.limit_index(), left.remaining())).unwrap();
    settle(subject.check((1, 1, ()), 8).unwrap(), 3);
    assert_eq!(left((1, 1, ())), (0, 7));
    // Eight more than the user has left: the tenant's permits cover them all.
    settle(subject.check((1, 1, ()), 7).unwrap(), 15);
    assert_eq!(left((1, 1, ())), (0, 0));
    assert_eq!(left((2, 1, ())), (0, 10));
    assert_eq!(subject.check((1, 2, ()), 1).unwrap_err().limit_index(), 0);
    assert_eq!(subject.admitted((2, 1, ()), 20), 10);
    settle(subject.check((3, 1, ()), 0).unwrap(), 10);
    assert_eq!(subject.check((4, 1, ()), 10).unwrap().remaining(), 0);
    assert_eq!(subject.check((5, 1, ()), 3).unwrap_err().limit_index(), 1);
    clock.advance(2 * MINUTE);
    assert!(subject.check((1, 1, ()), 10).is_ok());
}

pub(super) fn a_debt_of_days_is_told_beside_other_keys(stage: &Stage) {
    let day = Limit::per_calendar(10, Calendar::DAY.in_zone("Europe/Berlin"));
    let subject = Subject::of(stage, &[day, Limit::new(20, MINUTE), Limit::new(85, 24 * 60 * MINUTE)]);
    let clock = test_util::pause();
    let decision = subject.check((1, 1, ()), 1).unwrap();
    subject.limiter.settle(decision, 75).unwrap();
    for _ in 0..9 {
        let exceeded = subject.check((1, 2, ()), 1).unwrap_err();
        assert_eq!((exceeded.limit_index(), exceeded.kind()), (0, ExceededKind::Limited));
        assert!(exceeded.retry_after().unwrap() > 5 * 24 * 60 * MINUTE);
    }
    // The tenant's debt is paid, and the denied calls have taken nothing.
    clock.advance(16 * MINUTE);
    assert_eq!(subject.admitted((2, 1, ()), 30), 10);
    assert_eq!(subject.check((3, 3, ()), 1).unwrap_err().limit_index(), 2);
}
