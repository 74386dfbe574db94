//! Blocks of codes: 8 or 4 bits a number, and a factor for every 32 channels of a position.
//!
//! ```text
//! block of 64 positions: for each group of 32 channels
//!   [64] f16                                      a factor for each position, little-endian
//!   [32 channels][64 positions] codes             across; along: [64 positions][32 channels]
//! q8_0   a code is a byte
//! q4_0   a code is half a byte: of a row of n, byte i holds code i and above it code n/2 + i
//! ```
//! What codes mean is written in [`crate::naive::cache`]. A factor belongs to its position alone, so a block is written position by
//! position, in any order, and what is written again changes nothing beside it.

use super::kind::{GROUP, MOST_TURNED};
use super::shape::BLOCK;
use super::stored::{Keys, Layout, Rows, Stored, fetch};
use super::turn::turn;
use crate::isa::Isa;
use std::marker::PhantomData;
use std::ops::Range;

/// A way to code 32 numbers.
pub(super) trait Code: 'static {
    /// Codes in a byte.
    const PER_BYTE: usize;

    /// The codes, each in a byte of its own, and the bits of the factor.
    fn quantize<I: Isa>(isa: I, x: &[f32; GROUP]) -> ([u8; GROUP], u16);

    /// What a factor in every lane brings.
    fn scale<I: Isa>(isa: I, d: I::F) -> Scale<I>;

    /// `LANES` numbers of a row of `len` codes, from number `at` on; both are multiples of `LANES`.
    fn load<I: Isa>(isa: I, row: &[u8], len: usize, at: usize, scale: Scale<I>) -> I::F;

    /// Writes code `i` of a row of `len`.
    fn put(row: &mut [u8], len: usize, i: usize, code: u8);
}

/// A factor d, and what is added beside it.
#[derive(Clone, Copy)]
pub(super) struct Scale<I: Isa> {
    d: I::F,
    plus: I::F,
}

/// `code · d`, codes within ±127.
pub(super) struct Q8;

/// `code · d - 8·d`, codes from 0 to 15.
pub(super) struct Q4;

/// The half nearest to `d` and its reciprocal, 0 for 0; `None` where it is not finite.
#[inline(always)]
fn factor<I: Isa>(isa: I, d: f32) -> Option<(u16, f32)> {
    let (mut half, mut single) = ([0u16; 16], [0f32; 16]);
    isa.store_f16(isa.splat(d), &mut half);
    isa.store(isa.load_f16(&half), &mut single);
    match half[0] & 0x7c00 {
        0x7c00 => None,
        _ if single[0] == 0.0 => Some((half[0], 0.0)),
        _ => Some((half[0], 1.0 / single[0])),
    }
}

/// `rne(x · inverse)` within `least ..= most`, and `plus`, of all 32.
#[inline(always)]
fn codes<I: Isa>(isa: I, x: &[f32; GROUP], inverse: f32, [least, most]: [f32; 2], plus: i32) -> [u8; GROUP] {
    let mut codes = [0; GROUP];
    for (x, codes) in x.chunks_exact(I::LANES).zip(codes.chunks_exact_mut(I::LANES)) {
        let x = isa.round(isa.mul(isa.load(x), isa.splat(inverse)));
        let x = isa.max(x, isa.splat(least));
        let x = isa.neg(isa.max(isa.neg(x), isa.splat(-most)));
        isa.store_low_bytes(isa.add_i(isa.to_i32(x), isa.splat_i(plus)), codes);
    }
    codes
}

/// The greatest of the numbers without their signs, which one that is not finite is.
#[inline(always)]
fn greatest(x: &[f32; GROUP]) -> f32 {
    let mut most = 0;
    for x in x {
        most = most.max((x.to_bits() & 0x7fff_ffff) as i32);
    }
    f32::from_bits(most as u32)
}

/// The bits of a factor that is none.
const NO_FACTOR: u16 = 0x7e00;

impl Code for Q8 {
    const PER_BYTE: usize = 1;

    #[inline(always)]
    fn quantize<I: Isa>(isa: I, x: &[f32; GROUP]) -> ([u8; GROUP], u16) {
        match factor(isa, greatest(x) / 127.0) {
            None => ([0; GROUP], NO_FACTOR),
            Some((d, inverse)) => (codes(isa, x, inverse, [-127.0, 127.0], 0), d),
        }
    }

    #[inline(always)]
    fn scale<I: Isa>(isa: I, d: I::F) -> Scale<I> {
        Scale { d, plus: isa.zero() }
    }

    #[inline(always)]
    fn load<I: Isa>(isa: I, row: &[u8], _len: usize, at: usize, scale: Scale<I>) -> I::F {
        isa.mul(isa.to_f32(isa.widen_i8(&row[at..])), scale.d)
    }

    #[inline(always)]
    fn put(row: &mut [u8], _len: usize, i: usize, code: u8) {
        row[i] = code;
    }
}

