//! One element at a time: sums, scales, activations.

use super::{Activation, CHEAP, DEAR, Xielu, math, piece};
use crate::Cpu;
use crate::isa::{Isa, Op, vectorize};
use crate::naive::ops::{OAI_ALPHA, OAI_LIMIT, SWIGLU_LIMIT};

/// `x += y`
///
/// # Panics
/// If the lengths differ.
pub fn add(cpu: Cpu<'_>, x: &mut [f32], y: &[f32]) {
    assert_eq!(x.len(), y.len(), "two sums of different lengths");
    let n = piece(cpu, x.len(), 16, CHEAP);
    cpu.parallel_chunks(x, n, &|i, x| vectorize(cpu.level, Both { f: Add, y: &y[i * n..][..x.len()], x }));
}

/// Adds `bias` to each row of x `[rows, bias.len()]`.
///
/// # Panics
/// If x is not whole rows.
pub fn add_bias(cpu: Cpu<'_>, x: &mut [f32], bias: &[f32]) {
    assert!(!bias.is_empty() && x.len().is_multiple_of(bias.len()), "{} values in rows of {}", x.len(), bias.len());
    let n = piece(cpu, x.len(), bias.len(), CHEAP);
    cpu.parallel_chunks(x, n, &|_, x| x.chunks_exact_mut(bias.len()).for_each(|x| vectorize(cpu.level, Both { f: Add, y: bias, x })));
}

/// Each row of x `[rows, weight.len()]` times `weight`, channel by channel.
///
/// # Panics
/// If x is not whole rows.
pub fn scale_by(cpu: Cpu<'_>, x: &mut [f32], weight: &[f32]) {
    assert!(!weight.is_empty() && x.len().is_multiple_of(weight.len()), "{} values in rows of {}", x.len(), weight.len());
    let n = piece(cpu, x.len(), weight.len(), CHEAP);
    cpu.parallel_chunks(x, n, &|_, x| x.chunks_exact_mut(weight.len()).for_each(|x| vectorize(cpu.level, Both { f: Mul, y: weight, x })));
}

/// Each run of x `[runs, x.len() / runs]` times σ of its own of the `gates` `[runs]`.
///
/// # Panics
/// If x is not so many runs.
pub fn gate(cpu: Cpu<'_>, x: &mut [f32], gates: &[f32]) {
    let width = x.len().checked_div(gates.len()).unwrap_or(0);
    assert_eq!(x.len(), width * gates.len(), "so many values in {} runs", gates.len());
    if width == 0 {
        return;
    }
    let n = piece(cpu, x.len(), width, CHEAP);
    cpu.parallel_chunks(x, n, &|i, x| {
        for (x, &gate) in x.chunks_exact_mut(width).zip(&gates[i * n / width..]) {
            vectorize(cpu.level, Each { f: Gated(gate), x });
        }
    });
}

/// Adds the rows of `y` `[rows, y_width]` to channels `at ..` of those of x `[rows, x_width]`.
///
/// # Panics
/// If a row does not have these channels, or there are not as many rows of both.
pub fn add_channels(cpu: Cpu<'_>, (x, x_width): (&mut [f32], usize), at: usize, (y, y_width): (&[f32], usize)) {
    assert!(at + y_width <= x_width, "{y_width} channels to {at} of {x_width}");
    assert!(y.len() / y_width * x_width == x.len() && x.len().is_multiple_of(x_width), "{} and {}", x.len(), y.len());
    let n = piece(cpu, x.len(), x_width, CHEAP);
    cpu.parallel_chunks(x, n, &|i, x| {
        let y = &y[i * n / x_width * y_width..];
        for (x, y) in x.chunks_exact_mut(x_width).zip(y.chunks_exact(y_width)) {
            vectorize(cpu.level, Both { f: Add, y, x: &mut x[at..at + y_width] });
        }
    });
}

/// `x *= s`
pub fn scale(cpu: Cpu<'_>, x: &mut [f32], s: f32) {
    let n = piece(cpu, x.len(), 16, CHEAP);
    cpu.parallel_chunks(x, n, &|_, x| vectorize(cpu.level, Each { f: Scale(s), x }));
}

/// `x = cap · tanh(x / cap)`
pub fn softcap(cpu: Cpu<'_>, x: &mut [f32], cap: f32) {
    let n = piece(cpu, x.len(), 16, DEAR);
    cpu.parallel_chunks(x, n, &|_, x| vectorize(cpu.level, Each { f: Softcap(cap), x }));
}

