//! What a JSON schema asks for that cannot be honoured, told with its place before anything is compiled.
//!
//! Sources: JSON Schema drafts 4 to 2020-12, <https://json-schema.org/specification>; what llguidance honours:
//! <https://github.com/guidance-ai/llguidance/blob/main/docs/json_schema.md>. Keywords that no draft knows are remarks, by the standard.

use crate::error::{Error, Fault, Result};
use serde_json::{Map, Value as Json, json};

/// Keywords that ask for something and are not honoured.
const REFUSED: [&str; 18] = [
    "not",
    "if",
    "then",
    "else",
    "contains",
    "minContains",
    "maxContains",
    "uniqueItems",
    "propertyNames",
    "dependencies",
    "dependentRequired",
    "dependentSchemas",
    "unevaluatedItems",
    "unevaluatedProperties",
    "$dynamicRef",
    "$dynamicAnchor",
    "$recursiveRef",
    "$recursiveAnchor",
];

/// Formats of strings that are honoured.
const FORMATS: [&str; 11] = ["date-time", "date", "time", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri", "unknown"];

/// Keywords whose value is a schema.
const SCHEMA: [&str; 3] = ["additionalProperties", "additionalItems", "items"];
/// Keywords whose value is a list of schemas.
const LIST: [&str; 4] = ["anyOf", "oneOf", "allOf", "prefixItems"];
/// Keywords whose value names schemas.
const NAMED: [&str; 4] = ["properties", "patternProperties", "$defs", "definitions"];

/// Schemas within schemas.
const DEEPEST: usize = 64;
/// White space between lexemes; a model that has lost its way would else write nothing but.
const BLANK: &str = r"[\x20\x0A\x0D\x09]{1,40}";

/// The schema as it is compiled.
pub(super) fn ready(schema: &Json) -> Result<Json> {
    let mut schema = schema.clone();
    check(&mut schema, "#", 0)?;
    let mut schema = match schema {
        Json::Bool(true) => Map::new(),
        Json::Object(object) => object,
        other => return Err(fault("#", "a schema that something can match", &other)),
    };
    let options = schema.entry("x-guidance").or_insert_with(|| json!({}));
    if let Some(options) = options.as_object_mut()
        && !options.contains_key("whitespace_flexible")
    {
        options.entry("whitespace_pattern").or_insert_with(|| json!(BLANK));
    }
    Ok(Json::Object(schema))
}

fn fault(at: &str, expected: &str, found: &Json) -> Error {
    let mut found = found.to_string();
    if found.chars().count() > 60 {
        found = found.chars().take(60).chain(['…']).collect();
    }
    Error::Input(Fault::at(format!("JSON schema {at}")).expected(expected).found(found))
}

fn unsupported(at: &str, found: String, help: &str) -> Error {
    Error::Unsupported(Fault::at(format!("JSON schema {at}")).found(found).help(help))
}

/// A place one further in, as a JSON pointer.
fn within(at: &str, key: &str) -> String {
    format!("{at}/{}", key.replace('~', "~0").replace('/', "~1"))
}

/// Sees to it that all of a schema can be honoured.
fn check(schema: &mut Json, at: &str, depth: usize) -> Result<()> {
    let object = match schema {
        Json::Bool(_) => return Ok(()),
        Json::Object(object) => object,
        other => return Err(fault(at, "a schema: an object, true or false", other)),
    };
    if depth > DEEPEST {
        return Err(unsupported(at, format!("schemas more than {DEEPEST} deep"), "name the inner ones in $defs"));
    }
    // It asks for nothing.
    object.retain(|key, value| key != "uniqueItems" || *value != Json::Bool(false));
    let of_strings = says_of_strings(object);
    for (key, value) in object {
        let place = within(at, key);
        if REFUSED.contains(&key.as_str()) {
            let help = "hob cannot hold a reply to it: leave it out, and check the answer yourself";
            return Err(unsupported(&place, format!("the keyword `{key}`"), help));
        }
        match key.as_str() {
            "$ref" => reference(value, &place)?,
            "format" => format(of_strings, value, &place)?,
            "enum" if value.as_array().is_none_or(Vec::is_empty) => return Err(fault(&place, "a list of values", value)),
            key if NAMED.contains(&key) => {
                let found = value.clone();
                let named = value.as_object_mut().ok_or_else(|| fault(&place, "an object of schemas", &found))?;
                named.iter_mut().try_for_each(|(name, inner)| check(inner, &within(&place, name), depth + 1))?;
            }
            key if LIST.contains(&key) || (key == "items" && value.is_array()) => {
                let found = value.clone();
                let list = value.as_array_mut().ok_or_else(|| fault(&place, "a list of schemas", &found))?;
                list.iter_mut().enumerate().try_for_each(|(i, inner)| check(inner, &within(&place, &i.to_string()), depth + 1))?;
            }
            key if SCHEMA.contains(&key) => check(value, &place, depth + 1)?,
            _ => {}
        }
    }
    Ok(())
}

/// References lead to the same document.
fn reference(value: &Json, place: &str) -> Result<()> {
    match value.as_str() {
        Some(to) if to == "#" || to.starts_with("#/") => Ok(()),
        Some(to) => {
            Err(unsupported(place, format!("a reference to `{to}`"), "put the schema it names into $defs, and refer to #/$defs/NAME"))
        }
        None => Err(fault(place, "a reference", value)),
    }
}

/// Whether a schema is about strings too: a format says nothing of others.
fn says_of_strings(object: &Map<String, Json>) -> bool {
    match object.get("type") {
        Some(Json::String(kind)) => kind == "string",
        Some(Json::Array(kinds)) => kinds.iter().any(|kind| kind == "string"),
        Some(_) | None => true,
    }
}

fn format(of_strings: bool, value: &Json, place: &str) -> Result<()> {
    match value.as_str() {
        Some(name) if of_strings && !FORMATS.contains(&name) => {
            let help = format!("leave it out, say it as a `pattern`, or take one of {}", FORMATS[..10].join(", "));
            Err(unsupported(place, format!("the format `{name}`"), &help))
        }
        Some(_) => Ok(()),
        None => Err(fault(place, "the name of a format", value)),
    }
}
