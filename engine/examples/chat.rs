//! A conversation in the terminal: `cargo run --release -p hob --example chat -- MODEL.gguf`

use hob::{Model, Sampling};
use std::io::{Write, stdin, stdout};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args().nth(1).unwrap_or(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/tiny.gguf").into());
    let model = Model::open(path)?;
    model.notices().iter().for_each(|notice| eprintln!("{notice}"));
    let mut chat = model.chat().system("Answer in one sentence.").sampling(Sampling::new(42).temperature(0.7)).max_tokens(256);
    for line in stdin().lines() {
        let mut reply = chat.say(&line?)?;
        for piece in &mut reply {
            print!("{}", piece?);
            stdout().flush()?;
        }
        println!("\n{}", reply.stats());
    }
    Ok(())
}
