//! A model of candle-transformers, from a file it reads by itself, or from a file's tensors under the names that transformers
//! has for them and a `config.json` made of the file's numbers.

use crate::synthetic::{Header, Line};
use candle_core::quantized::gguf_file::Content;
use candle_core::{DType, Device, Result, Tensor};
use candle_nn::VarBuilder;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::io::Cursor;

/// A model: the next tokens `[1, tokens]` and the position of the first, to the logits of the last.
pub(crate) type Peer = Box<dyn FnMut(&Tensor, usize) -> Result<Tensor>>;

/// The rest of a file, after its header.
pub(crate) type Reader<'a> = Cursor<&'a [u8]>;

/// What is done to a tensor, by its name in the file.
pub(crate) type Change = fn(&str, Tensor) -> Result<Tensor>;

/// What the file calls a part, and what transformers does, to be replaced in this order. `{e}` is the number of an expert.
type Names = [(&'static str, &'static str)];

/// As Llama has them, and most after it.
const NAMES: &Names = &[
    ("token_embd.", "model.embed_tokens."),
    (".attn_output.", ".self_attn.o_proj."),
    ("output_norm.", "model.norm."),
    ("output.", "lm_head."),
    ("blk.", "model.layers."),
    (".attn_norm.", ".input_layernorm."),
    (".attn_q_norm.", ".self_attn.q_norm."),
    (".attn_k_norm.", ".self_attn.k_norm."),
    (".attn_q.", ".self_attn.q_proj."),
    (".attn_k.", ".self_attn.k_proj."),
    (".attn_v.", ".self_attn.v_proj."),
    (".ffn_norm.", ".post_attention_layernorm."),
    (".ffn_gate.", ".mlp.gate_proj."),
    (".ffn_up.", ".mlp.up_proj."),
    (".ffn_down.", ".mlp.down_proj."),
    (".ffn_gate_inp.", ".mlp.gate."),
    (".ffn_gate_exps.", ".mlp.experts.{e}.gate_proj."),
    (".ffn_up_exps.", ".mlp.experts.{e}.up_proj."),
    (".ffn_down_exps.", ".mlp.experts.{e}.down_proj."),
];

/// The numbers of a file, and what configurations call them.
const NUMBERS: &Names = &[
    ("block_count", "num_hidden_layers"),
    ("context_length", "max_position_embeddings"),
    ("embedding_length", "hidden_size"),
    ("feed_forward_length", "intermediate_size"),
    ("attention.head_count", "num_attention_heads"),
    ("attention.head_count_kv", "num_key_value_heads"),
    ("attention.key_length", "head_dim"),
    ("attention.sliding_window", "sliding_window"),
    ("rope.freq_base", "rope_theta"),
    ("expert_count", "num_experts"),
    ("expert_used_count", "num_experts_per_tok"),
];

/// A model that reads files by itself.
pub(crate) fn reads<M: 'static>(
    file: &[u8],
    open: impl FnOnce(Content, &mut Reader<'_>) -> Result<M>,
    forward: fn(&mut M, &Tensor, usize) -> Result<Tensor>,
) -> Result<Peer> {
    let mut reader = Cursor::new(file);
    let mut model = open(Content::read(&mut reader)?, &mut reader)?;
    Ok(Box::new(move |tokens, at| forward(&mut model, tokens, at)))
}

/// A model that takes tensors by transformers' names: those of `names` before the common ones.
pub(crate) fn takes<C: DeserializeOwned, M: 'static>(
    file: &[u8],
    names: &Names,
    change: Change,
    config: Value,
    open: impl FnOnce(C, VarBuilder<'static>) -> Result<M>,
    mut forward: impl FnMut(&mut M, &Tensor, usize) -> Result<Tensor> + 'static,
) -> Result<Peer> {
    let mut reader = Cursor::new(file);
    let content = Content::read(&mut reader)?;
    let mut tensors = HashMap::new();
    for name in content.tensor_infos.keys() {
        let tensor = change(name, content.tensor(&mut reader, name, &Device::Cpu)?.dequantize(&Device::Cpu)?)?;
        let theirs = names.iter().chain(NAMES).fold(name.clone(), |name, (ours, theirs)| name.replace(ours, theirs));
        if theirs.contains("{e}") {
            for expert in 0..tensor.dim(0)? {
                tensors.insert(theirs.replace("{e}", &expert.to_string()), tensor.get(expert)?);
            }
        } else {
            tensors.insert(theirs, tensor);
        }
    }
    let mut all = numbers(&content)?;
    all.extend(config.as_object().cloned().unwrap_or_default());
    let config = serde_json::from_value(Value::Object(all)).map_err(candle_core::Error::wrap)?;
    let mut model = open(config, VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu))?;
    Ok(Box::new(move |tokens, at| forward(&mut model, tokens, at)))
}

