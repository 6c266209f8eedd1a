//! What configuration can switch: limits that are tried, a dry run, a limiter that is off.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use once_cell::sync::OnceCell;
use parking_lot::Mutex;

use super::{Core, Each};
use crate::backend::memory::Leaves;
use crate::error::Name;
use crate::limit::Limit;
use crate::limiter;
use crate::limiter::fast;
use crate::limiter::spec::{BackendChoice, Options, Reads, Resolved};
use crate::switches::{Switch, Switches};

/// Settings that may change while calls are under way.
pub(super) struct Modes {
    /// Calls are decided and counted, but not denied.
    dry_run: AtomicBool,
    /// Whether calls take neither the fast path nor the next one: the limiter is off, or it tries
    /// limits.
    is_special: AtomicBool,
    /// All calls are admitted, and not counted.
    is_off: AtomicBool,
    /// As `is_off`, for a part without limits after limits were replaced.
    is_empty: AtomicBool,
    /// Limits that are tried: they decide and count each call, and deny none.
    tried: Mutex<Option<Arc<Tried>>>,
}

impl Modes {
    pub(super) fn new(dry_run: bool) -> Modes {
        Modes {
            dry_run: AtomicBool::new(dry_run),
            is_special: AtomicBool::new(false),
            is_off: AtomicBool::new(false),
            is_empty: AtomicBool::new(false),
            tried: Mutex::new(None),
        }
    }
}

/// A limiter's settings from configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    /// The limits that apply; `None` for those written down.
    pub(crate) limits: Option<Vec<Limit>>,
    /// Limits that decide and count each call, and deny none, with their positions.
    pub(crate) tried: Vec<(u8, Limit)>,
    /// Whether calls are only counted; `None` as written.
    pub(crate) dry_run: Option<bool>,
    /// Whether calls are limited at all.
    pub(crate) enabled: bool,
}

/// Limits that are tried.
pub(crate) struct Tried {
    limits: Vec<(u8, Limit)>,
    /// Made at the first call.
    core: OnceCell<Arc<Core>>,
}

impl Settings {
    pub(crate) const AS_WRITTEN: Settings = Settings { limits: None, tried: Vec::new(), dry_run: None, enabled: true };
}

impl Core {
    /// Whether calls are only counted and never denied.
    #[inline]
    pub(crate) fn dry_run(&self) -> bool {
        self.modes.dry_run.load(Ordering::Relaxed)
    }

    /// Whether calls are admitted at once and not counted: all limits of the process are off, this
    /// limiter is, or it is a part without limits.
    pub(in super::super) fn is_off(&self, switches: Switches) -> bool {
        switches.has(Switch::Disabled) || !self.is_enabled() || self.is_empty()
    }

    /// Whether it is a part without limits after limits were replaced.
    pub(in super::super) fn is_empty(&self) -> bool {
        self.modes.is_empty.load(Ordering::Acquire)
    }

    pub(super) fn set_empty(&self, is_empty: bool) {
        self.modes.is_empty.store(is_empty, Ordering::Release);
    }

    /// Whether the limiter is on; see [`Settings::enabled`].
    pub(crate) fn is_enabled(&self) -> bool {
        !self.modes.is_off.load(Ordering::Relaxed)
    }

    /// Whether calls must be [started](super::Call::start) to be decided.
    #[inline]
    pub(in super::super) fn is_special(&self) -> bool {
        self.modes.is_special.load(Ordering::Relaxed)
    }

    /// The limits that are tried, as a limiter of their own.
    pub(in super::super) fn tried(&self) -> Option<Arc<Core>> {
        let tried = if self.is_special() { self.modes.tried.lock().clone() } else { None }?;
        Some(Arc::clone(tried.core.get_or_init(|| Core::new(self.trying(&tried.limits), fast::ANY))))
    }

    /// Applies settings whose limits are already checked. The caller must then wake waiting calls,
    /// and drop the result, both without holding a lock.
    pub(crate) fn configure(&self, settings: &Settings) -> Option<Arc<Tried>> {
        match &settings.limits {
            Some(limits) => self.replace_limits(limits),
            None if self.rules.are_replaced() => {
                self.replace_limits(&self.rules.seen_limits());
            }
            None => {}
        }
        let before = self.modes.tried.lock().clone();
        let tried = if settings.tried.is_empty() {
            None
        } else if let Some(before) = before.filter(|before| before.limits == settings.tried) {
            Some(before)
        } else {
            Some(Arc::new(Tried { limits: settings.tried.clone(), core: OnceCell::new() }))
        };
        let is_special = tried.is_some() || !settings.enabled;
        self.modes.dry_run.store(settings.dry_run.unwrap_or(self.options.dry_run), Ordering::Relaxed);
        self.modes.is_off.store(!settings.enabled, Ordering::Relaxed);
        for part in self.made_each().into_iter().flat_map(Each::cores) {
            part.follow(self);
        }
        let before = std::mem::replace(&mut *self.modes.tried.lock(), tried);
        if is_special {
            limiter::open_elsewhere();
        }
        self.modes.is_special.store(is_special, Ordering::Release);
        if is_special {
            self.stores.leave_fast_path();
        }
        before
    }

    /// Copies the whole limiter's settings to a part.
    pub(super) fn follow(&self, whole: &Core) {
        self.modes.dry_run.store(whole.dry_run(), Ordering::Relaxed);
        self.modes.is_off.store(!whole.is_enabled(), Ordering::Relaxed);
    }

    /// A limiter that tries these limits in this process's memory. Each has the key of its position.
    fn trying(&self, tried: &[(u8, Limit)]) -> Resolved {
        // Limits that are tried no longer leave their buckets behind.
        drop(Leaves);
        Resolved {
            name: Name::Shared(format!("{} (dry run)", self.name()).into()),
            named: true,
            groups: tried.iter().map(|(position, _)| self.group_of(usize::from(*position))).collect(),
            limits: tried.iter().map(|(_, limit)| *limit).collect(),
            reads: Reads::NONE,
            options: Options {
                backend: BackendChoice::Memory,
                dry_run: true,
                backoff: None,
                location: self.options.location,
                ..self.options
            },
            backend: None,
        }
    }
}
