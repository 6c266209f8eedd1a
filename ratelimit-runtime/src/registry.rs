//! The rate limiters that this process has used.

use std::collections::BTreeMap;
use std::panic::Location;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::{Mutex, MutexGuard};

use crate::error::Name;
use crate::limit::Limit;
use crate::limiter::{Core, InvalidLimiter, Settings};
use crate::observe;

/// One lock for both, so that limits set during a limiter's first use reach it.
static REGISTRY: Mutex<Registry> = Mutex::new(Registry {
    limiters: Vec::new(),
    gone: 0,
    replaced: BTreeMap::new(),
    replace: None,
    #[cfg(feature = "configuration")]
    configured: Vec::new(),
});

/// Whether any two limiters were ever given the same name. Blocks then look for the others.
static HAS_NAMESAKES: AtomicBool = AtomicBool::new(false);

struct Registry {
    limiters: Vec<Listed>,
    /// How many of `limiters` are dropped.
    gone: usize,
    /// Settings by name, for limiters that are first used later.
    replaced: BTreeMap<String, Replaced>,
    /// [`Registry::replace_settings`], which only programs that replace settings contain.
    replace: Option<fn(&mut Registry, &Core)>,
    /// The names in the last document of settings.
    #[cfg(feature = "configuration")]
    configured: Vec<String>,
}

impl Registry {
    /// The limiters that are not dropped. Drop the result without the lock: a last handle takes it.
    fn alive(&self) -> Vec<Arc<Core>> {
        self.limiters.iter().filter_map(|listed| listed.core.upgrade()).collect()
    }

    /// Applies the settings for the name of a limiter that nothing has called yet, so that no call
    /// waits.
    fn replace_settings(&mut self, core: &Core) {
        if let Some(replaced) = self.replaced.get_mut(core.name()) {
            replaced.is_used = true;
            let _nothing_tried_before = core.configure(&replaced.settings);
        }
    }
}

/// A limiter, and what is compared with others'.
struct Listed {
    core: Weak<Core>,
    name: Name,
    is_named: bool,
    location: Option<&'static Location<'static>>,
}

impl Listed {
    fn of(core: &Arc<Core>) -> Listed {
        let (name, location) = (core.shared_name(), core.options().location);
        Listed { core: Arc::downgrade(core), name, is_named: core.is_named(), location }
    }

    fn is_alive(&self) -> bool {
        self.core.strong_count() > 0
    }

    /// Whether both were given the same name.
    fn is_namesake(&self, other: &Listed) -> bool {
        self.is_named && other.is_named && self.name.as_str() == other.name.as_str()
    }

    /// Whether both have the same name and source location.
    fn is_copy(&self, other: &Listed) -> bool {
        self.location.is_some() && self.location == other.location && self.name.as_str() == other.name.as_str()
    }
}

struct Replaced {
    settings: Settings,
    /// Whether a limiter has had the name.
    is_used: bool,
}

/// A snapshot of one rate limiter that this process has used; see [`limiters`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct LimiterInfo {
    /// The limiter's name: the one given to it, or the path of the annotated function.
    pub name: String,
    /// The limits that apply now, without those that configuration has turned off or tries. A
    /// `count` or `per` that is an expression shows as the first call read it.
    pub limits: Vec<Limit>,
    /// The limiter's place in the source.
    pub location: Option<&'static Location<'static>>,
    /// Whether another limiter in this process has the same name and location. If so, another macro
    /// has copied the attribute to several functions, and a call that passes two of them is counted
    /// twice.
    pub copied: bool,
    /// Calls admitted since the process started.
    pub allowed: u64,
    /// Calls denied since the process started (with `dry_run`: calls that would have been).
    pub denied: u64,
    /// Calls of this process that are waiting for permits now.
    pub waiting: usize,
    /// Calls that were given up while they waited, since the process started.
    pub abandoned: u64,
    /// Whether the limiter only counts and never denies.
    pub dry_run: bool,
    /// Whether the limiter is on. Configuration can turn it off.
    pub enabled: bool,
    /// Permits left now in the only bucket of a limiter without keys; of several limits, the
    /// fewest. `None` if calls have keys, or if buckets are not in this process's memory. Also
    /// `None` if `count` or `per` is read at each call, or if no limit applies.
    pub remaining: Option<u32>,
    /// Keys that have a bucket in this process's memory, including idle ones not yet reclaimed.
    /// `None` if buckets are elsewhere.
    pub keys: Option<usize>,
}

