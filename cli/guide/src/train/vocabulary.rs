//! The guide's vocabulary: byte-level byte-pair encoding, learned from its own text.
//!
//! ```text
//! 256 bytes | merges, the commonest pair of neighbours first, pairs within words only | 4 control tokens | a control token a fact
//! ```
//! The guide begins an answer with the token of the fact that it is about to tell. Control tokens leave nothing behind in text, so nobody sees it;
//! but what is asked is then decided once, in one token, and the answer follows from that by heart.
//! Words are cut as Llama 3's pre-tokenizer cuts them (`llama-bpe`), so that hob's tokenizer and this one agree on where merges may be;
//! bytes are spelt in GPT-2's alphabet. Encoding itself is left to hob's tokenizer, from the metadata that is written here.
//!
//! Source: Sennrich, Haddow, Birch, "Neural machine translation of rare words with subword units", 2016; Radford et al., GPT-2, 2019.

use std::collections::{BTreeMap, HashMap};

use hob::gguf::{GgufWriter, Metadata};
use hob::tokenizer::{Special, Tokenizer, TokenizerOptions};
use hob_guide::text::Text;

/// Control tokens, after the others: who speaks, and the end of what was said.
pub(crate) const CONTROL: [&str; 4] = ["<|end|>", "<|user|>", "<|assistant|>", "<|system|>"];

/// A conversation as the guide reads it.
pub(crate) const TEMPLATE: &str = "{% for message in messages %}{% if message['role'] == 'user' %}{{ '<|user|>' }}\
{% elif message['role'] == 'system' %}{{ '<|system|>' }}{% else %}{{ '<|assistant|>' }}{% endif %}{{ message['content'] }}{{ '<|end|>' }}\
{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}";

/// A vocabulary: what merges, in order.
#[derive(Clone, Debug)]
pub(crate) struct Vocabulary {
    merges: Vec<(String, String)>,
    /// All control tokens: [`CONTROL`], and one for each fact.
    controls: Vec<String>,
}

/// How the token of a fact is spelt.
pub(crate) fn spelling(fact: &str) -> String {
    format!("<|fact:{fact}|>")
}

fn controls(text: &Text) -> Vec<String> {
    CONTROL.into_iter().map(String::from).chain(text.facts.iter().map(|fact| spelling(&fact.name))).collect()
}

/// GPT-2's letter for a byte: printable ones stand for themselves, the rest for letters from U+0100 on.
fn letters() -> Vec<char> {
    let printable = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let mut next = 0x100;
    let letter = |byte: u8| match printable(byte) {
        true => char::from(byte),
        false => {
            next += 1;
            char::from_u32(next - 1).unwrap_or('?')
        }
    };
    (0..=255).map(letter).collect()
}

/// The words of a text, as `llama-bpe` cuts them (its rules for letters, digits, marks, blanks).
fn cut(text: &str) -> Vec<String> {
    let letters: Vec<char> = text.chars().collect();
    let (mut words, mut at) = (Vec::new(), 0);
    let run = |from: usize, fits: &dyn Fn(char) -> bool| letters[from..].iter().take_while(|c| fits(**c)).count();
    let alphabetic = |c: char| c.is_alphabetic();
    let mark = |c: char| !c.is_alphanumeric() && !c.is_whitespace();
    while at < letters.len() {
        let c = letters[at];
        let lead = usize::from(!c.is_alphanumeric() && !matches!(c, '\n' | '\r'));
        let blank = usize::from(c == ' ');
        let length = if run(at + lead, &alphabetic) > 0 {
            lead + run(at + lead, &alphabetic)
        } else if c.is_numeric() {
            run(at, &|c| c.is_numeric()).min(3)
        } else if run(at + blank, &mark) > 0 {
            blank + run(at + blank, &mark)
        } else {
            run(at, &char::is_whitespace).max(1)
        };
        words.push(letters[at..at + length].iter().collect());
        at += length;
    }
    words
}

