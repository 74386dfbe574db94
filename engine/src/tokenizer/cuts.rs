//! Where a text spelt with `▁` for spaces may be cut into words without changing its tokens.
//!
//! ```text
//! ▁the▁quick▁fox   →   ▁the | ▁quick | ▁fox      unless some token has "e▁" in it: then that place stays whole
//! ```
//! SentencePiece merges whole texts. A token that reaches from one word into the next is rare: Llama 2 has none, Gemma 4 one (`>▁</`).
//! Where no token can lie across a place, what is merged on its left and on its right do not meet, and short words are merged faster.

use super::bytes::SPACE;

/// The characters after which a `▁` may be inside a token.
pub(super) struct Cuts {
    joined: Vec<char>,
}

/// With more such characters than this it is not worth looking.
const MOST: usize = 64;

impl Cuts {
    /// Looks through all tokens, or all merges ("left right").
    pub(super) fn of<'a>(spellings: impl Iterator<Item = &'a [u8]>) -> Cuts {
        let mut joined = Vec::new();
        for spelling in spellings {
            let Ok(text) = std::str::from_utf8(spelling) else { continue };
            for (at, _) in text.match_indices(SPACE) {
                let before = text[..at].chars().rev().find(|char| *char != ' ');
                if let Some(char) = before.filter(|char| *char != SPACE && !joined.contains(char)) {
                    joined.push(char);
                }
            }
            if joined.len() > MOST {
                break;
            }
        }
        Cuts { joined }
    }

    /// Hands the words of `text` to `word`, in order; together they are the text.
    pub(super) fn cut<'t>(&self, text: &'t str, word: &mut dyn FnMut(&'t str)) {
        let mut from = 0;
        let places = text.match_indices(SPACE).filter(|_| self.joined.len() <= MOST);
        for (at, _) in places {
            let before = text[from..at].chars().next_back();
            if before.is_some_and(|char| char != SPACE && !self.joined.contains(&char)) {
                word(&text[from..at]);
                from = at;
            }
        }
        if from < text.len() {
            word(&text[from..]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_cut_where_no_token_can_lie() {
        let cuts = Cuts::of(["▁the", "▁▁", ">▁ </", "> ▁"].iter().map(|text| text.as_bytes()));
        let table: [(&str, &[&str]); 5] =
            [("▁the▁quick", &["▁the", "▁quick"]), ("a▁▁b", &["a", "▁▁b"]), ("<b>▁</b>▁x", &["<b>▁</b>▁x"]), ("▁", &["▁"]), ("", &[])];
        for (text, want) in table {
            let mut words = Vec::new();
            cuts.cut(text, &mut |word| words.push(word));
            assert_eq!(words, want, "{text}");
        }
    }
}
