//! What a machine does in how much time, measured once in some seconds: what predictions are made from.
//!
//! ```text
//! read, int8    the machine's ceilings (machine.rs)
//! region        seconds to send the threads to work and to wait for them
//! products      for each type of weights: seconds a weight takes in a product by 1, 4, 16, 64 and 256 tokens
//! experts       the same for Q4_K in the products of experts, which are many and small
//! attend        seconds of one multiplication in attention: by one query, by many
//! element       seconds that a number takes in norms, activations, sums and the quantization of inputs
//! recurrent     seconds of a number of a recurrent state and token
//! ```
//! The products are hob's own kernels on weights larger than the caches, so that what a machine is good at shows.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use hob_kernels::attention::{Attend, KvStore, KvType, Lane, Window, attend};
use hob_kernels::matmul::{ExpertProduct, Groups, InputRow, Inputs, Matrix, Product, matmul, matmul_experts};
use hob_kernels::ops::{self, Activation};
use hob_kernels::recurrent;
use hob_kernels::{Cpu, Format, Level, Pool};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Fault, Result};
use crate::gguf::Bytes;
use crate::machine::Ceilings;

/// Tokens by which products are measured.
const TOKENS: [usize; 5] = [1, 4, 16, 64, 256];
/// The types that are measured; others are taken for the one nearest in bits.
const FORMATS: [Format; 12] = [
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
/// How long measuring may take, unless once takes longer.
const LONGEST: Duration = Duration::from_secs(10);
/// After so long a machine that was busy is measured again.
const AGAIN: Duration = Duration::from_secs(600);
/// What measurements are called, so that those of an older make are not taken for these.
const MAKE: u32 = 3;

/// What a machine does in how much time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Profile {
    /// What it was measured on: another machine, level or number of threads needs another.
    pub of: Fingerprint,
    /// When, in seconds since 1970.
    pub measured: u64,
    /// Whether other programs were at work: then it is measured again when that is long enough ago.
    #[serde(default)]
    pub busy: bool,
    /// Bytes read a second.
    pub read: f64,
    /// Products of bytes a second.
    pub int8: f64,
    /// Seconds to send the threads to work and to wait for them.
    pub region: f64,
    /// Seconds of a multiplication in attention by one query.
    pub attend_one: f64,
    /// The same by many queries.
    pub attend_many: f64,
    /// Seconds of a number in a norm, an activation, a sum, a quantized input.
    pub element: f64,
    /// Seconds of a number of a recurrent state and token.
    pub recurrent: f64,
    /// Seconds of a weight, by type.
    products: Vec<Products>,
    /// Seconds of a weight of the first type in products of experts, by each of [`TOKENS`] to an expert.
    experts: [f64; 5],
}

/// A type of weights in products.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Products {
    format: String,
    bits: f64,
    /// Seconds a weight takes in a product by each of [`TOKENS`].
    seconds: [f64; 5],
}

/// What a profile is of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Fingerprint {
    /// The processor's name.
    pub cpu: String,
    /// The instruction set in use.
    pub level: String,
    /// Threads that work.
    pub threads: usize,
    /// hob's version and the make of the measurement.
    pub by: String,
}

impl Fingerprint {
    /// This machine with so many threads.
    ///
    /// # Errors
    /// [`Error::Unsupported`] where `HOB_LEVEL` names a level that this machine lacks.
    pub fn of_this_machine(threads: usize) -> Result<Fingerprint> {
        let level = level()?.to_string();
        Ok(Fingerprint { cpu: crate::machine::cpu(), level, threads, by: format!("{}/{MAKE}", env!("CARGO_PKG_VERSION")) })
    }
}

fn level() -> Result<Level> {
    Level::from_env().map_err(|e| Error::Unsupported(Fault::at("HOB_LEVEL").found(e)))
}

/// The profiles of a file.
#[derive(Default, Serialize, Deserialize)]
struct Kept {
    profiles: Vec<Profile>,
}

