//! Attention over the positions of a window and over entries that stand for many positions each, of which a query looks at
//! some only (DeepSeek-V4: compressed sparse and heavily compressed attention).
//!
//! ```text
//! positions   as ever, by absolute position                                            (m, l, o)
//! entries     those chosen for the query, in ascending order, as the positions of a context of their own      (m, l, o)
//! then the entries' state merges into the positions', and the sink comes last
//! ```

use super::call::{Lane, Tile, Work};
use super::pages::{Numbers, each};
use super::shape::{Attend, BLOCK};
use super::shared::{RowScores, rows_together};
use super::store::KvStore;
use super::stored::{Layout, Stored, Widen};
use super::turn::Turn;
use crate::Cpu;
use crate::isa::{lanes, vectorize};
use crate::pool::Disjoint;

/// Attention of q `[tokens, heads, key_dim]` over the lane's store and over `chosen[token]` of `entries`; both stores hold values
/// in their keys. Writes out `[tokens, heads, value_dim]`.
///
/// # Panics
/// If shapes do not fit together.
pub fn attend_joined(
    cpu: Cpu<'_>,
    attend: &Attend<'_>,
    q: &[f32],
    lane: Lane<'_>,
    entries: &KvStore,
    chosen: &[Vec<u32>],
    out: &mut [f32],
) {
    let Some(mut work) = Work::new(attend, q, &[lane], cpu.threads()) else { return };
    assert!(lane.store.is_shared() && entries.shape() == lane.store.shape(), "stores of different shapes");
    assert!(entries.types() == lane.store.types(), "stores of different types");
    assert!(chosen.len() == lane.tokens, "a choice for each query");
    (work.group, work.panels) = (attend.heads, 1);
    let width = attend.heads * work.value_dim;
    let rows = Disjoint::new(out, width, width);
    cpu.parallel(lane.tokens, &|t| {
        let tile = Tile::new(lane.store, attend.window, lane.position + t, t, 1);
        tile.joined(cpu, &work, entries, &chosen[t], rows.take(t..t + 1, 0));
    });
}

impl KvStore {
    /// Keys of some positions as f32, one after the other.
    pub(super) fn gather(&self, level: crate::Level, positions: &[u32], to: &mut [f32]) {
        let dim = self.key_dim();
        each!(&self.k, x: S => {
            let (pitch, units) = (S::pitch(dim), S::units(dim) * BLOCK);
            let mut rows = vec![0.0; pitch * BLOCK + 16];
            for (position, to) in positions.iter().zip(to.chunks_exact_mut(dim)) {
                let (block, p) = (*position as usize / BLOCK, *position as usize % BLOCK);
                let block = &x.from(block * units)[..units];
                vectorize(level, Widen::<S> { block, dim, layout: Layout::Along, positions: p..p + 1, to: &mut rows });
                to.copy_from_slice(&rows[p * pitch..][..dim]);
            }
        });
    }
}

/// What each query looks at: the best `most` of the entries that it may see (the lightning indexer of DeepSeek-V3.2).
#[derive(Clone, Copy, Debug)]
pub struct Index<'a> {
    /// `[tokens, heads, key_dim]`
    pub q: &'a [f32],
    /// `[tokens, heads]`
    pub weights: &'a [f32],
    /// Index heads.
    pub heads: usize,
    /// Entries to choose.
    pub most: usize,
}

/// For query t, of the entries `0..visible[t]` those with the greatest `Σ weight[h] · max(q[h] · k, 0)` (h ascending, from 0, fused;
/// products as scores of attention are), of equals the first; ascending.
///
/// # Panics
/// If shapes do not fit together.
pub fn choose(cpu: Cpu<'_>, index: &Index<'_>, store: &KvStore, visible: &[usize], chosen: &mut Vec<Vec<u32>>) {
    let (dim, heads) = (store.key_dim(), index.heads);
    assert!(index.q.len() == visible.len() * heads * dim && index.weights.len() == visible.len() * heads, "{} queries", visible.len());
    chosen.clear();
    chosen.resize_with(visible.len(), Vec::new);
    let together = rows_together(lanes(cpu.level));
    cpu.parallel_chunks(chosen, 1, &|t, chosen| {
        let n = visible[t];
        let order = &mut chosen[0];
        order.extend(0..n as u32);
        if n <= index.most {
            return;
        }
        let (q, weights) = (&index.q[t * heads * dim..][..heads * dim], &index.weights[t * heads..][..heads]);
        let padded = heads.next_multiple_of(together);
        let mut packed = vec![0.0; padded * dim];
        let mut turned = q.to_vec();
        vectorize(cpu.level, Turn { x: &mut turned, n: store.turned().0 });
        for (h, q) in turned.chunks_exact(dim).enumerate() {
            for (d, q) in q.iter().enumerate() {
                packed[(h / together * dim + d) * together + h % together] = *q;
            }
        }
        let (mut keys, mut s, mut scores) = (vec![0.0; BLOCK * dim], vec![[0.0; BLOCK]; heads], vec![0.0; n]);
        for block in 0..n.div_ceil(BLOCK) {
            let end = (n - block * BLOCK).min(BLOCK);
            store.gather(cpu.level, &order[block * BLOCK..][..end], &mut keys);
            vectorize(cpu.level, RowScores { q: &packed, k: &keys, pitch: dim, key_dim: dim, end, s: &mut s });
            for (p, score) in scores[block * BLOCK..][..end].iter_mut().enumerate() {
                *score = s.iter().zip(weights).fold(0.0, |sum, (s, w)| w.mul_add(crate::naive::max(s[p], 0.0), sum));
            }
        }
        order.sort_by(|a, b| scores[*b as usize].total_cmp(&scores[*a as usize])); // stable: the first of equals stays first
        order.truncate(index.most);
        order.sort_unstable();
    });
}
