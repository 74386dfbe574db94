//! Lines for the chat: edited, with a history that lasts, where a person types; plainly read where a program does.
//!
//! The history lies in `$XDG_STATE_HOME/hob/history` (`~/.local/state`, or `%LOCALAPPDATA%`, where that is unset).

use std::io::{self, BufRead, IsTerminal};
use std::path::PathBuf;

use rustyline::completion::Completer;
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::FileHistory;
use rustyline::validate::Validator;
use rustyline::{
    Cmd, ConditionalEventHandler, Config, Context, Editor, Event, EventContext, EventHandler, Helper, KeyCode, KeyEvent, Modifiers,
    Movement, RepeatCount,
};

use crate::terminal::{Ink, ink};

/// What the reader of lines has to say.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Line {
    /// A line, or several joined by a backslash at the end.
    Text(String),
    /// Ctrl-C.
    Interrupt,
    /// The end of the input.
    End,
}

/// Where lines come from.
pub(crate) enum Lines {
    Typed { editor: Box<Editor<Keys, FileHistory>>, history: Option<PathBuf> },
    Piped,
}

/// Gives, for the beginning of a line, where what Tab completes begins, and how it may go on.
pub(crate) type Complete = Box<dyn Fn(&str) -> (usize, Vec<String>)>;

impl Lines {
    /// From the terminal if there is one, else from standard input.
    pub(crate) fn open() -> Lines {
        let config = Config::builder().auto_add_history(true).completion_type(rustyline::CompletionType::List).build();
        let editor = if io::stdin().is_terminal() { Editor::with_config(config).ok() } else { None };
        let Some(mut editor) = editor else { return Lines::Piped };
        editor.set_helper(Some(Keys { complete: Box::new(|_| (0, Vec::new())) }));
        for enter in [KeyEvent(KeyCode::Enter, Modifiers::NONE), KeyEvent::ctrl('M')] {
            editor.bind_sequence(enter, EventHandler::Conditional(Box::new(Enter)));
        }
        for enter in [KeyEvent(KeyCode::Enter, Modifiers::ALT), KeyEvent::alt('\r'), KeyEvent(KeyCode::Char('M'), Modifiers::CTRL_ALT)] {
            editor.bind_sequence(enter, Cmd::Newline);
        }
        let history = history_file();
        if let Some(path) = &history {
            // The first chat has none to load.
            let _ = editor.load_history(path);
        }
        Lines::Typed { editor: Box::new(editor), history }
    }

    /// Whether a person types them.
    pub(crate) fn are_typed(&self) -> bool {
        match self {
            Lines::Typed { .. } => true,
            Lines::Piped => false,
        }
    }

    /// What Tab completes from here on.
    pub(crate) fn complete(&mut self, complete: Complete) {
        if let Lines::Typed { editor, .. } = self
            && let Some(keys) = editor.helper_mut()
        {
            keys.complete = complete;
        }
    }

    /// The next line, of which `begun` stands there already where it is typed. A history that cannot be written is given up, silently: the
    /// chat matters more.
    pub(crate) fn next(&mut self, prompt: &str, begun: &str) -> io::Result<Line> {
        match self {
            Lines::Typed { editor, history } => {
                let line = match editor.readline_with_initial(&(prompt, ink(Ink::Prompt, prompt)), (begun, "")) {
                    Ok(line) => line,
                    Err(ReadlineError::Interrupted) => return Ok(Line::Interrupt),
                    Err(ReadlineError::Eof) => return Ok(Line::End),
                    Err(ReadlineError::Io(error)) => return Err(error),
                    Err(error) => return Err(io::Error::other(error)),
                };
                if let Some(path) = history.as_ref()
                    && editor.append_history(path).is_err()
                {
                    *history = None;
                }
                Ok(Line::Text(line.trim_end_matches('\n').to_owned()))
            }
            Lines::Piped => piped(&mut io::stdin().lock()),
        }
    }
}

/// Enter after a backslash begins a line in its place. In a paste, whose line ends are no Enter, backslashes stay what they are.
struct Enter;

impl ConditionalEventHandler for Enter {
    fn handle(&self, _: &Event, _: RepeatCount, _: bool, ctx: &EventContext<'_>) -> Option<Cmd> {
        let ends = ctx.pos() == ctx.line().len() && ctx.line().ends_with('\\');
        ends.then(|| Cmd::Replace(Movement::BackwardChar(1), Some("\n".into())))
    }
}

fn piped(from: &mut dyn BufRead) -> io::Result<Line> {
    let mut text = String::new();
    while from.read_line(&mut text)? > 0 {
        while text.ends_with(['\n', '\r']) {
            text.pop();
        }
        if !text.ends_with('\\') {
            return Ok(Line::Text(text));
        }
        text.pop();
        text.push('\n');
    }
    Ok(if text.is_empty() { Line::End } else { Line::Text(text) })
}

fn history_file() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let state = set("XDG_STATE_HOME").filter(|p| p.is_absolute());
    let state = state.or_else(|| if cfg!(windows) { set("LOCALAPPDATA") } else { set("HOME").map(|home| home.join(".local/state")) });
    let folder = state?.join("hob");
    std::fs::create_dir_all(&folder).ok()?;
    Some(folder.join("history"))
}

/// What Tab does.
pub(crate) struct Keys {
    complete: Complete,
}

impl Validator for Keys {}

impl Completer for Keys {
    type Candidate = String;

    fn complete(&self, line: &str, at: usize, _: &Context<'_>) -> rustyline::Result<(usize, Vec<String>)> {
        Ok((self.complete)(line.get(..at).unwrap_or_default()))
    }
}

impl Hinter for Keys {
    type Hint = String;
}

impl Highlighter for Keys {}

impl Helper for Keys {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backslash_joins_piped_lines() {
        let mut input = "one\r\ntwo \\\nthree\n\nfour\\".as_bytes();
        let want = ["one", "two \nthree", "", "four\n"].map(|text| Line::Text(text.into()));
        for line in want.into_iter().chain([Line::End, Line::End]) {
            assert_eq!(piped(&mut input).unwrap(), line);
        }
    }
}
