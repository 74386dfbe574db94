//! What templates expect of Python and minijinja does not do, or does otherwise: methods, filters, tests, and how values print.
//!
//! minijinja-contrib brings most methods; here are the rest, and the differences that real templates meet.

use super::bounds;
use super::iterable::{Generator, is_slice};
use super::json::{float_text, tojson};
use minijinja::value::{Kwargs, Rest, ValueKind, ValueOrKwargs, from_args};
use minijinja::{Environment, Error, ErrorKind, Output, State, Value, filters};
use minijinja_contrib::pycompat::unknown_method_callback;
use std::fmt::Write;

/// Gives `env` the Python side.
pub(super) fn install(env: &mut Environment<'_>) {
    env.set_unknown_method_callback(method);
    env.set_formatter(|out: &mut Output, _: &mut State, value: &Value| {
        if !value.is_undefined() {
            let text = str(value);
            bounds::spend(text.len())?;
            out.write_str(&text)?;
        }
        Ok(())
    });
    env.add_filter("tojson", tojson);
    env.add_filter("each", each);
    env.add_filter("sized", bounds::sized);
    env.add_filter("spend", bounds::spend);
    env.add_filter("plain_replace", filters::replace);
    env.add_filter("plain_join", filters::join);
    env.add_filter("plain_format", filters::format);
    for (name, plain) in [("replace", "plain_replace"), ("join", "plain_join"), ("format", "plain_format")] {
        env.add_filter(name, move |state: &mut State, args: Rest<ValueOrKwargs>| {
            let args = args.into_values();
            bounds::growth(name, &args)?;
            state.apply_filter(plain, &args)
        });
    }
    env.add_filter("string", |value: &Value| Value::from(str(value)));
    env.add_filter("items", items);
    env.add_filter("indent", indent);
    env.add_filter("list", |value: Value| each(value)?.try_iter().map(|items| items.collect::<Vec<Value>>()));
    env.add_filter("markup", markup);
    env.add_filter("eager_select", filters::select);
    env.add_filter("eager_reject", filters::reject);
    env.add_filter("eager_selectattr", filters::selectattr);
    env.add_filter("eager_rejectattr", filters::rejectattr);
    env.add_filter("eager_map", filters::map);
    for (lazy, eager) in LAZY {
        env.add_filter(lazy, move |state: &mut State, args: Rest<ValueOrKwargs>| lazily(state, eager, &args.into_values()));
    }
    env.add_test("iterable", |value: &Value| !value.is_none() && value.try_iter().is_ok());
    env.add_test("sequence", |value: &Value| match value.kind() {
        ValueKind::Undefined | ValueKind::String | ValueKind::Map | ValueKind::Seq => true,
        _ => is_slice(value),
    });
    env.add_function("raise_exception", |message: &Value| -> Result<Value, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, str(message)).with_source(Raised))
    });
}

/// Filters that return a generator in Jinja, and what minijinja's, which return lists, are called here.
const LAZY: [(&str, &str); 5] = [
    ("select", "eager_select"),
    ("reject", "eager_reject"),
    ("selectattr", "eager_selectattr"),
    ("rejectattr", "eager_rejectattr"),
    ("map", "eager_map"),
];

/// Marks the error of `raise_exception`, whose message is the template's own word.
#[derive(Debug)]
pub(super) struct Raised;

impl std::fmt::Display for Raised {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("raised by the template")
    }
}

impl std::error::Error for Raised {}

fn wrong(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, message.into())
}

/// What `for` walks over: anything but None.
fn each(value: Value) -> Result<Value, Error> {
    if value.is_none() { Err(wrong("None is not iterable")) } else { Ok(value) }
}

/// An operand next to Markup: escaped as HTML unless it is Markup itself.
fn markup(value: &Value) -> Value {
    if value.is_safe() {
        return value.clone();
    }
    let mut out = String::new();
    for c in str(value).chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '\'' => out.push_str("&#39;"),
            '"' => out.push_str("&#34;"),
            c => out.push(c),
        }
    }
    Value::from_safe_string(out)
}

fn lazily(state: &mut State, filter: &str, args: &[Value]) -> Result<Value, Error> {
    // Jinja looks at nothing that is false, so None passes here.
    if args.first().is_some_and(|first| !first.is_true()) {
        return Ok(Generator::of(Vec::new()));
    }
    let items = state.apply_filter(filter, args)?;
    Ok(Generator::of(items.try_iter()?.collect()))
}

fn items(value: &Value) -> Result<Value, Error> {
    if value.is_undefined() { Ok(Value::from(Vec::<Value>::new())) } else { filters::items(value) }
}

