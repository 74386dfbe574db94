//! Writes `engine/tests/data/tiny.gguf`, the model of doctests, examples and tests: random weights, two layers, 303 tokens.
//!
//! ```text
//! cargo run -p hob --example make_tiny
//! ```
//!
//! The file is committed; a test checks that it is what this program writes.

#[path = "../tests/fixture/mod.rs"]
mod fixture;

fn main() -> std::io::Result<()> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/tiny.gguf");
    let model = fixture::tiny();
    std::fs::write(path, &model)?;
    println!("{path}: {} bytes", model.len());
    Ok(())
}
