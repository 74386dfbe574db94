//! [`super`] for the formats with codebooks and the ternary ones: 256 weights a block, taken apart in registers.
//!
//! ```text
//! codebook    points looked up ──▶ 32 values × 32 activations with the weights' signs ──maddubs──▶ madd scales ──▶ S;  f = d · S
//! ternary     32 codes × 32 activations ──maddubs──▶ pairs of all 256 in 16 bits ──▶ S less the sum of activations
//! ```
//! What a block costs is looking its points up, 32 or 64 loads; next to that its tree and its row's chain do not show. Layouts are
//! pictured in `format/iq.rs` and `format/ternary.rs`.
#![allow(unsafe_code)]

use super::sums::{minus16, plus, right, two_of};
use super::{codes, load16, load32, signed};
use crate::Format;
use crate::activations::Wide;
use crate::format::grid;
use crate::isa::OneToken;
use std::arch::x86_64::*;

/// [`super::multiply`] for these formats.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn multiply(format: Format, rows: &[u8], row_bytes: usize, x: OneToken, out: &mut [f32]) -> bool {
    match format {
        Format::IQ3_S => each_row(rows, row_bytes, x, out, |block, x| (half(block, 0), iq3_s(block, x))),
        Format::IQ3_XXS => each_row(rows, row_bytes, x, out, |block, x| (0.25 * half(block, 0), iq3_xxs(block, x))),
        Format::IQ2_S => each_row(rows, row_bytes, x, out, |block, x| (0.125 * half(block, 0), iq2_s(block, x))),
        Format::IQ2_XS => each_row(rows, row_bytes, x, out, |block, x| (0.125 * half(block, 0), iq2_xs(block, x))),
        Format::IQ2_XXS => each_row(rows, row_bytes, x, out, |block, x| (0.125 * half(block, 0), iq2_xxs(block, x))),
        Format::IQ1_S => each_row(rows, row_bytes, x, out, |block, x| (0.125 * half(block, 0), iq1_s(block, x))),
        Format::IQ1_M => each_row(rows, row_bytes, x, out, |block, x| {
            let nibble = |i: usize| block[49 + 2 * i] >> 4;
            let d = [nibble(0) | nibble(1) << 4, nibble(2) | nibble(3) << 4];
            (0.125 * half(&d, 0), iq1_m(block, x))
        }),
        Format::TQ1_0 => each_row(rows, row_bytes, x, out, |block, x| (half(block, 52), tq1_0(block, x))),
        Format::TQ2_0 => each_row(rows, row_bytes, x, out, |block, x| (half(block, 64), tq2_0(block, x))),
        _ => return false,
    }
    true
}

/// Rows one after the other, of blocks of which `of` gives d and partial sums of S.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn each_row<const BYTES: usize>(
    rows: &[u8],
    row_bytes: usize,
    x: OneToken,
    out: &mut [f32],
    of: impl Fn(&[u8; BYTES], &Wide) -> (f32, __m256i),
) {
    for (row, out) in rows.chunks_exact(row_bytes).zip(out) {
        let mut acc = 0f32;
        for (i, block) in row.as_chunks().0.iter().enumerate() {
            let x = &x.wide[i * x.stride];
            let (d, s) = of(block, x);
            acc = (d * total(s) as f32).mul_add(x.d, acc);
        }
        *out = acc;
    }
}

/// The sum of all lanes.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn total(v: __m256i) -> i32 {
    let four = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256::<1>(v));
    let two = _mm_add_epi32(four, _mm_unpackhi_epi64(four, four));
    _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32::<1>(two)))
}

/// The f16 at `at`.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn half<const N: usize>(bytes: &[u8; N], at: usize) -> f32 {
    _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(i32::from(word(bytes, at)))))
}

