//! `hob rm`: deletes a model, after saying what goes and what stays.

use std::io::IsTerminal;
use std::path::PathBuf;

use hob::store::Removal;

use crate::failure::Failure;
use crate::folders;
use crate::models::{self, Answer, Meant, agreed};
use crate::show;
use crate::terminal::{note, note_dim, printable};
use crate::units;

const AFTER: &str = "\
Of the cache of Hugging Face goes what no other snapshot uses, of ollama's store what no other of its models uses.

Examples:
  hob rm bartowski/Llama-3.2-1B-Instruct-GGUF:Q8_0
  hob rm qwen3:4b --yes";

/// Flags of `hob rm`.
#[derive(clap::Args)]
#[command(after_help = AFTER)]
pub(crate) struct Args {
    /// A name that hob ls lists, or the path of a file in one of its stores
    model: PathBuf,
    /// Do not ask
    #[arg(short = 'y', long)]
    yes: bool,
}

/// Runs `hob rm`.
pub(crate) fn run(args: Args) -> Result<(), Failure> {
    let here = folders::listing(&[]);
    let name = args.model.display().to_string();
    let entry = match models::meant(&args.model, &here)? {
        Meant::Here(entry) => *entry,
        Meant::File(path) => match show::owner(&here, &path) {
            Some(at) => here.entries[at].clone(),
            None => {
                return Err(Failure::usage(
                    format!("{name}: in none of the stores that hob ls lists"),
                    "hob deletes what it lists; delete other files yourself",
                ));
            }
        },
        Meant::Elsewhere(_) => return Err(Failure::usage(format!("`{name}` is not on this machine"), "hob ls lists what is here")),
    };
    let removal = Removal::of(&entry)?;
    note(&format!("{}, {}", printable(entry.name()), units::bytes(entry.bytes)));
    removal.files.iter().for_each(|file| note(&printable(&format!("  goes   {}", file.display()))));
    removal.kept.iter().for_each(|(file, why)| note(&printable(&format!("  stays  {}: {why}", file.display()))));
    if entry.store.keeper.is_another() {
        note(&format!("It is {}'s: that program will miss it.", entry.store.keeper));
    }
    if !args.yes {
        if !(std::io::stdin().is_terminal() && std::io::stderr().is_terminal()) {
            return Err(Failure::usage("nobody can be asked here", "--yes deletes without asking"));
        }
        if !agreed(&format!("Delete it? That frees {}.", units::bytes(removal.bytes)), Answer::No)? {
            note_dim("nothing was deleted");
            return Ok(());
        }
    }
    let freed = removal.carry_out(&entry)?;
    note_dim(&format!("deleted, {} freed", units::bytes(freed)));
    Ok(())
}
