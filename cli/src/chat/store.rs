//! Where chats are saved: a file each in `chats` of the data folder, called after the first words.

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use hob::chat::{ModelNote, Saved};

use crate::failure::Failure;
use crate::folders;
use crate::nearest::{either, nearest};
use crate::terminal::printable;
use crate::units;

/// Characters of a name that is made of the first words.
const LONGEST: usize = 40;
/// Chats that a list shows.
const LISTED: usize = 15;
const ENDING: &str = "jsonl";

/// A saved chat, as a list shows it.
pub(super) struct Listed {
    pub(super) name: String,
    pub(super) path: PathBuf,
    changed: SystemTime,
}

/// The folder of the saved chats, which is made when the first is saved.
pub(super) fn folder() -> Result<PathBuf, Failure> {
    let data = folders::data().ok_or_else(|| Failure::usage("no folder to save chats in", "set HOB_DATA to one, or use --no-save"))?;
    Ok(data.join("chats"))
}

/// The path of a new chat, by what is said first.
pub(super) fn fresh(said: &str) -> Result<PathBuf, Failure> {
    let folder = folder()?;
    make(&folder)?;
    let name = named_after(said);
    let free = |path: &PathBuf| !path.exists();
    let paths = (1..).map(|n| place(&folder, &if n == 1 { name.clone() } else { format!("{name}-{n}") }));
    Ok(paths.into_iter().find(free).unwrap_or_default())
}

/// The path of a chat that is to be called so.
pub(super) fn named(name: &str) -> Result<PathBuf, Failure> {
    let folder = folder()?;
    make(&folder)?;
    let name = plain(name)?;
    let path = place(&folder, name);
    if path.exists() {
        return Err(Failure::usage(format!("a chat called {} is saved already", printable(name)), "choose another name, or /load it"));
    }
    Ok(path)
}

/// For its owner's eyes alone.
fn make(folder: &Path) -> Result<(), Failure> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(folder).map_err(|error| Failure::io(folder, error))
}

fn place(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}.{ENDING}"))
}

/// A name, which is not a path.
fn plain(name: &str) -> Result<&str, Failure> {
    let name = name.trim().strip_suffix(".jsonl").unwrap_or(name.trim());
    let odd = |c: char| c.is_control() || matches!(c, '/' | '\\' | ':' | '*' | '?' | '"' | '<' | '>' | '|');
    if name.is_empty() || name.starts_with('.') || name.contains(odd) || name.len() > 200 {
        return Err(Failure::usage(format!("{} is not a name for a chat", printable(name)), "letters, digits, blanks and - make one"));
    }
    Ok(name)
}

/// `why-is-the-sky-blue` after "Why is the sky blue?".
fn named_after(said: &str) -> String {
    let mut name = String::new();
    for word in said.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()) {
        let word: String = word.to_lowercase().chars().take(LONGEST).collect();
        if name.chars().count() + word.chars().count() >= LONGEST {
            break;
        }
        if !name.is_empty() {
            name.push('-');
        }
        name.push_str(&word);
    }
    // Windows has devices of such names.
    let device =
        matches!(name.as_str(), "con" | "prn" | "aux" | "nul") || (name.len() == 4 && (name.starts_with("com") || name.starts_with("lpt")));
    if name.is_empty() || device { format!("chat-{name}").trim_end_matches('-').to_owned() } else { name }
}

/// The saved chats, the newest first.
pub(super) fn list() -> Vec<Listed> {
    let entries = folder().ok().and_then(|folder| std::fs::read_dir(folder).ok());
    let listed = |path: PathBuf| {
        let name = path.file_stem()?.to_str()?.to_owned();
        let changed = std::fs::metadata(&path).and_then(|m| m.modified()).unwrap_or(UNIX_EPOCH);
        (path.extension().is_some_and(|ending| ending == ENDING)).then_some(Listed { name, path, changed })
    };
    let mut all: Vec<Listed> = entries.into_iter().flatten().flatten().filter_map(|entry| listed(entry.path())).collect();
    all.sort_by(|a, b| b.changed.cmp(&a.changed).then_with(|| a.name.cmp(&b.name)));
    all
}

