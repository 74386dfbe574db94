//! DeepSeek-V4's attention (2026): one key for all heads that is its own value, a sliding window of them, and for what lies
//! before it entries that stand for 4 positions each, of which an index chooses, or for 128, which are all looked at.
//!
//! ```text
//! q = rope(norm(norm(h·Wqa)·Wqb));  k = rope(norm(h·Wk))             the norm of q has no weight; rope turns the last channels
//! entry j = rope(norm(Σ softmax(h·Wg + a) · (h·We)))                 each channel over positions j·r .. j·r + r (r = 128), or
//!                                                                    over those of entries j - 1 (first half of We) and j (r = 4)
//! y = softmax over window, entries and sink;  out = norope(y) · Wo                      Wo: a low-rank map for each group of heads
//! index: the entries with the best Σ_heads w · relu(qᵢ · kᵢ), kᵢ entries of its own
//! ```

use crate::backend::{Attend, Backend, HeadWeights, Indexed, Linear, Norm, Pooled, Pooling, Qkv, Window};
use crate::block::attention::rope_of;
use crate::block::rope::Rope;
use crate::block::{Looks, Work};
use crate::cache::{CacheOptions, Sequence, StateSpec};
use crate::config::{CompressedConfig, NormKind, Scaling};
use crate::error::{Error, Fault, Result};
use crate::weights::Loader;
use std::fmt;

/// One layer of such attention.
pub struct Compressed<B: Backend> {
    q_down: Linear<B>,
    q_down_norm: Norm<B>,
    q_up: Linear<B>,
    q_norm: Norm<B>,
    key: Linear<B>,
    key_norm: Norm<B>,
    entries: Option<Entries<B>>,
    /// `[groups · rank, heads / groups · dim]`
    o_down: HeadWeights<B>,
    o_up: Linear<B>,
    attend: Attend<B>,
    dim: usize,
    rotary: usize,
    /// Number of its rope, and of the one that undoes it.
    rope: usize,
    back: usize,
    rope_text: String,
}

/// Where entries come from.
pub struct Entries<B: Backend> {
    values: Linear<B>,
    scores: Linear<B>,
    /// How they are made.
    pub pooling: Pooling<B>,
    index: Option<Index<B>>,
}

/// What chooses among entries.
struct Index<B: Backend> {
    q: Linear<B>,
    weights: Linear<B>,
    values: Linear<B>,
    scores: Linear<B>,
    pooling: Pooling<B>,
    heads: usize,
    dim: usize,
    most: usize,
}

/// The ratio at which entries overlap and an index chooses among them.
const OVERLAPPING: usize = 4;

impl<B: Backend> Compressed<B> {
    /// Whether layer `index` has such attention.
    pub fn in_layer(loader: &Loader<'_, B>, index: usize) -> bool {
        ["a", "b"].into_iter().any(|part| loader.has(&format!("blk.{index}.attn_output_{part}.weight")))
    }

