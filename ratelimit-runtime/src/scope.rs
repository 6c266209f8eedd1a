//! The clock and the buckets of one test.
//!
//! The only module that decides whether tests can have them. Without `test-util`, [`Scope`] has no
//! values: an `Option` of it takes no room, and code that needs one compiles to nothing.

#[cfg(not(feature = "test-util"))]
mod none;

use crate::switches::Switches;
#[cfg(feature = "test-util")]
use crate::{switches::Switch, test_util};

#[cfg(not(feature = "test-util"))]
pub(crate) use none::{Scope, Sleep};
#[cfg(feature = "test-util")]
pub(crate) use test_util::Sleep;

#[cfg(feature = "test-util")]
pub(crate) type Scope = std::sync::Arc<test_util::Scope>;

/// The scope of the test on this thread.
#[inline]
pub(crate) fn current(switches: Switches) -> Option<Scope> {
    #[cfg(feature = "test-util")]
    if switches.has(Switch::Test) {
        return test_util::current();
    }
    let _ = switches;
    None
}
