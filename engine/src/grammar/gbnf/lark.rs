//! Rules of GBNF in Lark's words: which become terminals, and which are written out.
//!
//! A lexer takes a terminal as far as it goes. So `num: /[0-9]+[ \n]*/` before a `"\n"` would eat what is not its own:
//!
//! ```text
//! runs on(num) = [0-9 \n]     characters that go on from what is a num already
//! follow(num)  = [\n+*/)=]    characters that may come after one, wherever it stands
//! ```
//!
//! Where the two meet, the rule is written out. Both are computed as for LL(1) parsers (Aho, Sethi, Ullman 1986, §4.4), over characters.

use super::{Chars, Node};
use std::fmt::Write;

/// What is known of the rules, and what is written.
pub(super) struct Writer<'r> {
    rules: &'r [Node],
    /// Which reach no cycle.
    regular: Vec<bool>,
    nullable: Vec<bool>,
    first: Vec<Chars>,
    follow: Vec<Chars>,
    /// All characters, and those that run on, of what is regular.
    chars: Vec<Chars>,
    on: Vec<Chars>,
    /// Terminals without a rule.
    terminals: Vec<String>,
}

impl<'r> Writer<'r> {
    pub(super) fn new(rules: &'r [Node]) -> Writer<'r> {
        let (none, n) = (Chars::default(), rules.len());
        let (no, none) = (vec![false; n], vec![none; n]);
        let mut writer = Writer {
            rules,
            regular: no.clone(),
            nullable: no,
            first: none.clone(),
            follow: none.clone(),
            chars: none.clone(),
            on: none,
            terminals: Vec::new(),
        };
        // All grow until nothing changes.
        loop {
            let regular: Vec<bool> = rules.iter().map(|rule| writer.is_regular(rule)).collect();
            let nullable: Vec<bool> = rules.iter().map(|rule| writer.is_nullable(rule)).collect();
            let first: Vec<Chars> = rules.iter().map(|rule| writer.first(rule)).collect();
            let mut follow = writer.follow.clone();
            rules.iter().enumerate().for_each(|(i, rule)| writer.spread(rule, writer.follow[i], &mut follow));
            let chars: Vec<Chars> = rules.iter().map(|rule| writer.chars(rule)).collect();
            let on: Vec<Chars> = rules.iter().map(|rule| writer.runs_on(rule)).collect();
            let before = (&writer.regular, &writer.nullable, &writer.first, &writer.follow, &writer.chars, &writer.on);
            if before == (&regular, &nullable, &first, &follow, &chars, &on) {
                return writer;
            }
            (writer.regular, writer.nullable, writer.first) = (regular, nullable, first);
            (writer.follow, writer.chars, writer.on) = (follow, chars, on);
        }
    }

    fn is_regular(&self, node: &Node) -> bool {
        match node {
            Node::Text(_) | Node::Class(..) => true,
            Node::Rule(rule) => self.regular[*rule],
            Node::All(nodes) | Node::Any(nodes) => nodes.iter().all(|node| self.is_regular(node)),
            Node::Repeat(node, ..) => self.is_regular(node),
        }
    }

    fn is_nullable(&self, node: &Node) -> bool {
        match node {
            Node::Text(text) => text.is_empty(),
            Node::Class(..) => false,
            Node::Rule(rule) => self.nullable[*rule],
            Node::All(nodes) => nodes.iter().all(|node| self.is_nullable(node)),
            Node::Any(nodes) => nodes.iter().any(|node| self.is_nullable(node)),
            Node::Repeat(node, least, _) => *least == 0 || self.is_nullable(node),
        }
    }

    fn first(&self, node: &Node) -> Chars {
        match node {
            Node::Text(text) => text.chars().next().map_or(Chars::default(), Chars::of),
            Node::Class(_, chars) => *chars,
            Node::Rule(rule) => self.first[*rule],
            Node::All(nodes) => self.before(nodes, Chars::default()),
            Node::Any(nodes) => nodes.iter().fold(Chars::default(), |all, node| all.or(self.first(node))),
            Node::Repeat(node, ..) => self.first(node),
        }
    }

    /// What may come first of these nodes and then `after`.
    fn before(&self, nodes: &[Node], after: Chars) -> Chars {
        nodes.iter().rev().fold(after, |after, node| if self.is_nullable(node) { self.first(node).or(after) } else { self.first(node) })
    }

    /// Tells the rules in a node what may come after them, `after` coming after it.
    fn spread(&self, node: &Node, after: Chars, follow: &mut [Chars]) {
        match node {
            Node::Text(_) | Node::Class(..) => {}
            Node::Rule(rule) => follow[*rule] = follow[*rule].or(after),
            Node::All(nodes) => (0..nodes.len()).for_each(|i| self.spread(&nodes[i], self.before(&nodes[i + 1..], after), follow)),
            Node::Any(nodes) => nodes.iter().for_each(|node| self.spread(node, after, follow)),
            Node::Repeat(inner, ..) => self.spread(inner, self.first(inner).or(after), follow),
        }
    }

    /// All characters of a regular node.
    fn chars(&self, node: &Node) -> Chars {
        match node {
            Node::Text(text) => text.chars().fold(Chars::default(), |all, char| all.or(Chars::of(char))),
            Node::Class(_, chars) => *chars,
            Node::Rule(rule) => self.chars[*rule],
            Node::All(nodes) | Node::Any(nodes) => nodes.iter().fold(Chars::default(), |all, node| all.or(self.chars(node))),
            Node::Repeat(node, ..) => self.chars(node),
        }
    }

    /// Characters that may go on from what a regular node is already.
    fn runs_on(&self, node: &Node) -> Chars {
        match node {
            Node::Text(_) | Node::Class(..) => Chars::default(),
            Node::Rule(rule) => self.on[*rule],
            Node::All(nodes) => {
                let mut on = Chars::default();
                for node in nodes.iter().rev() {
                    on = on.or(self.runs_on(node));
                    if !self.is_nullable(node) {
                        return on;
                    }
                    // What came before it was whole without it.
                    on = on.or(self.first(node));
                }
                on
            }
            Node::Any(nodes) => {
                let meet = nodes.iter().enumerate().any(|(i, a)| nodes[i + 1..].iter().any(|b| self.first(a).meets(self.first(b))));
                let nullable = nodes.iter().any(|node| self.is_nullable(node));
                if meet || nullable {
                    self.chars(node)
                } else {
                    nodes.iter().fold(Chars::default(), |all, node| all.or(self.runs_on(node)))
                }
            }
            Node::Repeat(inner, least, most) => {
                let more = *most != Some(*least) || self.is_nullable(inner);
                self.runs_on(inner).or(if more { self.first(inner) } else { Chars::default() })
            }
        }
    }

    /// Whether a rule is a terminal wherever it stands.
    fn is_terminal(&self, rule: usize) -> bool {
        self.regular[rule] && !self.on[rule].meets(self.follow[rule])
    }

    pub(super) fn write(mut self, root: usize) -> String {
        let mut out = String::new();
        for (i, node) in self.rules.iter().enumerate() {
            if self.regular[i] {
                let body = self.terminal(node);
                let _ = writeln!(out, "R{i}: {body}");
                if self.nullable[i] {
                    let _ = writeln!(out, "N{i}: R{i} & /(?s:.+)/");
                }
            }
            if !self.is_terminal(i) {
                let body = self.rule(node, self.follow[i]);
                let _ = writeln!(out, "r{i}: {body}");
            }
        }
        let start = self.rule(&Node::Rule(root), Chars::default());
        let terminals: String = self.terminals.iter().fold(String::new(), |all, line| all + line + "\n");
        format!("start: {start}\n{out}{terminals}")
    }

    /// A part of a terminal.
    fn terminal(&self, node: &Node) -> String {
        let each = |nodes: &[Node], between| nodes.iter().map(|node| self.terminal(node)).collect::<Vec<_>>().join(between);
        match node {
            Node::Text(text) => quote(text),
            Node::Class(class, _) => format!("/{class}/"),
            Node::Rule(rule) => format!("R{rule}"),
            Node::All(nodes) if nodes.is_empty() => "\"\"".to_owned(),
            Node::All(nodes) => format!("({})", each(nodes, " ")),
            Node::Any(nodes) => format!("({})", each(nodes, " | ")),
            Node::Repeat(inner, least, most) => repeat(&self.terminal(inner), *least, *most),
        }
    }

    /// A part of a rule, which `after` may come after. What repeats and does not run on becomes a terminal, which is never empty.
    fn rule(&mut self, node: &Node, after: Chars) -> String {
        match node {
            Node::Text(_) | Node::Class(..) => self.terminal(node),
            Node::Rule(rule) => match (self.is_terminal(*rule), self.nullable[*rule]) {
                (true, true) => format!("N{rule}?"),
                (true, false) => format!("R{rule}"),
                (false, _) => format!("r{rule}"),
            },
            Node::All(nodes) => {
                let all: Vec<String> = (0..nodes.len()).map(|i| self.rule(&nodes[i], self.before(&nodes[i + 1..], after))).collect();
                if all.is_empty() { "\"\"".to_owned() } else { format!("({})", all.join(" ")) }
            }
            Node::Any(nodes) => format!("({})", nodes.iter().map(|node| self.rule(node, after)).collect::<Vec<_>>().join(" | ")),
            Node::Repeat(inner, least, most) if self.is_regular(inner) && *most != Some(0) && !self.runs_on(node).meets(after) => {
                let nullable = self.is_nullable(inner);
                let body = repeat(&self.terminal(inner), (*least).max(1), *most);
                let body = if nullable { format!("({body}) & /(?s:.+)/") } else { body };
                let id = self.terminals.len();
                self.terminals.push(format!("T{id}: {body}"));
                if *least == 0 || nullable { format!("T{id}?") } else { format!("T{id}") }
            }
            Node::Repeat(inner, least, most) => {
                let after = self.first(inner).or(after);
                repeat(&self.rule(inner, after), *least, *most)
            }
        }
    }
}

fn repeat(one: &str, least: u32, most: Option<u32>) -> String {
    match (least, most) {
        (0, None) => format!("({one})*"),
        (1, None) => format!("({one})+"),
        (0, Some(1)) => format!("({one})?"),
        (least, None) => format!("(({one}){{{least}}} ({one})*)"),
        (_, Some(0)) => "\"\"".to_owned(),
        (least, Some(most)) => format!("({one}){{{least},{most}}}"),
    }
}

/// A literal as Lark quotes it.
fn quote(text: &str) -> String {
    let mut out = String::from("\"");
    for char in text.chars() {
        match char {
            '"' | '\\' => out.extend(['\\', char]),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\0'..='\x1f' | '\x7f' => {
                let _ = write!(out, "\\u{:04x}", u32::from(char));
            }
            other => out.push(other),
        }
    }
    out + "\""
}
