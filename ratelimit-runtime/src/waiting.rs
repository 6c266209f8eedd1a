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

/// Sleeps on the timer of the current tokio runtime, or of a thread of this crate if there is none.
#[cfg(feature = "tokio")]
pub(crate) async fn sleep_async(delay: Duration) {
    use tokio::runtime::Handle;

    if Handle::try_current().is_ok() {
        tokio::time::sleep(delay).await;
        return;
    }
    match crate::rt::background::handle() {
        Ok(timer) => {
            // The task ends by itself or with its runtime, which lives as long as the process.
            let _ = timer.spawn(async move { tokio::time::sleep(delay).await }).await;
        }
        Err(_) => sleep(delay),
    }
}

/// Without the feature `tokio`, no call can wait in a future: the attribute rejects it and the
/// methods are absent.
#[cfg(not(feature = "tokio"))]
#[expect(clippy::unused_async, reason = "stands for the one that awaits")]
pub(crate) async fn sleep_async(delay: Duration) {
    sleep(delay);
}
