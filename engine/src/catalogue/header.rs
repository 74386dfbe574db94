//! From a shape to the head of a file: the metadata that hob and llama.cpp read, and every tensor by name and dimensions.
//!
//! ```text
//! Shape ── metadata: {arch}.block_count …
//!       └─ tensors:  token_embd, then layer by layer its norms, mixer (attention, latent, recurrent) and feed-forward block
//!                    (dense, experts, both), output_norm, output
//! ```
//! Names are GGUF's, as llama.cpp's converter writes them (gguf-py, `constants.py`). What the decoder makes of such a head is
//! what it makes of a real file of the model: plans and synthetic models are made from it.

use super::Entry;
use super::shape::{CompressedShape, Experts, Fact, Latent, Norms, QkNorm, Recurrent, Shape};
use crate::error::Result;
use crate::gguf::{Gguf, GgufWriter, Head, TensorType, Value};
use crate::quantize::{self, FileType};

/// One tensor of a model: row length first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tensor {
    pub(crate) name: String,
    pub(crate) dims: Vec<u64>,
    kind: TensorType,
}

/// What a layer's mixer is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Attention,
    Recurrent,
    /// Both on the same input (Falcon-H1).
    Both,
    /// None: the layer is a feed-forward block.
    Dense,
    Experts,
}

/// What F16 files are made of, before they are quantized.
const WHOLE: TensorType = TensorType::F16;

impl Entry {
    /// Every tensor of its files that its makers count among the weights.
    fn trained(&self) -> impl Iterator<Item = Tensor> {
        let counted =
            |t: &Tensor| t.kind != TensorType::I32 && !t.name.starts_with("rope_") && !t.name.ends_with("layer_output_scale.weight");
        tensors(&self.shape).into_iter().filter(counted)
    }

    /// The weights that its shape amounts to; `parameters`, where the row is right.
    pub fn weights(&self) -> u64 {
        self.trained().map(|t| t.dims.iter().product::<u64>()).sum()
    }

    /// Of these, those that a token passes through.
    pub(super) fn weights_of_a_token(&self) -> u64 {
        let share = |t: &Tensor| match &self.shape.experts {
            Some(experts) if t.name.contains("_exps.") => t.dims.iter().product::<u64>() / experts.count * experts.used,
            Some(_) | None => t.dims.iter().product(),
        };
        self.trained().map(|t| share(&t)).sum()
    }

    /// The head of its file of a type, without a vocabulary: what a plan is made from. Its first `layers` layers, where that is said.
    ///
    /// # Errors
    /// Where the row's shape is no model.
    pub fn header(&self, kind: FileType, layers: Option<u64>) -> Result<Gguf> {
        let shape = self.cut(layers);
        head_of(&writer(&self.family, &self.title, &shape, kind, &[])?)
    }

    /// Its shape with fewer layers.
    pub(crate) fn cut(&self, layers: Option<u64>) -> Shape {
        let mut shape = self.shape.clone();
        shape.layers = layers.unwrap_or(shape.layers).clamp(1, shape.layers);
        // Layers that look at the keys of earlier ones need one of each kind before them.
        let kinds = shape.window.as_ref().map_or(1, |w| w.every.max(1));
        shape.shared_kv = (shape.shared_kv * shape.layers / self.shape.layers).min(shape.layers.saturating_sub(kinds));
        shape
    }
}

/// The model of which only this head is there.
fn head_of(writer: &GgufWriter) -> Result<Gguf> {
    match Gguf::from_head("models.toml", writer.head(), writer.file_bytes())? {
        Head::Whole(model) => Ok(model),
        Head::Short { .. } => unreachable!("the writer wrote all of it"),
    }
}

/// The head of a file of this kind, with more metadata, as a writer that waits for the weights.
///
/// # Errors
/// Where the shape is no model.
pub(crate) fn writer(family: &str, title: &str, shape: &Shape, kind: FileType, more: &[(String, Value)]) -> Result<GgufWriter> {
    let tensors = tensors(shape);
    let mut writer = GgufWriter::new();
    for (key, value) in metadata(family, title, shape).into_iter().chain(more.iter().cloned()) {
        writer.set(&key, value);
    }
    writer.set("general.file_type", kind.id()).set("general.quantization_version", 2u32);
    let mut whole = writer.clone();
    for t in &tensors {
        whole.tensor(&t.name, &t.dims, t.kind).map_err(unsound)?;
    }
    let types = quantize::types(&head_of(&whole)?, kind);
    for (t, kind) in tensors.iter().zip(types) {
        writer.tensor(&t.name, &t.dims, kind).map_err(unsound)?;
    }
    Ok(writer)
}

