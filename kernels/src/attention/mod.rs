//! Attention of queries over cached keys and values.
//!
//! What it computes, to the bit, is written in [`crate::naive::attention`]: blocks of 64 and chunks of 1024 positions, counted
//! from position 0 of the sequence, fix the order of every sum. So the answer does not depend on how a context was fed, on
//! what else is in the batch, or on how many threads share a head.

mod store;

pub use store::{AllocError, KvStore, KvType};

use crate::Cpu;
use crate::naive::attention::Context;
use crate::pool::Disjoint;

/// Which of the earlier positions a query sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Window {
    /// All of them.
    None,
    /// The last n, its own among them: at p, positions `max(0, p - n + 1) ..= p`.
    Sliding(usize),
}

/// What stays the same over a layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Attend {
    /// Query heads; a multiple of the store's heads.
    pub heads: usize,
    /// Queries are multiplied by it.
    pub scale: f32,
    /// Scores become `cap · tanh(score / cap)`.
    pub softcap: Option<f32>,
    /// What a query sees.
    pub window: Window,
}

/// A run of consecutive tokens of one sequence, whose keys and values are in the store already.
#[derive(Clone, Copy, Debug)]
pub struct Lane<'a> {
    /// Keys and values of the sequence.
    pub store: &'a KvStore,
    /// Position of the first query.
    pub position: usize,
    /// Number of queries.
    pub tokens: usize,
}

/// Attention of q `[tokens, heads, key_dim]`, the lanes' tokens one after the other, to out `[tokens, heads, value_dim]`.
///
/// # Panics
/// If shapes do not fit together or a lane goes beyond its store.
pub fn attend(cpu: Cpu<'_>, attend: &Attend, q: &[f32], lanes: &[Lane<'_>], out: &mut [f32]) {
    let Some(first) = lanes.first() else { return };
    let (key_dim, value_dim) = (first.store.key_dim(), first.store.value_dim());
    let mut starts = Vec::new();
    let mut tokens = 0;
    for lane in lanes {
        let (store, end) = (lane.store, lane.position + lane.tokens);
        assert!(store.key_dim() == key_dim && store.value_dim() == value_dim, "stores of different shapes");
        assert!(end <= store.capacity(), "positions up to {end} of {}", store.capacity());
        assert!(attend.heads % store.kv_heads() == 0, "{} heads over {}", attend.heads, store.kv_heads());
        for i in 0..lane.tokens {
            starts.push((lane, i));
        }
        tokens += lane.tokens;
    }
    assert!(q.len() == tokens * attend.heads * key_dim && out.len() == tokens * attend.heads * value_dim, "{tokens} queries");
    let width = attend.heads * value_dim;
    let rows = Disjoint::new(out, width, width);
    cpu.parallel(tokens, &|t| {
        let (lane, i) = starts[t];
        let at = lane.position + i;
        let (k, v) = lane.store.read(at + 1);
        let context = Context { k: &k, v: &v, kv_heads: lane.store.kv_heads(), key_dim, value_dim };
        let q = &q[t * attend.heads * key_dim..][..attend.heads * key_dim];
        crate::naive::attention::attend(attend, context, q, at, rows.take(t..t + 1, 0).row(0));
    });
}
