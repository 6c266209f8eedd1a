use ratelimit_runtime::rate_limit;

#[derive(Debug)]
struct Fault;

#[rate_limit(count = 1, per = "1s")]
fn call() -> Result<u32, Fault> {
    Err(Fault)
}

fn main() {}
