//! Floats that vectors pass over again and again.

use crate::attention::AllocError;
use std::fmt;
use std::ops::{Deref, DerefMut};

/// Bytes of a cache line, and of the widest vectors.
const LINE: usize = 64;

/// A row of f32 that begins on a cache line: of vectors that do not, every other one lies on two lines and costs two accesses.
#[derive(Default)]
pub struct Floats {
    room: Vec<f32>,
    /// Where the first line begins. `room` never moves: it is replaced as a whole.
    start: usize,
    len: usize,
}

impl Floats {
    /// `len` zeros.
    ///
    /// # Errors
    /// Where there is no memory for so many.
    pub fn zeros(len: usize) -> Result<Floats, AllocError> {
        let error = AllocError { bytes: len.checked_mul(4) };
        let mut room = Vec::new();
        let whole = len.checked_add(LINE / 4 - 1).ok_or(error)?;
        room.try_reserve_exact(whole).map_err(|_| error)?;
        room.resize(whole, 0.0);
        Ok(Floats::within(room, len))
    }

    /// As many, with the same content.
    ///
    /// # Errors
    /// Where there is no memory for so many.
    pub fn copy(&self) -> Result<Floats, AllocError> {
        let mut copy = Floats::zeros(self.len)?;
        copy.copy_from_slice(self);
        Ok(copy)
    }

    /// Takes this length. What is in it is left from before, or zeros where it is longer than ever: only then it allocates.
    pub fn reshape(&mut self, len: usize) -> &mut [f32] {
        if self.start + len > self.room.len() {
            // Zeros as the system hands them out: nothing is written before it is wanted.
            *self = Floats::within(vec![0.0; len + LINE / 4 - 1], len);
        }
        self.len = len;
        self
    }

    fn within(room: Vec<f32>, len: usize) -> Floats {
        let start = room.as_ptr().align_offset(LINE).min(room.len() - len);
        Floats { room, start, len }
    }
}

impl Deref for Floats {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.room[self.start..self.start + self.len]
    }
}

impl DerefMut for Floats {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.room[self.start..self.start + self.len]
    }
}

impl fmt::Debug for Floats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_begin_on_a_line_and_keep_their_room() {
        let mut floats = Floats::default();
        assert!(floats.is_empty());
        for len in [1, 15, 16, 1000, 3, 0, 100_000] {
            let longest = floats.room.len();
            floats.reshape(len).fill(len as f32);
            assert_eq!((floats.len(), floats.as_ptr() as usize % LINE), (len, 0));
            assert!(floats.room.len() == longest || len + LINE / 4 > longest, "{len} fit into {longest}");
        }
        let copy = floats.copy().unwrap();
        assert_eq!((&copy[..], copy.as_ptr() as usize % LINE), (&floats[..], 0));
        assert_eq!(Floats::zeros(20).unwrap()[..], [0.0; 20]);
        assert_eq!(Floats::zeros(usize::MAX).unwrap_err().bytes, None);
        assert!(Floats::zeros(usize::MAX / 8).is_err());
    }
}
