//! Blocks to f32 and back, on one thread; weights a second.

use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use hob_benches::noise;
use hob_kernels::Format;
use hob_kernels::format::{dequantize, quantize};

/// As much as stays in the second cache.
const WEIGHTS: usize = 1 << 16;

fn group<'a>(c: &'a mut Criterion, what: &str) -> BenchmarkGroup<'a, WallTime> {
    let mut group = c.benchmark_group(what);
    group.sample_size(10).warm_up_time(Duration::from_millis(300)).throughput(Throughput::Elements(WEIGHTS as u64));
    group
}

fn formats(c: &mut Criterion) {
    let (x, mut back) = (noise(WEIGHTS), vec![0.0; WEIGHTS]);
    for format in Format::ALL.into_iter().filter(|f| f.can_quantize()) {
        let mut bytes = vec![0; format.row_bytes(WEIGHTS).unwrap_or(0)];
        quantize(format, &x, None, &mut bytes);
        dequantize(format, &bytes, &mut back);
        let far = x.iter().zip(&back).map(|(x, y)| (x - y).abs()).fold(0.0, f32::max);
        assert!(far < 0.6, "{} is off by {far}", format.name());
        group(c, "quantize").bench_function(format.name(), |b| b.iter(|| quantize(format, &x, None, &mut bytes)));
        group(c, "dequantize").bench_function(format.name(), |b| b.iter(|| dequantize(format, &bytes, &mut back)));
    }
}

criterion_group!(benches, formats);
criterion_main!(benches);
