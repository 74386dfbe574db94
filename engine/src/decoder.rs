//! The decoder: one formula for every family.
//!
//! ```text
//! h = pre(x);  y = post(Σ mixer(h))
//! parallel ? x += y + ffn(h)  :  { x += y;  x += post_ffn(ffn(pre_ffn(x))) }      every norm and the ffn optional
//! x += input(x);  x *= scale                                                      where the layer has them (Gemma 4)
//! ```
//!
//! Two families have several strands of x: DeepSeek V4 (`block/strands.rs`) and Gemma 3n (`block/altup.rs`).
//!
//! Which norms a layer has is read off its tensors: attn_norm and ffn_norm: pre-norm; attn_norm and post_attention_norm
//! without ffn_norm: pre-norm whose second norm bears the other name; all four: sandwich (Gemma); only the two post norms:
//! post-norm (OLMo 2); attn_norm alone: parallel residual (Command R), which files of two norms ask for by name (GPT-NeoX), or a
//! layer that is one block (Mamba-2, Nemotron-H).

use crate::backend::{Backend, Norm};
use crate::batch::{Canceller, Entry, Few, Logits};
use crate::block::rope::Rope;
use crate::block::{Looks, Work};
use crate::cache::{Cache, CacheOptions, LayerState, Sequence, StateSpec};
use crate::config::Config;
use crate::error::{Error, Fault, Result};
use crate::family::Family;
use crate::gguf::Gguf;
use crate::weights::{Loader, asked};
use embedding::Embedding;
use head::Head;
use layer::Layer;
use smallvec::smallvec;
use std::collections::HashSet;
use std::fmt;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

mod embedding;
mod head;
mod layer;
pub mod split;

/// A model that can be stepped, whatever computes it.
pub trait Run: Send + Sync {
    /// The model's numbers.
    fn config(&self) -> &Config;

    /// An empty cache for one sequence.
    ///
    /// # Errors
    /// [`Error::Memory`] where there is no room for it.
    fn cache(&self, options: &CacheOptions) -> Result<Cache>;

    /// Runs the tokens of `batch` and appends them to their caches (`Entry::sequence` counts in `caches`). `logits` becomes
    /// the rows that were asked for, `[wanted, vocab]`, in batch order.
    ///
    /// # Errors
    /// [`Error::Input`] for a batch that does not fit its caches, [`Error::Cancelled`] once `stop` is pressed. Either way
    /// the caches keep the length they had; one with a recurrent state may then have to be restored ([`Cache::sound`]).
    fn step(&self, batch: &[Entry], caches: &mut [&mut Cache], stop: &Canceller, logits: &mut Vec<f32>) -> Result<()>;

    /// The architecture card: what was built, layer by layer.
    fn card(&self) -> String;

    /// The weights that one token's step reads: all of them, but only the experts that are used.
    fn weights_read(&self) -> WeightsRead;

    /// What positions do here, in words that differ where any bit would: it may depend on the context that was asked for.
    fn positions(&self) -> String {
        String::new()
    }

    /// What each mixer remembers of a sequence, and how it looks at positions.
    fn mixers(&self, options: &CacheOptions) -> Vec<MixerFacts>;
}

/// What one token's step reads of the weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WeightsRead {
    /// In bytes.
    pub bytes: u64,
    /// How many weights that is, and so how many products a generated token takes, attention apart.
    pub count: u64,
    /// Of these in the head, which a prompt's tokens but the last do not need.
    pub head: u64,
}

/// What is to be known of a mixer before it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MixerFacts {
    /// What it remembers of a sequence, where that is not another layer's.
    pub state: Option<StateSpec>,
    /// How it looks at positions, if it does.
    pub looks: Option<Looks>,
    /// Bytes of weights that it holds beside those of the file.
    pub copied: u64,
}

/// Which of a model's layers a decoder has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Share {
    /// All of them, the embedding and the head.
    All,
    /// The embedding and the layers before this one.
    Before(usize),
    /// The layers from this one on, and the head.
    From(usize),
}

impl Share {
    fn layers(self, all: usize) -> Range<usize> {
        match self {
            Share::All => 0..all,
            Share::Before(end) => 0..end,
            Share::From(start) => start..all,
        }
    }
}

/// What one share of a model hands to the next: rows of f32, one for each token of the step.
#[derive(Default)]
struct Carried {
    /// The residual stream, with all its strands.
    x: Vec<f32>,
    /// Each layer's own vector of the token; empty where layers have none.
    inputs: Vec<f32>,
}

