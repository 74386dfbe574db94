//! A tokenizer from the `tokenizer.ggml.*` keys of a file.

use super::bpe::{Bpe, Prefix, Spm};
use super::cuts::Cuts;
use super::pre::{self, Alphabet, Bos, Pre};
use super::special::{Mark, Specials, Takes};
use super::split::Splitter;
use super::table::Table;
use super::unigram::{Charsmap, Prefixes, Spaces, Unigram};
use super::vocab::Vocab;
use super::wordpiece::{Accents, Case, WordPiece};
use super::{Algorithm, Inner, Roles, Token, TokenKind, Tokenizer, TokenizerOptions};
use crate::error::{Error, Fault, Result};
use crate::gguf::{Metadata, Strings};

const MODEL: &str = "tokenizer.ggml.model";
const PRE: &str = "tokenizer.ggml.pre";
const TOKENS: &str = "tokenizer.ggml.tokens";
const SCORES: &str = "tokenizer.ggml.scores";
const KINDS: &str = "tokenizer.ggml.token_type";
const MERGES: &str = "tokenizer.ggml.merges";
const CHARSMAP: &str = "tokenizer.ggml.precompiled_charsmap";
const PREFIX: &str = "tokenizer.ggml.add_space_prefix";

/// Spellings that end a turn or a text in one family or another, whatever the file says of them.
const ENDS: &[&str] = &[
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "</s>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<eos>",
    "<turn|>",
    "<|tool_response>",
    "<｜end▁of▁sentence｜>",
    "[e~[",
];
/// Spellings of the token that ends a turn, the likeliest first.
const TURN_ENDS: &[&str] = &[
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<end_of_turn>",
    "<turn|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "<end_of_utterance>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<｜end▁of▁sentence｜>",
];
/// Fill-in-the-middle marks that a model writes only when it is done, by key and by spelling.
const MIDDLE_ENDS: &[(&str, &[&str])] = &[
    ("tokenizer.ggml.fim_pad_token_id", &["<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"]),
    ("tokenizer.ggml.fim_rep_token_id", &["<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"]),
    ("tokenizer.ggml.fim_sep_token_id", &["<|file_sep|>"]),
];
/// The other fill-in-the-middle marks: control tokens, whatever the file says of them.
const MIDDLE_MARKS: &[(&str, &[&str])] = &[
    (
        "tokenizer.ggml.fim_pre_token_id",
        &["<|fim_prefix|>", "<fim-prefix>", "<fim_prefix>", "<｜fim▁begin｜>", "<PRE>", "▁<PRE>", "<|code_prefix|>", "<|prefix|>"],
    ),
    (
        "tokenizer.ggml.fim_suf_token_id",
        &["<|fim_suffix|>", "<fim-suffix>", "<fim_suffix>", "<｜fim▁hole｜>", "<SUF>", "▁<SUF>", "<|code_suffix|>", "<|suffix|>"],
    ),
    (
        "tokenizer.ggml.fim_mid_token_id",
        &["<|fim_middle|>", "<fim-middle>", "<fim_middle>", "<｜fim▁end｜>", "<MID>", "▁<MID>", "<|code_middle|>", "<|middle|>"],
    ),
];

/// What a file without the keys is taken to mean: depends on its tokenizer model.
struct Habits {
    roles: Roles,
    bos: Bos,
    eos: bool,
    prefix: Prefix,
}

