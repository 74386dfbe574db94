//! MODEL on a command line: a file, or a name. A path that exists wins; then the names of the models that are here, whoever brought
//! them; then the catalogue's. What is known and not here can be downloaded, after asking.

use std::io::BufRead;
use std::path::{Path, PathBuf};

use hob::store::{Entry, Found, Listing, Reference, Repository};
use hob::{Error, Fault, catalogue};

use crate::failure::Failure;
use crate::folders;
use crate::terminal::aside;

/// What becomes of a model that is known and not here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Absent {
    /// It is an error, which says what would bring it.
    Refused,
    /// It is downloaded if the reader at the terminal says so.
    Asked,
    /// It is downloaded: `--yes`.
    Downloaded,
}

/// What a name stands for.
pub(crate) enum Meant {
    /// A file.
    File(PathBuf),
    /// A model in a store.
    Here(Box<Entry>),
    /// A model that is not here, and what brings it.
    Elsewhere(Reference),
}

/// The file that MODEL names.
pub(crate) fn locate(model: &Path, absent: Absent) -> Result<PathBuf, Failure> {
    match meant(model, &folders::listing(&[]))? {
        Meant::File(path) => Ok(path),
        Meant::Here(entry) => Ok(entry.usable()?.to_owned()),
        Meant::Elsewhere(reference) => bring(model, &reference, absent),
    }
}

/// What MODEL stands for.
pub(crate) fn meant(model: &Path, here: &Listing) -> Result<Meant, Failure> {
    if model.exists() {
        return Ok(Meant::File(model.to_owned()));
    }
    let missing = || Failure::io(model, std::fs::metadata(model).err().unwrap_or_else(|| std::io::ErrorKind::NotFound.into()));
    let Some(name) = model.to_str().filter(|name| !is_path(name)) else { return Err(missing()) };
    match here.find(name) {
        Found::One(entry) => return Ok(Meant::Here(Box::new(entry.clone()))),
        Found::Several(entries) => return Err(several(name, &entries)),
        Found::Nothing(_) => {}
    }
    if let Some(repository) = known(name) {
        // The catalogue's name for what is here under another.
        return match here.find(&repository.to_string()) {
            Found::One(entry) => Ok(Meant::Here(Box::new(entry.clone()))),
            Found::Several(_) | Found::Nothing(_) => Ok(Meant::Elsewhere(Reference::Repository(repository))),
        };
    }
    // `folder/name.gguf` is a file that is not there, not a repository.
    let is_file = |name: &str| name.to_ascii_lowercase().ends_with(".gguf") && !name.contains("://");
    match name.parse() {
        Ok(reference) if !is_file(name) => Ok(Meant::Elsewhere(reference)),
        Ok(_) => Err(missing()),
        Err(_) if is_file(name) => Err(missing()),
        Err(_) => Err(unknown(name, here)),
    }
}

/// What can only be a path: `./name`, `/name`, `~/name`, `C:\name`.
fn is_path(name: &str) -> bool {
    name.starts_with(['.', '/', '~']) || name.contains('\\')
}

/// What the catalogue knows under a name: `qwen3-4b`, `qwen3-4b:Q5_K_M`.
fn known(name: &str) -> Option<Repository> {
    let (row, kind) = catalogue::find_quantized(name).ok()?;
    Some(Repository { quantization: kind.map(|kind| kind.name().to_owned()), ..Repository::new(&row.repository) })
}

/// What a command that downloads takes: a name of the catalogue, `user/repo[:QUANT]`, or an address.
#[cfg(feature = "hub")]
pub(crate) fn reference(name: &str) -> Result<Reference, Failure> {
    match known(name) {
        Some(repository) => Ok(Reference::Repository(repository)),
        None if name.contains('/') => Ok(name.parse::<Reference>()?),
        None => Err(unknown(name, &Listing::default())),
    }
}