/// x within ±`limit`
pub fn clamp(cpu: Cpu<'_>, x: &mut [f32], limit: f32) {
    let n = piece(cpu, x.len(), 16, CHEAP);
    cpu.parallel_chunks(x, n, &|_, x| vectorize(cpu.level, Each { f: Clamp(limit), x }));
}

/// `x = xielu(x)`
pub fn xielu(cpu: Cpu<'_>, x: &mut [f32], xielu: Xielu) {
    let n = piece(cpu, x.len(), 16, DEAR);
    cpu.parallel_chunks(x, n, &|_, x| vectorize(cpu.level, Each { f: xielu, x }));
}

/// `gate = act(gate) · up`, or as the activation says.
///
/// # Panics
/// If the lengths differ.
pub fn glu(cpu: Cpu<'_>, act: Activation, gate: &mut [f32], up: &[f32]) {
    assert_eq!(gate.len(), up.len(), "gate and up of different lengths");
    let n = piece(cpu, gate.len(), 16, DEAR);
    cpu.parallel_chunks(gate, n, &|i, gate| vectorize(cpu.level, Both { f: act, y: &up[i * n..][..gate.len()], x: gate }));
}

/// `x = act(x)`
pub fn activate(cpu: Cpu<'_>, act: Activation, x: &mut [f32]) {
    let n = piece(cpu, x.len(), 16, DEAR);
    cpu.parallel_chunks(x, n, &|_, x| vectorize(cpu.level, Each { f: act, x }));
}

/// A function of a lane.
pub(super) trait Unary {
    fn of<I: Isa>(&self, isa: I, x: I::F) -> I::F;
}

/// Channels `at .. at + n` of each row of `from` to channels `to_at .. to_at + n` of the same row of `to`; each comes with its width.
///
/// # Panics
/// If a row does not have these channels, or there are not as many rows of both.
pub fn copy_channels(cpu: Cpu<'_>, from: (&[f32], usize), at: usize, to: (&mut [f32], usize), to_at: usize, n: usize) {
    let ((from, from_width), (to, to_width)) = (from, to);
    if n == 0 {
        return;
    }
    assert!(at + n <= from_width && to_at + n <= to_width, "{n} channels from {at} of {from_width} to {to_at} of {to_width}");
    assert!(from.len() / from_width * to_width == to.len() && to.len().is_multiple_of(to_width), "{} and {}", from.len(), to.len());
    let size = piece(cpu, to.len(), to_width, CHEAP);
    cpu.parallel_chunks(to, size, &|i, to| {
        let from = &from[i * size / to_width * from_width..];
        for (to, from) in to.chunks_exact_mut(to_width).zip(from.chunks_exact(from_width)) {
            to[to_at..to_at + n].copy_from_slice(&from[at..at + n]);
        }
    });
}

/// A function of two lanes.
pub(super) trait Binary {
    fn of<I: Isa>(&self, isa: I, x: I::F, y: I::F) -> I::F;
}

pub(super) struct Add;

impl Binary for Add {
    #[inline(always)]
    fn of<I: Isa>(&self, isa: I, x: I::F, y: I::F) -> I::F {
        isa.add(x, y)
    }
}

pub(super) struct Mul;

impl Binary for Mul {
    #[inline(always)]
    fn of<I: Isa>(&self, isa: I, x: I::F, y: I::F) -> I::F {
        isa.mul(x, y)
    }
}

pub(super) struct Scale(pub(super) f32);

impl Unary for Scale {
    #[inline(always)]
    fn of<I: Isa>(&self, isa: I, x: I::F) -> I::F {
        isa.mul(x, isa.splat(self.0))
    }
}

pub(crate) struct Softcap(pub(crate) f32);

impl Softcap {
    #[inline(always)]
    pub(crate) fn cap<I: Isa>(&self, isa: I, x: I::F) -> I::F {
        isa.mul(isa.splat(self.0), math::tanh(isa, isa.mul(x, isa.splat(1.0 / self.0))))
    }
}

impl Unary for Softcap {
    #[inline(always)]
    fn of<I: Isa>(&self, isa: I, x: I::F) -> I::F {
        self.cap(isa, x)
    }
}

struct Clamp(f32);

