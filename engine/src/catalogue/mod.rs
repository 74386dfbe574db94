//! Models that hob knows by name: the rows of `models.toml`, with what follows from their shapes.
//!
//! ```text
//! models.toml ── parsed once ──> Entry { facts, shape } ──> its tensors and metadata, as a file of the family has them (header.rs)
//!                                                       ──> weights, file sizes by quantization, a synthetic file
//! ```
//! A row says what cannot be computed. Sizes are not written there: they follow from the shape and the mixture of types that
//! [`quantize`](crate::quantize) gives such a file.
//!
//! ```
//! let entry = hob::catalogue::find("Qwen3 4B")?;
//! assert_eq!((entry.name.as_str(), entry.family.as_str()), ("qwen3-4b", "qwen3"));
//! assert_eq!(entry.file_name("Q4_K_M"), "Qwen_Qwen3-4B-Q4_K_M.gguf");
//! assert!(hob::catalogue::find("qwen3-4bb").unwrap_err().to_string().contains("qwen3-4b"));
//! # Ok::<(), hob::Error>(())
//! ```

mod header;
mod metadata;
mod shape;
mod synthetic;
mod tensors;

use std::collections::HashMap;
use std::sync::LazyLock;

use serde::Deserialize;

use crate::error::{Error, Fault, Result};
use crate::quantize::FileType;
pub use shape::{Experts, Latent, Norms, QkNorm, Recurrent, RopeShape, Shape, WindowShape};

/// A model that hob knows by name.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Entry {
    /// What it is called on a command line.
    pub name: String,
    /// What its makers call it.
    pub title: String,
    /// `general.architecture` of its files.
    pub family: String,
    /// All weights of its files: a test holds the shape to that.
    pub parameters: u64,
    /// Weights that a token passes through; all of them in a dense model.
    pub active: u64,
    /// Year and month in which it came out, `2025-04`.
    pub released: String,
    /// What it is good for.
    pub uses: Vec<Use>,
    /// Whether it thinks before it answers.
    pub thinking: Thinks,
    /// SPDX name of its licence, or the maker's own.
    pub license: String,
    /// What that licence means for a user, in a few words.
    pub allows: String,
    /// Languages that it was made for, in a few words.
    pub languages: String,
    /// Where a GGUF file of it is on huggingface.co.
    pub repository: String,
    /// Its file there; `{QUANT}` stands for Q4_K_M and so on. Large ones are split into parts, whose number `*` stands for, and lie in
    /// folders.
    pub file: String,
    /// Types in which the repository has it.
    pub quants: Vec<String>,
    /// Keys of the row that were written from memory.
    pub unchecked: Vec<String>,
    /// What hob lacks to run it, where it lacks something.
    pub lacks: Option<String>,
    /// The numbers that a file of it bears.
    pub shape: Shape,
}

/// What a model is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Use {
    /// Conversation.
    Chat,
    /// Writing and reading programs.
    Code,
    /// Problems that take steps: mathematics, puzzles, planning.
    Reasoning,
    /// Languages other than English, many of them.
    Multilingual,
}

impl Use {
    /// All of them.
    pub const ALL: [Use; 4] = [Use::Chat, Use::Code, Use::Reasoning, Use::Multilingual];

    /// `chat` and so on.
    pub fn name(self) -> &'static str {
        match self {
            Use::Chat => "chat",
            Use::Code => "code",
            Use::Reasoning => "reasoning",
            Use::Multilingual => "multilingual",
        }
    }
}

/// Whether a model thinks before it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Thinks {
    /// It answers at once.
    No,
    /// Its template can switch it.
    Optional,
    /// Before every answer.
    Always,
}

impl Thinks {
    /// `no`, `optional` or `always`.
    pub fn name(self) -> &'static str {
        match self {
            Thinks::No => "no",
            Thinks::Optional => "optional",
            Thinks::Always => "always",
        }
    }
}

/// The file as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    /// What a licence allows, once for all rows that name it.
    license: HashMap<String, String>,
    model: Vec<Row>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    name: String,
    title: String,
    family: String,
    parameters: u64,
    released: String,
    r#use: Vec<Use>,
    thinking: Thinks,
    license: String,
    languages: String,
    repository: String,
    file: String,
    quants: Option<Vec<String>>,
    #[serde(default)]
    unchecked: Vec<String>,
    lacks: Option<String>,
    /// The row whose shape this model has.
    like: Option<String>,
    shape: Option<Shape>,
}

/// What repositories have as a rule.
const QUANTS: [&str; 8] = ["Q2_K", "Q3_K_M", "IQ4_XS", "Q4_K_M", "Q5_K_M", "Q6_K", "Q8_0", "BF16"];

static ENTRIES: LazyLock<Vec<Entry>> = LazyLock::new(|| match parse(include_str!("../../../models.toml")) {
    Ok(entries) => entries,
    // It is part of the program, and a test parses it.
    Err(fault) => panic!("models.toml: {fault}"),
});

