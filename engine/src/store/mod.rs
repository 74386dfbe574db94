//! The models that are on this machine already, whoever brought them: one list over the stores of Hugging Face, ollama, LM Studio,
//! llama.cpp and folders of one's own, in place. Nothing is copied, nothing written; [`Removal`] alone deletes, and says before what.
//!
//! ```
//! use hob::store::{Found, Listing};
//!
//! let models = Listing::here();              // HF_HUB_CACHE, OLLAMA_MODELS, LLAMA_CACHE, HOB_MODELS … or where they are by habit
//! for entry in &models.entries {
//!     println!("{} · {} · {} bytes", entry.name(), entry.store.keeper, entry.bytes);
//! }
//! if let Found::One(entry) = models.find("qwen3:4b") {
//!     println!("{}", entry.files[0].display());
//! }
//! ```
//!
//! What cannot be used is listed too, with the reason: [`State::Broken`].

mod about;
mod find;
mod folder;
mod hugging_face;
pub(crate) mod name;
mod ollama;
pub mod places;
mod remove;
#[cfg(test)]
mod tests;
mod twins;

use std::fmt;
use std::path::{Path, PathBuf};

pub use about::{About, Role, file_type};
pub use find::{Found, nearest};
pub use name::{DEFAULT_QUANTIZATION, Reference, Repository, choose, quantization};
pub use remove::Removal;

/// Whose store it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Keeper {
    /// The cache of Hugging Face, which many programs share, hob among them.
    HuggingFace,
    /// ollama's blobs and manifests.
    Ollama,
    /// LM Studio's folder.
    LmStudio,
    /// llama.cpp's cache of before it took to that of Hugging Face.
    LlamaCpp,
    /// A folder that the user named.
    Folder,
}

impl Keeper {
    /// All of them.
    pub const ALL: [Keeper; 5] = [Keeper::HuggingFace, Keeper::Ollama, Keeper::LmStudio, Keeper::LlamaCpp, Keeper::Folder];
}

impl Keeper {
    /// Whether a store is another program's alone, which would miss what goes from it.
    pub fn is_another(self) -> bool {
        match self {
            Keeper::Ollama | Keeper::LmStudio | Keeper::LlamaCpp => true,
            Keeper::HuggingFace | Keeper::Folder => false,
        }
    }
}

impl fmt::Display for Keeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Keeper::HuggingFace => "Hugging Face",
            Keeper::Ollama => "ollama",
            Keeper::LmStudio => "LM Studio",
            Keeper::LlamaCpp => "llama.cpp",
            Keeper::Folder => "folder",
        })
    }
}

/// A store of models.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Store {
    /// Whose it is.
    pub keeper: Keeper,
    /// Where it is.
    pub root: PathBuf,
}

/// A model in a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Where it is kept.
    pub store: Store,
    /// What it can be called, the name to show first. None is empty.
    pub names: Vec<String>,
    /// `user/repo`, where the store knows.
    pub repository: Option<String>,
    /// The quantization that its name speaks of.
    pub quantization: Option<String>,
    /// The files of its weights, all parts in order: what opens it is the first.
    pub files: Vec<PathBuf>,
    /// Their size together, as far as they are there.
    pub bytes: u64,
    /// The SHA-256 of the first file, where the store goes by it.
    pub sha256: Option<String>,
    /// Whether it can be used.
    pub state: State,
}

/// Whether an entry can be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// All of it is there.
    Whole,
    /// Something is wrong, and what can be done.
    Broken(String),
}

impl Entry {
    /// The name to show, and to type.
    pub fn name(&self) -> &str {
        self.names.first().map_or("", String::as_str)
    }

    /// The file that opens it; `None` where it is broken.
    pub fn path(&self) -> Option<&Path> {
        match self.state {
            State::Whole => self.files.first().map(PathBuf::as_path),
            State::Broken(_) => None,
        }
    }

    /// Why it cannot be used.
    pub fn broken(&self) -> Option<&str> {
        match &self.state {
            State::Broken(why) => Some(why),
            State::Whole => None,
        }
    }

    /// Whether it goes with a model and is none, by its name: an eye (`mmproj`), a draft head, an importance matrix.
    /// [`Entry::about`] tells for certain.
    pub fn is_beside(&self) -> bool {
        self.files.first().and_then(|file| file.file_name()?.to_str()).is_some_and(name::is_beside)
            || self.names.iter().any(|n| name::is_beside(n))
    }
}

/// All that was found.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    /// The stores that were looked through.
    pub stores: Vec<Store>,
    /// The models, store by store, by name.
    pub entries: Vec<Entry>,
    /// What could not be read, and what lies about unfinished.
    pub remarks: Vec<String>,
}

impl Listing {
    /// The models of this machine, by what its environment says.
    pub fn here() -> Listing {
        Listing::of(places::stores())
    }

    /// The models of this machine, and those of more folders.
    pub fn here_and(folders: &[PathBuf]) -> Listing {
        let mut stores = places::stores();
        stores.extend(folders.iter().map(|root| Store { keeper: Keeper::Folder, root: root.clone() }));
        Listing::of(stores)
    }

    /// The models of these stores.
    pub fn of(stores: Vec<Store>) -> Listing {
        let mut listing = Listing::default();
        for store in &stores {
            let from = listing.entries.len();
            match store.keeper {
                Keeper::HuggingFace => hugging_face::list(store, &mut listing),
                Keeper::Ollama => ollama::list(store, &mut listing),
                Keeper::LmStudio | Keeper::LlamaCpp | Keeper::Folder => folder::list(store, &mut listing),
            }
            listing.entries[from..].sort_by(|a, b| a.names.cmp(&b.names));
        }
        listing.stores = stores;
        listing
    }

    fn remark(&mut self, text: impl Into<String>) {
        self.remarks.push(text.into());
    }
}

/// The entries of a folder by name, or a remark where it cannot be read. A folder that is not there has none.
fn inside(folder: &Path, listing: &mut Listing) -> Vec<PathBuf> {
    let read = match std::fs::read_dir(folder) {
        Ok(read) => read,
        Err(error) => {
            if error.kind() != std::io::ErrorKind::NotFound {
                listing.remark(format!("{}: {error}", folder.display()));
            }
            return Vec::new();
        }
    };
    let mut paths: Vec<PathBuf> = read.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

fn file_name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

fn size(path: &Path) -> Option<u64> {
    std::fs::metadata(path).ok().filter(|facts| facts.is_file()).map(|facts| facts.len())
}

/// The names of a file of a repository: `user/repo:QUANT`, `user/repo/file.gguf`, `file`, `file.gguf`.
fn names(repository: Option<&str>, path: &str) -> Vec<String> {
    let (stem, part) = name::stem(path);
    let mut names = Vec::new();
    if let Some(repository) = repository {
        if let Some(quantization) = name::quantization(path).filter(|_| !name::is_beside(path)) {
            names.push(format!("{repository}:{quantization}"));
        }
        names.push(format!("{repository}/{path}"));
    }
    names.push(name::base(stem).to_owned());
    if part.is_none() {
        names.push(name::base(path).to_owned());
    }
    names
}
