//! 512-bit x86: AVX-512 F, BW, DQ, VL and VNNI (Cascade Lake, Ice Lake and Zen 4 on; VBMI, which the first lacks, is not needed).
#![allow(unsafe_code)]

use super::{Block, Isa, Less, Op, Outlined, SignedBytes, Tiled, low_halves, prefetch_to_write};
use std::arch::asm;
use std::arch::x86_64::*;

/// The token: all of the above is here, and AVX2, FMA and F16C.
#[derive(Clone, Copy)]
pub(crate) struct Zmm(());

/// Runs `op` with AVX-512.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
pub(super) fn run_avx512<O: Op>(op: O) -> O::Output {
    op.run(Zmm(()))
}

#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
fn outline_avx512<O: Outlined<Zmm>>(op: O) {
    op.run(Zmm(()));
}

// SAFETY (all of it): the token proves that all these instructions are here; every pointer comes from a
// slice that was just cut or indexed to the length that is read or written, or from `Block::at`, which vouches for it.
impl Isa for Zmm {
    const LANES: usize = 16;
    type F = __m512;
    type I = __m512i;
    type M = __mmask16;
    type Acc = __m512i;

    #[inline(always)]
    fn outline<O: Outlined<Self>>(self, op: O) {
        unsafe { outline_avx512(op) }
    }

