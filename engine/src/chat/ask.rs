//! Answers that are held to a grammar, and answers as values.

use super::Chat;
use crate::error::Result;
use crate::grammar::{Grammar, Guide};
use crate::reply::Format;
use crate::template::Thinking;

impl Chat {
    /// Holds every answer to a grammar. What the model thinks, and its calls of tools, are free of it, but for calls that begin with a
    /// brace (Llama's): those would be the answer's. Stop strings end a reply wherever they come.
    ///
    /// ```
    /// use hob::{Grammar, Model};
    /// # let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/tiny.gguf");
    /// let schema = serde_json::json!({"type": "object", "properties": {"sky": {"enum": ["blue", "grey"]}}, "required": ["sky"],
    ///     "additionalProperties": false});
    /// let mut chat = Model::open(path)?.chat().grammar(Grammar::JsonSchema(schema));
    /// let answer: serde_json::Value = serde_json::from_str(&chat.say("How is the sky?")?.text()?)?;
    /// assert!(answer["sky"] == "blue" || answer["sky"] == "grey");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn grammar(mut self, grammar: Grammar) -> Chat {
        self.grammar = Some(grammar);
        self
    }

    /// Changes what answers are held to, or lets them go free.
    pub fn set_grammar(&mut self, grammar: Option<Grammar>) {
        self.grammar = grammar;
    }

    /// What holds the next reply to the grammar, if there is one.
    pub(super) fn guide(&self) -> Result<Option<Guide>> {
        let Some(grammar) = &self.grammar else { return Ok(None) };
        let (source, tokenizer) = (self.model.template().source(), self.model.tokenizer());
        let format = Format::of(source);
        let open = format.thinking.open.trim_end();
        let thinks = self.thinking != Thinking::Off && (source.contains(open) || tokenizer.find(open).is_some());
        let calls = !self.schemas()?.is_empty() || self.variables.contains_key("tools");
        Ok(Some(self.model.guide(grammar)?.of_reply(format, thinks, calls)))
    }
}

#[cfg(feature = "grammar")]
mod values {
    use super::Chat;
    use crate::error::{Error, Fault, Result};
    use crate::generate::EndReason;
    use crate::grammar::Grammar;
    use schemars::JsonSchema;
    use serde::de::DeserializeOwned;
    use serde_json::{Value as Json, json};

    impl Chat {
        /// Says `text` and gives the answer as a value: the type's JSON schema is the grammar. The model sees nothing of the schema but
        /// the names that it is held to as it writes, so the message should say what is asked for.
        ///
        /// ```
        /// use hob::{Model, schemars};
        ///
        /// #[derive(serde::Deserialize, schemars::JsonSchema)]
        /// struct Book {
        ///     #[schemars(length(max = 20))]
        ///     title: String,
        ///     #[schemars(range(min = 1450, max = 2100))]
        ///     year: u16,
        /// }
        ///
        /// # let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/tiny.gguf");
        /// let book: Book = Model::open(path)?.chat().ask("The title and year of a book?")?;
        /// assert!((1450..=2100).contains(&book.year));
        /// # Ok::<(), hob::Error>(())
        /// ```
        ///
        /// # Errors
        /// As [`say`](Chat::say), and [`Error::Unsupported`] for a schema that cannot be honoured, [`Error::Cancelled`] by a canceller,
        /// [`Error::Input`] where a limit cut the answer, or the model called a tool that nobody runs.
        pub fn ask<T: DeserializeOwned + JsonSchema>(&mut self, text: &str) -> Result<T> {
            let mut schema = schemars::schema_for!(T).to_value();
            bound(&mut schema);
            let mut added_to = Vec::new();
            extended(&schema, &mut added_to);
            seal(&mut schema, &added_to, "#");
            let before = self.grammar.replace(Grammar::JsonSchema(schema));
            let answer = self.answer(text);
            self.grammar = before;
            let answer = answer?;
            read(&answer).map_err(|why| {
                let fault = Fault::at("answer").expected(format!("a value of {}", std::any::type_name::<T>()));
                Error::Input(fault.found(format!("{answer:?}")).help(why))
            })
        }

