//! Random JSON schemas, and a check of values against them that knows nothing of how hob does it.

use regex_automata::meta::Regex;
use serde_json::{Map, Value as Json, json};

/// SplitMix64 (Steele, Lea, Flood 2014).
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % sides
    }

    fn pick<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.roll(all.len() as u64) as usize]
    }
}

const NAMES: [&str; 10] = ["id", "name", "a b", "größe", "q\"uote", "back\\slash", "x", "tags", "is_open", "日本"];
const PATTERNS: [&str; 7] =
    ["^[a-z]{2,5}$", "^(red|green|blue)$", "^\\d{3}-\\d{4}$", "^[A-Z][a-z]*( [A-Z][a-z]*)?$", "ab+", "^x", "[.!?]$"];
const FORMATS: [&str; 5] = ["date", "time", "uuid", "ipv4", "date-time"];

/// A schema, with definitions that it may refer to.
pub(crate) fn schema(dice: &mut Dice) -> Json {
    let mut root = of_depth(dice, 2);
    let object = root.as_object_mut().unwrap();
    object.insert("$defs".into(), json!({
        "leaf": of_depth(dice, 0),
        "tree": {"type": "object", "properties": {"up": {"type": "integer", "minimum": 0, "maximum": 9},
            "down": {"type": "array", "items": {"$ref": "#/$defs/tree"}, "maxItems": 1}}, "required": ["up"], "additionalProperties": false},
    }));
    root
}

fn of_depth(dice: &mut Dice, depth: u32) -> Json {
    match dice.roll(if depth == 0 { 8 } else { 14 }) {
        0 => json!({"type": "null"}),
        1 => json!({"type": "boolean"}),
        2 => integer(dice),
        3 => number(dice),
        4 | 5 => string(dice),
        6 => json!({"enum": [1, "two", null, [3, "x"], {"k": false}, 2.5]}),
        7 => json!({"const": dice.pick(&["fixed", "quo\"te", "ü", ""])}),
        8 | 9 => array(dice, depth),
        10..=12 => object(dice, depth),
        _ => match dice.roll(3) {
            0 => json!({"anyOf": [of_depth(dice, depth - 1), of_depth(dice, depth - 1)]}),
            1 => json!({"$ref": dice.pick(&["#/$defs/leaf", "#/$defs/tree"])}),
            _ => json!({"type": ["string", "integer", "null"], "maxLength": 4, "minimum": -5, "maximum": 5}),
        },
    }
}

fn integer(dice: &mut Dice) -> Json {
    let low = dice.roll(2000) as i64 - 1000;
    let mut schema = json!({"type": "integer", "minimum": low, "maximum": low + 7 + dice.roll(5000) as i64});
    match dice.roll(4) {
        0 => schema["multipleOf"] = json!(dice.pick(&[2, 3, 5, 7])),
        1 => schema["exclusiveMaximum"] = json!(low + 5),
        _ => {}
    }
    schema
}

fn number(dice: &mut Dice) -> Json {
    let low = dice.roll(200) as f64 / 8.0 - 10.0;
    json!({"type": "number", "minimum": low, "maximum": low + 0.5 + dice.roll(64) as f64})
}

fn string(dice: &mut Dice) -> Json {
    match dice.roll(4) {
        0 => json!({"type": "string", "pattern": dice.pick(&PATTERNS), "maxLength": 30}),
        1 => json!({"type": "string", "format": dice.pick(&FORMATS)}),
        2 => json!({"type": "string", "enum": ["one", "two \"2\"", "dreißig"]}),
        _ => {
            let least = dice.roll(4);
            json!({"type": "string", "minLength": least, "maxLength": least + dice.roll(12)})
        }
    }
}

fn array(dice: &mut Dice, depth: u32) -> Json {
    let least = dice.roll(3);
    let mut schema = json!({"type": "array", "items": of_depth(dice, depth - 1), "minItems": least, "maxItems": least + dice.roll(3)});
    if dice.roll(4) == 0 {
        schema["prefixItems"] = json!([of_depth(dice, 0), {"type": "boolean"}]);
    }
    schema
}

fn object(dice: &mut Dice, depth: u32) -> Json {
    let mut properties = Map::new();
    for _ in 0..1 + dice.roll(4) {
        properties.insert(dice.pick(&NAMES).to_owned(), of_depth(dice, depth - 1));
    }
    let required: Vec<&String> = properties.keys().filter(|_| dice.roll(3) > 0).collect();
    let mut schema = json!({"type": "object", "required": required});
    schema["additionalProperties"] = match dice.roll(4) {
        0 => json!({"type": "integer", "minimum": 0, "maximum": 99}),
        _ => json!(false),
    };
    schema["properties"] = Json::Object(properties);
    schema
}

