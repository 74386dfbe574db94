//! Hyper-connections: weights of the strands, and the strands weighed.
//!
//! ```text
//! raw mixes of a token, n strands: a (n), b (n), c (n × n: from, to); each a = a·scale[0] + base, b = b·scale[1] + base, …
//! pre  = σ(a) + eps            post = 2·σ(b)
//! comb = c: softmax over `to`, + eps; then divided by (Σ over `from` + eps); then, iterations - 1 times, by (Σ over `to` + eps)
//!        and by (Σ over `from` + eps)                                                                     (Sinkhorn and Knopp 1967)
//! ```
//! Sums go up in order; where there are only a's (the head's mix), the rest is left out.

use super::{exp, max};
use crate::naive::math::times_sigmoid;

/// What a model's hyper-connections have in common, and one's own numbers.
#[derive(Clone, Copy, Debug)]
pub struct Hyper<'a> {
    /// Strands.
    pub strands: usize,
    /// Factors of the three parts of the mixes, or of the first alone.
    pub scale: &'a [f32],
    /// Added to the mixes.
    pub base: &'a [f32],
    /// How often comb is normalised.
    pub iterations: usize,
    /// Added to weights and sums.
    pub eps: f32,
}

/// One token's raw mixes to weights.
pub fn weights(hyper: &Hyper<'_>, mixes: &mut [f32]) {
    let (n, eps) = (hyper.strands, hyper.eps);
    for (i, (x, base)) in mixes.iter_mut().zip(hyper.base).enumerate() {
        let part = (i / n).min(2);
        *x = *x * hyper.scale[part] + base;
        match part {
            0 => *x = times_sigmoid(1.0, *x) + eps,
            1 => *x = 2.0 * times_sigmoid(1.0, *x),
            _ => {}
        }
    }
    if mixes.len() < n * (n + 2) {
        return;
    }
    let comb = &mut mixes[2 * n..];
    for row in comb.chunks_exact_mut(n) {
        let most = row.iter().fold(f32::NEG_INFINITY, |m, x| max(*x, m));
        row.iter_mut().for_each(|x| *x = exp(*x - most));
        let sum = row.iter().fold(0.0, |sum, x| sum + x);
        row.iter_mut().for_each(|x| *x = *x / sum + eps);
    }
    for i in 0..hyper.iterations {
        if i > 0 {
            for row in comb.chunks_exact_mut(n) {
                let sum = row.iter().fold(0.0, |sum, x| sum + x) + eps;
                row.iter_mut().for_each(|x| *x /= sum);
            }
        }
        for to in 0..n {
            let sum = (0..n).fold(0.0, |sum, from| sum + comb[from * n + to]) + eps;
            (0..n).for_each(|from| comb[from * n + to] /= sum);
        }
    }
}

/// `out = Σ weights[strand] · x[strand]`: from 0, one fma chain, strands ascending. One token.
pub fn mix(x: &[f32], weights: &[f32], out: &mut [f32]) {
    let width = out.len();
    for (i, out) in out.iter_mut().enumerate() {
        *out = weights.iter().enumerate().fold(0.0, |sum, (strand, w)| w.mul_add(x[strand * width + i], sum));
    }
}

/// `x[to] = post[to] · y`, then fma of `comb[from, to] · x[from]`, `from` ascending. One token; `weights` are pre, post, comb.
pub fn add(x: &mut [f32], strands: usize, y: &[f32], weights: &[f32]) {
    let (width, before) = (y.len(), x.to_vec());
    let (post, comb) = weights[strands..].split_at(strands);
    for (to, x) in x.chunks_exact_mut(width).enumerate() {
        for (i, x) in x.iter_mut().enumerate() {
            *x = (0..strands).fold(post[to] * y[i], |sum, from| comb[from * strands + to].mul_add(before[from * width + i], sum));
        }
    }
}
