//! Process-wide switches, one word that every decision loads: all off on the usual path.

use std::sync::atomic::{AtomicU8, Ordering};

static SWITCHES: AtomicU8 = AtomicU8::new(0);

/// Something that takes a decision off the usual path.
#[derive(Clone, Copy, Debug)]
#[repr(u8)]
pub(crate) enum Switch {
    /// Limits are off: every call is admitted.
    Disabled = 1,
    /// A default backend was set.
    DefaultBackend = 2,
    /// A test has a clock and buckets of its own.
    #[cfg(feature = "test-util")]
    Test = 4,
    /// Some requests' decisions are written down, to be told to clients.
    #[cfg(any(feature = "tower", feature = "actix-web"))]
    Noted = 64,
}

/// The switches that are on.
#[derive(Clone, Copy)]
pub(crate) struct Switches(u8);

impl Switches {
    /// All are off.
    pub(crate) const OFF: Switches = Switches(0);

    #[inline]
    pub(crate) fn load() -> Switches {
        Switches(SWITCHES.load(Ordering::Relaxed))
    }

    /// Whether all are off.
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
        SWITCHES.fetch_or(switch as u8, Ordering::Relaxed);
    } else {
        SWITCHES.fetch_and(!(switch as u8), Ordering::Relaxed);
    }
}

/// Turns all limits of this process off (`false`) and on again (`true`): a kill switch for operators.
///
/// While off, every call is admitted at once, nothing is charged, counted or sent to a backend. Takes effect on calls that
/// begin afterwards; costs a call one relaxed load, which it makes anyway.
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
