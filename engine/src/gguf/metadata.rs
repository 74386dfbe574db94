//! The key-value pairs of a model, with getters that know types: an absent key is `None`, a wrong type is an error that
//! names the key, what was expected and what was found.

use std::collections::HashMap;

use super::{Strings, Value, ValueType};
use crate::error::{Error, Fault, Result};

/// The facts of a model: keys and values in the order of the file.
#[derive(Clone, Debug, Default)]
pub struct Metadata {
    /// Where they are from, for error messages: a file name.
    origin: String,
    entries: Vec<(String, Value)>,
    index: HashMap<String, usize>,
}

impl Metadata {
    /// No facts yet. `origin` names the file in error messages.
    pub fn new(origin: impl Into<String>) -> Metadata {
        Metadata { origin: origin.into(), ..Metadata::default() }
    }

    /// Where they are from, as error messages say it.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// Sets a value, in place where the key is there, last where it is new.
    pub fn set(&mut self, key: &str, value: impl Into<Value>) {
        let value = value.into();
        match self.index.get(key) {
            Some(&at) => self.entries[at].1 = value,
            None => {
                self.index.insert(key.to_owned(), self.entries.len());
                self.entries.push((key.to_owned(), value));
            }
        }
    }

    /// Takes a value out.
    pub fn remove(&mut self, key: &str) -> Option<Value> {
        let at = self.index.remove(key)?;
        self.index.values_mut().filter(|other| **other > at).for_each(|other| *other -= 1);
        Some(self.entries.remove(at).1)
    }

    /// How many pairs there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// All pairs in the order of the file.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Value)> + '_ {
        self.entries.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// The value of a key, whatever its type.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.index.get(key).map(|&at| &self.entries[at].1)
    }

    /// An integer of any type that fits.
    pub fn u32(&self, key: &str) -> Result<Option<u32>> {
        self.integer(key, "an integer from 0 to 4294967295")
    }

    /// An integer of any type that fits.
    pub fn u64(&self, key: &str) -> Result<Option<u64>> {
        self.integer(key, "an integer from 0 to 18446744073709551615")
    }

    /// An integer of any type that fits.
    pub fn i64(&self, key: &str) -> Result<Option<i64>> {
        self.integer(key, "a signed 64-bit integer")
    }

    /// A float of either width.
    pub fn f32(&self, key: &str) -> Result<Option<f32>> {
        self.typed(key, "a float", |value| value.float().map(|number| number as f32))
    }

    /// A truth value.
    pub fn bool(&self, key: &str) -> Result<Option<bool>> {
        self.typed(key, "true or false", |value| if let Value::Bool(truth) = value { Some(*truth) } else { None })
    }

    /// A text.
    pub fn str(&self, key: &str) -> Result<Option<&str>> {
        self.typed(key, "a string", |value| if let Value::Str(text) = value { Some(text.as_str()) } else { None })
    }

    /// An array of strings, where it lies in the file.
    pub fn strings(&self, key: &str) -> Result<Option<&Strings>> {
        self.typed(key, "an array of strings", |value| if let Value::Array(array) = value { array.strings() } else { None })
    }

    /// An array of floats of either width.
    pub fn f32s(&self, key: &str) -> Result<Option<Vec<f32>>> {
        self.items(key, "an array of floats", |item| item.float().map(|number| number as f32))
    }

    /// An array of integers of any type, each of which fits.
    pub fn i32s(&self, key: &str) -> Result<Option<Vec<i32>>> {
        self.items(key, "an array of signed 32-bit integers", |item| i32::try_from(item.integer()?).ok())
    }

    /// An array of integers of any type, each of which fits.
    pub fn u32s(&self, key: &str) -> Result<Option<Vec<u32>>> {
        self.items(key, "an array of integers from 0 to 4294967295", |item| u32::try_from(item.integer()?).ok())
    }

    /// An array of truth values.
    pub fn bools(&self, key: &str) -> Result<Option<Vec<bool>>> {
        self.items(key, "an array of true and false", |item| if let Value::Bool(truth) = item { Some(*truth) } else { None })
    }

    /// The error for a key that a model cannot do without.
    pub fn missing(&self, key: &str) -> Error {
        Error::Gguf(Fault::at(self.place(key)).expected("a value").found("no such key"))
    }

    fn integer<T: TryFrom<i128>>(&self, key: &str, expected: &str) -> Result<Option<T>> {
        self.typed(key, expected, |value| T::try_from(value.integer()?).ok())
    }

    fn items<T>(&self, key: &str, expected: &str, convert: impl Fn(&Value) -> Option<T>) -> Result<Option<Vec<T>>> {
        // An empty array may bear any type.
        self.typed(key, expected, |value| match value {
            Value::Array(array) if matches!(array.kind(), ValueType::Str | ValueType::Array) && !array.is_empty() => None,
            Value::Array(array) => array.iter().map(|item| convert(&item)).collect(),
            _ => None,
        })
    }

    fn typed<'a, T>(&'a self, key: &str, expected: &str, convert: impl FnOnce(&'a Value) -> Option<T>) -> Result<Option<T>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match convert(value) {
            Some(converted) => Ok(Some(converted)),
            None => Err(Error::Gguf(Fault::at(self.place(key)).expected(expected).found(describe(value)))),
        }
    }

    fn place(&self, key: &str) -> String {
        if self.origin.is_empty() { format!("metadata key `{key}`") } else { format!("{}: metadata key `{key}`", self.origin) }
    }
}

