//! Products by one token on 256-bit x86 for the formats that are unpacked a row at a time (`matmul/codebook.rs`): a block is
//! multiplied where it was unpacked, without the transposition that lanes of rows cost.
//!
//! ```text
//! block ──Block::unpack──▶ 256 signed codes, 16 or 8 scales     |code| · (x with code's sign) ──madd scales──▶ S;  f = d · S
//! ```
#![allow(unsafe_code)]

use super::OneToken;
use crate::Format;
use crate::format::Block;
use crate::matmul::Wide;
use std::arch::x86_64::*;

/// [`super::by_one_token`] for formats with codebooks and ternary ones.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn multiply(format: Format, rows: &[u8], row_bytes: usize, x: OneToken, out: &mut [f32]) -> bool {
    match format {
        Format::IQ3_S | Format::IQ3_XXS | Format::IQ2_S | Format::IQ2_XS | Format::IQ2_XXS | Format::IQ1_S | Format::IQ1_M => {}
        Format::TQ1_0 | Format::TQ2_0 => {}
        _ => return false,
    }
    let mut block = Block::new();
    for (row, out) in rows.chunks_exact(row_bytes).zip(out) {
        let mut acc = 0f32;
        for (i, bytes) in row.chunks_exact(format.block_bytes()).enumerate() {
            block.unpack(format, bytes);
            let x = &x.wide[i * x.stride];
            acc = (block.d * sum(&block, x) as f32).mul_add(x.d, acc);
        }
        *out = acc;
    }
    true
}

/// S of one block.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn sum(block: &Block, x: &Wide) -> i32 {
    let mut sum = _mm256_setzero_si256();
    let group = block.group.trailing_zeros();
    for part in 0..8 {
        // SAFETY: both have 256 bytes.
        let (w, x) = unsafe {
            (_mm256_loadu_si256(block.codes.as_ptr().add(32 * part).cast()), _mm256_loadu_si256(x.q.as_ptr().add(8 * part).cast()))
        };
        // 2 · 128 · 127 fits in 16 bits.
        let products = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w));
        let scale = |half: usize| _mm_set1_epi16(i16::from(block.scales[(32 * part + 16 * half) >> group]));
        sum = _mm256_add_epi32(sum, _mm256_madd_epi16(products, _mm256_set_m128i(scale(1), scale(0))));
    }
    let four = _mm_add_epi32(_mm256_castsi256_si128(sum), _mm256_extracti128_si256::<1>(sum));
    let two = _mm_add_epi32(four, _mm_unpackhi_epi64(four, four));
    _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32::<1>(two)))
}
