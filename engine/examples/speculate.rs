//! The same text twice, plain and with tokens that are computed on trial; the second is sooner where the text repeats itself:
//! `cargo run --release -p hob --example speculate -- MODEL.gguf [DRAFT.gguf]`

use hob::{Model, Sampling, Speculation};

fn main() -> hob::Result<()> {
    let mut args = std::env::args().skip(1);
    let path = args.next().unwrap_or(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/tiny.gguf").into());
    let speculation = match args.next() {
        Some(draft) => Speculation::Draft(Model::open(draft)?),
        None => Speculation::Lookup,
    };
    let question = "Repeat this program and call the function `sum`:\n\nfn add(numbers: &[i64]) -> i64 {\n    numbers.iter().sum()\n}\n";

    let mut texts = Vec::new();
    for speculation in [Speculation::Off, speculation] {
        let model = Model::options().speculation(speculation).open(&path)?;
        let mut chat = model.chat().sampling(Sampling::new(42).temperature(0.2)).max_tokens(256);
        texts.push(chat.say(question)?.text()?);
        println!("{}", chat.stats());
    }
    println!("{}", if texts[0] == texts[1] { "the same text" } else { "different texts: a bug" });
    Ok(())
}
