use ratelimit_runtime::{RateLimitExceeded, rate_limit};

type Limited = Result<u32, RateLimitExceeded>;

#[rate_limit(count = 10, per = "1s", permit = "reserved")]
fn text() -> Limited {
    Ok(1)
}

#[rate_limit(count = 10, per = "1s", permit = self::reserved)]
fn path() -> Limited {
    Ok(1)
}

#[rate_limit(count = 10, per = "1s", permit = reserved(1))]
fn call() -> Limited {
    Ok(1)
}

#[rate_limit(count = 10, per = "1s", permit = _)]
fn nothing() -> Limited {
    Ok(1)
}

#[rate_limit(count = 10, per = "1s", permit)]
fn missing() -> Limited {
    Ok(1)
}

#[rate_limit(count = 10, per = "1s", permit = tokens)]
fn argument((tokens, _): (u32, u32)) -> Limited {
    Ok(tokens)
}

struct Model;

impl Model {
    #[rate_limit(count = 10, per = "1s", permit = self)]
    fn receiver(&self) -> Limited {
        Ok(1)
    }
}

#[rate_limit(count = 10, per = "1s", settle = |_| 1, settle_later = true)]
fn flag() -> Limited {
    Ok(1)
}

fn main() {}
