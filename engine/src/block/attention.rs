//! Multi-head attention with grouped keys and values (Vaswani et al. 2017; GQA, Ainslie et al. 2023).
//!
//! ```text
//! q, k, v = h·Wq, h·Wk, h·Wv;  q, k = norm(q), norm(k);  q, k = temperature · rope(q), rope(k)
//! y = softmax(scale · q·kᵀ) v · Wo                 norms, biases, ropes, temperature, window, sinks and soft cap optional
//! ```

use crate::backend::{Attend, Backend, Linear, Qkv, Window};
use crate::block::rope::Rope;
use crate::block::{Norm, Work};
use crate::cache::{CacheOptions, Sequence, StateSpec};
use crate::config::Scaling;
use crate::error::{Error, Fault, Result};
use crate::weights::Loader;
use std::fmt;

/// One attention layer.
pub struct Attention<B: Backend> {
    q: Linear<B>,
    k: Linear<B>,
    v: Linear<B>,
    o: Linear<B>,
    q_norm: Option<Norm<B>>,
    k_norm: Option<Norm<B>>,
    attend: Attend<B>,
    kv_heads: usize,
    key_dim: usize,
    turns: Turns,
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
        let (heads, kv_heads) = (config.heads[index], config.kv_heads[index]);
        let (key_dim, value_dim, width) = (config.key_dim, config.value_dim, config.width);
        if heads == 0 || kv_heads == 0 || key_dim == 0 || value_dim == 0 {
            let fault = Fault::at(format!("{}.attention.head_count", config.architecture)).expected("at least one head");
            return Err(Error::Model(fault.found(format!("none in layer {index}"))));
        }
        let name = |part: &str| format!("blk.{index}.{part}");
        let [q, k, v] = if loader.has(&name("attn_qkv.weight")) {
            loader.fused(&name("attn_qkv"), [heads * key_dim, kv_heads * key_dim, kv_heads * value_dim], width)?
        } else {
            [
                loader.linear(&name("attn_q"), heads * key_dim, width)?,
                loader.linear(&name("attn_k"), kv_heads * key_dim, width)?,
                loader.linear(&name("attn_v"), kv_heads * value_dim, width)?,
            ]
        };
        let windowed = config.windowed.as_ref().map_or_else(|| loader.family.windowed(index), |layers| layers[index]);
        let window = config.window.filter(|_| windowed);
        Ok(Attention {
            q,
            k,
            v,
            o: loader.linear(&name("attn_output"), width, heads * value_dim)?,
            q_norm: head_norm(loader, &name("attn_q_norm"), key_dim, heads)?,
            k_norm: head_norm(loader, &name("attn_k_norm"), key_dim, kv_heads)?,
            attend: Attend {
                heads,
                value_dim,
                scale: config.attention_scale.unwrap_or(1.0 / (key_dim as f32).sqrt()),
                softcap: config.attention_softcap,
                window: window.map_or(Window::None, Window::Sliding),
                sinks: loader.vector(&name("attn_sinks.weight"), heads)?,
            },
            kv_heads,
            key_dim,
            turns: Turns::load(loader, index, window, ropes)?,
        })
    }

    /// Keys and values of every position that is seen again.
    pub fn state(&self, options: &CacheOptions) -> StateSpec {
        let CacheOptions { k, v, batch, .. } = *options;
        let Attend { value_dim, window, .. } = self.attend;
        StateSpec::KeyValue { heads: self.kv_heads, key_dim: self.key_dim, value_dim, k, v, window, batch }
    }

    /// `out = attention(h)`.
    pub fn forward(&self, backend: &B, work: &mut Work<B>, sequences: &mut [&mut Sequence<B>], slot: usize, out: &mut B::Tensor) {
        let step = &mut work.step;
        backend.linear(step, &work.h, &mut [(&self.q, &mut work.q), (&self.k, &mut work.k), (&self.v, &mut work.v)]);
        if let Some(norm) = &self.q_norm {
            backend.norm_in_place(step, &mut work.q, norm);
        }
        if let Some(norm) = &self.k_norm {
            backend.norm_in_place(step, &mut work.k, norm);
        }
        for rope in &self.turns.q {
            backend.rotate(step, &mut work.q, self.key_dim, *rope);
        }
        if let Some(rope) = self.turns.k {
            backend.rotate(step, &mut work.k, self.key_dim, rope);
        }
        let qkv = Qkv { q: &work.q, kv: Some((&work.k, Some(&work.v))) };
        backend.attend(step, &self.attend, qkv, sequences, slot, &mut work.mixed);
        backend.linear(step, &work.mixed, &mut [(&self.o, out)]);
    }
}

/// The norm of queries or keys: of each head by itself (Qwen 3), or of all heads together (OLMo 2), as long as its weight.
fn head_norm<B: Backend>(loader: &Loader<'_, B>, name: &str, head_dim: usize, heads: usize) -> Result<Option<Norm<B>>> {
    let all = loader.row_length(&format!("{name}.weight")) == Some(heads * head_dim);
    loader.norm(name, if all { heads * head_dim } else { head_dim })
}

impl Turns {
    /// Those of layer `index`. A rope that no earlier layer has is added to `ropes`.
    fn load<B: Backend>(loader: &Loader<'_, B>, index: usize, window: Option<usize>, ropes: &mut Vec<Rope>) -> Result<Turns> {
        let key_dim = loader.config.key_dim;
        let mut number = |rope: Rope| {
            ropes.iter().position(|r| *r == rope).unwrap_or_else(|| {
                ropes.push(rope);
                ropes.len() - 1
            })
        };
        let roped = loader.family.roped(index, window == loader.config.window);
        let own = if roped { Some(rope(loader, window.is_some())?) } else { None };
        let text = own.as_ref().map_or_else(|| "no rope".to_owned(), Rope::to_string);
        let (q, text) = match (&own, loader.config.temperature) {
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

/// The rope of a layer, with or without a window.
pub(super) fn rope<B: Backend>(loader: &Loader<'_, B>, windowed: bool) -> Result<Rope> {
    let config = &loader.config.rope;
    let pairing = loader.family.pairing;
    let pairs = config.rotary / 2;
    if let Some(base) = config.window_base.filter(|_| windowed) {
        return Ok(Rope::new(config, pairing, base, Scaling::None, None));
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
        match &self.q_norm {
            Some(norm) if norm.width == self.key_dim => f.write_str(" qk-norm")?,
            Some(_) => f.write_str(" qk-norm of all heads")?,
            None => {}
        }
        write!(f, " {}", self.turns.text)?;
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
