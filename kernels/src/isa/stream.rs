//! Products by one token on 256-bit x86: each row of the weights streamed once, in address order, lanes along k.
//!
//! ```text
//! row   [block][block][block][block] …       32 codes × 32 activations ──maddubs──▶ 16 × i16 ──madd scales──▶ 8 × i32
//!       └─── S, N of four (or eight) blocks: one tree of sums ───┘ ──▶ f of each ──▶ acc = fma(f, dx, acc), ascending
//! ```
//! One token cannot share a transposition, which is what lanes of rows cost ([`super::Isa::load_rows`]). S and N are exact
//! in any order, so the bits are those of every other shape. AVX-VNNI's sums of four would have to be packed again for
//! the scales, so both levels run this.
//!
//! Ideas: llama.cpp's AVX2 dot products (codes in the file's order, scales shuffled out of one vector).
#![allow(unsafe_code)]

use super::OneToken;
use crate::Format;
use crate::matmul::{Flat, Wide};
use std::arch::x86_64::*;

/// Bytes from what is read to what is asked for: past the page that ends the hardware's own prefetching.
const AHEAD: usize = 4096;

const Q4_K: usize = Format::Q4_K.block_bytes();
const Q6_K: usize = Format::Q6_K.block_bytes();
const Q8_0: usize = Format::Q8_0.block_bytes();

/// [`super::by_one_token`] on 256-bit x86.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn multiply(format: Format, rows: &[u8], row_bytes: usize, x: OneToken, out: &mut [f32]) -> bool {
    for (row, out) in rows.chunks_exact(row_bytes).zip(out) {
        *out = match format {
            Format::Q4_K => by_four::<Q4_K>(row, x),
            Format::Q6_K => by_four::<Q6_K>(row, x),
            Format::Q8_0 => by_eight(row, x),
            _ => return false,
        };
    }
    true
}

/// A row of a K format whose blocks have `BYTES`: Q4_K or Q6_K.
#[target_feature(enable = "avx2,fma,f16c")]
fn by_four<const BYTES: usize>(row: &[u8], x: OneToken) -> f32 {
    let (row, _) = row.as_chunks::<BYTES>();
    let mut acc = 0f32;
    for first in (0..row.len()).step_by(4) {
        // Where the row ends early its last block comes again, and is not used.
        let last = (row.len() - 1 - first).min(3);
        let at = [first, first + last.min(1), first + last.min(2), first + last];
        let blocks = [&row[at[0]], &row[at[1]], &row[at[2]], &row[at[3]]];
        let x = [&x.wide[at[0] * x.stride], &x.wide[at[1] * x.stride], &x.wide[at[2] * x.stride], &x.wide[at[3] * x.stride]];
        let f = if BYTES == Q4_K { q4_k(blocks, x) } else { q6_k(blocks, x) };
        for i in 0..4 {
            if i <= last {
                acc = f[i].mul_add(x[i].d, acc);
            }
        }
    }
    acc
}

