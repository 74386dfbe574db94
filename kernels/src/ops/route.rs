//! Mixture of experts: who works on which token, and the sum of what they say.

use super::elementwise::{Add, Both, Each, Scale};
use super::norm::Softmax;
use super::{CHEAP, DEAR, Gate, GroupLimit, GroupScore, Renormalize, Router, math, piece};
use crate::Cpu;
use crate::isa::{Isa, Op, vectorize};
use crate::naive::max;
use crate::naive::ops::{LEAST_SUM, sqrt_softplus};
use crate::pool::Disjoint;
use smallvec::{SmallVec, smallvec};
use std::ops::Range;

/// A number for each expert, without allocating up to as many as models have.
type Row = SmallVec<[f32; 512]>;

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
    if let Some(GroupLimit { count, used, .. }) = router.groups {
        assert!(used > 0 && used <= count && experts.is_multiple_of(count), "{used} of {count} groups of {experts} experts");
    }
    let tokens = logits.len() / experts;
    let step = piece(cpu, logits.len(), experts, DEAR) / experts;
    let (all_ids, all_weights) = (Disjoint::new(ids, k, k), Disjoint::new(weights, k, k));
    cpu.parallel(tokens.div_ceil(step), &|i| {
        let rows = i * step..((i + 1) * step).min(tokens);
        let (mut ids, mut weights) = (all_ids.take(rows.clone(), 0), all_weights.take(rows.clone(), 0));
        let (mut p, mut scores): (Row, Row) = (smallvec![0.0; experts], smallvec![0.0; experts]);
        for (r, t) in rows.enumerate() {
            p.copy_from_slice(&logits[t * experts..][..experts]);
            vectorize(cpu.level, Route { p: &mut p, scores: &mut scores, router, bias, ids: ids.row(r), weights: weights.row(r) });
        }
    });
}

/// The same where `ids` `[tokens, k]` are settled, and only their weights are asked for; see [`crate::naive::ops::route_fixed`].
///
/// # Panics
/// If an id is not below `experts`, or lengths do not fit together.
pub fn route_fixed(cpu: Cpu<'_>, logits: &[f32], experts: usize, router: &Router, ids: &[u32], weights: &mut [f32]) {
    let k = router.k;
    assert!(k > 0 && ids.len() == logits.len() / experts * k && weights.len() == ids.len(), "{} ids, {} weights", ids.len(), weights.len());
    cpu.parallel_chunks(weights, k, &|t, weights| {
        crate::naive::ops::route_fixed(&logits[t * experts..][..experts], router, &ids[t * k..][..k], weights);
    });
}

/// One token: p are its logits; scores, by which experts are chosen, are to be made.
struct Route<'a> {
    p: &'a mut [f32],
    scores: &'a mut [f32],
    router: &'a Router,
    bias: Option<&'a [f32]>,
    ids: &'a mut [u32],
    weights: &'a mut [f32],
}

impl Op for Route<'_> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let Route { p, scores, router, bias, ids, weights } = self;
        match router.gate {
            Gate::Softmax => Softmax { width: p.len(), x: p }.run(isa),
            Gate::SoftmaxTopK => {}
            Gate::Sigmoid => {
                for p in p.chunks_mut(I::LANES) {
                    let x = isa.load_some(p);
                    isa.store_some(math::times_sigmoid(isa, isa.splat(1.0), x), p);
                }
            }
            Gate::SqrtSoftplus => p.iter_mut().for_each(|p| *p = sqrt_softplus(*p)),
        }
        for (e, (score, p)) in scores.iter_mut().zip(&*p).enumerate() {
            let biased = match bias {
                Some(bias) => *p + bias[e],
                None => *p,
            };
            *score = if biased.is_nan() { f32::NEG_INFINITY } else { biased };
        }
        if let Some(limit) = router.groups {
            leave_best_groups(scores, limit);
        }
        best(scores, ids, weights);
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

/// Takes the experts of all groups but the best out of the choice; of equal groups the first are better.
#[inline(always)]
fn leave_best_groups(scores: &mut [f32], limit: GroupLimit) {
    let size = scores.len() / limit.count;
    let score = |group: &[f32]| {
        let (mut first, mut second) = (f32::NEG_INFINITY, f32::NEG_INFINITY);
        for s in group {
            (first, second) = if *s > first { (*s, first) } else { (first, max(*s, second)) };
        }
        match limit.score {
            GroupScore::Best => first,
            GroupScore::BestTwo if size > 1 => first + second,
            GroupScore::BestTwo => first,
        }
    };
    // A group stays while fewer than `used` are better, or as good and before it.
    let groups: SmallVec<[f32; 64]> = scores.chunks_exact(size).map(score).collect();
    for (g, group) in scores.chunks_exact_mut(size).enumerate() {
        let better = groups.iter().enumerate().filter(|(i, s)| **s > groups[g] || **s == groups[g] && *i < g).count();
        if better >= limit.used {
            group.fill(f32::NEG_INFINITY);
        }
    }
}

