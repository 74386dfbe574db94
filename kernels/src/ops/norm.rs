//! One row at a time: norms, softmax, and what else looks at a whole row. Sums go over 16 partial sums; lanes beyond the end of a row add zeros to them,
//! which changes no bit.

use super::{CHEAP, DEAR, math, piece};
use crate::isa::{Isa, Op, Sum16, vectorize};
use crate::naive::ops::RESCALE_FLOOR;
use crate::{Cpu, Level};

/// Each row of x `[rows, width]` divided by its root mean square, times `weight`: `[width]`, or `[groups, width]` that the
/// rows take in turns.
///
/// # Panics
/// If lengths do not fit together.
pub fn rms_norm(cpu: Cpu<'_>, x: &[f32], weight: Option<&[f32]>, eps: f32, width: usize, out: &mut [f32]) {
    let turn = turn(width, weight);
    check(x.len(), out.len(), turn, turn);
    let n = piece(cpu, out.len(), turn, CHEAP);
    cpu.parallel_chunks(out, n, &|i, out| {
        out.copy_from_slice(&x[i * n..][..out.len()]);
        vectorize(cpu.level, RmsNorm { x: out, weight, eps, width });
    });
}

/// [`rms_norm`], the result in place of x.
///
/// # Panics
/// If lengths do not fit together.
pub fn rms_norm_in_place(cpu: Cpu<'_>, x: &mut [f32], weight: Option<&[f32]>, eps: f32, width: usize) {
    let turn = turn(width, weight);
    check(x.len(), x.len(), turn, turn);
    let n = piece(cpu, x.len(), turn, CHEAP);
    cpu.parallel_chunks(x, n, &|_, x| vectorize(cpu.level, RmsNorm { x, weight, eps, width }));
}

/// Each row of x `[rows, width]` less its mean, divided by its standard deviation, times `weight`, plus `bias`.
///
/// # Panics
/// If lengths do not fit together.
pub fn layer_norm(cpu: Cpu<'_>, x: &[f32], weight: &[f32], bias: Option<&[f32]>, eps: f32, width: usize, out: &mut [f32]) {
    check(x.len(), out.len(), width, weight.len());
    check(x.len(), out.len(), width, bias.map_or(width, <[f32]>::len));
    let n = piece(cpu, out.len(), width, CHEAP);
    cpu.parallel_chunks(out, n, &|i, out| {
        out.copy_from_slice(&x[i * n..][..out.len()]);
        vectorize(cpu.level, LayerNorm { x: out, weight, bias, eps, width });
    });
}

/// The softmax of each row of x `[rows, width]`, in place.
///
/// # Panics
/// If x is not whole rows.
pub fn softmax(cpu: Cpu<'_>, x: &mut [f32], width: usize) {
    check(x.len(), x.len(), width, width);
    let n = piece(cpu, x.len(), width, DEAR);
    cpu.parallel_chunks(x, n, &|_, x| vectorize(cpu.level, Softmax { x, width }));
}

/// `out = exp(x - most)`, for an x of which nothing is above `most`: what softmax divides by its sum.
///
/// # Panics
/// If the lengths differ.
pub fn weights(level: Level, x: &[f32], most: f32, out: &mut [f32]) {
    assert_eq!(x.len(), out.len(), "as many weights as values");
    vectorize(level, Weights { x, most, out });
}

/// Each run of `width` in x `[rows, runs, width]` gets the root mean square of the same row of `like` `[rows, width]`.
///
/// # Panics
/// If lengths do not fit together.
pub fn rescale(cpu: Cpu<'_>, x: &mut [f32], runs: usize, like: &[f32], width: usize) {
    check(like.len() * runs, x.len(), width, width);
    let n = piece(cpu, x.len(), runs * width, CHEAP);
    cpu.parallel_chunks(x, n, &|i, x| vectorize(cpu.level, Rescale { like: &like[i * n / runs..][..x.len() / runs], x, runs, width }));
}

