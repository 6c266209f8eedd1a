//! The small private runtime below everything else: time, threads, locks and hand-over.
//!
//! Each part is here because a library's would break a promise of this crate. None of them knows
//! anything about limits.
//!
//! | part | instead of | because |
//! | --- | --- | --- |
//! | [`clock`] | `Instant`, quanta | a decision costs about as much as reading the monotonic clock; the processor's counter takes a third. quanta trusts the counter for good and cannot say how exact a reading is |
//! | [`sync`] | `parking_lot` | uncontended, its spin lock saves a locked instruction, and these dominate the time of a decision; it also stands in for loom's |
//! | [`counts`] | one atomic | many threads raise a count that few read, so each has a cell of its own |
//! | [`reply`] | tokio's oneshot | that one counts against a task's budget, which a thread that blocks inside a task never gets back; callers may be on any executor, or on none |
//! | [`timer`] | the runtime's timer | there may be no runtime, it may have no timers, or a test may have paused its clock |
//! | `background` | the caller's runtime | permits are given back after the caller and its runtime are gone |
//! | [`process`] | a `static` | a forked child has none of its parent's threads, and must not use its sockets |

#[cfg(any(feature = "tokio", feature = "_transport"))]
pub(crate) mod background;
pub(crate) mod clock;
pub(crate) mod counts;
pub(crate) mod process;
pub(crate) mod reply;
pub(crate) mod sync;
pub(crate) mod timer;
