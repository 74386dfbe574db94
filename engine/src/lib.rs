//! hob: a local inference engine for quantized GGUF models.

pub mod backend;
pub mod batch;
pub mod block;
pub mod cache;
pub mod chat;
pub mod config;
pub mod decoder;
pub mod error;
pub mod family;
pub mod generate;
pub mod gguf;
pub mod model;
pub mod perplexity;
pub mod quantize;
pub mod sampler;
pub mod template;
pub mod tokenizer;
pub mod weights;

pub use chat::{Chat, Reply};
pub use error::{Error, Fault, Result};
pub use generate::{Canceller, EndReason, Generator, Session, Stats};
pub use model::{Model, ModelOptions};
pub use sampler::{Sampler, Sampling};
pub use template::{ChatTemplate, Message, Role};
