//! Models that are not here: asking for one, telling of it, bringing it with a bar.

use std::io::IsTerminal;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use hob::hub::{Event, Hub, Remote};
use hob::store::Reference;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::failure::Failure;
use crate::folders;
use crate::terminal::{Waiting, printable};
use crate::units;

/// The hub of this environment.
pub(crate) fn hub() -> Result<Hub, Failure> {
    let options = Hub::options();
    let options = match folders::models() {
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

/// Downloads, with a bar, until `stop`.
pub(crate) fn download(hub: &Hub, remote: &Remote, stop: &AtomicBool) -> Result<PathBuf, Failure> {
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
    let here = folders::listing(&[]);
    let same = here.entries.iter().find(|entry| entry.sha256.as_ref() == Some(hash) && entry.path().is_some())?;
    Some((same.path()?.to_owned(), format!("{} ({})", same.store.keeper, same.name())))
}