impl Profile {
    /// The profile of this machine: the one kept at `path`, or a new one that is kept there.
    ///
    /// # Errors
    /// As [`Profile::measure`]. That it could not be kept is no error.
    pub fn kept_or_measured(path: Option<&Path>, threads: usize) -> Result<Profile> {
        let of = Fingerprint::of_this_machine(threads)?;
        let kept = path.and_then(|path| Profile::kept(path, &of));
        match kept.filter(|profile| !profile.busy || profile.age() < AGAIN) {
            Some(profile) => Ok(profile),
            None => {
                let profile = Profile::measure(threads)?;
                if let Some(path) = path
                    && let Err(error) = profile.keep(path)
                {
                    tracing::warn!("{}: {error}", path.display());
                }
                Ok(profile)
            }
        }
    }

    /// The profile of this machine that is kept at `path`, if there is one.
    pub fn kept(path: &Path, of: &Fingerprint) -> Option<Profile> {
        let text = std::fs::read_to_string(path).ok()?;
        // A broken file is as good as none.
        let kept: Kept = serde_json::from_str(&text).ok()?;
        kept.profiles.into_iter().find(|profile| profile.of == *of)
    }

    /// Writes it to the profiles at `path`, in place of an older one.
    ///
    /// # Errors
    /// Where the system refuses.
    pub fn keep(&self, path: &Path) -> std::io::Result<()> {
        let old = std::fs::read_to_string(path).ok().and_then(|text| serde_json::from_str::<Kept>(&text).ok());
        let mut kept = old.unwrap_or_default();
        kept.profiles.retain(|profile| profile.of != self.of);
        kept.profiles.push(self.clone());
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        // Written beside and renamed: whoever reads meanwhile finds one whole file or the other.
        let part = path.with_extension(format!("{}.part", std::process::id()));
        std::fs::write(&part, serde_json::to_vec_pretty(&kept)?)?;
        std::fs::rename(&part, path)
    }

    /// How long ago it was measured.
    pub fn age(&self) -> Duration {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        now.saturating_sub(Duration::from_secs(self.measured))
    }

