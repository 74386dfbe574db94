//! Lengths of time steps, and what is left after them.

use crate::Cpu;
use crate::isa::{Isa, Op, vectorize};
use crate::ops::{DEAR, math, piece};

/// Each row of x `[rows, bias.len()]`: `x = softplus(x + bias)`.
///
/// # Panics
/// If x is not whole rows.
pub fn time_steps(cpu: Cpu<'_>, x: &mut [f32], bias: &[f32]) {
    rows(cpu, x, bias, TimeStep);
}

/// Each row of x `[rows, rate.len()]`: `x = exp(x · rate)`; no rate is above 0 where x is not below.
///
/// # Panics
/// If x is not whole rows.
pub fn decays(cpu: Cpu<'_>, x: &mut [f32], rate: &[f32]) {
    rows(cpu, x, rate, Decay);
}

/// A function of a lane and its channel's constant.
trait OfChannel: Copy + Sync {
    fn of<I: Isa>(self, isa: I, x: I::F, constant: I::F) -> I::F;
}

#[derive(Clone, Copy)]
struct TimeStep;

impl OfChannel for TimeStep {
    #[inline(always)]
    fn of<I: Isa>(self, isa: I, x: I::F, bias: I::F) -> I::F {
        math::softplus(isa, isa.add(x, bias))
    }
}

#[derive(Clone, Copy)]
struct Decay;

impl OfChannel for Decay {
    #[inline(always)]
    fn of<I: Isa>(self, isa: I, x: I::F, rate: I::F) -> I::F {
        math::exp(isa, isa.mul(x, rate))
    }
}

fn rows<F: OfChannel>(cpu: Cpu<'_>, x: &mut [f32], constants: &[f32], f: F) {
    let width = constants.len();
    assert!(width > 0 && x.len().is_multiple_of(width), "{} values in rows of {width}", x.len());
    let n = piece(cpu, x.len(), width, DEAR);
    cpu.parallel_chunks(x, n, &|_, x| vectorize(cpu.level, Rows { x, constants, f }));
}

struct Rows<'a, F> {
    x: &'a mut [f32],
    constants: &'a [f32],
    f: F,
}

impl<F: OfChannel> Op for Rows<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        for row in self.x.chunks_exact_mut(self.constants.len()) {
            for (x, constant) in row.chunks_mut(I::LANES).zip(self.constants.chunks(I::LANES)) {
                isa.store_some(self.f.of(isa, isa.load_some(x), isa.load_some(constant)), x);
            }
        }
    }
}
