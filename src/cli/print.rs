//! What the commands print: tables and times.

use std::io::Write;

use floodmark_dataflows::time::Millis;

/// Prints a table, as wide as its cells. Control characters, which come from logs, are shown as they are written in text.
pub fn table(headings: &[&str], rows: impl IntoIterator<Item = Vec<String>>) {
    let heading = headings.iter().map(|heading| (*heading).to_owned()).collect();
    let shown = |cell: String| match cell.contains(char::is_control) {
        true => cell.escape_debug().to_string(),
        false => cell,
    };
    let rows: Vec<Vec<String>> =
        std::iter::once(heading).chain(rows).map(|row: Vec<String>| row.into_iter().map(shown).collect()).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..headings.len()).map(width).collect();
    let mut out = std::io::stdout().lock();
    for row in rows {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        // Whoever read it may have seen enough.
        if writeln!(out, "{}", cells.join("  ").trim_end()).is_err() {
            return;
        }
    }
}

/// Milliseconds since the epoch as RFC 3339.
pub fn time_text(ms: Millis) -> String {
    let time = i64::try_from(ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    time.map_or_else(|| ms.to_string(), |time| format!("{time:.3}"))
}
