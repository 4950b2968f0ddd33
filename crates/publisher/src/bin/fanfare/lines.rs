//! Newline-delimited JSON from a file or standard input.

use std::{
    io::{self, BufRead, Read as _},
    thread::{self, JoinHandle},
};

use tokio::sync::mpsc;

/// Lines that wait to be published. Reading goes on only when there is room.
const WAITING: usize = 256;

/// Bytes of one line: what the largest publication may have, and room for white space.
pub(crate) const LINE_BYTES: usize = 4 * 1024 * 1024;

/// One line that is not empty.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Line {
    /// Its number, from 1; empty lines are counted too.
    pub(crate) number: u64,
    /// How many bytes have been read when it ends.
    pub(crate) read: u64,
    /// What stands in it, without its end; `None` where it is longer than [`LINE_BYTES`].
    pub(crate) text: Option<Vec<u8>>,
}

/// Lines on their way from a thread of their own, since reading a file or a pipe blocks.
pub(crate) struct Lines {
    pub(crate) receiver: mpsc::Receiver<Line>,
    thread: JoinHandle<io::Result<()>>,
}

impl Lines {
    /// Starts reading.
    pub(crate) fn start(source: impl BufRead + Send + 'static) -> Self {
        let (sender, receiver) = mpsc::channel(WAITING);
        let thread = thread::spawn(move || read(source, |line| sender.blocking_send(line).is_ok()));
        Self { receiver, thread }
    }

    /// How reading ended. To be called when the receiver has ended.
    pub(crate) fn finish(self) -> io::Result<()> {
        self.thread.join().unwrap_or_else(|_| Err(io::Error::other("the reader has panicked")))
    }
}

/// Gives every line that is not empty to `each`, until that says `false` or there are no more.
fn read(mut source: impl BufRead, mut each: impl FnMut(Line) -> bool) -> io::Result<()> {
    let (mut number, mut read) = (0, 0);
    loop {
        let mut text = Vec::new();
        let limit = LINE_BYTES as u64 + 1;
        let taken = source.by_ref().take(limit).read_until(b'\n', &mut text)?;
        if taken == 0 {
            return Ok(());
        }
        number += 1;
        read += taken as u64;
        let too_long = taken as u64 == limit && text.last() != Some(&b'\n');
        if too_long {
            read += skip_line(&mut source)?;
        }
        let text = text.trim_ascii();
        if text.is_empty() && !too_long {
            continue;
        }
        if !each(Line { number, read, text: (!too_long).then(|| text.to_vec()) }) {
            return Ok(());
        }
    }
}

/// Passes over the rest of a line, and says how many bytes that was.
fn skip_line(source: &mut impl BufRead) -> io::Result<u64> {
    let mut skipped = 0;
    loop {
        let (bytes, ended) = match source.fill_buf() {
            Ok(buffer) => match buffer.iter().position(|byte| *byte == b'\n') {
                Some(end) => (end + 1, true),
                None => (buffer.len(), buffer.is_empty()),
            },
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        source.consume(bytes);
        skipped += bytes as u64;
        if ended {
            return Ok(skipped);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &[u8]) -> Vec<(u64, u64, Option<usize>)> {
        let mut lines = Vec::new();
        read(text, |line| {
            lines.push((line.number, line.read, line.text.map(|text| text.len())));
            true
        })
        .unwrap();
        lines
    }

    #[test]
    fn empty_lines_are_counted_and_passed_over() {
        assert_eq!(lines(b"1\n\n  \r\n [2] \r\n3"), [(1, 2, Some(1)), (4, 14, Some(3)), (5, 15, Some(1))]);
        assert_eq!(lines(b""), []);
    }

    #[test]
    fn a_line_over_the_limit_is_told_and_the_next_one_is_read() {
        let limit = LINE_BYTES;
        for (length, kept) in [(limit, Some(limit)), (limit + 1, None), (3 * limit, None)] {
            let mut text = vec![b'x'; length];
            text.extend_from_slice(b"\n1\n");
            let end = length as u64 + 1;
            assert_eq!(lines(&text), [(1, end, kept), (2, end + 2, Some(1))], "{length}");
        }
        assert_eq!(lines(&vec![b'x'; limit + 1]), [(1, limit as u64 + 1, None)]);
    }

    #[test]
    fn reading_ends_when_nobody_wants_more() {
        let mut seen = 0;
        read(&b"1\n2\n3\n"[..], |_| {
            seen += 1;
            seen < 2
        })
        .unwrap();
        assert_eq!(seen, 2);
    }
}
