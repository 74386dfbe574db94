//! Every kind of vocabulary on a few tokens, built in memory; what control tokens may become; what broken files say.

use super::bytes::to_alphabet;
use super::*;
use crate::gguf::{Metadata, Strings, Value};

/// Tokens with their kinds (as files number them) and scores.
type Row<'a> = (&'a str, i32, f32);

fn file(model: &str, rows: &[Row], more: &[(&str, Value)]) -> Metadata {
    let mut metadata = Metadata::new("test.gguf");
    metadata.set("tokenizer.ggml.model", model);
    metadata.set("tokenizer.ggml.tokens", Strings::from_iter(rows.iter().map(|row| row.0)));
    metadata.set("tokenizer.ggml.token_type", rows.iter().map(|row| row.1).collect::<Vec<i32>>());
    metadata.set("tokenizer.ggml.scores", rows.iter().map(|row| row.2).collect::<Vec<f32>>());
    more.iter().for_each(|(key, value)| metadata.set(&format!("tokenizer.ggml.{key}"), value.clone()));
    metadata
}

fn load(metadata: &Metadata) -> Tokenizer {
    Tokenizer::from_gguf(metadata, &TokenizerOptions::default()).unwrap()
}

fn merges(pairs: &[&str]) -> (&'static str, Value) {
    ("merges", Strings::from_iter(pairs).into())
}

/// All bytes, `lo`, `low`, `er`, `Ġlow`, and special tokens behind.
fn gpt2(specials: &[Row]) -> Metadata {
    let bytes: Vec<String> = (0..=255_u8).map(|byte| alphabet(&[byte])).collect();
    let mut rows: Vec<Row> = bytes.iter().map(|byte| (byte.as_str(), 1, 0.0)).collect();
    rows.extend(["lo", "low", "er", "Ġlow"].map(|token| (token, 1, 0.0)));
    rows.extend(specials);
    file("gpt2", &rows, &[merges(&["l o", "lo w", "e r", "Ġ low"]), ("pre", "qwen2".into())])
}

/// Bytes, which need not be text, as GPT-2's alphabet spells them.
fn alphabet(bytes: &[u8]) -> String {
    let mut table = String::new();
    let mut out = String::new();
    for byte in bytes {
        // `to_alphabet` takes text; a byte over 0x7f is the second of U+0080…U+00FF's two, or the first of some character.
        table.clear();
        match byte {
            0..=0x7f => to_alphabet(&char::from(*byte).to_string(), &mut table),
            0x80..=0xbf => to_alphabet(std::str::from_utf8(&[0xc2, *byte]).unwrap(), &mut table),
            0xc0..=0xff => table.extend(['\0', char::from(*byte)]),
        }
        out.extend(table.chars().next_back());
    }
    out
}

const LLAMA: &[Row] = &[
    ("<unk>", 2, 0.0),
    ("<s>", 3, 0.0),
    ("</s>", 3, 0.0),
    ("<0x0A>", 6, 0.0),
    ("<0xC3>", 6, 0.0),
    ("<0xA9>", 6, 0.0),
    ("▁", 1, -9.0),
    ("l", 1, -8.0),
    ("o", 1, -7.0),
    ("w", 1, -6.0),
    ("lo", 1, -2.0),
    ("ow", 1, -1.0),
    ("▁lo", 1, -3.0),
    ("low", 1, -4.0),
    ("<", 1, -5.0),
    ("s", 1, -5.0),
    (">", 1, -5.0),
    ("<s", 1, -5.0),
];

fn spelt<'a>(tokenizer: &'a Tokenizer, tokens: &[Token]) -> Vec<&'a str> {
    tokens.iter().map(|token| tokenizer.token_text(*token).unwrap()).collect()
}

