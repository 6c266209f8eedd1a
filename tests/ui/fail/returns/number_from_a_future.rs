use ratelimit_runtime::rate_limit;

#[rate_limit(count = 1, per = "1s")]
fn call(user: u32) -> impl Future<Output = u32> {
    async move { user }
}

fn main() {}
