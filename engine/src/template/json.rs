//! `tojson` as transformers defines it: Python's `json.dumps`, without HTML escaping.
//!
//! Separators are `, ` and `: `; with an indent `,` and `: ` and a line per item. Keys keep their order unless `sort_keys` is given.
//! `ensure_ascii` is off by default. A value that Python could not write (an undefined one, a generator) is an error here too.

use super::iterable::is_slice;
use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Error, ErrorKind, Value};
use std::fmt::Write;

/// What the filter was asked for.
struct Style {
    ascii: Ascii,
    indent: Option<String>,
    item: String,
    key: String,
    keys: Keys,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Ascii {
    Only,
    Any,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Keys {
    AsTheyStand,
    Sorted,
}

/// A JSON value as a template sees it.
pub(super) fn value(json: &serde_json::Value) -> Value {
    match json {
        serde_json::Value::Null => Value::from(()),
        serde_json::Value::Bool(b) => Value::from(*b),
        serde_json::Value::String(text) => Value::from(text.as_str()),
        serde_json::Value::Array(items) => items.iter().map(value).collect(),
        serde_json::Value::Object(pairs) => Value::from_pairs(pairs.iter().map(|(k, v)| (k.as_str(), value(v)))),
        serde_json::Value::Number(n) => match (n.as_i64(), n.as_u64()) {
            (Some(n), _) => Value::from(n),
            (None, Some(n)) => Value::from(n),
            (None, None) => Value::from(n.as_f64().unwrap_or(f64::NAN)),
        },
    }
}

/// The filter.
pub(super) fn tojson(value: &Value, indent: Option<Value>, kwargs: Kwargs) -> Result<Value, Error> {
    let indent = indent.or(kwargs.get::<Option<Value>>("indent")?).filter(|v| !v.is_none()).map(|v| match v.as_str() {
        Some(text) => text.to_owned(),
        None => " ".repeat(usize::try_from(v).unwrap_or(0).min(64)),
    });
    let (mut item, mut key) = (if indent.is_some() { "," } else { ", " }.to_owned(), ": ".to_owned());
    if let Some(separators) = kwargs.get::<Option<Value>>("separators")?.filter(|v| !v.is_none()) {
        (item, key) = (separators.get_item_by_index(0)?.to_string(), separators.get_item_by_index(1)?.to_string());
    }
    let ascii = if kwargs.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false) { Ascii::Only } else { Ascii::Any };
    let keys = if kwargs.get::<Option<bool>>("sort_keys")?.unwrap_or(false) { Keys::Sorted } else { Keys::AsTheyStand };
    kwargs.assert_all_used()?;
    let mut out = String::new();
    write_value(&mut out, value, &Style { ascii, indent, item, key, keys }, 0)?;
    Ok(Value::from(out))
}

fn refuse(value: &Value) -> Error {
    Error::new(ErrorKind::InvalidOperation, format!("{} cannot be written as JSON", value.kind()))
}

fn write_value(out: &mut String, value: &Value, style: &Style, depth: usize) -> Result<(), Error> {
    if depth > 200 {
        return Err(Error::new(ErrorKind::InvalidOperation, "JSON nested too deeply"));
    }
    super::bounds::check(value)?;
    super::bounds::room(out.len())?;
    match value.kind() {
        ValueKind::None => out.push_str("null"),
        ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
        ValueKind::Number => write_number(out, value),
        ValueKind::String => write_string(out, value.as_str().unwrap_or_default(), style.ascii),
        ValueKind::Map => write_map(out, value, style, depth)?,
        ValueKind::Seq => write_list(out, value, style, depth)?,
        // A slice of a list is lazy in minijinja and knows its length; a generator does not.
        ValueKind::Iterable if value.len().is_some() || is_slice(value) => write_list(out, value, style, depth)?,
        _ => return Err(refuse(value)),
    }
    Ok(())
}

fn write_list(out: &mut String, value: &Value, style: &Style, depth: usize) -> Result<(), Error> {
    let mut items = value.try_iter()?.peekable();
    if items.peek().is_none() {
        out.push_str("[]");
        return Ok(());
    }
    out.push('[');
    let mut first = true;
    for item in items {
        separate(out, style, depth + 1, &mut first);
        write_value(out, &item, style, depth + 1)?;
    }
    close(out, style, depth, ']');
    Ok(())
}

fn write_map(out: &mut String, value: &Value, style: &Style, depth: usize) -> Result<(), Error> {
    let mut keys: Vec<Value> = value.try_iter()?.collect();
    if keys.is_empty() {
        out.push_str("{}");
        return Ok(());
    }
    if style.keys == Keys::Sorted {
        keys.sort();
    }
    out.push('{');
    let mut first = true;
    for key in keys {
        separate(out, style, depth + 1, &mut first);
        match key.kind() {
            ValueKind::String => write_string(out, key.as_str().unwrap_or_default(), style.ascii),
            ValueKind::None => out.push_str("\"null\""),
            ValueKind::Bool => out.push_str(if key.is_true() { "\"true\"" } else { "\"false\"" }),
            ValueKind::Number => {
                out.push('"');
                write_number(out, &key);
                out.push('"');
            }
            _ => return Err(refuse(&key)),
        }
        out.push_str(&style.key);
        write_value(out, &value.get_item(&key)?, style, depth + 1)?;
    }
    close(out, style, depth, '}');
    Ok(())
}

fn separate(out: &mut String, style: &Style, depth: usize, first: &mut bool) {
    if !std::mem::take(first) {
        out.push_str(&style.item);
    }
    new_line(out, style, depth);
}

fn close(out: &mut String, style: &Style, depth: usize, bracket: char) {
    new_line(out, style, depth);
    out.push(bracket);
}

fn new_line(out: &mut String, style: &Style, depth: usize) {
    if let Some(indent) = &style.indent {
        out.push('\n');
        for _ in 0..depth {
            out.push_str(indent);
        }
    }
}

fn write_number(out: &mut String, value: &Value) {
    match (value.is_integer(), f64::try_from(value.clone())) {
        (false, Ok(float)) if float.is_nan() => out.push_str("NaN"),
        (false, Ok(float)) if float.is_infinite() => out.push_str(if float > 0.0 { "Infinity" } else { "-Infinity" }),
        (false, Ok(float)) => out.push_str(&float_text(float)),
        (_, _) => {
            let _ = write!(out, "{value}");
        }
    }
}

/// A finite float as Python writes it: the shortest digits that read back, with an exponent below 1e-4 and from 1e16 on.
pub(super) fn float_text(x: f64) -> String {
    let magnitude = x.abs();
    if magnitude != 0.0 && !(1e-4..1e16).contains(&magnitude) {
        let text = format!("{x:e}");
        let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let exponent: i32 = exponent.parse().unwrap_or(0);
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{digits}e{sign}{:02}", exponent.abs());
    }
    let text = format!("{x}");
    if text.contains('.') { text } else { text + ".0" }
}

fn write_string(out: &mut String, text: &str, ascii: Ascii) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            c if (c as u32) < 0x20 => {
                let _ = write!(out, "\\u{:04x}", c as u32);
            }
            c if ascii == Ascii::Only && !c.is_ascii() => {
                let mut pair = [0u16; 2];
                for unit in c.encode_utf16(&mut pair) {
                    let _ = write!(out, "\\u{unit:04x}");
                }
            }
            c => out.push(c),
        }
    }
    out.push('"');
}
