use ratelimit_runtime::{RateLimitExceeded, rate_limit};

#[rate_limit(count = 10, per = "1s")]
async fn call(user: std::rc::Rc<str>) -> Result<usize, RateLimitExceeded> {
    std::future::ready(()).await;
    Ok(user.len())
}

fn is_send(_: impl Send) {}

fn calls() {
    is_send(call("alice".into()));
}

fn main() {}
