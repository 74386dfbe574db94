//! [`super`] for the K formats and IQ4_XS: 256 weights a block, one scale of the activations for each.
//!
//! ```text
//! blocks of a work item, row after row     [0][1][2][3] [4][5][6][7] …      four a step; exact, so none waits for another
//! f of the four, one step later            parked [row][block] …            by then their sums have arrived
//! chains, lanes are rows                   acc = fma(f, dx, acc)            blocks ascending
//! ```
//! An out-of-order core sees two or three blocks at once. What takes long (the tree of a block's sums, the chain of its row, the
//! scales out of a header) therefore runs beside the products of other blocks. Blocks are read in the file's order, no more
//! than four headers ahead of it, or the hardware's own reading ahead falls out of step.

use super::sums::{self, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K};
use super::{Width, ask_for, chains, codes, halves, load16, load32, pair_up, pairs_to_fours};
use crate::activations::Wide;
use crate::isa::OneToken;
use std::arch::x86_64::*;

/// Blocks whose f are parked at most: eight of the longest rows.
const PARKED: usize = 2048;

/// Blocks whose f are parked where rows are short: few, so that they stay in the first cache while weights stream through it.
const SOON: usize = 128;

/// Different fours of activations' blocks that a row can begin with: one for each of its own fours, or more where the next
/// row begins within a four.
const FOURS: usize = 64;

/// Rows of the format whose blocks have `BYTES`: whether they are short enough to be parked.
///
/// # Safety
/// This and what it calls is inlined into a function that enables what `W` needs, and so AVX2, FMA and F16C.
#[inline(always)]
pub(super) unsafe fn multiply<W: Width, const BYTES: usize>(rows: &[u8], row_bytes: usize, x: OneToken, out: &mut [f32]) -> bool {
    let n = row_bytes / BYTES;
    // n over its greatest common divisor with 4.
    let fours = n >> n.trailing_zeros().min(2);
    if n == 0 || n > PARKED / 8 || fours > FOURS {
        return false;
    }
    let block = |i: usize| &x.wide[i % n * x.stride];
    // SAFETY: AVX2 is here.
    let four = |i: usize| unsafe { Four::new([block(4 * i), block(4 * i + 1), block(4 * i + 2), block(4 * i + 3)]) };
    let mut each = [four(0); FOURS];
    for (i, place) in each[..fours].iter_mut().enumerate().skip(1) {
        *place = four(i);
    }
    let together = (SOON / n).next_multiple_of(8).max(8);
    // Few rows are long, and clearing for all of them what those need would show.
    let (mut few, mut many);
    let parked: &mut [[f32; 4]] = if n <= PARKED / 64 {
        few = [[0f32; 4]; 1 + PARKED / 32];
        &mut few
    } else {
        many = [[0f32; 4]; 1 + PARKED / 4];
        &mut many
    };
    for (rows, out) in rows.chunks(together * row_bytes).zip(out.chunks_mut(together)) {
        // SAFETY: as here.
        unsafe {
            park::<W, BYTES>(rows.as_chunks().0, &each[..fours], parked);
            chains(parked[1..].as_flattened(), n, |block| x.wide[block * x.stride].d, out);
        }
    }
    true
}

/// f of all blocks, four a place, from place 1 on: the first step ends nothing. They meet the fours in `x`, again and again.
///
/// # Safety
/// As [`multiply`].
#[inline(always)]
unsafe fn park<W: Width, const BYTES: usize>(blocks: &[[u8; BYTES]], x: &[Four], parked: &mut [[f32; 4]]) {
    let (fours, rest) = blocks.as_chunks::<4>();
    let mut last = [[0; BYTES]; 4];
    last[..rest.len()].copy_from_slice(rest);
    let four = |i: usize| fours.get(i).unwrap_or(&last);
    let (mut at, steps) = (0, blocks.len().div_ceil(4));
    // SAFETY: as here.
    unsafe {
        let (mut headers, mut waiting) = (Headers::of(four(0)), Waiting::nothing());
        for (i, place) in parked[..steps].iter_mut().enumerate() {
            *place = match BYTES {
                Q4_K | Q5_K => with_mins::<W, BYTES>([four(i), four(i + 1)], &x[at], &mut headers, &mut waiting),
                _ => at_once::<W, BYTES>(four(i), &x[at], &mut waiting),
            };
            at = if at + 1 == x.len() { 0 } else { at + 1 };
        }
        parked[steps] = waiting.f::<BYTES>(waiting.s());
    }
}

