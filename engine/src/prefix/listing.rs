//! What a folder holds, as its owner wants to read it: a row for every sequence that is not the beginning of another.

use super::disk::{self, Entry};
use super::piece::{Head, Kind};
use super::{Kept, common};
use std::collections::BTreeMap;
use std::path::Path;

/// Characters of a row's text.
const SHOWN: usize = 200;
/// Characters that rows must share before they are left out.
const SHARED: usize = 24;

struct Row {
    head: Head,
    kept: Kept,
    /// The texts of its pieces, by their first position.
    texts: BTreeMap<usize, String>,
}

/// The rows, the latest first.
pub(super) fn list(root: &Path) -> Vec<Kept> {
    let headed = |entry: Entry| disk::head(&entry).map(|head| (entry, head));
    let mut all: Vec<(Entry, Head)> = disk::entries(root).into_iter().filter_map(headed).collect();
    all.sort_by_key(|(_, head)| std::cmp::Reverse(head.tokens.len()));
    let mut rows: Vec<Row> = Vec::new();
    for (entry, head) in &all {
        if !rows.iter().any(|row| part_of(head, row)) {
            let kept = Kept { model: head.model.clone(), tokens: head.tokens.len(), text: String::new(), bytes: 0, used: entry.used };
            rows.push(Row { head: head.clone(), kept, texts: BTreeMap::new() });
        }
    }
    rows.sort_by_key(|row| std::cmp::Reverse(row.kept.used));
    for (entry, head) in all {
        let mut bytes = entry.bytes;
        for row in rows.iter_mut().filter(|row| part_of(&head, row)) {
            // What several share is counted once.
            row.kept.bytes += std::mem::take(&mut bytes);
            row.kept.used = row.kept.used.max(entry.used);
            if head.kind == Kind::Positions || row.texts.is_empty() {
                row.texts.insert(head.first, head.text.clone());
            }
        }
    }
    let texts: Vec<String> = rows.iter().map(|row| row.texts.values().map(String::as_str).collect::<Vec<_>>().join(" ")).collect();
    let mut kept: Vec<Kept> = rows.into_iter().map(|row| row.kept).collect();
    for (i, row) in kept.iter_mut().enumerate() {
        row.text = words(&texts, i);
    }
    kept.sort_by_key(|row| std::cmp::Reverse(row.used));
    kept
}

fn part_of(head: &Head, row: &Row) -> bool {
    row.head.identity == head.identity && common(&row.head.tokens, &head.tokens) == head.tokens.len()
}

/// Some of text `at`, without what it shares with another.
fn words(texts: &[String], at: usize) -> String {
    let text = &texts[at];
    let alike = |other: &String| text.chars().zip(other.chars()).take_while(|(a, b)| a == b).count();
    let others = texts.iter().enumerate().filter(|(i, _)| *i != at).map(|(_, other)| alike(other));
    let shared = others.max().filter(|n| *n >= SHARED && *n < text.chars().count()).unwrap_or(0);
    // From the beginning of the word in which they part.
    let before: String = text.chars().take(shared).collect();
    let from = before.rfind(' ').map_or(0, |space| space + 1);
    let shown: String = text[from..].chars().take(SHOWN).collect();
    if from > 0 { format!("… {shown}") } else { shown }
}

#[cfg(test)]
mod tests {
    use super::words;

    #[test]
    fn rows_are_told_apart() {
        let told = "system You are a helpful assistant. user ";
        let texts = [format!("{told}Why is the sky blue?"), format!("{told}What is a hob?"), "Once upon a time".into()];
        let shown: Vec<String> = (0..3).map(|at| words(&texts, at)).collect();
        assert_eq!(shown, ["… Why is the sky blue?", "… What is a hob?", "Once upon a time"]);
    }
}
