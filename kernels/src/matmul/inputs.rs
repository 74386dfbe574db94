//! Activations as the weights want them: quantized once, for all products that share them.
//!
//! ```text
//! for K formats        one scale for 256:  d = absmax/127, q = rne(x · (127/absmax))         [block of 256][token]
//! for blocks of 32     one scale for 32, the same formula                                    [8 blocks of 32][token]
//! for plain floats     f32 as they are, rows padded with zeros to a multiple of 16 and more    [token][k]
//! ```
//! Where absmax is below 2^-100, d = 0 and all q = 0. Where it is infinite or a value is NaN, d = NaN and all q = 0: every
//! product of that token is NaN then, at every level.

use super::Matrix;
use crate::activations::{Flat, Wide};
use crate::format::InputKind;
use crate::isa::{self, Isa, Less, OneToken, Op};
use crate::naive::matmul::TINY;
use crate::{Cpu, Floats, Format, Level};

/// Activations `[tokens, cols]`, ready to be multiplied. Reusing one allocates only when it grows.
#[derive(Default)]
pub struct Inputs {
    tokens: usize,
    cols: usize,
    wide: Vec<Wide>,
    flat: Vec<Flat>,
    float: Floats,
    made: [bool; 3],
    /// What they were made by, and for: sums are as its products want them.
    level: Option<Level>,
}

impl std::fmt::Debug for Inputs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inputs").field("tokens", &self.tokens).field("cols", &self.cols).finish_non_exhaustive()
    }
}

/// Below so many activations a parallel region costs more than it saves.
const SMALL: usize = 1 << 15;

impl Inputs {
    /// Nothing yet.
    pub fn new() -> Inputs {
        Inputs::default()
    }

    /// Takes `x` (`[tokens, cols]`) and makes what weights in `formats` multiply with.
    ///
    /// # Panics
    /// Where `x` is not rows of `cols`, or `cols` no multiple of a format's block.
    pub fn set(&mut self, cpu: Cpu, x: &[f32], cols: usize, formats: impl Iterator<Item = Format>) {
        self.cols = cols;
        self.tokens = x.len().checked_div(cols).unwrap_or(0);
        assert_eq!(x.len(), self.tokens * cols, "activations are rows of `cols`");
        self.made = [false; 3];
        for format in formats {
            assert_eq!(cols % format.block_len(), 0, "a row is whole blocks");
            self.made[format.input() as usize] = true;
        }
        self.level = Some(cpu.level);
        let (tokens, level) = (self.tokens, cpu.level);
        if self.made[InputKind::Int8Per256 as usize] {
            let blocks = grow(&mut self.wide, cols.div_ceil(256) * tokens, Wide::NONE);
            share(cpu, x.len(), blocks, tokens, &|block, out| isa::vectorize(level, QuantizeWide { x, cols, block, out }));
        }
        if self.made[InputKind::Int8Per32 as usize] {
            let blocks = grow(&mut self.flat, cols.div_ceil(256) * tokens, Flat::NONE);
            share(cpu, x.len(), blocks, tokens, &|block, out| isa::vectorize(level, QuantizeFlat { x, cols, block, out }));
        }
        if self.made[InputKind::F32 as usize] {
            let stride = stride(cols);
            let rows = self.float.reshape(stride * tokens);
            share(cpu, x.len(), rows, stride, &|row, out| {
                out[..cols].copy_from_slice(&x[row * cols..(row + 1) * cols]);
                out[cols..].fill(0.0);
            });
        }
    }

    /// Rows.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Length of a row.
    pub fn cols(&self) -> usize {
        self.cols
    }

    pub(super) fn assert_fit(&self, cpu: Cpu, weight: &Matrix) {
        assert_eq!(Some(cpu.level), self.level, "inputs made at another level");
        assert_eq!(weight.cols, self.cols, "inputs of another width");
        assert!(self.made[weight.format.input() as usize], "inputs were not set for {:?}", weight.format);
    }

    /// Block `block` of 256 of all tokens.
    pub(super) fn wide(&self, block: usize) -> &[Wide] {
        &self.wide[block * self.tokens..(block + 1) * self.tokens]
    }

