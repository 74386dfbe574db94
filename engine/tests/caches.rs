//! Caches of every type, in every state that keeps keys and values: the same bits however they were filled, and near those of f32.

mod synthetic;

use hob::batch::{Canceller, Entry, Logits};
use hob::cache::{Cache, CacheOptions, KvType};
use hob::decoder::Run;
use hob::device::{LoadOptions, load};
use hob::{Device, GpuLayers, Model, Session};
use synthetic::Header;

/// All positions, windows with sinks, keys that hold their values, entries beside a window.
const STATES: [&str; 4] = ["llama", "gpt-oss", "deepseek2", "deepseek4"];

const TYPES: [(KvType, KvType); 5] = [
    (KvType::Bf16, KvType::Bf16),
    (KvType::Q8_0, KvType::Q8_0),
    (KvType::Q4_0, KvType::Q4_0),
    (KvType::Q8_0, KvType::Q4_0),
    (KvType::F32, KvType::Q8_0),
];

/// Beyond a block of 64, and not whole ones.
const TOKENS: usize = 150;

fn model(name: &str) -> Box<dyn Run> {
    load(&Header::read(name).build(), &LoadOptions { threads: 2, context: Some(256), device: Device::Cpu, gpu_layers: GpuLayers::Auto })
        .unwrap()
}

fn cache(model: &dyn Run, (k, v): (KvType, KvType)) -> Cache {
    model.cache(&CacheOptions { capacity: 192, k, v, batch: 192 }).unwrap()
}

fn tokens() -> Vec<u32> {
    (0..TOKENS as u32).map(|i| (i * 7 % 79 + i / 50) % 80).collect()
}

/// Appends tokens in steps of `batch`; the logits of each.
fn feed(model: &dyn Run, cache: &mut Cache, tokens: &[u32], batch: usize) -> Vec<f32> {
    let (mut all, mut logits) = (Vec::new(), Vec::new());
    for part in tokens.chunks(batch) {
        let at = cache.len();
        let entry = |(i, token): (usize, &u32)| Entry { token: *token, sequence: 0, position: (at + i) as u32, logits: Logits::Want };
        let entries: Vec<Entry> = part.iter().enumerate().map(entry).collect();
        model.step(&entries, &mut [cache], &Canceller::new(), &mut logits).unwrap();
        all.extend_from_slice(&logits);
    }
    all
}

#[track_caller]
fn equal(found: &[f32], wanted: &[f32], what: &str) {
    assert!(found.iter().map(|x| x.to_bits()).eq(wanted.iter().map(|x| x.to_bits())), "{what}");
}

#[test]
fn the_same_bits_however_a_cache_was_filled() {
    let tokens = tokens();
    let other: Vec<u32> = tokens.iter().map(|t| (t + 31) % 80).collect();
    for name in STATES {
        let model = model(name);
        for types in TYPES {
            let mut whole = cache(&*model, types);
            let want = feed(&*model, &mut whole, &tokens, TOKENS);
            assert!(want.iter().all(|x| x.is_finite()), "{name}, {types:?}");
            let what = |how: &str| format!("{name}, {types:?}, {how}");
            for batch in [7, 64] {
                equal(&feed(&*model, &mut cache(&*model, types), &tokens, batch), &want, &what(&format!("in steps of {batch}")));
            }
            // Cut back into the middle of a block, and another end in its place; then the first one again.
            for at in [100, 129] {
                let mut fork = whole.fork().unwrap();
                fork.truncate(at).unwrap();
                feed(&*model, &mut fork, &other[at..], 5);
                fork.truncate(at).unwrap();
                equal(&feed(&*model, &mut fork, &tokens[at..], 1), &want[at * 80..], &what(&format!("cut back to {at}")));
                let mut again = fork.fork().unwrap();
                again.truncate(149).unwrap();
                equal(&feed(&*model, &mut again, &tokens[149..], 1), &want[149 * 80..], &what("a fork of it"));
            }
        }
    }
}

