//! How models mark their thinking and their tool calls: a row per format, found by what the chat template's source contains.
//!
//! ```text
//! Qwen, Hermes, Granite 4   <tool_call>{"name": f, "arguments": {…}}</tool_call>
//! Qwen 3 Coder, 3.5         <tool_call><function=f><parameter=k>v</parameter></function></tool_call>
//! GLM                       <tool_call>f<arg_key>k</arg_key><arg_value>v</arg_value></tool_call>
//! Llama 3, 4                {"name": f, "parameters": {…}}                 the whole reply, or after <|python_tag|>
//! Mistral                   [TOOL_CALLS][{"name": f, "arguments": {…}}]    or [TOOL_CALLS]f[ARGS]{…}
//! DeepSeek V3, R1           <｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>f {…}<｜tool▁call▁end｜><｜tool▁calls▁end｜>
//! DeepSeek V3.2, V4         <｜DSML｜function_calls><｜DSML｜invoke name="f"><｜DSML｜parameter name="k" string="true">v</…></…></…>
//! gpt-oss                   <|channel|>commentary to=functions.f<|message|>{…}<|call|>
//! Gemma 4                   <|tool_call>call:f{k:<|"|>v<|"|>}<tool_call|>
//! Command R                 <|START_ACTION|>[{"tool_name": f, "parameters": {…}}]<|END_ACTION|>
//! ```
//!
//! Sources: the templates themselves, as their authors published them; for gpt-oss <https://cookbook.openai.com/articles/openai-harmony>.

/// How a model's replies are marked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Format {
    /// Whether the whole reply is cut into messages.
    pub(crate) shape: Shape,
    /// What encloses thinking.
    pub(crate) thinking: Span,
    /// How tools are called; `None` where the template says nothing about it.
    pub(crate) calls: Option<Calls>,
    /// Markers around the answer that mean nothing.
    pub(crate) drops: &'static [&'static str],
}

/// How a reply is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// An answer, in which other spans are marked.
    Plain,
    /// Messages, each with its header (gpt-oss's harmony).
    Channels,
}

/// What encloses a span.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) open: &'static str,
    pub(crate) close: &'static str,
}

/// How tools are called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Calls {
    /// What a call may begin with. A brace counts at the start of a reply only.
    pub(crate) opens: &'static [&'static str],
    pub(crate) close: Close,
    pub(crate) body: Body,
}

/// Where a call ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Close {
    /// At this marker.
    At(&'static str),
    /// Where the next one begins, or the reply ends.
    Next,
}

/// What stands inside of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Body {
    /// Objects with a name and arguments, alone, in a row or in a list.
    Json,
    /// `f[ARGS]{…}`, or as [`Body::Json`].
    Named,
    /// `<function=f><parameter=k>v</parameter></function>`, or an object in place of the parameters.
    Functions,
    /// `<invoke name="f"><parameter name="k">v</parameter></invoke>`, whatever the tags are called.
    Invokes,
    /// `f<arg_key>k</arg_key><arg_value>v</arg_value>`
    Pairs,
    /// DeepSeek's sections.
    Sections,
    /// Kimi's sections.
    Numbered,
    /// `call:f{k:<|"|>v<|"|>}`
    Gemma,
    /// `[f(k='v')]`
    Python,
}

/// Markers in a template's source, and the format they tell. The first row of which the source has all wins.
struct Row {
    marks: &'static [&'static str],
    calls: Calls,
}

const fn row(marks: &'static [&'static str], opens: &'static [&'static str], close: Close, body: Body) -> Row {
    Row { marks, calls: Calls { opens, close, body } }
}

const ROWS: [Row; 24] = [
    row(&["｜DSML｜", "function_calls>"], &["<｜DSML｜function_calls>"], Close::At("</｜DSML｜function_calls>"), Body::Invokes),
    row(&["｜DSML｜"], &["<｜DSML｜tool_calls>"], Close::At("</｜DSML｜tool_calls>"), Body::Invokes),
    row(&["<｜tool▁calls▁begin｜>"], &["<｜tool▁calls▁begin｜>"], Close::At("<｜tool▁calls▁end｜>"), Body::Sections),
    row(&["<|tool_calls_section_begin|>"], &["<|tool_calls_section_begin|>"], Close::At("<|tool_calls_section_end|>"), Body::Numbered),
    row(&["[TOOL_CALLS]"], &["[TOOL_CALLS]"], Close::Next, Body::Named),
    row(&["<|START_ACTION|>"], &["<|START_ACTION|>"], Close::At("<|END_ACTION|>"), Body::Json),
    row(&["<|tool_call>"], &["<|tool_call>"], Close::At("<tool_call|>"), Body::Gemma),
    row(&["<minimax:tool_call>"], &["<minimax:tool_call>"], Close::At("</minimax:tool_call>"), Body::Invokes),
    row(&["<seed:tool_call>"], &["<seed:tool_call>"], Close::At("</seed:tool_call>"), Body::Functions),
    row(&["<arg_key>", "<tool_call>"], &["<tool_call>"], Close::At("</tool_call>"), Body::Pairs),
    row(&["<tool_call>", "<function="], &["<tool_call>"], Close::At("</tool_call>"), Body::Functions),
    row(&["<function name="], &["<function name="], Close::At("</function>"), Body::Invokes),
    row(&["<TOOLCALL>"], &["<TOOLCALL>"], Close::At("</TOOLCALL>"), Body::Json),
    row(&["<tool_calls>"], &["<tool_calls>"], Close::At("</tool_calls>"), Body::Json),
    row(&["<|tools_prefix|>"], &["<|tools_prefix|>"], Close::At("<|tools_suffix|>"), Body::Json),
    row(&["<|tool_call|>"], &["<|tool_call|>"], Close::Next, Body::Json),
    row(&["<tool_call>"], &["<tool_call>"], Close::At("</tool_call>"), Body::Json),
    row(&["<|tool_call_start|>"], &["<|tool_call_start|>"], Close::At("<|tool_call_end|>"), Body::Python),
    row(&["<function="], &["<function="], Close::At("</function>"), Body::Functions),
    row(&["<|function_call|>"], &["<|function_call|>"], Close::Next, Body::Json),
    row(&["functools"], &["functools["], Close::Next, Body::Json),
    row(&["Action:", "```json"], &["Action:"], Close::Next, Body::Json),
    row(&["ipython", "parameters"], &["<|python_tag|>", "{"], Close::Next, Body::Json),
    // Llama 4.
    row(&["<|python_start|>", "parameters"], &["<|python_start|>", "{"], Close::Next, Body::Json),
];

