//! [`super`] for Q4_K, Q5_K and Q6_K: 256 weights a block, one scale of the activations for each.

use super::{AHEAD, TILED, codes, floats4, four_rows, halves, load16, load32, prefetch, prefetch_tile, tree};
use crate::Format;
use crate::isa::OneToken;
use crate::matmul::Wide;
use std::arch::x86_64::*;

pub(super) const Q4_K: usize = Format::Q4_K.block_bytes();
pub(super) const Q5_K: usize = Format::Q5_K.block_bytes();
pub(super) const Q6_K: usize = Format::Q6_K.block_bytes();

/// Rows of the format whose blocks have `BYTES`.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn multiply<const BYTES: usize>(rows: &[u8], row_bytes: usize, x: OneToken, out: &mut [f32]) {
    if BYTES == Q6_K || row_bytes > TILED {
        for (row, out) in rows.chunks_exact(row_bytes).zip(out) {
            *out = by_row::<BYTES>(row, x);
        }
        return;
    }
    for (rows, out) in rows.chunks(4 * row_bytes).zip(out.chunks_mut(4)) {
        let acc = by_tile::<BYTES>(rows, row_bytes, x);
        out.copy_from_slice(&acc[..out.len()]);
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn by_tile<const BYTES: usize>(tile: &[u8], row_bytes: usize, x: OneToken) -> [f32; 4] {
    let [a, b, c, d] = four_rows::<BYTES>(tile, row_bytes);
    let mut acc = _mm_setzero_ps();
    for i in 0..a.len().min(b.len()).min(c.len()).min(d.len()) {
        prefetch_tile::<BYTES>(tile, row_bytes, i);
        let x = &x.wide[i * x.stride];
        let f = four([&a[i], &b[i], &c[i], &d[i]], [x; 4]);
        acc = _mm_fmadd_ps(f, _mm_set1_ps(x.d), acc);
    }
    floats4(acc)
}

#[target_feature(enable = "avx2,fma,f16c")]
fn by_row<const BYTES: usize>(row: &[u8], x: OneToken) -> f32 {
    let (row, _) = row.as_chunks::<BYTES>();
    let mut acc = 0f32;
    for first in (0..row.len()).step_by(4) {
        for line in 0..(4 * BYTES).div_ceil(64) {
            prefetch(row[first].as_ptr(), AHEAD + 64 * line);
        }
        // Where the row ends early its last block comes again, and is not used.
        let last = (row.len() - 1 - first).min(3);
        let at = [first, first + last.min(1), first + last.min(2), first + last];
        let x = [&x.wide[at[0] * x.stride], &x.wide[at[1] * x.stride], &x.wide[at[2] * x.stride], &x.wide[at[3] * x.stride]];
        let f = floats4(four([&row[at[0]], &row[at[1]], &row[at[2]], &row[at[3]]], x));
        for i in 0..4 {
            if i <= last {
                acc = f[i].mul_add(x[i].d, acc);
            }
        }
    }
    acc
}

/// f of four blocks.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn four<const BYTES: usize>(blocks: [&[u8; BYTES]; 4], x: [&Wide; 4]) -> __m128 {
    if BYTES == Q6_K { q6_k(blocks, x) } else { with_mins(blocks, x) }
}

