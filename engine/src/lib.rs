//! hob: a local inference engine for quantized GGUF models.

pub mod backend;
pub mod batch;
pub mod block;
pub mod cache;
pub mod chat;
pub mod config;
pub mod decoder;
pub mod error;
#[cfg(test)]
mod fake;
pub mod family;
pub mod generate;
pub mod gguf;
pub mod model;
pub mod perplexity;
pub mod quantize;
mod prompt;
pub mod sampler;
mod stats;
pub mod template;
pub mod tokenizer;
pub mod weights;

pub use chat::{Chat, Reply};
pub use error::{Error, Fault, Result};
pub use generate::{Canceller, EndReason, Generator, Session, Stats};
pub use model::{Model, ModelOptions, default_threads};
pub use sampler::{Sampler, Sampling};
pub use template::{ChatTemplate, Message, Role};
pub use tokenizer::Token;
