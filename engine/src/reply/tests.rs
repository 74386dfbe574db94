//! Every format: from a message through a template of that format to text, from the text in all kinds of pieces to events, and back
//! to the message and the text. And what is broken.

use super::*;
use crate::template::ToolCall;
use crate::template::{ChatTemplate, Message, Prompt, Role, Turn};
use serde_json::{Value as Json, json};

/// What the assistant's turn looks like in a template of the format; the names of the real ones are those of their families.
const FORMATS: [(&str, &str); 17] = [
    (
        "Qwen, Hermes, Granite 4",
        "{% if m.reasoning_content %}{{ '<think>\n' ~ m.reasoning_content ~ '\n</think>\n\n' }}{% endif %}{{ m.content }}{% for c in m.tool_calls %}\
         {{ '\n<tool_call>\n{\"name\": \"' ~ c.function.name ~ '\", \"arguments\": ' ~ c.function.arguments|tojson ~ '}\n</tool_call>' }}{% endfor %}",
    ),
    (
        "Qwen 3 Coder",
        "{% if m.reasoning_content %}{{ '<think>\n' ~ m.reasoning_content ~ '\n</think>\n\n' }}{% endif %}{{ m.content }}{% for c in m.tool_calls %}\
         {{ '\n<tool_call>\n<function=' ~ c.function.name ~ '>\n' }}{% for k, v in c.function.arguments|items %}\
         {{ '<parameter=' ~ k ~ '>\n' ~ (v if v is string else v|tojson) ~ '\n</parameter>\n' }}{% endfor %}{{ '</function>\n</tool_call>' }}{% endfor %}",
    ),
    (
        "GLM",
        "{% if m.reasoning_content %}{{ '<think>' ~ m.reasoning_content ~ '</think>' }}{% endif %}{{ m.content }}{% for c in m.tool_calls %}\
         {{ '<tool_call>' ~ c.function.name }}{% for k, v in c.function.arguments|items %}\
         {{ '<arg_key>' ~ k ~ '</arg_key><arg_value>' ~ (v if v is string else v|tojson) ~ '</arg_value>' }}{% endfor %}</tool_call>{% endfor %}",
    ),
    (
        "Llama 3 (ipython)",
        "{% for c in m.tool_calls %}{{ '{\"name\": \"' ~ c.function.name ~ '\", \"parameters\": ' ~ c.function.arguments|tojson ~ '}' }}\
         {{ '; ' if not loop.last }}{% endfor %}{% if not m.tool_calls %}{{ m.content }}{% endif %}",
    ),
    (
        "Mistral Nemo",
        "{{ m.content }}{% if m.tool_calls %}[TOOL_CALLS][{% for c in m.tool_calls %}\
         {{ '{\"name\": \"' ~ c.function.name ~ '\", \"arguments\": ' ~ c.function.arguments|tojson ~ ', \"id\": \"' ~ c.id ~ '\"}' }}\
         {{ ', ' if not loop.last }}{% endfor %}]{% endif %}",
    ),
    (
        "Mistral Small 3.2",
        "{% if m.reasoning_content %}{{ '[THINK]' ~ m.reasoning_content ~ '[/THINK]' }}{% endif %}{{ m.content }}{% for c in m.tool_calls %}\
         {{ '[TOOL_CALLS]' ~ c.function.name ~ '[CALL_ID]' ~ c.id ~ '[ARGS]' ~ c.function.arguments|tojson }}{% endfor %}",
    ),
    (
        "DeepSeek V3",
        "{% if m.reasoning_content %}{{ '<think>\n' ~ m.reasoning_content ~ '\n</think>\n\n' }}{% endif %}{{ m.content }}{% if m.tool_calls %}<｜tool▁calls▁begin｜>\
         {% for c in m.tool_calls %}{{ '<｜tool▁call▁begin｜>function<｜tool▁sep｜>' ~ c.function.name ~ '\n```json\n' ~ c.function.arguments|tojson ~ '\n```<｜tool▁call▁end｜>' }}\
         {% endfor %}<｜tool▁calls▁end｜>{% endif %}",
    ),
    (
        "DeepSeek V3.1",
        "{% if m.reasoning_content %}{{ '<think>' ~ m.reasoning_content ~ '</think>' }}{% endif %}{{ m.content }}{% if m.tool_calls %}<｜tool▁calls▁begin｜>\
         {% for c in m.tool_calls %}{{ '<｜tool▁call▁begin｜>' ~ c.function.name ~ '<｜tool▁sep｜>' ~ c.function.arguments|tojson ~ '<｜tool▁call▁end｜>' }}\
         {% endfor %}<｜tool▁calls▁end｜>{% endif %}",
    ),
    (
        "DeepSeek V3.2",
        "{% if m.reasoning_content %}{{ '<think>' ~ m.reasoning_content ~ '</think>' }}{% endif %}{{ m.content }}{% if m.tool_calls %}\
         {{ '\n\n<｜DSML｜function_calls>\n' }}{% for c in m.tool_calls %}{{ '<｜DSML｜invoke name=\"' ~ c.function.name ~ '\">\n' }}\
         {% for k, v in c.function.arguments|items %}{{ '<｜DSML｜parameter name=\"' ~ k ~ '\" string=\"' ~ ('true' if v is string else 'false') ~ '\">' \
         ~ (v if v is string else v|tojson) ~ '</｜DSML｜parameter>\n' }}{% endfor %}{{ '</｜DSML｜invoke>\n' }}{% endfor %}</｜DSML｜function_calls>{% endif %}",
    ),
    (
        "gpt-oss",
        "{% if m.reasoning_content %}{{ '<|channel|>analysis<|message|>' ~ m.reasoning_content ~ '<|end|><|start|>assistant' }}{% endif %}\
         {% if m.tool_calls %}{% for c in m.tool_calls %}{{ ' to=functions.' ~ c.function.name ~ '<|channel|>commentary json<|message|>' ~ c.function.arguments|tojson }}\
         {{ '<|call|><|start|>assistant' if not loop.last }}{% endfor %}{% else %}{{ '<|channel|>final<|message|>' ~ m.content }}{% endif %}",
    ),
    (
        "Gemma 4",
        "{% macro w(v) %}{% if v is string %}{{ '<|\"|>' ~ v ~ '<|\"|>' }}{% elif v is mapping %}{{ '{' }}{% for k, x in v|items %}{{ k ~ ':' ~ w(x) }}{{ ',' if not loop.last }}\
         {% endfor %}{{ '}' }}{% elif v is iterable %}[{% for x in v %}{{ w(x) }}{{ ',' if not loop.last }}{% endfor %}]{% else %}{{ v|tojson }}{% endif %}{% endmacro %}\
         {% if m.reasoning_content %}{{ '<|channel>thought\n' ~ m.reasoning_content ~ '<channel|>' }}{% endif %}{{ m.content }}{% for c in m.tool_calls %}\
         {{ '<|tool_call>call:' ~ c.function.name ~ w(c.function.arguments) ~ '<tool_call|>' }}{% endfor %}",
    ),
    (
        "Command R7B",
        "{% if m.reasoning_content %}{{ '<|START_THINKING|>' ~ m.reasoning_content ~ '<|END_THINKING|>' }}{% endif %}{{ m.content }}{% if m.tool_calls %}<|START_ACTION|>[\
         {% for c in m.tool_calls %}{{ '\n    {\"tool_call_id\": \"' ~ c.id ~ '\", \"tool_name\": \"' ~ c.function.name ~ '\", \"parameters\": ' ~ c.function.arguments|tojson ~ '}' }}\
         {{ ',' if not loop.last }}{% endfor %}{{ '\n]<|END_ACTION|>' }}{% endif %}",
    ),
    (
        "Granite 3",
        "{{ m.content }}{% if m.tool_calls %}<|tool_call|>[{% for c in m.tool_calls %}\
         {{ '{\"name\": \"' ~ c.function.name ~ '\", \"arguments\": ' ~ c.function.arguments|tojson ~ '}' }}{{ ', ' if not loop.last }}{% endfor %}]{% endif %}",
    ),
    (
        "Kimi K2",
        "{{ m.content }}{% if m.tool_calls %}<|tool_calls_section_begin|>{% for c in m.tool_calls %}\
         {{ '<|tool_call_begin|>functions.' ~ c.function.name ~ ':' ~ loop.index0 ~ '<|tool_call_argument_begin|>' ~ c.function.arguments|tojson ~ '<|tool_call_end|>' }}\
         {% endfor %}<|tool_calls_section_end|>{% endif %}",
    ),
    (
        "MiniMax M2",
        "{{ m.content }}{% if m.tool_calls %}{{ '\n<minimax:tool_call>\n' }}{% for c in m.tool_calls %}{{ '<invoke name=\"' ~ c.function.name ~ '\">\n' }}\
         {% for k, v in c.function.arguments|items %}{{ '<parameter name=\"' ~ k ~ '\">' ~ (v if v is string else v|tojson) ~ '</parameter>\n' }}{% endfor %}\
         {{ '</invoke>\n' }}{% endfor %}</minimax:tool_call>{% endif %}",
    ),
    (
        "LFM 2.5",
        "{{ m.content }}{% if m.tool_calls %}<|tool_call_start|>[{% for c in m.tool_calls %}{{ c.function.name ~ '(' }}{% for k, v in c.function.arguments|items %}\
         {{ k ~ '=' ~ ([v]|string)[1:-1] }}{{ ', ' if not loop.last }}{% endfor %}{{ ')' }}{{ ', ' if not loop.last }}{% endfor %}]<|tool_call_end|>{% endif %}",
    ),
    (
        "Functionary 3.1",
        "{{ m.content }}{% for c in m.tool_calls %}{{ '<function=' ~ c.function.name ~ '>' ~ c.function.arguments|tojson ~ '</function>' }}{% endfor %}",
    ),
];

