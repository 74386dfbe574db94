//! Recurrent layers on a candle device: causal convolutions, the scan of a state space, the gated delta rule.
//!
//! What they mean is written in [`hob_kernels::naive::recurrent`]. Tokens go one after the other, each a few operations on
//! the matrices of all heads at once; nothing is changed in place, so a copy of a state costs nothing.

use super::{CandleBackend, Done, Run, State, activated, together};
use crate::backend::{Conv, DeltaRule, Scan};
use crate::cache::{Sequence, StateSize};
use candle_core::{DType, Device, Tensor as Array};
use hob_kernels::recurrent::{KeyHeads, Shape};

/// What a recurrent layer remembers of one sequence.
#[derive(Clone)]
pub struct Memory {
    size: StateSize,
    /// The last inputs of each convolution, by its first channel: `[past, channels]`.
    past: Vec<(usize, Array)>,
    /// `[heads, keys, values]`; nothing before the first token.
    matrix: Option<Array>,
}

impl Memory {
    /// The memory of nothing.
    pub(super) fn new(size: StateSize) -> Memory {
        Memory { size, past: Vec::new(), matrix: None }
    }

    /// Bytes it holds.
    pub(super) fn bytes(&self) -> u64 {
        let StateSize { channels, past, heads, keys, values } = self.size;
        (channels * past + heads * keys * values) as u64 * size_of::<f32>() as u64
    }

    /// The inputs before those of a run that begins at `position`.
    fn before(&self, conv: &Conv<CandleBackend>, position: usize, device: &Device) -> Done<Array> {
        match self.past.iter().find(|(first, _)| *first == conv.first && position > 0) {
            Some((_, past)) => Ok(past.clone()),
            None => Array::zeros((self.size.past, conv.channels), DType::F32, device),
        }
    }

    fn keep(&mut self, first: usize, past: Array) {
        self.past.retain(|(other, _)| *other != first);
        self.past.push((first, past));
    }

    /// The matrices before a run that begins at `position`.
    fn matrices(&self, position: usize, device: &Device) -> Done<Array> {
        match &self.matrix {
            Some(matrix) if position > 0 => Ok(matrix.clone()),
            Some(_) | None => Array::zeros((self.size.heads, self.size.keys, self.size.values), DType::F32, device),
        }
    }
}

/// The memory in a slot.
fn memory<'a>(sequences: &'a mut [&mut Sequence<State>], run: Run, slot: usize) -> Done<&'a mut Memory> {
    match &mut sequences[run.sequence].states[slot] {
        State::Recurrent(memory) => Ok(memory),
        State::KeyValue(_) | State::Compressed(..) => {
            Err(candle_core::Error::Msg("the slot of a recurrent layer holds keys and values".into()))
        }
    }
}

/// One convolution of x `[tokens, channels]`.
pub(super) fn conv(
    runs: &[Run],
    conv: &Conv<CandleBackend>,
    x: &Array,
    sequences: &mut [&mut Sequence<State>],
    slot: usize,
) -> Done<Array> {
    let mut outs = Vec::with_capacity(runs.len());
    for run in runs {
        let memory = memory(sequences, *run, slot)?;
        let past = memory.size.past;
        let weight = conv.weight.reshape((past + 1, conv.channels))?;
        let x = x.narrow(0, run.first, run.tokens)?.contiguous()?;
        let all = Array::cat(&[memory.before(conv, run.position, x.device())?, x], 0)?;
        let mut sum = all.narrow(0, 0, run.tokens)?.broadcast_mul(&weight.narrow(0, 0, 1)?)?;
        for tap in 1..=past {
            sum = sum.add(&all.narrow(0, tap, run.tokens)?.broadcast_mul(&weight.narrow(0, tap, 1)?)?)?;
        }
        if let Some(bias) = &conv.bias {
            sum = sum.broadcast_add(bias)?;
        }
        memory.keep(conv.first, all.narrow(0, run.tokens, past)?.force_contiguous()?);
        outs.push(activated(conv.activation, &sum)?);
    }
    together(&outs)
}

/// `ln(1 + eˣ)`
pub(super) fn softplus(x: &Array) -> Done<Array> {
    x.relu()?.add(&x.abs()?.neg()?.exp()?.affine(1.0, 1.0)?.log()?)
}

