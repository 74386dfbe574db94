//! Flags that several commands share, each defined once.

use std::io::{IsTerminal, Read};
use std::path::{Path, PathBuf};

use clap::Args;
use hob::gguf::Gguf;
use hob::plan::Ask;
use hob::prefix::Folder;
use hob::{Chat, Device, GpuLayers, Model, Speculation, Thinking};

use crate::failure::Failure;
use crate::models::{self, Absent};
use crate::plan;
use crate::terminal::{Waiting, note_dim};
use crate::values::{KvName, at_least_one};

/// Where a prompt comes from: `-p`, `-f`, or standard input.
#[derive(Args, Clone, Debug)]
pub(crate) struct Text {
    /// The text
    #[arg(short = 'p', long = "prompt", value_name = "TEXT", allow_hyphen_values = true, conflicts_with = "file")]
    prompt: Option<String>,
    /// Read the text from a file; `-` is standard input, which is also read when neither -p nor -f is given
    #[arg(short = 'f', long = "file", value_name = "FILE")]
    file: Option<PathBuf>,
}

impl Text {
    /// The text, without the line end that closes a file.
    pub(crate) fn read(&self) -> Result<String, Failure> {
        let (name, bytes) = match (&self.prompt, &self.file) {
            (Some(prompt), _) => return Ok(prompt.clone()),
            (None, Some(path)) if path.as_os_str() != "-" => {
                (path.display().to_string(), std::fs::read(path).map_err(|e| Failure::io(path, e))?)
            }
            (None, None) if std::io::stdin().is_terminal() => {
                return Err(Failure::usage("no text given", "give it with -p TEXT, with -f FILE, or on standard input"));
            }
            (None, Some(_) | None) => {
                let mut bytes = Vec::new();
                std::io::stdin().lock().read_to_end(&mut bytes).map_err(|e| Failure::io("standard input", e))?;
                ("standard input".to_owned(), bytes)
            }
        };
        let mut text = String::from_utf8(bytes).map_err(|e| {
            let fault = hob::Fault::at(name).expected("UTF-8 text").found(format!("byte {} is not", e.utf8_error().valid_up_to()));
            Failure::Engine(hob::Error::Input(fault))
        })?;
        if text.ends_with('\n') {
            text.pop();
            if text.ends_with('\r') {
                text.pop();
            }
        }
        Ok(text)
    }
}

/// How the model runs on this machine.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Machine")]
pub(crate) struct Machine {
    /// Where to compute: auto, cpu, candle, cuda, cuda:N, metal, metal:N; `hob doctor` lists them
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    pub(crate) device: Device,
    /// How many of the model's last layers a GPU computes, with the head (-ngl); the CPU computes the others [default: as many as fit]
    #[arg(long, visible_alias = "n-gpu-layers", value_name = "N|auto", default_value = "auto", hide_default_value = true)]
    pub(crate) gpu_layers: GpuLayers,
    /// Worker threads [default: the machine's performance cores]
    #[arg(short = 't', long, value_name = "N", value_parser = at_least_one)]
    pub(crate) threads: Option<usize>,
    /// Context in tokens: prompt and reply together [default: the model's own, at most 8192]
    #[arg(short = 'c', long, visible_alias = "ctx-size", value_name = "N", value_parser = at_least_one)]
    pub(crate) context: Option<usize>,
    /// Draft tokens from what the text says elsewhere, and compute them together where that pays; the text is the same
    #[arg(long)]
    pub(crate) lookup: bool,
    /// Draft tokens with a smaller model of the same vocabulary, where that pays; the text is the same
    #[arg(long, value_name = "FILE", conflicts_with = "lookup")]
    pub(crate) draft: Option<PathBuf>,
    /// Tokens computed together while a prompt is read (-ub); it changes the speed, never the result [default: 256, more where
    /// there are experts]
    #[arg(long, visible_alias = "ubatch-size", value_name = "N", value_parser = at_least_one)]
    pub(crate) micro_batch: Option<usize>,
    /// Numbers in the key cache (-ctk): f32, f16, bf16, q8_0 or q4_0; q8_0 takes half the memory, q4_0 a quarter
    #[arg(long, value_name = "TYPE", default_value = "f16")]
    pub(crate) cache_type_k: KvName,
    /// Numbers in the value cache (-ctv): likewise
    #[arg(long, value_name = "TYPE", default_value = "f16")]
    pub(crate) cache_type_v: KvName,
    /// Run a model that does not fit in the memory that is available
    #[arg(long)]
    pub(crate) force: bool,
    /// Download a model that is not here without asking
    #[arg(short = 'y', long)]
    pub(crate) yes: bool,
}

/// What becomes of the model's thinking.
#[derive(Args, Clone, Debug)]
pub(crate) struct ThinkFlags {
    /// How much the model thinks before it answers: auto, on, off, low, medium, high, or at most N tokens
    #[arg(long, value_name = "WHEN", default_value = "auto")]
    pub(crate) think: Thinking,
    /// Do not show what the model thinks (it is shown dimmed, on standard error)
    #[arg(long)]
    pub(crate) hide_thinking: bool,
}

