//! What an answer is held to, on the command line: a JSON schema, a grammar, a regular expression.

use std::path::{Path, PathBuf};

use clap::Args;
use hob::{Fault, Grammar};

use crate::failure::Failure;

/// Flags of structured answers.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Structured answers")]
pub(crate) struct HeldFlags {
    /// Hold the answer to the JSON schema in a file: what comes is valid, whatever the model
    #[arg(long, value_name = "FILE", conflicts_with_all = ["grammar", "regex"])]
    json_schema: Option<PathBuf>,
    /// Hold the answer to the grammar in a file: GBNF (.gbnf), Lark (.lark), a JSON schema (.json), else told by what it says
    #[arg(long, value_name = "FILE", conflicts_with = "regex")]
    grammar: Option<PathBuf>,
    /// Hold the answer to a regular expression
    #[arg(long, value_name = "REGEX", allow_hyphen_values = true)]
    regex: Option<String>,
}

impl HeldFlags {
    /// The grammar that is asked for.
    pub(crate) fn grammar(&self) -> Result<Option<Grammar>, Failure> {
        match (&self.json_schema, &self.grammar, &self.regex) {
            (Some(path), _, _) => schema(path, &read(path)?).map(Some),
            (None, Some(path), _) => of_file(path).map(Some),
            (None, None, Some(regex)) => Ok(Some(Grammar::Regex(regex.clone()))),
            (None, None, None) => Ok(None),
        }
    }
}

fn read(path: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(path).map_err(|error| Failure::io(path, error))
}

fn schema(path: &Path, text: &str) -> Result<Grammar, Failure> {
    serde_json::from_str(text).map(Grammar::JsonSchema).map_err(|error| {
        let fault = Fault::at(path.display().to_string()).expected("a JSON schema").found(error);
        Failure::Engine(hob::Error::Input(fault))
    })
}

/// A grammar of the kind that its name tells, or else its text.
fn of_file(path: &Path) -> Result<Grammar, Failure> {
    let text = read(path)?;
    match path.extension().and_then(|ending| ending.to_str()) {
        Some("gbnf") => Ok(Grammar::Gbnf(text)),
        Some("lark") => Ok(Grammar::Lark(text)),
        Some("json") => schema(path, &text),
        Some(_) | None if text.contains("::=") => Ok(Grammar::Gbnf(text)),
        Some(_) | None if text.trim_start().starts_with('{') => schema(path, &text),
        Some(_) | None => Ok(Grammar::Lark(text)),
    }
}
