//! The CPU back end: hob's own kernels on the mapped weights.

mod entries;
mod state;
mod step;

use crate::backend::{
    Attend, Backend, Conv, Convolved, DeltaRule, ExpertWeights, Glu, HeadInputs, HeadWeights, Linear, Mixing, Norm, Pooled, Product, Qkv,
    Row, Scan, Stored, Weighed,
};
use crate::batch::{Canceller, Entry, Few, Run};
use crate::block::rope::Rope;
use crate::cache::{Sequence, StateSpec};
use crate::config::NormKind;
use crate::error::{Error, Fault, Result};
use hob_kernels::attention::{self, Lane};
use hob_kernels::format::dequantize;
use hob_kernels::matmul::{self, ExpertProduct, Groups, InputRow, Matrix};
use hob_kernels::ops::{self, Activation, Router, Xielu};
use hob_kernels::recurrent;
use hob_kernels::{Cpu, Level, Pool};
pub use state::{Recurrent, State};
use step::Angles;
pub use step::{Step, Tensor};

/// Runs a decoder on this machine's CPU.
pub struct CpuBackend {
    level: Level,
    pool: Pool,
}

impl CpuBackend {
    /// A back end of so many threads, the caller's included, at the best CPU level or the one that `HOB_LEVEL` names.
    ///
    /// # Errors
    /// [`Error::Unsupported`] where `HOB_LEVEL` names a level that this machine lacks.
    pub fn new(threads: usize) -> Result<CpuBackend> {
        let level = Level::from_env().map_err(|e| Error::Unsupported(Fault::at("HOB_LEVEL").found(e)))?;
        Ok(CpuBackend { level, pool: Pool::new(threads) })
    }

    fn cpu<'a>(&'a self, stop: &'a Canceller) -> Cpu<'a> {
        Cpu { level: self.level, pool: &self.pool, stop: stop.flag() }
    }
}

/// Columns that experts' last products are computed for at once. What they give for every slot waits for its sum: of a long
/// micro-batch all columns would be the most memory of a step, and few would make work items too small.
pub(crate) fn columns_at_once(slots: usize, width: usize) -> usize {
    /// 16 MB.
    const VALUES: usize = 1 << 22;
    const LEAST: usize = 512;
    let parts = (slots * width).div_ceil(VALUES).clamp(1, width.div_ceil(LEAST).max(1));
    width.div_ceil(parts).next_multiple_of(64)
}

/// The sequences that a step goes on with, for the recurrent kernels; those at their beginning after `clear`.
fn lanes<'a>(
    runs: &[Run],
    sequences: &'a mut [&mut Sequence<State>],
    slot: usize,
    clear: fn(&mut recurrent::State),
) -> Few<recurrent::Lane<'a>> {
    let mut states: Few<_> = sequences.iter_mut().map(|s| Some(&mut s.states[slot])).collect();
    let lane = |run: &Run| {
        let Recurrent { now, marks } = states.get_mut(run.sequence).and_then(Option::take)?.recurrent();
        if run.position == 0 {
            clear(now);
        }
        let within = |len: &usize| run.position < *len && *len < run.position + run.tokens;
        let marks = marks.iter_mut().filter(|(len, _)| within(len)).map(|(len, state)| (*len - run.position, state));
        Some(recurrent::Lane { state: now, tokens: run.tokens, marks: marks.collect() })
    };
    runs.iter().filter_map(lane).collect()
}

/// The matrix in a file, for a kernel. Its size was checked when it was loaded.
fn matrix(stored: &Stored) -> Matrix<'_> {
    match Matrix::new(stored.format, stored.rows, stored.cols, &stored.bytes) {
        Some(matrix) => matrix,
        None => unreachable!("{}: `weight` checked its size", stored.name),
    }
}

fn product<'a>((linear, out): &'a mut Product<'_, CpuBackend>, tokens: usize) -> matmul::Product<'a> {
    matmul::Product { weight: matrix(&linear.weight), out: out.shape(tokens, linear.weight.rows) }
}

