//! The thread pool, and the two ways in which threads share one output slice.
//!
//! ```text
//! state  [ epoch | open | workers inside ]     one word: a region is published by a new epoch with `open` set
//! items  [ thread 0's share | thread 1's | … ]  handed out one by one, so a thread that the system takes away holds up one
//! next   [ 0's counter, 1's counter, … ]        item only: who is through with its own share goes on in the others'
//! ```
//! A share is items that follow each other: what a thread asked the memory for at the end of one is what it wants next.
//! The caller takes part in its own region. A worker joins a region by raising the count while it is open; the caller
//! closes it when the items are used up and waits only for those inside, never for a worker that slept through it.
//! Workers spin for `PATIENCE`, then sleep: regions that follow each other closely, as those of a decoding step do,
//! cost no system call. Regions of several callers do not queue: one leads, the others work through their own items
//! themselves until the pool is free. A region inside a region is such a second caller, so it cannot wait for itself.
//!
//! Arithmetic runs with subnormal numbers intact and round-to-nearest, whatever the caller's thread had set: bits are
//! part of the promise (see [`crate::naive`]).
#![allow(unsafe_code)]

use crate::Level;
use smallvec::SmallVec;
use std::any::Any;
use std::cell::UnsafeCell;
use std::marker::PhantomData;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long an idle worker spins before it sleeps.
const PATIENCE: Duration = Duration::from_micros(100);
/// Polls between two looks at the clock.
const POLLS: u32 = 64;
/// Most threads of a pool.
const MAX_THREADS: usize = 1024;

/// A region can be joined.
const OPEN: u64 = 1 << 16;
/// Its workers inside: the bits below `OPEN`.
const INSIDE: u64 = OPEN - 1;
/// The pool is gone.
const ENDED: u64 = 1 << 17;
const EPOCH: u32 = 32;

/// Threads that share the work of a kernel. Cloning shares them; they end with the last handle.
#[derive(Clone)]
pub struct Pool {
    shared: Arc<Shared>,
    /// `None` for a pool of one.
    workers: Option<Arc<Workers>>,
}

/// Where a kernel runs: the instruction set, the threads, and the flag that stops it early.
#[derive(Clone, Copy)]
pub struct Cpu<'a> {
    /// Instruction set.
    pub level: Level,
    /// Threads.
    pub pool: &'a Pool,
    /// Once set, regions end without finishing: the caller throws the results away.
    pub stop: &'a AtomicBool,
}

static NEVER: AtomicBool = AtomicBool::new(false);

impl Pool {
    /// A pool of `threads` threads, the caller's own among them. Where the system refuses a thread, the pool has fewer.
    pub fn new(threads: usize) -> Pool {
        let threads = threads.clamp(1, MAX_THREADS);
        let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
        let shared = Arc::new(Shared {
            state: Line(AtomicU64::new(0)),
            next: (0..threads.div_ceil(COUNTERS)).map(|_| Line([const { AtomicUsize::new(0) }; COUNTERS])).collect(),
            threads,
            sleepers: Line(AtomicUsize::new(0)),
            leading: AtomicBool::new(false),
            job: UnsafeCell::new(None),
            // More threads than cores: whoever spins takes the time of one that works.
            polls: if threads > cores { 8 } else { 2000 },
            sleep: Mutex::new(()),
            wake: Condvar::new(),
            panic: Mutex::new(None),
        });
        let mut workers = Vec::new();
        for i in 1..threads {
            let its = Arc::clone(&shared);
            match std::thread::Builder::new().name(format!("hob-{i}")).spawn(move || its.serve(i)) {
                Ok(worker) => workers.push(worker),
                Err(_) => break,
            }
        }
        let workers = (!workers.is_empty()).then(|| Arc::new(Workers { shared: Arc::clone(&shared), threads: workers }));
        Pool { shared, workers }
    }

    /// Threads that work in a region, the caller's included.
    pub fn threads(&self) -> usize {
        1 + self.workers.as_ref().map_or(0, |w| w.threads.len())
    }
}

