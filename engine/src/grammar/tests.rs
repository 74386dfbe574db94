//! Grammars without a model's help: what they accept, what is refused, where in a reply they hold.
#![cfg(feature = "grammar")]

use super::engine::END;
use super::*;
use crate::error::Error;
use crate::fake;
use crate::{EndReason, Model, Sampling, Thinking};
use serde_json::json;
use std::time::Duration;

/// Whether a text is of a grammar's language.
fn accepts(grammar: &Grammar, text: &str) -> bool {
    let vocabulary = Vocabulary::of_bytes().unwrap();
    let mut machine = Machine::new(&vocabulary, grammar.name(), &grammar.source().unwrap()).unwrap();
    for byte in text.bytes() {
        if machine.is_done() || !machine.mask().unwrap().has(u32::from(byte)) {
            return false;
        }
        machine.take(u32::from(byte)).unwrap();
    }
    machine.is_done() || machine.mask().unwrap().has(END)
}

const ARITHMETIC: &str = r#"
root  ::= (expr "=" ws term "\n")+      # as in llama.cpp's README
expr  ::= term ([-+*/] term)*
term  ::= ident | num | "(" ws expr ")" ws
ident ::= [a-z] [a-z0-9_]* ws
num   ::= [0-9]+ ws
ws    ::= [ \t\n]*
"#;

const LIST: &str =
    "root ::= item{1,3} rest?\nitem ::= \"- \" [^\\r\\n\\x0b\\u2028]+ \"\\n\"\nrest ::=\n  \"...\" |\n  (\"\\\"\" . \"\\\"\")";

