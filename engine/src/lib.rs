//! hob: a local inference engine for quantized GGUF models.

pub mod error;
pub mod gguf;

pub use error::{Error, Fault, Result};
