//! The Hadamard matrix, n channels at a time, as [`crate::naive::cache::turn`] has it: butterflies over ever longer strides.

use crate::isa::{Isa, Op};

/// Turns every `n` numbers of `x`, n a power of two.
pub(super) struct Turn<'a> {
    pub(super) x: &'a mut [f32],
    pub(super) n: usize,
}

impl Op for Turn<'_> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self, _isa: I) {
        turn(self.x, self.n);
    }
}

/// The same from within an operation. Plain loops: sums and differences of neighbours have no order that an instruction set could
/// change, and compilers make vectors of them.
#[inline(always)]
pub(super) fn turn(x: &mut [f32], n: usize) {
    if n == 1 {
        return;
    }
    let factor = 1.0 / (n as f32).sqrt();
    for x in x.chunks_exact_mut(n) {
        let mut h = 1;
        if n >= 8 {
            for x in x.as_chunks_mut::<8>().0 {
                eight(x);
            }
            h = 8;
        }
        while h < n {
            for pair in x.chunks_exact_mut(2 * h) {
                let (low, high) = pair.split_at_mut(h);
                for (a, b) in low.iter_mut().zip(high) {
                    (*a, *b) = (*a + *b, *a - *b);
                }
            }
            h *= 2;
        }
        for x in x {
            *x *= factor;
        }
    }
}

/// Strides 1, 2 and 4 of eight numbers.
#[inline(always)]
fn eight(x: &mut [f32; 8]) {
    let [a, b, c, d, e, f, g, h] = *x;
    let [a, b, c, d, e, f, g, h] = [a + b, a - b, c + d, c - d, e + f, e - f, g + h, g - h];
    let [a, b, c, d, e, f, g, h] = [a + c, b + d, a - c, b - d, e + g, f + h, e - g, f - h];
    *x = [a + e, b + f, c + g, d + h, a - e, b - f, c - g, d - h];
}
