//! `hob families`: what hob runs, and what it knows that it cannot.

use std::io::Write;

use hob::Format;
use hob::family::{FAMILIES, LACKING};
use serde_json::{Value, json};

use crate::failure::Failure;
use crate::table::{Side, plain};

const AFTER: &str = "\
Examples:
  hob families
  hob families --json | jq -r '.families[].architectures[]'

A file's family is its general.architecture; hob inspect MODEL.gguf shows it.";

/// Flags of `hob families`.
#[derive(clap::Args)]
#[command(after_help = AFTER)]
pub(crate) struct Args {
    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

/// Runs `hob families`.
pub(crate) fn run(args: Args, out: &mut dyn Write) -> Result<(), Failure> {
    let types: Vec<&str> = Format::ALL.iter().map(|format| format.name()).collect();
    if args.json {
        let families: Vec<Value> = FAMILIES.iter().map(|f| json!({ "architectures": f.names, "models": f.models })).collect();
        let lacking: Vec<Value> = LACKING.iter().map(|(block, names)| json!({ "architectures": names, "block": block })).collect();
        writeln!(out, "{}", json!({ "families": families, "types": types, "lacking": lacking }))?;
        return Ok(());
    }
    let rows: Vec<[String; 2]> = FAMILIES.iter().map(|f| [f.names.join(", "), f.models.to_owned()]).collect();
    writeln!(out, "Families")?;
    plain(out, [Side::Left, Side::Left], &rows)?;
    writeln!(out, "\nTypes\n  {}, and mixtures of them", types.join(" "))?;
    writeln!(out, "\nWhat hob lacks, and for what")?;
    for (block, names) in LACKING {
        writeln!(out, "  {block}\n      {}", names.join(", "))?;
    }
    Ok(())
}