/// The ids of the greatest scores, greatest first, of equals the first; `scores` are theirs.
#[inline(always)]
fn best(all: &[f32], ids: &mut [u32], scores: &mut [f32]) {
    let mut filled = 0;
    for (e, score) in all.iter().enumerate() {
        let score = *score;
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

/// `out[t·k + rank] = x[t] · weights[t, rank]`: x `[tokens, width]`, weights `[tokens, k]`, out `[tokens·k, width]`.
///
/// # Panics
/// If lengths do not fit together.
pub fn spread(cpu: Cpu<'_>, x: &[f32], weights: &[f32], k: usize, width: usize, out: &mut [f32]) {
    assert!(k > 0 && width > 0 && x.len().is_multiple_of(width), "{} values in rows of {width}", x.len());
    assert!(weights.len() == x.len() / width * k && out.len() == x.len() * k, "{} weights, {} values", weights.len(), out.len());
    let n = piece(cpu, out.len(), width, CHEAP);
    cpu.parallel_chunks(out, n, &|i, out| {
        for (slot, out) in (i * n / width..).zip(out.chunks_exact_mut(width)) {
            out.copy_from_slice(&x[slot / k * width..][..width]);
            vectorize(cpu.level, Each { f: Scale(weights[slot]), x: out });
        }
    });
}

/// Adds to each row of x `[slots, columns]` these columns of the bias of the expert that `ids` names for it: bias `[experts, width]`.
///
/// # Panics
/// If lengths do not fit together, or an id is beyond the biases.
pub fn add_expert_bias(cpu: Cpu<'_>, x: &mut [f32], bias: &[f32], ids: &[u32], width: usize, columns: Range<usize>) {
    let n = columns.len();
    assert!(n > 0 && columns.end <= width && x.len() == ids.len() * n, "{} values for {} slots of {columns:?}", x.len(), ids.len());
    let step = piece(cpu, x.len(), n, CHEAP);
    cpu.parallel_chunks(x, step, &|i, x| {
        for (id, x) in ids[i * step / n..].iter().zip(x.chunks_exact_mut(n)) {
            vectorize(cpu.level, Both { f: Add, y: &bias[*id as usize * width..][columns.clone()], x });
        }
    });
}

/// `out[t, columns] = Σ weights[t, rank] · y[t·k + rank]`: y `[tokens·k, columns]`, weights `[tokens, k]`, out `[tokens, width]`.
///
/// # Panics
/// If lengths do not fit together.
pub fn combine(cpu: Cpu<'_>, y: &[f32], weights: &[f32], k: usize, out: &mut [f32], width: usize, columns: Range<usize>) {
    assert!(k > 0 && width > 0 && out.len().is_multiple_of(width) && columns.end <= width, "{columns:?} of {width}, {} values", out.len());
    let (tokens, n) = (out.len() / width, columns.len());
    assert!(weights.len() == tokens * k && y.len() == tokens * k * n, "{tokens} tokens, {} weights, {} values", weights.len(), y.len());
    let step = piece(cpu, out.len(), width, CHEAP);
    cpu.parallel_chunks(out, step, &|i, out| {
        let slots = i * step / width * k..(i * step + out.len()) / width * k;
        let y = &y[slots.start * n..slots.end * n];
        vectorize(cpu.level, Combine { y, weights: &weights[slots], k, out, width, columns: columns.clone() });
    });
}

struct Combine<'a> {
    y: &'a [f32],
    weights: &'a [f32],
    k: usize,
    out: &'a mut [f32],
    width: usize,
    columns: Range<usize>,
}

impl Op for Combine<'_> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let n = self.columns.len();
        let tokens = self.y.chunks_exact(self.k * n).zip(self.weights.chunks_exact(self.k));
        for (out, (y, weights)) in self.out.chunks_exact_mut(self.width).zip(tokens) {
            for (i, out) in out[self.columns.clone()].chunks_mut(I::LANES).enumerate() {
                let mut sum = isa.zero();
                for (rank, w) in weights.iter().enumerate() {
                    let y = &y[rank * n + i * I::LANES..][..out.len()];
                    sum = isa.fma(isa.splat(*w), isa.load_some(y), sum);
                }
                isa.store_some(sum, out);
            }
        }
    }
}
