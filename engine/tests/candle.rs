//! The candle back end against the CPU back end: every family of the table, on a small model made from its header.
//!
//! They sum in different orders, so results are close, not equal. `HOB_TEST_DEVICE=cuda` (or `metal`) runs the same on a GPU.
#![cfg(feature = "candle")]

mod error;
#[allow(dead_code)] // some of it is for families.rs
mod synthetic;

use hob::batch::{Canceller, Entry, Logits};
use hob::cache::{Cache, CacheOptions, KvType};
use hob::decoder::Run;
use hob::device::{LoadOptions, load};
use hob::family::FAMILIES;
use hob::gguf::Gguf;
use hob::{Device, GpuLayers};
use synthetic::Header;

const TOKENS: [u32; 23] = [3, 41, 7, 7, 0, 79, 12, 5, 66, 31, 2, 18, 44, 9, 71, 23, 50, 1, 37, 60, 15, 28, 77];

/// All architectures.
fn names() -> impl Iterator<Item = &'static str> {
    FAMILIES.iter().flat_map(|f| f.names).copied()
}

/// Where candle computes.
fn device() -> Device {
    std::env::var("HOB_TEST_DEVICE").map_or(Device::Candle, |name| name.parse().expect("HOB_TEST_DEVICE names a device"))
}

fn on(device: Device, gguf: &Gguf) -> Box<dyn Run> {
    with(device, gguf, GpuLayers::Auto).unwrap_or_else(|e| panic!("{e}"))
}

fn with(device: Device, gguf: &Gguf, gpu_layers: GpuLayers) -> hob::Result<Box<dyn Run>> {
    load(gguf, &LoadOptions { threads: 1, context: Some(256), device, gpu_layers })
}

/// The model of a family with all weights in f32, so that nothing but the order of sums is different.
fn plain(name: &str) -> Gguf {
    let mut header = Header::read(name);
    header.tensors.iter_mut().filter(|t| t.kind != "I32").for_each(|t| t.kind = "F32".into());
    header.build()
}

fn cache(model: &dyn Run, kv: KvType) -> Cache {
    model.cache(&CacheOptions { capacity: 64, k: kv, v: kv, batch: 64 }).unwrap()
}

fn entries(tokens: &[u32], sequence: u32, first: usize) -> Vec<Entry> {
    let entry = |(i, token): (usize, &u32)| Entry { token: *token, sequence, position: (first + i) as u32, logits: Logits::Want };
    tokens.iter().enumerate().map(entry).collect()
}

fn feed(model: &dyn Run, cache: &mut Cache, tokens: &[u32]) -> Vec<f32> {
    let (first, mut logits) = (cache.len(), Vec::new());
    model.step(&entries(tokens, 0, first), &mut [cache], &Canceller::new(), &mut logits).unwrap();
    logits
}

/// Logits of every position, fed in chunks.
fn run(model: &dyn Run, kv: KvType, chunk: usize) -> Vec<f32> {
    let mut cache = cache(model, kv);
    TOKENS.chunks(chunk).flat_map(|part| feed(model, &mut cache, part)).collect()
}

#[test]
fn plain_weights_give_what_the_cpu_gives() {
    for name in names() {
        let gguf = plain(name);
        let (cpu, candle) = (on(Device::Cpu, &gguf), on(device(), &gguf));
        let want = run(&*cpu, KvType::F32, TOKENS.len());
        for (kv, bound) in [(KvType::F32, 1e-9), (KvType::F16, 1e-5)] {
            for chunk in [TOKENS.len(), 5, 1] {
                let error = error::relative(&run(&*candle, kv, chunk), &want);
                assert!(error < bound, "{name}, {kv:?} cache, in chunks of {chunk}: error {error:e}");
            }
        }
    }
}

#[test]
fn quantized_weights_give_nearly_what_the_cpu_gives() {
    for name in names() {
        let gguf = Header::read(name).build();
        let [x, y] = [device(), Device::Cpu].map(|device| run(&*on(device, &gguf), KvType::F16, 7));
        // A quarter of the positions: in others a near tie between experts may have gone the other way.
        let rows = x.chunks(x.len() / TOKENS.len()).zip(y.chunks(y.len() / TOKENS.len()));
        let mut errors: Vec<f64> = rows.map(|(x, y)| error::relative(x, y)).collect();
        errors.sort_by(f64::total_cmp);
        assert!(errors[errors.len() / 4] < 1e-2, "{name}: errors {errors:?}");
    }
}

