//! A model of random weights is the hardest driver of a grammar: whatever it would like to say, what it says is valid. 200 random schemas
//! are held against an independent check; then bans, stops, limits, forks and values.
#![cfg(feature = "grammar")]

#[path = "grammar/schemas.rs"]
mod schemas;

use hob::{EndReason, Error, Grammar, Model, Sampler, Sampling, Session};
use schemas::{Dice, schema, valid};
use serde_json::{Value as Json, json};

fn model() -> Model {
    Model::options().threads(1).context(2048).open(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/tiny.gguf")).unwrap()
}

fn session(model: &Model) -> Session {
    let mut session = model.session().unwrap();
    session.feed(&[1, 5, 9]).unwrap();
    session
}

/// The text, how it ended, and whether it is whole.
fn text(session: &mut Session, grammar: &Grammar, seed: u64, most: usize) -> (String, Option<EndReason>, bool) {
    let sampler = Sampler::new(&Sampling::new(seed).temperature(1.5)).unwrap();
    let mut pieces = session.generate(sampler).grammar(grammar).unwrap().max_tokens(most).text();
    let text = pieces.by_ref().collect::<hob::Result<String>>().unwrap();
    (text, pieces.end(), pieces.is_whole())
}

fn random_schemas(seeds: std::ops::Range<u64>) {
    let model = model();
    let mut session = session(&model);
    for seed in seeds {
        let schema = schema(&mut Dice(seed));
        let grammar = Grammar::JsonSchema(schema.clone());
        let (text, end, whole) = text(&mut session, &grammar, seed, 160);
        let value: Json = serde_json::from_str(&text).unwrap_or_else(|why| panic!("seed {seed}: {why}: {text}\n{schema}"));
        assert!(valid(&value, &schema, &schema), "seed {seed}: {text}\n{schema}");
        assert!(whole && matches!(end, Some(EndReason::EndOfTurn | EndReason::MaxTokens)), "seed {seed}: {end:?} {text}");
        session.truncate(3).unwrap();
    }
}

#[test]
fn random_schemas_to_50() {
    random_schemas(0..50);
}

#[test]
fn random_schemas_to_100() {
    random_schemas(50..100);
}

#[test]
fn random_schemas_to_150() {
    random_schemas(100..150);
}

#[test]
fn random_schemas_to_200() {
    random_schemas(150..200);
}

#[test]
fn a_cut_text_is_closed_while_there_is_room_for_that() {
    let model = model();
    let mut session = session(&model);
    let schema = json!({"type": "object", "additionalProperties": false, "required": ["name", "tags", "born"], "properties": {
        "name": {"type": "string"}, "tags": {"type": "array", "items": {"type": "string"}}, "born": {"type": "integer", "minimum": 1500}}});
    // Some 33 characters are needed.
    for most in [1, 8, 20, 28, 36, 44, 60, 90] {
        let (text, end, whole) = text(&mut session, &Grammar::JsonSchema(schema.clone()), most as u64, most);
        let parsed = serde_json::from_str::<Json>(&text);
        assert_eq!(parsed.is_ok(), whole, "{most}: {text}");
        assert!(if most < 20 { !whole } else { whole || most < 36 }, "{most}: {text}");
        assert!(session.len() - 3 <= most && matches!(end, Some(EndReason::MaxTokens | EndReason::EndOfTurn)), "{most}: {end:?} {text}");
        parsed.iter().for_each(|value| assert!(valid(value, &schema, &schema), "{value}"));
        session.truncate(3).unwrap();
    }
    // The context's end is a limit like another.
    let small = Model::options().threads(1).context(50).open(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/tiny.gguf")).unwrap();
    let (text, end, whole) = text(&mut self::session(&small), &Grammar::JsonSchema(schema), 5, usize::MAX);
    assert!(whole && serde_json::from_str::<Json>(&text).is_ok(), "{end:?} {text}");
}

#[test]
fn bans_stops_and_forks_go_along_with_it() {
    let model = model();
    let mut session = session(&model);
    let animals = Grammar::Regex("a (cat|cow|canary|dog)( and a (cat|cow|canary|dog)){2}".into());
    for seed in 0..6 {
        let sampler = Sampler::new(&Sampling::new(seed).temperature(1.5)).unwrap();
        let generator = session.generate(sampler).grammar(&animals).unwrap();
        let mut pieces = generator.ban("cow").ban("cat").ban("canary and").text();
        let text = pieces.by_ref().collect::<hob::Result<String>>().unwrap();
        assert!(pieces.is_whole() && text.starts_with("a dog and a dog and a "), "{text}");
        assert!(text.ends_with("dog") || text.ends_with("canary"), "{text}");
        session.truncate(3).unwrap();
        let sampler = Sampler::new(&Sampling::new(seed)).unwrap();
        let mut pieces = session.generate(sampler).grammar(&animals).unwrap().stop(" and").text();
        let text = pieces.by_ref().collect::<hob::Result<String>>().unwrap();
        assert!(["a cat", "a cow", "a canary", "a dog"].contains(&text.as_str()) && !pieces.is_whole(), "{text}");
        session.truncate(3).unwrap();
    }
    let sampler = Sampler::new(&Sampling::greedy()).unwrap();
    let none = session.generate(sampler).grammar(&Grammar::Regex("cow".into())).unwrap().ban("cow").text().collect::<hob::Result<String>>();
    assert!(matches!(&none, Err(Error::Input(fault)) if fault.place == "banned string"), "{none:?}");
    session.truncate(3).unwrap();
    // Two ways on from one prompt, each with a grammar of its own.
    let mut fork = session.fork().unwrap();
    let one = text(&mut session, &Grammar::Regex("[ab]{12}".into()), 1, 40).0;
    let other = text(&mut fork, &Grammar::Regex("[cd]{12}".into()), 1, 40).0;
    assert!(one.bytes().all(|b| b"ab".contains(&b)) && other.bytes().all(|b| b"cd".contains(&b)) && one.len() == 12, "{one} {other}");
}

#[derive(serde::Deserialize, hob::schemars::JsonSchema, Debug)]
#[allow(dead_code)] // what matters is that they could be read
#[schemars(crate = "hob::schemars")]
struct Meal {
    #[schemars(length(min = 1, max = 12))]
    name: String,
    kind: Kind,
    courses: u8,
    #[schemars(length(max = 2))]
    with: Vec<Side>,
    note: Option<bool>,
}

#[derive(serde::Deserialize, hob::schemars::JsonSchema, Debug, PartialEq)]
#[schemars(crate = "hob::schemars")]
#[serde(rename_all = "lowercase")]
enum Kind {
    Lunch,
    Dinner,
}

#[derive(serde::Deserialize, hob::schemars::JsonSchema, Debug)]
#[allow(dead_code)] // what matters is that they could be read
#[schemars(crate = "hob::schemars")]
#[serde(tag = "is")]
enum Side {
    Bread,
    Soup { hot: bool },
    Other { grams: i32 },
}

#[test]
fn a_value_is_asked_for_and_comes() {
    let model = model();
    for seed in 0..8 {
        let mut chat = model.chat().sampling(Sampling::new(seed).temperature(1.5));
        let meal: Meal = chat.ask("What is there to eat?").unwrap();
        assert!((1..=12).contains(&meal.name.chars().count()) && meal.with.len() <= 2, "{meal:?}");
        assert!(chat.messages().last().unwrap().content.starts_with('{'));
    }
    let mut chat = model.chat().max_tokens(30);
    let error = chat.ask::<Meal>("And now?").unwrap_err();
    assert!(error.to_string().contains("cut by the token limit"), "{error}");
    assert_eq!(chat.ask::<bool>("Yes?").map(|_| ()).ok(), Some(()));
}
