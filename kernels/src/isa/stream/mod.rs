//! Products by one token on x86: the weights streamed once, in address order, lanes along k.
//!
//! ```text
//!        ┌ four blocks ┐        32 codes × 32 activations ──maddubs──▶ 16 × i16 ──madd scales──▶ 8 × i32
//! row    [0][1][2][3][4] …      S, N of the blocks, two by two to one sum each ──▶ f of each, parked
//! rows parked                   acc = fma(f, dx, acc), lanes are rows, blocks ascending
//! ```
//! One token cannot share a transposition, which is what lanes of rows cost ([`super::Isa::load_rows`]). S and N are exact
//! in any order, so the bits are those of every other shape. VNNI's sums of four bytes would have to be packed again for the scales; of VNNI
//! it is the product of pairs that serves, as scaling and adding in one ([`Width::plus`]). With 512 bits the products of Q6_K and Q8_0
//! are made 64 at a time ([`wide`]); headers, f and chains stay as they are.
//!
//! Blocks are taken in the file's order, their f parked, and made chains of afterwards ([`chains`]); what is parked must be little,
//! or it leaves the first cache while weights stream through. Formats with codebooks ([`codebook`]) have so much to look up that they
//! go without.
//!
//! Ideas: llama.cpp's AVX2 dot products (codes in the file's order, scales shuffled out of one vector). Tried and dropped, on
//! Zen 4 (`benches/record`): headers of eight blocks ahead (twice as slow from memory), touching the next page, prefetching
//! into the first cache, tiles of four rows; MXFP4 as [`flat`] goes about it (slower than in lanes of rows, by a fifth even with its
//! codes raised by 12 to be without sign); asking for the first three pages of every work item (no faster); items of a quarter of
//! the size, since threads have shares (a tenth slower); on Zen 3, other formats than Q8_0 from four places in turn (Q6_K +5 %, Q4_K
//! nothing, Q4_0 -10 %: they compute between their reads, and their loops grow); on Emerald Rapids, Q4_K and Q5_K 64 at a time (nothing, and
//! 8 %: what is saved in products goes into their scales' shuffles).
#![allow(unsafe_code)]

mod codebook;
mod flat;
mod k;
mod sums;
mod wide;

use super::OneToken;
use crate::Format;
use crate::activations::{Flat, Wide};
use std::arch::asm;
use std::arch::x86_64::*;
use std::marker::PhantomData;
use std::ops::Range;

/// [`super::by_one_token`] on 256-bit x86.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn multiply_256(format: Format, rows: &[u8], row_bytes: usize, x: OneToken, out: &mut [f32]) -> bool {
    // SAFETY: what `Bits256` needs is enabled here.
    unsafe { multiply::<Bits256<Apart>>(format, rows, row_bytes, x, out) }
}

/// The same where AVX-VNNI is.
#[target_feature(enable = "avx2,fma,f16c,avxvnni")]
pub(super) fn multiply_vnni(format: Format, rows: &[u8], row_bytes: usize, x: OneToken, out: &mut [f32]) -> bool {
    // SAFETY: likewise.
    unsafe { multiply::<Bits256<Fused>>(format, rows, row_bytes, x, out) }
}

/// The same on 512-bit x86.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
pub(super) fn multiply_512(format: Format, rows: &[u8], row_bytes: usize, x: OneToken, out: &mut [f32]) -> bool {
    // SAFETY: as above, `Bits512`.
    unsafe { multiply::<Bits512>(format, rows, row_bytes, x, out) }
}

/// # Safety
/// What `W` needs is here.
unsafe fn multiply<W: Width>(format: Format, rows: &[u8], row_bytes: usize, x: OneToken, out: &mut [f32]) -> bool {
    // SAFETY: so the caller says.
    unsafe {
        match format {
            Format::Q2_K => W::k::<{ sums::Q2_K }>(rows, row_bytes, x, out),
            Format::Q3_K => W::k::<{ sums::Q3_K }>(rows, row_bytes, x, out),
            Format::Q4_K => W::k::<{ sums::Q4_K }>(rows, row_bytes, x, out),
            Format::Q5_K => W::k::<{ sums::Q5_K }>(rows, row_bytes, x, out),
            Format::Q6_K => W::k::<{ sums::Q6_K }>(rows, row_bytes, x, out),
            Format::IQ4_XS => W::k::<{ sums::IQ4_XS }>(rows, row_bytes, x, out),
            Format::Q8_0 => W::flat::<{ flat::BYTES }, flat::Q8_0>(rows, row_bytes, x, out),
            Format::Q4_0 => W::flat::<{ flat::NIBBLES }, flat::Q4_0>(rows, row_bytes, x, out),
            Format::Q5_0 => W::flat::<{ flat::FIFTHS }, flat::Q5_0>(rows, row_bytes, x, out),
            Format::Q4_1 => W::flat::<{ flat::WITH_MIN }, flat::Q4_1>(rows, row_bytes, x, out),
            Format::IQ4_NL => W::flat::<{ flat::NIBBLES }, flat::IQ4_NL>(rows, row_bytes, x, out),
            _ => codebook::multiply(format, rows, row_bytes, x, out),
        }
    }
}

