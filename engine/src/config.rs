//! Every number of a model, one schema for all families, read from the `{arch}.*` metadata.
//!
//! Key names are GGUF's (<https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>). What the file does not say is the
//! family's to fill in ([`crate::family`]); what only tensors say is found when they are loaded ([`crate::weights`]).

mod read;

use hob_kernels::ops::{Gate, Xielu};

use crate::error::{Error, Fault, Result};

/// The numbers of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// `general.architecture`.
    pub architecture: String,
    /// `general.name`, where the file has one.
    pub name: Option<String>,
    /// Width of the residual stream.
    pub width: usize,
    /// Number of layers.
    pub layers: usize,
    /// Layers in the file after these that predict tokens beyond the next one (DeepSeek-V3, GLM-4.5): hob passes them over.
    pub drafting_layers: usize,
    /// Rows of the embedding table; read off the tensor when the model is loaded.
    pub vocab: usize,
    /// Context length the model was trained for, in tokens.
    pub context: usize,
    /// Hidden width of the feed-forward block, per layer.
    pub ff: Vec<usize>,
    /// Query heads per layer.
    pub heads: Vec<usize>,
    /// Key/value heads per layer.
    pub kv_heads: Vec<usize>,
    /// Width of a key (and query) head.
    pub key_dim: usize,
    /// Width of a value head.
    pub value_dim: usize,
    /// Widths of both in layers with a window, where they differ (Gemma 4).
    pub window_dims: Option<(usize, usize)>,
    /// So many of the last layers have no keys and values of their own: they look at those of an earlier layer (Gemma 4).
    pub shared_kv_layers: usize,
    /// How queries and keys are normed without a weight once they are rotated, where they are (Llama 4).
    pub late_norm: Option<NormKind>,
    /// Width of the vector that each layer has of every token, where they have one (Gemma 4 E2B).
    pub per_layer_width: Option<usize>,
    /// Strands of the residual stream that layers predict and correct, where it has some (Gemma 3n).
    pub altup_strands: Option<usize>,
    /// How many standard deviations above its mean a gate must be to let anything through, for each layer; 0 where all pass (Gemma 3n).
    pub sparsity: Option<Vec<f32>>,
    /// Which normalisation the layers use; the epsilon key in the file decides.
    pub norm: NormKind,
    /// Epsilon of the normalisation.
    pub eps: f32,
    /// Rotary embedding.
    pub rope: RopeConfig,
    /// Sliding window in tokens, where the file has one.
    pub window: Option<usize>,
    /// Which layers have it, where the file says so.
    pub windowed: Option<Vec<bool>>,
    /// Latent attention, where the model has it.
    pub latent: Option<LatentConfig>,
    /// State space or gated delta layers, where the model has some.
    pub ssm: Option<SsmConfig>,
    /// Taps of the convolutions of recurrent layers.
    pub taps: Option<usize>,
    /// Taps of the layers that are nothing but a convolution.
    pub short_conv: Option<usize>,
    /// Width of a head of Kimi's delta layers.
    pub delta_dim: Option<usize>,
    /// Whether the model was trained with ropes, where the file says so.
    pub roped: Option<bool>,
    /// Compressed attention, where the model has it.
    pub compressed: Option<CompressedConfig>,
    /// Strands of the residual stream, where it has several.
    pub strands: Option<StrandConfig>,
    /// Mixture of experts, where the model is one.
    pub experts: Option<ExpertConfig>,
    /// Soft cap of attention scores: `cap · tanh(s / cap)`.
    pub attention_softcap: Option<f32>,
    /// Soft cap of the final logits.
    pub final_softcap: Option<f32>,
    /// Factor on attention scores; 1/√key_dim where `None`.
    pub attention_scale: Option<f32>,
    /// Bound of queries, keys and values as they are projected (OLMo 1, DBRX).
    pub clamp_qkv: Option<f32>,
    /// The activation of each layer's feed-forward block, where it is trained (Apertus).
    pub xielu: Option<Vec<Xielu>>,
    /// Factor on values (MiMo V2).
    pub value_scale: Option<f32>,
    /// Factor on embeddings; what the family says where `None`.
    pub embedding_scale: Option<f32>,
    /// Factor on what each block adds to the residual stream (Granite).
    pub residual_scale: Option<f32>,
    /// Factor on the final logits (Cohere) or their divisor (Granite); the family says which.
    pub logit_scale: Option<f32>,
    /// Whether both halves of a layer work on the same input although each has its norm, where the file says so (GPT-NeoX).
    pub parallel_residual: Option<bool>,
    /// How queries grow with their position, where they do.
    pub temperature: Option<Temperature>,
}

/// Queries far into a text are made larger, so that attention stays sharp (Llama 4, Ministral 3):
/// `1 + scale · ln(1 + ⌊(position + offset) / length⌋)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Temperature {
    /// How much.
    pub scale: f32,
    /// Positions that are treated alike.
    pub length: usize,
    /// Added to the position.
    pub offset: usize,
    /// Which layers.
    pub layers: Tempered,
}

