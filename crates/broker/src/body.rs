//! Bodies out of client libraries.

use bytes::Bytes;

/// Bodies up to this size, in bytes, are copied out of a library's read buffer: one that is kept would keep the whole
/// buffer (64 KiB and more) with it.
const COPIED_BYTES: usize = 16 * 1024;

/// The same bytes, without much else that they keep in memory.
pub(crate) fn detach(bytes: Bytes) -> Bytes {
    if bytes.len() <= COPIED_BYTES { Bytes::copy_from_slice(&bytes) } else { bytes }
}
