use ratelimit_runtime::rate_limit;

#[rate_limit(limit(count = 1, per = "1s", key = user), limit(count = 9, per = "1s"), wait)]
fn call(user: u32) {
    let _ = user;
}

fn main() {}
