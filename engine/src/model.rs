//! Model: one open file with all it holds (weights, tokenizer, chat template, sampling defaults), shared by every session.

use crate::cache::{CacheOptions, KvType};
use crate::config::Config;
use crate::decoder::Run;
use crate::device::{self, Device, GpuLayers, LoadOptions, Placed};
use crate::error::{Error, Fault, Result};
use crate::gguf::{Gguf, Metadata, ReadAhead, Reader};
use crate::grammar::{Grammar, Guide, Shelf};
use crate::machine::Memory;
use crate::prefix::{self, Identified, Prefixes};
use crate::prompt::{self, Controls};
use crate::sampler::Sampling;
use crate::template::{ChatTemplate, Message, Prompt, Turn};
use crate::tokenizer::{Token, Tokenizer, TokenizerOptions};
use hob_kernels::default_threads;
use std::fmt;
use std::path::Path;
use std::sync::{Arc, OnceLock};

/// A session's tokens where the caller does not say and the model was trained for more.
pub const DEFAULT_CONTEXT: usize = 8192;
/// Prompt tokens computed at once where the caller does not say: 256, and for a mixture of experts as many more as give each of them
/// 32, on average and up to 1024: an expert's weights are read and unpacked for its tokens alone.
pub fn default_micro_batch(config: &Config) -> usize {
    const OF_EXPERT: usize = 32;
    let tokens = config.experts.map_or(0, |e| (OF_EXPERT.saturating_mul(e.count) / e.used.max(1)).min(1024));
    tokens.next_power_of_two().max(256)
}

/// An open model. Cloning it shares it; it may be used from any number of threads.
///
/// ```
/// # let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/tiny.gguf");
/// let model = hob::Model::options().threads(2).context(256).open(path)?;
/// assert_eq!(model.context(), 256);
/// println!("{}", model.card());
/// # Ok::<(), hob::Error>(())
/// ```
#[derive(Clone)]
pub struct Model(Arc<Inner>);

struct Inner {
    gguf: Gguf,
    /// Reads the file ahead, once somebody is about to compute; `None` where nothing is to be read.
    ahead: OnceLock<Option<Reader>>,
    run: Box<dyn Run>,
    device: Device,
    tokenizer: Tokenizer,
    template: ChatTemplate,
    sampling: Sampling,
    notices: Vec<String>,
    cache: CacheOptions,
    micro_batch: usize,
    threads: usize,
    controls: OnceLock<Controls>,
    grammars: Shelf,
    prefixes: Option<Prefixes>,
    speculation: Speculation,
}

/// Where the tokens come from that are computed on trial. The text is the same whichever it is.
#[derive(Clone, Debug, Default)]
pub enum Speculation {
    /// Nowhere: every token is computed by itself.
    #[default]
    Off,
    /// From what the session's tokens say elsewhere: good for code, quotes, and lists.
    Lookup,
    /// From a smaller model of the same vocabulary.
    Draft(Model),
}

/// How to open a model. Everything has a sensible default; see [`Model::options`].
#[derive(Clone, Debug, Default)]
pub struct ModelOptions {
    threads: Option<usize>,
    context: Option<usize>,
    cache_k: Option<KvType>,
    cache_v: Option<KvType>,
    micro_batch: Option<usize>,
    pre_tokenizer: Option<String>,
    chat_template: Option<String>,
    device: Device,
    gpu_layers: GpuLayers,
    prefix_cache: u64,
    prefix_folder: Option<prefix::Folder>,
    speculation: Speculation,
}

