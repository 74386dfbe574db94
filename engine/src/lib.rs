//! hob: a local inference engine for quantized GGUF models.
//!
//! One file in, text out: the weights are used where they lie in the mapped file, the tokenizer, the chat template and the
//! sampling defaults come from its metadata. Everything is synchronous; nothing is printed, and nothing aborts.
//!
//! ```
//! use hob::{Model, Sampling};
//!
//! # fn main() -> hob::Result<()> {
//! # let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/tiny.gguf");
//! let model = Model::open(path)?;                    // any GGUF file
//! let mut chat = model.chat().system("Answer in one sentence.").sampling(Sampling::new(42).temperature(0.7)).max_tokens(32);
//! let mut reply = chat.say("Why is the sky blue?")?;
//! for piece in &mut reply {
//!     print!("{}", piece?);              // whole characters, as they come
//! }
//! println!("\n{}", reply.stats());       // 412 tok at 380/s · 96 tok at 21.4/s · 51 GB/s
//! # Ok(())
//! # }
//! ```
//!
//! # The pieces
//!
//! * A [`Model`] is an open file. Cloning shares it; threads may use it at once. [`Model::options`] sets threads, context and
//!   the precision of the cache before it is opened.
//! * A [`Chat`] is a conversation: messages, template, sampler, cache. Each [`say`](Chat::say) gives a [`Reply`], an iterator over
//!   text. Dropping it stops it, a [`Canceller`] stops it from another thread; what was said stays. What people write never becomes a
//!   control token.
//! * A reply's text is its answer. Its [`events`](Reply::events) tell all: thinking, answer, tool calls, the end. [`Chat::tool`] gives the
//!   model a closure to call; [`Chat::thinking`] says how much it is to think.
//! * Nothing that was said is lost: [`Chat::undo`], [`retry`](Chat::retry) and [`edit`](Chat::edit) keep what they take back as a branch, and
//!   [`Chat::save_to`] writes every token as it comes; [`Chat::resume`] goes on with the same bits. When the context is full, replies end,
//!   or old turns go and it is said: [`Chat::full`].
//! * A [`Session`] is one level down: tokens in ([`feed`](Session::feed)), tokens out ([`generate`](Session::generate)), logits to look at.
//!   It can be forked, marked and gone back to, and saved; [`ModelOptions::prefix_cache`] and [`ModelOptions::prefix_folder`] let sessions
//!   share what they have computed, in memory and on disk, without changing a bit of what is said.
//! * [`Sampling`] says how tokens are chosen, a [`Sampler`] does it. The same seed gives the same text on every machine, with any
//!   number of threads: on the CPU, logits are the same to the last bit.
//!   Stop strings and banned strings are the generation's: [`Generator::stop`], [`Generator::ban`], [`Chat::stop`], [`Chat::ban`].
//! * A [`Grammar`] says what a text must be: JSON that a schema describes, a regular expression, a grammar. [`Chat::ask`](Chat#method.ask) answers with a
//!   value of any type that can be deserialized, [`Chat::grammar`] and [`Generator::grammar`] hold text to it.
//! * [`store`] lists the models that are on this machine, whichever program brought them; `hub`, a cargo feature, brings others.
//! * [`gguf`], [`tokenizer`], [`template`] and [`decoder`] stand on their own, for tools.
//! * [`catalogue`] knows models by name, [`plan`] says from a header alone whether one fits a machine and how fast it will be.
//!
//! ```
//! use hob::tokenizer::{Ends, Special};
//! use hob::{Model, Sampler, Sampling};
//!
//! # fn main() -> hob::Result<()> {
//! # let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/tiny.gguf");
//! let model = Model::options().context(512).open(path)?;
//! let mut session = model.session()?;
//! session.feed(&model.tokenizer().encode_with("Once upon a time", Special::Literal, Ends::AsModelWants)?)?;
//! let next = session.generate(Sampler::new(&Sampling::greedy())?).max_tokens(8).collect::<hob::Result<Vec<_>>>()?;
//! println!("{}", model.tokenizer().decode(&next));
//! # Ok(())
//! # }
//! ```
//!
//! Errors say what is wrong, where, what was expected and found, and what to do: see [`Error`].

pub mod backend;
pub mod batch;
pub mod block;
pub mod cache;
pub mod catalogue;
pub mod chat;
pub mod config;
pub mod decoder;
pub mod device;
pub mod error;
#[cfg(test)]
mod fake;
pub mod family;
pub mod generate;
pub mod gguf;
pub mod grammar;
#[cfg(feature = "hub")]
pub mod hub;
pub mod machine;
pub mod model;
pub mod perplexity;
pub mod plan;
pub mod prefix;
mod prompt;
pub mod quantize;
pub mod reply;
pub mod sampler;
mod stats;
pub mod store;
pub mod template;
pub mod tokenizer;
pub mod weights;

pub use chat::{Chat, Reply};
pub use device::{Device, GpuLayers};
pub use error::{Error, Fault, Result, Trouble};
pub use generate::{Canceller, EndReason, Generator, Mark, Pieces, Session, Speculation, Stats};
pub use grammar::Grammar;
pub use hob_kernels::{Format, Level, default_threads};
pub use model::{Model, ModelOptions};
pub use reply::Event;
pub use sampler::{Logprobs, Mirostat, Sampler, Sampling, Step};
/// What [`Chat::ask`] needs of a type: `#[derive(hob::schemars::JsonSchema)]`.
#[cfg(feature = "grammar")]
pub use schemars;
pub use template::{ChatTemplate, Effort, Message, Role, Thinking, ToolCall};
pub use tokenizer::Token;

/// The README's program, compiled with the doctests.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