// A panic inside a region leaves the pool as it was.
impl std::panic::UnwindSafe for Pool {}
impl std::panic::RefUnwindSafe for Pool {}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").field("threads", &self.threads()).finish()
    }
}

impl<'a> Cpu<'a> {
    /// A CPU that nothing stops.
    pub fn new(level: Level, pool: &'a Pool) -> Cpu<'a> {
        Cpu { level, pool, stop: &NEVER }
    }

    /// Threads that work in a region.
    pub fn threads(&self) -> usize {
        self.pool.threads()
    }

    /// Calls `f(i)` for every `i < items`, on all threads, each item once, in no order. All arithmetic of a kernel
    /// belongs inside, also that of a single item: here floats are known to behave.
    ///
    /// A panic of `f` ends the region and goes on in the caller. Once `stop` is set, the remaining items are left out.
    pub fn parallel(&self, items: usize, f: &(dyn Fn(usize) + Sync)) {
        let _rounding = Rounding::canonical();
        for i in 0..items {
            // Looked at before each item: another caller may have led until now.
            if items - i > 1 && self.pool.workers.is_some() && self.pool.shared.try_lead() {
                return self.pool.shared.lead(i, items, f, self.stop);
            }
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            f(i);
        }
    }

    /// Cuts `out` into pieces of `len` (the last may be shorter) and calls `f(i, piece i)` for each, on all threads.
    ///
    /// # Panics
    /// If `len` is 0.
    pub fn parallel_chunks<T: Send>(&self, out: &mut [T], len: usize, f: &(dyn Fn(usize, &mut [T]) + Sync)) {
        assert!(len > 0, "pieces of nothing");
        let (base, total) = (Base(out.as_mut_ptr()), out.len());
        self.parallel(total.div_ceil(len), &|i| {
            let start = i * len;
            // SAFETY: `start..start + n` is inside `out`, which stays mutably borrowed until the region has ended, and
            // no other item has any of it: each `i` is handed out once.
            let piece = unsafe { std::slice::from_raw_parts_mut(base.at(start), len.min(total - start)) };
            f(i, piece);
        });
    }
}

/// Counters on the lines of a [`Line`].
const COUNTERS: usize = 128 / size_of::<AtomicUsize>();

/// Asked to be alone on its cache lines (two, since processors fetch pairs).
#[repr(align(128))]
struct Line<T>(T);

type Work<'a> = dyn Fn(usize) + Sync + 'a;

/// The open region. The pointers are good while it is open or has a worker inside.
struct Job {
    f: *const Work<'static>,
    stop: *const AtomicBool,
    items: Range<usize>,
}

struct Shared {
    state: Line<AtomicU64>,
    /// The next item of each share. Those of many threads lie together: to see that all are used up costs one look.
    next: Box<[Line<[AtomicUsize; COUNTERS]>]>,
    /// Shares.
    threads: usize,
    sleepers: Line<AtomicUsize>,
    leading: AtomicBool,
    /// Written by the leader while nobody is inside, read by those inside.
    job: UnsafeCell<Option<Job>>,
    /// Polls before a waiting thread begins to yield.
    polls: u32,
    sleep: Mutex<()>,
    wake: Condvar,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

// SAFETY: `job` is written by the one thread that holds `leading`, while `state` says that nobody is inside, and read only
// by threads inside, which saw it through `state`. What it points to is `Sync`.
unsafe impl Sync for Shared {}
// SAFETY: as above; nothing in it belongs to a thread.
unsafe impl Send for Shared {}

impl Shared {
    fn try_lead(&self) -> bool {
        !self.leading.load(Ordering::Relaxed) && self.leading.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    /// Runs a region from item `first` on. The caller holds `leading`; this gives it back.
    fn lead(&self, first: usize, items: usize, f: &Work<'_>, stop: &AtomicBool) {
        // SAFETY: only the lifetime is changed. Workers use the pointer between joining and leaving, and this function
        // does not return, nor unwind, before the region is closed and the last of them has left.
        let f = unsafe { std::mem::transmute::<*const Work<'_>, *const Work<'static>>(f) };
        // SAFETY: `leading` is held and the previous leader left with nobody inside and the region closed.
        unsafe { *self.job.get() = Some(Job { f, stop, items: first..items }) };
        for share in 0..self.threads {
            self.counter(share).store(self.share(&(first..items), share), Ordering::Relaxed);
        }
        let epoch = (self.state.0.load(Ordering::Relaxed) >> EPOCH) + 1;
        // SeqCst here and in `rest`: either this thread sees the sleeper or the sleeper sees the region.
        self.state.0.store((epoch << EPOCH) | OPEN, Ordering::SeqCst);
        if self.sleepers.0.load(Ordering::SeqCst) > 0 {
            drop(lock(&self.sleep));
            self.wake.notify_all();
        }
        self.work(0);
        let mut inside = self.state.0.fetch_and(!OPEN, Ordering::AcqRel) & INSIDE;
        let mut polls = 0;
        while inside != 0 {
            self.pause(&mut polls);
            inside = self.state.0.load(Ordering::Acquire) & INSIDE;
        }
        let panic = lock(&self.panic).take();
        self.leading.store(false, Ordering::Release);
        if let Some(payload) = panic {
            resume_unwind(payload);
        }
    }

    fn counter(&self, share: usize) -> &AtomicUsize {
        &self.next[share / COUNTERS].0[share % COUNTERS]
    }

    /// Where a share of these items begins; the one before it ends there.
    fn share(&self, items: &Range<usize>, share: usize) -> usize {
        // No region has so many items that this overflows: they would take years.
        items.start + items.len() * share / self.threads
    }

    /// Works through the open region's items, those of share `own` first; the calling thread leads it or is inside.
    fn work(&self, own: usize) {
        // SAFETY: the leader wrote it before opening the region and nobody writes it before all have left.
        let Some(job) = (unsafe { &*self.job.get() }) else { return };
        // SAFETY: both outlive the region, which is open or has this thread inside.
        let (f, stop) = unsafe { (&*job.f, &*job.stop) };
        let result = catch_unwind(AssertUnwindSafe(|| {
            for share in (own..self.threads).chain(0..own) {
                let (next, end) = (self.counter(share), self.share(&job.items, share + 1));
                // Looked at before it is counted up: to look leaves the line with those who still count.
                while next.load(Ordering::Relaxed) < end && !stop.load(Ordering::Relaxed) {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    if i >= end {
                        break;
                    }
                    f(i);
                }
            }
        }));
        if let Err(payload) = result {
            (0..self.threads).for_each(|share| self.counter(share).store(job.items.end, Ordering::Relaxed));
            lock(&self.panic).get_or_insert(payload);
        }
    }

    /// A worker's life.
    fn serve(&self, own: usize) {
        let _rounding = Rounding::canonical();
        let mut seen = 0;
        loop {
            let state = self.await_region(seen);
            if state & ENDED != 0 {
                return;
            }
            if self.state.0.compare_exchange(state, state + 1, Ordering::Acquire, Ordering::Relaxed).is_ok() {
                seen = state >> EPOCH;
                self.work(own);
                self.state.0.fetch_sub(1, Ordering::Release);
            }
        }
    }

    /// Waits for an open region other than `seen`, or the end.
    fn await_region(&self, seen: u64) -> u64 {
        let news = |state: u64| state & ENDED != 0 || (state & OPEN != 0 && state >> EPOCH != seen);
        let (mut polls, mut since) = (0, None);
        loop {
            let state = self.state.0.load(Ordering::Acquire);
            if news(state) {
                return state;
            }
            self.pause(&mut polls);
            if polls % POLLS == 0 && since.get_or_insert_with(Instant::now).elapsed() > PATIENCE {
                break;
            }
        }
        let mut guard = lock(&self.sleep);
        self.sleepers.0.fetch_add(1, Ordering::SeqCst);
        let state = loop {
            let state = self.state.0.load(Ordering::SeqCst);
            if news(state) {
                break state;
            }
            guard = self.wake.wait(guard).unwrap_or_else(PoisonError::into_inner);
        };
        self.sleepers.0.fetch_sub(1, Ordering::SeqCst);
        state
    }

    /// One poll: at first a hint to the core, later the rest of the time slice.
    fn pause(&self, polls: &mut u32) {
        *polls = polls.wrapping_add(1);
        if *polls < self.polls { std::hint::spin_loop() } else { std::thread::yield_now() }
    }
}

/// Ends the workers when the last handle goes.
struct Workers {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.shared.state.0.fetch_or(ENDED, Ordering::SeqCst);
        drop(lock(&self.shared.sleep));
        self.shared.wake.notify_all();
        let own = std::thread::current().id();
        for thread in self.threads.drain(..) {
            // The last handle may go inside a region, on a worker: that one cannot wait for itself.
            if thread.thread().id() != own {
                let _ = thread.join();
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A pointer into a slice that threads share.
struct Base<T>(*mut T);

// SAFETY: whoever makes one sees to it that no element is reached by two threads; elements go to other threads, so `Send`.
unsafe impl<T: Send> Send for Base<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Base<T> {}

impl<T> Base<T> {
    /// # Safety
    /// `at` is inside the slice, or its end.
    unsafe fn at(&self, at: usize) -> *mut T {
        // SAFETY: the caller's word.
        unsafe { self.0.add(at) }
    }
}

/// An output `[rows, width]` that the items of a region write in tiles, each taken at most once.
///
/// ```text
///          panel 0    panel 1    panel 2
/// row 0  |__________|__________|_____|      a tile is some rows of one panel;
/// row 1  |__________|##########|_____|      its cells are claimed with one bit per (panel, row),
/// row 2  |__________|##########|_____|      so that what is taken twice is found out
/// ```
pub struct Disjoint<'a, T> {
    base: Base<T>,
    rows: usize,
    width: usize,
    panel: usize,
    /// The bits, a panel's rows together; no allocation for a token's.
    taken: SmallVec<[AtomicU64; 8]>,
    borrowed: PhantomData<&'a mut [T]>,
}

/// Rows of one panel of a [`Disjoint`] output, this item's own.
pub struct Tile<'a, T> {
    first: *mut T,
    rows: usize,
    stride: usize,
    width: usize,
    borrowed: PhantomData<&'a mut [T]>,
}

impl<'a, T: Send> Disjoint<'a, T> {
    /// `out` as rows of `width`, cut into panels of `panel` columns (the last may be narrower).
    ///
    /// # Panics
    /// If `width` or `panel` is 0, or `out` is not whole rows.
    pub fn new(out: &'a mut [T], width: usize, panel: usize) -> Disjoint<'a, T> {
        assert!(
            width > 0 && panel > 0 && out.len().is_multiple_of(width),
            "an output of {} in rows of {width}, panels of {panel}",
            out.len()
        );
        let rows = out.len() / width;
        let words = (rows * width.div_ceil(panel)).div_ceil(64);
        let taken = (0..words).map(|_| AtomicU64::new(0)).collect();
        Disjoint { base: Base(out.as_mut_ptr()), rows, width, panel, taken, borrowed: PhantomData }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of panels.
    pub fn panels(&self) -> usize {
        self.width.div_ceil(self.panel)
    }

    /// The tile of `rows` in `panel`.
    ///
    /// # Panics
    /// If it is not inside the output, or one of its cells was taken before.
    pub fn take(&self, rows: Range<usize>, panel: usize) -> Tile<'a, T> {
        assert!(rows.start <= rows.end && rows.end <= self.rows && panel < self.panels(), "tile {rows:?} of panel {panel} is outside");
        let (mut bit, end) = (panel * self.rows + rows.start, panel * self.rows + rows.end);
        while bit < end {
            let n = (64 - bit % 64).min(end - bit);
            let bits = (u64::MAX >> (64 - n)) << (bit % 64);
            let before = self.taken[bit / 64].fetch_or(bits, Ordering::Relaxed);
            assert!(before & bits == 0, "rows {rows:?} of panel {panel} are taken twice");
            bit += n;
        }
        let left = panel * self.panel;
        // SAFETY: inside the output, or its end where there are no rows.
        let first = unsafe { self.base.at(rows.start * self.width + if rows.is_empty() { 0 } else { left }) };
        let width = self.panel.min(self.width - left);
        Tile { first, rows: rows.len(), stride: self.width, width, borrowed: PhantomData }
    }
}

// SAFETY: a tile is the only way to its cells, as a `&mut [T]` is.
unsafe impl<T: Send> Send for Tile<'_, T> {}

impl<T> Tile<'_, T> {
    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Columns.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Row `i` of the tile.
    ///
    /// # Panics
    /// If there is none.
    #[inline]
    pub fn row(&mut self, i: usize) -> &mut [T] {
        assert!(i < self.rows, "row {i} of {}", self.rows);
        // SAFETY: checked against the output when the tile was taken; the cells are this tile's alone, the output stays
        // borrowed for the tile's lifetime, and `&mut self` keeps two of its rows from being had at once.
        unsafe { std::slice::from_raw_parts_mut(self.first.add(i * self.stride), self.width) }
    }
}

/// While it lives, floats round to nearest and keep subnormals on this thread.
struct Rounding {
    /// The control word to put back.
    before: Option<u64>,
}

impl Rounding {
    fn canonical() -> Rounding {
        let word = control();
        let before = (word & UNWANTED != 0).then_some(word);
        if before.is_some() {
            set_control(word & !UNWANTED);
        }
        Rounding { before }
    }
}

impl Drop for Rounding {
    fn drop(&mut self) {
        if let Some(word) = self.before {
            set_control(word);
        }
    }
}

/// MXCSR: flush-to-zero, rounding, denormals-are-zero.
#[cfg(target_arch = "x86_64")]
const UNWANTED: u64 = (1 << 15) | (3 << 13) | (1 << 6);
/// FPCR: alternative half precision, default NaN, flush-to-zero, rounding, flush-to-zero of halves.
#[cfg(target_arch = "aarch64")]
const UNWANTED: u64 = (1 << 26) | (1 << 25) | (1 << 24) | (3 << 22) | (1 << 19);
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const UNWANTED: u64 = 0;

#[cfg(target_arch = "x86_64")]
fn control() -> u64 {
    let mut word = 0u32;
    // SAFETY: stores MXCSR, four bytes, where it is told to. (The intrinsic is deprecated in favour of this.)
    unsafe { std::arch::asm!("stmxcsr [{}]", in(reg) &mut word, options(nostack, preserves_flags)) };
    u64::from(word)
}

#[cfg(target_arch = "x86_64")]
fn set_control(word: u64) {
    let word = word as u32;
    // SAFETY: loads what `control` gave, with or without the unwanted bits: all valid.
    unsafe { std::arch::asm!("ldmxcsr [{}]", in(reg) &word, options(nostack, preserves_flags, readonly)) };
}

#[cfg(target_arch = "aarch64")]
fn control() -> u64 {
    let word: u64;
    // SAFETY: reads FPCR.
    unsafe { std::arch::asm!("mrs {}, fpcr", out(reg) word, options(nostack, preserves_flags, nomem)) };
    word
}

#[cfg(target_arch = "aarch64")]
fn set_control(word: u64) {
    // SAFETY: writes what `control` gave, with or without the unwanted bits: all valid.
    unsafe { std::arch::asm!("msr fpcr, {}", in(reg) word, options(nostack, preserves_flags)) };
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn control() -> u64 {
    0
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn set_control(_: u64) {}