impl Backend for CpuBackend {
    type Weight = Stored;
    type Vector = Vec<f32>;
    type Tensor = Tensor;
    type State = State;
    type Step = Step;

    fn weight(&self, stored: Stored) -> Result<Stored> {
        if Matrix::new(stored.format, stored.rows, stored.cols, &stored.bytes).is_none() {
            let fault = Fault::at(stored.name).expected(format!("{} rows of {} {:?}", stored.rows, stored.cols, stored.format));
            return Err(Error::Model(fault.found(format!("{} bytes", stored.bytes.len()))));
        }
        Ok(stored)
    }

    fn vector(&self, values: Vec<f32>) -> Result<Vec<f32>> {
        Ok(values)
    }

    fn state(&self, spec: &StateSpec, capacity: usize) -> Result<State> {
        State::new(spec, capacity)
    }

    fn linear_by_head(&self, step: &mut Step, x: &Tensor, weights: &HeadWeights<CpuBackend>, out: &mut Tensor) {
        let HeadWeights { stack, heads, rows } = weights;
        let Step { stop, inputs, heads: by_head, .. } = step;
        let cpu = self.cpu(stop);
        inputs.set(cpu, x.values(), stack.cols, std::iter::once(stack.format));
        by_head.set(x.rows, *heads);
        let groups = Groups { offsets: &by_head.offsets, slots: &by_head.slots, k: *heads };
        let out = out.shape(x.rows, heads * rows.len());
        let mut products = [ExpertProduct { weights: matrix(stack), rows: rows.clone(), out }];
        matmul::matmul_experts(cpu, inputs, groups, InputRow::Slot, *heads, &mut products);
    }

    fn split(&self, step: &mut Step, x: &Tensor, heads: usize, at: usize, a: &mut Tensor, b: &mut Tensor) {
        let (cpu, width) = (self.cpu(&step.stop), x.width / heads);
        ops::copy_channels(cpu, (x.values(), width), 0, (a.shape(x.rows, heads * at), at), 0, at);
        ops::copy_channels(cpu, (x.values(), width), at, (b.shape(x.rows, x.width - heads * at), width - at), 0, width - at);
    }

    fn join(&self, step: &mut Step, a: &Tensor, b: &Tensor, heads: usize, out: &mut Tensor) {
        let (cpu, first, second) = (self.cpu(&step.stop), a.width / heads, b.width / heads);
        let out = out.shape(a.rows, a.width + b.width);
        ops::copy_channels(cpu, (a.values(), first), 0, (&mut *out, first + second), 0, first);
        ops::copy_channels(cpu, (b.values(), second), 0, (out, first + second), first, second);
    }

    fn begin(&self, step: &mut Step, batch: &[Entry], ropes: &[Rope], stop: &Canceller) {
        step.begin(batch, ropes, stop);
    }

    fn write(&self, _: &mut Step, values: &[f32], rows: usize, out: &mut Tensor) {
        out.shape(rows, values.len() / rows).copy_from_slice(values);
    }

    fn embed(&self, step: &mut Step, table: &Stored, by: Row, scale: f32, out: &mut Tensor) {
        let row_bytes = table.bytes.len() / table.rows;
        let mut values = out.shape(step.ids.len(), table.cols).chunks_exact_mut(table.cols);
        let mut put = |row: usize| {
            if let Some(out) = values.next() {
                dequantize(table.format, &table.bytes[row * row_bytes..][..row_bytes], out);
            }
        };
        match by {
            Row::Token => step.ids.iter().for_each(|id| put(*id as usize)),
            Row::Position => step.runs.iter().flat_map(|run| run.position..run.position + run.tokens).for_each(put),
        }
        if scale != 1.0 {
            ops::scale(self.cpu(&step.stop), out.values_mut(), scale);
        }
    }

