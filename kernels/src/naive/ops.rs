//! The operations between the matrix products. Arrays are row-major; shapes in brackets.

use super::math::{gelu, gelu_tanh, silu, times_sigmoid};
use super::{exp, max, tanh, tree16};
use crate::ops::{Activation, Gate, GroupScore, Pairing, Renormalize, Router, Xielu};

/// Each row of x `[rows, width]`: `r = 1/√(Σx²/width + eps)`, `out = (x·r)·weight`. Weights `[groups, width]` take turns.
pub fn rms_norm(x: &[f32], weight: Option<&[f32]>, eps: f32, width: usize, out: &mut [f32]) {
    for (row, (x, out)) in x.chunks_exact(width).zip(out.chunks_exact_mut(width)).enumerate() {
        let mut sums = [0f32; 16];
        for (k, x) in x.iter().enumerate() {
            sums[k % 16] = x.mul_add(*x, sums[k % 16]);
        }
        let r = 1.0 / (tree16(sums) / width as f32 + eps).sqrt();
        for (k, out) in out.iter_mut().enumerate() {
            *out = x[k] * r;
            if let Some(weight) = weight {
                *out *= weight[row * width % weight.len() + k];
            }
        }
    }
}

/// Each run of `width` in x `[rows, runs, width]`: `x *= √(Σy²/width) / √max(Σx²/width, 10⁻⁵)`, y the same row of `like` `[rows, width]`.
pub fn rescale(x: &mut [f32], runs: usize, like: &[f32], width: usize) {
    let mean_square = |x: &[f32]| {
        let mut sums = [0f32; 16];
        for (k, x) in x.iter().enumerate() {
            sums[k % 16] = x.mul_add(*x, sums[k % 16]);
        }
        tree16(sums) / width as f32
    };
    for (row, like) in x.chunks_exact_mut(runs * width).zip(like.chunks_exact(width)) {
        for x in row.chunks_exact_mut(width) {
            let factor = mean_square(like).sqrt() / max(mean_square(x), RESCALE_FLOOR).sqrt();
            scale(x, factor);
        }
    }
}

/// The least mean square that is divided by (`modeling_gemma3n.py` of transformers, `epsilon_tensor`).
pub(crate) const RESCALE_FLOOR: f32 = 1e-5;

/// Each row: `m = Σx/width`, `s = √(Σ(x-m)²/width)`, `x = max(x - fma(s, sigmas, m), 0)`.
pub fn sparsify(x: &mut [f32], sigmas: f32, width: usize) {
    for row in x.chunks_exact_mut(width) {
        let (mut sums, mut squares) = ([0f32; 16], [0f32; 16]);
        for (k, x) in row.iter().enumerate() {
            sums[k % 16] += x;
        }
        let mean = tree16(sums) / width as f32;
        for (k, x) in row.iter().enumerate() {
            squares[k % 16] = (x - mean).mul_add(x - mean, squares[k % 16]);
        }
        let cut = (tree16(squares) / width as f32).sqrt().mul_add(sigmas, mean);
        row.iter_mut().for_each(|x| *x = max(*x - cut, 0.0));
    }
}

/// Each row: `m = Σx/width`, `r = 1/√(Σ(x-m)²/width + eps)`, `out = ((x-m)·r)·weight`, or `fma((x-m)·r, weight, bias)`.
pub fn layer_norm(x: &[f32], weight: &[f32], bias: Option<&[f32]>, eps: f32, width: usize, out: &mut [f32]) {
    for (x, out) in x.chunks_exact(width).zip(out.chunks_exact_mut(width)) {
        let (mut sums, mut squares) = ([0f32; 16], [0f32; 16]);
        for (k, x) in x.iter().enumerate() {
            sums[k % 16] += x;
        }
        let mean = tree16(sums) / width as f32;
        for (k, x) in x.iter().enumerate() {
            squares[k % 16] = (x - mean).mul_add(x - mean, squares[k % 16]);
        }
        let r = 1.0 / (tree16(squares) / width as f32 + eps).sqrt();
        for (k, out) in out.iter_mut().enumerate() {
            let y = (x[k] - mean) * r;
            *out = match bias {
                Some(bias) => y.mul_add(weight[k], bias[k]),
                None => y * weight[k],
            };
        }
    }
}

