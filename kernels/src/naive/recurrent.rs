//! Recurrences, token by token: that is their meaning, so a prompt may be cut anywhere.
//!
//! A sequence's memory is one matrix S `[keys, values]` a head, and for convolutions the last inputs. Arrays are
//! row-major; shapes in brackets.

use super::exp;
use super::math::softplus;
use super::ops::activation;
use crate::ops::Activation;
use crate::recurrent::Shape;

/// Causal convolution of each channel with its own taps, in place: x `[tokens, channels]`, weight `[taps, channels]`, oldest
/// first; `past` `[taps - 1, channels]` holds the inputs before x and then those before the next call. From the bias, or 0,
/// one fma chain over the taps; then the activation.
pub fn conv(x: &mut [f32], weight: &[f32], bias: Option<&[f32]>, act: Activation, channels: usize, past: &mut Vec<f32>) {
    past.extend_from_slice(x);
    for (i, x) in x.iter_mut().enumerate() {
        let (t, c) = (i / channels, i % channels);
        let taps = weight.chunks_exact(channels).enumerate();
        let sum = taps.fold(bias.map_or(0.0, |b| b[c]), |sum, (k, w)| w[c].mul_add(past[(t + k) * channels + c], sum));
        *x = activation(act, sum);
    }
    past.drain(..x.len());
}

/// Lengths of the steps: `x = softplus(x + bias)`, the bias the same for each row.
pub fn time_steps(x: &mut [f32], bias: &[f32]) {
    x.iter_mut().enumerate().for_each(|(i, x)| *x = softplus(*x + bias[i % bias.len()]));
}

/// What is left after the steps: `x = exp(x · rate)`, the rates (at most 0) the same for each row.
pub fn decays(x: &mut [f32], rate: &[f32]) {
    x.iter_mut().enumerate().for_each(|(i, x)| *x = exp(*x * rate[i % rate.len()]));
}

/// The scan of a state space model (Mamba-2): q, k `[tokens, key_heads, keys]`, v and out `[tokens, heads, values]`, dt and
/// decay `[tokens, heads]`, skip `[heads]`, state `[heads, keys, values]`. For each token and head, with `d = dt·v`:
/// `write`, then `out = fma(skip, v, o)`.
#[allow(clippy::too_many_arguments)]
pub fn scan(shape: &Shape, q: &[f32], k: &[f32], v: &[f32], dt: &[f32], decay: &[f32], skip: &[f32], state: &mut [f32], out: &mut [f32]) {
    for_each_head(shape, q, k, v, state, out, |at, head, q, k, v, state, out| {
        let (dt, a) = (dt[at], decay[at]);
        for (j, out) in out.iter_mut().enumerate() {
            let o = write(q, k, |_| a, dt * v[j], &mut state[j..], shape.values);
            *out = skip[head].mul_add(v[j], o);
        }
    });
}

/// The gated delta rule: as [`scan`], with decay `[tokens, heads]` or `[tokens, heads, keys]` and beta `[tokens, heads]`. For
/// each token and head: from 0, one fma chain over the keys, `p = fma(k, decay·S, p)`: what the decayed state remembers; then
/// `write` with `d = beta·(v - p)`.
#[allow(clippy::too_many_arguments)]
pub fn delta(shape: &Shape, q: &[f32], k: &[f32], v: &[f32], decay: &[f32], beta: &[f32], state: &mut [f32], out: &mut [f32]) {
    let per = if decay.len() == beta.len() { 1 } else { shape.keys };
    for_each_head(shape, q, k, v, state, out, |at, _, q, k, v, state, out| {
        let a = |i: usize| decay[at * per + i % per];
        for (j, out) in out.iter_mut().enumerate() {
            let p = k.iter().enumerate().fold(0f32, |p, (i, k)| k.mul_add(a(i) * state[i * shape.values + j], p));
            *out = write(q, k, a, beta[at] * (v[j] - p), &mut state[j..], shape.values);
        }
    });
}

/// One column of S: `S = fma(k, d, decay·S)`; gives `o = Σ q·S`, from 0 one fma chain over the keys.
fn write(q: &[f32], k: &[f32], decay: impl Fn(usize) -> f32, d: f32, column: &mut [f32], values: usize) -> f32 {
    let mut o = 0f32;
    for (i, (q, k)) in q.iter().zip(k).enumerate() {
        let s = &mut column[i * values];
        *s = k.mul_add(d, decay(i) * *s);
        o = q.mul_add(*s, o);
    }
    o
}

/// Calls `f(token · heads + head, head, q, k, v, state, out)` for every token, then head.
fn for_each_head(
    shape: &Shape,
    q: &[f32],
    k: &[f32],
    v: &[f32],
    state: &mut [f32],
    out: &mut [f32],
    mut f: impl FnMut(usize, usize, &[f32], &[f32], &[f32], &mut [f32], &mut [f32]),
) {
    let Shape { key_heads, heads, keys, values, .. } = *shape;
    for (at, (v, out)) in v.chunks_exact(values).zip(out.chunks_exact_mut(values)).enumerate() {
        let (t, head) = (at / heads, at % heads);
        let key = (t * key_heads + shape.key_head(head)) * keys;
        f(at, head, &q[key..][..keys], &k[key..][..keys], v, &mut state[head * keys * values..][..keys * values], out);
    }
}
