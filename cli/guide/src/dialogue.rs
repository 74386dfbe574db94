//! Conversations: one to four questions with their answers, each after the other as people ask.

use crate::dice::Dice;
use crate::paraphrase::{Place, question, vary};
use crate::text::{Fact, Text, bare};

/// A question and its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Turn {
    /// The fact that answers.
    pub fact: usize,
    /// What is asked.
    pub question: String,
    /// What is answered.
    pub answer: String,
}

/// A conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dialogue {
    /// What the guide is told beforehand.
    pub system: Option<String>,
    /// Its turns, at least one.
    pub turns: Vec<Turn>,
}

/// A conversation by chance.
pub fn dialogue(text: &Text, dice: &mut Dice) -> Dialogue {
    let count = 1 + dice.weighted(&[0.78, 0.16, 0.04, 0.02]);
    let system = dice.chance(0.06).then(|| dice.pick(&text.words.system).clone());
    let mut turns: Vec<Turn> = Vec::with_capacity(count);
    while turns.len() < count {
        let turn = match turns.last() {
            None => first(text, dice),
            Some(last) => next(text, last, dice),
        };
        if !text.apart.contains(&bare(&turn.question)) {
            turns.push(turn);
        }
    }
    Dialogue { system, turns }
}

/// A conversation of one question about this fact.
pub fn about(text: &Text, fact: usize, dice: &mut Dice) -> Dialogue {
    let asked = loop {
        let asked = question(text, &text.facts[fact], Place::First, dice);
        if !text.apart.contains(&bare(&asked)) {
            break asked;
        }
    };
    Dialogue { system: None, turns: vec![Turn { fact, question: asked, answer: answer(text, fact, None) }] }
}

/// How often a fact is asked for: the more ways, the more often. A greeting is what most people begin with, and a word or two of small
/// talk leave less to recognise them by than a question does.
fn weight(fact: &Fact) -> f64 {
    let ways: usize = fact.ways.iter().sum();
    let more = match (fact.name.as_str(), fact.topic) {
        ("other", _) => 7.0,
        ("hello", _) => 4.0,
        (_, "talk") => 1.5,
        _ => 1.0,
    };
    more * (ways.clamp(8, 1000) as f64).sqrt()
}

fn any(text: &Text, dice: &mut Dice) -> usize {
    let weights: Vec<f64> = text.facts.iter().map(weight).collect();
    dice.weighted(&weights)
}

fn first(text: &Text, dice: &mut Dice) -> Turn {
    // Nothing was said that could be said again.
    let fact = loop {
        let fact = any(text, dice);
        if text.facts[fact].answer != "@again" {
            break fact;
        }
    };
    Turn { fact, question: question(text, &text.facts[fact], Place::First, dice), answer: answer(text, fact, None) }
}

fn next(text: &Text, last: &Turn, dice: &mut Dice) -> Turn {
    let follow = &text.facts[last.fact].follow;
    if !follow.is_empty() && dice.chance(0.55) {
        let (phrase, fact) = dice.pick(follow);
        let asked = phrase.pick(&text.lists, dice);
        return Turn { fact: *fact, question: vary(text, &asked, 0.6, dice), answer: answer(text, *fact, Some(last)) };
    }
    let named = |name: &str| text.find(name);
    let fact = match dice.weighted(&[0.10, 0.05, 0.03, 0.03, 0.79]) {
        0 => named("thanks"),
        1 => named("ok"),
        2 => named("repeat-that"),
        3 => named("bye"),
        _ => None,
    };
    let fact = fact.unwrap_or_else(|| any(text, dice));
    Turn { fact, question: question(text, &text.facts[fact], Place::Later, dice), answer: answer(text, fact, Some(last)) }
}

fn answer(text: &Text, fact: usize, last: Option<&Turn>) -> String {
    match (text.facts[fact].answer.as_str(), last) {
        ("@again", Some(last)) => last.answer.clone(),
        (answer, _) => answer.to_owned(),
    }
}

/// Whether a question is kept from the training, to see how the guide does with questions that it never read: one in sixteen, by
/// its letters and digits alone.
pub fn held_out(question: &str) -> bool {
    let letters = bare(question);
    let hash = letters.bytes().fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
    letters.len() > 12 && (hash >> 20) % 16 == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conversations_go_on_and_say_again() {
        let text = Text::load().unwrap();
        let mut dice = Dice::new(11);
        let (mut longest, mut again, mut held) = (0, 0, 0);
        for _ in 0..1500 {
            let made = dialogue(&text, &mut dice);
            longest = longest.max(made.turns.len());
            for pair in made.turns.windows(2) {
                again += usize::from(text.facts[pair[1].fact].answer == "@again" && pair[0].answer == pair[1].answer);
            }
            assert!(made.turns.iter().all(|turn| !turn.answer.starts_with('@')));
            held += usize::from(held_out(&made.turns[0].question));
        }
        assert!(longest == 4 && again > 1, "{longest} {again}");
        assert!((40..150).contains(&held), "{held}");
    }
}
