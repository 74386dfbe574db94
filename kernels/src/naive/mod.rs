//! The meaning of every operation, in plain Rust: what all levels, thread counts and batch sizes must equal, bit for bit.

pub mod matmul;

pub use matmul::{matmul, quantize_activations};