fn unsound(error: std::io::Error) -> crate::Error {
    crate::Error::Model(crate::Fault::at("shape").found(error))
}

fn kind_of(shape: &Shape, layer: u64) -> Kind {
    let letters: Vec<char> = shape.pattern.as_deref().unwrap_or("*").chars().collect();
    match letters[layer as usize % letters.len().max(1)] {
        'R' => Kind::Recurrent,
        'B' => Kind::Both,
        '-' => Kind::Dense,
        'E' => Kind::Experts,
        _ => Kind::Attention,
    }
}

/// Whether layers are one block each: a mixer, or a feed-forward block (Nemotron-H).
fn single(shape: &Shape) -> bool {
    shape.pattern.as_deref().is_some_and(|p| p.contains(['-', 'E']))
}

/// What layer `i` has for a feed-forward block.
fn feeds(shape: &Shape, i: u64) -> (bool, Option<&Experts>) {
    let kind = kind_of(shape, i);
    let sparse = |e: &&Experts| i >= e.dense && (i + 1).is_multiple_of(e.every);
    match kind {
        Kind::Dense => (true, None),
        Kind::Experts => (false, shape.experts.as_ref()),
        Kind::Attention | Kind::Recurrent | Kind::Both if single(shape) => (false, None),
        Kind::Attention | Kind::Recurrent | Kind::Both => match shape.experts.as_ref().filter(sparse) {
            Some(experts) => (experts.beside, Some(experts)),
            None => (shape.ffn > 0, None),
        },
    }
}

/// Whether layer `i` sees all positions, although others look through a window.
fn sees_all(shape: &Shape, i: u64) -> bool {
    shape.window.as_ref().is_none_or(|w| w.every > 0 && (i + 1).is_multiple_of(w.every))
}

/// Width of a head and key/value heads of layer `i`, and whether its keys are its values.
fn heads_of(shape: &Shape, i: u64) -> (u64, u64, bool) {
    match shape.window.as_ref().filter(|_| sees_all(shape, i)) {
        Some(w) => (w.full_head_dim.unwrap_or(shape.head_dim), w.full_kv_heads.unwrap_or(shape.kv_heads), w.full_shared),
        None => (shape.head_dim, shape.kv_heads, false),
    }
}

/// All tensors, in the order of a file.
pub(crate) fn tensors(shape: &Shape) -> Vec<Tensor> {
    let mut list = List(Vec::new());
    let (width, vocab, layers) = (shape.width, shape.vocab, shape.layers);
    list.matrix("token_embd.weight", width, vocab);
    if let Some(w) = shape.per_layer {
        list.matrix("per_layer_token_embd.weight", w * layers, vocab);
        list.matrix("per_layer_model_proj.weight", width, w * layers);
        list.small("per_layer_proj_norm.weight", &[w]);
    }
    if let Some(rope) = &shape.rope {
        let full = shape.window.as_ref().and_then(|w| w.full_head_dim);
        let pairs = rope.dims.or(full).unwrap_or(shape.head_dim) / 2;
        match rope.scaling.as_deref() {
            Some("llama3" | "proportional") => list.small("rope_freqs.weight", &[pairs]),
            Some("longrope") => {
                list.small("rope_factors_long.weight", &[pairs]);
                list.small("rope_factors_short.weight", &[pairs]);
            }
            Some(_) | None => {}
        }
    }
    if let Some(c) = &shape.compressed {
        strands(shape, c, "output_hc", c.strands, &mut list);
    }
    for i in 0..layers {
        layer(shape, i, &mut list);
    }
    let conv = matches!(shape.recurrent, Some(Recurrent::Conv { .. }));
    list.small(if conv { "token_embd_norm.weight" } else { "output_norm.weight" }, &[width]);
    if !shape.tied {
        list.matrix("output.weight", width, vocab);
    }
    list.0
}

/// Tensors as they come.
struct List(Vec<Tensor>);

