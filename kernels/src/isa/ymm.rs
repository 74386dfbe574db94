//! 256-bit x86: AVX2 with FMA and F16C, and the same with AVX-VNNI's byte dot product.
#![allow(unsafe_code)]

use super::{Block, Isa, Less, Op, Outlined, SignedBytes, Tiled, low_halves, prefetch_to_write};
use std::arch::x86_64::*;
use std::marker::PhantomData;

/// The token: AVX2, FMA and F16C are here, and what `D` needs.
#[derive(Clone, Copy)]
pub(crate) struct Ymm<D>(PhantomData<D>);

/// Runs `op` with AVX2.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn run_avx2<O: Op>(op: O) -> O::Output {
    op.run(Ymm::<Maddubs>(PhantomData))
}

/// Runs `op` with AVX2 and AVX-VNNI.
#[target_feature(enable = "avx2,fma,f16c,avxvnni")]
pub(super) fn run_avxvnni<O: Op>(op: O) -> O::Output {
    op.run(Ymm::<Vnni>(PhantomData))
}

#[inline(never)]
#[target_feature(enable = "avx2,fma,f16c")]
fn outline_avx2<O: Outlined<Ymm<Maddubs>>>(op: O) {
    op.run(Ymm(PhantomData));
}

#[inline(never)]
#[target_feature(enable = "avx2,fma,f16c,avxvnni")]
fn outline_avxvnni<O: Outlined<Ymm<Vnni>>>(op: O) {
    op.run(Ymm(PhantomData));
}

/// How four byte products are added up. An implementation may be called only where its instructions exist.
pub(crate) trait Dot: Copy + Send + Sync + 'static {
    const NARROW: bool;
    const SIGNED: SignedBytes;
    unsafe fn outline<O: Outlined<Ymm<Self>>>(op: O);
    unsafe fn acc_biased(isa: Ymm<Self>, bias: i32, less: Less) -> __m256i;
    unsafe fn dot(acc: __m256i, w: __m256i, x: __m256i) -> __m256i;
    unsafe fn acc_scaled(sum: __m256i, acc: __m256i, scale: __m256i) -> __m256i;
    const SHORT: bool;
    unsafe fn short_scaled(sum: __m256i, acc: __m256i, scale: __m256i) -> __m256i;
    unsafe fn acc_sum(sum: __m256i, acc: __m256i) -> __m256i;
}

/// `vpmaddubsw`: pairs of products in 16 bits, so the accumulator is emptied before it can overflow.
#[derive(Clone, Copy)]
pub(crate) struct Maddubs;

// SAFETY (all of it): the trait's contract, AVX2 is here.
impl Dot for Maddubs {
    const NARROW: bool = true;
    const SIGNED: SignedBytes = SignedBytes::Widened;
    #[inline(always)]
    unsafe fn outline<O: Outlined<Ymm<Self>>>(op: O) {
        unsafe { outline_avx2(op) }
    }
    #[inline(always)]
    unsafe fn acc_biased(_isa: Ymm<Self>, bias: i32, less: Less) -> __m256i {
        let shift = (less.unit / bias).max(1).ilog2() as i32;
        unsafe { _mm256_sra_epi16(_mm256_set1_epi32(less.sums), _mm_cvtsi32_si128(shift)) }
    }
    #[inline(always)]
    unsafe fn dot(acc: __m256i, w: __m256i, x: __m256i) -> __m256i {
        unsafe { _mm256_add_epi16(acc, _mm256_maddubs_epi16(w, x)) }
    }
    #[inline(always)]
    unsafe fn acc_scaled(sum: __m256i, acc: __m256i, scale: __m256i) -> __m256i {
        unsafe { _mm256_add_epi32(sum, _mm256_madd_epi16(acc, scale)) }
    }
    const SHORT: bool = false;
    #[inline(always)]
    unsafe fn short_scaled(sum: __m256i, acc: __m256i, scale: __m256i) -> __m256i {
        unsafe { Self::acc_scaled(sum, acc, scale) }
    }
    #[inline(always)]
    unsafe fn acc_sum(sum: __m256i, acc: __m256i) -> __m256i {
        unsafe { _mm256_add_epi32(sum, _mm256_madd_epi16(acc, _mm256_set1_epi16(1))) }
    }
}

