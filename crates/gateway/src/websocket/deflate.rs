//! permessage-deflate without context takeover (RFC 7692 section 7.2): each message is a deflate
//! stream of its own, so compressors and decompressors belong to a shard, not to a connection, and
//! a compressed frame can be shared by all who subscribe.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::ProtocolError;

/// Smallest payload that is worth compressing, in bytes.
pub const DEFLATE_MIN_BYTES: usize = 512;

/// zlib's level, 1 (fast) to 9 (small).
pub const DEFLATE_LEVEL: u32 = 6;

/// Largest buffer that is kept from one message to the next, in bytes.
const RETAINED_BYTES: usize = 64 * 1024;

/// What a flush ends with, left out on the wire (RFC 7692 section 7.2.1).
const FLUSH_TAIL: [u8; 4] = [0x00, 0x00, 0xff, 0xff];

/// The tail put back, and an empty final block. Only a stream that is complete at that place
/// arrives at the final block's end, so a message that was cut short is noticed.
const FLUSH_TAIL_AND_END: [u8; 6] = [0x00, 0x00, 0xff, 0xff, 0x03, 0x00];

/// Compresses messages (RFC 7692 section 7.2.1). About 260 KiB; one per shard or per hub.
#[derive(Debug)]
pub struct Deflater {
    stream: Compress,
    compressed: Vec<u8>,
}

impl Default for Deflater {
    fn default() -> Self {
        Self::new()
    }
}

impl Deflater {
    /// A compressor with a window of 32 KiB and [`DEFLATE_LEVEL`].
    #[must_use]
    pub fn new() -> Self {
        Self { stream: Compress::new(Compression::new(DEFLATE_LEVEL), false), compressed: Vec::new() }
    }

    /// The payload of a compressed frame, without the flush's tail; `None` where compression is not
    /// worth it: a payload below [`DEFLATE_MIN_BYTES`], or one that would not become smaller.
    pub fn compress(&mut self, payload: &[u8]) -> Option<&[u8]> {
        if payload.len() < DEFLATE_MIN_BYTES {
            return None;
        }
        self.compress_into(payload, payload.len() - 1)
    }

    /// Compresses into at most `max_bytes`.
    fn compress_into(&mut self, payload: &[u8], max_bytes: usize) -> Option<&[u8]> {
        // One byte more than may be used: a flush is known to be complete only by room left over.
        let room = max_bytes + FLUSH_TAIL.len() + 1;
        self.stream.reset();
        self.compressed.clear();
        self.compressed.shrink_to(RETAINED_BYTES);
        self.compressed.reserve(room);
        let result = self.stream.compress_vec(payload, &mut self.compressed, FlushCompress::Sync);
        let complete = result.is_ok()
            && self.stream.total_in() == payload.len() as u64
            && self.compressed.len() < self.compressed.capacity();
        if !complete || !self.compressed.ends_with(&FLUSH_TAIL) {
            return None;
        }
        let len = self.compressed.len() - FLUSH_TAIL.len();
        (len <= max_bytes).then(|| &self.compressed[..len])
    }
}

/// What parsers need for the length of one message: the decompressor, and the place where a message
/// is put that did not arrive as one frame in one read. One per shard; its buffers are bounded by
/// the largest message while that is handled, and by 64 KiB afterwards.
#[derive(Debug, Default)]
pub struct Scratch {
    /// Made for the first compressed message: about 48 KiB.
    inflater: Option<Inflater>,
    assembled: Vec<u8>,
}

impl Scratch {
    /// An empty one; it allocates when it is first needed.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes over a message that was assembled by a parser and lends it until the next one.
    pub(super) fn keep(&mut self, assembled: Vec<u8>) -> &[u8] {
        self.assembled = assembled;
        &self.assembled
    }

    /// Gives back what the message before needed.
    #[inline]
    pub(super) fn release(&mut self) {
        if self.assembled.capacity() != 0 {
            self.assembled = Vec::new();
        }
        if let Some(inflater) = &mut self.inflater
            && inflater.message.capacity() > RETAINED_BYTES
        {
            inflater.message = Vec::new();
        }
    }

