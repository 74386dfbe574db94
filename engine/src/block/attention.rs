//! Multi-head attention with grouped keys and values (Vaswani et al. 2017; GQA, Ainslie et al. 2023).
//!
//! ```text
//! q, k, v = h·Wq, h·Wk, h·Wv;  q, k = norm(q), norm(k);  q, k = temperature · rope(q), rope(k)
//! y = softmax(scale · q·kᵀ) v · Wo                                                           all but the products optional
//! ```
//! Variants: norms before or after the rope, of values too; a temperature; windows, sinks, a soft cap; values that are keys; keys and
//! values of an earlier layer (Brandon et al. 2024).

use crate::backend::{Attend, Backend, Linear, Norm, Qkv, Window};
use crate::block::rope::Rope;
use crate::block::{Looks, Work};
use crate::cache::{CacheOptions, Sequence, StateSpec};
use crate::config::{NormKind, RopeConfig, Scaling, Tempered};
use crate::error::{Error, Fault, Result};
use crate::family::{HeadNorms, Values};
use crate::weights::Loader;
use hob_kernels::ops::Activation;
use std::fmt;

/// What the heads bring is gated before the last map, by σ of this.
enum OutputGate<B: Backend> {
    /// Nothing: it is not.
    None,
    /// A second half of each head's rows of W_q (Qwen3-Next).
    BesideQueries,
    /// A map of its own for each channel, `[heads · value_dim, width]` (Trinity).
    Channels(Linear<B>),
    /// The same for each head, `[heads, width]` (Step 3.5).
    Heads(Linear<B>),
}

/// One attention layer.
pub struct Attention<B: Backend> {
    q: Linear<B>,
    q_norm: Option<Norm<B>>,
    /// `None` where it looks at an earlier layer's.
    kv: Option<KeysValues<B>>,
    o: Linear<B>,
    /// Bound of queries, keys and values as they are projected.
    clamp: Option<f32>,
    /// Of rotated queries.
    q_late: Option<Norm<B>>,
    gate: OutputGate<B>,
    attend: Attend<B>,
    kv_heads: usize,
    key_dim: usize,
    turns: Turns,
}

/// What makes keys and values.
struct KeysValues<B: Backend> {
    k: Linear<B>,
    k_norm: Option<Norm<B>>,
    /// Of rotated keys.
    k_late: Option<Norm<B>>,
    /// `None` where values are keys before their norm.
    v: Option<Linear<B>>,
    v_norm: Option<Norm<B>>,
    /// Factor on values.
    v_scale: Option<f32>,
}

/// What positions do to queries and keys, as numbers among the decoder's ropes.
struct Turns {
    /// Ropes of the queries, one after the other.
    q: Vec<usize>,
    /// That of the keys.
    k: Option<usize>,
    /// For the card.
    text: String,
}

impl<B: Backend> Attention<B> {
    /// The attention of layer `index`. A rope that no earlier layer has is added to `ropes`.
    ///
    /// # Errors
    /// Where a tensor is missing or does not fit.
    pub fn load(loader: &Loader<'_, B>, index: usize, ropes: &mut Vec<Rope>) -> Result<Attention<B>> {
        let config = loader.config;
        let window = loader.window(index);
        let (heads, kv_heads, width) = (config.heads[index], config.kv_heads[index], config.width);
        let (key_dim, value_dim) = config.head_dims(window.reach());
        if heads == 0 || kv_heads == 0 || key_dim == 0 || value_dim == 0 {
            let fault = Fault::at(format!("{}.attention.head_count", config.architecture)).expected("at least one head");
            return Err(Error::Model(fault.found(format!("none in layer {index}"))));
        }
        let name = |part: &str| format!("blk.{index}.{part}");
        let gate = OutputGate::load(loader, index, key_dim, value_dim)?;
        let q_rows = match gate {
            OutputGate::None | OutputGate::Channels(_) | OutputGate::Heads(_) => heads * key_dim,
            OutputGate::BesideQueries => 2 * heads * key_dim,
        };
        let turns = Turns::load(loader, index, window, key_dim, ropes)?;
        let (q, kv) = KeysValues::load(loader, index, [q_rows, kv_heads * key_dim, kv_heads * value_dim], kv_heads, &turns)?;
        let [q_norm, q_late] = head_norms(loader, &name("attn_q_norm"), key_dim, heads, &turns)?;
        Ok(Attention {
            q,
            q_norm,
            kv,
            o: loader.linear(&name("attn_output"), width, heads * value_dim)?,
            clamp: config.clamp_qkv,
            q_late,
            gate,
            attend: Attend {
                heads,
                value_dim,
                scale: config.attention_scale.unwrap_or(1.0 / (key_dim as f32).sqrt()),
                softcap: config.attention_softcap,
                window,
                sinks: loader.vector(&name("attn_sinks.weight"), heads)?,
            },
            kv_heads,
            key_dim,
            turns,
        })
    }

