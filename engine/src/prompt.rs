//! From a conversation to the tokens of a prompt, such that what people write never becomes a control token.
//!
//! ```text
//! content   "say <|im_end|> twice"                  "say ⟨0⟩ twice"        ⟨ ⟩: two characters that occur nowhere
//! rendered  "<|im_start|>user\nsay ⟨0⟩ twice<|im_end|>\n…"
//! encoded   parsed ………………………………………………………  literal  parsed ……
//! ```
//!
//! The template renders the messages with every control token's spelling in them replaced by a mark; the text between the
//! marks is encoded with control tokens, the marked spellings without. Where nothing needs a mark, which is nearly always, this
//! is the rendering encoded as a whole, as everyone does it. (A vocabulary that begins every text with a space puts one after a
//! mark as well.) The template sees marks in place of those spellings; in the
//! model's own messages, markers of its thinking are left, as templates cut it out by them.

use crate::error::Result;
use crate::template::{ChatTemplate, Message, Prompt, Role};
use crate::tokenizer::{Special, Token, TokenKind, Tokenizer};
use serde_json::Value as Json;
use std::collections::HashMap;

/// The spellings of a vocabulary's control tokens, by their first byte, longest first.
#[derive(Clone, Debug, Default)]
pub(crate) struct Controls(HashMap<u8, Vec<String>>);

impl Controls {
    pub(crate) fn of(tokenizer: &Tokenizer) -> Controls {
        let mut spellings: HashMap<u8, Vec<String>> = HashMap::new();
        for id in 0..tokenizer.vocab_size() as Token {
            if matches!(tokenizer.token_kind(id), Some(TokenKind::Control | TokenKind::Unknown))
                && let Some(text) = tokenizer.token_text(id)
                && let Some(first) = text.bytes().next()
            {
                spellings.entry(first).or_default().push(text.to_owned());
            }
        }
        for texts in spellings.values_mut() {
            texts.sort_by_key(|text| std::cmp::Reverse(text.len()));
        }
        Controls(spellings)
    }

    /// The first spelling in `text` and where it is.
    fn find<'t>(&self, text: &'t str, role: Role) -> Option<(usize, &'t str)> {
        text.bytes().enumerate().find_map(|(at, first)| {
            let fits = |spelling: &&String| {
                let thinking = role == Role::Assistant && spelling.to_ascii_lowercase().contains("think");
                !thinking && text.as_bytes()[at..].starts_with(spelling.as_bytes())
            };
            let spelling = self.0.get(&first)?.iter().find(fits)?;
            Some((at, text.get(at..at + spelling.len())?))
        })
    }
}

/// Text in which spellings were replaced by marks, `⟨number⟩`.
struct Marks {
    open: char,
    close: char,
    spellings: Vec<String>,
}

impl Marks {
    /// Two characters for private use that no message has.
    fn unused(messages: &[Message]) -> Marks {
        let said = |m: &Message| {
            let calls = m.calls.iter().map(|call| format!("{}{}{}", call.id, call.name, call.arguments));
            [m.content.clone(), m.thinking.clone()].into_iter().chain(calls).collect::<String>()
        };
        let all: String = messages.iter().map(said).collect();
        let free = |c: &char| !all.contains(*c);
        let mut free = ('\u{e000}'..='\u{f8ff}').filter(free);
        let (open, close) = (free.next().unwrap_or('\u{f0000}'), free.next().unwrap_or('\u{f0001}'));
        Marks { open, close, spellings: Vec::new() }
    }

    fn mark(&mut self, message: &Message, controls: &Controls) -> Message {
        let mut marked = message.clone();
        marked.content = self.mark_text(&message.content, message.role, controls);
        marked.thinking = self.mark_text(&message.thinking, message.role, controls);
        for call in &mut marked.calls {
            call.name = self.mark_text(&call.name, Role::Tool, controls);
            self.mark_values(&mut call.arguments, controls);
        }
        if let Some((id, name)) = &mut marked.answers {
            (*id, *name) = (self.mark_text(id, Role::Tool, controls), self.mark_text(name, Role::Tool, controls));
        }
        marked
    }

    fn mark_values(&mut self, value: &mut Json, controls: &Controls) {
        match value {
            Json::String(text) => *text = self.mark_text(text, Role::Tool, controls),
            Json::Array(items) => items.iter_mut().for_each(|item| self.mark_values(item, controls)),
            Json::Object(pairs) => {
                let marked = std::mem::take(pairs).into_iter().map(|(key, mut value)| {
                    self.mark_values(&mut value, controls);
                    (self.mark_text(&key, Role::Tool, controls), value)
                });
                *pairs = marked.collect();
            }
            Json::Null | Json::Bool(_) | Json::Number(_) => {}
        }
    }

    fn mark_text(&mut self, text: &str, role: Role, controls: &Controls) -> String {
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some((at, spelling)) = controls.find(rest, role) {
            out.push_str(&rest[..at]);
            out.push(self.open);
            out.push_str(&self.spellings.len().to_string());
            out.push(self.close);
            self.spellings.push(spelling.to_owned());
            rest = &rest[at + spelling.len()..];
        }
        out.push_str(rest);
        out
    }

    /// The stretches of a rendering, each with how it is to be encoded.
    fn cut<'t>(&'t self, rendered: &'t str) -> Vec<(&'t str, Special)> {
        let mut out = Vec::new();
        let mut rest = rendered;
        while let Some((before, after)) = rest.split_once(self.open) {
            let Some((number, after)) = after.split_once(self.close) else { break };
            out.push((before, Special::Parse));
            if let Some(spelling) = number.parse().ok().and_then(|i: usize| self.spellings.get(i)) {
                out.push((spelling, Special::Literal));
            }
            rest = after;
        }
        out.push((rest, Special::Parse));
        out.retain(|(text, _)| !text.is_empty());
        out
    }
}

/// The tokens of a prompt, BOS in front where the model wants one and the template has not written it; and its text.
pub(crate) fn encode(
    template: &ChatTemplate,
    tokenizer: &Tokenizer,
    controls: &Controls,
    prompt: &Prompt<'_>,
) -> Result<(Vec<Token>, String)> {
    let mut marks = Marks::unused(prompt.messages);
    let messages: Vec<Message> = prompt.messages.iter().map(|m| marks.mark(m, controls)).collect();
    let rendered = template.render(&Prompt { messages: &messages, ..*prompt })?;
    let mut tokens = Vec::new();
    for (text, special) in marks.cut(&rendered) {
        tokens.extend(tokenizer.encode(text, special)?);
    }
    if let Some(bos) = tokenizer.bos().filter(|bos| tokenizer.adds_bos() && tokens.first() != Some(bos)) {
        tokens.insert(0, bos);
    }
    Ok((tokens, rendered))
}
