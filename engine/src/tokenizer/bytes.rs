//! Bytes and the characters that stand for them in a vocabulary.
//!
//! GPT-2's byte alphabet gives each of the 256 bytes a printable character: the printable ones of Latin-1 stand for themselves
//! (`!`…`~`, `¡`…`¬`, `®`…`ÿ`), the other 68 take U+0100… in ascending order: a space is `Ġ` (U+0120), a newline `Ċ` (U+010A).
//! Source: Radford et al. 2019, `bytes_to_unicode` of the published encoder. SentencePiece writes a byte as the token `<0x0A>` and a space as `▁`.

/// What SentencePiece writes for a space: U+2581.
pub(super) const SPACE: char = '\u{2581}';

const CHARS: [char; 256] = chars();
const BYTES: [Option<u8>; 0x144] = bytes();

const fn stands_for_itself(byte: usize) -> bool {
    matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff)
}

const fn chars() -> [char; 256] {
    let (mut table, mut byte, mut next) = (['\0'; 256], 0, 0x100);
    while byte < 256 {
        let code = if stands_for_itself(byte) { byte as u32 } else { next };
        if !stands_for_itself(byte) {
            next += 1;
        }
        table[byte] = match char::from_u32(code) {
            Some(char) => char,
            None => '\0',
        };
        byte += 1;
    }
    table
}

const fn bytes() -> [Option<u8>; 0x144] {
    let (mut table, mut byte) = ([None; 0x144], 0);
    while byte < 256 {
        table[CHARS[byte] as usize] = Some(byte as u8);
        byte += 1;
    }
    table
}

/// Appends `text` in GPT-2's byte alphabet.
pub(super) fn to_alphabet(text: &str, out: &mut String) {
    out.extend(text.bytes().map(|byte| CHARS[byte as usize]));
}

/// Appends the bytes that `token` stands for in GPT-2's byte alphabet; characters outside it are taken as they are.
pub(super) fn from_alphabet(token: &[u8], out: &mut Vec<u8>) {
    for chunk in token.utf8_chunks() {
        for char in chunk.valid().chars() {
            match BYTES.get(char as usize) {
                Some(Some(byte)) => out.push(*byte),
                Some(None) | None => out.extend_from_slice(char.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        out.extend_from_slice(chunk.invalid());
    }
}

/// The byte that a token like `<0x0A>` stands for.
pub(super) fn of_byte_token(token: &[u8]) -> Option<u8> {
    let digits = token.strip_prefix(b"<0x")?.strip_suffix(b">")?;
    let digits =
        std::str::from_utf8(digits).ok().filter(|digits| digits.len() == 2 && digits.bytes().all(|digit| digit.is_ascii_hexdigit()))?;
    u8::from_str_radix(digits, 16).ok()
}

/// Appends `token` with `▁` turned into spaces.
pub(super) fn unescape(token: &[u8], out: &mut Vec<u8>) {
    let mut rest = token;
    while let Some(at) = rest.windows(3).position(|window| window == "\u{2581}".as_bytes()) {
        out.extend_from_slice(&rest[..at]);
        out.push(b' ');
        rest = &rest[at + 3..];
    }
    out.extend_from_slice(rest);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_alphabet_is_a_bijection() {
        for byte in 0..=255_u8 {
            let mut back = Vec::new();
            from_alphabet(CHARS[byte as usize].to_string().as_bytes(), &mut back);
            assert_eq!(back, [byte]);
        }
        let mut text = String::new();
        to_alphabet("a b\n\u{a0}é", &mut text);
        assert_eq!(text, "aĠbĊÂłÃ©");
        let mut odd = Vec::new();
        from_alphabet("Ġ世\u{ad}".as_bytes(), &mut odd);
        from_alphabet(b"a\xff", &mut odd);
        assert_eq!(odd, b" \xe4\xb8\x96\xc2\xada\xff");
    }

    #[test]
    fn byte_tokens_and_spaces() {
        let table: [(&str, Option<u8>); 6] =
            [("<0x0A>", Some(10)), ("<0xff>", Some(255)), ("<0x0>", None), ("<0x+A>", None), ("0x0A", None), ("<0xéx>", None)];
        for (token, byte) in table {
            assert_eq!(of_byte_token(token.as_bytes()), byte, "{token}");
        }
        let mut out = Vec::new();
        unescape("▁▁a▁".as_bytes(), &mut out);
        assert_eq!(out, b"  a ");
    }
}
