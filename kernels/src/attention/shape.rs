//! What an attention is told: how positions are counted, and what stays the same over a layer.

/// Positions of a block.
pub const BLOCK: usize = 64;
/// Positions of a chunk.
pub const CHUNK: usize = 1024;

/// Which of the earlier positions a query sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Window {
    /// All of them.
    None,
    /// The last n, its own among them: at p, positions `max(0, p - n + 1) ..= p`.
    Sliding(usize),
    /// Those of its own chunk of n: at p, positions `p - p mod n ..= p` (Llama 4).
    Chunked(usize),
}

impl Window {
    /// The first position that a query at `position` sees.
    pub fn first(self, position: usize) -> usize {
        match self {
            Window::None => 0,
            Window::Sliding(n) => (position + 1).saturating_sub(n),
            Window::Chunked(n) => position - position % n,
        }
    }

    /// Positions that a query sees at most; `None` where there is no limit.
    pub fn reach(self) -> Option<usize> {
        match self {
            Window::None => None,
            Window::Sliding(n) | Window::Chunked(n) => Some(n),
        }
    }
}

/// What stays the same over a layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Attend<'a> {
    /// Query heads; a multiple of the store's heads.
    pub heads: usize,
    /// Queries are multiplied by it.
    pub scale: f32,
    /// Scores become `cap · tanh(score / cap)`.
    pub softcap: Option<f32>,
    /// What a query sees.
    pub window: Window,
    /// `[heads]`: a score that takes part in the softmax and brings no value (Xiao et al. 2023; gpt-oss).
    pub sinks: Option<&'a [f32]>,
}