impl Vocabulary {
    /// Learns `size` tokens, control tokens included, from texts.
    pub(crate) fn learn<'a>(text: &Text, texts: impl Iterator<Item = &'a str>, size: usize) -> Vocabulary {
        let (alphabet, controls) = (letters(), controls(text));
        let mut counts: HashMap<String, u64> = HashMap::new();
        texts.flat_map(cut).for_each(|word| *counts.entry(word).or_default() += 1);
        let spell = |word: &str| word.bytes().map(|byte| alphabet[byte as usize].to_string()).collect::<Vec<_>>();
        let mut words: Vec<(Vec<String>, u64)> = counts.iter().map(|(word, count)| (spell(word), *count)).collect();
        words.sort();
        let mut merges = Vec::new();
        while merges.len() + 256 + controls.len() < size {
            // In order, so that the first of equals is the same everywhere.
            let mut pairs: BTreeMap<(&str, &str), u64> = BTreeMap::new();
            for (word, count) in &words {
                word.windows(2).for_each(|pair| *pairs.entry((&pair[0], &pair[1])).or_default() += count);
            }
            let Some((pair, _)) =
                pairs.into_iter().filter(|(_, count)| *count > 1).max_by_key(|(pair, count)| (*count, std::cmp::Reverse(*pair)))
            else {
                break;
            };
            let pair = (pair.0.to_owned(), pair.1.to_owned());
            words.iter_mut().for_each(|(word, _)| merge(word, &pair));
            merges.push(pair);
        }
        Vocabulary { merges, controls }
    }

    /// All tokens, in the order of their ids.
    fn tokens(&self) -> Vec<String> {
        let mut all: Vec<String> = letters().into_iter().map(String::from).collect();
        all.extend(self.merges.iter().map(|(left, right)| format!("{left}{right}")));
        all.extend(self.controls.iter().cloned());
        all
    }

    /// How many tokens there are.
    pub(crate) fn len(&self) -> usize {
        256 + self.merges.len() + self.controls.len()
    }

    /// The id of a control token.
    pub(crate) fn control(&self, spelling: &str) -> u32 {
        let at = self.controls.iter().position(|control| control == spelling).unwrap_or(0);
        (256 + self.merges.len() + at) as u32
    }

    /// Writes the tokenizer's metadata.
    pub(crate) fn write(&self, writer: &mut GgufWriter) {
        let tokens = self.tokens();
        let mut kinds = vec![1; tokens.len() - self.controls.len()];
        kinds.resize(tokens.len(), 3);
        writer.set("tokenizer.ggml.model", "gpt2");
        writer.set("tokenizer.ggml.pre", "llama-bpe");
        writer.set("tokenizer.ggml.tokens", tokens);
        writer.set("tokenizer.ggml.token_type", kinds);
        writer.set("tokenizer.ggml.merges", self.merges.iter().map(|(left, right)| format!("{left} {right}")).collect::<Vec<_>>());
        writer.set("tokenizer.ggml.eos_token_id", self.control("<|end|>"));
        writer.set("tokenizer.ggml.padding_token_id", self.control("<|end|>"));
        writer.set("tokenizer.ggml.add_bos_token", false);
        writer.set("tokenizer.ggml.add_eos_token", false);
        writer.set("tokenizer.chat_template", TEMPLATE);
    }

    /// hob's tokenizer of this vocabulary.
    pub(crate) fn tokenizer(&self) -> Result<Tokenizer, String> {
        let mut writer = GgufWriter::new();
        writer.set("general.architecture", "llama");
        self.write(&mut writer);
        let bytes = writer.start(Vec::new()).and_then(|body| body.finish()).map_err(|why| why.to_string())?;
        let gguf = hob::gguf::Gguf::from_vec(bytes).map_err(|why| why.to_string())?;
        let metadata: &Metadata = gguf.metadata();
        Tokenizer::from_gguf(metadata, &TokenizerOptions::default()).map_err(|why| why.to_string())
    }

    /// As lines of text, for a checkpoint.
    pub(crate) fn to_lines(&self) -> String {
        self.merges.iter().map(|(left, right)| format!("{left} {right}\n")).collect()
    }

    /// Out of [`Vocabulary::to_lines`].
    pub(crate) fn from_lines(text: &Text, lines: &str) -> Vocabulary {
        let pair = |line: &str| line.split_once(' ').map(|(left, right)| (left.to_owned(), right.to_owned()));
        Vocabulary { merges: lines.lines().filter_map(pair).collect(), controls: controls(text) }
    }
}

fn merge(word: &mut Vec<String>, pair: &(String, String)) {
    let mut at = 0;
    while at + 1 < word.len() {
        if word[at] == pair.0 && word[at + 1] == pair.1 {
            let right = word.remove(at + 1);
            word[at].push_str(&right);
        }
        at += 1;
    }
}

/// Text to ids; nothing in it becomes a control token.
pub(crate) fn encode(tokenizer: &Tokenizer, text: &str) -> Result<Vec<u32>, String> {
    tokenizer.encode(text, Special::Literal).map_err(|why| why.to_string())
}
