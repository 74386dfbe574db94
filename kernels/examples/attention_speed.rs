//! How fast attention, the vector operations and the pool are on this machine.
//!
//! `cargo run --release -p hob-kernels --example attention_speed [LEVEL [ATTENTION CASE [CACHE TYPES]]]`; without the last, f16 alone.

use hob_kernels::attention::{Attend, KvStore, KvType, Lane, Window, attend};
use hob_kernels::ops::{self, Activation, Pairing};
use hob_kernels::{Cpu, Level, Pool};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

/// Seconds that this thread has been running, where the system tells: on a busy machine that is what one thread costs.
fn running() -> Option<f64> {
    let nanoseconds = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?.split(' ').next()?.parse::<f64>().ok()?;
    Some(nanoseconds * 1e-9)
}

/// Best and median seconds of `f`: the thread's own time for one thread, the clock's for more.
fn time(cpu: Cpu<'_>, repeats: usize, mut f: impl FnMut()) -> (f64, f64) {
    f();
    let alone = cpu.threads() == 1;
    let mut times: Vec<f64> = (0..repeats)
        .map(|_| {
            let before = running();
            let start = Instant::now();
            f();
            let clock = start.elapsed().as_secs_f64();
            match (before, running()) {
                (Some(before), Some(after)) if alone && clock > 2e-2 => after - before,
                _ => clock,
            }
        })
        .collect();
    times.sort_by(f64::total_cmp);
    (times[0], times[repeats / 2])
}

fn numbers(n: usize) -> Vec<f32> {
    (0..n).map(|i| ((i * 2_654_435_761) % 2000) as f32 / 1000.0 - 1.0).collect()
}

fn main() {
    let level = std::env::args().nth(1).map_or(Ok(Level::best()), |name| Level::named(&name)).expect("a level of this machine");
    println!("level {level}");
    for threads in [1, 2] {
        let pool = Pool::new(threads);
        let cpu = Cpu::new(level, &pool);
        let only = std::env::args().nth(2);
        if only.is_none() {
            fork_join(cpu);
            elementwise(cpu);
        }
        let kinds = std::env::args().nth(3).unwrap_or_else(|| "f16".into());
        let kinds: Vec<KvType> = kinds.split(',').map(|kind| kind.parse().expect("a type of caches")).collect();
        for dim in [64, 128, 576] {
            // (name, positions before, queries)
            for (name, position, tokens) in [
                ("decode at 8k", 8191, 1),
                ("decode at 512", 511, 1),
                ("prefill 512 × 4096", 3584, 512),
                ("prefill 512 × 512", 0, 512),
                ("prefill 12 × 512", 500, 12),
            ] {
                if only.as_deref().is_none_or(|only| only == name) {
                    kinds.iter().for_each(|kind| attention(cpu, name, *kind, dim, position, tokens));
                }
            }
        }
    }
}

fn fork_join(cpu: Cpu<'_>) {
    let n = 2000;
    let (best, _) = time(cpu, 20, || (0..n).for_each(|_| cpu.parallel(cpu.threads(), &|_| {})));
    println!("{} threads: fork and join {:.3} µs", cpu.threads(), best / n as f64 * 1e6);
    if cpu.threads() > 1 {
        let (best, median) = time(cpu, 20, || {
            for _ in 0..n {
                let here = AtomicUsize::new(0); // nobody leaves before all are there
                cpu.parallel(cpu.threads(), &|_| {
                    here.fetch_add(1, Ordering::Relaxed);
                    while here.load(Ordering::Relaxed) < cpu.threads() {
                        std::hint::spin_loop();
                    }
                });
            }
        });
        let micro = 1e6 / n as f64;
        println!("{} threads: fork, all at work, join {:.3} µs ({:.3})", cpu.threads(), best * micro, median * micro);
    }
}