impl List {
    fn add(&mut self, name: impl Into<String>, dims: &[u64], kind: TensorType) {
        self.0.push(Tensor { name: name.into(), dims: dims.to_vec(), kind });
    }

    fn matrix(&mut self, name: impl Into<String>, cols: u64, rows: u64) {
        self.add(name, &[cols, rows], WHOLE);
    }

    /// A stack of matrices.
    fn stack(&mut self, name: impl Into<String>, dims: &[u64; 3]) {
        self.add(name, dims, WHOLE);
    }

    /// What a converter keeps in F32 whatever the file.
    fn small(&mut self, name: impl Into<String>, dims: &[u64]) {
        self.add(name, dims, TensorType::F32);
    }

    fn integers(&mut self, name: impl Into<String>, dims: &[u64]) {
        self.add(name, dims, TensorType::I32);
    }
}

fn layer(shape: &Shape, i: u64, list: &mut List) {
    let name = |part: &str| format!("blk.{i}.{part}");
    let norm = |list: &mut List, part: &str| list.small(name(part), &[shape.width]);
    let (dense, experts) = feeds(shape, i);
    let alone = single(shape);
    match shape.norms {
        Norms::Pre | Norms::Second | Norms::Sandwich | Norms::Parallel => norm(list, "attn_norm.weight"),
        Norms::Post => {}
    }
    let mixer = kind_of(shape, i);
    if matches!(mixer, Kind::Recurrent | Kind::Both) {
        recurrent(shape, i, list);
    }
    if matches!(mixer, Kind::Attention | Kind::Both) {
        match (&shape.latent, &shape.compressed) {
            (Some(latent), _) => latent_attention(shape, latent, i, list),
            (None, Some(compressed)) => compressed_attention(shape, compressed, i, list),
            (None, None) => attention(shape, i, list),
        }
    }
    if !alone {
        match shape.norms {
            Norms::Pre => norm(list, if mixer == Kind::Both { "ffn_norm" } else { "ffn_norm.weight" }),
            Norms::Second => norm(list, "post_attention_norm.weight"),
            Norms::Sandwich => ["post_attention_norm.weight", "ffn_norm.weight", "post_ffw_norm.weight"].iter().for_each(|n| norm(list, n)),
            Norms::Post => ["post_attention_norm.weight", "post_ffw_norm.weight"].iter().for_each(|n| norm(list, n)),
            Norms::Parallel => {}
        }
    }
    if dense {
        let late = i + shape.shared_kv >= shape.layers;
        feed_forward(shape, shape.shared_kv_ffn.filter(|_| late).unwrap_or(shape.ffn), i, list);
    }
    if let Some(experts) = experts {
        mixture(shape, experts, i, list);
    }
    if let Some(w) = shape.per_layer {
        list.matrix(name("inp_gate.weight"), shape.width, w);
        list.matrix(name("proj.weight"), w, shape.width);
        norm(list, "post_norm.weight");
        list.small(name("layer_output_scale.weight"), &[1]);
    } else if shape.window.as_ref().is_some_and(|w| w.full_head_dim.is_some()) {
        list.small(name("layer_output_scale.weight"), &[1]);
    }
}

fn attention(shape: &Shape, i: u64, list: &mut List) {
    let name = |part: &str| format!("blk.{i}.{part}");
    let (dim, kv_heads, shared) = heads_of(shape, i);
    let (width, q, kv) = (shape.width, shape.heads * dim, kv_heads * dim);
    let bias = |part: &str| shape.bias.as_deref().is_some_and(|b| b.contains(part));
    if shape.fused.iter().any(|f| f == "qkv") {
        list.matrix(name("attn_qkv.weight"), width, q + 2 * kv);
        if bias("qkv") {
            list.small(name("attn_qkv.bias"), &[q + 2 * kv]);
        }
    } else {
        // Layers that look at the keys of earlier ones have some all the same, unused.
        let parts = [("attn_q", if shape.output_gate { 2 * q } else { q }, true), ("attn_k", kv, true), ("attn_v", kv, !shared)];
        for (part, rows, _) in parts.into_iter().filter(|p| p.2) {
            list.matrix(name(&format!("{part}.weight")), width, rows);
            if bias("qkv") {
                list.small(name(&format!("{part}.bias")), &[rows]);
            }
        }
    }
    list.matrix(name("attn_output.weight"), q, width);
    if bias("qkvo") {
        list.small(name("attn_output.bias"), &[width]);
    }
    if let Some(norm) = shape.qk_norm {
        let (of_q, of_k) = match norm {
            QkNorm::Head => (vec![dim], vec![dim]),
            QkNorm::Wide => (vec![q], vec![kv]),
            QkNorm::Each => (vec![dim, shape.heads], vec![dim, kv_heads]),
        };
        list.small(name("attn_q_norm.weight"), &of_q);
        list.small(name("attn_k_norm.weight"), &of_k);
    }
    if shape.sinks {
        list.small(name("attn_sinks.weight"), &[shape.heads]);
    }
}

