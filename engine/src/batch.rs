//! A step's work: a ragged batch of tokens, each with its sequence and position.
//!
//! One sequence with one token is decode, one sequence with many is prefill, many sequences are a server's step, and a
//! draft to be checked is a run whose rows all want logits. They are all the same call.

use crate::tokenizer::Token;
use smallvec::SmallVec;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether a token's row of logits is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Logits {
    /// Only its keys and values are.
    Skip,
    /// The step returns its row, in batch order.
    Want,
}

/// One token of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its id.
    pub token: Token,
    /// Which of the step's caches it belongs to. The tokens of a sequence stand together.
    pub sequence: u32,
    /// Its absolute position, which continues its cache.
    pub position: u32,
    /// Whether its logits are wanted.
    pub logits: Logits,
}

/// Something for each sequence of a step: up to eight without allocating.
pub(crate) type Few<T> = SmallVec<[T; 8]>;

/// The tokens of one sequence in a batch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run {
    pub(crate) sequence: usize,
    /// Number of the first in the batch.
    pub(crate) first: usize,
    pub(crate) tokens: usize,
    /// Of the first in the sequence.
    pub(crate) position: usize,
}

impl Run {
    /// The runs of a batch, in its order, in place of what `runs` holds.
    pub(crate) fn all(batch: &[Entry], runs: &mut Vec<Run>) {
        runs.clear();
        for (first, entry) in batch.iter().enumerate() {
            let (sequence, position) = (entry.sequence as usize, entry.position as usize);
            match runs.last_mut() {
                Some(run) if run.sequence == sequence => run.tokens += 1,
                Some(_) | None => runs.push(Run { sequence, first, tokens: 1, position }),
            }
        }
    }
}

/// Stops work from another thread: a step that is under way ends with [`Error::Cancelled`](crate::Error::Cancelled)
/// within a fraction of a matrix product. Clones are one and the same switch.
#[derive(Clone, Debug, Default)]
pub struct Canceller(Arc<AtomicBool>);

impl Canceller {
    /// A switch that is off.
    pub fn new() -> Canceller {
        Canceller::default()
    }

    /// Stops the work that watches this switch.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether [`cancel`](Canceller::cancel) was called.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Turns the switch off again, before the next piece of work.
    pub fn clear(&self) {
        self.0.store(false, Ordering::Relaxed);
    }

    /// The flag itself, for the kernels.
    pub(crate) fn flag(&self) -> &AtomicBool {
        &self.0
    }
}
