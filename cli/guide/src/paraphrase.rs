//! One question out of the thousands that a fact may be asked by.
//!
//! ```text
//! phrase → form ("how do i %") → words for words → short forms → what is around it → small words lost → marks, case, typos
//! ```
//! Each step happens by chance, so that most questions differ from plain ones in one or two ways only.

use crate::dice::Dice;
use crate::phrase::tidy;
use crate::text::{Fact, Kind, Text};

/// Whether a question stands alone or goes on with a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The first of a conversation, or one as if it were.
    First,
    /// A later one, which may begin with `and`.
    Later,
}

/// How likely each [`Kind`] is asked, where a fact has it.
const LIKELY: [f64; 5] = [0.30, 0.14, 0.36, 0.30, 0.12];

/// A question for a fact.
pub fn question(text: &Text, fact: &Fact, place: Place, dice: &mut Dice) -> String {
    let weights: Vec<f64> = Kind::ALL.iter().map(|kind| if fact.of(*kind).is_empty() { 0.0 } else { weight(fact, *kind) }).collect();
    let kind = Kind::ALL[dice.weighted(&weights)];
    let phrase = dice.pick(fact.of(kind)).pick(&text.lists, dice);
    let mut question = dice.pick(&text.words.forms[kind as usize]).replace('%', &phrase);
    if place == Place::Later && dice.chance(0.4) {
        question = dice.pick(&text.words.and).replace('%', &question);
    }
    // Small talk is short, and what is around it would drown it.
    let rough = if fact.topic == "talk" && kind == Kind::Ask { 0.35 } else { 1.0 };
    vary(text, &question, rough, dice)
}

/// The more ways there are, the likelier the kind.
fn weight(fact: &Fact, kind: Kind) -> f64 {
    LIKELY[kind as usize] * (1.0 + (fact.ways[kind as usize] as f64).ln())
}

/// The question in other words. `rough` scales how likely changes are.
pub fn vary(text: &Text, question: &str, rough: f64, dice: &mut Dice) -> String {
    let mut question = question.to_owned();
    if dice.chance(0.45 * rough) {
        question = other_words(text, &question, dice);
    }
    for (long, short) in &text.words.short {
        if question.contains(long.as_str()) && dice.chance(0.4) {
            question = question.replacen(long.as_str(), dice.pick(short).as_str(), 1);
        }
    }
    if dice.chance(0.14 * rough) {
        question = format!("{}{}{question}", dice.pick(&text.words.before), dice.pick(&[" ", ", ", " ", ", ", ": "]));
    }
    if dice.chance(0.14 * rough) {
        question = format!("{question}{}{}", dice.pick(&[" ", " ", ", "]), dice.pick(&text.words.after));
    }
    if dice.chance(0.12 * rough) {
        question = lose_small_words(&question, dice);
    }
    question = sizes(&tidy(&question.replace('`', "")), dice);
    question = dress(&question, dice);
    if dice.chance(0.14) {
        question = mistype(&question, dice);
    }
    question
}

fn other_words(text: &Text, question: &str, dice: &mut Dice) -> String {
    let words = question.split(' ').map(|word| {
        let bare = word.trim_end_matches([',', '?', '.', '!']);
        let others = text.words.same.iter().find(|(known, _)| known == bare).map(|(_, others)| others);
        match others {
            Some(others) if dice.chance(0.4) => word.replacen(bare, dice.pick(others).as_str(), 1),
            _ => word.to_owned(),
        }
    });
    words.collect::<Vec<_>>().join(" ")
}

fn lose_small_words(question: &str, dice: &mut Dice) -> String {
    const SMALL: [&str; 16] = ["a", "the", "my", "do", "i", "is", "to", "an", "of", "it", "in", "does", "what", "how", "for", "with"];
    let kept: Vec<&str> = question.split(' ').filter(|word| !(SMALL.contains(word) && dice.chance(0.5))).collect();
    if kept.is_empty() { question.to_owned() } else { kept.join(" ") }
}