fn latent_attention(shape: &Shape, latent: &Latent, i: u64, list: &mut List) {
    let name = |part: &str| format!("blk.{i}.{part}");
    let (width, heads, rank) = (shape.width, shape.heads, latent.kv_rank);
    let key = latent.plain + latent.rotary;
    match latent.q_rank {
        Some(q) => {
            list.matrix(name("attn_q_a.weight"), width, q);
            list.small(name("attn_q_a_norm.weight"), &[q]);
            list.matrix(name("attn_q_b.weight"), q, heads * key);
        }
        None => list.matrix(name("attn_q.weight"), width, heads * key),
    }
    list.matrix(name("attn_kv_a_mqa.weight"), width, rank + latent.rotary);
    list.small(name("attn_kv_a_norm.weight"), &[rank]);
    list.stack(name("attn_k_b.weight"), &[latent.plain, rank, heads]);
    list.stack(name("attn_v_b.weight"), &[rank, latent.value, heads]);
    list.matrix(name("attn_output.weight"), heads * latent.value, width);
}

/// Attention over a window and over entries, with what mixes the strands of the residual stream around both halves of the layer.
fn compressed_attention(shape: &Shape, c: &CompressedShape, i: u64, list: &mut List) {
    let name = |part: &str| format!("blk.{i}.{part}");
    let (width, dim, rank) = (shape.width, shape.head_dim, c.q_rank);
    list.matrix(name("attn_q_a.weight"), width, rank);
    list.small(name("attn_q_a_norm.weight"), &[rank]);
    list.matrix(name("attn_q_b.weight"), rank, shape.heads * dim);
    list.matrix(name("attn_kv.weight"), width, dim);
    list.small(name("attn_kv_a_norm.weight"), &[dim]);
    list.small(name("attn_sinks.weight"), &[shape.heads]);
    list.matrix(name("attn_output_a.weight"), shape.heads / c.groups * dim, c.groups * c.output_rank);
    list.matrix(name("attn_output_b.weight"), c.groups * c.output_rank, width);
    let ratio = c.ratio(i);
    let halves = if ratio == 4 { 2 } else { 1 };
    let mut pooling = |base: &str, dim: u64| {
        list.small(name(&format!("{base}_ape.weight")), &[halves * dim, ratio]);
        list.matrix(name(&format!("{base}_kv.weight")), width, halves * dim);
        list.matrix(name(&format!("{base}_gate.weight")), width, halves * dim);
        list.small(name(&format!("{base}_norm.weight")), &[dim]);
    };
    if ratio > 0 {
        pooling("attn_compressor", dim);
    }
    if ratio == 4 {
        pooling("indexer_compressor", c.index_dim);
        list.matrix(name("indexer.attn_q_b.weight"), rank, c.index_heads * c.index_dim);
        list.matrix(name("indexer.proj.weight"), width, c.index_heads);
    }
    for part in ["hc_attn", "hc_ffn"] {
        strands(shape, c, &name(part), c.strands * (2 + c.strands), list);
    }
    if i < c.hashed {
        list.integers(name("ffn_gate_tid2eid.weight"), &[shape.experts.as_ref().map_or(1, |e| e.used), shape.vocab]);
    }
}

fn strands(shape: &Shape, c: &CompressedShape, base: &str, mixes: u64, list: &mut List) {
    list.matrix(format!("{base}_fn.weight"), c.strands * shape.width, mixes);
    list.small(format!("{base}_base.weight"), &[mixes]);
    list.small(format!("{base}_scale.weight"), &[if mixes == c.strands { 1 } else { 3 }]);
}