/// Four blocks of activations.
#[derive(Clone, Copy)]
struct Four<'a> {
    x: [&'a Wide; 4],
    /// Sums of 32 in pairs, (0, 2) of blocks 0 and 1, then (4, 6) of both; in the upper lane of blocks 2 and 3.
    even: __m256i,
    /// The same of (1, 3) and (5, 7).
    odd: __m256i,
}

impl<'a> Four<'a> {
    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    fn new(x: [&'a Wide; 4]) -> Four<'a> {
        let (x02, x13) = (_mm256_set_m128i(pairs32(x[2]), pairs32(x[0])), _mm256_set_m128i(pairs32(x[3]), pairs32(x[1])));
        let (low, high) = (_mm256_unpacklo_epi32(x02, x13), _mm256_unpackhi_epi32(x02, x13));
        Four { x, even: _mm256_unpacklo_epi64(low, high), odd: _mm256_unpackhi_epi64(low, high) }
    }
}

/// Four blocks whose f is not made yet.
struct Waiting {
    /// Partial sums of S of blocks 0 and 1, and of 2 and 3, as [`pair_up`] leaves them.
    s: [__m256i; 2],
    /// d of the four, and dmin.
    d: [__m128; 2],
    n: __m128,
}

impl Waiting {
    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    fn nothing() -> Waiting {
        Waiting { s: [_mm256_setzero_si256(); 2], d: [_mm_setzero_ps(); 2], n: _mm_setzero_ps() }
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    fn s(&self) -> __m256i {
        pairs_to_fours(self.s)
    }

    /// f of the four, whose partial sums are in both lanes of `s`.
    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    fn f<const BYTES: usize>(&self, s: __m256i) -> [f32; 4] {
        let s = _mm_add_epi32(_mm256_castsi256_si128(s), _mm256_extracti128_si256::<1>(s));
        let f = _mm_mul_ps(self.d[0], _mm_cvtepi32_ps(s));
        super::floats4(match BYTES {
            Q2_K | Q4_K | Q5_K => _mm_fnmadd_ps(self.d[1], self.n, f),
            _ => f,
        })
    }
}

/// The scales of four blocks, each twice as 16 bits, to be broadcast from here: an instruction of memory's ports, which
/// have time, where a shuffle would be one more of arithmetic's, which have not.
#[repr(C, align(64))]
struct Scales([[i32; 8]; 4]);

impl Scales {
    /// `scales`: the lower lane has those of 0 … 3 of blocks 0 and 1, then 4 … 7 of both; the upper one of blocks 2 and 3.
    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    fn set(&mut self, scales: __m256i) {
        for (i, place) in self.0.iter_mut().enumerate() {
            // Bytes 4i … 4i + 3, each twice, with nothing above it.
            let lane = 0x8003_8003_8002_8002_8001_8001_8000_8000 | (0x0004_0004_0004_0004_0004_0004_0004_0004 * i as u128);
            let words = [lane as i64, (lane >> 64) as i64];
            let which = _mm256_setr_epi64x(words[0], words[1], words[0], words[1]);
            let scales = _mm256_shuffle_epi8(scales, which);
            // SAFETY: 32 bytes, aligned. Volatile, or the compiler keeps them in registers and shuffles after all.
            unsafe { std::ptr::from_mut(place).cast::<__m256i>().write_volatile(scales) }
        }
    }

    /// Those of block `block`, 0 … 3 and 4 … 7.
    #[inline(always)]
    fn of(&self, block: usize) -> [&[i32; 4]; 2] {
        let four = |i: usize| &self.0[block % 2 + 2 * i].as_chunks().0[block / 2];
        [four(0), four(1)]
    }
}

/// The headers of four blocks of Q4_K or Q5_K: d dmin a b c, four bytes each but the first two.
struct Headers {
    /// Of blocks 0 and 1 in the lower lane, of 2 and 3 in the upper one: d and dmin of both, a of both.
    dm_a: __m256i,
    /// b of both, c of both.
    b_c: __m256i,
    /// Of this four and of the next one: what is written is not there to be read at once.
    scales: [Scales; 2],
    now: usize,
}

impl Headers {
    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    fn of<const BYTES: usize>(blocks: &[[u8; BYTES]; 4]) -> Headers {
        let nothing = _mm256_setzero_si256();
        let mut headers = Headers { dm_a: nothing, b_c: nothing, scales: [Scales([[0; 8]; 4]), Scales([[0; 8]; 4])], now: 1 };
        (headers.dm_a, headers.b_c) = headers.read(blocks);
        headers.now = 0;
        headers
    }

    /// Reads those of the next four, and cuts their scales.
    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    fn read<const BYTES: usize>(&mut self, blocks: &[[u8; BYTES]; 4]) -> (__m256i, __m256i) {
        let (h02, h13) = (headers(blocks, 0), headers(blocks, 1));
        let (dm_a, b_c) = (_mm256_unpacklo_epi32(h02, h13), _mm256_unpackhi_epi32(h02, h13));
        let low = _mm256_and_si256(b_c, _mm256_set1_epi8(15));
        self.scales[1 - self.now].set(six_bits(_mm256_unpackhi_epi64(dm_a, dm_a), low));
        (dm_a, b_c)
    }

    /// N of the four.
    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    fn n(&self, x: &Four) -> __m128 {
        let low = _mm256_and_si256(_mm256_srli_epi16::<4>(self.b_c), _mm256_set1_epi8(15));
        let mins = six_bits(_mm256_unpacklo_epi64(self.b_c, self.b_c), low);
        let even = _mm256_madd_epi16(_mm256_and_si256(mins, _mm256_set1_epi16(0xff)), x.even);
        let odd = _mm256_madd_epi16(_mm256_srli_epi16::<8>(mins), x.odd);
        let n = _mm256_add_epi32(even, odd);
        let n = _mm256_add_epi32(n, _mm256_shuffle_epi32::<0b01_00_11_10>(n));
        _mm_cvtepi32_ps(_mm256_castsi256_si128(_mm256_permute4x64_epi64::<0b10_00>(n)))
    }

    /// d of the four, and dmin.
    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    fn d(&self) -> [__m128; 2] {
        let dm = _mm256_castsi256_si128(_mm256_permute4x64_epi64::<0b10_00>(self.dm_a));
        let dm = _mm256_cvtph_ps(_mm_shuffle_epi8(dm, _mm_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15)));
        [_mm256_castps256_ps128(dm), _mm256_extractf128_ps::<1>(dm)]
    }
}

/// Takes in four blocks of Q4_K or Q5_K, looks at the next four, and gives f of those before.
///
/// # Safety
/// As [`multiply`].
#[inline(always)]
unsafe fn with_mins<W: Width, const BYTES: usize>(
    [blocks, next]: [&[[u8; BYTES]; 4]; 2],
    x: &Four,
    headers: &mut Headers,
    waiting: &mut Waiting,
) -> [f32; 4] {
    // SAFETY: as here.
    unsafe {
        let scales = |which: usize| headers.scales[headers.now].of(which);
        ask_for(blocks.as_ptr().cast(), 0..BYTES);
        let s0 = scaled::<W, BYTES>(&blocks[0], x.x[0], scales(0));
        let s = waiting.s();
        ask_for(blocks.as_ptr().cast(), BYTES..2 * BYTES);
        let s1 = scaled::<W, BYTES>(&blocks[1], x.x[1], scales(1));
        let f = waiting.f::<BYTES>(s);
        waiting.s[0] = pair_up(s0, s1);
        let read = headers.read(next);
        let scales = |which: usize| headers.scales[headers.now].of(which);
        ask_for(blocks.as_ptr().cast(), 2 * BYTES..3 * BYTES);
        let s2 = scaled::<W, BYTES>(&blocks[2], x.x[2], scales(2));
        (waiting.n, waiting.d) = (headers.n(x), headers.d());
        ask_for(blocks.as_ptr().cast(), 3 * BYTES..4 * BYTES);
        let s3 = scaled::<W, BYTES>(&blocks[3], x.x[3], scales(3));
        waiting.s[1] = pair_up(s2, s3);
        (headers.dm_a, headers.b_c) = read;
        headers.now = 1 - headers.now;
        f
    }
}

/// The first 16 bytes of blocks `first` and `first` + 2.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn headers<const BYTES: usize>(blocks: &[[u8; BYTES]; 4], first: usize) -> __m256i {
    _mm256_set_m128i(load16(&blocks[first + 2], 0), load16(&blocks[first], 0))
}

/// Eight times 6 bits of each of two blocks a lane, their numbers 0 … 3 first. `whole` has these in its lower six bits, and
/// the upper two of numbers 4 … 7 above; `low` has the lower four of numbers 4 … 7 in its upper half.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn six_bits(whole: __m256i, low: __m256i) -> __m256i {
    let (six, two) = (0x3f3f_3f3f_3f3f_3f3f, 0x3030_3030_3030_3030);
    let whole = _mm256_srlv_epi64(whole, _mm256_setr_epi64x(0, 2, 0, 2));
    let whole = _mm256_and_si256(whole, _mm256_setr_epi64x(six, two, six, two));
    _mm256_or_si256(whole, _mm256_and_si256(low, _mm256_setr_epi64x(0, -1, 0, -1)))
}

