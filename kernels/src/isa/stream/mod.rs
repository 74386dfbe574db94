//! Products by one token on 256-bit x86: the weights streamed once, in address order, lanes along k.
//!
//! ```text
//!        ┌ four blocks ┐        32 codes × 32 activations ──maddubs──▶ 16 × i16 ──madd scales──▶ 8 × i32
//! row    [0][1][2][3][4] …      S, N of four blocks: one tree of sums ──▶ f of each ──▶ acc = fma(f, dx, acc), ascending
//!
//! tile   [0][1][2] …   row 0    the same four blocks, but of four rows: acc is a vector
//!        [0][1][2] …   row 1
//!        [0][1][2] …   row 2
//!        [0][1][2] …   row 3
//! ```
//! One token cannot share a transposition, which is what lanes of rows cost ([`super::Isa::load_rows`]). S and N are exact
//! in any order, so the bits are those of every other shape. AVX-VNNI's sums of four would have to be packed again for
//! the scales, so every level with 256 bits runs this, AVX-512 too.
//!
//! A tile needs no sums that wait for one another, but is four streams: the next tile is asked for while this one is
//! read, and both must fit in the first cache; where rows are too long for that, they come one by one.
//!
//! Ideas: llama.cpp's AVX2 dot products (codes in the file's order, scales shuffled out of one vector). Tried and dropped:
//! scales broadcast from memory, headers of eight blocks decoded ahead, activations shared in registers (no faster);
//! asking for blocks of the same row ahead in a tile, tiles of
//! Q6_K (slower); Q5_0 and MXFP4 here (no faster than in lanes of rows).
#![allow(unsafe_code)]

mod flat;
mod k;

use super::OneToken;
use crate::Format;
use std::arch::x86_64::*;

/// Bytes from what is read to what is asked for where rows come one by one: past the page that ends the hardware's own
/// prefetching.
const AHEAD: usize = 4096;

/// Longest row of a tile: two tiles of four such rows fit in a first cache of 32 KB beside the activations.
const TILED: usize = 3 << 10;

/// [`super::by_one_token`] on 256-bit x86.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn multiply(format: Format, rows: &[u8], row_bytes: usize, x: OneToken, out: &mut [f32]) -> bool {
    let tiled = row_bytes <= TILED;
    match format {
        Format::Q4_K => k::multiply::<{ k::Q4_K }>(rows, row_bytes, x, out),
        Format::Q5_K => k::multiply::<{ k::Q5_K }>(rows, row_bytes, x, out),
        Format::Q6_K => k::multiply::<{ k::Q6_K }>(rows, row_bytes, x, out),
        Format::Q8_0 => flat::q8_0_rows(rows, row_bytes, x, out),
        Format::Q4_0 if tiled => flat::nibble_tiles(flat::Codes::Biased, rows, row_bytes, x, out),
        Format::IQ4_NL if tiled => flat::nibble_tiles(flat::Codes::Nonlinear, rows, row_bytes, x, out),
        _ => return false,
    }
    true
}

/// Four rows of blocks, and where the next four begin. Where there are fewer rows the last comes again.
#[inline(always)]
fn four_rows<const BYTES: usize>(rows: &[u8], row_bytes: usize) -> [&[[u8; BYTES]]; 4] {
    let last = rows.len() / row_bytes - 1;
    let row = |i: usize| rows[i.min(last) * row_bytes..][..row_bytes].as_chunks().0;
    [row(0), row(1), row(2), row(3)]
}

/// Asks for the lines of the next tile that correspond to block `i` of this one, four rows as one stretch of bytes.
#[inline(always)]
fn prefetch_tile<const BYTES: usize>(tile: &[u8], row_bytes: usize, i: usize) {
    for line in 0..(4 * BYTES).div_ceil(64) {
        prefetch(tile.as_ptr(), 4 * row_bytes + i * 4 * BYTES + 64 * line);
    }
}

#[inline(always)]
fn prefetch(from: *const u8, at: usize) {
    // SAFETY: a hint, which reads nothing.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(from.wrapping_add(at).cast()) }
}

/// The sum of each of four vectors.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn tree([a, b, c, d]: [__m256i; 4]) -> __m128i {
    let sums = _mm256_hadd_epi32(_mm256_hadd_epi32(a, b), _mm256_hadd_epi32(c, d));
    _mm_add_epi32(_mm256_castsi256_si128(sums), _mm256_extracti128_si256::<1>(sums))
}

/// The codes in their order. (`as_flattened` is a call that is not inlined where link-time optimisation is off.)
#[inline(always)]
fn codes(q: &[[u8; 4]; 64]) -> &[u8; 256] {
    // SAFETY: the same 256 bytes.
    unsafe { &*q.as_ptr().cast() }
}

/// f16 at `at` in each of four blocks.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn halves<const BYTES: usize>(blocks: [&[u8; BYTES]; 4], at: usize) -> __m128 {
    let half = |i: usize| i64::from(u16::from_le_bytes([blocks[i][at], blocks[i][at + 1]]));
    _mm_cvtph_ps(_mm_cvtsi64_si128(half(0) | half(1) << 16 | half(2) << 32 | half(3) << 48))
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
fn floats4(v: __m128) -> [f32; 4] {
    let mut out = [0f32; 4];
    // SAFETY: 4 floats.
    unsafe { _mm_storeu_ps(out.as_mut_ptr(), v) };
    out
}