impl Tokenizer {
    /// Reads the tokenizer of a model file.
    pub fn from_gguf(metadata: &Metadata, options: &TokenizerOptions) -> Result<Tokenizer> {
        let model = metadata.str(MODEL)?.ok_or_else(|| metadata.missing(MODEL))?;
        let strings = metadata.strings(TOKENS)?.cloned().ok_or_else(|| metadata.missing(TOKENS))?;
        let pre = match model {
            "gpt2" => Some(pre_tokenizer(metadata, options)?),
            "gemma4" => pre::find("gemma4"),
            _ => None,
        };
        let alphabet = pre.map_or(Alphabet::Text, |pre| pre.alphabet);
        let mut vocab = Vocab::new(index(strings, TOKENS)?, kinds(metadata)?, alphabet);
        let habits = habits(model, pre, vocab.table.len() as u32);
        let prefix = match metadata.bool(PREFIX)? {
            Some(true) => Prefix::Space,
            Some(false) => Prefix::Nothing,
            None => habits.prefix,
        };
        let mut roles = roles(metadata, habits.roles, &vocab)?;
        vocab.unknown = roles.unknown;
        let ends = ends(metadata, &mut vocab, &mut roles)?;
        let algorithm = match (model, pre) {
            (_, Some(pre)) => Algorithm::Bpe(bpe(metadata, pre)?),
            ("llama", None) => Algorithm::Spm(spm(metadata, &vocab, prefix)?),
            ("bert", None) => Algorithm::WordPiece(wordpiece(metadata)?),
            ("t5", None) => Algorithm::Unigram(unigram(metadata, &vocab, prefix)?),
            (other, None) => {
                let known = "`gpt2`, `gemma4`, `llama`, `bert` or `t5`";
                return Err(Error::Unsupported(Fault::at(MODEL).expected(known).found(format!("`{other}`"))));
            }
        };
        let specials = specials(metadata, &vocab)?;
        let add_bos = habits.bos == Bos::Always || metadata.bool("tokenizer.ggml.add_bos_token")?.unwrap_or(habits.bos == Bos::Yes);
        let add_eos = metadata.bool("tokenizer.ggml.add_eos_token")?.unwrap_or(habits.eos);
        let last = if model == "bert" { roles.separator.or(roles.eos) } else { roles.eos };
        let inner = Inner {
            first: roles.bos.filter(|_| add_bos),
            last: last.filter(|_| add_eos),
            // BERT's words all begin with a space that is not there.
            prefix: if model == "bert" { Prefix::Space } else { prefix },
            vocab,
            algorithm,
            specials,
            roles,
            ends,
        };
        Ok(Tokenizer { inner: inner.into() })
    }
}

fn index(strings: Strings, key: &str) -> Result<Table> {
    let count = strings.len();
    if count == 0 {
        return Err(Error::Gguf(Fault::at(key).expected("at least one").found("none")));
    }
    Table::new(strings).ok_or_else(|| Error::Gguf(Fault::at(key).expected("less than 2^30 strings").found(count)))
}

/// The row of the table that the caller or the file names.
fn pre_tokenizer(metadata: &Metadata, options: &TokenizerOptions) -> Result<&'static Pre> {
    let named = match &options.pre {
        Some(name) => Some(name.as_str()),
        None => metadata.str(PRE)?,
    };
    let name = named.filter(|name| !name.is_empty()).unwrap_or("default");
    if named.is_none() {
        tracing::warn!("{}: no {PRE}: text is cut as an unknown pre-tokenizer's would be, answers may suffer", metadata.origin());
    }
    pre::find(name).ok_or_else(|| {
        let known: Vec<&str> = pre::names().collect();
        let help = format!(
            "if its text is cut like another's, name that one with the pre-tokenizer option (TokenizerOptions::pre): {}",
            known.join(", ")
        );
        Error::Unsupported(Fault::at(PRE).expected("a pre-tokenizer hob knows").found(format!("`{name}`")).help(help))
    })
}

/// What kind each token is. Control tokens are marked as such here where files forget to.
fn kinds(metadata: &Metadata) -> Result<Vec<TokenKind>> {
    let Some(numbers) = metadata.i32s(KINDS)? else { return Ok(Vec::new()) };
    let count = metadata.strings(TOKENS)?.map_or(0, |tokens| tokens.len());
    if numbers.len() < count {
        return Err(Error::Gguf(Fault::at(KINDS).expected(format!("{count}, one per token")).found(numbers.len())));
    }
    let kind = |number: i32| match number {
        2 => TokenKind::Unknown,
        3 => TokenKind::Control,
        4 => TokenKind::UserDefined,
        5 => TokenKind::Unused,
        6 => TokenKind::Byte,
        _ => TokenKind::Normal,
    };
    Ok(numbers.into_iter().take(count).map(kind).collect())
}

fn scores(metadata: &Metadata, vocab: &Vocab) -> Result<Vec<f32>> {
    let (scores, count) = (metadata.f32s(SCORES)?.ok_or_else(|| metadata.missing(SCORES))?, vocab.table.len());
    match scores.len() >= count {
        true => Ok(scores),
        false => Err(Error::Gguf(Fault::at(SCORES).expected(format!("{count}, one per token")).found(scores.len()))),
    }
}

