//! Keys and values on a candle device, and attention over them.
//!
//! Keys lie as `[kv_heads, capacity, key_dim]`, values as `[kv_heads, capacity, value_dim]`, so that what a head has seen is one
//! piece. Scores are computed in f32 whatever the cache holds; query heads that share a head of the cache are rows of one product.

use super::{CandleBackend, Done, MASKED, Run, Step, capped, refused};
use crate::backend::{Attend, Qkv};
use crate::cache::{KvType, LayerState, Rewind, Sequence, StateSpec};
use crate::error::Result;
use candle_core::{DType, Device, Tensor as Array};
use candle_nn::ops::softmax_last_dim;

/// Keys and values of one layer and sequence.
pub struct State {
    k: Array,
    v: Array,
}

/// The type of a cache's numbers.
fn kind(kv: KvType) -> DType {
    match kv {
        KvType::F16 => DType::F16,
        KvType::F32 => DType::F32,
    }
}

impl State {
    /// Room for `capacity` positions.
    pub(super) fn new(spec: &StateSpec, capacity: usize, device: &Device) -> Result<State> {
        match *spec {
            StateSpec::KeyValue { heads, key_dim, value_dim, k, v } => {
                let room = |kv, dim| Array::zeros((heads, capacity, dim), kind(kv), device).map_err(|e| refused("KV cache", e));
                Ok(State { k: room(k, key_dim)?, v: room(v, value_dim)? })
            }
        }
    }
}

impl LayerState for State {
    fn rewind(&self) -> Rewind {
        Rewind::Free
    }

    fn copy(&self, _: usize) -> Result<State> {
        let copy = |array: &Array| array.copy().map_err(|e| refused("KV cache", e));
        Ok(State { k: copy(&self.k)?, v: copy(&self.v)? })
    }

    fn bytes(&self) -> u64 {
        let bytes = |array: &Array| (array.elem_count() * array.dtype().size_in_bytes()) as u64;
        bytes(&self.k) + bytes(&self.v)
    }
}

/// Appends keys and values of every run, then attends.
pub(super) fn attend(
    step: &mut Step,
    attend: &Attend,
    qkv: Qkv<'_, CandleBackend>,
    sequences: &mut [&mut Sequence<CandleBackend>],
    slot: usize,
    device: &Device,
) -> Done<Array> {
    let (q, k, v) = (qkv.q.get()?, qkv.k.get()?, qkv.v.get()?);
    let mut outs = Vec::with_capacity(step.runs.len());
    for index in 0..step.runs.len() {
        let run = step.runs[index];
        let state = &sequences[run.sequence].states[slot];
        append(&state.k, k, run)?;
        append(&state.v, v, run)?;
        // Positions that a window hides from the whole run are left out.
        let first = attend.window.map_or(0, |window| (run.position + 1).saturating_sub(window));
        let seen = run.position + run.tokens - first;
        let mask = if run.tokens == 1 { None } else { Some(mask(step, index, attend.window, first, device)?) };
        outs.push(one_run(attend, &q.narrow(0, run.first, run.tokens)?, state, (first, seen), mask.as_ref())?);
    }
    match outs.as_slice() {
        [one] => Ok(one.clone()),
        many => Array::cat(many, 0),
    }
}

/// Writes a run's rows of x `[tokens, kv_heads · dim]` behind what the store holds.
fn append(store: &Array, x: &Array, run: Run) -> Done {
    let (heads, _, dim) = store.dims3()?;
    let rows = x.narrow(0, run.first, run.tokens)?.reshape((run.tokens, heads, dim))?;
    let rows = rows.transpose(0, 1)?.contiguous()?.to_dtype(store.dtype())?;
    store.slice_set(&rows, 1, run.position)
}

/// Queries `[tokens, heads · key_dim]` over positions `first .. first + seen`: `[tokens, heads · value_dim]`.
fn one_run(attend: &Attend, q: &Array, state: &State, (first, seen): (usize, usize), mask: Option<&Array>) -> Done<Array> {
    let tokens = q.dim(0)?;
    let (kv_heads, _, key_dim) = state.k.dims3()?;
    let value_dim = state.v.dim(2)?;
    let group = attend.heads / kv_heads;
    let q = q.affine(f64::from(attend.scale), 0.0)?.reshape((tokens, kv_heads, group, key_dim))?;
    let q = q.permute((1, 2, 0, 3))?.contiguous()?.reshape((kv_heads, group * tokens, key_dim))?;
    let k = state.k.narrow(1, first, seen)?.to_dtype(DType::F32)?;
    let v = state.v.narrow(1, first, seen)?.to_dtype(DType::F32)?;
    let mut scores = q.matmul(&k.t()?)?;
    if let Some(cap) = attend.softcap {
        scores = capped(&scores, cap)?;
    }
    if let Some(mask) = mask {
        scores = scores.reshape((kv_heads * group, tokens, seen))?.broadcast_add(mask)?.reshape((kv_heads, group * tokens, seen))?;
    }
    let mixed = softmax_last_dim(&scores)?.matmul(&v)?.reshape((kv_heads, group, tokens, value_dim))?;
    mixed.permute((2, 0, 1, 3))?.reshape((tokens, attend.heads * value_dim))
}

/// `[tokens, seen]`: 0 where a query of run `index` sees the position, [`MASKED`] where not. The layers of a step share it.
fn mask(step: &mut Step, index: usize, window: Option<usize>, first: usize, device: &Device) -> Done<Array> {
    if let Some((_, mask)) = step.masks.iter().find(|(key, _)| *key == (index, window)) {
        return Ok(mask.clone());
    }
    let Run { tokens, position, .. } = step.runs[index];
    let end = position + tokens;
    let queries = Array::arange(position as f32, end as f32, device)?.unsqueeze(1)?;
    let keys = Array::arange(first as f32, end as f32, device)?.unsqueeze(0)?;
    let mut seen = keys.broadcast_le(&queries)?.to_dtype(DType::F32)?;
    if let Some(window) = window {
        let recent = queries.broadcast_sub(&keys)?.lt(window as f64)?.to_dtype(DType::F32)?;
        seen = seen.mul(&recent)?;
    }
    let mask = seen.affine(-MASKED, MASKED)?;
    step.masks.push(((index, window), mask.clone()));
    Ok(mask)
}
