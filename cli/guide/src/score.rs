//! The questions that the guide is judged by, and the judging: it answers greedily, and the answer must contain what was written down
//! beside the question before it was trained.
//!
//! ```text
//! question => words | other words & more words        `|` binds looser than `&`
//! > a question that goes on with the one before => …
//! ```

use hob::tokenizer::Special;
use hob::{Message, Model, Role, Sampling};

/// The sixty questions.
const QUESTIONS: &str = include_str!("../text/questions.txt");

/// The longest answer that is waited for.
const MOST_TOKENS: usize = 120;

/// A question with what its answer must contain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// What was asked before it.
    pub before: Vec<String>,
    /// What is asked.
    pub text: String,
    /// Alternatives, each a list of texts that must all be there.
    pub wanted: Vec<Vec<String>>,
}

/// A question with the answer that was given.
#[derive(Clone, Debug)]
pub struct Judged {
    /// The question.
    pub question: Question,
    /// What the model said.
    pub answer: String,
    /// Whether it contains what it must.
    pub verdict: Verdict,
}

/// Whether an answer is right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It contains what it must.
    Right,
    /// It does not.
    Wrong,
}

/// The sixty questions.
///
/// # Errors
/// A line that is not of the form above.
pub fn questions() -> Result<Vec<Question>, String> {
    read(QUESTIONS)
}

/// The questions in a text of that form.
///
/// # Errors
/// A line that is not of that form.
pub fn read(text: &str) -> Result<Vec<Question>, String> {
    let mut all: Vec<Question> = Vec::new();
    for line in text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#')) {
        let (asked, wanted) = line.split_once(" => ").ok_or_else(|| format!("`{line}`: expected `question => answer`"))?;
        let wanted = wanted.split('|').map(|all| all.split('&').map(|text| text.trim().to_owned()).collect()).collect();
        let (before, asked) = match (asked.strip_prefix("> "), all.last()) {
            (Some(asked), Some(last)) => ([last.before.clone(), vec![last.text.clone()]].concat(), asked),
            (Some(_), None) => return Err(format!("`{line}`: there is nothing to go on with")),
            (None, _) => (Vec::new(), asked),
        };
        all.push(Question { before, text: asked.to_owned(), wanted });
    }
    Ok(all)
}

impl Question {
    /// Judges an answer. Case does not count.
    pub fn judge(&self, answer: &str) -> Verdict {
        let answer = answer.to_lowercase();
        let right = self.wanted.iter().any(|all| all.iter().all(|text| answer.contains(&text.to_lowercase())));
        if right { Verdict::Right } else { Verdict::Wrong }
    }
}

/// Asks a model all of these.
///
/// # Errors
/// Where the model cannot compute.
pub fn score(model: &Model, questions: &[Question]) -> hob::Result<Vec<Judged>> {
    let ask = |question: &Question| {
        let mut chat = model.chat().sampling(Sampling::greedy()).max_tokens(MOST_TOKENS);
        for before in &question.before {
            chat.say(before.as_str())?.text()?;
        }
        let answer = chat.say(question.text.as_str())?.text()?;
        Ok(Judged { verdict: question.judge(&answer), question: question.clone(), answer })
    };
    questions.iter().map(ask).collect()
}

/// How well a model foresees answers: `exp` of the mean of `-ln p` over every token of every answer, from the token of its fact to its end.
///
/// # Errors
/// Where the model cannot compute.
pub fn surprise(model: &Model, sample: &[Sample]) -> hob::Result<f64> {
    let (mut total, mut count) = (0f64, 0usize);
    let mut session = model.session()?;
    for Sample { fact, question, answer } in sample {
        let mut tokens = model.encode_chat(&[Message::new(Role::User, question.as_str())], &serde_json::Map::new())?;
        let asked = tokens.len();
        tokens.extend(model.tokenizer().encode(&format!("<|fact:{fact}|>"), Special::Parse)?);
        tokens.extend(model.tokenizer().encode(answer, Special::Literal)?);
        tokens.extend(model.tokenizer().eos());
        session.truncate(0)?;
        session.feed(&tokens[..asked - 1])?;
        let mut at = asked;
        session.logits_of_all(&tokens[asked - 1..tokens.len() - 1], |logits| {
            let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let sum: f64 = logits.iter().map(|z| f64::from(z - most).exp()).sum();
            total += sum.ln() + f64::from(most - logits[tokens[at] as usize]);
            (at, count) = (at + 1, count + 1);
            Ok(())
        })?;
    }
    Ok((total / count.max(1) as f64).exp())
}

/// A question with its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// The name of the fact.
    pub fact: String,
    /// What is asked.
    pub question: String,
    /// What is answered.
    pub answer: String,
}

/// Samples of three lines each, as `hob-guide sample` writes them.
pub fn samples(text: &str) -> Vec<Sample> {
    let lines: Vec<&str> = text.lines().filter(|line| !line.is_empty()).collect();
    let sample = |three: &[&str]| Sample { fact: three[0].to_owned(), question: three[1].to_owned(), answer: three[2].to_owned() };
    lines.chunks_exact(3).map(sample).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialogue::dialogue;
    use crate::dice::Dice;
    use crate::text::{Text, bare};

    #[test]
    fn there_are_sixty_and_each_can_be_answered() {
        let (text, all) = (Text::load().unwrap(), questions().unwrap());
        assert_eq!(all.len(), 60);
        for question in &all {
            let answered = text.facts.iter().any(|fact| question.judge(&fact.answer) == Verdict::Right);
            assert!(answered, "no fact answers `{}`", question.text);
        }
    }

    #[test]
    fn the_training_never_reads_them() {
        let text = Text::load().unwrap();
        let asked: Vec<String> = questions().unwrap().iter().map(|question| bare(&question.text)).collect();
        let mut dice = Dice::new(5);
        for _ in 0..2000 {
            for turn in dialogue(&text, &mut dice).turns {
                assert!(!asked.contains(&bare(&turn.question)), "`{}` is one of the questions that are kept apart", turn.question);
            }
        }
    }

    #[test]
    fn answers_are_judged() {
        let question = &read("a => x & y | Z").unwrap()[0];
        assert_eq!(question.judge("X and Y"), Verdict::Right);
        assert_eq!(question.judge("x alone"), Verdict::Wrong);
        assert_eq!(question.judge("z"), Verdict::Right);
        assert!(read("> a => b").is_err());
    }
}
