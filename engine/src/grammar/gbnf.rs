//! llama.cpp's grammars (GBNF), in Lark's words.
//!
//! ```text
//! root  ::= item+                                 start: R0
//! item  ::= "- " text ("," item)? "\n"            r1: "- " R2 ("," r1)? "\n"         refers to itself: a rule
//! text  ::= [^\n,]+                               R2: /[^\x{a}\x{2c}]/+              refers to none such: a terminal, one regex
//! ```
//!
//! A rule that reaches no cycle is a regular expression, and becomes one terminal: there the meaning is GBNF's to the letter. Where rules recur,
//! terminals are matched as far as they go, as lexers do it; one that could run on into what follows it is written out as a rule,
//! character by character (`lark.rs`). What is accepted is always in the grammar's language.
//! Source: <https://github.com/ggml-org/llama.cpp/blob/master/grammars/README.md>.

use crate::error::{Error, Fault, Result};
use std::collections::HashMap;
use std::fmt::Write;

mod lark;

use lark::Writer;

/// Groups within groups.
const DEEPEST: usize = 100;
/// Most repetitions that may be counted.
const MOST: u32 = 2000;

/// A part of a rule.
#[derive(Debug)]
enum Node {
    Text(String),
    /// A class of characters, as a regular expression, and roughly which they are.
    Class(String, Chars),
    Rule(usize),
    All(Vec<Node>),
    Any(Vec<Node>),
    Repeat(Box<Node>, u32, Option<u32>),
}

/// Characters: each of ASCII, and all others together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Chars(u128, u8);

impl Chars {
    const ALL: Chars = Chars(u128::MAX, 1);

    fn of(char: char) -> Chars {
        if char.is_ascii() { Chars(1 << u32::from(char), 0) } else { Chars(0, 1) }
    }

    fn of_range(first: char, last: char) -> Chars {
        let ascii = (first..=last.min('\x7f')).fold(0, |set, char| set | 1 << u32::from(char));
        Chars(ascii, u8::from(!last.is_ascii()))
    }

    fn or(self, other: Chars) -> Chars {
        Chars(self.0 | other.0, self.1 | other.1)
    }

    /// Those outside; others than ASCII are never all within.
    fn but(self) -> Chars {
        Chars(!self.0, 1)
    }

    fn meets(self, other: Chars) -> bool {
        self.0 & other.0 != 0 || self.1 & other.1 != 0
    }
}

/// A grammar in GBNF as one in Lark.
///
/// # Errors
/// [`Error::Input`] with line and column for what is no GBNF, [`Error::Unsupported`] for references to tokens.
pub(super) fn to_lark(source: &str) -> Result<String> {
    let mut parser = Parser { text: source, at: 0, names: HashMap::new(), rules: Vec::new(), first_use: Vec::new(), depth: 0 };
    parser.grammar()?;
    let Some(&root) = parser.names.get("root") else {
        return Err(Error::Input(Fault::at("GBNF grammar").expected("a rule `root`, where it starts").found("none")));
    };
    if let Some(lost) = (0..parser.rules.len()).find(|rule| parser.rules[*rule].is_none()) {
        let name = parser.names.iter().find(|(_, rule)| **rule == lost).map(|(name, _)| *name).unwrap_or_default();
        parser.at = parser.first_use[lost];
        return Err(parser.fault("a rule that is defined", format!("`{name}`")));
    }
    let rules: Vec<Node> = parser.rules.into_iter().flatten().collect();
    Ok(Writer::new(&rules).write(root))
}

struct Parser<'t> {
    text: &'t str,
    at: usize,
    names: HashMap<&'t str, usize>,
    rules: Vec<Option<Node>>,
    first_use: Vec<usize>,
    depth: usize,
}

impl<'t> Parser<'t> {
    fn fault(&self, expected: &str, found: impl std::fmt::Display) -> Error {
        let before = &self.text[..self.at];
        let (line, column) = (before.matches('\n').count() + 1, before.chars().rev().take_while(|c| *c != '\n').count() + 1);
        Error::Input(Fault::at(format!("GBNF grammar, line {line}, column {column}")).expected(expected).found(found))
    }

    fn wrong(&self, expected: &str) -> Error {
        match self.peek() {
            Some(char) => self.fault(expected, format!("`{}`", char.escape_debug())),
            None => self.fault(expected, "the end"),
        }
    }

