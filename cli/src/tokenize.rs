//! `hob tokenize`: text to token ids, for people and for scripts.

use std::io::{BufRead, Write};
use std::path::PathBuf;

use hob::gguf::Gguf;
use hob::tokenizer::{Special, Token, Tokenizer, TokenizerOptions};
use hob::{Error, Fault};
use serde_json::{Map, Value, json};

use crate::failure::Failure;
use crate::flags::Text;
use crate::models::{Absent, locate};
use crate::table::{Side, plain};
use crate::terminal::{Waiting, note_dim};

const AFTER: &str = "\
Examples:
  hob tokenize MODEL.gguf -p 'Hello, world'
  hob run MODEL.gguf --tokens $(hob tokenize MODEL.gguf -p 'Once upon' --ids)
  printf '{\"text\": \"Hello\"}\\n' | hob tokenize MODEL.gguf --jsonl";

/// Flags of `hob tokenize`.
#[derive(clap::Args)]
#[command(after_help = AFTER)]
pub(crate) struct Args {
    /// A .gguf file, of a split model any part, or a name: hob ls lists them
    model: PathBuf,
    #[command(flatten)]
    text: Text,
    /// Recognise special tokens in the text, such as <|im_end|>
    #[arg(long)]
    special: bool,
    /// Print the ids alone, comma-separated
    #[arg(long)]
    ids: bool,
    /// Print a JSON object
    #[arg(long, conflicts_with = "ids")]
    json: bool,
    /// Read objects {"text": …}, one a line, and add "ids" and "ids_special" (special tokens recognised)
    #[arg(long, conflicts_with_all = ["prompt", "file", "special", "ids", "json"])]
    jsonl: bool,
}

/// Runs `hob tokenize`.
pub(crate) fn run(args: Args, out: &mut dyn Write) -> Result<(), Failure> {
    let text = if args.jsonl { None } else { Some(args.text.read()?) };
    let waiting = Waiting::on(format!("opening {}", args.model.display()));
    let gguf = Gguf::open(locate(&args.model, Absent::Refused)?)?;
    let tokenizer = Tokenizer::from_gguf(gguf.metadata(), &TokenizerOptions::default())?;
    drop(waiting);
    let Some(text) = text else { return lines(&tokenizer, out) };
    let ids = tokenizer.encode(&text, if args.special { Special::Parse } else { Special::Literal })?;
    if args.ids {
        let ids: Vec<String> = ids.iter().map(Token::to_string).collect();
        writeln!(out, "{}", ids.join(","))?;
    } else if args.json {
        let pieces: Vec<String> = ids.iter().map(|id| piece(&tokenizer, *id)).collect();
        writeln!(out, "{}", json!({ "ids": ids, "pieces": pieces }))?;
    } else {
        let rows: Vec<[String; 2]> = ids.iter().map(|id| [id.to_string(), format!("{:?}", piece(&tokenizer, *id))]).collect();
        plain(out, [Side::Right, Side::Left], &rows)?;
        note_dim(&format!("{} tokens", ids.len()));
    }
    Ok(())
}

/// A token's text; where it is no whole text, as a byte or a control token, how the vocabulary writes it.
fn piece(tokenizer: &Tokenizer, id: Token) -> String {
    let text = String::from_utf8(tokenizer.token_bytes(id)).ok().filter(|text| !text.is_empty());
    text.unwrap_or_else(|| tokenizer.token_text(id).unwrap_or_default().to_owned())
}

/// Every line of stdin, with its ids added.
fn lines(tokenizer: &Tokenizer, out: &mut dyn Write) -> Result<(), Failure> {
    for (at, line) in std::io::stdin().lock().lines().enumerate() {
        let line = line.map_err(|e| Failure::io("standard input", e))?;
        if line.trim().is_empty() {
            continue;
        }
        let place = || Fault::at(format!("standard input, line {}", at + 1)).expected("a JSON object with \"text\"");
        let mut object: Map<String, Value> = serde_json::from_str(&line).map_err(|e| Error::Input(place().found(e)))?;
        let text = object.get("text").and_then(Value::as_str).ok_or_else(|| Error::Input(place().found(&line)))?;
        let (literal, special) = (tokenizer.encode(text, Special::Literal)?, tokenizer.encode(text, Special::Parse)?);
        object.insert("ids".into(), literal.into());
        object.insert("ids_special".into(), special.into());
        writeln!(out, "{}", one_line(&Value::Object(object)))?;
    }
    Ok(())
}

/// JSON that is one line to everyone: some readers also break lines at these three, which JSON leaves as they are.
fn one_line(value: &Value) -> String {
    value.to_string().replace('\u{85}', "\\u0085").replace('\u{2028}', "\\u2028").replace('\u{2029}', "\\u2029")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_stays_one() {
        let value = json!({ "text": "a\u{2028}b\u{2029}c\u{85}d\ne" });
        let line = one_line(&value);
        assert_eq!(line, r#"{"text":"a\u2028b\u2029c\u0085d\ne"}"#);
        assert_eq!(serde_json::from_str::<Value>(&line).unwrap(), value);
    }
}
