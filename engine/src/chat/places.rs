//! Where a later prompt of the same conversation is likely to part from this one.
//!
//! ```text
//! … <user> Why is the sky blue? <assistant> <think> Hm. </think> Because …
//!        ▲ edited, or another question  ▲ said: the thinking is left out, the end of the prompt is worded anew
//! ```
//! Templates say so themselves: the conversation is rendered with another last message, and once more as it may read a turn later. The
//! first token that differs is the place, or rather the one before it, as tokens may be cut otherwise there.

use crate::model::Model;
use crate::template::{Message, Role};
use crate::tokenizer::Token;
use serde_json::{Map, Value as Json};

/// What stands for another text. Where one begins with the same token, the place is still one that both share.
const OTHER: &str = "Q";

/// The places in `prompt`, which the messages were rendered to. Where the template refuses such a conversation, there is none.
pub(super) fn partings(model: &Model, messages: &[Message], prompt: &[Token], tools: &[Json], variables: &Map<String, Json>) -> Vec<usize> {
    let parted = |messages: &[Message]| {
        let (other, _) = model.encode_prompt(messages, tools, variables).ok()?;
        let alike = prompt.iter().zip(&other).take_while(|(a, b)| a == b).count();
        (alike < prompt.len()).then(|| alike.saturating_sub(1))
    };
    let mut edited = messages.to_vec();
    if let Some(last) = edited.last_mut() {
        last.content = OTHER.into();
    }
    let mut later = messages.to_vec();
    later.push(Message::new(Role::Assistant, OTHER).thinking(OTHER));
    later.push(Message::new(Role::User, OTHER));
    [edited, later].iter().filter_map(|messages| parted(messages)).collect()
}
