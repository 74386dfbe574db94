//! CPU kernels of hob: quantized matrix products, attention and vector operations.
//!
//! This crate knows bytes and slices, formats and vectors, never a model. Every operation has one meaning, written
//! plainly in [`naive`]; every [`Level`] (instruction set), thread count and batch size gives its exact bits.

// Loops over arrays of registers count them, so that the compiler keeps them registers.
#![allow(clippy::needless_range_loop)]

mod activations;
pub mod attention;
pub mod ceiling;
mod cores;
mod floats;
pub mod format;
mod isa;
pub mod level;
pub mod matmul;
pub mod naive;
pub mod ops;
pub mod pool;
pub mod recurrent;

pub use cores::default_threads;
pub use floats::Floats;
pub use format::Format;
pub use level::Level;
pub use pool::{Cpu, Pool};
