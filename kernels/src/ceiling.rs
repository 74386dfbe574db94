//! What a machine can do at most, to hold kernels against: read bytes, and multiply them.
//!
//! ```text
//! read       every byte of a stretch, once, in vectors: what products by one token are bounded by
//! multiply   3 × 4 running dot products of bytes in registers, operands in the first cache: what products by many are
//! ```
//! Neither computes anything of use; both return what they found, so that no compiler leaves them out. The caller times them.

use crate::Cpu;
use crate::isa::{self, Isa, Op};
use std::sync::atomic::{AtomicU64, Ordering};

/// How a stretch of bytes is read: some machines are faster with the one, some with the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ahead {
    /// As the machine's own prefetching has it.
    Own,
    /// Each line is asked for a page before it is read.
    Page,
}

/// Bytes of a work item.
const ITEM: usize = 1 << 20;
/// Bytes between two looks ahead: four lines.
const STEP: usize = 256;
/// Steps of a page.
const PAGE: usize = 4096 / STEP;

/// Reads all whole steps of 256 bytes and returns a sum of what they hold.
pub fn read(cpu: Cpu, bytes: &[u8], ahead: Ahead) -> u64 {
    let total = AtomicU64::new(0);
    let items: Vec<&[u8]> = bytes.chunks(ITEM).collect();
    cpu.parallel(items.len(), &|i| {
        let sum = isa::vectorize(cpu.level, Read { bytes: items[i], ahead });
        total.fetch_add(u64::from(sum as u32), Ordering::Relaxed);
    });
    total.into_inner()
}

struct Read<'a> {
    bytes: &'a [u8],
    ahead: Ahead,
}

impl Op for Read<'_> {
    type Output = i32;

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) -> i32 {
        let (steps, _) = self.bytes.as_chunks::<STEP>();
        let mut sums = [isa.splat_i(0); 4];
        for (i, step) in steps.iter().enumerate() {
            if self.ahead == Ahead::Page
                && let Some(later) = steps.get(i + PAGE)
            {
                for line in 0..STEP / 64 {
                    isa.prefetch(later[64 * line..].as_ptr());
                }
            }
            for (at, v) in step.chunks_exact(4 * I::LANES).enumerate() {
                sums[at % 4] = isa.add_i(sums[at % 4], isa.to_bits(isa.load_f32_bytes(v)));
            }
        }
        let mut lanes = [0; 16];
        isa.store_i(isa.add_i(isa.add_i(sums[0], sums[1]), isa.add_i(sums[2], sums[3])), &mut lanes);
        lanes[..I::LANES].iter().fold(0, |sum, lane| sum.wrapping_add(*lane))
    }
}

/// Rounds of one item of [`multiply`].
const ROUNDS: usize = 2048;
/// Vectors of weights, and of activations, in the first cache.
const DEEP: usize = 48;
/// Running sums: weights by tokens.
const SUMS: (usize, usize) = (3, 4);

/// Multiplies bytes and adds them up, an item for each of `items`; returns how many products that was, and what came out.
pub fn multiply(cpu: Cpu, items: usize) -> (u64, u64) {
    let total = AtomicU64::new(0);
    cpu.parallel(items, &|_| {
        total.fetch_add(u64::from(isa::vectorize(cpu.level, Multiply) as u32), Ordering::Relaxed);
    });
    let dots = (items * ROUNDS * DEEP / SUMS.0 * SUMS.0 * SUMS.1) as u64;
    (dots * 4 * isa::lanes(cpu.level) as u64, total.into_inner())
}

struct Multiply;

impl Op for Multiply {
    type Output = i32;

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) -> i32 {
        let weights: [I::I; DEEP] = std::hint::black_box([isa.splat_i(0x0101_0001); DEEP]);
        let activations: [[i32; SUMS.1]; DEEP] = std::hint::black_box([[0x0001_0100; SUMS.1]; DEEP]);
        let mut total = isa.splat_i(0);
        for _ in 0..ROUNDS {
            let mut sums = [[isa.acc_zero(); SUMS.0]; SUMS.1];
            for (w, x) in weights.chunks_exact(SUMS.0).zip(&activations) {
                for t in 0..SUMS.1 {
                    let x = isa.splat_i(x[t]);
                    for r in 0..SUMS.0 {
                        sums[t][r] = isa.dot(sums[t][r], w[r], x);
                    }
                }
            }
            for acc in sums.as_flattened() {
                total = isa.acc_sum(total, *acc);
            }
        }
        let mut lanes = [0; 16];
        isa.store_i(total, &mut lanes);
        lanes[0]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Level, Pool};

    #[test]
    fn all_bytes_are_read_at_every_level() {
        let words: Vec<u8> = (0..3 * ITEM / 4 + 64).flat_map(|i: usize| (i as u32).to_le_bytes()).collect();
        let pool = Pool::new(2);
        let whole = |item: &[u8]| {
            let words = item.as_chunks::<4>().0.iter().map(|w| u32::from_le_bytes(*w));
            u64::from(words.fold(0u32, u32::wrapping_add))
        };
        let want: u64 = words.chunks(ITEM).map(whole).sum();
        for level in Level::available() {
            for ahead in [Ahead::Own, Ahead::Page] {
                assert_eq!(read(Cpu::new(level, &pool), &words, ahead), want, "{level} {ahead:?}");
            }
        }
    }

    #[test]
    fn products_are_made_at_every_level() {
        let pool = Pool::new(2);
        for level in Level::available() {
            let (products, found) = multiply(Cpu::new(level, &pool), 2);
            // A product in each lane is 1, for each of 12 sums.
            let each = (ROUNDS * DEEP / SUMS.0 * SUMS.0 * SUMS.1) as u64;
            assert_eq!((products, found), (2 * each * 4 * isa::lanes(level) as u64, 2 * each), "{level}");
        }
    }
}
