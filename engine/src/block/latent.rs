//! Multi-head latent attention (DeepSeek-V2, 2024, section 2.1): all heads share one small latent and one rotary key, and
//! these are all that is remembered of a position.
//!
//! ```text
//! q = h·Wq, or norm(h·Wqa)·Wqb                      a head of it: content n | rotary r       n, r = q's first, last channels
//! c, k = h·Wkv;  c = norm(c);  r, k = rope(r), rope(k)
//! as trained     score = scale · (n · (Wk c) + r · k)         y = Σ softmax(score) · (Wv c)             Wk, Wv: one a head
//! as computed    score = scale · [Wkᵀ n | r] · [c | k]        y = Wv · Σ softmax(score) c                     then y · Wo
//! ```
//! The second form (the paper's "absorbed" one) never makes keys and values of the heads: the cache has one head, whose key
//! is `[c | k]` and whose value is the key's first channels. Files of before April 2025 (llama.cpp, PR 12801) are made for the
//! first form: of each head, the rows of Wk and then those of Wv in one tensor.

use crate::backend::{Attend, Backend, HeadWeights, Linear, Norm, Qkv, Stored, Window};
use crate::block::attention::rope;
use crate::block::rope::Rope;
use crate::block::{Looks, Work};
use crate::cache::{CacheOptions, Sequence, StateSpec};
use crate::config::LatentConfig;
use crate::error::{Error, Fault, Result};
use crate::weights::Loader;
use hob_kernels::Format;
use hob_kernels::format::{dequantize, quantize};
use std::fmt;

/// One layer of latent attention.
pub struct Latent<B: Backend> {
    queries: Queries<B>,
    /// `[rank + rotary, width]`.
    kv: Linear<B>,
    kv_norm: Norm<B>,
    /// Wkᵀ of each head, `[rank, content]`.
    k_b: HeadWeights<B>,
    /// Wv of each head, `[value_dim, rank]`.
    v_b: HeadWeights<B>,
    o: Linear<B>,
    attend: Attend<B>,
    /// Channels of a query head that meet the latent.
    content: usize,
    /// Channels of a query head that turn with the position, where they do.
    rotary: usize,
    /// Channels of the latent.
    rank: usize,
    /// Channels of a value head.
    value_dim: usize,
    turns: Turns,
    /// Bytes of keys that were transposed, and so copied.
    copied: u64,
}

/// What positions do, as numbers among the decoder's ropes.
struct Turns {
    /// The rotary channels of queries.
    queries: Option<usize>,
    /// The content of queries, which only grows.
    content: Option<usize>,
    /// The rotary key.
    keys: Option<usize>,
    /// For the card.
    text: String,
}

/// How queries come about.
enum Queries<B: Backend> {
    /// `[heads · (content + rotary), width]` (DeepSeek-V2-Lite).
    Straight(Linear<B>),
    /// By way of a latent of their own.
    LowRank {
        /// `[rank, width]`.
        down: Linear<B>,
        norm: Norm<B>,
        /// `[heads · (content + rotary), rank]`.
        up: Linear<B>,
    },
}

impl<B: Backend> Latent<B> {
    /// Whether layer `index` has such attention.
    pub fn in_layer(loader: &Loader<'_, B>, index: usize) -> bool {
        loader.has(&format!("blk.{index}.attn_kv_a_mqa.weight"))
    }

