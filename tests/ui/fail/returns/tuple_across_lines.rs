use ratelimit_runtime::rate_limit;

#[rate_limit(count = 1, per = "1s")]
fn call(user: u32) -> (
    u32,
    String,
) {
    (user, String::new())
}

fn main() {}
