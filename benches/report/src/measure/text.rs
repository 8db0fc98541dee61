//! Numbers and tables as text.

use std::fmt::Write as _;

/// A number with as many digits as it deserves.
pub fn number(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        size if size < 0.001 => format!("{value:.1e}"),
        size if size < 10.0 => format!("{value:.3}"),
        size if size < 100.0 => format!("{value:.2}"),
        size if size < 1000.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

/// Lines of cells, the first of which is the head, in Markdown whose columns are aligned for the terminal.
pub fn aligned(lines: &[Vec<String>]) -> String {
    let mut widths = vec![0; lines.first().map_or(0, Vec::len)];
    for line in lines {
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = cell.chars().count().max(*width);
        }
    }
    table(lines, &widths)
}

/// The same for documents, whose cells can be as long as a sentence: each as wide as it is.
pub fn markdown(lines: &[Vec<String>]) -> String {
    table(lines, &vec![0; lines.first().map_or(0, Vec::len)])
}

/// The lines, with each cell as wide as its column at least.
fn table(lines: &[Vec<String>], widths: &[usize]) -> String {
    let mut out = String::new();
    for (at, line) in lines.iter().enumerate() {
        out.push('|');
        for (width, cell) in widths.iter().zip(line) {
            let _ = write!(out, " {cell}");
            let pad = width.saturating_sub(cell.chars().count());
            out.extend(std::iter::repeat_n(' ', pad));
            out.push_str(" |");
        }
        out.push('\n');
        if at == 0 {
            out.push('|');
            for width in widths {
                out.extend(std::iter::repeat_n('-', (width + 2).max(3)));
                out.push('|');
            }
            out.push('\n');
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits() {
        assert_eq!(number(0.0), "0");
        assert_eq!(number(0.98712), "0.987");
        assert_eq!(number(14.04), "14.04");
        assert_eq!(number(123_456.7), "123457");
        assert_eq!(number(0.000_012), "1.2e-5");
    }

    #[test]
    fn columns_are_aligned() {
        let lines = [
            vec!["µs".to_owned(), "a".into()],
            vec!["1".into(), "bc".into()],
        ];
        assert_eq!(aligned(&lines), "| µs | a  |\n|----|----|\n| 1  | bc |\n");
        assert_eq!(markdown(&lines), "| µs | a |\n|---|---|\n| 1 | bc |\n");
    }
}