/// f of four blocks of Q4_K.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn q4_k<const BYTES: usize>(blocks: [&[u8; BYTES]; 4], x: [&Wide; 4]) -> [f32; 4] {
    let (lower, upper) = (headers(blocks[0], blocks[1]), headers(blocks[2], blocks[3]));
    let (lower, upper) = ((lower, six_bits(lower)), (upper, six_bits(upper)));
    let s = tree([
        q4_k_sum(blocks[0], x[0], _mm256_permute2x128_si256::<0x00>(lower.1, lower.1)),
        q4_k_sum(blocks[1], x[1], _mm256_permute2x128_si256::<0x11>(lower.1, lower.1)),
        q4_k_sum(blocks[2], x[2], _mm256_permute2x128_si256::<0x00>(upper.1, upper.1)),
        q4_k_sum(blocks[3], x[3], _mm256_permute2x128_si256::<0x11>(upper.1, upper.1)),
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
    floats4(_mm_fnmadd_ps(m, _mm_cvtepi32_ps(n), f))
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
fn q4_k_sum<const BYTES: usize>(block: &[u8; BYTES], x: &Wide, scales: __m256i) -> __m256i {
    let q = codes(&x.q);
    let low = _mm256_set1_epi8(15);
    let mut sum = _mm256_setzero_si256();
    for j in 0..4 {
        prefetch(block, 40 * j);
        let w = load32(block, 16 + 32 * j);
        let a = _mm256_maddubs_epi16(_mm256_and_si256(w, low), load32(q, 64 * j));
        let b = _mm256_maddubs_epi16(_mm256_and_si256(_mm256_srli_epi16::<4>(w), low), load32(q, 64 * j + 32));
        // Byte i of each 16 bits: scale i, then nothing.
        let scale_a = _mm256_shuffle_epi8(scales, _mm256_set1_epi16(0x8000u16 as i16 | (2 * j) as i16));
        let scale_b = _mm256_shuffle_epi8(scales, _mm256_set1_epi16(0x8000u16 as i16 | (2 * j + 1) as i16));
        let both = _mm256_add_epi32(_mm256_madd_epi16(a, scale_a), _mm256_madd_epi16(b, scale_b));
        sum = _mm256_add_epi32(sum, both);
    }
    sum
}

/// f of four blocks of Q6_K.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn q6_k<const BYTES: usize>(blocks: [&[u8; BYTES]; 4], x: [&Wide; 4]) -> [f32; 4] {
    let mut sums = [_mm256_setzero_si256(); 4];
    for i in 0..4 {
        // Kept a loop: unrolled, all codes are cut before any is multiplied, and most of them spilled.
        sums[i] = q6_k_sum(blocks[i], x[i]);
    }
    let s = tree(sums);
    let half = |i: usize| i64::from(u16::from_le_bytes([blocks[i][208], blocks[i][209]]));
    let d = _mm_cvtph_ps(_mm_cvtsi64_si128(half(0) | half(1) << 16 | half(2) << 32 | half(3) << 48));
    floats4(_mm_mul_ps(d, _mm_cvtepi32_ps(s)))
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
        prefetch(block, 128 * half);
        prefetch(block, 128 * half + 64);
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

/// A row of Q8_0.
#[target_feature(enable = "avx2,fma,f16c")]
fn by_eight(row: &[u8], x: OneToken) -> f32 {
    let (row, _) = row.as_chunks::<Q8_0>();
    let mut acc = 0f32;
    let (groups, rest) = row.as_chunks::<8>();
    for (group, blocks) in groups.iter().enumerate() {
        let x = &x.flat[group * x.stride];
        let f = q8_0(blocks, x);
        for i in 0..8 {
            acc = f[i].mul_add(x.d[i], acc);
        }
    }
    if !rest.is_empty() {
        let mut whole = [[0; Q8_0]; 8];
        whole[..rest.len()].copy_from_slice(rest);
        let x = &x.flat[groups.len() * x.stride];
        let f = q8_0(&whole, x);
        for i in 0..rest.len() {
            acc = f[i].mul_add(x.d[i], acc);
        }
    }
    acc
}

/// f of eight blocks.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn q8_0(blocks: &[[u8; Q8_0]; 8], x: &Flat) -> [f32; 8] {
    let q = codes(&x.q);
    let mut sums = [_mm256_setzero_si256(); 8];
    for i in 0..8 {
        prefetch(&blocks[i], 0);
        let w = load32(&blocks[i], 2);
        // |w| · (x with w's sign): 2 · 128 · 127 fits in 16 bits.
        let products = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(load32(q, 32 * i), w));
        sums[i] = _mm256_madd_epi16(products, _mm256_set1_epi16(1));
    }
    let s = _mm256_set_m128i(tree([sums[4], sums[5], sums[6], sums[7]]), tree([sums[0], sums[1], sums[2], sums[3]]));
    let h = |i: usize| i16::from_le_bytes([blocks[i][0], blocks[i][1]]);
    let d = _mm256_cvtph_ps(_mm_setr_epi16(h(0), h(1), h(2), h(3), h(4), h(5), h(6), h(7)));
    floats8(_mm256_mul_ps(d, _mm256_cvtepi32_ps(s)))
}

/// The sum of each of four vectors.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn tree([a, b, c, d]: [__m256i; 4]) -> __m128i {
    let sums = _mm256_hadd_epi32(_mm256_hadd_epi32(a, b), _mm256_hadd_epi32(c, d));
    _mm_add_epi32(_mm256_castsi256_si128(sums), _mm256_extracti128_si256::<1>(sums))
}

#[inline(always)]
fn prefetch<const BYTES: usize>(block: &[u8; BYTES], at: usize) {
    // SAFETY: a hint, which reads nothing.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(block.as_ptr().wrapping_add(at + AHEAD).cast()) }
}

/// The codes in their order. (`as_flattened` is a call that is not inlined where link-time optimisation is off.)
#[inline(always)]
fn codes(q: &[[u8; 4]; 64]) -> &[u8; 256] {
    // SAFETY: the same 256 bytes.
    unsafe { &*q.as_ptr().cast() }
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn load32<const N: usize>(bytes: &[u8; N], at: usize) -> __m256i {
    assert!(at + 32 <= N);
    // SAFETY: the assertion.
    unsafe { _mm256_loadu_si256(bytes.as_ptr().add(at).cast()) }
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn load16<const N: usize>(bytes: &[u8; N], at: usize) -> __m128i {
    assert!(at + 16 <= N);
    // SAFETY: the assertion.
    unsafe { _mm_loadu_si128(bytes.as_ptr().add(at).cast()) }
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

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn floats4(v: __m128) -> [f32; 4] {
    let mut out = [0f32; 4];
    // SAFETY: 4 floats.
    unsafe { _mm_storeu_ps(out.as_mut_ptr(), v) };
    out
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn floats8(v: __m256) -> [f32; 8] {
    let mut out = [0f32; 8];
    // SAFETY: 8 floats.
    unsafe { _mm256_storeu_ps(out.as_mut_ptr(), v) };
    out
}