    fn norm(&self, step: &mut Step, x: &Tensor, norm: &Norm<Self>, out: &mut Tensor) {
        let cpu = self.cpu(&step.stop);
        let out = out.shape(x.rows, x.width);
        match norm.kind {
            NormKind::Rms => ops::rms_norm(cpu, x.values(), Some(&norm.weight), norm.eps, norm.width, out),
            NormKind::Layer => ops::layer_norm(cpu, x.values(), &norm.weight, norm.bias.as_deref(), norm.eps, norm.width, out),
        }
    }

    fn norm_in_place(&self, step: &mut Step, x: &mut Tensor, norm: &Norm<Self>) {
        match norm.kind {
            NormKind::Rms => ops::rms_norm_in_place(self.cpu(&step.stop), x.values_mut(), Some(&norm.weight), norm.eps, norm.width),
            NormKind::Layer => {
                let mut copy = std::mem::take(&mut step.down);
                self.copy(step, x, &mut copy);
                self.norm(step, &copy, norm, x);
                step.down = copy;
            }
        }
    }

    fn linear(&self, step: &mut Step, x: &Tensor, products: &mut [Product<'_, Self>]) {
        let cpu = Cpu { level: self.level, pool: &self.pool, stop: step.stop.flag() };
        let formats = products.iter().map(|(linear, _)| linear.weight.format);
        step.inputs.set(cpu, x.values(), x.width, formats);
        let n = x.rows;
        match &mut *products {
            [a] => matmul::matmul(cpu, &step.inputs, &mut [product(a, n)]),
            [a, b] => matmul::matmul(cpu, &step.inputs, &mut [product(a, n), product(b, n)]),
            [a, b, c] => matmul::matmul(cpu, &step.inputs, &mut [product(a, n), product(b, n), product(c, n)]),
            more => {
                let mut all: Few<_> = more.iter_mut().map(|p| product(p, n)).collect();
                matmul::matmul(cpu, &step.inputs, &mut all);
            }
        }
        for (Linear { bias, .. }, out) in products {
            if let Some(bias) = bias {
                ops::add_bias(cpu, out.values_mut(), bias);
            }
        }
    }

    fn rotate(&self, step: &mut Step, x: &mut Tensor, head_dim: usize, rope: usize) {
        let Angles { cos, sin, rotary, pairing } = &step.angles[rope];
        let Some(pairing) = *pairing else { return };
        let heads = x.width / head_dim;
        ops::rope(self.cpu(&step.stop), x.values_mut(), heads, head_dim, *rotary, pairing, cos, sin);
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
        let cpu = self.cpu(&step.stop);
        let Qkv { q, kv } = qkv;
        if let Some((k, v)) = kv {
            for run in &step.runs {
                let rows = |t: &Tensor| run.first * t.width..(run.first + run.tokens) * t.width;
                let store = sequences[run.sequence].states[slot].store_mut();
                store.write(cpu, run.position, &k.values()[rows(k)], v.map_or(&[], |v| &v.values()[rows(v)]));
            }
        }
        let kernel = attention::Attend {
            heads: attend.heads,
            scale: attend.scale,
            softcap: attend.softcap,
            window: attend.window,
            sinks: attend.sinks.as_deref(),
        };
        let lane = |run: &Run| Lane { store: sequences[run.sequence].states[slot].store(), position: run.position, tokens: run.tokens };
        let out = out.shape(q.rows, attend.heads * attend.value_dim);
        match step.runs.as_slice() {
            [one] => attention::attend(cpu, &kernel, q.values(), &[lane(one)], out),
            many => attention::attend(cpu, &kernel, q.values(), &many.iter().map(lane).collect::<Few<_>>(), out),
        }
    }

    fn conv(&self, step: &mut Step, convs: &mut [Convolved<'_, Self>], sequences: &mut [&mut Sequence<Self::State>], slot: usize) {
        let cpu = self.cpu(&step.stop);
        let mut lanes = lanes(&step.runs, sequences, slot, recurrent::State::clear_past);
        for (conv, x) in convs {
            let Conv { activation, first, channels, .. } = **conv;
            let kernel = recurrent::Conv { weight: &conv.weight, bias: conv.bias.as_deref(), activation, first, channels };
            recurrent::conv(cpu, &kernel, x.values_mut(), &mut lanes);
        }
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
        let Step { stop, runs, decay, .. } = step;
        let cpu = self.cpu(stop);
        let HeadInputs { q, k, v, dt } = heads;
        recurrent::time_steps(cpu, dt.values_mut(), &scan.bias);
        decay.shape(dt.rows, dt.width).copy_from_slice(dt.values());
        recurrent::decays(cpu, decay.values_mut(), &scan.rate);
        let inputs = recurrent::Inputs { q: q.values(), k: k.values(), v: v.values() };
        let mut lanes = lanes(runs, sequences, slot, recurrent::State::clear_memory);
        let out = out.shape(v.rows, v.width);
        recurrent::scan(cpu, &scan.shape, inputs, dt.values(), decay.values(), &scan.skip, &mut lanes, out);
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
        let cpu = self.cpu(&step.stop);
        let HeadInputs { q, k, v, dt } = heads;
        recurrent::time_steps(cpu, dt.values_mut(), &rule.bias);
        recurrent::decays(cpu, dt.values_mut(), &rule.rate);
        let inputs = recurrent::Inputs { q: q.values(), k: k.values(), v: v.values() };
        let mut lanes = lanes(&step.runs, sequences, slot, recurrent::State::clear_memory);
        recurrent::delta(cpu, &rule.shape, inputs, dt.values(), beta.values(), &mut lanes, out.shape(v.rows, v.width));
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
        let cpu = self.cpu(&step.stop);
        let Attend { heads, value_dim, scale, softcap, window, sinks } = attend;
        let kernel = attention::Attend { heads: *heads, scale: *scale, softcap: *softcap, window: *window, sinks: sinks.as_deref() };
        let (width, out) = (heads * value_dim, out.shape(q.rows, heads * value_dim));
        let mut chosen = Vec::new();
        for run in &step.runs {
            let of = |t: &Tensor| run.first * t.width..(run.first + run.tokens) * t.width;
            let rows = |t| &Tensor::values(t)[of(t)];
            let State::Compressed { store, entries, .. } = &mut sequences[run.sequence].states[slot] else {
                unreachable!("the slot of compressed attention holds another state")
            };
            store.write(cpu, run.position, rows(k), &[]);
            let (entries, index) = entries.split_at_mut(1);
            let entries = &mut entries[0];
            entries.push(cpu, run.position, rows(pooled.values), rows(pooled.scores), pooled.pooling);
            let visible: Vec<usize> = (0..run.tokens).map(|t| entries.visible(run.position + t)).collect();
            match (&pooled.index, index.first_mut()) {
                (Some(by), Some(own)) => {
                    own.push(cpu, run.position, rows(by.values), rows(by.scores), by.pooling);
                    let index = attention::Index { q: rows(by.q), weights: rows(by.weights), heads: by.heads, most: by.most };
                    attention::choose(cpu, &index, &own.store, &visible, &mut chosen);
                }
                (None, _) | (_, None) => {
                    chosen.clear();
                    chosen.extend(visible.iter().map(|n| (0..*n as u32).collect::<Vec<_>>()));
                }
            }
            let lane = Lane { store, position: run.position, tokens: run.tokens };
            let out = &mut out[run.first * width..(run.first + run.tokens) * width];
            attention::attend_joined(cpu, &kernel, rows(q), lane, &entries.store, &chosen, out);
        }
    }

    fn strand_weights(&self, step: &mut Step, mixing: &Mixing<Self>, mixes: &mut Tensor) {
        let Mixing { count, scale, base, iterations, eps } = mixing;
        let hyper = ops::Hyper { strands: *count, scale, base, iterations: *iterations, eps: *eps };
        ops::hyper_weights(self.cpu(&step.stop), &hyper, mixes.values_mut());
    }

    fn mix_strands(&self, step: &mut Step, x: &Tensor, count: usize, weights: &Tensor, out: &mut Tensor) {
        let out = out.shape(x.rows, x.width / count);
        ops::hyper_mix(self.cpu(&step.stop), x.values(), count, weights.values(), weights.width, out);
    }

    fn add_to_strands(&self, step: &mut Step, x: &mut Tensor, count: usize, weights: &Tensor, y: &Tensor) {
        ops::hyper_add(self.cpu(&step.stop), x.values_mut(), count, y.values(), weights.values());
    }

    fn glu(&self, step: &mut Step, activation: Activation, gate: &mut Tensor, up: &Tensor) {
        ops::glu(self.cpu(&step.stop), activation, gate.values_mut(), up.values());
    }

    fn activate(&self, step: &mut Step, activation: Activation, x: &mut Tensor) {
        ops::activate(self.cpu(&step.stop), activation, x.values_mut());
    }

    fn xielu(&self, step: &mut Step, xielu: Xielu, x: &mut Tensor) {
        ops::xielu(self.cpu(&step.stop), x.values_mut(), xielu);
    }

    fn route(&self, step: &mut Step, logits: &Tensor, router: &Router, bias: Option<&Vec<f32>>) {
        step.k = router.k;
        step.chosen.resize(logits.rows * router.k, 0);
        step.weights.resize(logits.rows * router.k, 0.0);
        let cpu = Cpu { level: self.level, pool: &self.pool, stop: step.stop.flag() };
        ops::route(cpu, logits.values(), logits.width, router, bias.map(Vec::as_slice), &mut step.chosen, &mut step.weights);
        ops::group_by_expert(&step.chosen, logits.width, &mut step.offsets, &mut step.slots);
    }

    fn route_by_token(&self, step: &mut Step, logits: &Tensor, router: &Router, table: &[u32]) {
        step.k = router.k;
        step.chosen.clear();
        step.chosen.extend(step.ids.iter().flat_map(|id| &table[*id as usize * router.k..][..router.k]));
        step.weights.resize(logits.rows * router.k, 0.0);
        let cpu = Cpu { level: self.level, pool: &self.pool, stop: step.stop.flag() };
        ops::route_fixed(cpu, logits.values(), logits.width, router, &step.chosen, &mut step.weights);
        ops::group_by_expert(&step.chosen, logits.width, &mut step.offsets, &mut step.slots);
    }

    fn experts(&self, step: &mut Step, x: &Tensor, experts: &ExpertWeights<Self>, out: &mut Tensor) {
        let Step { stop, inputs, chosen, offsets, slots, k, gate, up, down, weights, .. } = step;
        let cpu = self.cpu(stop);
        let groups = Groups { offsets, slots, k: *k };
        let (n, ff) = (x.rows * *k, experts.ff);
        if let Some(scale) = &experts.scale {
            weights.iter_mut().zip(&*chosen).for_each(|(weight, expert)| *weight *= scale[*expert as usize]);
        }
        let (second, first_row) = experts.up.as_ref().map_or((&experts.gate, ff), |up| (up, 0));
        let formats = [experts.gate.format, second.format].into_iter();
        let row = match experts.weighed {
            Weighed::Output => {
                inputs.set(cpu, x.values(), x.width, formats);
                InputRow::Token
            }
            Weighed::Input => {
                ops::spread(cpu, x.values(), weights, *k, x.width, down.shape(n, x.width));
                inputs.set(cpu, down.values(), x.width, formats);
                weights.fill(1.0);
                InputRow::Slot
            }
        };
        let mut products = [
            ExpertProduct { weights: matrix(&experts.gate), rows: 0..ff, out: gate.shape(n, ff) },
            ExpertProduct { weights: matrix(second), rows: first_row..first_row + ff, out: up.shape(n, ff) },
        ];
        let maps = match experts.glu {
            Glu::Gated => 2,
            Glu::Plain => 1,
        };
        matmul::matmul_experts(cpu, inputs, groups, row, experts.count, &mut products[..maps]);
        for (part, bias) in [(&mut *gate, &experts.gate_bias), (&mut *up, &experts.up_bias)] {
            if let Some(bias) = bias {
                ops::add_expert_bias(cpu, part.values_mut(), bias, chosen, ff, 0..ff);
            }
        }
        match experts.glu {
            Glu::Gated => ops::glu(cpu, experts.activation, gate.values_mut(), up.values()),
            Glu::Plain => ops::activate(cpu, experts.activation, gate.values_mut()),
        }
        inputs.set(cpu, gate.values(), ff, [experts.down.format].into_iter());
        let (width, out) = (x.width, out.shape(x.rows, x.width));
        let at_once = columns_at_once(n, width);
        for start in (0..width).step_by(at_once) {
            let columns = start..width.min(start + at_once);
            let part = down.shape(n, columns.len());
            let mut products = [ExpertProduct { weights: matrix(&experts.down), rows: columns.clone(), out: &mut *part }];
            matmul::matmul_experts(cpu, inputs, groups, InputRow::Slot, experts.count, &mut products);
            if let Some(bias) = &experts.down_bias {
                ops::add_expert_bias(cpu, part, bias, chosen, width, columns.clone());
            }
            ops::combine(cpu, part, weights, *k, out, width, columns);
        }
    }

    fn gate(&self, step: &mut Step, x: &mut Tensor, gate: &Tensor) {
        ops::gate(self.cpu(&step.stop), x.values_mut(), gate.values());
    }

    fn columns(&self, step: &mut Step, x: &Tensor, from: usize, width: usize, out: &mut Tensor) {
        ops::copy_channels(self.cpu(&step.stop), (x.values(), x.width), from, (out.shape(x.rows, width), width), 0, width);
    }

    fn add_to_columns(&self, step: &mut Step, x: &mut Tensor, from: usize, y: &Tensor) {
        let width = x.width;
        ops::add_channels(self.cpu(&step.stop), (x.values_mut(), width), from, (y.values(), y.width));
    }

    fn rescale(&self, step: &mut Step, x: &mut Tensor, like: &Tensor, runs: usize) {
        ops::rescale(self.cpu(&step.stop), x.values_mut(), runs, like.values(), like.width);
    }

    fn sparsify(&self, step: &mut Step, x: &mut Tensor, sigmas: f32) {
        let width = x.width;
        ops::sparsify(self.cpu(&step.stop), x.values_mut(), sigmas, width);
    }

    fn scale_by(&self, step: &mut Step, x: &mut Tensor, by: &Vec<f32>) {
        ops::scale_by(self.cpu(&step.stop), x.values_mut(), by);
    }

    fn copy(&self, _: &mut Step, x: &Tensor, out: &mut Tensor) {
        out.shape(x.rows, x.width).copy_from_slice(x.values());
    }

    fn add(&self, step: &mut Step, x: &mut Tensor, y: &Tensor) {
        ops::add(self.cpu(&step.stop), x.values_mut(), y.values());
    }

    fn scale(&self, step: &mut Step, x: &mut Tensor, factor: f32) {
        ops::scale(self.cpu(&step.stop), x.values_mut(), factor);
    }

    fn clamp(&self, step: &mut Step, x: &mut Tensor, limit: f32) {
        ops::clamp(self.cpu(&step.stop), x.values_mut(), limit);
    }

    fn softcap(&self, step: &mut Step, x: &mut Tensor, cap: f32) {
        ops::softcap(self.cpu(&step.stop), x.values_mut(), cap);
    }

    fn wanted(&self, step: &mut Step, x: &Tensor, out: &mut Tensor) {
        let rows = out.shape(step.wanted.len(), x.width);
        for (from, to) in step.wanted.iter().zip(rows.chunks_exact_mut(x.width)) {
            to.copy_from_slice(&x.values()[from * x.width..][..x.width]);
        }
    }

    fn end(&self, _: &mut Step) -> Result<()> {
        Ok(())
    }

    fn read(&self, _: &mut Step, x: &Tensor, out: &mut Vec<f32>) -> Result<()> {
        out.clear();
        out.extend_from_slice(x.values());
        Ok(())
    }
}