/// `vpdpbusd`: four products added up in 32 bits.
#[derive(Clone, Copy)]
pub(crate) struct Vnni;

// SAFETY (all of it): the trait's contract, AVX2 and AVX-VNNI are here.
impl Dot for Vnni {
    const NARROW: bool = false;
    const SIGNED: SignedBytes = SignedBytes::Biased;
    #[inline(always)]
    unsafe fn outline<O: Outlined<Ymm<Self>>>(op: O) {
        unsafe { outline_avxvnni(op) }
    }
    #[inline(always)]
    unsafe fn acc_biased(isa: Ymm<Self>, bias: i32, less: Less) -> __m256i {
        less.splat(isa, bias)
    }
    #[inline(always)]
    unsafe fn dot(acc: __m256i, w: __m256i, x: __m256i) -> __m256i {
        unsafe { _mm256_dpbusd_avx_epi32(acc, w, x) }
    }
    #[inline(always)]
    unsafe fn acc_scaled(sum: __m256i, acc: __m256i, scale: __m256i) -> __m256i {
        unsafe {
            let scale = _mm256_srai_epi32::<16>(_mm256_slli_epi32::<16>(scale));
            _mm256_add_epi32(sum, _mm256_mullo_epi32(acc, scale))
        }
    }
    const SHORT: bool = true;
    #[inline(always)]
    unsafe fn short_scaled(sum: __m256i, acc: __m256i, scale: __m256i) -> __m256i {
        unsafe { _mm256_dpwssd_avx_epi32(sum, acc, scale) }
    }
    #[inline(always)]
    unsafe fn acc_sum(sum: __m256i, acc: __m256i) -> __m256i {
        unsafe { _mm256_add_epi32(sum, acc) }
    }
}

// SAFETY (all of it): the token proves that AVX2, FMA, F16C and D's instructions are here; every pointer comes from a
// slice that was just cut or indexed to the length that is read or written, or from `Block::at`, which vouches for it.
impl<D: Dot> Isa for Ymm<D> {
    const LANES: usize = 8;
    type F = __m256;
    type I = __m256i;
    type M = __m256;
    type Acc = __m256i;

    #[inline(always)]
    fn outline<O: Outlined<Self>>(self, op: O) {
        unsafe { D::outline(op) }
    }