    /// How it looks at positions.
    pub fn looks(&self) -> Looks {
        let Attend { heads, value_dim, window, .. } = self.attend;
        Looks { heads, key_dim: self.key_dim, value_dim, window, ratio: 0 }
    }

    /// Keys and values of every position that is seen again; `None` where they are an earlier layer's.
    pub fn state(&self, options: &CacheOptions) -> Option<StateSpec> {
        let CacheOptions { k, v, batch, .. } = *options;
        let Attend { value_dim, window, .. } = self.attend;
        self.kv.as_ref()?;
        Some(StateSpec::KeyValue { heads: self.kv_heads, key_dim: self.key_dim, value_dim, k, v, window, batch })
    }

    /// `out = attention(h)`.
    pub fn forward(&self, backend: &B, work: &mut Work<B>, sequences: &mut [&mut Sequence<B::State>], slot: usize, out: &mut B::Tensor) {
        let Work { step, h, q, k, v, mixed, gate, .. } = work;
        let target = match &self.gate {
            OutputGate::None => &mut *q,
            OutputGate::BesideQueries => &mut *mixed,
            OutputGate::Channels(map) | OutputGate::Heads(map) => {
                backend.linear(step, h, &mut [(map, &mut *gate)]);
                &mut *q
            }
        };
        match &self.kv {
            None => backend.linear(step, h, &mut [(&self.q, target)]),
            Some(KeysValues { k: kw, v: Some(vw), .. }) => backend.linear(step, h, &mut [(&self.q, target), (kw, k), (vw, v)]),
            Some(KeysValues { k: kw, v: None, .. }) => {
                backend.linear(step, h, &mut [(&self.q, target), (kw, k)]);
                backend.copy(step, k, v);
            }
        }
        if let OutputGate::BesideQueries = self.gate {
            backend.split(step, mixed, self.attend.heads, self.key_dim, q, gate);
        }
        let norm = |step: &mut B::Step, x: &mut B::Tensor, norm: &Option<Norm<B>>| {
            norm.iter().for_each(|norm| backend.norm_in_place(step, x, norm));
        };
        self.clamp.iter().for_each(|limit| backend.clamp(step, q, *limit));
        norm(step, q, &self.q_norm);
        self.turns.q.iter().for_each(|rope| backend.rotate(step, q, self.key_dim, *rope));
        norm(step, q, &self.q_late);
        if let Some(kv) = &self.kv {
            if let Some(limit) = self.clamp {
                backend.clamp(step, k, limit);
                backend.clamp(step, v, limit);
            }
            norm(step, k, &kv.k_norm);
            self.turns.k.iter().for_each(|rope| backend.rotate(step, k, self.key_dim, *rope));
            norm(step, k, &kv.k_late);
            norm(step, v, &kv.v_norm);
            kv.v_scale.iter().for_each(|factor| backend.scale(step, v, *factor));
        }
        let qkv = Qkv { q, kv: self.kv.as_ref().map(|_| (&*k, Some(&*v))) };
        backend.attend(step, &self.attend, qkv, sequences, slot, mixed);
        let mixed = match self.gate {
            OutputGate::None => mixed,
            OutputGate::BesideQueries | OutputGate::Channels(_) => {
                backend.glu(step, Activation::Sigmoid, gate, mixed);
                gate
            }
            OutputGate::Heads(_) => {
                backend.gate(step, mixed, gate);
                mixed
            }
        };
        backend.linear(step, mixed, &mut [(&self.o, out)]);
    }
}

