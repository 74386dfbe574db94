//! Entries that stand for several positions each, on a candle device, and attention over a window and the entries behind it.
//!
//! What they are is written in [`crate::block::compressed`]. The values and scores of the last positions lie in a store with a window of
//! as many positions as an entry is made of, the entries in one without. Which entries an index chooses is a mask, so that
//! the host never learns it.

use super::attention::{KeyValue, mask, one_run};
use super::state::State;
use super::{Angles, CandleBackend, Done, MASKED, Run, Seen, Step, normalised, rotated, together};
use crate::backend::{Attend, Indexed, Pooled, Pooling, Window};
use crate::cache::{KvType, Sequence};
use crate::error::Result;
use candle_core::{D, DType, Device, Tensor as Array};
use candle_nn::ops::softmax;
use std::ops::Range;

/// Columns that are sorted at a time: what fits into the memory that the threads of a GPU share.
const SORTED: usize = 4096;

/// Entries of one kind.
pub struct Entries {
    /// Values and scores `[1, room, halves · dim]` of the positions that the next entry may be made of.
    rows: KeyValue,
    /// The entries, `[1, capacity / ratio + 1, dim]`.
    made: KeyValue,
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
    fn push(&mut self, run: Run, values: &Array, scores: &Array, pooling: &Pooling<CandleBackend>) -> Done {
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

/// Appends keys to the window and makes the entries that every run completes, then attends over both.
pub(super) fn attend_entries(
    step: &mut Step,
    attend: &Attend<CandleBackend>,
    (q, k): (&Array, &Array),
    pooled: &Pooled<'_, CandleBackend>,
    sequences: &mut [&mut Sequence<State>],
    slot: usize,
) -> Done<Array> {
    let mut outs = Vec::with_capacity(step.runs.len());
    for index in 0..step.runs.len() {
        let run = step.runs[index];
        let State::Compressed(window, entries) = &mut sequences[run.sequence].states[slot] else {
            return Err(candle_core::Error::Msg("the slot of compressed attention holds another state".into()));
        };
        let rows = |x: &Array| x.narrow(0, run.first, run.tokens);
        window.make_room(run)?;
        window.append(run, k, None)?;
        let seen = attend.window.first(run.position)..run.position + run.tokens;
        let mut keys = window.keys(&seen)?;
        let mut masks = mask(step, index, Seen::Window(attend.window), q.device())?;
        let made = 0..seen.end / pooled.pooling.ratio;
        entries[0].push(run, pooled.values.get()?, pooled.scores.get()?, pooled.pooling)?;
        if let (Some(by), Some(own)) = (&pooled.index, entries.get_mut(1)) {
            own.push(run, by.values.get()?, by.scores.get()?, by.pooling)?;
        }
        if !made.is_empty() {
            let mut open = mask(step, index, Seen::Entries(pooled.pooling.ratio), q.device())?;
            if let (Some(by), Some(own)) = (pooled.index.as_ref().filter(|by| made.len() > by.most), entries.get(1)) {
                open = chosen(&rows(by.q.get()?)?, &rows(by.weights.get()?)?, by, &own.made.keys(&made)?, &open)?;
            }
            keys = Array::cat(&[keys, entries[0].made.keys(&made)?], 1)?;
            masks = Array::cat(&[masks, open], 1)?;
        }
        outs.push(one_run(attend, &rows(q)?, &keys, &keys, Some(&masks))?);
    }
    together(&outs)
}

/// `open` `[tokens, entries]` without the entries that an index does not choose: `by.most` have the greatest
/// `Σ weight[h] · relu(q[h] · k)`.
fn chosen(q: &Array, weights: &Array, by: &Indexed<'_, CandleBackend>, keys: &Array, open: &Array) -> Done<Array> {
    let (tokens, entries) = (q.dim(0)?, keys.dim(1)?);
    let scores = q.reshape((tokens * by.heads, ()))?.matmul(&keys.squeeze(0)?.t()?)?.relu()?;
    let scores = weights.unsqueeze(1)?.contiguous()?.matmul(&scores.reshape((tokens, by.heads, entries))?)?.squeeze(1)?;
    let best = best(&(scores + open)?, by.most, SORTED)?;
    let ones = Array::ones((tokens, by.most), DType::F32, q.device())?;
    open + open.zeros_like()?.scatter_add(&best, &ones, 1)?.affine(-MASKED, MASKED)?
}

/// Columns of the `most` greatest scores of each row, no more than `at_once` sorted together.
fn best(scores: &Array, most: usize, at_once: usize) -> Done<Array> {
    let columns = scores.dim(D::Minus1)?;
    if columns <= at_once.max(2 * most) {
        return scores.arg_sort_last_dim(false)?.narrow(D::Minus1, 0, most)?.contiguous();
    }
    // The best of all are among the best of each part.
    let mut ids = Vec::new();
    for first in (0..columns).step_by(at_once.max(2 * most)) {
        let part = scores.narrow(D::Minus1, first, at_once.max(2 * most).min(columns - first))?.contiguous()?;
        let kept = most.min(part.dim(D::Minus1)?);
        let places = part.arg_sort_last_dim(false)?.narrow(D::Minus1, 0, kept)?;
        ids.push(places.broadcast_add(&Array::new(first as u32, scores.device())?)?);
    }
    let ids = Array::cat(&ids, D::Minus1)?;
    let among = best(&scores.gather(&ids, D::Minus1)?, most, at_once)?;
    ids.gather(&among, D::Minus1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_of_many_columns_are_those_of_one_sort() -> Done {
        // 7 and 200 have no common factor: every score is another one.
        let scores: Vec<f32> = (0..400).map(|i| (i * 7 % 200) as f32 + if i < 200 { 0.0 } else { 0.5 }).collect();
        let scores = Array::from_vec(scores, (2, 200), &Device::Cpu)?;
        for most in [1, 3, 10] {
            let want = best(&scores, most, 200)?.to_vec2::<u32>()?;
            assert_eq!(want[0].len(), most);
            for at_once in [20, 64, 199] {
                assert_eq!(best(&scores, most, at_once)?.to_vec2::<u32>()?, want, "{most} of 200 by {at_once}");
            }
        }
        Ok(())
    }
}
