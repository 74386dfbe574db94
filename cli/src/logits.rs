//! `hob logits`: the raw logits of every position, as a NumPy array of shape [tokens, vocabulary].

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;

use hob::Error;
use hob::tokenizer::Token;

use crate::failure::Failure;
use crate::flags::{Machine, Purpose};
use crate::interrupt::Interrupts;
use crate::npy::NpyWriter;
use crate::terminal::Waiting;

const AFTER: &str = "\
Examples:
  hob logits MODEL.gguf --tokens 1,403,407 --out logits.npy
  python3 -c 'import numpy; print(numpy.load(\"logits.npy\").argmax(-1))'";

/// Flags of `hob logits`.
#[derive(clap::Args)]
#[command(after_help = AFTER)]
pub(crate) struct Args {
    /// A .gguf file, of a split model any part, or a name: hob ls lists them
    model: PathBuf,
    /// Token ids, taken as they are
    #[arg(long, value_name = "IDS", value_delimiter = ',', required = true)]
    tokens: Vec<Token>,
    /// The file to write: f32, one row a token
    #[arg(long, value_name = "FILE.npy")]
    out: PathBuf,
    #[command(flatten)]
    machine: Machine,
}

/// Runs `hob logits`.
pub(crate) fn run(args: Args, _: &mut dyn Write) -> Result<(), Failure> {
    let interrupts = Interrupts::install();
    let model = args.machine.open(&args.model, Purpose::Tokens)?;
    let mut session = model.session()?;
    let canceller = session.canceller();
    let _guard = interrupts.guard(move || canceller.cancel());
    let refused = |source| Error::Io { path: args.out.clone(), source };
    let (rows, columns) = (args.tokens.len(), model.config().vocab);
    let _waiting = Waiting::on("computing".into());
    // The file is made with the first row: what is refused before touches nothing.
    let mut npy = None;
    let done = session.logits_of_all(&args.tokens, |row| {
        if npy.is_none() {
            let file = File::create(&args.out).map_err(refused)?;
            npy = Some(NpyWriter::new(BufWriter::new(file), rows, columns).map_err(refused)?);
        }
        npy.iter_mut().try_for_each(|npy| npy.rows(row)).map_err(refused)
    });
    let whole = done.and_then(|()| npy.map_or(Ok(()), NpyWriter::finish).map_err(refused));
    whole.map_err(|error| {
        // Half a file would be taken for a whole one. A pipe or a device stays.
        if std::fs::symlink_metadata(&args.out).is_ok_and(|data| data.is_file()) {
            let _ = std::fs::remove_file(&args.out);
        }
        Failure::from(error)
    })
}
