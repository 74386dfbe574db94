//! The formats with codebooks: 4 or 8 weights at a time are a point of a codebook (`grid.rs`), scaled for 16 or 32 weights.
//!
//! ```text
//!          bytes  fields in order                                        group  weight
//! IQ1_S    50     d points[32] high[8 u16]                               32     d * s * (g ± 1/8)
//! IQ1_M    56     points[32] high[16] scales[4 u16]                      16     the same
//! IQ2_XXS  66     d { points[4], signs and scale u32 } x 8               32     d/8 * s * ±g
//! IQ2_XS   74     d points and signs[32 u16] scales[8]                   16     the same
//! IQ2_S    82     d points[32] signs[32] high[8] scales[8]               16     the same
//! IQ3_XXS  98     d points[64] { signs and scale u32 } x 8               32     d/4 * s * ±g
//! IQ3_S    110    d points[64] high[8] signs[32] scales[4]               32     d * s * ±g
//! ```
//!
//! `d` is an f16, `g` a value of the point, `s` an odd number 2n + 1 of 3 bits (IQ1) or 4 bits (the others) `n`. Numbers are little-endian;
//! of several parts in a word or byte, the lowest comes first:
//!
//! ```text
//! IQ1_S    high[i] for points 4i …: 4 times the high 3 bits of a point, n, and whether 1/8 is taken off
//! IQ1_M    high[i] for points 2i, 2i + 1: the high 3 bits of a point, whether 1/8 is taken off its values; the same for the other;
//!          scales: 4 times n of 3 bits, then 4 bits of d, the lowest in the first word
//! IQ2_XXS, IQ3_XXS: 4 times the signs of 8 weights in 7 bits, then n; the eighth sign makes the number of signs even
//! IQ2_XS   9 bits of a point, 7 bits of signs as above; scales: n of two groups
//! IQ2_S    high[i]: bits 8 and 9 of points 4i …; scales: as above
//! IQ3_S    high[i]: bit 8 of points 8i …; scales: as above
//! ```
//!
//! Unpacked, codes are `±g` or, for IQ1, `8g ± 1`, and `d` has the eighth. hob reads these formats and does not make them.
//! Source: the block structs and dequantization of ggml (ggml-common.h, ggml-quants.c), and the 1/8 that IQ1 calls delta.

use super::{Block, f16_at, grid};

