//! Numbers that stand for bytes and tokens: addresses and checksums, not cryptography. What is found by one is compared in full
//! (tokens) or was written by hob itself (the rest).
//!
//! ```text
//! lane i of 4   h = (h ^ word) · K;  h ^= h >> 32        every 4th word of 8 bytes; the end is filled up with zeros
//! end           h = length;  h = (h ^ lane) · K;  h ^= h >> 32        for each lane
//! ```
//! Each step is a bijection of what it holds and of what it takes (K is odd), so bytes that differ within one word never have the
//! same sum; others with probability 2⁻⁶⁴. Four lanes keep the multiplier busy: it reads as fast as memory gives.

use crate::tokenizer::Token;

/// The odd number nearest to 2⁶⁴ divided by the golden ratio.
const K: u64 = 0x9e37_79b9_7f4a_7c15;

const LANES: usize = 4;

fn step(h: u64, word: u64) -> u64 {
    let h = (h ^ word).wrapping_mul(K);
    h ^ h >> 32
}

/// The sum of `bytes`; another one for every `seed`.
pub(super) fn checksum(seed: u64, bytes: &[u8]) -> u64 {
    let mut lanes: [u64; LANES] = std::array::from_fn(|i| step(seed, i as u64));
    let (blocks, rest) = bytes.as_chunks::<{ 8 * LANES }>();
    let mut last = [0; 8 * LANES];
    last[..rest.len()].copy_from_slice(rest);
    for block in blocks.iter().chain((!rest.is_empty()).then_some(&last)) {
        let (words, _) = block.as_chunks::<8>();
        for (lane, word) in lanes.iter_mut().zip(words) {
            *lane = step(*lane, u64::from_le_bytes(*word));
        }
    }
    lanes.iter().fold(bytes.len() as u64, |h, lane| step(h, *lane))
}

/// Where what is known of a sequence lies: a number for every prefix of it, each made of the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Address(pub(super) u64);

impl Address {
    /// The address of `tokens` behind those of this one.
    pub(super) fn then(self, tokens: &[Token]) -> Address {
        Address(tokens.iter().fold(self.0, |h, token| step(h, u64::from(*token) + 1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bit_and_every_length_counts() {
        let bytes: Vec<u8> = (0..100u8).collect();
        let whole = checksum(1, &bytes);
        assert_ne!(whole, checksum(2, &bytes));
        for n in 0..bytes.len() {
            assert_ne!(checksum(1, &bytes[..n]), whole);
            for bit in 0..8 {
                let mut other = bytes.clone();
                other[n] ^= 1 << bit;
                assert_ne!(checksum(1, &other), whole);
            }
        }
        assert_ne!(checksum(1, &[0; 31]), checksum(1, &[0; 32]));
    }

    #[test]
    fn an_address_grows_with_its_tokens() {
        let start = Address(7);
        assert_eq!(start.then(&[1, 2]).then(&[3]), start.then(&[1, 2, 3]));
        assert_ne!(start.then(&[0]), start);
        assert_ne!(start.then(&[1, 2]), start.then(&[2, 1]));
    }
}
