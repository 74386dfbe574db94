//! Chats that are saved, resumed, branched and exported, line by line through a pipe.

use std::io::Read;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::Value;

use super::{Done, TINY, command, scratch};

/// A folder of its own for what hob saves.
struct Data(PathBuf);

impl Data {
    fn new(name: &str) -> Data {
        let folder = scratch(name);
        let _ = std::fs::remove_dir_all(&folder);
        Data(folder)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = command(args);
        command.env("HOB_DATA", &self.0);
        command
    }

    fn chat(&self, args: &[&str], lines: &str) -> Done {
        let mut child = self.command(&[&["chat"], args].concat());
        let mut child = child.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("hob runs");
        let _ = std::io::Write::write_all(&mut child.stdin.take().expect("a pipe"), lines.as_bytes());
        Done::new(child.wait_with_output().expect("hob ends"))
    }
}

const SEED: [&str; 5] = [TINY, "--seed", "5", "-n", "8"];
/// The model never ends its turn by itself: biases of the tokens that end it.
const ON: [&str; 6] = ["--logit-bias", "300-inf", "--logit-bias", "301-inf", "--logit-bias", "302-inf"];

#[test]
fn a_chat_that_is_closed_and_resumed_says_what_it_would_have_said() {
    let data = Data::new("resume");
    let whole = data.chat(&SEED, "One\nTwo\n/retry\nThree\n").fine();
    let first = data.chat(&SEED, "/save trip\nOne\nTwo\n");
    assert!(first.err.contains("saved as trip"), "{}", first.err);
    // Without the model, which the chat knows, and by the beginning of its name.
    let rest = data.chat(&["--resume", "tri", "-n", "8"], "/retry\nThree\n/branches\n");
    assert!(rest.err.contains("trip · 2 questions") && rest.err.contains("> Two") && rest.err.contains("main.1"), "{}", rest.err);
    assert_eq!(first.fine() + &rest.fine(), whole);
    // The newest, where no name is given; a name that there is not is told what there is.
    let again = data.chat(&["--resume"], "/edit 7\n/context\n/exit\n");
    assert!(again.err.contains("trip · 3 questions · on main, one of 2 branches"), "{}", again.err);
    assert!(again.err.contains("  2  Two") && again.err.contains("cache    ") && again.err.contains("keys f16"), "{}", again.err);
    let wrong = data.chat(&["--resume", "tirp"], "");
    assert!(wrong.code == Some(2) && wrong.err.contains("did you mean trip?") && wrong.err.contains("3 questions"), "{}", wrong.err);
    for path in ["../trip", "/etc/passwd"] {
        assert_eq!(data.chat(&[TINY, "--resume", path], "").code, Some(2));
    }
}

#[test]
fn a_chat_that_is_killed_in_the_middle_of_a_reply_goes_on_with_the_same_bits() {
    let data = Data::new("killed");
    let limits = ["-n", "600", "-c", "32768"];
    let whole = data.chat(&[&[TINY, "--seed", "9"][..], &ON, &limits].concat(), "Hello\n").fine();
    // It would go on for long, so that it is killed before it is done.
    let mut child = data.command(&[&["chat", TINY, "--seed", "9", "-c", "32768"][..], &ON].concat());
    let mut child = child.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("hob runs");
    let mut lines = child.stdin.take().expect("a pipe");
    std::io::Write::write_all(&mut lines, b"/save gone\nHello\n").expect("it reads");
    let mut start = [0; 40];
    child.stdout.take().expect("a pipe").read_exact(&mut start).expect("it answers");
    child.kill().expect("it is killed");
    child.wait().expect("it is gone");
    let rest = data.chat(&[&["--resume", "gone"][..], &limits].concat(), "");
    assert!(rest.err.contains("gone · 1 question\n> Hello"), "{}", rest.err);
    assert!(whole.as_bytes().starts_with(&start));
    assert_eq!(rest.fine(), whole);
}

