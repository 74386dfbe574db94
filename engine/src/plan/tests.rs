use super::*;
use crate::catalogue;
use crate::quantize::FileType;

fn plan(name: &str, kind: FileType, ask: Ask) -> Plan {
    let header = catalogue::find(name).unwrap().header(kind, None).unwrap();
    Plan::of(&header, &ask).unwrap()
}

#[test]
fn a_cache_is_planned_to_the_byte() {
    for name in ["qwen3-0.6b", "gemma-3-1b", "deepseek-v2-lite", "granite-4-h-tiny", "qwen3.5-0.8b", "lfm2-1.2b", "gemma-4-e2b"] {
        let header = catalogue::find(name).unwrap().header(FileType::Q4_0, Some(8)).unwrap();
        for (context, k, v) in [(64, KvType::F16, KvType::F16), (1000, KvType::F16, KvType::F32), (3000, KvType::F32, KvType::F16)] {
            let plan = Plan::of(&header, &Ask::default().context(Some(context)).cache_types(k, v)).unwrap();
            let cache = plan.run.cache(&CacheOptions { capacity: context, ..plan.cache }).unwrap();
            assert_eq!(plan.cache() + plan.recurrent(), cache.bytes(), "{name} {context}");
        }
    }
}

#[test]
fn known_models_take_what_they_take() {
    let small = plan("llama-3.1-8b", FileType::Q4_K_M, Ask::default());
    // bartowski's file is 4.92 GB; 128 KiB of cache a token.
    assert!((4_860_000_000..4_930_000_000).contains(&small.file_bytes()), "{}", small.file_bytes());
    assert_eq!((small.context(), small.trained(), small.cache()), (8192, 131_072, 8192 * 131_072));
    let sum: u64 = small.weights().iter().map(|(_, bytes)| bytes).sum();
    assert!(sum <= small.file_bytes() && sum > small.weights_resident());
    // DeepSeek's latent is 70 KB a token and layers 61.
    let latent = plan("deepseek-r1", FileType::Q4_K_M, Ask::default());
    assert_eq!(latent.cache() / 8192, 61 * 576 * 2);
}

#[test]
fn a_micro_batch_is_larger_where_experts_are_many() {
    let of = |name, ask| plan(name, FileType::Q4_K_M, ask).cache.batch;
    for (name, tokens) in [
        ("llama-3.2-1b", 256),
        ("gpt-oss-20b", 256),         // 4 of 32
        ("qwen3-30b-a3b", 512),       // 8 of 128
        ("deepseek-v2-lite", 512),    // 6 of 64: 341 would do
        ("qwen3-next-80b-a3b", 1024), // 10 of 512: 1638 would be too many
    ] {
        assert_eq!(of(name, Ask::default()), tokens, "{name}");
        assert_eq!(of(name, Ask::default().context(Some(100))), 100, "{name}: no more than the context");
        assert_eq!(of(name, Ask { micro_batch: Some(64), ..Ask::default() }), 64, "{name}: as asked for");
    }
}

#[test]
fn what_fits_is_found() {
    let plan = plan("llama-3.1-8b", FileType::Q4_K_M, Ask::default());
    let (half, whole) = (Memory::of_size(8 << 30), Memory::of_size(64 << 30));
    assert!(plan.fits(&half).is_yes() || plan.resident() > half.available);
    assert!(plan.fits(&whole).is_yes());
    assert_eq!(plan.fits(&Memory::of_size(4 << 30)), Fits::No(plan.resident() - (2 << 30)));
    assert_eq!(plan.largest_context(&whole, KvType::F16, KvType::F16), 131_072);
    assert_eq!(plan.largest_context(&Memory::of_size(4 << 30), KvType::F16, KvType::F16), 0);
    let largest = plan.largest_context(&half, KvType::F16, KvType::F16);
    assert!(plan.resident_with(largest, KvType::F16, KvType::F16) <= half.available);
    assert!(plan.resident_with(largest + 256, KvType::F16, KvType::F16) > half.available);
}

#[test]
fn speed_follows_bytes_and_experts() {
    let profile = Profile::example();
    let speed = |name| plan(name, FileType::Q4_K_M, Ask::default()).speed(&profile);
    let (small, large, sparse) = (speed("qwen3-0.6b"), speed("qwen3-32b"), speed("qwen3-30b-a3b"));
    assert!(small.answer > 10.0 * large.answer && sparse.answer > 4.0 * large.answer, "{small:?} {large:?} {sparse:?}");
    for speed in [small, large, sparse] {
        assert!(speed.prompt > speed.answer && speed.answer > speed.answer_full, "{speed:?}");
    }
}

#[test]
fn tiers_hold_the_best_of_each_use() {
    let choices = Choice::all(&Ask::default(), Some(&Profile::example())).unwrap();
    let memory = |gb: u64| Memory::of_size(gb << 30);
    for wanted in catalogue::Use::ALL {
        let of = |gb| best(&choices, wanted, &memory(gb));
        assert!(!of(8).is_empty() && of(8).len() < of(64).len(), "{wanted:?}");
        assert!(of(16).iter().all(|c| c.plan.fits(&memory(16)).is_yes() && c.entry.uses.contains(&wanted)));
    }
    let small = choices.iter().find(|c| c.entry.name == "qwen3-0.6b").unwrap();
    let large = choices.iter().find(|c| c.entry.name == "deepseek-v3").unwrap();
    assert_eq!((tier(&small.plan), tier(&large.plan)), (Some(8), Some(512)));
}

#[test]
fn copies_to_come_back_to_count() {
    // Full attention is cut back for nothing; windows let positions go only where the context is longer than they are.
    assert_eq!(plan("llama-3.1-8b", FileType::Q4_K_M, Ask::default()).marks(), 0);
    let gemma = |context| plan("gemma-3-1b", FileType::Q4_K_M, Ask::default().context(Some(context)));
    assert_eq!(gemma(512).marks(), 0);
    let long = gemma(8192);
    assert!(long.marks() > long.cache() && long.marks() < 2 * long.cache(), "{} of {}", long.marks(), long.cache());
    // Eight copies of a recurrent state, if they take no more than the cache, two always, and two more within a step.
    let hybrid = plan("qwen3.5-0.8b", FileType::Q4_K_M, Ask::default());
    let kept = (8 * hybrid.recurrent()).min((hybrid.cache() + hybrid.recurrent()).max(2 * hybrid.recurrent()));
    assert_eq!(hybrid.marks(), kept + 2 * hybrid.recurrent());
    let parts = hybrid.weights_resident() + hybrid.cache() + hybrid.recurrent() + hybrid.marks() + hybrid.scratch() + hybrid.program();
    assert_eq!(hybrid.resident(), parts);
}
