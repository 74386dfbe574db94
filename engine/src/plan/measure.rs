//! The measurements that a [`Profile`](super::Profile) keeps: hob's own kernels, at work as they are in a model.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use hob_kernels::attention::{Attend, KvStore, KvType, Lane, Window, attend};
use hob_kernels::matmul::{ExpertProduct, Groups, InputRow, Inputs, Matrix, Product, matmul, matmul_experts};
use hob_kernels::ops::{self, Activation, Pairing};
use hob_kernels::recurrent;
use hob_kernels::{Cpu, Format};

use super::work::{BLOCK, seen};
use crate::error::Result;
use crate::gguf::Bytes;

/// Tokens by which products are measured.
pub(super) const TOKENS: [usize; 5] = [1, 4, 16, 64, 256];
/// The types that are measured; others are taken for the one nearest in bits.
pub(super) const FORMATS: [Format; 12] = [
    Format::Q4_K,
    Format::Q6_K,
    Format::Q5_K,
    Format::Q8_0,
    Format::Q4_0,
    Format::F16,
    Format::BF16,
    Format::F32,
    Format::Q3_K,
    Format::Q2_K,
    Format::IQ4_XS,
    Format::MXFP4,
];
/// Length of a row of the weights to measure on.
const COLS: usize = 4096;
/// What experts are measured in: their number, of which a token takes `TAKEN`, their inner width, the model's width.
const EXPERTS: usize = 128;
const TAKEN: usize = 8;
const INNER: usize = 768;
const WIDTH: usize = 2048;
/// Bytes of weights to read, more than any cache holds.
const LARGE: usize = 192 << 20;
/// Bytes of a matrix, as models of some billions of weights have them: by one token threads meet again after each.
const MATRIX: usize = 6 << 20;
/// How long the calls of one measurement may take, unless two take longer.
const LONG_ENOUGH: Duration = Duration::from_millis(40);

/// Weights as different as those of models: a machine reads and multiplies what is all the same faster, by an eighth. Every half of it
/// is a small number, so that no weight is infinite.
pub(super) fn weights() -> Result<Bytes> {
    Bytes::filled(LARGE, |bytes| {
        let mut random = 1u64;
        for byte in bytes {
            random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            *byte = 0x2c | ((random >> 56) as u8 & 0x83);
        }
        Ok(())
    })
}

/// Seconds of a call: the median of as many as go into 40 ms, the first left out, as it warms up. Not the best of them: a model takes
/// thousands of calls, slow ones too.
fn typical(mut f: impl FnMut()) -> f64 {
    let start = Instant::now();
    f();
    let mut seconds = Vec::new();
    while seconds.is_empty() || start.elapsed() < LONG_ENOUGH {
        let once = Instant::now();
        f();
        seconds.push(once.elapsed().as_secs_f64());
    }
    median(seconds)
}

/// The lower of the two in the middle; 0 of nothing.
fn median(mut seconds: Vec<f64>) -> f64 {
    seconds.sort_by(f64::total_cmp);
    seconds.get(seconds.len().saturating_sub(1) / 2).copied().unwrap_or(0.0)
}

/// Numbers as activations are, most of them far from the greatest: products by such are faster than by any.
fn activations(n: usize) -> Vec<f32> {
    (0..n).map(|i| (((i * 7919) % 997) as f32 / 500.0 - 1.0).powi(3)).collect()
}

