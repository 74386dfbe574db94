//! Several conversations over one model, each on its own thread; the weights are shared:
//! `cargo run --release -p hob --example sessions -- MODEL.gguf`

use hob::{Model, Sampling};

fn main() -> hob::Result<()> {
    let path = std::env::args().nth(1).unwrap_or(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/tiny.gguf").into());
    let model = Model::options().threads(1).context(512).open(path)?;
    let questions = ["What is a hob?", "Name a colour.", "What is two and two?"];

    let answers: Vec<hob::Result<String>> = std::thread::scope(|scope| {
        let ask = |question| {
            let mut chat = model.chat().sampling(Sampling::new(7)).max_tokens(24);
            move || chat.say(question)?.text()
        };
        let threads: Vec<_> = questions.iter().map(|question| scope.spawn(ask(question))).collect();
        threads.into_iter().flat_map(|thread| thread.join()).collect()
    });
    for (question, answer) in questions.iter().zip(answers) {
        println!("{question}\n  {}", answer?);
    }

    // A session can be forked: two ways on from one prompt that is read once.
    let mut session = model.session()?;
    session.feed(&model.tokenizer().encode("Once upon a time", hob::tokenizer::Special::Literal)?)?;
    for seed in [1, 2] {
        let mut fork = session.fork()?;
        let sampler = hob::Sampler::new(&Sampling::new(seed))?;
        let tokens = fork.generate(sampler).max_tokens(24).collect::<hob::Result<Vec<_>>>()?;
        println!("{seed}: {}", model.tokenizer().decode(&tokens));
    }
    Ok(())
}
