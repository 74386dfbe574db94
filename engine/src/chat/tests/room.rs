//! Contexts that fill up: where the choice is to let old turns go, what goes is said, and the rest is a conversation like any other.

use super::edit::tiny;
use super::*;

fn ask(chat: &mut Chat, question: &str) -> (String, Option<EndReason>, Vec<Rolled>) {
    let mut reply = chat.say(question).unwrap();
    let mut rolled = Vec::new();
    for event in reply.events() {
        if let Event::Rolled(event) = event.unwrap() {
            rolled.push(event);
        }
    }
    (reply.said().to_owned(), reply.end(), rolled)
}

#[test]
fn old_turns_go_and_it_is_said() {
    let (chat, _) = chat(160, "an answer");
    let mut chat = chat.system("Be kind.").full(Full::Roll);
    let mut all = Vec::new();
    for n in 1..=8 {
        let (said, end, rolled) = ask(&mut chat, &format!("Question {n}?"));
        assert_eq!((said.as_str(), end), ("an answer", Some(EndReason::EndOfTurn)));
        assert!(chat.tokens() <= 160);
        all.extend(rolled);
    }
    // Turn by turn, each told once, and whole: the conversation itself keeps them.
    assert!(!all.is_empty() && all[0].turns.start == 1 && all[0].tokens > 0, "{all:?}");
    assert!(all.windows(2).all(|pair| pair[0].turns.end == pair[1].turns.start));
    let gone = all.last().unwrap().turns.end - 1;
    assert_eq!(chat.conversation().begins_at(), 2 * gone);
    assert_eq!(chat.messages().len(), 17);
    assert!(all[0].to_string().contains("tokens) made room"), "{}", all[0]);
    // What the model read last is what a chat of the rest alone would read.
    let mut rest = vec![chat.messages()[0].clone()];
    rest.extend_from_slice(&chat.messages()[1 + 2 * gone..16]);
    let prompt = chat.model().encode_chat(&rest, &Map::new()).unwrap();
    assert_eq!(chat.session.as_ref().unwrap().tokens()[..prompt.len()], prompt);
    // Back to where all fits, all is read again.
    while chat.conversation().questions().count() > 2 {
        chat.undo();
    }
    assert_eq!(chat.conversation().begins_at(), 0);
}

#[test]
fn a_reply_goes_on_when_old_turns_have_made_room_for_it() {
    let long = "a".repeat(60);
    let (chat, _) = chat(160, &long);
    let mut chat = chat.full(Full::Roll);
    assert_eq!(ask(&mut chat, "One").0, long);
    let (said, end, rolled) = ask(&mut chat, "Two");
    assert_eq!((said.as_str(), end, rolled.len()), (long.as_str(), Some(EndReason::EndOfTurn), 1));
    assert_eq!(rolled[0].turns, 1..2);
    // One that is longer than the context ends, and says so.
    let (chat, _) = self::chat(96, &"b".repeat(300));
    let mut chat = chat.full(Full::Roll);
    let (said, end, rolled) = ask(&mut chat, "Hi");
    assert_eq!((end, rolled.len()), (Some(EndReason::ContextFull), 0));
    assert!(said.len() > 50);
}

#[test]
fn room_made_in_the_middle_is_a_prompt_with_the_rest_and_what_was_written() {
    let (model, _) = fake::model(&Model::options().context(128), &"x".repeat(50), Duration::ZERO);
    let mut chat = model.chat().sampling(Sampling::greedy()).full(Full::Roll).stop("never").ban("nothing");
    ask(&mut chat, "One");
    let (said, _, rolled) = ask(&mut chat, "Two");
    assert_eq!((said.len(), rolled.len()), (50, 1));
    let prompt = model.encode_chat(&[Message::new(Role::User, "Two")], &Map::new()).unwrap();
    let tokens = chat.session.as_ref().unwrap().tokens().to_vec();
    assert_eq!(tokens[..prompt.len()], prompt);
    assert_eq!(model.tokenizer().decode(&tokens[prompt.len()..]), said);
}

#[test]
fn too_long_even_alone_is_an_error_with_both_numbers() {
    let (chat, _) = chat(64, "ok");
    let mut chat = chat.full(Full::Roll);
    ask(&mut chat, "Hi");
    let error = chat.say(&"long ".repeat(100)).err().unwrap().to_string();
    assert!(error.contains("64") && error.contains("found ") && error.contains("newest turn"), "{error}");
    assert_eq!((chat.messages().len(), chat.conversation().begins_at()), (2, 0));
}

#[test]
fn the_context_is_accounted_for() {
    let (model, _) = fake::model(&Model::options().context(4096).chat_template(HERMES), "<think>Hm, hm.</think>Yes.", Duration::ZERO);
    let mut chat = model.chat().sampling(Sampling::greedy()).system("Be kind and brief.").offer(double());
    let before = chat.usage().unwrap();
    assert!(before.system > 10 && before.tools > 10 && before.turns == 0 && before.thinking == 0, "{before:?}");
    chat.say("Well?").unwrap().text().unwrap();
    let after = chat.usage().unwrap();
    assert!(after.thinking > 5 && after.turns > 5, "{after:?}");
    assert_eq!((after.system, after.tools, after.capacity), (before.system, before.tools, 4096));
    assert_eq!(after.used() + after.free(), 4096);
}

#[test]
fn rolling_changes_no_bit_of_what_is_read() {
    let model = tiny(80);
    let mut chat = model.chat().sampling(Sampling::greedy()).max_tokens(6).full(Full::Roll);
    let answers: Vec<String> = (1..6).map(|n| chat.say(&format!("Number {n}")).unwrap().text().unwrap()).collect();
    let start = chat.conversation().begins_at();
    assert!(start > 0);
    let mut rest = chat.messages()[start..].to_vec();
    rest.truncate(rest.len() - 2);
    let mut alone = model.chat().sampling(Sampling::greedy()).max_tokens(6).history(rest);
    assert_eq!(alone.say("Number 5").unwrap().text().unwrap(), answers[4]);
}
