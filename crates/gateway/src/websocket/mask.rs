//! Masking (RFC 6455 section 5.3).

/// A client's masking key, turned so that its first byte belongs to the next byte of payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mask([u8; 4]);

impl Mask {
    pub(super) const fn new(key: [u8; 4]) -> Self {
        Self(key)
    }

    /// Unmasks the next `payload` in place and turns the key for the bytes after it.
    #[inline]
    pub(super) fn apply(&mut self, payload: &mut [u8]) {
        let [a, b, c, d] = self.0;
        let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
        // Words of eight bytes, which the compiler turns into vector instructions.
        let (words, tail) = payload.as_chunks_mut::<8>();
        for word in words {
            *word = (u64::from_ne_bytes(*word) ^ wide).to_ne_bytes();
        }
        for (byte, key) in tail.iter_mut().zip(self.0.into_iter().cycle()) {
            *byte ^= key;
        }
        self.0.rotate_left(tail.len() % 4);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equals_the_formula_of_the_standard_at_every_split() {
        let key = [0x37, 0xfa, 0x21, 0x3d];
        let plain: Vec<u8> = (0..53u8).collect();
        let masked: Vec<u8> = plain.iter().enumerate().map(|(i, byte)| byte ^ key[i % 4]).collect();
        for split in 0..=plain.len() {
            let mut bytes = masked.clone();
            let mut mask = Mask::new(key);
            let (head, tail) = bytes.split_at_mut(split);
            mask.apply(head);
            mask.apply(tail);
            assert_eq!(bytes, plain, "split at {split}");
        }
    }
}