/// Of each row of x `[rows, width]` what is more than `sigmas` standard deviations above its mean, less that; the rest becomes 0
/// (the Gaussian top-k of Spark Transformer, 2025).
///
/// # Panics
/// If x is not whole rows.
pub fn sparsify(cpu: Cpu<'_>, x: &mut [f32], sigmas: f32, width: usize) {
    check(x.len(), x.len(), width, width);
    let n = piece(cpu, x.len(), width, CHEAP);
    cpu.parallel_chunks(x, n, &|_, x| vectorize(cpu.level, Sparsify { x, sigmas, width }));
}

/// Values after which the weights begin anew.
fn turn(width: usize, weight: Option<&[f32]>) -> usize {
    let turn = weight.map_or(width, <[f32]>::len);
    assert!(width > 0 && turn.is_multiple_of(width), "weights of {turn} for rows of {width}");
    turn
}

fn check(x: usize, out: usize, width: usize, weight: usize) {
    assert!(
        width > 0 && x.is_multiple_of(width) && out == x && weight == width,
        "{x} values to {out}, rows of {width}, weights of {weight}"
    );
}

/// The last, incomplete 16 of a row, `blank` where there are none.
#[inline(always)]
fn last(rest: &[f32], blank: f32) -> [f32; 16] {
    let mut whole = [blank; 16];
    whole[..rest.len()].copy_from_slice(rest);
    whole
}

/// Σ(x - mean)² of a row.
#[inline(always)]
fn squares<I: Isa>(isa: I, row: &[f32], mean: f32) -> f32 {
    let (whole, rest) = row.as_chunks::<16>();
    let last = last(rest, mean); // less the mean: zeros
    let (mut sum, mean) = (Sum16::new(isa), isa.splat(mean));
    for x in whole.iter().chain([&last]) {
        for part in 0..Sum16::<I>::PARTS {
            let x = isa.sub(isa.load(&x[part * I::LANES..]), mean);
            sum.fma(isa, part, x, x);
        }
    }
    sum.total(isa)
}

/// Σx of a row.
#[inline(always)]
fn total<I: Isa>(isa: I, row: &[f32]) -> f32 {
    let (whole, rest) = row.as_chunks::<16>();
    let mut sum = Sum16::new(isa);
    for x in whole.iter().chain([&last(rest, 0.0)]) {
        for part in 0..Sum16::<I>::PARTS {
            sum.add(isa, part, isa.load(&x[part * I::LANES..]));
        }
    }
    sum.total(isa)
}

struct RmsNorm<'a> {
    x: &'a mut [f32],
    weight: Option<&'a [f32]>,
    eps: f32,
    width: usize,
}

impl Op for RmsNorm<'_> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        for (i, row) in self.x.chunks_exact_mut(self.width).enumerate() {
            let r = 1.0 / (squares(isa, row, 0.0) / self.width as f32 + self.eps).sqrt();
            let r = isa.splat(r);
            let mut whole = row.chunks_exact_mut(I::LANES);
            match self.weight {
                None => {
                    for x in &mut whole {
                        isa.store(isa.mul(isa.load(x), r), x);
                    }
                    let rest = whole.into_remainder();
                    isa.store_some(isa.mul(isa.load_some(rest), r), rest);
                }
                Some(weight) => {
                    let weight = if weight.len() == self.width { weight } else { &weight[i * self.width % weight.len()..][..self.width] };
                    let ws = weight.chunks_exact(I::LANES);
                    let w = isa.load_some(ws.remainder());
                    for (x, w) in (&mut whole).zip(ws) {
                        isa.store(isa.mul(isa.mul(isa.load(x), r), isa.load(w)), x);
                    }
                    let rest = whole.into_remainder();
                    isa.store_some(isa.mul(isa.mul(isa.load_some(rest), r), w), rest);
                }
            }
        }
    }
}

struct LayerNorm<'a> {
    x: &'a mut [f32],
    weight: &'a [f32],
    bias: Option<&'a [f32]>,
    eps: f32,
    width: usize,
}

