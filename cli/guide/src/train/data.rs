//! Batches: conversations as tokens, one after the other, each a segment that sees itself alone.
//!
//! ```text
//! <|user|>question<|end|><|assistant|><|fact:name|>answer<|end|> <|user|>…     the next conversation is another segment
//!                                     '------- targets -------'
//! ```
//! Only the last answer of a conversation is learned; those before it stand as a template writes them, without the fact's token. What is hard is
//! the choice of the fact, the rest is learned by heart soon: so most conversations end with the fact's token, and more questions fit into
//! the same time.

use hob::tokenizer::Tokenizer;
use hob_guide::dialogue::{self, Dialogue, held_out};
use hob_guide::dice::Dice;
use hob_guide::text::Text;

use crate::vocabulary::{Vocabulary, encode, spelling};

/// Conversations as tokens.
#[derive(Clone, Debug, Default)]
pub(crate) struct Batch {
    pub(crate) tokens: Vec<u32>,
    /// Where segments begin, and the end.
    pub(crate) starts: Vec<usize>,
    /// Positions whose next token is learned, and that token.
    pub(crate) learned: Vec<u32>,
    pub(crate) targets: Vec<u32>,
    /// For every answer, where its targets begin in `targets`, and the end.
    pub(crate) answers: Vec<usize>,
}

/// Whether answers are cut to the token of their fact now and then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answers {
    Cut,
    Whole,
}

/// Makes batches.
pub(crate) struct Source {
    pub(crate) text: Text,
    tokenizer: Tokenizer,
    end: u32,
    user: u32,
    assistant: u32,
    system: u32,
    facts: Vec<u32>,
}

impl Source {
    pub(crate) fn new(text: Text, vocabulary: &Vocabulary) -> Result<Source, String> {
        let id = |spelling: &str| vocabulary.control(spelling);
        let (end, user, assistant, system) = (id("<|end|>"), id("<|user|>"), id("<|assistant|>"), id("<|system|>"));
        let facts = text.facts.iter().map(|fact| id(&spelling(&fact.name))).collect();
        Ok(Source { facts, text, tokenizer: vocabulary.tokenizer()?, end, user, assistant, system })
    }

    /// A batch of at least `tokens` tokens for training: none of its first questions is held out.
    pub(crate) fn batch(&self, tokens: usize, facts: usize, dice: &mut Dice) -> Result<Batch, String> {
        let mut batch = Batch { starts: vec![0], answers: vec![0], ..Batch::default() };
        while batch.tokens.len() < tokens {
            let made = match facts {
                0 => dialogue::dialogue(&self.text, dice),
                some => dialogue::about(&self.text, dice.below(some), dice),
            };
            if !made.turns.iter().any(|turn| held_out(&turn.question)) {
                let answers = if dice.chance(0.7) { Answers::Cut } else { Answers::Whole };
                self.add(&mut batch, &made, answers)?;
            }
        }
        Ok(batch)
    }

    /// Conversations of one turn whose questions training never sees.
    pub(crate) fn held_out(&self, count: usize, facts: usize, dice: &mut Dice) -> Result<Batch, String> {
        let mut batch = Batch { starts: vec![0], answers: vec![0], ..Batch::default() };
        while batch.starts.len() <= count {
            let mut made = match facts {
                0 => dialogue::dialogue(&self.text, dice),
                some => dialogue::about(&self.text, dice.below(some), dice),
            };
            made.turns.truncate(1);
            if held_out(&made.turns[0].question) {
                self.add(&mut batch, &made, Answers::Whole)?;
            }
        }
        Ok(batch)
    }

    fn add(&self, batch: &mut Batch, made: &Dialogue, answers: Answers) -> Result<(), String> {
        let text = |text: &str| encode(&self.tokenizer, text);
        let say = |batch: &mut Batch, who: u32, text: &[u32]| {
            batch.tokens.push(who);
            batch.tokens.extend(text);
            batch.tokens.push(self.end);
        };
        if let Some(system) = &made.system {
            say(batch, self.system, &text(system)?);
        }
        let last = made.turns.len() - 1;
        for turn in &made.turns[..last] {
            say(batch, self.user, &text(&turn.question)?);
            say(batch, self.assistant, &text(&turn.answer)?);
        }
        let turn = &made.turns[last];
        say(batch, self.user, &text(&turn.question)?);
        let from = batch.tokens.len();
        batch.tokens.extend([self.assistant, self.facts[turn.fact]]);
        if answers == Answers::Whole {
            batch.tokens.extend(text(&turn.answer)?);
            batch.tokens.push(self.end);
        }
        for at in from..batch.tokens.len() - 1 {
            batch.learned.push(at as u32);
            batch.targets.push(batch.tokens[at + 1]);
        }
        batch.answers.push(batch.targets.len());
        batch.starts.push(batch.tokens.len());
        Ok(())
    }
}
