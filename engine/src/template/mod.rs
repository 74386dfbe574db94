//! Chat templates: from messages to the text of a prompt, exactly as transformers' `apply_chat_template` renders it.
//!
//! A GGUF file carries its template as Jinja source (`tokenizer.chat_template`). It is run by minijinja with the settings of
//! transformers (`trim_blocks`, `lstrip_blocks`, loop controls, the `generation` tag) and the Python around it: methods of
//! strings, lists and dicts, `str` of any value, `json.dumps`, `strftime_now`, `raise_exception`. Lists and dicts cannot be changed,
//! as in transformers' sandbox. The source is the file's, so it runs on a limited amount of fuel and of memory (`bounds`).
//!
//! Which variables a template reads is known before it runs: [`ChatTemplate::heeds`] turns [`Thinking`] into those that this one
//! looks at, and says what it ignores.

mod bounds;
mod builtin;
mod clock;
mod dialect;
mod iterable;
mod json;
mod markup;
mod message;
mod python;
mod thinking;

use crate::error::{Error, Fault, Result};
use crate::gguf::Metadata;
pub use message::{Message, Role, ToolCall};
pub use thinking::{Effort, Ignored, Thinking};

use bounds::LARGEST;
use builtin::{BUILTINS, Builtin};
use clock::Moment;
use message::Style;
use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, ErrorKind, Value};
use serde_json::{Map, Value as Json};
use std::collections::HashSet;
use std::error::Error as _;
use std::fmt;
use std::sync::{Arc, OnceLock};

/// Instructions that a rendering may take: a long conversation takes some hundred thousand.
const FUEL: u64 = 20_000_000;
/// Bytes that a template's source may have; the longest known has 30 thousand.
const LONGEST: usize = 1 << 20;

/// Whether the prompt ends with the opening of the model's turn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Turn {
    /// It does: the model is to speak next.
    #[default]
    Open,
    /// It ends with the last message.
    Closed,
}

/// What a template is rendered from.
#[derive(Clone, Copy, Debug, Default)]
pub struct Prompt<'a> {
    /// The conversation.
    pub messages: &'a [Message],
    /// How it ends.
    pub turn: Turn,
    /// Text of the token that begins a text.
    pub bos: &'a str,
    /// Text of the token that ends one.
    pub eos: &'a str,
    /// The tools that the model may call, each as `{"type": "function", "function": {"name", "description", "parameters"}}`.
    pub tools: &'a [Json],
    /// More variables, as `enable_thinking`.
    pub variables: Option<&'a Map<String, Json>>,
}

/// A chat template, ready to render. Cloning shares it.
#[derive(Clone)]
pub struct ChatTemplate {
    env: Arc<Environment<'static>>,
    source: Arc<str>,
    /// The variables it reads.
    reads: Arc<HashSet<String>>,
    /// How it wants calls; found with the first conversation that has one.
    style: Arc<OnceLock<Style>>,
}

impl fmt::Debug for ChatTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChatTemplate").field("source", &self.source).finish_non_exhaustive()
    }
}

impl ChatTemplate {
    /// Compiles Jinja source.
    ///
    /// ```
    /// use hob::template::{ChatTemplate, Message, Prompt, Role};
    /// let template = ChatTemplate::from_source("{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>")?;
    /// let messages = [Message::new(Role::User, "Hello")];
    /// assert_eq!(template.render(&Prompt { messages: &messages, ..Prompt::default() })?, "<user>Hello<assistant>");
    /// # Ok::<(), hob::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Template`] where it is not a template.
    pub fn from_source(source: &str) -> Result<ChatTemplate> {
        if source.len() > LONGEST {
            return Err(Error::Template(Fault::at("chat template").expected(format!("at most {LONGEST} bytes")).found(source.len())));
        }
        let mut env = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build().map_err(|e| fault(&e))?;
        env.set_syntax(syntax);
        env.set_fuel(Some(FUEL));
        env.set_debug(false);
        python::install(&mut env);
        let translated = dialect::translate(source)
            .ok_or_else(|| Error::Template(Fault::at("chat template").found("more additions in one expression than any prompt needs")))?;
        env.add_template_owned(NAME, translated).map_err(|e| fault(&e))?;
        let reads = env.get_template(NAME).map_err(|e| fault(&e))?.undeclared_variables(false);
        Ok(ChatTemplate { env: Arc::new(env), source: source.into(), reads: Arc::new(reads), style: Arc::default() })
    }

