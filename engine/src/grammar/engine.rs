//! llguidance, behind hob's own words: a vocabulary as its trie, a compiled grammar as a machine that tokens drive.
//!
//! A machine is copied whole: what its lexer learns stays its own, so that neither a lock nor a limit is shared between replies. The crate
//! catches its own panics; they come out as errors.

use super::Source;
use crate::error::{Error, Fault, Result};
use crate::tokenizer::{Token, TokenKind, Tokenizer};
use llguidance::api::{ParserLimits, StopReason, TopLevelGrammar};
use llguidance::earley::SlicedBiasComputer;
use llguidance::toktrie::{ApproximateTokEnv, InferenceCapabilities, SimpleVob, TokEnv, TokRxInfo, TokTrie};
use llguidance::{Matcher, ParserFactory};
use std::fmt;
use std::sync::Arc;

/// The longest spelling that a token of a grammar's text may have; the trie's nodes count no further than twice that.
const LONGEST: usize = 512;
/// Most bytes of all spellings: the trie's nodes have 22 bits to count with.
const MOST_BYTES: usize = (1 << 22) - 1;

/// A vocabulary as the parser walks it.
pub(super) struct Vocabulary {
    factory: ParserFactory,
    env: TokEnv,
}

impl Vocabulary {
    /// Every token by the bytes it leaves in text; those that leave none can only be named.
    pub(super) fn new(tokenizer: &Tokenizer) -> Result<Vocabulary> {
        let marked = |id: Token| [&[TokTrie::SPECIAL_TOKEN_MARKER], tokenizer.token_bytes(id).as_slice()].concat();
        let word = |id: Token| {
            let word = match tokenizer.token_kind(id) {
                Some(TokenKind::Control | TokenKind::Unknown | TokenKind::Unused) | None => marked(id),
                Some(_) if tokenizer.is_end(id) => marked(id),
                Some(TokenKind::Normal | TokenKind::UserDefined | TokenKind::Byte) => tokenizer.token_bytes(id),
            };
            let fits = word.len() > 1 || word.first().is_some_and(|byte| *byte != TokTrie::SPECIAL_TOKEN_MARKER);
            if fits && word.len() <= LONGEST { word } else { Vec::new() }
        };
        let words: Vec<Vec<u8>> = (0..tokenizer.vocab_size() as Token).map(word).collect();
        Vocabulary::of_words(&words, tokenizer.ends(), &SlicedBiasComputer::json_slices())
    }

    /// Bytes as tokens, and one more as the end.
    pub(super) fn of_bytes() -> Result<Vocabulary> {
        let byte = |byte: u8| if byte == TokTrie::SPECIAL_TOKEN_MARKER { Vec::new() } else { vec![byte] };
        let mut words: Vec<Vec<u8>> = (0..=u8::MAX).map(byte).collect();
        words.push(b"\xff<end>".to_vec());
        Vocabulary::of_words(&words, &[END], &[])
    }

    fn of_words(words: &[Vec<u8>], ends: &[Token], slices: &[String]) -> Result<Vocabulary> {
        let bytes: usize = words.iter().map(Vec::len).sum();
        if words.is_empty() || bytes > MOST_BYTES {
            let wanted = format!("a vocabulary whose spellings have up to {MOST_BYTES} bytes");
            return Err(Error::Unsupported(Fault::at("grammar").expected(wanted).found(bytes)));
        }
        let info = TokRxInfo::new(words.len() as u32, ends.first().copied().unwrap_or(Token::MAX));
        let mut trie = TokTrie::from(&info, words);
        if ends.len() > 1 {
            trie = trie.with_eos_tokens(ends);
        }
        let env: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
        let mut factory =
            ParserFactory::new(&env, InferenceCapabilities::default(), slices).map_err(|why| refused("grammar", &why.to_string()))?;
        factory.quiet();
        *factory.limits_mut() = ParserLimits { verbose_errors: false, ..ParserLimits::default() };
        Ok(Vocabulary { factory, env })
    }

    /// Bytes as tokens, the longest first.
    pub(super) fn tokens(&self, bytes: &[u8]) -> Vec<Token> {
        self.env.tok_trie().greedy_tokenize(bytes)
    }

    /// A mask that allows nothing.
    pub(super) fn none(&self) -> Mask {
        Mask(self.env.tok_trie().alloc_token_set())
    }

    /// How a token is spelt, whether it leaves that in a text or not.
    pub(super) fn spelling(&self, token: Token) -> &[u8] {
        let bytes = self.env.tok_trie().token(token);
        bytes.strip_prefix(&[TokTrie::SPECIAL_TOKEN_MARKER]).unwrap_or(bytes)
    }

    /// The bytes that a token leaves in a text.
    pub(super) fn bytes(&self, token: Token) -> &[u8] {
        let bytes = self.env.tok_trie().token(token);
        if bytes.first() == Some(&TokTrie::SPECIAL_TOKEN_MARKER) { &[] } else { bytes }
    }
}

/// The end, among bytes as tokens.
pub(super) const END: Token = 256;

