//! Sleeps until booked permits are due, for calls that book for themselves. These are calls in a
//! runtime whose clock is paused, and calls for which no thread can be started to ask a backend.

use std::time::Duration;

/// Blocks the thread.
#[cfg(not(all(target_family = "wasm", target_os = "unknown")))]
pub(crate) fn sleep(delay: Duration) {
    std::thread::sleep(delay);
}

/// Blocks the thread by spinning: a thread cannot sleep on this target.
#[cfg(all(target_family = "wasm", target_os = "unknown"))]
pub(crate) fn sleep(delay: Duration) {
    let due = crate::rt::clock::now().saturating_add(crate::rt::clock::nanos(delay));
    while crate::rt::clock::now() < due {
        std::hint::spin_loop();
    }
}

/// Sleeps on tokio's timer if a test has paused it, else on this crate's, because a runtime may
/// have no timer.
#[cfg(feature = "tokio")]
pub(crate) async fn sleep_async(delay: Duration) {
    use crate::rt::{clock, timer};

    if clock::is_paused() {
        tokio::time::sleep(delay).await;
        return;
    }
    // Longer than any block.
    let longest = Duration::from_secs(366 * 86_400);
    let start = std::time::Instant::now();
    let never = std::future::pending::<()>();
    if timer::bounded(never, start + delay.min(longest)).await.is_none() && start.elapsed() < delay.min(longest) {
        // There is no thread for the timer.
        sleep(delay.saturating_sub(start.elapsed()));
    }
}

/// Without the feature `tokio`, no call can wait in a future: the attribute rejects it and the
/// methods are absent.
#[cfg(not(feature = "tokio"))]
#[expect(clippy::unused_async, reason = "stands for the one that awaits")]
pub(crate) async fn sleep_async(delay: Duration) {
    sleep(delay);
}
