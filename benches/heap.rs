//! A counting allocator: the system's allocator, with counts of bytes and allocations while it is
//! switched on.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

/// The allocator. The benchmark installs it as the global one.
#[derive(Debug)]
pub struct Counting;

static COUNTS: AtomicBool = AtomicBool::new(false);
static BYTES: AtomicI64 = AtomicI64::new(0);
static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

/// Net bytes that `f` allocates: those allocated less those freed.
pub fn growth<R>(f: impl FnOnce() -> R) -> (i64, R) {
    BYTES.store(0, Ordering::SeqCst);
    COUNTS.store(true, Ordering::SeqCst);
    let result = f();
    COUNTS.store(false, Ordering::SeqCst);
    (BYTES.load(Ordering::SeqCst), result)
}

/// How many times `f` allocates.
pub fn allocations<R>(f: impl FnOnce() -> R) -> (u64, R) {
    ALLOCATIONS.store(0, Ordering::SeqCst);
    let (_, result) = growth(f);
    (ALLOCATIONS.load(Ordering::SeqCst), result)
}

fn count(bytes: usize, sign: i64) {
    // While off, it costs one load: timed code allocates at the system's speed.
    if COUNTS.load(Ordering::Relaxed) {
        if sign > 0 {
            ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        }
        BYTES.fetch_add(sign * i64::try_from(bytes).unwrap_or(i64::MAX), Ordering::Relaxed);
    }
}

#[expect(unsafe_code, reason = "an allocator's methods are; each is the system's own, with the caller's arguments")]
// SAFETY: every call is passed to the system's allocator unchanged; counting does not allocate.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 1);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(layout.size(), -1);
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(layout.size(), -1);
        count(size, 1);
        unsafe { System.realloc(pointer, layout, size) }
    }
}
