//! `hob bench`: tokens per second, measured as llama-bench measures them, so that numbers compare.
//!
//! pp: `p` tokens at once, in batches of `-b`, through an empty context or one of `-d` tokens. tg: `n` tokens one by one. The
//! tokens are arbitrary and the same every time; the first is BOS where the model wants one. A run to warm up is not counted.
//!
//! On the CPU what the machine can do at most is measured in the same run: generation is held against reading all weights for
//! each token, a prompt against multiplying int8 (weights alone: attention is not counted).

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hob::catalogue::{self, Entry};
use hob::gguf::Gguf;
use hob::machine::Ceilings;
use hob::quantize::FileType;
use hob::tokenizer::Token;
use hob::{Device, GpuLayers, Level, Model, Sampler, Sampling, Session};

use crate::failure::Failure;
use crate::inspect;
use crate::models::{Absent, locate};
use crate::report::{Bound, Form, Outcome, Report, SHORT, Subject, Test};
use crate::terminal::{Waiting, note};
use crate::units;
use crate::values::{KvName, at_least_one};

const AFTER: &str = "\
Every number may be several, separated by commas; all combinations are measured.

Examples:
  hob bench MODEL.gguf
  hob bench MODEL.gguf -p 512 -n 128 -d 0,4096 -t 2,4
  hob bench MODEL.gguf -p 0 -n 32 -d 8192 -ctk f16,q8_0 -ctv q8_0
  hob bench MODEL.gguf -p 0 -n 128 -r 10 -o json > tg.json
  hob bench --synthetic qwen3-4b:Q4_K_M         a model of this shape, before it is downloaded
  hob bench --synthetic qwen3-30b-a3b --layers 8 --write shape.gguf";

/// Flags of `hob bench`.
#[derive(clap::Args)]
#[command(after_help = AFTER)]
pub(crate) struct Args {
    /// A .gguf file, of a split model any part, or a name: hob ls lists them
    #[arg(required_unless_present = "synthetic")]
    model: Option<PathBuf>,
    /// Measure a model of this shape with random weights, made in memory: a name of `hob plan`, NAME or NAME:TYPE
    #[arg(long, value_name = "NAME", conflicts_with = "model")]
    synthetic: Option<String>,
    /// Only so many of its layers
    #[arg(long, value_name = "N", requires = "synthetic")]
    layers: Option<u64>,
    /// Write it to a file instead of measuring it
    #[arg(long, value_name = "FILE", requires = "synthetic")]
    write: Option<PathBuf>,
    /// Prompt tokens; 0 leaves the test out
    #[arg(short = 'p', long, value_name = "N", value_delimiter = ',', default_value = "512")]
    n_prompt: Vec<usize>,
    /// Generated tokens; 0 leaves the test out
    #[arg(short = 'n', long, value_name = "N", value_delimiter = ',', default_value = "128")]
    n_gen: Vec<usize>,
    /// Tests of a prompt and an answer together, timed as one: PROMPT,GENERATED (-pg); may be given again
    #[arg(long, value_name = "P,N", value_parser = both)]
    prompt_gen: Vec<(usize, usize)>,
    /// Tokens in the context before the test
    #[arg(short = 'd', long, value_name = "N", value_delimiter = ',', default_value = "0")]
    n_depth: Vec<usize>,
    /// Where to compute: auto, cpu, candle, cuda, cuda:N, metal, metal:N
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    device: Device,
    /// How many of the model's last layers a GPU computes, with the head (-ngl) [default: as many as fit]
    #[arg(long, visible_alias = "n-gpu-layers", value_name = "N|auto", default_value = "auto", hide_default_value = true)]
    gpu_layers: GpuLayers,
    /// Worker threads [default: the machine's performance cores]
    #[arg(short = 't', long, value_name = "N", value_delimiter = ',', value_parser = at_least_one)]
    threads: Vec<usize>,
    /// Repetitions
    #[arg(short = 'r', long, value_name = "N", default_value = "5", value_parser = at_least_one)]
    repetitions: usize,
    /// Tokens handed over together
    #[arg(short = 'b', long, value_name = "N", value_delimiter = ',', default_value = "2048", value_parser = at_least_one)]
    batch_size: Vec<usize>,
    /// Tokens computed together (-ub) [default: 256, more where there are experts]
    #[arg(long, visible_alias = "ubatch-size", value_name = "N", value_delimiter = ',', value_parser = at_least_one)]
    micro_batch: Vec<usize>,
    /// Numbers in the key cache (-ctk): f32, f16, bf16, q8_0 or q4_0
    #[arg(long, value_name = "TYPE", value_delimiter = ',', default_value = "f16")]
    cache_type_k: Vec<KvName>,
    /// Numbers in the value cache (-ctv): likewise
    #[arg(long, value_name = "TYPE", value_delimiter = ',', default_value = "f16")]
    cache_type_v: Vec<KvName>,
    /// Print a hash of the last logits: equal wherever hob computes the same on a CPU
    #[arg(long)]
    hash: bool,
    /// Form of the report
    #[arg(short = 'o', long, value_name = "FORM", default_value = "md")]
    output: Form,
    /// The same as -o json
    #[arg(long, conflicts_with = "output")]
    json: bool,
}

