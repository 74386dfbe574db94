//! hob on the command line: one file a command, one place for the flags they share.

mod answer;
mod bench;
mod cache;
mod chat;
mod doctor;
mod failure;
mod families;
#[cfg(feature = "hub")]
mod fetch;
mod flags;
mod folders;
mod guide;
mod held;
mod inspect;
mod interrupt;
mod line;
mod logits;
mod ls;
mod models;
mod nearest;
mod npy;
mod perplexity;
mod plan;
#[cfg(feature = "hub")]
mod pull;
mod quantize;
mod reply;
mod report;
mod rm;
mod run;
mod sampling;
mod show;
mod table;
mod template;
mod terminal;
mod tokenize;
mod units;
mod values;

use std::io::{BufWriter, Write};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use failure::Failure;

const EXAMPLES: &str = "\
Examples:
  hob chat                                      ask hob's guide, the tiny model in the box
  hob chat MODEL.gguf                           talk to a model
  hob run MODEL.gguf -p 'Name three rivers.'    one answer, to standard output
  hob plan                                      what fits this machine best
  hob ls                                        the models that are here; their names do for MODEL
  hob pull qwen3-4b                             brings one
  hob inspect MODEL.gguf                        what is in the file
  hob bench MODEL.gguf -p 512 -n 128            how fast it is here

Environment:
  HOB_CACHE   folder for what can be made again
  HOB_LEVEL   instruction set: scalar, avx2, avxvnni, avx512, neon, neondot; results are the same
  HOB_MODELS  folders of models, separated as those of PATH are
  NO_COLOR    no colours";

/// Runs quantized GGUF models on this machine
#[derive(Parser)]
#[command(name = "hob", version, about, after_help = EXAMPLES, max_term_width = 120)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Talk to a model
    Chat(chat::Args),
    /// Answer one prompt
    Run(run::Args),
    /// Bring a model from Hugging Face, or from any address
    #[cfg(feature = "hub")]
    Pull(pull::Args),
    /// List the models that are here, whoever brought them
    Ls(ls::Args),
    /// Show what a model is and where it lies
    Show(show::Args),
    /// Delete a model
    Rm(rm::Args),
    /// Show what a file holds: architecture, metadata, tensors, sizes
    Inspect(inspect::Args),
    /// List the families and types that hob runs
    Families(families::Args),
    /// Turn text into token ids
    Tokenize(tokenize::Args),
    /// Render a chat template
    Template(template::Args),
    /// Write the raw logits of every position to a NumPy file
    Logits(logits::Args),
    /// Convert a model to another type
    Quantize(quantize::Args),
    /// Measure how well a model predicts a text
    Perplexity(perplexity::Args),
    /// Measure tokens per second
    Bench(bench::Args),
    /// Tell whether a model fits, how fast it will be, and what fits best
    Plan(plan::Args),
    /// Examine this machine: devices, memory, speed, and what costs speed
    Doctor(doctor::Args),
    /// List or remove what is kept of prompts that were computed
    Cache(cache::Args),
}

fn main() -> ExitCode {
    let line = CommandLine::parse_from(flags::spelled_out(std::env::args_os()));
    let mut out = BufWriter::new(std::io::stdout().lock());
    let done = match line.command {
        Command::Chat(args) => chat::run(args, &mut out),
        Command::Run(args) => run::run(args, &mut out),
        #[cfg(feature = "hub")]
        Command::Pull(args) => pull::run(args, &mut out),
        Command::Ls(args) => ls::run(args, &mut out),
        Command::Show(args) => show::run(args, &mut out),
        Command::Rm(args) => rm::run(args),
        Command::Inspect(args) => inspect::run(args, &mut out),
        Command::Families(args) => families::run(args, &mut out),
        Command::Tokenize(args) => tokenize::run(args, &mut out),
        Command::Template(args) => template::run(args, &mut out),
        Command::Logits(args) => logits::run(args, &mut out),
        Command::Quantize(args) => quantize::run(args, &mut out),
        Command::Perplexity(args) => perplexity::run(args, &mut out),
        Command::Bench(args) => bench::run(args, &mut out),
        Command::Plan(args) => plan::run(args, &mut out),
        Command::Doctor(args) => doctor::run(args, &mut out),
        Command::Cache(args) => cache::run(args, &mut out),
    };
    let flushed = out.flush();
    // What could not be written must not be tried again, and complained about, when the writer is dropped.
    std::mem::forget(out);
    match done.and(flushed.map_err(Failure::Output)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}
