//! Tables: plain columns for people, or the pipes of Markdown, row by row as results come.

use std::io::{self, Write};

/// On which side of its column a cell stands.
#[derive(Clone, Copy)]
pub(crate) enum Side {
    Left,
    Right,
}

/// Writes rows without a header, two blanks before every column, each as wide as its widest cell.
pub(crate) fn plain<const N: usize>(out: &mut dyn Write, sides: [Side; N], rows: &[[String; N]]) -> io::Result<()> {
    let widths: [usize; N] = std::array::from_fn(|at| rows.iter().map(|row| row[at].chars().count()).max().unwrap_or(0));
    for row in rows {
        let line: String = (0..N).map(|at| format!("  {}", pad(&row[at], sides[at], widths[at]))).collect();
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

/// A Markdown table whose column widths are settled before its rows are known.
pub(crate) struct Markdown {
    columns: Vec<(&'static str, Side, usize)>,
}

impl Markdown {
    /// Columns by name, side and least width.
    pub(crate) fn new(columns: Vec<(&'static str, Side, usize)>) -> Markdown {
        Markdown { columns: columns.into_iter().map(|(name, side, width)| (name, side, width.max(name.len()).max(3))).collect() }
    }

    pub(crate) fn header(&self, out: &mut dyn Write) -> io::Result<()> {
        let names: Vec<String> = self.columns.iter().map(|(name, ..)| (*name).to_owned()).collect();
        self.row(out, &names)?;
        let rules = self.columns.iter().map(|(_, side, width)| match side {
            Side::Left => "-".repeat(*width),
            Side::Right => "-".repeat(width - 1) + ":",
        });
        self.row(out, &rules.collect::<Vec<_>>())
    }

    pub(crate) fn row(&self, out: &mut dyn Write, cells: &[String]) -> io::Result<()> {
        let cells: Vec<String> = cells.iter().zip(&self.columns).map(|(cell, (_, side, width))| pad(cell, *side, *width)).collect();
        writeln!(out, "| {} |", cells.join(" | "))
    }
}

fn pad(text: &str, side: Side, width: usize) -> String {
    match side {
        Side::Left => format!("{text:<width$}"),
        Side::Right => format!("{text:>width$}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_looks_line_up() {
        let (mut lines, mut markdown) = (Vec::new(), Vec::new());
        let rows = [["pp512".to_owned(), "380.12 ± 1.05".into(), "x".into()], ["tg8".into(), "21.40 ± 0.02".into(), String::new()]];
        plain(&mut lines, [Side::Left, Side::Right, Side::Left], &rows).unwrap();
        assert_eq!(String::from_utf8(lines).unwrap(), "  pp512  380.12 ± 1.05  x\n  tg8     21.40 ± 0.02\n");

        let table = Markdown::new(vec![("test", Side::Left, 5), ("t/s", Side::Right, 13)]);
        table.header(&mut markdown).unwrap();
        table.row(&mut markdown, &rows[1][..2]).unwrap();
        let want = "| test  |           t/s |\n| ----- | ------------: |\n| tg8   |  21.40 ± 0.02 |\n";
        assert_eq!(String::from_utf8(markdown).unwrap(), want);
    }
}
