//! Session: tokens in, tokens out. A [`Session`] is one conversation's cache over a shared model; a [`Generator`] is the
//! iterator that continues it.

pub use crate::batch::Canceller;
use crate::error::{Error, Fault, Result};
use crate::model::Model;
use crate::sampler::Sampler;
use std::fmt;
use std::time::Duration;

/// A token's id.
type Token = u32;

/// Why a generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EndReason {
    /// The model ended its turn.
    EndOfTurn,
    /// The limit of tokens was reached.
    MaxTokens,
    /// The context is full.
    ContextFull,
    /// A canceller stopped it.
    Cancelled,
}

impl fmt::Display for EndReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            EndReason::EndOfTurn => "end of turn",
            EndReason::MaxTokens => "token limit reached",
            EndReason::ContextFull => "context full",
            EndReason::Cancelled => "cancelled",
        })
    }
}

/// What a generation cost. `Display` gives `412 tok at 380/s · 96 tok at 21.4/s · 51 GB/s`: the prompt, the reply, and the
/// weights read per second while replying.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Stats {
    /// Prompt tokens computed.
    pub prompt_tokens: usize,
    /// Prompt tokens that the cache already held.
    pub reused_tokens: usize,
    /// Time that the prompt took.
    pub prompt_time: Duration,
    /// Tokens generated.
    pub generated_tokens: usize,
    /// Time that they took, without the prompt.
    pub generate_time: Duration,
    /// Weight bytes read for a token.
    pub weight_bytes: u64,
}

/// One conversation's state over a shared [`Model`]: the tokens so far and their cache.
pub struct Session {
    model: Model,
}

impl Session {
    /// Appends tokens and computes them, in micro-batches.
    ///
    /// # Errors
    /// [`Error::Input`] where they do not fit into the context (nothing is changed then); [`Error::Cancelled`].
    pub fn feed(&mut self, tokens: &[Token]) -> Result<()> {
        Err(later(tokens.len()))
    }

    /// Appends tokens and hands the logits of each of them to `sink`, in order.
    ///
    /// # Errors
    /// As [`feed`](Session::feed), and what `sink` returns.
    pub fn logits_of_all(&mut self, tokens: &[Token], _sink: impl FnMut(&[f32]) -> Result<()>) -> Result<()> {
        Err(later(tokens.len()))
    }

    /// The logits after the last token fed; empty before the first.
    pub fn logits(&self) -> &[f32] {
        &[]
    }

    /// The tokens so far.
    pub fn tokens(&self) -> &[Token] {
        &[]
    }

    /// How many tokens there are.
    pub fn len(&self) -> usize {
        self.tokens().len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.tokens().is_empty()
    }

    /// How many tokens fit.
    pub fn capacity(&self) -> usize {
        0
    }

    /// Bytes of the cache.
    pub fn cache_bytes(&self) -> u64 {
        0
    }

    /// Forgets all but the first `len` tokens.
    ///
    /// # Errors
    /// Where the model's cache cannot go back.
    pub fn truncate(&mut self, len: usize) -> Result<()> {
        Err(later(len))
    }

    /// Forgets everything.
    ///
    /// # Errors
    /// Where the cache cannot be emptied.
    pub fn clear(&mut self) -> Result<()> {
        self.truncate(0)
    }

    /// A second session that goes on from here.
    ///
    /// # Errors
    /// [`Error::Memory`].
    pub fn fork(&self) -> Result<Session> {
        Err(later(0))
    }

    /// What stops this session's work from another thread.
    pub fn canceller(&self) -> Canceller {
        Canceller::default()
    }

    /// The model.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// What has been computed since the session began or [`reset_stats`](Session::reset_stats) was called.
    pub fn stats(&self) -> Stats {
        Stats::default()
    }

    /// Starts counting anew.
    pub fn reset_stats(&mut self) {}

    /// Continues the tokens so far: an iterator over new ones. Every token it gives is part of the session.
    pub fn generate(&mut self, sampler: Sampler) -> Generator<'_> {
        Generator { session: self, sampler, ends: Ends::Stop, max_tokens: usize::MAX, end: None }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ends {
    Stop,
    Ignore,
}

/// Tokens, one after another, until the model ends its turn, a limit is reached or a canceller stops it; then
/// [`end`](Generator::end) says which.
pub struct Generator<'a> {
    session: &'a mut Session,
    sampler: Sampler,
    ends: Ends,
    max_tokens: usize,
    end: Option<EndReason>,
}

impl Generator<'_> {
    /// Ends after `n` tokens.
    pub fn max_tokens(mut self, n: usize) -> Self {
        self.max_tokens = n;
        self
    }

    /// Goes on after end-of-generation tokens, which are then given like any other.
    pub fn ignore_end(mut self) -> Self {
        self.ends = Ends::Ignore;
        self
    }

    /// Why it ended; `None` while it has not.
    pub fn end(&self) -> Option<EndReason> {
        self.end
    }

    /// What stops it from another thread.
    pub fn canceller(&self) -> Canceller {
        self.session.canceller()
    }

    /// What has been computed so far.
    pub fn stats(&self) -> Stats {
        self.session.stats()
    }
}

impl Iterator for Generator<'_> {
    type Item = Result<Token>;

    fn next(&mut self) -> Option<Result<Token>> {
        let _ = (&self.sampler, self.ends, self.max_tokens);
        Some(Err(later(0)))
    }
}

pub(crate) fn later(_: usize) -> Error {
    Error::Unsupported(Fault::at("generation").found("not built yet"))
}

impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rate = |n: usize, time: Duration| if n == 0 { 0.0 } else { n as f64 / time.as_secs_f64().max(1e-9) };
        let (prompt, reply) = (rate(self.prompt_tokens, self.prompt_time), rate(self.generated_tokens, self.generate_time));
        let bandwidth = reply * self.weight_bytes as f64 / 1e9;
        write!(
            f,
            "{} tok at {}/s · {} tok at {}/s · {} GB/s",
            self.prompt_tokens,
            Rate(prompt),
            self.generated_tokens,
            Rate(reply),
            Rate(bandwidth)
        )
    }
}

/// Three figures, as one reads them: 380, 21.4, 0.52.
struct Rate(f64);

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            r if r >= 99.95 => write!(f, "{r:.0}"),
            r if r >= 9.995 => write!(f, "{r:.1}"),
            r => write!(f, "{r:.2}"),
        }
    }
}
