//! Session: tokens in, tokens out. A [`Session`] is one conversation's cache over a shared model; a [`Generator`] is the
//! iterator that continues it.
//!
//! ```text
//! tokens  t0 t1 … t255 | t256 … t511 | … tn          feed: micro-batches; logits of the last token only
//! cache   ─────────────────────────────────▶ tn       generate: sample tn+1, hand it out, compute it when asked for more
//! ```
//!
//! The cache is a prefix of the tokens: what it lacks is computed when logits are next needed. So a token that was handed
//! out just before a cancel is not lost, and nothing is computed that no one asks for.

pub use crate::batch::Canceller;
use crate::batch::{Entry, Logits};
use crate::cache::Cache;
use crate::error::{Error, Fault, Result};
use crate::model::Model;
pub use crate::model::Speculation;
use crate::sampler::Sampler;
pub use crate::stats::Stats;
use crate::tokenizer::Token;
pub(crate) use course::Course;
pub use end::EndReason;
pub use iterate::{Generator, Pieces};
use keep::Known;
pub use marks::Mark;
use marks::Marks;
pub(crate) use marks::most_bytes_of_marks;
use speculate::Speculator;
use std::path::Path;
use std::time::Instant;

mod course;
pub(crate) mod end;
mod iterate;
mod keep;
mod marks;
mod speculate;
mod turn;
mod watch;

/// Logits held at once while every position's are asked for, in bytes.
const LOGITS_AT_ONCE: usize = 32 << 20;

/// One conversation's state over a shared [`Model`]: the tokens so far and their cache.
///
/// ```
/// use hob::{Model, Sampler, Sampling};
/// # let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/tiny.gguf");
/// let model = Model::open(path)?;
/// let mut session = model.session()?;
/// session.feed(&[1, 2, 3])?;
/// let sampler = Sampler::new(&Sampling::greedy())?;
/// let next = session.generate(sampler).max_tokens(4).ignore_end().collect::<hob::Result<Vec<_>>>()?;
/// assert_eq!(next.len(), 4);
/// assert_eq!(session.len(), 7);
/// # Ok::<(), hob::Error>(())
/// ```
pub struct Session {
    model: Model,
    cache: Cache,
    /// Lengths to come back to where the cache cannot be cut back.
    marks: Marks,
    /// What others can know of it.
    known: Known,
    /// The tokens so far; the cache holds a prefix of them.
    tokens: Vec<Token>,
    /// The logits after the last token; empty where they are not known.
    logits: Vec<f32>,
    /// A copy for the sampler to work on.
    scratch: Vec<f32>,
    stop: Canceller,
    stats: Stats,
    speculator: Speculator,
}

impl Model {
    /// A new, empty session.
    ///
    /// # Errors
    /// [`Error::Memory`] where the cache does not fit.
    pub fn session(&self) -> Result<Session> {
        Session::new(self, Canceller::default())
    }

    /// The session in a file that [`Session::save`] wrote: its tokens need not be computed again.
    ///
    /// # Errors
    /// [`Error::Io`] where it cannot be read, [`Error::Input`] where it is none, is damaged, is of another model or was computed in another
    /// way (cache types, version of hob), or does not fit into the context; [`Error::Memory`] where the cache does not fit.
    pub fn load_session(&self, path: impl AsRef<Path>) -> Result<Session> {
        Session::read(self, path.as_ref())
    }
}

impl Session {
    pub(crate) fn new(model: &Model, stop: Canceller) -> Result<Session> {
        model.read_ahead();
        let cache = model.run().cache(model.cache_options())?;
        let stats = Stats { weight_bytes: model.run().weights_read().bytes, ..Stats::default() };
        let speculator = Speculator::new(model.speculation())?;
        Ok(Session {
            model: model.clone(),
            cache,
            marks: Marks::default(),
            known: Known::default(),
            tokens: Vec::new(),
            logits: Vec::new(),
            scratch: Vec::new(),
            stop,
            stats,
            speculator,
        })
    }

