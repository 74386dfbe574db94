//! Attention, 32 heads over 8 of keys and values, 128 wide, with a cache of every TYPE.
//!
//! - `attention decode TYPE/DEPTH/LEVEL`: one query after DEPTH positions; bytes of keys and values a second, to be held against `read`.
//! - `attention prefill TYPE/DEPTH/LEVEL`: 512 queries, the last after DEPTH positions; multiplications a second that the causal mask leaves.

use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use hob_benches::{assert_same, noise, pool, setting};
use hob_kernels::attention::{Attend, KvStore, KvType, Lane, Window, attend};
use hob_kernels::naive::attention::Context;
use hob_kernels::{Cpu, Level, Pool, naive};

const HEADS: usize = 32;
const KV_HEADS: usize = 8;
const WIDTH: usize = 128;

fn attention(c: &mut Criterion) {
    let pool = pool();
    let shape = Attend { heads: HEADS, scale: (WIDTH as f32).sqrt().recip(), softcap: None, window: Window::None, sinks: None };
    for (what, depth, tokens) in [("decode", setting("HOB_BENCH_DEPTH", 8192), 1), ("prefill", setting("HOB_BENCH_DEPTH", 4096), 512)] {
        KvType::ALL.into_iter().for_each(|kind| one(c, &pool, &shape, kind, what, depth, tokens));
    }
}

/// `tokens` queries, the last after `depth` positions, over a cache of `kind`.
fn one(c: &mut Criterion, pool: &Pool, shape: &Attend<'_>, kind: KvType, what: &str, depth: usize, tokens: usize) {
    let mut store = match KvStore::new(kind, kind, KV_HEADS, WIDTH, WIDTH, depth) {
        Ok(store) => store,
        Err(e) => panic!("{e}"),
    };
    let numbers = noise(2 * depth * KV_HEADS * WIDTH);
    store.write(Cpu::new(Level::best(), pool), 0, &numbers[..depth * KV_HEADS * WIDTH], &numbers[depth * KV_HEADS * WIDTH..]);
    let q = noise(tokens * HEADS * WIDTH);
    let mut out = vec![0.0; q.len()];
    let lane = Lane { store: &store, position: depth - tokens, tokens };
    let mut expected = vec![0.0; HEADS * WIDTH];
    let (k, v) = store.read(depth);
    let context = Context { k: &k, v: &v, kv_heads: KV_HEADS, key_dim: WIDTH, value_dim: WIDTH, turned: store.turned() };
    naive::attention::attend(shape, context, &q[q.len() - HEADS * WIDTH..], depth - 1, &mut expected);

    let seen: usize = (depth - tokens..depth).map(|p| p + 1).sum();
    let throughput = match tokens {
        1 => Throughput::Bytes(store.bytes() as u64),
        _ => Throughput::Elements((2 * seen * HEADS * WIDTH) as u64),
    };
    let mut group = c.benchmark_group(format!("attention {what} {kind}"));
    group.sample_size(10).warm_up_time(Duration::from_millis(500)).throughput(throughput);
    for level in Level::available() {
        let cpu = Cpu::new(level, pool);
        group.bench_function(BenchmarkId::new(depth.to_string(), level), |b| {
            attend(cpu, shape, &q, &[lane], &mut out);
            assert_same(&out[q.len() - HEADS * WIDTH..], &expected, &format!("attention {what} {kind} {level}"));
            b.iter(|| attend(cpu, shape, &q, &[lane], &mut out));
        });
    }
    group.finish();
}

criterion_group!(benches, attention);
criterion_main!(benches);
