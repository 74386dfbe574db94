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
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{Config, Context, Editor, Helper};

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

impl Lines {
    /// From the terminal if there is one, else from standard input. Tab completes `words` at the start of a line.
    pub(crate) fn open(words: &'static [&'static str]) -> Lines {
        let config = Config::builder().auto_add_history(true).build();
        let editor = if io::stdin().is_terminal() { Editor::with_config(config).ok() } else { None };
        let Some(mut editor) = editor else { return Lines::Piped };
        editor.set_helper(Some(Keys { words }));
        let history = history_file();
        if let Some(path) = &history {
            // The first chat has none to load.
            let _ = editor.load_history(path);
        }
        Lines::Typed { editor: Box::new(editor), history }
    }

    /// The next line. A history that cannot be written is given up, silently: the chat matters more.
    pub(crate) fn next(&mut self) -> io::Result<Line> {
        match self {
            Lines::Typed { editor, history } => {
                let line = match editor.readline(&("> ", ink(Ink::Prompt, "> "))) {
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
                Ok(Line::Text(line.replace("\\\n", "\n")))
            }
            Lines::Piped => piped(&mut io::stdin().lock()),
        }
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

/// The keys that mean more here than elsewhere: Enter after a backslash, Tab in a command.
pub(crate) struct Keys {
    words: &'static [&'static str],
}

impl Validator for Keys {
    fn validate(&self, ctx: &mut ValidationContext<'_>) -> rustyline::Result<ValidationResult> {
        Ok(if ctx.input().ends_with('\\') { ValidationResult::Incomplete } else { ValidationResult::Valid(None) })
    }
}

impl Completer for Keys {
    type Candidate = String;

    fn complete(&self, line: &str, at: usize, _: &Context<'_>) -> rustyline::Result<(usize, Vec<String>)> {
        let begun = line.get(..at).unwrap_or_default();
        let fits = self.words.iter().filter(|word| begun.starts_with('/') && word.starts_with(begun));
        Ok((0, fits.map(|word| (*word).to_owned()).collect()))
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