/// `x += y`
pub fn add(x: &mut [f32], y: &[f32]) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
}

/// `bias` added to each row.
pub fn add_bias(x: &mut [f32], bias: &[f32]) {
    x.chunks_exact_mut(bias.len()).for_each(|row| add(row, bias));
}

/// Each row of x times `weight`.
pub fn scale_by(x: &mut [f32], weight: &[f32]) {
    x.chunks_exact_mut(weight.len()).for_each(|row| row.iter_mut().zip(weight).for_each(|(x, w)| *x *= w));
}

/// Each of `gates.len()` equal runs of x times σ of its gate.
pub fn gate(x: &mut [f32], gates: &[f32]) {
    let width = (x.len() / gates.len()).max(1);
    x.chunks_exact_mut(width).zip(gates).for_each(|(run, gate)| run.iter_mut().for_each(|x| *x = times_sigmoid(*x, *gate)));
}

/// `x *= s`
pub fn scale(x: &mut [f32], s: f32) {
    x.iter_mut().for_each(|x| *x *= s);
}

/// `x = cap · tanh(x · (1/cap))`
pub fn softcap(x: &mut [f32], cap: f32) {
    let inverse = 1.0 / cap;
    x.iter_mut().for_each(|x| *x = cap * tanh(*x * inverse));
}

/// x within ±`limit`
pub fn clamp(x: &mut [f32], limit: f32) {
    x.iter_mut().for_each(|x| *x = -at_most(-at_most(*x, limit), limit));
}

/// `x = x > 0 ? (above·x + slope)·x : below·(exp(min(x, edge)) - 1 - x) + slope·x`
pub fn xielu(x: &mut [f32], Xielu { above, below, slope, edge }: Xielu) {
    let of = |x: f32| {
        if 0.0 < x {
            return above.mul_add(x, slope) * x;
        }
        below.mul_add(exp(at_most(x, edge)) - 1.0 - x, slope * x)
    };
    x.iter_mut().for_each(|x| *x = of(*x));
}

/// One value.
pub fn activation(act: Activation, x: f32) -> f32 {
    match act {
        Activation::Silu => silu(x),
        Activation::GeluTanh => gelu_tanh(x),
        Activation::Gelu => gelu(x),
        Activation::Relu => max(x, 0.0),
        Activation::ReluSquared => max(x, 0.0) * max(x, 0.0),
        Activation::SwigluOai => {
            let x = at_most(x, OAI_LIMIT);
            times_sigmoid(x, x * OAI_ALPHA)
        }
        Activation::Sigmoid => times_sigmoid(1.0, x),
        Activation::Identity => x,
        Activation::SwigluLimited => silu(at_most(x, SWIGLU_LIMIT)),
    }
}

/// Steepness of gpt-oss's gate, and the bound of its inputs (<https://github.com/openai/gpt-oss>, `swiglu`).
pub(crate) const OAI_ALPHA: f32 = 1.702;
pub(crate) const OAI_LIMIT: f32 = 7.0;

/// The bound of a limited GLU's inputs: that of every DeepSeek-V4 (config.json, `swiglu_limit`).
pub(crate) const SWIGLU_LIMIT: f32 = 10.0;

/// `limit < x ? limit : x`
fn at_most(x: f32, limit: f32) -> f32 {
    if limit < x { limit } else { x }
}

/// `gate = act(gate) · up`; for [`Activation::SwigluOai`] `act(gate) · (u + 1)`, u = up within ±7; for [`Activation::SwigluLimited`] up within ±10.
pub fn glu(act: Activation, gate: &mut [f32], up: &[f32]) {
    let factor = |up: f32| match act {
        Activation::Silu | Activation::GeluTanh | Activation::Gelu | Activation::Relu | Activation::ReluSquared => up,
        Activation::Sigmoid | Activation::Identity => up,
        Activation::SwigluOai => -at_most(-at_most(up, OAI_LIMIT), OAI_LIMIT) + 1.0,
        Activation::SwigluLimited => -at_most(-at_most(up, SWIGLU_LIMIT), SWIGLU_LIMIT),
    };
    gate.iter_mut().zip(up).for_each(|(gate, up)| *gate = activation(act, *gate) * factor(*up));
}

/// `x = act(x)`
pub fn activate(act: Activation, x: &mut [f32]) {
    x.iter_mut().for_each(|x| *x = activation(act, *x));
}

