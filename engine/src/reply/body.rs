//! What stands inside of a tool call, as names and arguments.
//!
//! Arguments that are written as text (`<parameter=n>3</parameter>`) become what the tool's schema says they are; where it says
//! nothing, what they read as.

use super::format::Body;
use super::notation::Reader;
use crate::template::ToolCall;
use serde_json::{Map, Value as Json};

type Read<T> = Result<T, String>;

/// The calls in `inner`, or what is wrong with it.
pub(super) fn calls(body: Body, inner: &str, tools: &[Json]) -> Read<Vec<ToolCall>> {
    let calls = match body {
        Body::Json => json(inner)?,
        Body::Named => named(inner)?,
        Body::Functions => functions(inner, tools)?,
        Body::Invokes => invokes(inner, tools)?,
        Body::Pairs => vec![pairs(inner, tools)?],
        Body::Sections => sections(inner)?,
        Body::Numbered => numbered(inner)?,
        Body::Gemma => vec![gemma(inner)?],
        Body::Python => python(inner)?,
    };
    match calls.iter().find(|call| call.name.is_empty()) {
        _ if calls.is_empty() => Err("it calls nothing".into()),
        Some(_) => Err("it names no tool".into()),
        None => Ok(calls),
    }
}

/// The name of the first call as soon as it is certain, of a body that may go on.
pub(super) fn name(body: Body, inner: &str) -> Option<String> {
    let between = |open: &str, close: &[char]| -> Option<String> {
        let rest = &inner[inner.find(open)? + open.len()..];
        Some(rest[..rest.find(close)?].trim().to_owned())
    };
    let name = match body {
        Body::Json => json_name(inner)?,
        Body::Named if inner.trim_start().starts_with(['[', '{']) => json_name(inner)?,
        Body::Named => inner[..["[ARGS]", "[CALL_ID]", "{"].into_iter().filter_map(|mark| inner.find(mark)).min()?].trim().to_owned(),
        Body::Functions => between("<function=", &['>'])?,
        Body::Invokes => between("name=\"", &['"'])?,
        Body::Pairs => inner.trim_start().split_once(['\n', '<'])?.0.trim().to_owned(),
        Body::Gemma => between("call:", &['{'])?,
        Body::Python => between("[", &['('])?,
        Body::Numbered => plain_name(&between("<|tool_call_begin|>", &['<'])?),
        Body::Sections => {
            let (before, after) = inner.split_once(SEPARATOR)?;
            let first = after.trim_start();
            match first.chars().next()? {
                '{' => before.rsplit('>').next()?.trim().to_owned(),
                _ => first.split_once('\n')?.0.trim().to_owned(),
            }
        }
    };
    Some(name).filter(|name| !name.is_empty())
}

/// The first `"name"` with its text, where it stands in front of the arguments.
fn json_name(inner: &str) -> Option<String> {
    let at = inner.find("name\"").filter(|at| inner[..*at].ends_with('"') || inner[..*at].ends_with("\"tool_"))?;
    if ["\"arguments\"", "\"parameters\""].iter().any(|key| inner[..at].contains(key)) {
        return None;
    }
    let rest = inner[at + 5..].trim_start().strip_prefix(':')?.trim_start().strip_prefix('"')?;
    let name = &rest[..rest.find('"')?];
    if name.contains('\\') { None } else { Some(name.to_owned()) }
}

/// Whether a JSON text ends inside of a string, where a marker is none.
pub(super) fn inside_string(text: &str) -> bool {
    let (mut inside, mut escaped) = (false, false);
    for b in text.bytes() {
        match b {
            _ if escaped => escaped = false,
            b'\\' if inside => escaped = true,
            b'"' => inside = !inside,
            _ => {}
        }
    }
    inside
}

/// JSON, with line ends and tabs inside of strings escaped, as models forget to.
fn mend(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let (mut inside, mut escaped) = (false, false);
    for c in text.chars() {
        match c {
            _ if escaped => escaped = false,
            '\\' if inside => escaped = true,
            '"' => inside = !inside,
            '\n' | '\r' | '\t' if inside => {
                out.push_str(match c {
                    '\n' => "\\n",
                    '\r' => "\\r",
                    _ => "\\t",
                });
                continue;
            }
            _ => {}
        }
        out.push(c);
    }
    out
}

/// Objects and lists of them, one after another.
fn json(inner: &str) -> Read<Vec<ToolCall>> {
    let start = inner.find(['{', '[']).ok_or("it has no JSON object")?;
    let text = mend(&inner[start..]);
    let (mut rest, mut calls) = (text.as_str(), Vec::new());
    while rest.starts_with(['{', '[']) {
        let mut values = serde_json::Deserializer::from_str(rest).into_iter::<Json>();
        let value = values.next().ok_or("it has no JSON object")?.map_err(|why| why.to_string())?;
        let end = values.byte_offset();
        match value {
            Json::Array(items) => items.into_iter().try_for_each(|item| object(item).map(|call| calls.push(call)))?,
            other => calls.push(object(other)?),
        }
        rest = rest[end..].trim_start_matches(|c: char| c.is_whitespace() || c == ';' || c == ',');
    }
    // A fence, or the bracket of an opening that is part of the list, may follow; words would be lost.
    if rest.contains(char::is_alphanumeric) { Err("text follows the call".into()) } else { Ok(calls) }
}

