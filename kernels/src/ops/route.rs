//! Mixture of experts: who works on which token, and the sum of what they say.

use super::norm::Softmax;
use super::{CHEAP, DEAR, Gate, Renormalize, Router, math, piece};
use crate::Cpu;
use crate::isa::{Isa, Op, vectorize};
use crate::naive::max;
use crate::naive::ops::LEAST_SUM;
use crate::pool::Disjoint;

/// Chooses experts for each token of logits `[tokens, experts]`: their ids and weights `[tokens, k]`, best first, ties to the
/// lowest id. `bias` changes the choice, not the weights.
///
/// # Panics
/// If `k` is 0 or more than `experts`, or lengths do not fit together.
pub fn route(cpu: Cpu<'_>, logits: &[f32], experts: usize, router: &Router, bias: Option<&[f32]>, ids: &mut [u32], weights: &mut [f32]) {
    let k = router.k;
    assert!(k > 0 && k <= experts && logits.len().is_multiple_of(experts), "{k} of {experts} experts, {} logits", logits.len());
    assert!(ids.len() == logits.len() / experts * k && weights.len() == ids.len(), "{} ids, {} weights", ids.len(), weights.len());
    assert!(bias.is_none_or(|b| b.len() == experts), "a bias for each expert");
    let tokens = logits.len() / experts;
    let step = piece(cpu, logits.len(), experts, DEAR) / experts;
    let (all_ids, all_weights) = (Disjoint::new(ids, k, k), Disjoint::new(weights, k, k));
    cpu.parallel(tokens.div_ceil(step), &|i| {
        let rows = i * step..((i + 1) * step).min(tokens);
        let (mut ids, mut weights) = (all_ids.take(rows.clone(), 0), all_weights.take(rows.clone(), 0));
        let mut p = vec![0.0; experts];
        for (r, t) in rows.enumerate() {
            p.copy_from_slice(&logits[t * experts..][..experts]);
            vectorize(cpu.level, Route { p: &mut p, router, bias, ids: ids.row(r), weights: weights.row(r) });
        }
    });
}

/// One token: p are its logits.
struct Route<'a> {
    p: &'a mut [f32],
    router: &'a Router,
    bias: Option<&'a [f32]>,
    ids: &'a mut [u32],
    weights: &'a mut [f32],
}

impl Op for Route<'_> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let Route { p, router, bias, ids, weights } = self;
        match router.gate {
            Gate::Softmax => Softmax { width: p.len(), x: p }.run(isa),
            Gate::SoftmaxTopK => {}
            Gate::Sigmoid => {
                for p in p.chunks_mut(I::LANES) {
                    let x = isa.load_some(p);
                    isa.store_some(math::times_sigmoid(isa, isa.splat(1.0), x), p);
                }
            }
        }
        best(p, bias, ids, weights);
        for (id, weight) in ids.iter().zip(&mut *weights) {
            *weight = p[*id as usize];
        }
        if router.gate == Gate::SoftmaxTopK {
            Softmax { width: weights.len(), x: weights }.run(isa);
        }
        let mut inverse = None;
        match router.renormalize {
            Renormalize::No => {}
            Renormalize::Yes => {
                let mut sum = 0.0;
                for w in &*weights {
                    sum += w;
                }
                inverse = Some(1.0 / max(sum, LEAST_SUM));
            }
        }
        for w in weights {
            if let Some(inverse) = inverse {
                *w *= inverse;
            }
            *w *= router.scale;
        }
    }
}

/// The ids of the greatest p + bias, greatest first, of equals the first; `scores` are theirs. NaN counts as -inf.
#[inline(always)]
fn best(p: &[f32], bias: Option<&[f32]>, ids: &mut [u32], scores: &mut [f32]) {
    let mut filled = 0;
    for (e, p) in p.iter().enumerate() {
        let score = match bias {
            Some(bias) => *p + bias[e],
            None => *p,
        };
        let score = if score.is_nan() { f32::NEG_INFINITY } else { score };
        if filled == ids.len() && score <= scores[filled - 1] {
            continue;
        }
        // Ids come ascending, so among equals the earlier stays ahead.
        let mut at = filled.min(ids.len() - 1);
        while at > 0 && score > scores[at - 1] {
            (ids[at], scores[at]) = (ids[at - 1], scores[at - 1]);
            at -= 1;
        }
        (ids[at], scores[at]) = (e as u32, score);
        filled = (filled + 1).min(ids.len());
    }
}

/// Sorts slots (token·k + rank) by the expert that `ids` names for them: those of expert e are `slots[offsets[e]..offsets[e + 1]]`,
/// ascending.
///
/// # Panics
/// If an id is not below `experts`.
pub fn group_by_expert(ids: &[u32], experts: usize, offsets: &mut Vec<u32>, slots: &mut Vec<u32>) {
    offsets.clear();
    offsets.resize(experts + 1, 0);
    for id in ids {
        offsets[*id as usize + 1] += 1;
    }
    for e in 0..experts {
        offsets[e + 1] += offsets[e];
    }
    slots.clear();
    slots.resize(ids.len(), 0);
    for (slot, id) in ids.iter().enumerate() {
        let next = &mut offsets[*id as usize]; // counts up to where the next expert begins
        slots[*next as usize] = slot as u32;
        *next += 1;
    }
    offsets.copy_within(0..experts, 1);
    offsets[0] = 0;
}

/// `out[t] = Σ weights[t, rank] · y[t·k + rank]`: y `[tokens·k, width]`, weights `[tokens, k]`, out `[tokens, width]`.
///
/// # Panics
/// If lengths do not fit together.
pub fn combine(cpu: Cpu<'_>, y: &[f32], weights: &[f32], k: usize, width: usize, out: &mut [f32]) {
    assert!(k > 0 && width > 0 && out.len().is_multiple_of(width), "{} values in rows of {width}", out.len());
    let tokens = out.len() / width;
    assert!(weights.len() == tokens * k && y.len() == tokens * k * width, "{tokens} tokens, {} weights, {} values", weights.len(), y.len());
    let n = piece(cpu, out.len(), width, CHEAP);
    cpu.parallel_chunks(out, n, &|i, out| {
        let slots = i * n / width * k..(i * n + out.len()) / width * k;
        vectorize(cpu.level, Combine { y: &y[slots.start * width..slots.end * width], weights: &weights[slots], k, width, out });
    });
}

struct Combine<'a> {
    y: &'a [f32],
    weights: &'a [f32],
    k: usize,
    width: usize,
    out: &'a mut [f32],
}

impl Op for Combine<'_> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let tokens = self.y.chunks_exact(self.k * self.width).zip(self.weights.chunks_exact(self.k));
        for (out, (y, weights)) in self.out.chunks_exact_mut(self.width).zip(tokens) {
            for (i, out) in out.chunks_mut(I::LANES).enumerate() {
                let mut sum = isa.zero();
                for (rank, w) in weights.iter().enumerate() {
                    let y = &y[rank * self.width + i * I::LANES..][..out.len()];
                    sum = isa.fma(isa.splat(*w), isa.load_some(y), sum);
                }
                isa.store_some(sum, out);
            }
        }
    }
}
