//! The candle back end: the same decoder on any device that candle computes on (<https://github.com/huggingface/candle>).
//!
//! Tensors are candle's; each verb is a handful of its operations, put in line on the device and not waited for. Only
//! [`read`](Backend::read) waits. Results are not bit-identical to the CPU back end's: candle sums in its own order, and on a GPU
//! quantizes activations in its own way. What runs on candle's CPU device, which the tests use, is what runs on CUDA and Metal.
//!
//! A verb returns nothing, so the step keeps the first error; what comes after it does nothing, and
//! [`end`](Backend::end) hands it out.

mod attention;
mod compressed;
pub(crate) mod device;
mod elementwise;
mod entries;
mod experts;
mod recurrent;
mod state;
mod step;
mod strands;
mod weight;

use crate::backend::{
    Attend, Backend, Convolved, DeltaRule, ExpertWeights, HeadInputs, HeadWeights, Linear, Mixing, Norm, Pooled, Product, Qkv, Row, Scan,
    Stored,
};
use crate::batch::{Canceller, Entry, Run};
use crate::block::rope::Rope;
use crate::cache::{Sequence, StateSpec};
use crate::error::{Error, Fault, Result};
use candle_core::{DType, Device, Tensor as Array};
use candle_nn::ops;
use elementwise::{activated, capped, gated, normalised, rotated};
use hob_kernels::ops::{Activation, Router, Xielu};
use recurrent::Inputs;
use state::State;
use step::{Angles, Choice, Seen, together};
pub use step::{Step, Tensor};
use weight::{Shared, Weight};

/// What candle's calls return.
type Done<T = ()> = candle_core::Result<T>;

/// Added to scores that must not count: their exponential is 0, and no infinity meets a 0.
const MASKED: f64 = -1e30;

/// Runs a decoder on one of candle's devices.
pub struct CandleBackend {
    device: Device,
    /// Matrices that several blocks take from one place in the file, such as a tied head.
    shared: Shared,
}

impl CandleBackend {
    /// A back end on this device.
    pub(crate) fn new(device: Device) -> CandleBackend {
        CandleBackend { device, shared: Shared::default() }
    }
}

/// What candle's refusal to load or allocate something is to the caller.
fn refused(place: &str, error: candle_core::Error) -> Error {
    let text = error.to_string();
    let text = text.lines().next().unwrap_or_default();
    if text.to_lowercase().contains("memory") {
        return Error::Memory(Fault::at(place).found(text).help("ask for a smaller context, or compute on the CPU"));
    }
    Error::Device(Fault::at(place).found(text))
}

impl Backend for CandleBackend {
    type Weight = Weight;
    type Vector = Array;
    type Tensor = Tensor;
    type State = State;
    type Step = Step;

    fn weight(&self, stored: Stored) -> Result<Weight> {
        self.shared.weight(&stored, &self.device)
    }

    fn vector(&self, values: Vec<f32>) -> Result<Array> {
        let len = values.len();
        Array::from_vec(values, len, &self.device).map_err(|e| refused("vector", e))
    }

    fn state(&self, spec: &StateSpec, capacity: usize) -> Result<State> {
        State::new(spec, capacity, &self.device)
    }

    fn begin(&self, step: &mut Step, batch: &[Entry], ropes: &[Rope], stop: &Canceller) {
        *step = Step { stop: stop.clone(), ..Step::default() };
        step.attempt("begin", |step| self.start(step, batch, ropes));
    }

    fn write(&self, step: &mut Step, values: &[f32], rows: usize, out: &mut Tensor) {
        step.attempt("write", |_| {
            out.put(Array::from_slice(values, (rows, values.len() / rows), &self.device)?);
            Ok(())
        });
    }

    fn embed(&self, step: &mut Step, table: &Weight, by: Row, scale: f32, out: &mut Tensor) {
        step.attempt("embed", |step| {
            let Some(ids) = &step.ids else { return Ok(()) };
            let rows = match by {
                Row::Token => table.rows(ids)?,
                Row::Position => {
                    let positions = step.runs.iter().flat_map(|run| run.position..run.position + run.tokens);
                    table.rows(&Array::from_iter(positions.map(|p| p as u32), &self.device)?)?
                }
            };
            out.put(if scale == 1.0 { rows } else { rows.affine(f64::from(scale), 0.0)? });
            Ok(())
        });
    }