    /// Decompresses a whole message of at most `limit` bytes.
    pub(super) fn inflate(&mut self, payload: &[u8], limit: u32) -> Result<&[u8], ProtocolError> {
        self.inflater.get_or_insert_with(Inflater::new).inflate(payload, limit)
    }
}

/// Decompresses messages (RFC 7692 section 7.2.2).
#[derive(Debug)]
struct Inflater {
    stream: Decompress,
    message: Vec<u8>,
}

/// How a piece of compressed input ended.
enum Ended {
    /// All of it was read; the stream goes on.
    Open,
    /// The stream ended with its final block, so many bytes before the end of the input.
    Final { unread: usize },
}

impl Inflater {
    fn new() -> Self {
        Self {
            // Raw deflate with the largest window, whatever the client uses.
            stream: Decompress::new(false),
            message: Vec::new(),
        }
    }

    fn inflate(&mut self, payload: &[u8], limit: u32) -> Result<&[u8], ProtocolError> {
        self.message.clear();
        let mut rest = payload;
        loop {
            self.stream.reset(false);
            match self.run(rest, limit)? {
                // A block with BFINAL set ends a stream, but not the message: RFC 7692 section
                // 7.2.3.4 has such a block in front of an empty one.
                Ended::Final { unread: 0 } => return Ok(&self.message),
                Ended::Final { unread } => rest = &rest[rest.len() - unread..],
                Ended::Open => break,
            }
        }
        match self.run(&FLUSH_TAIL_AND_END, limit)? {
            Ended::Final { unread: 0 } => Ok(&self.message),
            Ended::Final { .. } | Ended::Open => Err(ProtocolError::InvalidDeflate),
        }
    }

    /// Decompresses `input` to the end of `message`, which stops growing soon after `limit`.
    fn run(&mut self, mut input: &[u8], limit: u32) -> Result<Ended, ProtocolError> {
        loop {
            self.make_room(input.len(), limit);
            let before = self.stream.total_in();
            let status = self
                .stream
                .decompress_vec(input, &mut self.message, FlushDecompress::None)
                .map_err(|_| ProtocolError::InvalidDeflate)?;
            let used = usize::try_from(self.stream.total_in() - before).expect("not more than the input's length");
            input = &input[used..];
            if self.message.len() > limit as usize {
                return Err(ProtocolError::MessageTooBig { limit });
            }
            if status == Status::StreamEnd {
                return Ok(Ended::Final { unread: input.len() });
            }
            if self.message.len() < self.message.capacity() {
                // There was room for more, so the decompressor has read all that it could.
                return if input.is_empty() { Ok(Ended::Open) } else { Err(ProtocolError::InvalidDeflate) };
            }
        }
    }