fn word<const N: usize>(bytes: &[u8; N], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn long<const N: usize>(bytes: &[u8; N], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// Four points of eight values.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn eights<const N: usize>(grid: &[[i8; 8]; N], points: [usize; 4]) -> __m256i {
    // SAFETY: eight bytes each.
    let [a, b, c, d] = points.map(|point| unsafe { grid[point].as_ptr().cast::<i64>().read_unaligned() });
    _mm256_setr_epi64x(a, b, c, d)
}

/// Eight points of four values.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn fours<const N: usize>(grid: &[[i8; 4]; N], points: [usize; 8]) -> __m256i {
    // SAFETY: four bytes each.
    let [a, b, c, d, e, f, g, h] = points.map(|point| unsafe { grid[point].as_ptr().cast::<i32>().read_unaligned() });
    _mm256_setr_epi32(a, b, c, d, e, f, g, h)
}

/// Activations `32 · part …`, each negative where its bit of `signs` is set.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn turned(x: &Wide, part: usize, signs: u32) -> __m256i {
    let (ones, bits) = (0x0101_0101_0101_0101, _mm256_set1_epi64x(0x8040_2010_0804_0201u64 as i64));
    let which = _mm256_setr_epi64x(0, ones, 2 * ones, 3 * ones);
    let signs = _mm256_shuffle_epi8(_mm256_set1_epi32(signs as i32), which);
    let negative = _mm256_cmpeq_epi8(_mm256_and_si256(signs, bits), bits);
    _mm256_sub_epi8(_mm256_xor_si256(load32(codes(&x.q), 32 * part), negative), negative)
}

/// A word's four bytes of signs from its lower 28 bits, seven a byte, of eight words.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn sevens(words: __m256i) -> [u32; 8] {
    let cut = |v: __m256i, mask: i32| _mm256_and_si256(v, _mm256_set1_epi32(mask));
    let two = _mm256_or_si256(cut(words, 0x3fff), cut(_mm256_slli_epi32::<2>(words), 0x3fff_0000));
    evened(_mm256_or_si256(cut(two, 0x007f_007f), cut(_mm256_slli_epi32::<1>(two), 0x7f00_7f00)))
}

/// Seven bits in each byte, and an eighth that makes the number of ones even.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn evened(seven: __m256i) -> [u32; 8] {
    // Bytes 0x80 where the number of their place has an odd number of ones.
    let odd = _mm256_broadcastsi128_si256(_mm_set_epi64x(0x0080_8000_8000_0080, 0x8000_0080_0080_8000u64 as i64));
    let nibble = |v: __m256i| _mm256_shuffle_epi8(odd, _mm256_and_si256(v, _mm256_set1_epi8(15)));
    let eighth = _mm256_xor_si256(nibble(seven), nibble(_mm256_srli_epi16::<4>(seven)));
    words(_mm256_or_si256(seven, eighth))
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn words(v: __m256i) -> [u32; 8] {
    let mut words = [0; 8];
    // SAFETY: 32 bytes.
    unsafe { _mm256_storeu_si256(words.as_mut_ptr().cast(), v) };
    words
}

/// The scale 2n + 1 of 32 weights.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn odd(n: u32) -> __m256i {
    _mm256_set1_epi16(2 * n as i16 + 1)
}