/// The two bytes at `at`.
fn word(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

/// The four bytes at `at`.
fn long(bytes: &[u8], at: usize) -> u32 {
    u32::from(word(bytes, at)) | u32::from(word(bytes, at + 2)) << 16
}

/// Signs of eight weights from seven bits: their number is even.
fn even(seven: u32) -> u8 {
    let seven = seven as u8 & 127;
    // Bit n of 0x6996: whether n has an odd number of ones. (Counting them takes a loop where no instruction may be assumed.)
    let odd = 0x6996u16 >> ((seven ^ seven >> 4) & 15) & 1;
    seven | (odd as u8) << 7
}

/// Eight values, none of them 0, negative where a bit of `signs` is set. All at once in the bytes of a word, as this is most of what
/// unpacking costs.
fn signed(values: [i8; 8], signs: u8) -> [i8; 8] {
    const ONES: u64 = 0x0101_0101_0101_0101;
    // Bit i of byte i; 1 in each byte that has it; -v is !v + 1, which carries nowhere as v is not 0.
    let bits = (u64::from(signs) * ONES) & 0x8040_2010_0804_0201;
    let negative = (bits + 0x7f * ONES) >> 7 & ONES;
    let values = u64::from_le_bytes(values.map(|value| value as u8));
    ((values ^ (negative * 255)) + negative).to_le_bytes().map(|byte| byte as i8)
}

/// Two points of four values.
fn join([a, b, c, d]: [i8; 4], [e, f, g, h]: [i8; 4]) -> [i8; 8] {
    [a, b, c, d, e, f, g, h]
}

/// What is no group's own.
fn start(block: &mut Block, d: f32, group: usize) {
    (block.d, block.dmin, block.group, block.mins) = (d, 0.0, group, [0; 16]);
}

/// 2n + 1
fn odd(n: u8) -> i8 {
    2 * (n & 15) as i8 + 1
}

/// The nibble of group `g`.
fn nibble(bytes: &[u8], g: usize) -> u8 {
    bytes[g / 2] >> (4 * (g % 2)) & 15
}

pub(super) fn unpack_iq1_s(bytes: &[u8], block: &mut Block) {
    start(block, 0.125 * f16_at(bytes, 0), 32);
    let (codes, _) = block.codes.as_chunks_mut::<8>();
    for g in 0..8 {
        let high = word(bytes, 34 + 2 * g);
        block.scales[g] = odd((high >> 12 & 7) as u8);
        for k in 0..4 {
            let point = usize::from(bytes[2 + 4 * g + k]) | usize::from(high >> (3 * k) & 7) << 8;
            codes[4 * g + k] = eighths(point, high >> 15);
        }
    }
}

pub(super) fn unpack_iq1_m(bytes: &[u8], block: &mut Block) {
    let scales: [u16; 4] = std::array::from_fn(|i| word(bytes, 48 + 2 * i));
    let d = scales.iter().rev().fold(0, |d, word| d << 4 | word >> 12);
    start(block, 0.125 * half::f16::from_bits(d).to_f32(), 16);
    let (codes, _) = block.codes.as_chunks_mut::<8>();
    for g in 0..16 {
        block.scales[g] = odd((scales[g / 4] >> (3 * (g % 4)) & 7) as u8);
        for k in 0..2 {
            let high = u16::from(bytes[32 + g] >> (4 * k));
            let point = usize::from(bytes[2 * g + k]) | usize::from(high & 7) << 8;
            codes[2 * g + k] = eighths(point, high >> 3 & 1);
        }
    }
}

/// The values of a point in eighths, and one more, or one less where `less` is 1.
fn eighths(point: usize, less: u16) -> [i8; 8] {
    let delta = 1 - 2 * less as i8;
    grid::IQ1[point].map(|value| value + delta)
}

pub(super) fn unpack_iq2_xxs(bytes: &[u8], block: &mut Block) {
    start(block, 0.125 * f16_at(bytes, 0), 32);
    let (codes, _) = block.codes.as_chunks_mut::<8>();
    for g in 0..8 {
        let signs = long(bytes, 6 + 8 * g);
        block.scales[g] = odd((signs >> 28) as u8);
        for k in 0..4 {
            codes[4 * g + k] = signed(grid::IQ2_XXS[usize::from(bytes[2 + 8 * g + k])], even(signs >> (7 * k)));
        }
    }
}

pub(super) fn unpack_iq2_xs(bytes: &[u8], block: &mut Block) {
    start(block, 0.125 * f16_at(bytes, 0), 16);
    for g in 0..16 {
        block.scales[g] = odd(nibble(&bytes[66..], g));
    }
    for (i, codes) in block.codes.as_chunks_mut().0.iter_mut().enumerate() {
        let word = word(bytes, 2 + 2 * i);
        *codes = signed(grid::IQ2_XS[usize::from(word & 511)], even(u32::from(word >> 9)));
    }
}

pub(super) fn unpack_iq2_s(bytes: &[u8], block: &mut Block) {
    start(block, 0.125 * f16_at(bytes, 0), 16);
    for g in 0..16 {
        block.scales[g] = odd(nibble(&bytes[74..], g));
    }
    for (i, codes) in block.codes.as_chunks_mut().0.iter_mut().enumerate() {
        let high = bytes[66 + i / 4] >> (2 * (i % 4)) & 3;
        let point = usize::from(bytes[2 + i]) | usize::from(high) << 8;
        *codes = signed(grid::IQ2_S[point], bytes[34 + i]);
    }
}

pub(super) fn unpack_iq3_xxs(bytes: &[u8], block: &mut Block) {
    start(block, 0.25 * f16_at(bytes, 0), 32);
    let (codes, _) = block.codes.as_chunks_mut::<8>();
    for g in 0..8 {
        let signs = long(bytes, 66 + 4 * g);
        block.scales[g] = odd((signs >> 28) as u8);
        for k in 0..4 {
            let point = |i: usize| grid::IQ3_XXS[usize::from(bytes[2 + 8 * g + 2 * k + i])];
            codes[4 * g + k] = signed(join(point(0), point(1)), even(signs >> (7 * k)));
        }
    }
}

pub(super) fn unpack_iq3_s(bytes: &[u8], block: &mut Block) {
    start(block, f16_at(bytes, 0), 32);
    for g in 0..8 {
        block.scales[g] = odd(nibble(&bytes[106..], g));
    }
    for (i, codes) in block.codes.as_chunks_mut().0.iter_mut().enumerate() {
        let point = |k: usize| grid::IQ3_S[usize::from(bytes[2 + k]) | usize::from(bytes[66 + k / 8] >> (k % 8) & 1) << 8];
        *codes = signed(join(point(2 * i), point(2 * i + 1)), bytes[74 + i]);
    }
}
