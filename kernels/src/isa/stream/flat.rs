//! [`super`] for the formats of 32 weights a block, each with a scale of the activations of its own.
//!
//! ```text
//! row      [0] … [7] [8] …        eight blocks a step: products, two by two to one sum a block, f of the eight ──▶ parked
//! eight rows parked               the chains, lanes are rows
//! ```
//! Signed bytes want all that memory gives, and one core gets more of it where it reads from several places at once: of these the eight
//! rows are two from each quarter of a work item, four of them a step each in turn.

use super::{AHEAD_OF_EACH, Width, ask_ahead, ask_for, chains, codes, load32, looked_up, nibbles, pair_up, pairs_to_fours, signed};
use crate::Format;
use crate::activations::Flat;
use crate::format::table::NONLINEAR;
use crate::isa::OneToken;
use std::arch::x86_64::*;

pub(super) const BYTES: usize = Format::Q8_0.block_bytes();

/// Q4_0 and IQ4_NL have blocks of this size; they are told apart by what their codes mean.
pub(super) const NIBBLES: usize = Format::Q4_0.block_bytes();

pub(super) const FIFTHS: usize = Format::Q5_0.block_bytes();
pub(super) const WITH_MIN: usize = Format::Q4_1.block_bytes();

/// What codes stand for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Codes {
    /// Four bits: themselves, 8 taken off.
    Biased,
    /// Five bits, the fifth apart: themselves, 16 taken off.
    Fifths,
    /// Four bits: themselves, and a minimum beside them.
    Affine,
    /// Four bits: a place in the table.
    Nonlinear,
    /// Signed bytes.
    Bytes,
}

/// A format whose codes are known when its loops are compiled, so that no block asks what they are.
pub(super) trait Known {
    const CODES: Codes;
}

pub(super) struct Q4_0;
pub(super) struct Q4_1;
#[allow(non_camel_case_types)]
pub(super) struct IQ4_NL;
pub(super) struct Q5_0;
pub(super) struct Q8_0;

impl Known for Q4_0 {
    const CODES: Codes = Codes::Biased;
}

impl Known for Q5_0 {
    const CODES: Codes = Codes::Fifths;
}

impl Known for Q4_1 {
    const CODES: Codes = Codes::Affine;
}

impl Known for IQ4_NL {
    const CODES: Codes = Codes::Nonlinear;
}

impl Known for Q8_0 {
    const CODES: Codes = Codes::Bytes;
}

/// Longest row, in blocks, of which eight are parked: 16 KB.
const PARKED: usize = 512;

/// Eight rows at a time, their f, then their chains: whether they are short enough to be parked.
///
/// # Safety
/// This and what it calls is inlined into a function that enables what `W` needs, and so AVX2, FMA and F16C.
#[inline(always)]
pub(super) unsafe fn multiply<W: Width, const N: usize, F: Known>(rows: &[u8], row_bytes: usize, x: OneToken, out: &mut [f32]) -> bool {
    let n = row_bytes / N;
    if n > PARKED {
        return false;
    }
    // A row's last eight may reach into the next one's place, which is written after it. Few rows are long, and clearing for
    // all of them what those need would show.
    let (mut few, mut many);
    let parked: &mut [f32] = if n <= PARKED / 8 {
        few = [0f32; PARKED + 7];
        &mut few
    } else {
        many = [0f32; 8 * PARKED + 7];
        &mut many
    };
    let dx = |block: usize| x.flat[block / 8 * x.stride].d[block % 8];
    let quarter = if F::CODES == Codes::Bytes && n.is_multiple_of(8) { out.len() / 8 * 2 } else { 0 };
    for first in (0..quarter).step_by(2) {
        for i in 0..2 {
            let row = |quarters: usize| &rows[(quarters * quarter + first + i) * row_bytes..];
            // SAFETY (all): as here.
            unsafe { park_in_turn::<W, N, F>([row(0), row(1), row(2), row(3)], n, x, &mut parked[4 * i * n..]) };
        }
        let mut f = [0f32; 8];
        unsafe { chains(parked, n, dx, &mut f) };
        for (i, f) in f.into_iter().enumerate() {
            out[i % 4 * quarter + first + i / 4] = f;
        }
    }
    let (rows, out) = (&rows[4 * quarter * row_bytes..], &mut out[4 * quarter..]);
    for (eight, out) in out.chunks_mut(8).enumerate() {
        for i in 0..out.len() {
            unsafe { park::<W, N, F>(&rows[(8 * eight + i) * row_bytes..], n, x, &mut parked[i * n..]) };
        }
        unsafe { chains(parked, n, dx, out) };
    }
    true
}