/// Partial sums of S of one block of Q4_K or Q5_K, whose scales are 0 … 3 and 4 … 7, each twice as 16 bits.
///
/// # Safety
/// As [`multiply`].
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
unsafe fn scaled<W: Width, const BYTES: usize>(block: &[u8; BYTES], x: &Wide, scales: [&[i32; 4]; 2]) -> __m256i {
    let q = codes(&x.q);
    let scale = |group: usize| _mm256_set1_epi32(scales[group / 4][group % 4]);
    let low = _mm256_set1_epi8(15);
    let (mut sum, mut other) = (_mm256_setzero_si256(), _mm256_setzero_si256());
    for j in 0..4 {
        let w = load32(block, BYTES - 128 + 32 * j);
        let (mut a, mut b) = (_mm256_and_si256(w, low), _mm256_and_si256(_mm256_srli_epi16::<4>(w), low));
        if BYTES == Q5_K {
            (a, b) = (_mm256_or_si256(a, fifth_bits(block, 2 * j)), _mm256_or_si256(b, fifth_bits(block, 2 * j + 1)));
        }
        // SAFETY (both): as here. Two sums, as each step of one waits for the last.
        sum = unsafe { W::plus(sum, _mm256_maddubs_epi16(a, load32(q, 64 * j)), scale(2 * j)) };
        other = unsafe { W::plus(other, _mm256_maddubs_epi16(b, load32(q, 64 * j + 32)), scale(2 * j + 1)) };
    }
    _mm256_add_epi32(sum, other)
}