/// A model on a back end, or the share of it that the back end has.
pub struct Decoder<B: Backend> {
    backend: B,
    config: Config,
    ropes: Vec<Rope>,
    /// `None` where the stream comes from another share.
    embedding: Option<Embedding<B>>,
    layers: Vec<Layer<B>>,
    /// `None` where the stream goes on to another share.
    head: Option<Head<B>>,
    weights_read: WeightsRead,
    /// Buffers of steps that are over, for the next ones.
    spare: Mutex<Vec<Buffers<B>>>,
}

/// A step's tensors.
struct Buffers<B: Backend> {
    work: Work<B>,
    /// The residual stream, `[tokens, width]`.
    x: B::Tensor,
    /// What a half of a layer gives, `[tokens, width]`.
    y: B::Tensor,
    /// What is added to it, or its norm.
    z: B::Tensor,
    /// `[wanted, vocab]`.
    logits: B::Tensor,
}

impl<B: Backend> Default for Buffers<B> {
    fn default() -> Buffers<B> {
        let tensor = B::Tensor::default;
        Buffers { work: Work::default(), x: tensor(), y: tensor(), z: tensor(), logits: tensor() }
    }
}

/// `h = norm(x)`, or `x` itself where there is no norm.
fn normed<B: Backend>(backend: &B, work: &mut Work<B>, x: &B::Tensor, norm: Option<&Norm<B>>) {
    match norm {
        Some(norm) => backend.norm(&mut work.step, x, norm, &mut work.h),
        None => backend.copy(&mut work.step, x, &mut work.h),
    }
}

fn running(stop: &Canceller) -> Result<()> {
    if stop.is_cancelled() { Err(Error::Cancelled) } else { Ok(()) }
}

/// A model's numbers and what its file does not say.
pub(crate) fn described(gguf: &Gguf) -> Result<(Config, &'static Family)> {
    let mut config = Config::from_metadata(gguf.metadata())?;
    let family = Family::of(&config.architecture)?;
    (family.fix)(&mut config);
    config.vocab = gguf.tensor("token_embd.weight").and_then(|t| t.dims.get(1)).map_or(0, |n| *n as usize);
    Ok((config, family))
}

/// What a cache is told that another model or back end made.
fn foreign() -> Error {
    Error::Input(Fault::at("cache").found("made by another back end").help("make it with Run::cache"))
}

/// Takes note in the caches of what became of a step.
fn settle<S: LayerState>(sequences: &mut [&mut Sequence<S>], batch: &[Entry], done: &Result<()>) {
    match done {
        Ok(()) => batch.iter().for_each(|entry| sequences[entry.sequence as usize].advance(1)),
        Err(_) => sequences.iter_mut().for_each(|s| s.broken_off()),
    }
}

impl<B: Backend> Decoder<B> {
    /// The model in a file, on this back end, to be run with this context (the trained one where `None`).
    ///
    /// # Errors
    /// As [`device::load`](crate::device::load).
    pub fn load(gguf: &Gguf, backend: B, context: Option<usize>) -> Result<Decoder<B>> {
        let mut used = HashSet::new();
        let decoder = Decoder::load_share(gguf, backend, context, Share::All, &mut used)?;
        asked(gguf, &decoder.config, &used)?;
        Ok(decoder)
    }

    /// A share of it. The names of its tensors are added to `used`.
    fn load_share(gguf: &Gguf, backend: B, context: Option<usize>, share: Share, used: &mut HashSet<String>) -> Result<Decoder<B>> {
        let (config, family) = described(gguf)?;
        let loader = Loader::new(gguf, &backend, &config, family, context.unwrap_or(config.context));
        if config.vocab == 0 {
            return Err(loader.missing("token_embd.weight"));
        }
        let range = share.layers(config.layers);
        let mut ropes = Vec::new();
        let mut layers: Vec<Layer<B>> = Vec::with_capacity(range.len());
        let mut slot = 0;
        for index in range.clone() {
            let owner = loader.kv_layer(index)?;
            if owner == index {
                let layer = Layer::load(&loader, index, slot, &mut ropes)?;
                slot += layer.mixers.len();
                layers.push(layer);
            } else if let Some(earlier) = owner.checked_sub(range.start) {
                layers.push(Layer::load(&loader, index, layers[earlier].slot, &mut ropes)?);
            } else {
                let fault =
                    Fault::at(format!("layer {index}")).expected(format!("layer {owner} on the same device, at whose keys it looks"));
                return Err(Error::Unsupported(fault.found(format!("a cut before layer {}", range.start))));
            }
        }
        let head = if share == Share::Before(range.end) { None } else { Some(Head::load(&loader)?) };
        let embedding = if share == Share::From(range.start) { None } else { Some(Embedding::load(&loader)?) };
        used.extend(loader.used());
        let weights_read = read_per_token(gguf, &config);
        Ok(Decoder { backend, config, ropes, embedding, layers, head, weights_read, spare: Mutex::default() })
    }

