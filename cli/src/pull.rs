//! `hob pull`: brings a model, into the cache that other programs use too.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::failure::Failure;
use crate::fetch;
use crate::folders;
use crate::interrupt::Interrupts;
use crate::models;
use crate::terminal::note_dim;

const AFTER: &str = "\
Without a quantization it is Q4_K_M, or what the repository has instead. A download that was broken off goes on where it stopped.
The path of the file goes to standard output.

Examples:
  hob pull qwen3-4b                                       a name that hob knows: hob plan lists them
  hob pull bartowski/Llama-3.2-1B-Instruct-GGUF:Q8_0      from huggingface.co
  hob pull https://example.org/model.gguf                 from anywhere, into the first folder of HOB_MODELS
  HF_TOKEN=hf_… hob pull google/gemma-3-4b-it-qat-q4_0-gguf      a repository that asks who you are

Environment:
  HF_HUB_CACHE, HF_HOME          where files go [default: ~/.cache/huggingface/hub]
  HF_TOKEN                       who asks; else the token of `hf auth login`
  HF_ENDPOINT                    another server than https://huggingface.co
  HF_HUB_OFFLINE                 1: never uses the network
  HTTPS_PROXY, ALL_PROXY, NO_PROXY, SSL_CERT_FILE";

/// Flags of `hob pull`.
#[derive(clap::Args)]
#[command(after_help = AFTER)]
pub(crate) struct Args {
    /// user/repo[:QUANT], a name that hob knows, or an address
    #[arg(value_name = "MODEL")]
    model: String,
    /// Download it even where another program has the very file already
    #[arg(long)]
    force: bool,
}

/// Runs `hob pull`.
pub(crate) fn run(args: Args, out: &mut dyn Write) -> Result<(), Failure> {
    let interrupts = Interrupts::install();
    let reference = models::reference(&args.model)?;
    let hub = fetch::hub()?;
    if let Some(variable) = hob::store::places::offline() {
        // What is here is here, network or none.
        if let hob::store::Found::One(entry) = folders::listing(&[]).find(&reference.to_string()) {
            note_dim(&format!("{variable} is set; it is here already"));
            writeln!(out, "{}", entry.usable()?.display())?;
            return Ok(());
        }
    }
    let remote = fetch::look_up(&hub, &reference)?;
    if let Some(path) = hub.local(&remote) {
        note_dim(&format!("{} is here already: hob run {}", remote.name, remote.name));
        writeln!(out, "{}", path.display())?;
        return Ok(());
    }
    if let Some((path, who)) = (!args.force).then(|| fetch::elsewhere(&remote)).flatten() {
        note_dim(&format!("the very file is here already, in the store of {who}: nothing is downloaded (--force does)"));
        writeln!(out, "{}", path.display())?;
        return Ok(());
    }
    note_dim(&fetch::describe(&hub, &remote));
    let stop = Arc::new(AtomicBool::new(false));
    let guard = interrupts.guard({
        let stop = Arc::clone(&stop);
        move || stop.store(true, Ordering::Relaxed)
    });
    let path = fetch::download(&hub, &remote, &stop);
    if guard.interrupted() {
        note_dim(&format!("stopped; hob pull {} goes on where it was", args.model));
    }
    let path = path?;
    note_dim(&format!("done: hob chat {}", remote.name));
    writeln!(out, "{}", path.display())?;
    Ok(())
}