impl ModelOptions {
    /// Threads to compute with (default: [`default_threads`]).
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = Some(threads);
        self
    }

    /// Tokens that a session can hold (default: what the model was trained for, at most 8192).
    pub fn context(mut self, tokens: usize) -> Self {
        self.context = Some(tokens);
        self
    }

    /// Types of the cached keys and values (default: f16 both). [`KvType::Q8_0`] takes half the memory, for answers that differ in
    /// little; [`KvType::Q4_0`] a quarter, at a price that grows with the context. Where keys hold the values (latent attention),
    /// all is kept in the keys' type. Quantized caches are the CPU's.
    pub fn cache_types(mut self, k: KvType, v: KvType) -> Self {
        (self.cache_k, self.cache_v) = (Some(k), Some(v));
        self
    }

    /// Tokens computed at once while reading a prompt (default: [`default_micro_batch`]).
    pub fn micro_batch(mut self, tokens: usize) -> Self {
        self.micro_batch = Some(tokens);
        self
    }

    /// Where to compute (default: [`Device::Auto`]). How many threads is the CPU's alone.
    pub fn device(mut self, device: Device) -> Self {
        self.device = device;
        self
    }

    /// How many of the last layers a GPU computes, with the head; the CPU computes the others (default: as many as fit). What was decided is
    /// among the [notices](Model::notices).
    pub fn gpu_layers(mut self, layers: GpuLayers) -> Self {
        self.gpu_layers = layers;
        self
    }

    /// Keeps up to so many bytes of what sessions have computed in memory, for other sessions of this model that begin alike
    /// (default: 0, nothing). Logits have the same bits with or without it. On a GPU nothing is kept.
    pub fn prefix_cache(mut self, bytes: u64) -> Self {
        self.prefix_cache = bytes;
        self
    }

    /// Keeps it in a folder too, for other processes and other days (default: nowhere). Files are written at the end of a turn, by a thread
    /// of its own, which the last clone of the model waits for when it is dropped.
    pub fn prefix_folder(mut self, folder: prefix::Folder) -> Self {
        self.prefix_folder = Some(folder);
        self
    }

    /// Computes tokens on trial where that pays; the text is the same. On a GPU, and for models that remember a text as one state, it is off.
    ///
    /// ```
    /// use hob::{Model, Sampling, Speculation};
    /// # let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/tiny.gguf");
    /// let model = Model::options().speculation(Speculation::Lookup).open(path)?;
    /// let mut chat = model.chat().sampling(Sampling::greedy()).max_tokens(64);
    /// chat.say("Say this again: one, two, three, one, two, three.")?.text()?;
    /// println!("{} of {} drafts were right", chat.stats().accepted, chat.stats().drafted);
    /// # Ok::<(), hob::Error>(())
    /// ```
    pub fn speculation(mut self, speculation: Speculation) -> Self {
        self.speculation = speculation;
        self
    }

    /// The pre-tokenizer to use, by the name that llama.cpp gives it, where the file names none or an unknown one.
    pub fn pre_tokenizer(mut self, name: impl Into<String>) -> Self {
        self.pre_tokenizer = Some(name.into());
        self
    }

    /// The chat template to use instead of the file's: Jinja source, or the name of one that hob has ([`ChatTemplate::named`]).
    pub fn chat_template(mut self, source: impl Into<String>) -> Self {
        self.chat_template = Some(source.into());
        self
    }

    /// Opens the model in the file at `path` (any part of a split file).
    ///
    /// # Errors
    /// Where the file cannot be read, is not sound, or holds something that hob cannot run.
    pub fn open(&self, path: impl AsRef<Path>) -> Result<Model> {
        self.build(Gguf::open(path)?)
    }

    /// Opens a model that is part of the program.
    ///
    /// # Errors
    /// As [`open`](ModelOptions::open).
    pub fn from_static(&self, bytes: &'static [u8]) -> Result<Model> {
        self.build(Gguf::from_static(bytes)?)
    }

    /// Opens the model in a file that is open already.
    ///
    /// # Errors
    /// As [`open`](ModelOptions::open).
    pub fn build(&self, gguf: Gguf) -> Result<Model> {
        if !gguf.has_weights() {
            let fault = Fault::at(gguf.metadata().origin()).expected("a whole model").found("its header alone");
            return Err(Error::Input(fault.help("download the file first")));
        }
        let context = Some(self.context_for(gguf.metadata())?);
        let options = LoadOptions { threads: self.threads_to_use()?, context, device: self.device, gpu_layers: self.gpu_layers };
        let placed = device::place(&gguf, &options, self.kv_types())?;
        self.assemble(gguf, placed)
    }

    /// A model of a file's texts and any decoder.
    pub(crate) fn assemble(&self, gguf: Gguf, Placed { run, device, notice }: Placed) -> Result<Model> {
        let metadata = gguf.metadata();
        let tokenizer = Tokenizer::from_gguf(metadata, &TokenizerOptions { pre: self.pre_tokenizer.clone() })?;
        let mut notices: Vec<String> = notice.into_iter().collect();
        let template = match &self.chat_template {
            Some(source) => ChatTemplate::named(source).or_else(|_| ChatTemplate::from_source(source))?,
            None => {
                let (template, notice) = ChatTemplate::from_gguf(metadata)?;
                notices.extend(notice);
                template
            }
        };
        let context = self.context_for(metadata)?;
        let trained = run.config().context;
        if context > trained && trained > 0 {
            notices.push(format!(
                "a context of {context} is more than the {trained} tokens that this model was trained for: what it writes beyond them may make no sense"
            ));
        }
        let micro_batch = positive("micro-batch", self.micro_batch.unwrap_or_else(|| default_micro_batch(run.config())))?;
        let [k, v] = self.kv_types();
        let cache = CacheOptions { capacity: context, k, v, batch: micro_batch };
        let sampling = Sampling::from_gguf(metadata)?;
        let threads = self.threads_to_use()?;
        let (controls, grammars) = (OnceLock::new(), Shelf::default());
        let prefixes = Prefixes::new(&gguf, self.prefix_cache, self.prefix_folder.clone());
        let model = Arc::new(Inner {
            gguf,
            ahead: OnceLock::new(),
            run,
            device,
            tokenizer,
            template,
            sampling,
            notices,
            cache,
            micro_batch,
            threads,
            controls,
            prefixes,
            grammars,
            speculation: Speculation::Off,
        });
        self.speculate(model)
    }

    /// The model with its speculation, as far as it can have one.
    fn speculate(&self, mut inner: Arc<Inner>) -> Result<Model> {
        let off = match self.speculation {
            Speculation::Off => return Ok(Model(inner)),
            Speculation::Lookup | Speculation::Draft(_) if inner.device != Device::Cpu => Some("a GPU's logits change with the batch"),
            Speculation::Lookup | Speculation::Draft(_) => {
                let cache = inner.run.cache(&inner.cache)?;
                cache.only_copies().then_some("this model's memory of a text cannot be cut back")
            }
        };
        if let (None, Speculation::Draft(draft)) = (off, &self.speculation) {
            same_tokens(&Model(Arc::clone(&inner)), draft)?;
        }
        if let Some(inner) = Arc::get_mut(&mut inner) {
            match off {
                Some(why) => inner.notices.push(format!("no speculation: {why}")),
                None => inner.speculation = self.speculation.clone(),
            }
        }
        Ok(Model(inner))
    }

    fn kv_types(&self) -> [KvType; 2] {
        [self.cache_k, self.cache_v].map(|kind| kind.unwrap_or(KvType::F16))
    }

    fn threads_to_use(&self) -> Result<usize> {
        positive("threads", self.threads.unwrap_or_else(default_threads))
    }

    /// The context that sessions will have. It must be known before the weights are: it decides which factors some
    /// models use for their rotary positions.
    fn context_for(&self, metadata: &Metadata) -> Result<usize> {
        if let Some(tokens) = self.context {
            return positive("context", tokens);
        }
        let architecture = metadata.str("general.architecture")?.unwrap_or_default();
        let trained = metadata.u32(&format!("{architecture}.context_length"))?.unwrap_or(0) as usize;
        Ok(if trained == 0 { DEFAULT_CONTEXT } else { trained.min(DEFAULT_CONTEXT) })
    }
}