impl Unary for Clamp {
    #[inline(always)]
    fn of<I: Isa>(&self, isa: I, x: I::F) -> I::F {
        isa.neg(at_most(isa, isa.neg(at_most(isa, x, self.0)), self.0))
    }
}

impl Unary for Xielu {
    #[inline(always)]
    fn of<I: Isa>(&self, isa: I, x: I::F) -> I::F {
        let above = isa.mul(isa.fma(isa.splat(self.above), x, isa.splat(self.slope)), x);
        let bend = isa.sub(isa.sub(math::exp(isa, at_most(isa, x, self.edge)), isa.splat(1.0)), x);
        let below = isa.fma(isa.splat(self.below), bend, isa.mul(isa.splat(self.slope), x));
        isa.select(isa.lt(isa.zero(), x), above, below)
    }
}

impl Unary for Activation {
    #[inline(always)]
    fn of<I: Isa>(&self, isa: I, x: I::F) -> I::F {
        match self {
            Activation::Silu => math::times_sigmoid(isa, x, x),
            Activation::GeluTanh => math::gelu_tanh(isa, x),
            Activation::Gelu => math::gelu(isa, x),
            Activation::Relu => isa.max(x, isa.zero()),
            Activation::ReluSquared => {
                let x = isa.max(x, isa.zero());
                isa.mul(x, x)
            }
            Activation::SwigluOai => {
                let x = at_most(isa, x, OAI_LIMIT);
                math::times_sigmoid(isa, x, isa.mul(x, isa.splat(OAI_ALPHA)))
            }
            Activation::Sigmoid => math::times_sigmoid(isa, isa.splat(1.0), x),
            Activation::Identity => x,
            Activation::SwigluLimited => {
                let x = at_most(isa, x, SWIGLU_LIMIT);
                math::times_sigmoid(isa, x, x)
            }
        }
    }
}

/// `limit < x ? limit : x`, so that a NaN stays one.
#[inline(always)]
fn at_most<I: Isa>(isa: I, x: I::F, limit: f32) -> I::F {
    let limit = isa.splat(limit);
    isa.select(isa.lt(limit, x), limit, x)
}

/// x·σ of a number.
struct Gated(f32);

impl Unary for Gated {
    #[inline(always)]
    fn of<I: Isa>(&self, isa: I, x: I::F) -> I::F {
        math::times_sigmoid(isa, x, isa.splat(self.0))
    }
}

/// `x = f(x)`
pub(super) struct Each<'a, F> {
    pub(super) f: F,
    pub(super) x: &'a mut [f32],
}

impl<F: Unary> Op for Each<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let mut whole = self.x.chunks_exact_mut(I::LANES);
        for x in &mut whole {
            isa.store(self.f.of(isa, isa.load(x)), x);
        }
        let rest = whole.into_remainder();
        isa.store_some(self.f.of(isa, isa.load_some(rest)), rest);
    }
}

/// `x = f(x, y)`
pub(super) struct Both<'a, F> {
    pub(super) f: F,
    pub(super) x: &'a mut [f32],
    pub(super) y: &'a [f32],
}

impl<F: Binary> Op for Both<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let (mut xs, ys) = (self.x.chunks_exact_mut(I::LANES), self.y.chunks_exact(I::LANES));
        let y_rest = ys.remainder();
        for (x, y) in (&mut xs).zip(ys) {
            isa.store(self.f.of(isa, isa.load(x), isa.load(y)), x);
        }
        let rest = xs.into_remainder();
        isa.store_some(self.f.of(isa, isa.load_some(rest), isa.load_some(y_rest)), rest);
    }
}

/// `out = act(gate) · up`
impl Binary for Activation {
    #[inline(always)]
    fn of<I: Isa>(&self, isa: I, x: I::F, y: I::F) -> I::F {
        let y = match self {
            Activation::Silu | Activation::GeluTanh | Activation::Gelu | Activation::Relu | Activation::ReluSquared => y,
            Activation::Sigmoid | Activation::Identity => y,
            Activation::SwigluOai => {
                let y = isa.neg(at_most(isa, isa.neg(at_most(isa, y, OAI_LIMIT)), OAI_LIMIT));
                isa.add(y, isa.splat(1.0))
            }
            Activation::SwigluLimited => Clamp(SWIGLU_LIMIT).of(isa, y),
        };
        isa.mul(Unary::of(self, isa, x), y)
    }
}
