//! Standard output: one line per result.

use std::io::{self, Write as _};

use crate::exit::Failed;

/// Writes one line, at once.
pub(crate) fn line(text: &[u8]) -> Result<(), Failed> {
    let mut out = io::stdout().lock();
    let written = out.write_all(text).and_then(|()| out.write_all(b"\n")).and_then(|()| out.flush());
    written.map_err(|error| match error.kind() {
        io::ErrorKind::BrokenPipe => Failed::nobody_reads(),
        _ => Failed::other(format!("standard output: {error}")),
    })
}
