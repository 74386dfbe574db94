//! The pool: each item once, whoever calls, whatever happens inside.
#![allow(unsafe_code)]

use hob_kernels::pool::Disjoint;
use hob_kernels::{Cpu, Level, Pool};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

fn cpu(pool: &Pool) -> Cpu<'_> {
    Cpu::new(Level::best(), pool)
}

/// Every item of a region of `items`, counted.
fn counts(pool: &Pool, items: usize) -> Vec<usize> {
    let seen: Vec<_> = (0..items).map(|_| AtomicUsize::new(0)).collect();
    cpu(pool).parallel(items, &|i| {
        seen[i].fetch_add(1, Ordering::Relaxed);
    });
    seen.into_iter().map(AtomicUsize::into_inner).collect()
}

#[test]
fn each_item_runs_once() {
    for threads in [1, 2, 3, 8] {
        let pool = Pool::new(threads);
        for items in [0, 1, 2, 3, 7, 64, 1000] {
            assert_eq!(counts(&pool, items), vec![1; items], "{threads} threads, {items} items");
        }
    }
}

#[test]
fn many_small_regions_and_pauses_between_them() {
    let pool = Pool::new(4);
    for i in 0..2000 {
        assert_eq!(counts(&pool, 1 + i % 5), vec![1; 1 + i % 5]);
        if i % 500 == 0 {
            std::thread::sleep(Duration::from_millis(2)); // long enough for the workers to sleep
        }
    }
}

#[test]
fn callers_at_once_and_regions_inside_regions() {
    let pool = Pool::new(3);
    let total = AtomicUsize::new(0);
    std::thread::scope(|s| {
        for _ in 0..4 {
            s.spawn(|| {
                for _ in 0..50 {
                    cpu(&pool).parallel(8, &|_| {
                        cpu(&pool).parallel(4, &|_| {
                            total.fetch_add(1, Ordering::Relaxed);
                        });
                    });
                }
            });
        }
    });
    assert_eq!(total.into_inner(), 4 * 50 * 8 * 4);
}

#[test]
fn a_panic_reaches_the_caller_and_the_pool_goes_on() {
    for threads in [1, 2, 4] {
        let pool = Pool::new(threads);
        for bad in [0, 3, 63] {
            let result = std::panic::catch_unwind(|| {
                cpu(&pool).parallel(64, &|i| {
                    if i == bad {
                        std::panic::resume_unwind(Box::new(i)); // as a panic, without the message on stderr
                    }
                });
            });
            let payload = result.expect_err("the panic is lost");
            assert_eq!(payload.downcast_ref::<usize>(), Some(&bad));
            assert_eq!(counts(&pool, 9), vec![1; 9]);
        }
    }
}

#[test]
fn stop_leaves_the_rest_out() {
    for threads in [1, 2] {
        let (pool, stop, done) = (Pool::new(threads), AtomicBool::new(false), AtomicUsize::new(0));
        let cpu = Cpu { level: Level::best(), pool: &pool, stop: &stop };
        cpu.parallel(1000, &|_| match done.fetch_add(1, Ordering::SeqCst) {
            10 => stop.store(true, Ordering::SeqCst),
            before if before > 10 => {
                while !stop.load(Ordering::SeqCst) {
                    std::hint::spin_loop();
                }
            }
            _ => {}
        });
        assert!((11..=12).contains(&done.into_inner()));
    }
}

#[test]
fn chunks_and_tiles_cover_the_output() {
    let pool = Pool::new(3);
    for (rows, width, panel) in [(1, 1, 1), (1, 100, 7), (5, 64, 64), (130, 33, 8), (3, 10, 50)] {
        let mut out = vec![0usize; rows * width];
        cpu(&pool).parallel_chunks(&mut out, panel, &|i, piece| piece.iter_mut().enumerate().for_each(|(j, x)| *x = i * panel + j));
        assert!(out.iter().enumerate().all(|(i, x)| *x == i));

        let tiles = Disjoint::new(&mut out, width, panel);
        let panels = tiles.panels();
        cpu(&pool).parallel(panels * 2, &|i| {
            let half = [0..rows / 2, rows / 2..rows][i % 2].clone();
            let (first, mut tile) = (half.start, tiles.take(half, i / 2));
            for r in 0..tile.rows() {
                for (c, x) in tile.row(r).iter_mut().enumerate() {
                    *x += (first + r) * width + i / 2 * panel + c;
                }
            }
        });
        assert!(out.iter().enumerate().all(|(i, x)| *x == 2 * i));
    }
}

#[test]
#[should_panic(expected = "taken twice")]
fn a_cell_is_taken_once() {
    let mut out = [0u8; 300];
    let tiles = Disjoint::new(&mut out, 3, 2);
    let _first = tiles.take(10..70, 1);
    let _other_panel = tiles.take(10..70, 0);
    let _again = tiles.take(69..70, 1);
}

#[test]
fn handles_share_the_threads_and_the_last_ends_them() {
    let pool = Pool::new(4);
    let other = pool.clone();
    drop(pool);
    assert_eq!((other.threads(), counts(&other, 20)), (4, vec![1; 20]));
    drop(other); // joins: this test ends only if they do
}

#[cfg(target_arch = "x86_64")]
#[test]
fn subnormals_are_kept_inside_and_the_callers_setting_after() {
    fn mxcsr(set: Option<u32>) -> u32 {
        let mut word = 0u32;
        unsafe { std::arch::asm!("stmxcsr [{}]", in(reg) &mut word) };
        if let Some(new) = set {
            unsafe { std::arch::asm!("ldmxcsr [{}]", in(reg) &new) };
        }
        word
    }
    const FLUSH: u32 = 0x8040;
    let before = mxcsr(None);
    mxcsr(Some(before | FLUSH));
    let pool = Pool::new(2); // its workers inherit the setting
    let flushing = AtomicUsize::new(0);
    cpu(&pool).parallel(100, &|_| {
        flushing.fetch_add((mxcsr(None) & FLUSH != 0) as usize, Ordering::Relaxed);
    });
    let after = mxcsr(Some(before));
    assert_eq!((flushing.into_inner(), after & FLUSH), (0, FLUSH));
}