    /// Group `group` of 8 blocks of 32 of all tokens.
    pub(super) fn flat(&self, group: usize) -> &[Flat] {
        &self.flat[group * self.tokens..(group + 1) * self.tokens]
    }

    /// All integer blocks of row `token`.
    pub(super) fn one(&self, token: usize) -> OneToken<'_> {
        let (wide, flat) = (self.wide.get(token..), self.flat.get(token..));
        OneToken { wide: wide.unwrap_or_default(), flat: flat.unwrap_or_default(), stride: self.tokens }
    }

    /// Row `token`, padded with zeros to a multiple of 16.
    pub(super) fn float(&self, token: usize) -> &[f32] {
        &self.float[token * stride(self.cols)..][..self.cols.next_multiple_of(16)]
    }
}

/// Floats from row to row: an odd number of cache lines, or those of several rows of some 4096 bytes would contend for the same places
/// of the first cache.
fn stride(cols: usize) -> usize {
    cols.div_ceil(16) / 2 * 32 + 16
}

fn grow<T: Clone>(data: &mut Vec<T>, len: usize, empty: T) -> &mut [T] {
    if data.len() < len {
        data.resize(len, empty);
    }
    &mut data[..len]
}

fn share<T: Send>(cpu: Cpu, work: usize, data: &mut [T], size: usize, f: &(dyn Fn(usize, &mut [T]) + Sync)) {
    let size = size.max(1);
    if work >= SMALL {
        cpu.parallel_chunks(data, size, f);
    } else if !data.is_empty() {
        // One item, as arithmetic belongs inside a region.
        cpu.parallel_chunks(data, data.len(), &|_, all| {
            for (i, chunk) in all.chunks_mut(size).enumerate() {
                f(i, chunk);
            }
        });
    }
}

/// `d` and the factor that makes codes of `x` (whole vectors).
#[inline(always)]
fn scale<I: Isa>(isa: I, x: &[f32]) -> (f32, f32) {
    let mut most = isa.splat_i(0);
    // As integers, NaN > infinity > every number.
    for v in x.chunks_exact(I::LANES) {
        most = isa.max_i(most, isa.to_bits(isa.abs(isa.load(v))));
    }
    let mut lanes = [0; 16];
    isa.store_i(most, &mut lanes);
    let mut bits = 0;
    for &lane in &lanes[..I::LANES] {
        bits = lane.max(bits);
    }
    let absmax = f32::from_bits(bits as u32);
    if bits >= f32::INFINITY.to_bits() as i32 {
        return (f32::NAN, 0.0);
    }
    if absmax < TINY { (0.0, 0.0) } else { (absmax / 127.0, 127.0 / absmax) }
}

/// Codes of `x` (whole vectors), all zero where the factor is.
#[inline(always)]
fn codes<I: Isa>(isa: I, x: &[f32], factor: f32, out: &mut [u8]) {
    if factor == 0.0 {
        return out.fill(0);
    }
    let factor = isa.splat(factor);
    for (v, out) in x.chunks_exact(I::LANES).zip(out.chunks_exact_mut(I::LANES)) {
        isa.store_low_bytes(isa.to_i32(isa.mul(isa.load(v), factor)), out);
    }
}

/// What every 16 codes add up to.
struct Sums {
    /// Codes 0 and 1 of every four.
    low: [i32; 16],
    /// Codes 2 and 3.
    high: [i32; 16],
    /// All, without their signs.
    absolute: [i32; 16],
}

impl Sums {
    #[inline(always)]
    fn of<I: Isa>(isa: I, codes: &[[u8; 4]; 64]) -> Sums {
        let (mut low, mut high, mut absolute) = ([0; 64], [0; 64], [0; 64]);
        let (bottom, top, all) = (isa.splat_i(0x0000_0101), isa.splat_i(0x0101_0000), isa.splat_i(0x0101_0101));
        for (i, four) in codes.chunks_exact(I::LANES).enumerate() {
            let codes = isa.to_bits(isa.load_f32_bytes(four.as_flattened()));
            // -c is the complement of c, and one more for the sign.
            let signs = isa.and(isa.shr::<7>(codes), all);
            let positive = isa.xor(codes, isa.sub_i(isa.shl::<8>(signs), signs));
            let none = isa.splat_i(0);
            let at = i * I::LANES;
            isa.store_i(isa.acc_sum(none, isa.dot(isa.acc_zero(), bottom, codes)), &mut low[at..]);
            isa.store_i(isa.acc_sum(none, isa.dot(isa.acc_zero(), top, codes)), &mut high[at..]);
            isa.store_i(isa.acc_sum(none, isa.dot(isa.dot(isa.acc_zero(), all, positive), all, signs)), &mut absolute[at..]);
        }
        Sums { low: by_four(&low), high: by_four(&high), absolute: by_four(&absolute) }
    }
}