fn recurrent(shape: &Shape, i: u64, list: &mut List) {
    let name = |part: &str| format!("blk.{i}.{part}");
    let width = shape.width;
    match &shape.recurrent {
        None => {}
        Some(Recurrent::Conv { taps }) => {
            list.matrix(name("shortconv.in_proj.weight"), width, 3 * width);
            list.small(name("shortconv.conv.weight"), &[*taps, width]);
            list.matrix(name("shortconv.out_proj.weight"), width, width);
        }
        Some(Recurrent::Mamba2 { inner, state, heads, groups, taps, norm }) => {
            let channels = inner + 2 * groups * state;
            list.matrix(name("ssm_in.weight"), width, inner + channels + heads);
            list.small(name("ssm_conv1d.weight"), &[*taps, channels]);
            list.small(name("ssm_conv1d.bias"), &[channels]);
            list.small(name("ssm_dt.bias"), &[*heads]);
            list.small(name("ssm_a"), &[1, *heads]);
            list.small(name("ssm_d"), &[1, *heads]);
            if *norm {
                list.small(name("ssm_norm.weight"), &[inner / groups, *groups]);
            }
            list.matrix(name("ssm_out.weight"), *inner, width);
        }
        Some(Recurrent::Delta { key_heads, heads, head_dim, taps, fused }) => {
            let (keys, values) = (key_heads * head_dim, heads * head_dim);
            list.matrix(name("attn_qkv.weight"), width, 2 * keys + values);
            list.matrix(name("attn_gate.weight"), width, values);
            list.small(name("ssm_conv1d.weight"), &[*taps, 2 * keys + values]);
            list.small(name("ssm_dt.bias"), &[*heads]);
            list.small(name("ssm_a"), &[*heads]);
            if *fused {
                list.matrix(name("ssm_ba.weight"), width, 2 * heads);
            } else {
                list.matrix(name("ssm_alpha.weight"), width, *heads);
                list.matrix(name("ssm_beta.weight"), width, *heads);
            }
            list.small(name("ssm_norm.weight"), &[*head_dim]);
            list.matrix(name("ssm_out.weight"), values, width);
        }
    }
}

fn feed_forward(shape: &Shape, ffn: u64, i: u64, list: &mut List) {
    let name = |part: &str| format!("blk.{i}.{part}");
    if shape.fused.iter().any(|f| f == "gate_up") {
        list.matrix(name("ffn_up.weight"), shape.width, 2 * ffn);
    } else {
        if shape.gated {
            list.matrix(name("ffn_gate.weight"), shape.width, ffn);
        }
        list.matrix(name("ffn_up.weight"), shape.width, ffn);
    }
    list.matrix(name("ffn_down.weight"), ffn, shape.width);
}

fn mixture(shape: &Shape, e: &Experts, i: u64, list: &mut List) {
    let name = |part: &str| format!("blk.{i}.{part}");
    let (width, count) = (shape.width, e.count);
    list.small(name("ffn_gate_inp.weight"), &[width, count]);
    if e.choice_bias && shape.compressed.as_ref().is_none_or(|c| i >= c.hashed) {
        list.small(name("exp_probs_b.bias"), &[count]);
    }
    let parts: &[(&str, u64)] = match (e.fused, shape.gated) {
        (true, _) => &[("ffn_gate_up_exps", 2)],
        (false, true) => &[("ffn_gate_exps", 1), ("ffn_up_exps", 1)],
        (false, false) => &[("ffn_up_exps", 1)],
    };
    for (part, times) in parts {
        list.stack(name(&format!("{part}.weight")), &[width, times * e.ffn, count]);
    }
    list.stack(name("ffn_down_exps.weight"), &[e.ffn, width, count]);
    if e.bias {
        list.small(name("ffn_gate_inp.bias"), &[count]);
        for (part, rows) in [("ffn_gate_exps.bias", e.ffn), ("ffn_up_exps.bias", e.ffn), ("ffn_down_exps.bias", width)] {
            list.small(name(part), &[rows, count]);
        }
    }
    if e.shared > 0 {
        if e.shared_gate {
            list.small(name("ffn_gate_inp_shexp.weight"), &[width]);
        }
        if shape.gated {
            list.matrix(name("ffn_gate_shexp.weight"), width, e.shared);
        }
        list.matrix(name("ffn_up_shexp.weight"), width, e.shared);
        list.matrix(name("ffn_down_shexp.weight"), e.shared, width);
    }
    if e.beside {
        list.small(name("ffn_gate_inp.scale"), &[width]);
        list.small(name("ffn_down_exps.scale"), &[count]);
        for part in ["pre_ffw_norm_2.weight", "post_ffw_norm_1.weight", "post_ffw_norm_2.weight"] {
            list.small(name(part), &[width]);
        }
    }
}

