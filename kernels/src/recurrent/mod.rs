//! Recurrences: what a sequence is remembered by has the same size however long it is.
//!
//! ```text
//! conv     y[t] = act(b + Σ w[i]·x[t - taps + 1 + i])                          each channel by itself
//! scan     S = a·S + k ⊗ (dt·v)                 y = qᵀS + skip·v               Mamba-2 (Dao & Gu 2024): q, k, v = C, B, x
//! delta    S = a·S + k ⊗ β(v - kᵀ(a·S))         y = qᵀS                        gated delta rule (Yang et al. 2024); a for each
//!                                                                              head, or for each of its keys (Kimi Linear 2025)
//! ```
//! S is a matrix `[keys, values]` a head. Columns of S never meet, so lanes are values, threads are heads, and the sums run
//! over keys, ascending, in one fma chain; to the bit it is written in [`crate::naive::recurrent`].

mod conv;
mod heads;
mod steps;

pub use conv::{Conv, MOST_TAPS, conv};
pub use heads::{delta, scan};
pub use steps::{decays, time_steps};

pub use crate::attention::AllocError;

use crate::Floats;
use smallvec::SmallVec;
use zerocopy::IntoBytes;

/// Lanes of a call that allocates nothing.
const FEW: usize = 4;

/// Columns of S that lie together: a head's `[values / 32][keys][32]`, the last filled up with zeros. So what one pass works
/// on, 16 KB with 128 keys, stays in the first cache.
const PANEL: usize = 32;

/// Which key head a head reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KeyHeads {
    /// Neighbouring heads share one.
    Grouped,
    /// Heads go through them again and again.
    Tiled,
}

/// What the heads of a layer look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Heads of q and k.
    pub key_heads: usize,
    /// Heads of v: a multiple of them.
    pub heads: usize,
    /// Width of a head of q and k.
    pub keys: usize,
    /// Width of a head of v.
    pub values: usize,
    /// Which of the key heads each head reads.
    pub order: KeyHeads,
}

impl Shape {
    /// The key head that `head` reads.
    pub fn key_head(&self, head: usize) -> usize {
        match self.order {
            KeyHeads::Grouped => head / (self.heads / self.key_heads),
            KeyHeads::Tiled => head % self.key_heads,
        }
    }
}

/// Queries, keys and values of some tokens.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// `[tokens, key_heads, keys]`.
    pub q: &'a [f32],
    /// `[tokens, key_heads, keys]`.
    pub k: &'a [f32],
    /// `[tokens, heads, values]`.
    pub v: &'a [f32],
}

/// How large a [`State`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateSize {
    /// Channels of the layer's convolutions.
    pub channels: usize,
    /// Earlier inputs that a convolution looks at: its taps less one.
    pub past: usize,
    /// Heads.
    pub heads: usize,
    /// Rows of a head's matrix.
    pub keys: usize,
    /// Its columns.
    pub values: usize,
}

impl StateSize {
    /// Bytes of a [`State`] of this size.
    pub fn bytes(&self) -> u64 {
        let memory = self.heads as u64 * self.keys as u64 * self.values.next_multiple_of(PANEL) as u64;
        4 * (memory + self.channels as u64 * self.past as u64)
    }
}

/// What one layer remembers of one sequence.
#[derive(Debug)]
pub struct State {
    size: StateSize,
    /// The last inputs of the convolutions, `[past, channels]` for each of them.
    past: Floats,
    /// `[heads][values / PANEL][keys][PANEL]`.
    memory: Floats,
}

impl State {
    /// The memory of nothing.
    ///
    /// # Errors
    /// Where there is no room for it.
    pub fn new(size: StateSize) -> Result<State, AllocError> {
        let head = size.values.checked_next_multiple_of(PANEL).and_then(|columns| columns.checked_mul(size.keys));
        let memory = head.and_then(|n| n.checked_mul(size.heads)).ok_or(AllocError { bytes: None })?;
        let past = size.channels.checked_mul(size.past).ok_or(AllocError { bytes: None })?;
        Ok(State { size, past: Floats::zeros(past)?, memory: Floats::zeros(memory)? })
    }

    /// A second one with the same content.
    ///
    /// # Errors
    /// Where there is no room for it.
    pub fn copy(&self) -> Result<State, AllocError> {
        Ok(State { size: self.size, past: self.past.copy()?, memory: self.memory.copy()? })
    }

    /// Bytes it holds.
    pub fn bytes(&self) -> usize {
        4 * (self.past.len() + self.memory.len())
    }

    /// Appends it to `out`, as it is.
    pub fn save(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.past.as_bytes());
        out.extend_from_slice(self.memory.as_bytes());
    }

    /// Takes up what [`save`](State::save) wrote.
    ///
    /// # Panics
    /// If it is of another size.
    pub fn load(&mut self, bytes: &[u8]) {
        let (past, memory) = bytes.split_at(4 * self.past.len());
        self.past.as_mut_bytes().copy_from_slice(past);
        self.memory.as_mut_bytes().copy_from_slice(memory);
    }

    /// The convolutions begin anew.
    pub fn clear_past(&mut self) {
        self.past.fill(0.0);
    }

    /// The heads begin anew.
    pub fn clear_memory(&mut self) {
        self.memory.fill(0.0);
    }
}

/// A run of consecutive tokens of one sequence.
#[derive(Debug)]
pub struct Lane<'a> {
    /// What came before them.
    pub state: &'a mut State,
    /// Number of tokens.
    pub tokens: usize,
    /// After how many of them, ascending, a state is to be what `state` is by then.
    pub marks: Vec<(usize, &'a mut State)>,
}

impl<'a> Lane<'a> {
    /// So many tokens without a mark among them.
    pub fn new(state: &'a mut State, tokens: usize) -> Lane<'a> {
        Lane { state, tokens, marks: Vec::new() }
    }
}

/// Where each lane's tokens begin, and how many there are in all.
fn starts(lanes: &[Lane<'_>]) -> (SmallVec<[usize; FEW]>, usize) {
    let mut all = 0;
    let starts = lanes.iter().map(|lane| {
        let start = all;
        all += lane.tokens;
        start
    });
    (starts.collect(), all)
}
