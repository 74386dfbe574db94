//! Partial sums of one block of 256, for the formats whose scales are taken out beside its products ([`super::k`]).
//!
//! ```text
//! Q2_K Q3_K Q6_K   sixteen scales      32 codes × 32 activations ──maddubs──▶ madd, a scale in each lane
//! IQ4_XS           eight scales        codes looked up, signed
//! ```
//! Codes that a format takes something off are multiplied as they lie: what is too much is the sums of 16 activations by the scales.

use super::{Width, codes, load16, load32, looked_up, nibbles, pair_up, pairs_to_fours, signed};
use crate::Format;
use crate::activations::Wide;
use crate::format::table::NONLINEAR;
use std::arch::x86_64::*;

// Bytes of a block, by which functions know its format.
pub(super) const Q2_K: usize = Format::Q2_K.block_bytes();
pub(super) const Q3_K: usize = Format::Q3_K.block_bytes();
pub(super) const Q4_K: usize = Format::Q4_K.block_bytes();
pub(super) const Q5_K: usize = Format::Q5_K.block_bytes();
pub(super) const Q6_K: usize = Format::Q6_K.block_bytes();
pub(super) const IQ4_XS: usize = Format::IQ4_XS.block_bytes();

/// Partial sums of S of one block.
///
/// # Safety
/// What `W` needs is here, also of those that this calls.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) unsafe fn of<W: Width, const BYTES: usize>(block: &[u8; BYTES], x: &Wide) -> __m256i {
    // SAFETY: so the caller says.
    unsafe {
        match BYTES {
            Q2_K => q2_k::<W, BYTES>(block, x),
            Q3_K => q3_k::<W, BYTES>(block, x),
            Q6_K => q6_k::<W, BYTES>(block, x),
            _ => iq4_xs::<W, BYTES>(block, x),
        }
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
unsafe fn q2_k<W: Width, const BYTES: usize>(block: &[u8; BYTES], x: &Wide) -> __m256i {
    let scales = _mm256_cvtepi8_epi16(_mm_and_si128(load16(block, 0), _mm_set1_epi8(15)));
    let codes_at = |half, j| _mm256_and_si256(right(load32(block, 16 + 32 * half), 2 * j), _mm256_set1_epi8(3));
    // SAFETY: as here.
    unsafe { by_sixteens::<W>(scales, x, _mm256_setzero_si256(), codes_at) }
}

/// N of four blocks of Q2_K.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn q2_k_mins<const BYTES: usize>(blocks: &[[u8; BYTES]; 4], x: [&Wide; 4]) -> __m128 {
    let n = |i: usize| {
        let mins = _mm_and_si128(_mm_srli_epi16::<4>(load16(&blocks[i], 0)), _mm_set1_epi8(15));
        _mm256_madd_epi16(_mm256_cvtepi8_epi16(mins), minus16(x[i]))
    };
    let n = pairs_to_fours([pair_up(n(0), n(1)), pair_up(n(2), n(3))]);
    let n = _mm_add_epi32(_mm256_castsi256_si128(n), _mm256_extracti128_si256::<1>(n));
    _mm_cvtepi32_ps(_mm_sub_epi32(_mm_setzero_si128(), _mm_srai_epi32::<4>(n)))
}

/// Codes are 4 too large.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
unsafe fn q3_k<W: Width, const BYTES: usize>(block: &[u8; BYTES], x: &Wide) -> __m256i {
    // Twelve bytes from the third on: eight of low nibbles, four of pairs of high bits.
    let packed = load16(block, 94);
    let low = _mm_shuffle_epi8(packed, _mm_setr_epi8(2, 3, 4, 5, 6, 7, 8, 9, 2, 3, 4, 5, 6, 7, 8, 9));
    let high = _mm_shuffle_epi8(packed, _mm_setr_epi8(10, 11, 12, 13, 10, 11, 12, 13, 10, 11, 12, 13, 10, 11, 12, 13));
    let low = _mm_and_si128(_mm_srlv_epi64(low, _mm_set_epi64x(4, 0)), _mm_set1_epi8(15));
    let high = _mm_and_si128(_mm_srlv_epi32(high, _mm_setr_epi32(0, 2, 4, 6)), _mm_set1_epi8(3));
    let six = _mm_or_si128(low, _mm_slli_epi16::<4>(high));
    let scales = _mm256_cvtepi8_epi16(_mm_sub_epi8(six, _mm_set1_epi8(32)));
    let less = _mm256_srai_epi32::<2>(_mm256_madd_epi16(scales, minus16(x)));
    let high = load32(block, 0);
    let codes_at = |half, j| {
        let low = _mm256_and_si256(right(load32(block, 32 + 32 * half), 2 * j), _mm256_set1_epi8(3));
        let high = match 4 * half + j {
            bit @ (0 | 1) => _mm256_sll_epi16(high, _mm_cvtsi32_si128(2 - bit as i32)),
            bit => right(high, bit - 2),
        };
        _mm256_or_si256(low, _mm256_and_si256(high, _mm256_set1_epi8(4)))
    };
    // SAFETY: as here.
    unsafe { by_sixteens::<W>(scales, x, less, codes_at) }
}

/// All `bits` further down; what comes out of a neighbouring byte is above.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn right(v: __m256i, bits: usize) -> __m256i {
    _mm256_srl_epi16(v, _mm_cvtsi32_si128(bits as i32))
}

