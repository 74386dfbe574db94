//! Every family of the table, on a small model made from its header: it loads, its card is the recorded one, its logits do
//! not depend on threads, batch, micro-batch or neighbours, and what is wrong with a file is said by name.

mod synthetic;

use hob::batch::{Canceller, Entry, Logits};
use hob::cache::{Cache, CacheOptions, KvType};
use hob::config::Config;
use hob::decoder::Run;
use hob::device::{LoadOptions, load};
use hob::family::{FAMILIES, Family, LACKING};
use hob::{Device, GpuLayers};
use synthetic::Header;

const TOKENS: [u32; 23] = [3, 41, 7, 7, 0, 79, 12, 5, 66, 31, 2, 18, 44, 9, 71, 23, 50, 1, 37, 60, 15, 28, 77];

fn names() -> impl Iterator<Item = &'static str> {
    FAMILIES.iter().flat_map(|f| f.names).copied()
}

fn options(threads: usize) -> LoadOptions {
    LoadOptions { threads, context: Some(256), device: Device::Cpu, gpu_layers: GpuLayers::Auto }
}

fn cache(model: &dyn Run) -> Cache {
    model.cache(&CacheOptions { capacity: 64, k: KvType::F16, v: KvType::F16, batch: 64 }).unwrap()
}

fn entries(tokens: &[u32], sequence: u32, first: usize) -> Vec<Entry> {
    let entry = |(i, token): (usize, &u32)| Entry { token: *token, sequence, position: (first + i) as u32, logits: Logits::Want };
    tokens.iter().enumerate().map(entry).collect()
}

/// Logits of every position, fed in chunks.
fn run(model: &dyn Run, tokens: &[u32], chunk: usize) -> Vec<f32> {
    let mut cache = cache(model);
    let (mut all, mut logits) = (Vec::new(), Vec::new());
    for part in tokens.chunks(chunk) {
        let first = cache.len();
        model.step(&entries(part, 0, first), &mut [&mut cache], &Canceller::new(), &mut logits).unwrap();
        all.extend_from_slice(&logits);
    }
    all
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

#[test]
fn logits_have_the_same_bits_however_they_are_computed() {
    for name in names() {
        let gguf = Header::read(name).build();
        let model = load(&gguf, &options(1)).unwrap_or_else(|e| panic!("{name}: {e}"));
        let want = run(&*model, &TOKENS, TOKENS.len());
        assert_eq!(want.len(), TOKENS.len() * 80, "{name}");
        assert!(want.iter().all(|x| x.is_finite()) && want.iter().any(|x| *x != want[0]), "{name}");
        for chunk in [1, 7] {
            assert_eq!(bits(&run(&*model, &TOKENS, chunk)), bits(&want), "{name} in chunks of {chunk}");
        }
        let two = load(&gguf, &options(2)).unwrap();
        assert_eq!(bits(&run(&*two, &TOKENS, 10)), bits(&want), "{name} on two threads");
    }
}

#[test]
fn a_sequence_does_not_see_its_neighbours() {
    for name in names() {
        let model = load(&Header::read(name).build(), &options(1)).unwrap();
        let (a, b) = TOKENS.split_at(9);
        let (mut first, mut second) = (cache(&*model), cache(&*model));
        let mut batch = entries(a, 0, 0);
        batch.extend(entries(b, 1, 0));
        let mut logits = Vec::new();
        model.step(&batch, &mut [&mut first, &mut second], &Canceller::new(), &mut logits).unwrap();
        let alone: Vec<f32> = [run(&*model, a, 64), run(&*model, b, 64)].concat();
        assert_eq!(bits(&logits), bits(&alone), "{name}");
    }
}

#[test]
fn only_the_rows_asked_for_come_back() {
    for name in names() {
        let model = load(&Header::read(name).build(), &options(1)).unwrap();
        let all = run(&*model, &TOKENS, 64);
        let mut batch = entries(&TOKENS, 0, 0);
        batch.iter_mut().for_each(|e| e.logits = Logits::Skip);
        batch[4].logits = Logits::Want;
        batch[22].logits = Logits::Want;
        let mut logits = Vec::new();
        model.step(&batch, &mut [&mut cache(&*model)], &Canceller::new(), &mut logits).unwrap();
        assert_eq!(bits(&logits), bits(&[&all[4 * 80..5 * 80], &all[22 * 80..]].concat()), "{name}");
    }
}

#[test]
fn a_cache_goes_back_forks_and_comes_back() {
    for name in names() {
        let model = load(&Header::read(name).build(), &options(1)).unwrap();
        let model = &*model;
        let (stop, mut logits) = (Canceller::new(), Vec::new());
        let mut go = |cache: &mut Cache, tokens: &[u32]| {
            let first = cache.len();
            model.step(&entries(tokens, 0, first), &mut [cache], &stop, &mut logits).unwrap();
            bits(&logits)
        };
        let mut main = cache(model);
        go(&mut main, &TOKENS[..10]);
        let mark = main.checkpoint().unwrap();
        let mut fork = main.fork().unwrap();
        let want = go(&mut main, &TOKENS[10..]);
        assert_eq!(go(&mut fork, &TOKENS[10..]), want, "{name}: fork");
        main.restore(&mark).unwrap();
        assert_eq!(main.len(), 10);
        assert_eq!(go(&mut main, &TOKENS[10..]), want, "{name}: restored");
        if main.only_copies() {
            assert!(main.truncate(4).is_err(), "{name}");
            main.truncate(0).unwrap();
            assert!(main.restore(&mark).is_err(), "{name}: it begins anew");
            assert_eq!(go(&mut main, &TOKENS)[10 * 80..], want, "{name}: from the beginning");
            continue;
        }
        main.truncate(4).unwrap();
        go(&mut main, &[1, 2, 3]);
        assert!(main.restore(&mark).is_err(), "{name}: positions under the checkpoint were overwritten");
        main.truncate(4).unwrap();
        assert_eq!(go(&mut main, &TOKENS[4..])[6 * 80..], want, "{name}: cut back");
    }
}

#[test]
fn cards_are_as_recorded() {
    let record = std::env::var_os("HOB_RECORD_CARDS").is_some();
    for name in names() {
        let card = load(&Header::read(name).build(), &options(1)).unwrap().card();
        let path = format!("{}/tests/cards/{name}.txt", env!("CARGO_MANIFEST_DIR"));
        if record {
            std::fs::write(&path, format!("{card}\n")).unwrap();
        }
        let want = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e} (HOB_RECORD_CARDS=1 writes it)"));
        assert_eq!(card.trim_end(), want.trim_end(), "{name}");
    }
}

