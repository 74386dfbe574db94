//! Time travel: one conversation that goes several ways, saved as it goes, closed and taken up again:
//! `cargo run --release -p hob --example branches -- MODEL.gguf`

use hob::chat::{Full, Saved};
use hob::{Model, Sampling};

fn main() -> hob::Result<()> {
    let path = std::env::args().nth(1).unwrap_or(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/tiny.gguf").into());
    let model = Model::options().context(1024).open(path)?;
    let file = std::env::temp_dir().join(format!("hob-branches-{}.jsonl", std::process::id()));

    let mut chat = model.chat().sampling(Sampling::new(7)).max_tokens(24).full(Full::Roll);
    chat.save_to(&file)?; // from here on every token is written as it comes
    println!("sky:   {}", chat.say("Why is the sky blue?")?.text()?);
    println!("again: {}", chat.retry()?.text()?);
    chat.branch("sea")?; // a second way on, from here
    println!("sea:   {}", chat.edit(1, "Why is the sea blue?")?.text()?);
    drop(chat);

    // Closed, or killed: it goes on with the bits that it would have had.
    let mut chat = model.chat().max_tokens(24).resume(Saved::open(&file)?);
    chat.switch("main")?; // the cache keeps what both ways share
    println!("dusk:  {}", chat.say("And at dusk?")?.text()?);
    for branch in chat.conversation().branches() {
        println!("{} {}: {} questions, the last: {}", if branch.current { '*' } else { ' ' }, branch.name, branch.questions, branch.last);
    }
    drop(chat);
    std::fs::remove_file(&file).map_err(|source| hob::Error::Io { path: file, source })
}
