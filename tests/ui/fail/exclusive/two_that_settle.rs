use ratelimit_runtime::{RateLimitExceeded, rate_limit};

type Limited = Result<u32, RateLimitExceeded>;

#[rate_limit(count = 10, per = "1s", settle = |_| 1, deduct_when = |_| true)]
fn settled_and_deducted() -> Limited {
    Ok(1)
}

#[rate_limit(count = 10, per = "1s", permit = reserved, settle = |_| 1)]
fn settled_twice() -> Limited {
    Ok(1)
}

#[rate_limit(count = 10, per = "1s", deduct_when = |_| true, permit = reserved)]
fn permitted_and_deducted() -> Limited {
    Ok(1)
}

#[rate_limit(count = 10, per = "1s", settle_later)]
fn nothing_later() -> Limited {
    Ok(1)
}

#[rate_limit(count = 10, per = "1s", permit = reserved, settle_later)]
fn permitted_later() -> Limited {
    drop(reserved);
    Ok(1)
}

#[track_caller]
#[rate_limit(count = 10, per = "1s", settle = |_| 1)]
fn called_from() -> Limited {
    Ok(std::panic::Location::caller().line())
}

#[rate_limit(count = 10, per = "1s", settle = |_| 1, or_else = |_| panic!())]
fn without_an_outcome() -> ! {
    loop {}
}

fn main() {}
