//! Every number of a model, one schema for all families, read from the `{arch}.*` metadata.
//!
//! Key names are GGUF's (<https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>). What the file does not say is the
//! family's to fill in ([`crate::family`]); what only tensors say is found when they are loaded ([`crate::weights`]).

use crate::error::{Error, Fault, Result};
use crate::gguf::{Metadata, Value};
use hob_kernels::ops::{Gate, STRANDS, Xielu};

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

/// Upper bounds that a sound file never reaches; they keep sums and products of sizes far from overflow.
const MOST_LAYERS: usize = 4096;
const MOST: usize = 1 << 28;

/// Reads `{arch}.{key}` with its place in every error.
struct Keys<'a> {
    meta: &'a Metadata,
    arch: &'a str,
}

impl Keys<'_> {
    fn name(&self, key: &str) -> String {
        format!("{}.{key}", self.arch)
    }

    fn usize(&self, key: &str) -> Result<Option<usize>> {
        let name = self.name(key);
        let Some(n) = self.meta.u64(&name)? else { return Ok(None) };
        match usize::try_from(n) {
            Ok(n) if n <= MOST => Ok(Some(n)),
            Ok(_) | Err(_) => Err(Error::Gguf(Fault::at(name).expected(format!("at most {MOST}")).found(n))),
        }
    }

    fn required(&self, key: &str) -> Result<usize> {
        match self.usize(key)? {
            Some(0) => Err(Error::Gguf(Fault::at(self.name(key)).expected("a positive number").found(0))),
            Some(n) => Ok(n),
            None => Err(Error::Gguf(
                Fault::at(self.name(key))
                    .expected("a number")
                    .found("no such key")
                    .help("the file's metadata is incomplete; is it a language model?"),
            )),
        }
    }

    fn f32(&self, key: &str) -> Result<Option<f32>> {
        let name = self.name(key);
        match self.meta.f32(&name)? {
            Some(x) if !x.is_finite() => Err(Error::Gguf(Fault::at(name).expected("a finite number").found(x))),
            x => Ok(x),
        }
    }

    /// A number for every layer: the file has one for all, or an array of them.
    fn per_layer(&self, key: &str, layers: usize) -> Result<Option<Vec<usize>>> {
        let name = self.name(key);
        if !matches!(self.meta.get(&name), Some(Value::Array(_))) {
            return Ok(self.usize(key)?.map(|n| vec![n; layers]));
        }
        let Some(list) = self.meta.u32s(&name)? else { return Ok(None) };
        if list.len() != layers {
            return Err(Error::Gguf(Fault::at(name).expected(format!("{layers} numbers, one a layer")).found(list.len())));
        }
        match list.iter().find(|n| **n as usize > MOST) {
            Some(n) => Err(Error::Gguf(Fault::at(name).expected(format!("at most {MOST}")).found(n))),
            None => Ok(Some(list.iter().map(|n| *n as usize).collect())),
        }
    }
}

