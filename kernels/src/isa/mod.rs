//! Instruction sets behind one trait: an operation is written once over [`Isa`] and stamped once per level.
//!
//! An [`Isa`] value is a token: it exists only where detection found its instructions, because only [`vectorize`] makes
//! one, from a [`Level`]. An operation is a struct that implements [`Op`]; its `run` and everything it calls must be
//! `#[inline(always)]`, so that the whole body lands in the one function that carries `#[target_feature]`. (Closures do
//! not inherit that, so write loops.)
//!
//! ```text
//! lanes     scalar 8   avx2 8   avxvnni 8   avx512 16   neon 4   neondot 4
//! F         LANES f32                    I   LANES i32, or 4 bytes in each of LANES lanes
//! ```
//!
//! Every method gives the same bits at every level, NaN payloads apart. What the hardware leaves open is settled here:
//! `max(a, b)` is `a > b ? a : b`, sums go over fixed trees, `fma` is always fused.
//!
//! Ideas: pulp and rten-simd (tokens, stamping), Highway (lanes as an unknown constant).
#![allow(unsafe_code)]

#[cfg(target_arch = "aarch64")]
mod neon;
mod rows;
mod scalar;
#[cfg(target_arch = "x86_64")]
mod stream;
mod tiles;
#[cfg(target_arch = "x86_64")]
mod ymm;
#[cfg(target_arch = "x86_64")]
mod zmm;

pub(crate) use rows::{Block, Following, Rows};
pub(crate) use tiles::{Canvas, Tile, fill, fill_groups};

use crate::activations::{Flat, Wide};
use crate::level::Kind;
use crate::{Format, Level};

/// An operation to be stamped for every level.
pub(crate) trait Op {
    /// What it gives back.
    type Output;

    /// The operation; `#[inline(always)]` in every implementation.
    fn run<I: Isa>(self, isa: I) -> Self::Output;
}

/// A part of an operation that is a function of its own; see [`Isa::outline`].
pub(crate) trait Outlined<I: Isa> {
    /// The part; `#[inline(always)]` in every implementation.
    fn run(self, isa: I);
}

/// Lanes of `level`'s vectors.
pub(crate) fn lanes(level: Level) -> usize {
    struct Lanes;
    impl Op for Lanes {
        type Output = usize;
        #[inline(always)]
        fn run<I: Isa>(self, _isa: I) -> usize {
            I::LANES
        }
    }
    vectorize(level, Lanes)
}

/// Runs `op` with the instructions of `level`.
pub(crate) fn vectorize<O: Op>(level: Level, op: O) -> O::Output {
    match level.kind() {
        Kind::Scalar => op.run(scalar::Scalar),
        // SAFETY (all): a `Level` of this kind exists only where detection found every feature that the callee enables.
        #[cfg(target_arch = "x86_64")]
        Kind::Avx2 => unsafe { ymm::run_avx2(op) },
        #[cfg(target_arch = "x86_64")]
        Kind::AvxVnni => unsafe { ymm::run_avxvnni(op) },
        #[cfg(target_arch = "x86_64")]
        Kind::Avx512 => unsafe { zmm::run_avx512(op) },
        #[cfg(target_arch = "aarch64")]
        Kind::Neon => unsafe { neon::run_neon(op) },
        #[cfg(target_arch = "aarch64")]
        Kind::NeonDot => unsafe { neon::run_neondot(op) },
        // Levels of other machines are never detected here.
        #[cfg(not(target_arch = "x86_64"))]
        Kind::Avx2 | Kind::AvxVnni | Kind::Avx512 => op.run(scalar::Scalar),
        #[cfg(not(target_arch = "aarch64"))]
        Kind::Neon | Kind::NeonDot => op.run(scalar::Scalar),
    }
}

/// The activations of one token, whichever of them were made: block i of 256 columns is element `i · stride`.
#[derive(Clone, Copy)]
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))] // nobody else has that shape yet
pub(crate) struct OneToken<'a> {
    pub(crate) wide: &'a [Wide],
    pub(crate) flat: &'a [Flat],
    pub(crate) stride: usize,
}

