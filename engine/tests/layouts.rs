//! Files as earlier converters wrote them: what they hold is the same numbers in other places, so that the same file with the
//! tensors of today gives the same bits.

#[allow(dead_code)] // some of it is for families.rs
mod synthetic;

use hob::batch::{Canceller, Entry, Logits};
use hob::cache::{CacheOptions, KvType};
use hob::device::{LoadOptions, load};
use hob::gguf::{Gguf, GgufWriter, TensorType};
use hob::plan::{Ask, Part, Plan};
use hob::{Device, GpuLayers};
use hob_kernels::Format;
use hob_kernels::format::{dequantize, quantize};
use synthetic::{Header, Line};

const TOKENS: [u32; 23] = [3, 41, 7, 7, 0, 79, 12, 5, 66, 31, 2, 18, 44, 9, 71, 23, 50, 1, 37, 60, 15, 28, 77];

/// The back ends that there are.
const DEVICES: &[Device] = if cfg!(feature = "candle") { &[Device::Cpu, Device::Candle] } else { &[Device::Cpu] };

/// A tensor: name, dimensions (row length first), type, bytes.
type Tensor = (String, Vec<u64>, String, Vec<u8>);

/// Logits of every position, the first eight tokens at once and the others one by one.
fn logits(gguf: &Gguf, device: Device) -> Vec<f32> {
    let model = load(gguf, &LoadOptions { threads: 1, context: Some(256), device, gpu_layers: GpuLayers::Auto })
        .unwrap_or_else(|e| panic!("{device}: {e}"));
    let mut cache = model.cache(&CacheOptions { capacity: 64, k: KvType::F16, v: KvType::F16, batch: 64 }).unwrap();
    let (mut all, mut logits) = (Vec::new(), Vec::new());
    let (prompt, rest) = TOKENS.split_at(8);
    for tokens in std::iter::once(prompt).chain(rest.chunks(1)) {
        let first = cache.len();
        let entry = |(i, token): (usize, &u32)| Entry { token: *token, sequence: 0, position: (first + i) as u32, logits: Logits::Want };
        let batch: Vec<Entry> = tokens.iter().enumerate().map(entry).collect();
        model.step(&batch, &mut [&mut cache], &Canceller::new(), &mut logits).unwrap();
        all.extend_from_slice(&logits);
    }
    all
}

/// The header with this key of its architecture set, or taken away.
fn set(header: &mut Header, key: &str, value: Option<u32>) {
    let key = format!("{}.{key}", header.metadata[0].1);
    header.metadata.retain(|(k, _)| *k != key);
    header.metadata.extend(value.map(|n| (key, n.to_string())));
}

/// The model of an old header, and the same with each tensor as `renew` gives it.
fn both(old: &Header, new: &Header, renew: impl Fn(Tensor) -> Vec<Tensor>) -> [Gguf; 2] {
    let old = old.build();
    let kept = |t: &hob::gguf::TensorInfo| (t.name.clone(), t.dims.clone(), t.kind.name().to_owned(), old.bytes(t).to_vec());
    let tensors: Vec<Tensor> = old.tensors().flat_map(|t| renew(kept(t))).collect();
    let mut writer = GgufWriter::with_metadata(new.build().metadata());
    for (name, dims, kind, _) in &tensors {
        writer.tensor(name, dims, TensorType::from_name(kind).unwrap()).unwrap();
    }
    let mut body = writer.start(Vec::new()).unwrap();
    tensors.iter().for_each(|(.., bytes)| body.append(bytes).unwrap());
    [old, Gguf::from_vec(body.finish().unwrap()).unwrap()]
}

/// Both give the same logits: the same bits on the CPU, whose order of sums knows no layout.
fn assert_same(what: &str, [old, new]: &[Gguf; 2]) {
    for device in DEVICES {
        let (x, y) = (logits(old, *device), logits(new, *device));
        assert!(x.iter().all(|x| x.is_finite()) && x.iter().any(|v| *v != x[0]), "{what} on {device}");
        let near = |(x, y): (&f32, &f32)| x.to_bits() == y.to_bits() || *device != Device::Cpu && (x - y).abs() < 1e-4;
        assert!(x.len() == y.len() && x.iter().zip(&y).all(near), "{what} on {device}");
    }
}

/// Rows of a tensor, one run after the other.
fn rows(bytes: &[u8], all: usize, runs: impl IntoIterator<Item = std::ops::Range<usize>>) -> Vec<u8> {
    let row = bytes.len() / all;
    runs.into_iter().flat_map(|run| bytes[run.start * row..run.end * row].iter().copied()).collect()
}

