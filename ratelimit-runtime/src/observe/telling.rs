//! Whether this thread is telling somebody of a decision: what is decided inside of that is not told again.
//!
//! A subscriber or a recorder may call limited functions (to throttle a log, say). If their denials were told as well, the
//! first would never end.

use std::cell::Cell;

thread_local! {
    /// Without a destructor, so that calls in other thread-locals' destructors find it.
    static TELLING: Cell<bool> = const { Cell::new(false) };
}

/// Whether what is decided now goes untold.
#[cfg(feature = "tracing")]
#[inline]
pub(super) fn is_telling() -> bool {
    TELLING.get()
}

/// Runs what calls somebody else's code, unless this thread is inside of such a call already.
#[inline]
pub(super) fn tell<R>(f: impl FnOnce() -> R) -> Option<R> {
    struct End;

    impl Drop for End {
        fn drop(&mut self) {
            TELLING.set(false);
        }
    }

    if TELLING.replace(true) {
        return None;
    }
    let _end = End;
    Some(f())
}
