//! One token out of a vocabulary of 150 000, by each of the steps, on one thread.
//!
//! `sharp`: a row as trained models make them, a bell of logits with a few far above it. `flat`: logits within one of each other,
//! as of an untrained model, of which top-p keeps nearly all. `masked`: a bell of which a grammar allows a fiftieth.

use std::time::Duration;

use criterion::{BatchSize, BenchmarkId, Criterion, criterion_group, criterion_main};
use hob::sampler::{Mirostat, Sampler, Sampling, logprobs};
use hob_benches::noise;

const VOCABULARY: usize = 150_000;

/// What is asked for, by name. Steps that a setting does not name are off.
fn settings() -> Vec<(&'static str, Sampling)> {
    let off = || Sampling::new(42).temperature(0.8).top_k(0).top_p(1.0).min_p(0.0);
    vec![
        ("greedy", Sampling::greedy()),
        ("temperature", off()),
        ("defaults", Sampling::new(42)),
        ("top-p", off().top_p(0.95)),
        ("min-p", off().min_p(0.05)),
        ("top-p min-p", off().top_p(0.95).min_p(0.05)),
        ("top-k of 1000", off().top_k(1000)),
        ("top-k of 20000", off().top_k(20_000)),
        ("top-n-sigma", off().top_n_sigma(1.0)),
        ("typical-p", off().typical_p(0.95)),
        ("xtc", off().xtc_probability(1.0)),
        ("dynatemp", off().dynatemp_range(0.5)),
        ("mirostat 1", off().mirostat(Mirostat::V1)),
        ("mirostat 2", off().mirostat(Mirostat::V2)),
        ("adaptive-p", off().adaptive_target(0.3)),
        ("penalties", off().repeat_penalty(1.1).repeat_last_n(usize::MAX)),
        ("step of one's own", off().custom(|c| c.retain(|c| c.token % 2 == 0))),
    ]
}

/// The rows, by name, and the token that greedy sampling must find in each.
fn rows() -> [(&'static str, Vec<f32>, usize); 3] {
    // A sum of twelve even distributions is nearly normal; its deviation here is 2.5.
    let even = noise(12 * VOCABULARY);
    let mut sharp: Vec<f32> = even.chunks(12).map(|x| 1.25 * x.iter().sum::<f32>()).collect();
    let mut masked = vec![f32::NEG_INFINITY; VOCABULARY];
    masked.iter_mut().zip(&sharp).step_by(50).for_each(|(m, l)| *m = *l);
    masked[50] = 15.0;
    for (i, token) in [90_001, 17, 44_444, 149_999, 3_333, 70_707].into_iter().enumerate() {
        sharp[token] = 20.0 - 0.8 * i as f32;
    }
    let mut flat = noise(VOCABULARY);
    flat[123_456] = 1.5;
    [("sharp", sharp, 90_001), ("flat", flat, 123_456), ("masked", masked, 50)]
}

fn sampler(c: &mut Criterion) {
    let mut group = c.benchmark_group("sample");
    group.sample_size(30).warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(2));
    for (row, logits, best) in rows() {
        let greedy = Sampler::new(&Sampling::greedy()).and_then(|mut greedy| greedy.sample(&mut logits.clone()));
        assert_eq!(greedy.ok(), Some(best as u32));
        for (name, sampling) in settings() {
            let mut sampler = Sampler::new(&sampling).expect("the settings are sound");
            (0..4096).for_each(|i| sampler.accept(i * 31));
            group.bench_function(BenchmarkId::new(name, row), |b| {
                b.iter_batched_ref(|| logits.clone(), |row| sampler.sample(row), BatchSize::LargeInput);
            });
        }
        group.bench_function(BenchmarkId::new("20 logprobs", row), |b| b.iter(|| logprobs(&logits, 17, 20)));
    }
    group.finish();
}

criterion_group!(benches, sampler);
criterion_main!(benches);
