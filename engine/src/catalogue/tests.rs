use super::*;
use crate::cache::{CacheOptions, KvType};
use crate::device::{Device, GpuLayers, LoadOptions, load};

fn load_options() -> LoadOptions {
    LoadOptions { threads: 1, context: Some(64), device: Device::Cpu, gpu_layers: GpuLayers::Auto }
}

#[test]
fn every_shape_gives_the_weights_that_are_published() {
    let wrong: Vec<String> = entries()
        .iter()
        .filter(|e| e.weights() != e.parameters)
        .map(|e| format!("{}: the shape gives {}, the row says {}", e.name, e.weights(), e.parameters))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_decoder_takes_every_row() {
    for entry in entries() {
        let gguf = entry.header(FileType::Q4_K_M, None).and_then(|head| head.hollow()).unwrap_or_else(|e| panic!("{}: {e}", entry.name));
        if entry.lacks.is_some() {
            assert!(load(&gguf, &load_options()).is_err(), "{}", entry.name);
            continue;
        }
        let run = load(&gguf, &load_options()).unwrap_or_else(|e| panic!("{}: {e}", entry.name));
        let options = CacheOptions { capacity: 64, k: KvType::F16, v: KvType::F16, batch: 64 };
        let bytes = run.cache(&options).unwrap().bytes();
        assert!(bytes > 0, "{}", entry.name);
    }
}

#[test]
fn names_are_their_own_and_facts_are_whole() {
    let mut names: Vec<String> = entries().iter().flat_map(|e| [plain(&e.name), plain(&e.title)]).collect();
    names.sort_unstable();
    let all = names.len();
    names.dedup();
    // A name and its title may be the same letters.
    assert!(names.len() >= all / 2);
    for entry in entries() {
        assert!(find(&entry.name).is_ok_and(|found| found.name == entry.name), "{}", entry.name);
        assert!(find(&entry.title).is_ok_and(|found| found.name == entry.name), "{}", entry.title);
        assert_eq!(entry.repository.split('/').count(), 2, "{}", entry.name);
        assert!(entry.file.ends_with(".gguf") && !entry.uses.is_empty() && !entry.allows.is_empty(), "{}", entry.name);
        let (year, month) = entry.released.split_once('-').unwrap();
        assert!((2023..2030).contains(&year.parse().unwrap()) && (1..13).contains(&month.parse().unwrap()), "{}", entry.name);
        assert!(crate::family::Family::of(&entry.family).is_ok(), "{}", entry.name);
    }
}

#[test]
fn names_are_found_however_they_are_written() {
    for name in ["qwen3-4b", "Qwen3-4B", "qwen3:4b", "Qwen3 4B", "QWEN3_4B"] {
        assert_eq!(find(name).unwrap().name, "qwen3-4b", "{name}");
    }
    let (entry, quant) = find_quantized("llama-3.2-1b:q8_0").unwrap();
    assert_eq!((entry.name.as_str(), quant), ("llama-3.2-1b", Some(FileType::Q8_0)));
    assert_eq!(find_quantized("qwen3:4b").unwrap().0.name, "qwen3-4b");
    let error = find("qwen3-4x").unwrap_err().to_string();
    assert!(error.contains("qwen3-4b"), "{error}");
    assert!(find("xyzzy").unwrap_err().to_string().contains("hob plan"));
    assert!(nearest("").is_empty());
}

#[test]
fn sizes_are_those_of_the_files_that_quantize_writes() {
    let folder = std::env::temp_dir().join(format!("hob-sizes-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    for (name, kind) in [("gemma-3-270m", FileType::Q4_K_M), ("lfm2-1.2b", FileType::Q4_0), ("smollm3-3b", FileType::Q3_K_M)] {
        let mut small = find(name).unwrap().clone();
        // As many layers as make the mixtures differ, as little as goes of all else.
        small.shape = Shape { layers: 9, width: 256, ffn: 256, vocab: 300, heads: 4, kv_heads: 2, head_dim: 64, ..small.shape };
        let whole = small.write_synthetic(FileType::F16, None, Vec::new()).unwrap();
        let source = crate::gguf::Gguf::from_vec(whole).unwrap();
        let file = folder.join(name);
        crate::quantize::quantize(&source, &file, crate::quantize::QuantizeOptions::new(kind).threads(1), |_| {}).unwrap();
        let written = std::fs::metadata(&file).unwrap().len();
        assert_eq!(small.synthetic_bytes(kind, None).unwrap(), written, "{name}");
        let planned = small.header(kind, None).unwrap();
        let bytes = |gguf: &crate::gguf::Gguf| gguf.tensors().map(|t| t.size()).sum::<u64>();
        assert_eq!(bytes(&planned), bytes(&crate::gguf::Gguf::open(&file).unwrap()), "{name}");
    }
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_synthetic_model_computes() {
    for (name, kind) in [("qwen3-30b-a3b", FileType::Q4_0), ("granite-4-h-tiny", FileType::Q8_0), ("qwen3.5-0.8b", FileType::Q8_0)] {
        let mut small = find(name).unwrap().clone();
        let experts = small.shape.experts.clone().map(|e| Experts { count: 8, used: 2, ffn: 32, shared: e.shared.min(32), ..e });
        small.shape = Shape { layers: 6, width: 64, vocab: 300, ffn: small.shape.ffn.min(64), experts, ..small.shape };
        let file = small.write_synthetic(kind, None, Vec::new()).unwrap();
        let model = crate::Model::options().threads(1).context(64).chat_template("chatml");
        let model = model.build(crate::gguf::Gguf::from_vec(file).unwrap()).unwrap();
        let mut session = model.session().unwrap();
        session.feed(&[1, 2, 3]).unwrap();
        assert!(session.logits().iter().all(|x| x.is_finite()), "{name}");
    }
}
