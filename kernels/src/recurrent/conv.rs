//! Causal convolution over a few positions, each channel by itself.
//!
//! ```text
//! past  x₋₃ x₋₂ x₋₁ | x₀ x₁ x₂ …        some channels keep their last inputs at hand and walk down the tokens
//! taps   w₀  w₁  w₂   w₃
//! ```

use super::{FEW, Lane, State, starts};
use crate::Cpu;
use crate::isa::{Isa, Op, vectorize};
use crate::ops::{Activation, DEAR, math};
use crate::pool::{Disjoint, Tile};
use smallvec::SmallVec;
use std::ops::Range;

/// Most taps of a convolution.
pub const MOST_TAPS: usize = 4;

/// One convolution.
#[derive(Clone, Copy, Debug)]
pub struct Conv<'a> {
    /// `[taps, channels]`, oldest first.
    pub weight: &'a [f32],
    /// `[channels]`.
    pub bias: Option<&'a [f32]>,
    /// What becomes of the sum: silu, or nothing.
    pub activation: Activation,
    /// Its first channel among those that the states remember.
    pub first: usize,
    /// Its channels.
    pub channels: usize,
}

impl Conv<'_> {
    /// Its own inputs among those that `state` remembers, in strips of so many channels.
    fn past<'s>(&self, state: &'s mut State, past: usize, strip: usize) -> Disjoint<'s, f32> {
        assert!(state.size.past == past && self.first + self.channels <= state.size.channels, "states of different shapes");
        Disjoint::new(&mut state.past[self.first * past..][..self.channels * past], self.channels, strip)
    }
}

/// Convolves x `[tokens, channels]` in place, the lanes' tokens one after the other.
///
/// # Panics
/// If lengths do not fit together, or taps or activation are none of those above.
pub fn conv(cpu: Cpu<'_>, conv: &Conv<'_>, x: &mut [f32], lanes: &mut [Lane<'_>]) {
    let Some(past) = lanes.first().map(|lane| lane.state.size.past) else { return };
    let channels = conv.channels;
    let (starts, tokens) = starts(lanes);
    assert!((1..MOST_TAPS).contains(&past) && conv.weight.len() == (past + 1) * channels, "{} taps of {channels}", conv.weight.len());
    assert!(conv.bias.is_none_or(|bias| bias.len() == channels) && x.len() == tokens * channels, "{tokens} tokens, {} values", x.len());
    assert!(matches!(conv.activation, Activation::Silu | Activation::Identity), "{:?} of a convolution", conv.activation);
    let longest = lanes.iter().map(|lane| lane.tokens).max().unwrap_or(0);
    let strip = (DEAR / longest.max(1)).next_multiple_of(16).clamp(64, 1024);
    let rows = Disjoint::new(x, channels, strip);
    let lanes: SmallVec<[_; FEW]> = lanes
        .iter_mut()
        .zip(starts)
        .map(|(lane, start)| {
            let marks: Vec<_> = lane.marks.iter_mut().map(|(after, kept)| (start + *after, conv.past(kept, past, strip))).collect();
            (start..start + lane.tokens, conv.past(lane.state, past, strip), marks)
        })
        .collect();
    cpu.parallel(lanes.len() * rows.panels(), &|i| {
        let (strip_index, (tokens, past, marks)) = (i % rows.panels(), &lanes[i / rows.panels()]);
        let mut past = past.take(0..past.rows(), strip_index);
        let walk = |tokens: Range<usize>, past: &mut Tile<'_, f32>| {
            let x = rows.take(tokens, strip_index);
            vectorize(cpu.level, Strip { conv, x, past, at: strip_index * strip });
        };
        let mut from = tokens.start;
        for (mark, kept) in marks {
            walk(from..*mark, &mut past);
            let mut kept = kept.take(0..kept.rows(), strip_index);
            (0..past.rows()).for_each(|i| kept.row(i).copy_from_slice(past.row(i)));
            from = *mark;
        }
        walk(from..tokens.end, &mut past);
    });
}

/// Some neighbouring channels of one lane.
struct Strip<'a, 'p> {
    conv: &'a Conv<'a>,
    x: Tile<'a, f32>,
    past: &'a mut Tile<'p, f32>,
    at: usize,
}

impl Op for Strip<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        match self.past.rows() {
            1 => self.walk::<I, 1>(isa),
            2 => self.walk::<I, 2>(isa),
            _ => self.walk::<I, 3>(isa),
        }
    }
}

/// Channels that walk down the tokens together: whole cache lines, as tokens lie far apart.
const TOGETHER: usize = 64;

/// How many tokens ahead lines are asked for.
const AHEAD: usize = 4;

impl Strip<'_, '_> {
    #[inline(always)]
    fn walk<I: Isa, const PAST: usize>(mut self, isa: I) {
        let (width, conv) = (self.x.width(), self.conv);
        for from in (0..width).step_by(TOGETHER) {
            let count = TOGETHER.min(width - from);
            let channel = self.at + from;
            let (mut taps, mut bias, mut past) = ([[0f32; TOGETHER]; MOST_TAPS], [0f32; TOGETHER], [[0f32; TOGETHER]; PAST]);
            for i in 0..=PAST {
                taps[i][..count].copy_from_slice(&conv.weight[i * conv.channels + channel..][..count]);
            }
            if let Some(from) = conv.bias {
                bias[..count].copy_from_slice(&from[channel..][..count]);
            }
            for i in 0..PAST {
                past[i][..count].copy_from_slice(&self.past.row(i)[from..][..count]);
            }
            for t in 0..self.x.rows() {
                let next = self.x.row((t + AHEAD).min(self.x.rows() - 1))[from..].as_ptr();
                for line in 0..TOGETHER / 16 {
                    isa.prefetch(next.wrapping_add(line * 16).cast());
                }
                let row = &mut self.x.row(t)[from..][..count];
                for c in (0..count).step_by(I::LANES) {
                    let (x, mut sum) = (isa.load_some(&row[c..]), isa.load(&bias[c..]));
                    let mut before = [isa.zero(); PAST];
                    for i in 0..PAST {
                        before[i] = isa.load(&past[i][c..]);
                        sum = isa.fma(isa.load(&taps[i][c..]), before[i], sum);
                    }
                    sum = isa.fma(isa.load(&taps[PAST][c..]), x, sum);
                    for i in 1..PAST {
                        isa.store(before[i], &mut past[i - 1][c..]);
                    }
                    isa.store(x, &mut past[PAST - 1][c..]);
                    let y = if conv.activation == Activation::Silu { math::times_sigmoid(isa, sum, sum) } else { sum };
                    isa.store_some(y, &mut row[c..]);
                }
            }
            for i in 0..PAST {
                self.past.row(i)[from..][..count].copy_from_slice(&past[i][..count]);
            }
        }
    }
}
