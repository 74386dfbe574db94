//! Elementary functions, as polynomials of our own: each a fixed sequence of IEEE operations, so that all machines agree.
//!
//! ```text
//! exp(x)      x = n·ln2 + r,  |r| ≤ ln2/2:   2ⁿ · (1 + r + r²·P(r))               x ≤ 0; 0 below -87
//! tanh(x)     |x| < 0.625: x + x³·P(x²);     else ±(1 - e)/(1 + e), e = exp(-2|x|)
//! x·σ(t)      x·n/(1 + e), e = exp(-|t|), n = t < 0 ? e : 1                       silu: t = x; gelu, tanh form: t = 2u
//! ln(1 + eˣ)  max(x, 0) + 2·(s + s³·P(s²)), s = e/(2 + e), e = exp(-|x|)         since ln(1 + e) = 2·atanh(s)
//! Φ(x)        |x|: y·Q(y)·exp(-x²/2), y = 1/(1 + 0.3|x|);  1 - that for x ≥ 0     gelu: x·Φ(x)
//! ```
//! exp's and tanh's polynomials are those of S. L. Moshier's Cephes (expf, tanhf); Q was fitted by us (greatest relative
//! error 8e-8 on |x| ≤ 13.4), and so was P of ln(1 + eˣ) (atanh on [0, 1/3], error 2e-8).

/// log₂ e
pub(crate) const LOG2_E: f32 = std::f32::consts::LOG2_E;
/// ln 2 in two parts: the first has few enough bits for n times it to be exact.
pub(crate) const LN2: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];
/// P of exp, highest power first.
pub(crate) const EXP: [f32; 6] = [1.987_569_2e-4, 1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 5e-1];
/// exp is 0 below.
pub(crate) const EXP_LEAST: f32 = -87.0;
/// P of tanh, highest power first.
pub(crate) const TANH: [f32; 5] = [-5.704_988_7e-3, 2.063_909e-2, -5.373_971_6e-2, 1.333_144_2e-1, -3.333_328e-1];
/// tanh is a polynomial below.
pub(crate) const TANH_SMALL: f32 = 0.625;
/// P of ln(1 + eˣ), highest power first.
pub(crate) const ATANH: [f32; 4] = [1.342_575e-1, 1.411_831e-1, 2.000_378e-1, 3.333_332e-1];
/// Q of Φ, highest power first.
pub(crate) const PHI: [f32; 9] = [
    3.814_800_6e-3,
    1.866_873_3e-2,
    -1.252_812_6e-1,
    1.735_204_1e-1,
    -3.352_103_7e-2,
    1.210_197_7e-1,
    1.015_859_2e-1,
    1.205_534_7e-1,
    1.196_392_3e-1,
];
/// y = 1/(1 + this·|x|)
pub(crate) const PHI_STEP: f32 = 0.3;
/// 2·√(2/π), of gelu's tanh form.
pub(crate) const GELU_2U: f32 = 1.595_769;
/// The cubic term of gelu's tanh form.
pub(crate) const GELU_CUBIC: f32 = 0.044_715;

/// eˣ for x ≤ 0, to about 1 unit in the last place; 0 below -87.
pub fn exp(x: f32) -> f32 {
    if x < EXP_LEAST {
        return 0.0;
    }
    let n = (x * LOG2_E).round_ties_even();
    let r = (-n).mul_add(LN2[0], x);
    let r = (-n).mul_add(LN2[1], r);
    let p = horner(&EXP, r);
    let y = p.mul_add(r * r, r) + 1.0;
    y * f32::from_bits(((n as i32).wrapping_add(127) as u32) << 23)
}

/// tanh x, to about 2 units in the last place.
pub fn tanh(x: f32) -> f32 {
    let a = x.abs();
    if a < TANH_SMALL {
        let z = x * x;
        return (horner(&TANH, z) * z).mul_add(x, x);
    }
    let e = exp(-2.0 * a);
    let y = (1.0 - e) / (1.0 + e);
    if x < 0.0 { -y } else { y }
}

/// x / (1 + e⁻ᵗ)
pub fn times_sigmoid(x: f32, t: f32) -> f32 {
    let e = exp(-t.abs());
    let n = if t < 0.0 { e } else { 1.0 };
    x * n / (1.0 + e)
}

/// x·σ(x)
pub fn silu(x: f32) -> f32 {
    times_sigmoid(x, x)
}

/// ln(1 + eˣ), to about 2 units in the last place.
pub fn softplus(x: f32) -> f32 {
    let e = exp(-x.abs());
    let s = e / (2.0 + e);
    let z = s * s;
    2f32.mul_add((s * z).mul_add(horner(&ATANH, z), s), super::max(x, 0.0))
}

/// x·½(1 + tanh u) = x·σ(2u), u = √(2/π)(x + 0.044715 x³)
pub fn gelu_tanh(x: f32) -> f32 {
    times_sigmoid(x, GELU_2U * x * (x * x).mul_add(GELU_CUBIC, 1.0))
}

/// x·Φ(x) = x·½(1 + erf(x/√2))
pub fn gelu(x: f32) -> f32 {
    let a = x.abs();
    let y = 1.0 / a.mul_add(PHI_STEP, 1.0);
    let tail = horner(&PHI, y) * y * exp(-0.5 * x * x);
    x * if x < 0.0 { tail } else { 1.0 - tail }
}

/// The polynomial with these coefficients, highest power first: one fma a step.
fn horner(coefficients: &[f32], x: f32) -> f32 {
    coefficients[1..].iter().fold(coefficients[0], |p, c| p.mul_add(x, *c))
}