/// Sees to it that a draft model writes with the same tokens.
fn same_tokens(model: &Model, draft: &Model) -> Result<()> {
    let (ours, theirs) = (model.tokenizer(), draft.tokenizer());
    let fault = |found: String| {
        let fault = Fault::at("draft model").expected("the vocabulary of the model it drafts for").found(found);
        Err(Error::Model(fault.help("take a smaller model of the same family")))
    };
    if ours.vocab_size() != theirs.vocab_size() {
        return fault(format!("{} tokens, not {}", theirs.vocab_size(), ours.vocab_size()));
    }
    let differs = (0..ours.vocab_size() as Token).find(|id| ours.token_text(*id) != theirs.token_text(*id));
    match differs {
        Some(id) => fault(format!("token {id} as {:?}, not {:?}", theirs.token_text(id), ours.token_text(id))),
        None => Ok(()),
    }
}

fn positive(what: &str, n: usize) -> Result<usize> {
    if n == 0 { Err(Error::Input(Fault::at(what).expected("at least 1").found(0))) } else { Ok(n) }
}

impl Model {
    /// Opens the model in the file at `path` (any part of a split file), with default options.
    ///
    /// # Errors
    /// Where the file cannot be read, is not sound, or holds something that hob cannot run.
    pub fn open(path: impl AsRef<Path>) -> Result<Model> {
        ModelOptions::default().open(path)
    }