/// What a template's source contains, and how thinking is enclosed there; everywhere else it is as in the last row.
const SPANS: [(&str, Span); 7] = [
    ("<seed:think>", Span { open: "<seed:think>", close: "</seed:think>" }),
    ("<|START_THINKING|>", Span { open: "<|START_THINKING|>", close: "<|END_THINKING|>" }),
    ("[THINK]", Span { open: "[THINK]", close: "[/THINK]" }),
    ("<|channel>", Span { open: "<|channel>thought\n", close: "<channel|>" }),
    ("<|inner_prefix|>", Span { open: "<|inner_prefix|>", close: "<|inner_suffix|>" }),
    ("[BEGIN FINAL RESPONSE]", Span { open: "Here are my reasoning steps:\n", close: "[BEGIN FINAL RESPONSE]" }),
    ("", Span { open: "<think>", close: "</think>" }),
];

/// Harmony's control tokens.
pub(crate) const START: &str = "<|start|>";
pub(crate) const CHANNEL: &str = "<|channel|>";
pub(crate) const MESSAGE: &str = "<|message|>";
/// What opens an answer there.
pub(crate) const FINAL: &str = "<|channel|>final<|message|>";
pub(crate) const CONSTRAIN: &str = "<|constrain|>";
/// What a message of harmony ends with.
pub(crate) const ENDS: [&str; 5] = ["<|end|>", "<|call|>", "<|return|>", START, CHANNEL];

impl Format {
    /// The format of a template.
    pub(crate) fn of(source: &str) -> Format {
        let has = |mark: &&str| source.contains(*mark);
        let shape = if [START, CHANNEL, MESSAGE].iter().all(has) { Shape::Channels } else { Shape::Plain };
        let thinking = SPANS.iter().find(|(mark, _)| has(mark)).map_or(SPANS[SPANS.len() - 1].1, |(_, span)| *span);
        let calls = ROWS.iter().find(|row| row.marks.iter().all(has)).map(|row| row.calls);
        let drops: &[&str] = if has(&"<response>") { &["<response>", "</response>"] } else { &[] };
        Format { shape, thinking, calls, drops }
    }

    /// What ends thinking and lets the answer begin, for a reply that has thought enough.
    pub(crate) fn enough(&self) -> String {
        match self.shape {
            Shape::Channels => format!("{}{START}assistant{FINAL}", ENDS[0]),
            Shape::Plain => format!("\n{}\n\n", self.thinking.close),
        }
    }

    /// Whether a control token of this spelling belongs to the format, so that its text is to be seen.
    pub(crate) fn knows(&self, spelling: &str) -> bool {
        let within = |marker: &str| marker.contains(spelling);
        match self.shape {
            Shape::Channels => [MESSAGE, CONSTRAIN].contains(&spelling) || ENDS.contains(&spelling),
            Shape::Plain => {
                within(self.thinking.open)
                    || within(self.thinking.close)
                    || self.drops.iter().any(|marker| within(marker))
                    || self.calls.is_some_and(|calls| calls.knows(spelling))
            }
        }
    }
}

impl Calls {
    fn knows(&self, spelling: &str) -> bool {
        let close = match self.close {
            Close::At(marker) => marker.contains(spelling),
            Close::Next => false,
        };
        close || self.opens.iter().any(|marker| marker.contains(spelling)) || self.body.markers().contains(&spelling)
    }

    /// Whether the opening is a part of the body.
    pub(super) fn keeps(open: &str) -> bool {
        open.ends_with(['{', '[']) || open.starts_with("<function")
    }
}

impl Body {
    /// Markers inside of the body that may be control tokens.
    fn markers(self) -> &'static [&'static str] {
        match self {
            Body::Named => &["[ARGS]", "[CALL_ID]"],
            Body::Sections => &["<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>"],
            Body::Numbered => &["<|tool_call_begin|>", "<|tool_call_argument_begin|>", "<|tool_call_end|>"],
            Body::Gemma => &["<|\"|>"],
            Body::Invokes => &["｜DSML｜"],
            Body::Pairs => &["<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"],
            Body::Json | Body::Functions | Body::Python => &[],
        }
    }
}
