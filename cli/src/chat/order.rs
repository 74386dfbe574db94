//! What a line of the chat asks for. One table of commands drives reading, help and completion.

use std::path::{Path, PathBuf};

use crate::nearest::{either, nearest};
use crate::terminal::printable;

/// What a command's argument is, for Tab.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Takes {
    Nothing,
    Text,
    Branch,
    Chat,
    File,
    Setting,
    /// One of these.
    Word(&'static [&'static str]),
    /// One of these, then a file.
    WordAndFile(&'static [&'static str]),
}

/// A command of the chat.
pub(super) struct Command {
    pub(super) name: &'static str,
    /// Its argument as the help shows it.
    pub(super) usage: &'static str,
    does: &'static str,
    pub(super) takes: Takes,
}

const fn command(name: &'static str, usage: &'static str, does: &'static str, takes: Takes) -> Command {
    Command { name, usage, does, takes }
}

const THINK: &[&str] = &["auto", "on", "off", "low", "medium", "high", "hide", "show"];

/// All commands, in groups.
pub(super) const GROUPS: &[(&str, &[Command])] = &[
    (
        "The conversation",
        &[
            command("/undo", "", "take back the last question and its answer", Takes::Nothing),
            command("/retry", "", "another answer to the last question", Takes::Nothing),
            command("/edit", "[N]", "change the last question, or the Nth", Takes::Text),
            command("/branch", "[NAME]", "go on under a new name, or over to that branch", Takes::Branch),
            command("/branches", "", "all branches; what was taken back is one of them", Takes::Nothing),
            command("/read", "FILE", "put a file's text into your next message", Takes::File),
            command("/clear", "", "begin a new chat", Takes::Nothing),
        ],
    ),
    (
        "Saved chats",
        &[
            command("/save", "[NAME]", "where this chat is saved, or call it NAME", Takes::Text),
            command("/load", "[NAME]", "go on with another chat, or list them", Takes::Chat),
            command("/export", "md|json FILE", "write the conversation into a file", Takes::WordAndFile(&["md", "json"])),
        ],
    ),
    (
        "The model",
        &[
            command("/model", "[MODEL]", "go on with another model", Takes::File),
            command("/system", "[TEXT]", "what the model is told beforehand", Takes::Text),
            command("/think", "[WHEN]", "auto, on, off, low, medium, high, N tokens; hide, show", Takes::Word(THINK)),
            command("/set", "[NAME VALUE]", "how it replies: temp, top-k, seed …", Takes::Setting),
            command("/tools", "", "what the model may call", Takes::Nothing),
        ],
    ),
    (
        "This chat",
        &[
            command("/context", "", "how full the context is, and of what", Takes::Nothing),
            command("/stats", "", "what the last reply cost", Takes::Nothing),
            command("/help", "", "", Takes::Nothing),
            command("/exit", "", "leave; so does Ctrl-D, or Ctrl-C twice", Takes::Nothing),
        ],
    ),
];

const KEYS: &str = "/help: this. Tab completes, \\ Enter or Alt-Enter begins a line, Ctrl-C stops.";

