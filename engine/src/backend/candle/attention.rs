//! Keys and values on a candle device, and attention over them.
//!
//! Keys lie as `[kv_heads, room, key_dim]`, values as `[kv_heads, room, value_dim]`, so that what a head has seen is one
//! piece. A layer that looks back through a window has room for that and some steps: when it is full, what is still seen moves to
//! the front. Scores are computed in f32 whatever the cache holds; query heads that share a head of the cache are rows of one product.

use super::{CandleBackend, Done, MASKED, Run, Seen, State, Step, Tensor, capped, refused, together};
use crate::backend::{Attend, Qkv, Window};
use crate::cache::{KvType, Rewind, Sequence};
use crate::error::{Error, Fault, Result};
use candle_core::{D, DType, Device, Tensor as Array};
use candle_nn::ops::softmax_last_dim;
use std::ops::Range;

/// Keys and values of one layer and sequence.
pub struct KeyValue {
    k: Array,
    /// `None` where values are the first channels of the keys.
    v: Option<Array>,
    /// The position that lies first.
    start: usize,
    window: Window,
}

/// The type of a cache's numbers.
fn kind(kv: KvType) -> Result<DType> {
    match kv {
        KvType::F32 => Ok(DType::F32),
        KvType::F16 => Ok(DType::F16),
        KvType::Bf16 => Ok(DType::BF16),
        KvType::Q8_0 | KvType::Q4_0 => {
            let fault = Fault::at("KV cache").expected("f32, f16 or bf16").found(kv);
            Err(Error::Unsupported(fault.help("compute on the CPU, whose caches may be quantized")))
        }
    }
}

impl KeyValue {
    /// Room for as many of `capacity` positions as the window and steps of `batch` tokens need.
    pub(super) fn within(
        heads: usize,
        capacity: usize,
        keys: (usize, KvType),
        values: Option<(usize, KvType)>,
        (window, batch): (Window, usize),
        device: &Device,
    ) -> Result<KeyValue> {
        // Twice the window: what moves to the front moves once for every window of tokens.
        let keep = window.reach().map_or(capacity, |reach| reach.saturating_add(batch.max(reach)).min(capacity));
        let room = |(dim, kv)| Array::zeros((heads, keep, dim), kind(kv)?, device).map_err(|e| refused("KV cache", e));
        Ok(KeyValue { k: room(keys)?, v: values.map(room).transpose()?, start: 0, window })
    }

    /// Makes room for a run, and forgets what no query will see again if that is what it takes.
    pub(super) fn make_room(&mut self, run: Run) -> Done {
        if run.position < self.start {
            self.start = 0;
        }
        if run.position + run.tokens - self.start <= self.k.dim(1)? {
            return Ok(());
        }
        let first = self.window.first(run.position).max(self.start);
        let held = run.position - first;
        for store in [Some(&self.k), self.v.as_ref()].into_iter().flatten() {
            if held > 0 {
                store.slice_set(&store.narrow(1, first - self.start, held)?.force_contiguous()?, 1, 0)?;
            }
        }
        self.start = first;
        Ok(())
    }

    /// Writes a run's rows of keys and of values, if it has its own, behind what is there.
    pub(super) fn append(&self, run: Run, k: &Array, v: Option<&Array>) -> Done {
        append(&self.k, k, run, self.start)?;
        match (&self.v, v) {
            (Some(store), Some(v)) => append(store, v, run, self.start),
            (None, _) | (_, None) => Ok(()),
        }
    }

    /// Keys of these positions as f32 `[kv_heads, positions, key_dim]`.
    pub(super) fn keys(&self, positions: &Range<usize>) -> Done<Array> {
        self.k.narrow(1, positions.start - self.start, positions.len())?.to_dtype(DType::F32)
    }

    /// Values of the same, which may be the first channels of their keys.
    pub(super) fn values(&self, positions: &Range<usize>, keys: &Array, value_dim: usize) -> Done<Array> {
        match &self.v {
            Some(v) => v.narrow(1, positions.start - self.start, positions.len())?.to_dtype(DType::F32),
            None => keys.narrow(2, 0, value_dim)?.contiguous(),
        }
    }

    /// How far it can be taken back.
    pub(super) fn rewind(&self) -> Rewind {
        match (self.start, self.window) {
            (_, Window::None) => Rewind::Free,
            (0, Window::Sliding(_) | Window::Chunked(_)) => Rewind::Since(0),
            (start, Window::Sliding(n)) => Rewind::Since(start + n - 1),
            (start, Window::Chunked(n)) => Rewind::Since(start.next_multiple_of(n)),
        }
    }

    /// A second one with the same content.
    pub(super) fn copy(&self) -> Result<KeyValue> {
        let copy = |array: &Array| array.copy().map_err(|e| refused("KV cache", e));
        Ok(KeyValue { k: copy(&self.k)?, v: self.v.as_ref().map(copy).transpose()?, start: self.start, window: self.window })
    }

    /// Bytes it holds.
    pub(super) fn bytes(&self) -> u64 {
        let bytes = |array: &Array| (array.elem_count() * array.dtype().size_in_bytes()) as u64;
        bytes(&self.k) + self.v.as_ref().map_or(0, bytes)
    }
}

