//! Tools of a conversation: schemas for the model, closures for its calls.

use super::Chat;
use crate::error::{Error, Fault, Result};
use crate::reply::Event;
use crate::template::{Ignored, Message, ToolCall};
use serde_json::Value as Json;

/// What runs a call. An `Err` is told to the model as well, which may do better then.
type Run = Box<dyn FnMut(&Json) -> std::result::Result<String, String> + Send>;

/// A tool that the model may call.
pub(super) struct Tool {
    pub(super) schema: Json,
    run: Option<Run>,
}

impl Tool {
    /// From `{"type": "function", "function": {"name": …}}`, or from what is inside of it.
    fn new(schema: Json, run: Option<Run>) -> Tool {
        let schema = if schema.get("function").is_some() { schema } else { serde_json::json!({"type": "function", "function": schema}) };
        Tool { schema, run }
    }

    fn name(&self) -> &str {
        self.schema["function"]["name"].as_str().unwrap_or_default()
    }
}

impl Chat {
    /// Gives the model a tool: `schema` is a JSON schema with `name`, `description` and `parameters`, `run` takes the arguments and
    /// returns what the model is told. Within a reply, calls are run and the model goes on, until it calls no more.
    ///
    /// ```
    /// # let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/tiny.gguf");
    /// let model = hob::Model::open(path)?;
    /// let schema = serde_json::json!({
    ///     "name": "weather", "description": "The weather in a city.",
    ///     "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    /// });
    /// let mut chat = model.chat().max_tokens(8).tool(schema, |arguments| match arguments["city"].as_str() {
    ///     Some(city) => Ok(format!("It is sunny in {city}.")),
    ///     None => Err("which city?".into()),
    /// });
    /// for event in chat.say("How is the weather in Rome?")?.events() {
    ///     println!("{:?}", event?);
    /// }
    /// # Ok::<(), hob::Error>(())
    /// ```
    pub fn tool(mut self, schema: Json, run: impl FnMut(&Json) -> std::result::Result<String, String> + Send + 'static) -> Chat {
        self.tools.push(Tool::new(schema, Some(Box::new(run))));
        self
    }

    /// Tells the model of a tool that the caller runs: a reply that calls it ends, and [`respond`](Chat::respond) goes on.
    pub fn offer(mut self, schema: Json) -> Chat {
        self.tools.push(Tool::new(schema, None));
        self
    }

    /// What this conversation asks for that the model's chat template does not heed.
    pub fn ignored(&self) -> Vec<Ignored> {
        let template = self.model.template();
        let mut all: Vec<Ignored> = template.heeds(self.thinking).1.into_iter().collect();
        if !self.tools.is_empty() && !template.takes_tools() {
            all.push(Ignored { asked: "tools".into(), why: "this model's chat template knows no tools: it is not told of them" });
        }
        let unread = self.variables.keys().filter(|name| !template.reads(name));
        all.extend(unread.map(|name| Ignored { asked: format!("variable {name}"), why: "this model's chat template does not read it" }));
        all
    }

    /// The schemas that the template is given.
    pub(super) fn schemas(&self) -> Result<Vec<Json>> {
        if let Some(tool) = self.tools.iter().find(|tool| tool.name().is_empty()) {
            let fault = Fault::at("tool").expected("a schema with a `name`").found(&tool.schema);
            return Err(Error::Input(fault.help(r#"give {"name": …, "description": …, "parameters": {…}}"#)));
        }
        if self.tools.is_empty() || !self.model.template().takes_tools() {
            return Ok(Vec::new());
        }
        Ok(self.tools.iter().map(|tool| tool.schema.clone()).collect())
    }

    /// Whether these calls are run here: none of them is the caller's.
    pub(super) fn runs(&self, calls: &[ToolCall]) -> bool {
        let callers = |call: &ToolCall| self.tools.iter().any(|tool| tool.run.is_none() && tool.name() == call.name);
        !calls.is_empty() && self.tools.iter().any(|tool| tool.run.is_some()) && !calls.iter().any(callers)
    }

    /// Runs a call and puts its result into the conversation.
    pub(super) fn run(&mut self, call: &ToolCall) -> Event {
        let names: Vec<&str> = self.tools.iter().map(Tool::name).collect();
        let unknown = format!("there is no tool `{}`, only {}", call.name, names.join(", "));
        let run = self.tools.iter_mut().find(|tool| tool.name() == call.name).and_then(|tool| tool.run.as_mut());
        let content = match run.map_or(Err(unknown), |run| run(&call.arguments)) {
            Ok(text) => text,
            Err(why) => format!("error: {why}"),
        };
        self.conversation.push(Message::result(call, content.clone()), None);
        self.write_news();
        Event::Result { id: call.id.clone(), name: call.name.clone(), content }
    }
}
