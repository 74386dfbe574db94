//! One token out of a vocabulary of 150 000, by the usual settings, on one thread.
//!
//! `sharp`: a row as trained models make them, a bell of logits with a few far above it. `flat`: logits within one of each other,
//! as of an untrained model, where top-p keeps nearly all and puts them in order: the worst there is.

use std::time::Duration;

use criterion::{BatchSize, BenchmarkId, Criterion, criterion_group, criterion_main};
use hob::{Sampler, Sampling};
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
    ]
}

/// The rows, by name, and the token that greedy sampling must find in each.
fn rows() -> [(&'static str, Vec<f32>, usize); 2] {
    // A sum of twelve even distributions is nearly normal; its deviation here is 2.5.
    let even = noise(12 * VOCABULARY);
    let mut sharp: Vec<f32> = even.chunks(12).map(|x| 1.25 * x.iter().sum::<f32>()).collect();
    for (i, token) in [90_001, 17, 44_444, 149_999, 3_333, 70_707].into_iter().enumerate() {
        sharp[token] = 20.0 - 0.8 * i as f32;
    }
    let mut flat = noise(VOCABULARY);
    flat[123_456] = 1.5;
    [("sharp", sharp, 90_001), ("flat", flat, 123_456)]
}

fn sampler(c: &mut Criterion) {
    let mut group = c.benchmark_group("sample");
    group.sample_size(30).warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(2));
    for (row, logits, best) in rows() {
        let greedy = Sampler::new(&Sampling::greedy()).and_then(|mut greedy| greedy.sample(&mut logits.clone()));
        assert_eq!(greedy.ok(), Some(best as u32));
        for (name, sampling) in settings() {
            let mut sampler = Sampler::new(&sampling).expect("the settings are sound");
            group.bench_function(BenchmarkId::new(name, row), |b| {
                b.iter_batched_ref(|| logits.clone(), |row| sampler.sample(row), BatchSize::LargeInput);
            });
        }
    }
    group.finish();
}

criterion_group!(benches, sampler);
criterion_main!(benches);