        /// A whole answer.
        fn answer(&mut self, text: &str) -> Result<String> {
            let mut reply = self.say(text)?;
            for piece in &mut reply {
                piece?;
            }
            let cut = |what: &str, help: &str| Err(Error::Input(Fault::at("answer").found(what).help(help)));
            match reply.end() {
                Some(EndReason::EndOfTurn) if reply.calls().is_empty() => Ok(reply.said().trim().to_owned()),
                Some(EndReason::EndOfTurn) => {
                    cut("the model called a tool that nobody runs", "register it with Chat::tool, or use Chat::say")
                }
                Some(EndReason::MaxTokens) => cut("it was cut by the token limit", "allow more tokens (Chat::max_tokens), or ask for less"),
                Some(EndReason::ContextFull) => {
                    cut("it was cut, as the context is full", "open the model with a larger context, or ask for less")
                }
                Some(EndReason::StopString) => cut("it was cut by a stop string", "ask without stop strings"),
                Some(EndReason::Cancelled) | None => Err(Error::Cancelled),
            }
        }
    }

    /// Where the schemas stand to which others add properties.
    fn extended(schema: &Json, places: &mut Vec<String>) {
        match schema {
            Json::Array(all) => all.iter().for_each(|inner| extended(inner, places)),
            Json::Object(object) => {
                if let (Some(Json::String(place)), true) = (object.get("$ref"), object.len() > 1) {
                    places.push(place.clone());
                }
                object.values().for_each(|inner| extended(inner, places));
            }
            Json::Null | Json::Bool(_) | Json::Number(_) | Json::String(_) => {}
        }
    }

    /// A type has the fields it has: no other properties, where the schema does not say so.
    fn seal(schema: &mut Json, added_to: &[String], place: &str) {
        match schema {
            Json::Array(all) => all.iter_mut().enumerate().for_each(|(i, inner)| seal(inner, added_to, &format!("{place}/{i}"))),
            Json::Object(object) => {
                object.iter_mut().for_each(|(key, inner)| seal(inner, added_to, &format!("{place}/{key}")));
                let parts = ["$ref", "allOf", "anyOf", "oneOf", "additionalProperties", "patternProperties"];
                let alone = !parts.iter().any(|part| object.contains_key(*part)) && !added_to.iter().any(|other| other == place);
                if alone && object.get("type").is_some_and(|kind| kind == "object") && object.get("properties").is_some_and(Json::is_object)
                {
                    object.insert("additionalProperties".into(), json!(false));
                }
            }
            Json::Null | Json::Bool(_) | Json::Number(_) | Json::String(_) => {}
        }
    }

    /// The value that a text is. `-0` is an integer to JSON and to the schema, and a float to serde_json: it becomes 0 where that is the
    /// trouble.
    fn read<T: DeserializeOwned>(text: &str) -> serde_json::Result<T> {
        serde_json::from_str(text).or_else(|why| {
            let mut value = serde_json::from_str(text)?;
            unsign(&mut value);
            T::deserialize(value).map_err(|_| why)
        })
    }

    /// Takes the sign from zeros.
    fn unsign(value: &mut Json) {
        match value {
            Json::Number(n) if n.as_f64() == Some(0.0) => *value = 0.into(),
            Json::Array(all) => all.iter_mut().for_each(unsign),
            Json::Object(all) => all.values_mut().for_each(unsign),
            Json::Null | Json::Bool(_) | Json::Number(_) | Json::String(_) => {}
        }
    }

    /// Numbers of a width are bounded by it: the schema names the width as a format.
    fn bound(schema: &mut Json) {
        match schema {
            Json::Array(all) => all.iter_mut().for_each(bound),
            Json::Object(object) => {
                object.values_mut().for_each(bound);
                let exact = (1u64 << 53) as i64; // whole numbers beyond are not exact in JSON
                let bounds = match object.get("format").and_then(Json::as_str) {
                    Some("int8") => (i64::from(i8::MIN), i64::from(i8::MAX)),
                    Some("int16") => (i64::from(i16::MIN), i64::from(i16::MAX)),
                    Some("int32") => (i64::from(i32::MIN), i64::from(i32::MAX)),
                    Some("int64" | "int" | "int128") => (-exact, exact),
                    Some("uint8") => (0, i64::from(u8::MAX)),
                    Some("uint16") => (0, i64::from(u16::MAX)),
                    Some("uint32") => (0, i64::from(u32::MAX)),
                    Some("uint64" | "uint" | "uint128") => (0, exact),
                    Some(_) | None => return,
                };
                object.entry("minimum").or_insert(json!(bounds.0));
                object.entry("maximum").or_insert(json!(bounds.1));
            }
            Json::Null | Json::Bool(_) | Json::Number(_) | Json::String(_) => {}
        }
    }
}
