//! No vector instructions at all: eight lanes as arrays. The level that every other one must equal; what would be large is
//! not inlined, as nobody waits for it but compilers.

use super::{Block, Isa, Less, Outlined, SignedBytes, Tiled};
use half::{bf16, f16};
use std::array::from_fn;

/// The token; every machine has this level.
#[derive(Clone, Copy)]
pub(crate) struct Scalar;

type F = [f32; 8];
type I = [i32; 8];

fn bytes(v: i32) -> [u8; 4] {
    v.to_le_bytes()
}

fn halves(v: i32) -> [i32; 2] {
    [i32::from(v as i16), v >> 16]
}

impl Isa for Scalar {
    const LANES: usize = 8;
    type F = F;
    type I = I;
    type M = [bool; 8];
    type Acc = I;

    fn outline<O: Outlined<Self>>(self, op: O) {
        op.run(self);
    }

    #[inline(always)]
    fn splat(self, x: f32) -> F {
        [x; 8]
    }
    #[inline(always)]
    fn load(self, x: &[f32]) -> F {
        from_fn(|i| x[i])
    }
    #[inline(always)]
    fn store(self, v: F, out: &mut [f32]) {
        out[..8].copy_from_slice(&v);
    }
    #[inline(always)]
    fn load_f16(self, x: &[u16]) -> F {
        from_fn(|i| f16::from_bits(x[i]).to_f32())
    }
    #[inline(always)]
    fn store_f16(self, v: F, out: &mut [u16]) {
        for (out, v) in out[..8].iter_mut().zip(v) {
            *out = f16::from_f32(v).to_bits();
        }
    }
    #[inline(always)]
    fn load_f32_bytes(self, x: &[u8]) -> F {
        from_fn(|i| f32::from_le_bytes([x[4 * i], x[4 * i + 1], x[4 * i + 2], x[4 * i + 3]]))
    }
    #[inline(always)]
    fn load_f16_bytes(self, x: &[u8]) -> F {
        from_fn(|i| f16::from_le_bytes([x[2 * i], x[2 * i + 1]]).to_f32())
    }
    #[inline(always)]
    fn load_bf16_bytes(self, x: &[u8]) -> F {
        from_fn(|i| bf16::from_le_bytes([x[2 * i], x[2 * i + 1]]).to_f32())
    }
    #[inline(always)]
    fn widen_i8(self, x: &[u8]) -> I {
        from_fn(|i| i32::from(x[i] as i8))
    }
    #[inline(always)]
    fn widen_u8(self, x: &[u8]) -> I {
        from_fn(|i| i32::from(x[i]))
    }