    /// The attention of layer `index`. A rope that no earlier layer has is added to `ropes`.
    ///
    /// # Errors
    /// Where a tensor is missing or does not fit.
    pub fn load(loader: &Loader<'_, B>, index: usize, ropes: &mut Vec<Rope>) -> Result<Latent<B>> {
        let config = loader.config;
        let name = |part: &str| format!("blk.{index}.{part}");
        let Some(shape) = config.latent else {
            let key = format!("{}.attention.kv_lora_rank", config.architecture);
            let fault = Fault::at(key).expected("a number").found("no such key");
            return Err(Error::Model(fault.help(format!("the file has {}", name("attn_kv_a_mqa.weight")))));
        };
        let (heads, width, rank, rotary) = (config.heads[index], config.width, shape.rank, config.rope.rotary);
        let Some(content) = shape.key_dim.checked_sub(rotary).filter(|n| *n > 0) else {
            let fault = Fault::at(format!("{}.attention.key_length_mla", config.architecture));
            return Err(Error::Model(fault.expected(format!("more than the {rotary} channels that turn")).found(shape.key_dim)));
        };
        if heads == 0 {
            let fault = Fault::at(format!("{}.attention.head_count", config.architecture)).expected("at least one head");
            return Err(Error::Model(fault.found(format!("none in layer {index}"))));
        }
        let norm =
            |part: &str, width: usize| loader.norm(&name(part), width)?.ok_or_else(|| loader.missing(&name(&format!("{part}.weight"))));
        let queries = match loader.rows(&name("attn_q_a.weight")) {
            None => Queries::Straight(loader.linear(&name("attn_q"), heads * shape.key_dim, width)?),
            Some(rank) => Queries::LowRank {
                down: loader.linear(&name("attn_q_a"), rank, width)?,
                norm: norm("attn_q_a_norm", rank)?,
                up: loader.linear(&name("attn_q_b"), heads * shape.key_dim, rank)?,
            },
        };
        let Maps { k_b, v_b, copied } = Maps::load(loader, index, content, shape)?;
        Ok(Latent {
            queries,
            kv: loader.linear(&name("attn_kv_a_mqa"), rank + rotary, width)?,
            kv_norm: norm("attn_kv_a_norm", rank)?,
            k_b,
            v_b,
            o: loader.linear(&name("attn_output"), width, heads * shape.value_dim)?,
            attend: Attend {
                heads,
                value_dim: rank,
                scale: config.attention_scale.unwrap_or(1.0 / (shape.key_dim as f32).sqrt()),
                softcap: config.attention_softcap,
                window: Window::None,
                sinks: None,
            },
            content,
            rotary,
            rank,
            value_dim: shape.value_dim,
            turns: Turns::load(loader, index, content, ropes)?,
            copied,
        })
    }

    /// How it looks at positions.
    pub fn looks(&self) -> Looks {
        let Attend { heads, value_dim, window, .. } = self.attend;
        Looks { heads, key_dim: self.rank + self.rotary, value_dim, window, ratio: 0 }
    }

    /// Bytes of weights that it holds beside those of the file.
    pub fn copied(&self) -> u64 {
        self.copied
    }

    /// The latent and the rotary key of every position.
    pub fn state(&self, options: &CacheOptions) -> StateSpec {
        let (kind, window, batch) = (options.k, self.attend.window, options.batch);
        StateSpec::Latent { key_dim: self.rank + self.rotary, value_dim: self.rank, kind, window, batch }
    }

    /// `out = attention(h)`.
    pub fn forward(&self, backend: &B, work: &mut Work<B>, sequences: &mut [&mut Sequence<B::State>], slot: usize, out: &mut B::Tensor) {
        let Work { step, h, q, k, v, mixed, gate: content, up: rotary, .. } = work;
        let heads = self.attend.heads;
        match &self.queries {
            Queries::Straight(linear) => backend.linear(step, h, &mut [(linear, q), (&self.kv, k)]),
            Queries::LowRank { down, norm, up } => {
                backend.linear(step, h, &mut [(down, content), (&self.kv, k)]);
                backend.norm_in_place(step, content, norm);
                backend.linear(step, content, &mut [(up, q)]);
            }
        }
        backend.split(step, q, heads, self.content, content, rotary);
        if let Some(rope) = self.turns.queries {
            backend.rotate(step, rotary, self.rotary, rope);
        }
        if let Some(rope) = self.turns.content {
            backend.rotate(step, content, self.content, rope);
        }
        backend.linear_by_head(step, content, &self.k_b, mixed);
        backend.join(step, mixed, rotary, heads, q);

        backend.split(step, k, 1, self.rank, content, rotary);
        backend.norm_in_place(step, content, &self.kv_norm);
        if let Some(rope) = self.turns.keys {
            backend.rotate(step, rotary, self.rotary, rope);
        }
        backend.join(step, content, rotary, 1, k);

        let qkv = Qkv { q, kv: Some((k, None)) };
        backend.attend(step, &self.attend, qkv, sequences, slot, mixed);
        backend.linear_by_head(step, mixed, &self.v_b, v);
        backend.linear(step, v, &mut [(&self.o, out)]);
    }
}

