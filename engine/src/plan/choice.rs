//! Which models are worth having on a machine: those that fit, ordered by what they may be able to do.
//!
//! ```text
//! worth = √(weights · weights of a token) · 2^(years since 2023)          an expert model counts as a dense one between its two sizes;
//!                                                                        a year of progress halves what is needed for the same
//! ```
//! A rule of thumb, not a benchmark: the geometric mean is that of Mistral's and DeepSeek's comparisons, the yearly factor a careful
//! half of what "Densing Law of LLMs" (Xiao et al. 2024) finds. What was made for one use alone counts half as much again for it.

use crate::catalogue::{self, Entry, Use};
use crate::error::Result;
use crate::machine::Memory;
use crate::quantize::FileType;

use super::{Ask, Plan, Profile, Speed};

/// Memories that models are sorted into, in GB.
pub const TIERS: [u64; 7] = [8, 16, 32, 64, 128, 256, 512];

/// Slower than this a model is no company: tokens a second of its answers.
const PATIENCE: f64 = 4.0;

/// A model and how it would do.
#[derive(Debug)]
#[non_exhaustive]
pub struct Choice {
    /// Which one.
    pub entry: &'static Entry,
    /// Of which type.
    pub kind: FileType,
    /// What it takes.
    pub plan: Plan,
    /// How fast it is.
    pub speed: Option<Speed>,
}

impl Choice {
    /// All models that hob runs, of the usual type, most able first; with their speed where the machine's profile is there.
    ///
    /// # Errors
    /// Where a row of the catalogue is no model, which is a fault of hob's.
    pub fn all(ask: &Ask, profile: Option<&Profile>) -> Result<Vec<Choice>> {
        let mut all = Vec::new();
        for entry in catalogue::entries().iter().filter(|e| e.lacks.is_none()) {
            let kind = entry.usual();
            let plan = Plan::of(&entry.header(kind, None)?, ask)?;
            let speed = profile.map(|profile| plan.speed(profile));
            all.push(Choice { entry, kind, plan, speed });
        }
        all.sort_by(|a, b| worth(b.entry, None).total_cmp(&worth(a.entry, None)));
        Ok(all)
    }

    /// Whether it is fast enough to wait for, as far as that is known.
    pub fn is_bearable(&self) -> bool {
        self.speed.is_none_or(|speed| speed.answer >= PATIENCE)
    }
}

/// What a model may be able to do for a use; 0 where it was not made for that.
fn worth(entry: &Entry, for_use: Option<Use>) -> f64 {
    let size = (entry.parameters as f64 * entry.active as f64).sqrt();
    let (year, month) = entry.released.split_once('-').unwrap_or(("2023", "1"));
    let (year, month): (f64, f64) = (year.parse().unwrap_or(2023.0), month.parse().unwrap_or(1.0));
    let worth = size * (year - 2023.0 + (month - 1.0) / 12.0).exp2();
    match for_use {
        None => worth,
        Some(wanted) if !entry.uses.contains(&wanted) => 0.0,
        Some(_) if entry.uses.len() == 1 => 1.5 * worth,
        Some(_) => worth,
    }
}

/// Of these, the best for a use that fit a memory and answer fast enough, best first.
pub fn best<'a>(choices: &'a [Choice], wanted: Use, memory: &Memory) -> Vec<&'a Choice> {
    let fits = |c: &&Choice| worth(c.entry, Some(wanted)) > 0.0 && c.is_bearable() && c.plan.fits(memory).is_yes();
    let mut found: Vec<&Choice> = choices.iter().filter(fits).collect();
    found.sort_by(|a, b| worth(b.entry, Some(wanted)).total_cmp(&worth(a.entry, Some(wanted))));
    found
}

/// The smallest of [`TIERS`] that a plan fits; `None` beyond them.
pub fn tier(plan: &Plan) -> Option<u64> {
    TIERS.into_iter().find(|gb| plan.fits(&Memory::of_size(gb << 30)).is_yes())
}
