//! Scores where keys lie as values do, `[position][key_dim]`, because the values are the first channels of the keys (latent
//! attention): one copy of each number, and many query heads that look at it.
//!
//! ```text
//! lanes are query rows, P positions in registers      s[p][r] = Σ_d q[d][r] · k[p][d]           k[p][d] goes to all lanes
//! ```
//! Each score is the same chain of fma as with keys that lie across (`kernel.rs`): d ascending from 0.

use super::shape::BLOCK;
use crate::isa::{Isa, Op, Outlined};

/// Query rows that lie together, at a level of so many lanes.
pub(super) const fn rows_together(lanes: usize) -> usize {
    if lanes > 8 { lanes } else { 8 }
}

/// Channels that are worked on at a time: their queries stay in the first cache.
const DEPTH: usize = 256;

/// Scores of some query rows with the first positions of a block.
pub(super) struct RowScores<'a> {
    /// `[rows / together][key_dim][together]`
    pub(super) q: &'a [f32],
    /// `[64][pitch]`
    pub(super) k: &'a [f32],
    pub(super) pitch: usize,
    pub(super) key_dim: usize,
    /// The first position that is not wanted.
    pub(super) end: usize,
    /// `[rows][64]`
    pub(super) s: &'a mut [[f32; BLOCK]],
}

impl Op for RowScores<'_> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        match I::LANES {
            16 => isa.outline(Of::<16, 1>(self)),
            8 => isa.outline(Of::<8, 1>(self)),
            _ => isa.outline(Of::<8, 2>(self)),
        }
    }
}

/// G rows together, C vectors of them.
struct Of<'a, const G: usize, const C: usize>(RowScores<'a>);

impl<I: Isa, const G: usize, const C: usize> Outlined<I> for Of<'_, G, C> {
    #[inline(always)]
    fn run(self, isa: I) {
        let RowScores { q, k, pitch, key_dim, end, s } = self.0;
        for (q, s) in q.chunks_exact(key_dim * G).zip(s.chunks_mut(G)) {
            let q = q.as_chunks::<G>().0;
            let mut sums = [[0f32; G]; BLOCK];
            let mut from = 0;
            while from < key_dim {
                let to = (from + DEPTH).min(key_dim);
                let mut p = 0;
                while p < end {
                    match end - p {
                        12.. => p += dots::<I, G, C, 12>(isa, &q[from..to], &k[p * pitch + from..], pitch, &mut sums[p..]),
                        4.. => p += dots::<I, G, C, 4>(isa, &q[from..to], &k[p * pitch + from..], pitch, &mut sums[p..]),
                        _ => p += dots::<I, G, C, 1>(isa, &q[from..to], &k[p * pitch + from..], pitch, &mut sums[p..]),
                    }
                }
                from = to;
            }
            for (r, s) in s.iter_mut().enumerate() {
                for (s, sums) in s[..end].iter_mut().zip(&sums) {
                    *s = sums[r];
                }
            }
        }
    }
}

/// Adds the products of some channels to the sums of P positions, whose keys begin `pitch` apart: P.
#[inline(always)]
#[allow(clippy::needless_range_loop)] // p and c count registers
fn dots<I: Isa, const G: usize, const C: usize, const P: usize>(
    isa: I,
    q: &[[f32; G]],
    k: &[f32],
    pitch: usize,
    sums: &mut [[f32; G]],
) -> usize {
    let mut rows = [&[] as &[f32]; P];
    let mut acc = [[isa.zero(); C]; P];
    for p in 0..P {
        rows[p] = &k[p * pitch..][..q.len()];
        for c in 0..C {
            acc[p][c] = isa.load(&sums[p][c * I::LANES..]);
        }
    }
    for (d, q) in q.iter().enumerate() {
        let mut queries = [isa.zero(); C];
        for c in 0..C {
            queries[c] = isa.load(&q[c * I::LANES..]);
        }
        for p in 0..P {
            let key = isa.splat(rows[p][d]);
            for c in 0..C {
                acc[p][c] = isa.fma(queries[c], key, acc[p][c]);
            }
        }
    }
    for p in 0..P {
        for c in 0..C {
            isa.store(acc[p][c], &mut sums[p][c * I::LANES..]);
        }
    }
    P
}