/// What a line asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Order<'a> {
    Nothing,
    Say(&'a str),
    Undo,
    Retry,
    Edit(Option<&'a str>),
    Branch(Option<&'a str>),
    Branches,
    Read(Option<&'a str>),
    Clear,
    Save(Option<&'a str>),
    Load(Option<&'a str>),
    Export(Option<&'a str>),
    Model(Option<&'a str>),
    System(Option<&'a str>),
    Think(Option<&'a str>),
    Set(Option<&'a str>),
    Tools,
    Context,
    Stats,
    Help,
    Exit,
    Unknown(&'a str),
}

pub(super) fn order(line: &str) -> Order<'_> {
    if line.trim().is_empty() {
        return Order::Nothing;
    }
    if !line.starts_with('/') {
        return Order::Say(line);
    }
    let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let rest = Some(rest.trim()).filter(|text| !text.is_empty());
    match word {
        "/undo" => Order::Undo,
        "/retry" => Order::Retry,
        "/edit" => Order::Edit(rest),
        "/branch" => Order::Branch(rest),
        "/branches" => Order::Branches,
        "/read" => Order::Read(rest),
        "/clear" => Order::Clear,
        "/save" => Order::Save(rest),
        "/load" => Order::Load(rest),
        "/export" => Order::Export(rest),
        "/model" => Order::Model(rest),
        "/system" => Order::System(rest),
        "/think" => Order::Think(rest),
        "/set" => Order::Set(rest),
        "/tools" => Order::Tools,
        "/context" => Order::Context,
        "/stats" => Order::Stats,
        "/help" => Order::Help,
        // The last two as in other programs.
        "/exit" | "/quit" | "/bye" => Order::Exit,
        unknown => Order::Unknown(unknown),
    }
}

fn commands() -> impl Iterator<Item = &'static Command> {
    GROUPS.iter().flat_map(|(_, commands)| *commands)
}

/// The help, for a screen of 24 lines of 80, of which the prompt has one.
pub(super) fn help() -> String {
    let mut lines = Vec::new();
    for (title, commands) in GROUPS {
        lines.push((*title).to_owned());
        let told = commands.iter().filter(|command| !command.does.is_empty());
        lines.extend(told.map(|c| format!("  {:<20} {}", format!("{} {}", c.name, c.usage), c.does)));
    }
    lines.push(KEYS.to_owned());
    lines.join("\n")
}

/// What to say to a command that there is not.
pub(super) fn unknown(word: &str) -> String {
    let near = nearest(word, commands().map(|command| command.name));
    let help =
        if near.is_empty() { "; /help lists them, a blank in front says it".into() } else { format!(": did you mean {}?", either(&near)) };
    format!("no command is called {}{help}", printable(word))
}

/// What there is for Tab to choose from, beside commands and files.
#[derive(Clone, Debug, Default)]
pub(super) struct Choices {
    pub(super) branches: Vec<String>,
    pub(super) chats: Vec<String>,
    pub(super) settings: Vec<&'static str>,
}

/// Where what Tab completes begins, and how it may go on.
pub(super) fn complete(begun: &str, choices: &Choices) -> (usize, Vec<String>) {
    if !begun.starts_with('/') {
        return (0, Vec::new());
    }
    let Some((word, rest)) = begun.split_once(' ') else {
        return (0, commands().map(|c| c.name).filter(|name| name.starts_with(begun)).map(str::to_owned).collect());
    };
    let Some(command) = commands().find(|command| command.name == word) else { return (0, Vec::new()) };
    let at = begun.len() - rest.len();
    let fits = |names: &mut dyn Iterator<Item = &str>| names.filter(|name| name.starts_with(rest)).map(str::to_owned).collect();
    match command.takes {
        Takes::Nothing | Takes::Text => (at, Vec::new()),
        Takes::Branch => (at, fits(&mut choices.branches.iter().map(String::as_str))),
        Takes::Chat => (at, fits(&mut choices.chats.iter().map(String::as_str))),
        Takes::Setting => (at, fits(&mut choices.settings.iter().copied())),
        Takes::Word(words) => (at, fits(&mut words.iter().copied())),
        Takes::File => files(rest, at),
        Takes::WordAndFile(words) => match rest.split_once(' ') {
            Some((_, file)) => files(file, begun.len() - file.len()),
            None => (at, fits(&mut words.iter().copied())),
        },
    }
}

/// The files whose path begins so; folders end with a slash.
fn files(begun: &str, at: usize) -> (usize, Vec<String>) {
    let (folder, name) = begun.rsplit_once('/').map_or(("", begun), |(folder, name)| (&begun[..folder.len() + 1], name));
    let entries = std::fs::read_dir(home(if folder.is_empty() { "." } else { folder }));
    let mut found: Vec<String> = entries
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let own = entry.file_name().into_string().ok()?;
            let slash = if entry.path().is_dir() { "/" } else { "" };
            let hidden = own.starts_with('.') && !name.starts_with('.');
            (own.starts_with(name) && !hidden).then(|| format!("{own}{slash}"))
        })
        .collect();
    found.sort();
    (at + folder.len(), found)
}

/// A path in which `~/` is the home folder.
pub(super) fn home(path: &str) -> PathBuf {
    match (path.strip_prefix("~/"), std::env::home_dir()) {
        (Some(rest), Some(home)) => home.join(rest),
        _ => Path::new(path).to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_orders_or_speech() {
        let cases = [
            ("", Order::Nothing),
            ("  \t", Order::Nothing),
            ("hello /help", Order::Say("hello /help")),
            (" /etc is a folder", Order::Say(" /etc is a folder")),
            ("/system", Order::System(None)),
            ("/system  Be brief. ", Order::System(Some("Be brief."))),
            ("/system\nBe\nbrief.", Order::System(Some("Be\nbrief."))),
            ("/think off", Order::Think(Some("off"))),
            ("/edit 3", Order::Edit(Some("3"))),
            ("/export md out of it.md", Order::Export(Some("md out of it.md"))),
            ("/set top-k 5", Order::Set(Some("top-k 5"))),
            ("/exi now", Order::Unknown("/exi")),
            ("/quit", Order::Exit),
            ("/bye", Order::Exit),
        ];
        for (line, want) in cases {
            assert_eq!(order(line), want, "{line:?}");
        }
        assert!(commands().all(|command| !matches!(order(command.name), Order::Unknown(_))));
    }

    #[test]
    fn the_help_fits_a_small_terminal_and_names_every_command() {
        let help = help();
        assert!(help.lines().count() < 24 && help.lines().all(|line| line.chars().count() < 80), "{help}");
        assert!(commands().all(|command| help.contains(command.name)));
    }

    #[test]
    fn a_wrong_command_is_told_the_right_one() {
        assert!(unknown("/udno").contains("did you mean /undo?"));
        assert!(unknown("/ex").contains("/exit"));
        assert!(unknown("/weather").contains("/help lists them"));
    }

    #[test]
    fn tab_completes_commands_and_what_they_take() {
        let choices =
            Choices { branches: vec!["main".into(), "main.1".into()], chats: vec!["sky".into()], settings: vec!["temp", "top-k", "top-p"] };
        let folder = std::env::temp_dir().join(format!("hob-tab-{}", std::process::id()));
        std::fs::create_dir_all(folder.join("sub")).unwrap();
        std::fs::write(folder.join("sun.txt"), "").unwrap();
        let path = folder.to_string_lossy().replace('\\', "/");
        let cases = [
            ("/un", 0, vec!["/undo"]),
            ("/branch", 0, vec!["/branch", "/branches"]),
            ("/branch m", 8, vec!["main", "main.1"]),
            ("/load s", 6, vec!["sky"]),
            ("/set to", 5, vec!["top-k", "top-p"]),
            ("/think h", 7, vec!["high", "hide"]),
            ("/export j", 8, vec!["json"]),
            (&format!("/export md {path}/su"), 11 + path.len() + 1, vec!["sub/", "sun.txt"]),
            (&format!("/read {path}/sun"), 6 + path.len() + 1, vec!["sun.txt"]),
            ("hello", 0, vec![]),
            ("/undo ", 6, vec![]),
        ];
        for (begun, at, want) in cases {
            assert_eq!(complete(begun, &choices), (at, want.into_iter().map(str::to_owned).collect()), "{begun}");
        }
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
