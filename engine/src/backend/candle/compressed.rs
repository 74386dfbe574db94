//! Attention over a window and the entries behind it, on a candle device: [`crate::block::compressed`]. Which entries an index chooses is
//! a mask, so that the host never learns it.

use super::attention::{mask, one_run};
use super::state::State;
use super::{CandleBackend, Done, MASKED, Seen, Step, together};
use crate::backend::{Attend, Indexed, Pooled};
use crate::cache::Sequence;
use candle_core::{D, DType, Tensor as Array};

/// Columns that are sorted at a time: what fits into the memory that the threads of a GPU share.
const SORTED: usize = 4096;

/// Appends keys to the window and makes the entries that every run completes, then attends over both.
pub(super) fn attend(
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
    use candle_core::Device;

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
