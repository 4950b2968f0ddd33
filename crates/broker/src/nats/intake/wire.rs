//! What a NATS server writes: an incremental parser, without IO.
//!
//! A message is handed on as one slice of the read buffer, without a copy. What waits for the hub therefore holds on to the
//! buffers into which it was read; since messages lie there one behind the other, these are not much more than what waits.

use bytes::{Buf as _, Bytes, BytesMut};

/// The longest line, in bytes: what stands before a message, or INFO with the names of all servers of a cluster.
pub(crate) const MAX_LINE_BYTES: usize = 64 * 1024;

/// What a message may have beside the largest payload of the server, in bytes: a stream that republishes adds headers.
pub(crate) const HEADER_ROOM_BYTES: usize = 64 * 1024;

/// The largest payload before the server has said its own, in bytes. NATS' default.
const DEFAULT_PAYLOAD_BYTES: usize = 1024 * 1024;

/// One thing that the server wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    /// What the server is, as JSON; also later, when it has changed.
    Info(Bytes),
    /// A publication.
    Message(Message),
    /// It wants a PONG.
    Ping,
    /// All that was sent before the PING is done.
    Pong,
    /// Only where it was asked to be verbose.
    Ok,
    /// It refuses something, in its own words; the connection may be over.
    Error(String),
}

/// A publication as it came by one subscription.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    /// Our number of the subscription.
    pub(crate) sid: u64,
    /// Line, headers and payload.
    bytes: Bytes,
    subject: (usize, usize),
    headers_at: usize,
    payload_at: usize,
}

/// What is no NATS, or more than is allowed. The connection cannot go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum WireError {
    /// No line ends where one has to.
    #[error("a line has more than {MAX_LINE_BYTES} bytes")]
    LongLine,
    /// A line that is none of those a server writes.
    #[error("{0:?} is nothing that a NATS server writes")]
    Unknown(String),
    /// Larger than the server itself allows.
    #[error("a message has {bytes} bytes; the server allows {limit}")]
    TooLarge {
        /// Of headers and payload.
        bytes: usize,
        /// What is allowed.
        limit: usize,
    },
    /// The message does not end where its line says.
    #[error("a message is not followed by the end of a line")]
    Unended,
}

/// Cuts what was read into operations, however it was cut before.
#[derive(Debug)]
pub(crate) struct Parser {
    /// Bytes at the beginning of the buffer that hold no end of a line.
    scanned: usize,
    /// The message whose line is complete.
    head: Option<Head>,
    max_message_bytes: usize,
}

/// What the line of a message says.
#[derive(Clone, Copy, Debug)]
struct Head {
    sid: u64,
    subject: (usize, usize),
    headers_at: usize,
    payload_at: usize,
    end: usize,
}

const END: &[u8; 2] = b"\r\n";

impl Parser {
    pub(crate) fn new() -> Self {
        Self { scanned: 0, head: None, max_message_bytes: DEFAULT_PAYLOAD_BYTES + HEADER_ROOM_BYTES }
    }

    /// The server has said how large a payload may be.
    pub(crate) fn allow_payload(&mut self, bytes: usize) {
        self.max_message_bytes = bytes.saturating_add(HEADER_ROOM_BYTES);
    }

    /// The next operation, which is taken out of the buffer; `None` where more has to be read first.
    ///
    /// # Errors
    /// [`WireError`]; nothing that follows means anything.
    pub(crate) fn next(&mut self, buffer: &mut BytesMut) -> Result<Option<Operation>, WireError> {
        loop {
            if let Some(head) = self.head {
                return self.message(head, buffer);
            }
            let Some(end) = memchr::memchr(b'\n', &buffer[self.scanned..]).map(|at| self.scanned + at) else {
                self.scanned = buffer.len();
                return if buffer.len() > MAX_LINE_BYTES { Err(WireError::LongLine) } else { Ok(None) };
            };
            self.scanned = 0;
            if end > MAX_LINE_BYTES {
                return Err(WireError::LongLine);
            }
            let line = buffer[..end].strip_suffix(b"\r").unwrap_or(&buffer[..end]);
            match line.first() {
                Some(b'M' | b'H') => {
                    self.head = Some(head(line, end + 1).ok_or_else(|| unknown(line))?);
                    self.check_size()?;
                }
                _ => {
                    let operation = plain(line);
                    let line = buffer.split_to(end + 1);
                    return match operation {
                        Some(Plain::Info(from, to)) => Ok(Some(Operation::Info(line.freeze().slice(from..to)))),
                        Some(Plain::Other(operation)) => Ok(Some(operation)),
                        None => Err(unknown(&line)),
                    };
                }
            }
        }
    }

    /// How many bytes are missing until the message that has begun is complete, as far as that is known.
    pub(crate) fn missing(&self, buffer: &BytesMut) -> usize {
        self.head.map_or(0, |head| (head.end + END.len()).saturating_sub(buffer.len()))
    }

