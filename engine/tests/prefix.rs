//! What was computed once is not computed again: saved or copied, in memory or in a file, whole or cut, it gives the same bits.

mod synthetic;

use hob::Device;
use hob::batch::{Canceller, Entry, Logits};
use hob::cache::{Cache, CacheOptions, KvType, Part, Saved};
use hob::decoder::{LoadOptions, Run, load};
use hob::family::FAMILIES;
use synthetic::Header;

fn decoder(family: &str) -> Box<dyn Run> {
    load(&Header::read(family).build(), &LoadOptions { threads: 1, context: Some(256), device: Device::Cpu }).unwrap()
}

fn cache(model: &dyn Run, capacity: usize, batch: usize) -> Cache {
    model.cache(&CacheOptions { capacity, k: KvType::F16, v: KvType::F16, batch }).unwrap()
}

fn tokens(n: usize) -> Vec<u32> {
    (0..n as u32).map(|i| (i * 7 % 79 + i / 50) % 80).collect()
}

/// Appends tokens in steps of `batch`; the bits of the last one's logits.
fn feed(model: &dyn Run, cache: &mut Cache, tokens: &[u32], batch: usize) -> Vec<u32> {
    let mut logits = Vec::new();
    for part in tokens.chunks(batch) {
        let entry = |(i, token): (usize, &u32)| {
            let logits = if i + 1 == part.len() { Logits::Want } else { Logits::Skip };
            Entry { token: *token, sequence: 0, position: (cache.len() + i) as u32, logits }
        };
        let entries: Vec<Entry> = part.iter().enumerate().map(entry).collect();
        model.step(&entries, &mut [cache], &Canceller::new(), &mut logits).unwrap();
    }
    logits.iter().map(|x| x.to_bits()).collect()
}

/// All parts of a sequence, cut at `at`.
fn parts(from: &Cache, at: usize) -> Vec<(Part, Vec<u8>)> {
    let len = from.len();
    let wanted = [Part::Positions(0..at), Part::Positions(at / 64 * 64..len), Part::Whole(len)];
    let save = |part: Part| {
        let mut bytes = Vec::new();
        from.save(&part, None, &mut bytes).unwrap();
        assert_eq!(bytes.len(), from.part_bytes(&part));
        (part, bytes)
    };
    wanted.map(save).into_iter().collect()
}

fn borrowed(parts: &[(Part, Vec<u8>)]) -> Vec<(Part, &[u8])> {
    parts.iter().map(|(part, bytes)| (part.clone(), bytes.as_slice())).collect()
}

#[test]
fn every_family_goes_on_from_what_was_saved_with_the_same_bits() {
    let all = tokens(30);
    for name in FAMILIES.iter().flat_map(|f| f.names) {
        let model = decoder(name);
        let mut first = cache(&*model, 64, 16);
        feed(&*model, &mut first, &all[..21], 16);
        let parts = parts(&first, 10);
        let want = feed(&*model, &mut first, &all[21..], 16);
        let mut second = cache(&*model, 200, 7);
        second.resume(21, &borrowed(&parts)).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(feed(&*model, &mut second, &all[21..], 7), want, "{name}");
    }
}

#[test]
fn every_kind_of_state_goes_on_in_a_cache_of_another_size() {
    // Full, window, window with latent keys and entries, chunks, recurrent, and several of them.
    let kinds = ["llama", "gpt-oss", "deepseek2", "deepseek4", "llama4", "mamba2", "qwen35", "falcon-h1", "lfm2", "kimi-linear"];
    let all = tokens(240);
    for name in kinds {
        let model = decoder(name);
        let mut first = cache(&*model, 256, 16);
        feed(&*model, &mut first, &all[..201], 16);
        let parts = parts(&first, 128);
        let want = feed(&*model, &mut first, &all[201..], 16);
        for (capacity, batch) in [(240, 240), (4000, 16), (300, 1)] {
            // Into an empty one, and behind what it has computed itself.
            for own in [0, 150] {
                let mut second = cache(&*model, capacity, batch);
                feed(&*model, &mut second, &all[..own], batch);
                second.resume(201, &borrowed(&parts)).unwrap_or_else(|e| panic!("{name}: {e}"));
                assert_eq!(second.len(), 201);
                assert_eq!(feed(&*model, &mut second, &all[201..], batch), want, "{name}, {capacity}, {batch}, {own}");
                // How far it says that it can be cut back is how far it can.
                let back = (1..240).find(|len| second.holds(*len, 240));
                if let Some(back) = back {
                    second.truncate(back).unwrap();
                    assert_eq!(feed(&*model, &mut second, &all[back..], batch), want, "{name} cut back to {back}");
                }
            }
        }
        // What does not fit is refused, and nothing has changed.
        let mut second = cache(&*model, 200, 16);
        assert!(second.resume(201, &borrowed(&parts)).is_err());
        let mut second = cache(&*model, 256, 16);
        let mut cut = borrowed(&parts);
        cut.iter_mut().for_each(|(_, bytes)| *bytes = &bytes[..bytes.len().saturating_sub(1)]);
        assert!(second.resume(201, &cut).is_err() && second.resume(202, &borrowed(&parts)).is_err() && second.resume(201, &[]).is_err());
        assert_eq!((second.len(), feed(&*model, &mut second, &all, 16)), (0, want));
        let grows = first.saved() == Saved::ByPosition;
        assert_eq!(grows, name == "llama" || name == "deepseek2");
    }
}