impl Config {
    /// Reads the numbers of the model in a file.
    ///
    /// # Errors
    /// [`Error::Gguf`] for a key that is missing, of the wrong type, or beyond reason.
    pub fn from_metadata(meta: &Metadata) -> Result<Config> {
        let arch = meta
            .str("general.architecture")?
            .ok_or_else(|| Error::Gguf(Fault::at("general.architecture").expected("the name of an architecture").found("no such key")))?;
        let keys = Keys { meta, arch };
        let blocks = keys.required("block_count")?;
        if blocks > MOST_LAYERS {
            return Err(Error::Gguf(Fault::at(keys.name("block_count")).expected(format!("at most {MOST_LAYERS}")).found(blocks)));
        }
        let drafting_layers = keys.usize("nextn_predict_layers")?.unwrap_or(0);
        if drafting_layers >= blocks {
            let fault = Fault::at(keys.name("nextn_predict_layers")).expected(format!("less than block_count {blocks}"));
            return Err(Error::Gguf(fault.found(drafting_layers)));
        }
        let width = keys.required("embedding_length")?;
        let context = keys.required("context_length")?;
        let heads = keys.per_layer("attention.head_count", blocks)?.unwrap_or_else(|| vec![0; blocks]);
        let kv_heads = keys.per_layer("attention.head_count_kv", blocks)?.unwrap_or_else(|| heads.clone());
        for (i, (&q, &kv)) in heads.iter().zip(&kv_heads).enumerate() {
            if kv > 0 && q % kv != 0 {
                let fault = Fault::at(keys.name("attention.head_count")).expected(format!("a multiple of head_count_kv {kv}"));
                return Err(Error::Gguf(fault.found(format!("{q} in layer {i}"))));
            }
        }
        let widest = heads.iter().copied().max().unwrap_or(0);
        let head_dim = width.checked_div(widest).unwrap_or(0);
        let key_dim = keys.usize("attention.key_length")?.unwrap_or(head_dim);
        let value_dim = keys.usize("attention.value_length")?.unwrap_or(head_dim);
        let rms = keys.f32("attention.layer_norm_rms_epsilon")?;
        let layer = keys.f32("attention.layer_norm_epsilon")?;
        let (norm, eps) = match (rms, layer) {
            (Some(eps), _) => (NormKind::Rms, eps),
            (None, Some(eps)) => (NormKind::Layer, eps),
            (None, None) => {
                let fault = Fault::at(keys.name("attention.layer_norm_rms_epsilon")).expected("a number");
                return Err(Error::Gguf(fault.found("no such key, nor attention.layer_norm_epsilon")));
            }
        };
        let window_dims = match (keys.usize("attention.key_length_swa")?, keys.usize("attention.value_length_swa")?) {
            (None, None) => None,
            (key, value) => Some((key.unwrap_or(key_dim), value.unwrap_or(value_dim))),
        };
        let shared_kv_layers = keys.usize("attention.shared_kv_layers")?.unwrap_or(0);
        if shared_kv_layers >= blocks {
            let fault = Fault::at(keys.name("attention.shared_kv_layers")).expected(format!("less than block_count {blocks}"));
            return Err(Error::Gguf(fault.found(shared_kv_layers)));
        }
        let rope = rope(&keys, key_dim, window_dims.map_or(key_dim, |dims| dims.0), context)?;
        let rotary = rope.rotary;
        Ok(Config {
            architecture: arch.to_owned(),
            name: meta.str("general.name")?.map(str::to_owned),
            width,
            layers: blocks - drafting_layers,
            drafting_layers,
            vocab: 0,
            context,
            ff: keys.per_layer("feed_forward_length", blocks)?.unwrap_or_else(|| vec![0; blocks]),
            heads,
            kv_heads,
            key_dim,
            value_dim,
            window_dims,
            shared_kv_layers,
            late_norm: None,
            per_layer_width: keys.usize("embedding_length_per_layer_input")?.filter(|n| *n > 0),
            altup_strands: altup(&keys)?,
            sparsity: sparsity(&keys, blocks)?,
            norm,
            eps,
            parallel_residual: keys.meta.bool(&keys.name("use_parallel_residual"))?,
            temperature: temperature(&keys, rope.original_context)?,
            rope,
            window: keys.usize("attention.sliding_window")?.filter(|n| *n > 0),
            windowed: windowed(&keys, blocks)?,
            latent: latent(&keys, key_dim, value_dim)?,
            ssm: ssm(&keys)?,
            taps: keys.usize("ssm.conv_kernel")?,
            short_conv: keys.usize("shortconv.l_cache")?,
            delta_dim: keys.usize("kda.head_dim")?.filter(|n| *n > 0),
            roped: keys.meta.bool(&keys.name("rope.scaling.finetuned"))?,
            compressed: compressed(&keys, blocks, rotary, key_dim)?,
            strands: strands(&keys)?,
            experts: experts(&keys)?,
            attention_softcap: positive(keys.f32("attn_logit_softcapping")?),
            final_softcap: positive(keys.f32("final_logit_softcapping")?),
            attention_scale: positive(keys.f32("attention.scale")?),
            clamp_qkv: positive(keys.f32("attention.clamp_kqv")?),
            xielu: xielu(meta, blocks)?,
            value_scale: positive(keys.f32("attention.value_scale")?).filter(|scale| *scale != 1.0),
            embedding_scale: positive(keys.f32("embedding_scale")?),
            residual_scale: positive(keys.f32("residual_scale")?),
            logit_scale: positive(keys.f32("logit_scale")?),
        })
    }
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

fn ssm(keys: &Keys<'_>) -> Result<Option<SsmConfig>> {
    if keys.usize("ssm.inner_size")?.is_none() {
        return Ok(None);
    }
    let groups = keys.usize("ssm.group_count")?.unwrap_or(1);
    let ssm = SsmConfig {
        taps: keys.required("ssm.conv_kernel")?,
        inner: keys.required("ssm.inner_size")?,
        state: keys.required("ssm.state_size")?,
        heads: keys.required("ssm.time_step_rank")?,
        groups,
    };
    let refuse = |key: &str, expected: String, found: usize| Err(Error::Gguf(Fault::at(keys.name(key)).expected(expected).found(found)));
    if !ssm.inner.is_multiple_of(ssm.heads) {
        return refuse("ssm.inner_size", format!("a multiple of time_step_rank {}", ssm.heads), ssm.inner);
    }
    if groups == 0 || !ssm.heads.is_multiple_of(groups) || !ssm.inner.is_multiple_of(groups) {
        return refuse("ssm.group_count", format!("a divisor of time_step_rank {}", ssm.heads), groups);
    }
    Ok(Some(ssm))
}

/// Zero in a file means "none".
fn positive(x: Option<f32>) -> Option<f32> {
    x.filter(|x| *x > 0.0)
}

/// A truth for every layer, or the period of the layers without a window.
fn windowed(keys: &Keys<'_>, layers: usize) -> Result<Option<Vec<bool>>> {
    let name = keys.name("attention.sliding_window_pattern");
    if !matches!(keys.meta.get(&name), Some(Value::Array(_))) {
        let Some(period) = keys.usize("attention.sliding_window_pattern")? else { return Ok(None) };
        return Ok(Some((0..layers).map(|i| period == 0 || i % period != period - 1).collect()));
    }
    match keys.meta.bools(&name)? {
        Some(list) if list.len() != layers => {
            Err(Error::Gguf(Fault::at(name).expected(format!("{layers} truths, one a layer")).found(list.len())))
        }
        list => Ok(list),
    }
}

fn temperature(keys: &Keys<'_>, original_context: usize) -> Result<Option<Temperature>> {
    let Some(scale) = positive(keys.f32("attention.temperature_scale")?) else { return Ok(None) };
    let length = keys.usize("attention.temperature_length")?.filter(|n| *n > 0).unwrap_or(original_context);
    Ok(Some(Temperature { scale, length, offset: 0, layers: Tempered::All }))
}

fn rope(keys: &Keys<'_>, key_dim: usize, window_dim: usize, context: usize) -> Result<RopeConfig> {
    let rotary = |key: &str, dim: usize| match keys.usize(key)?.unwrap_or(dim) {
        n if n > dim || n % 2 != 0 => {
            Err(Error::Gguf(Fault::at(keys.name(key)).expected(format!("an even number up to the head's {dim}")).found(n)))
        }
        n => Ok(n),
    };
    let window_rotary = match keys.usize("rope.dimension_count_swa")? {
        None if window_dim == key_dim => None,
        None | Some(_) => Some(rotary("rope.dimension_count_swa", window_dim)?),
    };
    let rotary = rotary("rope.dimension_count", key_dim)?;
    let base = keys.f32("rope.freq_base")?.unwrap_or(10_000.0);
    // Old files write the linear factor under a key of its own.
    let factor = match keys.f32("rope.scaling.factor")? {
        None => keys.f32("rope.scale_linear")?,
        factor => factor,
    };
    let factor = positive(factor);
    let name = keys.name("rope.scaling.type");
    let scaling = match (keys.meta.str(&name)?, factor) {
        (Some("none"), _) | (None | Some("linear"), None) => Scaling::None,
        (None | Some("linear"), Some(factor)) => Scaling::Linear(factor),
        (Some("yarn"), factor) => Scaling::Yarn {
            factor: factor.unwrap_or(1.0),
            beta_fast: keys.f32("rope.scaling.yarn_beta_fast")?.unwrap_or(32.0),
            beta_slow: keys.f32("rope.scaling.yarn_beta_slow")?.unwrap_or(1.0),
        },
        (Some("longrope"), _) => Scaling::LongRope,
        (Some(other), _) => {
            let fault = Fault::at(name).expected("none, linear, yarn or longrope").found(format!("`{other}`"));
            return Err(Error::Unsupported(fault));
        }
    };
    Ok(RopeConfig {
        base,
        window_base: keys.f32("rope.freq_base_swa")?,
        rotary,
        window_rotary,
        scaling,
        original_context: keys.usize("rope.scaling.original_context_length")?.unwrap_or(context),
        attention_factor: keys.f32("rope.scaling.attn_factor")?.unwrap_or(1.0),
        yarn_log_multiplier: positive(keys.f32("rope.scaling.yarn_log_multiplier")?),
    })
}

fn latent(keys: &Keys<'_>, key_dim: usize, value_dim: usize) -> Result<Option<LatentConfig>> {
    let Some(rank) = keys.usize("attention.kv_lora_rank")?.filter(|n| *n > 0) else { return Ok(None) };
    // Files with a key for each tell the widths of the latent's one head in the plain keys.
    let key_dim = keys.usize("attention.key_length_mla")?.unwrap_or(key_dim);
    let value_dim = keys.usize("attention.value_length_mla")?.unwrap_or(value_dim);
    Ok(Some(LatentConfig { rank, key_dim, value_dim }))
}

fn compressed(keys: &Keys<'_>, blocks: usize, rotary: usize, key_dim: usize) -> Result<Option<CompressedConfig>> {
    let name = keys.name("attention.compress_ratios");
    let Some(ratios) = keys.meta.u32s(&name)? else { return Ok(None) };
    if ratios.len() < blocks || ratios.iter().any(|r| ![0, 4, 128].contains(r)) {
        let fault = Fault::at(name).expected(format!("0, 4 or 128 for each of {blocks} layers"));
        return Err(Error::Unsupported(fault.found(format!("{ratios:?}"))));
    }
    let limits = keys.name("swiglu_clamp_exp");
    if let Some(limit) = keys.meta.f32s(&limits)?.and_then(|l| l.into_iter().find(|x| *x != 10.0)) {
        return Err(Error::Unsupported(Fault::at(limits).expected("10, as in every released model").found(limit)));
    }
    let index_dim = keys.required("attention.indexer.key_length")?;
    if rotary == 0 || rotary > index_dim.min(key_dim) {
        let fault = Fault::at(keys.name("rope.dimension_count")).expected(format!("up to {}", index_dim.min(key_dim)));
        return Err(Error::Gguf(fault.found(rotary)));
    }
    Ok(Some(CompressedConfig {
        ratios: ratios.iter().map(|r| *r as usize).collect(),
        rope_base: keys.f32("attention.compress_rope_freq_base")?.unwrap_or(10_000.0),
        output_groups: keys.required("attention.output_group_count")?,
        output_rank: keys.required("attention.output_lora_rank")?,
        index_heads: keys.required("attention.indexer.head_count")?,
        index_dim,
        index_most: keys.required("attention.indexer.top_k")?,
    }))
}

fn altup(keys: &Keys<'_>) -> Result<Option<usize>> {
    match keys.usize("altup.active_idx")? {
        None | Some(0) => keys.usize("altup.num_inputs"),
        Some(n) => {
            let fault = Fault::at(keys.name("altup.active_idx")).expected("0: layers that work on the first strand");
            Err(Error::Unsupported(fault.found(n)))
        }
    }
}

fn sparsity(keys: &Keys<'_>, layers: usize) -> Result<Option<Vec<f32>>> {
    let name = keys.name("activation_sparsity_scale");
    let Some(list) = keys.meta.f32s(&name)? else { return Ok(None) };
    if list.len() != layers || list.iter().any(|x| !x.is_finite()) {
        let fault = Fault::at(name).expected(format!("{layers} finite numbers, one a layer"));
        return Err(Error::Gguf(fault.found(format!("{} numbers", list.len()))));
    }
    Ok(Some(list.to_vec()))
}

/// The file has the parameters as they were trained: softplus of them is what bends (`XIELUActivation` of transformers).
fn xielu(meta: &Metadata, layers: usize) -> Result<Option<Vec<Xielu>>> {
    let softplus = |x: f32| (libm::log1p(libm::exp(-f64::from(x).abs())) + f64::from(x.max(0.0))) as f32;
    let list = |key: &str| match meta.f32s(key)? {
        Some(list) if list.len() == layers && list.iter().all(|x| x.is_finite()) => Ok(list),
        list => {
            let fault = Fault::at(key).expected(format!("{layers} finite numbers, one a layer"));
            Err(Error::Gguf(fault.found(format!("{} numbers", list.map_or(0, |list| list.len())))))
        }
    };
    if meta.get("xielu.alpha_p").is_none() {
        return Ok(None);
    }
    let [above, below, slope, edge] = [list("xielu.alpha_p")?, list("xielu.alpha_n")?, list("xielu.beta")?, list("xielu.eps")?];
    let of = |i: usize| Xielu { above: softplus(above[i]), below: slope[i] + softplus(below[i]), slope: slope[i], edge: edge[i] };
    Ok(Some((0..layers).map(of).collect()))
}

fn strands(keys: &Keys<'_>) -> Result<Option<StrandConfig>> {
    let Some(count) = keys.usize("hyper_connection.count")?.filter(|n| *n > 0) else { return Ok(None) };
    if count > STRANDS {
        return Err(Error::Unsupported(Fault::at(keys.name("hyper_connection.count")).expected(format!("at most {STRANDS}")).found(count)));
    }
    let iterations = keys.required("hyper_connection.sinkhorn_iterations")?;
    Ok(Some(StrandConfig { count, iterations, eps: keys.f32("hyper_connection.epsilon")?.unwrap_or(1e-6) }))
}

fn experts(keys: &Keys<'_>) -> Result<Option<ExpertConfig>> {
    let Some(count) = keys.usize("expert_count")?.filter(|n| *n > 0) else { return Ok(None) };
    let used = keys.required("expert_used_count")?;
    if used > count {
        return Err(Error::Gguf(Fault::at(keys.name("expert_used_count")).expected(format!("at most expert_count {count}")).found(used)));
    }
    let func = keys.name("expert_gating_func");
    let gate = match keys.usize("expert_gating_func")? {
        None | Some(0) => None,
        Some(1) => Some(Gate::Softmax),
        Some(2) => Some(Gate::Sigmoid),
        Some(3) => Some(Gate::SoftmaxTopK),
        Some(4) => Some(Gate::SqrtSoftplus),
        Some(n) => {
            return Err(Error::Unsupported(
                Fault::at(func).expected("1 softmax, 2 sigmoid, 3 softmax of the chosen or 4 √softplus").found(n),
            ));
        }
    };
    let groups = match (keys.usize("expert_group_count")?, keys.usize("expert_group_used_count")?) {
        (Some(all), Some(used)) if all > 1 && used < all => Some((all, used)),
        (Some(_), Some(_)) | (None, _) | (_, None) => None,
    };
    if let Some((all, used)) = groups
        && (!count.is_multiple_of(all) || used == 0)
    {
        let fault =
            Fault::at(keys.name("expert_group_count")).expected(format!("a divisor of expert_count {count}, and some of them used"));
        return Err(Error::Gguf(fault.found(format!("{used} of {all}"))));
    }
    Ok(Some(ExpertConfig {
        count,
        used,
        gate,
        groups,
        renormalize: keys.meta.bool(&keys.name("expert_weights_norm"))?,
        scale: positive(keys.f32("expert_weights_scale")?).unwrap_or(1.0),
    }))
}
