//! 128-bit ARM: NEON, and NEON with the dot product of ARMv8.2.
//!
//! Half-precision conversions, `sdot` and prefetching are written in assembly: their intrinsics are not stable yet.
#![allow(unsafe_code)]

use super::{Block, Isa, Less, Op, Outlined, SignedBytes, Tiled};
use std::arch::aarch64::*;
use std::arch::asm;
use std::marker::PhantomData;

/// The token: NEON is here, and what `D` needs.
#[derive(Clone, Copy)]
pub(crate) struct Neon<D>(PhantomData<D>);

/// Runs `op` with NEON.
#[target_feature(enable = "neon")]
pub(super) fn run_neon<O: Op>(op: O) -> O::Output {
    op.run(Neon::<Widening>(PhantomData))
}

/// Runs `op` with NEON and its dot product.
#[target_feature(enable = "neon,dotprod")]
pub(super) fn run_neondot<O: Op>(op: O) -> O::Output {
    op.run(Neon::<Sdot>(PhantomData))
}

#[inline(never)]
#[target_feature(enable = "neon")]
fn outline_neon<O: Outlined<Neon<Widening>>>(op: O) {
    op.run(Neon(PhantomData));
}

#[inline(never)]
#[target_feature(enable = "neon,dotprod")]
fn outline_neondot<O: Outlined<Neon<Sdot>>>(op: O) {
    op.run(Neon(PhantomData));
}

/// How four byte products are added up. An implementation may be called only where its instructions exist.
pub(crate) trait Dot: Copy + Send + Sync + 'static {
    unsafe fn outline<O: Outlined<Neon<Self>>>(op: O);
    /// `sum + Σ w·x` over the four signed bytes of each lane.
    unsafe fn dot(sum: int32x4_t, w: int32x4_t, x: int32x4_t) -> int32x4_t;
}

/// Products widened to 16 bits, then added in pairs twice.
#[derive(Clone, Copy)]
pub(crate) struct Widening;

// SAFETY (all of it): the trait's contract, NEON is here.
impl Dot for Widening {
    #[inline(always)]
    unsafe fn outline<O: Outlined<Neon<Self>>>(op: O) {
        unsafe { outline_neon(op) }
    }
    #[inline(always)]
    unsafe fn dot(sum: int32x4_t, w: int32x4_t, x: int32x4_t) -> int32x4_t {
        unsafe {
            let (w, x) = (vreinterpretq_s8_s32(w), vreinterpretq_s8_s32(x));
            let low = vmull_s8(vget_low_s8(w), vget_low_s8(x));
            // Two products fit in 16 bits: 2 · 128 · 127.
            vpadalq_s16(sum, vpaddq_s16(low, vmull_high_s8(w, x)))
        }
    }
}

/// `sdot`.
#[derive(Clone, Copy)]
pub(crate) struct Sdot;

// SAFETY (all of it): the trait's contract, NEON and its dot product are here.
impl Dot for Sdot {
    #[inline(always)]
    unsafe fn outline<O: Outlined<Neon<Self>>>(op: O) {
        unsafe { outline_neondot(op) }
    }
    #[inline(always)]
    unsafe fn dot(sum: int32x4_t, w: int32x4_t, x: int32x4_t) -> int32x4_t {
        let mut sum = sum;
        unsafe {
            asm!(
                "sdot {sum:v}.4s, {w:v}.16b, {x:v}.16b",
                sum = inout(vreg) sum, w = in(vreg) w, x = in(vreg) x,
                options(pure, nomem, nostack, preserves_flags)
            );
        }
        sum
    }
}

/// Four halves, widened.
#[inline(always)]
unsafe fn widen(halves: uint16x4_t) -> float32x4_t {
    let floats: float32x4_t;
    // SAFETY: the caller has NEON.
    unsafe {
        asm!("fcvtl {f:v}.4s, {h:v}.4h", f = lateout(vreg) floats, h = in(vreg) halves, options(pure, nomem, nostack, preserves_flags));
    }
    floats
}

/// Four floats, rounded to halves.
#[inline(always)]
unsafe fn narrow(floats: float32x4_t) -> uint16x4_t {
    let halves: uint16x4_t;
    // SAFETY: the caller has NEON.
    unsafe {
        asm!("fcvtn {h:v}.4h, {f:v}.4s", h = lateout(vreg) halves, f = in(vreg) floats, options(pure, nomem, nostack, preserves_flags));
    }
    halves
}

/// [`Isa::prefetch_to_write`].
#[inline(always)]
fn prefetch_to_write(p: *const u8) {
    // SAFETY: a hint changes nothing that anyone could see.
    unsafe { asm!("prfm pstl1keep, [{p}]", p = in(reg) p, options(readonly, nostack, preserves_flags)) }
}

