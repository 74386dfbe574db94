//! `hob show`: one model, what it is and where it lies.

use std::io::Write;
use std::path::{Path, PathBuf};

use hob::gguf::Gguf;
use hob::store::{About, Entry, Listing, State};
use hob::{Fault, catalogue};
use serde_json::json;

use crate::failure::Failure;
use crate::folders;
use crate::inspect;
use crate::ls;
use crate::models::{self, Meant};
use crate::table::{Side, plain};
use crate::terminal::printable;
use crate::units;

const AFTER: &str = "\
Examples:
  hob show qwen3:4b
  hob show MODEL.gguf
  hob show qwen3-4b --json | jq -r '.files[0]'

hob inspect MODEL shows all metadata and tensors, hob plan MODEL whether it fits this machine.";

/// Flags of `hob show`.
#[derive(clap::Args)]
#[command(after_help = AFTER)]
pub(crate) struct Args {
    /// A .gguf file, or a name that hob ls lists
    model: PathBuf,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

/// Runs `hob show`.
pub(crate) fn run(args: Args, out: &mut dyn Write) -> Result<(), Failure> {
    let here = folders::listing(&[]);
    let (here, at) = match models::meant(&args.model, &here)? {
        Meant::File(path) => of_file(here, &path)?,
        Meant::Here(entry) => {
            let at = here.entries.iter().position(|other| *other == *entry).unwrap_or_default();
            (here, at)
        }
        Meant::Elsewhere(_) => return elsewhere(&args, out),
    };
    let entry = &here.entries[at];
    let about = entry.about().map_err(|error| entry.broken().map_or_else(|| error.to_string(), str::to_owned));
    let twins: Vec<usize> = here.twins_of(entry).iter().filter_map(|twin| here.entries.iter().position(|e| e == *twin)).collect();
    if args.json {
        serde_json::to_writer_pretty(&mut *out, &ls::object(&here, at, &about, &twins)).map_err(std::io::Error::from)?;
        writeln!(out)?;
        return Ok(());
    }
    let gguf = entry.path().and_then(|path| Gguf::open(path).ok());
    writeln!(out, "{}", gguf.as_ref().map_or_else(|| printable(entry.name()).into_owned(), inspect::title))?;
    writeln!(out)?;
    let rows = facts(&here, entry, &about, &twins);
    plain(out, [Side::Left, Side::Left], &rows)?;
    Ok(())
}

fn facts(here: &Listing, entry: &Entry, about: &Result<About, String>, twins: &[usize]) -> Vec<[String; 2]> {
    let mut rows: Vec<[String; 2]> = Vec::new();
    let mut row = |name: &str, value: String| rows.push([name.to_owned(), printable(&value).into_owned()]);
    row("names", entry.names.join(", "));
    row("store", format!("{} ({})", entry.store.keeper, entry.store.root.display()));
    for (number, file) in entry.files.iter().enumerate() {
        row(if number == 0 { "file" } else { "" }, file.display().to_string());
        if let Some(target) = std::fs::read_link(file).ok().and(file.canonicalize().ok()) {
            row("", format!("→ {}", target.display()));
        }
    }
    row("size", units::bytes(entry.bytes));
    match about {
        Ok(about) => {
            row("role", about.role.to_string());
            row("family", if about.known { about.family.clone() } else { format!("{} (hob does not run it)", about.family) });
            row("parameters", units::count(about.parameters));
            row("type", about.quantization.clone());
            if let Some(context) = about.context {
                row("context", format!("{context} tokens"));
            }
            row("template", if about.chats { "a chat template of its own" } else { "none: it continues texts" }.to_owned());
            row("licence", about.licence.clone().unwrap_or_else(|| "the file does not say".into()));
        }
        Err(why) => row("broken", why.clone()),
    }
    if let Some(hash) = &entry.sha256 {
        row("sha256", hash.clone());
    }
    for twin in twins {
        let twin = &here.entries[*twin];
        row("same as", format!("{} ({})", twin.name(), twin.store.keeper));
    }
    rows
}

/// A file by its path: the entry that it is of, or one of its own.
fn of_file(mut here: Listing, path: &Path) -> Result<(Listing, usize), Failure> {
    if let Some(at) = owner(&here, path) {
        return Ok((here, at));
    }
    let gguf = Gguf::open(path)?;
    let files = gguf.paths().to_vec();
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    here.entries.push(Entry {
        store: hob::store::Store { keeper: hob::store::Keeper::Folder, root: folder.to_owned() },
        names: vec![path.display().to_string()],
        repository: None,
        quantization: None,
        bytes: gguf.file_bytes(),
        files,
        sha256: None,
        state: State::Whole,
    });
    let at = here.entries.len() - 1;
    Ok((here, at))
}

/// The entry that a file belongs to.
pub(crate) fn owner(here: &Listing, path: &Path) -> Option<usize> {
    let real = path.canonicalize().ok()?;
    let is = |exactly: bool| {
        here.entries.iter().position(|entry| {
            entry.files.iter().any(|file| file == path || (!exactly && file.canonicalize().is_ok_and(|file| file == real)))
        })
    };
    is(true).or_else(|| is(false))
}

/// A model that is known and not here.
fn elsewhere(args: &Args, out: &mut dyn Write) -> Result<(), Failure> {
    let name = args.model.display().to_string();
    let Ok((row, _)) = catalogue::find_quantized(&name) else {
        let fault = Fault::at(format!("`{name}`")).found("not on this machine");
        return Err(Failure::Engine(hob::Error::Input(
            fault.help(format!("hob plan {name} looks at it from afar, hob pull {name} brings it")),
        )));
    };
    if args.json {
        let object = json!({
            "name": row.name, "title": row.title, "family": row.family, "params": row.parameters, "active": row.active,
            "context": row.shape.context, "license": row.license, "allows": row.allows, "languages": row.languages,
            "repository": row.repository, "files": [],
        });
        serde_json::to_writer_pretty(&mut *out, &object).map_err(std::io::Error::from)?;
        writeln!(out)?;
        return Ok(());
    }
    writeln!(out, "{} · {} · not on this machine\n", row.title, units::count(row.parameters))?;
    let mut rows = vec![
        ["family", row.family.as_str()].map(str::to_owned),
        ["parameters".to_owned(), units::count(row.parameters)],
        ["context".to_owned(), format!("{} tokens", row.shape.context)],
        ["licence".to_owned(), format!("{}: {}", row.license, row.allows)],
        ["languages".to_owned(), row.languages.clone()],
        ["from".to_owned(), row.repository.clone()],
        ["to get it".to_owned(), format!("hob pull {name}")],
    ];
    if let Some(lacks) = &row.lacks {
        rows.push(["hob lacks".to_owned(), lacks.clone()]);
    }
    plain(out, [Side::Left, Side::Left], &rows)?;
    Ok(())
}