/// The product of whole `rows` of `row_bytes` in `format` by one token, where `level` has a shape of its own for that:
/// whether it has.
pub(crate) fn by_one_token(level: Level, format: Format, rows: &[u8], row_bytes: usize, x: OneToken, out: &mut [f32]) -> bool {
    match level.kind() {
        // SAFETY (all): a `Level` of these kinds exists only where detection found every feature that the callee enables.
        #[cfg(target_arch = "x86_64")]
        Kind::Avx2 => unsafe { stream::multiply_256(format, rows, row_bytes, x, out) },
        #[cfg(target_arch = "x86_64")]
        Kind::AvxVnni => unsafe { stream::multiply_vnni(format, rows, row_bytes, x, out) },
        #[cfg(target_arch = "x86_64")]
        Kind::Avx512 => unsafe { stream::multiply_512(format, rows, row_bytes, x, out) },
        _ => {
            let _ = (format, rows, row_bytes, x, out);
            false
        }
    }
}

/// An instruction set: vectors of [`Isa::LANES`] 32-bit lanes.
///
/// Slices given to `load*` and `store*` hold at least `LANES` elements (they panic otherwise); the `*_some` forms take
/// any length.
pub(crate) trait Isa: Copy + Send + Sync + 'static {
    /// 32-bit lanes of a vector: 4, 8 or 16.
    const LANES: usize;
    /// `LANES` of f32.
    type F: Copy;
    /// `LANES` of i32, or of four bytes.
    type I: Copy;
    /// A truth value in each lane.
    type M: Copy;
    /// Running byte dot products of each lane, see [`Isa::dot`].
    type Acc: Copy;

    /// Runs `op` as a function of its own, with this instruction set's features: for what is too big to be inlined.
    fn outline<O: Outlined<Self>>(self, op: O);

    // ---- f32: constants, memory

    /// `x` in every lane.
    fn splat(self, x: f32) -> Self::F;
    /// 0 in every lane.
    #[inline(always)]
    fn zero(self) -> Self::F {
        self.splat(0.0)
    }
    /// The first `LANES` elements.
    fn load(self, x: &[f32]) -> Self::F;
    /// The first `min(len, LANES)` elements, zeros in the other lanes.
    #[inline(always)]
    fn load_some(self, x: &[f32]) -> Self::F {
        if x.len() >= Self::LANES {
            return self.load(x);
        }
        let mut whole = [0f32; 16];
        let n = x.len().min(Self::LANES);
        whole[..n].copy_from_slice(&x[..n]);
        self.load(&whole)
    }
    /// Writes the lanes to the first `LANES` elements.
    fn store(self, v: Self::F, out: &mut [f32]);
    /// Writes the first `min(len, LANES)` lanes.
    #[inline(always)]
    fn store_some(self, v: Self::F, out: &mut [f32]) {
        if out.len() >= Self::LANES {
            return self.store(v, out);
        }
        let mut whole = [0f32; 16];
        self.store(v, &mut whole);
        let n = out.len().min(Self::LANES);
        out[..n].copy_from_slice(&whole[..n]);
    }
    /// Asks for the cache line at `p`, which will be wanted soon; any address will do.
    #[inline(always)]
    fn prefetch(self, _p: *const u8) {}
    /// The same for what will be written: the line comes as this core's own, into the first cache.
    #[inline(always)]
    fn prefetch_to_write(self, _p: *const u8) {}
    /// `LANES` halves, widened (exact).
    fn load_f16(self, x: &[u16]) -> Self::F;
    /// Rounds to halves, to nearest, ties to even.
    fn store_f16(self, v: Self::F, out: &mut [u16]);
    /// `LANES` little-endian f32 from a file's bytes.
    fn load_f32_bytes(self, x: &[u8]) -> Self::F;
    /// `LANES` little-endian halves from a file's bytes.
    fn load_f16_bytes(self, x: &[u8]) -> Self::F;
    /// `LANES` little-endian bfloat16 from a file's bytes.
    fn load_bf16_bytes(self, x: &[u8]) -> Self::F;
    /// `LANES` signed bytes.
    fn widen_i8(self, x: &[u8]) -> Self::I;
    /// `LANES` unsigned bytes.
    fn widen_u8(self, x: &[u8]) -> Self::I;

    // ---- f32: arithmetic

    /// `a + b`
    fn add(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a - b`
    fn sub(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a * b`
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a / b`
    fn div(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a * b + c`, rounded once.
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// `c - a * b`, rounded once.
    fn fnma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// `a > b ? a : b`; so `b` where either is NaN.
    fn max(self, a: Self::F, b: Self::F) -> Self::F;
    /// The sign cleared.
    #[inline(always)]
    fn abs(self, a: Self::F) -> Self::F {
        self.from_bits(self.and(self.to_bits(a), self.splat_i(0x7fff_ffff)))
    }
    /// The sign flipped.
    #[inline(always)]
    fn neg(self, a: Self::F) -> Self::F {
        self.from_bits(self.xor(self.to_bits(a), self.splat_i(i32::MIN)))
    }
    /// To the nearest integer, ties to even, as f32.
    fn round(self, a: Self::F) -> Self::F;
    /// `a < b`, false where either is NaN.
    fn lt(self, a: Self::F, b: Self::F) -> Self::M;
    /// `mask ? yes : no`
    fn select(self, mask: Self::M, yes: Self::F, no: Self::F) -> Self::F;
    /// Sum of all lanes by the tree: lane i += lane i + LANES/2, then LANES/4, … 1.
    fn reduce_add(self, v: Self::F) -> f32;
    /// Maximum of all lanes (no lane may be NaN).
    #[inline(always)]
    fn reduce_max(self, v: Self::F) -> f32 {
        let mut lanes = [f32::NEG_INFINITY; 16];
        self.store(v, &mut lanes);
        let mut most = lanes[0];
        for &x in &lanes[1..Self::LANES] {
            most = if x > most { x } else { most };
        }
        most
    }

    // ---- i32

    /// `x` in every lane.
    fn splat_i(self, x: i32) -> Self::I;
    /// 0, 1, 2, … in lane 0, 1, 2, …
    #[inline(always)]
    fn iota(self) -> Self::I {
        self.load_i(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15])
    }
    /// The first `LANES` elements.
    fn load_i(self, x: &[i32]) -> Self::I;
    /// Writes the lanes to the first `LANES` elements.
    fn store_i(self, v: Self::I, out: &mut [i32]);
    /// Writes the low byte of each lane to the first `LANES` elements.
    fn store_low_bytes(self, v: Self::I, out: &mut [u8]);
    /// Wrapping sum.
    fn add_i(self, a: Self::I, b: Self::I) -> Self::I;
    /// Wrapping difference.
    fn sub_i(self, a: Self::I, b: Self::I) -> Self::I;
    /// The larger, signed.
    fn max_i(self, a: Self::I, b: Self::I) -> Self::I;
    /// Bitwise and.
    fn and(self, a: Self::I, b: Self::I) -> Self::I;
    /// Bitwise or.
    fn or(self, a: Self::I, b: Self::I) -> Self::I;
    /// Bitwise exclusive or.
    fn xor(self, a: Self::I, b: Self::I) -> Self::I;
    /// Every lane shifted left by `N` bits (0 ≤ N < 32).
    fn shl<const N: i32>(self, a: Self::I) -> Self::I;
    /// Every lane shifted right by `N` bits, zeros coming in.
    fn shr<const N: i32>(self, a: Self::I) -> Self::I;
    /// Every lane shifted right by `N` bits, the sign coming in.
    fn sar<const N: i32>(self, a: Self::I) -> Self::I;
    /// `a < b`, signed.
    fn lt_i(self, a: Self::I, b: Self::I) -> Self::M;
    /// i32 to f32, rounded to nearest even.
    fn to_f32(self, a: Self::I) -> Self::F;
    /// f32 to i32, rounded to nearest even; for |a| < 2³¹ only.
    fn to_i32(self, a: Self::F) -> Self::I;
    /// The same bits as i32.
    fn to_bits(self, a: Self::F) -> Self::I;
    /// The same bits as f32.
    #[allow(clippy::wrong_self_convention)] // `self` is the token
    fn from_bits(self, a: Self::I) -> Self::F;
    /// The half in the low 16 bits of each lane, widened.
    fn low_f16(self, a: Self::I) -> Self::F;

    /// For every byte of `index` (0 … 15) the byte of `table` there.
    fn lookup(self, table: &[i8; 16], index: Self::I) -> Self::I;

    // ---- rows of blocks and byte dot products

    /// 16 bytes at `at` of each of `LANES` rows, transposed: vector g holds bytes 4g … 4g + 3 of row r in lane r.
    /// Also prefetches the like share of the rows that come next.
    fn load_rows<const BYTES: usize>(self, block: Block<'_, BYTES>, at: usize) -> [Self::I; 4];
    /// 4 bytes at `at` of each row, row r in lane r.
    fn load_words<const BYTES: usize>(self, block: Block<'_, BYTES>, at: usize) -> Self::I;

    /// Whether [`Isa::Acc`] has only 16 bits, so that it must be emptied before it overflows.
    const NARROW: bool;
    /// Whether products by blocks of 32 are unrolled: where a tile leaves registers for their operands.
    const UNROLLED: bool = false;
    /// How products take signed bytes of weights.
    const SIGNED: SignedBytes;
    /// No dot products yet.
    fn acc_zero(self) -> Self::Acc;
    /// The same for codes that are `bias` too large: `-bias · Σ x`. What 16 bits cannot hold on the way cancels out, if the end is
    /// within them.
    fn acc_biased(self, bias: i32, less: Less) -> Self::Acc;
    /// `acc + Σ w·x` over the four bytes of each lane; w is unsigned, at most 63 where it is narrow and at most 127
    /// otherwise (signed or up to 255 where [`Isa::SIGNED`] says so); x signed, at least -127.
    fn dot(self, acc: Self::Acc, w: Self::I, x: Self::I) -> Self::Acc;
    /// `sum + acc · scale`; `scale` comes from [`Isa::scales`].
    fn acc_scaled(self, sum: Self::I, acc: Self::Acc, scale: Self::I) -> Self::I;
    /// Whether [`Isa::short_scaled`] takes less time than [`Isa::acc_scaled`].
    const SHORT: bool = false;
    /// The same where every lane of `acc` fits in 16 bits.
    #[inline(always)]
    fn short_scaled(self, sum: Self::I, acc: Self::Acc, scale: Self::I) -> Self::I {
        self.acc_scaled(sum, acc, scale)
    }
    /// `sum + acc`
    fn acc_sum(self, sum: Self::I, acc: Self::Acc) -> Self::I;
    /// The four signed bytes of each lane, each as [`Isa::acc_scaled`] wants it: widened, where nothing else is said.
    #[inline(always)]
    fn scales(self, v: Self::I) -> [Self::I; 4] {
        widened(self, v)
    }
    /// `sum + w₀·x₀ + w₁·x₁` over the two signed 16-bit halves of each lane.
    fn dot_pairs(self, sum: Self::I, w: Self::I, x: Self::I) -> Self::I;
    /// The even (0, 2) signed bytes of each lane as two 16-bit halves.
    fn even_bytes(self, v: Self::I) -> Self::I;
    /// The odd (1, 3) signed bytes of each lane as two 16-bit halves.
    fn odd_bytes(self, v: Self::I) -> Self::I;
    /// The low 16 bits of the product of both halves of each lane.
    fn mul_pairs(self, a: Self::I, b: Self::I) -> Self::I;

    /// Lifts the register tile that suits this instruction set and many tokens into constants.
    fn with_tile<T: Tiled>(self, tiled: T);
    /// The same for few tokens (up to 8): weights stream through once, so one vector of rows.
    #[inline(always)]
    fn with_narrow_tile<T: Tiled>(self, tiled: T) {
        tiled.run::<Self, 1, 4, 8>(self);
    }
}

/// [`Isa::prefetch_to_write`] of x86. (`_mm_prefetch` cannot ask for it in code for processors of which some lack it; these do nothing.)
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn prefetch_to_write(p: *const u8) {
    // SAFETY: a hint changes nothing that anyone could see.
    unsafe { std::arch::asm!("prefetchw [{p}]", p = in(reg) p, options(readonly, nostack, preserves_flags)) }
}

/// The four signed bytes of each lane, each in the low half of its lane with nothing above it: as a product of pairs wants them, whose
/// other half is not to count.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn low_halves<I: Isa>(isa: I, v: I::I) -> [I::I; 4] {
    let mut halves = widened(isa, v);
    for half in &mut halves {
        *half = isa.and(*half, isa.splat_i(0xffff));
    }
    halves
}