fn habits(model: &str, pre: Option<&Pre>, count: u32) -> Habits {
    let here = |id: Token| Some(id).filter(|id| *id < count);
    let none = Roles::default();
    let (roles, bos, eos, prefix) = match model {
        "llama" => (Roles { bos: here(1), eos: here(2), unknown: here(0), ..none }, Bos::Yes, false, Prefix::Space),
        "bert" => {
            let roles = Roles { bos: here(101), unknown: here(100), separator: here(102), padding: here(0), mask: here(103), ..none };
            (roles, Bos::Yes, true, Prefix::Nothing)
        }
        "t5" => (Roles { eos: here(1), unknown: here(2), padding: here(0), ..none }, Bos::No, true, Prefix::Nothing),
        _ => (none, pre.map_or(Bos::No, |pre| pre.bos), false, Prefix::Nothing),
    };
    Habits { roles, bos, eos, prefix }
}

/// The token that `key` names; one that the vocabulary does not have is passed over.
fn role(metadata: &Metadata, key: &str, vocab: &Vocab) -> Result<Option<Token>> {
    let named = metadata.u32(key)?;
    let found = named.filter(|id| (*id as usize) < vocab.table.len());
    if let (Some(id), None) = (named, found) {
        tracing::warn!("{}: {key} is {id}, but the vocabulary has {} tokens: passed over", metadata.origin(), vocab.table.len());
    }
    Ok(found)
}

fn roles(metadata: &Metadata, habit: Roles, vocab: &Vocab) -> Result<Roles> {
    let role = |name: &str, habit: Option<Token>| Ok(role(metadata, &format!("tokenizer.ggml.{name}_token_id"), vocab)?.or(habit));
    Ok(Roles {
        bos: role("bos", role("cls", habit.bos)?)?,
        eos: role("eos", habit.eos)?,
        eot: role("eot", habit.eot)?,
        eom: role("eom", habit.eom)?,
        unknown: role("unknown", habit.unknown)?,
        // The key is spelt so since the first files.
        separator: role("seperator", habit.separator)?,
        padding: role("padding", habit.padding)?,
        mask: role("mask", habit.mask)?,
    })
}

/// Every token that ends generation, by key and by spelling; such tokens are control tokens whatever their kind in the file.
fn ends(metadata: &Metadata, vocab: &mut Vocab, roles: &mut Roles) -> Result<Vec<Token>> {
    let find = |vocab: &Vocab, spelling: &&str| vocab.table.find(spelling.as_bytes());
    let mut controls: Vec<Token> = ENDS.iter().filter_map(|spelling| find(vocab, spelling)).collect();
    let turn_end = TURN_ENDS.iter().find_map(|spelling| find(vocab, spelling));
    if roles.eot.is_none() {
        controls.extend(turn_end);
        roles.eot = turn_end;
    }
    roles.eom = roles.eom.or_else(|| vocab.table.find(b"<|eom_id|>"));
    let mut ends = controls.clone();
    for (key, spellings) in MIDDLE_ENDS.iter().chain(MIDDLE_MARKS) {
        let named = role(metadata, key, vocab)?;
        let found = named.or_else(|| spellings.iter().find_map(|spelling| find(vocab, spelling)));
        controls.extend(found.filter(|_| named.is_none()));
        ends.extend(found.filter(|_| MIDDLE_ENDS.iter().any(|(end, _)| end == key)));
    }
    ends.extend([roles.eos, roles.eot, roles.eom].into_iter().flatten());
    if !controls.is_empty() && vocab.kinds.is_empty() {
        vocab.kinds = vec![TokenKind::Normal; vocab.table.len()];
    }
    controls.iter().for_each(|id| vocab.kinds[*id as usize] = TokenKind::Control);
    // Where a message ends with `<|end|>` and a turn with another token, `<|end|>` ends nothing (gpt-oss, Solar).
    let has = |ends: &[Token], spelling: &str| vocab.table.find(spelling.as_bytes()).is_some_and(|id| ends.contains(&id));
    let harmony = has(&ends, "<|return|>") && (has(&ends, "<|call|>") || has(&ends, "<|calls|>"));
    let solar = has(&ends, "<|flush|>") && (has(&ends, "<|call|>") || has(&ends, "<|calls|>"));
    if let Some(end) = vocab.table.find(b"<|end|>").filter(|_| harmony || solar) {
        ends.retain(|id| *id != end);
    }
    // Gemma 4 has an `</s>` that is an HTML tag.
    if let Some(tag) = vocab.table.find(b"</s>").filter(|_| has(&ends, "<|tool_response>")) {
        ends.retain(|id| *id != tag);
        vocab.kinds[tag as usize] = TokenKind::Normal;
    }
    ends.sort_unstable();
    ends.dedup();
    Ok(ends)
}

