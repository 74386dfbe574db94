//! What goes where: text on stdout; notices, progress and errors on stderr; colour and motion only where a person looks.

use std::borrow::Cow;
use std::io::{self, IsTerminal, Write};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::Duration;

use hob::Model;
use hob::gguf::ReadAhead;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// How a piece of text on stderr or the prompt is painted.
#[derive(Clone, Copy)]
pub(crate) enum Ink {
    Error,
    Help,
    Dim,
    Prompt,
}

/// `text` in `ink`, if stderr is a terminal that wants colour.
pub(crate) fn ink(ink: Ink, text: &str) -> String {
    if !colourful() {
        return text.to_owned();
    }
    let code = match ink {
        Ink::Error => "1;31",
        Ink::Help => "1;36",
        Ink::Dim => "2",
        Ink::Prompt => "1;32",
    };
    format!("\x1b[{code}m{text}\x1b[0m")
}

/// Colour needs a terminal on both streams (chat mixes them), and nobody who asked for none: <https://no-color.org>.
fn colourful() -> bool {
    let refused = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty()) || std::env::var_os("TERM").is_some_and(|t| t == "dumb");
    io::stderr().is_terminal() && !refused
}

/// `text` without control characters, which could drive the terminal: a model, or the file that holds it, may be anyone's.
pub(crate) fn printable(text: &str) -> Cow<'_, str> {
    let harmful = |c: char| c.is_control() && c != '\n' && c != '\t';
    if text.contains(harmful) { Cow::Owned(text.replace(harmful, "\u{fffd}")) } else { Cow::Borrowed(text) }
}

/// Writes a line to stderr. Nobody can be told when that fails.
pub(crate) fn note(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Writes a part of a line to stderr.
pub(crate) fn aside(text: &str) {
    let mut out = io::stderr().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// Writes a dim line to stderr.
pub(crate) fn note_dim(text: &str) {
    note(&ink(Ink::Dim, &printable(text)));
}

/// A spinner that appears on a terminal when the work takes longer than a moment, and goes when it is dropped.
pub(crate) struct Waiting {
    running: Option<(mpsc::Sender<()>, JoinHandle<()>)>,
}

/// How much of a file that the work waits for is here.
type Reading = Box<dyn Fn() -> ReadAhead + Send>;

impl Waiting {
    /// Shows `what` from now until the value is dropped.
    pub(crate) fn on(what: String) -> Waiting {
        Waiting::start(what, Box::new(|| ReadAhead { read: 0, whole: 0 }))
    }

    /// The same for what `model` does; as long as its file is on the way from the disk, a bar tells how much of it is here.
    pub(crate) fn on_model(model: &Model, what: String) -> Waiting {
        let model = model.clone();
        Waiting::start(what, Box::new(move || model.read_ahead()))
    }

    fn start(what: String, reading: Reading) -> Waiting {
        if !io::stderr().is_terminal() {
            return Waiting { running: None };
        }
        let (done, waits) = mpsc::channel::<()>();
        let spin = move || {
            if !matches!(waits.recv_timeout(Duration::from_millis(400)), Err(RecvTimeoutError::Timeout)) {
                return;
            }
            let mut bar = file_bar();
            let mut on_the_way = true;
            while matches!(waits.recv_timeout(Duration::from_millis(80)), Err(RecvTimeoutError::Timeout)) {
                let ReadAhead { read, whole } = reading();
                if on_the_way && read < whole {
                    bar.set_length(whole);
                    bar.set_position(read);
                    continue;
                }
                if std::mem::take(&mut on_the_way) {
                    bar.finish_and_clear();
                    bar = spinner(&what);
                }
                bar.tick();
            }
            bar.finish_and_clear();
        };
        // A machine that cannot start a thread does without the spinner.
        let thread = std::thread::Builder::new().name("spinner".into()).spawn(spin).ok();
        Waiting { running: thread.map(|thread| (done, thread)) }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some((done, thread)) = self.running.take() {
            drop(done);
            let _ = thread.join();
        }
    }
}

fn spinner(what: &str) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    bar.set_style(ProgressStyle::default_spinner().tick_chars("⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏ "));
    bar.with_message(what.to_owned())
}

/// A bar over a model's file, which is read.
fn file_bar() -> ProgressBar {
    let template = "reading the model [{bar:30}] {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left";
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr()).with_style(style.progress_chars("=> "))
}

/// A bar over `length` units of work on stderr; invisible where stderr is no terminal.
pub(crate) fn progress(length: u64, what: &'static str) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg} [{bar:30}] {pos}/{len} {eta}");
    let bar = ProgressBar::with_draw_target(Some(length), ProgressDrawTarget::stderr());
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> "));
    bar.with_message(what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_cannot_drive_the_terminal() {
        assert_eq!(printable("a\n\tb ünï 🦀"), "a\n\tb ünï 🦀");
        assert_eq!(printable("\x1b[2J\u{9b}1m\r"), "\u{fffd}[2J\u{fffd}1m\u{fffd}");
    }
}