    /// The attention of layer `index`. Ropes that no earlier layer has are added to `ropes`.
    ///
    /// # Errors
    /// Where a tensor is missing or does not fit.
    pub fn load(loader: &Loader<'_, B>, index: usize, ropes: &mut Vec<Rope>) -> Result<Compressed<B>> {
        let (config, name) = (loader.config, |part: &str| format!("blk.{index}.{part}"));
        let Some(shape) = &config.compressed else {
            let key = format!("{}.attention.compress_ratios", config.architecture);
            return Err(Error::Model(Fault::at(key).expected("an array of numbers").found("no such key")));
        };
        let (heads, dim, width, groups) = (config.heads[index], config.key_dim, config.width, shape.output_groups);
        if heads == 0 || groups == 0 || heads % groups != 0 || config.value_dim != dim {
            let fault = Fault::at(format!("{}.attention.head_count", config.architecture));
            return Err(Error::Model(fault.expected(format!("a multiple of the {groups} output groups")).found(heads)));
        }
        let norm =
            |part: &str, width: usize| loader.norm(&name(part), width)?.ok_or_else(|| loader.missing(&name(&format!("{part}.weight"))));
        let down = name("attn_q_a.weight");
        let rank = loader.rows(&down).ok_or_else(|| loader.missing(&down))?;
        let ratio = shape.ratios[index];
        let rope = match ratio {
            0 => rope_of(loader, config.rope.base, Scaling::None),
            _ => rope_of(loader, shape.rope_base, config.rope.scaling),
        };
        let rope_text = rope.to_string();
        let entries = if ratio == 0 { None } else { Some(Entries::load(loader, index, shape, rank, &rope)?) };
        let ones = loader.backend.vector(vec![1.0; dim])?;
        Ok(Compressed {
            q_down: loader.linear(&name("attn_q_a"), rank, width)?,
            q_down_norm: norm("attn_q_a_norm", rank)?,
            q_up: loader.linear(&name("attn_q_b"), heads * dim, rank)?,
            q_norm: Norm { kind: NormKind::Rms, weight: ones, bias: None, eps: config.eps, width: dim },
            key: loader.linear(&name("attn_kv"), dim, width)?,
            key_norm: norm("attn_kv_a_norm", dim)?,
            entries,
            o_down: loader.by_head(&name("attn_output_a.weight"), groups, shape.output_rank, heads / groups * dim)?,
            o_up: loader.linear(&name("attn_output_b"), width, groups * shape.output_rank)?,
            attend: Attend {
                heads,
                value_dim: dim,
                scale: config.attention_scale.unwrap_or(1.0 / (dim as f32).sqrt()),
                softcap: None,
                window: config.window.map_or(Window::None, Window::Sliding),
                sinks: loader.vector(&name("attn_sinks.weight"), heads)?,
            },
            dim,
            rotary: config.rope.rotary,
            rope: rope.clone().number(ropes),
            back: rope.back().number(ropes),
            rope_text,
        })
    }

    /// How it looks at positions.
    pub fn looks(&self) -> Looks {
        let Attend { heads, value_dim, window, .. } = self.attend;
        Looks { heads, key_dim: self.dim, value_dim, window, ratio: self.entries.as_ref().map_or(0, |entries| entries.pooling.ratio) }
    }

    /// The keys of the window, and what entries need.
    pub fn state(&self, options: &CacheOptions) -> StateSpec {
        let (kind, window, batch) = (options.k, self.attend.window, options.batch);
        match &self.entries {
            None => StateSpec::Latent { key_dim: self.dim, value_dim: self.dim, kind, window, batch },
            Some(Entries { pooling, index, .. }) => {
                let (ratio, halves, index) = (pooling.ratio, pooling.halves, index.as_ref().map(|index| index.dim));
                StateSpec::Entries { key_dim: self.dim, kind, window, batch, ratio, halves, index }
            }
        }
    }

