//! The metadata of a shape that hob and llama.cpp read, under GGUF's keys (`{arch}.block_count` …).

use super::shape::{CompressedShape, Fact, Kind, Recurrent, Shape};
use crate::gguf::Value;

/// What the head of a file says, without its vocabulary.
pub(super) fn metadata(family: &str, title: &str, shape: &Shape) -> Vec<(String, Value)> {
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
        each(layers, |i| match shape.feeds(i) {
            (true, _) => shape.shared_kv_ffn.filter(|_| late(i)).unwrap_or(shape.ffn),
            (false, _) if shape.is_single() => 0,
            // Some families tell the width of an expert here.
            (false, Some(experts)) if shape.ffn == 0 => experts.ffn,
            (false, _) => shape.ffn,
        }),
    );
    let attends = |i: u64| matches!(shape.mixer(i), Kind::Attention | Kind::Both);
    // Delta layers count heads of their own.
    let hides = |i: u64| !attends(i) && !matches!(shape.recurrent, Some(Recurrent::Delta { .. }));
    set("attention.head_count", count(shape.heads));
    set(
        "attention.head_count_kv",
        each(layers, |i| match &shape.latent {
            _ if hides(i) => 0,
            Some(_) => 1,
            None => shape.heads_of(i).1,
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
            set("attention.sliding_window_pattern", Value::from((0..shape.layers).map(|i| !shape.sees_all(i)).collect::<Vec<bool>>()));
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