/// Jinja's `indent`, over Python's `splitlines`, which does not drop the last line end.
fn indent(value: &Value, width: Option<Value>, first: Option<bool>, blank: Option<bool>, kwargs: Kwargs) -> Result<String, Error> {
    let width = width.or(kwargs.get::<Option<Value>>("width")?).unwrap_or(Value::from(4));
    let first = first.or(kwargs.get("first")?).unwrap_or(false);
    let blank = blank.or(kwargs.get("blank")?).unwrap_or(false);
    kwargs.assert_all_used()?;
    let indention = match width.as_str() {
        Some(text) => text.to_owned(),
        None => " ".repeat(usize::try_from(width)?.min(1000)),
    };
    let mut out = String::new();
    for (i, line) in str(value).split('\n').enumerate() {
        bounds::room(out.len() + indention.len() + line.len())?;
        let inside = i > 0 && (blank || !line.is_empty());
        if i > 0 {
            out.push('\n');
        }
        if inside || (i == 0 && first) {
            out.push_str(&indention);
        }
        out.push_str(line);
    }
    Ok(out)
}

/// Python's `str(value)`.
pub(super) fn str(value: &Value) -> String {
    match value.as_str() {
        Some(text) => text.to_owned(),
        None => {
            let mut out = String::new();
            repr(&mut out, value, 0);
            out
        }
    }
}

fn repr(out: &mut String, value: &Value, depth: usize) {
    let list = |out: &mut String, open: &str, close: &str| {
        out.push_str(open);
        for (i, item) in value.try_iter().into_iter().flatten().enumerate() {
            out.push_str(if i > 0 { ", " } else { "" });
            repr(out, &item, depth + 1);
        }
        out.push_str(close);
    };
    match value.kind() {
        _ if depth > 200 || out.len() > bounds::LARGEST_TEXT => out.push_str("..."),
        ValueKind::Undefined => {}
        ValueKind::None => out.push_str("None"),
        ValueKind::String => repr_string(out, value.as_str().unwrap_or_default()),
        ValueKind::Number if !value.is_integer() => match f64::try_from(value.clone()) {
            Ok(x) if x.is_finite() => out.push_str(&float_text(x)),
            Ok(x) if x.is_nan() => out.push_str("nan"),
            Ok(_) | Err(_) => {
                let _ = write!(out, "{value}");
            }
        },
        ValueKind::Map => {
            out.push('{');
            for (i, key) in value.try_iter().into_iter().flatten().enumerate() {
                out.push_str(if i > 0 { ", " } else { "" });
                repr(out, &key, depth + 1);
                out.push_str(": ");
                repr(out, &value.get_item(&key).unwrap_or_default(), depth + 1);
            }
            out.push('}');
        }
        ValueKind::Seq if value.is_tuple() && value.len() == Some(1) => list(out, "(", ",)"),
        ValueKind::Seq if value.is_tuple() => list(out, "(", ")"),
        ValueKind::Seq => list(out, "[", "]"),
        ValueKind::Iterable if is_slice(value) => list(out, "[", "]"),
        _ => {
            let _ = write!(out, "{value}");
        }
    }
}

/// Python's `repr` of a string: single quotes unless there are single and no double ones inside.
fn repr_string(out: &mut String, text: &str) {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push(quote);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == quote => {
                out.push('\\');
                out.push(c);
            }
            c if c.is_control() && (c as u32) < 0x100 => {
                let _ = write!(out, "\\x{:02x}", c as u32);
            }
            c => out.push(c),
        }
    }
    out.push(quote);
}

/// Methods that minijinja-contrib lacks or has otherwise; then its own.
fn method(state: &mut State, value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    let all: Vec<Value> = std::iter::once(value).chain(args).cloned().collect();
    bounds::growth(name, &all)?;
    match (value.as_str(), name) {
        (Some(text), "removeprefix") => from_args::<(&str,)>(args).map(|(p,)| Value::from(text.strip_prefix(p).unwrap_or(text))),
        (Some(text), "removesuffix") => from_args::<(&str,)>(args).map(|(p,)| Value::from(text.strip_suffix(p).unwrap_or(text))),
        (Some(text), "rsplit") => {
            let (separator, times): (&str, Option<i64>) = from_args(args)?;
            let times = times.and_then(|n| usize::try_from(n).ok()).map_or(usize::MAX, |n| n.saturating_add(1));
            let mut parts: Vec<&str> = text.rsplitn(times, separator).collect();
            parts.reverse();
            Ok(parts.into_iter().map(Value::from).collect())
        }
        (Some(text), "partition") => {
            let (separator,): (&str,) = from_args(args)?;
            let (before, found, after) = match text.split_once(separator) {
                Some((before, after)) => (before, separator, after),
                None => (text, "", ""),
            };
            Ok(Value::from((before, found, after)))
        }
        (Some(text), "index") => {
            let (part,): (&str,) = from_args(args)?;
            text.find(part).map(|i| Value::from(text[..i].chars().count())).ok_or_else(|| wrong("substring not found"))
        }
        (None, "copy") if matches!(value.kind(), ValueKind::Map | ValueKind::Seq) => Ok(value.clone()),
        (None, "index") if value.kind() == ValueKind::Seq => {
            let (wanted,): (&Value,) = from_args(args)?;
            value.try_iter()?.position(|item| item == *wanted).map(Value::from).ok_or_else(|| wrong("value is not in list"))
        }
        // A generator has none of a list's methods, a slice all of them.
        (None, "count") if is_slice(value) => unknown_method_callback(state, &value.try_iter()?.collect::<Value>(), name, args),
        (_, _) => unknown_method_callback(state, value, name, args),
    }
}
