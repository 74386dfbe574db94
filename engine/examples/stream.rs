//! Continues a text, token by token, and shows how sure the model was of each:
//! `cargo run --release -p hob --example stream -- MODEL.gguf "Once upon a time"`

use hob::tokenizer::{Ends, Special};
use hob::{Model, Sampler, Sampling};
use std::io::{Write, stdout};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let path = args.next().unwrap_or(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/tiny.gguf").into());
    let text = args.next().unwrap_or("Once upon a time".into());

    let model = Model::options().context(1024).open(path)?;
    let prompt = model.tokenizer().encode_with(&text, Special::Literal, Ends::AsModelWants)?;
    let mut session = model.session()?;
    session.feed(&prompt)?;
    print!("{text}");

    let mut stream = model.tokenizer().stream().continuing();
    let mut generator = session.generate(Sampler::new(&Sampling::new(1).over(model.sampling()))?).max_tokens(64);
    for token in &mut generator {
        print!("{}", stream.push(token?));
        stdout().flush()?;
    }
    println!("{}", stream.finish());
    if let Some(end) = generator.end() {
        println!("[{end}] {}", generator.stats());
    }

    // The logits after the last token are there to be looked at; once more for those of a whole text.
    session.clear()?;
    let (mut position, mut surprise) = (0, 0.0);
    session.logits_of_all(&prompt, |logits| {
        position += 1;
        if let Some(next) = prompt.get(position) {
            let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let sum: f32 = logits.iter().map(|l| (l - highest).exp()).sum();
            surprise += highest + sum.ln() - logits[*next as usize];
        }
        Ok(())
    })?;
    println!("the prompt's surprise: {:.2} bits a token", surprise / 2f32.ln() / (prompt.len() - 1).max(1) as f32);
    Ok(())
}
