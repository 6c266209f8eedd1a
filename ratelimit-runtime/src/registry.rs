//! What rate limiters this process has used.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use crate::limit::Limit;
use crate::limiter::{Core, InvalidLimiter};
use crate::observe;

static LIMITERS: Mutex<Vec<Weak<Core>>> = Mutex::new(Vec::new());

/// Limits that were set by name: for limiters that are used for the first time later.
static REPLACED: Mutex<BTreeMap<String, Vec<Limit>>> = Mutex::new(BTreeMap::new());

/// A rate limiter that this process has used; see [`limiters`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct LimiterInfo {
    /// The limiter's name: what was given to it, or the path of the annotated function.
    pub name: String,
    /// The limits that apply now. Of a limit whose `count` or `per` is read at each call, that value is 1 or a second.
    pub limits: Vec<Limit>,
    /// Where it was written down: file, line, column.
    pub location: Option<Location>,
    /// Whether another limiter in this process has the same name and the same location: another
    /// macro has copied the attribute to several functions, and a call that passes two of them is
    /// counted twice.
    pub copied: bool,
    /// Calls admitted since the process started.
    pub allowed: u64,
    /// Calls denied since the process started (with `dry_run`: that would have been).
    pub denied: u64,
    /// Whether it only counts and never denies.
    pub dry_run: bool,
    /// Permits left now in the one bucket of a limiter without keys, of the limit that has fewest. `None` where calls have
    /// keys, where buckets are not in this process's memory, and where `count` or `per` is read at each call.
    pub remaining: Option<u32>,
    /// Keys that have a bucket in this process's memory, those included that nobody uses any more and that no call has
    /// reclaimed yet. `None` where buckets are elsewhere.
    pub keys: Option<usize>,
}

/// A place in the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Location {
    /// The file, as the compiler was given it.
    pub file: &'static str,
    /// The line, from 1.
    pub line: u32,
    /// The column, from 1.
    pub column: u32,
}

pub(crate) fn add(core: &Arc<Core>) {
    let mut limiters = LIMITERS.lock();
    if limiters.len() == limiters.capacity() {
        limiters.retain(|limiter| limiter.strong_count() > 0);
    }
    let copies = limiters.iter().filter_map(Weak::upgrade).filter(|other| is_copy(other, core)).count();
    limiters.push(Arc::downgrade(core));
    drop(limiters);
    // Once, however many copies follow.
    if copies == 1
        && let Some((file, line, column)) = core.options().location
    {
        observe::copied(core.name(), file, line, column);
    }
    if let Some(limits) = REPLACED.lock().get(core.name()) {
        // They were checked when they were set.
        let _ = core.set_limits(limits);
    }
}

/// Whether the two were written down at one place, under one name.
fn is_copy(one: &Core, other: &Core) -> bool {
    one.options().location.is_some() && one.options().location == other.options().location && one.name() == other.name()
}

pub(crate) fn all() -> Vec<Arc<Core>> {
    LIMITERS.lock().iter().filter_map(Weak::upgrade).collect()
}

/// All rate limiters that this process has used and still holds, in the order of their first use.
///
/// For an operator's page, not for each request: it allocates, and takes the locks of each limiter's buckets for a moment.
/// With the feature `serde` what it returns is `Serialize`.
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
    let options = core.options();
    let (remaining, keys) = core.in_memory().unzip();
    LimiterInfo {
        name: core.name().to_owned(),
        limits: core.limits(),
        location: options.location.map(|(file, line, column)| Location { file, line, column }),
        copied,
        allowed,
        denied,
        dry_run: options.dry_run,
        remaining: remaining.flatten(),
        keys,
    }
}

/// Replaces the limits of all limiters of that name in this process, from their next call on, as
/// [`RateLimiter::set_limits`](crate::RateLimiter::set_limits) does; of those too that are used for the first time later. An
/// error, which changes nothing, if no limiter of that name has been used yet.
pub fn set_limits(name: &str, limits: &[Limit]) -> Result<(), InvalidLimiter> {
    let mut found = false;
    for core in all().iter().filter(|core| core.name() == name) {
        core.set_limits(limits)?;
        found = true;
    }
    if !found {
        return Err(InvalidLimiter::UnknownName);
    }
    REPLACED.lock().insert(name.to_owned(), limits.to_vec());
    Ok(())
}