    /// Appends tokens and computes them, in micro-batches. Afterwards [`logits`](Session::logits) are those after the last.
    ///
    /// # Errors
    /// [`Error::Input`] where they do not fit into the context, and nothing is changed; [`Error::Cancelled`], and what was computed
    /// until then stays, where the model's cache can keep it.
    pub fn feed(&mut self, tokens: &[Token]) -> Result<()> {
        self.append(tokens, |session| {
            session.recall();
            session.mark_the_end();
            while session.cache.len() < session.tokens.len() {
                let most = session.next_step(session.micro_batch());
                session.step(most, Logits::Skip)?;
            }
            Ok(())
        })?;
        self.keep_in_memory();
        Ok(())
    }

    /// Appends tokens and hands the logits of each of them to `sink`, in order.
    ///
    /// # Errors
    /// As [`feed`](Session::feed), and what `sink` returns.
    pub fn logits_of_all(&mut self, tokens: &[Token], mut sink: impl FnMut(&[f32]) -> Result<()>) -> Result<()> {
        let vocabulary = self.model.config().vocab.max(1);
        let at_once = self.micro_batch().min(LOGITS_AT_ONCE / (4 * vocabulary)).max(1);
        self.append(tokens, |session| {
            // What an earlier generation left to be computed is not among those asked for.
            let asked = session.tokens.len() - tokens.len();
            while session.cache.len() < asked {
                session.step((asked - session.cache.len()).min(at_once), Logits::Skip)?;
            }
            while session.cache.len() < session.tokens.len() {
                session.step(at_once, Logits::Want)?;
                for row in session.logits.chunks_exact(vocabulary) {
                    sink(row)?;
                }
            }
            // Only the last row is those after the last token.
            let before = session.logits.len().saturating_sub(vocabulary);
            session.logits.drain(..before);
            Ok(())
        })
    }

    /// Appends `tokens`, computes by way of `compute`, and takes back what was appended and not computed where that fails.
    fn append(&mut self, tokens: &[Token], compute: impl FnOnce(&mut Session) -> Result<()>) -> Result<()> {
        self.settle()?;
        let (before, room) = (self.tokens.len(), self.capacity() - self.tokens.len());
        if tokens.len() > room {
            let expected = format!("at most {room} tokens in what is left of a context of {}", self.capacity());
            let help = "shorten the prompt, or open the model with a larger context";
            return Err(Error::Input(Fault::at("prompt").expected(expected).found(format!("{} tokens", tokens.len())).help(help)));
        }
        if tokens.is_empty() {
            return Ok(());
        }
        let (start, computed, earlier) = (Instant::now(), self.cache.len(), self.stats);
        self.tokens.extend_from_slice(tokens);
        let done = compute(self);
        let restored = self.stats.restored() - earlier.restored();
        self.stats.prompt_time += start.elapsed().saturating_sub(self.stats.restore_time - earlier.restore_time);
        self.stats.prompt_tokens += self.cache.len().saturating_sub(computed + restored);
        if let Err(error) = &done {
            self.logits.clear();
            self.tokens.truncate(before.max(self.cache.len()));
            self.noticed(error);
        }
        done
    }

    /// Computes the next `most` of the tokens that the cache lacks; the last of all of them always with logits, the others as `rows` says.
    fn step(&mut self, most: usize, rows: Logits) -> Result<()> {
        let start = self.cache.len();
        let end = self.tokens.len().min(start + most);
        let last = self.tokens.len() - 1;
        let entry = |position: usize| {
            let logits = if position == last { Logits::Want } else { rows };
            Entry { token: self.tokens[position], sequence: 0, position: position as u32, logits }
        };
        let batch: Vec<Entry> = (start..end).map(entry).collect();
        self.take_marks(end);
        self.logits.clear();
        let begun = Instant::now();
        let done = self.model.run().step(&batch, &mut [&mut self.cache], &self.stop, &mut self.logits);
        if done.is_err() {
            self.logits.clear();
            if self.cache.sound().is_err() {
                self.cut(self.cache.len())?;
            }
        }
        if done.is_ok() {
            self.take_kept(start);
            self.known.paced(end - start, begun.elapsed());
        }
        done
    }

    /// A cancel has done its work: the next piece of work is not to end by it.
    fn noticed(&self, error: &Error) {
        if matches!(error, Error::Cancelled) {
            self.stop.clear();
        }
    }

    fn micro_batch(&self) -> usize {
        self.model.micro_batch()
    }