    /// The formula, from ids to logits, or as much of it as is this share's.
    fn forward(
        &self,
        batch: &[Entry],
        sequences: &mut [&mut Sequence<B::State>],
        stop: &Canceller,
        carried: &Carried,
        buffers: &mut Buffers<B>,
    ) -> Result<()> {
        let backend = &self.backend;
        backend.begin(&mut buffers.work.step, batch, &self.ropes, stop);
        match &self.embedding {
            Some(embedding) => embedding.forward(backend, buffers),
            None => {
                let Buffers { work, x, .. } = &mut *buffers;
                backend.write(&mut work.step, &carried.x, batch.len(), x);
                if !carried.inputs.is_empty() {
                    backend.write(&mut work.step, &carried.inputs, batch.len(), &mut work.inputs);
                }
            }
        }
        for layer in &self.layers {
            layer.forward(backend, buffers, sequences, stop)?;
        }
        match &self.head {
            Some(head) if batch.iter().any(|e| e.logits == Logits::Want) => head.forward(backend, buffers),
            Some(_) | None => return Ok(()),
        }
        running(stop)
    }

    /// Computes a step and brings back what it gives: logits, or what another share goes on with.
    fn compute(
        &self,
        batch: &[Entry],
        sequences: &mut [&mut Sequence<B::State>],
        stop: &Canceller,
        carried: &mut Carried,
        logits: &mut Vec<f32>,
    ) -> Result<()> {
        let spare = || self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        let mut buffers = spare().pop().unwrap_or_default();
        let done = self.forward(batch, sequences, stop, carried, &mut buffers);
        let done = done.and(self.backend.end(&mut buffers.work.step));
        let done = done.and_then(|()| self.bring(batch, carried, &mut buffers, logits));
        spare().push(buffers);
        done
    }

    fn bring(&self, batch: &[Entry], carried: &mut Carried, buffers: &mut Buffers<B>, logits: &mut Vec<f32>) -> Result<()> {
        let Buffers { work, x, logits: row, .. } = buffers;
        match &self.head {
            Some(_) if batch.iter().any(|e| e.logits == Logits::Want) => self.backend.read(&mut work.step, row, logits),
            Some(_) => Ok(()),
            None => {
                self.backend.read(&mut work.step, x, &mut carried.x)?;
                match self.config.per_layer_width {
                    Some(_) => self.backend.read(&mut work.step, &work.inputs, &mut carried.inputs),
                    None => Ok(()),
                }
            }
        }
    }

    /// The caches' insides, after everything about the batch has been checked against them.
    fn admit<'a>(&self, batch: &[Entry], caches: &'a mut [&mut Cache]) -> Result<Few<&'a mut Sequence<B::State>>> {
        let learned = self.embedding.as_ref().and_then(Embedding::most);
        let refuse = |place: String, expected: String, found: String| Err(Error::Input(Fault::at(place).expected(expected).found(found)));
        let mut next: Few<usize> = caches.iter().map(|c| c.len()).collect();
        let mut seen: Few<bool> = smallvec![false; caches.len()];
        caches.iter().try_for_each(|c| c.sound())?;
        for (i, entry) in batch.iter().enumerate() {
            let sequence = entry.sequence as usize;
            if entry.token as usize >= self.config.vocab {
                return refuse("token id".into(), format!("less than the vocabulary's {}", self.config.vocab), entry.token.to_string());
            }
            let Some(position) = next.get_mut(sequence) else {
                return refuse("batch entry".into(), format!("a sequence below {}", caches.len()), sequence.to_string());
            };
            if entry.position as usize != *position {
                return refuse(format!("position in sequence {sequence}"), position.to_string(), entry.position.to_string());
            }
            if *position >= caches[sequence].capacity() {
                let fault = Fault::at("context").expected(format!("at most {} tokens", caches[sequence].capacity()));
                return Err(Error::Input(fault.found("one more").help("shorten the prompt, or ask for a larger context")));
            }
            if let Some(most) = learned.filter(|most| *position >= *most) {
                return refuse("context".into(), format!("at most the {most} positions that this model has learned"), "one more".into());
            }
            let continues = i > 0 && batch[i - 1].sequence == entry.sequence;
            if seen[sequence] && !continues {
                return refuse("batch".into(), "the tokens of a sequence together".into(), format!("sequence {sequence} twice"));
            }
            seen[sequence] = true;
            *position += 1;
            let (tokens, most) = (*position - caches[sequence].len(), caches[sequence].batch());
            if tokens > most {
                return refuse(
                    "batch".into(),
                    format!("at most {most} tokens of sequence {sequence}, as its cache was made for"),
                    "more".into(),
                );
            }
        }
        caches.iter_mut().map(|cache| cache.sequence::<B::State>().ok_or_else(foreign)).collect()
    }
}