#[test]
fn each_kind_of_vocabulary() {
    let bert: &[Row] = &[
        ("[PAD]", 3, 0.0),
        ("[UNK]", 3, 0.0),
        ("[CLS]", 3, 0.0),
        ("[SEP]", 3, 0.0),
        ("▁un", 1, 0.0),
        ("aff", 1, 0.0),
        ("able", 1, 0.0),
        ("▁!", 1, 0.0),
        ("▁naive", 1, 0.0),
        ("▁中", 1, 0.0),
    ];
    let bert_keys = [("unknown_token_id", Value::U32(1)), ("cls_token_id", Value::U32(2)), ("seperator_token_id", Value::U32(3))];
    let t5: &[Row] = &[
        ("<pad>", 3, 0.0),
        ("</s>", 3, 0.0),
        ("<unk>", 2, 0.0),
        ("▁", 1, -3.0),
        ("▁a", 1, -2.0),
        ("b", 1, -2.5),
        ("▁ab", 1, -5.0),
        ("ab", 1, -1.0),
        ("<", 1, -4.0),
    ];
    let t5_keys = [("remove_extra_whitespaces", Value::Bool(true)), ("add_space_prefix", Value::Bool(true))];
    let gemma: &[Row] = &[
        ("<eos>", 3, 0.0),
        ("<bos>", 3, 0.0),
        ("<0xC3>", 6, 0.0),
        ("<0xA9>", 6, 0.0),
        ("▁", 1, 0.0),
        ("a", 1, 0.0),
        ("▁a", 1, 0.0),
        ("\n", 1, 0.0),
        ("\n\n", 1, 0.0),
        ("a▁a", 1, 0.0),
    ];
    let files = [
        ("gpt2", gpt2(&[])),
        ("llama", file("llama", LLAMA, &[])),
        ("bert", file("bert", bert, &bert_keys)),
        ("t5", file("t5", t5, &t5_keys)),
        ("gemma4", file("gemma4", gemma, &[merges(&["▁ a", "a ▁a"]), ("bos_token_id", Value::U32(1))])),
    ];
    let table: &[(&str, &str, &[&str])] = &[
        ("gpt2", "low lower", &["low", "Ġlow", "er"]),
        ("gpt2", "é\n", &["Ã", "©", "Ċ"]),
        ("gpt2", "", &[]),
        ("llama", "low", &["▁", "low"]),
        ("llama", "lo low", &["▁lo", "▁", "low"]),
        ("llama", "oow", &["▁", "o", "ow"]),
        ("llama", "é\n", &["▁", "<0xC3>", "<0xA9>", "<0x0A>"]),
        ("llama", "x", &["▁", "<unk>"]),
        // Though merging leads there, the text of a control token stays text.
        ("llama", "<s>", &["▁", "<s", ">"]),
        ("bert", "Unaffable!", &["▁un", "aff", "able", "▁!"]),
        ("bert", " naïve  中中x", &["▁naive", "▁中", "▁中", "[UNK]"]),
        ("bert", "un\u{200b}aff [CLS]", &["▁un", "aff", "[UNK]", "[UNK]", "[UNK]"]),
        ("t5", "ab", &["▁", "ab"]),
        ("t5", "  a  b ", &["▁a", "▁", "b"]),
        ("t5", "axyb", &["▁a", "<unk>", "b"]),
        ("t5", "</s>", &["▁", "<", "<unk>"]),
        ("gemma4", "a a", &["a▁a"]),
        ("gemma4", " é\n\na", &["▁", "<0xC3>", "<0xA9>", "\n\n", "a"]),
    ];
    for (kind, text, want) in table {
        let tokenizer = load(&files.iter().find(|(name, _)| name == kind).unwrap().1);
        let tokens = tokenizer.encode(text, Special::Literal).unwrap();
        assert_eq!(spelt(&tokenizer, &tokens), *want, "{kind} {text:?}");
    }
    let ends: &[(&str, &[&str])] = &[
        ("gpt2", &["l"]),
        ("llama", &["<s>", "▁", "l"]),
        ("bert", &["[CLS]", "[UNK]", "[SEP]"]),
        ("t5", &["▁", "<unk>", "</s>"]),
        ("gemma4", &["<bos>"]),
    ];
    for (kind, want) in ends {
        let tokenizer = load(&files.iter().find(|(name, _)| name == kind).unwrap().1);
        let tokens = tokenizer.encode_with("l", Special::Literal, Ends::AsModelWants).unwrap();
        assert_eq!(spelt(&tokenizer, &tokens), *want, "{kind}");
        assert_eq!((tokenizer.adds_bos(), tokenizer.adds_eos()), (want[0].starts_with(['<', '[']), want.len() == 3 && *kind != "llama"));
    }
}