/// The chat of this name, or of the one name that begins so; the newest where no name is given.
pub(super) fn find(name: Option<&str>) -> Result<PathBuf, Failure> {
    let all = list();
    let Some(name) = name else {
        let none = || Failure::usage("no chat is saved yet", "hob chat MODEL.gguf begins one");
        return all.into_iter().next().map(|newest| newest.path).ok_or_else(none);
    };
    let name = plain(name)?;
    let mut begins = all.iter().filter(|chat| chat.name.starts_with(name));
    let only = begins.next().filter(|_| begins.next().is_none());
    match all.iter().find(|chat| chat.name == name).or(only) {
        Some(chat) => Ok(chat.path.clone()),
        None => {
            let near = nearest(name, all.iter().map(|chat| chat.name.as_str()));
            let meant = if near.is_empty() { String::new() } else { format!("did you mean {}?\n", either(&near)) };
            Err(Failure::usage(
                format!("no saved chat is called {}", printable(name)),
                format!("{meant}{}", table(&all, SystemTime::now())),
            ))
        }
    }
}

/// The newest chats, with their dates and what they are about.
pub(super) fn table(all: &[Listed], now: SystemTime) -> String {
    if all.is_empty() {
        return "no chat is saved".into();
    }
    let shown = &all[..all.len().min(LISTED)];
    let wide = shown.iter().map(|chat| chat.name.chars().count()).max().unwrap_or(0);
    let mut lines = vec!["saved chats:".to_owned()];
    lines.extend(shown.iter().map(|chat| {
        let about = Saved::read(&chat.path).map_or_else(
            |_| "cannot be read now".to_owned(),
            |saved| {
                let questions = saved.conversation().questions().count();
                let model = saved.model().map(called).unwrap_or_default();
                format!("{:<12} {model}", if questions == 1 { "1 question".into() } else { format!("{questions} questions") })
            },
        );
        format!("  {:<wide$}  {:<14}  {}", printable(&chat.name), ago(chat.changed, now), printable(&about))
    }));
    if all.len() > shown.len() {
        lines.push(format!("  and {} older ones", all.len() - shown.len()));
    }
    lines.join("\n")
}

/// A model as people call it.
pub(super) fn called(note: &ModelNote) -> String {
    let file = note.path.as_ref().and_then(|path| path.file_name()).map(|name| name.to_string_lossy().into_owned());
    if note.name.is_empty() { file.unwrap_or_else(|| "a model".into()) } else { note.name.clone() }
}

/// How long ago, and a date where that is long.
pub(super) fn ago(then: SystemTime, now: SystemTime) -> String {
    let minutes = now.duration_since(then).map_or(0, |past| past.as_secs() / 60);
    let some = |n: u64, what: &str| if n == 1 { format!("1 {what} ago") } else { format!("{n} {what}s ago") };
    match minutes {
        0 => "just now".into(),
        1..60 => some(minutes, "minute"),
        60..1440 => some(minutes / 60, "hour"),
        _ => units::date(then),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_chat_is_called_after_its_first_words() {
        let cases = [
            ("Why is the sky blue?", "why-is-the-sky-blue"),
            ("  /read: Ünï, 漢字!\nmore", "read-ünï-漢字-more"),
            ("???", "chat"),
            ("con", "chat-con"),
            ("one two three four five six seven eight nine ten", "one-two-three-four-five-six-seven-eight"),
            (&"x".repeat(100), "chat"),
        ];
        for (said, want) in cases {
            assert_eq!(named_after(said), want);
        }
    }

    #[test]
    fn a_name_is_not_a_path() {
        for bad in ["", "../etc", "a/b", "a\\b", "c:", ".hidden", "a\nb"] {
            assert!(plain(bad).is_err(), "{bad}");
        }
        assert_eq!((plain(" my chat ").ok(), plain("sky.jsonl").ok()), (Some("my chat"), Some("sky")));
    }

    #[test]
    fn times_are_told_as_people_tell_them() {
        let now = UNIX_EPOCH + Duration::from_secs(1_772_323_200);
        let before = |seconds| ago(now - Duration::from_secs(seconds), now);
        assert_eq!([before(5), before(60), before(7200), before(86_400)], ["just now", "1 minute ago", "2 hours ago", "2026-02-28"]);
    }
}