impl ThinkFlags {
    /// The chat that is to think so; what its template does not heed is said.
    pub(crate) fn apply(&self, chat: Chat) -> Chat {
        let chat = chat.thinking(self.think);
        chat.ignored().iter().for_each(|ignored| note_dim(&ignored.to_string()));
        chat
    }

    pub(crate) fn view(&self) -> Thoughts {
        if self.hide_thinking { Thoughts::Hidden } else { Thoughts::Shown }
    }
}

/// Whether the reader sees what the model thinks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Thoughts {
    Shown,
    Hidden,
}

/// What a model is opened for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// To converse: the chat template counts.
    Chat,
    /// To compute on tokens: a chat template that is missing or broken is no matter.
    Tokens,
}

impl Machine {
    /// Opens the model that a path or a name leads to, with a spinner where that takes long, and says what the file wants said.
    pub(crate) fn open(&self, path: &Path, purpose: Purpose) -> Result<Model, Failure> {
        self.build(self.find(path)?, purpose)
    }

    /// The file that a path or a name leads to, opened; downloaded where it is not here and the reader wants it.
    pub(crate) fn find(&self, model: &Path) -> Result<Gguf, Failure> {
        let absent = if self.yes { Absent::Downloaded } else { Absent::Asked };
        Ok(Gguf::open(models::locate(model, absent)?)?)
    }

    /// As [`Machine::open`], for a file that is open already.
    pub(crate) fn build(&self, gguf: Gguf, purpose: Purpose) -> Result<Model, Failure> {
        self.build_with(gguf, purpose, None)
    }

    /// The same with a folder for what is computed of prompts.
    pub(crate) fn build_with(&self, gguf: Gguf, purpose: Purpose, prefixes: Option<Folder>) -> Result<Model, Failure> {
        if !self.force && (plan::in_main_memory(self.device) || self.gpu_layers == GpuLayers::Count(0)) {
            let ask = Ask::default().context(self.context).cache_types(self.cache_type_k.into(), self.cache_type_v.into());
            plan::refuse_what_swaps(&gguf, &ask)?;
        }
        let waiting = Waiting::on("opening the model".into());
        let mut options = Model::options().device(self.device).gpu_layers(self.gpu_layers);
        options = options.cache_types(self.cache_type_k.into(), self.cache_type_v.into());
        if let Some(threads) = self.threads {
            options = options.threads(threads);
        }
        if let Some(tokens) = self.context {
            options = options.context(tokens);
        }
        if let Some(tokens) = self.micro_batch {
            options = options.micro_batch(tokens);
        }
        if self.lookup {
            options = options.speculation(Speculation::Lookup);
        }
        if let Some(draft) = &self.draft {
            let smaller = Model::options().device(self.device).chat_template("chatml");
            let smaller = self.threads.map_or(smaller.clone(), |threads| smaller.threads(threads));
            let smaller = self.context.map_or(smaller.clone(), |tokens| smaller.context(tokens));
            options = options.speculation(Speculation::Draft(smaller.open(draft)?));
        }
        options = match purpose {
            Purpose::Chat => options,
            Purpose::Tokens => options.chat_template("chatml"),
        };
        if let Some(folder) = prefixes {
            options = options.prefix_folder(folder);
        }
        let model = options.build(gguf)?;
        // While a question is typed, or a prompt rendered.
        model.read_ahead();
        drop(waiting);
        model.notices().iter().for_each(|notice| note_dim(notice));
        Ok(model)
    }
}

/// Two- and three-letter flags of llama.cpp, which hob's users know, in their long form: clap takes one letter after one dash.
const SHORT_NAMES: [(&str, &str); 5] =
    [("-ub", "--micro-batch"), ("-ctk", "--cache-type-k"), ("-ctv", "--cache-type-v"), ("-ngl", "--gpu-layers"), ("-pg", "--prompt-gen")];

/// The command line with [`SHORT_NAMES`] spelled out.
pub(crate) fn spelled_out(line: impl Iterator<Item = std::ffi::OsString>) -> Vec<std::ffi::OsString> {
    let mut flags = true;
    line.map(|word| {
        flags &= word != "--";
        match SHORT_NAMES.iter().find(|(short, _)| flags && word == *short) {
            Some((_, long)) => (*long).into(),
            None => word,
        }
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_are_spelled_out_up_to_the_double_dash() {
        let line = ["hob", "logits", "-ub", "7", "-ctk", "f32", "-u", "--", "-ub"].map(Into::into);
        let want = ["hob", "logits", "--micro-batch", "7", "--cache-type-k", "f32", "-u", "--", "-ub"];
        assert_eq!(spelled_out(line.into_iter()), want.map(std::ffi::OsString::from));
    }
}
