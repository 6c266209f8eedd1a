use ratelimit_runtime::rate_limit;

// Through a backend, a call waits for other keys a few times only.
#[rate_limit(limit(count = 1, per = "1s", key = user), limit(count = 9, per = "1s"), wait)]
fn call(user: u32) -> u32 {
    user
}

fn main() {}
