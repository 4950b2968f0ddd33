//! What waits to be written to one connection: shared frames, ready to write, bounded in bytes and pieces.

use std::{collections::VecDeque, io::IoSlice, ops::Range, rc::Rc};

use smallvec::SmallVec;

use crate::limits::PIECES_PER_WRITE;

/// Frames in one piece of memory, shared by the connections of a shard. The count is not atomic: pieces never leave
/// their shard.
pub(crate) type Piece = Rc<[u8]>;

/// A queue of pieces. Empty it owns no memory beyond its 40 bytes: one piece lies in it, and only when a second has to
/// wait a queue is allocated, which is given back once drained.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    head: Option<Piece>,
    #[expect(clippy::box_collection, reason = "8 bytes in every connection where the queue itself would be 32")]
    rest: Option<Box<VecDeque<Piece>>>,
    /// Bytes of `head` that are written.
    written: u32,
    /// Bytes that wait, those of `head` that are written included.
    bytes: u32,
}

/// Pieces that a queue has room for when it is made: most have a few, and growing to them would cost more than writing them.
const WAITING: usize = 8;

/// How much may wait.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OutboxLimits {
    /// Bytes.
    pub(crate) bytes: usize,
    /// Pieces.
    pub(crate) pieces: usize,
}

/// The outbox is full: the client does not keep up.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Overflow;

impl Outbox {
    pub(crate) fn is_empty(&self) -> bool {
        self.head.is_none()
    }

    /// Bytes that wait.
    pub(crate) fn bytes(&self) -> usize {
        (self.bytes - self.written) as usize
    }

    /// Whether more than half of what may wait does.
    pub(crate) fn is_half_full(&self, limits: OutboxLimits) -> bool {
        self.bytes as usize > limits.bytes / 2 || self.pieces_waiting() > limits.pieces / 2
    }

    /// Adds a piece. An empty outbox takes any piece, so that a limit below the largest publication cannot block a client
    /// for good.
    pub(crate) fn push(&mut self, piece: Piece, limits: OutboxLimits) -> Result<(), Overflow> {
        if self.head.is_none() {
            self.bytes = u32::try_from(piece.len()).map_err(|_| Overflow)?;
            self.head = Some(piece);
            return Ok(());
        }
        let bytes = self.bytes as usize + piece.len();
        let pieces = 1 + self.rest.as_ref().map_or(0, |rest| rest.len());
        if bytes - self.written as usize > limits.bytes || pieces >= limits.pieces {
            return Err(Overflow);
        }
        self.bytes = u32::try_from(bytes).map_err(|_| Overflow)?;
        self.rest.get_or_insert_with(|| Box::new(VecDeque::with_capacity(WAITING))).push_back(piece);
        Ok(())
    }

    /// Drops all that has not been begun.
    pub(crate) fn drop_waiting(&mut self) {
        self.rest = None;
        if self.written == 0 {
            self.head = None;
        }
        self.bytes = self.head.as_ref().map_or(0, |head| head.len() as u32);
    }

    /// The same, and puts `last` behind the rest: for a close that is not to wait for it.
    pub(crate) fn finish_with(&mut self, last: Piece) {
        self.drop_waiting();
        let unlimited = OutboxLimits { bytes: usize::MAX, pieces: usize::MAX };
        // A head and one control frame are far below what a u32 counts.
        let _ = self.push(last, unlimited);
    }

    /// The one piece that waits, where it is only one: most writes are of this kind.
    pub(crate) fn single(&self) -> Option<&[u8]> {
        match (&self.head, &self.rest) {
            (Some(head), None) => Some(&head[self.written as usize..]),
            _ => None,
        }
    }

    /// The first pieces, for a vectored write.
    pub(crate) fn pieces(&self) -> SmallVec<[IoSlice<'_>; PIECES_PER_WRITE]> {
        let head = self.head.iter().map(|head| IoSlice::new(&head[self.written as usize..]));
        let rest = self.rest.iter().flat_map(|rest| rest.iter()).map(|piece| IoSlice::new(piece));
        head.chain(rest).take(PIECES_PER_WRITE).collect()
    }

    /// Takes up to so many bytes of the first piece, as written.
    pub(crate) fn take(&mut self, max: usize) -> Option<(Piece, Range<usize>)> {
        let head = self.head.clone()?;
        let start = self.written as usize;
        let range = start..head.len().min(start + max);
        self.advance(range.len());
        Some((head, range))
    }

