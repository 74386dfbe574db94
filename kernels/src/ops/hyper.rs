//! Hyper-connections: a residual stream of several strands, mixed before and after each block by weights that depend on it.
//!
//! D. Zhu et al., Hyper-Connections, 2024; Z. Xie et al., mHC: Manifold-Constrained Hyper-Connections, 2025. The formulas are in
//! [`crate::naive::hyper`].

use super::{CHEAP, piece};
use crate::Cpu;
use crate::isa::{Isa, Op, vectorize};
use crate::naive;
pub use crate::naive::hyper::Hyper;

/// Most strands that there is code for.
pub const STRANDS: usize = 8;

/// Raw mixes `[tokens, raw]` to weights, in place; see [`naive::hyper::weights`].
pub fn hyper_weights(cpu: Cpu<'_>, hyper: &Hyper<'_>, mixes: &mut [f32]) {
    let width = hyper.base.len();
    assert!(mixes.len().is_multiple_of(width), "{} mixes in rows of {width}", mixes.len());
    cpu.parallel_chunks(mixes, width, &|_, row| naive::hyper::weights(hyper, row));
}

/// `out = Σ weights[strand] · x[strand]`: x `[tokens, strands, width]`, weights the first of each row of `[tokens, pitch]`.
///
/// # Panics
/// If lengths do not fit together, or there are more than [`STRANDS`].
pub fn hyper_mix(cpu: Cpu<'_>, x: &[f32], strands: usize, weights: &[f32], pitch: usize, out: &mut [f32]) {
    let width = x.len() / strands / (weights.len() / pitch);
    assert!(strands <= STRANDS && strands <= pitch && out.len() * strands == x.len(), "{strands} strands, {} values", x.len());
    let size = piece(cpu, out.len(), width, CHEAP);
    cpu.parallel_chunks(out, size, &|i, out| {
        let first = i * size / width;
        for (t, out) in out.chunks_exact_mut(width).enumerate().map(|(t, out)| (first + t, out)) {
            let x = &x[t * strands * width..][..strands * width];
            vectorize(cpu.level, Mix { x, weights: &weights[t * pitch..][..strands], out });
        }
    });
}

/// `x[to] = post[to] · y + Σ comb[from, to] · x[from]`; weights `[tokens, pitch]` hold pre, post and comb.
///
/// # Panics
/// As [`hyper_mix`].
pub fn hyper_add(cpu: Cpu<'_>, x: &mut [f32], strands: usize, y: &[f32], weights: &[f32]) {
    let pitch = strands * (strands + 2);
    let width = y.len() / (weights.len() / pitch);
    assert!(strands <= STRANDS && y.len() * strands == x.len(), "{strands} strands, {} values", x.len());
    let size = piece(cpu, x.len(), strands * width, CHEAP);
    cpu.parallel_chunks(x, size, &|i, x| {
        let first = i * size / (strands * width);
        for (t, x) in x.chunks_exact_mut(strands * width).enumerate().map(|(t, x)| (first + t, x)) {
            let weights = &weights[t * pitch + strands..][..strands * (strands + 1)];
            vectorize(cpu.level, Add { x, y: &y[t * width..][..width], weights, strands });
        }
    });
}

struct Mix<'a> {
    x: &'a [f32],
    weights: &'a [f32],
    out: &'a mut [f32],
}

impl Op for Mix<'_> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let width = self.out.len();
        for (i, out) in self.out.chunks_mut(I::LANES).enumerate() {
            let mut sum = isa.zero();
            for (strand, weight) in self.x.chunks_exact(width).zip(self.weights) {
                sum = isa.fma(isa.splat(*weight), isa.load_some(&strand[i * I::LANES..][..out.len()]), sum);
            }
            isa.store_some(sum, out);
        }
    }
}

struct Add<'a> {
    x: &'a mut [f32],
    y: &'a [f32],
    weights: &'a [f32],
    strands: usize,
}

impl Op for Add<'_> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let (width, strands) = (self.y.len(), self.strands);
        let (post, comb) = self.weights.split_at(strands);
        for (i, y) in self.y.chunks(I::LANES).enumerate() {
            let (at, n) = (i * I::LANES, y.len());
            let y = isa.load_some(y);
            let mut sums = [isa.zero(); STRANDS];
            for (to, sum) in sums[..strands].iter_mut().enumerate() {
                *sum = isa.mul(isa.splat(post[to]), y);
                for from in 0..strands {
                    let x = isa.load_some(&self.x[from * width + at..][..n]);
                    *sum = isa.fma(isa.splat(comb[from * strands + to]), x, *sum);
                }
            }
            for (to, sum) in sums[..strands].iter().enumerate() {
                isa.store_some(*sum, &mut self.x[to * width + at..][..n]);
            }
        }
    }
}