/// Scales 2n + 1 of 16 weights each, of nibbles in order: those of the first 128 weights in both lanes, then the others.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn odds(nibbles: [u8; 8]) -> [__m256i; 2] {
    let both = _mm_cvtsi64_si128(i64::from_le_bytes(nibbles));
    let n = _mm_and_si128(_mm_unpacklo_epi8(both, _mm_srli_epi16::<4>(both)), _mm_set1_epi8(15));
    let scales = _mm256_cvtepi8_epi16(_mm_add_epi8(_mm_add_epi8(n, n), _mm_set1_epi8(1)));
    [_mm256_permute4x64_epi64::<0b01_00_01_00>(scales), _mm256_permute4x64_epi64::<0b11_10_11_10>(scales)]
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn iq3_s(block: &[u8; 110], x: &Wide) -> __m256i {
    let mut sum = _mm256_setzero_si256();
    for part in 0..8 {
        let high = usize::from(block[66 + part]) << 8;
        let values = fours(&grid::IQ3_S, std::array::from_fn(|k| usize::from(block[2 + 8 * part + k]) | high >> k & 256));
        let pairs = _mm256_maddubs_epi16(values, turned(x, part, long(block, 74 + 4 * part)));
        sum = plus(sum, pairs, odd(u32::from(block[106 + part / 2] >> (4 * (part % 2)) & 15)));
    }
    sum
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn iq3_xxs(block: &[u8; 98], x: &Wide) -> __m256i {
    let mut sum = _mm256_setzero_si256();
    let signs = sevens(load32(block, 66));
    for part in 0..8 {
        let values = fours(&grid::IQ3_XXS, std::array::from_fn(|k| usize::from(block[2 + 8 * part + k])));
        let pairs = _mm256_maddubs_epi16(values, turned(x, part, signs[part]));
        sum = plus(sum, pairs, odd(u32::from(block[69 + 4 * part] >> 4)));
    }
    sum
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn iq2_s(block: &[u8; 82], x: &Wide) -> __m256i {
    let mut sum = _mm256_setzero_si256();
    let scales = odds(std::array::from_fn(|i| block[74 + i]));
    for part in 0..8 {
        let high = usize::from(block[66 + part]) << 8;
        let values = eights(&grid::IQ2_S, std::array::from_fn(|k| usize::from(block[2 + 4 * part + k]) | high >> (2 * k) & 768));
        let pairs = _mm256_maddubs_epi16(values, turned(x, part, long(block, 34 + 4 * part)));
        sum = plus(sum, pairs, _mm256_shuffle_epi8(scales[part / 4], two_of(part % 4)));
    }
    sum
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn iq2_xs(block: &[u8; 74], x: &Wide) -> __m256i {
    let mut sum = _mm256_setzero_si256();
    let scales = odds(std::array::from_fn(|i| block[66 + i]));
    let high = |at: usize| _mm256_srli_epi16::<9>(load32(block, at));
    let signs = evened(_mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packus_epi16(high(2), high(34))));
    for part in 0..8 {
        let values = eights(&grid::IQ2_XS, std::array::from_fn(|k| usize::from(word(block, 2 + 8 * part + 2 * k) & 511)));
        let pairs = _mm256_maddubs_epi16(values, turned(x, part, signs[part]));
        sum = plus(sum, pairs, _mm256_shuffle_epi8(scales[part / 4], two_of(part % 4)));
    }
    sum
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn iq2_xxs(block: &[u8; 66], x: &Wide) -> __m256i {
    let mut sum = _mm256_setzero_si256();
    // Every other word has signs and the scale.
    let (a, b) = (_mm256_castsi256_ps(load32(block, 2)), _mm256_castsi256_ps(load32(block, 34)));
    let signs = _mm256_castps_pd(_mm256_shuffle_ps::<0b11_01_11_01>(a, b));
    let signs = sevens(_mm256_castpd_si256(_mm256_permute4x64_pd::<0b11_01_10_00>(signs)));
    for part in 0..8 {
        let values = eights(&grid::IQ2_XXS, std::array::from_fn(|k| usize::from(block[2 + 8 * part + k])));
        let pairs = _mm256_maddubs_epi16(values, turned(x, part, signs[part]));
        sum = plus(sum, pairs, odd(u32::from(block[9 + 8 * part] >> 4)));
    }
    sum
}

/// Eight times 1, or -1 for what has its bit set.
const DELTAS: [[i8; 8]; 2] = [[1; 8], [-1; 8]];

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn iq1_s(block: &[u8; 50], x: &Wide) -> __m256i {
    let mut sum = _mm256_setzero_si256();
    for part in 0..8 {
        let high = usize::from(word(block, 34 + 2 * part));
        let points = std::array::from_fn(|k| usize::from(block[2 + 4 * part + k]) | (high >> (3 * k) & 7) << 8);
        let values = _mm256_add_epi8(eights(&grid::IQ1, points), eights(&DELTAS, [high >> 15; 4]));
        sum = plus(sum, signed(values, load32(codes(&x.q), 32 * part)), odd(high as u32 >> 12 & 7));
    }
    sum
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn iq1_m(block: &[u8; 56], x: &Wide) -> __m256i {
    let mut sum = _mm256_setzero_si256();
    for part in 0..8 {
        let high = usize::from(word(block, 32 + 2 * part));
        let points = std::array::from_fn(|k| usize::from(block[4 * part + k]) | (high >> (4 * k) & 7) << 8);
        let values = _mm256_add_epi8(eights(&grid::IQ1, points), eights(&DELTAS, std::array::from_fn(|k| high >> (4 * k + 3) & 1)));
        let n = word(block, 48 + part / 2 * 2) >> (6 * (part % 2));
        let scale = |n: u16| _mm_set1_epi16(2 * (n & 7) as i16 + 1);
        let scales = _mm256_set_m128i(scale(n >> 3), scale(n));
        sum = plus(sum, signed(values, load32(codes(&x.q), 32 * part)), scales);
    }
    sum
}

/// The sum of activations in its parts, negative.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn less(x: &Wide) -> __m256i {
    _mm256_srai_epi32::<4>(_mm256_madd_epi16(minus16(x), _mm256_set1_epi16(1)))
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn tq2_0(block: &[u8; 66], x: &Wide) -> __m256i {
    let mut pairs = _mm256_setzero_si256();
    for part in 0..8 {
        let digits = _mm256_and_si256(right(load32(block, part / 4 * 32), 2 * (part % 4)), _mm256_set1_epi8(3));
        // 8 · 2 · 3 · 127 fits in 16 bits.
        pairs = _mm256_add_epi16(pairs, _mm256_maddubs_epi16(digits, load32(codes(&x.q), 32 * part)));
    }
    plus(less(x), pairs, _mm256_set1_epi16(1))
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn tq1_0(block: &[u8; 54], x: &Wide) -> __m256i {
    let q = codes(&x.q);
    let (mut fives, mut sixteen) = (load32(block, 0), load16(block, 32));
    let mut pairs = _mm256_setzero_si256();
    let mut last = _mm_setzero_si128();
    for n in 0..5 {
        pairs = _mm256_add_epi16(pairs, _mm256_maddubs_epi16(digits(fives), load32(q, 32 * n)));
        last = _mm_add_epi16(
            last,
            _mm_maddubs_epi16(_mm256_castsi256_si128(digits(_mm256_castsi128_si256(sixteen))), load16(q, 160 + 16 * n)),
        );
        (fives, sixteen) = (thrice(fives), _mm256_castsi256_si128(thrice(_mm256_castsi128_si256(sixteen))));
    }
    // Four bytes of four digits: times 1, 3, 9, 27.
    let mut fours = [0; 16];
    for (n, byte) in fours.iter_mut().enumerate() {
        *byte = block[48 + n % 4].wrapping_mul([1, 3, 9, 27][n / 4]);
    }
    let fours = _mm256_castsi128_si256(load16(&fours, 0));
    last = _mm_add_epi16(last, _mm_maddubs_epi16(_mm256_castsi256_si128(digits(fours)), load16(q, 240)));
    plus(less(x), _mm256_add_epi16(pairs, _mm256_zextsi128_si256(last)), _mm256_set1_epi16(1))
}

/// What three times each byte carries over 256.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn digits(bytes: __m256i) -> __m256i {
    // 1 from 86 on, 2 from 171 on.
    let from = |least: u8| _mm256_cmpeq_epi8(_mm256_max_epu8(bytes, _mm256_set1_epi8(least as i8)), bytes);
    _mm256_sub_epi8(_mm256_setzero_si256(), _mm256_add_epi8(from(86), from(171)))
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn thrice(bytes: __m256i) -> __m256i {
    _mm256_add_epi8(bytes, _mm256_add_epi8(bytes, bytes))
}
