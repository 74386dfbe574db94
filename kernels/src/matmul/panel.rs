//! A panel, 256 columns of LANES rows in the form that products take, and its product by a few tokens.
//!
//! ```text
//! codes, by what a format has      bytes that are unsigned, with a minimum          dot, and a second sum
//!                                  bytes that are too large by a bias               dot from -bias · Σ x on
//!                                  signed bytes                                     as the instruction set has it, see `SignedBytes`
//! ```
//! A format says how it is unpacked and which of these its codes are ([`KFormat`], [`FlatFormat`]; `formats.rs` has them all).

use super::inputs::Inputs;
use crate::Format;
use crate::activations::{Flat, Wide};
use crate::isa::{Isa, Less, Outlined, Rows, SignedBytes};
use std::marker::PhantomData;
use std::ops::Range;

/// 256 columns of LANES rows, unpacked. Formats in blocks of 32 have one `d` and `m` for each.
#[derive(Clone, Copy)]
pub(super) struct Panel<I: Isa> {
    pub(super) codes: [I::I; 64],
    /// Where signed codes are widened, these are the odd ones, and `codes` the even ones; both times their scale, if it is an integer.
    pub(super) odd: [I::I; 64],
    pub(super) scales: [I::I; 16],
    pub(super) pairs: [I::I; 8],
    pub(super) d: [I::F; 8],
    pub(super) m: [I::F; 8],
}

impl<I: Isa> Panel<I> {
    #[inline(always)]
    pub(super) fn new(isa: I) -> Panel<I> {
        let (i, f) = (isa.splat_i(0), isa.zero());
        Panel { codes: [i; 64], odd: [i; 64], scales: [i; 16], pairs: [i; 8], d: [f; 8], m: [f; 8] }
    }
}

/// The codes of a format in blocks of 256.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum KCodes {
    /// At most `most`, with a second sum N = Σ min·Σ x over sub-blocks of 32: `f = fma(-m, N, d·S)`.
    Mins32 { most: i32 },
    /// At most 3, the same over sub-blocks of 16.
    Mins16,
    /// So much too large; sub-blocks of 16: `f = d·S`.
    Biased(i32),
    /// Signed bytes, see [`set_scaled`]; sub-blocks of 16.
    Signed,
}

/// A format in blocks of 256 with integer scales for sub-blocks.
pub(super) trait KFormat {
    /// The format whose product loops serve this one too, as all its other constants are the same: mostly itself.
    type Like: KFormat;
    /// Columns of a sub-block: 16 or 32.
    const GROUP: usize;
    /// Sums of four products that fit in 16 bits, in steps of four columns; see [`Isa::NARROW`]. All of a sub-block where codes are
    /// biased: the sum of what they stand for has to fit then, not the sum on the way.
    const FLUSH: usize;
    const CODES: KCodes;
    /// Unpacks block `block`: codes, scales (through [`Isa::scale`]), d[0], and mins in pairs and m[0].
    fn unpack<I: Isa>(isa: I, rows: &Rows, block: usize, panel: &mut Panel<I>);
}

/// A format in blocks of 32 with one scale.
pub(super) trait FlatFormat {
    /// As [`KFormat::Like`].
    type Like: FlatFormat;
    /// As [`KFormat::FLUSH`].
    const FLUSH: usize;
    const CODES: Codes;
    /// Unpacks block `block` into place `at` of the panel: eight vectors of codes, `d[at]` and, if it has one, `m[at]`.
    fn unpack<I: Isa>(isa: I, rows: &Rows, block: usize, at: usize, panel: &mut Panel<I>);
}

/// The codes of a format in blocks of 32.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Codes {
    /// So much too large: `f = d·S`.
    Biased(i32),
    /// With a minimum: `f = fma(m, Σ x, d·S)`.
    Min,
    /// Signed bytes, see [`set_signed`].
    Signed,
}

/// What the bytes of `SignedBytes::Biased` are too large by.
const SIGN: i32 = 128;

/// Four consecutive signed codes of each lane, `k` the first divided by four, in the form that the instruction set multiplies.
#[inline(always)]
pub(super) fn set_signed<I: Isa>(isa: I, panel: &mut Panel<I>, k: usize, codes: I::I) {
    match I::SIGNED {
        SignedBytes::Direct => panel.codes[k] = codes,
        SignedBytes::Biased => panel.codes[k] = isa.xor(codes, isa.splat_i(0x8080_8080u32 as i32)),
        SignedBytes::Widened => (panel.codes[k], panel.odd[k]) = (isa.even_bytes(codes), isa.odd_bytes(codes)),
    }
}