    #[inline(always)]
    fn add(self, a: F, b: F) -> F {
        from_fn(|i| a[i] + b[i])
    }
    #[inline(always)]
    fn sub(self, a: F, b: F) -> F {
        from_fn(|i| a[i] - b[i])
    }
    #[inline(always)]
    fn mul(self, a: F, b: F) -> F {
        from_fn(|i| a[i] * b[i])
    }
    #[inline(always)]
    fn div(self, a: F, b: F) -> F {
        from_fn(|i| a[i] / b[i])
    }
    #[inline(always)]
    fn fma(self, a: F, b: F, c: F) -> F {
        from_fn(|i| a[i].mul_add(b[i], c[i]))
    }
    #[inline(always)]
    fn fnma(self, a: F, b: F, c: F) -> F {
        from_fn(|i| (-a[i]).mul_add(b[i], c[i]))
    }
    #[inline(always)]
    fn max(self, a: F, b: F) -> F {
        from_fn(|i| if a[i] > b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    fn round(self, a: F) -> F {
        a.map(f32::round_ties_even)
    }
    #[inline(always)]
    fn lt(self, a: F, b: F) -> [bool; 8] {
        from_fn(|i| a[i] < b[i])
    }
    #[inline(always)]
    fn select(self, mask: [bool; 8], yes: F, no: F) -> F {
        from_fn(|i| if mask[i] { yes[i] } else { no[i] })
    }
    #[inline(always)]
    fn reduce_add(self, v: F) -> f32 {
        let four: [f32; 4] = from_fn(|i| v[i] + v[i + 4]);
        (four[0] + four[2]) + (four[1] + four[3])
    }

    #[inline(always)]
    fn splat_i(self, x: i32) -> I {
        [x; 8]
    }
    #[inline(always)]
    fn load_i(self, x: &[i32]) -> I {
        from_fn(|i| x[i])
    }
    #[inline(always)]
    fn store_i(self, v: I, out: &mut [i32]) {
        out[..8].copy_from_slice(&v);
    }
    #[inline(always)]
    fn store_low_bytes(self, v: I, out: &mut [u8]) {
        for (out, v) in out[..8].iter_mut().zip(v) {
            *out = v as u8;
        }
    }
    #[inline(always)]
    fn add_i(self, a: I, b: I) -> I {
        from_fn(|i| a[i].wrapping_add(b[i]))
    }
    #[inline(always)]
    fn sub_i(self, a: I, b: I) -> I {
        from_fn(|i| a[i].wrapping_sub(b[i]))
    }
    #[inline(always)]
    fn max_i(self, a: I, b: I) -> I {
        from_fn(|i| a[i].max(b[i]))
    }
    #[inline(always)]
    fn and(self, a: I, b: I) -> I {
        from_fn(|i| a[i] & b[i])
    }
    #[inline(always)]
    fn or(self, a: I, b: I) -> I {
        from_fn(|i| a[i] | b[i])
    }
    #[inline(always)]
    fn xor(self, a: I, b: I) -> I {
        from_fn(|i| a[i] ^ b[i])
    }
    #[inline(always)]
    fn shl<const N: i32>(self, a: I) -> I {
        a.map(|a| a << N)
    }
    #[inline(always)]
    fn shr<const N: i32>(self, a: I) -> I {
        a.map(|a| ((a as u32) >> N) as i32)
    }
    #[inline(always)]
    fn sar<const N: i32>(self, a: I) -> I {
        a.map(|a| a >> N)
    }
    #[inline(always)]
    fn lt_i(self, a: I, b: I) -> [bool; 8] {
        from_fn(|i| a[i] < b[i])
    }
    #[inline(always)]
    fn to_f32(self, a: I) -> F {
        a.map(|a| a as f32)
    }
    #[inline(always)]
    fn to_i32(self, a: F) -> I {
        a.map(|a| a.round_ties_even() as i32)
    }
    #[inline(always)]
    fn to_bits(self, a: F) -> I {
        a.map(|a| a.to_bits() as i32)
    }
    #[inline(always)]
    fn from_bits(self, a: I) -> F {
        a.map(|a| f32::from_bits(a as u32))
    }
    #[inline(always)]
    fn low_f16(self, a: I) -> F {
        a.map(|a| f16::from_bits(a as u16).to_f32())
    }

    #[inline(always)]
    fn lookup(self, table: &[i8; 16], index: I) -> I {
        index.map(|index| i32::from_le_bytes(bytes(index).map(|at| table[usize::from(at & 15)] as u8)))
    }

    #[inline(never)]
    fn load_rows<const BYTES: usize>(self, block: Block<'_, BYTES>, at: usize) -> [I; 4] {
        from_fn(|g| self.load_words(block, at + 4 * g))
    }
    #[inline(always)]
    fn load_words<const BYTES: usize>(self, block: Block<'_, BYTES>, at: usize) -> I {
        block.words(at)
    }

    const NARROW: bool = false;
    const SIGNED: SignedBytes = SignedBytes::Direct;
    #[inline(always)]
    fn acc_zero(self) -> I {
        [0; 8]
    }
    #[inline(always)]
    fn acc_biased(self, bias: i32, less: Less) -> I {
        less.splat(self, bias)
    }
    #[inline(never)]
    fn dot(self, sum: I, w: I, x: I) -> I {
        from_fn(|i| {
            let (w, x) = (bytes(w[i]), bytes(x[i]));
            let product = |b: usize| i32::from(w[b] as i8) * i32::from(x[b] as i8);
            sum[i] + product(0) + product(1) + product(2) + product(3)
        })
    }
    #[inline(always)]
    fn acc_scaled(self, sum: I, acc: I, scale: I) -> I {
        from_fn(|i| sum[i] + acc[i] * scale[i])
    }
    #[inline(always)]
    fn acc_sum(self, sum: I, acc: I) -> I {
        self.add_i(sum, acc)
    }
    #[inline(always)]
    fn dot_pairs(self, sum: I, w: I, x: I) -> I {
        from_fn(|i| {
            let (w, x) = (halves(w[i]), halves(x[i]));
            sum[i] + w[0] * x[0] + w[1] * x[1]
        })
    }
    #[inline(always)]
    fn even_bytes(self, v: I) -> I {
        v.map(|v| (i32::from(v as i8) & 0xffff) | (i32::from((v >> 16) as i8) << 16))
    }
    #[inline(always)]
    fn odd_bytes(self, v: I) -> I {
        self.even_bytes(v.map(|v| v >> 8))
    }
    #[inline(always)]
    fn mul_pairs(self, a: I, b: I) -> I {
        from_fn(|i| {
            let (a, b) = (halves(a[i]), halves(b[i]));
            ((a[0] * b[0]) & 0xffff) | ((a[1] * b[1]) << 16)
        })
    }

    #[inline(always)]
    fn with_tile<T: Tiled>(self, tiled: T) {
        tiled.run::<Self, 1, 1, 64>(self);
    }
    #[inline(always)]
    fn with_narrow_tile<T: Tiled>(self, tiled: T) {
        tiled.run::<Self, 1, 1, 8>(self);
    }
}
