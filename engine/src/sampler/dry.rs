//! DRY: "don't repeat yourself". What would go on repeating a passage is made the less likely the longer the passage is.
//!
//! ```text
//! said      … a b c X … a b c ▲          the last 3 tokens stood before X: X would make the repetition longer
//!                 └─ n = 3 ─┘            l(X) -= multiplier · base^(n - allowed_length)        where n ≥ allowed_length
//! ```
//!
//! n is the longest such run for a token; a repetition does not reach back across a sequence breaker, a text that quite properly comes
//! again and again (line ends, quotes). The runs are the Z-function of what was said, read backwards: linear in its length.
//!
//! Source: p-e-w, "DRY: A modern repetition penalty", 2024, oobabooga/text-generation-webui#5677; breakers across token borders as
//! koboldcpp has them (LostRuins/koboldcpp#982), limits as in llama.cpp.

use super::candidates::Candidates;
use crate::error::{Error, Fault, Result};
use crate::tokenizer::{Special, Token, Tokenizer};
use std::collections::{HashMap, VecDeque};

/// What breaks a sequence.
#[derive(Clone, Debug)]
enum Breakers {
    /// Texts, for want of a vocabulary.
    Texts(Vec<String>),
    /// The first token, and the others that must follow for the text to be complete.
    Tokens(HashMap<Token, Vec<Vec<Token>>>),
}

/// The state of DRY.
#[derive(Clone, Debug)]
pub(super) struct Dry {
    multiplier: f32,
    base: f32,
    allowed: usize,
    last_n: usize,
    breakers: Breakers,
    said: VecDeque<Token>,
    /// What was said, last first, and its Z-function.
    back: Vec<Token>,
    runs: Vec<usize>,
    /// For every token that would go on repeating: how long a run.
    longest: HashMap<Token, usize>,
}

impl Dry {
    pub(super) fn new(multiplier: f32, base: f32, allowed: usize, last_n: usize, breakers: Vec<String>) -> Dry {
        let breakers = if breakers.is_empty() { Breakers::Tokens(HashMap::new()) } else { Breakers::Texts(breakers) };
        let (said, back, runs, longest) = Default::default();
        Dry { multiplier, base, allowed, last_n, breakers, said, back, runs, longest }
    }

    /// Finds the breakers' tokens. A token with a whole breaker in it breaks alone; one that ends with the beginning of a breaker does with
    /// the tokens of the rest after it.
    pub(super) fn vocabulary(&mut self, tokenizer: &Tokenizer) {
        let Breakers::Texts(texts) = &self.breakers else { return };
        let mut tokens: HashMap<Token, Vec<Vec<Token>>> = HashMap::new();
        for token in 0..tokenizer.vocab_size() as Token {
            let word = tokenizer.token_bytes(token);
            for text in texts {
                let tails = if word.windows(text.len()).any(|w| w == text.as_bytes()) {
                    vec![Vec::new()]
                } else {
                    // Breakers end at a character's border, as their tail is encoded.
                    let cuts = (1..text.len()).filter(|at| text.is_char_boundary(*at) && word.ends_with(&text.as_bytes()[..*at]));
                    cuts.filter_map(|at| tokenizer.encode(&text[at..], Special::Literal).ok()).collect()
                };
                for tail in tails {
                    let known = tokens.entry(token).or_default();
                    if !known.contains(&tail) {
                        known.push(tail);
                    }
                }
            }
        }
        tokens.retain(|_, tails| !tails.is_empty());
        self.breakers = Breakers::Tokens(tokens);
    }

    pub(super) fn accept(&mut self, token: Token) {
        if self.said.len() == self.last_n {
            self.said.pop_front();
        }
        self.said.push_back(token);
    }

    pub(super) fn forget(&mut self) {
        self.said.clear();
    }

    /// Lowers the logits of what would go on repeating.
    pub(super) fn apply(&mut self, c: &mut Candidates<'_>) -> Result<()> {
        let Breakers::Tokens(breakers) = &self.breakers else {
            let fault = Fault::at("dry_sequence_breakers").expected("a vocabulary to find them in").found("none");
            return Err(Error::Input(fault.help("call Sampler::vocabulary before sampling")));
        };
        self.back.clear();
        self.back.extend(self.said.iter().rev());
        let limit = unbroken(&self.back, breakers);
        if self.back.len() <= self.allowed || limit < self.allowed {
            return Ok(());
        }
        z_function(&self.back, &mut self.runs);
        self.longest.clear();
        for at in 1..self.back.len() {
            let run = self.runs[at].min(limit);
            let next = self.back[at - 1];
            let breaks = || breakers.get(&next).is_some_and(|tails| tails.iter().any(Vec::is_empty));
            if run >= self.allowed && !breaks() {
                let longest = self.longest.entry(next).or_default();
                *longest = run.max(*longest);
            }
        }
        // So that the power stays finite in f32.
        let most = if self.base > 1.000_001 { (88.722_839 / libm::log(f64::from(self.base))) as usize } else { usize::MAX };
        let penalty = |run: usize| {
            let power = libm::pow(f64::from(self.base), (run - self.allowed).min(most) as f64);
            (f64::from(self.multiplier) * power) as f32
        };
        c.edit(self.longest.iter().map(|(&token, &run)| {
            let less = penalty(run);
            (token, move |l: f32| l - less)
        }));
        Ok(())
    }
}

/// How many tokens, the last ones, come after the last breaker; the longest that ends there counts.
fn unbroken(back: &[Token], breakers: &HashMap<Token, Vec<Vec<Token>>>) -> usize {
    for (at, token) in back.iter().enumerate() {
        let whole = |tail: &&Vec<Token>| tail.len() <= at && tail.iter().enumerate().all(|(i, t)| *t == back[at - 1 - i]);
        let tails = breakers.get(token).map_or(&[][..], Vec::as_slice);
        if let Some(length) = tails.iter().filter(whole).map(Vec::len).max() {
            return at - length;
        }
    }
    back.len()
}

/// z[i]: how far `x[i..]` is like `x`. Within a stretch found like the beginning, what was found there is used again.
fn z_function(x: &[Token], z: &mut Vec<usize>) {
    z.clear();
    z.resize(x.len(), 0);
    let (mut left, mut right) = (0, 0);
    for i in 1..x.len() {
        let mut n = if i < right { z[i - left].min(right - i) } else { 0 };
        while i + n < x.len() && x[n] == x[i + n] {
            n += 1;
        }
        z[i] = n;
        if i + n > right {
            (left, right) = (i, i + n);
        }
    }
}
