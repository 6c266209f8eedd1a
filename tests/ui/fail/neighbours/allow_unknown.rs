use ratelimit_runtime::rate_limit;

#[rate_limit(count = 1, per = "1s", allow(throws, cached))]
fn find(user: u32) -> Option<u32> {
    Some(user)
}

#[rate_limit(count = 1, per = "1s", allow("throws"))]
fn text(user: u32) -> Option<u32> {
    Some(user)
}

#[rate_limit(count = 1, per = "1s", allow = throws)]
fn value(user: u32) -> Option<u32> {
    Some(user)
}

fn main() {
    find(1);
    text(1);
    value(1);
}
