//! A reentrancy guard: decisions made inside a report are not reported.
//!
//! A subscriber or a recorder may call limited functions, for example to throttle a log. Reporting
//! their denials as well would never end.

use std::cell::Cell;

thread_local! {
    /// Has no destructor, so that calls in destructors of other thread-locals find it.
    static REPORTING: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread is inside a report.
#[cfg(feature = "tracing")]
#[inline]
pub(super) fn is_reporting() -> bool {
    REPORTING.get()
}

/// Runs foreign code, unless this thread is already inside a report.
#[inline]
pub(super) fn report<R>(f: impl FnOnce() -> R) -> Option<R> {
    struct End;

    impl Drop for End {
        fn drop(&mut self) {
            REPORTING.set(false);
        }
    }

    if REPORTING.replace(true) {
        return None;
    }
    let _end = End;
    Some(f())
}
