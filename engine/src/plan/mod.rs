//! Plans: whether a model fits a machine, with how much context, and how fast it will be there, from its header alone.
//!
//! ```text
//! header ──> decoder on weights that are not there ──> states a layer ──> bytes of a cache of any length
//!        └─> tensors by part ──> bytes of weights; products by type ──> seconds, by what the machine was measured at
//! resident = weights that are read + cache + recurrent state + copies of what cannot be cut back + scratch of a step + the program
//! ```
//! The decoder itself says what it would remember, so a plan cannot disagree with what happens. A header is that of a file, of a
//! remote file's beginning ([`Gguf::from_head`]), or of a row of the catalogue ([`Entry::header`](crate::catalogue::Entry::header)).
//!
//! ```
//! use hob::machine::Memory;
//! use hob::plan::{Ask, Plan, Profile};
//! use hob::quantize::FileType;
//!
//! let entry = hob::catalogue::find("qwen3-4b")?;
//! let plan = Plan::of(&entry.header(FileType::Q4_K_M, None)?, &Ask::default())?;
//! assert!(plan.fits(&Memory::of_size(8 << 30)).is_yes());
//! assert!(!Plan::of(&entry.header(FileType::BF16, None)?, &Ask::default())?.fits(&Memory::of_size(8 << 30)).is_yes());
//! // On a machine that reads 20 GB a second, some 8 tokens a second.
//! assert!((6.0..9.0).contains(&plan.speed(&Profile::example()).answer));
//! # Ok::<(), hob::Error>(())
//! ```

mod choice;
mod measure;
mod profile;
mod work;

use crate::backend::cpu::columns_at_once;
use crate::cache::{CacheOptions, KvType, StateSpec};
use crate::decoder::Run;
use crate::device::{self, Device, GpuLayers, LoadOptions};
use crate::error::Result;
use crate::generate::most_bytes_of_marks;
use crate::gguf::{Gguf, TensorInfo};
use crate::machine::Memory;
use crate::model::{DEFAULT_CONTEXT, default_micro_batch};
pub use choice::{Choice, TIERS, best, tier};
pub use profile::{Fingerprint, Profile};
use work::Work;

/// Tokens of a prompt that its speed is told for.
pub const PROMPT: usize = 512;
/// What the program takes beside the model: code, tables, the tokenizer's by token.
const PROGRAM: u64 = 5 << 20;
const PROGRAM_TOKEN: u64 = 44;

/// How a model is to be run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Ask {
    /// Tokens of context; what [`ModelOptions`](crate::ModelOptions) takes where `None`.
    pub context: Option<usize>,
    /// Numbers of the keys.
    pub k: KvType,
    /// Numbers of the values.
    pub v: KvType,
    /// Prompt tokens computed at once; likewise.
    pub micro_batch: Option<usize>,
}

impl Default for Ask {
    fn default() -> Ask {
        Ask { context: None, k: KvType::F16, v: KvType::F16, micro_batch: None }
    }
}

impl Ask {
    /// With so many tokens of context.
    pub fn context(mut self, tokens: Option<usize>) -> Ask {
        self.context = tokens;
        self
    }

    /// With a cache of these types.
    pub fn cache_types(mut self, k: KvType, v: KvType) -> Ask {
        (self.k, self.v) = (k, v);
        self
    }
}

/// What weights are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Part {
    /// The embedding table and the head.
    Embedding,
    /// Attention.
    Attention,
    /// Recurrent layers.
    Recurrent,
    /// Dense feed-forward blocks, shared experts among them.
    FeedForward,
    /// Experts.
    Experts,
    /// Norms, routers, biases.
    Small,
    /// Tables of which a token reads one row: they can stay on the disk.
    Rows,
    /// What is made of weights of the file when it is loaded, and kept: keys that old files of DeepSeek have untransposed.
    Copies,
}

impl Part {
    /// All of them.
    pub const ALL: [Part; 8] =
        [Part::Attention, Part::Recurrent, Part::FeedForward, Part::Experts, Part::Embedding, Part::Rows, Part::Small, Part::Copies];

    /// What it is called.
    pub fn name(self) -> &'static str {
        match self {
            Part::Embedding => "head",
            Part::Attention => "attention",
            Part::Recurrent => "recurrent layers",
            Part::FeedForward => "feed-forward",
            Part::Experts => "experts",
            Part::Small => "norms",
            Part::Rows => "embeddings",
            Part::Copies => "transposed keys",
        }
    }

    fn of(tensor: &TensorInfo, tied: bool) -> Part {
        let name = tensor.name.as_str();
        let small = tensor.dims.len() < 2 || name.contains("_norm") || name.contains("ffn_gate_inp") || !name.contains("weight");
        match name {
            "output.weight" => Part::Embedding,
            "token_embd.weight" if tied => Part::Embedding,
            "token_embd.weight" | "per_layer_token_embd.weight" => Part::Rows,
            _ if name.contains("_exps.") => Part::Experts,
            _ if small => Part::Small,
            _ if name.contains(".ssm_") || name.contains(".shortconv") || name.contains(".attn_gate") => Part::Recurrent,
            _ if name.contains(".ffn_") => Part::FeedForward,
            _ => Part::Attention,
        }
    }
}