#[test]
fn a_sequence_does_not_see_its_neighbours_and_rows_come_back_as_asked() {
    for name in names() {
        let model = on(device(), &plain(name));
        let all = run(&*model, KvType::F32, TOKENS.len());
        let (mut first, mut second) = (cache(&*model, KvType::F32), cache(&*model, KvType::F32));
        let mut batch = entries(&TOKENS, 0, 0);
        batch.extend(entries(&TOKENS[..9], 1, 0));
        batch.iter_mut().for_each(|e| e.logits = Logits::Skip);
        batch[4].logits = Logits::Want;
        batch[TOKENS.len() + 8].logits = Logits::Want;
        let mut logits = Vec::new();
        model.step(&batch, &mut [&mut first, &mut second], &Canceller::new(), &mut logits).unwrap();
        let vocab = all.len() / TOKENS.len();
        let want = [&all[4 * vocab..5 * vocab], &all[8 * vocab..9 * vocab]].concat();
        assert!(error::relative(&logits, &want) < 1e-9, "{name}");
    }
}

#[test]
fn a_cache_goes_back_and_forks() {
    for name in names() {
        let model = on(device(), &plain(name));
        let all = run(&*model, KvType::F32, TOKENS.len());
        let vocab = all.len() / TOKENS.len();
        let mut one = cache(&*model, KvType::F32);
        feed(&*model, &mut one, &TOKENS[..10]);
        let checkpoint = one.checkpoint().unwrap();
        let mut fork = one.fork().unwrap();
        feed(&*model, &mut one, &[1, 2, 3]);
        assert!(error::relative(&feed(&*model, &mut fork, &TOKENS[10..]), &all[10 * vocab..]) < 1e-9, "{name}: fork");
        one.restore(&checkpoint).unwrap();
        assert!(error::relative(&feed(&*model, &mut one, &TOKENS[10..]), &all[10 * vocab..]) < 1e-9, "{name}: back");
    }
}

#[test]
fn a_step_that_fails_says_so_and_changes_nothing() {
    let gguf = plain("llama");
    let (model, other) = (on(device(), &gguf), on(Device::Cpu, &gguf));
    let mut foreign = cache(&*other, KvType::F32);
    let result = model.step(&entries(&TOKENS, 0, 0), &mut [&mut foreign], &Canceller::new(), &mut Vec::new());
    assert!(result.unwrap_err().to_string().contains("another back end"));
    let (mut own, stop) = (cache(&*model, KvType::F32), Canceller::new());
    stop.cancel();
    assert!(matches!(model.step(&entries(&TOKENS, 0, 0), &mut [&mut own], &stop, &mut Vec::new()), Err(hob::Error::Cancelled)));
    assert_eq!(own.len(), 0);
}

#[test]
fn a_gpu_that_is_not_there_is_an_error_by_name() {
    let gguf = plain("llama");
    for device in [Device::Cuda(99), Device::Metal(99)] {
        let options = LoadOptions { threads: 1, context: Some(64), device, gpu_layers: GpuLayers::Auto };
        let error = load(&gguf, &options).err().expect("no machine has a hundred").to_string();
        assert!(error.contains(&device.to_string()), "{error}");
    }
}

#[test]
fn a_layer_with_a_window_lets_go_of_what_is_not_seen_again() {
    // Windows of 8; entries of 4 positions and of 128.
    for name in ["gemma2", "deepseek4"] {
        lets_go(&plain(name));
    }
}

fn lets_go(gguf: &Gguf) {
    let tokens: Vec<u32> = (0..150).map(|i| TOKENS[i * i % TOKENS.len()]).collect();
    let go = |device| {
        let model = on(device, gguf);
        let mut cache = model.cache(&CacheOptions { capacity: 160, k: KvType::F32, v: KvType::F32, batch: 5 }).unwrap();
        let first: Vec<f32> = tokens[..118].chunks(5).flat_map(|part| feed(&*model, &mut cache, part)).collect();
        let checkpoint = cache.checkpoint().unwrap();
        let second: Vec<f32> = tokens[118..].chunks(3).flat_map(|part| feed(&*model, &mut cache, part)).collect();
        cache.restore(&checkpoint).unwrap();
        let again: Vec<f32> = tokens[118..].chunks(5).flat_map(|part| feed(&*model, &mut cache, part)).collect();
        assert!(error::relative(&again, &second) < 1e-9);
        if device != Device::Cpu {
            // The CPU's caches let go of 64 positions at a time.
            assert!(cache.truncate(2).unwrap_err().to_string().contains("let go"));
        }
        cache.truncate(0).unwrap();
        let anew = feed(&*model, &mut cache, &tokens[..5]);
        assert!(error::relative(&anew, &first[..anew.len()]) < 1e-9);
        [first, second].concat()
    };
    assert!(error::relative(&go(device()), &go(Device::Cpu)) < 1e-9);
}