fn template(turn: &str) -> ChatTemplate {
    let source = format!(
        "{{# ipython, parameters #}}{{% for m in messages %}}{{% if m.role == 'assistant' %}}{turn}{{% else %}}{{{{ m.content }}}}{{% endif %}}{{% endfor %}}"
    );
    // The row of Llama goes by a word of its environment.
    ChatTemplate::from_source(&source).unwrap()
}

fn tools() -> Vec<Json> {
    let text = json!({"type": "string"});
    let weather = json!({"name": "get_weather", "parameters": {"type": "object", "properties": {"city": text, "note": text}}});
    let calc =
        json!({"name": "calc", "parameters": {"type": "object", "properties": {"xs": {"type": "array"}, "opts": {"type": "object"}}}});
    vec![json!({"type": "function", "function": weather}), json!({"type": "function", "function": calc})]
}

/// The events of a text that comes in `pieces`; neighbours of a kind become one.
fn events<'t>(format: &Format, tail: &str, pieces: impl IntoIterator<Item = &'t str>, offered: Offered) -> Vec<Event> {
    let mut stream = Stream::new(*format, tail, &tools(), offered);
    let mut all: Vec<Event> = Vec::new();
    let mut take = |stream: &mut Stream| {
        while let Some(event) = stream.next() {
            match (all.last_mut(), event) {
                (Some(Event::Thinking(before)), Event::Thinking(text)) | (Some(Event::Answer(before)), Event::Answer(text)) => {
                    before.push_str(&text)
                }
                (_, event) => all.push(event),
            }
        }
    };
    for piece in pieces {
        stream.push(piece);
        take(&mut stream);
    }
    stream.finish();
    take(&mut stream);
    all
}