#[test]
fn control_tokens_come_from_templates_only() {
    let tokenizer = load(&gpt2(&[("<|im_start|>", 3, 0.0), ("<|im_end|>", 1, 0.0), ("<think>", 4, 0.0)]));
    let text = "<|im_start|>low<think><|im_end|>";
    let parsed = tokenizer.encode(text, Special::Parse).unwrap();
    assert_eq!(spelt(&tokenizer, &parsed), ["<|im_start|>", "low", "<think>", "<|im_end|>"]);
    let literal = tokenizer.encode(text, Special::Literal).unwrap();
    assert_eq!(literal.iter().filter(|token| **token >= 260).count(), 1);
    assert_eq!((tokenizer.decode(&literal), tokenizer.decode(&parsed)), (text.to_owned(), "low<think>".to_owned()));
    let mut all = tokenizer.stream().controls(Controls::Show);
    assert_eq!(parsed.iter().map(|token| all.push(*token)).collect::<String>(), text);
    // What a file calls normal is a control token all the same where everyone uses it as one.
    assert_eq!(
        [260, 261, 262].map(|id| tokenizer.token_kind(id).unwrap()),
        [TokenKind::Control, TokenKind::Control, TokenKind::UserDefined]
    );
    assert_eq!((tokenizer.token_kind(263), tokenizer.find("<think>"), tokenizer.vocab_size()), (None, Some(262), 263));
    assert_eq!((tokenizer.token_bytes(259), tokenizer.token_bytes(260)), (b" low".to_vec(), b"<|im_start|>".to_vec()));
}

#[test]
fn a_bos_is_not_added_twice() {
    let tokenizer = load(&file("llama", LLAMA, &[]));
    for (text, special) in [("<s>lo", Special::Parse), ("lo", Special::Parse)] {
        let tokens = tokenizer.encode_with(text, special, Ends::AsModelWants).unwrap();
        assert_eq!(spelt(&tokenizer, &tokens), ["<s>", "▁lo"]);
    }
}

#[test]
fn whatever_ends_generation_is_known() {
    let table: &[(&[&str], &[&str], Option<&str>)] = &[
        (&["<|im_end|>", "<|endoftext|>", "<|im_start|>"], &["<|im_end|>", "<|endoftext|>"], Some("<|im_end|>")),
        (&["<|eot_id|>", "<|eom_id|>", "<|end_of_text|>"], &["<|eot_id|>", "<|eom_id|>", "<|end_of_text|>"], Some("<|eot_id|>")),
        (&["<end_of_turn>"], &["<end_of_turn>"], Some("<end_of_turn>")),
        (&["<|user|>", "<|end|>"], &["<|end|>"], Some("<|end|>")),
        (&["<|end|>", "<|return|>", "<|call|>"], &["<|return|>", "<|call|>"], Some("<|end|>")),
        (&["</s>", "<turn|>", "<|tool_response>"], &["<turn|>", "<|tool_response>"], Some("<turn|>")),
        (&["<fim_pad>", "<fim_prefix>", "<｜end▁of▁sentence｜>"], &["<fim_pad>", "<｜end▁of▁sentence｜>"], Some("<｜end▁of▁sentence｜>")),
        (&["<other>"], &[], None),
    ];
    for (names, ends, turn) in table {
        let rows: Vec<Row> = names.iter().map(|name| (*name, 3, 0.0)).collect();
        let tokenizer = load(&gpt2(&rows));
        assert_eq!(spelt(&tokenizer, tokenizer.ends()), *ends, "{names:?}");
        assert_eq!(tokenizer.eot().and_then(|id| tokenizer.token_text(id)), *turn);
        assert!((0..tokenizer.vocab_size() as Token).all(|id| tokenizer.is_end(id) == tokenizer.ends().contains(&id)));
    }
    let mut named = gpt2(&[]);
    named.set("tokenizer.ggml.eos_token_id", Value::U32(7));
    assert_eq!(load(&named).ends(), [7]);
}

