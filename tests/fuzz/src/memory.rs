//! Counts what is allocated, and ends the process when one trial takes more than its input can justify.
//!
//! What zstd takes for its windows is not seen here; the repository bounds those itself, and has a test for it.
#![allow(unsafe_code, reason = "an allocator cannot be written without")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::trial;

/// What any trial may take, bytes: the largest blob has 64 MiB.
const BASE: usize = 80 << 20;
/// What it may take for each byte of its input: JSON becomes trees of values.
const PER_BYTE: usize = 64;

#[global_allocator]
static COUNTING: Counting = Counting;

/// Bytes allocated now.
static LIVE: AtomicUsize = AtomicUsize::new(0);
/// What `LIVE` was when the trial began.
static BEFORE: AtomicUsize = AtomicUsize::new(0);
/// What `LIVE` may not go beyond.
static LIMIT: AtomicUsize = AtomicUsize::new(usize::MAX);
/// The most that a trial took.
static PEAK: AtomicUsize = AtomicUsize::new(0);

/// From now on an input of so many bytes is worked on.
pub(crate) fn limit(input: usize) {
    let live = LIVE.load(Ordering::Relaxed);
    BEFORE.store(live, Ordering::Relaxed);
    LIMIT.store(live + BASE + PER_BYTE * input, Ordering::Relaxed);
}

/// Between trials anything may be taken.
pub(crate) fn no_limit() {
    LIMIT.store(usize::MAX, Ordering::Relaxed);
}

/// The most that one trial took since [`forget_peak`], bytes.
pub(crate) fn peak() -> usize {
    PEAK.load(Ordering::Relaxed)
}

/// Begins anew with [`peak`].
pub(crate) fn forget_peak() {
    PEAK.store(0, Ordering::Relaxed);
}

/// Before it is taken: what nobody has cannot be asked for either.
fn took(bytes: usize) {
    let live = LIVE.fetch_add(bytes, Ordering::Relaxed).wrapping_add(bytes);
    let limit = LIMIT.load(Ordering::Relaxed);
    if limit == usize::MAX {
        return;
    }
    PEAK.fetch_max(live.saturating_sub(BEFORE.load(Ordering::Relaxed)), Ordering::Relaxed);
    if live > limit {
        trial::fail("takes more memory than its input can justify");
    }
}

fn gave(bytes: usize) {
    LIVE.fetch_sub(bytes, Ordering::Relaxed);
}

struct Counting;

// SAFETY: every call is handed to the system's allocator as it came; the numbers beside change nothing of that.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        took(layout.size());
        // SAFETY: as for the trait.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        took(layout.size());
        // SAFETY: as for the trait.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        took(size);
        gave(layout.size());
        // SAFETY: as for the trait.
        unsafe { System.realloc(memory, layout, size) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        gave(layout.size());
        // SAFETY: as for the trait.
        unsafe { System.dealloc(memory, layout) }
    }
}