/// Whether a model fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fits {
    /// It does, and so many bytes are left.
    Yes(u64),
    /// It takes so many bytes more than there are: the system would swap, or read the file again and again.
    No(u64),
}

impl Fits {
    /// Whether it does.
    pub fn is_yes(self) -> bool {
        matches!(self, Fits::Yes(_))
    }
}

/// How fast a model is, in tokens a second.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Speed {
    /// A prompt of [`PROMPT`] tokens.
    pub prompt: f64,
    /// An answer, at its beginning.
    pub answer: f64,
    /// An answer where the context is all but full.
    pub answer_full: f64,
}

/// What a model will take and how fast it will be.
pub struct Plan {
    run: Box<dyn Run>,
    cache: CacheOptions,
    parts: Vec<(Part, u64)>,
    scratch: u64,
    work: Work,
    vocab: u64,
    file_bytes: u64,
}

impl Plan {
    /// The plan of the model with this header.
    ///
    /// # Errors
    /// Where hob cannot run the model, as [`device::load`] tells.
    pub fn of(header: &Gguf, ask: &Ask) -> Result<Plan> {
        let hollow = header.hollow()?;
        let run =
            device::load(&hollow, &LoadOptions { threads: 1, context: ask.context, device: Device::Cpu, gpu_layers: GpuLayers::Auto })?;
        let config = run.config();
        let tied = header.tensor("output.weight").is_none();
        let context = ask.context.unwrap_or(config.context.min(DEFAULT_CONTEXT)).max(1);
        let micro_batch = ask.micro_batch.unwrap_or_else(|| default_micro_batch(config)).clamp(1, context);
        let cache = CacheOptions { capacity: context, k: ask.k, v: ask.v, batch: micro_batch };
        let mut parts: Vec<(Part, u64)> = Part::ALL.into_iter().filter(|part| *part != Part::Copies).map(|part| (part, 0)).collect();
        for tensor in header.tensors().filter(|t| !config.drafts(&t.name)) {
            let part = Part::of(tensor, tied);
            if let Some((_, bytes)) = parts.iter_mut().find(|(p, _)| *p == part) {
                *bytes += tensor.size();
            }
        }
        let mixers = run.mixers(&CacheOptions { capacity: 0, ..cache });
        parts.push((Part::Copies, mixers.iter().map(|m| m.copied).sum()));
        parts.retain(|(_, bytes)| *bytes > 0);
        let work = Work::of(header, config, &mixers);
        let scratch = scratch(header, &*run, micro_batch);
        let vocab = config.vocab as u64;
        Ok(Plan { cache, parts, scratch, work, vocab, file_bytes: header.file_bytes(), run })
    }

    /// Tokens of context that it is for.
    pub fn context(&self) -> usize {
        self.cache.capacity
    }

    /// Tokens that the model was trained for.
    pub fn trained(&self) -> usize {
        self.run.config().context
    }

    /// `general.architecture`.
    pub fn architecture(&self) -> &str {
        &self.run.config().architecture
    }

    /// Types of keys and values.
    pub fn cache_types(&self) -> (KvType, KvType) {
        (self.cache.k, self.cache.v)
    }

    /// Bytes of the file.
    pub fn file_bytes(&self) -> u64 {
        self.file_bytes
    }

    /// Bytes of weights, by part.
    pub fn weights(&self) -> &[(Part, u64)] {
        &self.parts
    }

    /// Bytes of weights that must lie in memory: all but the tables of which a row is read.
    pub fn weights_resident(&self) -> u64 {
        let of = |(part, bytes): &(Part, u64)| match part {
            Part::Rows => 0,
            Part::Embedding | Part::Attention | Part::Recurrent | Part::FeedForward | Part::Experts | Part::Small | Part::Copies => *bytes,
        };
        self.parts.iter().map(of).sum()
    }

    /// Bytes of the cache of so many tokens, with numbers of these types; what layers remember whatever the context left out.
    pub fn cache_with(&self, tokens: usize, k: KvType, v: KvType) -> u64 {
        let capacity = tokens.max(1);
        let states = self.run.mixers(&CacheOptions { capacity, k, v, ..self.cache });
        states.iter().filter_map(|m| m.state).filter(|s| !matches!(s, StateSpec::Recurrent(_))).map(|s| s.bytes(capacity)).sum()
    }

    /// Bytes of the cache.
    pub fn cache(&self) -> u64 {
        self.cache_with(self.context(), self.cache.k, self.cache.v)
    }

    /// Bytes of what recurrent layers remember, whatever the context.
    pub fn recurrent(&self) -> u64 {
        let states = self.run.mixers(&CacheOptions { capacity: 1, ..self.cache });
        states.iter().filter_map(|m| m.state).filter(|s| matches!(s, StateSpec::Recurrent(_))).map(|s| s.bytes(1)).sum()
    }

    /// Bytes of the copies that a session keeps, at most, where a later prompt may part from this one: of recurrent states and windows,
    /// which cannot be cut back.
    pub fn marks(&self) -> u64 {
        self.marks_with(self.context(), self.cache.k, self.cache.v)
    }