/// What the head of a file says, without its vocabulary.
fn metadata(family: &str, title: &str, shape: &Shape) -> Vec<(String, Value)> {
    let mut facts: Vec<(String, Value)> = vec![("general.architecture".into(), family.into()), ("general.name".into(), title.into())];
    let mut set = |key: &str, value: Value| facts.push((format!("{family}.{key}"), value));
    let layers = shape.layers;
    set("block_count", count(layers));
    set("context_length", count(shape.context));
    set("embedding_length", count(shape.width));
    set("vocab_size", count(shape.vocab));
    let epsilon = if shape.mean_norm { "attention.layer_norm_epsilon" } else { "attention.layer_norm_rms_epsilon" };
    set(epsilon, Value::F32(1e-6));
    let late = |i: u64| i + shape.shared_kv >= layers;
    set(
        "feed_forward_length",
        each(layers, |i| match feeds(shape, i) {
            (true, _) => shape.shared_kv_ffn.filter(|_| late(i)).unwrap_or(shape.ffn),
            (false, _) if single(shape) => 0,
            // Some families tell the width of an expert here.
            (false, Some(experts)) if shape.ffn == 0 => experts.ffn,
            (false, _) => shape.ffn,
        }),
    );
    let attends = |i: u64| matches!(kind_of(shape, i), Kind::Attention | Kind::Both);
    // Delta layers count heads of their own.
    let hides = |i: u64| !attends(i) && !matches!(shape.recurrent, Some(Recurrent::Delta { .. }));
    set("attention.head_count", count(shape.heads));
    set(
        "attention.head_count_kv",
        each(layers, |i| match &shape.latent {
            _ if hides(i) => 0,
            Some(_) => 1,
            None => heads_of(shape, i).1,
        }),
    );
    attention_facts(shape, &mut set);
    if let Some(c) = &shape.compressed {
        compressed_facts(shape, c, &mut set);
    }
    if let Some(e) = &shape.experts {
        set("expert_count", count(e.count));
        set("expert_used_count", count(e.used));
        set("expert_feed_forward_length", count(e.ffn));
        if e.dense > 0 {
            set("leading_dense_block_count", count(e.dense));
        }
        if e.every > 1 {
            set("interleave_moe_layer_step", count(e.every));
        }
        if e.shared > 0 {
            set("expert_shared_feed_forward_length", count(e.shared));
            set("expert_shared_count", count((e.shared / e.ffn).max(1)));
        }
    }
    recurrent_facts(shape, &mut set);
    if let Some(w) = shape.per_layer {
        set("embedding_length_per_layer_input", count(w));
    }
    if shape.shared_kv > 0 {
        set("attention.shared_kv_layers", count(shape.shared_kv));
    }
    for (key, fact) in &shape.metadata {
        set(
            key,
            match fact {
                Fact::Bool(truth) => Value::Bool(*truth),
                Fact::Count(n) => Value::U32(*n),
                Fact::Number(x) => Value::F32(*x),
                Fact::Text(text) => Value::from(text.as_str()),
                Fact::Counts(list) => Value::from(list.clone()),
            },
        );
    }
    facts
}