/// A way to run the model, and the tests to run so.
struct Setting {
    threads: usize,
    batch: usize,
    micro_batch: Option<usize>,
    k: KvName,
    v: KvName,
    tests: Vec<Test>,
}

/// Runs `hob bench`.
pub(crate) fn run(args: Args, out: &mut dyn Write) -> Result<(), Failure> {
    if let (Some(name), Some(path)) = (&args.synthetic, &args.write) {
        return write_synthetic(name, args.layers, path);
    }
    let form = if args.json { Form::Json } else { args.output };
    let settings = settings(&args);
    let tests: Vec<Test> = settings.iter().flat_map(|s| s.tests.iter().cloned()).collect();
    let Some(first) = settings.first().filter(|_| !tests.is_empty()) else {
        return Err(Failure::usage("nothing to measure", "-p or -n above 0, or -pg"));
    };
    // Every setting opens the file anew: it is mapped, which takes no time, and nothing is left over from the one before.
    let source = Source::of(&args)?;
    let start = Instant::now();
    let mut model = open(&source, &args, first)?;
    model.notices().iter().for_each(|notice| note(notice));
    let opened = start.elapsed();
    warm(&model);
    let first_token = first_token(&source, &args, first, (&model, opened))?;
    let subject = subject(&source.name(), &model, opened, first_token);
    let mut report = Report::start(out, form, subject, &tests, args.hash)?;
    let mut ceilings: Vec<Ceilings> = Vec::new();
    for (at, setting) in settings.iter().enumerate() {
        if at > 0 {
            model = open(&source, &args, setting)?;
        }
        warm(&model);
        if model.device() == Device::Cpu && !ceilings.iter().any(|c| c.threads == setting.threads) {
            let _waiting = Waiting::on(format!("what {} threads can do at most", setting.threads));
            ceilings.push(Ceilings::measure(setting.threads, Some(model.gguf()))?);
        }
        let ceiling = ceilings.iter().find(|c| c.threads == setting.threads);
        for test in &setting.tests {
            let mut outcome = measure(&model, test, args.repetitions)?;
            outcome.bound = ceiling.and_then(|ceiling| bound(&model, test, ceiling));
            report.add(&outcome)?;
        }
    }
    Ok(report.finish()?)
}

/// All combinations, in llama-bench's order: the prompt tests of a setting, then its generation tests.
fn settings(args: &Args) -> Vec<Setting> {
    let default = [hob::default_threads()];
    let threads: &[usize] = if args.threads.is_empty() { &default } else { &args.threads };
    let micro_batches: Vec<_> = if args.micro_batch.is_empty() { vec![None] } else { args.micro_batch.iter().copied().map(Some).collect() };
    let mut all = Vec::new();
    for (&depth, &k) in pairs(&args.n_depth, &args.cache_type_k) {
        for (&v, &batch) in pairs(&args.cache_type_v, &args.batch_size) {
            for (&micro_batch, &threads) in pairs(&micro_batches, threads) {
                let test =
                    |prompt, generate| Test { prompt, generate, depth, threads, batch, micro_batch, type_k: k.name(), type_v: v.name() };
                let prompts = args.n_prompt.iter().filter(|n| **n > 0).map(|n| test(*n, 0));
                let generations = args.n_gen.iter().filter(|n| **n > 0).map(|n| test(0, *n));
                let pairs = args.prompt_gen.iter().map(|(prompt, generate)| test(*prompt, *generate));
                all.push(Setting { threads, batch, micro_batch, k, v, tests: prompts.chain(generations).chain(pairs).collect() });
            }
        }
    }
    all
}

