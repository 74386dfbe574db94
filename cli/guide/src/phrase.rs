//! A phrase with choices in it: `start (a|the) chat with $name`.
//!
//! ```text
//! phrases = phrase ('|' phrase)*          blanks around each are no part of it
//! phrase  = (text | '(' phrases ')' | '$' name)*
//! ```
//! An empty alternative is allowed: `(the |)cache`.

use crate::dice::Dice;
use std::collections::HashMap;

/// A piece of a phrase.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    Choice(Vec<Phrase>),
    List(String),
}

/// Text with choices.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Phrase(Vec<Piece>);

/// Lists that a `$name` in a phrase stands for.
pub type Lists = HashMap<String, Vec<Phrase>>;

/// Reads phrases separated by `|`.
///
/// # Errors
/// Where a parenthesis has no other one.
pub fn phrases(text: &str) -> Result<Vec<Phrase>, String> {
    let mut rest = text;
    let found = parse(&mut rest, 0)?;
    match rest.is_empty() {
        true => Ok(found),
        false => Err(format!("`{text}`: a closing parenthesis too many")),
    }
}

fn parse(rest: &mut &str, depth: usize) -> Result<Vec<Phrase>, String> {
    let (mut all, mut pieces, mut text) = (Vec::new(), Vec::new(), String::new());
    let close = |pieces: &mut Vec<Piece>, text: &mut String| {
        if !text.is_empty() {
            pieces.push(Piece::Text(std::mem::take(text)));
        }
    };
    while let Some(c) = rest.chars().next() {
        if c == ')' && depth > 0 {
            break; // the caller takes it
        }
        *rest = &rest[c.len_utf8()..];
        match c {
            '(' => {
                close(&mut pieces, &mut text);
                pieces.push(Piece::Choice(parse(rest, depth + 1)?));
                *rest = rest.strip_prefix(')').ok_or_else(|| "a parenthesis is not closed".to_owned())?;
            }
            ')' => return Err(format!("before `{rest}`: a closing parenthesis too many")),
            '|' => {
                close(&mut pieces, &mut text);
                all.push(Phrase(std::mem::take(&mut pieces)));
            }
            '$' => {
                close(&mut pieces, &mut text);
                let length = rest.find(|c: char| !c.is_ascii_lowercase()).unwrap_or(rest.len());
                pieces.push(Piece::List(rest[..length].to_owned()));
                *rest = &rest[length..];
            }
            _ => text.push(c),
        }
    }
    close(&mut pieces, &mut text);
    all.push(Phrase(pieces));
    Ok(all)
}

impl Phrase {
    /// One of the texts that it stands for. An unknown list stays as its name.
    pub fn pick(&self, lists: &Lists, dice: &mut Dice) -> String {
        let mut out = String::new();
        self.write(lists, dice, &mut out);
        tidy(&out)
    }

    fn write(&self, lists: &Lists, dice: &mut Dice, out: &mut String) {
        for piece in &self.0 {
            match piece {
                Piece::Text(text) => out.push_str(text),
                Piece::Choice(all) => dice.pick(all).write(lists, dice, out),
                Piece::List(name) if name == "word" => out.push_str(&invented(dice)),
                Piece::List(name) => match lists.get(name) {
                    Some(all) => dice.pick(all).write(lists, dice, out),
                    None => out.push_str(name),
                },
            }
        }
    }

    /// How many texts it stands for, as far as 1000.
    pub fn variants(&self, lists: &Lists) -> usize {
        self.0.iter().fold(1, |product: usize, piece| {
            let here = match piece {
                Piece::Text(_) => 1,
                Piece::Choice(all) => all.iter().map(|phrase| phrase.variants(lists)).sum(),
                Piece::List(name) => lists.get(name).map_or(1000, Vec::len),
            };
            (product * here).min(1000)
        })
    }
}

/// One blank between words, none before a mark.
pub(crate) fn tidy(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    words.join(" ").replace(" ,", ",").replace(" ?", "?").replace(" .", ".").replace(" :", ":").replace(" !", "!")
}

/// A word that nobody knows: what the guide has never read, it must not take for something that it has.
fn invented(dice: &mut Dice) -> String {
    const STARTS: [&str; 28] = [
        "b", "br", "c", "ch", "cr", "d", "dr", "f", "fl", "g", "gr", "h", "j", "k", "l", "m", "n", "p", "pl", "r", "s", "st", "t", "tr",
        "v", "w", "z", "sh",
    ];
    const MIDDLES: [&str; 10] = ["a", "e", "i", "o", "u", "ai", "ea", "oo", "ou", "y"];
    const ENDS: [&str; 16] = ["", "n", "r", "s", "t", "l", "ng", "ck", "st", "nd", "m", "x", "ble", "tion", "ment", "er"];
    (0..1 + dice.below(3)).map(|_| format!("{}{}{}", dice.pick(&STARTS), dice.pick(&MIDDLES), dice.pick(&ENDS))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phrases_are_chosen_from() {
        let all = phrases("start (a|the |) (big (red|blue)|) $thing | b ?").unwrap();
        let lists = Lists::from([("thing".to_owned(), phrases("car|dog").unwrap())]);
        assert_eq!(all.iter().map(|phrase| phrase.variants(&lists)).collect::<Vec<_>>(), [18, 1]);
        let mut dice = Dice::new(3);
        let mut seen: Vec<String> = (0..500).map(|_| all[0].pick(&lists, &mut dice)).collect();
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), 18, "{seen:?}");
        assert!(seen.contains(&"start big blue dog".to_owned()) && seen.contains(&"start the car".to_owned()));
        assert_eq!(all[1].pick(&lists, &mut dice), "b?");
        assert!(phrases("(a").is_err() && phrases("a)").is_err());
    }
}
