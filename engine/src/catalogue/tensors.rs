//! Every tensor of a shape by name and dimensions.
//!
//! ```text
//! token_embd, then layer by layer: norms, mixer (attention, latent, recurrent), feed-forward block (dense, experts, both);
//! output_norm, output
//! ```
//! Names are GGUF's, as llama.cpp's converter writes them (gguf-py, `constants.py`).

use super::shape::{CompressedShape, Experts, Kind, Latent, Norms, QkNorm, Recurrent, Shape};
use crate::gguf::TensorType;

/// One tensor of a model: row length first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tensor {
    pub(crate) name: String,
    pub(crate) dims: Vec<u64>,
    pub(super) kind: TensorType,
}

/// What F16 files are made of, before they are quantized.
const WHOLE: TensorType = TensorType::F16;

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
    let (dense, experts) = shape.feeds(i);
    let alone = shape.is_single();
    match shape.norms {
        Norms::Pre | Norms::Second | Norms::Sandwich | Norms::Parallel => norm(list, "attn_norm.weight"),
        Norms::Post => {}
    }
    let mixer = shape.mixer(i);
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
    let (dim, kv_heads, shared) = shape.heads_of(i);
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
