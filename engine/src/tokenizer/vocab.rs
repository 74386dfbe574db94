//! The vocabulary: what each token is spelt like, what kind it is, and how a text finds its token.

use super::bytes::{from_alphabet, of_byte_token, unescape};
use super::pre::Alphabet;
use super::table::Table;
use super::{Token, TokenKind};

/// All tokens of a model.
pub(super) struct Vocab {
    pub(super) table: Table,
    pub(super) kinds: Vec<TokenKind>,
    pub(super) unknown: Option<Token>,
    /// How normal tokens are spelt.
    pub(super) alphabet: Alphabet,
    /// For every byte, the token that stands for it alone.
    bytes: Vec<Option<Token>>,
}

impl Vocab {
    pub(super) fn new(table: Table, kinds: Vec<TokenKind>, alphabet: Alphabet) -> Vocab {
        let mut vocab = Vocab { table, kinds, unknown: None, alphabet, bytes: Vec::new() };
        if alphabet == Alphabet::Text {
            vocab.bytes =
                (0..=u8::MAX).map(|byte| vocab.table.find(format!("<0x{byte:02X}>").as_bytes()).or(vocab.find(&[byte]))).collect();
        }
        vocab
    }

    /// The token that plain text may become, spelt exactly so. Control, unknown and byte tokens are none: what a user writes never
    /// becomes one of them here.
    #[inline]
    pub(super) fn find(&self, text: &[u8]) -> Option<Token> {
        let id = self.table.find(text)?;
        match self.kind(id) {
            TokenKind::Normal | TokenKind::UserDefined | TokenKind::Unused => Some(id),
            TokenKind::Control | TokenKind::Unknown | TokenKind::Byte => None,
        }
    }

    /// What kind of token it is; normal for all where the file does not say.
    #[inline]
    pub(super) fn kind(&self, id: Token) -> TokenKind {
        self.kinds.get(id as usize).copied().unwrap_or(TokenKind::Normal)
    }

    /// Appends what stands for `text`, which is no token: its bytes' tokens, the unknown token for bytes that have none.
    pub(super) fn push_bytes(&self, text: &str, out: &mut Vec<Token>) {
        out.extend(text.bytes().filter_map(|byte| self.bytes.get(byte as usize).copied().flatten().or_else(|| self.stand_in())));
    }

    /// The unknown token, where the file really has one: some name `<|endoftext|>` as such, which no text may become.
    pub(super) fn stand_in(&self) -> Option<Token> {
        self.unknown.filter(|id| self.kind(*id) == TokenKind::Unknown || self.alphabet == Alphabet::Text)
    }

    /// Appends the bytes that the token stands for in text; nothing for an id that is none.
    pub(super) fn push_text(&self, id: Token, out: &mut Vec<u8>) {
        let spelt = self.table.get(id).unwrap_or_default();
        match (self.kind(id), self.alphabet) {
            (TokenKind::Control | TokenKind::Unknown | TokenKind::UserDefined, _) => out.extend_from_slice(spelt),
            (TokenKind::Byte, _) => match of_byte_token(spelt) {
                Some(byte) => out.push(byte),
                None => out.extend_from_slice(spelt),
            },
            (TokenKind::Normal | TokenKind::Unused, Alphabet::Bytes) => from_alphabet(spelt, out),
            (TokenKind::Normal | TokenKind::Unused, Alphabet::Text) => unescape(spelt, out),
        }
    }
}