    /// Opens a model that is part of the program.
    ///
    /// # Errors
    /// As [`open`](Model::open).
    pub fn from_static(bytes: &'static [u8]) -> Result<Model> {
        ModelOptions::default().from_static(bytes)
    }

    /// Options, to be followed by [`open`](ModelOptions::open).
    pub fn options() -> ModelOptions {
        ModelOptions::default()
    }

    /// The file.
    pub fn gguf(&self) -> &Gguf {
        &self.0.gguf
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.0.tokenizer
    }

    /// The chat template: the caller's, the file's, or one of hob's.
    pub fn template(&self) -> &ChatTemplate {
        &self.0.template
    }

    /// The decoder, for callers who step it themselves.
    pub fn run(&self) -> &dyn Run {
        &*self.0.run
    }

    /// Where it computes; its first layers on the CPU all the same where the device has no room for them.
    pub fn device(&self) -> Device {
        self.0.device
    }

    /// The model's numbers.
    pub fn config(&self) -> &Config {
        self.0.run.config()
    }

    /// The architecture card: what was built, layer by layer.
    pub fn card(&self) -> String {
        self.0.run.card()
    }

    /// What the file recommends for sampling (`general.sampling.*`).
    pub fn sampling(&self) -> &Sampling {
        &self.0.sampling
    }

    /// What the user should hear once: a missing chat template, a context beyond the trained one, layers that a GPU has no room for.
    pub fn notices(&self) -> &[String] {
        &self.0.notices
    }

    /// Tokens that a session of this model can hold.
    pub fn context(&self) -> usize {
        self.0.cache.capacity
    }

    /// How the caches of its sessions are made.
    pub fn cache_options(&self) -> &CacheOptions {
        &self.0.cache
    }

    /// Tokens computed at once while reading a prompt.
    pub fn micro_batch(&self) -> usize {
        self.0.micro_batch
    }

    /// Where its sessions' drafts come from.
    pub fn speculation(&self) -> &Speculation {
        &self.0.speculation
    }

    /// Threads it computes with.
    pub fn threads(&self) -> usize {
        self.0.threads
    }