/// A call from an object: `name` and `arguments`, under the names that models give them, or `{"name": {…}}`.
fn object(value: Json) -> Read<ToolCall> {
    let Json::Object(mut pairs) = value else { return Err(format!("{value} is no call")) };
    if let Some(Json::Object(function)) = pairs.get("function").cloned() {
        pairs.extend(function);
    }
    let text = |key: &str| pairs.get(key).and_then(Json::as_str).map(str::to_owned);
    let id = ["id", "tool_call_id", "call_id"].iter().find_map(|key| text(key)).unwrap_or_default();
    let name = ["name", "tool_name", "function"].iter().find_map(|key| text(key));
    let given = ["arguments", "parameters", "args"].iter().find_map(|key| pairs.get(*key).cloned());
    match (name, given) {
        (Some(name), given) => Ok(ToolCall { id, name, arguments: arguments(given.unwrap_or_default())? }),
        (None, None) if pairs.len() == 1 => {
            let (name, given) = pairs.into_iter().next().ok_or("it names no tool")?;
            Ok(ToolCall { id, name, arguments: arguments(given)? })
        }
        (None, Some(_) | None) => Err("it names no tool".into()),
    }
}

/// Arguments as an object; a text is read as JSON once more.
fn arguments(value: Json) -> Read<Json> {
    match value {
        Json::Object(pairs) => Ok(Json::Object(pairs)),
        Json::Null => Ok(Json::Object(Map::new())),
        Json::String(text) if text.trim().is_empty() => Ok(Json::Object(Map::new())),
        Json::String(text) => match serde_json::from_str(&mend(&text)) {
            Ok(Json::Object(pairs)) => Ok(Json::Object(pairs)),
            Ok(_) | Err(_) => Err(format!("the arguments {text:?} are no JSON object")),
        },
        other => Err(format!("the arguments {other} are no JSON object")),
    }
}

/// The object at the start of a text: arguments on their own, as harmony has them.
pub(super) fn alone(text: &str) -> Read<Json> {
    let text = text.trim();
    if text.is_empty() {
        return Ok(Json::Object(Map::new()));
    }
    let text = mend(text);
    let mut values = serde_json::Deserializer::from_str(&text).into_iter::<Json>();
    arguments(values.next().ok_or("it has no arguments")?.map_err(|why| why.to_string())?)
}

fn named(inner: &str) -> Read<Vec<ToolCall>> {
    if inner.trim_start().starts_with(['[', '{']) && !inner.trim_start().starts_with("[ARGS]") {
        return json(inner);
    }
    let start = inner.find('{').ok_or("it has no arguments")?;
    let head = inner[..start].trim().trim_end_matches("[ARGS]");
    let (name, id) = head.split_once("[CALL_ID]").unwrap_or((head, ""));
    Ok(vec![ToolCall { id: id.trim().to_owned(), name: name.trim().to_owned(), arguments: alone(&inner[start..])? }])
}

fn functions(inner: &str, tools: &[Json]) -> Read<Vec<ToolCall>> {
    let mut calls = Vec::new();
    for part in inner.split("<function=").skip(1) {
        let (name, rest) = part.split_once('>').ok_or("the name is not closed")?;
        let name = name.trim().trim_matches('"');
        let rest = rest.split_once("</function>").map_or(rest, |(before, _)| before);
        let given = if rest.trim_start().starts_with('{') {
            alone(rest)?
        } else {
            let mut given = Map::new();
            for part in rest.split("<parameter=").skip(1) {
                let (key, value) = part.split_once('>').ok_or("a parameter's name is not closed")?;
                let (value, _) = value.split_once("</parameter>").ok_or_else(|| format!("the parameter `{key}` is not closed"))?;
                let value = value.strip_prefix('\n').unwrap_or(value);
                let value = value.strip_suffix('\n').unwrap_or(value);
                given.insert(key.trim().to_owned(), typed(tools, name, key.trim(), value));
            }
            Json::Object(given)
        };
        calls.push(ToolCall { id: String::new(), name: name.to_owned(), arguments: given });
    }
    Ok(calls)
}

/// Tags with a `name`: those of parameters have `param` in their own, the others begin a call.
fn invokes(inner: &str, tools: &[Json]) -> Read<Vec<ToolCall>> {
    let mut calls: Vec<ToolCall> = Vec::new();
    let mut rest = inner;
    while let Some(at) = rest.find(" name=\"") {
        let tag = rest[..at].rsplit('<').next().unwrap_or_default();
        let (name, after) = rest[at + 7..].split_once('"').ok_or("a name is not closed")?;
        let (attributes, after) = after.split_once('>').ok_or("a tag is not closed")?;
        if !tag.contains("param") {
            calls.push(ToolCall { id: String::new(), name: name.to_owned(), arguments: Json::Object(Map::new()) });
            rest = after;
            continue;
        }
        let (value, after) = after.split_once(&format!("</{tag}>")).ok_or_else(|| format!("the parameter `{name}` is not closed"))?;
        let value = value.strip_prefix("<![CDATA[").and_then(|value| value.strip_suffix("]]>")).unwrap_or(value);
        let call = calls.last_mut().ok_or("a parameter comes before the name")?;
        let value = if attributes.contains("string=\"true\"") { Json::from(value) } else { typed(tools, &call.name, name, value) };
        if let Json::Object(given) = &mut call.arguments {
            given.insert(name.to_owned(), value);
        }
        rest = after;
    }
    Ok(calls)
}

