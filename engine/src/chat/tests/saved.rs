//! Chats that are saved as they go, cut off anywhere, damaged, and resumed: they go on with the bits of one that was never closed.

use super::edit::tiny;
use super::*;
use std::path::PathBuf;

/// A file of its own, which goes with the test.
struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Place {
        let path = std::env::temp_dir().join(format!("hob-{name}-{}-{:?}.jsonl", std::process::id(), std::thread::current().id()));
        let _ = std::fs::remove_file(&path);
        Place(path)
    }

    fn lines(&self) -> Vec<String> {
        std::fs::read_to_string(&self.0).unwrap().lines().map(str::to_owned).collect()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Warm, with a penalty that looks back and mirostat, which learns: all that sampling remembers.
fn samplings() -> [Sampling; 2] {
    let base = Sampling { repeat_penalty: Some(1.1), ..Sampling::new(7).temperature(1.5) };
    [base.clone(), Sampling { mirostat: Some(crate::Mirostat::V2), logit_bias: vec![(5, f32::NEG_INFINITY)], ..base }]
}

fn begin(model: &Model, sampling: &Sampling) -> Chat {
    limits(model.chat().sampling(sampling.clone()).system("Be brief.").variable("mood", "good"))
}

fn limits(chat: Chat) -> Chat {
    chat.max_tokens(12).ban("a").stop("zq")
}

#[test]
fn a_chat_cut_off_at_any_line_goes_on_with_the_same_bits() {
    let model = tiny(1024);
    for (at, sampling) in samplings().iter().enumerate() {
        let place = Place::new(&format!("cut{at}"));
        let mut chat = begin(&model, sampling);
        chat.save_to(&place.0).unwrap();
        chat.say("Hello").unwrap().text().unwrap();
        chat.retry().unwrap().text().unwrap();
        let third = chat.say("And now?").unwrap().text().unwrap();
        let fourth = chat.say("And then?").unwrap().text().unwrap();
        let want = chat.messages().to_vec();
        let lines = place.lines();
        // It is cut off after each line of the third answer.
        let asked = lines.iter().position(|line| line.contains("And now?")).unwrap();
        let next = lines.iter().position(|line| line.contains("And then?")).unwrap();
        assert!(lines[asked..next].iter().filter(|line| line.contains("\"token\"")).count() >= 12, "{lines:#?}");
        for cut in (asked + 1)..=next {
            let place = Place::new(&format!("cut{at}-{cut}"));
            std::fs::write(&place.0, lines[..cut].join("\n") + "\n{\"event\":\"tok").unwrap();
            let saved = Saved::open(&place.0).unwrap();
            assert_eq!((saved.notes().len(), saved.is_unfinished()), (1, cut < next), "{:?}", saved.notes());
            let mut chat = limits(model.chat().resume(saved));
            if chat.waits() {
                assert_eq!(chat.go_on().unwrap().text().unwrap(), third, "cut at {cut}");
            }
            assert_eq!(chat.say("And then?").unwrap().text().unwrap(), fourth, "cut at {cut}");
            assert_eq!(chat.messages(), want);
            drop(chat);
            let again = Saved::read(&place.0).unwrap();
            assert_eq!((again.conversation().messages(), again.conversation().branches().len()), (want.as_slice(), 2));
            assert_eq!(again.notes().len(), 1, "the damaged line stays where it is");
        }
    }
}

#[test]
fn one_that_rolls_in_the_middle_of_a_reply_goes_on_too() {
    let begin = |chat: Chat| chat.max_tokens(40).full(Full::Roll);
    // A context that is full twenty tokens before the second reply ends.
    let wide = tiny(1024);
    let mut chat = begin(wide.chat().sampling(Sampling::new(3)));
    chat.say("Hello").unwrap().text().unwrap();
    chat.say("Well?").unwrap().text().unwrap();
    assert_eq!(chat.stats().generated_tokens, 40);
    let model = tiny(chat.tokens() - 20);
    let place = Place::new("roll");
    let mut chat = begin(model.chat().sampling(Sampling::new(3)));
    chat.save_to(&place.0).unwrap();
    chat.say("Hello").unwrap().text().unwrap();
    let answer = chat.say("Well?").unwrap().text().unwrap();
    let start = chat.conversation().begins_at();
    assert_eq!(start, 2);
    let lines = place.lines();
    let rolled = lines.iter().position(|line| line.contains("\"roll\"")).unwrap();
    assert!(lines[rolled - 1].contains("\"token\"") && lines[rolled + 1].contains("\"token\""), "{lines:#?}");
    for cut in [rolled - 1, rolled, rolled + 1, rolled + 3] {
        let place = Place::new(&format!("roll{cut}"));
        std::fs::write(&place.0, lines[..cut].join("\n") + "\n").unwrap();
        let mut chat = begin(model.chat().resume(Saved::open(&place.0).unwrap()));
        assert_eq!(chat.go_on().unwrap().text().unwrap(), answer, "cut at {cut}");
        assert_eq!(chat.conversation().begins_at(), start);
    }
}

#[test]
fn damage_costs_only_the_lines_it_hits() {
    let (mut chat, _) = chat(2048, "ok");
    let place = Place::new("damage");
    chat.save_to(&place.0).unwrap();
    for question in ["One", "Two", "Three"] {
        chat.say(question).unwrap().text().unwrap();
    }
    chat.branch("idea").unwrap();
    drop(chat);
    let lines = place.lines();
    let two = lines.iter().position(|line| line.contains("Two")).unwrap();
    let mut bytes = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        bytes.extend_from_slice(if at == two { b"\xff\xfe{{" } else { line.as_bytes() });
        bytes.push(b'\n');
    }
    bytes.extend_from_slice(b"{\"event\":\"weather\"}\n\n{\"event\":\"on\",\"name\":\"gone\"}\n");
    std::fs::write(&place.0, bytes).unwrap();
    let saved = Saved::read(&place.0).unwrap();
    assert_eq!(saved.conversation().questions().collect::<Vec<_>>(), ["One", "Three"]);
    assert_eq!(saved.conversation().branch(), "idea");
    assert_eq!(saved.notes().len(), 4, "{:?}", saved.notes());
    assert!(saved.notes()[0].starts_with(&format!("line {} is left out", two + 1)), "{:?}", saved.notes());
    // Other files are refused, an empty one is an empty chat.
    for (text, fine) in
        [("", true), ("hello", false), ("{\"event\":\"clear\"}", false), ("{\"event\":\"begin\",\"version\":99,\"created\":0}", false)]
    {
        std::fs::write(&place.0, text).unwrap();
        assert_eq!(Saved::read(&place.0).is_ok(), fine, "{text}");
    }
}

