//! Undo, retry, edit and branches, over a decoder that computes nothing and over the tiny model.

use super::*;
use crate::Session;

/// What the tiny model, whose weights are random, says to a seed.
pub(super) fn tiny(context: usize) -> Model {
    Model::options().threads(1).context(context).from_static(fake::TINY).unwrap()
}

fn names(chat: &Chat) -> Vec<(String, bool, usize)> {
    chat.conversation().branches().into_iter().map(|b| (b.name, b.current, b.questions)).collect()
}

#[test]
fn a_chat_may_go_to_another_thread() {
    fn sent<T: Send>() {}
    sent::<Chat>();
    sent::<Session>();
    sent::<Reply<'_>>();
    sent::<Saved>();
}

#[test]
fn what_is_taken_back_stays_as_a_branch() {
    let (chat, _) = chat(2048, "ok");
    let mut chat = chat.system("Be kind.");
    assert!(chat.undo().is_none());
    assert!(chat.retry().is_err());
    assert!(chat.edit(1, "x").is_err());
    chat.say("One").unwrap().text().unwrap();
    chat.say("Two").unwrap().text().unwrap();
    assert_eq!(chat.undo().as_deref(), Some("Two"));
    assert_eq!(chat.undo().as_deref(), Some("One"));
    // The second step took back nothing that the first had not kept.
    assert_eq!(names(&chat), [("main".into(), true, 0), ("main.1".into(), false, 2)]);
    assert_eq!(contents(&chat), [(Role::System, "Be kind.")]);
    chat.switch("main.1").unwrap();
    assert_eq!(contents(&chat).len(), 5);
    chat.edit(1, "Eins").unwrap().text().unwrap();
    assert_eq!(contents(&chat)[1..], [(Role::User, "Eins"), (Role::Assistant, "ok")]);
    assert_eq!(names(&chat), [("main".into(), false, 0), ("main.1".into(), true, 1), ("main.2".into(), false, 2)]);
    let branch = &chat.conversation().branches()[2];
    assert_eq!((branch.last.as_str(), branch.shared), ("Two", 0));
    // A name of one's own, from here on.
    chat.branch("idea").unwrap();
    assert!(chat.branch("idea").is_err() && chat.branch("").is_err() && chat.branch(" a").is_err() && chat.switch("no").is_err());
    chat.say("Zwei").unwrap().text().unwrap();
    assert_eq!(chat.conversation().branch(), "idea");
    chat.switch("main.1").unwrap();
    assert_eq!(chat.conversation().questions().collect::<Vec<_>>(), ["Eins"]);
    // A branch that shows the way elsewhere need not be kept twice.
    chat.switch("idea").unwrap();
    chat.branch("same").unwrap();
    chat.undo();
    assert_eq!(chat.conversation().branches().len(), 5);
    chat.clear();
    assert_eq!(names(&chat), [("main".into(), true, 0)]);
    assert_eq!(contents(&chat), [(Role::System, "Be kind.")]);
}

#[test]
fn a_retry_that_comes_to_nothing_leaves_the_answer_that_was_there() {
    let (mut chat, _) = chat(512, "ok");
    chat.say("One").unwrap().text().unwrap();
    let canceller = chat.canceller();
    let mut reply = chat.retry().unwrap();
    canceller.cancel();
    assert!(reply.next().is_none());
    drop(reply);
    assert_eq!(contents(&chat), [(Role::User, "One"), (Role::Assistant, "ok")]);
    assert_eq!(names(&chat), [("main".into(), true, 1)]);
    assert!(chat.edit(1, &"long ".repeat(500)).is_err());
    assert_eq!((contents(&chat).len(), names(&chat).len(), chat.waits()), (2, 1, false));
}

#[test]
fn another_way_computes_only_what_it_does_not_share() {
    let (mut chat, asked) = chat(4096, ANSWER);
    for question in ["One", "Two", "Three"] {
        chat.say(question).unwrap().text().unwrap();
    }
    let whole = chat.tokens();
    asked.lock().unwrap().clear();
    chat.retry().unwrap().text().unwrap();
    assert_eq!((chat.stats().prompt_tokens, chat.tokens()), (1, whole), "all but the last token of the prompt");
    asked.lock().unwrap().clear();
    chat.edit(3, "Drei").unwrap().text().unwrap();
    let first = asked.lock().unwrap()[0].clone();
    assert!(first.position > whole / 2 && chat.stats().reused_tokens == first.position, "{first:?} of {whole}");
    chat.switch("main.1").unwrap();
    chat.say("Four").unwrap().text().unwrap();
    assert!(chat.stats().reused_tokens > whole / 2);
}

#[test]
fn every_way_gives_the_bits_that_it_alone_would_give() {
    let model = tiny(512);
    let mut chat = model.chat().sampling(Sampling::greedy()).max_tokens(6);
    for question in ["One", "Two"] {
        chat.say(question).unwrap().text().unwrap();
    }
    chat.branch("other").unwrap();
    chat.edit(2, "Zwei").unwrap().text().unwrap();
    chat.switch("main").unwrap();
    let answer = chat.say("Three").unwrap().text().unwrap();
    let history: Vec<Message> = chat.messages()[..4].to_vec();
    let mut alone = model.chat().sampling(Sampling::greedy()).max_tokens(6).history(history);
    assert_eq!(alone.say("Three").unwrap().text().unwrap(), answer);
}

#[test]
fn another_model_goes_on_with_what_was_said() {
    let (mut chat, _) = chat(512, "ok");
    chat.say("One").unwrap().text().unwrap();
    let (other, _) = fake::model(&Model::options().context(256), "yes", Duration::ZERO);
    chat.set_model(&other);
    assert_eq!(chat.say("Two").unwrap().text().unwrap(), "yes");
    assert_eq!((chat.messages().len(), chat.model().context()), (4, 256));
}