/// The events, however the text is cut: in two at every place, and into single characters.
fn cut_anyhow(format: &Format, tail: &str, text: &str, offered: Offered) -> Vec<Event> {
    let whole = events(format, tail, [text], offered);
    for at in (1..text.len()).filter(|at| text.is_char_boundary(*at)) {
        assert_eq!(events(format, tail, [&text[..at], &text[at..]], offered), whole, "{text:?} cut at {at}");
    }
    let single: Vec<&str> = text.char_indices().map(|(at, c)| &text[at..at + c.len_utf8()]).collect();
    assert_eq!(events(format, tail, single, offered), whole, "{text:?} in single characters");
    whole
}

fn call(id: &str, name: &str, arguments: Json) -> ToolCall {
    ToolCall { id: id.into(), name: name.into(), arguments }
}

/// The message that events tell of; ids that the format does not carry are given.
fn message(events: &[Event]) -> Message {
    let (mut said, mut thought, mut calls) = (String::new(), String::new(), Vec::new());
    for event in events {
        match event {
            Event::Thinking(text) => thought.push_str(text),
            Event::Answer(text) => said.push_str(text),
            Event::Call(call) => calls.push(call.clone()),
            Event::Calling(name) => assert!(!name.is_empty()),
            other => panic!("{other:?}"),
        }
    }
    for (at, call) in calls.iter_mut().enumerate() {
        call.id = format!("call{:05}", at + 1);
    }
    Message::new(Role::Assistant, said).thinking(thought).calls(calls)
}

