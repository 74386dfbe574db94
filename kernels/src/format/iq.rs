//! The formats with codebooks: 4 or 8 weights at a time are a point of a codebook ([`super::grid`]), scaled for 16 or 32 weights.
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
    seven | (seven.count_ones() as u8 & 1) << 7
}

/// The values of a point, negative where a bit of `signs` is set.
fn set_signed<const D: usize>(codes: &mut [i8], point: &[i8; D], signs: u8) {
    for (i, (code, value)) in codes[..D].iter_mut().zip(point).enumerate() {
        let mask = -((signs >> i & 1) as i8);
        *code = (value ^ mask) - mask;
    }
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
    block.group = 32;
    block.d = 0.125 * f16_at(bytes, 0);
    for g in 0..8 {
        let high = word(bytes, 34 + 2 * g);
        block.scales[g] = odd((high >> 12 & 7) as u8);
        for k in 0..4 {
            let point = usize::from(bytes[2 + 4 * g + k]) | usize::from(high >> (3 * k) & 7) << 8;
            set_eighths(&mut block.codes[32 * g + 8 * k..], point, high >> 15);
        }
    }
}

pub(super) fn unpack_iq1_m(bytes: &[u8], block: &mut Block) {
    block.group = 16;
    let scales: [u16; 4] = std::array::from_fn(|i| word(bytes, 48 + 2 * i));
    let d = scales.iter().rev().fold(0, |d, word| d << 4 | word >> 12);
    block.d = 0.125 * half::f16::from_bits(d).to_f32();
    for g in 0..16 {
        block.scales[g] = odd((scales[g / 4] >> (3 * (g % 4)) & 7) as u8);
        for k in 0..2 {
            let high = u16::from(bytes[32 + g] >> (4 * k));
            let point = usize::from(bytes[2 * g + k]) | usize::from(high & 7) << 8;
            set_eighths(&mut block.codes[16 * g + 8 * k..], point, high >> 3 & 1);
        }
    }
}

/// Eight times the values of a point, and one more, or one less where `less` is 1.
fn set_eighths(codes: &mut [i8], point: usize, less: u16) {
    let delta = 1 - 2 * less as i8;
    for (code, value) in codes[..8].iter_mut().zip(&grid::IQ1[point]) {
        *code = 8 * value + delta;
    }
}

pub(super) fn unpack_iq2_xxs(bytes: &[u8], block: &mut Block) {
    block.group = 32;
    block.d = 0.125 * f16_at(bytes, 0);
    for g in 0..8 {
        let signs = long(bytes, 6 + 8 * g);
        block.scales[g] = odd((signs >> 28) as u8);
        for k in 0..4 {
            let point = &grid::IQ2_XXS[usize::from(bytes[2 + 8 * g + k])];
            set_signed(&mut block.codes[32 * g + 8 * k..], point, even(signs >> (7 * k)));
        }
    }
}

pub(super) fn unpack_iq2_xs(bytes: &[u8], block: &mut Block) {
    block.group = 16;
    block.d = 0.125 * f16_at(bytes, 0);
    for g in 0..16 {
        block.scales[g] = odd(nibble(&bytes[66..], g));
    }
    for (i, codes) in block.codes.chunks_exact_mut(8).enumerate() {
        let word = word(bytes, 2 + 2 * i);
        set_signed(codes, &grid::IQ2_XS[usize::from(word & 511)], even(u32::from(word >> 9)));
    }
}

pub(super) fn unpack_iq2_s(bytes: &[u8], block: &mut Block) {
    block.group = 16;
    block.d = 0.125 * f16_at(bytes, 0);
    for g in 0..16 {
        block.scales[g] = odd(nibble(&bytes[74..], g));
    }
    for (i, codes) in block.codes.chunks_exact_mut(8).enumerate() {
        let high = bytes[66 + i / 4] >> (2 * (i % 4)) & 3;
        let point = usize::from(bytes[2 + i]) | usize::from(high) << 8;
        set_signed(codes, &grid::IQ2_S[point], bytes[34 + i]);
    }
}

pub(super) fn unpack_iq3_xxs(bytes: &[u8], block: &mut Block) {
    block.group = 32;
    block.d = 0.25 * f16_at(bytes, 0);
    for g in 0..8 {
        let signs = long(bytes, 66 + 4 * g);
        block.scales[g] = odd((signs >> 28) as u8);
        for k in 0..8 {
            let point = &grid::IQ3_XXS[usize::from(bytes[2 + 8 * g + k])];
            let signs = even(signs >> (7 * (k / 2))) >> (4 * (k % 2));
            set_signed(&mut block.codes[32 * g + 4 * k..], point, signs);
        }
    }
}

pub(super) fn unpack_iq3_s(bytes: &[u8], block: &mut Block) {
    block.group = 32;
    block.d = f16_at(bytes, 0);
    for g in 0..8 {
        block.scales[g] = odd(nibble(&bytes[106..], g));
    }
    for (i, codes) in block.codes.chunks_exact_mut(4).enumerate() {
        let point = usize::from(bytes[2 + i]) | usize::from(bytes[66 + i / 8] >> (i % 8) & 1) << 8;
        set_signed(codes, &grid::IQ3_S[point], bytes[74 + i / 2] >> (4 * (i % 2)));
    }
}
