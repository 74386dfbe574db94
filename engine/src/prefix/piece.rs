//! What is kept, piece by piece: some positions of a sequence, or its whole states after so many tokens. In memory, and as a file:
//!
//! ```text
//! 0    "hob kept"                 8  header bytes, from 0 on (u32)     12  kind (u32)          16  payload bytes (u64)
//! 24   checksum of the payload   32  identity (u128)                   48  first position      56  number of tokens
//! 64   tokens, all from position 0 on (u32 each); name of the model, beginning of the text: length (u32) and UTF-8 each
//! …    zeros up to a multiple of 8; checksum of all before; then the payload, to the end of the file
//! ```
//! Numbers are little-endian. The payload is a part of a cache ([`crate::cache`]), as the machine has it: a machine of the other order
//! has another identity, as its states have other bytes.

use super::hash::checksum;
use super::identity::Identity;
use crate::cache::Part;
use crate::gguf::Bytes;
use crate::tokenizer::Token;
use std::ops::Range;

const MAGIC: &[u8; 8] = b"hob kept";
const FIXED: usize = 64;
/// Checksums of headers and payloads are of two kinds, so that one never passes for the other.
const HEADER: u64 = 11;
const PAYLOAD: u64 = if cfg!(target_endian = "little") { 12 } else { 13 };

/// What a piece is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    /// Positions, from a multiple of 64 on to the end of its tokens.
    Positions,
    /// Whole states after its tokens.
    Whole,
    /// A session: both of those of its tokens that have been computed, positions first.
    Session,
}

impl Kind {
    const ALL: [Kind; 3] = [Kind::Positions, Kind::Whole, Kind::Session];
}

/// What is said of a piece.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) identity: Identity,
    pub(super) kind: Kind,
    /// First position; 0 of whole states; of a session, how many of its tokens have been computed.
    pub(super) first: usize,
    /// All tokens from position 0 on.
    pub(super) tokens: Vec<Token>,
    /// What the model is called.
    pub(super) model: String,
    /// How the text of its own tokens begins.
    pub(super) text: String,
}

/// A piece.
#[derive(Clone, Debug)]
pub(super) struct Piece {
    pub(super) head: Head,
    pub(super) payload: Bytes,
}

impl Head {
    /// The part of a cache that its payload is.
    pub(super) fn part(&self) -> Part {
        match self.kind {
            Kind::Positions => Part::Positions(self.first..self.tokens.len()),
            Kind::Session => Part::Positions(0..self.first),
            Kind::Whole => Part::Whole(self.tokens.len()),
        }
    }

    /// The header of a file, for a payload.
    pub(super) fn encode(&self, payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(FIXED + 4 * self.tokens.len() + self.model.len() + self.text.len() + 24);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&[0; 4]);
        let kind = Kind::ALL.iter().position(|kind| *kind == self.kind).unwrap_or(0) as u32;
        out.extend_from_slice(&kind.to_le_bytes());
        out.extend_from_slice(&(payload.len() as u64).to_le_bytes());
        out.extend_from_slice(&checksum(PAYLOAD, payload).to_le_bytes());
        out.extend_from_slice(&self.identity.0.to_le_bytes());
        out.extend_from_slice(&(self.first as u64).to_le_bytes());
        out.extend_from_slice(&(self.tokens.len() as u64).to_le_bytes());
        out.extend(self.tokens.iter().flat_map(|token| token.to_le_bytes()));
        for text in [&self.model, &self.text] {
            out.extend_from_slice(&(text.len() as u32).to_le_bytes());
            out.extend_from_slice(text.as_bytes());
        }
        out.resize(out.len().next_multiple_of(8), 0);
        let bytes = out.len() as u32 + 8;
        out[8..12].copy_from_slice(&bytes.to_le_bytes());
        out.extend_from_slice(&checksum(HEADER, &out).to_le_bytes());
        out
    }
}

/// A file whose header is sound, and whose length is what it says.
pub(super) struct Filed {
    pub(super) head: Head,
    payload: Range<usize>,
    sum: u64,
    bytes: Bytes,
}