/// Rotates the first `rotary` channels of every head of x `[tokens, heads, head_dim]` by the angles whose cosines and
/// sines `[tokens, rotary/2]` are given: `a' = fma(-b, sin, a·cos)`, `b' = fma(a, sin, b·cos)`.
#[allow(clippy::too_many_arguments)]
pub fn rope(x: &mut [f32], heads: usize, head_dim: usize, rotary: usize, pairing: Pairing, cos: &[f32], sin: &[f32]) {
    let half = rotary / 2;
    for (t, token) in x.chunks_exact_mut(heads * head_dim).enumerate() {
        for head in token.chunks_exact_mut(head_dim) {
            for i in 0..half {
                let (cos, sin) = (cos[t * half + i], sin[t * half + i]);
                let (ia, ib) = match pairing {
                    Pairing::Adjacent => (2 * i, 2 * i + 1),
                    Pairing::Halves => (i, i + half),
                };
                let (a, b) = (head[ia], head[ib]);
                head[ia] = (-b).mul_add(sin, a * cos);
                head[ib] = a.mul_add(sin, b * cos);
            }
        }
    }
}

/// Each row: `e = exp(x - max)`, `x = e · (1/Σe)`.
pub fn softmax(x: &mut [f32], width: usize) {
    for row in x.chunks_exact_mut(width) {
        let most = row.iter().fold(f32::NEG_INFINITY, |m, x| max(*x, m));
        let mut sums = [0f32; 16];
        for (k, x) in row.iter_mut().enumerate() {
            *x = exp(*x - most);
            sums[k % 16] += *x;
        }
        let inverse = 1.0 / tree16(sums);
        row.iter_mut().for_each(|x| *x *= inverse);
    }
}

/// `out = exp(x - most)`
pub fn weights(x: &[f32], most: f32, out: &mut [f32]) {
    out.iter_mut().zip(x).for_each(|(out, x)| *out = exp(x - most));
}

/// Chooses `k` of `experts` for each token of logits `[tokens, experts]`, best first, ties to the lowest id.
///
/// Probabilities are the softmax or the sigmoid of the logits, or the logits themselves ([`Gate::SoftmaxTopK`]); the choice
/// goes by probability + bias, NaN counting as -inf, among the experts of the best groups where groups limit it (a group's
/// score is its best, or its best plus its second; ties to the lowest group); the weights are the probabilities of the chosen (their softmax for `SoftmaxTopK`). Then
/// `w = w · (1/max(Σw, 2⁻¹⁴))` where asked, Σ in order of rank, and `w = w · scale`.
pub fn route(logits: &[f32], experts: usize, router: &Router, bias: Option<&[f32]>, ids: &mut [u32], weights: &mut [f32]) {
    let k = router.k;
    for (t, logits) in logits.chunks_exact(experts).enumerate() {
        let mut p = logits.to_vec();
        match router.gate {
            Gate::Softmax => softmax(&mut p, experts),
            Gate::SoftmaxTopK => {}
            Gate::Sigmoid => p.iter_mut().for_each(|x| *x = times_sigmoid(1.0, *x)),
            Gate::SqrtSoftplus => p.iter_mut().for_each(|x| *x = sqrt_softplus(*x)),
        }
        let score = |e: usize| Some(bias.map_or(p[e], |bias| p[e] + bias[e])).filter(|s| !s.is_nan()).unwrap_or(f32::NEG_INFINITY);
        let mut scores: Vec<f32> = (0..experts).map(score).collect();
        if let Some(limit) = router.groups {
            let size = experts / limit.count;
            let of_group = |group: &[f32]| {
                let order = descending(group);
                match limit.score {
                    GroupScore::BestTwo if size > 1 => group[order[0]] + group[order[1]],
                    GroupScore::Best | GroupScore::BestTwo => group[order[0]],
                }
            };
            let groups: Vec<f32> = scores.chunks_exact(size).map(of_group).collect();
            for g in &descending(&groups)[limit.used..] {
                scores[g * size..(g + 1) * size].fill(f32::NEG_INFINITY);
            }
        }
        let order = descending(&scores);
        let (ids, weights) = (&mut ids[t * k..][..k], &mut weights[t * k..][..k]);
        for (rank, e) in order[..k].iter().enumerate() {
            (ids[rank], weights[rank]) = (*e as u32, p[*e]);
        }
        if router.gate == Gate::SoftmaxTopK {
            softmax(weights, k);
        }
        match router.renormalize {
            Renormalize::No => {}
            Renormalize::Yes => scale(weights, 1.0 / max(weights.iter().fold(0.0, |sum, w| sum + w), LEAST_SUM)),
        }
        scale(weights, router.scale);
    }
}