/// Sizes and names of types as people write them: `8 gb`, `8GB`; `q4_k_m`, `Q4_K_M`.
fn sizes(question: &str, dice: &mut Dice) -> String {
    let mut out: Vec<String> = Vec::new();
    let (close, upper, types) = (dice.chance(0.45), dice.chance(0.5), dice.chance(0.55));
    for word in question.split(' ') {
        let unit = matches!(word.trim_end_matches([',', '?', '.']), "gb" | "gigs" | "g" | "k");
        let after_number = out.last().is_some_and(|last| last.ends_with(|c: char| c.is_ascii_digit()));
        let word = match word {
            _ if unit && upper && !word.starts_with("gi") => word.to_uppercase(),
            _ if types && word.starts_with(['q', 'f', 'b', 'i']) && word.contains(|c: char| c.is_ascii_digit()) => word.to_uppercase(),
            _ => word.to_owned(),
        };
        match out.last_mut() {
            Some(last) if unit && after_number && close && !word.starts_with("gi") => last.push_str(&word),
            _ => out.push(word),
        }
    }
    out.join(" ")
}

/// Capitals and a mark at the end.
fn dress(question: &str, dice: &mut Dice) -> String {
    let mut question = question.to_owned();
    if !question.ends_with(['?', '!', '.', ':']) {
        question.push_str(["?", "", ".", "!", "??", " ?"][dice.weighted(&[0.46, 0.42, 0.05, 0.03, 0.02, 0.02])]);
    }
    match dice.weighted(&[0.5, 0.46, 0.025, 0.015]) {
        0 => question,
        1 => {
            let mut letters = question.chars();
            let first: String = letters.next().into_iter().flat_map(char::to_uppercase).collect();
            let sentence = format!("{first}{}", letters.as_str());
            if dice.chance(0.8) { sentence.replace(" i ", " I ").replace(" i'", " I'") } else { sentence }
        }
        2 => question.to_uppercase(),
        _ => question.split(' ').map(|word| if word.len() > 3 { capital(word) } else { word.to_owned() }).collect::<Vec<_>>().join(" "),
    }
}

fn capital(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

/// One letter wrong, or two. Words with digits and short ones are typed with care.
fn mistype(question: &str, dice: &mut Dice) -> String {
    let mut words: Vec<Vec<char>> = question.split(' ').map(|word| word.chars().collect()).collect();
    for _ in 0..1 + usize::from(dice.chance(0.25)) {
        let long = |word: &&mut Vec<char>| word.len() > 3 && word.iter().all(|c| c.is_alphabetic());
        let mut candidates: Vec<&mut Vec<char>> = words.iter_mut().filter(long).collect();
        if candidates.is_empty() {
            break;
        }
        let pick = dice.below(candidates.len());
        let word = &mut *candidates[pick];
        let at = dice.below(word.len() - 1);
        match dice.below(4) {
            0 => word.swap(at, at + 1),
            1 => drop(word.remove(at)),
            2 => word.insert(at, word[at]),
            _ => word[at] = beside(word[at], dice),
        }
    }
    words.into_iter().map(String::from_iter).collect::<Vec<_>>().join(" ")
}

/// A key beside that of `c`.
fn beside(c: char, dice: &mut Dice) -> char {
    const ROWS: [&str; 3] = ["qwertyuiop", "asdfghjkl", "zxcvbnm"];
    let near = ROWS.iter().find_map(|row| {
        let at = row.find(c)?;
        let before = at.checked_sub(1).and_then(|at| row[at..].chars().next());
        let after = row[at + 1..].chars().next();
        if dice.chance(0.5) { before.or(after) } else { after.or(before) }
    });
    near.unwrap_or(c)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_are_many_and_the_same_for_a_seed() {
        let text = Text::load().unwrap();
        let of = |seed| {
            let mut dice = Dice::new(seed);
            let pull = &text.facts[text.find("pull").unwrap()];
            (0..300).map(|_| question(&text, pull, Place::First, &mut dice)).collect::<Vec<_>>()
        };
        assert_eq!(of(7), of(7));
        let mut different = of(7);
        different.sort();
        different.dedup();
        assert!(different.len() > 250, "{}", different.len());
        assert!(different.iter().all(|question| !question.is_empty() && !question.contains(['(', '|', '%', '$', '`'])));
    }
}
