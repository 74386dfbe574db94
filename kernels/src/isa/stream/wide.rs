//! [`super`] where vectors have 512 bits: products of a block, 64 weights at a time.
//!
//! ```text
//! Q6_K        64 bytes of low bits, 32 of high ones        64 codes × 64 activations ──maddubs──▶ 32 × i16 ──dpwssd scales──▶ 16 × i32
//! Q8_0        two blocks, codes 128 too large              ──dpbusd──▶ 8 × i32 of each
//! ```
//! Where scales follow, `vpmaddubsw` and not `vpdpbusd`: its sums of two are what `vpdpwssd` takes, and it needs no zeros to begin with.
//! Codes come out in their order, so activations lie in theirs.

use super::{codes, flat, load16, load32, sums};
use crate::activations::{Flat, Wide};
use std::arch::x86_64::*;

/// Partial sums of S - 32 N: codes are 32 too large.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
pub(super) fn q6_k<const BYTES: usize>(block: &[u8; BYTES], x: &Wide) -> __m256i {
    let q = codes(&x.q);
    let (low, two) = (_mm512_set1_epi8(15), _mm512_set1_epi8(0x30));
    let scales = _mm256_cvtepi8_epi16(load16(block, 192));
    let n = _mm256_madd_epi16(scales, sums::minus16(x));
    let mut sum = _mm512_zextsi256_si512(_mm256_add_epi32(n, n));
    for half in 0..2 {
        let bits = load64(block, 64 * half);
        let high = _mm512_broadcast_i64x4(load32(block, 128 + 32 * half));
        let first = (bits, _mm512_sllv_epi16(high, in_halves(4, 2)));
        let second = (_mm512_srli_epi16::<4>(bits), _mm512_srlv_epi16(high, in_halves(0, 2)));
        for (i, (bits, high)) in [first, second].into_iter().enumerate() {
            let w = _mm512_or_si512(_mm512_and_si512(bits, low), _mm512_and_si512(high, two));
            let at = 2 * half + i;
            let four = _mm512_permutexvar_epi16(in_lanes(4 * at as i16), _mm512_castsi256_si512(scales));
            sum = _mm512_dpwssd_epi32(sum, _mm512_maddubs_epi16(w, load64(q, 64 * at)), four);
        }
    }
    folded(sum)
}

/// S of eight blocks of signed bytes, each two bytes behind the beginning of its block.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
pub(super) fn bytes<const N: usize>(blocks: &[[u8; N]; 8], x: &Flat) -> __m256i {
    let q = codes(&x.q);
    let two = |i: usize| {
        let w = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(load32(&blocks[2 * i], 2)), load32(&blocks[2 * i + 1], 2));
        _mm512_dpbusd_epi32(_mm512_setzero_si512(), _mm512_xor_si512(w, _mm512_set1_epi8(-128)), load64(q, 64 * i))
    };
    let pair = |a: __m512i, b: __m512i| _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
    let (a, b) = (pair(two(0), two(1)), pair(two(2), two(3)));
    // Of blocks 0 2 4 6 in both lower lanes, of 1 3 5 7 in both upper ones.
    let parts = _mm512_add_epi32(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b));
    let all = _mm512_add_epi32(parts, _mm512_shuffle_i64x2::<0b10_11_00_01>(parts, parts));
    let order = _mm512_setr_epi32(0, 8, 1, 9, 2, 10, 3, 11, 0, 0, 0, 0, 0, 0, 0, 0);
    let s = _mm512_castsi512_si256(_mm512_permutexvar_epi32(order, all));
    _mm256_sub_epi32(s, _mm256_slli_epi32::<7>(flat::sums(x)))
}

/// `low` in all half words of the lower half, `high` in those of the upper one.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn in_halves(low: i16, high: i16) -> __m512i {
    _mm512_inserti64x4::<1>(_mm512_set1_epi16(low), _mm256_set1_epi16(high))
}

/// `first` in all half words of the first lane, and in those of the others one more each.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn in_lanes(first: i16) -> __m512i {
    let lane = |i: i16| _mm_set1_epi16(first + i);
    _mm512_inserti64x4::<1>(_mm512_castsi256_si512(_mm256_set_m128i(lane(1), lane(0))), _mm256_set_m128i(lane(3), lane(2)))
}

/// Both halves added.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn folded(v: __m512i) -> __m256i {
    _mm256_add_epi32(_mm512_castsi512_si256(v), _mm512_extracti64x4_epi64::<1>(v))
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn load64<const N: usize>(bytes: &[u8; N], at: usize) -> __m512i {
    assert!(at + 64 <= N);
    // SAFETY: the assertion.
    unsafe { _mm512_loadu_si512(bytes.as_ptr().add(at).cast()) }
}