    /// Grows `message` when it is full, at most to one byte above the limit.
    fn make_room(&mut self, input_bytes: usize, limit: u32) {
        let (len, capacity) = (self.message.len(), self.message.capacity());
        if len == capacity {
            let wanted = (capacity * 2).max(input_bytes.saturating_mul(4)).max(256);
            let wanted = wanted.min(limit as usize + 1).max(len + 1);
            self.message.reserve_exact(wanted - len);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NO_LIMIT: u32 = 1 << 24;

    fn inflate(payload: &[u8], limit: u32) -> Result<Vec<u8>, ProtocolError> {
        Scratch::new().inflate(payload, limit).map(<[u8]>::to_vec)
    }

    /// RFC 7692 section 7.2.3.1.
    #[test]
    fn one_block() {
        let hello = b"\xf2\x48\xcd\xc9\xc9\x07\x00";
        assert_eq!(inflate(hello, NO_LIMIT).unwrap(), b"Hello");
        assert_eq!(Deflater::new().compress_into(b"Hello", 100), Some(&hello[..]));
    }

    /// RFC 7692 section 7.2.3.3: a block without compression.
    #[test]
    fn stored_block() {
        let hello = b"\x00\x05\x00\xfa\xff\x48\x65\x6c\x6c\x6f\x00";
        assert_eq!(inflate(hello, NO_LIMIT).unwrap(), b"Hello");
    }

    /// RFC 7692 section 7.2.3.4: a block with BFINAL set.
    #[test]
    fn final_block() {
        let hello = b"\xf3\x48\xcd\xc9\xc9\x07\x00\x00";
        assert_eq!(inflate(hello, NO_LIMIT).unwrap(), b"Hello");
        // Without the empty block after it, as some compressors leave it.
        assert_eq!(inflate(&hello[..7], NO_LIMIT).unwrap(), b"Hello");
    }

    /// RFC 7692 section 7.2.3.5: two blocks in one message.
    #[test]
    fn two_blocks() {
        let hello = b"\xf2\x48\x05\x00\x00\x00\xff\xff\xca\xc9\xc9\x07\x00";
        assert_eq!(inflate(hello, NO_LIMIT).unwrap(), b"Hello");
    }

    /// RFC 7692 section 7.2.3.6: an empty message is one byte.
    #[test]
    fn empty_message() {
        assert_eq!(inflate(b"\x00", NO_LIMIT).unwrap(), b"");
        assert_eq!(Deflater::new().compress_into(b"", 100), Some(&[0x00][..]));
    }

    /// RFC 7692 section 7.2.3.2: the second "Hello" refers to the first. We never agree to that.
    #[test]
    fn context_takeover_is_refused() {
        let mut scratch = Scratch::new();
        let first = b"\xf2\x48\xcd\xc9\xc9\x07\x00";
        assert_eq!(scratch.inflate(first, NO_LIMIT).unwrap(), b"Hello");
        let second = b"\xf2\x00\x11\x00\x00";
        assert_eq!(scratch.inflate(second, NO_LIMIT), Err(ProtocolError::InvalidDeflate));
        // An error leaves nothing behind for the next connection.
        assert_eq!(scratch.inflate(first, NO_LIMIT).unwrap(), b"Hello");
    }

    #[test]
    fn a_message_cut_short_is_refused_wherever_it_is_cut() {
        let text: String = (0..200).map(|i| format!("line {i} of {i}\n")).collect();
        let mut deflater = Deflater::new();
        let whole = deflater.compress(text.as_bytes()).unwrap().to_vec();
        assert_eq!(inflate(&whole, NO_LIMIT).unwrap(), text.as_bytes());
        for end in 0..whole.len() {
            assert_eq!(
                inflate(&whole[..end], NO_LIMIT),
                Err(ProtocolError::InvalidDeflate),
                "cut after {end} of {} bytes",
                whole.len()
            );
        }
    }

    #[test]
    fn a_bomb_stops_at_the_limit() {
        let mut deflater = Deflater::new();
        let zeros = vec![0; 8 << 20];
        let bomb = deflater.compress(&zeros).unwrap().to_vec();
        assert!(bomb.len() < 16 * 1024, "{} bytes", bomb.len());
        let mut scratch = Scratch::new();
        let limit = 1 << 20;
        assert_eq!(scratch.inflate(&bomb, limit), Err(ProtocolError::MessageTooBig { limit }));
        let held = scratch.inflater.as_ref().unwrap().message.capacity();
        assert!(held <= limit as usize + 1, "{held} bytes were allocated");
        scratch.release();
        let held = scratch.inflater.as_ref().unwrap().message.capacity();
        assert_eq!(held, 0, "bytes are kept");
    }

    #[test]
    fn exactly_the_limit_is_allowed() {
        let mut deflater = Deflater::new();
        for len in [512usize, 1000, 65536, 100_000] {
            let payload = deflater.compress(&vec![7; len]).unwrap().to_vec();
            let limit = u32::try_from(len).unwrap();
            assert_eq!(inflate(&payload, limit).unwrap().len(), len);
            assert_eq!(inflate(&payload, limit - 1), Err(ProtocolError::MessageTooBig { limit: limit - 1 }));
        }
    }

    #[test]
    fn only_what_becomes_smaller_is_compressed() {
        let mut deflater = Deflater::new();
        assert_eq!(deflater.compress(&[0; DEFLATE_MIN_BYTES - 1]), None);
        assert!(deflater.compress(&[0; DEFLATE_MIN_BYTES]).is_some());
        let mut random = fastrand::Rng::with_seed(1);
        let noise: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(4096).collect();
        assert_eq!(deflater.compress(&noise), None);
        // And the compressor is as good as new afterwards.
        let zeros = deflater.compress(&[0; 4096]).unwrap().to_vec();
        assert_eq!(inflate(&zeros, NO_LIMIT).unwrap(), [0; 4096]);
    }
}
