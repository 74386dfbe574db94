//! A model that calls functions of this program: `cargo run --release -p hob --example tools -- MODEL.gguf "How late is it?"`

use hob::{Event, Model, Thinking};
use std::io::{Write, stdout};
use std::time::SystemTime;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let path = args.next().unwrap_or(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/tiny.gguf").into());
    let question = args.next().unwrap_or("How much is 17.5 times 23, and how late is it?".into());

    // A closure takes the arguments and returns what the model is told. An `Err` is told to it too.
    let multiply = serde_json::json!({
        "name": "multiply", "description": "Multiplies two numbers.",
        "parameters": {"type": "object", "properties": {"a": {"type": "number"}, "b": {"type": "number"}}, "required": ["a", "b"]},
    });
    let clock =
        serde_json::json!({"name": "clock", "description": "Seconds since 1970.", "parameters": {"type": "object", "properties": {}}});
    let mut chat = Model::open(path)?
        .chat()
        .max_tokens(256)
        .thinking(Thinking::Off)
        .tool(multiply, |given| match (given["a"].as_f64(), given["b"].as_f64()) {
            (Some(a), Some(b)) => Ok((a * b).to_string()),
            (_, _) => Err("`a` and `b` must be numbers".into()),
        })
        .tool(clock, |_| {
            let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
            since.map(|time| time.as_secs().to_string()).map_err(|why| why.to_string())
        });
    for ignored in chat.ignored() {
        eprintln!("{ignored}");
    }

    let mut reply = chat.say(&question)?;
    for event in reply.events() {
        match event? {
            Event::Answer(text) => print!("{text}"),
            Event::Thinking(text) => eprint!("{text}"),
            Event::Call(call) => eprintln!("\n→ {}{}", call.name, call.arguments),
            Event::Result { content, .. } => eprintln!("← {content}"),
            Event::Malformed { raw, why } => eprintln!("\na call that cannot be read ({why}): {raw}"),
            Event::End(reason) => println!("\n[{reason}]"),
            _ => {}
        }
        stdout().flush()?;
    }
    Ok(())
}