fn attention_facts(shape: &Shape, set: &mut impl FnMut(&str, Value)) {
    let full = shape.window.as_ref().and_then(|w| w.full_head_dim);
    match &shape.latent {
        Some(l) => {
            if let Some(rank) = l.q_rank {
                set("attention.q_lora_rank", count(rank));
            }
            set("attention.kv_lora_rank", count(l.kv_rank));
            set("attention.key_length", count(l.kv_rank + l.rotary));
            set("attention.value_length", count(l.kv_rank));
            set("attention.key_length_mla", count(l.plain + l.rotary));
            set("attention.value_length_mla", count(l.value));
            set("rope.dimension_count", count(l.rotary));
        }
        None if shape.head_dim > 0 => {
            set("attention.key_length", count(full.unwrap_or(shape.head_dim)));
            set("attention.value_length", count(full.unwrap_or(shape.head_dim)));
            if full.is_some() {
                set("attention.key_length_swa", count(shape.head_dim));
                set("attention.value_length_swa", count(shape.head_dim));
            }
        }
        None => {}
    }
    if let Some(w) = &shape.window {
        set("attention.sliding_window", count(w.size));
        if full.is_some() {
            set("attention.sliding_window_pattern", Value::from((0..shape.layers).map(|i| !sees_all(shape, i)).collect::<Vec<bool>>()));
        }
    }
    if let Some(rope) = &shape.rope {
        set("rope.freq_base", Value::F32(rope.base));
        if let (Some(dims), None) = (rope.dims, &shape.latent) {
            set("rope.dimension_count", count(dims));
        } else if shape.latent.is_none() && shape.head_dim > 0 {
            set("rope.dimension_count", count(full.unwrap_or(shape.head_dim)));
        }
        match rope.scaling.as_deref() {
            None | Some("llama3") => {}
            Some("proportional") => {
                set("rope.freq_base_swa", Value::F32(10_000.0));
                set("rope.dimension_count_swa", count(shape.head_dim));
            }
            Some(kind) => set("rope.scaling.type", Value::from(kind)),
        }
        if let Some(factor) = rope.factor {
            set("rope.scaling.factor", Value::F32(factor));
        }
        if let Some(original) = rope.original {
            set("rope.scaling.original_context_length", count(original));
        }
    }
}

fn compressed_facts(shape: &Shape, c: &CompressedShape, set: &mut impl FnMut(&str, Value)) {
    let ratios: Vec<u32> = (0..shape.layers).map(|i| u32::try_from(c.ratio(i)).unwrap_or(0)).collect();
    set("attention.compress_ratios", Value::from(ratios));
    set("attention.q_lora_rank", count(c.q_rank));
    set("attention.compress_rope_freq_base", Value::F32(160_000.0));
    set("attention.output_group_count", count(c.groups));
    set("attention.output_lora_rank", count(c.output_rank));
    set("attention.indexer.head_count", count(c.index_heads));
    set("attention.indexer.key_length", count(c.index_dim));
    set("attention.indexer.top_k", count(c.index_most));
    set("hyper_connection.count", count(c.strands));
    set("hyper_connection.sinkhorn_iterations", count(20));
}

fn recurrent_facts(shape: &Shape, set: &mut impl FnMut(&str, Value)) {
    let mut ssm = |taps: u64, inner: u64, state: u64, heads: u64, groups: u64| {
        set("ssm.conv_kernel", count(taps));
        set("ssm.inner_size", count(inner));
        set("ssm.state_size", count(state));
        set("ssm.time_step_rank", count(heads));
        set("ssm.group_count", count(groups));
    };
    match &shape.recurrent {
        None => {}
        Some(Recurrent::Mamba2 { inner, state, heads, groups, taps, .. }) => ssm(*taps, *inner, *state, *heads, *groups),
        Some(Recurrent::Delta { key_heads, heads, head_dim, taps, .. }) => {
            ssm(*taps, heads * head_dim, *head_dim, *heads, *key_heads);
            let every = shape.pattern.as_ref().map_or(1, |p| p.len() as u64);
            set("full_attention_interval", count(every));
        }
        Some(Recurrent::Conv { taps }) => set("shortconv.l_cache", count(*taps)),
    }
}

fn count(n: u64) -> Value {
    // Shapes are the catalogue's own: a test builds every one.
    Value::U32(u32::try_from(n).unwrap_or(u32::MAX))
}

/// A count for all layers, or one for each.
fn each(layers: u64, of: impl Fn(u64) -> u64) -> Value {
    let all: Vec<u32> = (0..layers).map(|i| u32::try_from(of(i)).unwrap_or(u32::MAX)).collect();
    match all.iter().all(|n| *n == all[0]) {
        true => Value::U32(all[0]),
        false => Value::from(all),
    }
}
