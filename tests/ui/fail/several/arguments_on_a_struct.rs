use ratelimit_runtime::rate_limit;

#[rate_limit(cout = 10, per = "1s")]
struct Call;

fn main() {}