/// Seconds of a weight of this type in products by each of [`TOKENS`].
pub(super) fn products(cpu: Cpu<'_>, format: Format, bytes: &[u8]) -> [f64; 5] {
    let row = format.row_bytes(COLS).unwrap_or(usize::MAX);
    TOKENS.map(|tokens| {
        // Few tokens read weights from memory, matrix by matrix; many compute on what is near.
        let rows = match tokens {
            1 => LARGE / row,
            2..=16 => LARGE / 8 / row,
            // A slow machine shows its speed on less.
            _ => 256 * cpu.threads().max(4),
        };
        let Some(weight) = bytes.get(..rows * row).and_then(|bytes| Matrix::new(format, rows, COLS, bytes)) else { return 0.0 };
        let each = if tokens == 1 { (MATRIX / row).min(rows) } else { rows };
        let x = activations(tokens * COLS);
        let (mut inputs, mut out) = (Inputs::new(), vec![0.0; tokens * each]);
        inputs.set(cpu, &x, COLS, [format].into_iter());
        let all = || {
            for first in (0..=rows - each).step_by(each) {
                matmul(cpu, &inputs, &mut [Product { weight: weight.slice(first..first + each), out: &mut out }]);
            }
        };
        typical(all) / (rows / each * each * COLS) as f64
    })
}

/// Seconds of a weight, by the tokens of an expert: one token by its few experts among many, then the same number of tokens to each.
pub(super) fn experts(cpu: Cpu<'_>, bytes: &[u8]) -> [f64; 5] {
    let format = FORMATS[0];
    let stack = |rows: usize, cols: usize| {
        let len = EXPERTS * rows * format.row_bytes(cols)?;
        Matrix::new(format, EXPERTS * rows, cols, bytes.get(..len)?)
    };
    let (Some(gate), Some(down)) = (stack(INNER, WIDTH), stack(WIDTH, INNER)) else { return [0.0; 5] };
    std::array::from_fn(|i| {
        let (tokens, used) = match TOKENS[i] {
            1 => (1, TAKEN),
            // So many that they do not lie in a cache, where few tokens would notice.
            few @ ..=16 => (few, EXPERTS / 2),
            many => (many, TAKEN),
        };
        let mut first = 0;
        // Of each token TAKEN slots, and to each expert slots of different tokens: what goes in is shared, as in a model.
        let slots: Vec<u32> = (0..used).flat_map(|e| (0..tokens).map(move |t| (t * used + e) as u32)).collect();
        let x = activations(slots.len() * WIDTH);
        let (mut wide, mut narrow) = (Inputs::new(), Inputs::new());
        wide.set(cpu, &x[..slots.len() / TAKEN * WIDTH], WIDTH, [format].into_iter());
        narrow.set(cpu, &x[..slots.len() * INNER], INNER, [format].into_iter());
        let (mut inner, mut out) = (vec![0.0; slots.len() * INNER], x);
        let seconds = typical(|| {
            // Other experts each time, or a cache would have them.
            first = (first + used) % EXPERTS;
            let product = |inputs: &Inputs, row: InputRow, weights: Matrix, first: usize, out: &mut [f32]| {
                let offsets: Vec<u32> = (0..=EXPERTS).map(|e| (e.saturating_sub(first).min(used) * tokens) as u32).collect();
                let groups = Groups { offsets: &offsets, slots: &slots, k: TAKEN };
                let rows = 0..weights.rows() / EXPERTS;
                matmul_experts(cpu, inputs, groups, row, EXPERTS, &mut [ExpertProduct { weights, rows, out }]);
            };
            product(&wide, InputRow::Token, gate, first, &mut inner);
            product(&narrow, InputRow::Slot, down, (first + EXPERTS / 2) % EXPERTS, &mut out);
        });
        seconds / (2 * used * INNER * WIDTH) as f64
    })
}

/// Seconds of a region without work, which all threads enter, behind what one thread does alone meanwhile.
pub(super) fn region(cpu: Cpu<'_>) -> f64 {
    const TIMES: usize = 1000;
    const ALONE: Duration = Duration::from_micros(2);
    let once = |_| {
        let before = Instant::now();
        while before.elapsed() < ALONE {
            std::hint::spin_loop();
        }
        let here = AtomicUsize::new(0); // nobody leaves before all are there
        let start = Instant::now();
        cpu.parallel(cpu.threads(), &|_| {
            here.fetch_add(1, Ordering::Relaxed);
            while here.load(Ordering::Relaxed) < cpu.threads() {
                std::hint::spin_loop();
            }
        });
        start.elapsed().as_secs_f64()
    };
    median((0..TIMES).map(once).collect())
}

