//! How a text is cut into words before byte-pair encoding: a sequence of rules, each applied to the pieces the one before has left.
//!
//! ```text
//! "It's  3 o'clock"   one rule, alternatives in order:   It | 's | ␣ | ␣3 | ␣o | 'clock
//! ```
//! A rule's matches are pieces, and so is what lies between them. The published patterns are written for backtracking engines; here each
//! runs on an automaton in linear time, whatever the text. Look-ahead, which automata lack, is needed in two places only and done by hand:
//! `\s+(?!\S)` ("whitespace, but leave the last to the word that follows") is `\s+` and a step back, and digits grouped from the right
//! are counted.

use regex_automata::Input;
use regex_automata::meta::Regex;
use regex_automata::util::syntax;

/// One rule of a pre-tokenizer, as the table in pre.rs writes it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Rule {
    /// Alternatives, the first that matches counts.
    Find(&'static [&'static str]),
    /// Runs that match are cut into threes from the right: `1234567` → 1 234 567.
    Threes(&'static str, Where),
}

/// Which runs of digits are cut into threes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Where {
    /// All.
    Everywhere,
    /// Those that no letter follows.
    AtWordEnd,
}

/// `\s+(?!\S)|\s+` as an alternative of a rule: whitespace, all but its last character where a word follows.
pub(super) const SPACES: &str = r"\s+(?!\S)|\s+";
/// The same in powers of two: 512, 256 … 4, at most 2, 1.
pub(super) const SPACES_BY_HALVES: &str = r"\s{512}(?!\S)|…|\s{4}(?!\S)|\s{1,2}(?!\S)|\s";

/// Compiled rules.
pub(super) struct Splitter {
    steps: Vec<Step>,
}

enum Step {
    /// The pattern, and for each alternative what to do with the end of its match.
    Find(Regex, Vec<Tail>),
    Threes(Regex, Where),
}

#[derive(Clone, Copy)]
enum Tail {
    Keep,
    /// See [`SPACES`].
    GiveBack,
    /// See [`SPACES_BY_HALVES`].
    Halves,
}

impl Splitter {
    /// Compiles `rules`; the error is the regular expression engine's.
    pub(super) fn new(rules: &[Rule]) -> Result<Splitter, String> {
        let steps = rules.iter().map(|rule| match rule {
            Rule::Find(alternatives) => {
                let tails = alternatives.iter().map(|pattern| match *pattern {
                    SPACES => (r"\s+", Tail::GiveBack),
                    SPACES_BY_HALVES => (r"\s+", Tail::Halves),
                    pattern => (pattern, Tail::Keep),
                });
                let (patterns, tails): (Vec<&str>, Vec<Tail>) = tails.unzip();
                Ok(Step::Find(compile(&patterns)?, tails))
            }
            Rule::Threes(run, place) => Ok(Step::Threes(compile(&[run])?, *place)),
        });
        Ok(Splitter { steps: steps.collect::<Result<_, String>>()? })
    }

    /// Hands the pieces of `text` to `piece`, in order; together they are the text.
    pub(super) fn split<'t>(&self, text: &'t str, piece: &mut dyn FnMut(&'t str)) {
        walk(&self.steps, text, piece);
    }
}

fn compile(patterns: &[&str]) -> Result<Regex, String> {
    // One-pass and dense automata are built in advance and cost more than they bring here.
    let config = Regex::config().onepass(false).dfa(false);
    Regex::builder().configure(config).syntax(syntax::Config::new()).build_many(patterns).map_err(|why| format!("{patterns:?}: {why}"))
}

fn walk<'t>(steps: &[Step], text: &'t str, piece: &mut dyn FnMut(&'t str)) {
    if text.is_empty() {
        return;
    }
    match steps {
        [] => piece(text),
        [Step::Find(regex, tails), rest @ ..] => find(regex, tails, text, &mut |part| walk(rest, part, piece)),
        [Step::Threes(regex, place), rest @ ..] => threes(regex, *place, text, &mut |part| walk(rest, part, piece)),
    }
}

fn find<'t>(regex: &Regex, tails: &[Tail], text: &'t str, piece: &mut dyn FnMut(&'t str)) {
    let mut at = 0;
    while let Some(found) = regex.search(&Input::new(text).range(at..)).filter(|found| !found.is_empty()) {
        let (start, run) = (found.start(), &text[found.range()]);
        let last = run.chars().next_back().map_or(0, char::len_utf8);
        let word_follows = found.end() < text.len();
        let keep = match tails[found.pattern().as_usize()] {
            Tail::Keep => run.len(),
            Tail::GiveBack if word_follows && run.len() > last => run.len() - last,
            Tail::GiveBack => run.len(),
            Tail::Halves => by_halves(run, word_follows),
        };
        if at < start {
            piece(&text[at..start]);
        }
        piece(&run[..keep]);
        at = start + keep;
    }
    if at < text.len() {
        piece(&text[at..]);
    }
}

/// How many bytes of the whitespace `run` are the first piece.
fn by_halves(run: &str, word_follows: bool) -> usize {
    let count = run.chars().take(513).count();
    // All of the run may be taken only where no word follows; one character is taken in any case.
    let most = if word_follows && count < 513 { count - 1 } else { count };
    let take = match most {
        0..=2 => most.max(1),
        3 => 2,
        4.. => 1 << most.min(512).ilog2(),
    };
    run.char_indices().nth(take).map_or(run.len(), |(at, _)| at)
}

fn threes<'t>(regex: &Regex, place: Where, text: &'t str, piece: &mut dyn FnMut(&'t str)) {
    let mut done = 0;
    for found in regex.find_iter(text) {
        let word_goes_on = text[found.end()..].chars().next().is_some_and(|next| next.is_alphanumeric() || next == '_');
        if place == Where::AtWordEnd && word_goes_on {
            continue;
        }
        if done < found.start() {
            piece(&text[done..found.start()]);
        }
        let run = &text[found.range()];
        let count = run.chars().count();
        let mut from = 0;
        for (index, (at, char)) in run.char_indices().enumerate() {
            if (count - index - 1).is_multiple_of(3) {
                piece(&run[from..at + char.len_utf8()]);
                from = at + char.len_utf8();
            }
        }
        done = found.end();
    }
    if done < text.len() {
        piece(&text[done..]);
    }
}