    fn rest(&self) -> &'t str {
        &self.text[self.at..]
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn eat(&mut self, what: &str) -> bool {
        let found = self.rest().starts_with(what);
        self.at += if found { what.len() } else { 0 };
        found
    }

    /// Over blanks and remarks; over the ends of lines too where `lines` may end.
    fn blank(&mut self, lines: Lines) {
        while let Some(char) = self.peek() {
            match char {
                ' ' | '\t' => {}
                '\r' | '\n' if lines == Lines::GoOn => {}
                '#' => {
                    self.at += self.rest().find('\n').unwrap_or(self.rest().len());
                    continue;
                }
                _ => return,
            }
            self.at += self.peek().map_or(0, char::len_utf8);
        }
    }

    fn grammar(&mut self) -> Result<()> {
        self.blank(Lines::GoOn);
        while self.peek().is_some() {
            let start = self.at;
            let rule = self.name()?.ok_or_else(|| self.wrong("the name of a rule"))?;
            self.blank(Lines::End);
            if !self.eat("::=") {
                return Err(self.wrong("`::=`"));
            }
            self.blank(Lines::GoOn);
            let node = self.alternatives(Lines::End)?;
            if self.rules[rule].is_some() {
                self.at = start;
                return Err(self.fault("each rule once", "a second definition"));
            }
            self.rules[rule] = Some(node);
            match self.peek() {
                Some('\r' | '\n') | None => {}
                Some(_) => return Err(self.wrong("the end of the line")),
            }
            self.blank(Lines::GoOn);
        }
        Ok(())
    }

    /// The rule of the name that stands here.
    fn name(&mut self) -> Result<Option<usize>> {
        let end = self.rest().find(|c: char| !(c.is_ascii_alphanumeric() || c == '-' || c == '_')).unwrap_or(self.rest().len());
        if end == 0 {
            return Ok(None);
        }
        let (name, next) = (&self.rest()[..end], self.rules.len());
        let rule = *self.names.entry(name).or_insert(next);
        if rule == next {
            self.rules.push(None);
            self.first_use.push(self.at);
        }
        self.at += end;
        Ok(Some(rule))
    }

    fn alternatives(&mut self, lines: Lines) -> Result<Node> {
        self.depth += 1;
        if self.depth > DEEPEST {
            return Err(self.fault(&format!("groups up to {DEEPEST} deep"), "a deeper one"));
        }
        let mut all = vec![self.sequence(lines)?];
        while self.eat("|") {
            self.blank(Lines::GoOn);
            all.push(self.sequence(lines)?);
        }
        self.depth -= 1;
        Ok(if all.len() == 1 { all.remove(0) } else { Node::Any(all) })
    }

    fn sequence(&mut self, lines: Lines) -> Result<Node> {
        let mut all = Vec::new();
        while let Some(char) = self.peek() {
            let node = match char {
                '"' => Node::Text(self.literal()?),
                '[' => self.class()?,
                '.' => {
                    self.at += 1;
                    Node::Class("(?s:.)".to_owned(), Chars::ALL)
                }
                '(' => {
                    self.at += 1;
                    self.blank(Lines::GoOn);
                    let inner = self.alternatives(Lines::GoOn)?;
                    if !self.eat(")") {
                        return Err(self.wrong("`)`"));
                    }
                    inner
                }
                '<' | '!' => {
                    let Error::Input(fault) = self.wrong("") else { return Err(self.wrong("text")) };
                    let help = "hob's GBNF has no references to tokens: write their text, or take Lark, which has `<name>`";
                    return Err(Error::Unsupported(fault.found("a reference to a token").help(help)));
                }
                _ => match self.name()? {
                    Some(rule) => Node::Rule(rule),
                    None => break,
                },
            };
            let node = self.repeated(node)?;
            all.push(node);
            self.blank(lines);
        }
        Ok(if all.len() == 1 { all.remove(0) } else { Node::All(all) })
    }

    fn repeated(&mut self, mut node: Node) -> Result<Node> {
        loop {
            self.blank(Lines::End);
            let (least, most) = match self.peek() {
                Some('*') => (0, None),
                Some('+') => (1, None),
                Some('?') => (0, Some(1)),
                Some('{') => {
                    self.at += 1;
                    node = self.counted(node)?;
                    continue;
                }
                Some(_) | None => return Ok(node),
            };
            self.at += 1;
            node = Node::Repeat(Box::new(node), least, most);
        }
    }

