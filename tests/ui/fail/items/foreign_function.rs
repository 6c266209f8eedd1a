use ratelimit_runtime::rate_limit;

unsafe extern "C" {
    #[rate_limit(count = 10, per = "1s")]
    fn call() -> i32;
}

fn main() {}