/// The maps of the heads, from the latent and to it.
struct Maps<B: Backend> {
    k_b: HeadWeights<B>,
    v_b: HeadWeights<B>,
    /// Bytes of `k_b` where it is a copy.
    copied: u64,
}

impl<B: Backend> Maps<B> {
    /// Those of layer `index`.
    fn load(loader: &Loader<'_, B>, index: usize, content: usize, shape: LatentConfig) -> Result<Maps<B>> {
        let name = |layer: usize, part: &str| format!("blk.{layer}.attn_{part}.weight");
        let (heads, LatentConfig { rank, value_dim, .. }) = (loader.config.heads[index], shape);
        let both = name(index, "kv_b");
        if !loader.has(&both) || loader.has(&name(index, "k_b")) {
            loader.pass_over(&both); // in some files beside what was made of it
            let k_b = loader.by_head(&name(index, "k_b"), heads, rank, content)?;
            return Ok(Maps { k_b, v_b: loader.by_head(&name(index, "v_b"), heads, value_dim, rank)?, copied: 0 });
        }
        let all = content + value_dim;
        let v_b = HeadWeights { rows: content..all, ..loader.by_head(&both, heads, all, rank)? };
        let stored = loader.stored(&both, &[rank, heads * all])?.ok_or_else(|| loader.missing(&both))?;
        let turned = turned(&stored, heads, content);
        let layers = || (0..loader.config.layers).filter(|layer| loader.has(&name(*layer, "kv_b")));
        if layers().next() == Some(index) {
            let mib = (turned.bytes.len() * layers().count()) >> 20;
            tracing::info!(mib, "attn_kv_b has keys and values in one: a copy of its keys, transposed, is kept in memory");
        }
        let copied = turned.bytes.len() as u64;
        Ok(Maps { k_b: HeadWeights { stack: loader.backend.weight(turned)?, heads, rows: 0..rank }, v_b, copied })
    }
}

/// Of each head's matrix `[all, rank]` the first `content` rows, transposed: `[heads · rank, content]`.
///
/// Blocks run along rows and cannot be turned, and to quantize anew would lose as much again. F16 rounds a weight by at most
/// 1/2048 of it, where Q8_0 did by up to 1/254 of the largest in its block. It is 54 MiB for DeepSeek-V2-Lite (27 layers ·
/// 16 heads · 512 · 128) and 976 MiB for V3 (61 layers · 128 heads), whose files have hundreds of GiB.
fn turned(stored: &Stored, heads: usize, content: usize) -> Stored {
    let (rank, all) = (stored.cols, stored.rows / heads);
    let format = match stored.format {
        whole @ (Format::F32 | Format::BF16) => whole,
        _ => Format::F16,
    };
    let row_bytes = stored.bytes.len() / stored.rows;
    let (mut rows, mut columns) = (vec![0.0; content * rank], vec![0.0; content * rank]);
    let mut bytes = vec![0; heads * content * rank * format.block_bytes()];
    for (head, out) in bytes.chunks_exact_mut(content * rank * format.block_bytes()).enumerate() {
        dequantize(stored.format, &stored.bytes[head * all * row_bytes..][..content * row_bytes], &mut rows);
        for (i, column) in columns.chunks_exact_mut(content).enumerate() {
            column.iter_mut().zip(rows[i..].iter().step_by(rank)).for_each(|(x, y)| *x = *y);
        }
        quantize(format, &columns, None, out);
    }
    Stored { name: format!("{} (keys)", stored.name), format, rows: heads * rank, cols: content, bytes: bytes.into() }
}

impl Turns {
    /// Those of layer `index`. A rope that no earlier layer has is added to `ropes`.
    fn load<B: Backend>(loader: &Loader<'_, B>, index: usize, content: usize, ropes: &mut Vec<Rope>) -> Result<Turns> {
        let mut number = |rope: Rope| {
            ropes.iter().position(|r| *r == rope).unwrap_or_else(|| {
                ropes.push(rope);
                ropes.len() - 1
            })
        };
        let own = if loader.family.roped(index, false) { rope(loader, false)? } else { return Ok(Turns::none()) };
        let text = own.to_string();
        let keys = Some(number(own.clone()));
        Ok(match loader.config.temperature {
            None => Turns { queries: keys, content: None, keys, text },
            Some(t) => {
                let (queries, content) = (number(own.with_temperature(t)), number(Rope::still(content, t)));
                Turns { queries: Some(queries), content: Some(content), keys, text: text + " temperature" }
            }
        })
    }