fn bpe(metadata: &Metadata, pre: &'static Pre) -> Result<Bpe> {
    let merges = metadata.strings(MERGES)?.cloned().ok_or_else(|| metadata.missing(MERGES))?;
    let splitter = Splitter::new(pre.rules).map_err(|why| Error::Unsupported(Fault::at(PRE).found(why)))?;
    let cuts = match pre.alphabet {
        Alphabet::Bytes => None,
        Alphabet::Text => Some(Cuts::of(merges.iter_bytes())),
    };
    Ok(Bpe { splitter, merges: index(merges, MERGES)?, cuts, words: pre.words })
}

fn spm(metadata: &Metadata, vocab: &Vocab, prefix: Prefix) -> Result<Spm> {
    let cuts = Cuts::of((0..vocab.table.len() as u32).filter_map(|id| vocab.table.get(id)));
    Ok(Spm { scores: scores(metadata, vocab)?, prefix, cuts })
}

fn wordpiece(metadata: &Metadata) -> Result<WordPiece> {
    let lower = metadata.bool("tokenizer.ggml.normalizer.lowercase")?.unwrap_or(true);
    let strip = metadata.bool("tokenizer.ggml.normalizer.strip_accents")?.unwrap_or(lower);
    let letter_case = if lower { Case::Lower } else { Case::Keep };
    let accents = if strip { Accents::Strip } else { Accents::Keep };
    WordPiece::new(letter_case, accents).map_err(|why| Error::Unsupported(Fault::at(MODEL).found(why)))
}

fn unigram(metadata: &Metadata, vocab: &Vocab, prefix: Prefix) -> Result<Unigram> {
    let scores = scores(metadata, vocab)?;
    let charsmap = metadata.get(CHARSMAP).map(|_| {
        let bytes: Vec<u8> = metadata.i32s(CHARSMAP)?.unwrap_or_default().into_iter().map(|byte| byte as u8).collect();
        Charsmap::new(&bytes)
            .ok_or_else(|| Error::Gguf(Fault::at(CHARSMAP).expected("a character map").found("lengths that contradict each other")))
    });
    let merge = metadata.bool("tokenizer.ggml.remove_extra_whitespaces")?.unwrap_or(false);
    Ok(Unigram {
        unknown_score: Unigram::unknown_score(&scores, vocab),
        charsmap: charsmap.transpose()?,
        prefixes: Prefixes::of(vocab),
        scores,
        prefix,
        spaces: if merge { Spaces::Merge } else { Spaces::Keep },
    })
}

/// The tokens that are looked for in text first, with the whitespace some of them take.
fn specials(metadata: &Metadata, vocab: &Vocab) -> Result<Specials> {
    let name = metadata.str("general.name")?.unwrap_or_default().to_lowercase();
    let architecture = metadata.str("general.architecture")?.unwrap_or_default();
    let pre = metadata.str(PRE)?.unwrap_or_default();
    let phi3 = name.contains("phi-3") || name.contains("phi3");
    let masked = ["jina-v2-de", "jina-v2-es", "jina-v2-code"].iter().any(|known| pre.contains(known))
        || ["nomic-bert-moe", "jina-bert-v3"].iter().any(|known| architecture.contains(known));
    let takes = |text: &str| match text {
        "<mask>" if masked => Takes::SpaceBefore,
        "[MASK]" if name.contains("modern-bert") => Takes::SpaceBefore,
        "<unk>" | "<s>" | "<|endoftext|>" => Takes::Nothing,
        _ if phi3 => Takes::SpaceAfter,
        _ => Takes::Nothing,
    };
    let mark = |id: Token| match vocab.kind(id) {
        kind @ (TokenKind::Control | TokenKind::Unknown | TokenKind::UserDefined) => {
            let text = String::from_utf8_lossy(vocab.table.get(id)?).into_owned();
            Some(Mark { id, kind, takes: takes(&text), text })
        }
        TokenKind::Normal | TokenKind::Unused | TokenKind::Byte => None,
    };
    Specials::new((0..vocab.table.len() as u32).filter_map(mark).collect())
}