    /// A template that hob knows by itself: `chatml`, `llama3`, `gemma`, `phi3`, `mistral`, `zephyr` or `llama2`.
    ///
    /// # Errors
    /// [`Error::Input`] for another name.
    pub fn named(name: &str) -> Result<ChatTemplate> {
        match BUILTINS.iter().find(|b| b.name == name) {
            Some(builtin) => ChatTemplate::from_source(builtin.source),
            None => {
                let names: Vec<_> = BUILTINS[..BUILTINS.len() - 1].iter().map(|b| b.name).collect();
                Err(Error::Input(Fault::at("chat template").expected(names.join(", ")).found(format!("`{name}`"))))
            }
        }
    }

    /// The template of a file; and where it brings none, or none that compiles, one of hob's own and the sentence that says so.
    ///
    /// # Errors
    /// [`Error::Gguf`] where the file's key is no text.
    pub fn from_gguf(metadata: &Metadata) -> Result<(ChatTemplate, Option<String>)> {
        let tokens = || -> Result<_> { Ok(metadata.strings("tokenizer.ggml.tokens")?.into_iter().flat_map(|tokens| tokens.iter())) };
        let (reason, (template, name)) = match metadata.str("tokenizer.chat_template")?.filter(|source| !source.trim().is_empty()) {
            None => ("the file has no chat template".to_owned(), ChatTemplate::guess(tokens()?)?),
            Some(source) => match ChatTemplate::from_source(source) {
                Ok(template) => return Ok((template, None)),
                Err(error) => (format!("the file's chat template cannot be used ({error})"), ChatTemplate::guess(tokens()?)?),
            },
        };
        Ok((template, Some(format!("{reason}: using hob's own {name}"))))
    }

    /// One of hob's templates by the vocabulary, and its name with the reason.
    ///
    /// # Errors
    /// None: the templates are tested.
    pub fn guess(tokens: impl IntoIterator<Item = impl AsRef<str>>) -> Result<(ChatTemplate, String)> {
        let mut seen = [0u32; BUILTINS.len()];
        for token in tokens {
            for (bits, builtin) in seen.iter_mut().zip(&BUILTINS) {
                if let Some(i) = builtin.tokens.iter().position(|t| *t == token.as_ref()) {
                    *bits |= 1 << i;
                }
            }
        }
        let fits = |(bits, builtin): &(u32, &Builtin)| bits.count_ones() as usize == builtin.tokens.len();
        let chosen = seen.into_iter().zip(&BUILTINS).find(fits).map_or(&BUILTINS[0], |(_, builtin)| builtin);
        let reason = match chosen.tokens.first() {
            Some(token) => format!("as its vocabulary has {token}"),
            None => "which may not suit this model".to_owned(),
        };
        Ok((ChatTemplate::from_source(chosen.source)?, format!("`{}`, {reason}", chosen.name)))
    }

    /// The Jinja source.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The text of a prompt.
    ///
    /// # Errors
    /// [`Error::Template`] where the template refuses the conversation, fails on it or takes too long.
    pub fn render(&self, prompt: &Prompt<'_>) -> Result<String> {
        let calls = prompt.messages.iter().any(|message| !message.calls.is_empty());
        self.render_in(if calls { self.style() } else { Style::ways(&self.source)[0] }, prompt)
    }

    /// Whether it reads the variable `name`; one that it does not read changes nothing.
    pub fn reads(&self, name: &str) -> bool {
        self.reads.contains(name)
    }

    /// The variables that make it heed what is asked about thinking, and what it does not heed.
    ///
    /// ```
    /// use hob::template::{ChatTemplate, Thinking};
    /// let template = ChatTemplate::from_source("{% if enable_thinking %}<think>{% endif %}")?;
    /// let (variables, ignored) = template.heeds(Thinking::Off);
    /// assert_eq!((variables["enable_thinking"].as_bool(), ignored), (Some(false), None));
    /// # Ok::<(), hob::Error>(())
    /// ```
    pub fn heeds(&self, thinking: Thinking) -> (Map<String, Json>, Option<Ignored>) {
        thinking::variables(thinking, &self.reads, &self.source)
    }

    /// Whether it tells the model about tools, and shows it its calls.
    pub fn takes_tools(&self) -> bool {
        self.reads("tools") && self.style().calls == message::Calls::Shown
    }

    /// How it wants calls, by trial.
    fn style(&self) -> Style {
        *self.style.get_or_init(|| {
            let ways = Style::ways(&self.source);
            let messages = Style::trial();
            let tool = serde_json::json!({"type": "function", "function": {"name": "hob_other_tool", "description": "d",
                "parameters": {"type": "object", "properties": {}, "required": []}}});
            let prompt = Prompt { messages: &messages, tools: &[tool], ..Prompt::default() };
            let fits = |way: &&Style| self.render_in(**way, &prompt).is_ok_and(|text| Style::fits(&text));
            ways.iter().find(fits).copied().unwrap_or(Style { calls: message::Calls::Left, ..ways[0] })
        })
    }