fn several(name: &str, entries: &[&Entry]) -> Failure {
    let names: Vec<&str> = entries.iter().map(|entry| entry.name()).collect();
    let fault = Fault::at(name).expected("one model").found(format!("{}: {}", names.len(), names.join(", ")));
    Failure::Engine(Error::Input(fault.help("say which, by its whole name, or by its path (hob show NAME)")))
}

fn unknown(name: &str, here: &Listing) -> Failure {
    let near: Vec<&str> = match here.find(name) {
        Found::Nothing(near) => near.into_iter().chain(catalogue::nearest(name).iter().map(|row| row.name.as_str())).collect(),
        Found::One(_) | Found::Several(_) => Vec::new(),
    };
    let fault = Fault::at(format!("`{name}`")).found("no such file, and no model of this name is known");
    let help = match near.as_slice() {
        [] => "hob ls lists what is here; hob pull user/repo brings what is not".to_owned(),
        near => format!("did you mean {}? hob ls lists what is here, hob pull brings what is not", near.join(", ")),
    };
    Failure::Engine(Error::Input(fault.help(help)))
}

/// Brings a model that is not here, or says how.
#[cfg(feature = "hub")]
fn bring(model: &Path, reference: &Reference, absent: Absent) -> Result<PathBuf, Failure> {
    use crate::fetch;
    use crate::terminal::{note_dim, printable};
    use std::io::IsTerminal;
    use std::sync::atomic::AtomicBool;
    let name = model.display();
    let refuse = |found: &str, help: String| Err(Failure::Engine(Error::Input(Fault::at(format!("`{name}`")).found(found).help(help))));
    if let Some(variable) = hob::store::places::offline() {
        return refuse(&format!("not on this machine, and {variable} is set"), format!("unset {variable}, or name a model of hob ls"));
    }
    let terminal = std::io::stdin().is_terminal() && std::io::stderr().is_terminal();
    match absent {
        Absent::Downloaded => {}
        Absent::Asked if terminal => {}
        Absent::Asked => return refuse("not on this machine", format!("`hob pull {name}` downloads it; so does --yes")),
        Absent::Refused => return refuse("not on this machine", format!("`hob pull {name}` downloads it")),
    }
    let hub = fetch::hub()?;
    let remote = fetch::look_up(&hub, reference)?;
    if let (None, Some((path, who))) = (hub.local(&remote), fetch::elsewhere(&remote)) {
        note_dim(&format!("the very file is here, in the store of {who}"));
        return Ok(path);
    }
    if absent == Absent::Asked && hub.local(&remote).is_none() {
        aside(&format!("{} is not on this machine.\n  {}\n", printable(&name.to_string()), fetch::describe(&hub, &remote)));
        if !agreed("Download it?", Answer::Yes)? {
            return Err(Failure::Interrupted);
        }
    }
    fetch::download(&hub, &remote, &AtomicBool::new(false))
}

#[cfg(not(feature = "hub"))]
fn bring(model: &Path, reference: &Reference, _absent: Absent) -> Result<PathBuf, Failure> {
    let fault = Fault::at(format!("`{}`", model.display())).found("not on this machine");
    Err(Failure::Engine(Error::Input(fault.help(format!("download {reference} and give its path: this hob was built without `hub`")))))
}

/// What an empty line answers.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    Yes,
    No,
}

/// Asks at the terminal.
pub(crate) fn agreed(question: &str, default: Answer) -> Result<bool, Failure> {
    let choices = match default {
        Answer::Yes => "[Y/n]",
        Answer::No => "[y/N]",
    };
    loop {
        aside(&format!("{question} {choices} "));
        let mut line = String::new();
        if std::io::stdin().lock().read_line(&mut line).map_err(|e| Failure::io("standard input", e))? == 0 {
            aside("\n");
            return Ok(false);
        }
        match line.trim().to_lowercase().as_str() {
            "" => return Ok(default == Answer::Yes),
            "y" | "yes" => return Ok(true),
            "n" | "no" => return Ok(false),
            _ => {}
        }
    }
}
