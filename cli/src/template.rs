//! `hob template`: a chat template on its own, out of a `.jinja` file or a model.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use hob::gguf::{Gguf, Metadata};
use hob::{ChatTemplate, Error, Fault};
use serde_json::Value;

use crate::failure::Failure;
use crate::models::{Absent, locate};
use crate::terminal::note_dim;

const AFTER: &str = "\
CASE.json holds \"messages\" and, where wanted, \"tools\", \"kwargs\" (more variables), \"add_generation_prompt\",
\"bos_token\", \"eos_token\" and \"now\" (2026-01-02T03:04:05, for strftime_now).

Examples:
  hob template MODEL.gguf                        the template itself
  hob template MODEL.gguf --json case.json       the prompt it makes
  hob template template.jinja --json case.json";

/// Flags of `hob template`.
#[derive(clap::Args)]
#[command(after_help = AFTER)]
pub(crate) struct Args {
    /// A Jinja template, or a .gguf file that holds one
    #[arg(value_name = "FILE.jinja|MODEL")]
    file: PathBuf,
    /// Render this conversation; `-` is standard input
    #[arg(long, value_name = "CASE.json")]
    json: Option<PathBuf>,
}

/// Runs `hob template`.
pub(crate) fn run(args: Args, out: &mut dyn Write) -> Result<(), Failure> {
    let source = Source::open(&locate(&args.file, Absent::Refused)?)?;
    let Some(path) = &args.json else {
        let text = source.template.source();
        write!(out, "{text}{}", if text.ends_with('\n') { "" } else { "\n" })?;
        return Ok(());
    };
    let case = if path.as_os_str() == "-" { std::io::read_to_string(std::io::stdin()) } else { std::fs::read_to_string(path) };
    let mut case: Value = serde_json::from_str(&case.map_err(|e| Failure::io(path, e))?)
        .map_err(|e| Error::Input(Fault::at(path.display().to_string()).expected("a JSON object").found(e)))?;
    if let Value::Object(case) = &mut case {
        for (name, text) in source.specials {
            case.entry(name).or_insert(text.into());
        }
    }
    out.write_all(source.template.render_case(&case)?.as_bytes())?;
    Ok(())
}

/// A template, and the special tokens of the model it came with.
struct Source {
    template: ChatTemplate,
    specials: Vec<(&'static str, String)>,
}

impl Source {
    /// The template in `path`, which is a model if it begins as one.
    fn open(path: &Path) -> Result<Source, Failure> {
        let mut start = [0; 4];
        let read = File::open(path).and_then(|mut file| file.read(&mut start)).map_err(|e| Failure::io(path, e))?;
        if start[..read] == *b"GGUF" {
            return Source::of_model(Gguf::open(path)?.metadata());
        }
        let text = std::fs::read_to_string(path).map_err(|e| Failure::io(path, e))?;
        Ok(Source { template: ChatTemplate::from_source(&text)?, specials: Vec::new() })
    }

    /// The model's own, or the one that its vocabulary speaks for.
    fn of_model(metadata: &Metadata) -> Result<Source, Failure> {
        let (template, notice) = ChatTemplate::from_gguf(metadata)?;
        notice.iter().for_each(|notice| note_dim(notice));
        let tokens = metadata.strings("tokenizer.ggml.tokens")?;
        let mut specials = Vec::new();
        for (name, key) in [("bos_token", "tokenizer.ggml.bos_token_id"), ("eos_token", "tokenizer.ggml.eos_token_id")] {
            let id = metadata.u32(key)?.and_then(|id| tokens?.text(id as usize));
            specials.extend(id.map(|text| (name, text.into_owned())));
        }
        Ok(Source { template, specials })
    }
}
