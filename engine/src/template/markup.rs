//! Additions with `safe` in them. Python's Markup, which the filter `safe` makes, escapes whatever it is added to; minijinja
//! has no such addition, so the operands of one are given the filter `markup`, which escapes what is not safe:
//!
//! ```text
//! "<b>"|safe + name + rest|tojson     →   ("<b>"|safe)|markup + (name)|markup + (rest|tojson)|markup
//! ```

use std::ops::Range;

/// The expression with the operands of such additions marked; only additions outside of brackets are looked at.
pub(super) fn mark(expression: &str) -> String {
    let mut out = String::with_capacity(expression.len() + 64);
    let mut done = 0;
    for chain in chains(expression) {
        let is_safe = |operand: &Range<usize>| {
            let text = expression[operand.clone()].trim_end();
            text.strip_suffix("safe").is_some_and(|rest| rest.trim_end().ends_with('|'))
        };
        if chain.len() < 2 || !chain.iter().any(is_safe) {
            continue;
        }
        for operand in chain {
            let text = &expression[operand.clone()];
            let start = operand.start + (text.len() - text.trim_start().len());
            out.push_str(&expression[done..start]);
            out.push('(');
            out.push_str(text.trim());
            out.push_str(")|markup");
            done = start + text.trim().len();
        }
    }
    out.push_str(&expression[done..]);
    out
}

/// The operands of every addition outside of brackets and strings.
fn chains(expression: &str) -> Vec<Vec<Range<usize>>> {
    let bytes = expression.as_bytes();
    let (mut all, mut chain) = (Vec::new(), Vec::new());
    let (mut depth, mut quote, mut start, mut i) = (0usize, None, 0, 0);
    while i < bytes.len() {
        let b = bytes[i];
        let mut length = 1;
        match (quote, b) {
            (Some(_), b'\\') => length = 2,
            (Some(q), _) if q == b => quote = None,
            (Some(_), _) => {}
            (None, b'"' | b'\'') => quote = Some(b),
            (None, b'(' | b'[' | b'{') => depth += 1,
            (None, b')' | b']' | b'}') => depth = depth.saturating_sub(1),
            (None, b'+') if depth == 0 => {
                chain.push(start..i);
                start = i + 1;
            }
            (None, b',' | b'~' | b'-' | b'=' | b'<' | b'>' | b'!' | b':') if depth == 0 => {
                chain.push(start..i);
                all.push(std::mem::take(&mut chain));
                start = i + 1;
            }
            (None, b) if b.is_ascii_alphabetic() || b == b'_' => {
                let word = &bytes[i..];
                length = word.iter().take_while(|b| b.is_ascii_alphanumeric() || **b == b'_').count();
                let parts = [&b"if"[..], b"else", b"elif", b"and", b"or", b"not", b"in", b"is", b"set", b"for"];
                if depth == 0 && parts.contains(&&word[..length]) {
                    chain.push(start..i);
                    all.push(std::mem::take(&mut chain));
                    start = i + length;
                }
            }
            (None, _) => {}
        }
        i += length;
    }
    chain.push(start..expression.len());
    all.push(chain);
    all
}

#[cfg(test)]
mod tests {
    use super::mark;

    #[test]
    fn only_additions_with_safe_are_marked() {
        let cases = [
            (" 'a'|safe + x.y + z | tojson() ", " ('a'|safe)|markup + (x.y)|markup + (z | tojson())|markup "),
            (" x + 'a' | safe if y else z + 1 ", " (x)|markup + ('a' | safe)|markup if y else z + 1 "),
            (" x + y ", " x + y "),
            (" x|safe ", " x|safe "),
            (" f(x|safe + y) + '+|safe' ", " f(x|safe + y) + '+|safe' "),
            (" unsafe + 'é' ", " unsafe + 'é' "),
        ];
        for (expression, want) in cases {
            assert_eq!(mark(expression), want);
        }
    }
}
