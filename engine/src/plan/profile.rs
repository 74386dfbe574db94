//! What a machine does in how much time, measured once in some seconds: what predictions are made from.
//!
//! ```text
//! read, int8    the machine's ceilings (machine.rs)
//! region        seconds to send the threads to work and to wait for them, after they waited for one of them
//! products      for each type of weights: seconds a weight takes in a product by 1, 4, 16, 64 and 256 tokens
//! experts       the same for Q4_K in the products of experts, which are many and small
//! attend        seconds of one multiplication in attention: by one query at the first positions and at others, by many queries
//! between       seconds that a number takes between the products of a layer, by one token and by many
//! recurrent     seconds of a number of a recurrent state and token
//! ```
//! All of it is measured by hob's own kernels (measure.rs), on weights larger than the caches, so that what a machine is good at shows.

use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use hob_kernels::{Cpu, Format, Level, Pool};
use serde::{Deserialize, Serialize};

use super::measure::{self, FORMATS, TOKENS};
use crate::error::{Error, Fault, Result};
use crate::machine::Ceilings;

/// How long measuring may take, unless once takes longer.
const LONGEST: Duration = Duration::from_secs(10);
/// After so long a machine that was busy is measured again.
const AGAIN: Duration = Duration::from_secs(600);
/// What measurements are called, so that those of an older make are not taken for these.
const MAKE: u32 = 4;

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
    /// Seconds of a multiplication in attention by one query, at the first block of positions.
    pub attend_first: f64,
    /// The same at later ones.
    pub attend_one: f64,
    /// The same by many queries.
    pub attend_many: f64,
    /// Seconds of a number between the products of a layer, by one token: in a norm, an activation, a sum, a quantized input.
    pub between_one: f64,
    /// The same by many tokens, for each.
    pub between_many: f64,
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

impl Products {
    fn of(format: Format, seconds: [f64; 5]) -> Products {
        Products { format: format.name().into(), bits: 8.0 * format.block_bytes() as f64 / format.block_len() as f64, seconds }
    }
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
        let no_room = || Error::Memory(Fault::at("machine profile").found("no room for 64 MiB"));
        let weights = measure::weights()?;
        let once = || {
            let ceilings = Ceilings::measure(threads, None)?;
            let attention = measure::attention(cpu).ok_or_else(no_room)?;
            let between = measure::between(cpu, &weights).ok_or_else(no_room)?;
            Ok(Profile {
                of: of.clone(),
                measured: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()),
                busy,
                read: ceilings.read,
                int8: ceilings.int8,
                region: measure::region(cpu),
                attend_first: attention.first,
                attend_one: attention.one,
                attend_many: attention.many,
                between_one: between.one,
                between_many: between.many,
                recurrent: measure::recurrences(cpu).ok_or_else(no_room)?,
                products: FORMATS.iter().map(|format| Products::of(*format, measure::products(cpu, *format, &weights))).collect(),
                experts: measure::experts(cpu, &weights),
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
        self.region = self.region.min(other.region);
        self.attend_first = self.attend_first.min(other.attend_first);
        self.attend_one = self.attend_one.min(other.attend_one);
        self.attend_many = self.attend_many.min(other.attend_many);
        self.between_one = self.between_one.min(other.between_one);
        self.between_many = self.between_many.min(other.between_many);
        self.recurrent = self.recurrent.min(other.recurrent);
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
        let products = FORMATS.iter().map(|format| {
            let bytes = format.block_bytes() as f64 / format.block_len() as f64;
            Products::of(*format, TOKENS.map(|n| (bytes / 20e9).max(n as f64 / 150e9)))
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
            attend_first: 1.0 / 5e9,
            attend_one: 1.0 / 10e9,
            attend_many: 1.0 / 40e9,
            between_one: 1.0 / 2e9,
            between_many: 1.0 / 4e9,
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