/// f of the `n` blocks of the first of these rows, in whole eights: what the last of them takes from the next row is not used.
///
/// # Safety
/// As [`multiply`].
#[inline(always)]
unsafe fn park<W: Width, const N: usize, F: Known>(rows: &[u8], n: usize, x: OneToken, parked: &mut [f32]) {
    let (eights, rest) = rows.as_chunks::<N>().0.as_chunks::<8>();
    let places = &mut parked.as_chunks_mut::<8>().0[..n.div_ceil(8)];
    for (i, (eight, place)) in eights.iter().zip(&mut *places).enumerate() {
        // Signed bytes come as fast unasked for.
        if F::CODES != Codes::Bytes {
            // Not all of these lines are others than the last ones; to ask twice costs less than to ask which.
            ask_for(eight.as_ptr().cast(), 0..8 * N);
        }
        // SAFETY (both): as here.
        *place = unsafe { f::<W, N, F>(eight, &x.flat[i * x.stride]) };
    }
    if eights.len() < places.len() {
        let mut last = [[0; N]; 8];
        last[..rest.len()].copy_from_slice(rest);
        places[eights.len()] = unsafe { f::<W, N, F>(&last, &x.flat[eights.len() * x.stride]) };
    }
}

/// The same of four rows in turn, each of whole eights.
///
/// # Safety
/// As [`multiply`].
#[inline(always)]
unsafe fn park_in_turn<W: Width, const N: usize, F: Known>(rows: [&[u8]; 4], n: usize, x: OneToken, parked: &mut [f32]) {
    let rows = rows.map(|row| row.as_chunks::<N>().0.as_chunks::<8>().0);
    for i in 0..n / 8 {
        for (which, row) in rows.iter().enumerate() {
            ask_ahead(row[i].as_ptr().cast(), AHEAD_OF_EACH, 0..8 * N);
            // SAFETY: as here.
            let f = unsafe { f::<W, N, F>(&row[i], &x.flat[i * x.stride]) };
            parked[which * n + 8 * i..][..8].copy_from_slice(&f);
        }
    }
}

/// f of eight blocks.
///
/// # Safety
/// As [`multiply`].
#[inline(always)]
unsafe fn f<W: Width, const N: usize, F: Known>(blocks: &[[u8; N]; 8], x: &Flat) -> [f32; 8] {
    // SAFETY: as here.
    unsafe {
        let s = match F::CODES {
            Codes::Bytes => W::bytes(blocks, x),
            Codes::Biased | Codes::Fifths | Codes::Affine | Codes::Nonlinear => dots::<N, F>(blocks, x),
        };
        in_floats::<N, F>(blocks, x, s)
    }
}

/// S of eight blocks.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn dots<const N: usize, F: Known>(blocks: &[[u8; N]; 8], x: &Flat) -> __m256i {
    let q = codes(&x.q);
    let product = |i: usize| product::<N, F>(&blocks[i], load32(q, 32 * i));
    // Sums of blocks 0 to 3 in one lane, of 4 to 7 in the other, once the lanes of both are added.
    let lanes = |a: __m256i, b: __m256i| [_mm256_permute2x128_si256::<0x20>(a, b), _mm256_permute2x128_si256::<0x31>(a, b)];
    let ones = _mm256_set1_epi16(1);
    let s = match F::CODES {
        Codes::Biased | Codes::Affine | Codes::Fifths => {
            let four = |i: usize| fours16([product(i), product(i + 1), product(i + 2), product(i + 3)]);
            let [a, b] = lanes(four(0), four(4));
            match F::CODES {
                // 4 · 2 · 31 · 127 fits in 16 bits, twice that does not.
                Codes::Fifths => _mm256_add_epi32(_mm256_madd_epi16(a, ones), _mm256_madd_epi16(b, ones)),
                // 8 · 2 · 15 · 127 does.
                Codes::Biased | Codes::Affine | Codes::Nonlinear | Codes::Bytes => _mm256_madd_epi16(_mm256_add_epi16(a, b), ones),
            }
        }
        Codes::Nonlinear | Codes::Bytes => {
            let wide = |i: usize| _mm256_madd_epi16(product(i), ones);
            let four = |i: usize| pairs_to_fours([pair_up(wide(i), wide(i + 1)), pair_up(wide(i + 2), wide(i + 3))]);
            let [a, b] = lanes(four(0), four(4));
            _mm256_add_epi32(a, b)
        }
    };
    match F::CODES {
        Codes::Biased => _mm256_sub_epi32(s, _mm256_slli_epi32::<3>(sums(x))),
        Codes::Fifths => _mm256_sub_epi32(s, _mm256_slli_epi32::<4>(sums(x))),
        Codes::Affine | Codes::Nonlinear | Codes::Bytes => s,
    }
}

