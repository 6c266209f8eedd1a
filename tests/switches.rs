//! Switches for the whole process: in a binary of its own, because they concern every test around.

use std::time::Duration;

use ratelimit_runtime::{
    DefaultBackendAlreadySet, Limit, MemoryBackend, RateLimiter, is_enabled, limiters, set_default_backend,
    set_enabled, test_util,
};

static LIMITER: RateLimiter = RateLimiter::new("switched", &[Limit::new(1, Duration::from_secs(3_600))]);

#[test]
fn switches_of_the_process() {
    limits_can_be_turned_off_and_on();
    everything_can_be_reset();
    a_default_backend_is_set_once_and_applies_to_limiters_in_use();
}

fn limits_can_be_turned_off_and_on() {
    assert!(is_enabled());
    LIMITER.check("a", 1).unwrap();
    set_enabled(false);
    assert!((0..10).all(|_| LIMITER.check("a", 1).is_ok()));
    assert!((0..10).all(|_| LIMITER.check("b", u32::MAX).is_ok()));
    set_enabled(true);
    assert!(LIMITER.check("a", 1).is_err());
    assert!(LIMITER.check("b", 1).is_ok(), "nothing was charged meanwhile");
    let listed = limiters().into_iter().find(|limiter| limiter.name == "switched").unwrap();
    assert_eq!((listed.allowed, listed.denied), (2, 1), "nothing was counted meanwhile");
}

fn everything_can_be_reset() {
    LIMITER.check((), 1).unwrap();
    assert!(LIMITER.check((), 1).is_err());
    test_util::reset();
    assert!(LIMITER.check("a", 1).is_ok());
    assert!(LIMITER.check((), 1).is_ok());
}

fn a_default_backend_is_set_once_and_applies_to_limiters_in_use() {
    let memory = MemoryBackend::new();
    set_default_backend(memory.clone()).unwrap();
    assert_eq!(set_default_backend(MemoryBackend::new()), Err(DefaultBackendAlreadySet));
    assert!(LIMITER.check("a", 1).is_ok());
    assert_eq!(memory.tracked_keys(), 1);
}
