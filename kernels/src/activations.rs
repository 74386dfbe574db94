//! Activations as products read them: 256 codes, and beside them every sum of codes that some format has need of.
//!
//! ```text
//! Wide    q 4 × 64 | Σ16 × -16 | pairs of Σ32 | d | most | Σ16, halved | pairs of Σ16     one scale for 256: K formats
//! Flat    q 4 × 64 | d × 8     | Σ32, halved  | Σ32                                        one scale for 32
//! ```
//! [`crate::matmul::Inputs`] makes them; a format with biases, minima or unsigned codes takes what it gives back from the sums.

use crate::isa::Isa;

/// 256 activations with one scale. The order is that of use: what K formats without biases want beside the codes lies on one line.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Wide {
    /// Four codes a word, as they are broadcast.
    pub(crate) q: [[u8; 4]; 64],
    /// Sums of 16, in their order, times -16: half of what codes that are 32 too large have to give back.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))] // one shape of x86 has need of it
    pub(crate) minus16: [i16; 16],
    /// Sums of 32 as pairs of i16, as [`Wide::pairs16`].
    pub(crate) pairs32: [i32; 4],
    pub(crate) d: f32,
    /// The largest sum of 16 without their signs: no sum of 16 products by codes of at most c, whatever their signs, is beyond c times this.
    pub(crate) most16: i32,
    /// The largest sum of those of one sign among 32: the same of 32 products by codes from 0 to c.
    pub(crate) most32: i32,
    /// Sums of 16, in their order, as [`Less::sums`](crate::isa::Less::sums) of [`Wide::UNIT`].
    pub(crate) less16: [i32; 16],
    /// Sums of 16 as pairs of i16: (4i, 4i + 2), (4i + 1, 4i + 3), as `even_bytes` and `odd_bytes` deliver scales.
    pub(crate) pairs16: [i32; 8],
}

/// Eight times 32 activations with a scale each.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Flat {
    pub(crate) q: [[u8; 4]; 64],
    pub(crate) d: [f32; 8],
    /// The sums, as [`Less::sums`](crate::isa::Less::sums) of [`Flat::unit`].
    pub(crate) less: [i32; 8],
    pub(crate) sums: [i32; 8],
}

impl Wide {
    /// Zeros.
    pub(crate) const NONE: Wide =
        Wide { q: [[0; 4]; 64], minus16: [0; 16], pairs32: [0; 4], d: 0.0, most16: 0, most32: 0, less16: [0; 16], pairs16: [0; 8] };
    /// What [`Wide::less16`] is a multiple of: 32 · 16 · 127 / 2 is the most that a half holds.
    pub(crate) const UNIT: i32 = 32;
}

impl Flat {
    /// Zeros.
    pub(crate) const NONE: Flat = Flat { q: [[0; 4]; 64], d: [0.0; 8], less: [0; 8], sums: [0; 8] };
    /// What [`Flat::less`] is a multiple of: likewise 16, where halves hold it; else what signed bytes are too large by, as these come most.
    #[inline(always)]
    pub(crate) const fn unit<I: Isa>() -> i32 {
        if I::NARROW { 16 } else { 128 }
    }
}