/// Whether a value is what a schema of this kind describes.
pub(crate) fn valid(value: &Json, schema: &Json, root: &Json) -> bool {
    let Some(object) = schema.as_object() else { return schema == &Json::Bool(true) };
    object.iter().all(|(key, want)| match key.as_str() {
        "type" => match want {
            Json::String(kind) => is(value, kind),
            kinds => kinds.as_array().unwrap().iter().any(|kind| is(value, kind.as_str().unwrap())),
        },
        "enum" => want.as_array().unwrap().iter().any(|one| same(one, value)),
        "const" => same(want, value),
        "anyOf" => want.as_array().unwrap().iter().any(|one| valid(value, one, root)),
        "$ref" => valid(value, &root["$defs"][want.as_str().unwrap().trim_start_matches("#/$defs/")], root),
        "minimum" => value.as_f64().is_none_or(|x| x >= want.as_f64().unwrap()),
        "maximum" => value.as_f64().is_none_or(|x| x <= want.as_f64().unwrap()),
        "exclusiveMinimum" => value.as_f64().is_none_or(|x| x > want.as_f64().unwrap()),
        "exclusiveMaximum" => value.as_f64().is_none_or(|x| x < want.as_f64().unwrap()),
        "multipleOf" => value.as_f64().is_none_or(|x| x % want.as_f64().unwrap() == 0.0),
        "minLength" => value.as_str().is_none_or(|s| s.chars().count() as u64 >= want.as_u64().unwrap()),
        "maxLength" => value.as_str().is_none_or(|s| s.chars().count() as u64 <= want.as_u64().unwrap()),
        "pattern" => value.as_str().is_none_or(|s| Regex::new(want.as_str().unwrap()).unwrap().is_match(s)),
        "format" => value.as_str().is_none_or(|s| formatted(s, want.as_str().unwrap())),
        "minItems" => value.as_array().is_none_or(|a| a.len() as u64 >= want.as_u64().unwrap()),
        "maxItems" => value.as_array().is_none_or(|a| a.len() as u64 <= want.as_u64().unwrap()),
        "prefixItems" => value.as_array().is_none_or(|a| a.iter().zip(want.as_array().unwrap()).all(|(v, s)| valid(v, s, root))),
        "items" => {
            let before = object.get("prefixItems").map_or(0, |p| p.as_array().unwrap().len());
            value.as_array().is_none_or(|a| a.iter().skip(before).all(|v| valid(v, want, root)))
        }
        "required" => value.as_object().is_none_or(|o| want.as_array().unwrap().iter().all(|name| o.contains_key(name.as_str().unwrap()))),
        "properties" => value.as_object().is_none_or(|o| o.iter().all(|(k, v)| want.get(k).is_none_or(|s| valid(v, s, root)))),
        "additionalProperties" => {
            let named = |k: &String| object["properties"].get(k).is_some();
            value.as_object().is_none_or(|o| o.iter().filter(|(k, _)| !named(k)).all(|(_, v)| valid(v, want, root)))
        }
        "$defs" => true,
        other => panic!("the check does not know `{other}`"),
    })
}

fn is(value: &Json, kind: &str) -> bool {
    match kind {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.as_f64().is_some_and(|x| x.fract() == 0.0),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("no type `{other}`"),
    }
}

/// Equal, where 1 and 1.0 are.
fn same(a: &Json, b: &Json) -> bool {
    match (a, b) {
        (Json::Number(a), Json::Number(b)) => a.as_f64() == b.as_f64(),
        (Json::Array(a), Json::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Json::Object(a), Json::Object(b)) => a.len() == b.len() && a.iter().all(|(k, v)| b.get(k).is_some_and(|w| same(v, w))),
        (a, b) => a == b,
    }
}

fn formatted(text: &str, format: &str) -> bool {
    let (date, time) =
        (r"\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])", r"([01]\d|2[0-3]):[0-5]\d:([0-5]\d|60)(\.\d+)?([zZ]|[+-]\d{2}:\d{2})");
    let pattern = match format {
        "date" => date.to_owned(),
        "time" => time.to_owned(),
        "date-time" => format!("{date}[tT]{time}"),
        "uuid" => "[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}".to_owned(),
        "ipv4" => r"((25[0-5]|2[0-4]\d|1?\d?\d)\.){3}(25[0-5]|2[0-4]\d|1?\d?\d)".to_owned(),
        other => panic!("no format `{other}`"),
    };
    Regex::new(&format!("^({pattern})$")).unwrap().is_match(text)
}