/// The tokens that may come next.
#[derive(Clone)]
pub(super) struct Mask(SimpleVob);

impl Mask {
    pub(super) fn allow(&mut self, token: Token) {
        if (token as usize) < self.0.len() {
            self.0.allow_token(token);
        }
    }

    pub(super) fn has(&self, token: Token) -> bool {
        (token as usize) < self.0.len() && self.0.is_allowed(token)
    }

    /// The one token, where there is but one.
    pub(super) fn only(&self) -> Option<Token> {
        let first = self.0.first_bit_set()?;
        (self.0.num_set() == 1 && first < self.0.len()).then_some(first as Token)
    }

    /// Rules all others out.
    pub(super) fn apply(&self, row: &mut [f32]) {
        let (known, beyond) = row.split_at_mut(self.0.len().min(row.len()));
        beyond.fill(f32::NEG_INFINITY);
        for (logits, &word) in known.chunks_mut(32).zip(self.0.as_slice()) {
            match word {
                0 => logits.fill(f32::NEG_INFINITY),
                u32::MAX => {}
                some => {
                    for (bit, logit) in logits.iter_mut().enumerate() {
                        *logit = if some & (1 << bit) == 0 { f32::NEG_INFINITY } else { *logit };
                    }
                }
            }
        }
    }
}

/// A grammar, and how far a text has come in it.
pub(super) struct Machine {
    matcher: Matcher,
    name: &'static str,
    /// As it was compiled; `None` where this is it.
    fresh: Option<Arc<Matcher>>,
    /// What it has taken.
    taken: Vec<Token>,
}

impl Clone for Machine {
    fn clone(&self) -> Machine {
        let fresh = self.fresh.clone().unwrap_or_else(|| Arc::new(self.matcher.deep_clone()));
        Machine { matcher: self.matcher.deep_clone(), name: self.name, fresh: Some(fresh), taken: self.taken.clone() }
    }
}

impl fmt::Debug for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Machine").field("name", &self.name).field("taken", &self.taken.len()).finish_non_exhaustive()
    }
}

impl Machine {
    pub(super) fn new(vocabulary: &Vocabulary, name: &'static str, source: &Source) -> Result<Machine> {
        let grammar = match source {
            Source::Schema(schema) => TopLevelGrammar::from_json_schema(schema.clone()),
            Source::Regex(regex) => TopLevelGrammar::from_regex(regex),
            Source::Lark(lark) => TopLevelGrammar::from_lark(lark.clone()),
        };
        let mut matcher = Matcher::new(vocabulary.factory.create_parser(grammar));
        if let Some(why) = matcher.get_error() {
            return Err(refused(name, &why));
        }
        for warning in matcher.grammar_warnings() {
            tracing::warn!("{name}: {warning}");
        }
        let mut machine = Machine { matcher, name, fresh: None, taken: Vec::new() };
        // What matches nothing is told now, not with the first token.
        if !machine.is_done() {
            machine.mask()?;
        }
        Ok(machine)
    }

    /// Whether nothing but the end can come.
    pub(super) fn is_done(&self) -> bool {
        self.matcher.is_stopped() && self.matcher.stop_reason().is_ok()
    }

    /// Whether the end may come.
    pub(super) fn accepts(&mut self) -> Result<bool> {
        if self.is_done() {
            return Ok(true);
        }
        self.matcher.is_accepting().map_err(|why| refused(self.name, &why.to_string()))
    }

    /// The tokens that may come next.
    pub(super) fn mask(&mut self) -> Result<Mask> {
        self.matcher.compute_mask_or_eos().map(Mask).map_err(|why| match self.matcher.stop_reason() {
            StopReason::NoExtensionBias => refused(self.name, "there is no token that it allows here"),
            _ => refused(self.name, &why.to_string()),
        })
    }

    /// Takes a token that the mask allows.
    pub(super) fn take(&mut self, token: Token) -> Result<()> {
        self.matcher.consume_token(token).map_err(|why| refused(self.name, &why.to_string()))?;
        self.taken.push(token);
        Ok(())
    }

    /// Takes the last `n` tokens back.
    pub(super) fn take_back(&mut self, n: usize) -> Result<()> {
        if n == 0 {
            return Ok(());
        }
        let kept = self.taken.len().saturating_sub(n);
        self.taken.truncate(kept);
        if self.matcher.rollback(n).is_ok() {
            // It is known by its place, where another way may lead to.
            self.matcher.invalidate_bias_cache();
            return Ok(());
        }
        // Some of Lark's extensions cannot go back: from the beginning, then.
        if let Some(fresh) = &self.fresh {
            self.matcher = fresh.deep_clone();
        }
        self.matcher.consume_tokens(&self.taken).map_err(|why| refused(self.name, &why.to_string()))
    }
}

/// What the grammar's parser has to say against it.
fn refused(name: &str, why: &str) -> Error {
    let why = why.trim().trim_end_matches("<non-verbose/>").trim_end();
    Error::Unsupported(Fault::at(name).found(why))
}
