//! Rotary position embedding: pairs of channels turned by an angle that grows with the position.
//!
//! J. Su et al., RoFormer, 2021.

use super::{Pairing, piece};
use crate::{Cpu, naive};

/// Rotates the first `rotary` channels of every head of x `[tokens, heads, head_dim]`; cos and sin `[tokens, rotary/2]`.
///
/// # Panics
/// If `rotary` is odd or larger than a head, or lengths do not fit together.
#[allow(clippy::too_many_arguments)]
pub fn rope(cpu: Cpu<'_>, x: &mut [f32], heads: usize, head_dim: usize, rotary: usize, pairing: Pairing, cos: &[f32], sin: &[f32]) {
    let (width, half) = (heads * head_dim, rotary / 2);
    assert!(rotary % 2 == 0 && rotary <= head_dim, "{rotary} channels of {head_dim} to rotate");
    assert!(width > 0 && x.len() % width == 0, "{} values in rows of {width}", x.len());
    let tokens = x.len() / width;
    assert!(cos.len() == tokens * half && sin.len() == cos.len(), "{tokens} tokens, {} cosines, {} sines", cos.len(), sin.len());
    let n = piece(cpu, x.len(), width);
    cpu.parallel_chunks(x, n, &|i, x| {
        let angles = i * n / width * half..(i * n + x.len()) / width * half;
        naive::ops::rope(x, heads, head_dim, rotary, pairing, &cos[angles.clone()], &sin[angles]);
    });
}

/// Cosines and sines of angles, the same bits on every machine (the libm crate's, not the system's).
///
/// # Panics
/// If the lengths differ.
pub fn trig(angles: &[f32], cos: &mut [f32], sin: &mut [f32]) {
    assert!(cos.len() == angles.len() && sin.len() == angles.len(), "angles, cosines and sines of different lengths");
    for (i, angle) in angles.iter().enumerate() {
        (sin[i], cos[i]) = libm::sincosf(*angle);
    }
}
