//! The meaning of every operation, in plain Rust: what all levels, thread counts and batch sizes must equal, bit for bit.
//!
//! Common to all: f32 arithmetic, round to nearest even, subnormals kept; `fma` rounds once; `max(a, b)` is
//! `a > b ? a : b`; float sums run over 16 partial sums, element k into sum k mod 16, added up by [`tree16`]. The bits of
//! a NaN are not promised, that there is one is.

pub mod attention;
pub mod cache;
pub mod hyper;
pub mod math;
pub mod matmul;
pub mod ops;
pub mod recurrent;

pub use math::{exp, tanh};
pub use matmul::{matmul, quantize_activations};

/// `a > b ? a : b`
pub fn max(a: f32, b: f32) -> f32 {
    if a > b { a } else { b }
}

/// 16 partial sums added up: the upper half to the lower, 8, 4, 2, 1.
pub fn tree16(mut sums: [f32; 16]) -> f32 {
    for half in [8, 4, 2, 1] {
        for i in 0..half {
            sums[i] += sums[i + half];
        }
    }
    sums[0]
}
