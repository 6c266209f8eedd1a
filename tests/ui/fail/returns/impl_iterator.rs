use ratelimit_runtime::rate_limit;

#[rate_limit(count = 1, per = "1s")]
fn call(user: u32) -> impl Iterator<Item = u32> {
    0..user
}

fn main() {}
