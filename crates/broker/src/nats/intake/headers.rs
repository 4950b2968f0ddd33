//! The headers of a message, as far as they matter here.

/// The last value of each: publishers may have set a header that somebody on the way, the stream itself above all, set again.
///
/// A header that cannot be read is passed over, unless it is one of these: then it is taken for missing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Headers<'a> {
    /// `Fanfare-Event`
    pub(crate) event: Option<&'a str>,
    /// `Content-Type`
    pub(crate) content_type: Option<&'a str>,
    /// `Nats-Stream`: by which stream it was republished.
    pub(crate) stream: Option<&'a str>,
    /// `Nats-Sequence`
    pub(crate) sequence: Option<&'a str>,
    /// `Nats-Last-Sequence`
    pub(crate) last_sequence: Option<&'a str>,
    /// `Nats-Time-Stamp`
    pub(crate) time_stamp: Option<&'a str>,
}

impl<'a> Headers<'a> {
    /// Of a block as NATS has it: a line `NATS/1.0`, then lines `name: value`.
    pub(crate) fn read(block: &'a [u8]) -> Self {
        let mut headers = Self::default();
        for line in block.split(|byte| *byte == b'\n').skip(1) {
            let Some(colon) = memchr::memchr(b':', line) else { continue };
            let place = match &line[..colon] {
                b"Fanfare-Event" => &mut headers.event,
                b"Content-Type" => &mut headers.content_type,
                b"Nats-Stream" => &mut headers.stream,
                b"Nats-Sequence" => &mut headers.sequence,
                b"Nats-Last-Sequence" => &mut headers.last_sequence,
                b"Nats-Time-Stamp" => &mut headers.time_stamp,
                _ => continue,
            };
            *place = std::str::from_utf8(line[colon + 1..].trim_ascii()).ok();
        }
        headers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_of_each_counts_and_others_are_passed_over() {
        let block = b"NATS/1.0\r\nNats-Sequence: 900\r\nA: \xff\r\nno colon\r\nX: Nats-Sequence: 1\r\n\
            Fanfare-Event:a:b \r\nNats-Stream: RT_a\r\nNats-Sequence:  7\r\nnats-sequence: 8\r\nContent-Type:\r\n\r\n";
        let expected = Headers {
            event: Some("a:b"),
            content_type: Some(""),
            stream: Some("RT_a"),
            sequence: Some("7"),
            ..Headers::default()
        };
        assert_eq!(Headers::read(block), expected);
        assert_eq!(Headers::read(b""), Headers::default());
        assert_eq!(Headers::read(b"Nats-Stream: RT_a"), Headers::default(), "the first line is no header");
    }

    #[test]
    fn one_that_is_no_text_hides_those_before_it() {
        let block = b"NATS/1.0\r\nFanfare-Event: first\r\nFanfare-Event: \xff\r\nNats-Stream: RT_a\r\n\r\n";
        assert_eq!(Headers::read(block), Headers { stream: Some("RT_a"), ..Headers::default() });
    }
}