    /// Measures this machine, in some ten seconds: several times, of which the best counts, since whatever else is at work on the
    /// machine, or on the one that it is a part of, only ever makes it slower.
    ///
    /// # Errors
    /// [`Error::Unsupported`] where `HOB_LEVEL` names a level that this machine lacks, [`Error::Memory`] without 256 MiB.
    pub fn measure(threads: usize) -> Result<Profile> {
        let of = Fingerprint::of_this_machine(threads)?;
        let busy = load().is_some_and(|load| load > 0.5 * threads as f64);
        let pool = Pool::new(threads);
        let cpu = Cpu::new(level()?, &pool);
        let no_room = |bytes: usize| Error::Memory(Fault::at("machine profile").found(format!("no room for {} MiB", bytes >> 20)));
        // As different as weights are: a machine reads and multiplies what is all the same faster, by an eighth. Every half of it is a
        // small number, so that no weight is infinite.
        let weights = Bytes::filled(LARGE, |bytes| {
            let mut random = 1u64;
            for byte in bytes {
                random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                *byte = 0x2c | ((random >> 56) as u8 & 0x83);
            }
            Ok(())
        })?;
        let once = || {
            let ceilings = Ceilings::measure(threads, None)?;
            let (attend_one, attend_many) = attention(cpu).ok_or_else(|| no_room(64 << 20))?;
            Ok(Profile {
                of: of.clone(),
                measured: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()),
                busy,
                read: ceilings.read,
                int8: ceilings.int8,
                region: region(cpu),
                attend_one,
                attend_many,
                element: element(cpu),
                recurrent: recurrences(cpu).ok_or_else(|| no_room(64 << 20))?,
                products: FORMATS.iter().map(|format| products(cpu, *format, &weights)).collect(),
                experts: experts(cpu, &weights),
            })
        };
        let start = Instant::now();
        let mut best: Profile = once()?;
        let took = start.elapsed();
        while start.elapsed() + took < LONGEST {
            best = best.or_better(once()?);
        }
        Ok(best)
    }

    /// Of two measurements of one machine, the better of each number.
    fn or_better(mut self, other: Profile) -> Profile {
        self.read = self.read.max(other.read);
        self.int8 = self.int8.max(other.int8);
        let (region, attend_one, attend_many) = (&mut self.region, &mut self.attend_one, &mut self.attend_many);
        let these = [region, attend_one, attend_many, &mut self.element, &mut self.recurrent];
        let those = [other.region, other.attend_one, other.attend_many, other.element, other.recurrent];
        these.into_iter().zip(those).for_each(|(this, that)| *this = this.min(that));
        for (this, that) in self.products.iter_mut().zip(other.products) {
            this.seconds.iter_mut().zip(that.seconds).for_each(|(this, that)| *this = this.min(that));
        }
        self.experts.iter_mut().zip(other.experts).for_each(|(this, that)| *this = this.min(that));
        self
    }

    /// Seconds that `weights` weights of a type take in a product by `tokens` tokens.
    pub(super) fn product(&self, format: Format, weights: f64, tokens: f64) -> f64 {
        let bits = 8.0 * format.block_bytes() as f64 / format.block_len() as f64;
        let exact = self.products.iter().find(|p| p.format == format.name());
        let near = || self.products.iter().min_by(|a, b| (a.bits - bits).abs().total_cmp(&(b.bits - bits).abs()));
        let Some(found) = exact.or_else(near) else { return 0.0 };
        weights * between(&found.seconds, tokens.max(1.0))
    }

    /// The same of experts that so many tokens go to each.
    pub(super) fn product_of_experts(&self, format: Format, weights: f64, tokens: f64) -> f64 {
        let tokens = tokens.max(1.0);
        let longer = self.products.first().map_or(1.0, |plain| between(&self.experts, tokens) / between(&plain.seconds, tokens));
        self.product(format, weights, tokens) * longer
    }

    /// A profile in round numbers: 20 GB/s, 200 G products a second. For tests and examples, which must not wait.
    #[doc(hidden)]
    pub fn example() -> Profile {
        let products = FORMATS.iter().map(|f| {
            let bits = 8.0 * f.block_bytes() as f64 / f.block_len() as f64;
            let seconds = TOKENS.map(|n| (bits / 8.0 / 20e9).max(n as f64 / 150e9));
            Products { format: f.name().into(), bits, seconds }
        });
        let products: Vec<Products> = products.collect();
        let experts = products[0].seconds.map(|seconds| 1.25 * seconds);
        Profile {
            of: Fingerprint { cpu: "example".into(), level: "scalar".into(), threads: 2, by: String::new() },
            measured: 0,
            busy: false,
            read: 20e9,
            int8: 200e9,
            region: 2e-6,
            attend_one: 1.0 / 10e9,
            attend_many: 1.0 / 40e9,
            element: 1.0 / 4e9,
            recurrent: 1.0 / 5e9,
            products,
            experts,
        }
    }
}

/// Programs at work in the last minute, where the system tells (Linux).
fn load() -> Option<f64> {
    std::fs::read_to_string("/proc/loadavg").ok()?.split(' ').next()?.parse().ok()
}

/// Seconds by `tokens` tokens: along a straight line between what was measured, and beyond in proportion.
fn between(seconds: &[f64; 5], tokens: f64) -> f64 {
    let last = TOKENS.len() - 1;
    if tokens >= TOKENS[last] as f64 {
        return seconds[last] * tokens / TOKENS[last] as f64;
    }
    let above = TOKENS.iter().position(|n| *n as f64 > tokens).unwrap_or(last).max(1);
    let (a, b) = (TOKENS[above - 1] as f64, TOKENS[above] as f64);
    let part = (tokens - a) / (b - a);
    seconds[above - 1] * (1.0 - part) + seconds[above] * part
}

/// Seconds of one call, the best of several, as many as go into 40 ms; the first warms up where it was not that long.
fn best(mut f: impl FnMut()) -> f64 {
    let start = Instant::now();
    f();
    let mut best = start.elapsed().as_secs_f64();
    for _ in 0..20 {
        if start.elapsed() > Duration::from_millis(40) {
            break;
        }
        let once = Instant::now();
        f();
        best = best.min(once.elapsed().as_secs_f64());
    }
    best
}

