use ratelimit_runtime::rate_limit;

#[rate_limit(count = user, per = "1s", wait)]
fn call(user: u32) -> u32 {
    user
}

fn main() {}