#[test]
fn every_format_goes_to_events_and_back() {
    let note = "multi\nline \"quoted\" Łódź 🦙";
    let one = || vec![call("call00001", "get_weather", json!({"city": "Łódź", "note": note}))];
    let two = || {
        let opts = json!({"xs": [1, 2.5, -3], "opts": {"round": true, "digits": null}});
        vec![call("call00001", "get_weather", json!({"city": "Rome"})), call("call00002", "calc", opts)]
    };
    for (name, turn) in FORMATS {
        let template = template(turn);
        let format = Format::of(template.source());
        assert!(format.calls.is_some() || format.shape == format::Shape::Channels, "{name}");
        let thinks = turn.contains("reasoning_content");
        let talks = !name.contains("Llama") && !name.contains("gpt-oss");
        for calls in [vec![], one(), two()] {
            for (content, thought) in [("", ""), ("Let me look.", ""), ("Let me look.", "It may\n\nrain in Łódź."), ("", "Rain?")] {
                let content = if calls.is_empty() { "Just an answer." } else { content };
                if (!thinks && !thought.is_empty()) || (!talks && !calls.is_empty() && !content.is_empty()) {
                    continue;
                }
                let said = Message::new(Role::Assistant, content).thinking(thought).calls(calls.clone());
                let render = |message: &Message| {
                    let messages = [message.clone()];
                    template.render(&Prompt { messages: &messages, turn: Turn::Closed, ..Prompt::default() }).unwrap()
                };
                let text = render(&said);
                let events = cut_anyhow(&format, "", &text, Offered::Tools);
                let callings = events.iter().filter(|event| matches!(event, Event::Calling(_))).count();
                assert_eq!(callings, calls.len(), "{name}: {events:?}");
                let again = message(&events);
                assert_eq!(again, said, "{name}: {text:?}");
                assert_eq!(render(&again), text, "{name}");
            }
        }
    }
}

fn format_of(family: &str) -> Format {
    let (_, turn) = FORMATS.iter().find(|(name, _)| name.contains(family)).unwrap();
    Format::of(template(turn).source())
}

fn thinking(text: &str) -> Event {
    Event::Thinking(text.into())
}

fn answer(text: &str) -> Event {
    Event::Answer(text.into())
}

#[test]
fn thinking_that_the_prompt_opened_and_markers_that_are_none() {
    let qwen = format_of("Qwen, Hermes");
    let cases = [
        ("<|im_start|>assistant\n<think>\n", "I think.\n</think>\n\nYes. ", vec![thinking("I think."), answer("Yes. ")]),
        ("<think>\n\n</think>\n\n", "Yes.", vec![answer("Yes.")]),
        ("", "\n<think>\n\n</think>\n\nYes.", vec![answer("Yes.")]),
        ("", "<think>cut off ", vec![thinking("cut off")]),
        ("", " <thin air", vec![answer(" <thin air")]),
        ("", "A <think> is a tag.</think>", vec![answer("A <think> is a tag.</think>")]),
        ("", "  \n", vec![answer("  \n")]),
        ("", "", vec![]),
        ("", "x <tool_cal", vec![answer("x <tool_cal")]),
    ];
    for (tail, text, want) in cases {
        assert_eq!(cut_anyhow(&qwen, tail, text, Offered::Tools), want, "{text:?}");
    }
    let called = "<tool_call>{\"name\": \"f\", \"arguments\": {}}</tool_call>";
    assert_eq!(cut_anyhow(&qwen, "", called, Offered::Nothing), [answer(called)]);
    let plain = Format::of("{{ messages }}");
    assert_eq!(cut_anyhow(&plain, "", "<think>a</think>b", Offered::Tools), [thinking("a"), answer("b")]);
    let granite = Format::of("<response>");
    let text = "<think>a</think><response>b</response>";
    assert_eq!(cut_anyhow(&granite, "", text, Offered::Nothing), [thinking("a"), answer("b")]);
}

