use ratelimit_runtime::rate_limit;

#[rate_limit(count = 1, per = "1s", docs = "none")]
fn text(user: u32) -> Option<u32> {
    Some(user)
}

#[rate_limit(count = 1, per = "1s", docs)]
fn flag(user: u32) -> Option<u32> {
    Some(user)
}

fn main() {
    text(1);
    flag(1);
}
