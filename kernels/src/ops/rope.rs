//! Rotary position embedding: pairs of channels turned by an angle that grows with the position.
//!
//! J. Su et al., RoFormer, 2021.

use super::{CHEAP, Pairing, piece};
use crate::Cpu;
use crate::isa::{Isa, Op, vectorize};

/// Rotates the first `rotary` channels of every head of x `[tokens, heads, head_dim]`; cos and sin `[tokens, rotary/2]`.
///
/// # Panics
/// If `rotary` is odd or larger than a head, or lengths do not fit together.
#[allow(clippy::too_many_arguments)]
pub fn rope(cpu: Cpu<'_>, x: &mut [f32], heads: usize, head_dim: usize, rotary: usize, pairing: Pairing, cos: &[f32], sin: &[f32]) {
    let (width, half) = (heads * head_dim, rotary / 2);
    assert!(rotary.is_multiple_of(2) && rotary <= head_dim, "{rotary} channels of {head_dim} to rotate");
    assert!(width > 0 && x.len().is_multiple_of(width), "{} values in rows of {width}", x.len());
    let tokens = x.len() / width;
    assert!(cos.len() == tokens * half && sin.len() == cos.len(), "{tokens} tokens, {} cosines, {} sines", cos.len(), sin.len());
    if half == 0 {
        return;
    }
    let n = piece(cpu, x.len(), width, CHEAP);
    cpu.parallel_chunks(x, n, &|i, x| {
        let angles = i * n / width * half..(i * n + x.len()) / width * half;
        vectorize(cpu.level, Rope { x, heads, head_dim, pairing, half, cos: &cos[angles.clone()], sin: &sin[angles] });
    });
}

struct Rope<'a> {
    x: &'a mut [f32],
    heads: usize,
    head_dim: usize,
    pairing: Pairing,
    half: usize,
    cos: &'a [f32],
    sin: &'a [f32],
}

impl Op for Rope<'_> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let angles = self.cos.chunks_exact(self.half).zip(self.sin.chunks_exact(self.half));
        for (token, (cos, sin)) in self.x.chunks_exact_mut(self.heads * self.head_dim).zip(angles) {
            for head in token.chunks_exact_mut(self.head_dim) {
                match self.pairing {
                    Pairing::Halves => {
                        let (a, b) = head[..2 * self.half].split_at_mut(self.half);
                        halves(isa, a, b, cos, sin);
                    }
                    Pairing::Adjacent => {
                        for (pair, (cos, sin)) in head.as_chunks_mut::<2>().0.iter_mut().zip(cos.iter().zip(sin)) {
                            let [a, b] = *pair;
                            *pair = [(-b).mul_add(*sin, a * cos), a.mul_add(*sin, b * cos)];
                        }
                    }
                }
            }
        }
    }
}

#[inline(always)]
fn halves<I: Isa>(isa: I, a: &mut [f32], b: &mut [f32], cos: &[f32], sin: &[f32]) {
    let angles = cos.chunks(I::LANES).zip(sin.chunks(I::LANES));
    for ((xa, xb), (cos, sin)) in a.chunks_mut(I::LANES).zip(b.chunks_mut(I::LANES)).zip(angles) {
        let (a, b, cos, sin) = (isa.load_some(xa), isa.load_some(xb), isa.load_some(cos), isa.load_some(sin));
        isa.store_some(isa.fnma(b, sin, isa.mul(a, cos)), xa);
        isa.store_some(isa.fma(a, sin, isa.mul(b, cos)), xb);
    }
}