/// The same where sub-blocks of 16 have integer scales, which are set already: widened codes are multiplied by theirs, as a byte times a byte
/// fits in 16 bits.
#[inline(always)]
pub(super) fn set_scaled<I: Isa>(isa: I, panel: &mut Panel<I>, k: usize, codes: I::I) {
    set_signed(isa, panel, k, codes);
    if I::SIGNED == SignedBytes::Widened {
        let scale = panel.scales[k / 4];
        (panel.codes[k], panel.odd[k]) = (isa.mul_pairs(panel.codes[k], scale), isa.mul_pairs(panel.odd[k], scale));
    }
}

/// Any quantized format, as the product loops see it.
pub(super) trait Quant {
    type Act;
    /// Whose [`Quant::micro`] is to be used: formats whose panels look alike share it.
    type Like: Quant<Act = Self::Act>;
    fn acts(inputs: &Inputs, group: usize) -> &[Self::Act];
    /// Unpacks 256 columns, or the `cols` that are left, of rows in `format` (which matters to those alone that stand for several).
    fn unpack<I: Isa>(isa: I, format: Format, rows: &Rows, group: usize, cols: usize, panel: &mut Panel<I>);
    /// `acc[c][r] = fma(…)` for 256 columns, or the `cols` that are left; `widened` has room for the activations in 16 bits.
    fn micro<I: Isa, const R: usize, const C: usize>(
        isa: I,
        panels: &[Panel<I>; R],
        x: [&Self::Act; C],
        cols: usize,
        widened: &mut [Widened; C],
        acc: &mut [[I::F; R]; C],
    );
}

/// A K format as a [`Quant`].
pub(super) struct K<Q>(PhantomData<Q>);

impl<Q: KFormat> Quant for K<Q> {
    type Act = Wide;
    type Like = K<Q::Like>;

    #[inline(always)]
    fn acts(inputs: &Inputs, group: usize) -> &[Wide] {
        inputs.wide(group)
    }

    #[inline(always)]
    fn unpack<I: Isa>(isa: I, _format: Format, rows: &Rows, group: usize, _cols: usize, panel: &mut Panel<I>) {
        Q::unpack(isa, rows, group, panel);
    }

    #[inline(always)]
    fn micro<I: Isa, const R: usize, const C: usize>(
        isa: I,
        panels: &[Panel<I>; R],
        x: [&Wide; C],
        _cols: usize,
        widened: &mut [Widened; C],
        acc: &mut [[I::F; R]; C],
    ) {
        let sum = match (Q::CODES, I::SIGNED) {
            (KCodes::Signed, SignedBytes::Widened) => {
                for c in 0..C {
                    widened[c].set(isa, &x[c].q);
                }
                widened_sums(isa, panels, widened, 0..64)
            }
            (KCodes::Signed, SignedBytes::Biased) => scaled_sums::<I, Q, Whole, R, C>(isa, panels, x, SIGN),
            (KCodes::Signed, SignedBytes::Direct) => scaled_sums::<I, Q, Whole, R, C>(isa, panels, x, 0),
            (KCodes::Biased(bias), _) => sums::<I, Q, R, C>(isa, panels, x, bias),
            (KCodes::Mins32 { .. } | KCodes::Mins16, _) => sums::<I, Q, R, C>(isa, panels, x, 0),
        };
        for c in 0..C {
            for r in 0..R {
                let panel = &panels[r];
                let f = isa.mul(panel.d[0], isa.to_f32(sum[c][r]));
                let (pairs, sums) = match Q::CODES {
                    KCodes::Mins32 { .. } => (&panel.pairs[..4], &x[c].pairs32[..]),
                    KCodes::Mins16 => (&panel.pairs[..], &x[c].pairs16[..]),
                    KCodes::Biased(_) | KCodes::Signed => {
                        acc[c][r] = isa.fma(f, isa.splat(x[c].d), acc[c][r]);
                        continue;
                    }
                };
                let mut second = isa.splat_i(0);
                for (&pair, &sum) in pairs.iter().zip(sums) {
                    second = isa.dot_pairs(second, pair, isa.splat_i(sum));
                }
                let f = isa.fnma(panel.m[0], isa.to_f32(second), f);
                acc[c][r] = isa.fma(f, isa.splat(x[c].d), acc[c][r]);
            }
        }
    }
}

/// How the sum of a sub-block is multiplied by its scale.
trait Scaled {
    fn scaled<I: Isa>(isa: I, sum: I::I, acc: I::Acc, scale: I::I) -> I::I;
}

/// As it may be.
struct Whole;

impl Scaled for Whole {
    #[inline(always)]
    fn scaled<I: Isa>(isa: I, sum: I::I, acc: I::Acc, scale: I::I) -> I::I {
        isa.acc_scaled(sum, acc, scale)
    }
}