pub(crate) fn add(core: &Arc<Core>) {
    let listed = Listed::of(core);
    let mut registry = REGISTRY.lock();
    let (mut has_namesake, mut copies) = (false, 0);
    for other in registry.limiters.iter().filter(|other| other.is_alive()) {
        has_namesake |= other.is_namesake(&listed);
        copies += usize::from(other.is_copy(&listed));
    }
    registry.limiters.push(listed);
    if let Some(replace) = registry.replace {
        replace(&mut registry, core);
    }
    if has_namesake {
        HAS_NAMESAKES.store(true, Ordering::Relaxed);
    }
    // Outside the lock: reporting runs foreign code.
    drop(registry);
    // Reported once, however many copies follow.
    if copies == 1
        && let Some(location) = core.options().location
    {
        observe::copied(core.name(), location);
    }
}

/// Counts a dropped limiter. Compacts the list once half of it is dropped.
pub(crate) fn count_gone() {
    let mut registry = REGISTRY.lock();
    registry.gone += 1;
    if registry.gone * 2 >= registry.limiters.len() {
        registry.limiters.retain(Listed::is_alive);
        registry.gone = 0;
    }
}

/// Whether both were given the same name.
pub(crate) fn are_namesakes(one: &Core, other: &Core) -> bool {
    one.is_named() && other.is_named() && one.name() == other.name()
}

/// Whether other limiters may have been given the name of `core`.
pub(crate) fn has_namesakes(core: &Core) -> bool {
    core.is_named() && HAS_NAMESAKES.load(Ordering::Relaxed)
}

/// Runs `f` if no live limiter has been given this name. None is added meanwhile.
pub(crate) fn unless_named(name: &str, f: impl FnOnce()) {
    let registry = REGISTRY.lock();
    let all = registry.alive();
    if !all.iter().any(|core| core.is_named() && core.name() == name) {
        f();
    }
    drop(registry);
}

pub(crate) fn all() -> Vec<Arc<Core>> {
    REGISTRY.lock().alive()
}

/// All rate limiters that this process has used and still holds, in order of first use.
///
/// For an operator's page, not for each request: it allocates, and briefly locks each limiter's
/// buckets. With the feature `serde` the result is `Serialize`.
///
/// ```
/// use ratelimit_runtime::{limiters, rate_limit};
///
/// #[rate_limit(count = 2, per = "1h", name = "report")]
/// fn report() -> Option<()> { Some(()) }
///
/// for _ in 0..3 { report(); }
/// let report = limiters().into_iter().find(|limiter| limiter.name == "report").unwrap();
/// assert_eq!((report.allowed, report.denied), (2, 1));
/// ```
pub fn limiters() -> Vec<LimiterInfo> {
    let all = all();
    let mut alike: BTreeMap<_, usize> = BTreeMap::new();
    for core in &all {
        *alike.entry((core.options().location, core.name())).or_default() += 1;
    }
    let is_copied = |core: &Core| {
        let location = core.options().location;
        location.is_some() && alike.get(&(location, core.name())).is_some_and(|alike| *alike > 1)
    };
    all.iter().map(|core| info(core, is_copied(core))).collect()
}

fn info(core: &Core, copied: bool) -> LimiterInfo {
    let (allowed, denied) = core.counts();
    let (waiting, abandoned) = core.waiting();
    let options = core.options();
    let (remaining, keys) = core.in_memory().unzip();
    LimiterInfo {
        name: core.name().to_owned(),
        limits: core.limits().into_iter().filter(|limit| !limit.is_unlimited()).collect(),
        location: options.location,
        copied,
        allowed,
        denied,
        waiting,
        abandoned,
        dry_run: core.dry_run(),
        enabled: core.is_enabled(),
        remaining: remaining.flatten(),
        keys,
    }
}

