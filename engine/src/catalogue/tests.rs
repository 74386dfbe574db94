use super::*;
use crate::cache::{CacheOptions, KvType};
use crate::decoder::{LoadOptions, load};
use crate::device::Device;

fn load_options() -> LoadOptions {
    LoadOptions { threads: 1, context: Some(64), device: Device::Cpu }
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
