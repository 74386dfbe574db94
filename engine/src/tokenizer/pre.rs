//! The table of pre-tokenizers: how each named one (`tokenizer.ggml.pre`) cuts text into words before byte-pair encoding.
//!
//! A GGUF file carries only the name; the patterns are facts of the tokenizers as their authors published them (the `pre_tokenizer` of
//! tokenizer.json, or the encoder's source), under the names that llama.cpp's converter gives them. Where llama.cpp approximates a pattern
//! for its regular expression engine, the published one is here.

use super::split::{Rule, SPACES, SPACES_BY_HALVES, Where};
use Rule::{Find, Threes};

/// One way to prepare text for byte-pair encoding, with its names.
#[derive(Debug)]
pub(super) struct Pre {
    pub(super) names: &'static [&'static str],
    pub(super) rules: &'static [Rule],
    pub(super) words: Words,
    pub(super) alphabet: Alphabet,
    /// Whether a BOS token comes first where the file does not say.
    pub(super) bos: Bos,
}

/// What is done with a word that is a token as it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Words {
    /// It is merged from its characters like any other.
    Merge,
    /// It is that token, whatever the merges say.
    WholeFirst,
    /// So is a word of newlines only.
    WholeLines,
}

/// How tokens are spelt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Alphabet {
    /// In GPT-2's byte alphabet.
    Bytes,
    /// As text, with `▁` for a space and `<0x0A>` for a byte that no token has.
    Text,
}

/// Whether a BOS token is added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bos {
    No,
    Yes,
    /// Even where the file says no: files of this family say so in error.
    Always,
}

/// The pre-tokenizer of that name.
pub(super) fn find(name: &str) -> Option<&'static Pre> {
    TABLE.iter().find(|pre| pre.names.contains(&name))
}

/// All names, in the order of the table.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    TABLE.iter().flat_map(|pre| pre.names).copied()
}

macro_rules! english {
    () => {
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
    };
}
macro_rules! upper {
    () => {
        r"\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}"
    };
}
macro_rules! lower {
    () => {
        r"\p{Ll}\p{Lm}\p{Lo}\p{M}"
    };
}
/// Words that begin anew at a capital (tiktoken's o200k): "JSONParser" → JSON | Parser.
macro_rules! camel {
    (* $after:expr) => {
        concat!(r"[^\r\n\p{L}\p{N}]?[", upper!(), "]*[", lower!(), "]+", $after)
    };
    (+ $after:expr) => {
        concat!(r"[^\r\n\p{L}\p{N}]?[", upper!(), "]+[", lower!(), "]*", $after)
    };
}

const ENGLISH: &str = english!();
const ENGLISH_LOWER: &str = "'s|'t|'re|'ve|'m|'ll|'d";
const WORD: &str = r"[^\r\n\p{L}\p{N}]?\p{L}+";
const MARKS: &str = r" ?[^\s\p{L}\p{N}]+[\r\n]*";
const MARKS_SLASH: &str = r" ?[^\s\p{L}\p{N}]+[\r\n/]*";
const LINES: &str = r"\s*[\r\n]+";
const NUMBER: &str = r"\p{N}";
const NUMBERS_3: &str = r"\p{N}{1,3}";

const GPT2: Rule = Find(&[ENGLISH_LOWER, r" ?\p{L}+", r" ?\p{N}+", r" ?[^\s\p{L}\p{N}]+", SPACES]);
const LLAMA3: Rule = Find(&[ENGLISH, WORD, NUMBERS_3, MARKS, LINES, SPACES]);
const QWEN2: Rule = Find(&[ENGLISH, WORD, NUMBER, MARKS, LINES, SPACES]);
const O200K: Rule = Find(&[camel!(*concat!(english!(), "?")), camel!(+ concat!(english!(), "?")), NUMBERS_3, MARKS_SLASH, LINES, SPACES]);

/// Han, Hiragana, Katakana as DeepSeek cuts them.
const CJK: Rule = Find(&[r"[\u{4e00}-\u{9fa5}\u{3040}-\u{309f}\u{30a0}-\u{30ff}]+"]);
const IDENTIFIER: &str = r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"##;
const LETTERS_MARKS: &str = r"[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+";
const DEEPSEEK3_WORDS: Rule = Find(&[IDENTIFIER, LETTERS_MARKS, r" ?[\p{P}\p{S}]+[\r\n]*", LINES, SPACES]);

