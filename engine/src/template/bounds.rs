//! What keeps a hostile template from eating the machine's memory. Fuel bounds its instructions; but one addition can double a
//! text, and thirty of them make a gigabyte out of a letter.
//!
//! ```text
//! {% set t = t + t ~ 'x' %}    →   {% set t = (t|sized + t|sized ~ 'x')|sized %}     no operand, no variable beyond LARGEST_TEXT
//! a long text                  →   a long {{ 11|spend }}text                          texts count against LARGEST, captured or not
//! ```
//!
//! Arguments of methods and filters are held to the same size before they are used, and what `replace` and `join` would make is
//! computed first. What remains: one expression may add up [`MOST_OPERATORS`] texts of that size, and keep so much at a time.

use minijinja::{Error, ErrorKind, Value};
use std::cell::Cell;

/// Bytes that a rendering may write, into the prompt or into variables.
pub(super) const LARGEST: usize = 64 << 20;
/// Bytes that a text may have that a template goes on working with.
pub(super) const LARGEST_TEXT: usize = 8 << 20;
/// Items that a list may have.
const LONGEST_LIST: usize = 1 << 20;
/// Additions in one tag; the longest that is known has forty.
const MOST_OPERATORS: usize = 256;
/// Texts between tags that are shorter need no count: fuel bounds them.
const SHORT: usize = 64;

thread_local! {
    /// Bytes that the rendering on this thread has written.
    static SPENT: Cell<usize> = const { Cell::new(0) };
}

/// A rendering begins.
pub(super) fn reset() {
    SPENT.set(0);
}

fn too_much(what: &str) -> Error {
    Error::new(ErrorKind::InvalidOperation, format!("the template makes {what}"))
}

/// Counts what is written.
pub(super) fn spend(bytes: usize) -> Result<Value, Error> {
    let spent = SPENT.get().saturating_add(bytes);
    SPENT.set(spent);
    if spent > LARGEST { Err(too_much(&format!("more than {} MB of text", LARGEST >> 20))) } else { Ok(Value::from("")) }
}

/// The value, if it is of a size to work with.
pub(super) fn sized(value: Value) -> Result<Value, Error> {
    check(&value)?;
    Ok(value)
}

/// Refuses a value that is not of a size to work with.
pub(super) fn check(value: &Value) -> Result<(), Error> {
    match value.as_str() {
        Some(text) if text.len() > LARGEST_TEXT => Err(too_much(&format!("a text of more than {} MB", LARGEST_TEXT >> 20))),
        Some(_) => Ok(()),
        None if value.as_object().is_some() && value.len().is_some_and(|n| n > LONGEST_LIST) => Err(too_much("too long a list")),
        None => Ok(()),
    }
}

/// Refuses a text that would have so many bytes.
pub(super) fn room(bytes: usize) -> Result<(), Error> {
    if bytes > LARGEST_TEXT { Err(too_much(&format!("a text of more than {} MB", LARGEST_TEXT >> 20))) } else { Ok(()) }
}

/// What `replace` would make of `text`.
fn replaced(text: &str, from: &str, to: &str) -> Result<(), Error> {
    let times = if from.is_empty() { text.chars().count() + 1 } else { text.matches(from).count() };
    room(text.len().saturating_add(times.saturating_mul(to.len())))
}

/// Refuses what would be too large to begin with, or to end with: the arguments of a filter or a method, whose value comes first.
pub(super) fn growth(name: &str, args: &[Value]) -> Result<(), Error> {
    args.iter().try_for_each(check)?;
    let text = |at: usize| args.get(at).and_then(Value::as_str);
    match (name, text(0), text(1), text(2)) {
        ("replace", Some(text), Some(from), Some(to)) => replaced(text, from, to),
        // `list|join(text)` and `text.join(list)`
        ("join", Some(between), None, _) => args.get(1).map_or(Ok(()), |list| joined(list, between)),
        ("join", _, between, _) => args.first().map_or(Ok(()), |list| joined(list, between.unwrap_or_default())),
        (_, Some(_), _, _) => match args[1..].iter().any(|arg| arg.as_i64().is_some_and(|n| n > LONGEST_LIST as i64)) {
            true => Err(too_much("too wide a text")),
            false => Ok(()),
        },
        (_, _, _, _) => Ok(()),
    }
}

/// What `join` would make of a list.
fn joined(list: &Value, between: &str) -> Result<(), Error> {
    let mut bytes = 0usize;
    for item in list.try_iter().into_iter().flatten() {
        bytes = bytes.saturating_add(between.len() + item.as_str().map_or(32, str::len));
        room(bytes)?;
    }
    Ok(())
}

/// A text between tags, with its count where it is long.
pub(super) fn text(text: &str) -> String {
    let solid = |at: &usize| {
        let around = text.is_char_boundary(*at) && *at > 0;
        around
            && [text[..*at].chars().next_back(), text[*at..].chars().next()].into_iter().flatten().all(|c| !c.is_whitespace() && c != '{')
    };
    match (SHORT / 2..text.len().saturating_sub(1)).find(solid) {
        Some(at) if text.len() > SHORT => format!("{}{{{{ {}|spend }}}}{}", &text[..at], text.len(), &text[at..]),
        Some(_) | None => text.to_owned(),
    }
}

/// What the token before a place in a tag was.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Before {
    /// No operand: an operator, a comma, a keyword, an opening bracket.
    Nothing,
    /// A text or a number as it stands.
    Literal,
    /// Any other operand.
    Operand,
    /// A point or a bar: the next word belongs to the operand.
    Joint,
}

