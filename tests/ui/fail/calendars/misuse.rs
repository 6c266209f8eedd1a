use ratelimit_runtime::{RateLimitExceeded, rate_limit};

#[rate_limit(count = 5, per = "1d", calendar = "day", algorithm = fixed_window)]
fn beside_per() -> Result<(), RateLimitExceeded> {
    Ok(())
}

#[rate_limit(count = 5, calendar = "day")]
fn without_fixed_window() -> Result<(), RateLimitExceeded> {
    Ok(())
}

#[rate_limit(count = 5, calendar = "day", algorithm = token_bucket)]
fn with_another_algorithm() -> Result<(), RateLimitExceeded> {
    Ok(())
}

#[rate_limit(count = 5, calendar = "day", algorithm = fixed_window, burst = 10)]
fn with_burst() -> Result<(), RateLimitExceeded> {
    Ok(())
}

#[rate_limit(calendar = "day", algorithm = fixed_window)]
fn without_count() -> Result<(), RateLimitExceeded> {
    Ok(())
}

#[rate_limit(count = 5, calendar = "hour", algorithm = fixed_window)]
fn of_hours() -> Result<(), RateLimitExceeded> {
    Ok(())
}

#[rate_limit(count = 5, calendar = "1h", algorithm = fixed_window)]
fn of_an_hour() -> Result<(), RateLimitExceeded> {
    Ok(())
}

#[rate_limit(count = 5, calendar = "mnth", algorithm = fixed_window)]
fn of_a_month_misspelled() -> Result<(), RateLimitExceeded> {
    Ok(())
}

#[rate_limit(count = 5, calendar = month, algorithm = fixed_window)]
fn without_quotes() -> Result<(), RateLimitExceeded> {
    Ok(())
}

#[rate_limit(count = 5, per = "1d", zone = "Europe/Berlin", algorithm = fixed_window)]
fn zone_alone() -> Result<(), RateLimitExceeded> {
    Ok(())
}

#[rate_limit(count = 5, calendar = "day", zone = "+02:00", algorithm = fixed_window)]
fn zone_by_offset() -> Result<(), RateLimitExceeded> {
    Ok(())
}

#[rate_limit(count = 5, calendar = "day", zone = "Central Europe", algorithm = fixed_window)]
fn zone_in_words() -> Result<(), RateLimitExceeded> {
    Ok(())
}

#[rate_limit(count = 5, calendar = "day", zone = ZONE, algorithm = fixed_window)]
fn zone_by_name() -> Result<(), RateLimitExceeded> {
    Ok(())
}

#[rate_limit(count = 5, calendar = "month", week_starts = sunday, algorithm = fixed_window)]
fn week_starts_in_a_month() -> Result<(), RateLimitExceeded> {
    Ok(())
}

#[rate_limit(count = 5, calendar = "week", week_starts = "sunday", algorithm = fixed_window)]
fn week_starts_in_quotes() -> Result<(), RateLimitExceeded> {
    Ok(())
}

#[rate_limit(count = 5, calendar = "week", week_starts = sundae, algorithm = fixed_window)]
fn week_starts_misspelled() -> Result<(), RateLimitExceeded> {
    Ok(())
}

#[rate_limit(count = 5, calendar = "year", starts_on = 15, algorithm = fixed_window)]
fn starts_on_in_a_year() -> Result<(), RateLimitExceeded> {
    Ok(())
}

#[rate_limit(count = 5, calendar = "month", starts_on = 32, algorithm = fixed_window)]
fn starts_on_32() -> Result<(), RateLimitExceeded> {
    Ok(())
}

#[rate_limit(count = 5, calendar = "month", starts_on = "15", algorithm = fixed_window)]
fn starts_on_in_quotes() -> Result<(), RateLimitExceeded> {
    Ok(())
}

#[rate_limit(limit(count = 5, calendar = "day", algorithm = fixed_window, starts_on = 2), calendar = "week")]
fn in_a_limit() -> Result<(), RateLimitExceeded> {
    Ok(())
}

fn main() {}