/// The four signed bytes of each lane.
#[inline(always)]
fn widened<I: Isa>(isa: I, v: I::I) -> [I::I; 4] {
    [isa.sar::<24>(isa.shl::<24>(v)), isa.sar::<24>(isa.shl::<16>(v)), isa.sar::<24>(isa.shl::<8>(v)), isa.sar::<24>(v)]
}

/// Σ x times `-unit`, a constant and a power of two, as are the biases; where [`Isa::NARROW`], none is larger.
#[derive(Clone, Copy)]
pub(crate) struct Less {
    pub(crate) unit: i32,
    /// As [`Less::sums`] makes them.
    pub(crate) sums: i32,
}

impl Less {
    /// The sum of activations 0 and 1 of every four and that of 2 and 3, as the instruction set wants them: where its accumulators are narrow,
    /// in the low half and in the high one, else together.
    #[inline(always)]
    pub(crate) fn sums<I: Isa>(unit: i32, first: i32, second: i32) -> i32 {
        match I::NARROW {
            true => ((-unit * first) & 0xffff) | ((-unit * second) << 16),
            false => -unit * (first + second),
        }
    }

    /// `-bias · Σ x`, where they are together.
    #[inline(always)]
    fn splat<I: Isa>(self, isa: I, bias: i32) -> I::I {
        let sums = isa.splat_i(self.sums);
        match bias / self.unit {
            0 => match self.unit / bias {
                8 => isa.sar::<3>(sums),
                16 => isa.sar::<4>(sums),
                _ => isa.splat_i(self.sums / (self.unit / bias)),
            },
            1 => sums,
            many => isa.splat_i(self.sums * many),
        }
    }
}