/// Sums of every four.
#[inline(always)]
fn by_four(x: &[i32; 64]) -> [i32; 16] {
    let mut sums = [0; 16];
    for (sum, four) in sums.iter_mut().zip(x.as_chunks::<4>().0) {
        *sum = (four[0] + four[1]) + (four[2] + four[3]);
    }
    sums
}

/// Two i16 in a word.
#[inline(always)]
fn pair(low: i32, high: i32) -> i32 {
    (low & 0xffff) | (high << 16)
}

struct QuantizeWide<'a> {
    x: &'a [f32],
    cols: usize,
    block: usize,
    out: &'a mut [Wide],
}

impl Op for QuantizeWide<'_> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        for (token, out) in self.out.iter_mut().enumerate() {
            let x = &self.x[token * self.cols + self.block * 256..];
            // Of the next token: it is a row away, where no hardware looks for it.
            for line in (0..256).step_by(16) {
                isa.prefetch(x.as_ptr().wrapping_add(self.cols + line).cast());
            }
            let x = &x[..256];
            let (d, factor) = scale(isa, x);
            codes(isa, x, factor, out.q.as_flattened_mut());
            let sums = Sums::of(isa, &out.q);
            let mut sums16 = [0; 16];
            for i in 0..16 {
                sums16[i] = sums.low[i] + sums.high[i];
                out.less16[i] = Less::sums::<I>(Wide::UNIT, sums.low[i], sums.high[i]);
                // At most 16 · 127 · 16.
                out.minus16[i] = -16 * sums16[i] as i16;
            }
            (out.most16, out.most32) = (0, 0);
            for i in 0..8 {
                let (sum, both) = (sums16[2 * i] + sums16[2 * i + 1], sums.absolute[2 * i] + sums.absolute[2 * i + 1]);
                out.most16 = out.most16.max(sums.absolute[2 * i]).max(sums.absolute[2 * i + 1]);
                out.most32 = out.most32.max((both + sum.abs()) / 2);
            }
            for i in 0..4 {
                out.pairs16[2 * i] = pair(sums16[4 * i], sums16[4 * i + 2]);
                out.pairs16[2 * i + 1] = pair(sums16[4 * i + 1], sums16[4 * i + 3]);
            }
            for i in 0..2 {
                let s = |j: usize| sums16[8 * i + 2 * j] + sums16[8 * i + 2 * j + 1];
                out.pairs32[2 * i] = pair(s(0), s(2));
                out.pairs32[2 * i + 1] = pair(s(1), s(3));
            }
            out.d = d;
        }
    }
}

struct QuantizeFlat<'a> {
    x: &'a [f32],
    cols: usize,
    block: usize,
    out: &'a mut [Flat],
}

impl Op for QuantizeFlat<'_> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let start = self.block * 256;
        for (token, out) in self.out.iter_mut().enumerate() {
            let x = &self.x[token * self.cols..(token + 1) * self.cols];
            let x = &x[start..(start + 256).min(self.cols)];
            for (i, x) in x.chunks_exact(32).enumerate() {
                let (d, factor) = scale(isa, x);
                out.d[i] = d;
                codes(isa, x, factor, out.q[8 * i..8 * i + 8].as_flattened_mut());
            }
            // Where there are fewer than eight, the others have what was there before, and are not used.
            let sums = Sums::of(isa, &out.q);
            for i in 0..8 {
                let (low, high) = (sums.low[2 * i] + sums.low[2 * i + 1], sums.high[2 * i] + sums.high[2 * i + 1]);
                out.sums[i] = low + high;
                out.less[i] = Less::sums::<I>(Flat::unit::<I>(), low, high);
            }
        }
    }
}