fn elementwise(cpu: Cpu<'_>) {
    for tokens in [1, 512] {
        let (width, wide) = (4096, 14336);
        let (mut x, y, w) = (numbers(tokens * width), numbers(tokens * width), numbers(width));
        let (gate, up, mut out) = (numbers(tokens * wide), numbers(tokens * wide), numbers(tokens * wide));
        let (cos, sin) = (numbers(tokens * 64), numbers(tokens * 64));
        let row = |name: &str, n: usize, f: &mut dyn FnMut()| {
            let (best, median) = time(cpu, if tokens == 1 { 300 } else { 10 }, f);
            println!("  {name} {tokens} × {}: {:.1} µs ({:.1}), {:.2} G/s", n / tokens, best * 1e6, median * 1e6, n as f64 / best / 1e9);
        };
        let n = tokens * width;
        row("rms_norm", n, &mut || ops::rms_norm(cpu, &y, Some(&w), 1e-6, width, &mut x));
        row("add", n, &mut || ops::add(cpu, &mut x, &y));
        row("rope adjacent", n, &mut || ops::rope(cpu, &mut x, 32, 128, 128, Pairing::Adjacent, &cos, &sin));
        row("rope halves", n, &mut || ops::rope(cpu, &mut x, 32, 128, 128, Pairing::Halves, &cos, &sin));
        for act in [Activation::Silu, Activation::GeluTanh, Activation::Gelu] {
            row(&format!("glu {act:?} and a copy"), tokens * wide, &mut || {
                out.copy_from_slice(&gate);
                ops::glu(cpu, act, &mut out, &up);
            });
        }
    }
    let (n, mut x) = (128_256, numbers(128_256));
    let (best, median) = time(cpu, 20, || ops::softmax(cpu, &mut x, n));
    println!("  softmax 1 × {n}: {:.1} µs ({:.1})", best * 1e6, median * 1e6);
}

fn attention(cpu: Cpu<'_>, name: &str, kind: KvType, dim: usize, position: usize, tokens: usize) {
    // 576 is DeepSeek's latent: 16 heads look at one key, whose first 512 channels are the value.
    let (heads, kv_heads, value_dim) = if dim == 576 { (16, 1, 512) } else { (32, 8, dim) };
    let layer = Attend { heads, scale: 0.1, softcap: None, window: Window::None, sinks: None };
    let n = position + tokens;
    let mut store = match dim {
        576 => KvStore::shared(kind, dim, value_dim, n, n),
        _ => KvStore::new(kind, kind, kv_heads, dim, dim, n),
    }
    .expect("memory");
    let context = numbers(n * kv_heads * dim);
    let values = |tokens: usize| if dim == 576 { 0 } else { tokens * kv_heads * dim };
    store.write(cpu, 0, &context, &context[..values(n)]);
    let (q, mut out) = (numbers(tokens * heads * dim), vec![0.0; tokens * heads * value_dim]);
    let lanes = [Lane { store: &store, position, tokens }];
    let (best, median) = time(cpu, if tokens < 20 { 100 } else { 5 }, || attend(cpu, &layer, &q, &lanes, &mut out));
    let pairs: usize = (0..tokens).map(|t| position + t + 1).sum();
    let macs = (pairs * heads * (dim + value_dim)) as f64;
    let bytes = store.bytes() as f64;
    println!(
        "  attention d {dim}, {kind}, {name}: {:.3} ms ({:.3}), {:.1} GMAC/s ({:.1}), {:.1} GB/s",
        best * 1e3,
        median * 1e3,
        macs / best / 1e9,
        macs / median / 1e9,
        bytes / best / 1e9
    );
    if tokens == 1 {
        let like: Vec<u64> = vec![1; store.bytes() / 8];
        let mut sum = 0;
        let (read, median) = time(cpu, 100, || sum ^= like.iter().fold(0, |sum, x| sum ^ x));
        println!(
            "    one thread reading as many bytes: {:.1} GB/s ({:.1}){}",
            bytes / read / 1e9,
            bytes / median / 1e9,
            if sum == 7 { " " } else { "" }
        );
    }
    let (k, v) = (&context[..tokens * kv_heads * dim], &context[..values(tokens)]);
    let (best, _) = time(cpu, 10, || store.write(cpu, position, k, v));
    println!("    write {tokens} positions: {:.1} µs", best * 1e6);
}