#[test]
fn what_cannot_be_read_keeps_its_text() {
    let broken = [
        ("Qwen, Hermes", "a\n<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": }}\n</tool_call>b"),
        ("Qwen, Hermes", "a <tool_call>not json</tool_call>\nb"),
        ("Qwen, Hermes", "a<tool_call>{\"arguments\": {}}</tool_call>b"),
        ("Qwen, Hermes", "a<tool_call>{\"name\": \"f\", \"arguments\": [1]}</tool_call>b"),
        ("Qwen 3 Coder", "a<tool_call><function=f><parameter=x>1</tool_call>b"),
        ("GLM", "a<tool_call>f<arg_key>k</arg_key></tool_call>b"),
        ("DeepSeek V3.1", "a<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁calls▁end｜>b"),
        ("Gemma", "a<|tool_call>call:f{x<tool_call|>b"),
        ("LFM", "a<|tool_call_start|>f(x=1)<|tool_call_end|>b"),
    ];
    for (family, text) in broken {
        let events = cut_anyhow(&format_of(family), "", text, Offered::Tools);
        let Some(Event::Malformed { raw, why }) = events.iter().find(|event| matches!(event, Event::Malformed { .. })) else {
            panic!("{family}: {events:?}")
        };
        assert!(text.contains(raw.as_str()) && raw.len() + 5 > text.len() && !why.is_empty(), "{raw:?} {why}");
        assert_eq!((events.first(), events.last()), (Some(&answer("a")), Some(&answer("b"))), "{family}");
    }
    // Cut off inside of a call.
    for (family, text) in [
        ("Qwen, Hermes", "<tool_call>{\"name\": \"f\", \"argu"),
        ("Mistral Small", "[TOOL_CALLS]f[ARGS]{\"a"),
        ("Granite 3", "<|tool_call|>[{"),
    ] {
        let events = cut_anyhow(&format_of(family), "", text, Offered::Tools);
        assert!(matches!(events.last(), Some(Event::Malformed { raw, .. }) if raw == text), "{events:?}");
    }
}

#[test]
fn calls_as_models_really_write_them() {
    let hermes = format_of("Qwen, Hermes");
    // The closing marker inside of a text, line ends that are not escaped, arguments as text.
    let text = "<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": \"x</tool_call>\ny\"}}</tool_call>";
    assert_eq!(message(&cut_anyhow(&hermes, "", text, Offered::Tools)).calls[0].arguments, json!({"a": "x</tool_call>\ny"}));
    let text = "<tool_call>{\"name\": \"f\", \"arguments\": \"{\\\"a\\\": 1}\"}</tool_call>";
    assert_eq!(message(&cut_anyhow(&hermes, "", text, Offered::Tools)).calls[0].arguments, json!({"a": 1}));
    // Values by the schema, and by what they read as where there is none.
    let coder = format_of("Qwen 3 Coder");
    let text = "<tool_call><function=get_weather><parameter=city>5</parameter><parameter=other>True</parameter></function></tool_call>";
    assert_eq!(message(&cut_anyhow(&coder, "", text, Offered::Tools)).calls[0].arguments, json!({"city": "5", "other": true}));
    let text = "<tool_call><function=calc><parameter=opts>{'round': True, 'd': None}</parameter></function></tool_call>";
    assert_eq!(message(&cut_anyhow(&coder, "", text, Offered::Tools)).calls[0].arguments, json!({"opts": {"round": true, "d": null}}));
    // Llama: an object that is no call is an answer; the tag makes it one.
    let llama = format_of("Llama 3");
    for text in ["{\"a\": 1}", "{\"name\": \"Bob\", \"age\": 7}", "{", "{ not json"] {
        assert_eq!(cut_anyhow(&llama, "", text, Offered::Tools), [answer(text)]);
    }
    let events =
        cut_anyhow(&llama, "", "<|python_tag|>{\"type\": \"function\", \"name\": \"f\", \"parameters\": {\"a\": 1}}", Offered::Tools);
    assert_eq!(message(&events).calls[0].arguments, json!({"a": 1}));
    // gpt-oss: its own words for a call, a preamble, a header that is cut off, and no format at all.
    let harmony = format_of("gpt-oss");
    let text = "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>commentary<|message|>I look.<|end|>\
                <|start|>assistant<|channel|>commentary to=functions.f <|constrain|>json<|message|>{\"a\": 1}";
    let called = call("", "f", json!({"a": 1}));
    let want = [thinking("Hm."), answer("I look."), Event::Calling("f".into()), Event::Call(called)];
    assert_eq!(cut_anyhow(&harmony, "<|start|>assistant", text, Offered::Tools), want);
    assert_eq!(cut_anyhow(&harmony, "", "<|channel|>final<|mess", Offered::Tools), Vec::new());
    assert_eq!(cut_anyhow(&harmony, "", "Hello there.", Offered::Nothing), [answer("Hello there.")]);
}

