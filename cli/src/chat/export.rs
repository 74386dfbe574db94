//! A conversation for elsewhere: Markdown to read, JSON in the form that chat APIs take.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;

use hob::{Message, Role};
use serde_json::{Value as Json, json};

use crate::failure::Failure;
use crate::units;

/// What is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Markdown,
    Json,
}

impl Form {
    pub(super) fn ending(self) -> &'static str {
        match self {
            Form::Markdown => "md",
            Form::Json => "json",
        }
    }
}

/// Writes a new file; one that is there is left alone.
pub(super) fn write(path: &Path, form: Form, title: &str, model: &str, messages: &[Message]) -> Result<(), Failure> {
    let text = match form {
        Form::Markdown => markdown(title, model, messages),
        Form::Json => document(title, model, messages),
    };
    let file = OpenOptions::new().write(true).create_new(true).open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes())).map_err(|error| Failure::io(path, error))
}

fn markdown(title: &str, model: &str, messages: &[Message]) -> String {
    let mut text = format!("# {title}\n\n{model} · hob {} · {}\n", env!("CARGO_PKG_VERSION"), units::now());
    for message in messages {
        let (who, body) = match message.role {
            Role::System => ("Told beforehand", message.content.clone()),
            Role::User => ("You", message.content.clone()),
            Role::Assistant => (model, message.content.clone()),
            Role::Tool => (message.answers.as_ref().map_or("Tool", |(_, tool)| tool), fenced("", &message.content)),
        };
        text.push_str(&format!("\n## {who}\n"));
        if !message.thinking.is_empty() {
            text.push_str(&format!("\n<details><summary>Thinking</summary>\n\n{}\n\n</details>\n", message.thinking.trim()));
        }
        if !body.trim().is_empty() {
            text.push_str(&format!("\n{}\n", body.trim_end()));
        }
        for call in &message.calls {
            text.push_str(&format!("\nCalls `{}`:\n\n{}\n", call.name, fenced("json", &format!("{:#}", call.arguments))));
        }
    }
    text
}

/// A block of code, with a longer fence than any in it.
pub(super) fn fenced(language: &str, code: &str) -> String {
    let longest = code.split(|c| c != '`').map(str::len).max().unwrap_or(0);
    let fence = "`".repeat(longest.max(2) + 1);
    format!("{fence}{language}\n{}\n{fence}", code.trim_end())
}

fn document(title: &str, model: &str, messages: &[Message]) -> String {
    let messages: Vec<Json> = messages.iter().map(one).collect();
    format!("{:#}\n", json!({"title": title, "model": model, "exported": units::now(), "messages": messages}))
}

fn one(message: &Message) -> Json {
    let mut one = json!({"role": message.role.name(), "content": message.content});
    if !message.thinking.is_empty() {
        one["reasoning_content"] = message.thinking.as_str().into();
    }
    if !message.calls.is_empty() {
        let call = |call: &hob::ToolCall| json!({"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments.to_string()}});
        one["tool_calls"] = message.calls.iter().map(call).collect();
    }
    if let Some((id, tool)) = &message.answers {
        one["tool_call_id"] = id.as_str().into();
        one["name"] = tool.as_str().into();
    }
    one
}

#[cfg(test)]
mod tests {
    use super::*;
    use hob::ToolCall;

    fn said() -> Vec<Message> {
        let call = ToolCall { id: "c1".into(), name: "double".into(), arguments: json!({"n": 2}) };
        vec![
            Message::new(Role::System, "Be brief."),
            Message::new(Role::User, "Twice two?"),
            Message::new(Role::Assistant, "").thinking("Hm.").calls([call.clone()]),
            Message::result(&call, "```\n4\n```"),
            Message::new(Role::Assistant, "Four."),
        ]
    }

    #[test]
    fn markdown_reads_as_a_conversation() {
        let text = markdown("Twice two", "Tiny", &said());
        let want = [
            "# Twice two\n\nTiny · hob ",
            "## Told beforehand\n\nBe brief.\n\n## You\n\nTwice two?\n\n## Tiny\n\n<details><summary>Thinking</summary>\n\nHm.\n\n</details>\n",
            "\nCalls `double`:\n\n```json\n{\n  \"n\": 2\n}\n```\n\n## double\n\n````\n```\n4\n```\n````\n\n## Tiny\n\nFour.\n",
        ];
        assert!(want.iter().all(|part| text.contains(part)), "{text}");
    }

    #[test]
    fn json_is_what_chat_apis_take() {
        let text: Json = serde_json::from_str(&document("Twice two", "Tiny", &said())).unwrap();
        assert_eq!(text["messages"][2]["tool_calls"][0]["function"]["arguments"], "{\"n\":2}");
        assert_eq!((&text["messages"][2]["reasoning_content"], &text["messages"][3]["tool_call_id"]), (&"Hm.".into(), &"c1".into()));
        assert_eq!(text["messages"][4], json!({"role": "assistant", "content": "Four."}));
    }

    #[test]
    fn no_file_is_overwritten() {
        let path = std::env::temp_dir().join(format!("hob-export-{}.md", std::process::id()));
        let _ = std::fs::remove_file(&path);
        write(&path, Form::Markdown, "t", "m", &said()).unwrap();
        assert!(write(&path, Form::Json, "t", "m", &said()).is_err());
        assert!(std::fs::read_to_string(&path).unwrap().starts_with("# t\n"));
        std::fs::remove_file(&path).unwrap();
    }
}