/// The cased letters of the scripts that DeepSeek LLM's authors listed.
const DEEPSEEK_LLM_LETTERS: &str = concat!(
    r"\s?[A-Za-z\u{b5}\u{c0}-\u{d6}\u{d8}-\u{f6}\u{f8}-\u{1ba}\u{1bc}-\u{1bf}\u{1c4}-\u{293}\u{295}-\u{2af}\u{370}-\u{373}\u{376}\u{377}",
    r"\u{37b}-\u{37d}\u{37f}\u{386}\u{388}-\u{38a}\u{38c}\u{38e}-\u{3a1}\u{3a3}-\u{3f5}\u{3f7}-\u{481}\u{48a}-\u{52f}\u{531}-\u{556}",
    r"\u{10a0}-\u{10c5}\u{13a0}-\u{13f5}\u{13f8}-\u{13fd}\u{1c90}-\u{1cba}\u{1cbd}-\u{1cbf}\u{1d00}-\u{1d2b}\u{1d6b}-\u{1d77}",
    r"\u{1d79}-\u{1d9a}\u{1e00}-\u{1f15}\u{1f18}-\u{1f1d}\u{1f20}-\u{1f45}\u{1f48}-\u{1f4d}\u{1f50}-\u{1f57}\u{1f59}\u{1f5b}\u{1f5d}",
    r"\u{1f5f}-\u{1f7d}\u{1f80}-\u{1fb4}\u{1fb6}-\u{1fbc}\u{1fbe}\u{1fc2}-\u{1fc4}\u{1fc6}-\u{1fcc}\u{1fd0}-\u{1fd3}\u{1fd6}-\u{1fdb}",
    r"\u{1fe0}-\u{1fec}\u{1ff2}-\u{1ff4}\u{1ff6}-\u{1ffc}\u{2102}\u{2107}\u{210a}-\u{2113}\u{2115}\u{2119}-\u{211d}\u{2124}\u{2126}",
    r"\u{2128}\u{212a}-\u{212d}\u{212f}-\u{2134}\u{2139}\u{213c}-\u{213f}\u{2145}-\u{2149}\u{214e}\u{2183}\u{2184}\u{2c00}-\u{2c7b}",
    r"\u{2c7e}-\u{2ce4}\u{2ceb}-\u{2cee}\u{2cf2}\u{2cf3}\u{a640}-\u{a66d}\u{a680}-\u{a69b}\u{a722}-\u{a76f}\u{a771}-\u{a787}",
    r"\u{a78b}-\u{a78e}\u{ab70}-\u{abbf}\u{fb00}-\u{fb06}\u{fb13}-\u{fb17}\u{ff21}-\u{ff3a}\u{ff41}-\u{ff5a}\u{10400}-\u{1044f}",
    r"\u{104b0}-\u{104d3}\u{104d8}-\u{104fb}\u{10c80}-\u{10cb2}\u{10cc0}-\u{10cf2}\u{118a0}-\u{118df}\u{1e900}-\u{1e943}]+",
);
const DEEPSEEK_HAN_HANGUL: Rule = Find(&[r"[\u{4e00}-\u{9fa5}\u{800}-\u{4e00}\u{ac00}-\u{d7ff}]+"]);

/// Kimi K2 cuts Han apart from the letters of all other scripts.
const KIMI: Rule = Find(&[
    r"\p{Han}+",
    concat!(r"[^\r\n\p{L}\p{N}]?[", upper!(), r"&&[^\p{Han}]]*[", lower!(), r"&&[^\p{Han}]]+", english!(), "?"),
    concat!(r"[^\r\n\p{L}\p{N}]?[", upper!(), r"&&[^\p{Han}]]+[", lower!(), r"&&[^\p{Han}]]*", english!(), "?"),
    NUMBERS_3,
    MARKS,
    LINES,
    SPACES,
]);

const BLOOM: Rule = Find(&[r" ?[^(\s|.,!?…。，、।۔،)]+"]);
/// Lines apart from the newlines between them: the whole of a line is one word.
const BY_LINE: Rule = Find(&[r"[^\n]+|[\n]+"]);

/// A row in GPT-2's byte alphabet that merges every word and adds no BOS: the usual case.
const PLAIN: Pre = Pre { names: &[], rules: &[], words: Words::Merge, alphabet: Alphabet::Bytes, bos: Bos::No };