    #[inline(always)]
    fn splat(self, x: f32) -> __m256 {
        unsafe { _mm256_set1_ps(x) }
    }
    #[inline(always)]
    fn load(self, x: &[f32]) -> __m256 {
        let x = &x[..8];
        unsafe { _mm256_loadu_ps(x.as_ptr()) }
    }
    #[inline(always)]
    fn store(self, v: __m256, out: &mut [f32]) {
        let out = &mut out[..8];
        unsafe { _mm256_storeu_ps(out.as_mut_ptr(), v) }
    }
    /// Into the second cache: the few places that the first has for lines under way are for what is read now.
    #[inline(always)]
    fn prefetch(self, p: *const u8) {
        unsafe { _mm_prefetch::<_MM_HINT_T1>(p.cast()) };
    }
    #[inline(always)]
    fn prefetch_to_write(self, p: *const u8) {
        prefetch_to_write(p);
    }
    #[inline(always)]
    fn load_f16(self, x: &[u16]) -> __m256 {
        let x = &x[..8];
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(x.as_ptr().cast())) }
    }
    #[inline(always)]
    fn store_f16(self, v: __m256, out: &mut [u16]) {
        let out = &mut out[..8];
        unsafe { _mm_storeu_si128(out.as_mut_ptr().cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v)) }
    }
    #[inline(always)]
    fn load_f32_bytes(self, x: &[u8]) -> __m256 {
        let x = &x[..32];
        unsafe { _mm256_loadu_ps(x.as_ptr().cast()) }
    }
    #[inline(always)]
    fn load_f16_bytes(self, x: &[u8]) -> __m256 {
        let x = &x[..16];
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(x.as_ptr().cast())) }
    }
    #[inline(always)]
    fn load_bf16_bytes(self, x: &[u8]) -> __m256 {
        let x = &x[..16];
        unsafe { _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(_mm_loadu_si128(x.as_ptr().cast())))) }
    }
    #[inline(always)]
    fn widen_i8(self, x: &[u8]) -> __m256i {
        let x = &x[..8];
        unsafe { _mm256_cvtepi8_epi32(_mm_loadl_epi64(x.as_ptr().cast())) }
    }
    #[inline(always)]
    fn widen_u8(self, x: &[u8]) -> __m256i {
        let x = &x[..8];
        unsafe { _mm256_cvtepu8_epi32(_mm_loadl_epi64(x.as_ptr().cast())) }
    }

    #[inline(always)]
    fn add(self, a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_add_ps(a, b) }
    }
    #[inline(always)]
    fn sub(self, a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_sub_ps(a, b) }
    }
    #[inline(always)]
    fn mul(self, a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_mul_ps(a, b) }
    }
    #[inline(always)]
    fn div(self, a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_div_ps(a, b) }
    }
    #[inline(always)]
    fn fma(self, a: __m256, b: __m256, c: __m256) -> __m256 {
        unsafe { _mm256_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    fn fnma(self, a: __m256, b: __m256, c: __m256) -> __m256 {
        unsafe { _mm256_fnmadd_ps(a, b, c) }
    }
    #[inline(always)]
    fn max(self, a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_max_ps(a, b) }
    }
    #[inline(always)]
    fn round(self, a: __m256) -> __m256 {
        unsafe { _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a) }
    }
    #[inline(always)]
    fn lt(self, a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_cmp_ps::<_CMP_LT_OQ>(a, b) }
    }
    #[inline(always)]
    fn select(self, mask: __m256, yes: __m256, no: __m256) -> __m256 {
        unsafe { _mm256_blendv_ps(no, yes, mask) }
    }
    #[inline(always)]
    fn reduce_add(self, v: __m256) -> f32 {
        unsafe {
            let four = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps::<1>(two, two)))
        }
    }
    #[inline(always)]
    fn reduce_max(self, v: __m256) -> f32 {
        unsafe {
            let four = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
            let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps::<1>(two, two)))
        }
    }

    #[inline(always)]
    fn splat_i(self, x: i32) -> __m256i {
        unsafe { _mm256_set1_epi32(x) }
    }
    #[inline(always)]
    fn load_i(self, x: &[i32]) -> __m256i {
        let x = &x[..8];
        unsafe { _mm256_loadu_si256(x.as_ptr().cast()) }
    }
    #[inline(always)]
    fn store_i(self, v: __m256i, out: &mut [i32]) {
        let out = &mut out[..8];
        unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast(), v) }
    }
    #[inline(always)]
    fn store_low_bytes(self, v: __m256i, out: &mut [u8]) {
        let out = &mut out[..8];
        unsafe {
            let low = _mm256_and_si256(v, _mm256_set1_epi32(255));
            let words = _mm_packus_epi32(_mm256_castsi256_si128(low), _mm256_extracti128_si256::<1>(low));
            _mm_storel_epi64(out.as_mut_ptr().cast(), _mm_packus_epi16(words, words));
        }
    }
    #[inline(always)]
    fn add_i(self, a: __m256i, b: __m256i) -> __m256i {
        unsafe { _mm256_add_epi32(a, b) }
    }
    #[inline(always)]
    fn sub_i(self, a: __m256i, b: __m256i) -> __m256i {
        unsafe { _mm256_sub_epi32(a, b) }
    }
    #[inline(always)]
    fn max_i(self, a: __m256i, b: __m256i) -> __m256i {
        unsafe { _mm256_max_epi32(a, b) }
    }
    #[inline(always)]
    fn and(self, a: __m256i, b: __m256i) -> __m256i {
        unsafe { _mm256_and_si256(a, b) }
    }
    #[inline(always)]
    fn or(self, a: __m256i, b: __m256i) -> __m256i {
        unsafe { _mm256_or_si256(a, b) }
    }
    #[inline(always)]
    fn xor(self, a: __m256i, b: __m256i) -> __m256i {
        unsafe { _mm256_xor_si256(a, b) }
    }
    #[inline(always)]
    fn shl<const N: i32>(self, a: __m256i) -> __m256i {
        unsafe { _mm256_slli_epi32::<N>(a) }
    }
    #[inline(always)]
    fn shr<const N: i32>(self, a: __m256i) -> __m256i {
        unsafe { _mm256_srli_epi32::<N>(a) }
    }
    #[inline(always)]
    fn sar<const N: i32>(self, a: __m256i) -> __m256i {
        unsafe { _mm256_srai_epi32::<N>(a) }
    }
    #[inline(always)]
    fn lt_i(self, a: __m256i, b: __m256i) -> __m256 {
        unsafe { _mm256_castsi256_ps(_mm256_cmpgt_epi32(b, a)) }
    }
    #[inline(always)]
    fn to_f32(self, a: __m256i) -> __m256 {
        unsafe { _mm256_cvtepi32_ps(a) }
    }
    #[inline(always)]
    fn to_i32(self, a: __m256) -> __m256i {
        unsafe { _mm256_cvtps_epi32(a) }
    }
    #[inline(always)]
    fn to_bits(self, a: __m256) -> __m256i {
        unsafe { _mm256_castps_si256(a) }
    }
    #[inline(always)]
    fn from_bits(self, a: __m256i) -> __m256 {
        unsafe { _mm256_castsi256_ps(a) }
    }
    #[inline(always)]
    fn low_f16(self, a: __m256i) -> __m256 {
        unsafe {
            let low = _mm256_and_si256(a, _mm256_set1_epi32(0xffff));
            _mm256_cvtph_ps(_mm_packus_epi32(_mm256_castsi256_si128(low), _mm256_extracti128_si256::<1>(low)))
        }
    }

    #[inline(always)]
    fn lookup(self, table: &[i8; 16], index: __m256i) -> __m256i {
        unsafe { _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast())), index) }
    }

    #[inline(always)]
    fn load_rows<const BYTES: usize>(self, block: Block<'_, BYTES>, at: usize) -> [__m256i; 4] {
        let (p, stride) = block.at(at, 16, 8);
        let ahead = block.ahead(at);
        unsafe {
            _mm_prefetch::<_MM_HINT_T0>(ahead.cast());
            _mm_prefetch::<_MM_HINT_T0>(ahead.wrapping_add(64).cast());
            let a = two_rows(p, stride);
            let b = two_rows(p.add(stride), stride);
            let c = two_rows(p.add(2 * stride), stride);
            let d = two_rows(p.add(3 * stride), stride);
            let (ab_low, ab_high) = (_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
            let (cd_low, cd_high) = (_mm256_unpacklo_epi32(c, d), _mm256_unpackhi_epi32(c, d));
            [
                _mm256_unpacklo_epi64(ab_low, cd_low),
                _mm256_unpackhi_epi64(ab_low, cd_low),
                _mm256_unpacklo_epi64(ab_high, cd_high),
                _mm256_unpackhi_epi64(ab_high, cd_high),
            ]
        }
    }
    #[inline(always)]
    fn load_words<const BYTES: usize>(self, block: Block<'_, BYTES>, at: usize) -> __m256i {
        let (p, stride) = block.at(at, 4, 8);
        unsafe { _mm_prefetch::<_MM_HINT_T0>(block.ahead(at).cast()) };
        unsafe { _mm256_set_m128i(four_words(p.add(4 * stride), stride), four_words(p, stride)) }
    }

    const NARROW: bool = D::NARROW;
    const SIGNED: SignedBytes = D::SIGNED;
    #[inline(always)]
    fn acc_zero(self) -> __m256i {
        unsafe { _mm256_setzero_si256() }
    }
    #[inline(always)]
    fn acc_biased(self, bias: i32, less: Less) -> __m256i {
        unsafe { D::acc_biased(self, bias, less) }
    }
    #[inline(always)]
    fn dot(self, acc: __m256i, w: __m256i, x: __m256i) -> __m256i {
        unsafe { D::dot(acc, w, x) }
    }
    #[inline(always)]
    fn acc_scaled(self, sum: __m256i, acc: __m256i, scale: __m256i) -> __m256i {
        unsafe { D::acc_scaled(sum, acc, scale) }
    }
    const SHORT: bool = D::SHORT;
    #[inline(always)]
    fn short_scaled(self, sum: __m256i, acc: __m256i, scale: __m256i) -> __m256i {
        unsafe { D::short_scaled(sum, acc, scale) }
    }
    #[inline(always)]
    fn acc_sum(self, sum: __m256i, acc: __m256i) -> __m256i {
        unsafe { D::acc_sum(sum, acc) }
    }
    #[inline(always)]
    fn scales(self, v: __m256i) -> [__m256i; 4] {
        if !D::NARROW {
            return low_halves(self, v);
        }
        // In both halves of its lane: in their upper bytes first, then moved down.
        let byte = |i: i64| unsafe {
            let i = i * 0x0100_0100_0100_0100;
            let (low, high) = (0x0480_0480_0080_0080 + i, 0x0c80_0c80_0880_0880 + i);
            _mm256_srai_epi16::<8>(_mm256_shuffle_epi8(v, _mm256_set_epi64x(high, low, high, low)))
        };
        [byte(0), byte(1), byte(2), byte(3)]
    }
    #[inline(always)]
    fn dot_pairs(self, sum: __m256i, w: __m256i, x: __m256i) -> __m256i {
        unsafe { _mm256_add_epi32(sum, _mm256_madd_epi16(w, x)) }
    }
    #[inline(always)]
    fn even_bytes(self, v: __m256i) -> __m256i {
        unsafe { _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(v)) }
    }
    #[inline(always)]
    fn odd_bytes(self, v: __m256i) -> __m256i {
        unsafe { _mm256_srai_epi16::<8>(v) }
    }
    #[inline(always)]
    fn mul_pairs(self, a: __m256i, b: __m256i) -> __m256i {
        unsafe { _mm256_mullo_epi16(a, b) }
    }

    #[inline(always)]
    fn with_tile<T: Tiled>(self, tiled: T) {
        tiled.run::<Self, 2, 3, 256>(self);
    }
    /// The products of two vectors of rows share what is broadcast: 1 × 4 waits for its loads.
    #[inline(always)]
    fn with_narrow_tile<T: Tiled>(self, tiled: T) {
        tiled.run::<Self, 2, 3, 8>(self);
    }
}

/// 16 bytes of the row at `p`, and of the fourth row after it.
#[inline(always)]
unsafe fn two_rows(p: *const u8, stride: usize) -> __m256i {
    // SAFETY: the caller has AVX2 and vouches for 16 bytes in both rows.
    unsafe { _mm256_loadu2_m128i(p.add(4 * stride).cast(), p.cast()) }
}

/// 4 bytes of each of four rows.
#[inline(always)]
unsafe fn four_words(p: *const u8, stride: usize) -> __m128i {
    // SAFETY: the caller has AVX2 and vouches for 4 bytes in each row.
    unsafe {
        let word = |row: usize| p.add(row * stride).cast::<i32>().read_unaligned();
        _mm_setr_epi32(word(0), word(1), word(2), word(3))
    }
}
