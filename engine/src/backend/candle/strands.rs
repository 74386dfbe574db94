//! Hyper-connections on a candle device: what [`hob_kernels::naive::hyper`] says, for all tokens at once.

use super::{CandleBackend, Done};
use crate::backend::Mixing;
use candle_core::{D, Tensor as Array};
use candle_nn::ops::{sigmoid, softmax_last_dim};

/// Raw mixes `[tokens, count · (count + 2)]`, or of the head alone `[tokens, count]`, to weights.
pub(super) fn weights(mixing: &Mixing<CandleBackend>, mixes: &Array) -> Done<Array> {
    let (n, eps) = (mixing.count, f64::from(mixing.eps));
    let (tokens, width) = mixes.dims2()?;
    let part = |index: usize, from: usize, len: usize| {
        let scaled = mixes.narrow(1, from, len)?.broadcast_mul(&mixing.scale.narrow(0, index, 1)?)?;
        scaled.broadcast_add(&mixing.base.narrow(0, from, len)?)
    };
    let pre = sigmoid(&part(0, 0, n)?)?.affine(1.0, eps)?;
    if width < n * (n + 2) {
        return Ok(pre);
    }
    let post = sigmoid(&part(1, n, n)?)?.affine(2.0, 0.0)?;
    let mut comb = softmax_last_dim(&part(2, 2 * n, n * n)?.reshape((tokens, n, n))?)?.affine(1.0, eps)?;
    let even = |comb: &Array, over: usize| comb.broadcast_div(&comb.sum_keepdim(over)?.affine(1.0, eps)?);
    for round in 0..mixing.iterations {
        if round > 0 {
            comb = even(&comb, 2)?;
        }
        comb = even(&comb, 1)?;
    }
    Array::cat(&[pre, post, comb.reshape((tokens, n * n))?], D::Minus1)
}

/// `Σ pre[s] · x[s]`: x `[tokens, count · width]` to `[tokens, width]`.
pub(super) fn mixed(x: &Array, count: usize, weights: &Array) -> Done<Array> {
    let (tokens, width) = x.dims2()?;
    let pre = weights.narrow(1, 0, count)?.unsqueeze(1)?.contiguous()?;
    pre.matmul(&x.reshape((tokens, count, width / count))?)?.squeeze(1)
}

/// `x[t] = post[t] · y + Σ comb[s, t] · x[s]`
pub(super) fn added(x: &Array, count: usize, weights: &Array, y: &Array) -> Done<Array> {
    let (tokens, width) = x.dims2()?;
    let post = weights.narrow(1, count, count)?.unsqueeze(2)?;
    let comb = weights.narrow(1, 2 * count, count * count)?.reshape((tokens, count, count))?;
    let kept = comb.transpose(1, 2)?.contiguous()?.matmul(&x.reshape((tokens, count, width / count))?)?;
    (kept + post.broadcast_mul(&y.unsqueeze(1)?)?)?.reshape((tokens, width))
}
