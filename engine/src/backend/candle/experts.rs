//! Mixture of experts on a candle device, without the host ever learning who was chosen.
//!
//! Few tokens: the matrices of the chosen experts are picked from their stack, one for each token and rank, and multiplied as a
//! batch. Many tokens: each expert in turn works on all of them, and its weight is 0 where it was not chosen; that is
//! experts / k times the work, but all of it large products, and nothing waits for the host.

use super::weight::Weight;
use super::{CandleBackend, Choice, Done, MASKED, activated};
use crate::backend::ExpertWeights;
use crate::batch::Canceller;
use candle_core::{D, Tensor as Array};
use candle_nn::ops::{sigmoid, softmax_last_dim};
use hob_kernels::ops::{Gate, GroupLimit, GroupScore, Renormalize, Router};
use std::ops::Range;

/// Bytes of matrices that are picked at a time, unless one token's are more.
const PICKED: usize = 1 << 28;

/// Weights of experts are divided by no less: 2⁻¹⁴, as [`hob_kernels::naive::ops::route`] has it.
const LEAST_SUM: f64 = 1.0 / 16384.0;

/// The experts of each token of logits `[tokens, experts]`, as [`hob_kernels::naive::ops::route`] says.
pub(super) fn choose(logits: &Array, router: &Router, bias: Option<&Array>) -> Done<Choice> {
    let p = match router.gate {
        Gate::Softmax => softmax_last_dim(logits)?,
        Gate::SoftmaxTopK => logits.clone(),
        Gate::Sigmoid => sigmoid(logits)?,
    };
    let mut scores = match bias {
        Some(bias) => p.broadcast_add(bias)?,
        None => p.clone(),
    };
    if let Some(limit) = &router.groups {
        scores = limited(&scores, limit)?;
    }
    let ids = scores.arg_sort_last_dim(false)?.narrow(D::Minus1, 0, router.k)?.contiguous()?;
    let mut weights = p.gather(&ids, D::Minus1)?;
    if router.gate == Gate::SoftmaxTopK {
        weights = softmax_last_dim(&weights)?;
    }
    match router.renormalize {
        Renormalize::No => {}
        Renormalize::Yes => weights = weights.broadcast_div(&weights.sum_keepdim(D::Minus1)?.maximum(LEAST_SUM)?)?,
    }
    Ok(Choice { ids, weights: weights.affine(f64::from(router.scale), 0.0)? })
}

/// The scores, those of groups that a token may not choose from far below all others.
fn limited(scores: &Array, limit: &GroupLimit) -> Done<Array> {
    let (tokens, experts) = scores.dims2()?;
    let size = experts / limit.count;
    let grouped = scores.reshape((tokens, limit.count, size))?;
    let best = match limit.score {
        GroupScore::BestTwo if size > 1 => grouped.sort_last_dim(false)?.0.narrow(2, 0, 2)?.sum(2)?,
        GroupScore::Best | GroupScore::BestTwo => grouped.max(2)?,
    };
    let used = best.arg_sort_last_dim(false)?.narrow(1, 0, limit.used)?.contiguous()?;
    let ones = Array::ones((tokens, limit.used), scores.dtype(), scores.device())?;
    let open = best.zeros_like()?.scatter_add(&used, &ones, 1)?;
    grouped.broadcast_add(&open.affine(-MASKED, MASKED)?.unsqueeze(2)?)?.reshape((tokens, experts))
}

/// `[tokens, width]`: what the chosen experts make of x `[tokens, width]`, weighted.
pub(super) fn mixed(x: &Array, choice: &Choice, experts: &ExpertWeights<CandleBackend>, stop: &Canceller) -> Done<Array> {
    let (tokens, k) = choice.ids.dims2()?;
    if tokens * k > experts.count {
        return all(x, choice, experts, stop);
    }
    let largest = experts.ff * x.dim(D::Minus1)? * size_of::<f32>();
    let at_once = (PICKED / (k * largest).max(1)).max(1);
    let mut parts = Vec::new();
    for first in (0..tokens).step_by(at_once) {
        let n = at_once.min(tokens - first);
        let part = |array: &Array| array.narrow(0, first, n);
        parts.push(picked(&part(x)?, &part(&choice.ids)?, &part(&choice.weights)?, experts)?);
    }
    match parts.as_slice() {
        [one] => Ok(one.clone()),
        many => Array::cat(many, 0),
    }
}

/// `down(activation(gate(x)) · up(x))`, each a product of its input and some rows of a stack.
fn glu(x: &Array, experts: &ExpertWeights<CandleBackend>, times: impl Fn(&Array, &Weight, Range<usize>) -> Done<Array>) -> Done<Array> {
    let ff = experts.ff;
    let gate = activated(experts.activation, &times(x, &experts.gate, 0..ff)?)?;
    let up = match &experts.up {
        Some(up) => times(x, up, 0..ff)?,
        None => times(x, &experts.gate, ff..2 * ff)?,
    };
    times(&gate.mul(&up)?, &experts.down, 0..x.dim(D::Minus1)?)
}

/// Each token with its own experts' matrices.
fn picked(x: &Array, ids: &Array, weights: &Array, experts: &ExpertWeights<CandleBackend>) -> Done<Array> {
    let (tokens, k) = ids.dims2()?;
    let width = x.dim(1)?;
    let ids = ids.flatten_all()?;
    let x = x.unsqueeze(1)?.broadcast_as((tokens, k, width))?.reshape((tokens * k, 1, width))?;
    let y = glu(&x, experts, |x, stack, rows| x.matmul(&stack.picked(&ids, experts.count, rows)?.t()?))?;
    let y = y.reshape((tokens, k, width))?;
    y.broadcast_mul(&weights.unsqueeze(2)?)?.sum(1)
}

/// Every expert with all tokens.
fn all(x: &Array, choice: &Choice, experts: &ExpertWeights<CandleBackend>, stop: &Canceller) -> Done<Array> {
    let share = Array::zeros((x.dim(0)?, experts.count), x.dtype(), x.device())?.scatter_add(&choice.ids, &choice.weights, 1)?;
    let mut sum = x.zeros_like()?;
    for e in (0..experts.count).take_while(|_| !stop.is_cancelled()) {
        let y = glu(x, experts, |x, stack, rows| x.matmul(&stack.one(e, experts.count, rows)?.t()?))?;
        sum = sum.add(&y.broadcast_mul(&share.narrow(1, e, 1)?)?)?;
    }
    Ok(sum)
}