    fn marks_with(&self, tokens: usize, k: KvType, v: KvType) -> u64 {
        let capacity = tokens.max(1);
        let states = self.run.mixers(&CacheOptions { capacity, k, v, ..self.cache });
        let all = |of: fn(&StateSpec, usize) -> u64| states.iter().filter_map(|m| m.state).map(|s| of(&s, capacity)).sum();
        most_bytes_of_marks(all(StateSpec::copy_bytes), self.recurrent(), all(StateSpec::bytes))
    }

    /// Bytes that the tensors of a step take.
    pub fn scratch(&self) -> u64 {
        self.scratch
    }

    /// Bytes that the program takes beside the model.
    pub fn program(&self) -> u64 {
        PROGRAM + PROGRAM_TOKEN * self.vocab
    }

    /// Bytes in memory while it runs with its context full.
    pub fn resident(&self) -> u64 {
        self.resident_with(self.context(), self.cache.k, self.cache.v)
    }

    fn resident_with(&self, tokens: usize, k: KvType, v: KvType) -> u64 {
        let remembered = self.cache_with(tokens, k, v) + self.recurrent() + self.marks_with(tokens, k, v);
        self.weights_resident() + remembered + self.scratch() + self.program()
    }

    /// Whether it fits.
    pub fn fits(&self, memory: &Memory) -> Fits {
        let needed = self.resident();
        match memory.available.checked_sub(needed) {
            Some(left) => Fits::Yes(left),
            None => Fits::No(needed - memory.available),
        }
    }

    /// The most tokens of context that fit with a cache of these types, up to those that the model was trained for; 0 where the
    /// weights alone do not fit.
    pub fn largest_context(&self, memory: &Memory, k: KvType, v: KvType) -> usize {
        const STEP: usize = 256;
        let fits = |steps: usize| self.resident_with(steps * STEP, k, v) <= memory.available;
        let (mut low, mut high) = (0, self.trained().div_ceil(STEP));
        if high > 0 && fits(high) {
            return self.trained();
        }
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            if fits(middle) { low = middle } else { high = middle }
        }
        low * STEP
    }

    /// How fast it is on a machine of this profile.
    pub fn speed(&self, profile: &Profile) -> Speed {
        let answer = |depth: usize| 1.0 / self.work.token(profile, depth);
        let prompt = PROMPT.min(self.context()).max(1);
        Speed {
            prompt: prompt as f64 / self.work.prompt(profile, prompt, self.cache.batch),
            answer: answer(0),
            answer_full: answer(self.context().saturating_sub(1)),
        }
    }

    /// Tokens a second of a prompt of so many tokens, and of an answer behind so many.
    pub fn rates(&self, profile: &Profile, prompt: usize, depth: usize) -> (f64, f64) {
        let read = prompt as f64 / self.work.prompt(profile, prompt.max(1), self.cache.batch);
        (read, 1.0 / self.work.token(profile, depth))
    }
}

impl std::fmt::Debug for Plan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Plan").field("architecture", &self.architecture()).field("cache", &self.cache).finish_non_exhaustive()
    }
}

/// Bytes of the tensors of a step of so many tokens: what the products of the widest layer give, the residual stream, what each
/// expert of a token gives, inputs in 8 bits; and one row of logits.
fn scratch(header: &Gguf, run: &dyn Run, tokens: usize) -> u64 {
    let config = run.config();
    let mut layers = vec![(0u64, 0u64, 0u64); config.layers];
    for t in header.tensors().filter(|t| t.dims.len() > 1) {
        let index = t.name.strip_prefix("blk.").and_then(|rest| rest.split('.').next()).and_then(|n| n.parse::<usize>().ok());
        let Some((dense, slots, widest)) = index.and_then(|i| layers.get_mut(i)) else { continue };
        let experts = config.experts.filter(|_| t.name.contains("_exps."));
        match experts {
            Some(e) if t.name.contains("down") => {
                *slots += (columns_at_once(tokens * e.used, config.width) * e.used) as u64;
                *widest = (*widest).max(t.dims[0] * e.used as u64);
            }
            Some(e) => {
                *slots += t.dims[1] * e.used as u64;
                *widest = (*widest).max(t.dims[0]);
            }
            None if t.name.contains("weight") && !t.name.contains("norm") && !t.name.contains("conv") => {
                *dense += t.dims[1] * t.dims.get(2).copied().unwrap_or(1);
                *widest = (*widest).max(t.dims[0] * t.dims.get(2).copied().unwrap_or(1));
            }
            None => {}
        }
    }
    let most = |of: fn(&(u64, u64, u64)) -> u64| layers.iter().map(of).max().unwrap_or(0);
    // The residual stream and its norms, the widest input once more in 8 bits and before it is made so.
    let widths = 3 * config.width as u64 + most(|l| l.0) + most(|l| l.1) + most(|l| l.2) * 3 / 2;
    4 * (tokens as u64 * widths + config.vocab as u64)
}

#[cfg(test)]
mod tests;