/// Seconds of one multiplication in attention.
pub(super) struct Attention {
    /// By one query, at the first [`BLOCK`] of positions: what a query costs by itself is in it.
    pub(super) first: f64,
    /// By one query, at later ones.
    pub(super) one: f64,
    /// By many queries.
    pub(super) many: f64,
}

/// By one query at 64 positions and at 4096, and by 256 queries behind 512.
pub(super) fn attention(cpu: Cpu<'_>) -> Option<Attention> {
    let (heads, kv_heads, dim) = (32, 8, 128);
    let layer = Attend { heads, scale: 0.1, softcap: None, window: Window::None, sinks: None };
    let each = (heads * 2 * dim) as f64;
    let run = |position: usize, tokens: usize| {
        let n = position + tokens;
        let mut store = KvStore::new(KvType::F16, KvType::F16, kv_heads, dim, dim, n).ok()?;
        let context: Vec<f32> = (0..n * kv_heads * dim).map(|i| ((i * 31) % 200) as f32 / 100.0 - 1.0).collect();
        store.write(cpu, 0, &context, &context);
        let (q, mut out) = (vec![0.1; tokens * heads * dim], vec![0.0; tokens * heads * dim]);
        let lanes = [Lane { store: &store, position, tokens }];
        Some(typical(|| attend(cpu, &layer, &q, &lanes, &mut out)) / each)
    };
    let (short, long) = (run(BLOCK - 1, 1)?, run(4095, 1)?);
    let pairs: usize = (512..768).map(|position| seen(0, position)).sum();
    Some(Attention {
        first: short / BLOCK as f64,
        one: (long - short).max(0.0) / (4096 - BLOCK) as f64,
        many: run(512, 256)? / pairs as f64,
    })
}

/// Seconds of a number between the products of a layer.
pub(super) struct Between {
    /// By one token.
    pub(super) one: f64,
    /// By many, for each.
    pub(super) many: f64,
}

/// In a layer of 2048 channels, of one token and of 256. Its products are real ones: what they leave lies in the caches of all threads,
/// and the weights that went through have driven out the rest, so that the same work takes twice as long as by itself.
pub(super) fn between(cpu: Cpu<'_>, weights: &[u8]) -> Option<Between> {
    let each = |tokens: usize, layers: usize| {
        let mut layer = Layer::new(tokens)?;
        let mut at = 0;
        let seconds = (0..layers).map(|_| layer.run(cpu, weights, &mut at)).skip(1).collect();
        Some(median(seconds) / (tokens * Layer::NUMBERS) as f64)
    };
    Some(Between { one: each(1, 40)?, many: each(256, 3)? })
}

/// A layer with what comes in and out of its products, attention left out.
struct Layer {
    x: Vec<f32>,
    h: Vec<f32>,
    y: Vec<f32>,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    gate: Vec<f32>,
    up: Vec<f32>,
    norm: Vec<f32>,
    /// Cosines, and sines.
    angles: Vec<f32>,
    store: KvStore,
    inputs: Inputs,
}

impl Layer {
    const WIDE: usize = 3 * WIDTH;
    const KV: usize = WIDTH / 4;
    const DIM: usize = 128;
    /// What a token's products give (q, k, v, o, gate, up, down), what goes into them, and two norms: as [`super::work`] counts.
    const NUMBERS: usize = (3 * WIDTH + 2 * Self::KV + 2 * Self::WIDE) + (3 * WIDTH + Self::WIDE) + 2 * WIDTH;

    fn new(tokens: usize) -> Option<Layer> {
        let of = |width: usize| vec![0.5; tokens * width];
        Some(Layer {
            x: of(WIDTH),
            h: of(WIDTH),
            y: of(WIDTH),
            q: of(WIDTH),
            k: of(Self::KV),
            v: of(Self::KV),
            gate: of(Self::WIDE),
            up: of(Self::WIDE),
            norm: vec![1.0; WIDTH],
            angles: of(Self::DIM / 2),
            store: KvStore::new(KvType::F16, KvType::F16, Self::KV / Self::DIM, Self::DIM, Self::DIM, tokens).ok()?,
            inputs: Inputs::new(),
        })
    }

