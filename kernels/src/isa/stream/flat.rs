//! [`super`] for the formats of 32 weights a block, each with a scale of the activations of its own.

use super::{chains, codes, floats4, four_rows, halves, load16, load32, prefetch_tile, tree};
use crate::Format;
use crate::format::table::NONLINEAR;
use crate::isa::OneToken;
use crate::matmul::Flat;
use std::arch::x86_64::*;

const Q8_0: usize = Format::Q8_0.block_bytes();

/// Q4_0 and IQ4_NL have blocks of this size; they are told apart by what their codes mean.
const NIBBLES: usize = Format::Q4_0.block_bytes();

/// What 4-bit codes stand for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Codes {
    /// Themselves, 8 taken off (Q4_0).
    Biased,
    /// A place in the table (IQ4_NL).
    Nonlinear,
}

/// Rows of a format of 4 bits, in tiles of four: of a single row the chain of sums would be waited for.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn nibble_tiles(codes: Codes, rows: &[u8], row_bytes: usize, x: OneToken, out: &mut [f32]) {
    for (rows, out) in rows.chunks(4 * row_bytes).zip(out.chunks_mut(4)) {
        // A constant in each call, so that no block asks which it is.
        let acc = match codes {
            Codes::Biased => nibble_tile(Codes::Biased, rows, row_bytes, x),
            Codes::Nonlinear => nibble_tile(Codes::Nonlinear, rows, row_bytes, x),
        };
        out.copy_from_slice(&acc[..out.len()]);
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn nibble_tile(meaning: Codes, tile: &[u8], row_bytes: usize, x: OneToken) -> [f32; 4] {
    let [a, b, c, d] = four_rows::<NIBBLES>(tile, row_bytes);
    let mut acc = _mm_setzero_ps();
    for i in 0..a.len().min(b.len()).min(c.len()).min(d.len()) {
        prefetch_tile::<NIBBLES>(tile, row_bytes, i);
        let (x, at) = (&x.flat[i / 8 * x.stride], i % 8);
        let blocks = [&a[i], &b[i], &c[i], &d[i]];
        let q = load32(codes(&x.q), 32 * at);
        let s = tree([dot(meaning, blocks[0], q), dot(meaning, blocks[1], q), dot(meaning, blocks[2], q), dot(meaning, blocks[3], q)]);
        let s = match meaning {
            Codes::Biased => _mm_sub_epi32(s, _mm_set1_epi32(8 * x.sums[at])),
            Codes::Nonlinear => s,
        };
        acc = _mm_fmadd_ps(_mm_mul_ps(halves(blocks, 0), _mm_cvtepi32_ps(s)), _mm_set1_ps(x.d[at]), acc);
    }
    floats4(acc)
}

/// Partial sums of S of one block.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn dot(meaning: Codes, block: &[u8; NIBBLES], x: __m256i) -> __m256i {
    let nibbles = load16(block, 2);
    let nibbles = _mm256_set_m128i(_mm_srli_epi16::<4>(nibbles), nibbles);
    let nibbles = _mm256_and_si256(nibbles, _mm256_set1_epi8(15));
    let products = match meaning {
        Codes::Biased => _mm256_maddubs_epi16(nibbles, x),
        Codes::Nonlinear => signed(looked_up(&NONLINEAR, nibbles), x),
    };
    _mm256_madd_epi16(products, _mm256_set1_epi16(1))
}

/// |w| · (x with w's sign): 2 · 128 · 127 fits in 16 bits.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn signed(w: __m256i, x: __m256i) -> __m256i {
    _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w))
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn looked_up(table: &[i8; 16], codes: __m256i) -> __m256i {
    // SAFETY: 16 bytes.
    let table = unsafe { _mm_loadu_si128(table.as_ptr().cast()) };
    _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(table), codes)
}

/// Longest row of Q8_0, in blocks, of which eight are parked: 16 KB.
const PARKED: usize = 512;

/// Rows of Q8_0, eight blocks at a time, then the chains of eight rows: whether rows are short enough for that.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn q8_0_rows(rows: &[u8], row_bytes: usize, x: OneToken, out: &mut [f32]) -> bool {
    let n = row_bytes / Q8_0;
    if n > PARKED {
        return false;
    }
    // A row's last eight may reach into the next one's place, which is written after it.
    let mut parked = [0f32; 8 * PARKED + 7];
    for (rows, out) in rows.chunks(8 * row_bytes).zip(out.chunks_mut(8)) {
        for (i, row) in rows.chunks_exact(row_bytes).enumerate() {
            q8_0_row(row, x, &mut parked[i * n..]);
        }
        chains(&parked, n, |block| x.flat[block / 8 * x.stride].d[block % 8], out);
    }
    true
}

/// f of the blocks of a row of Q8_0, in whole eights.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn q8_0_row(row: &[u8], x: OneToken, parked: &mut [f32]) {
    let (eights, rest) = row.as_chunks::<Q8_0>().0.as_chunks::<8>();
    let mut last = [[0; Q8_0]; 8];
    last[..rest.len()].copy_from_slice(rest);
    let steps = eights.len() + usize::from(!rest.is_empty());
    for (i, place) in parked.as_chunks_mut::<8>().0[..steps].iter_mut().enumerate() {
        *place = q8_0(eights.get(i).unwrap_or(&last), &x.flat[i * x.stride]);
    }
}

/// f of eight blocks.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn q8_0(blocks: &[[u8; Q8_0]; 8], x: &Flat) -> [f32; 8] {
    let q = codes(&x.q);
    let sum = |i: usize| {
        let products = signed(load32(&blocks[i], 2), load32(q, 32 * i));
        _mm256_madd_epi16(products, _mm256_set1_epi16(1))
    };
    let s = [tree([sum(0), sum(1), sum(2), sum(3)]), tree([sum(4), sum(5), sum(6), sum(7)])];
    let h = |i: usize| i16::from_le_bytes([blocks[i][0], blocks[i][1]]);
    let d = _mm256_cvtph_ps(_mm_setr_epi16(h(0), h(1), h(2), h(3), h(4), h(5), h(6), h(7)));
    floats8(_mm256_mul_ps(d, _mm256_cvtepi32_ps(_mm256_set_m128i(s[1], s[0]))))
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn floats8(v: __m256) -> [f32; 8] {
    let mut out = [0f32; 8];
    // SAFETY: 8 floats.
    unsafe { _mm256_storeu_ps(out.as_mut_ptr(), v) };
    out
}
