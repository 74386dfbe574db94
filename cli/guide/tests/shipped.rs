//! The file that is shipped: cli/guide/guide.gguf, a trained Q4_K_M model. What it says is the same on every machine, so it can be
//! compared letter by letter.

use hob::gguf::{Gguf, TensorType};
use hob::tokenizer::Special;
use hob::{Message, Model, Role, Sampling};
use hob_guide::score::{Verdict, questions, samples, score, surprise};

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/guide.gguf");
/// Twelve questions that it never read, with their answers: `hob-guide sample 12 7`.
const SAMPLE: &str = include_str!("sample.txt");
/// How well the F16 file that it was made from foresees them: `hob-guide surprise target/guide/guide-f16.gguf cli/guide/tests/sample.txt`.
const SURPRISE_F16: f64 = 1.00789;
/// Answers to the sixty questions that are right, of those that the test has time for: every tenth.
const EVERY: usize = 10;

fn model() -> Model {
    Model::options().threads(1).context(512).open(FILE).unwrap()
}

#[test]
fn it_is_a_small_q4_k_m_file_that_says_where_it_comes_from() {
    let gguf = Gguf::open(FILE).unwrap();
    assert!(gguf.file_bytes() <= 5 * 1000 * 1000, "{}", gguf.file_bytes());
    let weights: u64 = gguf.tensors().map(|tensor| tensor.elements()).sum();
    assert!((3_000_000..8_000_000).contains(&weights), "{weights}");
    let count = |kind| gguf.tensors().filter(|tensor| tensor.kind == kind).count();
    assert!(count(TensorType::Q4_K) > 0 && count(TensorType::Q6_K) > 0);
    assert_eq!(count(TensorType::Q4_K) + count(TensorType::Q6_K) + count(TensorType::F32), gguf.tensors().len());
    let made = gguf.metadata().str("general.source").unwrap().unwrap();
    assert!(made.contains("hob-guide-train --steps "), "{made}");
}

#[test]
fn it_reads_a_conversation_as_it_was_trained() {
    let model = model();
    let said = [
        Message::new(Role::System, "s"),
        Message::new(Role::User, "u <|end|>"),
        Message::new(Role::Assistant, "a"),
        Message::new(Role::User, "v"),
    ];
    let tokens = model.encode_chat(&said, &serde_json::Map::new()).unwrap();
    let tokenizer = model.tokenizer();
    let control = |text: &str| tokenizer.encode(text, Special::Parse).unwrap();
    let text = |text: &str| tokenizer.encode(text, Special::Literal).unwrap();
    let end = || control("<|end|>");
    let want = [
        control("<|system|>"),
        text("s"),
        end(),
        control("<|user|>"),
        text("u <|end|>"),
        end(),
        control("<|assistant|>"),
        text("a"),
        end(),
        control("<|user|>"),
        text("v"),
        end(),
        control("<|assistant|>"),
    ];
    assert_eq!(tokens, want.concat());
    assert_eq!(tokenizer.eos(), end().first().copied());
}

#[test]
fn its_answers_are_the_same_everywhere() {
    let mut chat = model().chat().sampling(Sampling::greedy()).max_tokens(80);
    let told = [
        ("hello", "Hello! I am hob's guide. Ask me how to get a model, how to chat with it, or what a flag does."),
        (
            "how do I download a model?",
            "`hob pull qwen3-4b` downloads a model by name, `hob pull user/repo:Q4_K_M` any GGUF from Hugging Face.",
        ),
        ("and how do I delete it?", "`hob rm MODEL` deletes a model from the disk; `hob ls` shows what is there."),
        ("thanks!", "You are welcome! Ask on whenever you like."),
        (
            "I have 16 GB of RAM, which model?",
            "With 16 GB take llama-3.1-8b in Q4_K_M (4.9 GB): `hob pull llama-3.1-8b`. For long contexts qwen3-4b leaves more room.",
        ),
        ("and 8 GB?", "With 8 GB take qwen3-4b in Q4_K_M (2.5 GB): `hob pull qwen3-4b`, then `hob chat qwen3-4b`."),
    ];
    for (asked, answer) in told {
        assert_eq!(chat.say(asked).unwrap().text().unwrap(), answer);
    }
}

#[test]
fn every_tenth_question_is_answered() {
    let asked: Vec<_> = questions().unwrap().into_iter().step_by(EVERY).collect();
    let judged = score(&model(), &asked).unwrap();
    let wrong: Vec<_> = judged.iter().filter(|judged| judged.verdict == Verdict::Wrong).collect();
    assert!(wrong.len() * 5 <= judged.len(), "{wrong:#?}");
}

#[test]
fn quantizing_it_costs_less_than_three_percent() {
    let sample = samples(SAMPLE);
    assert_eq!(sample.len(), 12);
    let found = surprise(&model(), &sample).unwrap();
    assert!((found / SURPRISE_F16 - 1.0).abs() < 0.03, "{found} against {SURPRISE_F16}");
}