/// How wide the vectors are that products of a block are made with.
///
/// # Safety
/// Of every method: what the width needs is here, and AVX2, FMA and F16C.
trait Width {
    /// [`k::multiply`], in a function of its own.
    unsafe fn k<const BYTES: usize>(rows: &[u8], row_bytes: usize, x: OneToken, out: &mut [f32]) -> bool;
    /// [`flat::multiply`], likewise.
    unsafe fn flat<const N: usize, F: flat::Known>(rows: &[u8], row_bytes: usize, x: OneToken, out: &mut [f32]) -> bool;
    /// `sum` and `pairs` by `scales`, two by two.
    unsafe fn plus(sum: __m256i, pairs: __m256i, scales: __m256i) -> __m256i;
    /// Partial sums of S of one block of the formats in blocks of 256 that take no look ahead.
    unsafe fn sum<const BYTES: usize>(block: &[u8; BYTES], x: &Wide) -> __m256i;
    /// S of eight blocks of signed bytes.
    unsafe fn bytes<const N: usize>(blocks: &[[u8; N]; 8], x: &Flat) -> __m256i;
}

/// 256 bits: AVX2, and what `P` needs.
struct Bits256<P>(PhantomData<P>);

impl<P: Pairs> Width for Bits256<P> {
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn k<const BYTES: usize>(rows: &[u8], row_bytes: usize, x: OneToken, out: &mut [f32]) -> bool {
        // SAFETY (all): the features are enabled, or the trait's contract has what else there is to be.
        unsafe { k::multiply::<Self, BYTES>(rows, row_bytes, x, out) }
    }
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn flat<const N: usize, F: flat::Known>(rows: &[u8], row_bytes: usize, x: OneToken, out: &mut [f32]) -> bool {
        unsafe { flat::multiply::<Self, N, F>(rows, row_bytes, x, out) }
    }
    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    unsafe fn plus(sum: __m256i, pairs: __m256i, scales: __m256i) -> __m256i {
        unsafe { P::plus(sum, pairs, scales) }
    }
    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    unsafe fn sum<const BYTES: usize>(block: &[u8; BYTES], x: &Wide) -> __m256i {
        unsafe { sums::of::<Self, BYTES>(block, x) }
    }
    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    unsafe fn bytes<const N: usize>(blocks: &[[u8; N]; 8], x: &Flat) -> __m256i {
        flat::dots::<N, flat::Q8_0>(blocks, x)
    }
}

/// How pairs of products in 16 bits are scaled and added up.
///
/// # Safety
/// As [`Width`].
trait Pairs {
    /// [`Width::plus`].
    unsafe fn plus(sum: __m256i, pairs: __m256i, scales: __m256i) -> __m256i;
}

/// By two instructions, AVX2's.
struct Apart;

impl Pairs for Apart {
    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    unsafe fn plus(sum: __m256i, pairs: __m256i, scales: __m256i) -> __m256i {
        _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, scales))
    }
}

/// By one, AVX-VNNI's. Written out, since the compiler makes two of it again where that is through sooner, though not more of them a cycle.
struct Fused;

impl Pairs for Fused {
    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    unsafe fn plus(mut sum: __m256i, pairs: __m256i, scales: __m256i) -> __m256i {
        // SAFETY: AVX-VNNI is here, and only registers change.
        unsafe {
            asm!("{{vex}} vpdpwssd {0}, {1}, {2}", inout(ymm_reg) sum, in(ymm_reg) pairs, in(ymm_reg) scales, options(pure, nomem, nostack, preserves_flags));
        }
        sum
    }
}

/// AVX-512 F, BW, DQ, VL and VNNI.
struct Bits512;

impl Width for Bits512 {
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
    unsafe fn k<const BYTES: usize>(rows: &[u8], row_bytes: usize, x: OneToken, out: &mut [f32]) -> bool {
        // SAFETY (both): the features are enabled.
        unsafe { k::multiply::<Self, BYTES>(rows, row_bytes, x, out) }
    }
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
    unsafe fn flat<const N: usize, F: flat::Known>(rows: &[u8], row_bytes: usize, x: OneToken, out: &mut [f32]) -> bool {
        unsafe { flat::multiply::<Self, N, F>(rows, row_bytes, x, out) }
    }
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
    #[inline]
    unsafe fn plus(mut sum: __m256i, pairs: __m256i, scales: __m256i) -> __m256i {
        // SAFETY: as [`Fused`], in the form that AVX-512 has.
        unsafe {
            asm!("{{evex}} vpdpwssd {0}, {1}, {2}", inout(ymm_reg) sum, in(ymm_reg) pairs, in(ymm_reg) scales, options(pure, nomem, nostack, preserves_flags));
        }
        sum
    }
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
    #[inline]
    unsafe fn sum<const BYTES: usize>(block: &[u8; BYTES], x: &Wide) -> __m256i {
        match BYTES {
            sums::Q6_K => wide::q6_k(block, x),
            // SAFETY: as above.
            _ => unsafe { sums::of::<Self, BYTES>(block, x) },
        }
    }
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
    #[inline]
    unsafe fn bytes<const N: usize>(blocks: &[[u8; N]; 8], x: &Flat) -> __m256i {
        wide::bytes(blocks, x)
    }
}