    /// Of a layer that does not know positions (Kimi Linear: its other layers do).
    fn none() -> Turns {
        Turns { queries: None, content: None, keys: None, text: "no rope".to_owned() }
    }
}

impl<B: Backend> fmt::Display for Latent<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "mla {}×{}+{}:{}, latent {}", self.attend.heads, self.content, self.rotary, self.value_dim, self.rank)?;
        match &self.queries {
            Queries::Straight(_) => {}
            Queries::LowRank { norm, .. } => write!(f, ", queries {}", norm.width)?,
        }
        write!(f, " {}", self.turns.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::CpuBackend;
    use crate::block::paper::{OPTIONS, Paper, linear, matrix, norm};

    /// One head: one channel of content, two rotary ones that stay as they are, a latent and a value of one channel.
    ///
    /// Position 0 has h = (1, 0), position 1 h = (0, 1). q = (2 h₀ + h₁ | h₀, h₁): (2 | 1, 0) and (1 | 0, 1).
    /// The latent h₀ - h₁ is 1 and -1; normalised, as a vector of one channel, its sign times the weight 3: 3 and -3.
    /// The rotary key (h₁, h₀) is (0, 1) and (1, 0). With Wk = ½ position 1 scores ½·1·3 + (0, 1)·(0, 1) = 2.5 on position 0 and
    /// ½·1·(-3) + (0, 1)·(1, 0) = -1.5 on itself, so that it weighs them σ(4) and σ(-4): 3 tanh 2 of the latent. Wv = 2, Wo = (1, -1).
    #[test]
    fn two_positions_by_hand() {
        let latent: Latent<CpuBackend> = Latent {
            queries: Queries::Straight(linear(&[2.0, 1.0, 1.0, 0.0, 0.0, 1.0], 2)),
            kv: linear(&[1.0, -1.0, 0.0, 1.0, 1.0, 0.0], 2),
            kv_norm: norm(&[3.0]),
            k_b: HeadWeights { stack: matrix(&[0.5], 1), heads: 1, rows: 0..1 },
            v_b: HeadWeights { stack: matrix(&[2.0], 1), heads: 1, rows: 0..1 },
            o: linear(&[1.0, -1.0], 1),
            attend: Attend { heads: 1, value_dim: 1, scale: 1.0, softcap: None, window: Window::None, sinks: None },
            content: 1,
            rotary: 2,
            rank: 1,
            value_dim: 1,
            turns: Turns::none(),
            copied: 0,
        };
        let mut paper = Paper::new(&[1.0, 0.0, 0.0, 1.0], 2, &[]);
        let state = paper.backend.state(&latent.state(&OPTIONS), OPTIONS.capacity).unwrap();
        assert_eq!(crate::cache::LayerState::bytes(&state), 64 * 3 * 4, "a block of 64 latents and rotary keys");
        let mut sequence = paper.sequence(&latent.state(&OPTIONS));
        let mut out = Default::default();
        latent.forward(&paper.backend, &mut paper.work, &mut [&mut sequence], 0, &mut out);
        let second = 6.0 * 2f64.tanh();
        paper.near(&out, &[6.0, -6.0, second, -second]);
    }

    /// Two heads of a latent of two channels, one row of keys and one of values each: Wk = (1, 2), Wv = (9, 9); Wk = (3, 4).
    /// Transposed, a head's keys are a column.
    #[test]
    fn keys_turned_by_hand() {
        let both = matrix(&[1.0, 2.0, 9.0, 9.0, 3.0, 4.0, 9.0, 9.0], 2);
        let turned = turned(&both, 2, 1);
        assert_eq!((turned.rows, turned.cols, turned.format), (4, 1, Format::F32));
        assert_eq!(&*turned.bytes, &*matrix(&[1.0, 2.0, 3.0, 4.0], 1).bytes);
    }
}