impl Code for Q4 {
    const PER_BYTE: usize = 2;

    #[inline(always)]
    fn quantize<I: Isa>(isa: I, x: &[f32; GROUP]) -> ([u8; GROUP], u16) {
        let (mut least, mut most) = (0f32, 0f32);
        for x in x {
            least = if *x < least { *x } else { least };
            most = if *x > most { *x } else { most };
        }
        let m = if most > -least { most } else { least };
        match factor(isa, m / -8.0).filter(|_| greatest(x) < f32::INFINITY) {
            None => ([8; GROUP], NO_FACTOR),
            Some((d, inverse)) => (codes(isa, x, inverse, [-8.0, 7.0], 8), d),
        }
    }

    #[inline(always)]
    fn scale<I: Isa>(isa: I, d: I::F) -> Scale<I> {
        Scale { d, plus: isa.mul(d, isa.splat(-8.0)) }
    }

    #[inline(always)]
    fn load<I: Isa>(isa: I, row: &[u8], len: usize, at: usize, scale: Scale<I>) -> I::F {
        let codes = if at < len / 2 {
            isa.and(isa.widen_u8(&row[at..]), isa.splat_i(15))
        } else {
            isa.shr::<4>(isa.widen_u8(&row[at - len / 2..]))
        };
        isa.fma(isa.to_f32(codes), scale.d, scale.plus)
    }

    #[inline(always)]
    fn put(row: &mut [u8], len: usize, i: usize, code: u8) {
        let byte = &mut row[i % (len / 2)];
        *byte = if i < len / 2 { *byte & 0xf0 | code } else { *byte & 0x0f | code << 4 };
    }
}

/// Numbers that lie as codes.
pub(super) struct Coded<Q>(PhantomData<Q>);

impl<Q: Code> Coded<Q> {
    /// Bytes of the factors of a group.
    const FACTORS: usize = 2 * BLOCK;
    /// Bytes of a group.
    const GROUP_BYTES: usize = Self::FACTORS + GROUP * BLOCK / Q::PER_BYTE;
    /// Bytes of a channel's codes, across.
    const ACROSS: usize = BLOCK / Q::PER_BYTE;
    /// Bytes of a position's codes, along.
    const ALONG: usize = GROUP / Q::PER_BYTE;

    /// Weighted sums of those of the C vectors that lie in the HALF-th group that they reach into.
    #[inline(always)]
    fn mix_half<I: Isa, const R: usize, const C: usize, const HALF: usize>(isa: I, rows: &Rows<'_, u8, R>, acc: &mut [[I::F; C]; R]) {
        let from = HALF * GROUP / I::LANES;
        let count = (C - from).min(GROUP / I::LANES);
        let at = rows.at + HALF * GROUP;
        let start = at / GROUP * Self::GROUP_BYTES;
        let group = &rows.v[start..][..Self::GROUP_BYTES];
        let (factors, codes) = group.split_at(Self::FACTORS);
        let mut d = [0f32; BLOCK];
        for i in 0..BLOCK / I::LANES {
            isa.store(isa.load_f16_bytes(&factors[2 * i * I::LANES..]), &mut d[i * I::LANES..]);
        }
        // What these vectors take of the group is their share of what comes next, too.
        let share = count * I::LANES * Self::GROUP_BYTES / GROUP;
        let ahead = start + at % GROUP * Self::GROUP_BYTES / GROUP;
        for p in rows.seen.clone() {
            if p % 4 == 0 {
                fetch(isa, rows.ahead, ahead + p * share / BLOCK, share / 16);
            }
            let row = &codes[p * Self::ALONG..][..Self::ALONG];
            let scale = Q::scale(isa, isa.splat(d[p % BLOCK]));
            let mut values = [isa.zero(); C];
            for c in 0..count {
                values[from + c] = Q::load(isa, row, GROUP, at % GROUP + c * I::LANES, scale);
            }
            for r in 0..R {
                let e = isa.splat(rows.e[r][p % BLOCK]);
                for c in 0..count {
                    acc[r][from + c] = isa.fma(e, values[from + c], acc[r][from + c]);
                }
            }
        }
    }
}

impl<Q: Code> Stored for Coded<Q> {
    type Unit = u8;

    const WIDEN: bool = true;

    #[inline(always)]
    fn units(dim: usize) -> usize {
        dim.div_ceil(GROUP) * Self::GROUP_BYTES / BLOCK
    }

    #[inline(always)]
    fn pitch(dim: usize) -> usize {
        dim.next_multiple_of(GROUP)
    }

