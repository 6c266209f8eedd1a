//! Process-wide switches in one word, which every decision loads. All are off on the fast path.

use std::sync::atomic::{AtomicU8, Ordering};

use crate::limiter;

static SWITCHES: AtomicU8 = AtomicU8::new(0);

/// Takes decisions off the fast path.
#[derive(Clone, Copy, Debug)]
#[repr(u8)]
pub(crate) enum Switch {
    /// Limits are off: every call is admitted.
    Disabled = 1,
    /// A default backend was set.
    DefaultBackend = 2,
    /// A test has its own clock and buckets.
    #[cfg(feature = "test-util")]
    Test = 4,
    /// Some requests record their decisions for response headers.
    #[cfg(any(feature = "tower", feature = "actix-web"))]
    ResponseContext = 64,
}

/// A loaded set of switches.
#[derive(Clone, Copy)]
pub(crate) struct Switches(u8);

impl Switches {
    /// No switch is on.
    pub(crate) const OFF: Switches = Switches(0);

    #[inline]
    pub(crate) fn load() -> Switches {
        Switches(SWITCHES.load(Ordering::Relaxed))
    }

    /// Whether no switch is on.
    #[inline]
    pub(crate) fn are_off(self) -> bool {
        self.0 == 0
    }

    #[inline]
    pub(crate) fn has(self, switch: Switch) -> bool {
        self.0 & switch as u8 != 0
    }
}

pub(crate) fn turn(switch: Switch, on: bool) {
    if on {
        limiter::open_elsewhere();
        // A call that sees the switch also sees what was set before it.
        SWITCHES.fetch_or(switch as u8, Ordering::Release);
    } else {
        SWITCHES.fetch_and(!(switch as u8), Ordering::Relaxed);
    }
}

/// Turns all limits of this process off (`false`) or on again (`true`): a kill switch for
/// operators.
///
/// While limits are off, every call is admitted at once. Nothing is charged, counted or sent to a
/// backend. Takes effect on calls that begin afterwards. A call pays only the relaxed load that it
/// makes anyway.
///
/// ```
/// use ratelimit_runtime::{is_enabled, rate_limit, set_enabled};
///
/// #[rate_limit(count = 1, per = "1h")]
/// fn send() -> Option<()> { Some(()) }
///
/// set_enabled(false);
/// assert_eq!([send(), send()], [Some(()), Some(())]);
/// set_enabled(true);
/// assert!(is_enabled());
/// assert_eq!([send(), send()], [Some(()), None]);
/// ```
pub fn set_enabled(enabled: bool) {
    turn(Switch::Disabled, !enabled);
    if !enabled {
        for core in crate::registry::all() {
            core.wake_waiters();
        }
    }
}

/// Whether limits are on; see [`set_enabled`].
pub fn is_enabled() -> bool {
    !Switches::load().has(Switch::Disabled)
}