/// The model with each number of its last layers on the device, as far as it can be cut so.
fn cuts(gguf: &Gguf) -> Vec<(usize, Box<dyn Run>)> {
    let layers = on(Device::Cpu, gguf).config().layers;
    let cut = |n| match with(device(), gguf, GpuLayers::Count(n)) {
        Err(hob::Error::Unsupported(_)) if n > 0 && n < layers => None,
        model => Some((n, model.unwrap_or_else(|e| panic!("{e}")))),
    };
    (0..=layers).filter_map(cut).collect()
}

#[test]
fn a_model_in_two_parts_gives_what_the_cpu_gives() {
    for name in names() {
        let gguf = plain(name);
        let cpu = on(Device::Cpu, &gguf);
        let want = run(&*cpu, KvType::F32, 7);
        let cuts = cuts(&gguf);
        if name != "gemma3n" && name != "gemma4" {
            assert_eq!(cuts.len(), cpu.config().layers + 1, "{name}: only layers that share keys must stay together");
        }
        for (n, model) in cuts {
            assert_eq!(model.card(), cpu.card());
            let found = run(&*model, KvType::F32, 7);
            assert!(n > 0 || found == want, "{name}: without layers on the GPU it is the CPU that computes");
            assert!(error::relative(&found, &want) < 1e-9, "{name}, {n} layers on the GPU: error {:e}", error::relative(&found, &want));
        }
    }
}

#[test]
fn caches_in_two_parts_go_back_and_fork_and_know_their_neighbours() {
    for name in ["llama", "gemma2", "deepseek4", "gemma3n", "qwen35", "falcon-h1", "mamba2"] {
        let gguf = plain(name);
        let all = run(&*on(Device::Cpu, &gguf), KvType::F32, TOKENS.len());
        let vocab = all.len() / TOKENS.len();
        for (n, model) in cuts(&gguf) {
            let mut one = cache(&*model, KvType::F32);
            feed(&*model, &mut one, &TOKENS[..10]);
            let (checkpoint, mut fork) = (one.checkpoint().unwrap(), one.fork().unwrap());
            // A step that is broken off changes nothing that the checkpoint does not bring back.
            let stop = Canceller::new();
            stop.cancel();
            assert!(model.step(&entries(&TOKENS, 0, 10), &mut [&mut one], &stop, &mut Vec::new()).is_err());
            assert_eq!(one.len(), 10);
            feed(&*model, &mut one, &[1, 2, 3]);
            one.restore(&checkpoint).unwrap();
            // Both go on in one step.
            let mut batch = entries(&TOKENS[10..], 0, 10);
            batch.extend(entries(&TOKENS[10..15], 1, 10));
            let mut logits = Vec::new();
            model.step(&batch, &mut [&mut one, &mut fork], &Canceller::new(), &mut logits).unwrap();
            let want = [&all[10 * vocab..], &all[10 * vocab..15 * vocab]].concat();
            assert!(error::relative(&logits, &want) < 1e-9, "{name}, {n} layers");
            match one.truncate(12) {
                Ok(()) => {
                    assert!(error::relative(&feed(&*model, &mut one, &TOKENS[12..]), &all[12 * vocab..]) < 1e-9, "{name}, {n} layers: cut")
                }
                Err(_) => assert!(one.only_copies() && one.len() == TOKENS.len(), "{name}, {n} layers"),
            }
            one.truncate(0).unwrap();
            assert!(error::relative(&feed(&*model, &mut one, &TOKENS), &all) < 1e-9, "{name}, {n} layers: anew");
            assert!(one.bytes() > 0 && one.capacity() == 64);
        }
    }
}

#[test]
fn layers_on_a_gpu_want_a_gpu() {
    let gguf = plain("llama");
    let found = with(Device::Cpu, &gguf, GpuLayers::Count(1)).err().unwrap().to_string();
    assert!(found.contains("layers on a GPU") && found.contains("hob doctor"), "{found}");
    let mut whole = cache(&*on(device(), &gguf), KvType::F32);
    let halves = with(device(), &gguf, GpuLayers::Count(1)).unwrap();
    let found = halves.step(&entries(&TOKENS, 0, 0), &mut [&mut whole], &Canceller::new(), &mut Vec::new()).unwrap_err().to_string();
    assert!(found.contains("another back end"), "{found}");
}
