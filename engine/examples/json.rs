//! Answers as values: a type of Rust, a JSON schema, a grammar. Whatever the model, what comes is valid:
//! `cargo run --release -p hob --example json -- MODEL.gguf`

use hob::{Grammar, Model, Sampling, schemars};

#[derive(Debug, serde::Deserialize, schemars::JsonSchema)]
struct Recipe {
    #[schemars(length(min = 3, max = 40))]
    name: String,
    minutes: u8,
    difficulty: Difficulty,
    #[schemars(length(min = 1, max = 4))]
    ingredients: Vec<Ingredient>,
}

#[derive(Debug, serde::Deserialize, schemars::JsonSchema)]
enum Difficulty {
    Easy,
    Hard,
}

#[derive(Debug, serde::Deserialize, schemars::JsonSchema)]
struct Ingredient {
    #[schemars(length(max = 24))]
    name: String,
    grams: u16,
}

fn main() -> hob::Result<()> {
    let path = std::env::args().nth(1).unwrap_or(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/tiny.gguf").into());
    let model = Model::open(path)?;

    // The type is the schema.
    let mut chat = model.chat().sampling(Sampling::new(42).temperature(0.7)).max_tokens(1024);
    let recipe: Recipe = chat.ask("A recipe for a simple soup, as JSON: name, minutes, difficulty, ingredients with grams.")?;
    println!("{} · {} minutes · {:?}", recipe.name, recipe.minutes, recipe.difficulty);
    for Ingredient { name, grams } in &recipe.ingredients {
        println!("  {grams} g {name}");
    }

    // Or a grammar of one's own: JsonSchema, Regex, Lark, Gbnf.
    let yes_or_no = Grammar::Gbnf("root ::= (\"Yes\" | \"No\") \", because \" [a-z ]{5,60} \".\"".into());
    let mut chat = model.chat().sampling(Sampling::new(42)).grammar(yes_or_no);
    let mut reply = chat.say("Is soup food?")?;
    for piece in &mut reply {
        print!("{}", piece?);
    }
    println!("\n{}", reply.stats());
    Ok(())
}