    /// Seconds between its products, whose weights are those from `at` on.
    fn run(&mut self, cpu: Cpu<'_>, weights: &[u8], at: &mut usize) -> f64 {
        let Layer { x, h, y, q, k, v, gate, up, norm, angles, store, inputs } = self;
        let mut start = Instant::now();
        let mut seconds = 0.0;
        let mut multiply = |start: &mut Instant, inputs: &Inputs, outs: &mut [&mut Vec<f32>]| {
            seconds += start.elapsed().as_secs_f64();
            outs.iter_mut().for_each(|out| product(cpu, inputs, weights, at, out));
            *start = Instant::now();
        };
        let set = |inputs: &mut Inputs, x: &[f32], width: usize| inputs.set(cpu, x, width, [FORMATS[0]].into_iter());
        ops::rms_norm(cpu, x, Some(&norm[..]), 1e-6, WIDTH, h);
        set(inputs, h, WIDTH);
        multiply(&mut start, inputs, &mut [&mut *q, &mut *k, &mut *v]);
        ops::rope(cpu, q, WIDTH / Self::DIM, Self::DIM, Self::DIM, Pairing::Halves, angles, angles);
        ops::rope(cpu, k, Self::KV / Self::DIM, Self::DIM, Self::DIM, Pairing::Halves, angles, angles);
        store.write(cpu, 0, k, v);
        set(inputs, q, WIDTH);
        multiply(&mut start, inputs, &mut [&mut *y]);
        ops::add(cpu, x, y);
        ops::rms_norm(cpu, x, Some(&norm[..]), 1e-6, WIDTH, h);
        set(inputs, h, WIDTH);
        multiply(&mut start, inputs, &mut [&mut *gate, &mut *up]);
        ops::glu(cpu, Activation::Silu, gate, up);
        set(inputs, gate, Self::WIDE);
        multiply(&mut start, inputs, &mut [&mut *y]);
        ops::add(cpu, x, y);
        seconds + start.elapsed().as_secs_f64()
    }
}

/// A product by the weights from `at` on; at their end they begin anew.
fn product(cpu: Cpu<'_>, inputs: &Inputs, weights: &[u8], at: &mut usize, out: &mut [f32]) {
    let (rows, cols) = (out.len() / inputs.tokens(), inputs.cols());
    let len = rows * FORMATS[0].row_bytes(cols).unwrap_or(0);
    if *at + len > weights.len() {
        *at = 0;
    }
    if let Some(weight) = weights.get(*at..*at + len).and_then(|bytes| Matrix::new(FORMATS[0], rows, cols, bytes)) {
        matmul(cpu, inputs, &mut [Product { weight, out }]);
    }
    *at += len;
}

/// Seconds of a number of a recurrent state and token.
pub(super) fn recurrences(cpu: Cpu<'_>) -> Option<f64> {
    use recurrent::{Inputs, KeyHeads, Lane, Shape, State, StateSize};
    let shape = Shape { key_heads: 16, heads: 32, keys: 128, values: 128, order: KeyHeads::Grouped };
    let tokens = 16;
    let mut state = State::new(StateSize { channels: 0, past: 0, heads: 32, keys: 128, values: 128 }).ok()?;
    let (q, v) = (vec![0.1; tokens * 16 * 128], vec![0.1; tokens * 32 * 128]);
    let (factors, mut out) = (vec![0.5; tokens * 32], vec![0.0; tokens * 32 * 128]);
    let inputs = Inputs { q: &q, k: &q, v: &v };
    let seconds = typical(|| recurrent::delta(cpu, &shape, inputs, &factors, &factors, &mut [Lane::new(&mut state, tokens)], &mut out));
    Some(seconds / (tokens * 32 * 128 * 128) as f64)
}