#[test]
fn another_model_keeps_what_was_said_of_a_reply() {
    let place = Place::new("other");
    let (mut chat, _) = chat(512, "abcdef");
    chat.save_to(&place.0).unwrap();
    let mut reply = chat.say("Hello").unwrap();
    let said: String = [reply.next().unwrap().unwrap(), reply.next().unwrap().unwrap()].concat();
    // As a process that is killed: nothing more is written.
    std::fs::copy(&place.0, place.0.with_extension("killed")).unwrap();
    drop(reply);
    drop(chat);
    let killed = Place(place.0.with_extension("killed"));
    let text = std::fs::read_to_string(&killed.0).unwrap();
    let hash = Saved::read(&killed.0).unwrap().model().unwrap().hash.clone();
    std::fs::write(&killed.0, text.replace(&hash, "0")).unwrap();
    let (model, _) = fake::model(&Model::options().context(512), "yes", Duration::ZERO);
    let mut chat = model.chat().sampling(Sampling::greedy()).resume(Saved::open(&killed.0).unwrap());
    assert_eq!((chat.waits(), chat.messages().last().unwrap().content.as_str()), (false, said.as_str()));
    assert_eq!(chat.say("Go on").unwrap().text().unwrap(), "yes");
    drop(chat);
    assert_eq!(Saved::read(&killed.0).unwrap().model().unwrap().hash, hash);
}

#[test]
fn a_question_without_an_answer_waits_or_goes() {
    let (model, _) = fake::model(&Model::options().context(512), "ok", Duration::ZERO);
    let place = Place::new("waits");
    let mut chat = model.chat().sampling(Sampling::greedy()).history([Message::new(Role::User, "Hello")]);
    chat.save_to(&place.0).unwrap();
    drop(chat);
    let open = || model.chat().resume(Saved::open(&place.0).unwrap());
    let mut chat = open();
    assert!(chat.waits());
    // Cancelled before anything is said, it waits on.
    let canceller = chat.canceller();
    let mut reply = chat.go_on().unwrap();
    canceller.cancel();
    assert!(reply.next().is_none());
    drop(reply);
    assert!(chat.waits());
    drop(chat);
    let mut chat = open();
    chat.say("Something else").unwrap().text().unwrap();
    assert_eq!(contents(&chat), [(Role::User, "Something else"), (Role::Assistant, "ok")]);
    assert!(chat.go_on().is_err());
}

#[test]
fn a_file_has_one_writer_and_is_private() {
    let (mut chat, _) = chat(512, "ok");
    let place = Place::new("one");
    chat.save_to(&place.0).unwrap();
    assert_eq!(chat.saved_to(), Some(place.0.as_path()));
    assert!(matches!(Saved::open(&place.0), Err(Error::Input(_))));
    assert!(matches!(chat.save_to(&place.0), Err(Error::Io { .. })));
    #[cfg(unix)]
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&place.0).unwrap().permissions()) & 0o777, 0o600);
    chat.stop_saving();
    let lines = place.lines().len();
    chat.say("Hello").unwrap().text().unwrap();
    assert_eq!((place.lines().len(), chat.save_error().is_none()), (lines, true));
    assert!(Saved::open(&place.0).is_ok());
}

#[test]
fn tools_and_their_results_are_saved() {
    let (model, _) = fake::model(&Model::options().context(32768).chat_template(HERMES), CALLS, Duration::ZERO);
    let place = Place::new("tools");
    let mut chat = model.chat().sampling(Sampling::greedy()).tool(double(), |_| Ok("4".into())).thinking(Thinking::On);
    chat.save_to(&place.0).unwrap();
    chat.say("Hello").unwrap().text().unwrap();
    let want = chat.messages().to_vec();
    drop(chat);
    let saved = Saved::read(&place.0).unwrap();
    assert_eq!((saved.conversation().messages(), saved.notes().len()), (want.as_slice(), 0));
    let chat = model.chat().resume(saved);
    assert_eq!((chat.thinking, chat.called), (Thinking::On, MOST_ROUNDS + 1));
}
