//! `hob pull`: brings a model, into the cache that other programs use too.

use std::io::{IsTerminal, Write};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use hob::hub::{Event, Hub, Remote};
use hob::store::Reference;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::failure::Failure;
use crate::interrupt::Interrupts;
use crate::models;
use crate::terminal::{Waiting, note_dim, printable};
use crate::units;

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
    let hub = hub()?;
    if let Some(variable) = hob::store::places::offline() {
        // What is here is here, network or none.
        if let hob::store::Found::One(entry) = models::listing(&[]).find(&reference.to_string()) {
            note_dim(&format!("{variable} is set; it is here already"));
            writeln!(out, "{}", entry.usable()?.display())?;
            return Ok(());
        }
    }
    let remote = look_up(&hub, &reference)?;
    if let Some(path) = hub.local(&remote) {
        note_dim(&format!("{} is here already: hob run {}", remote.name, remote.name));
        writeln!(out, "{}", path.display())?;
        return Ok(());
    }
    if let Some((path, who)) = (!args.force).then(|| elsewhere(&remote)).flatten() {
        note_dim(&format!("the very file is here already, in the store of {who}: nothing is downloaded (--force does)"));
        writeln!(out, "{}", path.display())?;
        return Ok(());
    }
    note_dim(&describe(&hub, &remote));
    let stop = Arc::new(AtomicBool::new(false));
    let guard = interrupts.guard({
        let stop = Arc::clone(&stop);
        move || stop.store(true, Ordering::Relaxed)
    });
    let path = with_bar(&hub, &remote, &stop);
    if guard.interrupted() {
        note_dim(&format!("stopped; hob pull {} goes on where it was", args.model));
    }
    let path = path?;
    note_dim(&format!("done: hob chat {}", remote.name));
    writeln!(out, "{}", path.display())?;
    Ok(())
}

/// The hub of this environment.
pub(crate) fn hub() -> Result<Hub, Failure> {
    let options = Hub::options();
    let options = match models::folder() {
        Some(folder) => options.folder(folder),
        None => options,
    };
    Ok(options.build()?)
}

/// What is there under a name.
pub(crate) fn look_up(hub: &Hub, reference: &Reference) -> Result<Remote, Failure> {
    let _waiting = Waiting::on(format!("asking for {reference}"));
    Ok(hub.find(reference)?)
}

/// What would come, from where, where to, and how much of it.
pub(crate) fn describe(hub: &Hub, remote: &Remote) -> String {
    let (total, here) = (remote.bytes(), hub.present(remote));
    let name = remote.files.first().map_or("", |file| file.path.as_str());
    let parts = if remote.files.len() > 1 { format!(" and {} more parts", remote.files.len() - 1) } else { String::new() };
    let rest = if here > 0 { format!(", {} of it here", units::bytes(here)) } else { String::new() };
    format!("{}{parts}, {}{rest}, from {}", printable(name), units::bytes(total), printable(&remote.place()))
}

/// Downloads, with a bar.
pub(crate) fn download(hub: &Hub, remote: &Remote) -> Result<PathBuf, Failure> {
    with_bar(hub, remote, &AtomicBool::new(false))
}

fn with_bar(hub: &Hub, remote: &Remote, stop: &AtomicBool) -> Result<PathBuf, Failure> {
    let bar = bar(remote.bytes());
    bar.set_position(hub.present(remote));
    bar.reset_eta();
    let mut checking = false;
    let done = hub.pull(remote, &mut |event| {
        match event {
            Event::File { name, number, of } => {
                let name = name.rsplit('/').next().unwrap_or(name);
                bar.set_message(if of > 1 { format!("{} ({number} of {of})", printable(name)) } else { printable(name).into_owned() });
            }
            Event::Bytes { done, .. } => {
                // What was only looked at is no download: the rate begins anew.
                if std::mem::take(&mut checking) {
                    bar.set_position(done);
                    bar.reset_eta();
                }
                bar.set_position(done);
                bar.set_prefix("");
            }
            Event::Checking { .. } => {
                checking = true;
                bar.set_prefix("checking what is here · ");
            }
            Event::Waiting { why, left } => bar.set_prefix(format!("{} · again in {} s · ", printable(why), left.as_secs() + 1)),
            Event::Locked => bar.set_prefix("another program is downloading it · "),
            _ => {}
        }
        if stop.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    bar.finish_and_clear();
    Ok(done?)
}

/// A bar of bytes on a terminal, with what it still takes.
fn bar(total: u64) -> ProgressBar {
    let template = "{prefix}{msg} [{bar:30}] {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left";
    let target = if std::io::stderr().is_terminal() { ProgressDrawTarget::stderr_with_hz(8) } else { ProgressDrawTarget::hidden() };
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::with_draw_target(Some(total), target).with_style(style.progress_chars("=> "))
}

/// The same file in another program's store, by its hash.
pub(crate) fn elsewhere(remote: &Remote) -> Option<(PathBuf, String)> {
    let [file] = remote.files.as_slice() else { return None };
    let hash = file.sha256.as_ref()?;
    let here = models::listing(&[]);
    let same = here.entries.iter().find(|entry| entry.sha256.as_ref() == Some(hash) && entry.path().is_some())?;
    Some((same.path()?.to_owned(), format!("{} ({})", same.store.keeper, same.name())))
}