/// A tag with the operands of its additions, and what it sets, held to a size; `None` where it has too many operators.
pub(super) fn tag(tag: &str) -> Option<String> {
    let bytes = tag.as_bytes();
    let (start, end) = (2 + usize::from(matches!(bytes[2], b'-' | b'+')), tag.len() - 2);
    let end = if end > start && matches!(bytes[end - 1], b'-' | b'+') { end - 1 } else { end };
    // Where `|sized` goes, and what is set.
    let (mut places, mut equals) = (Vec::new(), None);
    let (mut stack, mut pending, mut before, mut last, mut i, mut operators) = (Vec::new(), false, Before::Nothing, start, start, 0);
    while i < end {
        let b = bytes[i];
        let trailer = matches!(b, b'.' | b'|' | b'(' | b'[') && before != Before::Nothing;
        if pending && !b.is_ascii_whitespace() && !trailer && matches!(before, Before::Literal | Before::Operand) {
            if before == Before::Operand {
                places.push(last);
            }
            pending = false;
        }
        let mut length = 1;
        match b {
            b'"' | b'\'' => {
                length = literal(&bytes[i..end]);
                (before, last) = (Before::Literal, i + length);
            }
            b'(' | b'[' | b'{' => {
                stack.push(pending);
                (pending, before) = (false, Before::Nothing);
            }
            b')' | b']' | b'}' => {
                pending = stack.pop().unwrap_or(false);
                (before, last) = (Before::Operand, i + 1);
            }
            b'.' | b'|' if before != Before::Nothing => before = Before::Joint,
            b'*' if bytes.get(i + 1) == Some(&b'*') => (length, before) = (2, Before::Nothing),
            b'+' | b'~' | b'*' if matches!(before, Before::Literal | Before::Operand) => {
                operators += 1;
                if before == Before::Operand {
                    places.push(last);
                }
                (pending, before) = (true, Before::Nothing);
            }
            b'=' if stack.is_empty() && equals.is_none() && bytes.get(i + 1) != Some(&b'=') => {
                equals = Some(i + 1);
                before = Before::Nothing;
            }
            b if b.is_ascii_alphanumeric() || b == b'_' || !b.is_ascii() => {
                length = bytes[i..end].iter().take_while(|b| b.is_ascii_alphanumeric() || **b == b'_' || !b.is_ascii()).count();
                let word = &tag[i..i + length];
                before = match before {
                    Before::Joint => Before::Operand,
                    _ if KEYWORDS.contains(&word) => Before::Nothing,
                    _ if b.is_ascii_digit() => Before::Literal,
                    _ => Before::Operand,
                };
                last = i + length;
            }
            b if b.is_ascii_whitespace() => {}
            _ => before = Before::Nothing,
        }
        i += length;
    }
    if pending && before == Before::Operand {
        places.push(last);
    }
    places.dedup();
    let sets = tag[start..end].trim_start().starts_with("set ");
    Some(write(tag, &places, equals.filter(|_| sets), end)).filter(|_| operators <= MOST_OPERATORS)
}

/// The tag with `|sized` at `places`, and around what it sets.
fn write(tag: &str, places: &[usize], equals: Option<usize>, end: usize) -> String {
    let mut out = String::with_capacity(tag.len() + 8 * places.len() + 16);
    let mut done = 0;
    let mut inserts: Vec<(usize, &str)> = places.iter().map(|at| (*at, "|sized")).collect();
    if let Some(at) = equals {
        inserts.extend([(at, "("), (end, ")|sized")]);
    }
    inserts.sort_by_key(|(at, _)| *at);
    for (at, what) in inserts {
        out.push_str(&tag[done..at]);
        out.push_str(what);
        done = at;
    }
    out.push_str(&tag[done..]);
    out
}

/// Words that are no operands.
const KEYWORDS: [&str; 13] = ["in", "is", "not", "and", "or", "if", "else", "elif", "set", "for", "recursive", "call", "macro"];

/// The length of the literal text that `bytes` begin with.
fn literal(bytes: &[u8]) -> usize {
    let mut i = 1;
    while i < bytes.len() && bytes[i] != bytes[0] {
        i += 1 + usize::from(bytes[i] == b'\\');
    }
    (i + 1).min(bytes.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operands_and_what_is_set_are_held_to_a_size() {
        let cases = [
            ("{{ a + b }}", "{{ a|sized + b|sized }}"),
            ("{{- 'x' + a.b['c + d'](e ~ f) | trim ~ 'y' -}}", "{{- 'x' + a.b['c + d'](e|sized ~ f|sized) | trim|sized ~ 'y' -}}"),
            ("{%- set x = a + -b if c else 'd' -%}", "{%- set x =( a|sized + -b|sized if c else 'd' )|sized-%}"),
            ("{% set x %}", "{% set x %}"),
            ("{% if a + 1 == b -%}", "{% if a|sized + 1 == b -%}"),
            ("{{ f(*a, **b) }}{{ 2 ** c }}", "{{ f(*a, **b) }}{{ 2 ** c }}"),
            ("{{ a + b is none }}", "{{ a|sized + b|sized is none }}"),
        ];
        for (source, want) in cases {
            assert_eq!(tag(source).as_deref(), Some(want));
        }
        assert_eq!(tag(&format!("{{{{ {} }}}}", "a + ".repeat(300))), None);
        let long = format!("{}word word{}", " ".repeat(60), "\n".repeat(20));
        assert_eq!(text(&long), long.replacen("word", "w{{ 89|spend }}ord", 1));
        assert_eq!(text("short"), "short");
    }
}
