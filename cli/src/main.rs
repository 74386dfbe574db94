//! hob on the command line: one file a command, one place for the flags they share.

#![allow(dead_code)]
mod failure;
mod flags;
mod interrupt;
mod line;
mod npy;
mod report;
mod table;
mod template;
mod terminal;
mod tokenize;
mod units;

use std::io::{BufWriter, Write};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use failure::Failure;

const EXAMPLES: &str = "\
Examples:
  hob chat MODEL.gguf                           talk to a model
  hob run MODEL.gguf -p 'Name three rivers.'    one answer, to standard output
  hob inspect MODEL.gguf                        what is in the file
  hob bench MODEL.gguf -p 512 -n 128            how fast it is here

Environment:
  HOB_LEVEL   the instruction set to use: scalar, avx2, avxvnni, avx512, neon, neondot (the result is the same)
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
    /// Turn text into token ids
    Tokenize(tokenize::Args),
    /// Render a chat template
    Template(template::Args),
}

fn main() -> ExitCode {
    let line = CommandLine::parse_from(std::env::args_os());
    let mut out = BufWriter::new(std::io::stdout().lock());
    let done = match line.command {
        Command::Template(args) => template::run(args, &mut out),
        Command::Tokenize(args) => tokenize::run(args, &mut out),
    };
    let flushed = out.flush();
    // What could not be written must not be tried again, and complained about, when the writer is dropped.
    std::mem::forget(out);
    match done.and(flushed.map_err(Failure::Output)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}