impl<B: Backend> OutputGate<B> {
    /// That of layer `index`, as its tensors say.
    fn load(loader: &Loader<'_, B>, index: usize, key_dim: usize, value_dim: usize) -> Result<OutputGate<B>> {
        let (heads, width) = (loader.config.heads[index], loader.config.width);
        let name = |part: &str| format!("blk.{index}.{part}");
        let map = |rows: usize| loader.linear(&name("attn_gate"), rows, width);
        match (loader.rows(&name("attn_gate.weight")), loader.rows(&name("attn_q.weight"))) {
            (Some(rows), _) if rows == heads => map(heads).map(OutputGate::Heads),
            (Some(_), _) => map(heads * value_dim).map(OutputGate::Channels),
            (None, Some(rows)) if rows == 2 * heads * key_dim && key_dim == value_dim => Ok(OutputGate::BesideQueries),
            (None, _) => Ok(OutputGate::None),
        }
    }
}

impl<B: Backend> KeysValues<B> {
    /// What makes the queries, keys and values of layer `index`, whose heights are these.
    fn load(
        loader: &Loader<'_, B>,
        index: usize,
        heights: [usize; 3],
        kv_heads: usize,
        turns: &Turns,
    ) -> Result<(Linear<B>, Option<KeysValues<B>>)> {
        let name = |part: &str| format!("blk.{index}.{part}");
        let (width, [q_rows, k_rows, v_rows]) = (loader.config.width, heights);
        if loader.kv_layer(index)? != index {
            // Some files hold what these layers were trained with and do not use.
            ["attn_k.weight", "attn_v.weight", "attn_k_norm.weight"].iter().for_each(|part| loader.pass_over(&name(part)));
            return Ok((loader.linear(&name("attn_q"), q_rows, width)?, None));
        }
        let (q, k, v) = if loader.has(&name("attn_qkv.weight")) {
            let [q, k, v] = loader.fused(&name("attn_qkv"), heights, width)?;
            (q, k, Some(v))
        } else {
            let keys = loader.family.values == Values::NormedOrKeys && !loader.has(&name("attn_v.weight")) && k_rows == v_rows;
            let v = if keys { None } else { Some(loader.linear(&name("attn_v"), v_rows, width)?) };
            (loader.linear(&name("attn_q"), q_rows, width)?, loader.linear(&name("attn_k"), k_rows, width)?, v)
        };
        let v_norm = match loader.family.values {
            Values::Projected => None,
            Values::Normed | Values::NormedOrKeys => Some(loader.plain_norm(NormKind::Rms, v_rows / kv_heads)?),
        };
        let [k_norm, k_late] = head_norms(loader, &name("attn_k_norm"), k_rows / kv_heads, kv_heads, turns)?;
        Ok((q, Some(KeysValues { k, k_norm, k_late, v, v_norm, v_scale: loader.config.value_scale })))
    }
}

/// The norms of queries or keys before the rope and after it: of each head by itself (Qwen 3), or of all heads together
/// (OLMo 2), as long as its weight.
fn head_norms<B: Backend>(
    loader: &Loader<'_, B>,
    name: &str,
    head_dim: usize,
    heads: usize,
    turns: &Turns,
) -> Result<[Option<Norm<B>>; 2]> {
    let all = loader.row_length(&format!("{name}.weight")) == Some(heads * head_dim);
    let own = loader.norm(name, if all { heads * head_dim } else { head_dim })?;
    match loader.family.head_norms {
        HeadNorms::BeforeRope => {
            let plain = loader.config.late_norm.filter(|_| turns.k.is_some());
            Ok([own, plain.map(|kind| loader.plain_norm(kind, head_dim)).transpose()?])
        }
        HeadNorms::AfterRope => Ok([None, own]),
    }
}