fn products(cpu: Cpu<'_>, format: Format, bytes: &[u8]) -> Products {
    let row = format.row_bytes(COLS).unwrap_or(usize::MAX);
    let seconds = TOKENS.map(|tokens| {
        // Few tokens read weights from memory, matrix by matrix; many compute on what is near.
        let rows = match tokens {
            1 => LARGE / row,
            2..=16 => LARGE / 8 / row,
            // A slow machine shows its speed on less.
            _ => 128 * cpu.threads().max(4),
        };
        let Some(weight) = bytes.get(..rows * row).and_then(|bytes| Matrix::new(format, rows, COLS, bytes)) else { return 0.0 };
        let each = if tokens == 1 { (MATRIX / row).min(rows) } else { rows };
        let x: Vec<f32> = (0..tokens * COLS).map(|i| ((i * 7919) % 997) as f32 / 500.0 - 1.0).collect();
        let (mut inputs, mut out) = (Inputs::new(), vec![0.0; tokens * each]);
        inputs.set(cpu, &x, COLS, [format].into_iter());
        let all = || {
            for first in (0..=rows - each).step_by(each) {
                matmul(cpu, &inputs, &mut [Product { weight: weight.slice(first..first + each), out: &mut out }]);
            }
        };
        best(all) / (rows / each * each * COLS) as f64
    });
    Products { format: format.name().into(), bits: 8.0 * format.block_bytes() as f64 / format.block_len() as f64, seconds }
}

/// Seconds of a weight, by the tokens of an expert: one token by its few experts among many, then the same number of tokens to each.
fn experts(cpu: Cpu<'_>, bytes: &[u8]) -> [f64; 5] {
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
        let slots: Vec<u32> = (0..(used * tokens) as u32).collect();
        let x = vec![0.1; slots.len() * WIDTH];
        let (mut wide, mut narrow) = (Inputs::new(), Inputs::new());
        wide.set(cpu, &x, WIDTH, [format].into_iter());
        narrow.set(cpu, &x[..slots.len() * INNER], INNER, [format].into_iter());
        let (mut inner, mut out) = (vec![0.0; slots.len() * INNER], x);
        let seconds = best(|| {
            // Other experts each time, or a cache would have them.
            first = (first + used) % EXPERTS;
            let product = |inputs: &Inputs, weights: Matrix, rows: usize, first: usize, out: &mut [f32]| {
                let offsets: Vec<u32> = (0..=EXPERTS).map(|e| (e.saturating_sub(first).min(used) * tokens) as u32).collect();
                let groups = Groups { offsets: &offsets, slots: &slots, k: 1 };
                matmul_experts(cpu, inputs, groups, InputRow::Slot, EXPERTS, &mut [ExpertProduct { weights, rows: 0..rows, out }]);
            };
            product(&wide, gate, INNER, first, &mut inner);
            product(&narrow, down, WIDTH, (first + EXPERTS / 2) % EXPERTS, &mut out);
        });
        seconds / (2 * used * INNER * WIDTH) as f64
    })
}

fn region(cpu: Cpu<'_>) -> f64 {
    const TIMES: usize = 500;
    let seconds = best(|| {
        for _ in 0..TIMES {
            let here = AtomicUsize::new(0); // nobody leaves before all are there
            cpu.parallel(cpu.threads(), &|_| {
                here.fetch_add(1, Ordering::Relaxed);
                while here.load(Ordering::Relaxed) < cpu.threads() {
                    std::hint::spin_loop();
                }
            });
        }
    });
    seconds / TIMES as f64
}

