//! What commands write to standard output: tables for people, JSON for machines.
//!
//! Everything goes through one buffered writer that `main` flushes. A reader that goes away (`| head`) ends the command quietly: the
//! write's error travels up as any other, and `main` knows it ([`is_broken_pipe`]).

use std::io::{self, Write};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::Serialize;

/// What went wrong was the fault of nobody but the reader of our output, which has seen enough.
pub(crate) fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .any(|cause| cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe))
}

/// An error with its causes, each told once: many errors already have their cause's text in their own.
pub(crate) fn whole(error: &anyhow::Error) -> String {
    error.chain().fold(String::new(), |text, cause| {
        let cause = cause.to_string();
        if text.is_empty() {
            cause
        } else if text.contains(&cause) {
            text
        } else {
            format!("{text}: {cause}")
        }
    })
}

/// Whether the reader of standard output has gone. A command that waits for something to print learns it only by asking.
pub(crate) fn nobody_reads() -> bool {
    let stdout = io::stdout();
    let mut polled = [PollFd::new(&stdout, PollFlags::empty())];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut polled, Some(&now)).is_ok() && polled[0].revents().intersects(PollFlags::ERR | PollFlags::HUP)
}

/// `value` as indented JSON, and a line's end.
pub(crate) fn json<T: Serialize + ?Sized>(out: &mut dyn Write, value: &T) -> anyhow::Result<()> {
    let mut text = serde_json::to_vec_pretty(value)?;
    text.push(b'\n');
    Ok(out.write_all(&text)?)
}

/// Which side of its column a cell keeps to.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Align {
    Left,
    Right,
}

/// Rows under headings, each column as wide as its widest cell.
#[derive(Debug)]
pub(crate) struct Table {
    columns: Vec<(&'static str, Align)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(columns: &[(&'static str, Align)]) -> Self {
        Self { columns: columns.to_vec(), rows: Vec::new() }
    }

    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let cells: Vec<String> = cells.into_iter().collect();
        assert_eq!(cells.len(), self.columns.len(), "a row has a cell for each column");
        self.rows.push(cells);
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        let headings = self.columns.iter().map(|(heading, _)| (*heading).to_owned()).collect::<Vec<_>>();
        let all = || std::iter::once(&headings).chain(&self.rows);
        let widths: Vec<usize> =
            (0..self.columns.len()).map(|column| all().map(|row| width(&row[column])).max().unwrap_or(0)).collect();
        all()
            .map(|row| {
                let mut line = String::new();
                for ((cell, (_, align)), column_width) in row.iter().zip(&self.columns).zip(&widths) {
                    let padding = " ".repeat(column_width - width(cell));
                    if !line.is_empty() {
                        line.push_str("  ");
                    }
                    match align {
                        Align::Left => line.extend([cell.as_str(), &padding]),
                        Align::Right => line.extend([&padding, cell.as_str()]),
                    }
                }
                line.truncate(line.trim_end().len());
                line
            })
            .collect()
    }

    pub(crate) fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        self.lines().iter().try_for_each(|line| writeln!(out, "{line}"))
    }
}

fn width(cell: &str) -> usize {
    cell.chars().count()
}

/// A number of bytes for people: `1.5 MiB`.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let mut value = count as f64 / 1024.0;
    let mut unit = UNITS[0];
    for larger in &UNITS[1..] {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = larger;
    }
    format!("{value:.1} {unit}")
}

/// A number with its thousands set apart: `12,345`.
pub(crate) fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1 record`, `2 records`.
pub(crate) fn count(number: u64, noun: &str) -> String {
    format!("{} {noun}{}", thousands(number), if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_as_wide_as_its_cells() {
        let mut table = Table::new(&[("TOPIC", Align::Left), ("RECORDS", Align::Right), ("LEADER", Align::Left)]);
        table.row(["a".into(), "12".into(), "1".into()]);
        table.row(["a.longer.größe".into(), "1,234,567".into(), String::new()]);
        insta::assert_snapshot!(table.lines().join("\n"), @r"
        TOPIC             RECORDS  LEADER
        a                      12  1
        a.longer.größe  1,234,567
        ");
    }

    #[test]
    fn a_cause_is_told_once() {
        let refused = || io::Error::new(io::ErrorKind::ConnectionRefused, "refused");
        let error = anyhow::Error::new(refused()).context("cannot connect").context("cannot list: cannot connect");
        assert_eq!(whole(&error), "cannot list: cannot connect: refused");
        assert_eq!(
            whole(&anyhow::Error::new(refused()).context("it was refused\ntry again")),
            "it was refused\ntry again"
        );
    }

    #[test]
    fn numbers_are_written_for_people() {
        let check = |count, expected: &str| assert_eq!(bytes(count), expected);
        check(0, "0 B");
        check(1023, "1023 B");
        check(1536, "1.5 KiB");
        check(5 << 30, "5.0 GiB");
        check(u64::MAX, "16384.0 PiB");
        assert_eq!(thousands(0), "0");
        assert_eq!(thousands(999), "999");
        assert_eq!(thousands(1_234_567), "1,234,567");
        assert_eq!(count(1, "record"), "1 record");
        assert_eq!(count(2000, "record"), "2,000 records");
    }
}
