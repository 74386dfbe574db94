//! `hob-guide-train`: trains the guide, from its text to a GGUF file in F16.
//!
//! ```text
//! cargo run --release -p hob-guide --features train --bin hob-guide-train -- [--steps N] [--resume]
//! hob quantize target/guide/guide-f16.gguf cli/guide/guide.gguf Q4_K_M --force
//! ```
//! The same seed and steps give the same conversations; the weights also depend on the order in which the machine's matrix product sums.

mod adam;
mod data;
mod file;
mod net;
mod ops;
mod vocabulary;

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use hob_guide::dialogue::dialogue;
use hob_guide::dice::Dice;
use hob_guide::text::Text;

use adam::Adam;
use data::Source;
use net::{Net, Shape};
use vocabulary::Vocabulary;

const USAGE: &str = "\
usage: hob-guide-train [FLAGS]
  --work DIR       where checkpoints and the file go [default: target/guide]
  --steps N        steps in all [default: 3800]
  --tokens N       tokens of a step [default: 1024]
  --rate X         the highest learning rate [default: 0.002]
  --warmup N       steps until it is reached [default: 80]
  --falling X      the share of the steps, at the end, over which it falls (cosine) [default: 0.6]
  --vocabulary N   tokens of the vocabulary [default: 2048]
  --layers N       layers [default: 4]
  --seed N         [default: 1]
  --facts N        only the first N facts, to try the training [default: all]
  --every N        steps between looks at held-out questions, and checkpoints [default: 100]
  --resume         go on from the checkpoint in DIR
RAYON_NUM_THREADS says how many threads compute.";

/// What the command line says.
struct Plan {
    work: PathBuf,
    steps: usize,
    tokens: usize,
    rate: f32,
    warmup: usize,
    falling: f32,
    vocabulary: usize,
    layers: usize,
    seed: u64,
    facts: usize,
    every: usize,
    start: Start,
}

/// Where the training begins.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Start {
    Anew,
    Checkpoint,
}

impl Plan {
    fn read(mut words: impl Iterator<Item = String>) -> Result<Plan, String> {
        let mut plan = Plan {
            work: PathBuf::from("target/guide"),
            steps: 3800,
            tokens: 1024,
            rate: 0.002,
            warmup: 80,
            falling: 0.6,
            vocabulary: 2048,
            layers: 4,
            seed: 1,
            facts: 0,
            every: 100,
            start: Start::Anew,
        };
        fn number<T: std::str::FromStr>(flag: &str, word: Option<String>) -> Result<T, String> {
            word.and_then(|word| word.parse().ok()).ok_or_else(|| format!("{flag}: a number is needed\n{USAGE}"))
        }
        while let Some(flag) = words.next() {
            match flag.as_str() {
                "--work" => plan.work = PathBuf::from(words.next().ok_or(USAGE)?),
                "--steps" => plan.steps = number(&flag, words.next())?,
                "--tokens" => plan.tokens = number(&flag, words.next())?,
                "--rate" => plan.rate = number(&flag, words.next())?,
                "--warmup" => plan.warmup = number(&flag, words.next())?,
                "--falling" => plan.falling = number(&flag, words.next())?,
                "--vocabulary" => plan.vocabulary = number(&flag, words.next())?,
                "--layers" => plan.layers = number(&flag, words.next())?,
                "--seed" => plan.seed = number(&flag, words.next())?,
                "--facts" => plan.facts = number(&flag, words.next())?,
                "--every" => plan.every = number::<usize>(&flag, words.next())?.max(1),
                "--resume" => plan.start = Start::Checkpoint,
                _ => return Err(USAGE.to_owned()),
            }
        }
        Ok(plan)
    }

    fn shape(&self, vocabulary: usize) -> Shape {
        let (width, head_dim) = (256, 64);
        Shape { vocabulary, layers: self.layers, width, heads: 4, kv_heads: 2, head_dim, ffn: 768, base: 10_000.0, epsilon: 1e-5 }
    }

    /// Up in a line, then level, then down in half a cosine to a hundredth.
    fn rate_at(&self, step: usize) -> f32 {
        let falling = (self.steps as f32 * self.falling).max(1.0);
        let fallen = ((step as f32 - (self.steps as f32 - falling)) / falling).clamp(0.0, 1.0);
        let down = 0.01 + 0.99 * 0.5 * (1.0 + (std::f32::consts::PI * fallen).cos());
        self.rate * down.min((step + 1) as f32 / self.warmup.max(1) as f32)
    }
}

