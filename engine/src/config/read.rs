//! How the numbers of a model are read from a file's `{arch}.*` metadata, each checked once.

use std::fmt::Display;

use hob_kernels::ops::{Gate, STRANDS, Xielu};

use super::{
    CompressedConfig, Config, ExpertConfig, LatentConfig, NormKind, RopeConfig, Scaling, SsmConfig, StrandConfig, Temperature, Tempered,
};
use crate::error::{Error, Fault, Result};
use crate::gguf::{Metadata, Value};

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

    /// What is wrong with a number that is there.
    fn wrong(&self, key: &str, expected: impl Display, found: impl Display) -> Error {
        Error::Gguf(Fault::at(self.name(key)).expected(expected).found(found))
    }

    fn usize(&self, key: &str) -> Result<Option<usize>> {
        let Some(n) = self.meta.u64(&self.name(key))? else { return Ok(None) };
        match usize::try_from(n) {
            Ok(n) if n <= MOST => Ok(Some(n)),
            Ok(_) | Err(_) => Err(self.wrong(key, format_args!("at most {MOST}"), n)),
        }
    }

    fn required(&self, key: &str) -> Result<usize> {
        match self.usize(key)? {
            Some(0) => Err(self.wrong(key, "a positive number", 0)),
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
        match self.meta.f32(&self.name(key))? {
            Some(x) if !x.is_finite() => Err(self.wrong(key, "a finite number", x)),
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
            return Err(self.wrong(key, format_args!("{layers} numbers, one a layer"), list.len()));
        }
        match list.iter().find(|n| **n as usize > MOST) {
            Some(n) => Err(self.wrong(key, format_args!("at most {MOST}"), n)),
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
            return Err(keys.wrong("block_count", format_args!("at most {MOST_LAYERS}"), blocks));
        }
        let some_layers = |key: &str| match keys.usize(key)?.unwrap_or(0) {
            n if n >= blocks => Err(keys.wrong(key, format_args!("less than block_count {blocks}"), n)),
            n => Ok(n),
        };
        let drafting_layers = some_layers("nextn_predict_layers")?;
        let width = keys.required("embedding_length")?;
        let context = keys.required("context_length")?;
        let heads = keys.per_layer("attention.head_count", blocks)?.unwrap_or_else(|| vec![0; blocks]);
        let kv_heads = keys.per_layer("attention.head_count_kv", blocks)?.unwrap_or_else(|| heads.clone());
        for (i, (&q, &kv)) in heads.iter().zip(&kv_heads).enumerate() {
            if kv > 0 && q % kv != 0 {
                let found = format_args!("{q} in layer {i}");
                return Err(keys.wrong("attention.head_count", format_args!("a multiple of head_count_kv {kv}"), found));
            }
        }
        let widest = heads.iter().copied().max().unwrap_or(0);
        let head_dim = width.checked_div(widest).unwrap_or(0);
        let key_dim = keys.usize("attention.key_length")?.unwrap_or(head_dim);
        let value_dim = keys.usize("attention.value_length")?.unwrap_or(head_dim);
        let (norm, eps) = norm(&keys)?;
        let window_dims = match (keys.usize("attention.key_length_swa")?, keys.usize("attention.value_length_swa")?) {
            (None, None) => None,
            (key, value) => Some((key.unwrap_or(key_dim), value.unwrap_or(value_dim))),
        };
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
            shared_kv_layers: some_layers("attention.shared_kv_layers")?,
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
    if !ssm.inner.is_multiple_of(ssm.heads) {
        return Err(keys.wrong("ssm.inner_size", format_args!("a multiple of time_step_rank {}", ssm.heads), ssm.inner));
    }
    if groups == 0 || !ssm.heads.is_multiple_of(groups) || !ssm.inner.is_multiple_of(groups) {
        return Err(keys.wrong("ssm.group_count", format_args!("a divisor of time_step_rank {}", ssm.heads), groups));
    }
    Ok(Some(ssm))
}

/// Which key the file has tells the kind.
fn norm(keys: &Keys<'_>) -> Result<(NormKind, f32)> {
    const RMS: &str = "attention.layer_norm_rms_epsilon";
    match (keys.f32(RMS)?, keys.f32("attention.layer_norm_epsilon")?) {
        (Some(eps), _) => Ok((NormKind::Rms, eps)),
        (None, Some(eps)) => Ok((NormKind::Layer, eps)),
        (None, None) => Err(keys.wrong(RMS, "a number", "no such key, nor attention.layer_norm_epsilon")),
    }
}

/// Zero in a file means "none".
fn positive(x: Option<f32>) -> Option<f32> {
    x.filter(|x| *x > 0.0)
}

/// A truth for every layer, or the period of the layers without a window.
fn windowed(keys: &Keys<'_>, layers: usize) -> Result<Option<Vec<bool>>> {
    const KEY: &str = "attention.sliding_window_pattern";
    let name = keys.name(KEY);
    if !matches!(keys.meta.get(&name), Some(Value::Array(_))) {
        let Some(period) = keys.usize(KEY)? else { return Ok(None) };
        return Ok(Some((0..layers).map(|i| period == 0 || i % period != period - 1).collect()));
    }
    match keys.meta.bools(&name)? {
        Some(list) if list.len() != layers => Err(keys.wrong(KEY, format_args!("{layers} truths, one a layer"), list.len())),
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
        n if n > dim || n % 2 != 0 => Err(keys.wrong(key, format_args!("an even number up to the head's {dim}"), n)),
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
        return Err(keys.wrong("rope.dimension_count", format_args!("up to {}", index_dim.min(key_dim)), rotary));
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
    const KEY: &str = "activation_sparsity_scale";
    let Some(list) = keys.meta.f32s(&keys.name(KEY))? else { return Ok(None) };
    if list.len() != layers || list.iter().any(|x| !x.is_finite()) {
        let expected = format_args!("{layers} finite numbers, one a layer");
        return Err(keys.wrong(KEY, expected, format_args!("{} numbers", list.len())));
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

/// Models have 20; a file's number must not keep a token from ever being finished.
const MOST_ITERATIONS: usize = 1000;

fn strands(keys: &Keys<'_>) -> Result<Option<StrandConfig>> {
    let Some(count) = keys.usize("hyper_connection.count")?.filter(|n| *n > 0) else { return Ok(None) };
    if count > STRANDS {
        return Err(Error::Unsupported(Fault::at(keys.name("hyper_connection.count")).expected(format!("at most {STRANDS}")).found(count)));
    }
    let iterations = keys.required("hyper_connection.sinkhorn_iterations")?;
    if iterations > MOST_ITERATIONS {
        return Err(keys.wrong("hyper_connection.sinkhorn_iterations", format_args!("at most {MOST_ITERATIONS}"), iterations));
    }
    Ok(Some(StrandConfig { count, iterations, eps: keys.f32("hyper_connection.epsilon")?.unwrap_or(1e-6) }))
}

fn experts(keys: &Keys<'_>) -> Result<Option<ExpertConfig>> {
    let Some(count) = keys.usize("expert_count")?.filter(|n| *n > 0) else { return Ok(None) };
    let used = keys.required("expert_used_count")?;
    if used > count {
        return Err(keys.wrong("expert_used_count", format_args!("at most expert_count {count}"), used));
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
        let expected = format_args!("a divisor of expert_count {count}, and some of them used");
        return Err(keys.wrong("expert_group_count", expected, format_args!("{used} of {all}")));
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
