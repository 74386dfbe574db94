//! The organs of a decoder: one a file.

pub mod altup;
pub mod attention;
pub mod beside;
pub mod compressed;
pub mod delta;
pub mod dense;
pub mod experts;
pub mod latent;
pub mod mamba2;
#[cfg(test)]
mod paper;
pub mod per_layer;
pub mod rope;
pub mod short_conv;
pub mod strands;

use crate::backend::{Backend, Window};
use crate::cache::{CacheOptions, Sequence, StateSpec};
use crate::error::Result;
use crate::weights::Loader;
use attention::Attention;
use beside::Beside;
use compressed::Compressed;
use delta::Delta;
use dense::Dense;
use experts::Experts;
use hob_kernels::ops::Activation;
use latent::Latent;
use mamba2::Mamba2;
use rope::Rope;
use short_conv::ShortConv;
use std::fmt;

/// How attention looks at positions: what a token costs by their number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Looks {
    /// Query heads.
    pub heads: usize,
    /// Width of a key.
    pub key_dim: usize,
    /// Width of a value.
    pub value_dim: usize,
    /// Which positions a query sees.
    pub window: Window,
    /// Positions that lie in one entry, beyond those of the window; 0 where there are none.
    pub ratio: usize,
}

/// What mixes tokens.
pub enum Mixer<B: Backend> {
    /// Softmax attention over keys and values.
    Attention(Attention<B>),
    /// The same over a latent that all heads share.
    Latent(Latent<B>),
    /// A state space model.
    Mamba2(Mamba2<B>),
    /// The gated delta rule.
    Delta(Delta<B>),
    /// A convolution over the last few tokens.
    ShortConv(ShortConv<B>),
    /// Over a window and entries that stand for several positions.
    Compressed(Box<Compressed<B>>),
}

/// What works on each token alone.
pub enum FeedForward<B: Backend> {
    /// One feed-forward block for all tokens.
    Dense(Dense<B>),
    /// A choice of experts for each.
    Experts(Experts<B>),
    /// Both, side by side.
    Beside(Beside<B>),
}

/// Buffers of a step, made once and reused. Each is named for its role; blocks that never run at the same time share them.
/// What a block gives goes into a tensor of the caller's.
pub struct Work<B: Backend> {
    /// The back end's own.
    pub step: B::Step,
    /// The normalised input of a block, `[tokens, width]`.
    pub h: B::Tensor,
    /// `[tokens, heads · key_dim]`.
    pub q: B::Tensor,
    /// `[tokens, kv_heads · key_dim]`.
    pub k: B::Tensor,
    /// `[tokens, kv_heads · value_dim]`.
    pub v: B::Tensor,
    /// What the heads bring, `[tokens, heads · value_dim]`.
    pub mixed: B::Tensor,
    /// `[tokens, ff]`.
    pub gate: B::Tensor,
    /// `[tokens, ff]`.
    pub up: B::Tensor,
    /// How far the state of a head, or each of its keys, moves with a token, `[tokens, heads]` or `[tokens, heads · keys]`.
    pub dt: B::Tensor,
    /// How much of a correction is written, `[tokens, heads]`.
    pub beta: B::Tensor,
    /// Router logits, `[tokens, experts]`.
    pub router: B::Tensor,
    /// What the shared expert gives, `[tokens, width]`.
    pub shared: B::Tensor,
    /// Each layer's own vector of the token, `[tokens, layers · w]`.
    pub inputs: B::Tensor,
    /// Weights of strands, `[tokens, strands · (strands + 2)]`.
    pub strands: B::Tensor,
    /// What AltUp keeps from a prediction to its correction.
    pub altup: altup::Held<B>,
    /// Of compressed attention: values and scores; queries, weights, values and scores of its index.
    pub entries: [B::Tensor; 6],
}

impl<B: Backend> Default for Work<B> {
    fn default() -> Work<B> {
        Work {
            step: Default::default(),
            h: Default::default(),
            q: Default::default(),
            k: Default::default(),
            v: Default::default(),
            mixed: Default::default(),
            gate: Default::default(),
            up: Default::default(),
            dt: Default::default(),
            beta: Default::default(),
            router: Default::default(),
            shared: Default::default(),
            inputs: Default::default(),
            strands: Default::default(),
            altup: Default::default(),
            entries: Default::default(),
        }
    }
}

impl<B: Backend> Mixer<B> {
    /// The mixers of layer `index`, as its tensors say.
    ///
    /// # Errors
    /// Where a tensor is missing or does not fit.
    pub fn load(loader: &Loader<'_, B>, index: usize, ropes: &mut Vec<Rope>) -> Result<Vec<Mixer<B>>> {
        let has = |part: &str| loader.has(&format!("blk.{index}.{part}"));
        // The delta rule's q, k and v bear the names of attention's.
        if ["ssm_beta.weight", "ssm_ba.weight", "ssm_alpha.weight", "ssm_f_a.weight"].into_iter().any(has) {
            return Ok(vec![Mixer::Delta(Delta::load(loader, index)?)]);
        }
        if Latent::in_layer(loader, index) {
            return Ok(vec![Mixer::Latent(Latent::load(loader, index, ropes)?)]);
        }
        if Compressed::in_layer(loader, index) {
            return Ok(vec![Mixer::Compressed(Box::new(Compressed::load(loader, index, ropes)?))]);
        }
        let mut mixers = Vec::new();
        if ["ssm_in.weight", "ssm_out.weight"].into_iter().any(has) {
            mixers.push(Mixer::Mamba2(Mamba2::load(loader, index)?));
        }
        if ["shortconv.in_proj.weight", "shortconv.out_proj.weight"].into_iter().any(has) {
            mixers.push(Mixer::ShortConv(ShortConv::load(loader, index)?));
        }
        if ["attn_q.weight", "attn_qkv.weight", "attn_output.weight"].into_iter().any(has) {
            mixers.push(Mixer::Attention(Attention::load(loader, index, ropes)?));
        }
        Ok(mixers)
    }

