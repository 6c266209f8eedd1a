use ratelimit_runtime::{RateLimitExceeded, rate_limit};

const DAY: u8 = 32;

mod billing {
    pub const DAY: u8 = 0;
}

#[rate_limit(count = 5, calendar = "day", zone = "Europe/Berlim", algorithm = fixed_window)]
fn zone_that_does_not_exist() -> Result<(), RateLimitExceeded> {
    Ok(())
}

#[rate_limit(count = 5, calendar = "month", starts_on = crate::billing::DAY, algorithm = fixed_window)]
fn starts_on_day_0() -> Result<(), RateLimitExceeded> {
    Ok(())
}

#[rate_limit(count = 5, calendar = "month", starts_on = day, algorithm = fixed_window)]
fn starts_on_a_large_number(day: u32) -> Result<(), RateLimitExceeded> {
    Ok(())
}

fn main() {
    let _ = DAY;
}
