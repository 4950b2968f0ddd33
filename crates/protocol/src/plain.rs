//! Which bytes of a string stand in JSON as they are: all but quotes, backslashes and control characters (RFC 8259
//! section 7). Eight are looked at together.

const LOW: u64 = u64::from_ne_bytes([0x01; 8]);
const HIGH: u64 = u64::from_ne_bytes([0x80; 8]);

/// Whether a string has no byte that must be escaped.
pub(crate) fn is_plain(text: &[u8]) -> bool {
    let (words, _) = text.as_chunks();
    match text.last_chunk() {
        // The last word may overlap the one before it, which costs less than to look at its bytes one by one.
        Some(last) => words.iter().chain([last]).all(|word| escaped_in(*word) == 0),
        None => text.iter().copied().all(stands_as_it_is),
    }
}

/// How many bytes there are before the first that must be escaped.
pub(crate) fn plain_prefix(text: &[u8]) -> usize {
    let (words, rest) = text.as_chunks();
    for (index, word) in words.iter().enumerate() {
        let escaped = escaped_in(*word);
        if escaped != 0 {
            return index * 8 + escaped.trailing_zeros() as usize / 8;
        }
    }
    words.len() * 8 + rest.iter().take_while(|byte| stands_as_it_is(**byte)).count()
}

fn stands_as_it_is(byte: u8) -> bool {
    byte >= 0x20 && byte != b'"' && byte != b'\\'
}

/// The high bit of each byte that must be escaped. Above the lowest of them others may be marked too, by its carry.
fn escaped_in(word: [u8; 8]) -> u64 {
    let word = u64::from_le_bytes(word);
    let below = |word: u64, bound: u8| word.wrapping_sub(LOW * u64::from(bound)) & !word;
    let equal = |byte: u8| below(word ^ (LOW * u64::from(byte)), 1);
    (below(word, 0x20) | equal(b'"') | equal(b'\\')) & HIGH
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_byte_is_found_at_every_place() {
        for length in 1..=24 {
            for at in 0..length {
                for byte in 0..=255 {
                    let mut text = vec![b'a'; length];
                    text[at] = byte;
                    let plain = stands_as_it_is(byte);
                    assert_eq!(is_plain(&text), plain, "{byte} at {at} of {length}");
                    assert_eq!(plain_prefix(&text), if plain { length } else { at }, "{byte} at {at} of {length}");
                }
            }
        }
        assert!(is_plain(b"") && plain_prefix(b"") == 0);
    }

    proptest! {
        #[test]
        fn it_is_what_looking_at_each_byte_gives(text in prop::collection::vec(any::<u8>(), 0..64)) {
            let prefix = text.iter().take_while(|byte| stands_as_it_is(**byte)).count();
            prop_assert_eq!(plain_prefix(&text), prefix);
            prop_assert_eq!(is_plain(&text), prefix == text.len());
        }
    }
}