    /// Takes away what was written.
    pub(crate) fn advance(&mut self, mut written: usize) {
        while let Some(head) = &self.head {
            let left = head.len() - self.written as usize;
            if written < left {
                self.written += written as u32;
                return;
            }
            written -= left;
            self.bytes -= head.len() as u32;
            self.written = 0;
            self.head = self.rest.as_mut().and_then(|rest| rest.pop_front());
            if self.rest.as_ref().is_some_and(|rest| rest.is_empty()) {
                self.rest = None;
            }
        }
    }

    fn pieces_waiting(&self) -> usize {
        usize::from(self.head.is_some()) + self.rest.as_ref().map_or(0, |rest| rest.len())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMITS: OutboxLimits = OutboxLimits { bytes: 10, pieces: 3 };

    fn piece(text: &str) -> Piece {
        text.as_bytes().into()
    }

    fn content(outbox: &Outbox) -> Vec<u8> {
        outbox.pieces().iter().flat_map(|piece| piece.to_vec()).collect()
    }

    #[test]
    fn it_is_small() {
        assert!(size_of::<Outbox>() <= 40, "{}", size_of::<Outbox>());
    }

    #[test]
    fn bytes_and_pieces_are_bounded_but_an_empty_outbox_takes_anything() {
        let mut outbox = Outbox::default();
        outbox.push(piece("a piece over the limit"), LIMITS).unwrap();
        assert_eq!(outbox.push(piece("b"), LIMITS), Err(Overflow));
        outbox.advance(22);
        for text in ["a", "b", "c"] {
            outbox.push(piece(text), LIMITS).unwrap();
        }
        assert_eq!(outbox.push(piece("d"), LIMITS), Err(Overflow));
        assert_eq!(content(&outbox), b"abc");
    }

    #[test]
    fn it_is_half_full_by_bytes_or_by_pieces() {
        let half_full = |texts: &[&str]| {
            let mut outbox = Outbox::default();
            texts.iter().for_each(|text| outbox.push(piece(text), LIMITS).unwrap());
            outbox.is_half_full(LIMITS)
        };
        assert!(!half_full(&[]) && !half_full(&["12345"]));
        assert!(half_full(&["123456"]), "6 of 10 bytes");
        assert!(half_full(&["1", "2"]), "2 of 3 pieces");
    }

    #[test]
    fn a_close_goes_out_behind_what_was_begun_only() {
        let mut outbox = Outbox::default();
        outbox.push(piece("abc"), LIMITS).unwrap();
        outbox.push(piece("def"), LIMITS).unwrap();
        outbox.advance(1);
        outbox.finish_with(piece("!"));
        assert_eq!(content(&outbox), b"bc!");
        outbox.advance(3);
        assert!(outbox.is_empty());
        outbox.push(piece("abc"), LIMITS).unwrap();
        outbox.finish_with(piece("!"));
        assert_eq!(content(&outbox), b"!");
    }

    #[test]
    fn a_piece_is_taken_in_parts() {
        let mut outbox = Outbox::default();
        outbox.push(piece("abcde"), LIMITS).unwrap();
        outbox.push(piece("f"), LIMITS).unwrap();
        let mut take = || outbox.take(3).map(|(piece, range)| String::from_utf8(piece[range].to_vec()).unwrap());
        assert_eq!([take(), take(), take(), take()], [Some("abc".into()), Some("de".into()), Some("f".into()), None]);
        assert!(outbox.is_empty() && outbox.bytes() == 0);
    }

    proptest! {
        #[test]
        fn everything_comes_out_once_and_in_order(
            texts in prop::collection::vec("[a-z]{1,6}", 1..20),
            steps in prop::collection::vec(1usize..9, 1..60),
        ) {
            let limits = OutboxLimits { bytes: 1 << 20, pieces: 1 << 20 };
            let mut outbox = Outbox::default();
            let expected: String = texts.concat();
            let mut out = Vec::new();
            let mut texts = texts.into_iter();
            let mut steps = steps.into_iter().cycle();
            while out.len() < expected.len() {
                if let Some(text) = texts.next() {
                    outbox.push(piece(&text), limits).unwrap();
                }
                let waiting = content(&outbox);
                prop_assert_eq!(waiting.len().min(outbox.bytes()), waiting.len());
                let count = steps.next().unwrap().min(waiting.len());
                out.extend_from_slice(&waiting[..count]);
                outbox.advance(count);
            }
            prop_assert_eq!(String::from_utf8(out).unwrap(), expected);
            prop_assert!(outbox.is_empty() && outbox.rest.is_none() && outbox.bytes == 0);
        }
    }
}