/// Root mean square of the differences, as a share of the spread of the logits: of the middle one of the positions.
fn difference(found: &[f32], wanted: &[f32]) -> f64 {
    let square = |x: f64| x * x;
    let of = |(found, wanted): (&[f32], &[f32])| {
        let mean = wanted.iter().map(|x| f64::from(*x)).sum::<f64>() / wanted.len() as f64;
        let spread: f64 = wanted.iter().map(|x| square(f64::from(*x) - mean)).sum();
        let off: f64 = wanted.iter().zip(found).map(|(w, f)| square(f64::from(*w) - f64::from(*f))).sum();
        (off / spread).sqrt()
    };
    let mut all: Vec<f64> = found.chunks(80).zip(wanted.chunks(80)).map(of).collect();
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}

#[test]
fn every_type_is_near_f32() {
    let tokens = tokens();
    for name in ["llama", "gemma3"] {
        // Weights in f32: others take activations in 8 bits, whose steps would hide what is looked for.
        let mut header = Header::read(name);
        header.tensors.iter_mut().for_each(|tensor| tensor.kind = "F32".into());
        let model =
            load(&header.build(), &LoadOptions { threads: 2, context: Some(256), device: Device::Cpu, gpu_layers: GpuLayers::Auto })
                .unwrap();
        let of = |kind| feed(&*model, &mut cache(&*model, (kind, kind)), &tokens, TOKENS);
        let exact = of(KvType::F32);
        let found = [KvType::F16, KvType::Bf16, KvType::Q8_0, KvType::Q4_0].map(|kind| difference(&of(kind), &exact));
        eprintln!("{name}: f16, bf16, q8_0, q4_0 are off by {found:.4?}");
        let [f16, bf16, q8, q4] = found;
        assert!(f16 < 2e-3 && bf16 < 1.5e-2 && q8 < 2e-2 && q4 < 0.4, "{name}: {found:?}");
        assert!(0.0 < f16 && f16 < q8 && q8 < q4, "{name}: {found:?}");
    }
}

#[test]
fn a_cache_knows_what_it_takes() {
    let model = model("llama");
    let [f32, f16, bf16, q8, q4] = KvType::ALL.map(|kind| cache(&*model, (kind, kind)).bytes());
    assert_eq!((f32, bf16), (2 * f16, f16));
    // 32 channels in 64 bytes, in 2 + 32, in 2 + 16.
    assert_eq!((64 * q8, 64 * q4), (34 * f16, 18 * f16));
    assert_eq!(2 * cache(&*model, (KvType::Q8_0, KvType::F16)).bytes(), q8 + f16);
}

/// The likeliest tokens, one after the other.
fn likeliest(session: &mut Session, n: usize) -> Vec<u32> {
    let next = |session: &mut Session| {
        let (token, _) = session.logits().iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).unwrap();
        session.feed(&[token as u32]).unwrap();
        token as u32
    };
    (0..n).map(|_| next(session)).collect()
}

#[test]
fn a_prefix_that_is_held_gives_the_text_of_one_computed_anew() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/tiny.gguf");
    for kind in [KvType::Q8_0, KvType::Q4_0] {
        let model = Model::options().threads(2).context(256).cache_types(kind, kind).open(path).unwrap();
        let prompt: Vec<u32> = (0..120).map(|i| i * 13 % model.config().vocab as u32).collect();
        let mut anew = model.session().unwrap();
        anew.feed(&prompt).unwrap();
        let want = likeliest(&mut anew, 40);
        let mut held = model.session().unwrap();
        held.feed(&prompt[..50]).unwrap();
        likeliest(&mut held, 30);
        held.truncate(50).unwrap();
        held.feed(&prompt[50..]).unwrap();
        assert_eq!(likeliest(&mut held, 40), want, "{kind}");
    }
}
