//! The places where transformers' Jinja is not minijinja's, bridged in the source before it is compiled:
//!
//! ```text
//! {% generation %} … {% endgeneration %}     →   {% with %} … {% endwith %}        marks what the model said; a scope, no text
//! {% for x in EXPR if COND recursive %}      →   {% for x in (EXPR)|each if COND recursive %}
//! {{ "<b>"|safe + name }}                    →   {{ ("<b>"|safe)|markup + (name)|markup }}                see markup.rs
//! {{ a + b }}                                →   {{ a|sized + b|sized }}                                  see bounds.rs
//! ```
//!
//! Python refuses to iterate over None, minijinja takes it for empty: the filter `each` refuses it too. Nothing else of the
//! source changes, whitespace control included.

use super::{bounds, markup};

/// The source in minijinja's dialect; `None` where a tag has more operators than any template needs.
pub(super) fn translate(source: &str) -> Option<String> {
    let mut out = String::with_capacity(source.len() + 64);
    let mut rest = source;
    while let Some(open) = next_tag(rest) {
        let (text, tag) = rest.split_at(open);
        out.push_str(&bounds::text(text));
        let close = if tag.starts_with("{#") { tag.find("#}").map(|i| i + 2) } else { tag_end(tag) };
        let Some(close) = close else {
            rest = tag;
            break;
        };
        let (tag, after) = tag.split_at(close);
        rest = after;
        if tag.starts_with("{%") {
            let mut block = String::with_capacity(tag.len() + 16);
            push_block_tag(&mut block, tag);
            out.push_str(&bounds::tag(&block)?);
            if keyword(tag) == "raw" {
                let end = raw_end(rest);
                out.push_str(&rest[..end]);
                rest = &rest[end..];
            }
        } else if tag.starts_with("{{") && tag.contains("safe") && tag.contains('+') {
            let inside =
                2 + usize::from(tag[2..].starts_with(['-', '+']))..tag.len() - 2 - usize::from(tag[..tag.len() - 2].ends_with(['-', '+']));
            let marked = [&tag[..inside.start], &markup::mark(&tag[inside.clone()]), &tag[inside.end..]].concat();
            out.push_str(&bounds::tag(&marked)?);
        } else if tag.starts_with("{{") {
            out.push_str(&bounds::tag(tag)?);
        } else {
            out.push_str(tag);
        }
    }
    out.push_str(&bounds::text(rest));
    Some(out)
}

/// Where the next tag or comment opens.
fn next_tag(source: &str) -> Option<usize> {
    source.as_bytes().windows(2).position(|w| w[0] == b'{' && matches!(w[1], b'{' | b'%' | b'#'))
}

/// The length of the tag that `tag` begins with, strings and brackets inside respected.
fn tag_end(tag: &str) -> Option<usize> {
    let closer: &[u8] = if tag.starts_with("{%") { b"%}" } else { b"}}" };
    let (bytes, mut depth, mut quote, mut i) = (tag.as_bytes(), 0usize, None, 2);
    while i < bytes.len() {
        match (quote, bytes[i]) {
            (Some(_), b'\\') => i += 1,
            (Some(q), b) if q == b => quote = None,
            (Some(_), _) => {}
            (None, _) if depth == 0 && bytes[i..].starts_with(closer) => return Some(i + 2),
            (None, q @ (b'"' | b'\'')) => quote = Some(q),
            (None, b'(' | b'[' | b'{') => depth += 1,
            (None, b')' | b']' | b'}') => depth = depth.saturating_sub(1),
            (None, _) => {}
        }
        i += 1;
    }
    None
}

/// Where the tag that ends a raw section begins.
fn raw_end(source: &str) -> usize {
    let mut from = 0;
    while let Some(i) = source[from..].find("{%").map(|i| i + from) {
        if keyword(&source[i..]) == "endraw" {
            return i;
        }
        from = i + 2;
    }
    source.len()
}

fn keyword(tag: &str) -> &str {
    let inner = tag[2..].trim_start_matches(['-', '+']).trim_start();
    inner.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or("")
}

fn push_block_tag(out: &mut String, tag: &str) {
    let replaced = |word: &str, by: &str| tag.replacen(word, by, 1);
    match keyword(tag) {
        "generation" => out.push_str(&replaced("generation", "with")),
        "endgeneration" => out.push_str(&replaced("endgeneration", "endwith")),
        "for" => match iterated(tag) {
            Some((start, end)) => {
                out.push_str(&tag[..start]);
                out.push_str(" (");
                out.push_str(tag[start..end].trim());
                out.push_str(")|each ");
                out.push_str(&tag[end..]);
            }
            None => out.push_str(tag),
        },
        _ => out.push_str(tag),
    }
}

/// Where the expression of a `for` tag lies: from after `in` to `if`, `recursive` or the end, outside of brackets and strings.
fn iterated(tag: &str) -> Option<(usize, usize)> {
    let bytes = tag.as_bytes();
    let last = tag.len() - 2;
    let last = if matches!(bytes[last - 1], b'-' | b'+') { last - 1 } else { last };
    let (mut depth, mut quote, mut start, mut i) = (0usize, None, None, 2);
    while i < last {
        let b = bytes[i];
        match (quote, b) {
            (Some(_), b'\\') => i += 1,
            (Some(q), _) if q == b => quote = None,
            (Some(_), _) => {}
            (None, b'"' | b'\'') => quote = Some(b),
            (None, b'(' | b'[' | b'{') => depth += 1,
            (None, b')' | b']' | b'}') => depth = depth.saturating_sub(1),
            (None, _) if is_word(b) => {
                let word = &bytes[i..last][..bytes[i..last].iter().take_while(|b| is_word(**b)).count()];
                match (start, word) {
                    (None, b"in") if depth == 0 => start = Some(i + 2),
                    (Some(start), b"if" | b"recursive") if depth == 0 => return Some((start, i)),
                    (_, _) => {}
                }
                i += word.len() - 1;
            }
            (None, _) => {}
        }
        i += 1;
    }
    start.map(|start| (start, last))
}

fn is_word(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b == b'_'
}

#[cfg(test)]
mod tests {
    use super::translate;

    #[test]
    fn only_generation_tags_and_for_tags_change() {
        let cases = [
            ("{%- generation -%}x{% endgeneration %}", "{%- with -%}x{% endwith %}"),
            ("{% for m in messages %}", "{% for m in (messages)|each %}"),
            ("{%for m in[1]-%}", "{%for m in ([1])|each -%}"),
            ("{%- for k, v in a['in if'].items() if v -%}", "{%- for k, v in (a['in if'].items())|each if v -%}"),
            ("{% for x in (a if b else c) recursive %}", "{% for x in ((a if b else c))|each recursive %}"),
            ("{# for x in y #}{{ 'for x in %}' }}", "{# for x in y #}{{ 'for x in %}' }}"),
            ("{% raw %}{% for x in y %}{% endraw %}", "{% raw %}{% for x in y %}{% endraw %}"),
            ("{{ {'a': {}} }}{% set x = '%}' %} {", "{{ {'a': {}} }}{% set x =( '%}' )|sized%} {"),
            ("{{- 'a'|safe + b -}}", "{{- ('a'|safe)|markup|sized + (b)|markup|sized -}}"),
            ("{% if generation %}é{% for", "{% if generation %}é{% for"),
        ];
        for (source, want) in cases {
            assert_eq!(translate(source).as_deref(), Some(want));
        }
    }
}
