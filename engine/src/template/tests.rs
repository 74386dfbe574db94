//! Small templates, each about one thing that real ones need, and (ignored) the recorded renderings of real ones.

use super::*;
use serde_json::json;

fn render(source: &str, case: Json) -> Result<String> {
    ChatTemplate::from_source(source)?.render_case(&case)
}

/// A template, the variable `x` it sees, and what transformers gives.
const CASES: [(&str, &str, &str); 40] = [
    ("{{ x }}", r#"["a", 1, 1.5, true, null, {"k": "it's"}]"#, r#"['a', 1, 1.5, True, None, {'k': "it's"}]"#),
    ("{{ x }}|{{ x|string }}", "[1e16, 1e-5, 0.1, -0.0]", "[1e+16, 1e-05, 0.1, -0.0]|[1e+16, 1e-05, 0.1, -0.0]"),
    ("{{ x|tojson }}", r#"{"b": ["é<'&", null, true], "a": 1.0}"#, r#"{"b": ["é<'&", null, true], "a": 1.0}"#),
    ("{{ x|tojson(indent=2) }}", r#"{"b": [1, {}], "a": []}"#, "{\n  \"b\": [\n    1,\n    {}\n  ],\n  \"a\": []\n}"),
    ("{{ x|tojson(ensure_ascii=true, sort_keys=true) }}", r#"{"b": "é😀", "a": 1}"#, r#"{"a": 1, "b": "\u00e9\ud83d\ude00"}"#),
    ("{{ x|tojson(separators=(',', ':')) }}", r#"{"b": [1, 2]}"#, r#"{"b":[1,2]}"#),
    ("{{ x[1:]|tojson }}{{ x[::-1] }}", "[1, 2, 3]", "[2, 3][3, 2, 1]"),
    ("{{ x.get('a') }}{{ x.get('z', 'd') }}{{ x['a'] }}{{ x.a }}", r#"{"a": 1}"#, "1d11"),
    ("{% for k, v in x.items() %}{{ k }}={{ v }};{% endfor %}", r#"{"b": 1, "a": 2}"#, "b=1;a=2;"),
    ("{% for k, v in x|dictsort %}{{ k }}{% endfor %}", r#"{"b": 1, "a": 2}"#, "ab"),
    ("{{ x.split('</t>')[-1].lstrip('\n') }}|{{ x.strip() }}|{{ x.split() }}", r#"" a</t>\nb ""#, "b |a</t>\nb|['a</t>', 'b']"),
    ("{{ x.startswith('ab') and x.endswith('c') }}{{ x.replace('b', '') }}{{ x.upper() }}{{ x.title() }}", r#""abc""#, "TrueacABCAbc"),
    ("{{ x.removeprefix('a') }}{{ x.rsplit('b', 1) }}{{ x.partition('b') }}{{ x.index('c') }}", r#""abc""#, "bc['a', 'c']('a', 'b', 'c')2"),
    ("{{ '{} {}'.format(x, 2) }}{{ '%s-%d'|format(x, 3) }}{{ ','.join([x, x]) }}", r#""a""#, "a 2a-3a,a"),
    ("{{ x is string }}{{ x is iterable }}{{ x is sequence }}{{ x is mapping }}", "\"s\"", "TrueTrueTrueFalse"),
    ("{{ x is string }}{{ x is iterable }}{{ x is sequence }}{{ x is mapping }}", "null", "FalseFalseFalseFalse"),
    ("{{ x is none }}{{ y is defined }}{{ y is undefined }}{{ tools is none }}", "null", "TrueFalseTrueTrue"),
    ("{{ x|selectattr('r', 'equalto', 'u')|list|length }}{{ x|map(attribute='r')|join('-') }}", r#"[{"r": "u"}, {"r": "a"}]"#, "1u-a"),
    ("{{ (x|map('upper')) is sequence }}{{ x|first }}{{ x|last }}", r#"["a", "b"]"#, "Falseab"),
    ("{%- set ns = namespace(n=0) %}{% for i in x %}{% set ns.n = ns.n + i %}{% endfor %}{{ ns.n }}", "[1, 2]", "3"),
    ("{% for i in x %}{% if i == 2 %}{% continue %}{% elif i == 4 %}{% break %}{% endif %}{{ i }}{% endfor %}", "[1, 2, 3, 4, 5]", "13"),
    ("{% for i in x if i > 1 %}{{ loop.index0 }}{{ loop.last }}{{ i }} {% endfor %}", "[1, 2, 3]", "0False2 1True3 "),
    ("{% macro f(a, b='B') %}{{ a }}{{ b }}{% endmacro %}{{ f(x) }}{{ f(x, b=1) }}", "\"a\"", "aBa1"),
    ("{% generation %}{% set y = x %}{{ y }}{% endgeneration %}{{ y }}", "\"a\"", "a"),
    ("a\n  {% if x %}\n  b\n  {%- endif %}\nc\n", "true", "a\n  bc"),
    ("{{ x|indent(2) }}|{{ x|indent(2, true) }}|{{ x|indent(1, blank=true) }}", r#""a\n\nb\n""#, "a\n\n  b\n|  a\n\n  b\n|a\n \n b\n "),
    ("{{ x|trim }}|{{ x|length }}|{{ x|default('d') }}|{{ y|default('d') }}", "\" a \"", "a|3| a |d"),
    ("{{ 'b' in x }}{{ 'z' not in x }}{{ x[1] }}", r#""abc""#, "TrueTrueb"),
    ("{{ 'a' in x }}{{ x|length }}{{ x.keys()|list }}{{ x.values()|list }}", r#"{"a": 1}"#, "True1['a'][1]"),
    ("{{ x + [3] }}{{ x * 2 }}{{ 7 // 2 }}{{ 7 / 2 }}{{ 2 ** 3 }}{{ -7 % 3 }}", "[1]", "[1, 3][1, 1]33.582"),
    ("{{ strftime_now('%d %b %Y') }}", "null", "02 Jan 2026"),
    ("{{ (1, 2) }}{{ (1,) }}{{ {'a': (1, none)} }}", "null", "(1, 2)(1,){'a': (1, None)}"),
    ("{{ x|int + 1 }}{{ '3'|int }}{{ x|float }}", "2.7", "332.7"),
    ("{{ 'yes' if x else 'no' }}{{ 'only' if x }}{{ x or 'else' }}{{ not x }}", "\"\"", "noelseTrue"),
    ("{{ x[0].content[0].text }}", r#"[{"content": [{"type": "text", "text": "t"}]}]"#, "t"),
    ("{% call(z) f() %}<{{ z }}>{% endcall %}{% macro f() %}{{ caller(1) }}{% endmacro %}", "1", ""),
    ("{{ x|unique|list }}{{ x|sort }}{{ x|reverse|list }}{{ x|sum }}{{ x|max }}", "[2, 1, 2]", "[2, 1][1, 2, 2][2, 1, 2]52"),
    ("{{ x|tojson|safe }}{{ x|e }}{{ '<'|safe + x + '\\'' }}", "\"<\"", "\"<\"&lt;<&lt;&#39;"),
    ("{% set t %}a{{ x }}b{% endset %}{{ t }}{{ t|length }}", "1", "a1b3"),
    ("{# comment #}{% raw %}{{ x }}{% endraw %}{{- '\\n' -}}  ", "1", "{{ x }}\n"),
];

#[test]
fn templates_render_as_in_transformers() {
    for (source, x, want) in CASES {
        let case = json!({"messages": [], "kwargs": {"x": serde_json::from_str::<Json>(x).unwrap()}, "now": "2026-01-02T03:04:05"});
        match render(source, case) {
            Ok(got) => assert_eq!(got, want, "{source} with {x}"),
            // `call` before the macro is defined fails in Jinja as well.
            Err(error) => assert_eq!(want, "", "{source} with {x}: {error}"),
        }
    }
}

#[test]
fn what_python_refuses_is_an_error() {
    let sources = [
        "{{ raise_exception('no system role') }}",
        "{% for a in none %}{% endfor %}",
        "{{ 'a' + 1 }}",
        "{{ 'a' in none }}",
        "{{ none|length }}",
        "{{ undefined_thing.attribute }}",
        "{{ messages.append(1) }}",
        "{{ (messages|map('upper'))|tojson }}",
        "{{ undefined_thing|tojson }}",
        "{{ 'a'|no_such_filter }}",
        "{{ 'a'.no_such_method() }}",
        "{{ [1].startswith('a') }}",
        "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{% for i in range(100000) %}{{ 'abcdefgh' * 100000 }}{% endfor %}",
    ];
    for source in sources {
        let error = render(source, json!({"messages": [{}]})).expect_err(source);
        assert!(matches!(error, Error::Template(_)), "{source}: {error}");
    }
    assert!(matches!(ChatTemplate::from_source("{% if %}"), Err(Error::Template(_))));
    assert!(matches!(ChatTemplate::from_source("{{ 'open"), Err(Error::Template(_))));
    assert!(render("x", json!({"messages": 1})).is_err());
    assert!(render("x", json!([])).is_err());
    let raised = render("\n{{ raise_exception('no system role') }}", json!({"messages": []})).unwrap_err();
    assert_eq!(raised.to_string(), "chat template: no system role");
}

#[test]
fn texts_that_double_are_stopped_in_time() {
    let grow =
        |by: &str| format!("{{% set ns = namespace(t='\"aaaaaaa') %}}{{% for i in range(100) %}}{{% set ns.t = {by} %}}{{% endfor %}}");
    let long = "word ".repeat(200);
    let sources = [
        grow("ns.t ~ ns.t"),
        grow("ns.t + ns.t"),
        grow("ns.t * 1000"),
        grow("ns.t.replace('a', 'aa')"),
        grow("ns.t|replace('a', 'aa')"),
        grow("[ns.t, ns.t]|join"),
        grow("','.join([ns.t, ns.t])"),
        grow("ns.t|tojson"),
        grow("[ns.t]|string|tojson"),
        grow("'{}{}'.format(ns.t, ns.t)"),
        "{% macro f(t) %}{{ f(t + t) }}{% endmacro %}{{ f('aaaaaaaa') }}".to_owned(),
        format!("{{% set x %}}{{% for i in range(100000) %}}{{% for j in range(50) %}}{long}{{% endfor %}}{{% endfor %}}{{% endset %}}"),
        "{% set ns = namespace(l=[1]) %}{% for i in range(60) %}{% set ns.l = ns.l + ns.l %}{% endfor %}{{ ns.l|length }}".to_owned(),
    ];
    for source in sources {
        let error = render(&source, json!({"messages": []})).expect_err(&source);
        assert!(error.to_string().contains("the template makes") || error.to_string().contains("too large"), "{source}: {error}");
    }
    assert!(ChatTemplate::from_source(&format!("{{{{ {} 'a' }}}}", "'a' + ".repeat(1000))).is_err());
}

#[test]
fn thinking_becomes_the_variables_that_a_template_reads() {
    use Thinking::{Auto, Budget, Off, On};
    let (low, medium) = (Thinking::Effort(Effort::Low), Thinking::Effort(Effort::Medium));
    let qwen = "{% if enable_thinking is defined and not enable_thinking %}{% endif %}";
    let deepseek = "{% if not thinking is defined %}{% if enable_thinking is defined %}{% set thinking = enable_thinking %}{% endif %}{% endif %}{{ thinking }}";
    let harmony = "{% macro f() %}{% if reasoning_effort is not defined %}{% set reasoning_effort = 'medium' %}{% endif %}{{ reasoning_effort }}{% endmacro %}{{ f() }}";
    let hunyuan = "{% if reasoning_effort not in ['high', 'low', 'no_think'] %}{% endif %}";
    let seed = "{% if not thinking_budget is defined %}{% set thinking_budget = -1 %}{% endif %}";
    let plain = "{% set thinking = 1 %}{{ messages }}{{ thinking }}";
    let cases = [
        (qwen, Auto, json!({}), false),
        (qwen, Off, json!({"enable_thinking": false}), false),
        (qwen, On, json!({"enable_thinking": true}), false),
        (qwen, medium, json!({"enable_thinking": true}), true),
        (qwen, Budget(0), json!({"enable_thinking": false}), false),
        (qwen, Budget(9), json!({"enable_thinking": true}), false),
        (plain, Budget(9), json!({}), true),
        (deepseek, Off, json!({"enable_thinking": false, "thinking": false}), false),
        (harmony, medium, json!({"reasoning_effort": "medium"}), false),
        (harmony, On, json!({}), false),
        (harmony, Off, json!({"reasoning_effort": "low"}), true),
        (hunyuan, Off, json!({"reasoning_effort": "no_think"}), false),
        (hunyuan, On, json!({"reasoning_effort": "high"}), false),
        (seed, Budget(512), json!({"thinking_budget": 512}), false),
        (seed, Off, json!({"thinking_budget": 0}), false),
        (seed, low, json!({}), true),
        (plain, Off, json!({}), true),
        (plain, Auto, json!({}), false),
    ];
    for (source, thinking, want, ignored) in cases {
        let (variables, why) = ChatTemplate::from_source(source).unwrap().heeds(thinking);
        assert_eq!((Json::Object(variables), why.is_some()), (want, ignored), "{source} {thinking}: {why:?}");
    }
    for word in ["auto", "on", "off", "low", "medium", "high", "4096"] {
        assert_eq!(word.parse::<Thinking>().unwrap().to_string(), word);
    }
    assert!("much".parse::<Thinking>().is_err());
}

#[test]
fn calls_and_thinking_are_handed_over_as_a_template_wants_them() {
    let call = ToolCall { id: "call00001".into(), name: "f".into(), arguments: json!({"a": "é"}) };
    let messages =
        [Message::new(Role::User, "u"), Message::new(Role::Assistant, "").thinking("t").calls([call.clone()]), Message::result(&call, "r")];
    let cases = [
        (
            "{% for c in m.tool_calls %}{{ c.function.name ~ c.function.arguments|tojson ~ m.reasoning_content }}{% endfor %}",
            r#"uf{"a": "é"}tr"#,
        ),
        // Only text can be added; an object would come out as Python writes it.
        (
            "{% for c in m.tool_calls %}{{ c.function.name + c.function.arguments + message.thinking }}{{ m.thinking }}{% endfor %}",
            r#"uf{"a":"é"}tr"#,
        ),
        ("{% for c in m.tool_calls %}{{ c.function.name }}{{ c.function.arguments }}{% endfor %}", r#"uf{"a":"é"}r"#),
        (
            "{% if m.content is none %}{% for c in m.tool_calls %}{{ c.function.name ~ c.function.arguments|tojson }}{% endfor %}{% endif %}",
            r#"uf{"a": "é"}r"#,
        ),
    ];
    for (turn, want) in cases {
        let source = format!(
            "{{% set message = {{'thinking': ''}} %}}{{% for m in messages %}}{{% if m.tool_calls %}}{turn}{{% else %}}{{{{ m.content }}}}{{% endif %}}{{% endfor %}}{{{{ tools }}}}"
        );
        let template = ChatTemplate::from_source(&source).unwrap();
        let text = template.render(&Prompt { messages: &messages, ..Prompt::default() }).unwrap();
        assert_eq!(text, format!("{want}None"), "{turn}");
        assert!(template.takes_tools(), "{turn}");
    }
    assert!(!ChatTemplate::from_source("{% for m in messages %}{{ m.content }}{% endfor %}{{ tools }}").unwrap().takes_tools());
}

#[test]
fn every_built_in_renders_and_is_found_by_its_tokens() {
    let messages = [("system", "S"), ("user", "U"), ("assistant", "A"), ("user", "V")];
    let roles = [Role::System, Role::User, Role::Assistant, Role::User];
    let messages: Vec<_> = messages.iter().zip(roles).map(|((_, text), role)| Message::new(role, *text)).collect();
    let prompt = Prompt { messages: &messages, bos: "<s>", eos: "</s>", ..Prompt::default() };
    let wanted = [
        (
            "chatml",
            "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nU<|im_end|>\n<|im_start|>assistant\nA<|im_end|>\n<|im_start|>user\nV<|im_end|>\n<|im_start|>assistant\n",
        ),
        (
            "llama3",
            "<s><|start_header_id|>system<|end_header_id|>\n\nS<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nU<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nA<|eot_id|>\
             <|start_header_id|>user<|end_header_id|>\n\nV<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
        ),
        (
            "gemma",
            "<s><start_of_turn>user\nS\n\nU<end_of_turn>\n<start_of_turn>model\nA<end_of_turn>\n<start_of_turn>user\nV<end_of_turn>\n<start_of_turn>model\n",
        ),
        ("phi3", "<|system|>\nS<|end|>\n<|user|>\nU<|end|>\n<|assistant|>\nA<|end|>\n<|user|>\nV<|end|>\n<|assistant|>\n"),
        ("mistral", "<s>[INST] S\n\nU[/INST] A</s>[INST] V[/INST]"),
        ("zephyr", "<|system|>\nS</s>\n<|user|>\nU</s>\n<|assistant|>\nA</s>\n<|user|>\nV</s>\n<|assistant|>\n"),
        ("llama2", "<s>[INST] <<SYS>>\nS\n<</SYS>>\n\nU [/INST] A </s><s>[INST] V [/INST]"),
    ];
    for (name, want) in wanted {
        assert_eq!(ChatTemplate::named(name).unwrap().render(&prompt).unwrap(), want, "{name}");
        let builtin = BUILTINS.iter().find(|b| b.name == name).unwrap();
        let (template, notice) = ChatTemplate::guess(builtin.tokens.iter().copied().chain(["x"])).unwrap();
        assert_eq!(template.source(), builtin.source);
        assert!(notice.contains(name), "{notice}");
    }
    assert_eq!(ChatTemplate::guess(["a", "b"]).unwrap().0.source(), ChatTemplate::named("chatml").unwrap().source());
    assert!(matches!(ChatTemplate::named("vicuna"), Err(Error::Input(_))));
    let mut metadata = Metadata::new("test");
    assert!(ChatTemplate::from_gguf(&metadata).unwrap().1.unwrap().contains("`chatml`"));
    metadata.set("tokenizer.chat_template", "{% broken");
    assert!(ChatTemplate::from_gguf(&metadata).unwrap().1.unwrap().contains("cannot be used"));
    metadata.set("tokenizer.chat_template", "mine");
    let (template, notice) = ChatTemplate::from_gguf(&metadata).unwrap();
    assert_eq!((template.source(), notice), ("mine", None));
}

/// Renderings recorded from transformers: `HOB_TEMPLATES=DIR cargo test -p hob goldens -- --ignored --nocapture`, where DIR holds
/// `NAME.json` (arrays of cases) and `src/NAME.jinja`.
#[test]
#[ignore = "needs the goldens"]
fn goldens() {
    let dir = std::path::PathBuf::from(std::env::var("HOB_TEMPLATES").expect("HOB_TEMPLATES"));
    let mut files: Vec<_> =
        std::fs::read_dir(&dir).unwrap().map(|e| e.unwrap().path()).filter(|p| p.extension().is_some_and(|e| e == "json")).collect();
    files.sort();
    let (mut passed, mut failed) = (0, 0);
    for file in files {
        let cases: Vec<Json> = serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
        for mut case in cases {
            let source = std::fs::read_to_string(dir.join("src").join(case["template"].as_str().unwrap())).unwrap();
            let name = format!("{} {}", case["template"], case["case"]);
            let case = case.as_object_mut().unwrap();
            let error = case.remove("error").filter(|e| !e.is_null());
            let wanted: Vec<Json> = ["expected", "expected_transformers_5_23"].iter().filter_map(|k| case.remove(*k)).collect();
            let got = render(&source, Json::Object(case.clone()));
            match (&error, &got) {
                (Some(_), Err(Error::Template(_))) => passed += 1,
                (None, Ok(text)) if wanted.iter().any(|w| w == text) => passed += 1,
                (_, _) => {
                    failed += 1;
                    println!("{name}\n   got  {got:?}\n   want {error:?} {wanted:?}");
                }
            }
        }
    }
    println!("{passed} passed, {failed} failed");
    assert_eq!(failed, 0);
}
