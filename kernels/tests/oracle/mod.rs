//! What tests against `naive` share: numbers to compute with, everywhere to compute, and equality.
#![allow(dead_code, reason = "each test file takes what it needs")]

use hob_kernels::{Cpu, Level, Pool};

/// Numbers within ±1, the same on every machine.
pub(crate) fn numbers(n: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..n).map(next).collect()
}

/// Calls `f` for every level and some numbers of threads.
pub(crate) fn everywhere(f: impl Fn(Cpu<'_>)) {
    for threads in [1, 3] {
        let pool = Pool::new(threads);
        Level::available().for_each(|level| f(Cpu::new(level, &pool)));
    }
}

/// Bit for bit.
#[track_caller]
pub(crate) fn equal(found: &[f32], expected: &[f32], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (i, (f, e)) in found.iter().zip(expected).enumerate() {
        assert!(f.to_bits() == e.to_bits(), "{what}: element {i} is {f:e}, expected {e:e}");
    }
}

/// The same, but one NaN is as good as another.
#[track_caller]
pub(crate) fn equal_or_nan(found: &[f32], expected: &[f32], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (i, (f, e)) in found.iter().zip(expected).enumerate() {
        assert!(f.to_bits() == e.to_bits() || (f.is_nan() && e.is_nan()), "{what}: element {i} is {f:e}, expected {e:e}");
    }
}