impl Op for LayerNorm<'_> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        for row in self.x.chunks_exact_mut(self.width) {
            let mean = total(isa, row) / self.width as f32;
            let r = 1.0 / (squares(isa, row, mean) / self.width as f32 + self.eps).sqrt();
            let (mean, r) = (isa.splat(mean), isa.splat(r));
            for (i, (x, w)) in row.chunks_mut(I::LANES).zip(self.weight.chunks(I::LANES)).enumerate() {
                let y = isa.mul(isa.sub(isa.load_some(x), mean), r);
                let y = match self.bias {
                    Some(bias) => isa.fma(y, isa.load_some(w), isa.load_some(&bias[i * I::LANES..])),
                    None => isa.mul(y, isa.load_some(w)),
                };
                isa.store_some(y, x);
            }
        }
    }
}

struct Rescale<'a> {
    x: &'a mut [f32],
    runs: usize,
    like: &'a [f32],
    width: usize,
}

impl Op for Rescale<'_> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        for (row, like) in self.x.chunks_exact_mut(self.runs * self.width).zip(self.like.chunks_exact(self.width)) {
            let wanted = (squares(isa, like, 0.0) / self.width as f32).sqrt();
            for run in row.chunks_exact_mut(self.width) {
                let found = squares(isa, run, 0.0) / self.width as f32;
                let found = if found > RESCALE_FLOOR { found } else { RESCALE_FLOOR };
                let factor = isa.splat(wanted / found.sqrt());
                for x in run.chunks_mut(I::LANES) {
                    isa.store_some(isa.mul(isa.load_some(x), factor), x);
                }
            }
        }
    }
}

struct Sparsify<'a> {
    x: &'a mut [f32],
    sigmas: f32,
    width: usize,
}

impl Op for Sparsify<'_> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        for row in self.x.chunks_exact_mut(self.width) {
            let mean = total(isa, row) / self.width as f32;
            let deviation = (squares(isa, row, mean) / self.width as f32).sqrt();
            let cut = isa.splat(deviation.mul_add(self.sigmas, mean));
            for x in row.chunks_mut(I::LANES) {
                isa.store_some(isa.max(isa.sub(isa.load_some(x), cut), isa.zero()), x);
            }
        }
    }
}

pub(super) struct Softmax<'a> {
    pub(super) x: &'a mut [f32],
    pub(super) width: usize,
}

impl Op for Softmax<'_> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        for row in self.x.chunks_exact_mut(self.width) {
            let (whole, rest) = row.as_chunks_mut::<16>();
            let mut last = last(rest, f32::NEG_INFINITY); // whose exp is 0
            let mut most = isa.splat(f32::NEG_INFINITY);
            for x in whole.iter().chain([&last]) {
                for part in 0..Sum16::<I>::PARTS {
                    most = isa.max(isa.load(&x[part * I::LANES..]), most);
                }
            }
            let most = isa.splat(isa.reduce_max(most));
            let mut sum = Sum16::new(isa);
            for x in whole.iter_mut().chain([&mut last]) {
                for part in 0..Sum16::<I>::PARTS {
                    let x = &mut x[part * I::LANES..];
                    let e = math::exp(isa, isa.sub(isa.load(x), most));
                    isa.store(e, x);
                    sum.add(isa, part, e);
                }
            }
            let inverse = isa.splat(1.0 / sum.total(isa));
            for x in whole.iter_mut().chain([&mut last]) {
                for part in 0..Sum16::<I>::PARTS {
                    let x = &mut x[part * I::LANES..];
                    isa.store(isa.mul(isa.load(x), inverse), x);
                }
            }
            rest.copy_from_slice(&last[..rest.len()]);
        }
    }
}

struct Weights<'a> {
    x: &'a [f32],
    most: f32,
    out: &'a mut [f32],
}

impl Op for Weights<'_> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let most = isa.splat(self.most);
        let ((x, rest), (out, rest_out)) = (self.x.as_chunks::<16>(), self.out.as_chunks_mut::<16>());
        let mut whole = [0.0; 16];
        for (x, out) in x.iter().chain([&last(rest, self.most)]).zip(out.iter_mut().chain([&mut whole])) {
            for part in 0..Sum16::<I>::PARTS {
                let e = math::exp(isa, isa.sub(isa.load(&x[part * I::LANES..]), most));
                isa.store(e, &mut out[part * I::LANES..]);
            }
        }
        rest_out.copy_from_slice(&whole[..rest_out.len()]);
    }
}
