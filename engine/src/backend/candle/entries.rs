//! Entries that stand for several positions each, on a candle device.
//!
//! What they are is written in [`crate::block::compressed`]. The values and scores of the last positions lie in a store with a window of
//! as many positions as an entry is made of, the entries in one without.

use super::attention::KeyValue;
use super::{Angles, CandleBackend, Done, MASKED, Run, normalised, rotated};
use crate::backend::{Pooling, Window};
use crate::cache::KvType;
use crate::error::Result;
use candle_core::{Device, Tensor as Array};
use candle_nn::ops::softmax;
use std::ops::Range;

/// Entries of one kind.
pub struct Entries {
    /// Values and scores `[1, room, halves · dim]` of the positions that the next entry may be made of.
    rows: KeyValue,
    /// The entries, `[1, capacity / ratio + 1, dim]`.
    pub(super) made: KeyValue,
}

impl Entries {
    /// Room for the entries of `capacity` positions, made of at most `batch` positions at a time.
    pub(super) fn new(
        (dim, kind): (usize, KvType),
        (ratio, halves): (usize, usize),
        capacity: usize,
        batch: usize,
        device: &Device,
    ) -> Result<Entries> {
        let row = (halves * dim, KvType::F32);
        let rows = KeyValue::within(1, capacity, row, Some(row), (Window::Sliding(halves * ratio), batch), device)?;
        let made = KeyValue::within(1, capacity / ratio + 1, (dim, kind), None, (Window::None, batch), device)?;
        Ok(Entries { rows, made })
    }

    /// Both stores.
    pub(super) fn stores(&self) -> [&KeyValue; 2] {
        [&self.rows, &self.made]
    }

    /// A second one with the same content.
    pub(super) fn copy(&self) -> Result<Entries> {
        Ok(Entries { rows: self.rows.copy()?, made: self.made.copy()? })
    }

    /// Takes a run's values and scores, and makes the entries that it completes.
    pub(super) fn push(&mut self, run: Run, values: &Array, scores: &Array, pooling: &Pooling<CandleBackend>) -> Done {
        self.rows.make_room(run)?;
        self.rows.append(run, values, Some(scores))?;
        let (first, end) = (run.position / pooling.ratio, (run.position + run.tokens) / pooling.ratio);
        if first == end {
            return Ok(());
        }
        let made = self.blended(first..end, pooling)?;
        self.made.append(Run { first: 0, tokens: end - first, position: first, ..run }, &made, None)
    }

    /// These entries `[entries, dim]`: each channel a softmax over the positions of an entry, and of the one before it where there are two halves.
    fn blended(&self, entries: Range<usize>, pooling: &Pooling<CandleBackend>) -> Done<Array> {
        let Pooling { ratio, halves, .. } = *pooling;
        let count = entries.len();
        let first = (entries.start + 1).saturating_sub(halves);
        let positions = first * ratio..entries.end * ratio;
        let values = self.rows.keys(&positions)?;
        let width = values.dim(2)?;
        let dim = width / halves;
        let scores = self.rows.values(&positions, &values, width)?.reshape(((), ratio, width))?;
        let scores = scores.broadcast_add(&pooling.places.reshape((1, ratio, width))?)?;
        // [entries, halves · ratio, dim]: the first half of the entry before, of which there is none before the first, and the last of its own.
        let part = |rows: &Array, none: f64| {
            let rows = rows.reshape(((), ratio, width))?;
            let own = rows.narrow(0, entries.start - first, count)?.narrow(2, width - dim, dim)?;
            if halves == 1 {
                return Ok(own);
            }
            let before = rows.narrow(0, 0, entries.end - 1 - first)?.narrow(2, 0, dim)?;
            let before = match entries.start {
                0 => Array::cat(&[Array::full(none as f32, (1, ratio, dim), rows.device())?, before], 0)?,
                _ => before,
            };
            Array::cat(&[before, own], 1)
        };
        let shares = softmax(&part(&scores, MASKED)?, 1)?;
        let blended = shares.mul(&part(&values, 0.0)?)?.sum(1)?;
        turned(&normalised(&blended, &pooling.norm)?, entries, pooling)
    }
}

/// Entries `[entries, dim]`, their last channels turned as those of the first position of each.
fn turned(x: &Array, entries: Range<usize>, pooling: &Pooling<CandleBackend>) -> Done<Array> {
    let (mut cos, mut sin, rotary) = (Vec::new(), Vec::new(), pooling.rope.rotary());
    pooling.rope.angles(entries.clone().map(|entry| (entry * pooling.ratio) as u32), &mut cos, &mut sin);
    let angles = |values| Array::from_vec(values, (entries.len(), 1, rotary / 2), x.device());
    let angles = Angles { cos: angles(cos)?, sin: angles(sin)?, pairing: pooling.rope.pairing };
    let still = x.dim(1)? - rotary;
    let last = rotated(&x.narrow(1, still, rotary)?.contiguous()?, rotary, &angles)?;
    Array::cat(&[&x.narrow(1, 0, still)?, &last], 1)
}
