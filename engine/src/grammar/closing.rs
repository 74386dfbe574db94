//! The shortest way to an end, or nearly so: a search over bytes, depth first, of the likeliest closers first.
//!
//! ```text
//! {"name": "Ada", "born": 18         closing  1}         `"`, then `}` and `]`, then digits and letters: where one leads nowhere
//! {"name": "Ada                      closing  ","born":1}             within the room there is, the next is tried
//! ```

use super::engine::{END, Machine};
use crate::error::Result;

/// Most states looked at in a search.
const MOST_STATES: usize = 1024;
/// How far is gone: where going on and on leads nowhere, as in free text that must end in a word, short ways are looked for.
const DEPTHS: [usize; 4] = [usize::MAX, 24, 96, 384];
/// More than so many bytes may come: it is free text, as within a string.
const FREE: usize = 48;

/// A parser over bytes that keeps up with a text.
#[derive(Debug)]
pub(super) struct Closer {
    machine: Machine,
    text: Vec<u8>,
}

impl Closer {
    pub(super) fn new(machine: Machine) -> Closer {
        Closer { machine, text: Vec::new() }
    }

    /// What would end `text` as the grammar wants it, of at most `most` bytes; `None` where nothing was found.
    pub(super) fn close(&mut self, text: &[u8], most: usize) -> Result<Option<Vec<u8>>> {
        let common = self.text.iter().zip(text).take_while(|(a, b)| a == b).count();
        self.machine.take_back(self.text.len() - common)?;
        self.text.truncate(common);
        for byte in &text[common..] {
            self.machine.take(u32::from(*byte))?;
            self.text.push(*byte);
        }
        for depth in DEPTHS {
            if let Some(way) = self.search(depth.min(most))? {
                return Ok(Some(way));
            }
        }
        Ok(None)
    }

    /// The search. The machine is back where it was when it ends.
    fn search(&mut self, most: usize) -> Result<Option<Vec<u8>>> {
        let (mut way, mut open): (Vec<u8>, Vec<std::vec::IntoIter<u8>>) = (Vec::new(), Vec::new());
        for _ in 0..MOST_STATES {
            let next = if self.machine.is_done() { None } else { self.choices()? };
            let Some(choices) = next else {
                self.machine.take_back(way.len())?;
                return Ok(Some(way));
            };
            open.push(if way.len() < most { choices } else { Vec::new() }.into_iter());
            // On with the first choice that is left, at the deepest place that has one.
            loop {
                let Some(choices) = open.last_mut() else { return Ok(None) };
                if let Some(byte) = choices.next() {
                    self.machine.take(u32::from(byte))?;
                    way.push(byte);
                    break;
                }
                open.pop();
                if way.pop().is_some() {
                    self.machine.take_back(1)?;
                }
            }
        }
        self.machine.take_back(way.len())?;
        Ok(None)
    }

    /// The bytes that may come, the likeliest to lead to an end first; `None` where it may end here.
    fn choices(&mut self) -> Result<Option<Vec<u8>>> {
        let mask = self.machine.mask()?;
        if mask.has(END) {
            return Ok(None);
        }
        let mut bytes: Vec<u8> = (0..u8::MAX).filter(|byte| mask.has(u32::from(*byte))).collect();
        let free = bytes.len() > FREE;
        bytes.sort_by_key(|byte| rank(*byte, free));
        Ok(Some(bytes))
    }
}

/// How soon a byte is tried.
fn rank(byte: u8, free: bool) -> u8 {
    match byte {
        b'"' if free => 0,
        b'}' | b']' if !free => 1,
        b'"' => 2,
        b'1'..=b'9' => 3,
        b'0' => 4,
        b'a'..=b'z' | b'A'..=b'Z' => 5,
        b')' | b'>' | b';' if !free => 6,
        b',' | b':' => 7,
        // Between lexemes it leads nowhere.
        b' ' | b'\t' | b'\r' | b'\n' => 13,
        b'{' | b'[' | b'(' | b'-' | b'.' | b'\\' => 11,
        0x21..=0x7e => 8,
        _ => 12,
    }
}