    #[inline(always)]
    fn score<I: Isa, const R: usize, const C: usize>(isa: I, keys: Keys<'_, u8, R>, acc: &mut [[I::F; C]; R]) {
        let Keys { q, k, ahead, at } = keys;
        let share = C * I::LANES * Self::GROUP_BYTES / BLOCK;
        for (g, (q, group)) in q.chunks(GROUP).zip(k.chunks_exact(Self::GROUP_BYTES)).enumerate() {
            let (factors, codes) = group.split_at(Self::FACTORS);
            let factors = &factors[2 * at..][..2 * C * I::LANES];
            let mut scale = [Q::scale(isa, isa.zero()); C];
            for c in 0..C {
                scale[c] = Q::scale(isa, isa.load_f16_bytes(&factors[2 * c * I::LANES..]));
            }
            let next = g * Self::GROUP_BYTES + at * Self::GROUP_BYTES / BLOCK;
            for (d, (q, row)) in q.iter().zip(codes.chunks_exact(Self::ACROSS)).enumerate() {
                if d % 4 == 0 {
                    fetch(isa, ahead, next + d * share / GROUP, share / 8);
                }
                let mut keys = [isa.zero(); C];
                for c in 0..C {
                    keys[c] = Q::load(isa, row, BLOCK, at + c * I::LANES, scale[c]);
                }
                for r in 0..R {
                    let q = isa.splat(q[r]);
                    for c in 0..C {
                        acc[r][c] = isa.fma(q, keys[c], acc[r][c]);
                    }
                }
            }
        }
    }

    #[inline(always)]
    fn mix<I: Isa, const R: usize, const C: usize>(isa: I, rows: Rows<'_, u8, R>, acc: &mut [[I::F; C]; R]) {
        Self::mix_half::<I, R, C, 0>(isa, &rows, acc);
        if C * I::LANES > GROUP {
            Self::mix_half::<I, R, C, 1>(isa, &rows, acc);
        }
    }

    #[inline(always)]
    fn put<I: Isa>(isa: I, row: &[f32], turned: usize, block: &mut [u8], layout: Layout, p: usize) {
        // Whole groups, and whole runs of what is turned.
        let span = turned.max(GROUP);
        let mut numbers = [0f32; MOST_TURNED];
        let mut groups = block.chunks_exact_mut(Self::GROUP_BYTES);
        for x in row.chunks(span) {
            numbers[..x.len()].copy_from_slice(x);
            numbers[x.len()..].fill(0.0);
            turn(&mut numbers[..x.len()], turned);
            let here = x.len().div_ceil(GROUP);
            for (numbers, group) in numbers.as_chunks::<GROUP>().0[..here].iter().zip(&mut groups) {
                let (codes, d) = Q::quantize(isa, numbers);
                let (factors, rows) = group.split_at_mut(Self::FACTORS);
                factors[2 * p..2 * p + 2].copy_from_slice(&d.to_le_bytes());
                match layout {
                    Layout::Across => {
                        for (row, code) in rows.chunks_exact_mut(Self::ACROSS).zip(codes) {
                            Q::put(row, BLOCK, p, code);
                        }
                    }
                    Layout::Along => {
                        let row = &mut rows[p * Self::ALONG..][..Self::ALONG];
                        for (i, code) in codes.into_iter().enumerate() {
                            Q::put(row, GROUP, i, code);
                        }
                    }
                }
            }
        }
    }

    #[inline(always)]
    fn widen<I: Isa>(isa: I, block: &[u8], dim: usize, layout: Layout, positions: Range<usize>, to: &mut [f32]) {
        let pitch = Self::pitch(dim);
        for (g, group) in block.chunks_exact(Self::GROUP_BYTES).take(dim.div_ceil(GROUP)).enumerate() {
            let (factors, codes) = group.split_at(Self::FACTORS);
            match layout {
                Layout::Across => {
                    let to = to[g * GROUP * BLOCK..].as_chunks_mut::<BLOCK>().0;
                    for at in (0..BLOCK).step_by(I::LANES) {
                        let scale = Q::scale(isa, isa.load_f16_bytes(&factors[2 * at..]));
                        for (to, row) in to[..(dim - g * GROUP).min(GROUP)].iter_mut().zip(codes.chunks_exact(Self::ACROSS)) {
                            isa.store(Q::load(isa, row, BLOCK, at, scale), &mut to[at..]);
                        }
                    }
                }
                Layout::Along => {
                    let mut d = [0f32; BLOCK];
                    for at in (0..BLOCK).step_by(I::LANES) {
                        isa.store(isa.load_f16_bytes(&factors[2 * at..]), &mut d[at..]);
                    }
                    for p in positions.clone() {
                        let scale = Q::scale(isa, isa.splat(d[p % BLOCK]));
                        let (row, to) = (&codes[p * Self::ALONG..][..Self::ALONG], &mut to[p * pitch + g * GROUP..][..GROUP]);
                        for at in (0..GROUP).step_by(I::LANES) {
                            isa.store(Q::load(isa, row, GROUP, at, scale), &mut to[at..]);
                        }
                    }
                }
            }
        }
    }
}
