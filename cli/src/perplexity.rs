//! `hob perplexity`: how surprised a model is by a text, measured as llama-perplexity does, so that numbers compare.

use std::io::Write;
use std::path::PathBuf;

use hob::perplexity::of_text;
use hob::{Error, Fault};

use crate::failure::Failure;
use crate::flags::{Machine, Purpose};
use crate::interrupt::Interrupts;
use crate::terminal::{note_dim, progress};

const AFTER: &str = "\
The text is cut into chunks of -c tokens (512 where it is not given); the first half of each is context only.

Examples:
  hob perplexity MODEL.gguf -f wiki.test.raw -c 512
  hob perplexity MODEL.gguf -f book.txt -c 256 2>/dev/null      the value alone";

/// Flags of `hob perplexity`.
#[derive(clap::Args)]
#[command(after_help = AFTER)]
pub(crate) struct Args {
    /// A .gguf file, of a split model any part, or a name: hob ls lists them
    model: PathBuf,
    /// The text
    #[arg(short = 'f', long, value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    machine: Machine,
}

/// Runs `hob perplexity`.
pub(crate) fn run(args: Args, out: &mut dyn Write) -> Result<(), Failure> {
    let interrupts = Interrupts::install();
    let context = args.machine.context.unwrap_or(512);
    let bytes = std::fs::read(&args.file).map_err(|e| Failure::io(&args.file, e))?;
    let model = Machine { context: Some(context), ..args.machine }.open(&args.model, Purpose::Tokens)?;
    let text = String::from_utf8(bytes).map_err(|e| {
        let fault = Fault::at(args.file.display().to_string()).expected("UTF-8 text");
        Error::Input(fault.found(format!("byte {} is not", e.utf8_error().valid_up_to())))
    })?;
    let mut session = model.session()?;
    let canceller = session.canceller();
    let _guard = interrupts.guard(move || canceller.cancel());
    let bar = progress(0, "perplexity");
    let measured = of_text(&mut session, model.tokenizer(), &text, context, |so_far| {
        bar.set_length(so_far.of as u64);
        bar.set_position(so_far.chunks as u64);
        bar.set_message(format!("perplexity {:.4} ± {:.4}", so_far.value, so_far.error));
    });
    bar.finish_and_clear();
    let found = measured?;
    note_dim(&format!("{} tokens scored in {} chunks of {context}, ± {:.4}", found.scored, found.chunks, found.error));
    writeln!(out, "{:.4}", found.value)?;
    Ok(())
}