fn pairs<'a, A, B>(a: &'a [A], b: &'a [B]) -> impl Iterator<Item = (&'a A, &'a B)> {
    a.iter().flat_map(move |a| b.iter().map(move |b| (a, b)))
}

/// What is measured.
enum Source {
    File(PathBuf),
    /// A model in memory, and what it is called.
    Made(String, Gguf),
}

impl Source {
    fn of(args: &Args) -> Result<Source, Failure> {
        match (&args.model, &args.synthetic) {
            (Some(model), _) => Ok(Source::File(locate(model, Absent::Refused)?)),
            (None, Some(name)) => {
                let (entry, kind) = synthetic(name)?;
                let _waiting = Waiting::on(format!("making {} in {}", entry.title, kind.name()));
                let gguf = entry.synthetic(kind, args.layers).map_err(|error| match error {
                    hob::Error::Memory(fault) => hob::Error::Memory(fault.help("fewer layers: --layers N")),
                    other => other,
                })?;
                let layers = args.layers.map_or(String::new(), |n| format!(", {n} layers"));
                Ok(Source::Made(format!("{}:{} (random weights{layers})", entry.name, kind.name()), gguf))
            }
            (None, None) => Err(Failure::usage("no model given", "a .gguf file, or --synthetic NAME")),
        }
    }

    fn name(&self) -> String {
        match self {
            Source::File(path) => path.display().to_string(),
            Source::Made(name, _) => name.clone(),
        }
    }
}

/// The row of the catalogue and the type that `NAME:TYPE` names.
fn synthetic(name: &str) -> Result<(&'static Entry, FileType), Failure> {
    let (entry, kind) = catalogue::find_quantized(name)?;
    Ok((entry, kind.unwrap_or_else(|| entry.usual())))
}

fn write_synthetic(name: &str, layers: Option<u64>, path: &Path) -> Result<(), Failure> {
    let (entry, kind) = synthetic(name)?;
    let io = |e| Failure::io(path, e);
    let file = std::fs::File::create_new(path).map_err(io)?;
    let waiting = Waiting::on(format!("writing {} to {}", units::bytes(entry.synthetic_bytes(kind, layers)?), path.display()));
    entry.write_synthetic(kind, layers, std::io::BufWriter::with_capacity(1 << 20, &file))?;
    file.sync_all().map_err(io)?;
    drop(waiting);
    note(&format!("{}: {} in {}, random weights", path.display(), entry.title, kind.name()));
    Ok(())
}

/// `512,128`: tokens of a prompt, and of an answer.
fn both(text: &str) -> Result<(usize, usize), String> {
    let pair = text.split_once(',').and_then(|(p, n)| Some((p.trim().parse().ok()?, n.trim().parse().ok()?)));
    pair.filter(|(p, n)| *p > 0 && *n > 0).ok_or_else(|| "two numbers above 0 are needed, such as 512,128".to_owned())
}

fn open(source: &Source, args: &Args, setting: &Setting) -> Result<Model, Failure> {
    let most = setting.tests.iter().map(|t| t.depth + t.prompt + t.generate).max().unwrap_or(1);
    let options = Model::options().device(args.device).gpu_layers(args.gpu_layers).threads(setting.threads).context(most);
    let mut options = options.cache_types(setting.k.into(), setting.v.into()).chat_template("chatml");
    if let Some(tokens) = setting.micro_batch {
        options = options.micro_batch(tokens.min(setting.batch));
    }
    Ok(match source {
        Source::File(path) => options.open(path)?,
        Source::Made(_, gguf) => options.build(gguf.clone())?,
    })
}