/// f of eight blocks, whose S are these.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn in_floats<const N: usize, F: Known>(blocks: &[[u8; N]; 8], x: &Flat, s: __m256i) -> [f32; 8] {
    let d = _mm256_cvtph_ps(halves::<N, 0>(blocks));
    let f = _mm256_mul_ps(d, _mm256_cvtepi32_ps(s));
    floats8(match F::CODES {
        Codes::Affine => _mm256_fmadd_ps(_mm256_cvtph_ps(halves::<N, 2>(blocks)), _mm256_cvtepi32_ps(sums(x)), f),
        Codes::Biased | Codes::Fifths | Codes::Nonlinear | Codes::Bytes => f,
    })
}

/// The f16 at AT of each of eight blocks. That of block i is number i of the eight half words at i · (N - 2) + AT, so none has to
/// be moved.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn halves<const N: usize, const AT: usize>(blocks: &[[u8; N]; 8]) -> __m128i {
    const { assert!(7 * (N - 2) + AT + 16 <= 8 * N) };
    // SAFETY: 16 bytes from there on are in the eight blocks.
    let at = |i: usize| unsafe { _mm_loadu_si128(blocks.as_ptr().cast::<u8>().add(i * (N - 2) + AT).cast()) };
    let four = |i: usize| {
        let (low, high) = (_mm_blend_epi32::<0b10>(at(i), at(i + 2)), _mm_blend_epi32::<0b1000>(at(i + 4), at(i + 6)));
        _mm_blend_epi32::<0b1100>(low, high)
    };
    _mm_blend_epi16::<0b1010_1010>(four(0), four(1))
}

/// Products of a block, two by two in 16 bits.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn product<const N: usize, F: Known>(block: &[u8; N], x: __m256i) -> __m256i {
    match F::CODES {
        Codes::Biased | Codes::Affine => _mm256_maddubs_epi16(nibbles(block, N - 16), x),
        Codes::Fifths => _mm256_maddubs_epi16(_mm256_or_si256(nibbles(block, N - 16), fifths(block)), x),
        Codes::Nonlinear => signed(looked_up(&NONLINEAR, nibbles(block, N - 16)), x),
        Codes::Bytes => signed(load32(block, 2), x),
    }
}

/// Bit k of the four bytes behind d, as 16 in byte k.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn fifths<const N: usize>(block: &[u8; N]) -> __m256i {
    let bits = _mm256_set1_epi32(i32::from_le_bytes([block[2], block[3], block[4], block[5]]));
    let byte = _mm256_setr_epi64x(0, 0x0101_0101_0101_0101, 0x0202_0202_0202_0202, 0x0303_0303_0303_0303);
    let mine = _mm256_set1_epi64x(0x8040_2010_0804_0201u64 as i64);
    let set = _mm256_cmpeq_epi8(_mm256_and_si256(_mm256_shuffle_epi8(bits, byte), mine), mine);
    _mm256_and_si256(set, _mm256_set1_epi8(16))
}

/// [`pair_up`] and [`pairs_to_fours`] of four vectors in 16 bits: in each lane two sums of each, one after the other.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn fours16([a, b, c, d]: [__m256i; 4]) -> __m256i {
    let pair = |a: __m256i, b: __m256i| _mm256_add_epi16(_mm256_alignr_epi8::<8>(b, a), _mm256_blend_epi32::<0b1100_1100>(a, b));
    let (ab, cd) = (_mm256_castsi256_ps(pair(a, b)), _mm256_castsi256_ps(pair(c, d)));
    let (even, odd) = (_mm256_shuffle_ps::<0b10_00_10_00>(ab, cd), _mm256_shuffle_ps::<0b11_01_11_01>(ab, cd));
    _mm256_add_epi16(_mm256_castps_si256(even), _mm256_castps_si256(odd))
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn sums(x: &Flat) -> __m256i {
    // SAFETY: 8 words.
    unsafe { _mm256_loadu_si256(x.sums.as_ptr().cast()) }
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn floats8(v: __m256) -> [f32; 8] {
    let mut out = [0f32; 8];
    // SAFETY: 8 floats.
    unsafe { _mm256_storeu_ps(out.as_mut_ptr(), v) };
    out
}
