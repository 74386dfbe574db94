//! What an answer names of the program: commands, flags, words of the chat, models of the catalogue. The command line's tests hold them against
//! what there is.

/// Something named.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mention {
    /// `hob WORD`.
    Command(String),
    /// `hob WORD … --flag`, or a flag by itself; with the command where one is named.
    Flag(Option<String>, String),
    /// `/word` in the chat.
    Order(String),
}

/// All that a text names, in its order.
///
/// ```
/// use hob_guide::mention::{Mention, mentions};
/// let found = mentions("`hob chat MODEL -c 4096`, then /clear");
/// assert_eq!(found[0], Mention::Command("chat".into()));
/// assert_eq!(found[1], Mention::Flag(Some("chat".into()), "-c".into()));
/// assert_eq!(found[2], Mention::Order("/clear".into()));
/// ```
pub fn mentions(text: &str) -> Vec<Mention> {
    let mut found = Vec::new();
    for (index, part) in text.split('`').enumerate() {
        let mut command = None;
        let mut words = part.split_whitespace().peekable();
        while let Some(word) = words.next() {
            let word = word.trim_matches(|c: char| ",.;:()'\"?!".contains(c));
            let order = word.len() > 2 && word.starts_with('/') && word[1..].chars().all(|c| c.is_ascii_lowercase());
            if order {
                found.push(Mention::Order(word.to_owned()));
            } else if word == "hob" && index % 2 == 1 {
                let next = words.peek().filter(|next| next.chars().all(|c| c.is_ascii_lowercase()));
                command = next.map(|next| (*next).to_owned());
                found.extend(command.clone().map(Mention::Command));
            } else if word == "cargo" && index % 2 == 1 {
                break; // another program, with flags of its own
            } else if let Some(flag) = flag(word) {
                found.push(Mention::Flag(command.clone(), flag));
            }
        }
    }
    found
}

/// A flag: two dashes and a word, or one dash and a letter or llama.cpp's `-ctk`.
fn flag(word: &str) -> Option<String> {
    let name = word.split(['=', '\'']).next().unwrap_or(word);
    let letters = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_lowercase() || c == '-' || c.is_ascii_digit());
    let long = name.strip_prefix("--").is_some_and(|rest| letters(rest) && !rest.starts_with('-'));
    let short =
        name.strip_prefix('-').is_some_and(|rest| letters(rest) && rest.starts_with(|c: char| c.is_ascii_lowercase()) && rest.len() <= 3);
    (long || short).then(|| name.to_owned())
}
