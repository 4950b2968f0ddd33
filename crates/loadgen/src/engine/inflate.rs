//! Compressed messages (RFC 7692 section 7.2.2), each for itself: the load offers no context takeover.

use flate2::{Decompress, FlushDecompress};

/// What a sender takes off the end of a compressed message.
const TAIL: [u8; 4] = [0, 0, 0xff, 0xff];
/// The longest message that is inflated, in bytes: far more than any that the load publishes.
const LONGEST: usize = 1 << 20;

/// Inflates messages one after another.
pub(crate) struct Inflater {
    inner: Decompress,
    input: Vec<u8>,
    output: Vec<u8>,
}

impl Default for Inflater {
    fn default() -> Self {
        Self { inner: Decompress::new(false), input: Vec::new(), output: Vec::new() }
    }
}

impl Inflater {
    /// What `payload` says; nothing where it is no whole message, or too long.
    pub(crate) fn inflate(&mut self, payload: &[u8]) -> &[u8] {
        self.inner.reset(false);
        self.input.clear();
        self.input.extend_from_slice(payload);
        self.input.extend(TAIL);
        self.output.clear();
        loop {
            self.output.reserve(4096);
            let (read, written) = (self.inner.total_in() as usize, self.output.len());
            let status = self.inner.decompress_vec(&self.input[read..], &mut self.output, FlushDecompress::Sync);
            if status.is_err() || self.output.len() > LONGEST {
                return &[];
            }
            let all_read = self.inner.total_in() as usize == self.input.len();
            if all_read && self.output.len() < self.output.capacity() {
                return &self.output;
            }
            if self.output.len() == written && self.inner.total_in() as usize == read {
                return &[];
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use flate2::{Compress, Compression, FlushCompress};

    use super::*;

    #[test]
    fn messages_are_inflated_each_for_itself() {
        let mut inflater = Inflater::default();
        for length in [5, 20_000, 300] {
            let text: Vec<u8> = (0..length).map(|index: u32| b'a' + (index * index % 23) as u8).collect();
            let mut compressed = Vec::with_capacity(text.len() + 100);
            Compress::new(Compression::fast(), false)
                .compress_vec(&text, &mut compressed, FlushCompress::Sync)
                .unwrap();
            compressed.truncate(compressed.len() - TAIL.len());
            assert!(inflater.inflate(&compressed) == text, "{length} bytes");
        }
        assert_eq!(inflater.inflate(b"\xff\xff\xff"), b"");
    }
}