/// Seconds of a multiplication by one query at 4096 positions, and by 256 queries at 512.
fn attention(cpu: Cpu<'_>) -> Option<(f64, f64)> {
    let (heads, kv_heads, dim) = (32, 8, 128);
    let layer = Attend { heads, scale: 0.1, softcap: None, window: Window::None, sinks: None };
    let run = |position: usize, tokens: usize| {
        let n = position + tokens;
        let mut store = KvStore::new(KvType::F16, KvType::F16, kv_heads, dim, dim, n).ok()?;
        let context: Vec<f32> = (0..n * kv_heads * dim).map(|i| ((i * 31) % 200) as f32 / 100.0 - 1.0).collect();
        store.write(cpu, 0, &context, &context);
        let (q, mut out) = (vec![0.1; tokens * heads * dim], vec![0.0; tokens * heads * dim]);
        let lanes = [Lane { store: &store, position, tokens }];
        let pairs: usize = (0..tokens).map(|t| position + t + 1).sum();
        Some(best(|| attend(cpu, &layer, &q, &lanes, &mut out)) / (pairs * heads * 2 * dim) as f64)
    };
    Some((run(4095, 1)?, run(512, 256)?))
}

/// Seconds of a number: the mean of a norm, a gated activation, a sum and a quantized input.
fn element(cpu: Cpu<'_>) -> f64 {
    let (tokens, width) = (256, 4096);
    let n = tokens * width;
    let (mut x, y, w) = (vec![0.5f32; n], vec![0.25f32; n], vec![1.0f32; width]);
    let mut inputs = Inputs::new();
    let norm = best(|| ops::rms_norm(cpu, &y, Some(&w), 1e-6, width, &mut x));
    let glu = best(|| ops::glu(cpu, Activation::Silu, &mut x, &y));
    let add = best(|| ops::add(cpu, &mut x, &y));
    let set = best(|| inputs.set(cpu, &y, width, [Format::Q4_K].into_iter()));
    (norm + glu + add + set) / (4 * n) as f64
}

/// Seconds of a number of a recurrent state and token.
fn recurrences(cpu: Cpu<'_>) -> Option<f64> {
    use recurrent::{Inputs, KeyHeads, Lane, Shape, State, StateSize};
    let shape = Shape { key_heads: 16, heads: 32, keys: 128, values: 128, order: KeyHeads::Grouped };
    let tokens = 16;
    let mut state = State::new(StateSize { channels: 0, past: 0, heads: 32, keys: 128, values: 128 }).ok()?;
    let (q, v) = (vec![0.1; tokens * 16 * 128], vec![0.1; tokens * 32 * 128]);
    let (factors, mut out) = (vec![0.5; tokens * 32], vec![0.0; tokens * 32 * 128]);
    let inputs = Inputs { q: &q, k: &q, v: &v };
    let seconds = best(|| recurrent::delta(cpu, &shape, inputs, &factors, &factors, &mut [Lane { state: &mut state, tokens }], &mut out));
    Some(seconds / (tokens * 32 * 128 * 128) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_between_measurements_lies_on_a_line() {
        let seconds = [1.0, 4.0, 10.0, 40.0, 100.0];
        for (tokens, want) in [(1.0, 1.0), (4.0, 4.0), (10.0, 7.0), (256.0, 100.0), (512.0, 200.0)] {
            assert_eq!(between(&seconds, tokens), want, "{tokens}");
        }
    }

    #[test]
    fn a_profile_is_kept_and_found_again_by_its_machine() {
        let path = std::env::temp_dir().join(format!("hob-profile-{}/profile.json", std::process::id()));
        let one = Profile::example();
        let other = Profile { of: Fingerprint { threads: 7, ..one.of.clone() }, ..one.clone() };
        assert_eq!(Profile::kept(&path, &one.of), None);
        one.keep(&path).unwrap();
        other.keep(&path).unwrap();
        one.keep(&path).unwrap();
        let kept = Profile::kept(&path, &one.of).unwrap();
        assert!(kept.of == one.of && kept.products.len() == one.products.len() && (kept.read / one.read - 1.0).abs() < 1e-9);
        assert_eq!(Profile::kept(&path, &other.of).map(|p| p.of.threads), Some(7));
        std::fs::write(&path, "{ broken").unwrap();
        assert_eq!(Profile::kept(&path, &other.of), None);
        std::fs::remove_dir_all(path.parent().unwrap()).unwrap();
    }
}
