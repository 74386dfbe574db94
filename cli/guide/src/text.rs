//! The text of the guide, read from the files in `text/`.
//!
//! ```text
//! == pull                                  a fact, by name; below it, each line a list of phrases (see phrase.rs), in any number:
//! do: download (a|the) model | …           what one wants to do     → "how do I …", "I want to …", …
//! is: `hob pull` | …                       what one wants explained → "what is …", "explain …", …
//! q: where do i get models | …             a question as it stands
//! say: the file is broken | …              what is told, of an error → "… , what now", …
//! k: pull | download                       keywords alone
//! a: `hob pull NAME` downloads a model.    the answer; `@again` gives the last one again
//! f: (and|how do i) remove it -> rm | …    questions that mean something only after this one, and the fact that answers them
//! let noun: dog | cat | …                  a list for `$noun` in any phrase
//! ```
//! Lines that begin with `#` are for the reader. `words.txt` holds what any question is varied with.

use std::collections::HashSet;

use crate::phrase::{Lists, Phrase, phrases};
use crate::score;

/// The files, by name.
const FILES: [(&str, &str); 10] = [
    ("start", include_str!("../text/start.txt")),
    ("chat", include_str!("../text/chat.txt")),
    ("flags", include_str!("../text/flags.txt")),
    ("models", include_str!("../text/models.txt")),
    ("quant", include_str!("../text/quant.txt")),
    ("errors", include_str!("../text/errors.txt")),
    ("speed", include_str!("../text/speed.txt")),
    ("library", include_str!("../text/library.txt")),
    ("talk", include_str!("../text/talk.txt")),
    ("other", include_str!("../text/other.txt")),
];

/// How a phrase is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// What one wants to do.
    Do,
    /// What one wants explained.
    Is,
    /// A question as it stands.
    Ask,
    /// What is told, of an error.
    Say,
    /// Keywords.
    Key,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 5] = [Kind::Do, Kind::Is, Kind::Ask, Kind::Say, Kind::Key];
}

/// A fact: the ways to ask for it, and its answer.
#[derive(Clone, Debug)]
pub struct Fact {
    /// Its name.
    pub name: String,
    /// The file that it is in.
    pub topic: &'static str,
    /// The phrases of each [`Kind`], in the order of [`Kind::ALL`].
    pub phrases: [Vec<Phrase>; 5],
    /// How many texts those phrases stand for, each kind.
    pub ways: [usize; 5],
    /// What the guide says.
    pub answer: String,
    /// Questions that follow this one, with the index of the fact that answers them.
    pub follow: Vec<(Phrase, usize)>,
}

impl Fact {
    /// Its phrases of a kind.
    pub fn of(&self, kind: Kind) -> &[Phrase] {
        &self.phrases[kind as usize]
    }
}

/// What questions are varied with: `words.txt`.
#[derive(Clone, Debug, Default)]
pub struct Words {
    /// Words, and those that may stand for them.
    pub same: Vec<(String, Vec<String>)>,
    /// Pairs of words, and their short forms.
    pub short: Vec<(String, Vec<String>)>,
    /// What comes before a question, and after it.
    pub before: Vec<String>,
    /// What comes after it.
    pub after: Vec<String>,
    /// Forms of a question, `%` being the phrase, by [`Kind`].
    pub forms: [Vec<String>; 5],
    /// Forms of a question that goes on with a conversation.
    pub and: Vec<String>,
    /// System messages.
    pub system: Vec<String>,
}

/// All of it.
#[derive(Clone, Debug)]
pub struct Text {
    /// The facts, in the order of the files.
    pub facts: Vec<Fact>,
    /// Lists for `$name`.
    pub lists: Lists,
    /// What questions are varied with.
    pub words: Words,
    /// Questions that are never made, as [`bare`] has them: those that the guide is judged by.
    pub apart: HashSet<String>,
}