    /// The logits after the last token; empty where they have not been computed.
    pub fn logits(&self) -> &[f32] {
        match self.row_ahead() {
            Some(row) => row,
            None if self.cache.len() == self.tokens.len() => &self.logits,
            None => &[],
        }
    }

    /// The tokens so far.
    pub fn tokens(&self) -> &[Token] {
        &self.tokens
    }

    /// How many tokens there are.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// How many tokens fit.
    pub fn capacity(&self) -> usize {
        self.cache.capacity()
    }

    /// Bytes that the cache takes when full.
    pub fn cache_bytes(&self) -> u64 {
        self.cache.bytes()
    }

    /// Forgets all but the first `len` tokens; nothing where there are no more. A cache that cannot be cut back there goes back
    /// further, and what it then lacks is computed when it is needed.
    ///
    /// # Errors
    /// [`Error::Memory`] where there is no room to go back.
    pub fn truncate(&mut self, len: usize) -> Result<()> {
        self.settle()?;
        if len >= self.tokens.len() {
            return Ok(());
        }
        // Where no more is cut off than has not been computed yet, the logits are those after the last token again.
        if len < self.cache.len() {
            self.cut(len)?;
            self.logits.clear();
        }
        self.tokens.truncate(len);
        Ok(())
    }

    /// Forgets everything.
    ///
    /// # Errors
    /// Where the cache cannot be emptied.
    pub fn clear(&mut self) -> Result<()> {
        self.truncate(0)
    }

    /// A second session that goes on from here, with a canceller of its own.
    ///
    /// # Errors
    /// [`Error::Memory`] where there is no room for a second cache.
    pub fn fork(&self) -> Result<Session> {
        let mut cache = self.cache.fork()?;
        // What was computed on trial stays behind.
        if cache.len() > self.tokens.len() && cache.truncate(self.tokens.len()).is_err() {
            cache.truncate(0)?;
        }
        Ok(Session {
            model: self.model.clone(),
            cache,
            marks: Marks::default(),
            known: self.known.forked(),
            tokens: self.tokens.clone(),
            logits: self.logits().to_vec(),
            scratch: Vec::new(),
            stop: Canceller::default(),
            stats: self.stats,
            speculator: Speculator::new(self.model.speculation())?,
        })
    }

    /// What stops this session's work from another thread. A cancel ends one piece of work: the one under way, or else the next.
    pub fn canceller(&self) -> Canceller {
        self.stop.clone()
    }

    /// The model.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// What has been computed since the session began or [`reset_stats`](Session::reset_stats) was called.
    pub fn stats(&self) -> Stats {
        self.stats
    }

    /// Starts counting anew.
    pub fn reset_stats(&mut self) {
        self.stats = Stats { weight_bytes: self.stats.weight_bytes, ..Stats::default() };
    }

    /// How many of the tokens need not be computed again; the others are computed when logits are next needed.
    pub fn computed(&self) -> usize {
        self.cache.len().min(self.tokens.len())
    }

    pub(crate) fn count_reused(&mut self, tokens: usize) {
        self.stats.reused_tokens += tokens;
    }

    /// Continues the tokens so far: an iterator over new ones. Every token it gives is part of the session. The sampler
    /// counts the tokens so far as said.
    pub fn generate(&mut self, mut sampler: Sampler) -> Generator<'_> {
        sampler.vocabulary(self.model.tokenizer());
        self.tokens.iter().for_each(|token| sampler.accept(*token));
        Generator { session: self, sampler, course: Course::new(usize::MAX) }
    }

    /// Computes what the cache lacks, so that the logits after the last token are there; at most `room` tokens more will come.
    fn compute(&mut self, room: usize) -> Result<()> {
        if self.stop.is_cancelled() {
            return Err(Error::Cancelled);
        }
        if self.tokens.is_empty() {
            return Err(Error::Input(
                Fault::at("generation").expected("at least one token to continue").found("none").help("feed a prompt first"),
            ));
        }
        if self.take_ahead() {
            return Ok(());
        }
        // After a cut, the last token is computed once more for its logits.
        if self.logits().is_empty() && self.cache.len() == self.tokens.len() {
            self.cut(self.tokens.len() - 1)?;
        }
        if self.compute_ahead(room)? {
            return Ok(());
        }
        while self.cache.len() < self.tokens.len() {
            self.step(self.micro_batch(), Logits::Skip)?;
            self.stats.steps += 1;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