/// Replaces the limits of all limiters called `name` in this process, from their next call on.
///
/// Also applies to limiters first used later, so configuration may be loaded at start-up before any
/// limiter is used. [`unused_limits`] lists misspelt names.
/// [`RateLimiter::set_limits`](crate::RateLimiter::set_limits) does the same for one limiter.
///
/// # Errors
/// [`InvalidLimiter`] if there are no limits or more than [`MAX_LIMITS`](crate::MAX_LIMITS).
///
/// ```
/// use ratelimit_runtime::{Limit, rate_limit, set_limits, unused_limits};
///
/// #[rate_limit(count = 1, per = "1h", name = "export")]
/// fn export() -> Option<()> { Some(()) }
///
/// set_limits("export", &["2/1h".parse()?])?;
/// set_limits("exprot", &[Limit::per_hour(2)])?;
/// assert_eq!([export(), export(), export()], [Some(()), Some(()), None]);
/// assert_eq!(unused_limits(), ["exprot"]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn set_limits(name: &str, limits: &[Limit]) -> Result<(), InvalidLimiter> {
    InvalidLimiter::check(limits)?;
    set([(name, |settings: &mut Settings| settings.limits = Some(limits.to_vec()))]);
    Ok(())
}

/// Changes the settings of the limiters of these names, all at once.
fn set<'a, F: FnOnce(&mut Settings)>(changes: impl IntoIterator<Item = (&'a str, F)>) {
    set_in(REGISTRY.lock(), changes);
}

fn set_in<'a, F: FnOnce(&mut Settings)>(
    mut registry: MutexGuard<'_, Registry>,
    changes: impl IntoIterator<Item = (&'a str, F)>,
) {
    registry.replace = Some(Registry::replace_settings);
    let all = registry.alive();
    let mut touched = Vec::new();
    for (name, change) in changes {
        let unused = || Replaced { settings: Settings::AS_WRITTEN, is_used: false };
        let replaced = registry.replaced.entry(name.to_owned()).or_insert_with(unused);
        change(&mut replaced.settings);
        for core in all.iter().filter(|core| core.name() == name) {
            touched.push((core, core.configure(&replaced.settings)));
            replaced.is_used = true;
        }
    }
    // Outside the lock: this wakes waiters, and dropping a limiter's last handle may drop foreign
    // code, such as a backend.
    drop(registry);
    for (core, _tried_before) in touched {
        core.wake_waiters();
    }
}

/// Applies a document of settings. Limiters that only the previous document named go back to their
/// settings in the code.
#[cfg(feature = "configuration")]
pub(crate) fn configure(settings: &BTreeMap<String, Settings>) {
    let mut registry = REGISTRY.lock();
    let before = std::mem::replace(&mut registry.configured, settings.keys().cloned().collect());
    let left_out = before.iter().filter(|name| !settings.contains_key(*name));
    let as_written = left_out.map(|name| (name.as_str(), Settings::AS_WRITTEN));
    let named = settings.iter().map(|(name, settings)| (name.as_str(), settings.clone()));
    set_in(registry, as_written.chain(named).map(|(name, new)| (name, |settings: &mut Settings| *settings = new)));
}

/// Names in configuration, or passed to [`set_limits`], that no limiter has had so far.
///
/// A limiter is known from its first use on. Once every limiter has been used, the remaining names
/// are misspelt.
pub fn unused_limits() -> Vec<String> {
    let registry = REGISTRY.lock();
    let unused = registry.replaced.iter().filter(|(_, replaced)| !replaced.is_used);
    let set = unused.filter(|(_, replaced)| replaced.settings != Settings::AS_WRITTEN);
    set.map(|(name, _)| name.clone()).collect()
}
