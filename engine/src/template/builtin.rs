//! Chat templates for files that bring none, by name, and how to guess which one a vocabulary was made for.

/// A format that hob knows by itself.
pub(super) struct Builtin {
    /// Its name.
    pub(super) name: &'static str,
    /// Tokens that only its models have; the first row whose tokens are all there is taken.
    pub(super) tokens: &'static [&'static str],
    /// Its Jinja source.
    pub(super) source: &'static str,
}

/// The last row fits everything.
pub(super) const BUILTINS: [Builtin; 8] = [
    Builtin { name: "chatml", tokens: &["<|im_start|>", "<|im_end|>"], source: CHATML },
    Builtin {
        name: "llama3",
        tokens: &["<|start_header_id|>", "<|eot_id|>"],
        source: "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content | trim }}<|eot_id|>\
                 {% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}",
    },
    Builtin {
        name: "gemma",
        tokens: &["<start_of_turn>", "<end_of_turn>"],
        source: "{{ bos_token }}{% set ns = namespace(first='') %}{% for m in messages %}{% if m.role == 'system' %}\
                 {% set ns.first = m.content | trim ~ '\n\n' %}{% else %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n\
                 {{- '\n' ~ ns.first ~ (m.content | trim) }}<end_of_turn>\n{{- '\n' }}{% set ns.first = '' %}{% endif %}{% endfor %}\
                 {% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}",
    },
    Builtin {
        name: "phi3",
        tokens: &["<|user|>", "<|assistant|>", "<|end|>"],
        source: "{% for m in messages %}<|{{ m.role }}|>{{ '\n' ~ m.content ~ '<|end|>\n' }}{% endfor %}\
                 {% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}",
    },
    Builtin { name: "mistral", tokens: &["[INST]", "[/INST]"], source: INST },
    Builtin {
        name: "zephyr",
        tokens: &["<|user|>", "<|assistant|>"],
        source: "{% for m in messages %}<|{{ m.role }}|>{{ '\n' ~ m.content ~ eos_token ~ '\n' }}{% endfor %}\
                 {% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}",
    },
    Builtin {
        name: "llama2",
        tokens: &["<s>", "</s>", "▁Llama"],
        source: "{% set ns = namespace(first='') %}{% for m in messages %}{% if m.role == 'system' %}\
                 {% set ns.first = '<<SYS>>\n' ~ m.content ~ '\n<</SYS>>\n\n' %}{% elif m.role == 'assistant' %} {{ m.content | trim }} {{ eos_token }}\
                 {% else %}{{ bos_token }}[INST] {{ ns.first ~ (m.content | trim) }} [/INST]{% set ns.first = '' %}{% endif %}{% endfor %}",
    },
    Builtin { name: "chatml", tokens: &[], source: CHATML },
];

const CHATML: &str = "{% for m in messages %}{{ '<|im_start|>' ~ m.role ~ '\n' ~ m.content ~ '<|im_end|>\n' }}{% endfor %}\
                      {% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

const INST: &str = "{{ bos_token }}{% set ns = namespace(first='') %}{% for m in messages %}{% if m.role == 'system' %}\
                    {% set ns.first = m.content ~ '\n\n' %}{% elif m.role == 'assistant' %} {{ m.content | trim }}{{ eos_token }}\
                    {% else %}[INST] {{ ns.first ~ m.content }}[/INST]{% set ns.first = '' %}{% endif %}{% endfor %}";