    /// `out = attention(h)`.
    pub fn forward(&self, backend: &B, work: &mut Work<B>, sequences: &mut [&mut Sequence<B::State>], slot: usize, out: &mut B::Tensor) {
        let Work { step, h, q, k, v, mixed, gate, up, entries: pooled, .. } = work;
        let heads = self.attend.heads;
        backend.linear(step, h, &mut [(&self.q_down, gate), (&self.key, k)]);
        backend.norm_in_place(step, gate, &self.q_down_norm);
        backend.linear(step, gate, &mut [(&self.q_up, q)]);
        backend.norm_in_place(step, q, &self.q_norm);
        let [values, scores, index_q, index_weights, index_values, index_scores] = pooled;
        if let Some(entries) = &self.entries {
            backend.linear(step, h, &mut [(&entries.values, values), (&entries.scores, scores)]);
            if let Some(index) = &entries.index {
                let weights = (&index.weights, &mut *index_weights);
                backend.linear(step, h, &mut [weights, (&index.values, index_values), (&index.scores, index_scores)]);
                backend.linear(step, gate, &mut [(&index.q, index_q)]);
                backend.scale(step, index_weights, 1.0 / ((index.dim * index.heads) as f32).sqrt());
                turned(backend, step, index_q, (index.heads, index.dim, self.rotary), self.rope, [&mut *mixed, &mut *v]);
            }
        }
        turned(backend, step, q, (heads, self.dim, self.rotary), self.rope, [&mut *mixed, &mut *v]);
        backend.norm_in_place(step, k, &self.key_norm);
        turned(backend, step, k, (1, self.dim, self.rotary), self.rope, [&mut *gate, &mut *up]);
        match &self.entries {
            None => backend.attend(step, &self.attend, Qkv { q, kv: Some((k, None)) }, sequences, slot, mixed),
            Some(entries) => {
                let index = entries.index.as_ref().map(|index| Indexed {
                    q: index_q,
                    weights: index_weights,
                    values: index_values,
                    scores: index_scores,
                    pooling: &index.pooling,
                    heads: index.heads,
                    most: index.most,
                });
                let pooled = Pooled { values, scores, pooling: &entries.pooling, index };
                backend.attend_entries(step, &self.attend, (q, k), pooled, sequences, slot, mixed);
            }
        }
        turned(backend, step, mixed, (heads, self.dim, self.rotary), self.back, [&mut *q, &mut *v]);
        backend.linear_by_head(step, mixed, &self.o_down, v);
        backend.linear(step, v, &mut [(&self.o_up, out)]);
    }
}

/// The last `rotary` channels of each head of `x` turned, by way of two other tensors.
fn turned<B: Backend>(
    backend: &B,
    step: &mut B::Step,
    x: &mut B::Tensor,
    (heads, dim, rotary): (usize, usize, usize),
    rope: usize,
    [first, last]: [&mut B::Tensor; 2],
) {
    backend.split(step, x, heads, dim - rotary, first, last);
    backend.rotate(step, last, rotary, rope);
    backend.join(step, first, last, heads, x);
}

impl<B: Backend> Entries<B> {
    fn load(loader: &Loader<'_, B>, index: usize, shape: &CompressedConfig, rank: usize, rope: &Rope) -> Result<Entries<B>> {
        let (name, width, ratio) = (|part: &str| format!("blk.{index}.{part}"), loader.config.width, shape.ratios[index]);
        let pooling = load_pooling(loader, &name("attn_compressor"), ratio, loader.config.key_dim, rope)?;
        let dim = pooling.halves * loader.config.key_dim;
        let index = match ratio {
            OVERLAPPING => {
                let pooling = load_pooling(loader, &name("indexer_compressor"), ratio, shape.index_dim, rope)?;
                Some(Index {
                    q: loader.linear(&name("indexer.attn_q_b"), shape.index_heads * shape.index_dim, rank)?,
                    weights: loader.linear(&name("indexer.proj"), shape.index_heads, width)?,
                    values: loader.linear(&name("indexer_compressor_kv"), pooling.halves * shape.index_dim, width)?,
                    scores: loader.linear(&name("indexer_compressor_gate"), pooling.halves * shape.index_dim, width)?,
                    pooling,
                    heads: shape.index_heads,
                    dim: shape.index_dim,
                    most: shape.index_most,
                })
            }
            _ => None,
        };
        let (values, scores) =
            (loader.linear(&name("attn_compressor_kv"), dim, width)?, loader.linear(&name("attn_compressor_gate"), dim, width)?);
        Ok(Entries { values, scores, pooling, index })
    }
}

impl<B: Backend> fmt::Display for Compressed<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "mqa {}×{}, queries {}", self.attend.heads, self.dim, self.q_down_norm.width)?;
        match self.attend.window {
            Window::None => {}
            Window::Sliding(n) | Window::Chunked(n) => write!(f, " window {n}")?,
        }
        if let Some(Entries { pooling, index, .. }) = &self.entries {
            write!(f, " + entries of {}", pooling.ratio)?;
            if let Some(index) = index {
                write!(f, ", best {} of index {}×{}", index.most, index.heads, index.dim)?;
            }
        }
        write!(f, " {}, output in {} groups", self.rope_text, self.o_down.heads)
    }
}