/// A value for an error message: its type and its beginning.
fn describe(value: &Value) -> String {
    const SHOWN: usize = 60;
    let text = match value {
        Value::Array(array) => return array.to_string().chars().take(SHOWN).collect(),
        Value::Str(text) if text.chars().count() > SHOWN => format!("`{}…`", text.chars().take(SHOWN).collect::<String>()),
        Value::Str(text) => format!("`{text}`"),
        other => other.to_string(),
    };
    format!("{} {text}", value.kind())
}

impl<K: AsRef<str>, V: Into<Value>> FromIterator<(K, V)> for Metadata {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Metadata {
        let mut metadata = Metadata::default();
        pairs.into_iter().for_each(|(key, value)| metadata.set(key.as_ref(), value));
        metadata
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Metadata {
        let mut metadata = Metadata::new("m.gguf");
        metadata.set("small", 7u8);
        metadata.set("negative", -1i32);
        metadata.set("large", 1u64 << 40);
        metadata.set("float", 0.5f64);
        metadata.set("text", "héllo");
        metadata.set("flag", true);
        metadata.set("names", vec!["a", "", "c"]);
        metadata.set("sizes", vec![1i64, 2, 3]);
        metadata
    }

    #[test]
    fn getters_take_what_fits_and_refuse_the_rest_by_name() {
        let m = sample();
        assert_eq!(m.u32("small").unwrap(), Some(7));
        assert_eq!(m.u64("large").unwrap(), Some(1 << 40));
        assert_eq!(m.i64("negative").unwrap(), Some(-1));
        assert_eq!(m.f32("float").unwrap(), Some(0.5));
        assert_eq!(m.str("text").unwrap(), Some("héllo"));
        assert_eq!(m.bool("flag").unwrap(), Some(true));
        assert_eq!(m.u32s("sizes").unwrap(), Some(vec![1, 2, 3]));
        assert_eq!(m.strings("names").unwrap().unwrap().iter().collect::<Vec<_>>(), ["a", "", "c"]);
        assert!(m.u32("absent").unwrap().is_none() && m.strings("absent").unwrap().is_none());

        let errors = [
            (m.u32("large").map(drop), "m.gguf: metadata key `large`: expected an integer from 0 to 4294967295, found u64 1099511627776"),
            (m.u32("negative").map(drop), "m.gguf: metadata key `negative`: expected an integer from 0 to 4294967295, found i32 -1"),
            (m.str("small").map(drop), "m.gguf: metadata key `small`: expected a string, found u8 7"),
            (m.bool("text").map(drop), "m.gguf: metadata key `text`: expected true or false, found str `héllo`"),
            (m.f32s("names").map(drop), "m.gguf: metadata key `names`: expected an array of floats, found [str; 3] a, , c"),
        ];
        for (result, text) in errors {
            assert_eq!(result.unwrap_err().to_string(), text);
        }
    }

    #[test]
    fn set_and_remove_keep_the_order() {
        let mut m = sample();
        m.set("small", 9u8);
        assert_eq!(m.remove("negative"), Some(Value::I32(-1)));
        assert_eq!(m.iter().map(|(key, _)| key).take(3).collect::<Vec<_>>(), ["small", "large", "float"]);
        assert_eq!((m.u32("small").unwrap(), m.f32("float").unwrap()), (Some(9), Some(0.5)));
    }
}