    fn check_size(&self) -> Result<(), WireError> {
        let bytes = self.head.map_or(0, |head| head.end - head.headers_at);
        if bytes > self.max_message_bytes {
            return Err(WireError::TooLarge { bytes, limit: self.max_message_bytes });
        }
        Ok(())
    }

    fn message(&mut self, head: Head, buffer: &mut BytesMut) -> Result<Option<Operation>, WireError> {
        if buffer.len() < head.end + END.len() {
            return Ok(None);
        }
        self.head = None;
        let mut bytes = buffer.split_to(head.end + END.len());
        if !bytes.ends_with(END) {
            return Err(WireError::Unended);
        }
        bytes.truncate(head.end);
        let Head { sid, subject, headers_at, payload_at, .. } = head;
        Ok(Some(Operation::Message(Message { sid, bytes: bytes.freeze(), subject, headers_at, payload_at })))
    }
}

impl Message {
    /// Where it was published.
    pub(crate) fn subject(&self) -> &[u8] {
        &self.bytes[self.subject.0..self.subject.1]
    }

    /// The header block; empty where there is none.
    pub(crate) fn headers(&self) -> &[u8] {
        &self.bytes[self.headers_at..self.payload_at]
    }

    /// What was published.
    pub(crate) fn into_payload(mut self) -> Bytes {
        self.bytes.advance(self.payload_at);
        self.bytes
    }
}

enum Plain {
    /// From where to where its JSON is.
    Info(usize, usize),
    Other(Operation),
}

/// All but messages.
fn plain(line: &[u8]) -> Option<Plain> {
    let rest = |name: &[u8]| line.strip_prefix(name).filter(|rest| rest.first().is_none_or(u8::is_ascii_whitespace));
    if let Some(json) = rest(b"INFO") {
        return Some(Plain::Info(line.len() - json.len(), line.len()));
    }
    let operation = match line {
        b"PING" => Operation::Ping,
        b"PONG" => Operation::Pong,
        b"+OK" => Operation::Ok,
        _ => Operation::Error(String::from_utf8_lossy(rest(b"-ERR")?.trim_ascii()).into_owned()),
    };
    Some(Plain::Other(operation))
}

/// `MSG subject sid [reply] bytes` or `HMSG subject sid [reply] header-bytes bytes`
fn head(line: &[u8], line_bytes: usize) -> Option<Head> {
    let (fields_at, numbers) = match line {
        [b'M', b'S', b'G', b' ' | b'\t', ..] => (4, 1),
        [b'H', b'M', b'S', b'G', b' ' | b'\t', ..] => (5, 2),
        _ => return None,
    };
    let mut fields = Fields { line, at: fields_at };
    let subject = fields.next()?;
    let sid = number(line, fields.next()?)?;
    // The last fields are the sizes; what stands before them is where an answer would go.
    let mut last = [fields.next()?, (0, 0), (0, 0)];
    let mut count = 1;
    for field in fields {
        *last.get_mut(count)? = field;
        count += 1;
    }
    let sizes = match count {
        count if count == numbers => &last[..numbers],
        count if count == numbers + 1 => &last[1..=numbers],
        _ => return None,
    };
    let size = |field| usize::try_from(number(line, field)?).ok();
    let total = size(*sizes.last()?)?;
    let headers = if numbers == 2 { size(sizes[0])? } else { 0 };
    if headers > total {
        return None;
    }
    let end = line_bytes.checked_add(total)?;
    end.checked_add(END.len())?;
    Some(Head { sid, subject, headers_at: line_bytes, payload_at: line_bytes + headers, end })
}

/// What stands between blanks: from where to where.
struct Fields<'a> {
    line: &'a [u8],
    at: usize,
}

impl Iterator for Fields<'_> {
    type Item = (usize, usize);

    fn next(&mut self) -> Option<(usize, usize)> {
        let is_blank = |byte: &u8| matches!(byte, b' ' | b'\t');
        let from = self.at + self.line[self.at..].iter().position(|byte| !is_blank(byte))?;
        self.at = self.line[from..].iter().position(is_blank).map_or(self.line.len(), |length| from + length);
        Some((from, self.at))
    }
}

fn number(line: &[u8], (from, to): (usize, usize)) -> Option<u64> {
    line[from..to].iter().try_fold(0_u64, |number, byte| {
        let digit = byte.checked_sub(b'0').filter(|digit| *digit < 10)?;
        number.checked_mul(10)?.checked_add(u64::from(digit))
    })
}

fn unknown(line: &[u8]) -> WireError {
    const SHOWN_BYTES: usize = 64;
    WireError::Unknown(String::from_utf8_lossy(&line[..line.len().min(SHOWN_BYTES)]).into_owned())
}

#[cfg(test)]
#[path = "wire_tests.rs"]
mod tests;