/// Waits until the file is in memory: how fast it comes from the disk is not what is measured.
fn warm(model: &Model) {
    let _waiting = Waiting::on_model(model, "reading the model".into());
    while !model.read_ahead().is_done() {
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// What a person waits for who asks something short: from opening the file, which is in memory, to the first token after a prompt of
/// [`SHORT`]. A GPU has no room for a second one: there what opening took is added.
fn first_token(source: &Source, args: &Args, setting: &Setting, (model, opened): (&Model, Duration)) -> Result<Duration, Failure> {
    let _waiting = Waiting::on("how long the first token takes".to_owned());
    let start = Instant::now();
    let (model, before) = match model.device() {
        Device::Cpu => (open(source, args, setting)?, Duration::ZERO),
        Device::Auto | Device::Candle | Device::Cuda(_) | Device::Metal(_) => (model.clone(), opened),
    };
    let mut session = model.session()?;
    session.feed(&Tokens::new(&model).take(SHORT.min(model.context())))?;
    let token = session.generate(Sampler::new(&Sampling::greedy())?).max_tokens(1).next();
    token.transpose()?;
    Ok(before + start.elapsed())
}

/// What bounds a test: a generated token reads the weights, a token of a prompt multiplies them; both together have no one bound.
fn bound(model: &Model, test: &Test, ceiling: &Ceilings) -> Option<Bound> {
    let weights = model.run().weights_read();
    match (test.prompt, test.generate) {
        (_, 0) => Some(Bound::Multiply { each: weights.count.saturating_sub(weights.head), most: ceiling.int8 }),
        (0, _) => Some(Bound::Read { each: weights.bytes, most: ceiling.read }),
        (_, _) => None,
    }
}

fn subject(name: &str, model: &Model, opened: Duration, first_token: Duration) -> Subject {
    let total = inspect::total(model.gguf());
    Subject {
        device: model.device(),
        file: name.to_owned(),
        kind: inspect::kind(model.gguf()),
        micro_batch: model.micro_batch(),
        bytes: total.bytes,
        params: total.params,
        level: Level::from_env().map_or_else(|e| e.to_string(), |level| level.to_string()),
        cpu: hob::machine::cpu(),
        opened,
        first_token,
    }
}

/// Warms up, then times the repetitions, each from the same depth.
fn measure(model: &Model, test: &Test, repetitions: usize) -> Result<Outcome, Failure> {
    let _waiting = Waiting::on(format!("{} on {} threads", test.name(), test.threads));
    let mut session = model.session()?;
    let mut tokens = Tokens::new(model);
    let depth = tokens.take(test.depth);
    let work = tokens.take(test.prompt + test.generate);
    once(&mut session, test, &work[..test.prompt.max(1)])?;
    session.clear()?;
    feed(&mut session, test.batch, &depth)?;
    let time = units::now();
    let mut samples_ns = Vec::with_capacity(repetitions);
    for _ in 0..repetitions {
        session.truncate(depth.len())?;
        if session.computed() < depth.len() {
            // A recurrent state cannot go back: it starts again, before the clock does.
            session.clear()?;
            feed(&mut session, test.batch, &depth)?;
        }
        let start = Instant::now();
        once(&mut session, test, &work)?;
        samples_ns.push(u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX));
    }
    // While the session still holds what it remembers.
    let resident = hob::machine::resident();
    Ok(Outcome { test: test.clone(), time, samples_ns, bound: None, hash: hash(session.logits()), resident })
}

/// FNV-1a (Fowler, Noll, Vo) over the logits' bytes.
fn hash(logits: &[f32]) -> u64 {
    let bytes = logits.iter().flat_map(|l| l.to_bits().to_le_bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

/// The work itself: the prompt's tokens together, then the others one by one.
fn once(session: &mut Session, test: &Test, work: &[Token]) -> Result<(), Failure> {
    let (prompt, answer) = work.split_at(test.prompt.min(work.len()));
    feed(session, test.batch, prompt)?;
    feed(session, 1, answer)
}

fn feed(session: &mut Session, at_once: usize, tokens: &[Token]) -> Result<(), Failure> {
    for tokens in tokens.chunks(at_once) {
        session.feed(tokens)?;
    }
    Ok(())
}

/// Arbitrary tokens, the same on every run: a linear congruence (Knuth's MMIX constants).
struct Tokens {
    state: u64,
    vocabulary: u64,
    bos: Option<Token>,
}

impl Tokens {
    fn new(model: &Model) -> Tokens {
        let bos = model.tokenizer().bos().filter(|_| model.tokenizer().adds_bos());
        Tokens { state: 1, vocabulary: model.config().vocab as u64, bos }
    }

    fn take(&mut self, n: usize) -> Vec<Token> {
        let mut next = || {
            self.state = self.state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((self.state >> 33) % self.vocabulary.max(1)) as Token
        };
        let mut tokens: Vec<Token> = (0..n).map(|_| next()).collect();
        if let (Some(first), Some(bos)) = (tokens.first_mut(), self.bos.take()) {
            *first = bos;
        }
        tokens
    }
}
