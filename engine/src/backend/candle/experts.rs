//! Mixture of experts on a candle device, without the host ever learning who was chosen.
//!
//! Few tokens: the matrices of the chosen experts are picked from their stack, one for each token and rank, and multiplied as a
//! batch. Many tokens: each expert in turn works on all of them, and its weight is 0 where it was not chosen; that is
//! experts / k times the work, but all of it large products, and nothing waits for the host.

use super::recurrent::softplus;
use super::weight::Weight;
use super::{CandleBackend, Choice, Done, MASKED, activated, gated, together};
use crate::backend::{ExpertWeights, Glu, Weighed};
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
    let p = gates(logits, router)?;
    let mut scores = match bias {
        Some(bias) => p.broadcast_add(bias)?,
        None => p.clone(),
    };
    if let Some(limit) = &router.groups {
        scores = limited(&scores, limit)?;
    }
    let ids = scores.arg_sort_last_dim(false)?.narrow(D::Minus1, 0, router.k)?.contiguous()?;
    weighed(&p, ids, router)
}

/// What the router makes of its logits, before anything is chosen.
fn gates(logits: &Array, router: &Router) -> Done<Array> {
    match router.gate {
        Gate::Softmax => softmax_last_dim(logits),
        Gate::SoftmaxTopK => Ok(logits.clone()),
        Gate::Sigmoid => sigmoid(logits),
        Gate::SqrtSoftplus => softplus(logits)?.sqrt(),
    }
}

/// Experts `u32 [tokens, k]` that are settled already, as [`hob_kernels::naive::ops::route_fixed`] weighs them.
pub(super) fn settled(logits: &Array, router: &Router, ids: Array) -> Done<Choice> {
    weighed(&gates(logits, router)?, ids, router)
}

/// These experts with their weights.
fn weighed(p: &Array, ids: Array, router: &Router) -> Done<Choice> {
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
    let weights = match &experts.scale {
        Some(scale) => choice.weights.mul(&scale.index_select(&choice.ids.flatten_all()?, 0)?.reshape((tokens, k))?)?,
        None => choice.weights.clone(),
    };
    if tokens * k > experts.count {
        return all(x, &choice.ids, &weights, experts, stop);
    }
    let largest = experts.ff * x.dim(D::Minus1)? * size_of::<f32>();
    let at_once = (PICKED / (k * largest).max(1)).max(1);
    let mut parts = Vec::new();
    for first in (0..tokens).step_by(at_once) {
        let n = at_once.min(tokens - first);
        let part = |array: &Array| array.narrow(0, first, n);
        parts.push(picked(&part(x)?, &part(&choice.ids)?, &part(&weights)?, experts)?);
    }
    together(&parts)
}

/// Each token with its own experts' matrices.
fn picked(x: &Array, ids: &Array, weights: &Array, experts: &ExpertWeights<CandleBackend>) -> Done<Array> {
    let (tokens, k) = ids.dims2()?;
    let width = x.dim(1)?;
    let x = x.unsqueeze(1)?.broadcast_as((tokens, k, width))?;
    let weights = weights.unsqueeze(2)?;
    let (x, weights) = match experts.weighed {
        Weighed::Output => (x.contiguous()?, Some(weights)),
        Weighed::Input => (x.broadcast_mul(&weights)?, None),
    };
    let y = glu(&x.reshape((tokens * k, 1, width))?, experts, &Who::Each(ids.flatten_all()?))?.reshape((tokens, k, width))?;
    match weights {
        Some(weights) => y.broadcast_mul(&weights)?.sum(1),
        None => y.sum(1),
    }
}

/// Every expert with all tokens.
fn all(x: &Array, ids: &Array, weights: &Array, experts: &ExpertWeights<CandleBackend>, stop: &Canceller) -> Done<Array> {
    let spread = |values: &Array| Array::zeros((x.dim(0)?, experts.count), x.dtype(), x.device())?.scatter_add(ids, values, 1);
    let shares = spread(weights)?;
    let chosen = match experts.weighed {
        Weighed::Output => None,
        Weighed::Input => Some(spread(&weights.ones_like()?)?),
    };
    let mut sum = x.zeros_like()?;
    for e in (0..experts.count).take_while(|_| !stop.is_cancelled()) {
        let share = shares.narrow(1, e, 1)?;
        let y = match &chosen {
            None => glu(x, experts, &Who::One(e))?.broadcast_mul(&share)?,
            Some(chosen) => glu(&x.broadcast_mul(&share)?, experts, &Who::One(e))?.broadcast_mul(&chosen.narrow(1, e, 1)?)?,
        };
        sum = sum.add(&y)?;
    }
    Ok(sum)
}

/// Whose matrices a product takes.
enum Who {
    /// One expert's for all rows of `x [tokens, width]`.
    One(usize),
    /// Those of the expert of each row of `x [rows, 1, width]`.
    Each(Array),
}

impl Who {
    /// `x` times the transpose of these rows of the experts' matrices, plus their biases.
    fn linear(&self, x: &Array, stack: &Weight, rows: Range<usize>, bias: Option<&Array>, count: usize) -> Done<Array> {
        let len = rows.len();
        let (y, bias) = match self {
            Who::One(e) => {
                let bias = bias.map(|bias| bias.narrow(0, e * len, len)).transpose()?;
                (x.matmul(&stack.one(*e, count, rows)?.t()?)?, bias)
            }
            Who::Each(ids) => {
                let bias = bias.map(|bias| bias.reshape((count, len))?.index_select(ids, 0)?.unsqueeze(1)).transpose()?;
                (x.matmul(&stack.picked(ids, count, rows)?.t()?)?, bias)
            }
        };
        match bias {
            Some(bias) => y.broadcast_add(&bias),
            None => Ok(y),
        }
    }
}

/// `down(activation(gate(x)) · up(x))`
fn glu(x: &Array, experts: &ExpertWeights<CandleBackend>, who: &Who) -> Done<Array> {
    let (ff, count) = (experts.ff, experts.count);
    let (second, first_row) = experts.up.as_ref().map_or((&experts.gate, ff), |up| (up, 0));
    let gate = who.linear(x, &experts.gate, 0..ff, experts.gate_bias.as_ref(), count)?;
    let hidden = match experts.glu {
        Glu::Gated => {
            gated(experts.activation, &gate, &who.linear(x, second, first_row..first_row + ff, experts.up_bias.as_ref(), count)?)?
        }
        Glu::Plain => activated(experts.activation, &gate)?,
    };
    who.linear(&hidden, &experts.down, 0..x.dim(D::Minus1)?, experts.down_bias.as_ref(), count)
}
