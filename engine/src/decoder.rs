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

use crate::backend::{Backend, Linear};
use crate::batch::{Canceller, Entry, Logits};
use crate::block::altup::Ends;
use crate::block::per_layer::LayerInputs;
use crate::block::rope::Rope;
use crate::block::strands::{Role, Strands};
use crate::block::{Looks, Norm, Work};
use crate::cache::{Cache, CacheOptions, KvType, Sequence, StateSpec};
use crate::config::Config;
use crate::device::{self, Device};
use crate::error::{Error, Fault, Result};
use crate::family::{EmbeddingScale, Family, LogitScale};
use crate::gguf::Gguf;
use crate::weights::Loader;
use layer::Layer;
use std::fmt;
use std::sync::{Mutex, PoisonError};

mod layer;

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
}

/// How a model is to be loaded.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// Threads that compute, the caller's included.
    pub threads: usize,
    /// The context it will be run with; the trained one where `None`.
    pub context: Option<usize>,
    /// Where it computes.
    pub device: Device,
}

/// Loads the model in a file onto a device.
///
/// # Errors
/// [`Error::Unsupported`] for an architecture, a tensor type or a CPU level that hob does not have, [`Error::Model`] for a
/// file that is incomplete, [`Error::Gguf`] for one that contradicts itself, [`Error::Device`] for a device that is not there.
pub fn load(gguf: &Gguf, options: &LoadOptions) -> Result<Box<dyn Run>> {
    device::place(gguf, options, [KvType::F16; 2]).map(|placed| placed.run)
}

/// A model on a back end.
pub struct Decoder<B: Backend> {
    backend: B,
    config: Config,
    ropes: Vec<Rope>,
    embed: B::Weight,
    embed_scale: f32,
    inputs: Option<LayerInputs<B>>,
    layers: Vec<Layer<B>>,
    norm: Option<Norm<B>>,
    head: Linear<B>,
    /// How the head reads the strands of the residual stream, where it has several.
    strands: Option<Strands<B>>,
    /// Where strands come from and go that layers predict and correct.
    ends: Option<Ends<B>>,
    /// Factor on the logits, or divisor.
    logit_scale: LogitScale,
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

impl<B: Backend> Decoder<B> {
    /// The model in a file, on this back end, to be run with this context (the trained one where `None`).
    ///
    /// # Errors
    /// As [`load`].
    pub fn load(gguf: &Gguf, backend: B, context: Option<usize>) -> Result<Decoder<B>> {
        let mut config = Config::from_metadata(gguf.metadata())?;
        let family = Family::of(&config.architecture)?;
        (family.fix)(&mut config);
        let embed = "token_embd.weight";
        config.vocab = gguf.tensor(embed).and_then(|t| t.dims.get(1)).map_or(0, |n| *n as usize);
        let loader = Loader::new(gguf, &backend, &config, family, context.unwrap_or(config.context));
        if config.vocab == 0 {
            return Err(loader.missing(embed));
        }
        let (width, vocab) = (config.width, config.vocab);
        let mut ropes = Vec::new();
        let mut layers: Vec<Layer<B>> = Vec::with_capacity(config.layers);
        let mut slot = 0;
        for index in 0..config.layers {
            match loader.kv_layer(index)? {
                own if own == index => {
                    let layer = Layer::load(&loader, index, slot, &mut ropes)?;
                    slot += layer.mixers.len();
                    layers.push(layer);
                }
                earlier => layers.push(Layer::load(&loader, index, layers[earlier].slot, &mut ropes)?),
            }
        }
        // A file without a head shares the embedding table.
        let head = if loader.has("output.weight") {
            loader.linear("output", vocab, width)?
        } else {
            Linear { weight: loader.matrix(embed, vocab, width)?, bias: None }
        };
        // LFM2 calls it by the name of the norm that other families have behind the embeddings.
        let norm = match loader.norm("output_norm", width)? {
            Some(norm) => norm,
            None => loader.norm("token_embd_norm", width)?.ok_or_else(|| loader.missing("output_norm.weight or token_embd_norm.weight"))?,
        };
        let embed = loader.matrix(embed, vocab, width)?;
        let inputs = LayerInputs::load(&loader)?;
        let strands = config.strands.map(|c| Strands::load(&loader, "output_hc", c, Role::Head)).transpose()?;
        let ends = Ends::load(&loader)?;
        loader.finish()?;
        let embed_scale = config.embedding_scale.unwrap_or(match family.embedding {
            EmbeddingScale::One => 1.0,
            EmbeddingScale::SqrtWidth => (width as f32).sqrt(),
        });
        let weights_read = read_per_token(gguf, &config);
        let spare = Mutex::default();
        let logit_scale = family.logit_scale;
        let norm = Some(norm);
        Ok(Decoder {
            backend,
            config,
            ropes,
            embed,
            embed_scale,
            inputs,
            layers,
            norm,
            head,
            strands,
            ends,
            logit_scale,
            weights_read,
            spare,
        })
    }