/// f of four blocks of Q4_K or Q5_K.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn with_mins<const BYTES: usize>(blocks: [&[u8; BYTES]; 4], x: [&Wide; 4]) -> __m128 {
    let (lower, upper) = (headers(blocks[0], blocks[1]), headers(blocks[2], blocks[3]));
    let (lower, upper) = ((lower, six_bits(lower)), (upper, six_bits(upper)));
    let s = tree([
        sum(blocks[0], x[0], _mm256_permute2x128_si256::<0x00>(lower.1, lower.1)),
        sum(blocks[1], x[1], _mm256_permute2x128_si256::<0x11>(lower.1, lower.1)),
        sum(blocks[2], x[2], _mm256_permute2x128_si256::<0x00>(upper.1, upper.1)),
        sum(blocks[3], x[3], _mm256_permute2x128_si256::<0x11>(upper.1, upper.1)),
    ]);
    // Blocks 0 and 2 lie in the lower lane from here on, 1 and 3 in the upper one.
    let n = _mm256_hadd_epi32(mins(lower.1, x[0], x[1]), mins(upper.1, x[2], x[3]));
    let n = _mm256_hadd_epi32(n, n);
    let n = _mm_unpacklo_epi32(_mm256_castsi256_si128(n), _mm256_extracti128_si256::<1>(n));
    let dm = _mm256_unpacklo_epi32(lower.0, upper.0);
    let dm = _mm_unpacklo_epi32(_mm256_castsi256_si128(dm), _mm256_extracti128_si256::<1>(dm));
    let halves = _mm_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15);
    let dm = _mm256_cvtph_ps(_mm_shuffle_epi8(dm, halves));
    let (d, m) = (_mm256_castps256_ps128(dm), _mm256_extractf128_ps::<1>(dm));
    let f = _mm_mul_ps(d, _mm_cvtepi32_ps(s));
    _mm_fnmadd_ps(m, _mm_cvtepi32_ps(n), f)
}

/// The first 16 bytes of two blocks.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn headers<const BYTES: usize>(a: &[u8; BYTES], b: &[u8; BYTES]) -> __m256i {
    _mm256_set_m128i(load16(b, 0), load16(a, 0))
}

/// 8 scales, then 8 mins, of two headers d, dmin, 12 bytes of 6 bits each.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn six_bits(h: __m256i) -> __m256i {
    let (a, b, c) = (0x0706_0504, 0x0b0a_0908, 0x0f0e_0d0c);
    let low = _mm256_shuffle_epi8(h, _mm256_setr_epi32(a, c, b, c, a, c, b, c));
    let low = _mm256_srlv_epi32(low, _mm256_setr_epi32(0, 0, 0, 4, 0, 0, 0, 4));
    let (six, four) = (0x3f3f_3f3f, 0x0f0f_0f0f);
    let low = _mm256_and_si256(low, _mm256_setr_epi32(six, four, six, four, six, four, six, four));
    let high = _mm256_shuffle_epi8(h, _mm256_setr_epi32(-1, a, -1, b, -1, a, -1, b));
    let high = _mm256_and_si256(_mm256_srli_epi16::<2>(high), _mm256_set1_epi8(0x30));
    _mm256_or_si256(low, high)
}

/// Partial sums of N of two blocks.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn mins(six_bits: __m256i, a: &Wide, b: &Wide) -> __m256i {
    // As the pairs of `Wide` come: 0, 2, 1, 3, 4, 6, 5, 7.
    let order = _mm_setr_epi8(8, -1, 10, -1, 9, -1, 11, -1, 12, -1, 14, -1, 13, -1, 15, -1);
    let mins = _mm256_shuffle_epi8(six_bits, _mm256_broadcastsi128_si256(order));
    let x = _mm256_set_m128i(pairs32(b), pairs32(a));
    _mm256_madd_epi16(mins, x)
}

/// Partial sums of S; `scales` are bytes 0 … 7 of both lanes.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn sum<const BYTES: usize>(block: &[u8; BYTES], x: &Wide, scales: __m256i) -> __m256i {
    let q = codes(&x.q);
    let low = _mm256_set1_epi8(15);
    let mut sum = _mm256_setzero_si256();
    for j in 0..4 {
        let w = load32(block, BYTES - 128 + 32 * j);
        let (mut a, mut b) = (_mm256_and_si256(w, low), _mm256_and_si256(_mm256_srli_epi16::<4>(w), low));
        if BYTES == Q5_K {
            (a, b) = (_mm256_or_si256(a, fifth_bits(block, 2 * j)), _mm256_or_si256(b, fifth_bits(block, 2 * j + 1)));
        }
        let a = _mm256_maddubs_epi16(a, load32(q, 64 * j));
        let b = _mm256_maddubs_epi16(b, load32(q, 64 * j + 32));
        // Byte i of each 16 bits: scale i, then nothing.
        let scale_a = _mm256_shuffle_epi8(scales, _mm256_set1_epi16(0x8000u16 as i16 | (2 * j) as i16));
        let scale_b = _mm256_shuffle_epi8(scales, _mm256_set1_epi16(0x8000u16 as i16 | (2 * j + 1) as i16));
        let both = _mm256_add_epi32(_mm256_madd_epi16(a, scale_a), _mm256_madd_epi16(b, scale_b));
        sum = _mm256_add_epi32(sum, both);
    }
    sum
}

