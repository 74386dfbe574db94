//! Keys and values on a candle device, and attention over them.
//!
//! Keys lie as `[kv_heads, room, key_dim]`, values as `[kv_heads, room, value_dim]`, so that what a head has seen is one
//! piece. A layer that looks back through a window has room for that and some steps: when it is full, what is still seen moves to
//! the front. Scores are computed in f32 whatever the cache holds; query heads that share a head of the cache are rows of one product.

use super::{CandleBackend, Done, MASKED, Run, State, Step, capped, refused};
use crate::backend::{Attend, Qkv, Window};
use crate::cache::{KvType, Rewind, Sequence};
use crate::error::{Error, Fault, Result};
use candle_core::{D, DType, Device, Tensor as Array};
use candle_nn::ops::softmax_last_dim;

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
    /// Room for `keep` positions of these heads, with values of their own or none.
    pub(super) fn new(
        heads: usize,
        keep: usize,
        (key_dim, k): (usize, KvType),
        values: Option<(usize, KvType)>,
        window: Window,
        device: &Device,
    ) -> Result<KeyValue> {
        let room = |(dim, kv)| Array::zeros((heads, keep, dim), kind(kv)?, device).map_err(|e| refused("KV cache", e));
        Ok(KeyValue { k: room((key_dim, k))?, v: values.map(room).transpose()?, start: 0, window })
    }

    /// Makes room for a run, and forgets what no query will see again if that is what it takes.
    fn make_room(&mut self, run: Run) -> Done {
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
}

impl KeyValue {
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
    sequences: &mut [&mut Sequence<CandleBackend>],
    slot: usize,
    device: &Device,
) -> Done<Array> {
    let q = qkv.q.get()?;
    let mut outs = Vec::with_capacity(step.runs.len());
    for index in 0..step.runs.len() {
        let run = step.runs[index];
        let State::KeyValue(state) = &mut sequences[run.sequence].states[slot] else {
            return Err(candle_core::Error::Msg("the slot of an attention layer holds a recurrent state".into()));
        };
        if let Some((k, v)) = qkv.kv {
            state.make_room(run)?;
            append(&state.k, k.get()?, run, state.start)?;
            if let (Some(store), Some(v)) = (&state.v, v) {
                append(store, v.get()?, run, state.start)?;
            }
        }
        // Positions that a window hides from the whole run are left out.
        let first = attend.window.first(run.position);
        let seen = first - state.start..run.position + run.tokens - state.start;
        let mask = if run.tokens == 1 { None } else { Some(mask(step, index, attend.window, device)?) };
        outs.push(one_run(attend, &q.narrow(0, run.first, run.tokens)?, state, seen, mask.as_ref())?);
    }
    match outs.as_slice() {
        [one] => Ok(one.clone()),
        many => Array::cat(many, 0),
    }
}

/// Writes a run's rows of x `[tokens, kv_heads · dim]` behind what the store holds.
fn append(store: &Array, x: &Array, run: Run, start: usize) -> Done {
    let (heads, _, dim) = store.dims3()?;
    let rows = x.narrow(0, run.first, run.tokens)?.reshape((run.tokens, heads, dim))?;
    let rows = rows.transpose(0, 1)?.contiguous()?.to_dtype(store.dtype())?;
    store.slice_set(&rows, 1, run.position - start)
}

/// Queries `[tokens, heads · key_dim]` over these places of the store: `[tokens, heads · value_dim]`.
fn one_run(
    attend: &Attend<CandleBackend>,
    q: &Array,
    state: &KeyValue,
    places: std::ops::Range<usize>,
    mask: Option<&Array>,
) -> Done<Array> {
    let (tokens, heads, seen) = (q.dim(0)?, attend.heads, places.len());
    let (kv_heads, _, key_dim) = state.k.dims3()?;
    let value_dim = attend.value_dim;
    let group = heads / kv_heads;
    let q = q.affine(f64::from(attend.scale), 0.0)?.reshape((tokens, kv_heads, group, key_dim))?;
    let q = q.permute((1, 2, 0, 3))?.contiguous()?.reshape((kv_heads, group * tokens, key_dim))?;
    let k = state.k.narrow(1, places.start, seen)?.to_dtype(DType::F32)?;
    let v = match &state.v {
        Some(v) => v.narrow(1, places.start, seen)?.to_dtype(DType::F32)?,
        None => k.narrow(2, 0, value_dim)?.contiguous()?,
    };
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
    let mixed = shares.reshape((kv_heads, group * tokens, seen))?.matmul(&v)?;
    mixed.reshape((heads, tokens, value_dim))?.transpose(0, 1)?.reshape((tokens, heads * value_dim))
}

/// `[tokens, seen]`: 0 where a query of run `index` sees the position, [`MASKED`] where not. The layers of a step share it.
fn mask(step: &mut Step, index: usize, window: Window, device: &Device) -> Done<Array> {
    if let Some((_, mask)) = step.masks.iter().find(|(key, _)| *key == (index, window)) {
        return Ok(mask.clone());
    }
    let Run { tokens, position, .. } = step.runs[index];
    let end = position + tokens;
    let column = |of: &dyn Fn(usize) -> usize| {
        let places: Vec<f32> = (position..end).map(|p| of(p) as f32).collect();
        Array::from_vec(places, (tokens, 1), device)
    };
    let keys = Array::arange(window.first(position) as f32, end as f32, device)?.unsqueeze(0)?;
    let mut seen = keys.broadcast_le(&column(&|p| p)?)?.to_dtype(DType::F32)?;
    if window != Window::None {
        seen = seen.mul(&keys.broadcast_ge(&column(&|p| window.first(p))?)?.to_dtype(DType::F32)?)?;
    }
    let mask = seen.affine(-MASKED, MASKED)?;
    step.masks.push(((index, window), mask.clone()));
    Ok(mask)
}