    /// `m}`, `m,}`, `,n}` or `m,n}`
    fn counted(&mut self, node: Node) -> Result<Node> {
        let least = self.number()?;
        self.blank(Lines::End);
        let most = if self.eat(",") { self.number()? } else { least };
        self.blank(Lines::End);
        if least.is_none() && most.is_none() {
            return Err(self.wrong("a number"));
        }
        if most.is_some_and(|most| most < least.unwrap_or(0)) {
            return Err(self.fault("an upper bound not below the lower", format!("{} and {}", least.unwrap_or(0), most.unwrap_or(0))));
        }
        if !self.eat("}") {
            return Err(self.wrong("`}`"));
        }
        Ok(Node::Repeat(Box::new(node), least.unwrap_or(0), most))
    }

    fn number(&mut self) -> Result<Option<u32>> {
        self.blank(Lines::End);
        let end = self.rest().find(|c: char| !c.is_ascii_digit()).unwrap_or(self.rest().len());
        let digits = &self.rest()[..end];
        if digits.is_empty() {
            return Ok(None);
        }
        match digits.parse::<u32>() {
            Ok(number) if number <= MOST => {
                self.at += end;
                Ok(Some(number))
            }
            Ok(_) | Err(_) => Err(self.fault(&format!("at most {MOST} repetitions"), digits)),
        }
    }

    fn literal(&mut self) -> Result<String> {
        self.at += 1;
        let mut text = String::new();
        loop {
            match self.peek() {
                Some('"') => {
                    self.at += 1;
                    return Ok(text);
                }
                Some(_) => text.push(self.char("a closing `\"`")?),
                None => return Err(self.wrong("a closing `\"`")),
            }
        }
    }

    fn class(&mut self) -> Result<Node> {
        self.at += 1;
        let mut class = String::from(if self.eat("^") { "[^" } else { "[" });
        let (mut empty, mut chars, but) = (true, Chars::default(), class.len() > 1);
        while !self.eat("]") {
            let first = self.char("a closing `]`")?;
            let last = if self.rest().starts_with('-') && !self.rest().starts_with("-]") {
                self.at += 1;
                self.char("a closing `]`")?
            } else {
                first
            };
            if last < first {
                return Err(self.fault("a range that ascends", format!("`{first}-{last}`")));
            }
            chars = chars.or(Chars::of_range(first, last));
            let _ = write!(class, "\\x{{{:x}}}-\\x{{{:x}}}", u32::from(first), u32::from(last));
            empty = false;
        }
        match (empty, but) {
            (true, true) => Ok(Node::Class("(?s:.)".to_owned(), Chars::ALL)),
            (true, false) => Err(self.fault("a class with characters", "an empty one")),
            (false, _) => Ok(Node::Class(class + "]", if but { chars.but() } else { chars })),
        }
    }

    /// A character of a literal or a class.
    fn char(&mut self, expected: &str) -> Result<char> {
        let char = self.peek().ok_or_else(|| self.wrong(expected))?;
        if char == '\n' || char == '\r' {
            return Err(self.wrong(expected));
        }
        self.at += char.len_utf8();
        if char != '\\' {
            return Ok(char);
        }
        let escaped = self.peek().ok_or_else(|| self.wrong("an escaped character"))?;
        let digits = match escaped {
            'n' | 'r' | 't' | '\\' | '"' | '[' | ']' | '^' | '-' | '/' => 0,
            'x' => 2,
            'u' => 4,
            'U' => 8,
            _ => return Err(self.wrong("one of \\n \\r \\t \\\\ \\\" \\[ \\] \\x41 \\u0041 \\U00000041")),
        };
        self.at += 1;
        if digits == 0 {
            return Ok(match escaped {
                'n' => '\n',
                'r' => '\r',
                't' => '\t',
                other => other,
            });
        }
        let code = self.rest().get(..digits).and_then(|hex| u32::from_str_radix(hex, 16).ok()).and_then(char::from_u32);
        let code = code.ok_or_else(|| self.wrong(&format!("{digits} hexadecimal digits of a character")))?;
        self.at += digits;
        Ok(code)
    }
}

/// What the end of a line means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lines {
    /// The rule's end.
    End,
    /// Nothing.
    GoOn,
}