/// Which layers make their queries larger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tempered {
    /// All of them (Ministral 3).
    All,
    /// Those without a rope (Llama 4).
    WithoutRope,
}

/// Root mean square or mean-and-variance normalisation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormKind {
    /// x / √(mean x² + eps)  (Zhang & Sennrich 2019)
    Rms,
    /// (x − mean) / √(var + eps)  (Ba et al. 2016)
    Layer,
}

/// Rotary position embedding as the file has it.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeConfig {
    /// θ: the base of the frequencies.
    pub base: f32,
    /// θ of the layers with a sliding window, where it differs.
    pub window_base: Option<f32>,
    /// How many channels of a head are rotated.
    pub rotary: usize,
    /// The same in layers with a window, where it differs.
    pub window_rotary: Option<usize>,
    /// How positions beyond the original context are brought in.
    pub scaling: Scaling,
    /// Context before any scaling; the trained context where the file does not say.
    pub original_context: usize,
    /// Factor on the rotated vectors that the file prescribes; 1 where it does not.
    pub attention_factor: f32,
    /// YaRN's temperature as its authors wrote it where `None`; else a second one, by which the first is divided.
    pub yarn_log_multiplier: Option<f32>,
}

/// Ways to stretch rotary positions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scaling {
    /// Positions as they are.
    None,
    /// All positions divided by the factor.
    Linear(f32),
    /// YaRN (Peng et al. 2023): low frequencies interpolated, high ones kept, in between a ramp.
    Yarn {
        /// The stretch.
        factor: f32,
        /// Rotations within the original context above which a frequency is kept.
        beta_fast: f32,
        /// Rotations below which it is fully interpolated.
        beta_slow: f32,
    },
    /// A table of factors in the file for short contexts and one for long ones (LongRoPE, Phi-3).
    LongRope,
}

/// Widths of latent attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LatentConfig {
    /// The latent.
    pub rank: usize,
    /// A key head, its rotary channels among them, were it ever made.
    pub key_dim: usize,
    /// A value head.
    pub value_dim: usize,
}

/// Numbers of state space layers (Mamba-2), which gated delta layers share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SsmConfig {
    /// Taps of the convolutions.
    pub taps: usize,
    /// Width of the values of all heads.
    pub inner: usize,
    /// Width of a key: rows of a head's state.
    pub state: usize,
    /// Heads.
    pub heads: usize,
    /// Heads of keys and queries.
    pub groups: usize,
}

/// Numbers of compressed attention (DeepSeek-V4).
#[derive(Clone, Debug, PartialEq)]
pub struct CompressedConfig {
    /// Positions of an entry, per layer; 0 where there are none.
    pub ratios: Vec<usize>,
    /// θ of the layers with entries.
    pub rope_base: f32,
    /// Groups of heads that share an output map.
    pub output_groups: usize,
    /// Rank of such a map.
    pub output_rank: usize,
    /// Heads of the index.
    pub index_heads: usize,
    /// Width of the index's heads.
    pub index_dim: usize,
    /// Entries that the index chooses.
    pub index_most: usize,
}

/// Numbers of hyper-connections.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StrandConfig {
    /// Strands.
    pub count: usize,
    /// Rounds of Sinkhorn's normalisation.
    pub iterations: usize,
    /// Added to weights and sums.
    pub eps: f32,
}

/// Mixture-of-experts numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ExpertConfig {
    /// Experts in a layer.
    pub count: usize,
    /// Experts a token uses.
    pub used: usize,
    /// How logits become weights, where the file says so.
    pub gate: Option<Gate>,
    /// Groups of experts and how many of them a token may choose from, where that is a limit.
    pub groups: Option<(usize, usize)>,
    /// Whether the chosen weights are made to sum to one, where the file says so.
    pub renormalize: Option<bool>,
    /// Factor on the chosen weights.
    pub scale: f32,
}

impl Config {
    /// Widths of a key head and of a value head in a layer with or without a window.
    pub fn head_dims(&self, window: Option<usize>) -> (usize, usize) {
        self.window_dims.filter(|_| window.is_some()).unwrap_or((self.key_dim, self.value_dim))
    }

    /// Whether a tensor is of a layer that only predicts tokens beyond the next one.
    pub fn drafts(&self, tensor: &str) -> bool {
        let layer = tensor.strip_prefix("blk.").and_then(|rest| rest.split('.').next());
        layer.and_then(|n| n.parse().ok()).is_some_and(|n: usize| n >= self.layers && n - self.layers < self.drafting_layers)
    }

    /// The numbers of state space layers, which the file must have.
    ///
    /// # Errors
    /// [`Error::Model`] where it has not.
    pub fn ssm(&self) -> Result<SsmConfig> {
        self.ssm.ok_or_else(|| {
            let fault = Fault::at(format!("{}.ssm.inner_size", self.architecture)).expected("a number");
            Error::Model(fault.found("no such key").help("the file has tensors of state space layers"))
        })
    }
}
