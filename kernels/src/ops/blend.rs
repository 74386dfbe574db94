//! Several rows to one, each channel by weights of its own: how compressed attention makes one entry of many positions
//! (DeepSeek-V4, 2026).

use super::math;
use crate::Level;
use crate::isa::{Isa, Op, vectorize};

/// `out[d] = Σ softmax(scores[..][d])[i] · rows[i][d]`; see [`crate::naive::ops::blend`].
///
/// # Panics
/// If there are no rows, or not as many scores, or they are shorter than `out`.
pub fn blend(level: Level, rows: &[&[f32]], scores: &[&[f32]], out: &mut [f32]) {
    assert!(!rows.is_empty() && rows.len() == scores.len(), "{} rows, {} scores", rows.len(), scores.len());
    vectorize(level, Blend { rows, scores, out });
}

struct Blend<'a> {
    rows: &'a [&'a [f32]],
    scores: &'a [&'a [f32]],
    out: &'a mut [f32],
}

impl Op for Blend<'_> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        for (i, out) in self.out.chunks_mut(I::LANES).enumerate() {
            let part = i * I::LANES..i * I::LANES + out.len();
            let mut most = isa.splat(f32::NEG_INFINITY);
            for scores in self.scores {
                most = isa.max(isa.load_some(&scores[part.clone()]), most);
            }
            let (mut sum, mut mixed) = (isa.zero(), isa.zero());
            for (row, scores) in self.rows.iter().zip(self.scores) {
                let e = math::exp(isa, isa.sub(isa.load_some(&scores[part.clone()]), most));
                sum = isa.add(sum, e);
                mixed = isa.fma(e, isa.load_some(&row[part.clone()]), mixed);
            }
            isa.store_some(isa.mul(mixed, isa.div(isa.splat(1.0), sum)), out);
        }
    }
}