    /// What it remembers of a sequence, if anything.
    pub fn state(&self, options: &CacheOptions) -> Option<StateSpec> {
        match self {
            Mixer::Attention(attention) => attention.state(options),
            Mixer::Latent(latent) => Some(latent.state(options)),
            Mixer::Mamba2(mamba) => Some(mamba.state()),
            Mixer::Delta(delta) => Some(delta.state()),
            Mixer::ShortConv(conv) => Some(conv.state()),
            Mixer::Compressed(compressed) => Some(compressed.state(options)),
        }
    }

    /// How it looks at positions, if it does.
    pub fn looks(&self) -> Option<Looks> {
        match self {
            Mixer::Attention(attention) => Some(attention.looks()),
            Mixer::Latent(latent) => Some(latent.looks()),
            Mixer::Compressed(compressed) => Some(compressed.looks()),
            Mixer::Mamba2(_) | Mixer::Delta(_) | Mixer::ShortConv(_) => None,
        }
    }

    /// Bytes of weights that it holds beside those of the file.
    pub fn copied(&self) -> u64 {
        match self {
            Mixer::Latent(latent) => latent.copied(),
            Mixer::Attention(_) | Mixer::Mamba2(_) | Mixer::Delta(_) | Mixer::ShortConv(_) | Mixer::Compressed(_) => 0,
        }
    }

    /// `out = mixer(h)`; `slot` is the mixer's number among the states of a sequence.
    pub fn forward(&self, backend: &B, work: &mut Work<B>, sequences: &mut [&mut Sequence<B::State>], slot: usize, out: &mut B::Tensor) {
        match self {
            Mixer::Attention(attention) => attention.forward(backend, work, sequences, slot, out),
            Mixer::Latent(latent) => latent.forward(backend, work, sequences, slot, out),
            Mixer::Mamba2(mamba) => mamba.forward(backend, work, sequences, slot, out),
            Mixer::Delta(delta) => delta.forward(backend, work, sequences, slot, out),
            Mixer::ShortConv(conv) => conv.forward(backend, work, sequences, slot, out),
            Mixer::Compressed(compressed) => compressed.forward(backend, work, sequences, slot, out),
        }
    }
}

impl<B: Backend> FeedForward<B> {
    /// The feed-forward block of layer `index`, if its tensors make one.
    ///
    /// # Errors
    /// Where a tensor is missing or does not fit.
    pub fn load(loader: &Loader<'_, B>, index: usize) -> Result<Option<FeedForward<B>>> {
        let has = |part: &str| loader.has(&format!("blk.{index}.{part}"));
        if Beside::is_in(loader, index) {
            Beside::load(loader, index).map(FeedForward::Beside).map(Some)
        } else if ["ffn_gate_inp.weight", "ffn_down_exps.weight"].into_iter().any(has) {
            Experts::load(loader, index).map(FeedForward::Experts).map(Some)
        } else if ["ffn_up.weight", "ffn_down.weight", "ffn_norm.weight"].into_iter().any(has) {
            Dense::load(loader, index).map(FeedForward::Dense).map(Some)
        } else {
            Ok(None)
        }
    }

    /// What there is to do at the beginning of the layer, whose input is `x`. What `h` holds is gone afterwards.
    pub fn begin(&self, backend: &B, work: &mut Work<B>, x: &B::Tensor) {
        match self {
            FeedForward::Experts(experts) => experts.begin(backend, work, x),
            FeedForward::Dense(_) | FeedForward::Beside(_) => {}
        }
    }

    /// `out = ffn(h)`, where h is a norm of `x`.
    pub fn forward(&self, backend: &B, work: &mut Work<B>, x: &B::Tensor, out: &mut B::Tensor) {
        match self {
            FeedForward::Dense(dense) => dense.forward(backend, work, out),
            FeedForward::Experts(experts) => experts.forward(backend, work, out),
            FeedForward::Beside(both) => both.forward(backend, work, x, out),
        }
    }
}

/// What an activation is called on a card.
fn activation_name(activation: Activation) -> &'static str {
    match activation {
        Activation::Silu => "silu",
        Activation::GeluTanh => "gelu-tanh",
        Activation::Gelu => "gelu",
        Activation::Relu => "relu",
        Activation::ReluSquared => "relu²",
        Activation::Sigmoid => "sigmoid",
        Activation::Identity => "linear",
        Activation::SwigluOai => "clamped silu",
        Activation::SwigluLimited => "silu within 10",
    }
}

impl<B: Backend> fmt::Display for Mixer<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Mixer::Attention(attention) => attention.fmt(f),
            Mixer::Latent(latent) => latent.fmt(f),
            Mixer::Mamba2(mamba) => mamba.fmt(f),
            Mixer::Delta(delta) => delta.fmt(f),
            Mixer::ShortConv(conv) => conv.fmt(f),
            Mixer::Compressed(compressed) => compressed.fmt(f),
        }
    }
}

impl<B: Backend> fmt::Display for FeedForward<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FeedForward::Dense(dense) => dense.fmt(f),
            FeedForward::Experts(experts) => experts.fmt(f),
            FeedForward::Beside(both) => both.fmt(f),
        }
    }
}
