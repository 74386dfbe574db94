//! Structured answers: a grammar says what a reply may be, and at every token all that would break it are ruled out.
//!
//! ```text
//! grammar ── schema.rs, gbnf.rs ──▶ llguidance: lexer and Earley parser over bytes (engine.rs)
//!                                        │ which tokens may come next
//! logits ──────────────────────────── mask ── sampler ── token ──▶ back into the parser
//!                                        │
//! guide.rs: where in a reply the grammar holds      <think> free </think> ▷ answer: grammar ◁ end
//! ```
//!
//! The parser is that of the crate `llguidance` (Microsoft, <https://github.com/guidance-ai/llguidance>); what it cannot honour is refused by
//! name. A model compiles a grammar once, and all its sessions share that. With the cargo feature `grammar` off (it is on by default),
//! every grammar is refused.
//!
//! **The text is valid also where it is cut.** As the limit of tokens, or the context's end, comes near, hob keeps the shortest text at hand
//! that would close what is there; before a token would leave too little room for it, it is written instead (`closing.rs`). The reply's
//! end says that it was cut, and [`Reply::is_whole`](crate::Reply::is_whole) whether it is valid: not every grammar can be closed within
//! the room there is.

use crate::error::Result;
use crate::tokenizer::Tokenizer;
use serde_json::Value as Json;
use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

#[cfg(not(feature = "grammar"))]
#[path = "grammar/absent.rs"]
mod engine;
#[cfg(feature = "grammar")]
mod engine;

mod closing;
mod gbnf;
mod guide;
mod schema;

use engine::{Machine, Vocabulary};
pub(crate) use guide::{Guide, Opening};

/// Grammars that a model keeps compiled.
const KEPT: usize = 8;

/// What a text must be.
///
/// ```
/// use hob::{Grammar, Model, Sampler, Sampling};
/// # let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/tiny.gguf");
/// let model = Model::open(path)?;
/// let mut session = model.session()?;
/// session.feed(&[1, 2, 3])?;
/// let yes_or_no = Grammar::Regex("(yes|no), because [a-z ]{3,20}\\.".into());
/// let text: String = session.generate(Sampler::new(&Sampling::new(7))?).grammar(&yes_or_no)?.text().collect::<hob::Result<_>>()?;
/// assert!(text.starts_with("yes, because ") || text.starts_with("no, because "));
/// # Ok::<(), hob::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Grammar {
    /// A JSON object, whatever is in it.
    Json,
    /// JSON that a schema describes (draft 2020-12, and older ones by `$schema`). A keyword that cannot be honoured is refused with its
    /// place. Properties come in the schema's order; between two lexemes stand at most 40 characters of white space.
    JsonSchema(Json),
    /// Text that a regular expression matches as a whole: the syntax of the crate `regex`, without look-around.
    Regex(String),
    /// llguidance's dialect of Lark: <https://github.com/guidance-ai/llguidance/blob/main/docs/syntax.md>
    Lark(String),
    /// llama.cpp's grammars; `root` is where they start.
    Gbnf(String),
}

impl Grammar {
    /// What it is called in errors.
    fn name(&self) -> &'static str {
        match self {
            Grammar::Json | Grammar::JsonSchema(_) => "JSON schema",
            Grammar::Regex(_) => "regex",
            Grammar::Lark(_) => "Lark grammar",
            Grammar::Gbnf(_) => "GBNF grammar",
        }
    }

    /// In the parser's own words.
    fn source(&self) -> Result<Source> {
        Ok(match self {
            Grammar::Json => Source::Schema(schema::ready(&serde_json::json!({"type": "object"}))?),
            Grammar::JsonSchema(schema) => Source::Schema(schema::ready(schema)?),
            Grammar::Regex(regex) => Source::Regex(regex.clone()),
            Grammar::Lark(lark) => Source::Lark(lark.clone()),
            Grammar::Gbnf(gbnf) => Source::Lark(gbnf::to_lark(gbnf)?),
        })
    }
}

/// A grammar as the parser takes it.
#[derive(Clone, Debug)]
#[cfg_attr(not(feature = "grammar"), expect(dead_code, reason = "there is no parser to read it"))]
enum Source {
    Schema(Json),
    Regex(String),
    Lark(String),
}

/// A grammar compiled for a model.
pub(crate) struct Compiled {
    grammar: Grammar,
    vocabulary: Arc<Vocabulary>,
    source: Source,
    fresh: Machine,
    /// The same over single bytes, which finds the way to an end.
    bytes: OnceLock<Option<Machine>>,
}

impl fmt::Debug for Compiled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Compiled").field(&self.grammar).finish()
    }
}

impl Compiled {
    /// A parser over bytes, at the beginning; `None` where there can be none.
    fn over_bytes(&self) -> Option<Machine> {
        let made = || Machine::new(&Vocabulary::of_bytes().ok()?, self.grammar.name(), &self.source).ok();
        self.bytes.get_or_init(made).clone()
    }
}

/// What a model keeps of grammars: its vocabulary as a trie, and the last few compiled.
#[derive(Default)]
pub(crate) struct Shelf {
    vocabulary: OnceLock<Arc<Vocabulary>>,
    compiled: Mutex<Vec<Arc<Compiled>>>,
}

impl Shelf {
    /// The grammar, compiled once.
    ///
    /// # Errors
    /// [`Error::Unsupported`](crate::Error::Unsupported) for what cannot be honoured, [`Error::Input`](crate::Error::Input) for what is no grammar.
    pub(crate) fn get(&self, grammar: &Grammar, tokenizer: &Tokenizer) -> Result<Arc<Compiled>> {
        let known = |all: &[Arc<Compiled>]| all.iter().find(|compiled| compiled.grammar == *grammar).cloned();
        if let Some(compiled) = known(&self.compiled.lock().unwrap_or_else(PoisonError::into_inner)) {
            return Ok(compiled);
        }
        let source = grammar.source()?;
        let vocabulary = match self.vocabulary.get() {
            Some(vocabulary) => Arc::clone(vocabulary),
            None => {
                let made = Arc::new(Vocabulary::new(tokenizer)?);
                Arc::clone(self.vocabulary.get_or_init(|| made))
            }
        };
        let fresh = Machine::new(&vocabulary, grammar.name(), &source)?;
        let compiled = Arc::new(Compiled { grammar: grammar.clone(), vocabulary, source, fresh, bytes: OnceLock::new() });
        let mut all = self.compiled.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() == KEPT {
            all.remove(0);
        }
        all.push(Arc::clone(&compiled));
        Ok(compiled)
    }
}

#[cfg(test)]
mod tests;
