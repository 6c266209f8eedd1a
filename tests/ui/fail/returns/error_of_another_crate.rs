use ratelimit_runtime::rate_limit;

#[rate_limit(count = 1, per = "1s")]
fn read() -> Result<u32, std::num::ParseIntError> {
    "1".parse()
}

#[rate_limit(count = 1, per = "1s", or_else = |exceeded| Err(std::fmt::Error).inspect_err(|_| drop(exceeded)))]
fn write() -> Result<u32, std::fmt::Error> {
    Ok(1)
}

fn main() {
    let _ = (read(), write());
}
