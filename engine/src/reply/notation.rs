//! Values as models write them outside of JSON: Python's literals (LFM) and Gemma's notation, in which keys are bare.
//!
//! ```text
//! value   'text' | "text" | <|"|>text<|"|> | {key: value, …} | [value, …] | True | none | 2.5 | bare words
//! ```

use serde_json::{Map, Value as Json};

/// Values inside of values.
const DEEPEST: usize = 64;
/// Gemma's quotation mark.
const QUOTE: &str = "<|\"|>";

/// Reads values from the start of a text.
pub(super) struct Reader<'t>(pub(super) &'t str);

impl<'t> Reader<'t> {
    /// The next value.
    pub(super) fn value(&mut self, depth: usize) -> Result<Json, String> {
        if depth > DEEPEST {
            return Err("values are nested too deeply".into());
        }
        self.blank();
        match self.0.as_bytes().first() {
            None => Err("a value is missing".into()),
            Some(b'{') => self.map('}', ':', depth).map(Json::Object),
            Some(b'[') => self.list(']', depth),
            Some(b'(') => self.list(')', depth),
            Some(b'\'' | b'"') => self.quoted().map(Json::String),
            Some(_) if self.0.starts_with(QUOTE) => self.quoted().map(Json::String),
            Some(_) => {
                let text = self.bare(&[',', '}', ']', ')']);
                Ok(match text {
                    "True" => Json::Bool(true),
                    "False" => Json::Bool(false),
                    "None" => Json::Null,
                    other => serde_json::from_str(other).unwrap_or_else(|_| Json::from(other)),
                })
            }
        }
    }

    /// Pairs up to `end`, from the bracket that opens them.
    pub(super) fn map(&mut self, end: char, between: char, depth: usize) -> Result<Map<String, Json>, String> {
        self.0 = &self.0[1..];
        let mut pairs = Map::new();
        while !self.ends(end)? {
            let key = if self.0.starts_with(['\'', '"']) || self.0.starts_with(QUOTE) {
                self.quoted()?
            } else {
                self.bare(&[between, ',', end]).to_owned()
            };
            self.blank();
            self.0 = self.0.strip_prefix(between).ok_or_else(|| format!("`{between}` is missing after `{key}`"))?;
            let value = self.value(depth + 1)?;
            pairs.insert(key, value);
        }
        Ok(pairs)
    }

    fn list(&mut self, end: char, depth: usize) -> Result<Json, String> {
        self.0 = &self.0[1..];
        let mut items = Vec::new();
        while !self.ends(end)? {
            items.push(self.value(depth + 1)?);
        }
        Ok(Json::Array(items))
    }

    /// Whether `end` comes next, which is taken; so is a comma.
    fn ends(&mut self, end: char) -> Result<bool, String> {
        self.blank();
        self.0 = self.0.strip_prefix(',').unwrap_or(self.0);
        self.blank();
        if let Some(rest) = self.0.strip_prefix(end) {
            self.0 = rest;
            return Ok(true);
        }
        if self.0.is_empty() || self.0.starts_with(['}', ']', ')', ',']) { Err(format!("`{end}` is missing")) } else { Ok(false) }
    }

    pub(super) fn blank(&mut self) {
        self.0 = self.0.trim_start();
    }

    /// The text up to one of `ends`.
    pub(super) fn bare(&mut self, ends: &[char]) -> &'t str {
        let (text, rest) = self.0.split_at(self.0.find(ends).unwrap_or(self.0.len()));
        self.0 = rest;
        text.trim()
    }

    fn quoted(&mut self) -> Result<String, String> {
        let unclosed = || "a text is not closed".to_owned();
        if let Some(rest) = self.0.strip_prefix(QUOTE) {
            let (text, rest) = rest.split_once(QUOTE).ok_or_else(unclosed)?;
            self.0 = rest;
            return Ok(text.to_owned());
        }
        let mut characters = self.0.char_indices();
        let quote = characters.next().map_or('"', |(_, c)| c);
        let mut text = String::new();
        while let Some((at, c)) = characters.next() {
            match c {
                c if c == quote => {
                    self.0 = &self.0[at + c.len_utf8()..];
                    return Ok(text);
                }
                '\\' => text.push(match characters.next().ok_or_else(unclosed)?.1 {
                    'n' => '\n',
                    't' => '\t',
                    'r' => '\r',
                    other => other,
                }),
                c => text.push(c),
            }
        }
        Err(unclosed())
    }
}