/// `sum`, and the products of all codes, whose scales are 16 half words: `codes_at(half, j)` are those from 128 · half + 32 · j on.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
unsafe fn by_sixteens<W: Width>(scales: __m256i, x: &Wide, mut sum: __m256i, codes_at: impl Fn(usize, usize) -> __m256i) -> __m256i {
    let q = codes(&x.q);
    let (first, second) = (_mm256_permute4x64_epi64::<0b01_00_01_00>(scales), _mm256_permute4x64_epi64::<0b11_10_11_10>(scales));
    let mut other = _mm256_setzero_si256();
    for (half, scales) in [first, second].into_iter().enumerate() {
        for j in 0..4 {
            let pairs = _mm256_maddubs_epi16(codes_at(half, j), load32(q, 128 * half + 32 * j));
            // SAFETY: as here.
            let plus = |sum| unsafe { W::plus(sum, pairs, _mm256_shuffle_epi8(scales, two_of(j))) };
            // Two sums, as each step of one waits for the last.
            (sum, other) = if j % 2 == 0 { (plus(sum), other) } else { (sum, plus(other)) };
        }
    }
    _mm256_add_epi32(sum, other)
}

/// `sum`, and pairs of products by their scales.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn plus(sum: __m256i, pairs: __m256i, scales: __m256i) -> __m256i {
    _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, scales))
}

/// Moves half word 2j to all of the lower lane, 2j + 1 to all of the upper one.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn two_of(j: usize) -> __m256i {
    let bytes = 0x0100 + 0x0404 * j as i16;
    _mm256_set_m128i(_mm_set1_epi16(bytes + 0x0202), _mm_set1_epi16(bytes))
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
unsafe fn iq4_xs<W: Width, const BYTES: usize>(block: &[u8; BYTES], x: &Wide) -> __m256i {
    let q = codes(&x.q);
    // d, high bits, low bits: 2, 2 and 4 bytes.
    let header = block.first_chunk().map_or(0, |eight| u64::from_le_bytes(*eight));
    let low = _mm256_srlv_epi32(_mm256_set1_epi32((header >> 32) as i32), _mm256_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28));
    let high = _mm256_srlv_epi32(_mm256_set1_epi32((header >> 12) as i32), _mm256_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14));
    let six = _mm256_or_si256(_mm256_and_si256(low, _mm256_set1_epi32(15)), _mm256_and_si256(high, _mm256_set1_epi32(0x30)));
    let scales = _mm256_sub_epi32(six, _mm256_set1_epi32(32));
    // Eight half words in each lane.
    let scales = _mm256_permute4x64_epi64::<0b10_00_10_00>(_mm256_packs_epi32(scales, scales));
    let mut sum = _mm256_setzero_si256();
    for g in 0..8 {
        let pairs = signed(looked_up(&NONLINEAR, nibbles(block, 8 + 16 * g)), load32(q, 32 * g));
        let scale = _mm256_shuffle_epi8(scales, _mm256_set1_epi16(0x0100 + 0x0202 * g as i16));
        // SAFETY: as here.
        sum = unsafe { W::plus(sum, pairs, scale) };
    }
    sum
}

/// Partial sums of S - 32 N: codes are 32 too large.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
unsafe fn q6_k<W: Width, const BYTES: usize>(block: &[u8; BYTES], x: &Wide) -> __m256i {
    let q = codes(&x.q);
    let (low, two) = (_mm256_set1_epi8(15), _mm256_set1_epi8(0x30));
    let scales = _mm256_cvtepi8_epi16(load16(block, 192));
    let n = _mm256_madd_epi16(scales, minus16(x));
    let (mut sum, mut other) = (_mm256_add_epi32(n, n), _mm256_setzero_si256());
    for half in 0..2 {
        let (a, b) = (load32(block, 64 * half), load32(block, 64 * half + 32));
        let high = load32(block, 128 + 32 * half);
        let scales = match half {
            0 => _mm256_permute4x64_epi64::<0b01_00_01_00>(scales),
            _ => _mm256_permute4x64_epi64::<0b11_10_11_10>(scales),
        };
        let plus = |sum, k: usize, low_bits: __m256i, high_bits: __m256i| {
            let codes = _mm256_or_si256(_mm256_and_si256(low_bits, low), _mm256_and_si256(high_bits, two));
            let pairs = _mm256_maddubs_epi16(codes, load32(q, 128 * half + 32 * k));
            // SAFETY: as here.
            unsafe { W::plus(sum, pairs, _mm256_shuffle_epi8(scales, two_of(k))) }
        };
        // Two by two, so that not all codes are cut before any is multiplied, and most of them spilled; and two sums, as each step of one
        // waits for the last.
        (sum, other) = (plus(sum, 0, a, _mm256_slli_epi16::<4>(high)), plus(other, 1, b, _mm256_slli_epi16::<2>(high)));
        let (a, b) = (_mm256_srli_epi16::<4>(a), _mm256_srli_epi16::<4>(b));
        (sum, other) = (plus(sum, 2, a, high), plus(other, 3, b, _mm256_srli_epi16::<2>(high)));
    }
    _mm256_add_epi32(sum, other)
}

/// Sums of 16 activations times -16.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn minus16(x: &Wide) -> __m256i {
    // SAFETY: 16 half words.
    unsafe { _mm256_loadu_si256(x.minus16.as_ptr().cast()) }
}