impl Turns {
    /// Those of layer `index`. A rope that no earlier layer has is added to `ropes`.
    fn load<B: Backend>(loader: &Loader<'_, B>, index: usize, window: Window, key_dim: usize, ropes: &mut Vec<Rope>) -> Result<Turns> {
        let mut number = |rope: Rope| {
            ropes.iter().position(|r| *r == rope).unwrap_or_else(|| {
                ropes.push(rope);
                ropes.len() - 1
            })
        };
        let roped = loader.family.roped(index, window.reach() == loader.config.window) && loader.config.rope.rotary > 0;
        let own = if roped { Some(rope(loader, window != Window::None)?) } else { None };
        let text = own.as_ref().map_or_else(|| "no rope".to_owned(), Rope::to_string);
        let temperature = loader.config.temperature.filter(|t| match t.layers {
            Tempered::All => true,
            Tempered::WithoutRope => own.is_none(),
        });
        let (q, text) = match (&own, temperature) {
            (None, None) => (vec![], text),
            (Some(own), None) => (vec![number(own.clone())], text),
            // Where all channels turn, one pass does both.
            (Some(own), Some(t)) if own.rotary() == key_dim => (vec![number(own.clone().with_temperature(t))], text + " temperature"),
            (Some(own), Some(t)) => (vec![number(own.clone()), number(Rope::still(key_dim, t))], text + " temperature"),
            (None, Some(t)) => (vec![number(Rope::still(key_dim, t))], text + " temperature"),
        };
        Ok(Turns { q, k: own.map(number), text })
    }
}

/// A rope with this base and stretch.
pub(super) fn rope_of<B: Backend>(loader: &Loader<'_, B>, base: f32, scaling: Scaling) -> Rope {
    Rope::new(&loader.config.rope, loader.family.pairing, base, scaling, None)
}

/// The rope of a layer, with or without a window.
pub(super) fn rope<B: Backend>(loader: &Loader<'_, B>, windowed: bool) -> Result<Rope> {
    let config = &loader.config.rope;
    let pairing = loader.family.pairing;
    let pairs = config.rotary / 2;
    if let Some(base) = config.window_base.filter(|_| windowed) {
        let rotary = config.window_rotary.unwrap_or(config.rotary);
        return Ok(Rope::new(&RopeConfig { rotary, ..config.clone() }, pairing, base, Scaling::None, None));
    }
    // Per-frequency divisors: Llama 3.1 has one list, LongRoPE one for short contexts and one for long ones.
    let [short, long] = ["rope_factors_short.weight", "rope_factors_long.weight"].map(|name| (name, loader.values(name, pairs)));
    let (short, long) = ((short.0, short.1?), (long.0, long.1?));
    if short.1.is_some() || long.1.is_some() || config.scaling == Scaling::LongRope {
        let (name, divisors) = if loader.context > config.original_context { long } else { short };
        let divisors = divisors.ok_or_else(|| loader.missing(name))?;
        return Ok(Rope::new(config, pairing, config.base, Scaling::LongRope, Some(&divisors)));
    }
    let divisors = loader.values("rope_freqs.weight", pairs)?;
    Ok(Rope::new(config, pairing, config.base, config.scaling, divisors.as_deref()))
}

