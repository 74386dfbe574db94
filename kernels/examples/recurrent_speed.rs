//! Speed of the recurrences: `cargo run --release -p hob-kernels --example recurrent_speed [threads]`.
//!
//! Prefill (256 tokens) in fused multiply-adds per second, decode (1 token) in bytes of state read and written per second.

use hob_kernels::ops::Activation;
use hob_kernels::recurrent::{self, Conv, Inputs, KeyHeads, Lane, Shape, State, StateSize};
use hob_kernels::{Cpu, Level, Pool};
use std::time::Instant;

/// Seconds of one call, the best of several.
fn best(mut f: impl FnMut()) -> f64 {
    f();
    let time = |_| {
        let start = Instant::now();
        f();
        start.elapsed().as_secs_f64()
    };
    (0..9).map(time).fold(f64::INFINITY, f64::min)
}

fn main() {
    let threads = std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(1);
    let pool = Pool::new(threads);
    let granite = Shape { key_heads: 1, heads: 48, keys: 128, values: 64, order: KeyHeads::Grouped };
    let qwen = Shape { key_heads: 16, heads: 32, keys: 128, values: 128, order: KeyHeads::Grouped };
    for level in Level::available() {
        let cpu = Cpu::new(level, &pool);
        for tokens in [256, 1] {
            for (name, shape, delta) in [("scan 48×64, state 128", granite, false), ("delta 32×128×128", qwen, true)] {
                let Shape { key_heads, heads, keys, values, .. } = shape;
                // A layer after another, so that no state is left in the caches when there is one token.
                let size = StateSize { channels: 0, past: 0, heads, keys, values };
                let mut states: Vec<State> = (0..32).filter_map(|_| State::new(size).ok()).collect();
                let (q, v) = (vec![0.1; tokens * key_heads * keys], vec![0.1; tokens * heads * values]);
                let (factors, mut out) = (vec![0.5; tokens * heads], vec![0.0; v.len()]);
                let inputs = Inputs { q: &q, k: &q, v: &v };
                let mut next = 0;
                let seconds = best(|| {
                    for _ in 0..if tokens == 1 { 32 } else { 1 } {
                        next = (next + 1) % states.len();
                        let lanes = &mut [Lane::new(&mut states[next], tokens)];
                        match delta {
                            true => recurrent::delta(cpu, &shape, inputs, &factors, &factors, lanes, &mut out),
                            false => recurrent::scan(cpu, &shape, inputs, &factors, &factors, &factors[..heads], lanes, &mut out),
                        }
                    }
                }) / if tokens == 1 { 32.0 } else { 1.0 };
                let cells = (heads * keys * values) as f64;
                let operations = if delta { 5.0 } else { 3.0 } * cells * tokens as f64;
                print!("{level}: {name}, {tokens} tokens: {:.1} µs a token, ", seconds / tokens as f64 * 1e6);
                println!("{:.1} G operations/s, state {:.1} GB/s", operations / seconds / 1e9, 8.0 * cells / seconds / 1e9);
            }
            let channels = 8192;
            let size = StateSize { channels, past: 3, heads: 0, keys: 0, values: 0 };
            let Ok(mut state) = State::new(size) else { return };
            let (weight, mut x) = (vec![0.1; 4 * channels], vec![0.1; tokens * channels]);
            let conv = Conv { weight: &weight, bias: None, activation: Activation::Silu, first: 0, channels };
            let seconds = best(|| recurrent::conv(cpu, &conv, &mut x, &mut [Lane::new(&mut state, tokens)]));
            println!(
                "{level}: conv of {channels}, {tokens} tokens: {:.2} ns a token and channel",
                seconds * 1e9 / (tokens * channels) as f64
            );
        }
    }
}