/// Before April 2025: keys and values of a head of latent attention lie together, and the file tells the widths of heads as if
/// there were no latent.
#[test]
fn keys_and_values_of_latent_attention_in_one_tensor() {
    let (heads, content, value, rank) = (4, 32, 32, 64);
    for kind in ["F32", "F16", "BF16", "Q8_0", "Q4_0"] {
        let new = Header::read("deepseek2");
        let mut old = new.clone();
        old.tensors.retain(|t| !t.name.contains("attn_k_b") && !t.name.contains("attn_v_b"));
        for layer in 0..3 {
            let dims = vec![rank, heads * (content + value)];
            old.tensors.push(Line { name: format!("blk.{layer}.attn_kv_b.weight"), kind: kind.into(), dims });
        }
        let lengths = [("attention.head_count_kv", 4), ("attention.key_length", 48), ("attention.value_length", 32)];
        lengths.into_iter().for_each(|(key, n)| set(&mut old, key, Some(n)));
        ["attention.key_length_mla", "attention.value_length_mla"].into_iter().for_each(|key| set(&mut old, key, None));

        let (n, all) = (heads as usize, (content + value) as usize);
        let (content, rank) = (content as usize, rank as usize);
        let files = both(&old, &new, |(name, dims, kind, bytes)| {
            let Some(layer) = name.strip_suffix("attn_kv_b.weight") else { return vec![(name, dims, kind, bytes)] };
            let keys = rows(&bytes, n * all, (0..n).map(|h| h * all..h * all + content));
            let values = rows(&bytes, n * all, (0..n).map(|h| h * all + content..(h + 1) * all));
            let mut numbers = vec![0.0; n * content * rank];
            dequantize(Format::from_name(&kind).unwrap(), &keys, &mut numbers);
            let turned = |at: usize| numbers[(at / (rank * content) * content + at % content) * rank + at / content % rank];
            let to = if kind.starts_with('Q') { "F16" } else { &kind };
            let format = Format::from_name(to).unwrap();
            let mut k = vec![0; numbers.len() * format.block_bytes()];
            quantize(format, &(0..numbers.len()).map(turned).collect::<Vec<f32>>(), None, &mut k);
            vec![
                (format!("{layer}attn_k_b.weight"), vec![content as u64, rank as u64, heads], to.into(), k),
                (format!("{layer}attn_v_b.weight"), vec![rank as u64, value, heads], kind.clone(), values),
            ]
        });
        assert_same(kind, &files);
        let number = if kind == "F32" { 4 } else { 2 };
        assert_eq!(files.map(|file| copied(&file)), [3 * heads * (content * rank) as u64 * number, 0], "{kind}");
    }
}

/// Bytes that a plan expects beside those of the file.
fn copied(file: &Gguf) -> u64 {
    let plan = Plan::of(file, &Ask::default()).unwrap();
    plan.weights().iter().filter(|(part, _)| *part == Part::Copies).map(|(_, bytes)| bytes).sum()
}

/// Some files have what was made of that tensor beside it, all heads in one matrix.
#[test]
fn keys_and_values_of_latent_attention_twice() {
    let new = Header::read("deepseek2");
    let mut old = new.clone();
    let flat = |name: &str| name.contains("attn_k_b") || name.contains("attn_v_b");
    for line in old.tensors.iter_mut().filter(|t| flat(&t.name)) {
        line.dims = vec![line.dims[0], line.dims[1] * line.dims[2]];
    }
    old.tensors.push(Line { name: "blk.0.attn_kv_b.weight".into(), kind: "Q8_0".into(), dims: vec![64, 256] });
    let files = both(&old, &new, |(name, dims, kind, bytes)| match name {
        _ if name.contains("attn_kv_b") => vec![],
        _ if flat(&name) => vec![(name, vec![dims[0], dims[1] / 4, 4], kind, bytes)],
        _ => vec![(name, dims, kind, bytes)],
    });
    assert_same("beside", &files);
}

/// The first files of Qwen3-Next: query, key, values and gates of a key head lie together.
#[test]
fn inputs_of_a_delta_layer_in_one_tensor() {
    let (key_heads, keys, values) = (2, 32, 64); // values of the two heads that read a key head
    let each = 2 * (keys + values);
    for kind in ["F32", "F16", "Q8_0", "Q4_0"] {
        let new = Header::read("qwen3next");
        let mut old = new.clone();
        old.tensors.retain(|t| !t.name.contains("attn_qkv") && !t.name.contains("attn_gate"));
        let delta = |t: &&Line| t.name.contains("ssm_out");
        let layers: Vec<String> = old.tensors.iter().filter(delta).map(|t| t.name.replace("ssm_out.weight", "")).collect();
        assert!(!layers.is_empty());
        for layer in layers {
            let dims = vec![64, (key_heads * each) as u64];
            old.tensors.push(Line { name: format!("{layer}ssm_in.weight"), kind: kind.into(), dims });
        }
        let files = both(&old, &new, |(name, dims, kind, bytes)| {
            let Some(layer) = name.strip_suffix("ssm_in.weight") else { return vec![(name, dims, kind, bytes)] };
            let part = |from: usize, len: usize| (0..key_heads).map(move |h| h * each + from..h * each + from + len);
            let qkv = part(0, keys).chain(part(keys, keys)).chain(part(2 * keys, values));
            let qkv = rows(&bytes, key_heads * each, qkv);
            let gate = rows(&bytes, key_heads * each, part(2 * keys + values, values));
            vec![
                (format!("{layer}attn_qkv.weight"), vec![64, (key_heads * (2 * keys + values)) as u64], kind.clone(), qkv),
                (format!("{layer}attn_gate.weight"), vec![64, (key_heads * values) as u64], kind, gate),
            ]
        });
        assert_same(kind, &files);
    }
}
