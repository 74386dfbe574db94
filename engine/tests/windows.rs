//! Layers with a window keep only what is seen again: the bits are those of a cache that keeps everything, and the cache says
//! how far back it can go.

mod synthetic;

use hob::batch::{Canceller, Entry, Logits};
use hob::cache::{Cache, CacheOptions, KvType};
use hob::decoder::Run;
use hob::device::{LoadOptions, load};
use hob::{Device, GpuLayers};
use synthetic::Header;

const TOKENS: usize = 400;

/// A model whose every other layer looks through a window of 8.
fn model() -> Box<dyn Run> {
    load(
        &Header::read("gpt-oss").build(),
        &LoadOptions { threads: 2, context: Some(512), device: Device::Cpu, gpu_layers: GpuLayers::Auto },
    )
    .unwrap()
}

fn cache(model: &dyn Run, batch: usize) -> Cache {
    model.cache(&CacheOptions { capacity: 512, k: KvType::F16, v: KvType::F16, batch }).unwrap()
}

fn tokens() -> Vec<u32> {
    (0..TOKENS as u32).map(|i| i * 7 % 79 + i / 50).map(|t| t % 80).collect()
}

/// Appends tokens in steps of `batch`; the logits of each.
fn feed(model: &dyn Run, cache: &mut Cache, tokens: &[u32], batch: usize) -> Vec<u32> {
    let (mut all, mut logits) = (Vec::new(), Vec::new());
    for part in tokens.chunks(batch) {
        let entry =
            |(i, token): (usize, &u32)| Entry { token: *token, sequence: 0, position: (cache.len() + i) as u32, logits: Logits::Want };
        let entries: Vec<Entry> = part.iter().enumerate().map(entry).collect();
        model.step(&entries, &mut [cache], &Canceller::new(), &mut logits).unwrap();
        all.extend(logits.iter().map(|x| x.to_bits()));
    }
    all
}

#[test]
fn a_ring_takes_less_room_and_changes_no_bit() {
    let (model, tokens) = (model(), tokens());
    // A step of all positions leaves nothing to let go of.
    let mut full = cache(&*model, 512);
    let want = feed(&*model, &mut full, &tokens, 512);
    for batch in [1, 16, 100] {
        let mut ring = cache(&*model, batch);
        assert_eq!(feed(&*model, &mut ring, &tokens, batch), want, "in steps of {batch}");
        // 2 heads of 32 and 32 channels of 2 bytes: 256 bytes a position; 8 + batch positions in whole blocks, and one more.
        let room = (8 + batch).next_multiple_of(64) + 64;
        assert_eq!((full.bytes(), ring.bytes()), (2 * 512 * 256, (512 + room as u64) * 256));
    }
}

#[test]
fn a_ring_says_how_far_it_goes_back() {
    let (model, tokens) = (model(), tokens());
    let mut ring = cache(&*model, 16);
    let want = feed(&*model, &mut ring, &tokens, 16);
    // 400 positions are 7 blocks, of which it holds 2: from 320 on. So a query at 327 or later finds its window.
    let error = ring.truncate(326).unwrap_err().to_string();
    assert!(error.contains("327") && error.contains("326"), "{error}");
    assert_eq!(ring.len(), TOKENS);
    ring.truncate(327).unwrap();
    assert_eq!(feed(&*model, &mut ring, &tokens[327..], 16), want[327 * 80..]);
    assert!(ring.truncate(326).is_err());
    // The last step can always be taken back; so can everything.
    ring.truncate(TOKENS - 16).unwrap();
    assert_eq!(feed(&*model, &mut ring, &tokens[TOKENS - 16..], 5), want[(TOKENS - 16) * 80..]);
    ring.truncate(0).unwrap();
    assert_eq!(feed(&*model, &mut ring, &tokens, 16), want);
}

#[test]
fn a_checkpoint_comes_back_over_what_a_ring_has_let_go() {
    let (model, tokens) = (model(), tokens());
    let mut ring = cache(&*model, 16);
    feed(&*model, &mut ring, &tokens[..90], 16);
    let mark = ring.checkpoint().unwrap();
    let mut fork = ring.fork().unwrap();
    let want = feed(&*model, &mut ring, &tokens[90..], 16);
    assert_eq!(feed(&*model, &mut fork, &tokens[90..], 9), want);
    for _ in 0..2 {
        assert!(ring.truncate(90).is_err());
        ring.restore(&mark).unwrap();
        assert_eq!(ring.len(), 90);
        assert_eq!(feed(&*model, &mut ring, &tokens[90..], 16), want);
    }
    let mut late = ring.fork().unwrap();
    late.truncate(390).unwrap();
    assert_eq!(feed(&*model, &mut late, &tokens[390..], 3), want[300 * 80..]);
}

#[test]
fn a_step_larger_than_the_cache_was_made_for_is_refused() {
    let (model, tokens) = (model(), tokens());
    let mut ring = cache(&*model, 16);
    let entry = |i: usize| Entry { token: tokens[i], sequence: 0, position: i as u32, logits: Logits::Skip };
    let entries: Vec<Entry> = (0..17).map(entry).collect();
    let error = model.step(&entries, &mut [&mut ring], &Canceller::new(), &mut Vec::new()).unwrap_err().to_string();
    assert!(error.contains("at most 16"), "{error}");
    assert_eq!(ring.len(), 0);
}