/// Those of the tensors `{base}_ape` and `{base}_norm`.
fn load_pooling<B: Backend>(loader: &Loader<'_, B>, base: &str, ratio: usize, dim: usize, rope: &Rope) -> Result<Pooling<B>> {
    let halves = if ratio == OVERLAPPING { 2 } else { 1 };
    let (places, norm) = (format!("{base}_ape.weight"), format!("{base}_norm"));
    Ok(Pooling {
        ratio,
        halves,
        places: loader.vectors(&places, ratio, halves * dim)?.ok_or_else(|| loader.missing(&places))?,
        norm: loader.norm(&norm, dim)?.ok_or_else(|| loader.missing(&format!("{norm}.weight")))?,
        rope: rope.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::CpuBackend;
    use crate::block::paper::{OPTIONS, Paper, linear, matrix, norm, rope};
    use std::f64::consts::FRAC_PI_2;

    /// One head of three channels, the last two of which make a quarter turn a position; a window of one, and entries of two
    /// positions. h is (1, 0), then (0, 1). All norms leave what they get.
    ///
    /// Keys (1, 1, 1) and (-1, 1, 1), the second turned to (-1, -1, 1). Position 0 sees itself: (1, 1, 1).
    /// The entry: values (4, -8, 0) and (0, 4, 4/3), by softmax(0, ln 3) ¼ and ¾: (1, 1, 1), which stands at position 0.
    /// The query (1, 1, -1), turned at position 1 to (1, 1, 1), meets its own key at -1 and the entry at 3; the scale ln 3 / 4 makes
    /// that ¼ and ¾: (½, ½, 1), turned back (½, 1, -½). The output's maps make 1, 10, 100 times the channels, and the last.
    #[test]
    fn a_window_and_an_entry_by_hand() {
        let ropes = [rope(FRAC_PI_2), rope(FRAC_PI_2).back()];
        let (ones, three) = ([1.0; 3], 3f32.ln());
        let pooling =
            Pooling { ratio: 2, halves: 1, places: vec![0.0, 0.0, 0.0, three, three, three], norm: norm(&ones), rope: rope(FRAC_PI_2) };
        let values = linear(&[4.0, 0.0, -8.0, 4.0, 0.0, 4.0 / 3.0], 2);
        let layer: Compressed<CpuBackend> = Compressed {
            q_down: linear(&[1.0, 1.0], 2),
            q_down_norm: norm(&[1.0]),
            q_up: linear(&[1.0, 1.0, -1.0], 1),
            q_norm: norm(&ones),
            key: linear(&[1.0, -1.0, 1.0, 1.0, 1.0, 1.0], 2),
            key_norm: norm(&ones),
            entries: Some(Entries { values, scores: linear(&[0.0; 6], 2), pooling, index: None }),
            o_down: HeadWeights { stack: matrix(&[1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0], 3), heads: 1, rows: 0..3 },
            o_up: linear(&[1.0, 10.0, 100.0, 0.0, 0.0, 1.0], 3),
            attend: Attend { heads: 1, value_dim: 3, scale: three / 4.0, softcap: None, window: Window::Sliding(1), sinks: None },
            dim: 3,
            rotary: 2,
            rope: 0,
            back: 1,
            rope_text: String::new(),
        };
        let (mut paper, mut out) = (Paper::new(&[1.0, 0.0, 0.0, 1.0], 2, &ropes), Default::default());
        let mut sequence = paper.sequence(&layer.state(&OPTIONS));
        layer.forward(&paper.backend, &mut paper.work, &mut [&mut sequence], 0, &mut out);
        paper.near(&out, &[111.0, 1.0, 0.5 + 10.0 - 50.0, -0.5]);
    }
}