/// Weights of settled experts of one token: as of chosen ones, in the order of `ids`.
pub fn route_fixed(logits: &[f32], router: &Router, ids: &[u32], weights: &mut [f32]) {
    let mut p = logits.to_vec();
    match router.gate {
        Gate::Softmax => softmax(&mut p, logits.len()),
        Gate::SoftmaxTopK => {}
        Gate::Sigmoid => p.iter_mut().for_each(|x| *x = times_sigmoid(1.0, *x)),
        Gate::SqrtSoftplus => p.iter_mut().for_each(|x| *x = sqrt_softplus(*x)),
    }
    ids.iter().zip(&mut *weights).for_each(|(id, weight)| *weight = p[*id as usize]);
    if router.gate == Gate::SoftmaxTopK {
        softmax(weights, ids.len());
    }
    match router.renormalize {
        Renormalize::No => {}
        Renormalize::Yes => {
            let inverse = 1.0 / max(weights.iter().fold(0.0, |sum, w| sum + w), LEAST_SUM);
            scale(weights, inverse);
        }
    }
    scale(weights, router.scale);
}

/// √ln(1 + eˣ), by way of f64; NaN stays NaN.
pub(crate) fn sqrt_softplus(x: f32) -> f32 {
    let x = f64::from(x);
    libm::sqrt(if x > 40.0 { x } else { libm::log1p(libm::exp(x)) }) as f32
}

/// Each channel d: m = max of the scores, e = exp(s - m); `out[d] = (Σ e·row) · (1 / Σ e)`, rows in order, from 0, products fused.
pub fn blend(rows: &[&[f32]], scores: &[&[f32]], out: &mut [f32]) {
    for (d, out) in out.iter_mut().enumerate() {
        let most = scores.iter().fold(f32::NEG_INFINITY, |m, s| max(s[d], m));
        let (mut sum, mut mixed) = (0.0, 0.0);
        for (row, scores) in rows.iter().zip(scores) {
            let e = exp(scores[d] - most);
            sum += e;
            mixed = e.mul_add(row[d], mixed);
        }
        *out = mixed * (1.0 / sum);
    }
}

/// Places from the greatest number to the least, of equals the first first.
fn descending(x: &[f32]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..x.len()).collect();
    order.sort_by(|a, b| x[*b].partial_cmp(&x[*a]).unwrap_or(std::cmp::Ordering::Equal)); // stable
    order
}

/// Weights of experts are divided by no less: 2⁻¹⁴, the smallest normal half, as llama.cpp has it.
pub(crate) const LEAST_SUM: f32 = 1.0 / 16384.0;

/// `out[t·k + rank] = x[t] · weights[t, rank]`: x `[tokens, width]`, weights `[tokens, k]`.
pub fn spread(x: &[f32], weights: &[f32], k: usize, width: usize, out: &mut [f32]) {
    for (slot, out) in out.chunks_exact_mut(width).enumerate() {
        out.copy_from_slice(&x[slot / k * width..][..width]);
        scale(out, weights[slot]);
    }
}

/// Each row of x `[slots, width]` plus the bias of the expert that `ids` names for it: bias `[experts, width]`.
pub fn add_expert_bias(x: &mut [f32], bias: &[f32], ids: &[u32], width: usize) {
    x.chunks_exact_mut(width).zip(ids).for_each(|(x, id)| add(x, &bias[*id as usize * width..][..width]));
}

/// `out[t] = Σ weights[t, rank] · y[t·k + rank]`: from 0, one fma chain, ranks ascending.
pub fn combine(y: &[f32], weights: &[f32], k: usize, width: usize, out: &mut [f32]) {
    for (t, out) in out.chunks_exact_mut(width).enumerate() {
        for (i, out) in out.iter_mut().enumerate() {
            *out = (t * k..(t + 1) * k).fold(0.0, |sum, slot| weights[slot].mul_add(y[slot * width + i], sum));
        }
    }
}