/// `[tokens, key_heads · keys]` as `[tokens, heads, keys]`: to each head the key head that it reads.
fn spread(x: &Array, shape: &Shape) -> Done<Array> {
    let (tokens, Shape { key_heads, heads, keys, .. }) = (x.dim(0)?, *shape);
    let each = heads / key_heads;
    let x = match shape.order {
        KeyHeads::Grouped => x.reshape((tokens, key_heads, 1, keys))?.broadcast_as((tokens, key_heads, each, keys))?,
        KeyHeads::Tiled => x.reshape((tokens, 1, key_heads, keys))?.broadcast_as((tokens, each, key_heads, keys))?,
    };
    x.contiguous()?.reshape((tokens, heads, keys))
}

/// Queries, keys and values of some tokens, and their time steps.
pub(super) struct Inputs<'a> {
    pub(super) q: &'a Array,
    pub(super) k: &'a Array,
    pub(super) v: &'a Array,
    pub(super) dt: &'a Array,
}

/// How a token is written into the matrices.
enum Rule<'a> {
    /// Time steps `[tokens, heads]`.
    Scan(&'a Array),
    /// Strengths `[tokens, heads]`.
    Delta(&'a Array),
}

/// The scan of a state space model: `S = exp(dt·rate)·S + k ⊗ (dt·v)`, `out = qᵀS + skip·v`.
pub(super) fn scan(
    runs: &[Run],
    scan: &Scan<CandleBackend>,
    inputs: &Inputs<'_>,
    sequences: &mut [&mut Sequence<State>],
    slot: usize,
) -> Done<Array> {
    let Shape { heads, values, .. } = scan.shape;
    let dt = softplus(&inputs.dt.broadcast_add(&scan.bias)?)?;
    let decay = dt.broadcast_mul(&scan.rate)?.exp()?;
    let out = walk(runs, &scan.shape, inputs, &decay, &Rule::Scan(&dt), sequences, slot)?;
    let v = inputs.v.reshape(((), heads, values))?;
    out.add(&v.broadcast_mul(&scan.skip.reshape((1, heads, 1))?)?.reshape(out.shape())?)
}

/// The gated delta rule: `S = a·S`, `S += k ⊗ beta·(v - kᵀS)`, `out = qᵀS`.
pub(super) fn delta(
    runs: &[Run],
    rule: &DeltaRule<CandleBackend>,
    inputs: &Inputs<'_>,
    beta: &Array,
    sequences: &mut [&mut Sequence<State>],
    slot: usize,
) -> Done<Array> {
    let decay = softplus(&inputs.dt.broadcast_add(&rule.bias)?)?.broadcast_mul(&rule.rate)?.exp()?;
    walk(runs, &rule.shape, inputs, &decay, &Rule::Delta(beta), sequences, slot)
}

/// Token by token: `[tokens, heads · values]`.
fn walk(
    runs: &[Run],
    shape: &Shape,
    inputs: &Inputs<'_>,
    decay: &Array,
    rule: &Rule<'_>,
    sequences: &mut [&mut Sequence<State>],
    slot: usize,
) -> Done<Array> {
    let Shape { heads, keys, values, .. } = *shape;
    let (q, k) = (spread(inputs.q, shape)?, spread(inputs.k, shape)?);
    let (tokens, width) = decay.dims2()?;
    let v = inputs.v.reshape((tokens, heads, 1, values))?;
    let decay = decay.reshape((tokens, heads, width / heads, 1))?;
    let (Rule::Scan(factors) | Rule::Delta(factors)) = rule;
    let factors = factors.reshape((tokens, heads, 1, 1))?;
    let mut outs = Vec::with_capacity(tokens);
    for run in runs {
        let memory = memory(sequences, *run, slot)?;
        let mut s = memory.matrices(run.position, q.device())?;
        for t in run.first..run.first + run.tokens {
            let (q, k) = (q.get(t)?.reshape((heads, 1, keys))?, k.get(t)?);
            s = s.broadcast_mul(&decay.get(t)?)?;
            let written = match rule {
                Rule::Scan(_) => v.get(t)?,
                Rule::Delta(_) => v.get(t)?.sub(&k.reshape((heads, 1, keys))?.matmul(&s)?)?,
            };
            s = s.add(&k.reshape((heads, keys, 1))?.broadcast_mul(&written.broadcast_mul(&factors.get(t)?)?)?)?;
            outs.push(q.matmul(&s)?.reshape((1, heads * values))?);
        }
        memory.matrix = Some(s);
    }
    together(&outs)
}
