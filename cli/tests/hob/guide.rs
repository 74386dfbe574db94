//! The guide: it tells of nothing that hob does not have, and answers where no model is named.

use std::collections::{BTreeMap, BTreeSet};

use hob_guide::mention::{Mention, mentions};
use hob_guide::text::Text;

#[cfg(all(unix, feature = "guide"))]
use super::command;
use super::{TINY, hob, hob_reads};

/// The words of a help, but for its examples: flags, commands, what the chat understands.
fn words(help: &str) -> BTreeSet<String> {
    let until = help.find("\nExamples:").unwrap_or(help.len());
    help[..until].split(|c: char| !(c.is_alphanumeric() || "-_/".contains(c))).map(str::to_owned).collect()
}

#[test]
fn the_guide_names_nothing_that_hob_does_not_have() {
    let program = hob(&["--help"]).fine();
    let commands: Vec<&str> = program.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty()).collect();
    let commands = commands.iter().filter_map(|line| line.strip_prefix("  ")?.split(' ').next()).filter(|name| !name.is_empty());
    let helps: BTreeMap<&str, BTreeSet<String>> = commands.map(|name| (name, words(&hob(&[name, "--help"]).out))).collect();
    let program = words(&program);
    let orders = words(&hob_reads(&["chat", TINY], "/help\n").err);
    let known = |mention: &Mention| match mention {
        Mention::Command(name) => helps.contains_key(name.as_str()),
        // A command that is not there is told of by its own name.
        Mention::Flag(Some(name), flag) => helps.get(name.as_str()).is_none_or(|words| words.contains(flag)),
        // cargo's own, which builds it.
        Mention::Flag(None, flag) if flag == "--features" => true,
        Mention::Flag(None, flag) => program.contains(flag) || helps.values().any(|words| words.contains(flag)),
        Mention::Order(word) => orders.contains(word),
    };
    let spelt = |mention: &Mention| match mention {
        Mention::Command(name) => format!("hob {name}"),
        Mention::Flag(Some(name), flag) => format!("hob {name} {flag}"),
        Mention::Flag(None, flag) => flag.clone(),
        Mention::Order(word) => word.clone(),
    };
    let text = Text::load().expect("the text is sound");
    let mut unknown = BTreeSet::new();
    for fact in &text.facts {
        for mention in mentions(&fact.answer) {
            let spelt = spelt(&mention);
            if !known(&mention) {
                unknown.insert(format!("{spelt} (in `{}`)", fact.name));
            }
        }
    }
    assert!(unknown.is_empty(), "the guide tells of what hob does not have: {unknown:#?}");
    assert!(helps.len() > 10 && orders.contains("/help"), "the help is read: {helps:?} {orders:?}");
}

#[test]
fn the_guide_names_models_that_the_catalogue_has() {
    let text = Text::load().expect("the text is sound");
    let names: Vec<&str> = hob::catalogue::entries().iter().map(|model| model.name.as_str()).collect();
    let named = |word: &str| ["qwen3-", "llama-3"].iter().any(|start| word.starts_with(start));
    for fact in &text.facts {
        for word in fact.answer.split(|c: char| c.is_whitespace() || "`,:;()".contains(c)) {
            let word = word.trim_end_matches('.');
            assert!(!named(word) || names.contains(&word), "`{}` names `{word}`", fact.name);
        }
    }
}

#[cfg(feature = "guide")]
#[test]
fn without_a_model_the_guide_answers() {
    let done = hob(&["run", "-p", "How do I download a model?"]);
    assert!(done.err.contains("hob's guide, a tiny model"), "{}", done.err);
    assert!(done.fine().contains("`hob pull qwen3-4b`"));
}

#[cfg(feature = "guide")]
#[test]
fn a_chat_without_a_model_goes_on_over_turns() {
    let done = hob_reads(&["chat"], "I have 8 GB of RAM, which model?\nand 16 GB?\n/exit\n");
    let told: Vec<&str> = done.out.lines().filter(|line| !line.is_empty()).collect();
    assert!(told.len() == 2 && told[0].contains("qwen3-4b") && told[1].contains("llama-3.1-8b"), "{told:?}");
    done.fine();
}

/// A person at a terminal: types a question, sees the answer, leaves.
#[cfg(all(unix, feature = "guide"))]
#[test]
fn the_chat_runs_in_a_terminal() {
    use std::fs::File;
    use std::io::{Read, Write};
    use std::process::Stdio;
    use std::sync::mpsc;
    use std::time::Duration;

    let size = nix::pty::Winsize { ws_row: 24, ws_col: 200, ws_xpixel: 0, ws_ypixel: 0 };
    let pty = nix::pty::openpty(&size, None).expect("a pseudo-terminal");
    let end = || Stdio::from(pty.slave.try_clone().expect("its other end"));
    let mut child = command(&["chat"]).env("TERM", "xterm").stdin(end()).stdout(end()).stderr(end()).spawn().expect("hob runs");
    drop(pty.slave);
    let mut keys = File::from(pty.master.try_clone().expect("a second handle"));
    let (send, screen) = mpsc::channel();
    let mut from = File::from(pty.master);
    std::thread::spawn(move || {
        let mut bytes = [0; 4096];
        // At the end some systems say that there is no terminal any more.
        while let Ok(read @ 1..) = from.read(&mut bytes) {
            if send.send(String::from_utf8_lossy(&bytes[..read]).into_owned()).is_err() {
                break;
            }
        }
    });
    let mut seen = String::new();
    let mut wait_for = |text: &str| {
        while !seen.contains(text) {
            let Ok(more) = screen.recv_timeout(Duration::from_secs(60)) else { panic!("waited for `{text}`, saw: {seen}") };
            seen.push_str(&more);
        }
        seen.clear();
    };
    wait_for("/help lists the commands");
    keys.write_all(b"How do I download a model?\r").expect("typed");
    wait_for("`hob pull qwen3-4b`");
    wait_for("tok at");
    keys.write_all(b"/exit\r").expect("typed");
    assert!(child.wait().expect("hob ends").success());
}