#[test]
fn text_comes_in_whole_characters_however_it_is_cut() {
    for bytes in ["aé世🙂".as_bytes(), b"\xe4\xb8a\xff\xc3\xa9\xf0\x9f\x99", b"\xf0\x9f\xf0\x9f\x99\x82\x80"] {
        let spans: Vec<(usize, usize)> = (0..bytes.len()).flat_map(|from| (from..bytes.len()).map(move |to| (from, to + 1))).collect();
        let tokens: Vec<String> = spans.iter().map(|(from, to)| alphabet(&bytes[*from..*to])).collect();
        let rows: Vec<Row> = tokens.iter().map(|token| (token.as_str(), 1, 0.0)).collect();
        let tokenizer = load(&file("gpt2", &rows, &[merges(&["a b"]), ("pre", "gpt-2".into())]));
        for cuts in 0..1_u32 << (bytes.len() - 1) {
            let (mut stream, mut text, mut from) = (tokenizer.stream(), String::new(), 0);
            for to in 1..=bytes.len() {
                if to == bytes.len() || cuts >> (to - 1) & 1 == 1 {
                    let id = tokenizer.find(&alphabet(&bytes[from..to])).unwrap();
                    assert_eq!(tokenizer.token_bytes(id), &bytes[from..to]);
                    text.push_str(&stream.push(id));
                    from = to;
                }
            }
            text.push_str(&stream.finish());
            assert_eq!(text, String::from_utf8_lossy(bytes), "{cuts:b}");
        }
    }
}

#[test]
fn the_space_that_is_not_there_is_taken_away_once() {
    let tokenizer = load(&file("llama", LLAMA, &[]));
    for text in ["low lo", " low", "  ", "é\n", "<s>", "lo <s> w"] {
        let tokens = tokenizer.encode_with(text, Special::Literal, Ends::AsModelWants).unwrap();
        assert_eq!(tokenizer.decode(&tokens), text);
    }
    let mut goes_on = tokenizer.stream().continuing();
    assert_eq!(goes_on.push(12), " lo");
    assert_eq!(tokenizer.decode(&[1, 12, 99, 12, 2]), "lo lo");
}

#[test]
fn broken_files_are_errors_that_say_what_is_wrong() {
    let without = |key: &str| {
        let mut metadata = gpt2(&[]);
        metadata.remove(key);
        metadata
    };
    let with = |key: &str, value: Value| {
        let mut metadata = gpt2(&[]);
        metadata.set(key, value);
        metadata
    };
    let spm = |key: &str, value: Value| {
        let mut metadata = file("llama", LLAMA, &[]);
        metadata.set(key, value);
        metadata
    };
    let table: &[(Metadata, &[&str])] = &[
        (Metadata::new("x"), &["tokenizer.ggml.model"]),
        (without("tokenizer.ggml.tokens"), &["tokenizer.ggml.tokens"]),
        (without("tokenizer.ggml.merges"), &["tokenizer.ggml.merges"]),
        (with("tokenizer.ggml.merges", Value::U32(1)), &["tokenizer.ggml.merges"]),
        (with("tokenizer.ggml.tokens", Strings::from_iter::<[&str; 0]>([]).into()), &["tokenizer.ggml.tokens", "none"]),
        (with("tokenizer.ggml.token_type", vec![1_i32; 3].into()), &["tokenizer.ggml.token_type", "260", "3"]),
        (with("tokenizer.ggml.model", "rwkv".into()), &["`rwkv`", "`gpt2`"]),
        (with("tokenizer.ggml.pre", "klingon".into()), &["tokenizer.ggml.pre", "`klingon`", "TokenizerOptions::pre", "llama-bpe"]),
        (spm("tokenizer.ggml.scores", vec![0.0_f32; 2].into()), &["tokenizer.ggml.scores", "18", "2"]),
        (spm("tokenizer.ggml.scores", "high".into()), &["tokenizer.ggml.scores"]),
    ];
    for (metadata, parts) in table {
        let why = Tokenizer::from_gguf(metadata, &TokenizerOptions::default()).unwrap_err().to_string();
        assert!(parts.iter().all(|part| why.contains(part)), "{why}");
    }
    let klingon = with("tokenizer.ggml.pre", "klingon".into());
    let tokenizer = Tokenizer::from_gguf(&klingon, &TokenizerOptions { pre: Some("gpt-2".into()) }).unwrap();
    assert_eq!(tokenizer.encode("low", Special::Literal).unwrap(), [257]);
}