fn parse(text: &str) -> Result<Vec<Entry>, String> {
    let table: Table = basic_toml::from_str(text).map_err(|e| e.to_string())?;
    let shapes: HashMap<String, Shape> = table.model.iter().filter_map(|row| Some((row.name.clone(), row.shape.clone()?))).collect();
    let mut entries: Vec<Entry> = Vec::with_capacity(table.model.len());
    for row in table.model {
        let shape = match (&row.like, row.shape) {
            (None, Some(shape)) => shape,
            (Some(like), None) => match shapes.get(like) {
                Some(shape) => shape.clone(),
                None => return Err(format!("{}: no row `{like}` with a shape", row.name)),
            },
            (None, None) | (Some(_), Some(_)) => return Err(format!("{}: either a shape or `like`", row.name)),
        };
        let Some(allows) = table.license.get(&row.license) else {
            return Err(format!("{}: no licence `{}`", row.name, row.license));
        };
        let mut entry = Entry {
            name: row.name,
            title: row.title,
            family: row.family,
            parameters: row.parameters,
            active: 0,
            released: row.released,
            uses: row.r#use,
            thinking: row.thinking,
            license: row.license,
            allows: allows.clone(),
            languages: row.languages,
            repository: row.repository,
            file: row.file,
            quants: row.quants.unwrap_or_else(|| QUANTS.map(str::to_owned).to_vec()),
            unchecked: row.unchecked,
            lacks: row.lacks,
            shape,
        };
        entry.active = entry.weights_of_a_token();
        entries.push(entry);
    }
    Ok(entries)
}

/// All models that hob knows by name, in the order of `models.toml`.
pub fn entries() -> &'static [Entry] {
    &ENTRIES
}

/// The model of this name: `qwen3-4b`, however it is written (`Qwen3 4B`, `qwen3:4b`).
///
/// # Errors
/// [`Error::Input`] with the nearest names, where there is none of this one.
pub fn find(name: &str) -> Result<&'static Entry> {
    let wanted = plain(name);
    let found = entries().iter().find(|e| plain(&e.name) == wanted || plain(&e.title) == wanted);
    found.ok_or_else(|| {
        let near: Vec<&str> = nearest(name).iter().map(|e| e.name.as_str()).collect();
        let fault = Fault::at(format!("model `{name}`")).found("no such name among the models that hob knows");
        Error::Input(match near.as_slice() {
            [] => fault.help("`hob plan` lists them"),
            near => fault.help(format!("did you mean {}?", near.join(", "))),
        })
    })
}

/// The model and the type of `NAME:QUANT`, or of a name alone.
///
/// # Errors
/// As [`find`].
pub fn find_quantized(name: &str) -> Result<(&'static Entry, Option<FileType>)> {
    match name.rsplit_once(':').and_then(|(name, quant)| Some((name, FileType::from_name(quant)?))) {
        Some((name, quant)) => find(name).map(|entry| (entry, Some(quant))),
        None => find(name).map(|entry| (entry, None)),
    }
}

/// The up to five names that a mistyped one may have meant, best first; none where nothing is like it.
pub fn nearest(name: &str) -> Vec<&'static Entry> {
    let wanted = plain(name);
    if wanted.is_empty() {
        return Vec::new();
    }
    let mut near: Vec<(usize, &Entry)> = entries()
        .iter()
        .filter_map(|entry| {
            let found = plain(&entry.name);
            let far = if found.contains(&wanted) || wanted.contains(&found) { 1 } else { distance(&wanted, &found) };
            (far <= wanted.chars().count().div_ceil(3)).then_some((far, entry))
        })
        .collect();
    near.sort_by_key(|(far, _)| *far);
    near.into_iter().take(5).map(|(_, entry)| entry).collect()
}

/// Letters and digits alone, small.
fn plain(name: &str) -> String {
    name.replace('+', " plus ").chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}

/// Letters to change, to leave out or to put in (Levenshtein 1966).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut before = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let change = before + usize::from(x != *y);
            before = row[j + 1];
            row[j + 1] = change.min(before + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

impl Entry {
    /// The name of its file of a type.
    pub fn file_name(&self, quant: &str) -> String {
        self.file.replace("{QUANT}", quant)
    }

    /// The type that is taken where nobody asks for another: Q4_K_M, or the only one there is.
    pub fn usual(&self) -> FileType {
        match self.kinds().as_slice() {
            [only] => *only,
            _ => FileType::Q4_K_M,
        }
    }

    /// The types of its repository that hob can plan for, smallest first.
    pub fn kinds(&self) -> Vec<FileType> {
        self.quants.iter().filter_map(|quant| FileType::from_name(quant)).collect()
    }

    /// Whether it has experts, of which a token passes some.
    pub fn is_sparse(&self) -> bool {
        self.shape.experts.is_some()
    }
}

#[cfg(test)]
mod tests;
