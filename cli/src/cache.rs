//! `hob cache`: what is kept on disk of prompts that were computed, so that a conversation goes on at once.

use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use clap::{Subcommand, builder::NonEmptyStringValueParser};
use hob::prefix::{Folder, Kept};
use serde_json::json;

use crate::failure::Failure;
use crate::folders;
use crate::table::{self, Side};
use crate::terminal::{note_dim, printable};
use crate::units;

const AFTER: &str = "\
Conversations and prompts that took long to read are kept in the cache folder (HOB_CACHE names another one), at most 4 GiB of them
(--cache-size), the latest. Answers are the same with or without it. --no-cache of chat and run leaves it alone.

Examples:
  hob cache ls
  hob cache clear
  hob cache clear --model qwen3";

/// Flags of `hob cache`.
#[derive(clap::Args)]
#[command(after_help = AFTER)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// List what is kept, the latest first
    Ls {
        /// For scripts
        #[arg(long)]
        json: bool,
    },
    /// Remove it
    Clear {
        /// Only of models with this in their name
        #[arg(long, value_name = "TEXT", value_parser = NonEmptyStringValueParser::new())]
        model: Option<String>,
    },
}

/// Flags of commands that read prompts.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct CacheFlags {
    /// Compute the whole prompt, and keep nothing of it on disk (`hob cache ls` lists what is kept)
    #[arg(long)]
    no_cache: bool,
    /// Keep at most N GiB of prompts on disk, the latest
    #[arg(long, value_name = "N", default_value_t = Folder::BUDGET >> 30, conflicts_with = "no_cache")]
    cache_size: u64,
}

impl CacheFlags {
    /// Where prompts are kept, if they are to be.
    pub(crate) fn folder(&self) -> Option<Folder> {
        let folder = |place| Folder::new(place).budget(self.cache_size.saturating_mul(1 << 30));
        if self.no_cache { None } else { place().map(folder) }
    }
}

fn place() -> Option<PathBuf> {
    folders::cache().map(|cache| cache.join("prefixes"))
}

/// Says it where a disk is full; the rest goes on.
pub(crate) fn remark(model: &hob::Model) {
    if let Some(why) = model.prefix_trouble() {
        note_dim(&format!("prompts are not kept any more: {why}"));
    }
}

/// Runs `hob cache`.
pub(crate) fn run(args: Args, out: &mut dyn Write) -> Result<(), Failure> {
    let Some(place) = place() else {
        return Err(Failure::usage("there is no cache folder", "set HOB_CACHE to a folder"));
    };
    let folder = Folder::new(place);
    match args.what {
        What::Ls { json: true } => list_json(&folder, out),
        What::Ls { json: false } => list(&folder, out),
        What::Clear { model } => {
            let removed = folder.clear(model.as_deref())?;
            Ok(writeln!(out, "removed {}, {}", units::several(removed.files, "file"), units::bytes(removed.bytes))?)
        }
    }
}

fn list(folder: &Folder, out: &mut dyn Write) -> Result<(), Failure> {
    let kept = folder.list();
    let now = SystemTime::now();
    let row = |kept: &Kept| {
        let text: String = printable(&kept.text).replace('\n', " ").chars().take(60).collect();
        [kept.model.clone(), format!("{} tok", kept.tokens), units::bytes(kept.bytes), ago(now, kept.used), text]
    };
    let rows: Vec<_> = kept.iter().map(row).collect();
    table::plain(out, [Side::Left, Side::Right, Side::Right, Side::Right, Side::Left], &rows)?;
    let bytes = kept.iter().map(|kept| kept.bytes).sum();
    Ok(writeln!(out, "{}, {} in {}", units::several(kept.len(), "prompt"), units::bytes(bytes), folder.path().display())?)
}

fn list_json(folder: &Folder, out: &mut dyn Write) -> Result<(), Failure> {
    let row = |kept: &Kept| {
        let used = kept.used.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        json!({ "model": kept.model, "tokens": kept.tokens, "text": kept.text, "bytes": kept.bytes, "used": units::timestamp(used.as_secs()) })
    };
    let all: Vec<_> = folder.list().iter().map(row).collect();
    let text = json!({ "folder": folder.path(), "budget": Folder::BUDGET, "prompts": all });
    Ok(writeln!(out, "{text:#}")?)
}

/// How long ago, in one unit.
fn ago(now: SystemTime, then: SystemTime) -> String {
    match now.duration_since(then).unwrap_or(Duration::ZERO).as_secs() {
        0..60 => "now".into(),
        s @ 60..3600 => format!("{} min ago", s / 60),
        s @ 3600..172_800 => format!("{} h ago", s / 3600),
        s => format!("{} days ago", s / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_said_in_one_unit() {
        let at = |s| SystemTime::UNIX_EPOCH + Duration::from_secs(s);
        for (s, text) in [(0, "now"), (59, "now"), (60, "1 min ago"), (7199, "1 h ago"), (172_800, "2 days ago")] {
            assert_eq!(ago(at(1_000_000 + s), at(1_000_000)), text);
        }
        assert_eq!(ago(at(5), at(9)), "now");
    }
}