/// The replies in renderings recorded from transformers, read back: `HOB_TEMPLATES=DIR cargo test -p hob replies_of_goldens -- --ignored --nocapture`.
#[test]
#[ignore = "needs the goldens"]
fn replies_of_goldens() {
    let dir = std::path::PathBuf::from(std::env::var("HOB_TEMPLATES").expect("HOB_TEMPLATES"));
    let (mut read, mut lost) = (0, Vec::new());
    for file in std::fs::read_dir(&dir).unwrap().map(|e| e.unwrap().path()).filter(|p| p.extension().is_some_and(|e| e == "json")) {
        let cases: Vec<Json> = serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
        for case in cases.iter().filter(|case| case["case"] == "toolcalls_dict" || case["case"] == "toolcall") {
            let source = std::fs::read_to_string(dir.join("src").join(case["template"].as_str().unwrap())).unwrap();
            let template = ChatTemplate::from_source(&source).unwrap();
            let user = Message::new(Role::User, "Both, please.");
            let wanted = vec![
                call("call00001", "get_weather", json!({"city": "Łódź"})),
                call("call00002", "calc", json!({"xs": [1, 2.5, -3], "opts": {"round": true, "digits": null}})),
            ];
            let wanted = if case["case"] == "toolcall" { wanted[..1].to_vec() } else { wanted };
            let said = Message::new(Role::Assistant, "").calls(wanted.clone());
            let tools: Vec<Json> = case["tools"].as_array().cloned().unwrap_or_default();
            let render = |messages: &[Message], turn| {
                template.render(&Prompt { messages, turn, tools: &tools, bos: "<s>", eos: "</s>", ..Prompt::default() })
            };
            // What the prompt ends with is not the model's.
            let opened = render(std::slice::from_ref(&user), Turn::Open).unwrap_or_default();
            let (Ok(before), Ok(after)) = (render(std::slice::from_ref(&user), Turn::Closed), render(&[user, said], Turn::Closed)) else {
                continue;
            };
            if !template.takes_tools() {
                continue;
            }
            let common = before.bytes().zip(after.bytes()).take_while(|(a, b)| a == b).count();
            let common = (0..=common).rev().find(|at| after.is_char_boundary(*at)).unwrap_or(0);
            let text = after.strip_prefix(&opened).unwrap_or(&after[common..]);
            let ends = ["<|eot_id|>", "</s>", "<|message_sep|>", "<seed:eos>", "<|im_end|>", "<|end|>"];
            let text = &text[..ends.iter().filter_map(|end| text.find(end)).min().unwrap_or(text.len())];
            let events = events(&Format::of(&source), &opened, [text], Offered::Tools);
            let mut calls: Vec<ToolCall> =
                events.iter().filter_map(|e| if let Event::Call(call) = e { Some(call.clone()) } else { None }).collect();
            calls.iter_mut().zip(&wanted).for_each(|(call, wanted)| call.id = wanted.id.clone());
            if calls == wanted {
                read += 1;
            } else {
                lost.push(format!("{} {}\n   {text:?}\n   {events:?}", case["template"], case["case"]));
            }
        }
    }
    lost.iter().for_each(|lost| println!("{lost}"));
    println!("{read} read, {} not", lost.len());
}