    #[inline(always)]
    fn splat(self, x: f32) -> __m512 {
        unsafe { _mm512_set1_ps(x) }
    }
    #[inline(always)]
    fn load(self, x: &[f32]) -> __m512 {
        let x = &x[..16];
        unsafe { _mm512_loadu_ps(x.as_ptr()) }
    }
    #[inline(always)]
    fn store(self, v: __m512, out: &mut [f32]) {
        let out = &mut out[..16];
        unsafe { _mm512_storeu_ps(out.as_mut_ptr(), v) }
    }
    #[inline(always)]
    fn prefetch(self, p: *const u8) {
        // Into the second cache: the first one's few places for lines under way are wanted by what is read now.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(p.cast()) };
    }
    #[inline(always)]
    fn prefetch_to_write(self, p: *const u8) {
        prefetch_to_write(p);
    }
    #[inline(always)]
    fn load_f16(self, x: &[u16]) -> __m512 {
        let x = &x[..16];
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(x.as_ptr().cast())) }
    }
    #[inline(always)]
    fn store_f16(self, v: __m512, out: &mut [u16]) {
        let out = &mut out[..16];
        unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast(), _mm512_cvtps_ph::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(v)) }
    }
    #[inline(always)]
    fn load_f32_bytes(self, x: &[u8]) -> __m512 {
        let x = &x[..64];
        unsafe { _mm512_loadu_ps(x.as_ptr().cast()) }
    }
    #[inline(always)]
    fn load_f16_bytes(self, x: &[u8]) -> __m512 {
        let x = &x[..32];
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(x.as_ptr().cast())) }
    }
    #[inline(always)]
    fn load_bf16_bytes(self, x: &[u8]) -> __m512 {
        let x = &x[..32];
        unsafe { _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(_mm256_loadu_si256(x.as_ptr().cast())))) }
    }
    #[inline(always)]
    fn widen_i8(self, x: &[u8]) -> __m512i {
        let x = &x[..16];
        unsafe { _mm512_cvtepi8_epi32(_mm_loadu_si128(x.as_ptr().cast())) }
    }
    #[inline(always)]
    fn widen_u8(self, x: &[u8]) -> __m512i {
        let x = &x[..16];
        unsafe { _mm512_cvtepu8_epi32(_mm_loadu_si128(x.as_ptr().cast())) }
    }

    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_add_ps(a, b) }
    }
    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_sub_ps(a, b) }
    }
    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_mul_ps(a, b) }
    }
    #[inline(always)]
    fn div(self, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_div_ps(a, b) }
    }
    #[inline(always)]
    fn fma(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    fn fnma(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        unsafe { _mm512_fnmadd_ps(a, b, c) }
    }
    #[inline(always)]
    fn max(self, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_max_ps(a, b) }
    }
    #[inline(always)]
    fn round(self, a: __m512) -> __m512 {
        unsafe { _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a) }
    }
    #[inline(always)]
    fn lt(self, a: __m512, b: __m512) -> __mmask16 {
        unsafe { _mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b) }
    }
    #[inline(always)]
    fn select(self, mask: __mmask16, yes: __m512, no: __m512) -> __m512 {
        unsafe { _mm512_mask_blend_ps(mask, no, yes) }
    }
    #[inline(always)]
    fn reduce_max(self, v: __m512) -> f32 {
        unsafe { _mm512_reduce_max_ps(v) }
    }
    #[inline(always)]
    fn reduce_add(self, v: __m512) -> f32 {
        unsafe {
            let eight = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps::<1>(v));
            let four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps::<1>(two, two)))
        }
    }

    #[inline(always)]
    fn splat_i(self, x: i32) -> __m512i {
        unsafe { _mm512_set1_epi32(x) }
    }
    #[inline(always)]
    fn load_i(self, x: &[i32]) -> __m512i {
        let x = &x[..16];
        unsafe { _mm512_loadu_si512(x.as_ptr().cast()) }
    }
    #[inline(always)]
    fn store_i(self, v: __m512i, out: &mut [i32]) {
        let out = &mut out[..16];
        unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), v) }
    }
    #[inline(always)]
    fn store_low_bytes(self, v: __m512i, out: &mut [u8]) {
        let out = &mut out[..16];
        unsafe { _mm_storeu_si128(out.as_mut_ptr().cast(), _mm512_cvtepi32_epi8(v)) }
    }
    #[inline(always)]
    fn add_i(self, a: __m512i, b: __m512i) -> __m512i {
        unsafe { _mm512_add_epi32(a, b) }
    }
    #[inline(always)]
    fn sub_i(self, a: __m512i, b: __m512i) -> __m512i {
        unsafe { _mm512_sub_epi32(a, b) }
    }
    #[inline(always)]
    fn max_i(self, a: __m512i, b: __m512i) -> __m512i {
        unsafe { _mm512_max_epi32(a, b) }
    }
    #[inline(always)]
    fn and(self, a: __m512i, b: __m512i) -> __m512i {
        unsafe { _mm512_and_si512(a, b) }
    }
    #[inline(always)]
    fn or(self, a: __m512i, b: __m512i) -> __m512i {
        unsafe { _mm512_or_si512(a, b) }
    }
    #[inline(always)]
    fn xor(self, a: __m512i, b: __m512i) -> __m512i {
        unsafe { _mm512_xor_si512(a, b) }
    }
    #[inline(always)]
    fn shl<const N: i32>(self, a: __m512i) -> __m512i {
        unsafe { _mm512_sll_epi32(a, _mm_cvtsi32_si128(N)) }
    }
    #[inline(always)]
    fn shr<const N: i32>(self, a: __m512i) -> __m512i {
        unsafe { _mm512_srl_epi32(a, _mm_cvtsi32_si128(N)) }
    }
    #[inline(always)]
    fn sar<const N: i32>(self, a: __m512i) -> __m512i {
        unsafe { _mm512_sra_epi32(a, _mm_cvtsi32_si128(N)) }
    }
    #[inline(always)]
    fn lt_i(self, a: __m512i, b: __m512i) -> __mmask16 {
        unsafe { _mm512_cmplt_epi32_mask(a, b) }
    }
    #[inline(always)]
    fn to_f32(self, a: __m512i) -> __m512 {
        unsafe { _mm512_cvtepi32_ps(a) }
    }
    #[inline(always)]
    fn to_i32(self, a: __m512) -> __m512i {
        unsafe { _mm512_cvtps_epi32(a) }
    }
    #[inline(always)]
    fn to_bits(self, a: __m512) -> __m512i {
        unsafe { _mm512_castps_si512(a) }
    }
    #[inline(always)]
    fn from_bits(self, a: __m512i) -> __m512 {
        unsafe { _mm512_castsi512_ps(a) }
    }
    #[inline(always)]
    fn low_f16(self, a: __m512i) -> __m512 {
        unsafe { _mm512_cvtph_ps(_mm512_cvtepi32_epi16(a)) }
    }

    #[inline(always)]
    fn lookup(self, table: &[i8; 16], index: __m512i) -> __m512i {
        unsafe { _mm512_shuffle_epi8(_mm512_broadcast_i32x4(_mm_loadu_si128(table.as_ptr().cast())), index) }
    }

    #[inline(always)]
    fn load_rows<const BYTES: usize>(self, block: Block<'_, BYTES>, at: usize) -> [__m512i; 4] {
        let (p, stride) = block.at(at, 16, 16);
        let ahead = block.ahead(at);
        unsafe {
            _mm_prefetch::<_MM_HINT_T0>(ahead.cast());
            _mm_prefetch::<_MM_HINT_T0>(ahead.wrapping_add(64).cast());
            _mm_prefetch::<_MM_HINT_T0>(ahead.wrapping_add(128).cast());
            _mm_prefetch::<_MM_HINT_T0>(ahead.wrapping_add(192).cast());
            let a = four_rows(p, stride);
            let b = four_rows(p.add(stride), stride);
            let c = four_rows(p.add(2 * stride), stride);
            let d = four_rows(p.add(3 * stride), stride);
            let (ab_low, ab_high) = (_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
            let (cd_low, cd_high) = (_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
            [
                _mm512_unpacklo_epi64(ab_low, cd_low),
                _mm512_unpackhi_epi64(ab_low, cd_low),
                _mm512_unpacklo_epi64(ab_high, cd_high),
                _mm512_unpackhi_epi64(ab_high, cd_high),
            ]
        }
    }
    #[inline(always)]
    fn load_words<const BYTES: usize>(self, block: Block<'_, BYTES>, at: usize) -> __m512i {
        let (p, stride) = block.at(at, 4, 16);
        unsafe {
            _mm_prefetch::<_MM_HINT_T0>(block.ahead(at).cast());
            let low = _mm256_set_m128i(four_words(p.add(4 * stride), stride), four_words(p, stride));
            let high = _mm256_set_m128i(four_words(p.add(12 * stride), stride), four_words(p.add(8 * stride), stride));
            _mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), high)
        }
    }

    const NARROW: bool = false;
    const UNROLLED: bool = true;
    const SIGNED: SignedBytes = SignedBytes::Biased;
    #[inline(always)]
    fn acc_zero(self) -> __m512i {
        unsafe { _mm512_setzero_si512() }
    }
    #[inline(always)]
    fn acc_biased(self, bias: i32, less: Less) -> __m512i {
        less.splat(self, bias)
    }
    #[inline(always)]
    fn dot(self, acc: __m512i, w: __m512i, x: __m512i) -> __m512i {
        unsafe { _mm512_dpbusd_epi32(acc, w, x) }
    }
    #[inline(always)]
    fn acc_scaled(self, sum: __m512i, acc: __m512i, scale: __m512i) -> __m512i {
        let scale = self.sar::<16>(self.shl::<16>(scale));
        unsafe { _mm512_add_epi32(sum, _mm512_mullo_epi32(acc, scale)) }
    }
    const SHORT: bool = true;
    #[inline(always)]
    fn short_scaled(self, sum: __m512i, acc: __m512i, scale: __m512i) -> __m512i {
        unsafe { _mm512_dpwssd_epi32(sum, acc, scale) }
    }
    #[inline(always)]
    fn scales(self, v: __m512i) -> [__m512i; 4] {
        low_halves(self, v)
    }
    #[inline(always)]
    fn acc_sum(self, sum: __m512i, acc: __m512i) -> __m512i {
        unsafe { _mm512_add_epi32(sum, acc) }
    }
    #[inline(always)]
    fn dot_pairs(self, sum: __m512i, w: __m512i, x: __m512i) -> __m512i {
        unsafe { plus_pairs(sum, w, x) }
    }
    #[inline(always)]
    fn even_bytes(self, v: __m512i) -> __m512i {
        unsafe { _mm512_srai_epi16::<8>(_mm512_slli_epi16::<8>(v)) }
    }
    #[inline(always)]
    fn odd_bytes(self, v: __m512i) -> __m512i {
        unsafe { _mm512_srai_epi16::<8>(v) }
    }
    #[inline(always)]
    fn mul_pairs(self, a: __m512i, b: __m512i) -> __m512i {
        unsafe { _mm512_mullo_epi16(a, b) }
    }

    #[inline(always)]
    fn with_tile<T: Tiled>(self, tiled: T) {
        tiled.run::<Self, 4, 3, 256>(self);
    }
}