fn main() -> ExitCode {
    match Plan::read(std::env::args().skip(1)).and_then(|plan| train(&plan)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}

/// The vocabulary of a training begun, or a new one.
fn vocabulary(plan: &Plan, text: &Text) -> Result<Vocabulary, String> {
    let path = plan.work.join("vocabulary.txt");
    if plan.start == Start::Checkpoint {
        return Ok(Vocabulary::from_lines(text, &std::fs::read_to_string(&path).map_err(|why| format!("{}: {why}", path.display()))?));
    }
    let mut dice = Dice::new(plan.seed.wrapping_add(1_000_000));
    let mut texts: Vec<String> = Vec::new();
    for _ in 0..20_000 {
        for turn in dialogue(text, &mut dice).turns {
            texts.extend([turn.question, turn.answer]);
        }
    }
    let learned = Vocabulary::learn(text, texts.iter().map(String::as_str), plan.vocabulary);
    std::fs::write(&path, learned.to_lines()).map_err(|why| format!("{}: {why}", path.display()))?;
    Ok(learned)
}

fn train(plan: &Plan) -> Result<(), String> {
    std::fs::create_dir_all(&plan.work).map_err(|why| format!("{}: {why}", plan.work.display()))?;
    let text = Text::load()?;
    let vocabulary = vocabulary(plan, &text)?;
    let source = Source::new(text, &vocabulary)?;
    let candle = |why: candle_core::Error| why.to_string();
    let net = Net::new(plan.shape(vocabulary.len()), &mut Dice::new(plan.seed)).map_err(candle)?;
    let mut adam = Adam::new(&net.weights());
    let checkpoint = plan.work.join("checkpoint");
    let from = match plan.start {
        Start::Anew => 0,
        Start::Checkpoint => file::load(&checkpoint, &net, &mut adam)?,
    };
    let weights: usize = net.weights().iter().map(|weight| weight.elem_count()).sum();
    println!("{} tokens, {weights} weights, steps {from} to {}", vocabulary.len(), plan.steps);
    let unseen = source.held_out(200, plan.facts, &mut Dice::new(plan.seed.wrapping_add(2_000_000)))?;
    let (began, mut tokens, mut mean) = (Instant::now(), 0, None);
    for step in from..plan.steps {
        let batch = source.batch(plan.tokens, plan.facts, &mut Dice::new(plan.seed.wrapping_add(3_000_000 + step as u64)))?;
        tokens += batch.tokens.len();
        let loss = net.loss(&batch).map_err(candle)?;
        let grads = loss.backward().map_err(candle)?;
        adam.step(&net.weights(), &grads, step, plan.rate_at(step)).map_err(candle)?;
        let loss = loss.to_scalar::<f32>().map_err(candle)?;
        mean = Some(mean.map_or(loss, |mean: f32| 0.95 * mean + 0.05 * loss));
        progress(plan, step, from, mean.unwrap_or(loss), tokens, began);
        if (step + 1) % plan.every == 0 || step + 1 == plan.steps {
            let seen = net.look(&unseen).map_err(candle)?;
            println!(
                "step {:5}  loss {:.4}  held out: loss {:.4}, {:.1} % of facts right, {:.1} % of answers  rate {:.5}  {:.0} tokens/s  {:.0} s",
                step + 1,
                mean.unwrap_or(loss),
                seen.loss,
                100.0 * seen.chosen,
                100.0 * seen.right,
                plan.rate_at(step),
                tokens as f64 / began.elapsed().as_secs_f64(),
                began.elapsed().as_secs_f64()
            );
            file::save(&checkpoint, step + 1, &net, &adam)?;
            file::export(&plan.work.join("guide-f16.gguf"), &net, &vocabulary, &made(plan))?;
        }
    }
    // Also where nothing was left to do: the commit may be another by now.
    let path = plan.work.join("guide-f16.gguf");
    file::export(&path, &net, &vocabulary, &made(plan))?;
    println!("{}", path.display());
    Ok(())
}

/// Where the file comes from: the commit, and the command.
fn made(plan: &Plan) -> String {
    let git = std::process::Command::new("git").args(["rev-parse", "HEAD"]).current_dir(Path::new(env!("CARGO_MANIFEST_DIR"))).output();
    let commit = git.ok().and_then(|out| String::from_utf8(out.stdout).ok()).unwrap_or_default();
    format!("hob {}: hob-guide-train --steps {} --tokens {} --seed {}", commit.trim(), plan.steps, plan.tokens, plan.seed)
}

/// A line that is written over, on a terminal only.
fn progress(plan: &Plan, step: usize, from: usize, loss: f32, tokens: usize, began: Instant) {
    if !std::io::stderr().is_terminal() {
        return;
    }
    let seconds = began.elapsed().as_secs_f64();
    let left = seconds / (step + 1 - from) as f64 * (plan.steps - step - 1) as f64;
    eprint!("\r{} of {}  loss {loss:.4}  {:.0} tokens/s  {:.0} min left ", step + 1, plan.steps, tokens as f64 / seconds, left / 60.0);
    std::io::stderr().flush().ok();
}