/// Bytes from what is read to what is asked for, into the second cache: three pages, of which a small one ends the hardware's own
/// reading ahead. Into the first cache nothing is asked for: its few places for lines under way would be taken.
const AHEAD: usize = 12 << 10;

/// The same at each of several places that are read in turn, which the hardware serves better.
const AHEAD_OF_EACH: usize = 2 << 10;

/// Asks for the lines `AHEAD` of these bytes from `from` on, each once where all bytes are named in turn.
#[inline(always)]
fn ask_for(from: *const u8, some: Range<usize>) {
    ask_ahead(from, AHEAD, some);
}

#[inline(always)]
fn ask_ahead(from: *const u8, ahead: usize, some: Range<usize>) {
    for line in some.start.div_ceil(64)..some.end.div_ceil(64) {
        // SAFETY: a hint, which reads nothing.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(from.wrapping_add(ahead + 64 * line).cast()) }
    }
}

/// Two by two the partial sums of `a` and `b`: in each lane two of `a`, two of `b`.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn pair_up(a: __m256i, b: __m256i) -> __m256i {
    _mm256_add_epi32(_mm256_alignr_epi8::<8>(b, a), _mm256_blend_epi32::<0b1100_1100>(a, b))
}

/// In each lane one partial sum of each of the four that were paired up.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn pairs_to_fours(pairs: [__m256i; 2]) -> __m256i {
    let (a, b) = (_mm256_castsi256_ps(pairs[0]), _mm256_castsi256_ps(pairs[1]));
    let (even, odd) = (_mm256_shuffle_ps::<0b10_00_10_00>(a, b), _mm256_shuffle_ps::<0b11_01_11_01>(a, b));
    _mm256_add_epi32(_mm256_castps_si256(even), _mm256_castps_si256(odd))
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

/// The lower four bits of the 16 bytes at `at`, then the upper four.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn nibbles<const N: usize>(block: &[u8; N], at: usize) -> __m256i {
    let both = _mm256_broadcastsi128_si256(load16(block, at));
    let both = _mm256_srlv_epi32(both, _mm256_setr_epi32(0, 0, 0, 0, 4, 4, 4, 4));
    _mm256_and_si256(both, _mm256_set1_epi8(15))
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

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn floats4(v: __m128) -> [f32; 4] {
    let mut out = [0f32; 4];
    // SAFETY: 4 floats.
    unsafe { _mm_storeu_ps(out.as_mut_ptr(), v) };
    out
}

/// The chains of as many rows as `out` has, `n` blocks each, over their `f`, which lie row after row: eight at a time, since
/// each of their steps waits for the one before.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn chains(f: &[f32], n: usize, dx: impl Fn(usize) -> f32, out: &mut [f32]) {
    for (f, out) in f.chunks_exact(8 * n).zip(out.chunks_mut(8)) {
        // Where there are fewer than eight rows, the others hold what was there before, and are not used.
        let row = |i: usize| &f[i * n..(i + 1) * n];
        let (low, high) = ([row(0), row(1), row(2), row(3)], [row(4), row(5), row(6), row(7)]);
        let mut acc = [_mm_setzero_ps(); 2];
        for first in (0..n).step_by(4) {
            let some = (n - first).min(4);
            let (low, high) = (columns(low, first), columns(high, first));
            for i in 0..some {
                let dx = _mm_set1_ps(dx(first + i));
                acc = [_mm_fmadd_ps(low[i], dx, acc[0]), _mm_fmadd_ps(high[i], dx, acc[1])];
            }
        }
        let [low, high] = [floats4(acc[0]), floats4(acc[1])];
        out.copy_from_slice(&[low, high].as_flattened()[..out.len()]);
    }
}

/// Four columns of four rows from `first` on; beyond the end of a row, zeros.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn columns(rows: [&[f32]; 4], first: usize) -> [__m128; 4] {
    let row = |i: usize| match rows[i][first..].first_chunk::<4>() {
        // SAFETY: 4 floats.
        Some(four) => unsafe { _mm_loadu_ps(four.as_ptr()) },
        None => {
            const MASK: [i32; 6] = [-1, -1, -1, 0, 0, 0];
            let rest = &rows[i][first..];
            // SAFETY: four words of the mask, as there are at most three numbers; of what it leaves out nothing is read.
            unsafe { _mm_maskload_ps(rest.as_ptr(), _mm_loadu_si128(MASK[3 - rest.len()..][..4].as_ptr().cast())) }
        }
    };
    let [a, b, c, d] = [row(0), row(1), row(2), row(3)];
    let (ab, cd) = ([_mm_unpacklo_ps(a, b), _mm_unpackhi_ps(a, b)], [_mm_unpacklo_ps(c, d), _mm_unpackhi_ps(c, d)]);
    [_mm_movelh_ps(ab[0], cd[0]), _mm_movehl_ps(cd[0], ab[0]), _mm_movelh_ps(ab[1], cd[1]), _mm_movehl_ps(cd[1], ab[1])]
}
