use memoize::memoize;
use ratelimit_runtime::rate_limit;

#[memoize]
#[rate_limit(count = 1, per = "1s")]
fn find(user: u32) -> Option<u32> {
    Some(user)
}

fn main() {
    find(1);
}