/// Bit `which` of 32 bytes of Q5_K, as 16 or nothing.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn fifth_bits<const BYTES: usize>(block: &[u8; BYTES], which: usize) -> __m256i {
    let bits = load32(block, 16);
    let moved = if which <= 4 {
        _mm256_sll_epi16(bits, _mm_cvtsi32_si128(4 - which as i32))
    } else {
        _mm256_srl_epi16(bits, _mm_cvtsi32_si128(which as i32 - 4))
    };
    _mm256_and_si256(moved, _mm256_set1_epi8(16))
}

/// Takes in four blocks that need no look ahead, and gives f of those before.
///
/// # Safety
/// As [`multiply`].
#[inline(always)]
unsafe fn at_once<W: Width, const BYTES: usize>(blocks: &[[u8; BYTES]; 4], x: &Four, waiting: &mut Waiting) -> [f32; 4] {
    // SAFETY: as here.
    unsafe {
        ask_for(blocks.as_ptr().cast(), 0..BYTES);
        let s0 = W::sum(&blocks[0], x.x[0]);
        let s = waiting.s();
        ask_for(blocks.as_ptr().cast(), BYTES..2 * BYTES);
        let s1 = W::sum(&blocks[1], x.x[1]);
        let f = waiting.f::<BYTES>(s);
        waiting.s[0] = pair_up(s0, s1);
        ask_for(blocks.as_ptr().cast(), 2 * BYTES..3 * BYTES);
        let s2 = W::sum(&blocks[2], x.x[2]);
        let d = |at: usize| halves([&blocks[0], &blocks[1], &blocks[2], &blocks[3]], at);
        waiting.d[0] = d(match BYTES {
            Q2_K => 80,
            Q3_K => 108,
            Q6_K => 208,
            _ => 0,
        });
        if BYTES == Q2_K {
            (waiting.n, waiting.d[1]) = (sums::q2_k_mins(blocks, x.x), d(82));
        }
        ask_for(blocks.as_ptr().cast(), 3 * BYTES..4 * BYTES);
        let s3 = W::sum(&blocks[3], x.x[3]);
        waiting.s[1] = pair_up(s2, s3);
        f
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn pairs32(x: &Wide) -> __m128i {
    // SAFETY: 4 words.
    unsafe { _mm_loadu_si128(x.pairs32.as_ptr().cast()) }
}