/// A configuration, as far as all models have the same.
fn numbers(content: &Content) -> Result<Map<String, Value>> {
    let common = json!({
        "vocab_size": content.tensor_infos["token_embd.weight"].shape.dims()[0],
        "hidden_act": "silu",
        "rope_theta": 10_000.0,
        "attention_bias": false,
        "tie_word_embeddings": !content.tensor_infos.contains_key("output.weight"),
        "use_flash_attn": false,
        "use_sliding_window": false,
        "max_window_layers": 0,
        "decoder_sparse_step": 1,
    });
    let mut all = common.as_object().cloned().unwrap_or_default();
    let architecture = content.metadata["general.architecture"].to_string()?;
    let get = |key: &str| content.metadata.get(&format!("{architecture}.{key}"));
    for (ours, theirs) in NUMBERS {
        if let Some(value) = get(ours) {
            all.insert((*theirs).into(), value.to_u32().map(Value::from).or_else(|_| value.to_f32().map(Value::from))?);
        }
    }
    let epsilon = get("attention.layer_norm_rms_epsilon").or_else(|| get("attention.layer_norm_epsilon"));
    for key in ["rms_norm_eps", "layer_norm_eps", "norm_epsilon", "layer_norm_epsilon"] {
        all.insert(key.into(), epsilon.map_or(Ok(0.0), |e| e.to_f32())?.into());
    }
    Ok(all)
}

/// Tensors as they are.
pub(crate) fn same(_: &str, tensor: Tensor) -> Result<Tensor> {
    Ok(tensor)
}

/// Gemma's norms multiply by one more than their weight, which the converter has added.
pub(crate) fn less_one(name: &str, tensor: Tensor) -> Result<Tensor> {
    if name.contains("norm") { tensor - 1.0 } else { Ok(tensor) }
}

/// Rotates halves of heads of 16 channels, where the converter has put the channels that turn together side by side.
pub(crate) fn halves(name: &str, tensor: Tensor) -> Result<Tensor> {
    if !name.contains(".attn_q.") && !name.contains(".attn_k.") {
        return Ok(tensor);
    }
    let shape = tensor.shape().clone();
    tensor.reshape(((), 8, 2, shape.dims()[1]))?.transpose(1, 2)?.reshape(shape)
}

impl Header {
    /// The same with all tensors in F32.
    pub(crate) fn plain(mut self) -> Header {
        self.tensors.iter_mut().for_each(|t| t.kind = "F32".into());
        self
    }

    /// The same with `{architecture}.{key}` of this value.
    pub(crate) fn set(mut self, key: &str, value: &str) -> Header {
        let key = format!("{}.{key}", self.metadata[0].1);
        self.metadata.retain(|(k, _)| *k != key);
        self.metadata.push((key, value.into()));
        self
    }

    /// The same without the keys and tensors whose name has this part.
    pub(crate) fn without(mut self, part: &str) -> Header {
        self.metadata.retain(|(key, _)| !key.contains(part));
        self.tensors.retain(|t| !t.name.contains(part));
        self
    }

    /// The same with a tensor of these dimensions, row length first: `blk.*` stands for every layer.
    pub(crate) fn with(mut self, name: &str, dims: &[u64]) -> Header {
        let layers = self.metadata.iter().find(|(key, _)| key.ends_with("block_count")).map_or(0, |(_, n)| n.parse().unwrap());
        let names: Vec<String> = match name.strip_prefix("blk.*") {
            None => vec![name.into()],
            Some(rest) => (0..layers).map(|i| format!("blk.{i}{rest}")).collect(),
        };
        self.tensors.retain(|t| !names.contains(&t.name));
        self.tensors.extend(names.into_iter().map(|name| Line { name, kind: "F32".into(), dims: dims.to_vec() }));
        self
    }

    /// The same with heads as wide as the model divided by their number.
    pub(crate) fn narrow_heads(self) -> Header {
        let narrow = self.set("attention.key_length", "16").set("attention.value_length", "16").set("rope.dimension_count", "16");
        let qkv = [("q", 64), ("k", 32), ("v", 32)];
        let narrow = qkv.iter().fold(narrow, |h, (part, rows)| {
            let biased = h.tensors.iter().any(|t| t.name == format!("blk.0.attn_{part}.bias"));
            let h = h.with(&format!("blk.*.attn_{part}.weight"), &[64, *rows]);
            if biased { h.with(&format!("blk.*.attn_{part}.bias"), &[*rows]) } else { h }
        });
        narrow.with("blk.*.attn_output.weight", &[64, 64])
    }
}