    /// The formula, from ids to logits.
    fn forward(&self, batch: &[Entry], sequences: &mut [&mut Sequence<B>], stop: &Canceller, buffers: &mut Buffers<B>) -> Result<()> {
        let backend = &self.backend;
        backend.begin(&mut buffers.work.step, batch, &self.ropes, stop);
        backend.embed(&mut buffers.work.step, &self.embed, self.embed_scale, &mut buffers.x);
        if let Some(inputs) = &self.inputs {
            inputs.forward(backend, &mut buffers.work, &buffers.x);
        }
        if let Some(strands) = &self.strands {
            let Buffers { work, x, y, z, .. } = &mut *buffers;
            backend.copy(&mut work.step, x, y);
            for _ in 1..strands.count {
                backend.join(&mut work.step, x, y, 1, z);
                std::mem::swap(x, z);
            }
        }
        if let Some(ends) = &self.ends {
            let Buffers { work, x, y, z, .. } = &mut *buffers;
            ends.begin(backend, &mut work.step, x, y, z);
        }
        for layer in &self.layers {
            layer.forward(backend, buffers, sequences, stop)?;
        }
        let Buffers { work, x, y, z, logits } = buffers;
        if batch.iter().all(|e| e.logits == Logits::Skip) {
            return Ok(());
        }
        backend.wanted(&mut work.step, x, y);
        if let Some(strands) = &self.strands {
            strands.read(backend, work, y, z);
            std::mem::swap(y, z);
        }
        if let Some(ends) = &self.ends {
            ends.end(backend, work, y);
        }
        normed(backend, work, y, self.norm.as_ref());
        backend.linear(&mut work.step, &work.h, &mut [(&self.head, &mut *logits)]);
        if let Some(scale) = self.config.logit_scale {
            let factor = match self.logit_scale {
                LogitScale::Factor => scale,
                LogitScale::Divisor => 1.0 / scale,
            };
            backend.scale(&mut work.step, logits, factor);
        }
        if let Some(cap) = self.config.final_softcap {
            backend.softcap(&mut work.step, logits, cap);
        }
        running(stop)
    }

    /// The caches' insides, after everything about the batch has been checked against them.
    fn admit<'a>(&self, batch: &[Entry], caches: &'a mut [&mut Cache]) -> Result<Vec<&'a mut Sequence<B>>> {
        let refuse = |place: String, expected: String, found: String| Err(Error::Input(Fault::at(place).expected(expected).found(found)));
        let mut next: Vec<usize> = caches.iter().map(|c| c.len()).collect();
        let mut seen: Vec<bool> = vec![false; caches.len()];
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
        let own = |c: &'a mut &mut Cache| {
            c.sequence::<B>()
                .ok_or_else(|| Error::Input(Fault::at("cache").found("made by another back end").help("make it with Run::cache")))
        };
        caches.iter_mut().map(own).collect()
    }
}

/// Of the experts only those in use are read, of an untied embedding table only a row.
fn read_per_token(gguf: &Gguf, config: &Config) -> WeightsRead {
    let tied = gguf.tensor("output.weight").is_none();
    let mut read = WeightsRead { head: (config.vocab * config.width) as u64, ..WeightsRead::default() };
    for tensor in gguf.tensors().filter(|t| !config.drafts(&t.name)) {
        let (used, of) = match config.experts {
            _ if tensor.name == "per_layer_token_embd.weight" || tensor.name == "token_embd.weight" && !tied => {
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
        Ok(Cache::new(Sequence::<B>::new(states, options)))
    }

    fn step(&self, batch: &[Entry], caches: &mut [&mut Cache], stop: &Canceller, logits: &mut Vec<f32>) -> Result<()> {
        logits.clear();
        if batch.is_empty() {
            return Ok(());
        }
        running(stop)?;
        let mut sequences = self.admit(batch, caches)?;
        let spare = || self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        let mut buffers = spare().pop().unwrap_or_default();
        let done = self.forward(batch, &mut sequences, stop, &mut buffers);
        let mut done = done.and(self.backend.end(&mut buffers.work.step));
        if done.is_ok() && batch.iter().any(|e| e.logits == Logits::Want) {
            done = self.backend.read(&mut buffers.work.step, &buffers.logits, logits);
        }
        spare().push(buffers);
        if let Err(error) = done {
            sequences.iter_mut().for_each(|s| s.broken_off());
            return Err(error);
        }
        for entry in batch {
            sequences[entry.sequence as usize].advance(1);
        }
        Ok(())
    }

    fn card(&self) -> String {
        self.to_string()
    }

    fn weights_read(&self) -> WeightsRead {
        self.weights_read
    }

    fn mixers(&self, options: &CacheOptions) -> Vec<MixerFacts> {
        let mixers = self.layers.iter().flat_map(|l| &l.mixers);
        mixers.map(|m| MixerFacts { state: m.state(options), looks: m.looks() }).collect()
    }

    fn positions(&self) -> String {
        format!("{:?}", self.ropes)
    }
}

impl<B: Backend> fmt::Display for Decoder<B> {
    /// The architecture card, equal layers folded.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let c = &self.config;
        write!(f, "{}: vocabulary {}, width {}, context {}", c.architecture, c.vocab, c.width, c.context)?;
        if self.embed_scale != 1.0 {
            write!(f, ", embedding ×{}", self.embed_scale)?;
        }
        if let Some(scale) = c.residual_scale {
            write!(f, ", residual ×{scale}")?;
        }
        writeln!(f)?;
        let cards: Vec<_> = self.layers.iter().map(Layer::to_string).collect();
        for (card, layers) in fold(&cards) {
            writeln!(f, "  {layers} × [{card}]")?;
        }
        if let Some(norm) = &self.norm {
            write!(f, "  {norm} → logits")?;
        }
        match (c.logit_scale, self.logit_scale) {
            (Some(scale), LogitScale::Factor) => write!(f, " ×{scale}")?,
            (Some(scale), LogitScale::Divisor) => write!(f, " ÷{scale}")?,
            (None, LogitScale::Factor | LogitScale::Divisor) => {}
        }
        match c.final_softcap {
            Some(cap) => write!(f, " softcap {cap}"),
            None => Ok(()),
        }
    }
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
