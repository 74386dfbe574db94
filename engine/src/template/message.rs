//! Messages, and how a template wants them: templates agree on roles and content, not on how a call's arguments, an empty
//! content or past thinking are handed to them. Which of the ways it is, a trial shows.

use super::json;
use minijinja::Value;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The instructions.
    System,
    /// The human.
    User,
    /// The model.
    Assistant,
    /// A tool that the model called.
    Tool,
}

impl Role {
    /// The word that templates use.
    pub fn name(self) -> &'static str {
        match self {
            Role::System => "system",
            Role::User => "user",
            Role::Assistant => "assistant",
            Role::Tool => "tool",
        }
    }
}

/// A tool that the model wants called.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolCall {
    /// What its result refers to: the model's own, or made by hob.
    pub id: String,
    /// The tool.
    pub name: String,
    /// An object.
    pub arguments: Json,
}

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// What is said.
    pub content: String,
    /// What the model thought before it; most templates drop it from earlier turns.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub thinking: String,
    /// What the model called.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub calls: Vec<ToolCall>,
    /// Of a tool's result: the call's id and the tool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answers: Option<(String, String)>,
}

impl Message {
    /// `content`, said by `role`.
    pub fn new(role: Role, content: impl Into<String>) -> Message {
        Message { role, content: content.into(), thinking: String::new(), calls: Vec::new(), answers: None }
    }

    /// What a tool made of `call`.
    pub fn result(call: &ToolCall, content: impl Into<String>) -> Message {
        Message { answers: Some((call.id.clone(), call.name.clone())), ..Message::new(Role::Tool, content) }
    }

    /// With what the model thought.
    pub fn thinking(mut self, text: impl Into<String>) -> Message {
        self.thinking = text.into();
        self
    }

    /// With what the model called.
    pub fn calls(mut self, calls: impl IntoIterator<Item = ToolCall>) -> Message {
        self.calls.extend(calls);
        self
    }
}

/// How a template wants a call's arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arguments {
    Object,
    Text,
}

/// How a template wants the content of a message that only calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Empty {
    Text,
    None,
}

/// How a template wants messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Style {
    pub(super) arguments: Arguments,
    pub(super) empty: Empty,
    /// Where it looks for thinking.
    pub(super) thinking: &'static str,
    /// Whether it shows calls at all.
    pub(super) calls: Calls,
}

/// Whether a template shows what the model called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Calls {
    Shown,
    Left,
}

impl Style {
    /// The ways to try, the commonest first.
    pub(super) fn ways(source: &str) -> [Style; 4] {
        let thinking = Style::thinking(source);
        [(Arguments::Object, Empty::Text), (Arguments::Text, Empty::Text), (Arguments::Object, Empty::None), (Arguments::Text, Empty::None)]
            .map(|(arguments, empty)| Style { arguments, empty, thinking, calls: Calls::Shown })
    }

    fn thinking(source: &str) -> &'static str {
        let reads = |key: &str| {
            ["message.K", "['K']", "[\"K\"]", "get('K'", "'K' in message", "\"K\" in message"]
                .iter()
                .any(|form| source.contains(&form.replace('K', key)))
        };
        ["reasoning_content", "thinking", "reasoning"].into_iter().find(|key| reads(key)).unwrap_or("reasoning_content")
    }

    /// A conversation with one call, to see what becomes of it.
    pub(super) fn trial() -> [Message; 3] {
        let call = ToolCall { id: "call00000".into(), name: TRIAL.into(), arguments: serde_json::json!({KEY: "v"}) };
        [Message::new(Role::User, "u"), Message::new(Role::Assistant, "").calls([call.clone()]), Message::result(&call, "r")]
    }

    /// Whether the call of the trial came out as it should.
    pub(super) fn fits(rendered: &str) -> bool {
        rendered.contains(TRIAL) && rendered.contains(KEY) && !rendered.contains(&format!("{{'{KEY}'"))
    }

    /// The messages as the template sees them.
    pub(super) fn values(&self, messages: &[Message]) -> Value {
        messages.iter().map(|message| self.value(message)).collect()
    }

    fn value(&self, message: &Message) -> Value {
        let bare = !message.calls.is_empty() && message.content.is_empty();
        let content = match self.empty {
            Empty::None if bare => Value::from(()),
            Empty::None | Empty::Text => Value::from(message.content.as_str()),
        };
        let mut pairs = vec![("role", Value::from(message.role.name())), ("content", content)];
        // gpt-oss's template refuses both in a message that calls.
        let clashes = self.thinking == "thinking" && !message.calls.is_empty() && !message.content.is_empty();
        if !message.thinking.is_empty() && !clashes {
            pairs.push((self.thinking, Value::from(message.thinking.as_str())));
        }
        if !message.calls.is_empty() {
            pairs.push(("tool_calls", message.calls.iter().map(|call| self.call(call)).collect()));
        }
        if let Some((id, name)) = &message.answers {
            pairs.push(("tool_call_id", Value::from(id.as_str())));
            pairs.push(("name", Value::from(name.as_str())));
        }
        Value::from_pairs(pairs)
    }

    fn call(&self, call: &ToolCall) -> Value {
        let arguments = match self.arguments {
            Arguments::Object => json::value(&call.arguments),
            Arguments::Text => Value::from(call.arguments.to_string()),
        };
        let function = Value::from_pairs([("name", Value::from(call.name.as_str())), ("arguments", arguments)]);
        Value::from_pairs([("id", Value::from(call.id.as_str())), ("type", Value::from("function")), ("function", function)])
    }
}

/// Names that no template has.
const TRIAL: &str = "hob_trial_tool";
const KEY: &str = "hob_trial_key";
