//! What the training leaves: checkpoints to go on from, and the guide as a GGUF file.
//!
//! ```text
//! checkpoint = "hobguide" | step u64 | then for every weight, in the network's order: f32 values, first moments, second moments
//! ```
//! Written beside and renamed, so that what is there is whole. The vocabulary is `vocabulary.txt` in the same folder.

use std::fs;
use std::io::{BufWriter, Write};
use std::path::Path;

use candle_core::{Device, Tensor};
use hob::gguf::{GgufWriter, TensorType};

use crate::adam::Adam;
use crate::net::Net;
use crate::vocabulary::Vocabulary;

const MAGIC: &[u8; 8] = b"hobguide";

fn said(path: &Path) -> impl Fn(std::io::Error) -> String + '_ {
    move |why| format!("{}: {why}", path.display())
}

/// Writes a checkpoint.
pub(crate) fn save(path: &Path, step: usize, net: &Net, adam: &Adam) -> Result<(), String> {
    let beside = path.with_extension("part");
    let mut out = BufWriter::new(fs::File::create(&beside).map_err(said(&beside))?);
    let mut put = |bytes: &[u8]| out.write_all(bytes).map_err(said(&beside));
    put(MAGIC)?;
    put(&(step as u64).to_le_bytes())?;
    for (index, weight) in net.weights().into_iter().enumerate() {
        let numbers: Vec<f32> = weight.flatten_all().and_then(|all| all.to_vec1()).map_err(|why| why.to_string())?;
        for part in [&numbers, &adam.first[index], &adam.second[index]] {
            put(&part.iter().flat_map(|number| number.to_le_bytes()).collect::<Vec<u8>>())?;
        }
    }
    out.flush().map_err(said(&beside))?;
    drop(out);
    fs::rename(&beside, path).map_err(said(path))
}

/// Reads a checkpoint into a network of the same shape; gives the step to go on with.
pub(crate) fn load(path: &Path, net: &Net, adam: &mut Adam) -> Result<usize, String> {
    let bytes = fs::read(path).map_err(said(path))?;
    let weights: usize = net.weights().iter().map(|weight| weight.elem_count()).sum();
    if bytes.len() != 16 + 12 * weights || !bytes.starts_with(MAGIC) {
        return Err(format!("{}: expected a checkpoint of {weights} weights; another shape or vocabulary?", path.display()));
    }
    let mut numbers = bytes[16..].chunks_exact(4).map(|four| f32::from_le_bytes([four[0], four[1], four[2], four[3]]));
    for (index, weight) in net.weights().into_iter().enumerate() {
        let mut part = || numbers.by_ref().take(weight.elem_count()).collect::<Vec<f32>>();
        let tensor = Tensor::from_vec(part(), weight.shape(), &Device::Cpu).map_err(|why| why.to_string())?;
        weight.set(&tensor).map_err(|why| why.to_string())?;
        (adam.first[index], adam.second[index]) = (part(), part());
    }
    let mut step = [0; 8];
    step.copy_from_slice(&bytes[8..16]);
    Ok(u64::from_le_bytes(step) as usize)
}

/// Writes the guide as a GGUF file, matrices in F16. `made` says by which command and from which commit.
pub(crate) fn export(path: &Path, net: &Net, vocabulary: &Vocabulary, made: &str) -> Result<(), String> {
    let shape = &net.shape;
    let mut writer = GgufWriter::new();
    writer.set("general.architecture", "llama");
    writer.set("general.name", "hob's guide");
    writer.set("general.description", "A tiny model that knows hob and nothing else; trained from the text in cli/guide/text");
    writer.set("general.license", "mit or apache-2.0");
    writer.set("general.source", made);
    writer.set("general.sampling.temp", 0.0f32);
    writer.set("llama.context_length", 2048u32);
    for (key, value) in [
        ("block_count", shape.layers),
        ("embedding_length", shape.width),
        ("feed_forward_length", shape.ffn),
        ("attention.head_count", shape.heads),
        ("attention.head_count_kv", shape.kv_heads),
        ("attention.key_length", shape.head_dim),
        ("attention.value_length", shape.head_dim),
        ("rope.dimension_count", shape.head_dim),
        ("vocab_size", shape.vocabulary),
    ] {
        writer.set(&format!("llama.{key}"), value as u32);
    }
    writer.set("llama.attention.layer_norm_rms_epsilon", shape.epsilon);
    writer.set("llama.rope.freq_base", shape.base);
    vocabulary.write(&mut writer);
    let (q, kv) = (shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim);
    // Name, weights, first row, rows.
    let mut parts: Vec<(String, &candle_core::Var, usize, usize)> =
        vec![("token_embd.weight".into(), &net.embedding, 0, shape.vocabulary), ("output_norm.weight".into(), &net.norm, 0, 1)];
    for (index, layer) in net.layers.iter().enumerate() {
        let mut add = |name: &str, weight, from, rows| parts.push((format!("blk.{index}.{name}.weight"), weight, from, rows));
        add("attn_norm", &layer.attention_norm, 0, 1);
        add("attn_q", &layer.qkv, 0, q);
        add("attn_k", &layer.qkv, q, kv);
        add("attn_v", &layer.qkv, q + kv, kv);
        add("attn_output", &layer.output, 0, shape.width);
        add("ffn_norm", &layer.ffn_norm, 0, 1);
        add("ffn_gate", &layer.gate_up, 0, shape.ffn);
        add("ffn_up", &layer.gate_up, shape.ffn, shape.ffn);
        add("ffn_down", &layer.down, 0, shape.width);
    }
    for (name, weight, _, rows) in &parts {
        let row = *weight.dims().last().unwrap_or(&0) as u64;
        let done = match weight.dims().len() {
            1 => writer.tensor(name, &[row], TensorType::F32),
            _ => writer.tensor(name, &[row, *rows as u64], TensorType::F16),
        };
        done.map_err(said(path))?;
    }
    let file = fs::File::create(path).map_err(said(path))?;
    let mut body = writer.start(BufWriter::new(file)).map_err(said(path))?;
    for (_, weight, from, rows) in &parts {
        let row = *weight.dims().last().unwrap_or(&0);
        let numbers: Vec<f32> = weight.flatten_all().and_then(|all| all.to_vec1()).map_err(|why| why.to_string())?;
        let numbers = &numbers[from * row..(from + rows) * row];
        let bytes: Vec<u8> = match weight.dims().len() {
            1 => numbers.iter().flat_map(|number| number.to_le_bytes()).collect(),
            _ => numbers.iter().flat_map(|number| half::f16::from_f32(*number).to_le_bytes()).collect(),
        };
        body.append(&bytes).map_err(said(path))?;
    }
    body.finish().map_err(said(path))?;
    Ok(())
}
