//! Decode allocates nothing: once a cache has grown to its use, the next token of any family costs the allocator no call.

mod synthetic;

use hob::batch::{Canceller, Entry, Logits};
use hob::cache::{CacheOptions, KvType};
use hob::decoder::Run;
use hob::device::{LoadOptions, load};
use hob::family::FAMILIES;
use hob::{Device, GpuLayers};
use synthetic::Header;

/// Families that are tried where a head's positions are shared by threads too.
const FAR: [&str; 3] = ["llama", "deepseek2", "gpt-oss"];

/// Families whose step still allocates, and why.
const ALLOCATE: [(&str, &str); 1] = [("deepseek4", "lists of the entries that each token looks at")];

/// Allocations of the next token after `before` others.
fn count(model: &dyn Run, kind: KvType, before: u32) -> u64 {
    let mut cache = model.cache(&CacheOptions { capacity: 2048, k: kind, v: kind, batch: 64 }).unwrap();
    let (mut logits, stop) = (Vec::new(), Canceller::new());
    let entry = |position: u32| Entry { token: position % 80, sequence: 0, position, logits: Logits::Want };
    let prompt: Vec<Entry> = (0..before).map(entry).collect();
    let mut step = |batch: &[Entry]| model.step(batch, &mut [&mut cache], &stop, &mut logits).unwrap();
    prompt.chunks(64).for_each(&mut step);
    // The first of them may find room to be made.
    step(&[entry(before)]);
    allocation_counter::measure(|| step(&[entry(before + 1)])).count_total
}

#[test]
fn the_next_token_allocates_nothing() {
    for name in FAMILIES.iter().flat_map(|f| f.names).copied() {
        let options = LoadOptions { threads: 1, context: Some(2048), device: Device::Cpu, gpu_layers: GpuLayers::Auto };
        let model = load(&Header::read(name).build(), &options).unwrap_or_else(|e| panic!("{name}: {e}"));
        for kind in [KvType::F16, KvType::Q8_0] {
            let found = count(&*model, kind, 3);
            match ALLOCATE.iter().find(|(family, _)| *family == name) {
                None => assert_eq!(found, 0, "{name} with {kind:?}"),
                Some((_, why)) => assert!(found > 0, "{name} allocates no more {why}"),
            }
        }
        if FAR.contains(&name) {
            assert_eq!(count(&*model, KvType::F16, 1030), 0, "{name} behind 1030 positions");
        }
    }
}
