//! Floats as they are: one weight a block.
//!
//! ```text
//! F32   4 bytes  sign 1 | exponent 8 | fraction 23      IEEE 754 binary32
//! F16   2 bytes  sign 1 | exponent 5 | fraction 10      IEEE 754 binary16
//! BF16  2 bytes  sign 1 | exponent 8 | fraction 7       the upper half of a binary32
//! ```
//!
//! All three become f32 exactly; the way back rounds to nearest, ties to even.

use super::Format;
use half::{bf16, f16};

/// Floats of `format` as f32; other formats leave `out` alone.
pub(super) fn dequantize(format: Format, bytes: &[u8], out: &mut [f32]) {
    match format {
        Format::F32 => each(bytes, out, f32::from_le_bytes),
        Format::F16 => each(bytes, out, |b| f16::from_le_bytes(b).to_f32()),
        Format::BF16 => each(bytes, out, |b| bf16::from_le_bytes(b).to_f32()),
        Format::Q4_0 | Format::Q4_1 | Format::Q5_0 | Format::Q5_1 | Format::Q8_0 => {}
        Format::Q2_K | Format::Q3_K | Format::Q4_K | Format::Q5_K | Format::Q6_K => {}
        Format::IQ4_NL | Format::IQ4_XS | Format::MXFP4 | Format::TQ1_0 | Format::TQ2_0 => {}
        Format::IQ3_S | Format::IQ3_XXS | Format::IQ2_S | Format::IQ2_XS | Format::IQ2_XXS | Format::IQ1_S | Format::IQ1_M => {}
    }
}

/// f32 as floats of `format`; other formats leave `out` alone.
pub(super) fn quantize(format: Format, x: &[f32], out: &mut [u8]) {
    match format {
        Format::F32 => put(x, out, f32::to_le_bytes),
        Format::F16 => put(x, out, |x| f16::from_f32(x).to_le_bytes()),
        Format::BF16 => put(x, out, |x| bf16::from_f32(x).to_le_bytes()),
        Format::Q4_0 | Format::Q4_1 | Format::Q5_0 | Format::Q5_1 | Format::Q8_0 => {}
        Format::Q2_K | Format::Q3_K | Format::Q4_K | Format::Q5_K | Format::Q6_K => {}
        Format::IQ4_NL | Format::IQ4_XS | Format::MXFP4 | Format::TQ1_0 | Format::TQ2_0 => {}
        Format::IQ3_S | Format::IQ3_XXS | Format::IQ2_S | Format::IQ2_XS | Format::IQ2_XXS | Format::IQ1_S | Format::IQ1_M => {}
    }
}

fn each<const N: usize>(bytes: &[u8], out: &mut [f32], read: impl Fn([u8; N]) -> f32) {
    let (bytes, _) = bytes.as_chunks::<N>();
    for (y, b) in out.iter_mut().zip(bytes) {
        *y = read(*b);
    }
}

fn put<const N: usize>(x: &[f32], out: &mut [u8], write: impl Fn(f32) -> [u8; N]) {
    let (out, _) = out.as_chunks_mut::<N>();
    for (b, x) in out.iter_mut().zip(x) {
        *b = write(*x);
    }
}