static TABLE: &[Pre] = &[
    Pre {
        names: &["llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "jina-v5-nano"],
        rules: &[LLAMA3],
        words: Words::WholeFirst,
        bos: Bos::Yes,
        ..PLAIN
    },
    Pre { names: &["dbrx", "smaug-bpe", "glm4", "chatglm-bpe"], rules: &[LLAMA3], ..PLAIN },
    Pre {
        names: &["qwen2", "deepseek-r1-qwen", "kormo", "f2llmv2", "megrez", "stablelm2", "hunyuan", "solar-open", "grok-2"],
        rules: &[QWEN2],
        ..PLAIN
    },
    Pre {
        names: &["qwen35"],
        rules: &[Find(&[ENGLISH, r"[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+", NUMBER, r" ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*", LINES, SPACES])],
        ..PLAIN
    },
    Pre {
        names: &[
            "gpt-2",
            "phi-2",
            "mpt",
            "olmo",
            "jais",
            "trillion",
            "granite-docling",
            "exaone4",
            "gigachat",
            "a.x-4.0",
            "mellum",
            "modern-bert",
            "roberta-bpe",
            "jina-es",
            "jina-de",
            "jina-v1-en",
            "jina-v2-es",
            "jina-v2-de",
            "jina-v2-code",
        ],
        rules: &[GPT2],
        ..PLAIN
    },
    Pre {
        names: &["starcoder", "refact", "command-r", "smollm", "codeshell", "exaone", "minerva-7b", "mellum2"],
        rules: &[Find(&[NUMBER]), GPT2],
        ..PLAIN
    },
    Pre { names: &["gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"], rules: &[O200K], ..PLAIN },
    Pre { names: &["granite-embed-multi-97m"], rules: &[O200K], words: Words::WholeFirst, ..PLAIN },
    Pre { names: &["tiny_aya", "cohere2moe"], rules: &[Threes(r"\d+", Where::AtWordEnd), O200K], ..PLAIN },
    Pre {
        names: &["tekken"],
        rules: &[Find(&[camel!(*""), camel!(+ ""), NUMBER, MARKS_SLASH, LINES, SPACES])],
        words: Words::WholeFirst,
        bos: Bos::Yes,
        ..PLAIN
    },
    Pre {
        names: &["deepseek-llm"],
        rules: &[
            Find(&[r"[\r\n]"]),
            Find(&[DEEPSEEK_LLM_LETTERS]),
            Find(&[r"\s?[!-/:-~\u{ff01}-\u{ff0f}\u{ff1a}-\u{ff5e}\u{2018}-\u{201f}\u{3000}-\u{3002}]+"]),
            Find(&[r"\s+$"]),
            DEEPSEEK_HAN_HANGUL,
            Find(&[r"\p{N}+"]),
        ],
        ..PLAIN
    },
    Pre {
        names: &["deepseek-coder"],
        rules: &[Find(&[r"[\r\n]"]), Find(&[r"\s?\p{L}+"]), Find(&[r"\s?\p{P}+"]), DEEPSEEK_HAN_HANGUL, Find(&[NUMBER])],
        ..PLAIN
    },
    Pre { names: &["deepseek-v3", "hunyuan-dense", "hy_v4", "joyai-llm"], rules: &[Find(&[NUMBERS_3]), CJK, DEEPSEEK3_WORDS], ..PLAIN },
    Pre {
        names: &["spark2_5"],
        rules: &[Find(&[NUMBERS_3]), CJK, Find(&[IDENTIFIER, LETTERS_MARKS, r" ?[\p{P}\p{S}]+", r"[\r\n]", SPACES]), Find(&[NUMBER])],
        ..PLAIN
    },
    Pre {
        names: &["youtu"],
        rules: &[
            Find(&[
                r"[\u{ac00}-\u{d7a3}\u{3131}-\u{318e}]+",
                r"[\u{ff01}\u{2026}\u{201c}\u{201d}\u{2018}\u{2019}\u{2014}\u{ff1a}\u{ff1b}\u{ff0c}\u{3001}-\u{303f}\u{fe30}-\u{fe4f}]+",
                r"[\u{3105}-\u{312f}]+",
                r"[\u{4e00}-\u{9fa5}\u{3040}-\u{309f}\u{30a0}-\u{30ff}]+",
            ]),
            Find(&[camel!(*concat!(english!(), "?")), camel!(+ concat!(english!(), "?")), NUMBER, MARKS_SLASH, LINES, SPACES]),
        ],
        words: Words::WholeFirst,
        ..PLAIN
    },
    Pre { names: &["kimi-k2"], rules: &[KIMI], ..PLAIN },
    Pre {
        names: &["bailingmoe", "bailingmoe2", "llada-moe"],
        rules: &[Find(&[r"'(?i:[sdmt]|ll|ve|re)", WORD, NUMBER, MARKS, r"\s*[\r\n]", SPACES])],
        ..PLAIN
    },
    Pre { names: &["seed-coder"], rules: &[Find(&[ENGLISH, WORD, NUMBER, r" ?[^\s\p{L}\p{N}\r\n]+", LINES, SPACES])], ..PLAIN },
    Pre { names: &["ufakzeka"], rules: &[Find(&[WORD, NUMBER, MARKS, LINES, SPACES])], ..PLAIN },
    Pre { names: &["laguna"], rules: &[BY_LINE, QWEN2], ..PLAIN },
    Pre { names: &["jais-2"], rules: &[Find(&[ENGLISH, WORD, NUMBERS_3, MARKS, LINES, SPACES_BY_HALVES])], ..PLAIN },
    Pre {
        names: &["exaone-moe"],
        rules: &[Find(&[
            ENGLISH,
            r"[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+",
            NUMBER,
            r" ?[^\s\p{L}\p{N}]+[\r\n/]?",
            r"\s*[\r\n]",
            SPACES,
        ])],
        ..PLAIN
    },
    Pre {
        names: &["minicpm5"],
        rules: &[Find(&[NUMBERS_3]), Find(&[ENGLISH, WORD, r"\p{N}+", MARKS, LINES, SPACES])],
        words: Words::WholeFirst,
        ..PLAIN
    },
    Pre {
        names: &["afmoe"],
        rules: &[
            Threes(r"\p{N}+", Where::Everywhere),
            Find(&[concat!(
                r"[\u{4e00}-\u{9fff}\u{3400}-\u{4dbf}\u{f900}-\u{faff}\u{3040}-\u{309f}\u{30a0}-\u{30ff}\u{ff65}-\u{ff9f}\u{2f00}-\u{2fdf}",
                r"\u{e00}-\u{e7f}\u{e80}-\u{eff}\u{1780}-\u{17ff}\u{1000}-\u{109f}\u{aa60}-\u{aa7f}\u{a9e0}-\u{a9ff}\u{ac00}-\u{d7af}",
                r"\u{1100}-\u{11ff}]+"
            )]),
            DEEPSEEK3_WORDS,
        ],
        ..PLAIN
    },
    Pre { names: &["superbpe"], rules: &[Find(&[r"\p{N}+"]), Threes(r"\d+", Where::Everywhere)], ..PLAIN },
    Pre { names: &["poro-chat", "bloom", "gpt3-finnish"], rules: &[BLOOM], ..PLAIN },
    Pre { names: &["viking"], rules: &[BLOOM, Find(&[NUMBER])], ..PLAIN },
    Pre { names: &["falcon"], rules: &[Find(&[r"[\p{P}$+<=>^~|`]+"]), GPT2, Find(&["[0-9][0-9][0-9]"])], ..PLAIN },
    Pre { names: &["default"], rules: &[Find(&[r"[\p{P}$+<=>^~|]+"]), GPT2, Find(&[r"\p{N}+"]), Find(&["[0-9][0-9][0-9]"])], ..PLAIN },
    Pre {
        names: &["chameleon"],
        rules: &[
            Find(&["<sentinel:[0-9]+>"]),
            Find(&["(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z"]),
            Find(&[r"[\t\n]|    |  "]),
            Find(&[NUMBER]),
            Find(&[r"[\p{P}!-/:-@\[-`{-~]"]),
            GPT2,
        ],
        bos: Bos::Yes,
        ..PLAIN
    },
    Pre {
        names: &["gemma4", "granite-embed-multi-311m"],
        rules: &[BY_LINE],
        words: Words::WholeLines,
        alphabet: Alphabet::Text,
        bos: Bos::Always,
    },
    Pre { names: &["sarvam-moe"], rules: &[BY_LINE], alphabet: Alphabet::Text, ..PLAIN },
];

#[cfg(test)]
mod tests {
    use super::super::split::Splitter;
    use super::*;

    fn pieces<'t>(name: &str, text: &'t str) -> Vec<&'t str> {
        let mut pieces = Vec::new();
        let splitter = Splitter::new(find(name).expect(name).rules).expect(name);
        splitter.split(text, &mut |piece| pieces.push(piece));
        pieces
    }

    /// A little of everything that the patterns tell apart.
    const PROBE: &str = "Hello, World!  It's I'LL 3.14159 12345678 naïve e\u{301}x 中文かな한국어 ไทย HTTPServer\tfoo_bar\r\n\r\n   indented\n\u{a0}x\u{3000} 🙂🙂 <a href=\"/b\">// IMGIMGABZ <sentinel:12> $x+=1^~|` […] ٣٤٥ ½ᵃ  \n  ";

    #[test]
    fn every_name_is_there_once_compiles_and_loses_nothing() {
        let all: Vec<&str> = names().collect();
        for (index, name) in all.iter().enumerate() {
            assert!(!all[..index].contains(name), "{name} twice");
            let pieces = pieces(name, PROBE);
            assert_eq!(pieces.concat(), PROBE, "{name}");
            assert!(pieces.iter().all(|piece| !piece.is_empty()), "{name}");
        }
        assert!(all.len() >= 85, "{}", all.len());
        assert!(find("no-such").is_none());
    }

    #[test]
    fn known_cuts() {
        let table: &[(&str, &str, &[&str])] = &[
            ("gpt-2", "It's  3 o'clock\n\n x", &["It", "'s", " ", " 3", " o", "'", "clock", "\n\n", " x"]),
            ("gpt-2", "12345 I'LL", &["12345", " I", "'", "LL"]),
            ("llama-bpe", "I'LL pay 12345!!\n\n  so", &["I", "'LL", " pay", " ", "123", "45", "!!\n\n", " ", " so"]),
            ("llama-bpe", "a\t\tb \n c", &["a", "\t", "\tb", " \n", " c"]),
            ("qwen2", "x123\r\n", &["x", "1", "2", "3", "\r\n"]),
            ("qwen2", "e\u{301}x", &["e", "\u{301}x"]),
            ("qwen35", "e\u{301}x", &["e\u{301}x"]),
            ("starcoder", "a 12", &["a", " ", "1", "2"]),
            ("gpt-4o", "JSONParser isn't/\n", &["JSONParser", " isn't", "/\n"]),
            ("gpt-4o", "fooBar 1234", &["foo", "Bar", " ", "123", "4"]),
            ("tekken", "fooBar's 12", &["foo", "Bar", "'s", " ", "1", "2"]),
            ("deepseek-v3", "foo_bar 中文x", &["foo", "_bar", " ", "中文", "x"]),
            ("deepseek-llm", "Hi 中文 12  ", &["Hi", " ", "中文", " ", "12", "  "]),
            ("deepseek-coder", "ab, 12\n", &["ab", ",", " ", "1", "2", "\n"]),
            ("falcon", "a==12345", &["a", "==", "123", "45"]),
            ("default", "x `12345", &["x", " `", "123", "45"]),
            ("bloom", "a, b c", &["a", ",", " b", " c"]),
            ("afmoe", "1234567ab", &["1", "234", "567", "ab"]),
            ("superbpe", "at 1234567", &["at ", "1", "234", "567"]),
            ("tiny_aya", "1234567 1234ab", &["1", "234", "567", " ", "123", "4", "ab"]),
            ("kimi-k2", "ab中文cd", &["ab", "中文", "cd"]),
            ("jais-2", "a\t\t\t\t\t\tb", &["a", "\t\t\t\t", "\t", "\tb"]),
            ("bailingmoe", "a\n\n 1", &["a", "\n\n", " ", "1"]),
            ("ufakzeka", "Ali'nin", &["Ali", "'nin"]),
            ("exaone-moe", "a b c 1", &["a b c", " ", "1"]),
            ("gemma4", "a b\n\nc", &["a b", "\n\n", "c"]),
            ("chameleon", "IMGIMGABZ 1,", &["IMGIMGABZ", " ", "1", ","]),
        ];
        for (name, text, want) in table {
            assert_eq!(pieces(name, text), *want, "{name} {text:?}");
        }
    }

    #[test]
    fn a_megabyte_without_a_break_takes_bounded_time() {
        let texts = [" ".repeat(1 << 16), "\n ".repeat(1 << 15), "aB".repeat(1 << 15), "1".repeat(1 << 16), "'".repeat(1 << 16)];
        for pre in TABLE {
            let splitter = Splitter::new(pre.rules).unwrap();
            for text in &texts {
                let mut bytes = 0;
                splitter.split(text, &mut |piece| bytes += piece.len());
                assert_eq!(bytes, text.len(), "{:?}", pre.names);
            }
        }
    }
}
