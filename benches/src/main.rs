//! Measurements of whole models beside their peers, and of kernels as rows for `record/`: a file a command.

#[cfg(feature = "candle")]
mod candle;
mod compare;
mod record;

use std::error::Error;
use std::io;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Measures hob, and its peers beside it
#[derive(Parser)]
#[command(name = "hob-benches", version, max_term_width = 120)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a model on hob and on its peers, by turns
    Compare(compare::Args),
    /// Print what criterion last measured as rows of a record
    Record(record::Args),
    /// One turn of candle-transformers, in a process of its own: what `compare` asks for
    #[cfg(feature = "candle")]
    #[command(hide = true)]
    Candle(candle::Args),
}

fn main() -> ExitCode {
    let mut out = io::stdout().lock();
    let done = match CommandLine::parse().command {
        Command::Compare(args) => compare::run(&args, &mut out),
        Command::Record(args) => record::run(&args, &mut out),
        #[cfg(feature = "candle")]
        Command::Candle(args) => candle::run(&args, &mut out),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if reader_left(error.as_ref()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Whether it is a closed pipe, as of `| head`.
fn reader_left(error: &(dyn Error + 'static)) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
}