impl Text {
    /// Reads the text that this crate was built with.
    ///
    /// # Errors
    /// A line that is not of the form above, a fact without an answer or without a question, a follow-up that leads nowhere: which, and where.
    pub fn load() -> Result<Text, String> {
        let apart = score::questions()?.iter().map(|question| bare(&question.text)).collect();
        let mut text = Text { facts: Vec::new(), lists: Lists::new(), words: words(include_str!("../text/words.txt"))?, apart };
        let mut follows = Vec::new();
        for (topic, file) in FILES {
            for (number, line) in file.lines().enumerate() {
                text.line(topic, line, &mut follows).map_err(|why| format!("text/{topic}.txt, line {}: {why}", number + 1))?;
            }
        }
        for (from, phrase, to) in follows {
            let to = text.find(&to).ok_or_else(|| format!("`{}`: no fact `{to}` to go on with", text.facts[from].name))?;
            text.facts[from].follow.push((phrase, to));
        }
        for fact in &mut text.facts {
            let ways = |phrases: &Vec<Phrase>| phrases.iter().map(|phrase| phrase.variants(&text.lists)).sum();
            fact.ways = fact.phrases.each_ref().map(ways);
        }
        match text.facts.iter().find(|fact| fact.answer.is_empty() || fact.phrases.iter().all(Vec::is_empty)) {
            Some(fact) => Err(format!("`{}` has no answer, or no question", fact.name)),
            None => Ok(text),
        }
    }

    /// The index of the fact of this name.
    pub fn find(&self, name: &str) -> Option<usize> {
        self.facts.iter().position(|fact| fact.name == name)
    }

    fn line(&mut self, topic: &'static str, line: &str, follows: &mut Vec<(usize, Phrase, String)>) -> Result<(), String> {
        if line.trim().is_empty() || line.starts_with('#') {
            return Ok(());
        }
        if let Some(name) = line.strip_prefix("== ") {
            if self.find(name).is_some() {
                return Err(format!("a second fact `{name}`"));
            }
            self.facts.push(Fact {
                name: name.to_owned(),
                topic,
                phrases: Default::default(),
                ways: Default::default(),
                answer: String::new(),
                follow: Vec::new(),
            });
            return Ok(());
        }
        let (key, rest) = line.split_once(": ").ok_or("expected `key: …`")?;
        if let Some(name) = key.strip_prefix("let ") {
            self.lists.insert(name.to_owned(), phrases(rest)?);
            return Ok(());
        }
        let at = self.facts.len().checked_sub(1).ok_or("expected `== name` first")?;
        let kind = match key {
            "do" => Kind::Do,
            "is" => Kind::Is,
            "q" => Kind::Ask,
            "say" => Kind::Say,
            "k" => Kind::Key,
            "a" => {
                self.facts[at].answer = rest.trim().to_owned();
                return Ok(());
            }
            "f" => {
                for item in rest.split(" | ") {
                    let (phrase, to) = item.split_once(" -> ").ok_or("expected `question -> fact`")?;
                    phrases(phrase)?.into_iter().for_each(|phrase| follows.push((at, phrase, to.trim().to_owned())));
                }
                return Ok(());
            }
            other => return Err(format!("no line is called `{other}`")),
        };
        self.facts[at].phrases[kind as usize].extend(phrases(rest)?);
        Ok(())
    }
}

/// A question without case, marks and blanks.
pub fn bare(question: &str) -> String {
    question.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}

fn words(file: &str) -> Result<Words, String> {
    let mut words = Words::default();
    let mut section = "";
    for line in file.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#')) {
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            section = name;
            continue;
        }
        let list = |text: &str| text.split('|').map(|item| item.trim().to_owned()).collect::<Vec<String>>();
        let pair = || line.split_once(": ").map(|(word, others)| (word.to_owned(), list(others)));
        match section {
            "same" => words.same.push(pair().ok_or("words.txt: expected `word: others`")?),
            "short" => words.short.push(pair().ok_or("words.txt: expected `words: short`")?),
            "before" => words.before.extend(list(line)),
            "after" => words.after.extend(list(line)),
            "do" => words.forms[Kind::Do as usize].extend(list(line)),
            "is" => words.forms[Kind::Is as usize].extend(list(line)),
            "say" => words.forms[Kind::Say as usize].extend(list(line)),
            "key" => words.forms[Kind::Key as usize].extend(list(line)),
            "and" => words.and.extend(list(line)),
            "system" => words.system.extend(list(line)),
            other => return Err(format!("words.txt: no section is called `{other}`")),
        }
    }
    words.forms[Kind::Ask as usize].push("%".to_owned());
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_sound() {
        let text = Text::load().unwrap();
        assert!(text.facts.len() > 150);
        assert!(text.find("other").is_some() && text.find("repeat-that").is_some());
        for fact in &text.facts {
            assert!(fact.answer.len() < 260, "{}: an answer is one to four short sentences", fact.name);
        }
    }
}
