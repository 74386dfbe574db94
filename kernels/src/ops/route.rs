//! Mixture of experts: who works on which token, and the sum of what they say.

use super::{Router, piece};
use crate::pool::Disjoint;
use crate::{Cpu, naive};

/// Chooses experts for each token of logits `[tokens, experts]`: their ids and weights `[tokens, k]`, best first, ties to the
/// lowest id. `bias` changes the choice, not the weights.
///
/// # Panics
/// If `k` is 0 or more than `experts`, or lengths do not fit together.
pub fn route(cpu: Cpu<'_>, logits: &[f32], experts: usize, router: &Router, bias: Option<&[f32]>, ids: &mut [u32], weights: &mut [f32]) {
    let k = router.k;
    assert!(k > 0 && k <= experts && logits.len() % experts == 0, "{k} of {experts} experts, {} logits", logits.len());
    assert!(ids.len() == logits.len() / experts * k && weights.len() == ids.len(), "{} ids, {} weights", ids.len(), weights.len());
    assert!(bias.is_none_or(|b| b.len() == experts), "a bias for each expert");
    let tokens = logits.len() / experts;
    let step = piece(cpu, logits.len(), experts) / experts;
    let (all_ids, all_weights) = (Disjoint::new(ids, k, k), Disjoint::new(weights, k, k));
    cpu.parallel(tokens.div_ceil(step), &|i| {
        let rows = i * step..((i + 1) * step).min(tokens);
        let (mut ids, mut weights) = (all_ids.take(rows.clone(), 0), all_weights.take(rows.clone(), 0));
        for (r, t) in rows.enumerate() {
            naive::ops::route(&logits[t * experts..][..experts], experts, router, bias, ids.row(r), weights.row(r));
        }
    });
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
    assert!(k > 0 && width > 0 && out.len() % width == 0, "{} values in rows of {width}", out.len());
    let tokens = out.len() / width;
    assert!(weights.len() == tokens * k && y.len() == tokens * k * width, "{tokens} tokens, {} weights, {} values", weights.len(), y.len());
    let n = piece(cpu, out.len(), width);
    cpu.parallel_chunks(out, n, &|i, out| {
        let slots = i * n / width * k..(i * n + out.len()) / width * k;
        naive::ops::combine(&y[slots.start * width..slots.end * width], &weights[slots], k, width, out);
    });
}
