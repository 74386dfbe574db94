//! One prompt, read once, and several ways on from it: forks, marks to come back to, and a file to go on from another day. However a
//! session came to its tokens, what it says next has the same bits: `cargo run --release -p hob --example fork -- MODEL.gguf`

use hob::tokenizer::{Ends, Special};
use hob::{Model, Sampler, Sampling, Session, Token};

fn say(session: &mut Session, seed: u64) -> hob::Result<Vec<Token>> {
    session.generate(Sampler::new(&Sampling::new(seed))?).max_tokens(16).collect()
}

fn main() -> hob::Result<()> {
    let path = std::env::args().nth(1).unwrap_or(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/tiny.gguf").into());
    // What one session has computed serves the others: 64 MiB of it.
    let model = Model::options().context(512).prefix_cache(64 << 20).open(path)?;
    let text = |tokens: &[Token]| model.tokenizer().decode(tokens);
    let prompt = model.tokenizer().encode_with("Once upon a time there was a hob that", Special::Literal, Ends::AsModelWants)?;

    let mut session = model.session()?;
    session.feed(&prompt)?;
    let mark = session.checkpoint()?;

    // A fork is a session of its own: both go on, on threads of their own if they like.
    let mut fork = session.fork()?;
    let one = say(&mut session, 1)?;
    let two = std::thread::spawn(move || say(&mut fork, 2)).join().map_err(|_| hob::Error::Cancelled)??;
    println!("one: {}\ntwo: {}", text(&one), text(&two));

    // Back to the mark, and the other way: nothing of the prompt is computed again.
    session.restore(&mark)?;
    assert_eq!(say(&mut session, 2)?, two);

    // Into a file, and on from there.
    let file = std::env::temp_dir().join(format!("hob-fork-{}", std::process::id()));
    session.save(&file)?;
    let mut loaded = model.load_session(&file)?;
    assert_eq!(say(&mut loaded, 3)?, say(&mut session, 3)?);
    std::fs::remove_file(&file).map_err(|source| hob::Error::Io { path: file, source })?;

    // A new session that begins alike finds what this one has computed.
    let mut again = model.session()?;
    again.feed(&[prompt.as_slice(), &two].concat())?;
    println!("{}", again.stats());
    Ok(())
}
