//! `settle` and `permit`: calls that take what they really cost.

use std::pin::Pin;
use std::sync::mpsc;

use crate::{Limited, admitted_of_five, admitted_of_five_async};
use ratelimit_runtime::{CallPermit, RateLimitExceeded, rate_limit, test_util};

#[rate_limit(count = 6, per = "1h", cost = 3, settle = |outcome| outcome.as_ref().map_or(0, |took| *took))]
fn question(tokens: &str) -> Result<u32, Box<dyn std::error::Error>> {
    if tokens.is_empty() {
        return Err("nothing".into());
    }
    let number: u32 = tokens.parse()?;
    Ok(number)
}

#[test]
fn a_call_takes_what_its_outcome_says() {
    assert_eq!(admitted_of_five(|| question("1")), 4);
    let _clock = test_util::pause();
    assert!((0..9).all(|_| question("").is_err_and(|error| !error.is::<RateLimitExceeded>())));
    assert!(question("60").is_ok());
    assert!(question("1").unwrap_err().is::<RateLimitExceeded>());
}

const fn all(_: &Limited<u32>) -> u32 {
    6
}

#[rate_limit(count = 6, per = "1h", cost = 0, settle = all, settle_later)]
fn by_path() -> Limited<u32> {
    Ok(1)
}

#[test]
fn a_call_of_cost_0_is_settled() {
    let _clock = test_util::pause();
    assert!(by_path().is_ok());
    assert!(by_path().is_ok(), "it takes nothing before it is settled");
}

type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

struct Model {
    name: String,
}

impl Model {
    #[rate_limit(count = 6, per = "1h", key = self.name, cost = 3, settle = tokens)]
    async fn ask(&mut self, question: String) -> Limited<impl Iterator<Item = u32>> {
        self.name.push('!');
        std::future::ready(()).await;
        Ok(question.into_bytes().into_iter().map(u32::from))
    }

    #[rate_limit(count = 6, per = "1h", cost = 3, permit = reserved, exempt_when = free)]
    fn stream(&self, free: bool) -> BoxFuture<'_, Limited<(&str, CallPermit)>> {
        Box::pin(async move { Ok((self.name.as_str(), reserved)) })
    }
}

fn tokens<T>(outcome: &Limited<T>) -> u32 {
    u32::from(outcome.is_ok())
}

#[tokio::test]
async fn methods_are_settled() {
    let mut model = Model { name: "a".to_owned() };
    assert_eq!(model.ask("b".to_owned()).await.unwrap().sum::<u32>(), 98);
    assert_eq!(model.name, "a!");
    assert_eq!(
        admitted_of_five_async(|| async { model.stream(true).await.map(|(_, permit)| permit.settle(9)) }).await,
        5
    );
    assert_eq!(
        admitted_of_five_async(|| async { model.stream(false).await.map(|(_, permit)| permit.settle(2)) }).await,
        2
    );
}

#[rate_limit(count = 6, per = "1h", cost = 3, permit = reserved)]
fn in_a_closure<const N: usize>(sender: &mpsc::Sender<Box<dyn FnOnce() + Send>>) -> Option<[u32; N]> {
    let settle = move || reserved.settle(1).unwrap();
    sender.send(Box::new(settle)).ok()?;
    Some([1; N])
}

#[test]
fn a_permit_moves_into_closures() {
    let _clock = test_util::pause();
    let (sender, receiver) = mpsc::channel();
    assert_eq!(in_a_closure::<2>(&sender), Some([1, 1]));
    receiver.recv().unwrap()();
    assert_eq!(in_a_closure::<1>(&sender), Some([1]));
    assert_eq!(in_a_closure::<1>(&sender), None, "the second call still holds three");
    receiver.recv().unwrap()();
    assert_eq!(in_a_closure::<1>(&sender), Some([1]));
}

#[rate_limit(count = 6, per = "1h", cost = 3, permit = reserved, wait)]
fn waits() -> u32 {
    drop(reserved);
    1
}

#[rate_limit(count = 6, per = "1h", cost = 3, settle = |_| 1, or_else = |_| "denied")]
async fn page() -> impl AsRef<str> + Send {
    std::future::ready("admitted").await
}

#[tokio::test]
async fn other_returns_are_settled() {
    let _clock = test_util::pause();
    assert_eq!(waits() + waits(), 2);
    for expected in ["admitted", "admitted", "admitted", "admitted", "denied"] {
        assert_eq!(page().await.as_ref(), expected);
    }
}