/// Known to fit in 16 bits.
struct Short;

impl Scaled for Short {
    #[inline(always)]
    fn scaled<I: Isa>(isa: I, sum: I::I, acc: I::Acc, scale: I::I) -> I::I {
        isa.short_scaled(sum, acc, scale)
    }
}

/// Whether every sub-block's Σ code·x of these activations fits in 16 bits, whatever the codes: nearly always, as few of 256 numbers come
/// near to the largest of them.
#[inline(always)]
fn fits<Q: KFormat>(x: &Wide) -> bool {
    let most = match Q::CODES {
        KCodes::Mins32 { most } => most * x.most32,
        KCodes::Biased(bias) => bias * x.most16,
        KCodes::Mins16 => 3 * x.most16,
        KCodes::Signed => return false,
    };
    most <= i32::from(i16::MAX)
}

/// Σ scale·Σ code·x over 256 columns, codes `bias` too large.
#[inline(always)]
fn sums<I: Isa, Q: KFormat, const R: usize, const C: usize>(isa: I, panels: &[Panel<I>; R], x: [&Wide; C], bias: i32) -> [[I::I; R]; C] {
    if !I::SHORT {
        return scaled_sums::<I, Q, Whole, R, C>(isa, panels, x, bias);
    }
    if x.into_iter().all(fits::<Q>) {
        return scaled_sums::<I, Q, Short, R, C>(isa, panels, x, bias);
    }
    let mut sum = [[isa.splat_i(0); R]; C];
    isa.outline(WholeSums::<I, Q, R, C> { panels, x, bias, sum: &mut sum, format: PhantomData });
    sum
}

/// The same where that has to be a function of its own.
struct WholeSums<'a, I: Isa, Q, const R: usize, const C: usize> {
    panels: &'a [Panel<I>; R],
    x: [&'a Wide; C],
    bias: i32,
    sum: &'a mut [[I::I; R]; C],
    format: PhantomData<Q>,
}

impl<I: Isa, Q: KFormat, const R: usize, const C: usize> Outlined<I> for WholeSums<'_, I, Q, R, C> {
    #[inline(always)]
    fn run(self, isa: I) {
        *self.sum = scaled_sums::<I, Q, Whole, R, C>(isa, self.panels, self.x, self.bias);
    }
}

/// The same where it is known how sums of sub-blocks are to be scaled.
#[inline(always)]
fn scaled_sums<I: Isa, Q: KFormat, S: Scaled, const R: usize, const C: usize>(
    isa: I,
    panels: &[Panel<I>; R],
    x: [&Wide; C],
    bias: i32,
) -> [[I::I; R]; C] {
    let run = Q::GROUP / 4;
    let steps = if I::NARROW && Q::FLUSH < run { Q::FLUSH } else { run };
    let mut sum = [[isa.splat_i(0); R]; C];
    for part in 0..64 / steps {
        let group = part * steps / run;
        let mut dots = [[isa.acc_zero(); R]; C];
        if bias != 0 {
            for c in 0..C {
                dots[c] = [isa.acc_biased(bias, Less { unit: Wide::UNIT, sums: x[c].less16[group] }); R];
            }
        }
        for step in 0..steps {
            let k = part * steps + step;
            for c in 0..C {
                let four = isa.splat_i(i32::from_le_bytes(x[c].q[k]));
                for r in 0..R {
                    dots[c][r] = isa.dot(dots[c][r], panels[r].codes[k], four);
                }
            }
        }
        for c in 0..C {
            for r in 0..R {
                sum[c][r] = S::scaled(isa, sum[c][r], dots[c][r], panels[r].scales[group]);
            }
        }
    }
    sum
}

/// 256 activations in 16 bits, two of every four in a word: what widened codes are multiplied by.
#[derive(Clone, Copy)]
pub(super) struct Widened {
    even: [i32; 64],
    odd: [i32; 64],
}

impl Widened {
    pub(super) const NONE: Widened = Widened { even: [0; 64], odd: [0; 64] };

    #[inline(always)]
    fn set<I: Isa>(&mut self, isa: I, q: &[[u8; 4]; 64]) {
        let outs = self.even.chunks_exact_mut(I::LANES).zip(self.odd.chunks_exact_mut(I::LANES));
        for (q, (even, odd)) in q.as_flattened().chunks_exact(4 * I::LANES).zip(outs) {
            let bytes = isa.to_bits(isa.load_f32_bytes(q));
            isa.store_i(isa.even_bytes(bytes), even);
            isa.store_i(isa.odd_bytes(bytes), odd);
        }
    }
}

