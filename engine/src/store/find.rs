//! From what a person types to a model that is here.
//!
//! ```text
//! qwen3:4b                          ollama's name; without a tag its `latest`
//! user/repo, user/repo:Q4_K_M       of any store that knows repositories; without a quantization its Q4_K_M, or its only one
//! user/repo/file.gguf, file.gguf, file            the file
//! repo, repo:Q4_K_M                 the last part of a longer name, where it is one model's alone
//! ```
//! Capitals do not matter. Copies of one file count as one model; of several the first store's is taken.

use super::name::{DEFAULT_QUANTIZATION, Reference};
use super::{Entry, Listing};

/// What a name leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found<'a> {
    /// One model.
    One(&'a Entry),
    /// Several, of which one must be said.
    Several(Vec<&'a Entry>),
    /// None; these names are the nearest.
    Nothing(Vec<&'a str>),
}

impl Listing {
    /// The model that a name leads to. What can be used goes before what is broken.
    pub fn find(&self, name: &str) -> Found<'_> {
        let name = name.trim().to_lowercase();
        for wanted in [name.clone(), plain(&name)] {
            for fits in [exact as fn(&Entry, &str) -> bool, default, only, last] {
                let fitting: Vec<&Entry> = self.entries.iter().filter(|entry| fits(entry, &wanted)).collect();
                let whole: Vec<&Entry> = fitting.iter().copied().filter(|entry| entry.path().is_some()).collect();
                let candidates = self.apart(if whole.is_empty() { fitting } else { whole });
                match candidates.as_slice() {
                    [] => {}
                    [one] => return Found::One(one),
                    _ => return Found::Several(candidates),
                }
            }
        }
        Found::Nothing(self.near(&name))
    }

    /// One of each set of copies.
    fn apart<'a>(&'a self, entries: Vec<&'a Entry>) -> Vec<&'a Entry> {
        let mut apart: Vec<&Entry> = Vec::new();
        for entry in entries {
            if !apart.iter().any(|other| self.twins_of(other).contains(&entry)) {
                apart.push(entry);
            }
        }
        apart
    }

    fn near(&self, name: &str) -> Vec<&str> {
        let models = self.entries.iter().filter(|entry| !entry.is_beside());
        nearest(name, models.flat_map(|entry| entry.names.iter().map(String::as_str)))
    }
}

/// The names nearest to one that was typed: those that contain it or are contained, then those a few letters away; at most five.
pub fn nearest<'a>(name: &str, names: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let name = name.to_lowercase();
    if name.is_empty() {
        return Vec::new();
    }
    let mut near: Vec<(usize, &str)> = names
        .filter_map(|other| {
            let lower = other.to_lowercase();
            let away = if lower.contains(&name) || name.contains(&lower) {
                0
            } else {
                // Against the whole and against its parts, as people leave out what is around.
                let parts = lower.split(['/', ':']).chain(std::iter::once(lower.as_str()));
                parts.map(|part| distance(&name, part)).min().unwrap_or(usize::MAX)
            };
            (away <= 1 + name.chars().count() / 4).then_some((away, other))
        })
        .collect();
    near.sort();
    near.dedup();
    near.into_iter().map(|(_, name)| name).take(5).collect()
}

/// Letters to add, to leave out or to change (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut corner = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.iter().enumerate() {
            let cost = (corner + usize::from(x != *y)).min(row[j] + 1).min(row[j + 1] + 1);
            corner = std::mem::replace(&mut row[j + 1], cost);
        }
    }
    row[b.len()]
}

/// A name in its plain form: an address of the hub as `user/repo`.
fn plain(name: &str) -> String {
    match name.parse() {
        Ok(Reference::Repository(repository)) => repository.to_string().to_lowercase(),
        Ok(Reference::Address(address)) => super::name::base(&address).to_owned(),
        Err(_) => name.to_owned(),
    }
}

fn exact(entry: &Entry, wanted: &str) -> bool {
    entry.names.iter().any(|name| name.to_lowercase() == wanted)
}

/// `user/repo` for the quantization that is meant where none is said.
fn default(entry: &Entry, wanted: &str) -> bool {
    exact(entry, &format!("{wanted}:{}", DEFAULT_QUANTIZATION.to_lowercase()))
}

/// `user/repo` for any of its models.
fn only(entry: &Entry, wanted: &str) -> bool {
    !entry.is_beside() && entry.repository.as_ref().is_some_and(|repository| repository.to_lowercase() == wanted)
}

/// The end of a name, from a `/` on, with or without the quantization.
fn last(entry: &Entry, wanted: &str) -> bool {
    if wanted.is_empty() || entry.is_beside() {
        return false;
    }
    let quantization = format!("{wanted}:{}", DEFAULT_QUANTIZATION.to_lowercase());
    entry.names.iter().any(|name| {
        let name = name.to_lowercase();
        let name = name.split('@').next().unwrap_or_default();
        [wanted, &quantization].iter().any(|end| name.strip_suffix(*end).is_some_and(|before| before.ends_with('/')))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_names_are_found() {
        assert_eq!(distance("kitten", "sitting"), 3);
        let names = ["qwen3:4b", "qwen3:8b", "ada/Llama-3.2-1B-GGUF:Q4_K_M", "mistral:7b"];
        assert_eq!(nearest("qwen3:4", names.into_iter()), ["qwen3:4b", "qwen3:8b"]);
        assert_eq!(nearest("llama-3.2-1b", names.into_iter()), ["ada/Llama-3.2-1B-GGUF:Q4_K_M"]);
        assert_eq!(nearest("mistrel", names.into_iter()), ["mistral:7b"]);
        assert!(nearest("gemma", names.into_iter()).is_empty());
    }
}