/// Bit `which` of 32 bytes of Q5_K, as 16 or nothing.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn fifth_bits<const BYTES: usize>(block: &[u8; BYTES], which: usize) -> __m256i {
    let bits = load32(block, 16);
    let moved = if which <= 4 {
        _mm256_sll_epi16(bits, _mm_cvtsi32_si128(4 - which as i32))
    } else {
        _mm256_srl_epi16(bits, _mm_cvtsi32_si128(which as i32 - 4))
    };
    _mm256_and_si256(moved, _mm256_set1_epi8(16))
}

/// f of four blocks of Q6_K.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn q6_k<const BYTES: usize>(blocks: [&[u8; BYTES]; 4], x: [&Wide; 4]) -> __m128 {
    let mut sums = [_mm256_setzero_si256(); 4];
    for i in 0..4 {
        // Kept a loop: unrolled, all codes are cut before any is multiplied, and most of them spilled.
        sums[i] = q6_k_sum(blocks[i], x[i]);
    }
    let s = tree(sums);
    _mm_mul_ps(halves(blocks, 208), _mm_cvtepi32_ps(s))
}

/// Partial sums of S - 32 N: codes are 32 too large.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn q6_k_sum<const BYTES: usize>(block: &[u8; BYTES], x: &Wide) -> __m256i {
    let q = codes(&x.q);
    let (low, two) = (_mm256_set1_epi8(15), _mm256_set1_epi8(0x30));
    let scales = _mm256_cvtepi8_epi16(load16(block, 192));
    // As the pairs of `Wide` come: 0, 2, 1, 3, 4, 6, 5, 7.
    let order = _mm_setr_epi8(0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15);
    let pairs = _mm256_shuffle_epi8(scales, _mm256_broadcastsi128_si256(order));
    let second = _mm256_madd_epi16(pairs, pairs16(x));
    let mut sum = _mm256_sub_epi32(_mm256_setzero_si256(), _mm256_slli_epi32::<5>(second));
    for half in 0..2 {
        let (a, b) = (load32(block, 64 * half), load32(block, 64 * half + 32));
        let high = load32(block, 128 + 32 * half);
        let codes = [
            _mm256_or_si256(_mm256_and_si256(a, low), _mm256_and_si256(_mm256_slli_epi16::<4>(high), two)),
            _mm256_or_si256(_mm256_and_si256(b, low), _mm256_and_si256(_mm256_slli_epi16::<2>(high), two)),
            _mm256_or_si256(_mm256_and_si256(_mm256_srli_epi16::<4>(a), low), _mm256_and_si256(high, two)),
            _mm256_or_si256(_mm256_and_si256(_mm256_srli_epi16::<4>(b), low), _mm256_and_si256(_mm256_srli_epi16::<2>(high), two)),
        ];
        let scales =
            if half == 0 { _mm256_permute2x128_si256::<0x00>(scales, scales) } else { _mm256_permute2x128_si256::<0x11>(scales, scales) };
        for k in 0..4 {
            let products = _mm256_maddubs_epi16(codes[k], load32(q, 128 * half + 32 * k));
            // Scale 2k in the lower lane, 2k + 1 in the upper one.
            let bytes = 0x0100 + 0x0404 * k as i16;
            let which = _mm256_set_m128i(_mm_set1_epi16(bytes + 0x0202), _mm_set1_epi16(bytes));
            sum = _mm256_add_epi32(sum, _mm256_madd_epi16(products, _mm256_shuffle_epi8(scales, which)));
        }
    }
    sum
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn pairs16(x: &Wide) -> __m256i {
    // SAFETY: 8 words.
    unsafe { _mm256_loadu_si256(x.pairs16.as_ptr().cast()) }
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn pairs32(x: &Wide) -> __m128i {
    // SAFETY: 4 words.
    unsafe { _mm_loadu_si128(x.pairs32.as_ptr().cast()) }
}
