//! NumPy's `.npy` file, version 1.0, written as a stream: `\x93NUMPY`, `1 0`, the header's length (u16), the header (a Python
//! dictionary, padded with blanks so that the data starts at a multiple of 64), then the numbers, little-endian, row after row.
//! Source: numpy.lib.format.

use std::io::{self, Write};

/// A `[rows, columns]` f32 array on its way to a file.
pub(crate) struct NpyWriter<W> {
    to: W,
    columns: usize,
    missing: usize,
    bytes: Vec<u8>,
}

impl<W: Write> NpyWriter<W> {
    /// Writes the header; `rows` rows of `columns` numbers must follow.
    pub(crate) fn new(mut to: W, rows: usize, columns: usize) -> io::Result<NpyWriter<W>> {
        let mut header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {columns}), }}");
        let fixed = 10;
        header += &" ".repeat(63 - (fixed + header.len()) % 64);
        header.push('\n');
        let length = u16::try_from(header.len()).map_err(io::Error::other)?;
        to.write_all(b"\x93NUMPY\x01\x00")?;
        to.write_all(&length.to_le_bytes())?;
        to.write_all(header.as_bytes())?;
        Ok(NpyWriter { to, columns, missing: rows, bytes: Vec::new() })
    }

    /// Writes the next rows: a multiple of the column count.
    pub(crate) fn rows(&mut self, numbers: &[f32]) -> io::Result<()> {
        let rows = numbers.len() / self.columns.max(1);
        if rows * self.columns != numbers.len() || rows > self.missing {
            return Err(io::Error::other(format!("{} numbers for {} rows of {}", numbers.len(), self.missing, self.columns)));
        }
        self.missing -= rows;
        self.bytes.clear();
        self.bytes.extend(numbers.iter().flat_map(|x| x.to_le_bytes()));
        self.to.write_all(&self.bytes)
    }

    /// Flushes, and checks that every row has come.
    pub(crate) fn finish(mut self) -> io::Result<()> {
        if self.missing > 0 {
            return Err(io::Error::other(format!("{} rows are missing", self.missing)));
        }
        self.to.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_is_numpys_and_the_data_starts_at_a_multiple_of_64() {
        for (rows, columns) in [(2, 3), (1, 128_256), (123_456, 7)] {
            let mut file = Vec::new();
            let mut npy = NpyWriter::new(&mut file, rows, columns).unwrap();
            let row: Vec<f32> = (0..columns).map(|i| i as f32 - 1.5).collect();
            npy.rows(&row).unwrap();
            assert_eq!(npy.finish().is_ok(), rows == 1);
            assert_eq!(&file[..8], b"\x93NUMPY\x01\x00");
            let data = 10 + usize::from(u16::from_le_bytes([file[8], file[9]]));
            assert_eq!(data % 64, 0);
            let header = std::str::from_utf8(&file[10..data]).unwrap();
            assert_eq!(header.trim_end(), format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {columns}), }}"));
            assert!(header.ends_with('\n'));
            assert_eq!(file[data..data + 4], (-1.5f32).to_le_bytes());
            assert_eq!(file.len(), data + 4 * columns);
        }
    }

    #[test]
    fn numbers_that_do_not_fit_are_refused() {
        let mut npy = NpyWriter::new(Vec::new(), 1, 3).unwrap();
        assert!(npy.rows(&[0.0; 4]).is_err());
        assert!(npy.rows(&[0.0; 6]).is_err());
        assert!(npy.rows(&[0.0; 3]).is_ok());
    }
}