    fn render_in(&self, style: Style, prompt: &Prompt<'_>) -> Result<String> {
        let tools = if prompt.tools.is_empty() { Value::from(()) } else { prompt.tools.iter().map(json::value).collect() };
        let mut variables = vec![
            ("messages".to_owned(), style.values(prompt.messages)),
            ("add_generation_prompt".to_owned(), Value::from(prompt.turn == Turn::Open)),
            ("bos_token".to_owned(), Value::from(prompt.bos)),
            ("eos_token".to_owned(), Value::from(prompt.eos)),
            ("tools".to_owned(), tools),
            ("documents".to_owned(), Value::from(())),
        ];
        variables.extend(prompt.variables.into_iter().flatten().map(|(name, value)| (name.clone(), json::value(value))));
        self.run(variables, Moment::now())
    }

    /// Renders one case as `hob template --json` takes it: an object with `messages`, and where wanted `tools`, `kwargs` (more
    /// variables), `add_generation_prompt`, `bos_token`, `eos_token`, `now` (`2026-01-02T03:04:05`, for `strftime_now`).
    ///
    /// # Errors
    /// [`Error::Template`] where the template refuses the conversation or fails on it; [`Error::Input`] for a case that is none.
    pub fn render_case(&self, case: &Json) -> Result<String> {
        let wrong = |expected: &str, found: &Json| Error::Input(Fault::at("template case").expected(expected).found(found));
        let case = case.as_object().ok_or_else(|| wrong("an object with `messages`", case))?;
        if !case.get("messages").is_some_and(Json::is_array) {
            return Err(wrong("an array `messages`", case.get("messages").unwrap_or(&Json::Null)));
        }
        let mut now = Moment::now();
        let mut variables = vec![
            ("tools".to_owned(), Value::from(())),
            ("documents".to_owned(), Value::from(())),
            ("add_generation_prompt".to_owned(), Value::from(false)),
        ];
        for (name, value) in case {
            match name.as_str() {
                "now" => {
                    let moment = value.as_str().and_then(Moment::parse);
                    now = moment.ok_or_else(|| wrong("`now` like 2026-01-02T03:04:05", value))?;
                }
                "template" | "case" => {}
                "kwargs" => {
                    let more = value.as_object().ok_or_else(|| wrong("an object `kwargs`", value))?;
                    variables.extend(more.iter().map(|(name, value)| (name.clone(), json::value(value))));
                }
                _ => variables.push((name.clone(), json::value(value))),
            }
        }
        self.run(variables, now)
    }

    fn run(&self, mut variables: Vec<(String, Value)>, now: Moment) -> Result<String> {
        variables.push(("strftime_now".to_owned(), Value::from_function(move |format: &str| now.format(format))));
        let template = self.env.get_template(NAME).map_err(|e| fault(&e))?;
        let mut out = Bounded(Vec::new());
        bounds::reset();
        template.render_captured_to(Value::from_pairs(variables), &mut out).map_err(|e| fault(&e))?;
        String::from_utf8(out.0).map_err(|_| Error::Template(Fault::at(NAME).found("text that is not UTF-8")))
    }
}

/// Text that may not grow beyond [`LARGEST`].
struct Bounded(Vec<u8>);

impl std::io::Write for Bounded {
    fn write(&mut self, text: &[u8]) -> std::io::Result<usize> {
        if self.0.len() + text.len() > LARGEST {
            return Err(std::io::Error::other(format!("the text grows beyond {} MB", LARGEST >> 20)));
        }
        self.0.extend_from_slice(text);
        Ok(text.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The template's name inside its environment; without an extension, so that nothing is escaped.
const NAME: &str = "chat template";

/// What minijinja says, as hob's error: the words of `raise_exception` alone where the template raised it.
fn fault(error: &minijinja::Error) -> Error {
    let mut cause = error;
    while let Some(inner) = cause.source().and_then(|e| e.downcast_ref::<minijinja::Error>()) {
        cause = inner;
    }
    let raised = cause.source().is_some_and(|e| e.is::<python::Raised>());
    let place = match cause.line() {
        Some(line) if !raised => format!("{NAME}, line {line}"),
        Some(_) | None => NAME.to_owned(),
    };
    let found = match (cause.kind(), cause.detail()) {
        (_, Some(detail)) if raised => detail.to_owned(),
        (ErrorKind::OutOfFuel, _) => "it does not come to an end".to_owned(),
        (kind, Some(detail)) => format!("{kind}: {detail}"),
        (kind, None) => kind.to_string(),
    };
    Error::Template(Fault::at(place).found(found))
}

#[cfg(test)]
mod tests;
