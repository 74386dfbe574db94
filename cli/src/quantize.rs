//! `hob quantize`: a model into another type, tensor by tensor.

use std::io::Write;
use std::path::PathBuf;

use hob::Canceller;
use hob::gguf::Gguf;
use hob::quantize::{Existing, FileType, QuantizeOptions, quantize};

use crate::failure::Failure;
use crate::interrupt::Interrupts;
use crate::models::{Absent, locate};
use crate::terminal::{note_dim, progress};
use crate::units;
use crate::values::at_least_one;

const AFTER: &str = "\
The best source is a file in F16, BF16 or F32: what was quantized before loses twice.

Examples:
  hob quantize MODEL-F16.gguf MODEL-Q4_K_M.gguf Q4_K_M
  hob quantize MODEL-F16.gguf MODEL-Q8_0.gguf Q8_0 -t 8";

/// Flags of `hob quantize`.
#[derive(clap::Args)]
#[command(after_help = AFTER)]
pub(crate) struct Args {
    /// The model to convert; of a split model any part
    #[arg(value_name = "IN")]
    from: PathBuf,
    /// The file to write
    #[arg(value_name = "OUT")]
    to: PathBuf,
    /// The type to make, such as F16, Q8_0, Q6_K or Q4_K_M
    #[arg(value_name = "TYPE", value_parser = file_type)]
    kind: FileType,
    /// Replace OUT where it exists
    #[arg(long)]
    force: bool,
    /// Worker threads [default: the machine's performance cores]
    #[arg(short = 't', long, value_name = "N", value_parser = at_least_one)]
    threads: Option<usize>,
}

fn file_type(name: &str) -> Result<FileType, String> {
    FileType::from_name(name).ok_or_else(|| {
        let names: Vec<&str> = FileType::all().map(FileType::name).collect();
        format!("hob makes {}", names.join(", "))
    })
}

/// Runs `hob quantize`.
pub(crate) fn run(args: Args, _: &mut dyn Write) -> Result<(), Failure> {
    let gguf = Gguf::open(locate(&args.from, Absent::Refused)?)?;
    let mut options = QuantizeOptions::new(args.kind).existing(if args.force { Existing::Replace } else { Existing::Refuse });
    if let Some(threads) = args.threads {
        options = options.threads(threads);
    }
    let canceller = Canceller::default();
    options = options.canceller(canceller.clone());
    let interrupts = Interrupts::install();
    let _guard = interrupts.guard(move || canceller.cancel());
    let bar = progress(100, args.kind.name());
    let report = quantize(&gguf, &args.to, options, |at| {
        bar.set_position(100 * at.done / at.total.max(1));
        bar.set_message(format!("{} {}", at.tensor.name, at.to));
    });
    bar.finish_and_clear();
    let report = report?;
    report.notices.iter().for_each(|notice| note_dim(&notice.to_string()));
    let (before, after) = (units::bytes(report.bytes_before), units::bytes(report.bytes_after));
    note_dim(&format!("{}: {before} → {after}, {:.2} bits/weight", args.to.display(), report.bits_per_weight()));
    Ok(())
}