#[test]
fn a_missing_tensor_and_a_wrong_shape_are_named() {
    for name in names() {
        let whole = Header::read(name);
        let config = Config::from_metadata(whole.build().metadata()).unwrap();
        for (i, line) in whole.tensors.iter().enumerate().filter(|(_, line)| !unused(&config, &line.name)) {
            let mut less = whole.clone();
            less.tensors.remove(i);
            if let Err(error) = load(&less.build(), &options(1)) {
                let part = line.name.trim_end_matches(".weight");
                let stem = part.split('.').take(2).collect::<Vec<_>>().join(".");
                assert!(error.to_string().contains(&stem), "{name} without {}: {error}", line.name);
            } else {
                let from_keys = whole.values_from_keys() && line.name.contains("attn_v");
                assert!(optional(&line.name) || from_keys, "{name} runs without {}", line.name);
            }
            let mut other = whole.clone();
            other.tensors[i].dims[0] += 160; // no shape that another kind of norm has
            let error = load(&other.build(), &options(1)).err().unwrap_or_else(|| panic!("{name} takes any shape of {}", line.name));
            assert!(error.to_string().contains("expected"), "{name}: {error}");
        }
    }
}

/// Tensors that real files hold for nothing: a drafting layer's, keys and values of layers that look at an earlier one's.
fn unused(config: &Config, name: &str) -> bool {
    let layer = name.strip_prefix("blk.").and_then(|rest| rest.split('.').next()).and_then(|n| n.parse::<usize>().ok());
    let shares = layer.is_some_and(|layer| layer + config.shared_kv_layers >= config.layers);
    config.drafts(name) || shares && (name.contains(".attn_k") || name.contains(".attn_v"))
}

/// Tensors without which the model is another one, but still one.
fn optional(name: &str) -> bool {
    let parts = ["bias", "output.weight", "rope_f", "_norm", "shexp", "_gate", "probs_b", "attn_sinks", "_scale.weight", ".scale"];
    parts.iter().any(|p| name.contains(p))
}

#[test]
fn a_tensor_that_no_block_knows_is_refused_by_name() {
    let mut header = Header::read("llama");
    header.tensors.push(synthetic::Line { name: "blk.0.time_mix_first.weight".into(), kind: "F32".into(), dims: vec![4] });
    let error = load(&header.build(), &options(1)).err().unwrap().to_string();
    assert!(error.contains("blk.0.time_mix_first.weight") && error.contains("llama"), "{error}");
}

#[test]
fn a_type_without_a_kernel_is_refused_by_name() {
    let mut header = Header::read("llama");
    header.tensors.iter_mut().find(|t| t.name == "blk.0.attn_q.weight").unwrap().kind = "I8".into();
    let error = load(&header.build(), &options(1)).err().unwrap().to_string();
    assert!(error.contains("blk.0.attn_q.weight") && error.contains("I8") && error.contains("Q4_K"), "{error}");
}

#[test]
fn a_batch_that_does_not_fit_is_refused_and_the_cache_is_left_alone() {
    let model = load(&Header::read("llama").build(), &options(1)).unwrap();
    let mut one = cache(&*model);
    let mut step = |batch: &[Entry]| {
        let mut logits = Vec::new();
        let error = model.step(batch, &mut [&mut one], &Canceller::new(), &mut logits).unwrap_err().to_string();
        assert_eq!(one.len(), 0);
        error
    };
    assert!(step(&entries(&[80], 0, 0)).contains("vocabulary"));
    assert!(step(&entries(&[1], 0, 3)).contains("position"));
    assert!(step(&entries(&[1], 1, 0)).contains("sequence"));
    assert!(step(&entries(&[1; 65], 0, 0)).contains("64"));
}

