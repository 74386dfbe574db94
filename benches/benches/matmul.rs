//! Matrix products of every format at every level, and a plain read of memory as their ceiling.
//!
//! - `gemv FORMAT/LEVEL`: one token, weights that fit no cache; bytes of weights a second, to be held against `read`.
//! - `few FORMAT/LEVEL`: 4 tokens, as in speculation; the same bytes, so that the cost of tokens shows.
//! - `gemm FORMAT/LEVEL`: 512 tokens on 4096 x 1024; multiplications a second.

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use hob_benches::{assert_same, noise, pool, setting, weights};
use hob_kernels::matmul::{Inputs, Matrix, Product, matmul};
use hob_kernels::{Cpu, Format, Level, Pool, naive};

const COLS: usize = 4096;

/// How fast the threads together read memory: each adds up its own stretches, 8 bytes at a time.
fn read(c: &mut Criterion) {
    let pool = pool();
    let words = vec![1u64; (setting("HOB_BENCH_MIB", 256) << 20) / 8];
    let mut sums = vec![0u64; words.len().div_ceil(1 << 16)];
    let mut group = c.benchmark_group("read");
    group.sample_size(20).throughput(Throughput::Bytes(words.len() as u64 * 8));
    group.bench_function(BenchmarkId::new("memory", Level::best()), |b| {
        b.iter(|| {
            Cpu::new(Level::best(), &pool).parallel_chunks(&mut sums, 1, &|i, sum| {
                let stretch = &words[i << 16..((i + 1) << 16).min(words.len())];
                sum[0] = stretch.iter().fold(0, |a, w| a.wrapping_add(*w));
            });
            black_box(&sums);
        });
        assert_eq!(sums.iter().sum::<u64>(), words.len() as u64);
    });
    group.finish();
}

/// One product, checked against naive in its last rows, then timed.
fn product(c: &mut Criterion, what: &str, format: Format, weight: Matrix<'_>, tokens: usize, throughput: Throughput) {
    let pool: Pool = pool();
    // Most of them far from the greatest, as activations are: products by such are faster than by any.
    let x: Vec<f32> = noise(tokens * weight.cols()).into_iter().map(|x| x.powi(3)).collect();
    let mut out = vec![0.0; tokens * weight.rows()];
    let mut group = c.benchmark_group(format!("{what} {}", format.name()));
    group.sample_size(20).warm_up_time(Duration::from_millis(500)).throughput(throughput);
    for level in Level::available() {
        let cpu = Cpu::new(level, &pool);
        group.bench_function(BenchmarkId::new(format!("{}x{}", weight.rows(), weight.cols()), level), |b| {
            let mut inputs = Inputs::new();
            let mut run = |out: &mut [f32]| {
                inputs.set(cpu, &x, weight.cols(), std::iter::once(format));
                matmul(cpu, &inputs, &mut [Product { weight, out }]);
            };
            run(&mut out);
            check(weight, &x, &out, &format!("{what} {} {level}", format.name()));
            b.iter(|| run(&mut out));
        });
    }
    group.finish();
}

/// The last 8 rows of the first and of the last token.
fn check(weight: Matrix<'_>, x: &[f32], out: &[f32], what: &str) {
    let (rows, cols) = (weight.rows(), weight.cols());
    let last = weight.slice(rows - 8..rows);
    for t in [0, x.len() / cols - 1] {
        let mut expected = [0.0; 8];
        naive::matmul(weight.format(), 8, cols, last.bytes(), &x[t * cols..(t + 1) * cols], &mut expected);
        assert_same(&out[(t + 1) * rows - 8..(t + 1) * rows], &expected, what);
    }
}

fn products(c: &mut Criterion) {
    for format in Format::ALL {
        let row_bytes = format.row_bytes(COLS).unwrap_or(1);
        let rows = (setting("HOB_BENCH_MIB", 256) << 20) / row_bytes / 64 * 64;
        let bytes = weights(format, rows, COLS);
        let Some(weight) = Matrix::new(format, rows, COLS, &bytes) else { continue };
        product(c, "gemv", format, weight, 1, Throughput::Bytes(bytes.len() as u64));
        product(c, "few", format, weight, 4, Throughput::Bytes(bytes.len() as u64));
        let (rows, tokens) = (1024, 512);
        product(c, "gemm", format, weight.slice(0..rows), tokens, Throughput::Elements((rows * COLS * tokens) as u64));
    }
}

criterion_group!(benches, read, products);
criterion_main!(benches);