/// Of the experts only those in use are read, of an untied embedding table only a row.
fn read_per_token(gguf: &Gguf, config: &Config) -> WeightsRead {
    let tied = gguf.tensor("output.weight").is_none();
    let mut read = WeightsRead { head: (config.vocab * config.width) as u64, ..WeightsRead::default() };
    for tensor in gguf.tensors().filter(|t| !config.drafts(&t.name)) {
        let (used, of) = match config.experts {
            _ if ["per_layer_token_embd.weight", "position_embd.weight"].contains(&&*tensor.name)
                || tensor.name == "token_embd.weight" && !tied =>
            {
                (1, tensor.dims.get(1).copied().unwrap_or(1).max(1))
            }
            Some(experts) if tensor.name.contains("_exps.") => (experts.used as u64, experts.count as u64),
            Some(_) | None => (1, 1),
        };
        read.bytes += tensor.size() / of * used;
        read.count += tensor.dims.iter().product::<u64>() / of * used;
    }
    read
}

impl<B: Backend> Run for Decoder<B> {
    fn config(&self) -> &Config {
        &self.config
    }

    fn cache(&self, options: &CacheOptions) -> Result<Cache> {
        let mixers = self.layers.iter().flat_map(|l| &l.mixers);
        let states =
            mixers.filter_map(|m| m.state(options)).map(|spec| self.backend.state(&spec, options.capacity)).collect::<Result<_>>()?;
        Ok(Cache::new(Sequence::<B::State>::new(states, options)))
    }

    fn step(&self, batch: &[Entry], caches: &mut [&mut Cache], stop: &Canceller, logits: &mut Vec<f32>) -> Result<()> {
        logits.clear();
        if batch.is_empty() {
            return Ok(());
        }
        running(stop)?;
        let mut sequences = self.admit(batch, caches)?;
        let done = self.compute(batch, &mut sequences, stop, &mut Carried::default(), logits);
        settle(&mut sequences, batch, &done);
        done
    }

    fn card(&self) -> String {
        self.to_string()
    }

    fn weights_read(&self) -> WeightsRead {
        self.weights_read
    }

    fn mixers(&self, options: &CacheOptions) -> Vec<MixerFacts> {
        let mixers = self.layers.iter().flat_map(|l| &l.mixers);
        mixers.map(|m| MixerFacts { state: m.state(options), looks: m.looks(), copied: m.copied() }).collect()
    }

    fn positions(&self) -> String {
        format!("{:?}", self.ropes)
    }
}

impl<B: Backend> Decoder<B> {
    /// The first line of the card.
    fn heading(&self) -> String {
        let c = &self.config;
        let mut line = format!("{}: vocabulary {}, width {}, context {}", c.architecture, c.vocab, c.width, c.context);
        if let Some(embedding) = self.embedding.as_ref().filter(|embedding| embedding.scale != 1.0) {
            line += &format!(", embedding ×{}", embedding.scale);
        }
        if let Some(most) = self.embedding.as_ref().and_then(Embedding::most) {
            line += &format!(", {most} learned positions");
        }
        if let Some(scale) = c.residual_scale {
            line += &format!(", residual ×{scale}");
        }
        line
    }

    fn layer_cards(&self) -> impl Iterator<Item = String> + '_ {
        self.layers.iter().map(Layer::to_string)
    }

    /// The last line of the card.
    fn ending(&self) -> String {
        self.head.as_ref().map(Head::to_string).unwrap_or_default()
    }
}

impl<B: Backend> fmt::Display for Decoder<B> {
    /// The architecture card, equal layers folded.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&card(&self.heading(), &self.layer_cards().collect::<Vec<_>>(), &self.ending()))
    }
}

/// The architecture card.
fn card(heading: &str, layers: &[String], ending: &str) -> String {
    let layers: String = fold(layers).into_iter().map(|(card, layers)| format!("  {layers} × [{card}]\n")).collect();
    format!("{heading}\n{layers}  {ending}")
}

/// Equal neighbours, or all layers of a kind where kinds alternate, each with how many there are.
fn fold(cards: &[String]) -> Vec<(&str, usize)> {
    let mut kinds: Vec<(&str, usize)> = Vec::new();
    for card in cards {
        match kinds.iter_mut().find(|(c, _)| c == card) {
            Some((_, n)) => *n += 1,
            None => kinds.push((card, 1)),
        }
    }
    kinds
}
