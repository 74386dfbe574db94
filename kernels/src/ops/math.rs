//! Elementary functions of all lanes at once: [`crate::naive::math`], operation for operation.

use crate::isa::Isa;
use crate::naive::math::*;

/// eˣ for x ≤ 0.
#[inline(always)]
pub(crate) fn exp<I: Isa>(isa: I, x: I::F) -> I::F {
    let n = isa.round(isa.mul(x, isa.splat(LOG2_E)));
    let r = isa.fnma(n, isa.splat(LN2[0]), x);
    let r = isa.fnma(n, isa.splat(LN2[1]), r);
    let p = horner(isa, &EXP, r);
    let y = isa.add(isa.fma(p, isa.mul(r, r), r), isa.splat(1.0));
    let power = isa.from_bits(isa.shl::<23>(isa.add_i(isa.to_i32(n), isa.splat_i(127))));
    isa.select(isa.lt(x, isa.splat(EXP_LEAST)), isa.zero(), isa.mul(y, power))
}

/// tanh x
#[inline(always)]
pub(crate) fn tanh<I: Isa>(isa: I, x: I::F) -> I::F {
    let a = isa.abs(x);
    let z = isa.mul(x, x);
    let small = isa.fma(isa.mul(horner(isa, &TANH, z), z), x, x);
    let e = exp(isa, isa.mul(isa.splat(-2.0), a));
    let y = isa.div(isa.sub(isa.splat(1.0), e), isa.add(isa.splat(1.0), e));
    let large = isa.select(isa.lt(x, isa.zero()), isa.neg(y), y);
    isa.select(isa.lt(a, isa.splat(TANH_SMALL)), small, large)
}

/// x / (1 + e⁻ᵗ)
#[inline(always)]
pub(crate) fn times_sigmoid<I: Isa>(isa: I, x: I::F, t: I::F) -> I::F {
    let e = exp(isa, isa.neg(isa.abs(t)));
    let n = isa.select(isa.lt(t, isa.zero()), e, isa.splat(1.0));
    isa.div(isa.mul(x, n), isa.add(isa.splat(1.0), e))
}

/// ln(1 + eˣ)
#[inline(always)]
pub(crate) fn softplus<I: Isa>(isa: I, x: I::F) -> I::F {
    let e = exp(isa, isa.neg(isa.abs(x)));
    let s = isa.div(e, isa.add(isa.splat(2.0), e));
    let z = isa.mul(s, s);
    let half = isa.fma(isa.mul(s, z), horner(isa, &ATANH, z), s);
    isa.fma(isa.splat(2.0), half, isa.max(x, isa.zero()))
}

/// x·σ(2u)
#[inline(always)]
pub(crate) fn gelu_tanh<I: Isa>(isa: I, x: I::F) -> I::F {
    let cubic = isa.fma(isa.mul(x, x), isa.splat(GELU_CUBIC), isa.splat(1.0));
    times_sigmoid(isa, x, isa.mul(isa.mul(isa.splat(GELU_2U), x), cubic))
}

/// x·Φ(x)
#[inline(always)]
pub(crate) fn gelu<I: Isa>(isa: I, x: I::F) -> I::F {
    let y = isa.div(isa.splat(1.0), isa.fma(isa.abs(x), isa.splat(PHI_STEP), isa.splat(1.0)));
    let e = exp(isa, isa.mul(isa.mul(isa.splat(-0.5), x), x));
    let tail = isa.mul(isa.mul(horner(isa, &PHI, y), y), e);
    isa.mul(x, isa.select(isa.lt(x, isa.zero()), tail, isa.sub(isa.splat(1.0), tail)))
}

#[inline(always)]
fn horner<I: Isa, const N: usize>(isa: I, coefficients: &[f32; N], x: I::F) -> I::F {
    let mut p = isa.splat(coefficients[0]);
    for c in &coefficients[1..] {
        p = isa.fma(p, x, isa.splat(*c));
    }
    p
}