    fn norm(&self, step: &mut Step, x: &Tensor, norm: &Norm<Self>, out: &mut Tensor) {
        step.attempt("norm", |_| {
            out.put(normalised(x.get()?, norm)?);
            Ok(())
        });
    }

    fn norm_in_place(&self, step: &mut Step, x: &mut Tensor, norm: &Norm<Self>) {
        step.attempt("norm_in_place", |_| {
            x.put(normalised(x.get()?, norm)?);
            Ok(())
        });
    }

    fn linear(&self, step: &mut Step, x: &Tensor, products: &mut [Product<'_, Self>]) {
        step.attempt("linear", |_| {
            for (Linear { weight, bias }, out) in products {
                let y = weight.apply(x.get()?)?;
                out.put(match bias {
                    Some(bias) => y.broadcast_add(bias)?,
                    None => y,
                });
            }
            Ok(())
        });
    }

    fn linear_by_head(&self, step: &mut Step, x: &Tensor, weights: &HeadWeights<CandleBackend>, out: &mut Tensor) {
        step.attempt("linear_by_head", |_| {
            let HeadWeights { stack, heads, rows } = weights;
            out.put(stack.apply_by_head(x.get()?, *heads, rows.clone())?);
            Ok(())
        });
    }

    fn split(&self, step: &mut Step, x: &Tensor, heads: usize, at: usize, a: &mut Tensor, b: &mut Tensor) {
        step.attempt("split", |_| {
            let (tokens, width) = x.get()?.dims2()?;
            let each = width / heads;
            let x = x.get()?.reshape((tokens, heads, each))?;
            a.put(x.narrow(2, 0, at)?.reshape((tokens, heads * at))?);
            b.put(x.narrow(2, at, each - at)?.reshape((tokens, heads * (each - at)))?);
            Ok(())
        });
    }

    fn join(&self, step: &mut Step, a: &Tensor, b: &Tensor, heads: usize, out: &mut Tensor) {
        step.attempt("join", |_| {
            let tokens = a.get()?.dim(0)?;
            let part = |x: &Tensor| x.get()?.reshape((tokens, heads, ()));
            out.put(Array::cat(&[part(a)?, part(b)?], 2)?.reshape((tokens, ()))?);
            Ok(())
        });
    }

    fn rotate(&self, step: &mut Step, x: &mut Tensor, head_dim: usize, rope: usize) {
        step.attempt("rotate", |step| {
            x.put(rotated(x.get()?, head_dim, &step.angles[rope])?);
            Ok(())
        });
    }

    fn attend(
        &self,
        step: &mut Step,
        attend: &Attend<Self>,
        qkv: Qkv<'_, Self>,
        sequences: &mut [&mut Sequence<Self::State>],
        slot: usize,
        out: &mut Tensor,
    ) {
        step.attempt("attend", |step| {
            out.put(attention::attend(step, attend, qkv, sequences, slot, &self.device)?);
            Ok(())
        });
    }

    fn attend_entries(
        &self,
        step: &mut Step,
        attend: &Attend<Self>,
        (q, k): (&Tensor, &Tensor),
        pooled: Pooled<'_, Self>,
        sequences: &mut [&mut Sequence<Self::State>],
        slot: usize,
        out: &mut Tensor,
    ) {
        step.attempt("attend_entries", |step| {
            out.put(compressed::attend(step, attend, (q.get()?, k.get()?), &pooled, sequences, slot)?);
            Ok(())
        });
    }

    fn strand_weights(&self, step: &mut Step, mixing: &Mixing<Self>, mixes: &mut Tensor) {
        step.attempt("strand_weights", |_| {
            mixes.put(strands::weights(mixing, mixes.get()?)?);
            Ok(())
        });
    }

    fn mix_strands(&self, step: &mut Step, x: &Tensor, count: usize, weights: &Tensor, out: &mut Tensor) {
        step.attempt("mix_strands", |_| {
            out.put(strands::mixed(x.get()?, count, weights.get()?)?);
            Ok(())
        });
    }

    fn add_to_strands(&self, step: &mut Step, x: &mut Tensor, count: usize, weights: &Tensor, y: &Tensor) {
        step.attempt("add_to_strands", |_| {
            x.put(strands::added(x.get()?, count, weights.get()?, y.get()?)?);
            Ok(())
        });
    }

    fn conv(&self, step: &mut Step, convs: &mut [Convolved<'_, Self>], sequences: &mut [&mut Sequence<Self::State>], slot: usize) {
        step.attempt("conv", |step| {
            for (conv, x) in convs {
                x.put(recurrent::conv(&step.runs, conv, x.get()?, sequences, slot)?);
            }
            Ok(())
        });
    }

    fn scan(
        &self,
        step: &mut Step,
        scan: &Scan<Self>,
        heads: HeadInputs<'_, Self>,
        sequences: &mut [&mut Sequence<Self::State>],
        slot: usize,
        out: &mut Tensor,
    ) {
        step.attempt("scan", |step| {
            let inputs = Inputs { q: heads.q.get()?, k: heads.k.get()?, v: heads.v.get()?, dt: heads.dt.get()? };
            out.put(recurrent::scan(&step.runs, scan, &inputs, sequences, slot)?);
            Ok(())
        });
    }

    fn delta(
        &self,
        step: &mut Step,
        rule: &DeltaRule<Self>,
        heads: HeadInputs<'_, Self>,
        beta: &Tensor,
        sequences: &mut [&mut Sequence<Self::State>],
        slot: usize,
        out: &mut Tensor,
    ) {
        step.attempt("delta", |step| {
            let inputs = Inputs { q: heads.q.get()?, k: heads.k.get()?, v: heads.v.get()?, dt: heads.dt.get()? };
            out.put(recurrent::delta(&step.runs, rule, &inputs, beta.get()?, sequences, slot)?);
            Ok(())
        });
    }

    fn glu(&self, step: &mut Step, activation: Activation, gate: &mut Tensor, up: &Tensor) {
        step.attempt("glu", |_| {
            gate.put(gated(activation, gate.get()?, up.get()?)?);
            Ok(())
        });
    }

    fn activate(&self, step: &mut Step, activation: Activation, x: &mut Tensor) {
        step.attempt("activate", |_| {
            x.put(activated(activation, x.get()?)?);
            Ok(())
        });
    }

    fn xielu(&self, step: &mut Step, xielu: Xielu, x: &mut Tensor) {
        step.attempt("xielu", |_| {
            let Xielu { above, below, slope, edge } = xielu;
            let over = x.get()?.relu()?;
            let over = over.sqr()?.affine(f64::from(above), 0.0)?;
            let under = x.get()?.minimum(f64::from(edge))?.exp()?.affine(1.0, -1.0)?.sub(x.get()?)?.affine(f64::from(below), 0.0)?;
            let under = under.mul(&x.get()?.le(0f32)?.to_dtype(DType::F32)?)?;
            x.put(over.add(&under)?.add(&x.get()?.affine(f64::from(slope), 0.0)?)?);
            Ok(())
        });
    }

    fn route(&self, step: &mut Step, logits: &Tensor, router: &Router, bias: Option<&Array>) {
        step.attempt("route", |step| {
            step.choice = Some(experts::choose(logits.get()?, router, bias)?);
            Ok(())
        });
    }

    fn route_by_token(&self, step: &mut Step, logits: &Tensor, router: &Router, table: &[u32]) {
        step.attempt("route_by_token", |step| {
            let ids: Vec<u32> = step.tokens.iter().flat_map(|id| &table[*id as usize * router.k..][..router.k]).copied().collect();
            let ids = Array::from_vec(ids, (step.tokens.len(), router.k), &self.device)?;
            step.choice = Some(experts::settled(logits.get()?, router, ids)?);
            Ok(())
        });
    }

    fn experts(&self, step: &mut Step, x: &Tensor, experts: &ExpertWeights<Self>, out: &mut Tensor) {
        step.attempt("experts", |step| {
            let Some(choice) = &step.choice else { return Ok(()) };
            out.put(experts::mixed(x.get()?, choice, experts, &step.stop)?);
            Ok(())
        });
    }

    fn gate(&self, step: &mut Step, x: &mut Tensor, gate: &Tensor) {
        step.attempt("gate", |_| {
            let ((tokens, width), gates) = (x.get()?.dims2()?, gate.get()?.dim(1)?);
            let runs = x.get()?.reshape((tokens, gates, width / gates))?;
            x.put(runs.broadcast_mul(&ops::sigmoid(gate.get()?)?.unsqueeze(2)?)?.reshape((tokens, width))?);
            Ok(())
        });
    }

    fn columns(&self, step: &mut Step, x: &Tensor, from: usize, width: usize, out: &mut Tensor) {
        step.attempt("columns", |_| {
            out.put(x.get()?.narrow(1, from, width)?.contiguous()?);
            Ok(())
        });
    }

    fn add_to_columns(&self, step: &mut Step, x: &mut Tensor, from: usize, y: &Tensor) {
        step.attempt("add_to_columns", |_| {
            let (all, y) = (x.get()?, y.get()?);
            let (width, end) = (all.dim(1)?, from + y.dim(1)?);
            let sum = (all.narrow(1, from, end - from)? + y)?;
            x.put(Array::cat(&[all.narrow(1, 0, from)?, sum, all.narrow(1, end, width - end)?], 1)?);
            Ok(())
        });
    }

    fn rescale(&self, step: &mut Step, x: &mut Tensor, like: &Tensor, runs: usize) {
        step.attempt("rescale", |_| {
            let (tokens, width) = like.get()?.dims2()?;
            let parts = x.get()?.reshape((tokens, runs, width))?;
            let found = parts.sqr()?.mean_keepdim(2)?.maximum(1e-5)?.sqrt()?;
            let wanted = like.get()?.sqr()?.mean_keepdim(1)?.sqrt()?.unsqueeze(2)?;
            x.put(parts.broadcast_mul(&wanted.broadcast_div(&found)?)?.reshape((tokens, runs * width))?);
            Ok(())
        });
    }

    fn sparsify(&self, step: &mut Step, x: &mut Tensor, sigmas: f32) {
        step.attempt("sparsify", |_| {
            let mean = x.get()?.mean_keepdim(1)?;
            let off = x.get()?.broadcast_sub(&mean)?;
            let cut = off.sqr()?.mean_keepdim(1)?.sqrt()?.affine(f64::from(sigmas), 0.0)?;
            x.put(off.broadcast_sub(&cut)?.relu()?);
            Ok(())
        });
    }

    fn scale_by(&self, step: &mut Step, x: &mut Tensor, by: &Array) {
        step.attempt("scale_by", |_| {
            x.put(x.get()?.broadcast_mul(by)?);
            Ok(())
        });
    }

    fn copy(&self, step: &mut Step, x: &Tensor, out: &mut Tensor) {
        // No verb changes an array that another tensor holds, so both may hold the same one.
        step.attempt("copy", |_| {
            out.put(x.get()?.clone());
            Ok(())
        });
    }

    fn add(&self, step: &mut Step, x: &mut Tensor, y: &Tensor) {
        step.attempt("add", |_| {
            x.put(x.get()?.add(y.get()?)?);
            Ok(())
        });
    }

    fn scale(&self, step: &mut Step, x: &mut Tensor, factor: f32) {
        step.attempt("scale", |_| {
            x.put(x.get()?.affine(f64::from(factor), 0.0)?);
            Ok(())
        });
    }

    fn clamp(&self, step: &mut Step, x: &mut Tensor, limit: f32) {
        step.attempt("clamp", |_| {
            x.put(x.get()?.clamp(-limit, limit)?);
            Ok(())
        });
    }

    fn softcap(&self, step: &mut Step, x: &mut Tensor, cap: f32) {
        step.attempt("softcap", |_| {
            x.put(capped(x.get()?, cap)?);
            Ok(())
        });
    }

    fn wanted(&self, step: &mut Step, x: &Tensor, out: &mut Tensor) {
        step.attempt("wanted", |step| {
            out.put(match &step.wanted {
                Some(rows) => x.get()?.index_select(rows, 0)?,
                None => x.get()?.clone(),
            });
            Ok(())
        });
    }

    fn end(&self, step: &mut Step) -> Result<()> {
        match step.failed.take() {
            Some((verb, error)) => Err(refused(&format!("candle, at `{verb}`"), error)),
            None => Ok(()),
        }
    }

    fn read(&self, _: &mut Step, x: &Tensor, out: &mut Vec<f32>) -> Result<()> {
        let values = x.get().and_then(|x| x.flatten_all()?.to_dtype(DType::F32)?.to_vec1());
        *out = values.map_err(|e| refused("candle, at `read`", e))?;
        Ok(())
    }
}