#[test]
fn the_commands_of_a_chat_do_what_they_say() {
    let data = Data::new("commands");
    let file = scratch("notes.txt");
    let (markdown, json) = (scratch("chat.md"), scratch("chat.json"));
    std::fs::write(&file, "A hob is a shelf by the fire.\n").expect("written");
    let _ = (std::fs::remove_file(&markdown), std::fs::remove_file(&json));
    let lines = format!(
        "/undo\n/retry\n/save\n/read {}\nSum it up.\n/edit\nWhat is it?\n/branch idea\n/undo\n/branches\n/branch main\n/branch\n\
         /set temp 0.5\n/set tmep 1\n/set\n/tools\n/model\n/export md {}\n/export json {}\n/export md {1}\n/udno\n/load nothing\n/help\n",
        file.display(),
        markdown.display(),
        json.display()
    );
    let done = data.chat(&[TINY, "-n", "4", "--seed", "1"], &lines);
    for text in [
        "nothing was asked yet",
        "a question to answer once more",
        "this chat is not saved; /save NAME does",
        "notes.txt (30 B, ",
        "now on idea; main stays as it is",
        "taken back: What is it?",
        "* idea      0  nothing was asked",
        "  main      1  What is it?",
        "  main.1    1",
        "on main; /branch NAME goes on",
        "temp 0.5\n",
        "did you mean temp?",
        "top-k 40 (default)",
        "no tools here",
        "written: ",
        "exists",
        "did you mean /undo?",
        "no saved chat is called nothing",
        "/export md|json FILE",
    ] {
        assert!(done.err.contains(text), "{text}: {}", done.err);
    }
    done.fine();
    let text = std::fs::read_to_string(&markdown).expect("written");
    assert!(text.starts_with("# What is it?\n") && text.contains("\n## You\n\nWhat is it?\n"), "{text}");
    let chat: Value = serde_json::from_str(&std::fs::read_to_string(&json).expect("written")).expect("JSON");
    assert_eq!((&chat["messages"][0]["role"], chat["messages"].as_array().map(Vec::len)), (&"user".into(), Some(2)));
    assert!(!data.0.exists(), "nothing was to be saved");
}

#[test]
fn a_full_context_is_said_and_old_turns_make_room_where_that_is_wanted() {
    let data = Data::new("full");
    let lines = "One\nTwo\nThree\nFour\n/context\n";
    let rolls = data.chat(&[TINY, "-c", "96", "-n", "10", "--seed", "1", "--full", "roll"], lines);
    for text in ["made room: the model reads them no more", "full roll", "tokens) made room"] {
        assert!(rolls.err.contains(text), "{text}: {}", rolls.err);
    }
    assert!(rolls.fine().lines().count() >= 4);
    let stops = data.chat(&[&[TINY, "-c", "48", "-n", "40", "--seed", "1"][..], &ON].concat(), "One\nTwo\n");
    assert!(stops.err.contains("the context is full") && stops.err.contains("found "), "{}", stops.err);
}

#[test]
fn a_model_that_is_gone_is_said_and_another_goes_on() {
    let data = Data::new("gone");
    let copy = scratch("copy.gguf");
    std::fs::copy(TINY, &copy).expect("copied");
    data.chat(&[&copy.to_string_lossy(), "-n", "4"], "/save trip\nOne\n").fine();
    std::fs::remove_file(&copy).expect("removed");
    let gone = data.chat(&["--resume", "trip"], "");
    assert!(gone.code == Some(2) && gone.err.contains("is gone: ") && gone.err.contains("--resume"), "{}", gone.err);
    let other = scratch("other.gguf");
    let quantized = command(&["quantize", TINY, &other.to_string_lossy(), "Q8_0"]).output().expect("hob runs");
    assert!(quantized.status.success());
    let done = data.chat(&[&other.to_string_lossy(), "--resume", "trip", "-n", "4"], "Two\n");
    assert!(done.err.contains("this chat was held with ") && done.err.contains("> One"), "{}", done.err);
    done.fine();
}
