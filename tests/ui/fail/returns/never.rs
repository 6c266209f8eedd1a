use ratelimit_runtime::rate_limit;

#[rate_limit(count = 10, per = "1s")]
fn call() -> ! {
    loop {}
}

fn main() {}