fn pairs(inner: &str, tools: &[Json]) -> Read<ToolCall> {
    let inner = inner.trim();
    let name = inner[..inner.find(['\n', '<']).unwrap_or(inner.len())].trim();
    let mut given = Map::new();
    for part in inner.split("<arg_key>").skip(1) {
        let (key, rest) = part.split_once("</arg_key>").ok_or("an argument's name is not closed")?;
        let (_, value) = rest.split_once("<arg_value>").ok_or_else(|| format!("the argument `{key}` has no value"))?;
        let (value, _) = value.split_once("</arg_value>").ok_or_else(|| format!("the argument `{key}` is not closed"))?;
        given.insert(key.trim().to_owned(), typed(tools, name, key.trim(), value));
    }
    Ok(ToolCall { id: String::new(), name: name.to_owned(), arguments: Json::Object(given) })
}

const SEPARATOR: &str = "<｜tool▁sep｜>";

/// `function<sep>f` and a fenced object on the next lines (V3, R1), or `f<sep>{…}` (V3.1).
fn sections(inner: &str) -> Read<Vec<ToolCall>> {
    let call = |part: &str| {
        let part = part.split_once("<｜tool▁call▁end｜>").map_or(part, |(before, _)| before);
        let (before, after) = part.split_once(SEPARATOR).ok_or("a call has no separator")?;
        let start = after.find('{').ok_or("a call has no arguments")?;
        let name =
            if after[..start].trim().is_empty() { before } else { after.trim_start().split(['\n', '`', '{']).next().unwrap_or_default() };
        Ok(ToolCall { id: String::new(), name: name.trim().to_owned(), arguments: alone(&after[start..])? })
    };
    inner.split("<｜tool▁call▁begin｜>").skip(1).map(call).collect()
}

/// `functions.f:0` is a call's id, and holds its name.
fn plain_name(id: &str) -> String {
    let name = id.trim().strip_prefix("functions.").unwrap_or(id.trim());
    name.split_once(':').map_or(name, |(name, _)| name).to_owned()
}

fn numbered(inner: &str) -> Read<Vec<ToolCall>> {
    let call = |part: &str| {
        let part = part.split_once("<|tool_call_end|>").map_or(part, |(before, _)| before);
        let (id, given) = part.split_once("<|tool_call_argument_begin|>").ok_or("a call has no arguments")?;
        Ok(ToolCall { id: id.trim().to_owned(), name: plain_name(id), arguments: alone(given)? })
    };
    inner.split("<|tool_call_begin|>").skip(1).map(call).collect()
}

fn gemma(inner: &str) -> Read<ToolCall> {
    let rest = inner.trim().strip_prefix("call:").ok_or("it does not begin with `call:`")?;
    let (name, _) = rest.split_once('{').ok_or("it has no arguments")?;
    let arguments = Json::Object(Reader(&rest[name.len()..]).map('}', ':', 0)?);
    Ok(ToolCall { id: String::new(), name: name.trim().to_owned(), arguments })
}

fn python(inner: &str) -> Read<Vec<ToolCall>> {
    let mut reader = Reader(inner.trim().strip_prefix('[').ok_or("it does not begin with a bracket")?);
    let mut calls = Vec::new();
    loop {
        reader.blank();
        if reader.0.starts_with(']') {
            return Ok(calls);
        }
        let name = reader.bare(&['(', ']']).trim_start_matches(',').trim().to_owned();
        if !reader.0.starts_with('(') {
            return Err("a call has no brackets".into());
        }
        let arguments = Json::Object(reader.map(')', '=', 0)?);
        calls.push(ToolCall { id: String::new(), name, arguments });
    }
}

/// A value that is written as text.
fn typed(tools: &[Json], tool: &str, key: &str, text: &str) -> Json {
    let function = tools.iter().map(|schema| schema.get("function").unwrap_or(schema)).find(|function| function["name"] == tool);
    match function.and_then(|function| function["parameters"]["properties"][key]["type"].as_str()) {
        Some("string") => Json::from(text),
        Some(_) | None => match text.trim() {
            "True" => Json::Bool(true),
            "False" => Json::Bool(false),
            "None" => Json::Null,
            other => serde_json::from_str(other).ok().or_else(|| literal(other)).unwrap_or_else(|| Json::from(text)),
        },
    }
}

/// A list or a dict as Python prints it, which some templates show the model.
fn literal(text: &str) -> Option<Json> {
    let mut reader = Reader(text);
    let value = reader.value(0).ok().filter(|value| value.is_object() || value.is_array())?;
    reader.0.trim().is_empty().then_some(value)
}
