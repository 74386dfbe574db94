//! Causal convolution over a few positions, each channel by itself.
//!
//! ```text
//! past  x₋₃ x₋₂ x₋₁ | x₀ x₁ x₂ …        a vector of channels keeps its last inputs in registers and walks down the tokens
//! taps   w₀  w₁  w₂   w₃
//! ```

use super::{Lane, State, starts};
use crate::Cpu;
use crate::isa::{Isa, Op, vectorize};
use crate::ops::{Activation, DEAR, math};
use crate::pool::{Disjoint, Tile};
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
    let lanes: Vec<_> = lanes
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

impl Strip<'_, '_> {
    #[inline(always)]
    fn tap<I: Isa>(&self, isa: I, i: usize, channels: Range<usize>) -> I::F {
        isa.load_some(&self.conv.weight[i * self.conv.channels..][channels])
    }

    #[inline(always)]
    fn walk<I: Isa, const PAST: usize>(mut self, isa: I) {
        let width = self.x.width();
        let mut from = 0;
        while from < width {
            let channel = self.at + from..self.at + width;
            let now = self.tap(isa, PAST, channel.clone());
            let bias = match self.conv.bias {
                Some(bias) => isa.load_some(&bias[channel.clone()]),
                None => isa.zero(),
            };
            let (mut taps, mut past) = ([isa.zero(); PAST], [isa.zero(); PAST]);
            for i in 0..PAST {
                taps[i] = self.tap(isa, i, channel.clone());
                past[i] = isa.load_some(&self.past.row(i)[from..]);
            }
            for t in 0..self.x.rows() {
                let row = &mut self.x.row(t)[from..];
                let (x, mut sum) = (isa.load_some(row), bias);
                for i in 0..PAST {
                    sum = isa.fma(taps[i], past[i], sum);
                }
                sum = isa.fma(now, x, sum);
                for i in 1..PAST {
                    past[i - 1] = past[i];
                }
                past[PAST - 1] = x;
                let y = if self.conv.activation == Activation::Silu { math::times_sigmoid(isa, sum, sum) } else { sum };
                isa.store_some(y, row);
            }
            for i in 0..PAST {
                isa.store_some(past[i], &mut self.past.row(i)[from..]);
            }
            from += I::LANES;
        }
    }
}