/// How an instruction set multiplies bytes of weights that are signed.
#[derive(Clone, Copy, PartialEq, Eq)]
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))] // the others take them directly
pub(crate) enum SignedBytes {
    /// [`Isa::dot`] takes them as they are.
    Direct,
    /// [`Isa::dot`] takes them 128 too large.
    Biased,
    /// Widened, by [`Isa::dot_pairs`]: pairs of their products with activations fill 16 bits, so that none can be added to another.
    Widened,
}

/// A computation whose register tile is the instruction set's own; see [`Isa::with_tile`].
pub(crate) trait Tiled {
    /// `R` vectors of rows by `C` tokens in registers, `T` tokens for one unpacking of the weights; `#[inline(always)]`.
    fn run<I: Isa, const R: usize, const C: usize, const T: usize>(self, isa: I);
}

/// 16 partial sums over k mod 16, the canonical order of every float sum: `16 / LANES` vectors, then the tree 8, 4, 2, 1.
#[derive(Clone, Copy)]
pub(crate) struct Sum16<I: Isa> {
    parts: [I::F; 4],
}

impl<I: Isa> Sum16<I> {
    /// Vectors in use.
    pub(crate) const PARTS: usize = 16 / I::LANES;

    /// Zeros.
    #[inline(always)]
    pub(crate) fn new(isa: I) -> Sum16<I> {
        Sum16 { parts: [isa.zero(); 4] }
    }