#[test]
fn odd_files_do_no_harm() {
    // Ids that no token has are passed over, of equal tokens the first is found, kinds and BOS may be missing.
    let mut odd = gpt2(&[("low", 1, 0.0), ("", 3, 0.0), ("x<s>", 77, 0.0)]);
    odd.set("tokenizer.ggml.bos_token_id", Value::U32(9_999));
    odd.set("tokenizer.ggml.add_bos_token", Value::Bool(true));
    odd.set("tokenizer.ggml.merges", Strings::from_iter(["l o", "nonsense", "", " ", "lo w", "o nowhere", "lo w"]));
    odd.remove("tokenizer.ggml.token_type");
    let tokenizer = load(&odd);
    assert_eq!(tokenizer.encode_with("low", Special::Parse, Ends::AsModelWants).unwrap(), [257]);
    assert_eq!((tokenizer.bos(), tokenizer.adds_bos()), (None, false));
    // Merges that make what is no token, bytes that have none.
    let few = load(&file("gpt2", &[("a", 1, 0.0), ("b", 1, 0.0)], &[merges(&["a b"]), ("pre", "gpt-2".into())]));
    assert_eq!(few.encode("abcé", Special::Literal).unwrap(), [0, 1]);
    assert_eq!(few.decode(&[0, 77, u32::MAX, 1]), "ab");
    // Character maps of every length and a scrambled one.
    let map: Vec<u8> = (0..200_u32).flat_map(|n| n.wrapping_mul(0x9e37_79b9).to_le_bytes()).collect();
    for len in 0..map.len() {
        let mut bytes = map[..len].to_vec();
        if len > 4 {
            bytes[..4].copy_from_slice(&((len as u32 - 4) / 2).to_le_bytes());
        }
        let rows: &[Row] = &[("<pad>", 3, 0.0), ("</s>", 3, 0.0), ("<unk>", 2, 0.0), ("▁", 1, f32::NAN), ("a", 1, f32::INFINITY)];
        if let Ok(tokenizer) =
            Tokenizer::from_gguf(&file("t5", rows, &[("precompiled_charsmap", bytes.into())]), &TokenizerOptions::default())
        {
            tokenizer.encode("aé世 \0 zebra", Special::Literal).unwrap();
        }
    }
}

#[test]
fn a_megabyte_in_one_line_takes_bounded_time() {
    let bert: &[Row] = &[("[UNK]", 3, 0.0), ("▁a", 1, 0.0), ("a", 1, 0.0), ("aaaaaaaa", 1, 0.0)];
    let t5: &[Row] = &[("<unk>", 2, 0.0), ("a", 1, -1.0), ("aa", 1, -1.5), ("aaaaaaaa", 1, -2.0)];
    let spaces: Vec<String> = (2..25).map(|count| " ".repeat(count)).collect();
    let neox: Vec<Row> = spaces.iter().map(|run| (run.as_str(), 4, 0.0)).collect();
    let files = [
        gpt2(&neox),
        file("llama", LLAMA, &[]),
        file("bert", bert, &[("unknown_token_id", Value::U32(0))]),
        file("t5", t5, &[("unknown_token_id", Value::U32(0))]),
    ];
    for metadata in files {
        let tokenizer = load(&metadata);
        for unit in ["a", "lo", " ", "é", "<s"] {
            tokenizer.encode(&unit.repeat((1 << 17) / unit.len()), Special::Parse).unwrap();
        }
    }
}
