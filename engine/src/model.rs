//! Model: one open file with all it holds (weights, tokenizer, chat template, sampling defaults), shared by every session.

use crate::chat::Chat;
use crate::error::Result;
use crate::generate::{Session, later};
use crate::sampler::Sampling;
use std::path::Path;
use std::sync::Arc;

/// An open model. Cloning it shares it; it may be used from any number of threads.
#[derive(Clone)]
pub struct Model(Arc<Inner>);

struct Inner {
    options: ModelOptions,
    sampling: Sampling,
    notices: Vec<String>,
}

/// How to open a model. Everything has a sensible default; see [`Model::options`].
#[derive(Clone, Debug, Default)]
pub struct ModelOptions {
    threads: Option<usize>,
    context: Option<usize>,
    micro_batch: Option<usize>,
    pre_tokenizer: Option<String>,
    chat_template: Option<String>,
}

impl ModelOptions {
    /// Threads to compute with (default: the physical cores).
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = Some(threads);
        self
    }

    /// Tokens that a session can hold (default: what the model was trained for, at most 4096).
    pub fn context(mut self, tokens: usize) -> Self {
        self.context = Some(tokens);
        self
    }

    /// Tokens computed at once while reading a prompt (default 512).
    pub fn micro_batch(mut self, tokens: usize) -> Self {
        self.micro_batch = Some(tokens);
        self
    }

    /// The pre-tokenizer to use, by the name that llama.cpp gives it, where the file names none or an unknown one.
    pub fn pre_tokenizer(mut self, name: impl Into<String>) -> Self {
        self.pre_tokenizer = Some(name.into());
        self
    }

    /// The chat template to use instead of the file's: Jinja source.
    pub fn chat_template(mut self, source: impl Into<String>) -> Self {
        self.chat_template = Some(source.into());
        self
    }

    /// Opens the model in the file at `path` (any part of a split file).
    ///
    /// # Errors
    /// Where the file cannot be read, is not sound, or holds something that hob cannot run.
    pub fn open(&self, path: impl AsRef<Path>) -> Result<Model> {
        Err(later(path.as_ref().as_os_str().len()))
    }

    /// Opens a model that is part of the program.
    ///
    /// # Errors
    /// As [`open`](ModelOptions::open).
    pub fn from_static(&self, bytes: &'static [u8]) -> Result<Model> {
        Err(later(bytes.len()))
    }
}

impl Model {
    /// Opens the model in the file at `path` (any part of a split file), with default options.
    ///
    /// # Errors
    /// Where the file cannot be read, is not sound, or holds something that hob cannot run.
    pub fn open(path: impl AsRef<Path>) -> Result<Model> {
        ModelOptions::default().open(path)
    }

    /// Opens a model that is part of the program.
    ///
    /// # Errors
    /// As [`open`](Model::open).
    pub fn from_static(bytes: &'static [u8]) -> Result<Model> {
        ModelOptions::default().from_static(bytes)
    }

    /// Options, to be followed by [`open`](ModelOptions::open).
    pub fn options() -> ModelOptions {
        ModelOptions::default()
    }

    /// Tokens that a session of this model can hold.
    pub fn context(&self) -> usize {
        self.0.options.context.unwrap_or(0)
    }

    /// What the file recommends for sampling (`general.sampling.*`).
    pub fn sampling(&self) -> &Sampling {
        &self.0.sampling
    }

    /// What the user should hear once: a missing chat template, a setting that had to be guessed.
    pub fn notices(&self) -> &[String] {
        &self.0.notices
    }

    /// The architecture card: what was built, in a few lines.
    pub fn card(&self) -> String {
        String::new()
    }

    /// A new, empty session.
    ///
    /// # Errors
    /// [`Error::Memory`](crate::Error::Memory) where the cache does not fit.
    pub fn session(&self) -> Result<Session> {
        Err(later(0))
    }

    /// A new conversation. Its cache is allocated with the first message.
    pub fn chat(&self) -> Chat {
        Chat::new(self)
    }
}
