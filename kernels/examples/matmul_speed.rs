//! Speed of the matrix products: `matmul_speed [format…]`, best of several runs.
//!
//! ```text
//! cargo run --release -p hob-kernels --example matmul_speed -- Q4_K Q6_K Q8_0
//! COLS=14336 THREADS=2 TOKENS=1,2,4,8 HOB_LEVEL=avx2 …
//! ```
//! A product by one token reads weights larger than any cache: GB/s of weights. By many: 10⁹ multiplications a second.

use hob_kernels::matmul::{Inputs, Matrix, Product, matmul};
use hob_kernels::{Cpu, Format, Level, Pool};
use std::time::Instant;

fn number(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Bytes that are sound weights: random codes, small scales.
fn weights(format: Format, rows: usize, cols: usize) -> Option<Vec<u8>> {
    let mut bytes = vec![0; format.row_bytes(cols)? * rows];
    let mut state = 1u64;
    for eight in bytes.chunks_mut(8) {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        // No byte has bit 6: no half or float is infinite.
        let random = (state ^ state >> 29) & 0xbfbf_bfbf_bfbf_bfbf;
        for (byte, random) in eight.iter_mut().zip(random.to_le_bytes()) {
            *byte = random;
        }
    }
    Some(bytes)
}

fn main() {
    let chosen: Vec<String> = std::env::args().skip(1).collect();
    let Ok(level) = Level::from_env() else { return println!("HOB_LEVEL names no level of this machine") };
    let pool = Pool::new(number("THREADS", 1));
    let (cpu, cols) = (Cpu::new(level, &pool), number("COLS", 4096));
    let tokens: Vec<usize> = std::env::var("TOKENS").unwrap_or("1,4,512".into()).split(',').filter_map(|t| t.parse().ok()).collect();
    println!("{level}, {} threads, cols {cols}", pool.threads());
    for format in Format::ALL.into_iter().filter(|f| chosen.is_empty() || chosen.iter().any(|name| name == f.name())) {
        let Some(row_bytes) = format.row_bytes(cols) else { continue };
        let all_rows = (number("MB", 512) << 20) / row_bytes;
        let Some(bytes) = weights(format, all_rows, cols) else { continue };
        for &tokens in &tokens {
            let rows = if tokens > 16 { number("ROWS", 4096).min(all_rows) } else { all_rows };
            let Some(weight) = Matrix::new(format, rows, cols, &bytes[..rows * row_bytes]) else { continue };
            let x: Vec<f32> = (0..tokens * cols).map(|i| ((i * 7919) % 997) as f32 / 500.0 - 1.0).collect();
            let mut out = vec![0.0; tokens * rows];
            let mut inputs = Inputs::new();
            let (mut best, mut set) = (f64::INFINITY, f64::INFINITY);
            for _ in 0..number("RUNS", 7) {
                let start = Instant::now();
                inputs.set(cpu, &x, cols, [format].into_iter());
                set = set.min(start.elapsed().as_secs_f64());
                let start = Instant::now();
                matmul(cpu, &inputs, &mut [Product { weight, out: &mut out }]);
                best = best.min(start.elapsed().as_secs_f64());
            }
            let gb = weight.bytes().len() as f64 / best / 1e9;
            let gmac = (tokens * rows * cols) as f64 / best / 1e9;
            println!("{:>5} by {tokens:>3}: {gb:7.2} GB/s {gmac:8.1} GMAC/s   inputs {:.1} µs", format.name(), set * 1e6);
        }
    }
}
