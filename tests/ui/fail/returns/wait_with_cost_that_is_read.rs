use ratelimit_runtime::rate_limit;

#[rate_limit(count = 10, per = "1s", wait, cost = cost)]
fn call(cost: u32) {
    let _ = cost;
}

fn main() {}