#[test]
fn gbnf_means_what_llama_cpp_says() {
    let cases: [(&str, &[&str], &[&str]); 7] = [
        (ARITHMETIC, &["1=2\n", "(a +12 )*b= c\n", "1 = 1\nx=x\n"], &["1=2", "a+=1\n", "A=1\n", "", "(1=1\n"]),
        (LIST, &["- a\n", "- é\n- b\n...", "- a\n- b\n- c\n\"x\""], &["- \n", "- a\n- a\n- a\n- a\n", "- a\n\"xy\"", "..."]),
        (r#"root ::= "a" "bc" | "ab" "d""#, &["abc", "abd"], &["ab", "abcd"]),
        (r#"root ::= root "b" | "a""#, &["a", "abbb"], &["b", "ba"]),
        (r#"root ::= ("a"? "b"*)*"#, &["", "a", "bab"], &["c"]),
        (r#"root ::= "[" (root ("," root)*)? "]" | "x"{2} | "y"{,2} | "z"{2,}"#, &["[[],xx]", "yy", "", "zzz", "[y,]"], &["x", "z", "[[]"]),
        ("root-1 ::= \"a\"\nroot ::= root-1 [\\]\\\\^-]", &["a]", "a\\", "a^", "a-"], &["a", "ab"]),
    ];
    for (grammar, good, bad) in cases {
        let grammar = Grammar::Gbnf(grammar.to_owned());
        for (texts, want) in [(good, true), (bad, false)] {
            texts.iter().for_each(|text| assert_eq!(accepts(&grammar, text), want, "{text:?} of {grammar:?}"));
        }
    }
}

#[test]
fn what_is_no_gbnf_is_told_with_its_place() {
    let cases = [
        ("root ::= \"a\nroot", "line 1, column 12: expected a closing `\"`"),
        ("root ::= a\nb ::= \"c\"", "line 1, column 10: expected a rule that is defined, found `a`"),
        ("rot ::= \"a\"", "expected a rule `root`"),
        ("root := \"a\"", "line 1, column 6: expected `::=`"),
        ("root ::= [z-a]", "a range that ascends"),
        ("root ::= \"a\"{3,2}", "an upper bound not below the lower"),
        ("root ::= \"a\"{9999}", "at most 2000 repetitions"),
        ("root ::= (\"a\"", "expected `)`, found the end"),
        ("root ::= \"a\"\nroot ::= \"b\"", "line 2, column 1: expected each rule once"),
        ("root ::= <think>", "a reference to a token"),
        ("root ::= \"\\q\"", "expected one of \\n"),
        ("root ::= [\\x4]", "2 hexadecimal digits"),
    ];
    for (grammar, want) in cases {
        let error = Grammar::Gbnf(grammar.to_owned()).source().unwrap_err().to_string();
        assert!(error.contains(want), "{grammar:?}: {error}");
    }
    let deep = format!("root ::= {}\"a\"{}", "(".repeat(4000), ")".repeat(4000));
    assert!(Grammar::Gbnf(deep).source().is_err());
}

#[test]
fn what_a_schema_asks_for_in_vain_is_named() {
    let cases = [
        (json!({"properties": {"a": {"items": {"type": "string", "not": {}}}}}), "#/properties/a/items/not: the keyword `not`"),
        (json!({"$defs": {"x/y": {"type": "array", "uniqueItems": true}}}), "#/$defs/x~1y/uniqueItems"),
        (json!({"anyOf": [true, {"format": "iri"}]}), "#/anyOf/1/format: the format `iri`"),
        (json!({"$ref": "https://example.org/schema"}), "#/$ref: a reference to"),
        (json!({"$ref": "#/$defs/none"}), "none"),
        (json!({"properties": []}), "#/properties: expected an object of schemas, found []"),
        (json!({"items": 3}), "#/items: expected a schema"),
        (json!({"enum": []}), "#/enum: expected a list of values"),
        (json!(false), "expected a schema that something can match"),
        (json!({"type": "integer", "minimum": 3, "maximum": 2}), "JSON schema"),
        (json!({"oneOf": [{"type": "integer"}, {"type": "number"}]}), "oneOf"),
        (json!({"type": "string", "pattern": "(?=a)b"}), "JSON schema"),
        (json!({"type": "strange"}), "strange"),
    ];
    let gguf = crate::gguf::Gguf::from_static(fake::TINY).unwrap();
    let tokenizer = Tokenizer::from_gguf(gguf.metadata(), &Default::default()).unwrap();
    for (schema, want) in cases {
        let error = Shelf::default().get(&Grammar::JsonSchema(schema.clone()), &tokenizer).unwrap_err().to_string();
        assert!(error.contains(want), "{schema}: {error}");
    }
    let fine =
        json!({"type": ["integer", "null"], "format": "int32", "uniqueItems": false, "x-mine": 1, "properties": {"not": {"const": 1}}});
    assert!(Shelf::default().get(&Grammar::JsonSchema(fine), &tokenizer).is_ok());
    for bad in
        [Grammar::Regex("a(".into()), Grammar::Lark("start: b".into()), Grammar::Lark("start".into()), Grammar::Regex("(?=x)y".into())]
    {
        let error = Shelf::default().get(&bad, &tokenizer).unwrap_err();
        assert!(matches!(error, Error::Unsupported(_)) && !error.to_string().contains("backtrace"), "{error}");
    }
}

#[test]
fn a_grammar_is_compiled_once() {
    let gguf = crate::gguf::Gguf::from_static(fake::TINY).unwrap();
    let tokenizer = Tokenizer::from_gguf(gguf.metadata(), &Default::default()).unwrap();
    let shelf = Shelf::default();
    let one = shelf.get(&Grammar::Json, &tokenizer).unwrap();
    assert!(Arc::ptr_eq(&one, &shelf.get(&Grammar::Json, &tokenizer).unwrap()));
    for i in 0..KEPT {
        shelf.get(&Grammar::Regex(format!("a{{{}}}", i + 1)), &tokenizer).unwrap();
    }
    assert!(!Arc::ptr_eq(&one, &shelf.get(&Grammar::Json, &tokenizer).unwrap()), "the oldest goes");
}

const PLAIN: &str = "{% for m in messages %}{{ m.content }}{% endfor %}";
const THINKS: &str = "{% for m in messages %}{{ m.content }}{% endfor %}{{ '<think>' if enable_thinking }}{# <think> </think> #}";
const CALLS: &str = "{% if tools %}{{ tools|tojson }}{% endif %}{% for m in messages %}{{ m.content }}\
    {% for c in m.tool_calls or [] %}<tool_call>{{ c.function|tojson }}</tool_call>{% endfor %}{% endfor %}";
const HARMONY: &str = "{% for m in messages %}{{ m.content }}{% endfor %}<|start|>assistant{# <|channel|> <|message|> #}";

#[test]
fn the_grammar_holds_for_the_answer_alone() {
    // The template, what the model would say, the answer, the thoughts.
    let cases = [
        (PLAIN, Thinking::Auto, "It is blue.", "It is blue.", ""),
        (THINKS, Thinking::Auto, "<think>Hm. 1, 2!</think>\n\nIt is blue.", "It is blue.", "Hm. 1, 2!"),
        (THINKS, Thinking::On, "Hm. 1, 2!\n</think>It is blue.", "It is blue.", "Hm. 1, 2!"),
        (THINKS, Thinking::Auto, "It is blue.", "It is blue.", ""),
        (
            HARMONY,
            Thinking::Auto,
            "<|channel|>analysis<|message|>Hm. 1!<|end|><|start|>assistant<|channel|>final<|message|>It is blue.",
            "It is blue.",
            "Hm. 1!",
        ),
    ];
    for (template, thinking, said, answer, thought) in cases {
        let (model, _) = fake::model(&Model::options().context(512).chat_template(template), said, Duration::ZERO);
        let grammar = Grammar::Regex("It is (blue|grey)[.!]".into());
        let mut chat = model.chat().sampling(Sampling::greedy()).thinking(thinking).logprobs(0).grammar(grammar);
        let mut reply = chat.say("Sky?").unwrap();
        for piece in reply.by_ref() {
            piece.unwrap();
        }
        let got = (reply.said(), reply.thought(), reply.end(), reply.is_whole());
        assert_eq!(got, (answer, thought, Some(EndReason::EndOfTurn), true), "{said:?} by {template:?}");
    }
}

#[test]
fn calls_of_tools_are_free_of_it_and_what_follows_is_not() {
    let said = "<tool_call>{\"name\": \"look\", \"arguments\": {\"at\": \"sky\"}}</tool_call>";
    let (model, _) = fake::model(&Model::options().context(2048).chat_template(CALLS), said, Duration::ZERO);
    let chat = model.chat().sampling(Sampling::greedy()).logprobs(0).grammar(Grammar::Regex("[a-z]{3}".into()));
    let mut chat = chat.offer(json!({"name": "look", "parameters": {}}));
    let mut reply = chat.say("Sky?").unwrap();
    while reply.next().is_some() {}
    assert_eq!((reply.calls().len(), reply.said(), reply.is_whole()), (1, "", true));
    drop(reply);
    // Without tools it is the answer that is held.
    let mut chat = model.chat().sampling(Sampling::greedy()).logprobs(0).grammar(Grammar::Regex("[a-z]{3}".into()));
    let answer = chat.say("Sky?").unwrap().text().unwrap();
    assert!(answer.len() == 3 && answer.bytes().all(|b| b.is_ascii_lowercase()), "{answer}");
}

#[test]
fn thinking_that_has_no_end_is_closed_and_so_is_the_answer() {
    for (template, thinking) in [(THINKS, Thinking::On), (HARMONY, Thinking::Auto)] {
        let (model, _) = fake::model(&Model::options().context(2048).chat_template(template), "Hm hm ", Duration::ZERO);
        let schema = json!({"type": "object", "properties": {"a": {"type": "integer", "minimum": 100}}, "required": ["a"]});
        let chat = model.chat().sampling(Sampling::greedy()).thinking(thinking).max_tokens(128).grammar(Grammar::JsonSchema(schema));
        let mut chat = chat;
        let mut reply = chat.say("Sky?").unwrap();
        for piece in reply.by_ref() {
            piece.unwrap();
        }
        assert_eq!((reply.end(), reply.is_whole()), (Some(EndReason::MaxTokens), true), "{}", reply.said());
        let answer: Json = serde_json::from_str(reply.said()).unwrap();
        assert!(answer["a"].as_i64().unwrap() >= 100, "{answer}");
    }
}