/// Asks for the line at `p`; any address will do.
#[inline(always)]
fn prefetch(p: *const u8) {
    // SAFETY: a hint reads nothing that anyone could see.
    unsafe { asm!("prfm pldl1keep, [{p}]", p = in(reg) p, options(readonly, nostack, preserves_flags)) }
}

// SAFETY (all of it): the token proves that NEON and D's instructions are here; every pointer comes from a slice that was
// just cut to the length that is read or written, or from `Block::at`, which vouches for it.
impl<D: Dot> Isa for Neon<D> {
    const LANES: usize = 4;
    type F = float32x4_t;
    type I = int32x4_t;
    type M = uint32x4_t;
    type Acc = int32x4_t;

    #[inline(always)]
    fn outline<O: Outlined<Self>>(self, op: O) {
        unsafe { D::outline(op) }
    }

    #[inline(always)]
    fn splat(self, x: f32) -> float32x4_t {
        unsafe { vdupq_n_f32(x) }
    }
    #[inline(always)]
    fn load(self, x: &[f32]) -> float32x4_t {
        let x = &x[..4];
        unsafe { vld1q_f32(x.as_ptr()) }
    }
    #[inline(always)]
    fn store(self, v: float32x4_t, out: &mut [f32]) {
        let out = &mut out[..4];
        unsafe { vst1q_f32(out.as_mut_ptr(), v) }
    }
    #[inline(always)]
    fn prefetch(self, p: *const u8) {
        prefetch(p);
    }
    #[inline(always)]
    fn prefetch_to_write(self, p: *const u8) {
        prefetch_to_write(p);
    }
    #[inline(always)]
    fn load_f16(self, x: &[u16]) -> float32x4_t {
        let x = &x[..4];
        unsafe { widen(vld1_u16(x.as_ptr())) }
    }
    #[inline(always)]
    fn store_f16(self, v: float32x4_t, out: &mut [u16]) {
        let out = &mut out[..4];
        unsafe { vst1_u16(out.as_mut_ptr(), narrow(v)) }
    }
    #[inline(always)]
    fn load_f32_bytes(self, x: &[u8]) -> float32x4_t {
        let x = &x[..16];
        unsafe { vreinterpretq_f32_u8(vld1q_u8(x.as_ptr())) }
    }
    #[inline(always)]
    fn load_f16_bytes(self, x: &[u8]) -> float32x4_t {
        let x = &x[..8];
        unsafe { widen(vreinterpret_u16_u8(vld1_u8(x.as_ptr()))) }
    }
    #[inline(always)]
    fn load_bf16_bytes(self, x: &[u8]) -> float32x4_t {
        let x = &x[..8];
        unsafe { vreinterpretq_f32_u32(vshll_n_u16::<16>(vreinterpret_u16_u8(vld1_u8(x.as_ptr())))) }
    }
    #[inline(always)]
    fn widen_i8(self, x: &[u8]) -> int32x4_t {
        let four = u32::from_le_bytes([x[0], x[1], x[2], x[3]]);
        unsafe { vmovl_s16(vget_low_s16(vmovl_s8(vcreate_s8(u64::from(four))))) }
    }
    #[inline(always)]
    fn widen_u8(self, x: &[u8]) -> int32x4_t {
        let four = u32::from_le_bytes([x[0], x[1], x[2], x[3]]);
        unsafe { vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(vmovl_u8(vcreate_u8(u64::from(four)))))) }
    }

    #[inline(always)]
    fn add(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        unsafe { vaddq_f32(a, b) }
    }
    #[inline(always)]
    fn sub(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        unsafe { vsubq_f32(a, b) }
    }
    #[inline(always)]
    fn mul(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        unsafe { vmulq_f32(a, b) }
    }
    #[inline(always)]
    fn div(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        unsafe { vdivq_f32(a, b) }
    }
    #[inline(always)]
    fn fma(self, a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t {
        unsafe { vfmaq_f32(c, a, b) }
    }
    #[inline(always)]
    fn fnma(self, a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t {
        unsafe { vfmsq_f32(c, a, b) }
    }
    #[inline(always)]
    fn max(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        unsafe { vbslq_f32(vcgtq_f32(a, b), a, b) }
    }
    #[inline(always)]
    fn round(self, a: float32x4_t) -> float32x4_t {
        unsafe { vrndnq_f32(a) }
    }
    #[inline(always)]
    fn lt(self, a: float32x4_t, b: float32x4_t) -> uint32x4_t {
        unsafe { vcltq_f32(a, b) }
    }
    #[inline(always)]
    fn select(self, mask: uint32x4_t, yes: float32x4_t, no: float32x4_t) -> float32x4_t {
        unsafe { vbslq_f32(mask, yes, no) }
    }
    #[inline(always)]
    fn reduce_max(self, v: float32x4_t) -> f32 {
        unsafe { vmaxvq_f32(v) }
    }
    #[inline(always)]
    fn reduce_add(self, v: float32x4_t) -> f32 {
        unsafe {
            let two = vadd_f32(vget_low_f32(v), vget_high_f32(v));
            vget_lane_f32::<0>(two) + vget_lane_f32::<1>(two)
        }
    }

    #[inline(always)]
    fn splat_i(self, x: i32) -> int32x4_t {
        unsafe { vdupq_n_s32(x) }
    }
    #[inline(always)]
    fn load_i(self, x: &[i32]) -> int32x4_t {
        let x = &x[..4];
        unsafe { vld1q_s32(x.as_ptr()) }
    }
    #[inline(always)]
    fn store_i(self, v: int32x4_t, out: &mut [i32]) {
        let out = &mut out[..4];
        unsafe { vst1q_s32(out.as_mut_ptr(), v) }
    }
    #[inline(always)]
    fn store_low_bytes(self, v: int32x4_t, out: &mut [u8]) {
        let out = &mut out[..4];
        unsafe {
            let halves = vmovn_s32(v);
            let bytes = vreinterpret_u32_s8(vmovn_s16(vcombine_s16(halves, halves)));
            out.copy_from_slice(&vget_lane_u32::<0>(bytes).to_le_bytes());
        }
    }
    #[inline(always)]
    fn add_i(self, a: int32x4_t, b: int32x4_t) -> int32x4_t {
        unsafe { vaddq_s32(a, b) }
    }
    #[inline(always)]
    fn sub_i(self, a: int32x4_t, b: int32x4_t) -> int32x4_t {
        unsafe { vsubq_s32(a, b) }
    }
    #[inline(always)]
    fn max_i(self, a: int32x4_t, b: int32x4_t) -> int32x4_t {
        unsafe { vmaxq_s32(a, b) }
    }
    #[inline(always)]
    fn and(self, a: int32x4_t, b: int32x4_t) -> int32x4_t {
        unsafe { vandq_s32(a, b) }
    }
    #[inline(always)]
    fn or(self, a: int32x4_t, b: int32x4_t) -> int32x4_t {
        unsafe { vorrq_s32(a, b) }
    }
    #[inline(always)]
    fn xor(self, a: int32x4_t, b: int32x4_t) -> int32x4_t {
        unsafe { veorq_s32(a, b) }
    }
    #[inline(always)]
    fn shl<const N: i32>(self, a: int32x4_t) -> int32x4_t {
        unsafe { vshlq_s32(a, vdupq_n_s32(N)) }
    }
    #[inline(always)]
    fn shr<const N: i32>(self, a: int32x4_t) -> int32x4_t {
        unsafe { vreinterpretq_s32_u32(vshlq_u32(vreinterpretq_u32_s32(a), vdupq_n_s32(-N))) }
    }
    #[inline(always)]
    fn sar<const N: i32>(self, a: int32x4_t) -> int32x4_t {
        unsafe { vshlq_s32(a, vdupq_n_s32(-N)) }
    }
    #[inline(always)]
    fn lt_i(self, a: int32x4_t, b: int32x4_t) -> uint32x4_t {
        unsafe { vcltq_s32(a, b) }
    }
    #[inline(always)]
    fn to_f32(self, a: int32x4_t) -> float32x4_t {
        unsafe { vcvtq_f32_s32(a) }
    }
    #[inline(always)]
    fn to_i32(self, a: float32x4_t) -> int32x4_t {
        unsafe { vcvtnq_s32_f32(a) }
    }
    #[inline(always)]
    fn to_bits(self, a: float32x4_t) -> int32x4_t {
        unsafe { vreinterpretq_s32_f32(a) }
    }
    #[inline(always)]
    fn from_bits(self, a: int32x4_t) -> float32x4_t {
        unsafe { vreinterpretq_f32_s32(a) }
    }
    #[inline(always)]
    fn low_f16(self, a: int32x4_t) -> float32x4_t {
        unsafe { widen(vmovn_u32(vreinterpretq_u32_s32(a))) }
    }

    #[inline(always)]
    fn lookup(self, table: &[i8; 16], index: int32x4_t) -> int32x4_t {
        unsafe { vreinterpretq_s32_s8(vqtbl1q_s8(vld1q_s8(table.as_ptr()), vreinterpretq_u8_s32(index))) }
    }

    #[inline(always)]
    fn load_rows<const BYTES: usize>(self, block: Block<'_, BYTES>, at: usize) -> [int32x4_t; 4] {
        let (p, stride) = block.at(at, 16, 4);
        prefetch(block.ahead(at));
        unsafe {
            let a = vreinterpretq_s32_u8(vld1q_u8(p));
            let b = vreinterpretq_s32_u8(vld1q_u8(p.add(stride)));
            let c = vreinterpretq_s32_u8(vld1q_u8(p.add(2 * stride)));
            let d = vreinterpretq_s32_u8(vld1q_u8(p.add(3 * stride)));
            let (ab_even, ab_odd) = (vreinterpretq_s64_s32(vtrn1q_s32(a, b)), vreinterpretq_s64_s32(vtrn2q_s32(a, b)));
            let (cd_even, cd_odd) = (vreinterpretq_s64_s32(vtrn1q_s32(c, d)), vreinterpretq_s64_s32(vtrn2q_s32(c, d)));
            [
                vreinterpretq_s32_s64(vtrn1q_s64(ab_even, cd_even)),
                vreinterpretq_s32_s64(vtrn1q_s64(ab_odd, cd_odd)),
                vreinterpretq_s32_s64(vtrn2q_s64(ab_even, cd_even)),
                vreinterpretq_s32_s64(vtrn2q_s64(ab_odd, cd_odd)),
            ]
        }
    }
    #[inline(always)]
    fn load_words<const BYTES: usize>(self, block: Block<'_, BYTES>, at: usize) -> int32x4_t {
        let (p, stride) = block.at(at, 4, 4);
        unsafe {
            let v = vdupq_n_s32(p.cast::<i32>().read_unaligned());
            let v = vsetq_lane_s32::<1>(p.add(stride).cast::<i32>().read_unaligned(), v);
            let v = vsetq_lane_s32::<2>(p.add(2 * stride).cast::<i32>().read_unaligned(), v);
            vsetq_lane_s32::<3>(p.add(3 * stride).cast::<i32>().read_unaligned(), v)
        }
    }

    const NARROW: bool = false;
    const SIGNED: SignedBytes = SignedBytes::Direct;
    #[inline(always)]
    fn acc_zero(self) -> int32x4_t {
        unsafe { vdupq_n_s32(0) }
    }
    #[inline(always)]
    fn acc_biased(self, bias: i32, less: Less) -> int32x4_t {
        less.splat(self, bias)
    }
    #[inline(always)]
    fn dot(self, acc: int32x4_t, w: int32x4_t, x: int32x4_t) -> int32x4_t {
        unsafe { D::dot(acc, w, x) }
    }
    #[inline(always)]
    fn acc_scaled(self, sum: int32x4_t, acc: int32x4_t, scale: int32x4_t) -> int32x4_t {
        unsafe { vmlaq_s32(sum, acc, scale) }
    }
    #[inline(always)]
    fn acc_sum(self, sum: int32x4_t, acc: int32x4_t) -> int32x4_t {
        unsafe { vaddq_s32(sum, acc) }
    }
    #[inline(always)]
    fn dot_pairs(self, sum: int32x4_t, w: int32x4_t, x: int32x4_t) -> int32x4_t {
        unsafe {
            let (w, x) = (vreinterpretq_s16_s32(w), vreinterpretq_s16_s32(x));
            let low = vmull_s16(vget_low_s16(w), vget_low_s16(x));
            vaddq_s32(sum, vpaddq_s32(low, vmull_high_s16(w, x)))
        }
    }
    #[inline(always)]
    fn even_bytes(self, v: int32x4_t) -> int32x4_t {
        unsafe { vreinterpretq_s32_s16(vshrq_n_s16::<8>(vshlq_n_s16::<8>(vreinterpretq_s16_s32(v)))) }
    }
    #[inline(always)]
    fn odd_bytes(self, v: int32x4_t) -> int32x4_t {
        unsafe { vreinterpretq_s32_s16(vshrq_n_s16::<8>(vreinterpretq_s16_s32(v))) }
    }
    #[inline(always)]
    fn mul_pairs(self, a: int32x4_t, b: int32x4_t) -> int32x4_t {
        unsafe { vreinterpretq_s32_s16(vmulq_s16(vreinterpretq_s16_s32(a), vreinterpretq_s16_s32(b))) }
    }

    #[inline(always)]
    fn with_tile<T: Tiled>(self, tiled: T) {
        tiled.run::<Self, 4, 3, 256>(self);
    }
}