    /// Begins to read the file into memory, in a thread of its own, unless that was done, and says how far it is; the first session
    /// begins it too. There is nothing to read of a model in memory, on a GPU, or with more bytes than the memory that is
    /// available. It ends with the last clone of the model.
    ///
    /// ```
    /// # let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/tiny.gguf");
    /// let model = hob::Model::open(path)?;
    /// while !model.read_ahead().is_done() {
    ///     std::thread::sleep(std::time::Duration::from_millis(10));
    /// }
    /// assert_eq!(model.read_ahead().read, model.gguf().file_bytes());
    /// # Ok::<(), hob::Error>(())
    /// ```
    pub fn read_ahead(&self) -> ReadAhead {
        let Inner { gguf, device, ahead, .. } = &*self.0;
        let whole = gguf.file_bytes();
        let reader = ahead.get_or_init(|| {
            let room = || Memory::of_this_machine().is_none_or(|memory| whole <= memory.available);
            (*device == Device::Cpu && gguf.path().is_some() && room()).then(|| Reader::start(gguf))
        });
        reader.as_ref().map_or(ReadAhead { read: whole, whole }, Reader::progress)
    }

    /// What its sessions share, where they do.
    pub(crate) fn prefixes(&self) -> Option<&Prefixes> {
        self.0.prefixes.as_ref().map(|prefixes| prefixes.of(self.gguf(), self.run(), self.cache_options()))
    }

    /// Whether its sessions share anything.
    pub(crate) fn keeps_prefixes(&self) -> bool {
        self.0.prefixes.is_some()
    }

    /// Whose states its sessions have.
    pub(crate) fn identified(&self) -> Identified {
        Identified::of(self.gguf(), self.run(), self.cache_options())
    }

    /// Why nothing more is kept in [`ModelOptions::prefix_folder`], a full disk say: once after it has happened. Nothing else fails by it.
    pub fn prefix_trouble(&self) -> Option<String> {
        self.0.prefixes.as_ref().and_then(Prefixes::trouble)
    }

    /// Waits until what sessions have kept is in the folder, or known not to be.
    pub fn flush_prefixes(&self) {
        self.0.prefixes.iter().for_each(Prefixes::flush);
    }

    /// Bytes that [`ModelOptions::prefix_cache`] holds now.
    pub fn prefix_bytes(&self) -> u64 {
        self.0.prefixes.as_ref().map_or(0, Prefixes::memory_bytes)
    }

    /// What holds a text to a grammar, which is compiled once.
    pub(crate) fn guide(&self, grammar: &Grammar) -> Result<Guide> {
        Ok(Guide::new(self.0.grammars.get(grammar, self.tokenizer())?, self.tokenizer()))
    }

    /// The tokens of a conversation as the model's template writes it, ending with the opening of the model's turn. What the
    /// messages say never becomes a control token.
    ///
    /// # Errors
    /// [`Error::Template`] where the template refuses the conversation.
    pub fn encode_chat(&self, messages: &[Message], variables: &serde_json::Map<String, serde_json::Value>) -> Result<Vec<Token>> {
        self.encode_prompt(messages, &[], variables).map(|(tokens, _)| tokens)
    }

    /// As [`encode_chat`](Model::encode_chat), with tools; and the prompt as text.
    pub(crate) fn encode_prompt(
        &self,
        messages: &[Message],
        tools: &[serde_json::Value],
        variables: &serde_json::Map<String, serde_json::Value>,
    ) -> Result<(Vec<Token>, String)> {
        let tokenizer = self.tokenizer();
        let spelt = |token: Option<Token>| token.and_then(|t| tokenizer.token_text(t)).unwrap_or_default();
        let (bos, eos) = (spelt(tokenizer.bos()), spelt(tokenizer.eos()));
        let controls = self.0.controls.get_or_init(|| Controls::of(tokenizer));
        let prompt = Prompt { messages, turn: Turn::Open, bos, eos, tools, variables: Some(variables) };
        prompt::encode(self.template(), tokenizer, controls, &prompt)
    }
}

impl fmt::Debug for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Model").field("path", &self.gguf().path()).field("context", &self.context()).finish_non_exhaustive()
    }
}
