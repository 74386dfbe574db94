//! `hob ls`: the models that are on this machine, whoever brought them.

use std::io::Write;
use std::path::PathBuf;

use hob::store::{About, Entry, Listing, Role};
use serde_json::{Value, json};

use crate::failure::Failure;
use crate::folders;
use crate::table::{Side, plain};
use crate::terminal::{note_dim, printable};
use crate::units;

const AFTER: &str = "\
It looks through the cache of Hugging Face, the stores of ollama, LM Studio and llama.cpp, the folders of HOB_MODELS and those of --dir.
Nothing is copied. Each name can be typed wherever a command takes MODEL.

Examples:
  hob ls
  hob ls --dir /mnt/models --dir ~/Downloads
  hob ls --json | jq -r '.models[] | select(.bytes > 10e9) | .name'

Environment:
  HOB_MODELS      folders of your own, separated as those of PATH are
  HF_HUB_CACHE, HF_HOME, OLLAMA_MODELS, LLAMA_CACHE      where other programs keep theirs";

/// Flags of `hob ls`.
#[derive(clap::Args)]
#[command(after_help = AFTER)]
pub(crate) struct Args {
    /// Look through this folder too
    #[arg(long, value_name = "FOLDER")]
    dir: Vec<PathBuf>,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

/// Runs `hob ls`.
pub(crate) fn run(args: Args, out: &mut dyn Write) -> Result<(), Failure> {
    for folder in &args.dir {
        if !folder.is_dir() {
            let why = if folder.exists() { std::io::ErrorKind::NotADirectory } else { std::io::ErrorKind::NotFound };
            return Err(Failure::io(folder, why.into()));
        }
    }
    let here = folders::listing(&args.dir);
    let abouts: Vec<Result<About, String>> = here.entries.iter().map(about).collect();
    let twins = here.twins();
    if args.json {
        let models: Vec<Value> = (0..here.entries.len()).map(|at| object(&here, at, &abouts[at], &twins[at])).collect();
        let stores: Vec<Value> = here
            .stores
            .iter()
            .map(|store| json!({ "store": store.keeper.to_string(), "path": store.root.display().to_string() }))
            .collect();
        let all = json!({ "models": models, "stores": stores, "remarks": here.remarks });
        serde_json::to_writer_pretty(&mut *out, &all).map_err(std::io::Error::from)?;
        writeln!(out)?;
        return Ok(());
    }
    let mut rows = vec![["NAME", "SIZE", "WHAT", "TYPE", "CONTEXT", "STORE"].map(str::to_owned)];
    let mut broken = Vec::new();
    for (at, (entry, about)) in here.entries.iter().zip(&abouts).enumerate() {
        match about {
            Ok(about) => rows.push(row(&here, entry, about, &twins[at], at)),
            Err(why) => broken.push([printable(entry.name()).into_owned(), entry.store.keeper.to_string(), printable(why).into_owned()]),
        }
    }
    if rows.len() > 1 {
        plain(out, [Side::Left, Side::Right, Side::Left, Side::Left, Side::Right, Side::Left], &rows)?;
        writeln!(out, "\n{}", sum(&here, &abouts, &twins))?;
    } else {
        writeln!(out, "No models here yet.")?;
        let places: Vec<String> = here.stores.iter().map(|store| format!("{} ({})", store.keeper, store.root.display())).collect();
        note_dim(&if places.is_empty() { "no store was found".to_owned() } else { format!("looked through: {}", places.join(", ")) });
        note_dim("hob plan says which fit this machine, hob pull brings one");
    }
    if !broken.is_empty() {
        writeln!(out, "\nBroken")?;
        plain(out, [Side::Left, Side::Left, Side::Left], &broken)?;
    }
    here.remarks.iter().for_each(|remark| note_dim(remark));
    Ok(())
}

fn about(entry: &Entry) -> Result<About, String> {
    entry.about().map_err(|error| entry.broken().map_or_else(|| error.to_string(), str::to_owned))
}

fn row(here: &Listing, entry: &Entry, about: &About, twins: &[usize], at: usize) -> [String; 6] {
    let what = match &about.role {
        Role::Model if about.known => format!("{} {}", about.family, units::count(about.parameters)),
        Role::Model => format!("{} {} (hob does not run it)", about.family, units::count(about.parameters)),
        other => other.to_string(),
    };
    let store = match twins.first() {
        Some(first) if *first < at => format!("{}, the same as {}", entry.store.keeper, printable(here.entries[*first].name())),
        Some(_) | None => entry.store.keeper.to_string(),
    };
    [
        printable(entry.name()).into_owned(),
        units::bytes(entry.bytes),
        printable(&what).into_owned(),
        about.quantization.clone(),
        about.context.map_or_else(String::new, |context| context.to_string()),
        store,
    ]
}

/// How many there are, and what they take; copies count once and are told.
fn sum(here: &Listing, abouts: &[Result<About, String>], twins: &[Vec<usize>]) -> String {
    let models = abouts.iter().flatten().filter(|about| about.role == Role::Model).count();
    let copies: u64 =
        (0..twins.len()).filter(|at| twins[*at].first().is_some_and(|first| first < at)).map(|at| here.entries[at].bytes).sum();
    let bytes: u64 = here.entries.iter().map(|entry| entry.bytes).sum();
    let copies = if copies > 0 { format!(", {} of it copies", units::bytes(copies)) } else { String::new() };
    let plural = if models == 1 { "" } else { "s" };
    format!("{models} model{plural}, {}{copies}", units::bytes(bytes))
}

/// An entry for scripts.
pub(crate) fn object(here: &Listing, at: usize, about: &Result<About, String>, twins: &[usize]) -> Value {
    let entry = &here.entries[at];
    let facts = about.as_ref().ok();
    let paths: Vec<String> = entry.files.iter().map(|file| file.display().to_string()).collect();
    json!({
        "name": entry.name(),
        "names": entry.names,
        "store": entry.store.keeper.to_string(),
        "repository": entry.repository,
        "files": paths,
        "bytes": entry.bytes,
        "sha256": entry.sha256,
        "broken": about.as_ref().err(),
        "role": facts.map(|facts| facts.role.to_string()),
        "title": facts.and_then(|facts| facts.title.clone()),
        "family": facts.map(|facts| &facts.family),
        "runs": facts.map(|facts| facts.known && facts.role == Role::Model),
        "type": facts.map(|facts| &facts.quantization),
        "params": facts.map(|facts| facts.parameters),
        "context": facts.and_then(|facts| facts.context),
        "license": facts.and_then(|facts| facts.licence.clone()),
        "same_as": twins.iter().map(|twin| here.entries[*twin].name()).collect::<Vec<_>>(),
    })
}