impl<B: Backend> fmt::Display for Attention<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match (self.attend.heads, self.kv_heads) {
            (q, kv) if q == kv => "mha",
            (_, 1) => "mqa",
            _ => "gqa",
        };
        write!(f, "{kind} {}/{}×{}", self.attend.heads, self.kv_heads, self.key_dim)?;
        if self.attend.value_dim != self.key_dim {
            write!(f, ":{}", self.attend.value_dim)?;
        }
        if self.q.bias.is_some() {
            f.write_str(" bias")?;
        }
        if let Some(limit) = self.clamp {
            write!(f, " within {limit}")?;
        }
        match self.gate {
            OutputGate::None => {}
            OutputGate::BesideQueries | OutputGate::Channels(_) => f.write_str(" gated")?,
            OutputGate::Heads(_) => f.write_str(" gated by head")?,
        }
        match &self.q_norm {
            Some(norm) if norm.width == self.key_dim => f.write_str(" qk-norm")?,
            Some(_) => f.write_str(" qk-norm of all heads")?,
            None => {}
        }
        match &self.kv {
            None => f.write_str(" shared kv")?,
            Some(KeysValues { v: None, .. }) => f.write_str(" v=k v-norm")?,
            Some(KeysValues { v_norm: Some(_), .. }) => f.write_str(" v-norm")?,
            Some(KeysValues { v_scale: Some(factor), .. }) => write!(f, " v×{factor}")?,
            Some(KeysValues { v_norm: None, v_scale: None, .. }) => {}
        }
        write!(f, " {}", self.turns.text)?;
        if self.q_late.is_some() {
            f.write_str(" → qk-norm")?;
        }
        match self.attend.window {
            Window::None => {}
            Window::Sliding(window) => write!(f, " window {window}")?,
            Window::Chunked(chunk) => write!(f, " chunks of {chunk}")?,
        }
        if self.attend.sinks.is_some() {
            f.write_str(" sinks")?;
        }
        match self.attend.softcap {
            Some(cap) => write!(f, " softcap {cap}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::CpuBackend;
    use crate::block::paper::{OPTIONS, Paper, linear, rope, sigmoid};

    fn attention(heads: usize, key_dim: usize, q: &[f32], [k, v, o]: [&[f32]; 3], width: usize) -> Attention<CpuBackend> {
        Attention {
            q: linear(q, width),
            q_norm: None,
            kv: Some(KeysValues {
                k: linear(k, width),
                k_norm: None,
                k_late: None,
                v: Some(linear(v, width)),
                v_norm: None,
                v_scale: None,
            }),
            o: linear(o, heads),
            clamp: None,
            q_late: None,
            gate: OutputGate::None,
            attend: Attend { heads, value_dim: 1, scale: 1.0, softcap: None, window: Window::None, sinks: None },
            kv_heads: 1,
            key_dim,
            turns: Turns { q: vec![], k: None, text: String::new() },
        }
    }

    fn gives(attention: &Attention<CpuBackend>, h: &[f32], width: usize, ropes: &[Rope], want: &[f64]) {
        let (mut paper, mut out) = (Paper::new(h, width, ropes), Default::default());
        let mut sequence = paper.sequence(&attention.state(&OPTIONS).unwrap());
        attention.forward(&paper.backend, &mut paper.work, &mut [&mut sequence], 0, &mut out);
        paper.near(&out, want);
    }

    /// Two heads look at one of keys and values, whose two channels turn by 1 a position. h is (1, 0), then (0, 1).
    ///
    /// Queries are (1, 0) and (2, 0), keys (0, 1): turned by p and p', they meet at sin(p - p') and twice that. So position 1 scores
    /// sin 1 on position 0 and 0 on itself, and weighs the first σ(sin 1), in the second head σ(2 sin 1). Values are 3 and 5.
    #[test]
    fn two_positions_by_hand() {
        let (q, k) = ([1.0, 1.0, 0.0, 0.0, 2.0, 2.0, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0]);
        let turns = Turns { q: vec![0], k: Some(0), text: String::new() };
        let two = Attention { turns, ..attention(2, 2, &q, [&k, &[3.0, 5.0], &[1.0, 0.0, 0.0, 1.0]], 2) };
        let second = |score: f64| 5.0 - 2.0 * sigmoid(score);
        gives(&two, &[1.0, 0.0, 0.0, 1.0], 2, &[rope(1.0)], &[3.0, 3.0, second(1f64.sin()), second(2.0 * 1f64.sin())]);
    }

    /// The value 8 comes no farther than 3.
    #[test]
    fn a_clamp_by_hand() {
        let clamped = Attention { clamp: Some(3.0), ..attention(1, 1, &[1.0], [&[1.0], &[8.0], &[1.0]], 1) };
        gives(&clamped, &[1.0], 1, &[], &[3.0]);
    }

    /// Two heads bring 8 each; their gates are σ(ln 3) = ¾ and σ(0) = ½.
    #[test]
    fn a_gate_for_each_head_by_hand() {
        let heads = attention(2, 1, &[1.0, 1.0], [&[1.0], &[8.0], &[1.0, 0.0, 0.0, 1.0]], 1);
        let gated = Attention { gate: OutputGate::Heads(linear(&[3f32.ln(), 0.0], 1)), ..heads };
        gives(&gated, &[1.0], 1, &[], &[6.0, 4.0]);
    }

    /// Behind the query's row lies the gate's: σ(ln 3) = ¾ of the value 8.
    #[test]
    fn an_output_gate_by_hand() {
        let gated = Attention { gate: OutputGate::BesideQueries, ..attention(1, 1, &[1.0, 3f32.ln()], [&[1.0], &[8.0], &[1.0]], 1) };
        gives(&gated, &[1.0], 1, &[], &[6.0]);
    }
}