    /// Fuses `a·b` into partial sums `LANES·part …`.
    #[inline(always)]
    pub(crate) fn fma(&mut self, isa: I, part: usize, a: I::F, b: I::F) {
        self.parts[part] = isa.fma(a, b, self.parts[part]);
    }

    /// Adds `a` to partial sums `LANES·part …`.
    #[inline(always)]
    pub(crate) fn add(&mut self, isa: I, part: usize, a: I::F) {
        self.parts[part] = isa.add(self.parts[part], a);
    }

    /// Takes partial sum i back from `before` where `LANES·part + i >= count`.
    #[inline(always)]
    pub(crate) fn keep(&mut self, isa: I, before: &Sum16<I>, count: usize) {
        for part in 0..Self::PARTS {
            let index = isa.add_i(isa.iota(), isa.splat_i((part * I::LANES) as i32));
            let new = isa.lt_i(index, isa.splat_i(count as i32));
            self.parts[part] = isa.select(new, self.parts[part], before.parts[part]);
        }
    }

    /// The whole sum.
    #[inline(always)]
    pub(crate) fn total(self, isa: I) -> f32 {
        let p = self.parts;
        match Self::PARTS {
            1 => isa.reduce_add(p[0]),
            2 => isa.reduce_add(isa.add(p[0], p[1])),
            _ => isa.reduce_add(isa.add(isa.add(p[0], p[2]), isa.add(p[1], p[3]))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Less;
    use super::scalar::Scalar;

    /// What is taken off is the bias times the sum, for the biases and units there are.
    #[test]
    fn less() {
        for (unit, first, second) in [(32, 1016, -1016), (32, -1016, -1016), (32, 3, 4), (128, 2032, 2032), (128, -2032, 7)] {
            let less = Less { unit, sums: Less::sums::<Scalar>(unit, first, second) };
            for bias in [4, 8, 16, 32, 128] {
                assert_eq!(less.splat(Scalar, bias), [-bias * (first + second); 8], "{unit} {bias} {first} {second}");
            }
        }
    }
}