/// Appends keys and values of every run, if any are given, then attends.
pub(super) fn attend(
    step: &mut Step,
    attend: &Attend<CandleBackend>,
    qkv: Qkv<'_, CandleBackend>,
    sequences: &mut [&mut Sequence<State>],
    slot: usize,
    device: &Device,
) -> Done<Array> {
    let q = qkv.q.get()?;
    let mut outs = Vec::with_capacity(step.runs.len());
    for index in 0..step.runs.len() {
        let run = step.runs[index];
        let State::KeyValue(state) = &mut sequences[run.sequence].states[slot] else {
            return Err(candle_core::Error::Msg("the slot of an attention layer holds another state".into()));
        };
        if let Some((k, v)) = qkv.kv {
            state.make_room(run)?;
            state.append(run, k.get()?, v.map(Tensor::get).transpose()?)?;
        }
        // Positions that a window hides from the whole run are left out.
        let seen = attend.window.first(run.position)..run.position + run.tokens;
        let k = state.keys(&seen)?;
        let v = state.values(&seen, &k, attend.value_dim)?;
        let mask = if run.tokens == 1 { None } else { Some(mask(step, index, Seen::Window(attend.window), device)?) };
        outs.push(one_run(attend, &q.narrow(0, run.first, run.tokens)?, &k, &v, mask.as_ref())?);
    }
    together(&outs)
}

/// Writes a run's rows of x `[tokens, kv_heads · dim]` behind what the store holds.
fn append(store: &Array, x: &Array, run: Run, start: usize) -> Done {
    let (heads, _, dim) = store.dims3()?;
    let rows = x.narrow(0, run.first, run.tokens)?.reshape((run.tokens, heads, dim))?;
    let rows = rows.transpose(0, 1)?.contiguous()?.to_dtype(store.dtype())?;
    store.slice_set(&rows, 1, run.position - start)
}

/// Queries `[tokens, heads · key_dim]` over keys `[kv_heads, seen, key_dim]` and values: `[tokens, heads · value_dim]`.
pub(super) fn one_run(attend: &Attend<CandleBackend>, q: &Array, k: &Array, v: &Array, mask: Option<&Array>) -> Done<Array> {
    let (tokens, heads, value_dim) = (q.dim(0)?, attend.heads, attend.value_dim);
    let (kv_heads, seen, key_dim) = k.dims3()?;
    let group = heads / kv_heads;
    let q = q.affine(f64::from(attend.scale), 0.0)?.reshape((tokens, kv_heads, group, key_dim))?;
    let q = q.permute((1, 2, 0, 3))?.contiguous()?.reshape((kv_heads, group * tokens, key_dim))?;
    let mut scores = q.matmul(&k.t()?)?.reshape((heads, tokens, seen))?;
    if let Some(cap) = attend.softcap {
        scores = capped(&scores, cap)?;
    }
    if let Some(mask) = mask {
        scores = scores.broadcast_add(mask)?;
    }
    let shares = match &attend.sinks {
        None => softmax_last_dim(&scores)?,
        Some(sinks) => {
            let sinks = sinks.reshape((heads, 1, 1))?.broadcast_as((heads, tokens, 1))?.contiguous()?;
            softmax_last_dim(&Array::cat(&[&scores, &sinks], D::Minus1)?)?.narrow(D::Minus1, 0, seen)?.contiguous()?
        }
    };
    let mixed = shares.reshape((kv_heads, group * tokens, seen))?.matmul(v)?;
    mixed.reshape((heads, tokens, value_dim))?.transpose(0, 1)?.reshape((tokens, heads * value_dim))
}

/// `[tokens, seen]`: 0 where a query of run `index` sees the position or entry, [`MASKED`] where not. The layers of a step share it.
pub(super) fn mask(step: &mut Step, index: usize, seen: Seen, device: &Device) -> Done<Array> {
    if let Some((_, mask)) = step.masks.iter().find(|(key, _)| *key == (index, seen)) {
        return Ok(mask.clone());
    }
    let Run { tokens, position, .. } = step.runs[index];
    let queries = position..position + tokens;
    let column = |of: &dyn Fn(usize) -> usize| {
        let places: Vec<f32> = queries.clone().map(|p| of(p) as f32).collect();
        Array::from_vec(places, (tokens, 1), device)
    };
    let arange = |from: usize, to: usize| Array::arange(from as f32, to as f32, device)?.unsqueeze(0);
    let open = match seen {
        Seen::Window(Window::None) => arange(0, queries.end)?.broadcast_le(&column(&|p| p)?)?.to_dtype(DType::F32)?,
        Seen::Window(window) => {
            let keys = arange(window.first(position), queries.end)?;
            let begun = keys.broadcast_le(&column(&|p| p)?)?.to_dtype(DType::F32)?;
            begun.mul(&keys.broadcast_ge(&column(&|p| window.first(p))?)?.to_dtype(DType::F32)?)?
        }
        Seen::Entries(ratio) => arange(0, queries.end / ratio)?.broadcast_lt(&column(&|p| (p + 1) / ratio)?)?.to_dtype(DType::F32)?,
    };
    let mask = open.affine(-MASKED, MASKED)?;
    step.masks.push(((index, seen), mask.clone()));
    Ok(mask)
}
