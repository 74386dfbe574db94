//! Chat templates: from messages to the text of a prompt, as transformers renders it.

use crate::error::{Error, Fault, Result};
use serde_json::Value as Json;

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
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

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// What is said.
    pub content: String,
}

impl Message {
    /// `content`, said by `role`.
    pub fn new(role: Role, content: impl Into<String>) -> Message {
        Message { role, content: content.into() }
    }
}

/// A chat template, ready to render.
#[derive(Clone)]
pub struct ChatTemplate {
    source: String,
}

impl ChatTemplate {
    /// Compiles Jinja source.
    ///
    /// # Errors
    /// [`Error::Template`] where it is not a template.
    pub fn from_source(source: &str) -> Result<ChatTemplate> {
        Ok(ChatTemplate { source: source.to_owned() })
    }

    /// The Jinja source.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Renders one case as `hob template --json` takes it: an object with `messages`, and where wanted `tools`, `kwargs` (more
    /// variables), `add_generation_prompt`, `bos_token`, `eos_token`, `now` (`2026-01-02T03:04:05`, for `strftime_now`).
    ///
    /// # Errors
    /// [`Error::Template`] where the template refuses the conversation or fails on it; [`Error::Input`] for a case that is no case.
    pub fn render_case(&self, case: &Json) -> Result<String> {
        let _ = case;
        Err(Error::Unsupported(Fault::at("chat template").found("not built yet")))
    }
}