#[test]
fn a_position_that_was_not_learned_is_refused() {
    let mut header = Header::read("gpt2");
    header.tensors.iter_mut().find(|t| t.name == "position_embd.weight").unwrap().dims[1] = 8;
    let model = load(&header.build(), &options(1)).unwrap();
    assert_eq!(run(&*model, &TOKENS[..8], 3).len(), 8 * 80);
    let error = model.step(&entries(&TOKENS, 0, 0), &mut [&mut cache(&*model)], &Canceller::new(), &mut Vec::new()).unwrap_err();
    assert!(error.to_string().contains("8 positions"), "{error}");
}

#[test]
fn a_cancelled_step_changes_nothing() {
    let model = load(&Header::read("qwen3moe").build(), &options(1)).unwrap();
    let mut one = cache(&*model);
    let stop = Canceller::new();
    stop.cancel();
    let result = model.step(&entries(&TOKENS, 0, 0), &mut [&mut one], &stop, &mut Vec::new());
    assert!(matches!(result, Err(hob::Error::Cancelled)));
    assert_eq!(one.len(), 0);
    stop.clear();
    model.step(&entries(&TOKENS, 0, 0), &mut [&mut one], &stop, &mut Vec::new()).unwrap();
    assert_eq!(one.len(), TOKENS.len());
}

/// What the README says between its marks: families, then types, in lines that an editor shows whole.
fn supported() -> String {
    let family = |f: &Family| {
        let names: Vec<_> = f.names.iter().map(|n| format!("`{n}`")).collect();
        format!("{} ({})", f.models, names.join(", "))
    };
    let families: Vec<_> = FAMILIES.iter().map(family).collect();
    let types: Vec<_> = hob_kernels::Format::ALL.iter().map(|f| f.name()).collect();
    let mut text = String::new();
    let paragraphs = [
        format!("Families: {}.", families.join(" · ")),
        "Each was held against the logits of a reference: exact arithmetic, or llama.cpp on small random models (`.ci/peer.py`).".into(),
        format!("Types: {}, and every mixture of them (Q4_K_M …).", types.join(", ")),
    ];
    for paragraph in paragraphs {
        let mut line = String::new();
        for word in paragraph.split(' ') {
            if !line.is_empty() && line.chars().count() + word.chars().count() >= 132 {
                text += &format!("{line}\n");
                line.clear();
            }
            let gap = if line.is_empty() { "" } else { " " };
            line += &format!("{gap}{word}");
        }
        text += &format!("{line}\n\n");
    }
    text
}

#[test]
fn the_readme_lists_what_runs() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md");
    let readme = std::fs::read_to_string(path).unwrap();
    let (start, rest) = readme.split_once("--test families writes it anew -->\n").unwrap();
    let (list, end) = rest.split_once("<!-- end -->").unwrap();
    if std::env::var_os("HOB_RECORD_CARDS").is_some() {
        let mark = "--test families writes it anew -->\n";
        std::fs::write(path, format!("{start}{mark}\n{}<!-- end -->{end}", supported())).unwrap();
    } else {
        assert_eq!(list.trim(), supported().trim(), "HOB_RECORD_CARDS=1 writes it");
    }
}

#[test]
fn the_catalogue_names_only_families_there_are() {
    let table = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../models.toml")).unwrap();
    let families: Vec<_> = table.lines().filter_map(|line| line.strip_prefix("family = ")).collect();
    assert!(!families.is_empty());
    for family in families {
        assert!(names().any(|name| family == format!("\"{name}\"")), "{family}");
    }
}

/// Architecture names stand in family.rs alone. Tokenizers and templates have names of their own, some of them the same.
#[test]
fn architecture_names_occur_in_one_place() {
    let root = std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    let mut folders = vec![root.join("engine/src"), root.join("cli/src"), root.join("kernels/src")];
    let all: Vec<&str> = names().chain(LACKING.iter().flat_map(|(_, names)| *names).copied()).collect();
    let mut seen = 0;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() {
                if !["tokenizer", "template", "tests"].contains(&&*name) {
                    folders.push(path);
                }
                continue;
            }
            if name == "family.rs" || name.contains("tests") || !name.ends_with(".rs") {
                continue;
            }
            seen += 1;
            let text = std::fs::read_to_string(&path).unwrap();
            let code = text.split("#[cfg(test)]").next().unwrap().lines().filter(|line| !line.trim_start().starts_with("//"));
            for line in code {
                let found = all.iter().find(|name| line.contains(&format!("\"{name}\"")));
                assert!(found.is_none(), "{}: {line}", path.display());
            }
        }
    }
    assert!(seen > 50, "{seen}");
}
