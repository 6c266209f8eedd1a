use ratelimit_runtime::rate_limit;

#[rate_limit(count = 1, per = "1s", wait = "1s")]
fn call(user: u32) {
    let _ = user;
}

fn main() {}