impl Filed {
    /// Reads the header of a file; `None` where it is not one of hob's, is damaged, or cut off.
    pub(super) fn read(bytes: &Bytes) -> Option<Filed> {
        let number = |at: usize| Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
        if !bytes.starts_with(MAGIC) {
            return None;
        }
        let header = (number(8)? & u64::from(u32::MAX)) as usize;
        let (said, sum) = bytes.get(..header)?.split_at_checked(header.checked_sub(8)?)?;
        if said.len() < FIXED || checksum(HEADER, said) != u64::from_le_bytes(sum.try_into().ok()?) {
            return None;
        }
        // From here on it is what hob wrote, but for an accident of 2⁻⁶⁴; and that must not end the program either.
        let kind = *Kind::ALL.get((number(8)? >> 32) as usize)?;
        let payload = header..header.checked_add(usize::try_from(number(16)?).ok()?)?;
        if payload.end != bytes.len() {
            return None;
        }
        let identity = Identity(u128::from_le_bytes(said.get(32..48)?.try_into().ok()?));
        let (first, count) = (usize::try_from(number(48)?).ok()?, usize::try_from(number(56)?).ok()?);
        let (tokens, mut rest) = said[FIXED..].split_at_checked(count.checked_mul(4)?)?;
        let tokens: Vec<Token> = tokens.as_chunks::<4>().0.iter().map(|token| Token::from_le_bytes(*token)).collect();
        let mut text = || {
            let (len, behind) = rest.split_first_chunk::<4>()?;
            let (text, behind) = behind.split_at_checked(u32::from_le_bytes(*len) as usize)?;
            rest = behind;
            Some(String::from_utf8_lossy(text).into_owned())
        };
        let (model, text) = (text()?, text()?);
        let fits = match kind {
            Kind::Positions => first < count && first.is_multiple_of(64),
            Kind::Session => 0 < first && first <= count,
            Kind::Whole => first == 0 && count > 0,
        };
        fits.then(|| Filed {
            head: Head { identity, kind, first, tokens, model, text },
            payload,
            sum: u64::from_le_bytes(said[24..32].try_into().unwrap_or_default()),
            bytes: bytes.clone(),
        })
    }

    /// Bytes of the payload.
    pub(super) fn payload_len(&self) -> usize {
        self.payload.len()
    }

    /// The piece, once its payload has been read through; `None` where that is damaged.
    pub(super) fn piece(self) -> Option<Piece> {
        let payload = self.bytes.slice(self.payload);
        (checksum(PAYLOAD, &payload) == self.sum).then_some(Piece { head: self.head, payload })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head() -> Head {
        Head {
            identity: Identity(5 << 70 | 3),
            kind: Kind::Positions,
            first: 64,
            tokens: (0..70).collect(),
            model: "m".into(),
            text: "Grüße".into(),
        }
    }

    fn file(payload: &[u8]) -> Vec<u8> {
        let mut file = head().encode(payload);
        file.extend_from_slice(payload);
        file
    }

    #[test]
    fn a_file_gives_back_what_was_kept() {
        let payload: Vec<u8> = (0..999u32).map(|i| (i * i) as u8).collect();
        let filed = Filed::read(&Bytes::from(file(&payload))).unwrap();
        assert_eq!((&filed.head, filed.payload_len(), filed.head.part()), (&head(), 999, Part::Positions(64..70)));
        assert_eq!(*filed.piece().unwrap().payload, payload);
    }

    #[test]
    fn no_damage_passes() {
        let payload = [7; 300];
        let whole = file(&payload);
        for at in 0..whole.len() {
            for bit in [0, 3, 7] {
                let mut other = whole.clone();
                other[at] ^= 1 << bit;
                assert!(Filed::read(&Bytes::from(other)).and_then(Filed::piece).is_none(), "byte {at}");
            }
            assert!(Filed::read(&Bytes::from(whole[..at].to_vec())).is_none(), "cut off at {at}");
        }
        let longer = [whole.as_slice(), &[0]].concat();
        assert!(Filed::read(&Bytes::from(longer)).is_none());
    }
}
