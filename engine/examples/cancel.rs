//! Stops a reply from another thread after a second, while it reads the prompt or while it speaks:
//! `cargo run --release -p hob --example cancel -- MODEL.gguf`

use hob::{EndReason, Model};
use std::time::{Duration, Instant};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args().nth(1).unwrap_or(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/tiny.gguf").into());
    let model = Model::open(path)?;
    let mut chat = model.chat();
    let mut reply = chat.say("Count to ten thousand.")?;

    let canceller = reply.canceller();
    let watch = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_secs(1));
        canceller.cancel();
        Instant::now()
    });
    for piece in &mut reply {
        print!("{}", piece?);
    }
    if reply.end() == Some(EndReason::Cancelled) {
        let cancelled = watch.join().map_err(|_| "the watch failed")?;
        println!("\nstopped {:?} after the cancel; {}", cancelled.elapsed(), reply.stats());
    } else {
        println!("\nit ended by itself; {}", reply.stats());
    }
    drop(reply);

    // What was said is part of the conversation, which goes on.
    println!("{} messages", chat.messages().len());
    Ok(())
}