/// `vpdpwssd`, out of the compiler's reach: of a chain of them it makes products and sums apart, which are through sooner where nothing
/// else is to be done, and take twice the time where something is.
#[target_feature(enable = "avx512f,avx512vnni")]
#[inline]
fn plus_pairs(mut sum: __m512i, w: __m512i, x: __m512i) -> __m512i {
    // SAFETY: an instruction of these features, on registers alone.
    unsafe {
        asm!("vpdpwssd {0}, {1}, {2}", inout(zmm_reg) sum, in(zmm_reg) w, in(zmm_reg) x, options(pure, nomem, nostack, preserves_flags));
    }
    sum
}

/// 16 bytes of the row at `p`, and of the fourth, eighth and twelfth after it.
#[inline(always)]
unsafe fn four_rows(p: *const u8, stride: usize) -> __m512i {
    // SAFETY: the caller has AVX-512 and vouches for 16 bytes in each row.
    unsafe {
        let row = |index: usize| _mm_loadu_si128(p.add(index * stride).cast());
        let v = _mm512_castsi128_si512(row(0));
        let v = _mm512_mask_broadcast_i32x4(v, 0x00f0, row(4));
        let v = _mm512_mask_broadcast_i32x4(v, 0x0f00, row(8));
        _mm512_mask_broadcast_i32x4(v, 0xf000, row(12))
    }
}

/// 4 bytes of each of four rows.
#[inline(always)]
unsafe fn four_words(p: *const u8, stride: usize) -> __m128i {
    // SAFETY: the caller vouches for 4 bytes in each row.
    unsafe {
        let word = |row: usize| p.add(row * stride).cast::<i32>().read_unaligned();
        _mm_setr_epi32(word(0), word(1), word(2), word(3))
    }
}