/// Σ code·x over four columns for each of `steps`, codes and activations widened.
#[inline(always)]
fn widened_sums<I: Isa, const R: usize, const C: usize>(
    isa: I,
    panels: &[Panel<I>; R],
    x: &[Widened; C],
    steps: Range<usize>,
) -> [[I::I; R]; C] {
    let mut sum = [[isa.splat_i(0); R]; C];
    for k in steps {
        for c in 0..C {
            let (even, odd) = (isa.splat_i(x[c].even[k]), isa.splat_i(x[c].odd[k]));
            for r in 0..R {
                sum[c][r] = isa.dot_pairs(isa.dot_pairs(sum[c][r], panels[r].codes[k], even), panels[r].odd[k], odd);
            }
        }
    }
    sum
}

/// A format in blocks of 32 as a [`Quant`].
pub(super) struct Blocks32<Q>(PhantomData<Q>);

impl<Q: FlatFormat> Quant for Blocks32<Q> {
    type Act = Flat;
    type Like = Blocks32<Q::Like>;

    #[inline(always)]
    fn acts(inputs: &Inputs, group: usize) -> &[Flat] {
        inputs.flat(group)
    }

    #[inline(always)]
    fn unpack<I: Isa>(isa: I, _format: Format, rows: &Rows, group: usize, cols: usize, panel: &mut Panel<I>) {
        for at in 0..(cols / 32).min(8) {
            Q::unpack(isa, rows, group * 8 + at, at, panel);
        }
    }

    #[inline(always)]
    fn micro<I: Isa, const R: usize, const C: usize>(
        isa: I,
        panels: &[Panel<I>; R],
        x: [&Flat; C],
        cols: usize,
        widened: &mut [Widened; C],
        acc: &mut [[I::F; R]; C],
    ) {
        if Q::CODES == Codes::Signed && I::SIGNED == SignedBytes::Widened {
            for c in 0..C {
                widened[c].set(isa, &x[c].q);
            }
        }
        let blocks = (cols / 32).min(8);
        let end = if I::UNROLLED { 64 } else { (cols / 4).min(64) };
        let mut total = *acc;
        for block in 0..blocks {
            let sums = match (Q::CODES, I::SIGNED) {
                (Codes::Signed, SignedBytes::Widened) => widened_sums(isa, panels, widened, 8 * block..8 * block + 8),
                (Codes::Signed, SignedBytes::Biased) => block_sums::<I, Q, R, C>(isa, panels, x, block, SIGN, end),
                (Codes::Biased(bias), _) => block_sums::<I, Q, R, C>(isa, panels, x, block, bias, end),
                (Codes::Signed, SignedBytes::Direct) | (Codes::Min, _) => block_sums::<I, Q, R, C>(isa, panels, x, block, 0, end),
            };
            for c in 0..C {
                let dx = isa.splat(x[c].d[block]);
                for r in 0..R {
                    let f = isa.mul(panels[r].d[block], isa.to_f32(sums[c][r]));
                    let f = match Q::CODES {
                        Codes::Min => isa.fma(panels[r].m[block], isa.splat(x[c].sums[block] as f32), f),
                        Codes::Biased(_) | Codes::Signed => f,
                    };
                    total[c][r] = isa.fma(f, dx, total[c][r]);
                }
            }
        }
        *acc = total;
    }
}

/// Σ code·x over 32 columns, codes `bias` too large; `end` is where the columns do, by four. It is never within the block, but a compiler that
/// does not know leaves the loop a loop: unrolled, its operands no longer fit into few registers ([`Isa::UNROLLED`]).
#[inline(always)]
fn block_sums<I: Isa, Q: FlatFormat, const R: usize, const C: usize>(
    isa: I,
    panels: &[Panel<I>; R],
    x: [&Flat; C],
    block: usize,
    bias: i32,
    end: usize,
) -> [[I::I; R]; C] {
    let mut sum = [[isa.splat_i(0); R]; C];
    let steps = if I::NARROW { Q::FLUSH } else { 8 };
    for part in 0..8 / steps {
        let mut dots = [[isa.acc_zero(); R]; C];
        if bias != 0 {
            for c in 0..C {
                dots[c] = [isa.acc_biased(bias, Less { unit: Flat::unit::<I>(), sums: x[c].less[block] }); R];
            }
        }
        let first = block * 8 + part * steps;
        for k in first..(first + steps).min(end) {
            for c in 0..C {
                let four = isa.splat_i(i32::from_le_bytes(x[c].q[k]));
                for r in 0..R {
                    dots[c][r] = isa.dot(dots[c][r], panels[r].codes[k], four);
                }
            }
        }
        for c in 0..C {
            for r in 0..R {
                sum[c][r] = isa.acc_sum(sum[c][r], dots[c][r]);
            }
        }
    }
    sum
}
